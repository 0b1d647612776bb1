"""BentoML as its documentation teaches it: batchable APIs of images and texts, with the default settings."""

import os

import bentoml
from PIL import Image

from benchmarks.contenders import inference


@bentoml.service(workers=int(os.environ["BENCH_WORKERS"]))
class Idiomatic:
    """Each model has its own API, with BentoML's adaptive batching."""

    def __init__(self) -> None:
        self._models = inference.load_models()

    @bentoml.api(batchable=True)  # type: ignore[untyped-decorator]
    def digits(self, images: list[Image.Image]) -> list[str]:
        """The digit on each image."""
        return self._predict("digits", images)

    @bentoml.api(batchable=True)  # type: ignore[untyped-decorator]
    def photos(self, images: list[Image.Image]) -> list[str]:
        """The label of each photo."""
        return self._predict("photos", images)

    @bentoml.api(batchable=True)  # type: ignore[untyped-decorator]
    def reviews(self, texts: list[str]) -> list[str]:
        """The label of each text."""
        model = self._models["reviews"]
        return model.predict([model.tokenize(text) for text in texts])

    def _predict(self, kind: str, images: list[Image.Image]) -> list[str]:
        model = self._models[kind]
        return model.predict([model.pixels(image) for image in images])
