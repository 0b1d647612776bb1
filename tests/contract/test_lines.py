"""Lines across an image are taken out of a mask of ink; strokes that cross them stay."""

import numpy as np

from contract.lines import without_lines


def test_lines_are_taken_out() -> None:
    """A line goes, a stroke that crosses it stays whole, and so does one that ends inside of the image."""
    stroke = np.zeros((100, 100), np.bool_)
    stroke[20:80, 48:52] = True
    stroke[70:74, 20:70] = True
    ruled = stroke.copy()
    ruled[40:43] = True
    cleaned = without_lines(ruled)
    assert cleaned[stroke].all()
    assert not cleaned[:, :40][~stroke[:, :40]].any()


def test_a_line_may_be_thicker_than_half_of_a_narrow_image() -> None:
    """On a narrow page, as of a receipt, a line can be nearly as thick as the page is wide."""
    for thickness in range(1, 56):
        mask = np.zeros((448, 75), np.bool_)
        mask[200 : 200 + thickness] = True
        assert not without_lines(mask).any()
