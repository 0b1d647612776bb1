"""Variants of an item without one of its parts: how much each changes the prediction explains it.

Occlusion (Zeiler & Fergus, 2014, section 4.2) needs nothing but runs of the model, so it works for every graph.
"""

import base64
import io
import re
from collections.abc import Callable, Collection, Sequence
from copy import copy
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
from PIL import Image

from contract.errors import Unreadable
from contract.text import Beginning, Tokens

Array = npt.NDArray[Any]
Weights = npt.NDArray[np.float64]

MAX_CELLS = 14
"""Rows and columns of the grid of evidence, at most."""
MAX_NGRAM_RUNS = 60
"""Runs of two or three words that are left out, at most."""
MAX_PARTS = 256
"""Parts of a text that are left out in turn, at most; a longer text has groups of adjacent words as parts."""

_LONGEST, _NGRAMS, _LENGTH_FACTOR = 3, 10, 5 / 6  # words of a run; runs that are reported
_WINDOW = 3  # cells; the side of the square that is hidden around each cell
_SIDE = 448  # pixels of the longer side of an overlay
_WORD = re.compile(r"[^\W_]+(?:['\u2019\u02bc-][^\W_]+)*|[^\w\s]+|_+")
_DIGITS = 4  # decimals of weights


class Occlusions(Protocol):
    """An item and its variants, as the graph takes them."""

    whole: Array
    """The item itself."""
    blank: Collection[int]
    """Positions of variants in which nothing is left to classify."""

    def __len__(self) -> int:
        """How many variants there are."""

    def variants(self, start: int, stop: int) -> Sequence[Array] | Array:
        """The variants from one position up to another, each like `whole`."""

    def larger(self, weights: Weights) -> "TextOcclusions | None":
        """Variants without larger parts, around those with the largest weights; None if there are none."""

    def report(self, weights: Weights) -> dict[str, Any]:
        """The weights of the parts, one for each variant, for JSON."""

    def overlay(self, weights: Weights) -> bytes | None:
        """A PNG that shows the weights on the item; None if it is not an image."""


class ImageOcclusions:
    """An image uint8 (H, W, C) and its variants: in each a square around a cell of a grid is hidden."""

    def __init__(self, pixels: npt.NDArray[np.uint8], *, is_on_paper: bool) -> None:
        """Divide an image into cells.

        Args:
            pixels: (H, W, C), as the graph takes it.
            is_on_paper: whether 0 is the paper around the ink, so that a hidden square is paper; in other images it
                has the image's mean colour.
        """
        self.whole: Array = pixels
        height, width, _ = pixels.shape
        self.blank: Collection[int] = ()
        self._rows, self._columns = _edges(height), _edges(width)
        mean = pixels.reshape(-1, pixels.shape[2]).mean(axis=0)
        self._fill = np.zeros_like(mean, np.uint8) if is_on_paper else (mean + 0.5).astype(np.uint8)

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns of the grid."""
        return len(self._rows) - 1, len(self._columns) - 1

    def __len__(self) -> int:
        rows, columns = self.shape
        return rows * columns

    def variants(self, start: int, stop: int) -> npt.NDArray[np.uint8]:
        """(N, H, W, C): the image with the square around each of these cells hidden."""
        images = np.repeat(self.whole[None], stop - start, axis=0)
        for image, cell in zip(images, range(start, stop), strict=True):
            row, column = divmod(cell, self.shape[1])
            image[_window(self._rows, row), _window(self._columns, column)] = self._fill
        return images

    def grid(self, weights: Weights) -> Weights:
        """The weights of the squares (rows * columns) -> of the cells (rows, columns): the mean of those that hide it.

        Neighbouring squares overlap, so that a cell is known more exactly than by its own square.
        """
        rows, columns = self.shape
        padded = np.pad(weights.reshape(rows, columns), _WINDOW // 2, mode="edge")
        shifted = [padded[y : y + rows, x : x + columns] for y in range(_WINDOW) for x in range(_WINDOW)]
        return np.asarray(np.mean(shifted, axis=0), np.float64)

    def larger(self, weights: Weights) -> None:  # noqa: ARG002 -- as texts have it
        return None

    def report(self, weights: Weights) -> dict[str, Any]:
        """The grid, and the image that the model saw."""
        return report_grid(self.whole, self.grid(weights))

    def overlay(self, weights: Weights) -> bytes:
        """The image in grey, with evidence for the label in orange and against it in blue."""
        return draw_grid(self.whole, self.grid(weights))


def report_grid(pixels: npt.NDArray[np.uint8], grid: Weights) -> dict[str, Any]:
    """Evidence (rows, columns) over an image (H, W, C), for JSON."""
    rows, columns = grid.shape
    rounded = grid.round(_DIGITS) + 0.0  # no -0.0
    png = base64.b64encode(_png(_as_image(pixels))).decode()
    return {"rows": rows, "columns": columns, "evidence": rounded.tolist(), "image": png}


def draw_grid(pixels: npt.NDArray[np.uint8], grid: Weights) -> bytes:
    """An image (H, W, C) in grey, with evidence for the label in orange and against it in blue, as a PNG."""
    height, width, _ = pixels.shape
    zoom = max(_SIDE // max(height, width), 1)
    size = width * zoom, height * zoom  # Pillow takes (width, height)
    resample = Image.Resampling.NEAREST if zoom > 1 else Image.Resampling.BILINEAR
    grey = np.asarray(_as_image(pixels).convert("L").resize(size, resample), np.float32)
    scaled = (grid / max(float(np.abs(grid).max()), 1e-9)).astype(np.float32)
    heat = np.asarray(Image.fromarray(scaled).resize(size, Image.Resampling.BILINEAR))[..., None]
    colour = np.where(heat > 0, np.array([230, 85, 0], np.float32), np.array([0, 90, 230], np.float32))
    opacity = np.abs(heat) * 0.75
    mixed = (40 + grey[..., None] * 0.8) * (1 - opacity) + colour * opacity  # (H, W, 3)
    return _png(Image.fromarray(mixed.clip(0, 255).astype(np.uint8)))


class TextOcclusions:
    """The token ids of a text and of its variants: in each a word, or a few adjacent words, are left out."""

    def __init__(self, text: str, decode: Callable[[str], Tokens]) -> None:
        """Find the words of a text that the model reads, and make the variants.

        Args:
            text: the text.
            decode: text -> token ids (L).

        Raises:
            ConvokeError: as `decode`.
        """
        self.whole: Array = decode(text)
        self._text, self._decode = text, decode
        spans = [match.span() for match in _WORD.finditer(text)]
        self._read = text
        if isinstance(self.whole, Beginning):
            spans = spans[: _count_read(text, spans, decode)]
            self._read = text[: spans[-1][1]] if spans else text
        size = -(-len(spans) // MAX_PARTS) or 1
        groups = [spans[start : start + size] for start in range(0, len(spans), size)]
        self.leave_out([(group[0][0], group[-1][1]) for group in groups])

    def leave_out(self, parts: list[tuple[int, int]]) -> None:
        """Make the variants without each of these parts."""
        self.parts = parts
        """Where each part starts and ends, in characters."""
        variants = [_decode_without(self._read, part, self._decode) for part in parts]
        self.blank: Collection[int] = [place for place, tokens in enumerate(variants) if tokens is None]
        self._variants = [self.whole if tokens is None else tokens for tokens in variants]

    def __len__(self) -> int:
        return len(self.parts)

    def variants(self, start: int, stop: int) -> list[Tokens]:
        """The token ids (L) of the text without each of these parts; where nothing would be left, of the whole text."""
        return self._variants[start:stop]

    def larger(self, weights: Weights) -> "TextOcclusions | None":
        """Variants without two or three adjacent parts, around those with the largest weights; None for one part."""
        count, spans = len(self.parts), dict[tuple[int, int], None]()
        for place in np.argsort(-np.abs(weights), kind="stable").tolist():
            for size in range(2, _LONGEST + 1):
                for first in range(max(place - size + 1, 0), min(place, count - size) + 1):
                    spans.setdefault((first, first + size - 1))
            if len(spans) >= MAX_NGRAM_RUNS:
                break
        chosen = list(spans)[:MAX_NGRAM_RUNS]
        if not chosen:
            return None
        larger = copy(self)
        larger.leave_out([(self.parts[first][0], self.parts[last][1]) for first, last in chosen])
        return larger

    def ngrams(self, weights: Weights, larger: "tuple[TextOcclusions, Weights] | None") -> list[dict[str, Any]]:
        """The strongest parts and runs of parts that do not overlap, for JSON.

        A run is preferred to a part of it only where it adds a sixth of its weight, or more.
        """
        listed = [*zip(self.parts, weights.tolist(), strict=True)]
        if larger is not None:
            listed += zip(larger[0].parts, larger[1].tolist(), strict=True)
        words = {part: sum(part[0] <= start and end <= part[1] for start, end in self.parts) for part, _ in listed}
        listed.sort(key=lambda each: -abs(each[1]) * _LENGTH_FACTOR ** words[each[0]])
        taken: list[dict[str, Any]] = []
        for (start, end), weight in listed:
            is_free = all(end <= other["start"] or other["end"] <= start for other in taken)
            if is_free and round(weight, _DIGITS):
                taken.append(
                    {"text": self._text[start:end], "start": start, "end": end, "weight": round(weight, _DIGITS)}
                )
            if len(taken) == _NGRAMS:
                break
        return sorted(taken, key=lambda each: -abs(each["weight"]))

    def report(self, weights: Weights) -> dict[str, Any]:
        """Each part with its weight, and where it is: from character `start` up to `end`."""
        rounded = weights.round(_DIGITS) + 0.0  # no -0.0
        return {
            "words": [
                {"text": self._text[start:end], "start": start, "end": end, "weight": weight}
                for (start, end), weight in zip(self.parts, rounded.tolist(), strict=True)
            ]
        }

    def overlay(self, weights: Weights) -> None:  # noqa: ARG002 -- as images have it
        return None


def _edges(side: int) -> npt.NDArray[np.int64]:
    """The borders of the cells along one side, in pixels."""
    return np.linspace(0, side, min(side, MAX_CELLS) + 1).round().astype(np.int64)


def _window(edges: npt.NDArray[np.int64], cell: int) -> slice:
    """The pixels of a cell and its neighbours along one side."""
    last = len(edges) - 1
    return slice(int(edges[max(cell - _WINDOW // 2, 0)]), int(edges[min(cell + _WINDOW // 2 + 1, last)]))


def _as_image(pixels: npt.NDArray[np.uint8]) -> Image.Image:
    """(H, W, 1) or (H, W, 3) -> an image of mode L or RGB."""
    return Image.fromarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels)


def _png(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


def _count_read(text: str, spans: Sequence[tuple[int, int]], decode: Callable[[str], Tokens]) -> int:
    """How many words of a text that is too long the model reads: the first so many do not exceed its length."""
    low, high = 0, len(spans)
    while low < high:
        middle = (low + high + 1) // 2
        if isinstance(_decode(text[: spans[middle - 1][1]], decode), Beginning):
            high = middle - 1
        else:
            low = middle
    return low


def _decode_without(text: str, part: tuple[int, int], decode: Callable[[str], Tokens]) -> Tokens | None:
    return _decode(f"{text[: part[0]]} {text[part[1] :]}", decode)


def _decode(text: str, decode: Callable[[str], Tokens]) -> Tokens | None:
    """The token ids of a text; None if it has no word."""
    try:
        return decode(text)
    except Unreadable:
        return None
