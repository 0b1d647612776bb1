"""The figures as one picture: a panel a workload, a bar a contender, the ceiling without HTTP as a line."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine

from benchmarks.contender import CONTENDERS, OURS, Contender
from benchmarks.results import Row, best_ceiling, number
from benchmarks.workloads import CLOSED, Workload

OURS_COLOUR, PEER_COLOUR, INK, FAINT = "#c8502a", "#b9c2cc", "#22272e", "#6b7580"
COLUMNS = 3
_ROOM = 1.32
"""How much wider a panel is than its longest bar, for the words behind the bars."""
_GROUND = {"facecolor": "white", "edgecolor": "none", "pad": 0.8}


def draw(rows: Sequence[Row], about: Mapping[str, Any], path: Path) -> None:
    """Draw items per second of every workload that has rows, into a PNG; nothing where there is none."""
    shown = [one for one in CLOSED if any(row.workload == one.key for row in rows)]
    if not shown:
        return
    there = [one for one in CONTENDERS if any(row.contender == one.key for row in rows)]
    columns = min(COLUMNS, len(shown))
    lines = -(-len(shown) // columns)
    figure = Figure(
        figsize=(5.0 * columns, 1.1 + (0.75 + 0.29 * len(there)) * lines),
        layout=ConstrainedLayoutEngine(w_pad=0.12, h_pad=0.12),
    )
    grid = figure.subplots(lines, columns, squeeze=False)
    for axes, workload in zip(grid.flat, shown, strict=False):
        _panel(axes, rows, workload, there)
    for axes in grid.flat[len(shown) :]:
        axes.set_axis_off()
    figure.suptitle("Items per second, one server each", fontsize=15, color=INK, weight="bold", x=0.01, ha="left")
    figure.supxlabel(
        "Behind each bar: items per second, and how many times as many Convoke has. Dashed: the same work in a loop "
        f"without HTTP.\n{about['cpu']}, {about['processors']} processors, {about['seconds']} s a workload, "
        f"ONNX Runtime with {about['threads']} thread(s) a run, {about['precision']}",
        fontsize=9, color=FAINT, x=0.01, ha="left",
    )  # fmt: skip
    figure.savefig(path, dpi=150, facecolor="white")


def _panel(axes: Axes, rows: Sequence[Row], workload: Workload, there: Sequence[Contender]) -> None:
    """One workload: bars in the order of the contenders, ours on top."""
    bars = [_first_form(rows, one, workload) for one in there]
    ours = next((row for row in bars if row and row.contender == OURS), None)
    ceiling = best_ceiling(rows, workload.family)
    longest = max([row.items_per_s for row in (*bars, ceiling) if row], default=0.0) or 1.0
    if ceiling:
        axes.axvline(ceiling.items_per_s, color=INK, linewidth=1, linestyle=(0, (4, 3)))
    for place, (contender, row) in enumerate(zip(there, bars, strict=True)):
        mine = contender.key == OURS
        length = row.items_per_s if row else 0.0
        axes.barh(place, length, color=OURS_COLOUR if mine else PEER_COLOUR, height=0.72)
        words = _words(row, None if mine else ours) if row else _absence(contender, workload)
        axes.text(
            length + longest * 0.015, place, words, va="center", fontsize=9,
            color=INK if mine else FAINT, weight="bold" if mine else "normal", bbox=_GROUND,
        )  # fmt: skip
    axes.set_yticks(range(len(there)), [one.name for one in there], fontsize=9.5, color=INK)
    axes.set_ylim(len(there) - 0.4, -0.6)
    axes.set_xlim(0, longest * _ROOM)
    axes.set_xticks([])
    axes.set_title(workload.title, fontsize=9.5, color=INK, loc="left", weight="bold")
    axes.spines[["top", "right", "bottom"]].set_visible(False)
    axes.spines["left"].set_color(PEER_COLOUR)
    axes.tick_params(axis="y", length=0)


def _absence(contender: Contender, workload: Workload) -> str:
    """What stands where there is no bar."""
    return "not measured" if workload.per_request == 1 or contender.forms[0].many else "takes one a request"


def _words(row: Row, ours: Row | None) -> str:
    """What stands behind a bar."""
    words = [number(row.items_per_s) if row.items_per_s else "no answer in time"]
    if ours and row.items_per_s:
        words.append(f"{ours.items_per_s / row.items_per_s:.1f}x")
    if row.errors:
        words.append(f"{row.errors:,} errors")
    return "   ".join(words)


def _first_form(rows: Sequence[Row], contender: Contender, workload: Workload) -> Row | None:
    key = (contender.key, contender.forms[0].name, workload.key)
    return next((row for row in rows if row.key == key), None)
