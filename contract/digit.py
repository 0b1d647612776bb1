"""An image of a digit -> light on black, 28 x 28, as MNIST has it (LeCun et al., 1998, section III.A)."""

from typing import Any

import numpy as np
from PIL import Image, ImageFilter, ImageOps

from contract import plain_png
from contract.errors import NoDigit
from contract.ink import Box, Found, find_digit, find_digits
from contract.levels import Levels, to_levels
from contract.picture import Pixels
from contract.regions import dilate, erode, find_regions, opening, surround

SIDE = 28
_BOX = 20  # MNIST's digits fill a box of 20 x 20 inside of their frame
_SHORTEST = 15  # pixels of the longer side of a digit that needs no scaling
_NEAR = 4.0  # pixels from the middle, up to which a digit is moved there
_OFF_CENTRE = 1.2  # pixels between the centre of mass and the middle of a framed digit, at most
_FULL = 0.785 * 255  # a disc's share of its box, in levels: the fullest of MNIST's 70,000 digits has 0.78
_CORNER = 200  # levels, over which all corners of its box are in a rectangle, and in none of MNIST's digits
_FAINT = 12  # levels between paper and ink, under which grey levels are noise
_THIN = 0.07  # strokes thinner than this share of the digit's box vanish when it shrinks to 20 pixels
_DETAIL = 224  # longer side at which the strokes of a digit are looked at
_SOLID, _MOST_SOLID = 5, 0.16  # pixels of a square in the ink, and the share of ink around which there may be one
_LEAST_CONNECTED = 0.5  # share of the ink in its largest piece
_MIDDLE = (SIDE - 1) / 2
_MOMENTS = np.stack([np.ones(SIDE * SIDE), *np.indices((SIDE, SIDE)).reshape(2, -1)]).astype(np.float32)
"""(3, 784): mass, row, column. Sums of bytes times these are below 2 ** 24, so they are exact in float32."""


def frame(image: Image.Image) -> Pixels:
    """An image of mode L or RGB -> uint8 (28, 28), light on black, as MNIST has it.

    An image that is framed so already stays as it is, or is inverted. In any other the digit is searched for, fitted
    into a 20 x 20 box and centred by its mass.

    Raises:
        NoDigit, SeveralDigits: as `find_digit`.
    """
    if image.size == (SIDE, SIDE):
        framed = as_framed(to_levels(image).im)
        if framed is not None:
            return framed
    return _place(_strokes(find_digit(image)))


def frame_all(image: Image.Image) -> list[tuple[Pixels, Box]]:
    """Each digit of an image of mode L or RGB, framed as by `frame`, and its box in the image, in reading order.

    Raises:
        NoDigit, SeveralDigits: as `find_digits`.
    """
    return [(_place(_strokes(found)), found.box) for found in find_digits(image)]


def as_framed(image: Any) -> Pixels | None:
    """The pixels (28, 28) of an image that is framed like MNIST's, or of its inverse; None for any other.

    Framed is what has black paper and white ink, 15 to 20 pixels long, with its centre of mass in the middle. A digit
    that is framed but for some pixels off the middle is moved there; one that is framed but for its grey levels, such
    as a mask of 0 and 1, is stretched to them.

    Args:
        image: a 28 x 28 image of Pillow's core of mode L. Its methods take a fraction of a microsecond each.
    """
    corner = image.getpixel((0, 0))
    if corner == 255:  # noqa: PLR2004 -- white
        image = ImageOps.invert(Image.frombytes("L", (SIDE, SIDE), plain_png.raw(image, SIDE, SIDE))).im
    elif corner:
        return _stretched(image)
    _, brightest = image.getextrema()
    left, top, right, bottom = image.getbbox() or (0, 0, 0, 0)
    if not _SHORTEST <= max(right - left, bottom - top) <= _BOX:
        return None
    if brightest < 200:  # noqa: PLR2004 -- the faintest of MNIST has 227
        return _stretched(image)
    pixels = np.frombuffer(plain_png.raw(image, SIDE, SIDE), np.uint8)
    mass, row, column = _MOMENTS.dot(pixels.astype(np.float32)).tolist()
    is_shape = _is_shape(image, mass, (left, top, right, bottom))
    down, right_by = _MIDDLE - row / mass, _MIDDLE - column / mass
    if not is_shape and max(abs(down), abs(right_by)) <= _OFF_CENTRE:
        return pixels.reshape(SIDE, SIDE)
    has_gap = 0 in image.getprojection()[0][left:right]  # an empty column, as two digits have between them
    rows, columns = round(down), round(right_by)
    fits = top + rows >= 0 and bottom + rows <= SIDE and left + columns >= 0 and right + columns <= SIDE
    if is_shape or max(abs(down), abs(right_by)) > _NEAR or has_gap or not fits:
        return None
    moved = image.crop((-columns, -rows, SIDE - columns, SIDE - rows))
    return np.frombuffer(plain_png.raw(moved, SIDE, SIDE), np.uint8).reshape(SIDE, SIDE)


def _is_shape(image: Any, mass: float, box: tuple[int, int, int, int]) -> bool:
    """Whether the ink in a box is a disc, or a rectangle, filled or not, rather than a digit."""
    left, top, right, bottom = box
    width, height = right - left, bottom - top
    if 2 * min(width, height) <= max(width, height):
        return False  # a 1 fills its box, too
    corners = (left, top), (right - 1, bottom - 1), (left, bottom - 1), (right - 1, top)
    return mass > _FULL * width * height or all(image.getpixel(corner) > _CORNER for corner in corners)


def _stretched(image: Any) -> Pixels | None:
    """`as_framed` of an image whose paper and ink are other levels than black and white.

    The whole border has the level of the paper, and all ink is lighter, or all is darker.
    """
    pixels = np.frombuffer(plain_png.raw(image, SIDE, SIDE), np.uint8)
    levels = pixels.reshape(SIDE, SIDE).astype(np.int16)
    paper, low, high = int(levels[0, 0]), int(levels.min()), int(levels.max())
    border = (levels[0], levels[-1], levels[:, 0], levels[:, -1])
    is_two_sided = low < paper < high
    if is_two_sided or low == high or any((edge != paper).any() for edge in border):
        return None
    if high - low < _FAINT and ((levels != low) & (levels != high)).any():
        return None
    share = (levels - paper) / (high - paper or low - paper)  # 0 on the paper, 1 in the ink
    return as_framed(Image.fromarray((share * 255 + 0.5).astype(np.uint8)).im)


def _strokes(found: Found) -> Pixels:
    """The ink of a digit, uint8 (h, w): 255 in a stroke, 0 on the paper, at full resolution up to `_DETAIL`."""
    digit, scale = found.region, found.scale
    if scale >= 1:
        ink, shape = found.ink[digit.box], surround(digit.mask).astype(np.uint8)
        allowed = dilate(shape, 3)[1:-1, 1:-1] > 0
    else:
        margin = max(0.35 * digit.size, 3)
        left, top = max((digit.left - margin) / scale, 0), max((digit.top - margin) / scale, 0)
        right, bottom = (digit.right + margin) / scale + 1, (digit.bottom + margin) / scale + 1
        closer = found.grey[int(top) : int(bottom), int(left) : int(right)]
        zoom = min(_DETAIL / max(closer.shape), 1.0)
        size = max(round(closer.shape[1] * zoom), 1), max(round(closer.shape[0] * zoom), 1)
        plane = np.asarray(Image.fromarray(closer).resize(size, Image.Resampling.BOX))
        plane = np.clip(plane + 0.5, 0, 255).astype(np.uint8)
        ink = (plane - opening(plane, (max(plane.shape) // 2) | 1)).astype(np.float32)
        ink = np.maximum(ink - np.median(ink), 0)
        shape = np.zeros(found.ink.shape, np.uint8)
        shape[digit.box] = digit.mask * np.uint8(255)
        box = tuple(round(edge * scale) for edge in (int(left), int(top)))
        ends = tuple(start + max(round(side / zoom * scale), 1) for start, side in zip(box, size, strict=True))
        mask = Image.fromarray(dilate(shape, 3)).crop((*box, *ends)).resize(size, Image.Resampling.BILINEAR)
        allowed = np.asarray(mask) > 50  # noqa: PLR2004 -- a fifth of 255
    if not allowed.any():
        raise NoDigit("no digit was found; send a larger image of it")
    strong = ink[allowed]
    full = float(np.median(strong[strong > _otsu(strong)]))
    stroke = np.where(allowed, np.clip(ink / max(full, 1e-6), 0, 1), 0) * 255
    stroke[stroke < 40] = 0  # noqa: PLR2004 -- a sixth of full ink is paper's grain
    return stroke.astype(np.uint8)


def _otsu(values: Levels) -> float:
    """The threshold that best parts ink from paper (Otsu, 1979): the largest variance between the two."""
    counts, edges = np.histogram(values, bins=64)
    centres = (edges[:-1] + edges[1:]) / 2
    below = np.cumsum(counts)[:-1]
    above = values.size - below
    mass = np.cumsum(counts * centres)
    between = below * above * (mass[:-1] / np.maximum(below, 1) - (mass[-1] - mass[:-1]) / np.maximum(above, 1)) ** 2
    return float(edges[int(between.argmax())])


def _place(strokes: Pixels) -> Pixels:
    """Strokes (h, w) -> uint8 (28, 28): fitted into 20 x 20, the centre of mass in the middle of the frame."""
    is_ink = strokes > 60  # noqa: PLR2004 -- a quarter of full ink
    rows, columns = np.flatnonzero(is_ink.any(axis=1)), np.flatnonzero(is_ink.any(axis=0))
    if not rows.size:
        raise NoDigit("no digit was found; send a larger image of it")
    box = _thicken(Image.fromarray(strokes[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]))
    scale = _BOX / max(box.size)
    size = max(round(box.width * scale), 1), max(round(box.height * scale), 1)
    digit = np.asarray(box.resize(size, Image.Resampling.BILINEAR), np.float32)
    digit = digit * (255 / max(float(digit.max()), 1))
    height, width = digit.shape
    row = float(digit.sum(axis=1) @ np.arange(height)) / float(digit.sum())
    column = float(digit.sum(axis=0) @ np.arange(width)) / float(digit.sum())
    top = int(np.clip(round(_MIDDLE - row), 0, SIDE - height))
    left = int(np.clip(round(_MIDDLE - column), 0, SIDE - width))
    framed = np.zeros((SIDE, SIDE), np.uint8)
    framed[top : top + height, left : left + width] = (digit + 0.5).astype(np.uint8)
    _check_strokes(framed)
    return framed


def _check_strokes(framed: Pixels) -> None:
    """Refuse what has no strokes, or many small ones: shapes, photos and patterns.

    Raises:
        NoDigit: the framed image (28, 28) shows such a thing.
    """
    is_ink = framed > 100  # noqa: PLR2004 -- the middle of a stroke's edge
    mass = int(is_ink.sum())
    if int(erode(is_ink.astype(np.uint8), _SOLID).sum()) > _MOST_SOLID * mass:
        raise NoDigit("the image shows a filled shape or a photo, not the strokes of a digit")
    largest = max((region.area for region in find_regions(is_ink, min_size=1)), default=0)
    if largest < _LEAST_CONNECTED * mass:
        raise NoDigit("the image shows many small pieces, not the strokes of a digit")


def _thicken(box: Image.Image) -> Image.Image:
    """Widen strokes that would be lost when the digit shrinks to 20 pixels.

    A stroke of width w and length l has area w*l and about 2*l of outline, so w is about 2 * area / outline.
    """
    mask = surround(np.asarray(box) > 127)  # noqa: PLR2004 -- the middle of 0 to 255
    outline = int((mask[1:] != mask[:-1]).sum() + (mask[:, 1:] != mask[:, :-1]).sum())
    width = 2 * int(mask.sum()) / max(outline, 1)
    missing = _THIN * max(box.size) - width
    if missing <= 0:
        return box
    grow = max(round(missing / 2), 1)
    return ImageOps.expand(box, grow).filter(ImageFilter.MaxFilter(2 * grow + 1))
