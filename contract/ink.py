"""An image -> where its digit is: what differs from the paper around it, and is shaped as a stroke.

Light strokes and dark ones are looked for alike. Ink is what an opening (Serra, 1982) by a square wider than any stroke
takes away: shade, tables, fingers and bars along an edge are wider and stay. Lines across the whole image are taken
out. Of the connected regions that are left, rings and boxes around others go, then blobs, soft shade, texture, and what
touches the border where anything else is left. What remains is one digit, several, or none.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple, cast

import numpy as np
from PIL import Image

from contract.errors import NoDigit, SeveralDigits
from contract.levels import Levels, has_two_levels, most_contrast, to_search_size
from contract.lines import without_lines
from contract.regions import Plane, Region, dilate, find_regions, opening

Box = tuple[int, int, int, int]
"""Left, top, right and bottom, in pixels; the last two are exclusive."""

_FAINT = 12.0  # grey levels of 255 between ink and paper, under which nothing is taken for ink
_STROKE = 0.34  # of the longer side: no stroke is wider
_MIN_PIXELS = 8  # of a digit's height; fewer cannot be read
_MAX_ASPECT = 1.7  # width to height; digits that touch each other are wider
_MAX_HOLES, _MAX_PIECES = 3, 3  # an 8 has two holes; a 5 has a second piece
_FADING = 0.5  # of a stroke's width, over which blurred ink fades
_UNEVEN, _SLOPING = 0.75, 0.25  # of the ink's contrast: range of the levels around it, and slope over a stroke's width
_ALONG, _SMALL = 0.8, 0.6  # shares of a region's length and of the image's
_FLAT = 12  # width to height of a line under or through a digit, at least
_ALIKE = 0.5  # of the larger box, over which light and dark regions are the same pattern
_ON_SHEET = 0.3  # of a sheet's height, that the digit on it has at least
_UPRIGHT = 0.97  # of its box, that the hull of an upright sheet fills
_SHEET_ASPECT = 0.65  # width to height of a sheet, at least; digits of displays are narrower
_BOX_ASPECT, _BOX_HULL = 0.75, 0.94  # of outlines of boxes: width to height, hull to box


class _Limits(NamedTuple):
    """How many large regions there may be: of a texture, and of the surroundings of a digit."""

    regions: int
    large: int


_ONE, _MANY = _Limits(10, 6), _Limits(50, 40)


@dataclass(frozen=True)
class Found:
    """The one digit of an image."""

    region: Region
    ink: Levels
    """Levels between ink and paper at the size at which the digit was found, (H, W)."""
    grey: Levels
    """The whole image along the axis of most contrast, 0 to 255 (H, W), at its own size; ink is high."""
    scale: float
    """Pixels of `ink` for each of `grey`."""
    box: Box
    """Where the digit is in the image that was searched."""


def find_digit(image: Image.Image) -> Found:
    """Find the digit in an image of mode L or RGB.

    Raises:
        NoDigit: nothing in the image is shaped as a digit is.
        SeveralDigits: more than one thing is.
    """
    try:
        found = _find(image, _ONE)
    except NoDigit:
        if _shows_many(image):
            message = "the image shows many things of a digit's size; send an image of each digit, or ?several=true"
            raise SeveralDigits(message) from None
        raise
    if len(found) > 1:
        raise SeveralDigits(f"the image shows {len(found)} digits or more; send an image of each, or ?several=true")
    return found[0]


def _shows_many(image: Image.Image) -> bool:
    """Whether an image without one digit has a row or a page of them."""
    try:
        return len(_find(image, _MANY)) > 1
    except (NoDigit, SeveralDigits):
        return False


def find_digits(image: Image.Image) -> list[Found]:
    """Find all digits in an image of mode L or RGB, line by line and from left to right.

    Raises:
        NoDigit: nothing in the image is shaped as a digit is.
        SeveralDigits: some of them touch.
    """
    lines: list[list[Found]] = []
    for found in sorted(_find(image, _MANY), key=lambda found: found.box[1] + found.box[3]):
        _, top, _, bottom = found.box
        if lines and lines[-1][-1].box[3] > (top + bottom) / 2:
            lines[-1].append(found)
        else:
            lines.append([found])
    return [found for line in lines for found in sorted(line, key=lambda found: found.box[0])]


def _find(image: Image.Image, limits: "_Limits") -> list[Found]:
    """The digits of an image, at least one.

    Raises:
        NoDigit, SeveralDigits: as `find_digits`.
    """
    values = np.asarray(image, np.float32)
    grey = most_contrast(values) if values.ndim > 2 else values  # noqa: PLR2004 -- (H, W, 3) -> (H, W)
    low, high = float(grey.min()), float(grey.max())
    if low == high:
        raise NoDigit("the image has one colour throughout; send an image of a digit")
    faint = 0.0 if has_two_levels(grey, low, high) else _FAINT * 255 / (high - low)
    grey = (grey - low) * (255 / (high - low))
    small, scale = to_search_size(grey)
    sides = _look(small, faint, limits)
    top = left = 0
    closer = _sheet_box(sides, scale) or (_ink_box(sides, scale) if scale < 1 else None)
    if closer is not None:
        top, left = closer[0].start, closer[1].start
        grey = grey[closer]
        small, scale = to_search_size(grey)
        sides = _look(small, faint, limits)
    is_light, regions, ink = _locate(sides)
    tallest = max(region.height for region in regions)
    tall = [region for region in regions if region.height >= 0.45 * tallest]
    if _is_cloud(small, ink, tall[0]):
        raise NoDigit("no digit was found: what looks like ink fades into paper that is as uneven")
    plane = grey if is_light else 255 - grey
    found = []
    for digit in tall:
        edges = digit.left, digit.top, digit.right, digit.bottom
        box = tuple(round(edge / scale) + start for edge, start in zip(edges, (left, top) * 2, strict=True))
        found.append(Found(digit, ink, plane, scale, cast("Box", box)))
        if len(tall) == 1 or limits is _MANY:
            _check_shape(digit, scale)
    return found


def _check_shape(digit: Region, scale: float) -> None:
    """Refuse what cannot be one digit.

    Raises:
        NoDigit, SeveralDigits: as `find_digits`.
    """
    if digit.width > _MAX_ASPECT * digit.height:
        raise SeveralDigits("the ink is wider than one digit is; send an image of each digit")
    if digit.height < _MIN_PIXELS * scale:
        raise NoDigit(f"what looks like ink is less than {_MIN_PIXELS} pixels high; send a larger image of the digit")
    if digit.holes > _MAX_HOLES or digit.pieces > _MAX_PIECES:
        raise NoDigit("the image shows a texture, not a digit")


def _look(grey: Levels, faint: float, limits: "_Limits") -> "list[_Side]":
    """What is lighter than its surroundings in levels (H, W), and what is darker."""
    plane = (grey + 0.5).astype(np.uint8)
    noise = float(np.median(np.abs(np.diff(plane.astype(np.int16), axis=1)))) if plane.shape[1] > 1 else 0.0
    return [_Side.of(plane, noise, faint, limits), _Side.of(255 - plane, noise, faint, limits)]


def _ink_box(sides: "list[_Side]", scale: float) -> tuple[slice, slice] | None:
    """Where all ink of a large image is, with a margin, if that is a small part: an index into the full resolution."""
    height, width = sides[0].ink.shape
    regions = [region for side in sides for region in side.regions if not region.border]
    strongest = max((region.contrast for region in regions), default=0.0)
    strong = [region for region in regions if region.contrast >= 0.4 * strongest]
    if not strong:
        return None
    top, bottom = min(region.top for region in strong), max(region.bottom for region in strong)
    left, right = min(region.left for region in strong), max(region.right for region in strong)
    longest = max(bottom - top, right - left)
    if 3 * longest > max(height, width):
        return None
    rows = slice(int(max(top - longest, 0) / scale), int((bottom + longest) / scale) + 1)
    return rows, slice(int(max(left - longest, 0) / scale), int((right + longest) / scale) + 1)


def _sheet_box(sides: "list[_Side]", scale: float) -> tuple[slice, slice] | None:
    """Where the upright sheet, card or plot is on which all of the digit may be: an index into the full resolution."""
    for sheets, inks in zip(sides, sides[::-1], strict=True):
        for sheet in sheets.regions[:1]:
            is_inside = any(
                sheet.contains_box(ink) and _ON_SHEET * sheet.height <= ink.height < sheet.height and not ink.is_blob
                for ink in inks.regions
            )
            if is_inside and not sheet.border and _is_sheet(sheet):
                rows, columns = (
                    slice(int((box.start + 1) / scale) + 1, int((box.stop - 1) / scale)) for box in sheet.box
                )
                return rows, columns
    return None


def _is_sheet(region: Region) -> bool:
    """Whether a region fills most of an upright rectangle that is not as narrow as a digit."""
    is_upright = region.hull_area > _UPRIGHT * region.mask.size
    return is_upright and region.is_solid and region.width > _SHEET_ASPECT * region.height


def _locate(sides: "list[_Side]") -> tuple[bool, list[Region], Levels]:
    """Whether the ink is lighter than the paper, the regions that may be digits, and the ink's levels (H, W).

    Raises:
        NoDigit: none may be.
    """
    # What reaches the border is a frame or a neighbour rather than a digit; unless nothing else is there.
    for most, least_contrast in ((0.0, 0), (0.2, 0), (0.6, 100)):
        allowed = [
            [region for region in side.candidates if region.border <= most and region.contrast >= least_contrast]
            for side in sides
        ]
        strongest = max((region.contrast for regions in allowed for region in regions), default=0.0)
        groups = [
            side.digits([region for region in regions if region.contrast >= 0.3 * strongest])
            for side, regions in zip(sides, allowed, strict=True)
        ]
        light, dark = groups
        groups = [_without_sheets(light, dark), _without_sheets(dark, light)]
        largest = [max((one.height * one.width for one in group), default=0) for group in groups]
        if not any(largest) or (most > 0 and min(largest) > _ALIKE * max(largest)):
            continue  # none; or stripes and squares, of which none is the paper
        best = int(largest[1] > largest[0])
        if most == 0.0 and sides[1 - best].surrounds(groups[best], 0.3 * strongest):
            continue  # the digit is cut off at the border, and these are its counters
        return best == 0, groups[best], sides[best].ink
    raise NoDigit("no digit was found; send an image of one digit whose ink differs clearly from the paper around it")


@dataclass(frozen=True)
class _Side:
    """What is lighter than its surroundings, or what is darker, as ink."""

    ink: Levels
    regions: list[Region]
    candidates: list[Region]
    limits: "_Limits"

    @staticmethod
    def of(plane: Plane, noise: float, faint: float, limits: "_Limits") -> "_Side":
        """The ink of a plane (H, W) in which ink is high, and its regions that may be digits or parts of one."""
        ink = _ink(plane)
        strongest = max(float(np.percentile(ink, 99.9)), 0.5 * float(ink.max()))
        mask = ink > max(0.22 * strongest, 3.5 * noise, 0.4 * faint)
        if strongest < max(faint, 7 * noise, 1.0) or mask.mean() > 0.6:  # noqa: PLR2004 -- more ink than paper
            return _Side(ink, [], [], limits)
        mask = without_lines(without_lines(mask).T).T
        regions = find_regions(mask, min_size=5)
        for region in regions:
            region.contrast = float(np.percentile(ink[region.box][region.mask], 85))
        large = [region for region in regions if region.size >= 0.25 * regions[0].size]
        if len(large) > limits.regions:
            return _Side(ink, regions, [], limits)
        candidates = [
            region
            for region in _without_rings(regions)
            if not _runs_along_border(region, ink.shape)
            and not region.is_blob
            and not _is_box(region)
            and region.width < _FLAT * region.height
            and not _is_soft(ink, region)
            and _is_on_paper(plane, ink, region, regions)
        ]
        return _Side(ink, regions, candidates, limits)

    def digits(self, candidates: list[Region]) -> list[Region]:
        """Candidates with the pieces of a digit put together; none where there is much else."""
        groups = _put_together(candidates)
        if not groups:
            return []
        largest = max(region.size for region in groups)
        if sum(region.size >= 0.25 * largest for region in self.regions if not region.border) > self.limits.large:
            return []
        return [region for region in groups if region.size >= 0.35 * largest and region.height >= 0.3 * largest]

    def surrounds(self, regions: list[Region], contrast: float) -> bool:
        """Whether a candidate that touches the border has one of these regions in it."""
        return any(
            outer.contains_box(inner)
            for outer in self.candidates
            if 0 < outer.border <= 0.2 and outer.contrast >= contrast  # noqa: PLR2004 -- a frame covers more
            for inner in regions
        )


def _ink(plane: Plane) -> Levels:
    """How much lighter than the paper around it each pixel is: (H, W) -> float32 (H, W)."""
    ink: Levels = (plane - opening(plane, int(_STROKE * max(plane.shape)) | 1)).astype(np.float32)
    above_grain: Levels = np.maximum(ink - np.median(ink), 0)
    return above_grain


def _without_rings(regions: list[Region]) -> list[Region]:
    """Regions without those that encircle another of some size: rings, boxes and frames around a digit."""
    return [
        outer
        for outer in regions
        if not any(
            inner is not outer and inner.size >= 0.22 * outer.size and not inner.is_blob and outer.encircles(inner)
            for inner in regions
        )
    ]


def _without_sheets(regions: list[Region], others: list[Region]) -> list[Region]:
    """Regions without those inside of the image that are the paper or the disc on which one of the others stands."""
    return [
        sheet
        for sheet in regions
        if sheet.border
        or not sheet.is_solid
        or not any(sheet.contains_box(one) and one.height >= _ON_SHEET * sheet.height for one in others)
    ]


def _is_box(region: Region) -> bool:
    """Whether a region is the outline of an empty box; a 0 is round or narrow."""
    is_square = region.width > _BOX_ASPECT * region.height and region.holes == 1
    return is_square and not region.is_solid and region.hull_area > _BOX_HULL * region.mask.size


def _runs_along_border(region: Region, shape: tuple[int, ...]) -> bool:
    """Whether a small region lies along the border of the image (H, W) for most of its length."""
    along = region.border * 2 * sum(shape)
    return along > _ALONG * region.size and region.size < _SMALL * max(shape)


def _is_soft(ink: Levels, region: Region) -> bool:
    """Whether a region fades over a large share of its size, as shade does and ink does not."""
    strong = int(((ink[region.box] > 0.6 * region.contrast) & region.mask).sum())
    return (region.area - strong) > max(0.1 * region.size, 2) * region.outline


def _is_cloud(grey: Levels, ink: Levels, region: Region) -> bool:
    """Whether a region fades over much of its strokes' width, and what is around it is as uneven.

    A digit that is out of focus lies on even paper, and one on uneven paper has edges.
    """
    margin = region.size // 2
    top, left = max(region.top - margin, 0), max(region.left - margin, 0)
    near = slice(top, region.bottom + margin), slice(left, region.right + margin)
    own = np.zeros(ink[near].shape, np.uint8)
    if min(own.shape) < 2:  # noqa: PLR2004 -- of which np.gradient cannot be computed
        return False
    _draw(own, region, top, left)
    steepest = float(np.percentile(np.hypot(*np.gradient(ink[near]))[own > 0], 90))
    stroke = 2 * region.area / region.outline
    fading = region.contrast / max(steepest, 1e-6) / stroke
    around = dilate(own, 2 * margin + 1) > dilate(own, 2 * max(int(0.12 * region.size), 4) + 1)
    if fading <= _FADING or not around.any():
        return False
    low, high = np.percentile(grey[near][around], (10, 90))
    slope = float(np.median(np.hypot(*np.gradient(grey[near]))[around]))  # none beside an edge, as of a table
    return bool(high - low > _UNEVEN * region.contrast and slope * stroke > _SLOPING * region.contrast)


def _is_on_paper(plane: Plane, ink: Levels, region: Region, regions: Iterable[Region]) -> bool:
    """Whether what is around a region, other ink left out, is even and of another level than the region."""
    margin = max(region.size // 2, 3)
    top, left = max(region.top - margin, 0), max(region.left - margin, 0)
    around = slice(top, region.bottom + margin), slice(left, region.right + margin)
    levels = plane[around]
    own, all_ink = np.zeros(levels.shape, np.uint8), np.zeros(levels.shape, np.uint8)
    _draw(own, region, top, left)
    for other in regions:
        if other is region or not (other.contains_box(region) and other.is_solid):  # a sheet is paper
            _draw(all_ink, other, top, left)
    beyond = levels[(all_ink | dilate(own, 3)) == 0]
    if not beyond.size:
        return True
    close = (dilate(own, 2 * max(int(0.12 * region.size), 4) + 1) > 0) & (dilate(all_ink, 5) == 0)
    if close.sum() > 10 and np.percentile(ink[around][close], 80) > 0.3 * region.contrast:  # noqa: PLR2004
        return False
    level = float(np.median(levels[own > 0]))
    return bool((beyond > level - 0.3 * region.contrast).mean() < 0.35)  # noqa: PLR2004 -- a third looks the same


def _draw(plane: Plane, region: Region, top: int, left: int) -> None:
    """Set the pixels of a region, as far as they lie in a plane whose corner is at (top, left) of the image."""
    rows = slice(max(region.top, top), min(region.bottom, top + plane.shape[0]))
    columns = slice(max(region.left, left), min(region.right, left + plane.shape[1]))
    if rows.start < rows.stop and columns.start < columns.stop:
        part = region.mask[
            rows.start - region.top : rows.stop - region.top, columns.start - region.left : columns.stop - region.left
        ]
        plane[rows.start - top : rows.stop - top, columns.start - left : columns.stop - left] |= part


def _put_together(regions: list[Region]) -> list[Region]:
    """Regions with small pieces joined to the digit that they belong to, such as the bar of a 5."""
    groups: list[Region] = []
    for piece in sorted(regions, key=lambda region: -region.size):
        for place, group in enumerate(groups):
            overlap = min(piece.right, group.right) - max(piece.left, group.left)
            gap, is_small = piece.gap(group), piece.size < 0.6 * group.size
            reach = 0.22 if overlap > 0.3 * min(piece.width, group.width) else 0.12
            if gap <= (reach if is_small else 0.05) * group.size:
                groups[place] = group.joined(piece)
                break
        else:
            groups.append(piece)
    return groups
