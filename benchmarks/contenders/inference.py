"""What each peer does with an item, as its user would write it: decode with Pillow or the tokenizer, run ONNX Runtime.

Of Convoke it uses only the published files: graph, tokenizer and manifest.
"""

import io
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnxruntime as ort
from PIL import Image
from tokenizers import Tokenizer

Array = npt.NDArray[Any]


class Model:
    """A published version: decodes items and predicts labels."""

    def __init__(self, folder: Path, threads: int, precision: str = "float32") -> None:
        manifest = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
        self.labels: list[str] = manifest["labels"]
        self._spec: dict[str, Any] = manifest["input"]
        graphs = {variant["precision"]: variant["graph"] for variant in manifest.get("variants", [])}
        options = ort.SessionOptions()
        options.intra_op_num_threads = threads
        self._session = ort.InferenceSession(
            folder / graphs.get(precision, "model.onnx"), options, providers=["CPUExecutionProvider"]
        )
        self._input = self._session.get_inputs()[0].name
        if self._spec["kind"] == "text":
            self._tokenizer = Tokenizer.from_file(str(folder / self._spec["tokenizer"]))

    def decode(self, encoded: bytes) -> Array:
        """An encoded image or text -> uint8 (H, W, C) or int64 (L)."""
        if self._spec["kind"] == "text":
            return self.tokenize(encoded.decode())
        return self.pixels(Image.open(io.BytesIO(encoded)))

    def pixels(self, image: Image.Image) -> Array:
        """An image -> uint8 (H, W, C)."""
        mode, size = self._spec["mode"], (self._spec["width"], self._spec["height"])
        image = image.convert(mode)
        if image.size != size:
            image = image.resize(size, Image.Resampling.BILINEAR)
        pixels = np.asarray(image, np.uint8)
        return pixels[..., None] if mode == "L" else pixels  # (H, W) -> (H, W, 1)

    def tokenize(self, text: str) -> Array:
        """A text -> token ids, int64 (L)."""
        ids = self._tokenizer.encode(text, add_special_tokens=False).ids[: self._spec["length"]]
        return np.array(ids, np.int64)

    def tensor(self, raw: bytes) -> Array:
        """The raw pixels of many images of the graph's size -> uint8 (N, H, W, C)."""
        channels = 1 if self._spec["mode"] == "L" else 3
        return np.frombuffer(raw, np.uint8).reshape(-1, self._spec["height"], self._spec["width"], channels)

    def classify(self, items: Sequence[bytes]) -> list[str]:
        """The label of each encoded item, in one run."""
        return self.predict([self.decode(item) for item in items])

    def predict(self, items: Sequence[Array]) -> list[str]:
        """The label of each decoded item, in one run."""
        return self.run(self.collate(items))

    def collate(self, items: Sequence[Array]) -> Array:
        """Decoded items as one batch: images are stacked, texts padded with id 0 to the longest."""
        if self._spec["kind"] == "image":
            return np.stack(items)  # N x (H, W, C) -> (N, H, W, C)
        batch = np.zeros((len(items), max(map(len, items))), np.int64)  # N x (L) -> (N, longest L)
        for row, ids in zip(batch, items, strict=True):
            row[: len(ids)] = ids
        return batch

    def run(self, batch: Array) -> list[str]:
        """The label of each row of a batch, (N, ...)."""
        return [self.labels[index] for index in self.probabilities(batch).argmax(axis=1)]

    def probabilities(self, batch: Array) -> Array:
        """The probabilities (N, classes) of a batch, (N, ...)."""
        probabilities: Array = self._session.run(["probabilities"], {self._input: batch})[0]
        return probabilities


def load_models() -> dict[str, Model]:
    """The models by kind (`digits`, `photos`, `reviews`); $BENCH_MODELS is a JSON object from kind to folder."""
    threads, precision = int(os.environ["BENCH_THREADS"]), os.environ["BENCH_PRECISION"]
    folders: dict[str, str] = json.loads(os.environ["BENCH_MODELS"])
    return {kind: Model(Path(folder), threads, precision) for kind, folder in folders.items()}
