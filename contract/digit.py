"""Image of a digit -> light on black, 28 x 28, as MNIST has it (LeCun et al., 1998, section III.A)."""

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageFilter, ImageOps

from contract.picture import Pixels
from contract.spec import DIGIT_WORKING_SIDE

Grey = npt.NDArray[np.float32]
"""Grey levels from 0 to 255, (H, W)."""

SIDE = 28
_BOX = 20  # pixels of the box inside the frame that MNIST's digits fill
_MIDDLE = 127.5  # of 0 to 255
_MIN_CONTRAST = 24  # grey levels between paper and ink; below, the image counts as blank
_WEAK_INK = 0.6  # of the threshold between ink and paper: thin parts of a stroke are fainter by this much
_MIN_NEIGHBOURS = 4.5  # ink pixels among the 81 around one: a stroke has more, a speck fewer
_MIN_INK = 32  # an eighth of full ink; below, it is the grain of the paper
_MIN_STROKE = 0.07  # of the digit's box: thinner strokes vanish when it shrinks to 20 pixels


def frame(image: Image.Image) -> Image.Image:
    """Frame a grey image of a digit, in any ink on any paper, as MNIST's digits are framed.

    An image of 28 x 28 pixels counts as framed: it is only inverted if the ink is dark. In any other image the ink is
    searched for, fitted into a box of 20 x 20 and centred by its mass. Without ink the result is black.
    """
    if image.size == (SIDE, SIDE):
        return ImageOps.invert(image) if _paper_level(np.asarray(image, np.float32)) > _MIDDLE else image
    ink = _find_ink(image)
    if ink is None:
        return Image.new("L", (SIDE, SIDE))
    rows, columns = np.flatnonzero(ink.any(axis=1)), np.flatnonzero(ink.any(axis=0))
    box = Image.fromarray(ink[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1])
    small = np.asarray(_thicken(box).resize(_fitted(box, _BOX), Image.Resampling.BILINEAR), np.float32)
    return _centre(small * (255 / max(float(small.max()), 1)))


def _fitted(image: Image.Image, side: int) -> tuple[int, int]:
    """The size (width, height) of an image once its longer side is scaled to `side`."""
    scale = side / max(image.size)
    return max(round(image.width * scale), 1), max(round(image.height * scale), 1)


def _border(grey: Grey) -> Grey:
    return np.concatenate([grey[0], grey[-1], grey[:, 0], grey[:, -1]])


def _paper_level(grey: Grey) -> float:
    """The grey level of the paper: the median along the border."""
    return float(np.median(_border(grey)))


def _find_ink(image: Image.Image) -> Pixels | None:
    """The ink of a grey image, uint8 (H, W) at working size: 255 in a stroke, 0 on the paper; None for blank paper.

    Shade and vignettes are smoother than strokes: if the border is uneven, an estimate of the paper alone is
    subtracted first.
    """
    if max(image.size) > DIGIT_WORKING_SIDE:
        image = image.resize(_fitted(image, DIGIT_WORKING_SIDE), Image.Resampling.BOX, reducing_gap=2)
    grey = np.asarray(image, np.float32)
    paper = _paper_level(grey)
    if paper > np.median([grey.min(), grey.max()]):
        grey, paper = 255 - grey, 255 - paper
    ink = np.maximum(grey - _estimate_paper(grey, paper), 0)
    if ink.max() < _MIN_CONTRAST:
        return None
    threshold = _otsu(ink)
    mask = Image.fromarray((ink > threshold * _WEAK_INK).astype(np.uint8) * 255)
    # A stroke fills a row of the 9 x 9 pixels around each of its own; a speck, or the grain of paper, fills a few.
    neighbours = np.asarray(mask.filter(ImageFilter.BoxBlur(4)), np.float32) * 81 / 255
    mask = Image.fromarray(np.where(neighbours >= _MIN_NEIGHBOURS, np.asarray(mask), 0))
    near = np.asarray(mask.filter(ImageFilter.MaxFilter(3))) > 0
    strength = float(np.median(ink[ink > threshold]))
    stroke = np.where(near, np.clip(ink / strength, 0, 1) * 255, 0)
    stroke[stroke < _MIN_INK] = 0
    return stroke.astype(np.uint8) if stroke.any() else None


def _estimate_paper(grey: Grey, paper: float) -> Grey | float:
    """The level of the (dark) paper: one number if the border is even, else (H, W).

    A morphological opening on 16 x 16 cells: whatever is lighter than all of its surroundings is ink.
    """
    low, high = np.percentile(_border(grey), [10, 90])
    if high - low < _MIN_CONTRAST:
        return paper
    cells = Image.fromarray(grey.astype(np.uint8)).resize((16, 16), Image.Resampling.BOX)
    opened = cells.filter(ImageFilter.MinFilter(7)).filter(ImageFilter.MaxFilter(7))
    smooth = opened.filter(ImageFilter.BoxBlur(2))
    return np.asarray(smooth.resize((grey.shape[1], grey.shape[0]), Image.Resampling.BILINEAR), np.float32)


def _otsu(values: Grey) -> float:
    """The threshold that best separates ink from paper (Otsu, 1979): the largest variance between the two."""
    counts, edges = np.histogram(values, bins=64)
    centres = (edges[:-1] + edges[1:]) / 2
    below = np.cumsum(counts)[:-1]
    above = values.size - below
    mass = np.cumsum(counts * centres)
    between = below * above * (mass[:-1] / np.maximum(below, 1) - (mass[-1] - mass[:-1]) / np.maximum(above, 1)) ** 2
    return float(edges[1 + int(between.argmax())])


def _thicken(box: Image.Image) -> Image.Image:
    """Widen strokes that would be lost when the digit shrinks to 20 pixels.

    A stroke of width w and length l has area w*l and about 2*l of outline, so w is about 2 * area / outline.
    """
    mask = np.pad(np.asarray(box) > _MIDDLE, 1)
    outline = int((mask[1:] != mask[:-1]).sum() + (mask[:, 1:] != mask[:, :-1]).sum())
    width = 2 * int(mask.sum()) / max(outline, 1)
    missing = _MIN_STROKE * max(box.size) - width
    if missing <= 0:
        return box
    margin = max(round(missing / 2), 1)
    return ImageOps.expand(box, margin).filter(ImageFilter.MaxFilter(2 * margin + 1))


def _centre(digit: Grey) -> Image.Image:
    """Place a digit, (h, w) up to 20 x 20, so that its centre of mass is the middle of 28 x 28."""
    height, width = digit.shape
    mass = digit.sum()
    row = float((digit.sum(axis=1) * np.arange(height)).sum() / mass)
    column = float((digit.sum(axis=0) * np.arange(width)).sum() / mass)
    middle = (SIDE - 1) / 2
    top = int(np.clip(round(middle - row), 0, SIDE - height))
    left = int(np.clip(round(middle - column), 0, SIDE - width))
    framed = np.zeros((SIDE, SIDE), np.uint8)
    framed[top : top + height, left : left + width] = (digit + 0.5).astype(np.uint8)
    return Image.fromarray(framed)
