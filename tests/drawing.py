"""Drawn digits: strokes in a unit square, rendered in many styles; and a drawn cat.

`python -m tests.drawing examples` draws the images that the README uses.
"""

import io
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

STROKES: dict[int, list[tuple[float, float]]] = {
    0: [(0.5, 0), (0.2, 0.1), (0.08, 0.35), (0.08, 0.65), (0.2, 0.9), (0.5, 1), (0.8, 0.9), (0.92, 0.65),
        (0.92, 0.35), (0.8, 0.1), (0.5, 0)],
    1: [(0.3, 0.2), (0.55, 0), (0.55, 1)],
    2: [(0.1, 0.22), (0.25, 0.05), (0.5, 0), (0.75, 0.06), (0.88, 0.25), (0.8, 0.45), (0.5, 0.7), (0.1, 1), (0.92, 1)],
    3: [(0.12, 0.12), (0.4, 0), (0.7, 0.05), (0.82, 0.25), (0.7, 0.42), (0.42, 0.48), (0.75, 0.55), (0.9, 0.75),
        (0.75, 0.95), (0.42, 1), (0.1, 0.88)],
    4: [(0.65, 1), (0.65, 0), (0.08, 0.68), (0.95, 0.68)],
    5: [(0.85, 0), (0.25, 0), (0.18, 0.45), (0.5, 0.38), (0.8, 0.5), (0.88, 0.7), (0.75, 0.93), (0.45, 1), (0.1, 0.9)],
    6: [(0.75, 0.02), (0.4, 0.15), (0.15, 0.5), (0.12, 0.78), (0.3, 0.98), (0.6, 1), (0.82, 0.85), (0.8, 0.62),
        (0.58, 0.5), (0.3, 0.56), (0.14, 0.75)],
    7: [(0.08, 0), (0.92, 0), (0.42, 1)],
    8: [(0.5, 0.47), (0.22, 0.32), (0.25, 0.1), (0.5, 0), (0.75, 0.1), (0.78, 0.32), (0.5, 0.47), (0.18, 0.65),
        (0.15, 0.88), (0.5, 1), (0.85, 0.88), (0.82, 0.65), (0.5, 0.47)],
    9: [(0.85, 0.3), (0.7, 0.48), (0.4, 0.5), (0.18, 0.35), (0.2, 0.12), (0.45, 0), (0.72, 0.05), (0.86, 0.25),
        (0.82, 0.6), (0.65, 1)],
}  # fmt: skip


def draw(
    digit: int,
    *,
    size: tuple[int, int] = (300, 400),
    box: tuple[int, int, int, int] = (80, 60, 220, 340),
    width: int = 18,
    ink: int = 20,
    paper: int = 235,
) -> Image.Image:
    """A digit in strokes of `width` pixels inside `box` (left, top, right, bottom) of a sheet of `size`."""
    sheet = Image.new("L", size, paper)
    pen = ImageDraw.Draw(sheet)
    left, top, right, bottom = box
    points = [(left + x * (right - left), top + y * (bottom - top)) for x, y in STROKES[digit]]
    pen.line(points, fill=ink, width=width, joint="curve")
    for x, y in points:
        pen.ellipse([x - width / 2, y - width / 2, x + width / 2, y + width / 2], fill=ink)
    return sheet.filter(ImageFilter.GaussianBlur(1))


def photograph(sheet: Image.Image, *, shade: int, noise: float = 8.0) -> Image.Image:
    """A sheet as a phone photographs it: darker by up to `shade` levels towards one corner, with sensor noise."""
    grey = np.asarray(sheet, np.float32)
    rows, columns = np.mgrid[0 : grey.shape[0], 0 : grey.shape[1]]
    shadow = columns / grey.shape[1] * 0.6 + rows / grey.shape[0] * 0.4
    grey = grey * (1 - shade / 255 * shadow) + np.random.default_rng(0).normal(0, noise, grey.shape)
    return Image.fromarray(np.clip(grey, 0, 255).astype(np.uint8))


def styles(digit: int) -> Iterator[tuple[str, Image.Image]]:
    """A digit in many styles, with their names."""
    yield "marker", draw(digit)
    yield "pen", draw(digit, width=4)
    yield "hairline", draw(digit, width=2)
    yield "thick", draw(digit, width=36)
    yield "light on dark", draw(digit, ink=240, paper=15)
    yield "in shade", photograph(draw(digit), shade=90)
    yield "in deep shade", photograph(draw(digit, width=12), shade=170, noise=10)
    yield "in a corner", draw(digit, size=(900, 600), box=(620, 330, 760, 560), width=14)
    yield "small in a photo", photograph(draw(digit, size=(1600, 1200), box=(700, 400, 900, 800), width=22), shade=120)
    yield "cropped closely", draw(digit, size=(140, 200), box=(14, 14, 126, 186), width=20)
    yield "in pencil", photograph(draw(digit, width=7, ink=150, paper=215), shade=40, noise=4)


def encode(image: Image.Image, image_format: str = "PNG", **options: Any) -> bytes:
    """The bytes of an image file; options are those of Pillow's `save`."""
    buffer = io.BytesIO()
    image.save(buffer, image_format, **options)
    return buffer.getvalue()


def mnist_like(digit: int) -> Image.Image:
    """A digit framed as in MNIST: 28 x 28, light on black, within 20 x 20, its centre of mass in the middle."""
    sheet = draw(digit, size=(280, 280), box=(85, 55, 195, 225), width=24, ink=255, paper=0)
    pixels = np.asarray(sheet.resize((28, 28), Image.Resampling.BOX), np.float32)
    pixels = np.where(pixels < 16, 0, pixels)
    for axis in (0, 1):
        mass = pixels.sum(axis=1 - axis)
        pixels = np.roll(pixels, round(13.5 - float(mass @ np.arange(28) / mass.sum())), axis)
    return Image.fromarray(pixels.astype(np.uint8))


def cat(size: tuple[int, int] = (480, 360)) -> Image.Image:
    """A tabby's face, hair by hair, in front of a blurred room."""
    width, height = size
    random = np.random.default_rng(7)
    room = Image.fromarray(random.integers(110, 150, (6, 8, 3), dtype=np.uint8)).resize(size, Image.Resampling.BICUBIC)
    sheet = room.filter(ImageFilter.GaussianBlur(12))
    pen = ImageDraw.Draw(sheet)
    x, y, r = width / 2, height * 0.56, height * 0.34
    pen.ellipse([x - 1.25 * r, y + 0.5 * r, x + 1.25 * r, y + 2.5 * r], fill=(150, 112, 76))
    for side in (-1, 1):
        ear = [
            (x + side * 0.25 * r, y - 0.8 * r),
            (x + side * 0.8 * r, y - 1.6 * r),
            (x + side * 1.02 * r, y - 0.3 * r),
        ]
        pen.polygon(ear, fill=(140, 104, 70))
        inner = [
            (x + side * 0.45 * r, y - 0.8 * r),
            (x + side * 0.76 * r, y - 1.35 * r),
            (x + side * 0.88 * r, y - 0.5 * r),
        ]
        pen.polygon(inner, fill=(190, 140, 125))
    pen.ellipse([x - 1.1 * r, y - r, x + 1.1 * r, y + 0.92 * r], fill=(165, 125, 86))
    _hair(pen, random, (x, y), r)
    for side in (-1, 1):
        pen.ellipse(
            [x + side * 0.3 * r - 0.24 * r, y + 0.2 * r, x + side * 0.3 * r + 0.24 * r, y + 0.72 * r],
            fill=(222, 205, 180),
        )
        eye = (x + side * 0.45 * r, y - 0.18 * r)
        pen.ellipse([eye[0] - 0.25 * r, eye[1] - 0.2 * r, eye[0] + 0.25 * r, eye[1] + 0.2 * r], fill=(40, 30, 24))
        pen.ellipse([eye[0] - 0.21 * r, eye[1] - 0.17 * r, eye[0] + 0.21 * r, eye[1] + 0.17 * r], fill=(176, 186, 72))
        pen.ellipse([eye[0] - 0.06 * r, eye[1] - 0.16 * r, eye[0] + 0.06 * r, eye[1] + 0.16 * r], fill=(12, 12, 12))
        pen.ellipse([eye[0] - 0.1 * r, eye[1] - 0.12 * r, eye[0] - 0.04 * r, eye[1] - 0.06 * r], fill=(250, 250, 250))
        for slope in (-0.12, 0.0, 0.12):
            start = (x + side * 0.4 * r, y + (0.42 + slope) * r)
            pen.line([start, (x + side * 1.5 * r, y + (0.36 + 2.4 * slope) * r)], fill=(236, 230, 222), width=2)
    pen.polygon([(x - 0.13 * r, y + 0.2 * r), (x + 0.13 * r, y + 0.2 * r), (x, y + 0.36 * r)], fill=(196, 120, 112))
    pen.line([(x, y + 0.36 * r), (x, y + 0.5 * r)], fill=(70, 48, 40), width=3)
    for side in (-1, 1):
        ends = sorted([x, x + side * 0.3 * r])
        pen.arc([ends[0], y + 0.36 * r, ends[1], y + 0.6 * r], 20, 160, fill=(70, 48, 40), width=3)
    return sheet.filter(ImageFilter.GaussianBlur(0.8))


def _hair(pen: ImageDraw.ImageDraw, random: np.random.Generator, centre: tuple[float, float], radius: float) -> None:
    """Draw short hairs that point away from the nose, with dark stripes across the forehead and the cheeks."""
    x, y = centre
    for _ in range(9000):
        angle, distance = random.uniform(0, 2 * np.pi), np.sqrt(random.uniform(0.02, 1))
        along, down = np.cos(angle) * distance * 1.08, np.sin(angle) * distance * 0.95
        striped = np.sin(14 * along) > 0.55 and down < -0.35
        striped = striped or (abs(along) > 0.55 and np.sin(16 * down + 3 * abs(along)) > 0.6)
        base = np.array((86, 62, 44) if striped else (172, 132, 92)) + random.integers(-22, 23)
        start = (x + along * radius, y + down * radius)
        end = (start[0] + np.cos(angle) * 9, start[1] + np.sin(angle) * 9 + 2)
        pen.line([start, end], fill=tuple(int(value) for value in base.clip(0, 255)), width=1)


if __name__ == "__main__":
    folder = Path(sys.argv[1])
    seven = photograph(draw(7, size=(180, 220), box=(54, 50, 126, 170), width=9, ink=45), shade=70, noise=2)
    seven.save(folder / "seven.png", optimize=True)
    cat().save(folder / "cat.jpg", quality=85)
