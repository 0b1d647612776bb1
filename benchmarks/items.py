"""The items that contenders classify: generated images and texts, and the models that give their expected labels.

No item is taken from a data set. Photos have as much detail as a camera's, so their files are as large.
"""

import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFilter, ImageFont

from contract import manifest as contract
from contract.inputs import Preprocessor, load_preprocessor
from contract.manifest import Manifest, Precision
from contract.session import Session

Array = npt.NDArray[Any]
Kind = Literal["digits", "photos", "reviews"]

_CAT = Path(__file__).resolve().parent.parent / "examples/cat.jpg"
SMALL, LARGE = (500, 375), (4000, 3000)  # (width, height)
_WORDS = """the a film movie story plot actor scene director script music camera and but with of in it was is very
rather never always one two hours ending beginning character dialogue watch think felt made seen that this who when"""
_POSITIVE, _NEGATIVE = "good fine great wonderful excellent", "bad awful boring terrible worst"
_MARGIN = 0.2
"""How a JPEG is decoded can change a label whose probability is nearer to 0.5 than this; such items are left out."""


@dataclass(frozen=True)
class Runtime:
    """How every contender runs ONNX Runtime: threads for one run, and the precision where a model has several."""

    threads: int = 1
    precision: Precision | Literal["auto"] = "float32"


@dataclass(frozen=True)
class Model:
    """A published version, loaded as the service loads it."""

    kind: Kind
    folder: Path
    manifest: Manifest
    session: Session
    preprocessor: Preprocessor

    @classmethod
    def load(cls, kind: Kind, folder: Path, runtime: Runtime) -> "Model":
        """Load a version's folder, in the requested precision if it has that, else in float32."""
        manifest = contract.read(folder)
        wanted = runtime.precision
        precision: Precision = wanted if wanted != "auto" and wanted in manifest.precisions else "float32"
        graph = folder / manifest.graph(precision)
        session = Session(graph, manifest, provider="cpu", precision=precision, threads=runtime.threads)
        return cls(kind, folder, manifest, session, load_preprocessor(folder, manifest.input))

    def decode(self, encoded: bytes) -> Array:
        """An encoded image -> uint8 (H, W, C), or a text in UTF-8 -> int64 (L), as the service decodes it."""
        return self.preprocessor.decode(encoded)

    def run(self, items: Sequence[Array]) -> Array:
        """Probabilities (N, classes) of decoded items."""
        return self.preprocessor.run(self.session.run, items)

    def label(self, encoded: bytes) -> str:
        """The label of one encoded item."""
        return self.manifest.labels[int(self.run([self.decode(encoded)])[0].argmax())]

    def is_confident(self, encoded: bytes) -> bool:
        """Whether the probabilities of the two likeliest labels lie clearly apart."""
        second, first = np.sort(self.run([self.decode(encoded)])[0])[-2:]
        return bool(first - second > 2 * _MARGIN)


def digits(count: int) -> list[bytes]:
    """PNGs of digits like MNIST's, 28 x 28, light on black, each slightly shifted and rotated."""
    random = np.random.default_rng(0)
    font = ImageFont.load_default(size=24)
    encoded = []
    for index in range(count):
        image = Image.new("L", (28, 28))
        x, y = (14 + shift for shift in random.uniform(-1.5, 1.5, 2))
        ImageDraw.Draw(image).text((x, y), str(index % 10), 255, font, anchor="mm", stroke_width=0.5)
        encoded.append(_encode(image.rotate(random.uniform(-10, 10), Image.Resampling.BILINEAR), "PNG"))
    return encoded


def photos(count: int, size: tuple[int, int]) -> list[bytes]:
    """JPEGs of size (width, height): alternately a drawn dog and the example's cat, cropped anew, both with noise."""
    random = np.random.default_rng(1)
    return [
        _encode(_add_noise(_cat(random, size) if index % 2 else _dog(random, size), random), "JPEG", quality=90)
        for index in range(count)
    ]


def reviews(count: int) -> list[bytes]:
    """Texts in UTF-8 of 20 to 600 words, median about 180, as film reviews have; half are positive."""
    random = np.random.default_rng(2)
    texts = []
    for index in range(count):
        length = int(np.clip(random.lognormal(5.2, 0.6), 20, 600))
        opinion = (_POSITIVE if index % 2 else _NEGATIVE).split()
        words = [str(random.choice(opinion if random.random() < 0.1 else _WORDS.split())) for _ in range(length)]  # noqa: PLR2004 -- one word in ten
        texts.append(" ".join([*words, opinion[0]]).encode())
    return texts


def _cat(random: np.random.Generator, size: tuple[int, int]) -> Image.Image:
    with Image.open(_CAT) as cat:
        left, top = (int(random.integers(0, side // 8)) for side in cat.size)
        box = (left, top, left + cat.width * 7 // 8, top + cat.height * 7 // 8)
        return cat.convert("RGB").resize(size, Image.Resampling.BICUBIC, box=box)


def _dog(random: np.random.Generator, size: tuple[int, int]) -> Image.Image:
    """A dog's face, drawn from simple shapes, on a green background."""
    sheet = Image.new("RGB", SMALL, (90, 140, 70))
    pen = ImageDraw.Draw(sheet)
    x, y = 250 + int(random.integers(-30, 31)), 170 + int(random.integers(-20, 21))
    coat, dark, light, black = (190, 150, 100), (114, 90, 60), (228, 180, 120), (20, 15, 12)
    pen.ellipse([x - 145, y + 65, x + 145, y + 335], fill=(170, 135, 90))
    pen.ellipse([x - 112, y - 112, x + 112, y + 124], fill=coat)
    for side in (-1, 1):
        pen.ellipse([x + side * 107 - 39, y - 90, x + side * 107 + 39, y + 101], fill=dark)
        pen.ellipse([x + side * 43 - 13, y - 34, x + side * 43 + 13, y - 6], fill=black)
    pen.ellipse([x - 56, y + 11, x + 56, y + 107], fill=light)
    pen.ellipse([x - 25, y + 11, x + 25, y + 45], fill=black)
    pen.chord([x - 17, y + 67, x + 17, y + 124], 0, 180, fill=(220, 110, 120))
    return sheet.filter(ImageFilter.GaussianBlur(1)).resize(size, Image.Resampling.BICUBIC)


def _add_noise(image: Image.Image, random: np.random.Generator) -> Image.Image:
    """Add sensor noise, which makes a JPEG as large as a camera's."""
    tile = random.integers(-9, 10, (256, 256, 1), dtype=np.int16)
    rows, columns = -(-image.height // 256), -(-image.width // 256)
    noise = np.tile(tile, (rows, columns, 1))[: image.height, : image.width]  # (H, W, 1)
    return Image.fromarray((np.asarray(image, np.int16) + noise).clip(0, 255).astype(np.uint8))


def _encode(image: Image.Image, image_format: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, image_format, **options)
    return buffer.getvalue()
