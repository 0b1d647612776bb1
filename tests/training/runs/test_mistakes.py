"""The lists of mistakes: images as a figure, texts as a page."""

import numpy as np

from training.evaluation.metrics import Mistake
from training.runs import mistakes

NAMES = ["cat", "dog"]


def test_the_images_of_mistakes_stand_in_their_order() -> None:
    """Panels stand in the order of the mistakes, each with its own pixels, label, prediction and probability."""
    images = np.stack([np.full((4, 6, 1), value, np.uint8) for value in (10, 20, 30, 40)])
    wrong = [Mistake(3, 1, 0, 0.95), Mistake(1, 1, 0, 0.7), Mistake(0, 0, 1, 0.6)]
    figure = mistakes.image_figure(images, wrong, NAMES)
    assert [axes.get_title() for axes in figure.axes] == [
        "dog, predicted cat\n95.00%",
        "dog, predicted cat\n70.00%",
        "cat, predicted dog\n60.00%",
    ]
    for axes, value in zip(figure.axes, (40, 20, 10), strict=True):
        np.testing.assert_array_equal(np.asarray(axes.images[0].get_array()), np.full((4, 6), value))
    assert [axes.get_xlabel() for axes in figure.axes] == ["3", "1", "0"]
    assert figure.get_suptitle() == "3 mistakes"
    files = ["a/0.png", "a/1.png", "a/2.png", "b/3.png"]
    named = mistakes.image_figure(images, wrong, NAMES, files, "recipe small")
    assert [axes.get_xlabel() for axes in named.axes] == ["3.png", "1.png", "0.png"]
    assert named.get_suptitle() == "3 mistakes\nrecipe small"


def test_no_more_mistakes_are_shown_than_the_limit() -> None:
    """If there are more, the title has their number."""
    wrong = [Mistake(place, 0, 1, 0.5) for place in range(30)]
    figure = mistakes.image_figure(np.zeros((30, 4, 4, 3), np.uint8), wrong, NAMES)
    assert len(figure.axes) == mistakes.MAX_SHOWN
    assert figure.get_suptitle() == f"The {mistakes.MAX_SHOWN} most confident of 30 mistakes"


def test_a_model_without_mistakes_has_a_figure_that_says_so() -> None:
    """The title has the number of examples and stands over no panels."""
    figure = mistakes.image_figure(np.zeros((3, 4, 4, 1), np.uint8), [], NAMES)
    assert figure.get_suptitle() == "No mistakes in 3 examples"
    assert not figure.axes


def test_mistaken_texts_are_complete_and_unchanged() -> None:
    """Every word is on the page, in lines of at most 104 characters, indented so that markup in them has no effect."""
    long = "<b>good</b> *not* " * 40
    wrong = [Mistake(1, 1, 0, 0.9), Mistake(3, 0, 1, 0.8), Mistake(0, 0, 1, 0.7)]
    page = mistakes.text_page([long, "# bad\n\n- really", "right", ""], wrong, ["negative", "positive"])
    headings = [line for line in page.splitlines() if line.startswith("#")]
    assert headings == [
        "# 3 mistakes",
        "## 1. positive, predicted negative (90.00%), example 1",
        "## 2. negative, predicted positive (80.00%), example 3",
        "## 3. negative, predicted positive (70.00%), example 0",
    ]
    named = mistakes.text_page(
        ["a", "b", "c", "d"], wrong[:1], ["negative", "positive"], [f"t.csv, row {n}" for n in "5678"]
    )
    assert "## 1. positive, predicted negative (90.00%), t.csv, row 6\n" in named
    block = [line for line in page.splitlines() if line.startswith("    ")]
    assert " ".join(line.strip() for line in block) == f"# bad  - really (empty) {long.strip()}"
    assert max(map(len, block)) <= 104
