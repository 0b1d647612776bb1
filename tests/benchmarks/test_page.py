"""What the page takes of the throughput: its requests, and the figures of known passes."""

import io

import numpy as np
from PIL import Image

from benchmarks.page import Pass, drawing, png, report


def test_the_requests_are_those_of_the_page() -> None:
    """A framed digit in a PNG without compression, and the pad's drawing of it in black on white."""
    digit = np.zeros((28, 28), np.uint8)
    digit[6:20, 13:16] = 255
    content = png(digit, 0)
    assert len(content) > 28 * 28
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(content))), digit)
    pad = np.asarray(Image.open(io.BytesIO(png(drawing(digit), 6))))
    assert pad.shape == (560, 560)
    assert np.array_equal(pad[::20, ::20], 255 - digit)


def test_the_cost_is_that_of_a_whole_processor() -> None:
    """A service that had half of a processor, and lost 4 % of its digits, would have lost 2 % of a whole one."""
    lines = report([Pass(500, 1000, 0)], [Pass(480, 960, 60)], 3)
    assert "sent 20.0 requests/s and took 2.0%" in lines[-1]
