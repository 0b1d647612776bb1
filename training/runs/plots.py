"""The figures of a training run. Each function builds one; `save` writes it as a PNG file.

Figures are made without pyplot, so that no window opens and none of them stays in memory. Probabilities are float
(N, classes), labels are int (N).
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
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter, PercentFormatter

from training.errors import RunError
from training.evaluation.metrics import expected_calibration_error
from training.runs import lettering

Floats = npt.NDArray[np.floating[Any]]
Labels = npt.NDArray[np.integer[Any]]
Pixels = npt.NDArray[np.uint8]
History = Sequence[Mapping[str, Any]]

DPI: Final = 120
LINE: Final = (0.80, 0.87, 0.96)
"""The colour between filters, RGB in [0, 1]: a colour that no grey filter contains."""

_BINS: Final = 15  # as in training.evaluation.metrics, after Guo et al. (2017), section 2
_TRAINING, _VALIDATION, _MARK = "#4878a8", "#d1661f", "#555555"
_OVER, _UNDER = "#e39a8f", "#a9c8e4"
_GAPS: Final = (
    "overconfident: accuracy is below the mean confidence",
    "underconfident: accuracy is above the mean confidence",
)
_TICK_LETTERS, _TICK_LINES = 28, 4  # of a label beside the confusion matrix
_ANNOTATED: Final = 20  # classes up to which a number fits into a cell of the confusion matrix
_LOG_RATIO: Final = 20  # of the largest loss to the smallest, above which the axis is logarithmic
_CHANNELS: Final = 8  # shown of each filter over an input that is not an image
_FILTERS: Final = 12  # shown of such a layer
_MAX_BARS: Final = 30
_LETTERS_PER_INCH: Final = 12  # of a caption


def save(figure: Figure, path: Path) -> None:
    """Write a figure as a PNG file."""
    lettering.choose_fonts(figure)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph")  # of a letter that is not seen, such as a joiner
        figure.savefig(path, format="png", dpi=DPI, bbox_inches="tight", pad_inches=0.15)


def write(figure: Figure, path: Path) -> None:
    """Write a figure as a PNG file in one step.

    Raises:
        RunError: the file cannot be written.
    """
    partial = path.with_name(f".{path.name}.partial")
    try:
        save(figure, partial)
        partial.replace(path)
    except OSError as error:
        raise RunError(f"{path}: cannot be written: {error.strerror}") from error
    finally:
        partial.unlink(missing_ok=True)


def learning_curves(history: History, published: int | None = None, caption: str = "") -> Figure:
    """Cross-entropy, accuracy and learning rate over the epochs; a star marks the published epoch.

    Both curves of the cross-entropy are without label smoothing and class weights, whatever loss was minimised. The
    training curves are of augmented examples, seen with dropout while the weights changed.

    Args:
        history: one mapping for each epoch: epoch, cross_entropy, accuracy, validation_loss, validation_accuracy (the
            last two None or absent without a validation split), learning_rate and, where it changes, resolution in
            pixels. Accuracy is a share of 1.
        published: the epoch whose weights are published; by default the last.
        caption: what the figure shows, under the title.
    """
    assert history
    figure = Figure(figsize=(13, 4.4), layout="constrained")
    left, middle, right = figure.subplots(1, 3, width_ratios=(1, 1, 0.7))
    for axes, name, training, validation in (
        (left, "cross-entropy", "cross_entropy", "validation_loss"),
        (middle, "accuracy", "accuracy", "validation_accuracy"),
    ):
        _curve(axes, history, training, "training (augmented)", _TRAINING)
        _curve(axes, history, validation, "validation", _VALIDATION)
        _mark_published(axes, history, validation, published or history[-1]["epoch"])
        axes.set_title(name.capitalize(), pad=16)
        axes.legend()
    _curve(right, history, "learning_rate", "at the end of each epoch", _MARK)
    right.set_title("Learning rate", pad=16)
    right.set_ylim(bottom=0)
    for axes in (left, middle, right):
        _mark_resolutions(axes, history)
        axes.set_xlabel("epoch")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
        axes.set_xlim(history[0]["epoch"] - 0.5, history[-1]["epoch"] + 0.5)
        axes.grid(alpha=0.3)
    left.set_ylabel("cross-entropy (nats)")
    middle.set_ylabel("accuracy (% of examples)")
    middle.yaxis.set_major_formatter(PercentFormatter(xmax=1, symbol=""))
    _scale_loss(left, history)
    _caption(figure, caption)
    return figure


def _caption(figure: Figure, caption: str) -> None:
    """What a figure shows, small at its top: recipe, data, split, number of examples, epoch."""
    if caption:
        letters = round(figure.get_figwidth() * _LETTERS_PER_INCH)
        figure.suptitle(lettering.caption(caption, letters), fontsize=9, color=_MARK)


def _curve(axes: Axes, history: History, key: str, name: str, colour: str) -> None:
    points = [(epoch["epoch"], epoch[key]) for epoch in history if epoch.get(key) is not None]
    if points:
        marker = "o" if len(points) <= 40 else ""  # noqa: PLR2004 -- more dots would touch
        axes.plot(*zip(*points, strict=True), color=colour, label=name, marker=marker, markersize=4)


def _mark_published(axes: Axes, history: History, key: str, published: int) -> None:
    value = next((epoch.get(key) for epoch in history if epoch["epoch"] == published), None)
    if value is None:
        return
    shown = f"{value:.4f}" if key == "validation_loss" else f"{value:.2%}"
    axes.axvline(published, color=_MARK, linestyle=":", linewidth=1.2)
    label = f"published: epoch {published}, {shown}"
    axes.plot(published, value, "*", color=_MARK, markersize=12, linestyle="", label=label)


def _mark_resolutions(axes: Axes, history: History) -> None:
    """Name each resolution where it starts, if there are several: the curves may jump there."""
    sides = [epoch.get("resolution") for epoch in history]
    if len(set(sides)) == 1:
        return
    for before, side, epoch in zip([None, *sides], sides, history, strict=False):
        if side is not None and side != before:
            start = epoch["epoch"] - 0.5
            axes.axvline(start, color=_MARK, alpha=0.4, linewidth=0.8)
            axes.text(start, 1.01, f"{side} px", transform=axes.get_xaxis_transform(), fontsize=8, color=_MARK)


def _scale_loss(axes: Axes, history: History) -> None:
    keys = ("cross_entropy", "validation_loss")
    losses = [epoch[key] for epoch in history for key in keys if epoch.get(key) is not None]
    if losses and min(losses) > 0 and max(losses) / min(losses) > _LOG_RATIO:
        axes.set_yscale("log")
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.yaxis.set_major_formatter("{x:g}")
        axes.yaxis.set_minor_formatter(NullFormatter())
    else:
        axes.set_ylim(0, 1.08 * max(losses, default=1.0) or 1.0)  # with space for the star at its top


def confusion_matrix(probabilities: Floats, labels: Labels, names: Sequence[str], caption: str = "") -> Figure:
    """How often each label (row) was predicted as each (column): counts and shares of the row, (classes, classes).

    Correct predictions are blue, wrong ones red on a scale of their own, so that a rare confusion shows beside a full
    diagonal.
    """
    places = np.asarray(labels, np.int64) * len(names) + np.asarray(probabilities).argmax(axis=1)
    counts = np.bincount(places, minlength=len(names) ** 2).reshape(len(names), len(names))
    totals = counts.sum(axis=1)
    shares = counts / np.maximum(totals, 1)[:, None]
    colours = _confusion_colours(shares)
    small = len(names) > _ANNOTATED
    side = len(names) * (0.34 if small else 0.75) + 1.5 / len(names)
    figure = Figure(figsize=(side, side))
    axes = figure.add_axes((0, 0, 1, 1))  # the labels are outside of it; `save` makes the image large enough
    axes.imshow(colours, aspect="equal")
    _name_cells(axes, names, totals)
    axes.set_xlabel("prediction")
    axes.set_ylabel("label")
    right, n = int(np.trace(counts)), int(totals.sum())
    axes.set_title(
        f"{right:,} of {n:,} correct ({right / max(n, 1):.2%})"
        + (f"\n{lettering.caption(caption, 60)}" if caption else ""),
        fontsize=10,
    )
    if not small:
        _annotate(axes, counts, shares, colours)
    return figure


def _name_cells(axes: Axes, names: Sequence[str], totals: npt.NDArray[np.int64]) -> None:
    """Labels beside rows and columns, with the number of examples in each row, and white lines between the cells."""
    small = len(names) > _ANNOTATED
    shown = map(lettering.drawable, lettering.short(names, (1 if small else _TICK_LINES) * (_TICK_LETTERS - 5)))
    ticks = [textwrap.fill(name, _TICK_LETTERS) for name in shown]
    rows = [f"{tick}  (n = {n:,})" for tick, n in zip(ticks, totals.tolist(), strict=True)]
    axes.set_xticks(range(len(names)), ticks, fontsize=8 if small else 10)
    axes.set_yticks(range(len(names)), rows, fontsize=8 if small else 10)
    if max(map(len, ticks)) > (2 if small else 9):  # characters in the width of a cell
        for tick in axes.get_xticklabels():
            tick.set(rotation=45, ha="right", va="top", rotation_mode="anchor")
    axes.set_xticks(np.arange(len(names) + 1) - 0.5, minor=True)
    axes.set_yticks(np.arange(len(names) + 1) - 0.5, minor=True)
    axes.grid(which="minor", color="white", linewidth=1.5)
    axes.tick_params(which="both", length=0)


def _confusion_colours(shares: Floats) -> Floats:
    """RGB in [0, 1], (classes, classes, 3): white at no share, blue on the diagonal, red beside it."""
    correct = np.eye(len(shares)) > 0
    largest = max(float(shares[~correct].max()), 1e-9)
    blue, red = 1 - np.array([0.13, 0.34, 0.60]), 1 - np.array([0.75, 0.22, 0.17])
    strength = np.where(correct, 0.9 * shares, 0.6 * shares / largest)
    colours: Floats = 1 - strength[..., None] * np.where(correct[..., None], blue, red)
    return colours


def _annotate(axes: Axes, counts: npt.NDArray[np.int64], shares: Floats, colours: Floats) -> None:
    size = 9 if len(counts) > 5 else 12  # noqa: PLR2004 -- cells of few classes are larger
    luminance = colours @ np.array([0.299, 0.587, 0.114])
    for row, column in np.ndindex(*counts.shape):
        count = int(counts[row, column])
        text = f"{count:,}\n{shares[row, column]:.1%}" if count else "0"
        colour = "white" if luminance[row, column] < 0.55 else "black" if count else "#aaaaaa"  # noqa: PLR2004
        axes.text(column, row, text, ha="center", va="center", color=colour, fontsize=size)


def reliability_diagram(before: Floats, after: Floats, labels: Labels, caption: str = "") -> Figure:
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
        _reliability(grid[0, column], confidence, correct)
        _histogram(grid[1, column], confidence, float(correct.mean()))
        grid[0, column].set_title(f"{title}: ECE {ece:.4f}, n = {len(confidence):,}")
    # Handles of their own: a panel without bins of a kind would give its entry another colour.
    figure.legend(
        handles=[
            Line2D([], [], color=_MARK, linestyle="--", linewidth=1, label="perfect calibration"),
            Patch(facecolor=_TRAINING, label="accuracy"),
            Patch(facecolor=_OVER, edgecolor="white", hatch="//", label=_GAPS[0]),
            Patch(facecolor=_UNDER, edgecolor="white", hatch="//", label=_GAPS[1]),
        ],
        loc="outside lower center",
        ncols=2,
    )
    grid[0, 0].set_ylabel("accuracy")
    grid[1, 0].set_ylabel("share of examples (%)")
    _caption(figure, caption)
    return figure


def _reliability(axes: Axes, confidence: Floats, correct: npt.NDArray[np.bool_]) -> None:
    bins = np.minimum((confidence * _BINS).astype(int), _BINS - 1)
    filled = np.unique(bins)
    accuracy = np.array([correct[bins == place].mean() for place in filled])
    mean = np.array([confidence[bins == place].mean() for place in filled])
    width = 1 / _BINS
    axes.bar(filled / _BINS, accuracy, width, align="edge", color=_TRAINING, edgecolor="white", label="accuracy")
    for label, colour, gap in zip(_GAPS, (_OVER, _UNDER), (mean - accuracy, accuracy - mean), strict=True):
        chosen = gap > 0
        axes.bar(
            filled[chosen] / _BINS,
            gap[chosen],
            width,
            bottom=np.minimum(mean, accuracy)[chosen],
            align="edge",
            color=colour,
            edgecolor="white",
            hatch="//",
            label=label,
        )
    axes.plot([0, 1], [0, 1], color=_MARK, linestyle="--", linewidth=1, label="perfect calibration")
    axes.set_xlim(0, 1)
    axes.set_ylim(0, 1)
    axes.grid(alpha=0.3)
    axes.set_axisbelow(True)


def _histogram(axes: Axes, confidence: Floats, accuracy: float) -> None:
    share = np.full(len(confidence), 1 / len(confidence))
    axes.hist(confidence, bins=_BINS, range=(0, 1), weights=share, color=_TRAINING, edgecolor="white")
    mean = float(confidence.mean())
    axes.axvline(mean, color=_VALIDATION, label=f"mean confidence {mean:.2%}")
    axes.axvline(accuracy, color=_MARK, linestyle="--", label=f"accuracy {accuracy:.2%}")
    axes.yaxis.set_major_formatter(PercentFormatter(xmax=1, symbol=""))
    axes.set_xlabel("confidence")
    axes.grid(alpha=0.3)
    axes.set_axisbelow(True)
    axes.legend(loc="upper left")


def filters(weights: Floats, caption: str = "", *, over_images: bool = True) -> Figure:
    """The filters (O, I, kh, kw) of a layer as tiles, row by row: in colour over images with I = 3, else in grey.

    All have one scale, that of the largest magnitude among those shown, which the colour bar shows; a weight of 0 is
    mid-grey. Of filters over images or a single channel, each tile is one. Of others, a row is a filter and its tiles
    are the first eight input channels; of many filters, the first are shown.
    """
    count, channels, height, width = np.shape(weights)
    is_tile = channels == 1 or (over_images and channels == 3)  # noqa: PLR2004 -- red, green and blue
    shown = np.asarray(weights)[: None if is_tile else _FILTERS]
    tiles = filter_tiles(shown, in_colour=is_tile)
    columns = min(math.ceil(math.sqrt(count * 1.6)), count) if is_tile else min(channels, _CHANNELS)
    image = _mosaic(tiles, columns)
    inches = min(max(columns * 0.75, 3), 12)
    tall = min(inches * image.shape[0] / image.shape[1], 14)
    figure = Figure(figsize=(inches + 0.9, tall + 1.1), layout="constrained")
    axes = figure.subplots()
    axes.imshow(image, interpolation="nearest", vmin=0, vmax=1)
    axes.set_axis_off()
    parts = [f"the first {len(shown)} filters"] if len(shown) < count else []
    parts += [f"the first {columns} channels"] if channels > columns and not is_tile else []
    note = f" ({', '.join(parts)})" if parts else ""
    rows = "" if is_tile else ", a row is a filter, a column an input channel"
    plural = "" if count == 1 else "s"
    axes.set_title(f"{count} filter{plural} of {height} x {width} x {channels}{note}\n0 is mid-grey{rows}", fontsize=10)
    largest = float(np.abs(shown).max()) or 1.0
    scale = ScalarMappable(Normalize(-largest, largest), "gray")
    figure.colorbar(
        scale, ax=axes, label="weight (of each channel)" if is_tile and channels > 1 else "weight", shrink=0.8
    )
    _caption(figure, caption)
    return figure


def filter_tiles(weights: Floats, *, in_colour: bool = True) -> Floats:
    """Filters as tiles in [0, 1], scaled by the largest magnitude of all: (O, I, kh, kw) -> (tiles, kh, kw, 3).

    With `in_colour`, three channels are red, green and blue.
    """
    filters = np.asarray(weights, np.float64)
    scaled = 0.5 + 0.5 * filters / (np.abs(filters).max() or 1)
    if in_colour and scaled.shape[1] == 3:  # noqa: PLR2004 -- red, green and blue
        return scaled.transpose(0, 2, 3, 1)  # (O, 3, kh, kw) -> (O, kh, kw, 3)
    grey = scaled[:, :_CHANNELS].reshape(-1, *scaled.shape[2:])  # (O, I, kh, kw) -> (O*I, kh, kw)
    return np.repeat(grey[..., None], 3, axis=-1)


def classes(figures: Sequence[tuple[str, int, float | None, float | None]], caption: str = "") -> Figure:
    """Recall and precision of each label as bars, the label with the lowest recall at the top.

    Args:
        figures: name, number of examples, recall and precision of each label; None where there is no example.
        caption: what the figure shows, under the title.
    """
    ordered = sorted(figures, key=lambda each: -1.0 if each[2] is None else each[2])[:_MAX_BARS]
    figure = Figure(figsize=(8.5, 1.6 + 0.42 * len(ordered)), layout="constrained")
    axes = figure.subplots()
    places = np.arange(len(ordered))
    for offset, column, name, colour in ((-0.2, 2, "recall", _TRAINING), (0.2, 3, "precision", _VALIDATION)):
        values = [float(each[column] or 0.0) for each in ordered]
        axes.barh(places + offset, values, 0.38, color=colour, label=name)
        for place, each in zip(places, ordered, strict=True):
            text = "-" if each[column] is None else f"{each[column]:.1%}"
            axes.text(float(each[column] or 0.0) + 0.005, place + offset, text, va="center", fontsize=7)
    names = lettering.short([name for name, *_ in ordered], 40)
    ticks = [f"{lettering.drawable(name)}  (n = {each[1]:,})" for name, each in zip(names, ordered, strict=True)]
    axes.set_yticks(places, ticks)
    axes.set_ylim(len(ordered) - 0.45, -0.55)
    axes.set_xlim(0, 1.08)
    axes.xaxis.set_major_formatter(PercentFormatter(xmax=1))
    axes.grid(axis="x", alpha=0.3)
    axes.set_axisbelow(True)
    axes.set_title(
        "Recall and precision" + (f": the {_MAX_BARS} labels of the lowest recall" if len(figures) > _MAX_BARS else "")
    )
    axes.legend(loc="lower left", bbox_to_anchor=(1, 0))
    _caption(figure, caption)
    return figure


def _mosaic(tiles: Floats, columns: int) -> Floats:
    """Tiles (n, h, w, 3) in rows of `columns`, with lines of one pixel around them: (H, W, 3)."""
    count, height, width, _ = tiles.shape
    rows = math.ceil(count / columns)
    framed = np.full((rows * columns, height + 1, width + 1, 3), LINE)
    framed[:count, 1:, 1:] = tiles
    grid = framed.reshape(rows, columns, height + 1, width + 1, 3).swapaxes(1, 2)  # (rows, h+1, columns, w+1, 3)
    image = np.full((rows * (height + 1) + 1, columns * (width + 1) + 1, 3), LINE)
    image[:-1, :-1] = grid.reshape(rows * (height + 1), columns * (width + 1), 3)
    return image
