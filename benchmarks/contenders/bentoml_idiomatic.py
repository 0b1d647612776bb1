"""BentoML as its documentation teaches it: batchable APIs of pictures and texts, and defaults everywhere else."""

import bentoml
from PIL import Image

from benchmarks.contenders import work


@bentoml.service
class Idiomatic:
    """Every model behind an API of its own, in BentoML's adaptive batches."""

    def __init__(self) -> None:
        self._models = work.load()

    @bentoml.api(batchable=True)  # type: ignore[untyped-decorator]
    def digits(self, images: list[Image.Image]) -> list[str]:
        """The digit on each picture."""
        return self._pictures("digits", images)

    @bentoml.api(batchable=True)  # type: ignore[untyped-decorator]
    def photos(self, images: list[Image.Image]) -> list[str]:
        """What each photo shows."""
        return self._pictures("photos", images)

    @bentoml.api(batchable=True)  # type: ignore[untyped-decorator]
    def reviews(self, texts: list[str]) -> list[str]:
        """What each text says."""
        model = self._models["reviews"]
        return model.label([model.text(text) for text in texts])

    def _pictures(self, kind: str, images: list[Image.Image]) -> list[str]:
        model = self._models[kind]
        return model.label([model.picture(image) for image in images])
