"""The plots show the data that they were given, in files of a readable size."""

import itertools
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from training.evaluation.metrics import Mistake, metrics
from training.runs import lettering, mistakes, plots

NAMES = ["cat", "dog"]


def epochs(*losses: float, validation: bool = True, **more: Any) -> list[dict[str, Any]]:
    """A history with these validation losses; training cross-entropy is 0.1 lower, accuracy falls as the loss rises."""
    return [
        {
            "epoch": number,
            "loss": loss + 0.7,
            "cross_entropy": loss - 0.1,
            "learning_rate": 0.1 / number,
            "accuracy": 1 - loss / 4,
            "validation_loss": loss if validation else None,
            "validation_accuracy": 1 - loss / 2 if validation else None,
            "images_per_s": 100.0,
            "seconds": 1.0,
            **more,
        }
        for number, loss in enumerate(losses, start=1)
    ]


def predictions(count: int, classes: int = 2, seed: int = 0) -> tuple[plots.Floats, plots.Labels]:
    """Made-up probabilities (count, classes) and labels (count) that mostly agree."""
    draw = np.random.default_rng(seed)
    labels = draw.integers(0, classes, count)
    logits = draw.normal(size=(count, classes)) + 2 * np.eye(classes)[labels]
    return np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True), labels


def texts(axes: Axes) -> list[str]:
    return [text.get_text() for text in axes.texts]


def legend(axes: Axes) -> list[str]:
    box = axes.get_legend()
    return [text.get_text() for text in box.get_texts()] if box else []


def lines(axes: Axes) -> dict[str, list[tuple[float, float]]]:
    """The points of each labelled line."""
    return {
        str(line.get_label()): [(float(x), float(y)) for x, y in np.asarray(line.get_xydata())]
        for line in axes.get_lines()
        if not str(line.get_label()).startswith("_")
    }


def size_px(path: Path) -> tuple[int, int]:
    """Width and height from a PNG's header."""
    content = path.read_bytes()
    assert content[:8] == b"\x89PNG\r\n\x1a\n"
    width, height = struct.unpack(">II", content[16:24])
    return width, height


def gaps(axes: Axes) -> float:
    """The summed heights of a reliability diagram's hatched bars."""
    return sum(patch.get_height() for patch in axes.patches if isinstance(patch, Rectangle) and patch.get_hatch())


def test_the_curves_are_those_of_the_history() -> None:
    """The panels show training and validation, point by point, on axes with names and units; not the smoothed loss."""
    history = epochs(0.8, 0.4, 0.6)
    entropy, accuracy, rate = plots.learning_curves(history).axes
    assert lines(entropy)["training (augmented)"] == [(epoch["epoch"], epoch["cross_entropy"]) for epoch in history]
    assert lines(entropy)["validation"] == [(1, 0.8), (2, 0.4), (3, 0.6)]
    assert lines(accuracy)["validation"] == [(epoch["epoch"], epoch["validation_accuracy"]) for epoch in history]
    assert lines(rate)["at the end of each epoch"] == [(1, 0.1), (2, 0.05), (3, 0.1 / 3)]
    assert (entropy.get_xlabel(), accuracy.get_xlabel(), rate.get_xlabel()) == ("epoch", "epoch", "epoch")
    assert entropy.get_ylabel() == "cross-entropy (nats)"
    assert accuracy.get_ylabel() == "accuracy (% of examples)"


@pytest.mark.parametrize(("published", "epoch", "loss"), [(None, 3, 0.6), (1, 1, 0.8)])
def test_the_published_epoch_is_marked(published: int | None, epoch: int, loss: float) -> None:
    """A star marks the epoch whose weights are published, by default the last, not that of the lowest loss."""
    entropy, accuracy, _ = plots.learning_curves(epochs(0.8, 0.4, 0.6), published).axes
    assert lines(entropy)[f"published: epoch {epoch}, {loss:.4f}"] == [(epoch, loss)]
    assert lines(accuracy)[f"published: epoch {epoch}, {1 - loss / 2:.2%}"] == [(epoch, 1 - loss / 2)]


def test_a_training_without_validation_has_its_own_curve_only() -> None:
    """A refit has neither a validation curve nor a marked epoch."""
    for axes in plots.learning_curves(epochs(0.8, 0.4, validation=False)).axes[:2]:
        assert legend(axes) == ["training (augmented)"]


def test_resolutions_are_named_where_they_change() -> None:
    """Each resolution stands once, at its first epoch; a single resolution is not named."""
    history = [*epochs(0.8, 0.7, resolution=128), {**epochs(0.6)[0], "epoch": 3, "resolution": 224}]
    loss = plots.learning_curves(history).axes[0]
    assert [(text.get_text(), text.get_position()[0]) for text in loss.texts] == [("128 px", 0.5), ("224 px", 2.5)]
    assert not texts(plots.learning_curves(epochs(0.8, 0.7, resolution=128)).axes[0])


@pytest.mark.parametrize(("losses", "scale"), [((2.0, 0.11), "log"), ((0.8, 0.4), "linear"), ((2.0, 0.1), "linear")])
def test_losses_far_apart_have_a_logarithmic_axis(losses: tuple[float, ...], scale: str) -> None:
    """A loss that falls a hundredfold is readable at both ends; one that reaches 0 has no logarithm."""
    assert plots.learning_curves(epochs(*losses)).axes[0].get_yscale() == scale


def test_a_cell_holds_its_count_and_the_share_of_its_row() -> None:
    """Counted by hand: three cats, one of them predicted as a dog; four dogs, all predicted as dogs."""
    probs = np.array([[0.9, 0.1], [0.6, 0.4], [0.2, 0.8], [0, 1], [0, 1], [0, 1], [0.1, 0.9]])
    (axes,) = plots.confusion_matrix(probs, np.array([0, 0, 0, 1, 1, 1, 1]), NAMES).axes
    cells = {text.get_position(): text.get_text() for text in axes.texts}  # (column, row)
    assert cells == {(0, 0): "2\n66.7%", (1, 0): "1\n33.3%", (0, 1): "0", (1, 1): "4\n100.0%"}
    assert axes.get_title() == "6 of 7 correct (85.71%)"
    assert [tick.get_text() for tick in axes.get_yticklabels()] == ["cat  (n = 3)", "dog  (n = 4)"]
    assert [tick.get_text() for tick in axes.get_xticklabels()] == NAMES


def test_the_counts_are_those_of_a_slow_count() -> None:
    """Over ten classes every cell equals a count example by example."""
    probs, labels = predictions(500, 10)
    (axes,) = plots.confusion_matrix(probs, labels, list("abcdefghij")).axes
    expected = np.zeros((10, 10), int)
    for row, label in zip(probs, labels, strict=True):
        expected[label, row.argmax()] += 1
    for text in axes.texts:
        column, row = text.get_position()
        assert int(text.get_text().split()[0]) == expected[int(row), int(column)]


def test_a_class_without_examples_has_no_shares() -> None:
    """A label that does not occur has a row of zeros, without a division by zero."""
    (axes,) = plots.confusion_matrix(np.array([[0.9, 0.1]]), np.array([0]), NAMES).axes
    assert texts(axes) == ["1\n100.0%", "0", "0", "0"]


def test_many_classes_are_shown_by_colour_alone() -> None:
    """Cells that are too small for a number have none, and every label keeps its tick."""
    probs, labels = predictions(300, 37)
    (axes,) = plots.confusion_matrix(probs, labels, [f"breed {number}" for number in range(37)]).axes
    assert not axes.texts
    assert len(axes.get_yticklabels()) == 37


@pytest.mark.parametrize("classes", [2, 3, 10])
def test_numbers_stand_out_from_their_cells(classes: int) -> None:
    """The luminance of each number and of its cell are at least 0.3 apart, zeros in white cells aside."""
    probs, labels = predictions(400, classes)
    (axes,) = plots.confusion_matrix(probs, labels, [str(number) for number in range(classes)]).axes
    cells = np.asarray(axes.images[0].get_array())
    for text in axes.texts:
        column, row = text.get_position()
        luminance = float(cells[int(row), int(column)] @ [0.299, 0.587, 0.114])
        ink = {"white": 1.0, "black": 0.0, "#aaaaaa": 0.67}[str(text.get_color())]
        assert abs(luminance - ink) > 0.3


def test_the_titles_have_the_calibration_error() -> None:
    """The titles before and after calibration have the error that `metrics` computes, and n."""
    (probs, labels), sharper = predictions(1000), predictions(1000)[0] ** 4
    sharper /= sharper.sum(axis=1, keepdims=True)
    axes = plots.reliability_diagram(sharper, probs, labels).axes
    for panel, shown, title in ((axes[0], sharper, "Before"), (axes[1], probs, "After")):
        ece = metrics(shown.astype(np.float32), torch.from_numpy(labels)).ece
        assert panel.get_title() == f"{title} calibration: ECE {ece:.4f}, n = 1,000"


def test_the_gaps_of_the_bins_are_the_calibration_error() -> None:
    """With one example in each bin, the mean of the hatched heights is that of `metrics`: the bins are the same."""
    confidence = (np.arange(8, 15) + 0.5) / 15
    probs = np.stack([confidence, 1 - confidence], axis=1)
    labels = np.array([0, 1, 0, 0, 1, 0, 0])
    panel = plots.reliability_diagram(probs, probs, labels).axes[0]
    ece = metrics(probs.astype(np.float32), torch.from_numpy(labels)).ece
    assert gaps(panel) / 7 == pytest.approx(ece, abs=1e-6)


def test_over_and_underconfidence_have_different_colours() -> None:
    """A wrong prediction at 0.9 hatches its bin as overconfident up to 0.9, a right one at 0.6 as underconfident."""
    probs = np.array([[0.9, 0.1], [0.6, 0.4]])
    panel = plots.reliability_diagram(probs, probs, np.array([1, 0])).axes[0]
    bars = [patch for patch in panel.patches if isinstance(patch, Rectangle) and patch.get_hatch()]
    over, under = sorted(bars, key=lambda bar: bar.get_y())
    assert (over.get_y(), over.get_height()) == pytest.approx((0, 0.9))
    assert (under.get_y(), under.get_height()) == pytest.approx((0.6, 0.4))
    assert over.get_facecolor() != under.get_facecolor()


def test_full_confidence_is_in_the_last_bin() -> None:
    """A confidence of exactly 1 is in the bin up to 1, in diagram and histogram."""
    probs = np.array([[1.0, 0.0], [0.0, 1.0]])
    axes = plots.reliability_diagram(probs, probs, np.array([0, 1])).axes
    (last,) = [patch for patch in axes[2].patches if isinstance(patch, Rectangle) and patch.get_height() > 0]
    assert (last.get_x(), last.get_height()) == pytest.approx((14 / 15, 1))
    assert gaps(axes[0]) == 0


def test_filters_have_one_scale() -> None:
    """0 is mid-grey and the largest weight of the layer white or black, as the bar says; a weak filter looks weak."""
    weights = np.array([[[[0.0, 1.0], [-2.0, 0.5]]], [[[0.02, 0.0], [0.0, 0.0]]], [[[0.0, 0.0], [0.0, 0.0]]]])
    tiles = plots.filter_tiles(weights)
    assert tiles.shape == (3, 2, 2, 3)
    np.testing.assert_allclose(tiles[0, ..., 0], [[0.5, 0.75], [0.0, 0.625]])
    np.testing.assert_allclose(tiles[1, ..., 0], [[0.505, 0.5], [0.5, 0.5]])
    np.testing.assert_allclose(tiles[2], 0.5)
    _, bar = plots.filters(weights).axes
    assert bar.get_ylim() == (-2.0, 2.0)


def test_recall_and_precision_are_those_of_the_labels() -> None:
    """The label with the lowest recall stands first; a label without examples has a dash; the caption is the title."""
    figure = plots.classes([("cat", 10, 0.9, 0.75), ("dog", 5, 0.4, None), ("cow", 0, None, 0.0)], "recipe small")
    (axes,) = figure.axes
    names = [label.get_text() for label in axes.get_yticklabels()]
    assert names == ["cow  (n = 0)", "dog  (n = 5)", "cat  (n = 10)"]
    assert texts(axes) == ["-", "40.0%", "90.0%", "0.0%", "-", "75.0%"]
    assert figure.get_suptitle() == "recipe small"


def test_filters_over_colours_are_coloured() -> None:
    """Three input channels become red, green and blue, in this order, under one scale."""
    weights = np.zeros((1, 3, 1, 2))
    weights[0, :, 0, 1] = [1.0, 0.5, -1.0]
    np.testing.assert_allclose(plots.filter_tiles(weights)[0, 0], [[0.5, 0.5, 0.5], [1.0, 0.75, 0.0]])


@pytest.mark.parametrize(
    ("shape", "tiles", "title"),
    [
        ((6, 1, 5, 3), 6, "6 filters of 5 x 3 x 1"),
        ((96, 3, 11, 11), 96, "96 filters of 11 x 11 x 3"),
        ((4, 16, 3, 3), 32, "4 filters of 3 x 3 x 16 (the first 8 channels)"),
        ((40, 16, 3, 3), 96, "40 filters of 3 x 3 x 16 (the first 12 filters, the first 8 channels)"),
    ],
)
def test_every_filter_has_its_tile(shape: tuple[int, ...], tiles: int, title: str) -> None:
    """The pixels of each tile are in the image, between coloured lines, and the title has the layer's shape."""
    weights = np.random.default_rng(0).normal(size=shape)
    axes, _ = plots.filters(weights).axes
    image = np.asarray(axes.images[0].get_array())
    height, width = shape[2] + 1, shape[3] + 1
    np.testing.assert_array_equal(
        image[1:height, 1:width], plots.filter_tiles(weights[: 12 if shape[1] > 3 else None])[0]
    )
    assert (image[0] == plots.LINE).all()
    empty = sum(
        bool((image[top : top + height - 1, left : left + width - 1] == plots.LINE).all())
        for top, left in itertools.product(range(1, image.shape[0], height), range(1, image.shape[1], width))
    )
    assert (image.shape[0] // height) * (image.shape[1] // width) - empty == tiles
    assert axes.get_title().startswith(f"{title}\n")


Draw = Callable[[int], Figure]


def _draw_curves(seed: int) -> Figure:
    return plots.learning_curves(epochs(0.8, 0.4 + seed / 10))


def _draw_confusion(seed: int) -> Figure:
    return plots.confusion_matrix(*predictions(100, 10, seed), list("abcdefghij"))


def _draw_reliability(seed: int) -> Figure:
    probs, labels = predictions(100, seed=seed)
    return plots.reliability_diagram(probs, probs, labels)


def _draw_filters(seed: int) -> Figure:
    return plots.filters(np.random.default_rng(seed).normal(size=(16, 1, 5, 5)))


def _draw_mistakes(seed: int) -> Figure:
    images = np.random.default_rng(seed).integers(0, 256, (8, 28, 28, 3), dtype=np.uint8)
    return mistakes.image_figure(images, [Mistake(place, 0, 1, 0.9) for place in range(8)], NAMES)


DRAWN = [_draw_curves, _draw_confusion, _draw_reliability, _draw_filters, _draw_mistakes]


@pytest.mark.parametrize("draw", DRAWN)
def test_a_file_is_readable_and_depends_on_the_data(draw: Draw, tmp_path: Path) -> None:
    """A PNG of 300 to 2000 pixels on each side; other data give another image, the same data the same bytes."""
    for name, seed in (("a", 0), ("b", 1), ("c", 0)):
        plots.save(draw(seed), tmp_path / name)
    assert all(300 <= side <= 2000 for side in size_px(tmp_path / "a"))
    assert (tmp_path / "a").read_bytes() != (tmp_path / "b").read_bytes()
    assert (tmp_path / "a").read_bytes() == (tmp_path / "c").read_bytes()


@pytest.mark.parametrize("names", [["$5", "1$"], ["漢字", "🐕"], ["american pit bull terrier " * 3, "b"]])
def test_any_label_can_be_drawn(names: list[str], tmp_path: Path) -> None:
    """Dollar signs start no mathematics, unknown letters are codes without a warning, and a long label is complete."""
    figure = plots.confusion_matrix(*predictions(50), names)
    plots.save(figure, tmp_path / "confusion.png")
    wrong = [Mistake(0, 0, 1, 0.9), Mistake(1, 1, 0, 0.8)]
    plots.save(mistakes.image_figure(np.zeros((2, 8, 8, 1), np.uint8), wrong, names), tmp_path / "mistakes.png")
    assert figure.axes[0].get_xticklabels()[0].get_text().split() == lettering.drawable(names[0]).split()


def test_no_part_of_a_label_is_cut_off(tmp_path: Path) -> None:
    """A longer label makes the image wider, by the width of its lines of up to 28 letters."""
    for name in ("short", "a label of many letters " * 3):
        plots.save(plots.confusion_matrix(*predictions(50), [name, "b"]), tmp_path / f"{len(name)}.png")
    short, long = (size_px(tmp_path / f"{length}.png")[0] for length in (5, 72))
    assert long > short + 100


def test_figures_open_no_window_and_are_not_kept() -> None:
    """No figure is known to pyplot, which would keep the figures of a long training in memory."""
    assert [draw(0).canvas.manager for draw in DRAWN] == [None] * 5
