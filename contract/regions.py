"""Connected regions of a mask, and sliding windows: the little image processing that finding a digit needs.

NumPy alone: scipy or OpenCV would be larger than all that the service otherwise installs for images.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

Mask = npt.NDArray[np.bool_]
Plane = npt.NDArray[np.uint8]
"""One channel, (H, W)."""

_CELLS, _SOLID_CELLS = 20, 9
_SOLID_SHARE = 0.87  # of its convex hull, that a filled region covers at least
_PIECE = 0.2  # of a region's size, that another must have to count as a piece of it and not as a speck
_MAX_RUNS = 1 << 16


@dataclass(eq=False)
class Region:
    """Pixels of a mask that touch each other, or several such regions put together.

    `top` and `left` are inclusive, `bottom` and `right` exclusive; `mask` is the region inside of that box.
    """

    top: int
    bottom: int
    left: int
    right: int
    mask: Mask
    border: float
    """How much of the image's border the region covers, from 0 to 1."""
    contrast: float = 0.0
    """Grey levels between the region's ink and the paper."""
    pieces: int = 1

    @property
    def height(self) -> int:
        return self.bottom - self.top

    @property
    def width(self) -> int:
        return self.right - self.left

    @property
    def size(self) -> int:
        """The longer side of the box."""
        return max(self.height, self.width)

    @property
    def box(self) -> tuple[slice, slice]:
        """The box as an index into the image."""
        return slice(self.top, self.bottom), slice(self.left, self.right)

    @cached_property
    def area(self) -> int:
        return int(self.mask.sum())

    @cached_property
    def outline(self) -> int:
        """Sides of pixels between the region and what is outside of it."""
        padded = surround(self.mask)
        return int((padded[1:] != padded[:-1]).sum() + (padded[:, 1:] != padded[:, :-1]).sum())

    @cached_property
    def is_blob(self) -> bool:
        """Whether the region is compact and filled, as a disc, a square or a triangle is, and no digit."""
        if self.size >= 1.8 * min(self.height, self.width):
            return False
        scale = _CELLS / self.size
        size = max(round(self.width * scale), 1), max(round(self.height * scale), 1)
        cells = Image.fromarray(self.mask.astype(np.uint8) * 255).resize(size, Image.Resampling.BOX)
        solid = surround((np.asarray(cells) > 140).astype(np.uint8))  # noqa: PLR2004 -- somewhat more than half
        return bool(erode(solid, _SOLID_CELLS).any()) or self.area > _SOLID_SHARE * self.hull_area

    @property
    def is_solid(self) -> bool:
        """Whether the region fills most of its convex hull, as paper does, and no outline."""
        return 2 * self.area > self.hull_area

    @cached_property
    def hull_area(self) -> float:
        """The area of the convex hull, in pixels (Andrew, 1979, over the ends of the rows)."""
        first = self.mask.argmax(axis=1)
        last = self.width - self.mask[:, ::-1].argmax(axis=1)
        rows = range(self.height)
        left = _chain([(row + end, int(first[row])) for row in rows for end in (0, 1)], -1)
        right = _chain([(row + end, int(last[row])) for row in rows for end in (0, 1)], 1)
        corners = np.array(right + left[::-1])
        rows_of, columns = corners[:, 0], corners[:, 1]
        return abs(float(rows_of @ np.roll(columns, -1) - columns @ np.roll(rows_of, -1))) / 2

    @cached_property
    def holes(self) -> int:
        """How many holes the region has, apart from the smallest."""
        outside = find_regions(~surround(self.mask), min_size=1)
        least = max(3.0, 0.002 * self.height * self.width)
        return sum(hole.area > least and not hole.border for hole in outside)

    def contains_box(self, other: "Region") -> bool:
        """Whether the other's box lies in this one's."""
        return (
            self.top <= other.top
            and self.bottom >= other.bottom
            and self.left <= other.left
            and self.right >= other.right
        )

    def encircles(self, other: "Region") -> bool:
        """Whether this region is met in nearly all directions from the other's middle, as a ring or a box is."""
        if not self.contains_box(other) or other.top == self.top or other.left == self.left:
            return False
        row = (other.top + other.bottom) / 2 - self.top
        column = (other.left + other.right) / 2 - self.left
        angles = np.linspace(0, 2 * np.pi, 32, endpoint=False)[:, None]
        steps = np.arange(1, self.size)[None]
        rows, columns = row + np.sin(angles) * steps, column + np.cos(angles) * steps
        inside = (rows >= 0) & (rows < self.height) & (columns >= 0) & (columns < self.width)
        hit = self.mask[np.where(inside, rows, 0).astype(int), np.where(inside, columns, 0).astype(int)] & inside
        return bool(hit.any(axis=1).mean() >= 0.8)  # noqa: PLR2004 -- rings drawn by hand are open

    def gap(self, other: "Region") -> int:
        """Pixels between the two boxes, in the direction in which they are further apart."""
        rows = max(self.top - other.bottom, other.top - self.bottom, 0)
        return max(rows, self.left - other.right, other.left - self.right)

    def joined(self, other: "Region") -> "Region":
        """Both as one region; the other is the smaller one."""
        top, bottom = min(self.top, other.top), max(self.bottom, other.bottom)
        left, right = min(self.left, other.left), max(self.right, other.right)
        mask = np.zeros((bottom - top, right - left), np.bool_)
        for part in (self, other):
            mask[part.top - top : part.bottom - top, part.left - left : part.right - left] |= part.mask
        border, contrast = max(self.border, other.border), max(self.contrast, other.contrast)
        pieces = self.pieces + (other.size >= _PIECE * self.size)
        return Region(top, bottom, left, right, mask, border, contrast, pieces)


def _chain(points: list[tuple[int, int]], side: int) -> list[tuple[int, int]]:
    """The points, sorted by row, that are on the convex hull, on its right (side 1) or its left (-1)."""
    hull: list[tuple[int, int]] = []
    for row, column in points:
        while len(hull) > 1:
            (row_0, column_0), (row_1, column_1) = hull[-2:]
            turn = (row_1 - row_0) * (column - column_0) - (column_1 - column_0) * (row - row_0)
            if side * turn < 0:
                break
            hull.pop()
        hull.append((row, column))
    return hull


def find_regions(mask: Mask, *, min_size: int, max_count: int = 60) -> list[Region]:
    """The 8-connected regions of a mask (H, W) whose longer side is at least `min_size`, the largest first.

    A mask of more than 65,536 runs of pixels is a texture; it gives no region.
    """
    rows, starts, stops = _runs(mask)
    if not 0 < len(rows) <= _MAX_RUNS:
        return []
    _, labels = np.unique(_connect(rows, starts, stops), return_inverse=True)
    height, width = mask.shape
    count = int(labels.max()) + 1
    top, bottom = np.full(count, height), np.zeros(count, np.intp)
    left, right = np.full(count, width), np.zeros(count, np.intp)
    np.minimum.at(top, labels, rows)
    np.maximum.at(bottom, labels, rows + 1)
    np.minimum.at(left, labels, starts)
    np.maximum.at(right, labels, stops)
    sizes = np.maximum(bottom - top, right - left)
    order = np.argsort(-sizes, kind="stable")[:max_count]
    members = np.argsort(labels, kind="stable")
    bounds = np.searchsorted(labels[members], np.arange(count + 1))
    found = []
    for label in order[sizes[order] >= min_size]:
        part = np.zeros((bottom[label] - top[label], right[label] - left[label]), np.bool_)
        for run in members[bounds[label] : bounds[label + 1]]:
            part[rows[run] - top[label], starts[run] - left[label] : stops[run] - left[label]] = True
        edges = int(part[0].sum()) * (top[label] == 0) + int(part[-1].sum()) * (bottom[label] == height)
        edges += int(part[:, 0].sum()) * (left[label] == 0) + int(part[:, -1].sum()) * (right[label] == width)
        box = int(top[label]), int(bottom[label]), int(left[label]), int(right[label])
        found.append(Region(*box, part, border=float(edges) / (2 * (height + width))))
    return found


def surround(plane: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """The plane (H, W) with zeros around it, (H + 2, W + 2): as np.pad, in a tenth of the time for small planes."""
    padded = np.zeros((plane.shape[0] + 2, plane.shape[1] + 2), plane.dtype)
    padded[1:-1, 1:-1] = plane
    return padded


def dilate(plane: Plane, side: int) -> Plane:
    """The highest value in the square of `side` pixels around each pixel; (H, W) -> (H, W)."""
    return _slide(_slide(plane, side, np.maximum, 0), side, np.maximum, 1)


def erode(plane: Plane, side: int) -> Plane:
    """The lowest value in the square of `side` pixels around each pixel; (H, W) -> (H, W)."""
    return _slide(_slide(plane, side, np.minimum, 0), side, np.minimum, 1)


def opening(plane: Plane, side: int) -> Plane:
    """The plane without whatever is lighter than its surroundings and narrower than `side` pixels."""
    return dilate(erode(plane, side), side)


def _slide(plane: Plane, side: int, combine: np.ufunc, axis: int) -> Plane:
    """Combine windows of `side` pixels along an axis, the edges repeated, in steps that double."""
    if side <= 1:
        return plane
    before = side // 2
    plane = plane if axis == 0 else plane.T
    length = len(plane)
    values = np.empty((length + side - 1, plane.shape[1]), plane.dtype)  # np.pad would take as long as the rest
    values[before : before + length], values[:before], values[before + length :] = plane, plane[:1], plane[-1:]
    done = 1
    while done * 2 <= side:
        values = combine(values[:-done], values[done:])
        done *= 2
    if done < side:
        values = combine(values[:length], values[side - done :])
    return values if axis == 0 else np.ascontiguousarray(values.T)


def _runs(mask: Mask) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.intp], npt.NDArray[np.intp]]:
    """The runs of set pixels, row by row: their rows, first columns, and the columns behind their last."""
    padded = np.zeros((mask.shape[0], mask.shape[1] + 2), np.int8)
    padded[:, 1:-1] = mask
    edges = np.diff(padded, axis=1)
    rows, starts = np.nonzero(edges == 1)
    stops = np.nonzero(edges == -1)[1]
    return rows, starts, stops


def _connect(
    rows: npt.NDArray[np.intp], starts: npt.NDArray[np.intp], stops: npt.NDArray[np.intp]
) -> npt.NDArray[np.intp]:
    """For each run, a run that stands for its region: union-find over runs that touch, diagonally too."""
    parent = list(range(len(rows)))

    def root(run: int) -> int:
        while parent[run] != run:
            parent[run] = parent[parent[run]]
            run = parent[run]
        return run

    for upper, lower in _touching(rows, starts.tolist(), stops.tolist()):
        first, second = root(upper), root(lower)
        parent[max(first, second)] = min(first, second)
    return np.array([root(run) for run in range(len(rows))], np.intp)


def _touching(rows: npt.NDArray[np.intp], starts: list[int], stops: list[int]) -> Iterator[tuple[int, int]]:
    """Pairs of runs in neighbouring rows that touch."""
    bounds = np.searchsorted(rows, np.arange(int(rows[-1]) + 2)).tolist()
    for row in range(1, len(bounds) - 1):
        upper, upper_end = bounds[row - 1], bounds[row]
        lower, lower_end = bounds[row], bounds[row + 1]
        while upper < upper_end and lower < lower_end:
            if starts[upper] <= stops[lower] and starts[lower] <= stops[upper]:
                yield upper, lower
            if stops[upper] < stops[lower]:
                upper += 1
            else:
                lower += 1
