"""A layer as a picture: its feature maps or its filters side by side, as a PNG of 256 colours.

Maps of a layer share one scale, so that a dark map is one that found little. Values from 0 up run from dark to bright;
values of both signs are blue below 0 and orange above.
"""

import io
from dataclasses import dataclass
from math import ceil, sqrt
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

GAP = 2
"""Pixels between two maps, which are transparent."""
MAX_PIXELS = 1 << 22
"""Of a sheet; maps that do not fit on it are left out."""

_SIDE = 96  # pixels of a small map's longer side, at most
_BRIGHT, _AT_LEAST = 99.5, 0.3  # percent of the values below the strongest colour, and its share of the largest value
_LINE = 640  # pixels of a vector's line
_RISING = (
    (0, 0, 4),
    (40, 11, 84),
    (101, 21, 110),
    (159, 42, 99),
    (212, 72, 66),
    (245, 125, 21),
    (250, 193, 39),
    (252, 255, 164),
)
_SIGNED = ((8, 48, 107), (33, 102, 172), (103, 169, 207), (247, 247, 247), (253, 174, 97), (230, 85, 0), (127, 39, 4))

Floats = npt.NDArray[Any]


@dataclass(frozen=True)
class Layout:
    """Where the maps of a sheet are: map i is in row i // columns, column i % columns, and each value is a square."""

    maps: int
    """How many are on the sheet, the first ones."""
    columns: int
    height: int
    """Values of a map along its height; `width` likewise."""
    width: int
    zoom: int
    """Pixels of a value."""

    @property
    def size(self) -> tuple[int, int]:
        """Pixels of the sheet: width, height."""
        rows = ceil(self.maps / self.columns)
        return self.columns * (self.width * self.zoom + GAP) - GAP, rows * (self.height * self.zoom + GAP) - GAP

    def report(self) -> dict[str, int]:
        """The layout for JSON."""
        width, height = self.size
        return {
            "maps": self.maps, "columns": self.columns, "map_height": self.height, "map_width": self.width,
            "zoom": self.zoom, "gap": GAP, "width": width, "height": height,
        }  # fmt: skip


def as_maps(values: Floats) -> Floats:
    """The values of a layer for one item -> maps (N, H, W).

    Feature maps (C, H, W) stay, (C, D, H, W) are C * D maps, (C, L) and (L, E) are one map, and vectors have a line.
    """
    if values.ndim > 2:  # noqa: PLR2004
        return (
            values.reshape(-1, *values.shape[-2:])
            if values.shape[-1] * values.shape[-2] > 1
            else values.reshape(1, 1, -1)
        )
    return values.reshape(1, -1, values.shape[-1]) if values.ndim == 2 else values.reshape(1, 1, -1)  # noqa: PLR2004


def layout(maps: Floats) -> Layout:
    """How maps (N, H, W) are laid out on a sheet. A long line of a single map is drawn as several lines."""
    count, height, width = maps.shape
    if count == 1 and height == 1:  # a vector: each value a square, line by line
        zoom = 16 if width <= 1024 else 8  # noqa: PLR2004
        columns = min(width, _LINE // (zoom + GAP))
        return Layout(min(width, MAX_PIXELS // (zoom + GAP) ** 2), columns, 1, 1, zoom)
    zoom = max(_SIDE // max(height, width), 1) if count > 1 else max(_LINE // max(height, width), 1)
    fitting = max(MAX_PIXELS // ((height * zoom + GAP) * (width * zoom + GAP)), 1)
    if fitting < count:
        zoom = max(zoom // 2, 1)
        fitting = max(MAX_PIXELS // ((height * zoom + GAP) * (width * zoom + GAP)), 1)
    return Layout(min(count, fitting), _columns(min(count, fitting), height / width), height, width, zoom)


def draw(maps: Floats) -> bytes:
    """A PNG of maps (N, H, W), laid out as `layout` says.

    The few largest values, up to 0.5 % of them, share the strongest colour, so that one of them does not darken the
    rest.
    """
    placed = layout(maps)
    maps = maps.reshape(-1, placed.height, placed.width)[: placed.maps].astype(np.float32)
    maps = np.where(np.isfinite(maps), maps, np.float32(0))
    is_signed = bool((maps < 0).any())
    strengths = np.abs(maps)
    largest = max(float(np.percentile(strengths, _BRIGHT)), float(strengths.max(initial=0)) * _AT_LEAST, 1e-12)
    shares = np.clip(maps / largest, -1, 1)
    colours = 1 + np.rint((shares + 1) / 2 * 254 if is_signed else shares * 254).astype(np.uint8)
    return _png(_arranged(colours, placed), _SIGNED if is_signed else _RISING)


def draw_colours(filters: Floats) -> bytes:
    """A PNG of filters (N, 3, H, W) over red, green and blue, each brought to its own full contrast."""
    placed = layout(filters[:, 0])
    filters = filters[: placed.maps].astype(np.float32)
    low, high = (edge(filters, axis=(1, 2, 3), keepdims=True) for edge in (np.min, np.max))
    levels = np.rint(255 * (filters - low) / np.maximum(high - low, 1e-12)).astype(np.uint8)
    planes = [_arranged(levels[:, channel], placed) for channel in range(3)]
    covered = _arranged(np.full_like(levels[:, 0], 255), placed)
    image = Image.fromarray(np.stack([*planes, covered], axis=-1), "RGBA")
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


def image(pixels: npt.NDArray[np.uint8]) -> bytes:
    """A PNG of pixels uint8 (H, W, C)."""
    buffer = io.BytesIO()
    Image.fromarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels).save(buffer, "PNG")
    return buffer.getvalue()


def _arranged(maps: npt.NDArray[np.uint8], placed: Layout) -> npt.NDArray[np.uint8]:
    """Maps (N, H, W), side by side, with 0 between them."""
    width, height = placed.size
    sheet = np.zeros((height, width), np.uint8)
    for number, each in enumerate(maps):
        row, column = divmod(number, placed.columns)
        top, left = row * (placed.height * placed.zoom + GAP), column * (placed.width * placed.zoom + GAP)
        large = each.repeat(placed.zoom, axis=0).repeat(placed.zoom, axis=1)
        sheet[top : top + large.shape[0], left : left + large.shape[1]] = large
    return sheet


def _columns(count: int, aspect: float) -> int:
    """A number of columns that makes a sheet a little wider than high, if possible without an empty place."""
    wanted = max(sqrt(1.4 * count * aspect), 1)
    even = [
        columns for columns in range(1, count + 1) if count % columns == 0 and wanted / 1.7 < columns < wanted * 1.7
    ]
    return min(even, key=lambda columns: abs(columns - wanted), default=min(round(wanted), count))


def _png(colours: npt.NDArray[np.uint8], anchors: tuple[tuple[int, int, int], ...]) -> bytes:
    """An image of a palette: colour 0 is transparent, and 1 to 255 run through the anchors."""
    places = np.linspace(0, len(anchors) - 1, 255)
    ramp = [np.interp(places, range(len(anchors)), [anchor[channel] for anchor in anchors]) for channel in range(3)]
    palette = np.vstack([[0, 0, 0], np.rint(np.stack(ramp, axis=-1))]).astype(np.uint8)
    image = Image.fromarray(colours, "P")
    image.putpalette(palette.tobytes())
    buffer = io.BytesIO()
    image.save(buffer, "PNG", transparency=0)
    return buffer.getvalue()
