"""The figure of a range test of the learning rate."""

import math
from collections.abc import Sequence

from matplotlib.figure import Figure

from training.runs import lettering
from training.runs.plots import Floats

_LOSS, _SUGGESTED, _OWN = "#4878a8", "#d1661f", "#555555"


def figure(
    rates: Sequence[float],
    losses: Sequence[float],
    smooth: Floats,
    suggestion: float | None,
    own: float,
    caption: str = "",
) -> Figure:
    """The loss over the learning rate, on a logarithmic axis, with the suggested rate and the recipe's own.

    Args:
        rates: of each step.
        losses: of each step; those that are not finite are left out.
        smooth: the smoothed finite losses.
        suggestion: the suggested learning rate, if any.
        own: the recipe's.
        caption: what the figure shows.
    """
    shown = [(rate, loss) for rate, loss in zip(rates, losses, strict=True) if math.isfinite(loss)]
    result = Figure(figsize=(8, 4.6), layout="constrained")
    axes = result.subplots()
    axes.set_xscale("log")
    axes.plot(*zip(*shown, strict=True), ".", color=_LOSS, alpha=0.35, markersize=4, label="loss of each step")
    axes.plot([rate for rate, _ in shown], smooth, color=_LOSS, linewidth=2, label="smoothed")
    if suggestion is not None:
        axes.axvline(suggestion, color=_SUGGESTED, linewidth=1.6, label=f"suggested: {suggestion:g}")
    axes.axvline(own, color=_OWN, linewidth=1.4, linestyle="--", label=f"the recipe: {own:g}")
    low, high = float(smooth.min()), float(smooth[: int(smooth.argmin()) + 1].max())
    if high > low:  # the rise at the end would hide the fall
        axes.set_ylim(max(low - 0.3 * (high - low), 0), high + 0.6 * (high - low))
    axes.set_xlabel("learning rate")
    axes.set_ylabel("loss of the recipe")
    axes.set_title("Range test of the learning rate", pad=10)
    axes.grid(alpha=0.3)
    axes.legend(loc="upper left", fontsize=9)
    result.suptitle(lettering.caption(caption, 100), fontsize=9, color=_OWN)
    return result
