"""Images of digits, framed as MNIST's."""

import numpy as np
import pytest
from PIL import Image, ImageOps

from contract.digit import frame
from tests.drawing import mnist_like, styles


@pytest.mark.parametrize("digit", range(10))
def test_framed_digits_pass_unchanged(digit: int) -> None:
    """A grey image of 28 x 28, light on dark, keeps every pixel."""
    image = mnist_like(digit)
    assert frame(image).tobytes() == image.tobytes()


def test_framed_digits_in_dark_ink_are_inverted() -> None:
    """The negative of a framed digit gives the same pixels."""
    image = mnist_like(3)
    assert frame(ImageOps.invert(image)).tobytes() == image.tobytes()


@pytest.mark.parametrize("digit", range(10))
def test_digits_are_framed_as_mnist_framed_them(digit: int) -> None:
    """In every style: light on black, within a box of 20 x 20, its mass in the middle (LeCun et al., 1998)."""
    for style, image in styles(digit):
        pixels = np.asarray(frame(image), float)
        rows, columns = np.nonzero(pixels > 64)
        assert 16 <= max(np.ptp(rows), np.ptp(columns)) + 1 <= 20, style
        assert pixels.max() == 255, style
        assert pixels[0].max() == pixels[-1].max() == pixels[:, 0].max() == pixels[:, -1].max() == 0, style
        middle = [(pixels.sum(axis=axis) * np.arange(28)).sum() / pixels.sum() for axis in (1, 0)]
        assert middle == pytest.approx([13.5, 13.5], abs=0.6), style


@pytest.mark.parametrize("grey", [0, 128, 255])
@pytest.mark.parametrize("size", [(1, 1), (1, 300), (300, 1), (200, 100)])
def test_blank_paper_is_black(size: tuple[int, int], grey: int) -> None:
    """An image without ink gives an empty frame, not amplified noise or an error."""
    assert np.asarray(frame(Image.new("L", size, grey))).max() == 0
