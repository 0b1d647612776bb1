"""An image of a digit -> light on black, 28 x 28, as MNIST has it (LeCun et al., 1998, section III.A)."""

import numpy as np
from PIL import Image, ImageFilter, ImageOps

from contract.picture import Grey, Pixels
from contract.spec import DIGIT_WORKING_SIDE

_BOX = 20  # MNIST's digits fill a box of 20 x 20 ...
SIDE = 28  # ... inside a frame of 28 x 28
_FAINT = 24  # grey levels between paper and ink under which a picture is taken for blank
_WEAK = 0.6  # a stroke's thin parts are fainter than the threshold between ink and paper, by this much at most
_CROWD = 4.5  # ink pixels, among the 81 around one, that a stroke has and a speck has not
_THIN = 0.07  # strokes thinner than this share of the digit's box vanish when it shrinks to 20 pixels


def frame(image: Image.Image) -> Image.Image:
    """A grey picture of a digit -> light on black, 28 x 28, as MNIST has it.

    One that has 28 x 28 pixels is taken as framed already: only dark ink on light is inverted. Any other is searched
    for ink, which is fitted into a 20 x 20 box and centred by its mass.
    """
    if image.size == (SIDE, SIDE):
        return ImageOps.invert(image) if _paper(np.asarray(image, np.float32)) > 127.5 else image  # noqa: PLR2004
    ink = _ink(image)
    if ink is None:
        return Image.new("L", (SIDE, SIDE))
    rows, columns = np.flatnonzero(ink.any(axis=1)), np.flatnonzero(ink.any(axis=0))
    box = Image.fromarray(ink[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1])
    scale = _BOX / max(box.size)
    size = (max(round(box.width * scale), 1), max(round(box.height * scale), 1))
    small = np.asarray(_thicken(box).resize(size, Image.Resampling.BILINEAR), np.float32)
    small *= 255 / max(float(small.max()), 1)
    return _centre(small)


def _paper(grey: Grey) -> float:
    """The grey level of the ground: the median along the border."""
    return float(np.median(np.concatenate([grey[0], grey[-1], grey[:, 0], grey[:, -1]])))


def _ink(image: Image.Image) -> Pixels | None:
    """The ink of a grey picture, uint8 (H, W) at working size: 255 in a stroke, 0 on the paper; None for none.

    Shade and vignettes are smoother than strokes: where the border is uneven, a picture of the paper alone, from the
    surroundings of each spot, is taken off first.
    """
    if max(image.size) > DIGIT_WORKING_SIDE:
        scale = DIGIT_WORKING_SIDE / max(image.size)
        size = (max(round(image.width * scale), 1), max(round(image.height * scale), 1))
        image = image.resize(size, Image.Resampling.BOX, reducing_gap=2)
    grey = np.asarray(image, np.float32)
    paper = _paper(grey)
    if paper > np.median([grey.min(), grey.max()]):
        grey, paper = 255 - grey, 255 - paper
    ink = np.maximum(grey - _ground_picture(grey, paper), 0)
    if ink.max() < _FAINT:
        return None
    threshold = _otsu(ink)
    mask = Image.fromarray((ink > threshold * _WEAK).astype(np.uint8) * 255)
    # A stroke fills a row of the 9 x 9 pixels around each of its own; a speck, or paper's grain, fills a few.
    crowded = np.asarray(mask.filter(ImageFilter.BoxBlur(4)), np.float32) * 81 / 255 >= _CROWD
    mask = Image.fromarray(np.where(crowded, np.asarray(mask), 0))
    near = np.asarray(mask.filter(ImageFilter.MaxFilter(3))) > 0
    strength = float(np.median(ink[ink > threshold]))
    stroke = np.where(near, np.clip(ink / strength, 0, 1) * 255, 0)
    stroke[stroke < 32] = 0  # noqa: PLR2004 -- an eighth of full ink is paper's grain
    return stroke.astype(np.uint8) if stroke.any() else None


def _ground_picture(grey: Grey, paper: float) -> Grey | float:
    """The level of the (dark) paper at each spot: one number where the border is even, else (H, W).

    A morphological opening on 16 x 16 cells: whatever is lighter than all of its surroundings is ink.
    """
    border = np.concatenate([grey[0], grey[-1], grey[:, 0], grey[:, -1]])
    if np.percentile(border, 90) - np.percentile(border, 10) < _FAINT:
        return paper
    cells = Image.fromarray(grey.astype(np.uint8)).resize((16, 16), Image.Resampling.BOX)
    opened = cells.filter(ImageFilter.MinFilter(7)).filter(ImageFilter.MaxFilter(7))
    smooth = opened.filter(ImageFilter.BoxBlur(2))
    return np.asarray(smooth.resize((grey.shape[1], grey.shape[0]), Image.Resampling.BILINEAR), np.float32)


def _otsu(values: Grey) -> float:
    """The threshold that best parts ink from paper (Otsu, 1979): the largest variance between the two."""
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
    mask = np.pad(np.asarray(box) > 127, 1)  # noqa: PLR2004 -- the middle of 0 to 255
    outline = int((mask[1:] != mask[:-1]).sum() + (mask[:, 1:] != mask[:, :-1]).sum())
    width = 2 * int(mask.sum()) / max(outline, 1)
    missing = _THIN * max(box.size) - width
    if missing <= 0:
        return box
    grow = max(round(missing / 2), 1)
    roomy = ImageOps.expand(box, grow)
    return roomy.filter(ImageFilter.MaxFilter(2 * grow + 1))


def _centre(digit: Grey) -> Image.Image:
    """Place a digit, (h, w) up to 20 x 20, so that its centre of mass is the middle of 28 x 28."""
    height, width = digit.shape
    mass = digit.sum()
    row = float((digit.sum(axis=1) * np.arange(height)).sum() / mass)
    column = float((digit.sum(axis=0) * np.arange(width)).sum() / mass)
    middle = (SIDE - 1) / 2
    top = int(np.clip(round(middle - row), 0, SIDE - height))
    left = int(np.clip(round(middle - column), 0, SIDE - width))
    frame = np.zeros((SIDE, SIDE), np.uint8)
    frame[top : top + height, left : left + width] = (digit + 0.5).astype(np.uint8)
    return Image.fromarray(frame)
