"""The colours of an image -> levels of one channel in which ink and paper differ most, at the size of a search."""

import numpy as np
import numpy.typing as npt
from PIL import Image

Levels = npt.NDArray[np.float32]

_SEARCH_SIDE, _SMALL_SIDE, _ENLARGED_SIDE = 448, 64, 112
"""Longer side at which a digit is searched for; smaller images than the second are enlarged to the third."""
_LUMINANCE = np.array([0.299, 0.587, 0.114], np.float32)  # ITU-R BT.601, as Pillow's mode L
_LUMINANCE_STEP = 12.0  # between channels, under which an image is grey
_PLAIN, _INK = 0.6, 0.3  # share of pixels in the colour of plain paper; distance from it, of the largest, that is ink


def to_levels(image: Image.Image) -> Image.Image:
    """An image of mode L or RGB -> mode L: colours become 0 to 255 along what parts ink from paper best."""
    if image.mode == "L":
        return image
    colours = np.asarray(image, np.float32)
    if _is_grey(colours.reshape(-1, 3)):
        return image.convert("L")
    levels = most_contrast(colours)
    low, high = float(levels.min()), float(levels.max())
    return Image.fromarray(((levels - low) * (255 / max(high - low, 1e-6)) + 0.5).astype(np.uint8))


def most_contrast(colours: Levels) -> Levels:
    """Colours (H, W, 3) -> levels (H, W): the distance from the paper's colour if that is one throughout, as in plots.

    In other images, along the axis on which colours differ most: red on green of the same grey.
    """
    sample = colours.reshape(-1, 3)[:: max(colours.shape[0] * colours.shape[1] // 20_000, 1)]
    if _is_grey(sample):
        return colours @ _LUMINANCE
    paper = np.median(sample, axis=0)
    if (sample == paper).all(axis=1).mean() > _PLAIN:
        distance: Levels = np.linalg.norm(colours - paper, axis=2)
        full = float(np.median(distance[distance >= _INK * distance.max()]))
        return np.minimum(distance, np.float32(full))  # edges may have other hues, further away
    centred = sample - paper
    axis = np.linalg.eigh(centred.T @ centred)[1][:, -1].astype(np.float32)
    return colours @ axis


def _is_grey(colours: Levels) -> bool:
    """Whether colours (N, 3) are greys, but for what compression leaves."""
    return bool(np.ptp(colours, axis=1).max() < _LUMINANCE_STEP)


def has_two_levels(grey: Levels, low: float, high: float) -> bool:
    """Whether the image is a mask, whose levels say nothing of its contrast."""
    return bool(((grey == low) | (grey == high)).all())


def to_search_size(grey: Levels) -> tuple[Levels, float]:
    """Levels (H, W) at the size at which a digit is searched for, and the factor between the sizes."""
    longest = max(grey.shape)
    if longest > _SEARCH_SIDE:
        return _resize(grey, _SEARCH_SIDE / longest, Image.Resampling.BOX), _SEARCH_SIDE / longest
    if longest < _SMALL_SIDE:
        factor = -(-_ENLARGED_SIDE // longest)
        return np.clip(_resize(grey, factor, Image.Resampling.BICUBIC), 0, 255), factor
    return grey, 1.0


def _resize(grey: Levels, factor: float, resample: Image.Resampling) -> Levels:
    height, width = grey.shape
    size = max(round(width * factor), 1), max(round(height * factor), 1)
    return np.asarray(Image.fromarray(grey).resize(size, resample), np.float32)
