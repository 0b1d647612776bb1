"""Bars of one colour around photos: cut off in pairs, and nothing else."""

import io

import numpy as np
import pytest
from PIL import Image

from contract.bars import trim
from contract.inputs import image_to_pixels
from contract.spec import ImageInput

SPEC = ImageInput(height=96, width=96, mode="RGB", framing="squash", trim_bars=True)
PLAIN = SPEC.model_copy(update={"trim_bars": False})


def photo(width: int = 160, height: int = 120) -> Image.Image:
    """A photo, as far as bars matter: its edges have many colours."""
    coarse = np.random.default_rng(0).integers(0, 256, (12, 16, 3), np.uint8)
    return Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)


def framed(image: Image.Image, x: int, y: int, colour: str) -> Image.Image:
    """An image with bars of x pixels at the sides and y at the top and the bottom."""
    sheet = Image.new(image.mode, (image.width + 2 * x, image.height + 2 * y), colour)
    sheet.paste(image, (x, y))
    return sheet


def encoded(image: Image.Image, kind: str) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **({"quality": 90} if kind == "JPEG" else {}))
    return file.getvalue()


@pytest.mark.parametrize("colour", ["black", "white", "grey", "navy"])
@pytest.mark.parametrize(("x", "y"), [(0, 40), (60, 0), (30, 30), (4, 4)], ids=str)
def test_pairs_of_bars_are_cut_off(x: int, y: int, colour: str) -> None:
    """What is left is the photo, pixel for pixel, in colour and in grey."""
    for mode in ("RGB", "L"):
        image = photo().convert(mode)
        assert trim(framed(image, x, y, colour)).tobytes() == image.tobytes()


def test_bars_of_another_colour_at_the_sides_are_cut_off() -> None:
    """A letterboxed film within a white page: each pair of edges has its own colour."""
    image = photo()
    assert trim(framed(framed(image, 0, 30, "black"), 40, 0, "white")).size == image.size


def test_bars_are_cut_off_before_the_image_is_squashed() -> None:
    """A model with the setting sees the same pixels with and without bars, up to JPEG's noise; another does not."""
    plain = image_to_pixels(encoded(photo(), "PNG"), SPEC).astype(int)
    for kind, limit in (("PNG", 0.0), ("JPEG", 8.0)):
        data = encoded(framed(photo(), 0, 40, "black"), kind)
        assert np.abs(image_to_pixels(data, SPEC) - plain).mean() <= limit
        assert np.abs(image_to_pixels(data, PLAIN) - plain).mean() > 20


@pytest.mark.parametrize(
    "image",
    [
        photo(),
        framed(photo(), 0, 40, "black").crop((0, 0, 160, 160)),  # one bar: a sky or a wall
        framed(photo(), 2, 2, "black"),  # a thin frame
        framed(photo(20, 15), 100, 100, "white"),  # a small thing before a plain background
        Image.new("RGB", (160, 120), "red"),
    ],
    ids=["photo", "one bar", "thin", "small", "one colour"],
)
def test_other_images_stay(image: Image.Image) -> None:
    """Whatever has no pair of bars keeps every pixel."""
    assert trim(image).tobytes() == image.tobytes()


def test_bars_are_not_for_digits() -> None:
    """The digit is found beside any bars, so that the setting would do nothing there."""
    with pytest.raises(ValueError, match="trim_bars"):
        ImageInput(height=28, width=28, mode="L", framing="mnist", trim_bars=True)
