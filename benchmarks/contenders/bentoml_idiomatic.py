"""BentoML as its documentation teaches it: a batchable API of pictures, and defaults everywhere else."""

import os

import bentoml
import numpy as np
import onnxruntime as ort
from PIL import Image


@bentoml.service
class Digits:
    """Digits, in BentoML's adaptive batches."""

    def __init__(self) -> None:
        self._session = ort.InferenceSession(os.environ["BENCH_MODEL"], providers=["CPUExecutionProvider"])

    @bentoml.api(batchable=True)  # type: ignore[untyped-decorator]
    def classify(self, images: list[Image.Image]) -> list[int]:
        """The digit on each picture."""
        batch = np.stack([np.asarray(image.convert("L"), np.uint8) for image in images])[..., None]  # (N, 28, 28, 1)
        probabilities = self._session.run(["probabilities"], {"image": batch})[0]  # (N, 10)
        return [int(label) for label in probabilities.argmax(axis=1)]
