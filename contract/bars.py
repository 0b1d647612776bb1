"""Bars of one colour around a photo, as films, screenshots and programs that pad images add them: found and cut off."""

from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

_EVEN = 24  # levels of 255 between the pixels of a bar: what JPEG makes of one colour
_LEAST = 0.02  # of the image's side, that a bar measures; thinner ones change no answer
_LEFT = 0.2  # of the image's side, that is left at least; what is smaller is a thing before a plain background

Pixels = npt.NDArray[np.uint8]


def trim(image: Image.Image) -> Image.Image:
    """An image of mode L or RGB without the bars at its edges. Most have none, and are returned as they are.

    Bars come in pairs of one colour, at the top and the bottom or at both sides: a single one may be a sky or a wall.
    """
    for _ in range(2):  # the bars of a film may end at those of a page
        size = image.size
        width, height = size
        if _is_even(image, (0, 0, width, 1), (0, height - 1, width, height)):
            top, bottom = _bars(np.asarray(image))
            image = image.crop((0, top, width, height - bottom))
            height = image.height
        if _is_even(image, (0, 0, 1, height), (width - 1, 0, width, height)):
            left, right = _bars(np.asarray(image).swapaxes(0, 1))
            image = image.crop((left, 0, width - right, height))
        if image.size == size:
            break
    return image


def _is_even(image: Image.Image, *boxes: tuple[int, int, int, int]) -> bool:
    """Whether each part of an image has one colour; in microseconds, since every photo passes here."""
    return all(_spread(image.crop(box).getextrema()) <= _EVEN for box in boxes)


def _spread(extrema: Any) -> int:
    ranges: tuple[tuple[int, int], ...] = extrema if isinstance(extrema[0], tuple) else (extrema,)
    return max(high - low for low, high in ranges)


def _bars(pixels: Pixels) -> tuple[int, int]:
    """How many rows of an image (H, W) or (H, W, channels) are bars: at its start and at its end."""
    lines = pixels.reshape(len(pixels), -1, pixels.shape[2] if pixels.ndim > 2 else 1)  # noqa: PLR2004 -- (H, W, C)
    colour = np.median(lines[0], axis=0)
    is_bar = (np.abs(lines.astype(np.int16) - colour) <= _EVEN).all(axis=(1, 2))
    if is_bar.all() or not is_bar[-1]:
        return 0, 0
    first, last = int((~is_bar).argmax()), int((~is_bar[::-1]).argmax())
    if min(first, last) < _LEAST * len(lines) or len(lines) - first - last < _LEFT * len(lines):
        return 0, 0
    return first, last
