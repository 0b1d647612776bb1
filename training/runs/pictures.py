"""Pictures of a training and of what came of it, as PNG files.

Each picture has two functions: `NAME_figure` builds it, `NAME` writes it to a file. No window is opened and no state
is shared: figures are made without pyplot. Probabilities are float (N, classes), labels are int (N).
"""

import math
import textwrap
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter, PercentFormatter

from training.errors import RunError
from training.evaluation.metrics import expected_calibration_error

Floats = npt.NDArray[np.floating[Any]]
Labels = npt.NDArray[np.integer[Any]]
Pixels = npt.NDArray[np.uint8]
History = Sequence[Mapping[str, Any]]

DPI: Final = 120

_BINS: Final = 15  # as training.evaluate counts, after Guo et al. (2017), section 2
_TRAINING, _VALIDATION, _MARK = "#4878a8", "#d1661f", "#555555"
_OVER, _UNDER = "#e39a8f", "#a9c8e4"
_ANNOTATED: Final = 20  # classes up to which a number fits into a cell of the confusion matrix
_LOG_RATIO: Final = 20  # of the largest loss to the smallest, above which the axis is logarithmic


def curves(history: History, path: Path, loss: str = "cross-entropy (nats)") -> None:
    """Draw the learning curves of `curves_figure` into a file.

    Raises:
        RunError: the file cannot be written.
    """
    _save(curves_figure(history, loss), path)


def curves_figure(history: History, loss: str = "cross-entropy (nats)") -> Figure:
    """Loss and accuracy over the epochs, of training and validation, with the epoch of the lowest validation loss.

    Args:
        history: one mapping an epoch: epoch, loss, accuracy, validation_loss, validation_accuracy (the last two None
            or absent without a validation split) and, where it changes, resolution in pixels. Accuracy is a share
            of 1.
        loss: the name of the loss, with its unit.
    """
    assert history
    figure = Figure(figsize=(10, 4.2), layout="constrained")
    left, right = figure.subplots(1, 2)
    for axes, key in ((left, "loss"), (right, "accuracy")):
        _curve(axes, history, key, "training", _TRAINING)
        _curve(axes, history, f"validation_{key}", "validation", _VALIDATION)
        _mark_best(axes, history, key)
        _mark_resolutions(axes, history)
        axes.set_xlabel("epoch")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
        axes.set_xlim(history[0]["epoch"] - 0.5, history[-1]["epoch"] + 0.5)
        axes.grid(alpha=0.3)
        axes.legend()
    left.set_ylabel(loss)
    right.set_ylabel("accuracy (% of examples)")
    right.yaxis.set_major_formatter(PercentFormatter(xmax=1, symbol=""))
    left.set_title("Loss", pad=16)
    right.set_title("Accuracy", pad=16)
    _scale_loss(left, history)
    return figure


def _curve(axes: Axes, history: History, key: str, name: str, colour: str) -> None:
    points = [(epoch["epoch"], epoch[key]) for epoch in history if epoch.get(key) is not None]
    if points:
        marker = "o" if len(points) <= 40 else ""  # noqa: PLR2004 -- dots that would touch
        axes.plot(*zip(*points, strict=True), color=colour, label=name, marker=marker, markersize=4)


def _mark_best(axes: Axes, history: History, key: str) -> None:
    scored = [epoch for epoch in history if epoch.get("validation_loss") is not None]
    if not scored:
        return
    best = min(scored, key=lambda epoch: float(epoch["validation_loss"]))
    value = best[f"validation_{key}"]
    shown = f"{value:.4f}" if key == "loss" else f"{value:.2%}"
    axes.axvline(best["epoch"], color=_MARK, linestyle=":", linewidth=1.2)
    label = f"lowest validation loss: epoch {best['epoch']}, {shown}"
    axes.plot(best["epoch"], value, "*", color=_MARK, markersize=12, linestyle="", label=label)


def _mark_resolutions(axes: Axes, history: History) -> None:
    """Name each resolution where it begins, if there are several: the curves may jump there."""
    sides = [epoch.get("resolution") for epoch in history]
    if len(set(sides)) == 1:
        return
    for before, side, epoch in zip([None, *sides], sides, history, strict=False):
        if side is not None and side != before:
            start = epoch["epoch"] - 0.5
            axes.axvline(start, color=_MARK, alpha=0.4, linewidth=0.8)
            axes.text(start, 1.01, f"{side} px", transform=axes.get_xaxis_transform(), fontsize=8, color=_MARK)


def _scale_loss(axes: Axes, history: History) -> None:
    losses = [epoch[key] for epoch in history for key in ("loss", "validation_loss") if epoch.get(key) is not None]
    if min(losses) > 0 and max(losses) / min(losses) > _LOG_RATIO:
        axes.set_yscale("log")
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.yaxis.set_major_formatter("{x:g}")
        axes.yaxis.set_minor_formatter(NullFormatter())
    else:
        axes.set_ylim(bottom=0)


def confusion(probabilities: Floats, labels: Labels, names: Sequence[str], path: Path) -> None:
    """Draw the confusion matrix of `confusion_figure` into a file.

    Raises:
        RunError: the file cannot be written.
    """
    _save(confusion_figure(probabilities, labels, names), path)


def confusion_figure(probabilities: Floats, labels: Labels, names: Sequence[str]) -> Figure:
    """How often each label (row) was read as each (column): counts and shares of the row, (classes, classes).

    Correct answers are blue, wrong ones red, on a scale of their own: a rare confusion is seen beside a full diagonal.
    """
    counts = _confusion_counts(probabilities, labels, len(names))
    totals = counts.sum(axis=1)
    shares = counts / np.maximum(totals, 1)[:, None]
    small = len(names) > _ANNOTATED
    side = len(names) * (0.34 if small else 0.75) + 1.5 / len(names)
    figure = Figure(figsize=(side, side))
    axes = figure.add_axes((0, 0, 1, 1))  # the labels stand outside of it; the file is made to hold them
    axes.imshow(_confusion_colours(shares), aspect="equal")
    _name_cells(axes, names, totals)
    axes.set_xlabel("read as")
    axes.set_ylabel("label")
    right, n = int(np.trace(counts)), int(totals.sum())
    axes.set_title(f"{right:,} of {n:,} correct ({right / max(n, 1):.2%})")
    if not small:
        _annotate(axes, counts, shares)
    return figure


def _name_cells(axes: Axes, names: Sequence[str], totals: npt.NDArray[np.int64]) -> None:
    """Labels beside rows and columns, with the rows' examples, and white lines between the cells."""
    small = len(names) > _ANNOTATED
    ticks = [_plain(textwrap.fill(name, 28)) for name in names]
    rows = [f"{tick}  (n = {n:,})" for tick, n in zip(ticks, totals.tolist(), strict=True)]
    axes.set_xticks(range(len(names)), ticks, fontsize=8 if small else 10)
    axes.set_yticks(range(len(names)), rows, fontsize=8 if small else 10)
    if max(map(len, names)) > (2 if small else 9):  # characters in the width of a cell
        for tick in axes.get_xticklabels():
            tick.set(rotation=45, ha="right", va="top", rotation_mode="anchor")
    axes.set_xticks(np.arange(len(names) + 1) - 0.5, minor=True)
    axes.set_yticks(np.arange(len(names) + 1) - 0.5, minor=True)
    axes.grid(which="minor", color="white", linewidth=1.5)
    axes.tick_params(which="both", length=0)


def _confusion_counts(probabilities: Floats, labels: Labels, classes: int) -> npt.NDArray[np.int64]:
    """(label, prediction) -> examples: (classes, classes)."""
    places = np.asarray(labels, np.int64) * classes + np.asarray(probabilities).argmax(axis=1)
    return np.bincount(places, minlength=classes**2).reshape(classes, classes)


def _confusion_colours(shares: Floats) -> Floats:
    """RGB in [0, 1], (classes, classes, 3): white at no share, blue on the diagonal, red beside it."""
    wrong = shares * (1 - np.eye(len(shares)))
    largest = max(float(wrong.max()), 1e-9)
    blue, red = 1 - np.array([0.13, 0.34, 0.60]), 1 - np.array([0.75, 0.22, 0.17])
    strength = np.where(np.eye(len(shares)) > 0, 0.9 * shares, 0.6 * wrong / largest)
    towards = np.where(np.eye(len(shares))[..., None] > 0, blue, red)
    colours: Floats = 1 - strength[..., None] * towards
    return colours


def _annotate(axes: Axes, counts: npt.NDArray[np.int64], shares: Floats) -> None:
    colours = _confusion_colours(shares)
    size = 9 if len(counts) > 5 else 12  # noqa: PLR2004 -- cells of few classes are larger
    for row, column in np.ndindex(*counts.shape):
        count = int(counts[row, column])
        text = f"{count:,}\n{shares[row, column]:.1%}" if count else "0"
        dark = float(colours[row, column] @ np.array([0.299, 0.587, 0.114])) < 0.55  # noqa: PLR2004
        colour = "white" if dark else "black" if count else "#aaaaaa"
        axes.text(column, row, text, ha="center", va="center", color=colour, fontsize=size)


def reliability(before: Floats, after: Floats, labels: Labels, path: Path) -> None:
    """Draw the reliability diagrams of `reliability_figure` into a file.

    Raises:
        RunError: the file cannot be written.
    """
    _save(reliability_figure(before, after, labels), path)


def reliability_figure(before: Floats, after: Floats, labels: Labels) -> Figure:
    """Accuracy against confidence in 15 bins, before and after calibration, over histograms of the confidence.

    Guo et al., "On Calibration of Modern Neural Networks" (2017), figure 1. Hatched is the gap between a bin's
    accuracy and its mean confidence; the calibration error in the title is the mean gap, weighted by the histogram.
    """
    figure = Figure(figsize=(10, 6.4), layout="constrained")
    grid = figure.subplots(2, 2, sharex="col", sharey="row", height_ratios=(3, 1.2))
    for column, (title, probs) in enumerate((("Before calibration", before), ("After calibration", after))):
        confidence = np.asarray(probs).max(axis=1)
        correct = np.asarray(probs).argmax(axis=1) == np.asarray(labels)
        ece = expected_calibration_error(confidence, correct)
        _diagram(grid[0, column], confidence, correct)
        _histogram(grid[1, column], confidence, float(correct.mean()))
        grid[0, column].set_title(f"{title}: ECE {ece:.4f}, n = {len(confidence):,}")
    figure.legend(*grid[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=2)
    grid[0, 0].set_ylabel("accuracy")
    grid[1, 0].set_ylabel("share of examples (%)")
    return figure


def _diagram(axes: Axes, confidence: Floats, correct: npt.NDArray[np.bool_]) -> None:
    bins = np.minimum((confidence * _BINS).astype(int), _BINS - 1)
    filled = np.unique(bins)
    accuracy = np.array([correct[bins == place].mean() for place in filled])
    meant = np.array([confidence[bins == place].mean() for place in filled])
    width = 1 / _BINS
    axes.bar(filled / _BINS, accuracy, width, align="edge", color=_TRAINING, edgecolor="white", label="accuracy")
    for label, colour, gap in (
        ("overconfident: the mean confidence is higher", _OVER, np.maximum(meant - accuracy, 0)),
        ("underconfident: the mean confidence is lower", _UNDER, np.maximum(accuracy - meant, 0)),
    ):
        chosen = gap > 0
        axes.bar(
            filled[chosen] / _BINS,
            gap[chosen],
            width,
            bottom=np.minimum(meant, accuracy)[chosen],
            align="edge",
            color=colour,
            edgecolor="white",
            hatch="//",
            label=label,
        )
    axes.plot([0, 1], [0, 1], color=_MARK, linestyle="--", linewidth=1, label="calibrated")
    axes.set_xlim(0, 1)
    axes.set_ylim(0, 1)
    axes.grid(alpha=0.3)
    axes.set_axisbelow(True)


def _histogram(axes: Axes, confidence: Floats, accuracy: float) -> None:
    share = np.full(len(confidence), 1 / len(confidence))
    axes.hist(
        confidence, bins=[edge / _BINS for edge in range(_BINS + 1)], weights=share, color=_TRAINING, edgecolor="white"
    )
    mean = float(confidence.mean())
    axes.axvline(mean, color=_VALIDATION, label=f"mean confidence {mean:.2%}")
    axes.axvline(accuracy, color=_MARK, linestyle="--", label=f"accuracy {accuracy:.2%}")
    axes.yaxis.set_major_formatter(PercentFormatter(xmax=1, symbol=""))
    axes.set_xlabel("confidence")
    axes.grid(alpha=0.3)
    axes.set_axisbelow(True)
    axes.legend(loc="upper left")


def filters(weights: Floats, path: Path) -> None:
    """Draw the filters of `filters_figure` into a file.

    Raises:
        RunError: the file cannot be written.
    """
    _save(filters_figure(weights), path)


def filters_figure(weights: Floats) -> Figure:
    """The filters (O, I, kh, kw) of a first layer as tiles, row by row: in colour where I is 3, else in grey.

    Each filter is divided by its largest magnitude; the middle grey is a weight of 0. Of inputs other than pictures,
    with I neither 1 nor 3, a row is a filter and its tiles are the first eight input channels.
    """
    tiles = filter_tiles(weights)
    count, channels, height, width = np.shape(weights)
    columns = math.ceil(math.sqrt(count * 1.6)) if channels in {1, 3} else min(channels, 8)
    picture = _mosaic(tiles, columns)
    inches = min(max(columns * 0.75, 4.5), 12)
    figure = Figure(figsize=(inches, inches * picture.shape[0] / picture.shape[1] + 0.9), layout="constrained")
    axes = figure.subplots()
    axes.imshow(picture, interpolation="nearest", vmin=0, vmax=1)
    axes.set_axis_off()
    shown = "" if channels <= columns or channels in {1, 3} else f" (the first {columns} channels)"
    axes.set_title(f"{count} filters of {height} x {width} x {channels}{shown}\nmid-grey is 0", fontsize=10)
    return figure


def filter_tiles(weights: Floats) -> Floats:
    """Filters as tiles in [0, 1]: (O, I, kh, kw) -> (tiles, kh, kw, 3), each filter scaled by its largest magnitude."""
    filters = np.asarray(weights, np.float64)
    largest = np.abs(filters).max(axis=(1, 2, 3), keepdims=True)
    scaled = 0.5 + 0.5 * filters / np.where(largest > 0, largest, 1)
    if scaled.shape[1] == 3:  # noqa: PLR2004 -- red, green and blue
        return scaled.transpose(0, 2, 3, 1)  # (O, 3, kh, kw) -> (O, kh, kw, 3)
    chosen = scaled[:, :8]
    grey = chosen.reshape(-1, *chosen.shape[2:])  # (O, I, kh, kw) -> (O*I, kh, kw)
    return np.repeat(grey[..., None], 3, axis=-1)


def _mosaic(tiles: Floats, columns: int) -> Floats:
    """Tiles (n, h, w, 3) in rows of `columns`, white lines of a pixel between them: (H, W, 3)."""
    count, height, width, _ = tiles.shape
    rows = math.ceil(count / columns)
    picture = np.ones((rows * (height + 1) + 1, columns * (width + 1) + 1, 3))
    for place, tile in enumerate(tiles):
        top, left = place // columns * (height + 1) + 1, place % columns * (width + 1) + 1
        picture[top : top + height, left : left + width] = tile
    return picture


def mistakes(
    pictures: Pixels,
    truth: Labels,
    predicted: Labels,
    confidence: Floats,
    names: Sequence[str],
    path: Path,
    most: int = 24,
) -> None:
    """Draw the misread pictures of `mistakes_figure` into a file.

    Raises:
        RunError: the file cannot be written.
    """
    _save(mistakes_figure(pictures, truth, predicted, confidence, names, most), path)


def mistakes_figure(
    pictures: Pixels, truth: Labels, predicted: Labels, confidence: Floats, names: Sequence[str], most: int = 24
) -> Figure:
    """The most confident mistakes among pictures, uint8 (K, H, W, C) with C of 1 or 3, at most `most` of them.

    Each has its label, what it was read as, and with which confidence. Examples that were read correctly are left out.
    """
    order = _most_confident(truth, predicted, confidence)
    shown = order[:most]
    titles = [_mistake_title(names[truth[place]], names[predicted[place]], confidence[place]) for place in shown]
    columns = min(6, max(len(shown), 3))
    rows = max(math.ceil(len(shown) / columns), 1)
    height = 1.9 + 0.17 * max((title.count("\n") + 1 for title in titles), default=1)
    figure = Figure(figsize=(columns * 1.9, rows * height + 0.5), layout="constrained")
    figure.suptitle(_mistakes_title(len(shown), len(order), len(pictures)))
    grid = figure.subplots(rows, columns, squeeze=False)
    for axes in grid.flat:
        axes.set_axis_off()
    for axes, place, title in zip(grid.flat, shown, titles, strict=False):
        picture = pictures[place]
        axes.imshow(picture[..., 0] if picture.shape[-1] == 1 else picture, cmap="gray", vmin=0, vmax=255)
        axes.set_title(title, fontsize=9)
    return figure


def mistaken_texts(
    texts: Sequence[str],
    truth: Labels,
    predicted: Labels,
    confidence: Floats,
    names: Sequence[str],
    path: Path,
    most: int = 24,
) -> None:
    """Write the most confident mistakes among K texts into a Markdown file, at most `most`, each in full.

    Raises:
        RunError: the file cannot be written.
    """
    order = _most_confident(truth, predicted, confidence)
    parts = [f"# {_mistakes_title(min(most, len(order)), len(order), len(texts))}"]
    for number, place in enumerate(order[:most], start=1):
        heading = f"{names[truth[place]]}, read as {names[predicted[place]]} ({confidence[place]:.2%})"
        # A block of four spaces is shown as it stands, whatever markup the text holds.
        block = textwrap.fill(texts[place], 100, initial_indent="    ", subsequent_indent="    ")
        parts.append(f"## {number}. {heading}\n\n{block or '    (empty)'}")
    try:
        path.write_text("\n\n".join(parts) + "\n", encoding="utf-8")
    except OSError as error:
        raise RunError(f"{path}: cannot be written: {error}") from error


def _most_confident(truth: Labels, predicted: Labels, confidence: Floats) -> list[int]:
    """The places of the misread examples, the most confident first."""
    wrong = np.flatnonzero(np.asarray(truth) != np.asarray(predicted))
    places: list[int] = wrong[np.argsort(-np.asarray(confidence)[wrong], kind="stable")].tolist()
    return places


def _mistakes_title(shown: int, wrong: int, examples: int) -> str:
    if not wrong:
        return f"No mistake in {examples:,} examples"
    counted = f"the {shown} most confident of {wrong:,} mistakes" if shown < wrong else f"{wrong} mistakes"
    return f"{counted[0].upper()}{counted[1:]}"


def _mistake_title(label: str, prediction: str, confidence: float) -> str:
    return _plain("\n".join([*textwrap.wrap(f"{label}, read as {prediction}", 22), f"{confidence:.2%}"]))


def _plain(text: str) -> str:
    """A text whose dollar signs matplotlib shows, instead of setting mathematics between them."""
    return text.replace("$", r"\$")


def _save(figure: Figure, path: Path) -> None:
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Glyph")  # a label in a script that the font lacks shows boxes
            figure.savefig(path, format="png", dpi=DPI, bbox_inches="tight", pad_inches=0.15)
    except OSError as error:
        raise RunError(f"{path}: cannot be written: {error}") from error
