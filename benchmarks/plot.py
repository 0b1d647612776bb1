"""The figures as one plot: a panel for each workload, a bar for each contender, the ceiling as a dashed line."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine

from benchmarks.contender import CONTENDERS, CONVOKE, Contender
from benchmarks.results import Row, best_ceiling, find, number
from benchmarks.workloads import CLOSED, Workload

CONVOKE_COLOUR, PEER_COLOUR, INK, FAINT = "#c8502a", "#b9c2cc", "#22272e", "#6b7580"
COLUMNS = 3
_WIDTH = 1.32
"""The width of a panel as a multiple of its longest bar, so that the texts beside the bars fit."""
_BACKGROUND = {"facecolor": "white", "edgecolor": "none", "pad": 0.8}


def draw(rows: Sequence[Row], about: Mapping[str, Any], path: Path) -> None:
    """Plot items per second of every measured workload into a PNG; without measured workloads write nothing."""
    workloads = [
        workload
        for workload in CLOSED
        if any(row.workload == workload.key for row in rows) and workload.family != "burst"
    ]
    if not workloads:
        return
    contenders = [contender for contender in CONTENDERS if any(row.contender == contender.key for row in rows)]
    columns = min(COLUMNS, len(workloads))
    lines = -(-len(workloads) // columns)
    figure = Figure(
        figsize=(5.0 * columns, 1.1 + (0.75 + 0.29 * len(contenders)) * lines),
        layout=ConstrainedLayoutEngine(w_pad=0.12, h_pad=0.12),
    )
    grid = figure.subplots(lines, columns, squeeze=False)
    for axes, workload in zip(grid.flat, workloads, strict=False):
        _panel(axes, rows, workload, contenders)
    for axes in grid.flat[len(workloads) :]:
        axes.set_axis_off()
    figure.suptitle(
        "Items per second, one server for each contender", fontsize=15, color=INK, weight="bold", x=0.01, ha="left"
    )
    figure.supxlabel(
        "Beside each bar: items per second, and Convoke's speed as a multiple of it. Dashed line: the same work in a "
        "loop without HTTP.\n"
        f"{about['cpu']}, {about['processors']} processors, {about['passes']} passes of {about['seconds']} s, "
        f"ONNX Runtime with {about['threads']} thread(s) for each run, {about['precision']}",
        fontsize=9, color=FAINT, x=0.01, ha="left",
    )  # fmt: skip
    figure.savefig(path, dpi=150, facecolor="white")


def _panel(axes: Axes, rows: Sequence[Row], workload: Workload, contenders: Sequence[Contender]) -> None:
    """Draw one workload: one bar for each contender, in its main request format, Convoke's on top."""
    bars = [
        find(rows, contender.key, workload.key, forms[0].name) if (forms := workload.forms(contender)) else None
        for contender in contenders
    ]
    ours = next((row for row in bars if row and row.contender == CONVOKE), None)
    ceiling = best_ceiling(rows, workload.ceiling)
    longest = max([row.items_per_s for row in (*bars, ceiling) if row], default=0.0) or 1.0
    if ceiling:
        axes.axvline(ceiling.items_per_s, color=INK, linewidth=1, linestyle=(0, (4, 3)))
    for place, (contender, row) in enumerate(zip(contenders, bars, strict=True)):
        is_ours = contender.key == CONVOKE
        length = row.items_per_s if row else 0.0
        axes.barh(place, length, color=CONVOKE_COLOUR if is_ours else PEER_COLOUR, height=0.72)
        axes.text(
            length + longest * 0.015, place, _text(row, ours, contender, workload), va="center", fontsize=9,
            color=INK if is_ours else FAINT, weight="bold" if is_ours else "normal", bbox=_BACKGROUND,
        )  # fmt: skip
    axes.set_yticks(range(len(contenders)), [contender.name for contender in contenders], fontsize=9.5, color=INK)
    axes.set_ylim(len(contenders) - 0.4, -0.6)
    axes.set_xlim(0, longest * _WIDTH)
    axes.set_xticks([])
    axes.set_title(workload.title, fontsize=9.5, color=INK, loc="left", weight="bold")
    axes.spines[["top", "right", "bottom"]].set_visible(False)
    axes.spines["left"].set_color(PEER_COLOUR)
    axes.tick_params(axis="y", length=0)


def _text(row: Row | None, ours: Row | None, contender: Contender, workload: Workload) -> str:
    """The text beside a bar, or in its place."""
    if row is None:
        return "not measured" if workload.forms(contender) else "does not take these requests"
    parts = [number(row.items_per_s) if row.items_per_s else "no response in time"]
    if ours and row is not ours and row.items_per_s:
        parts.append(f"{ours.items_per_s / row.items_per_s:.1f}x")
    if row.errors:
        parts.append(f"{row.errors:,} errors")
    return "   ".join(parts)
