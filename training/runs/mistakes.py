"""The most confident mistakes on a split, the most confident first: images as a figure, texts as a Markdown page."""

import math
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt
from matplotlib.figure import Figure

from training.evaluation.metrics import Mistake
from training.runs import lettering

MAX_SHOWN: Final = 24
_WIDTH_IN: Final = 1.9


def image_figure(
    images: npt.NDArray[np.uint8],
    mistakes: Sequence[Mistake],
    names: Sequence[str],
    sources: Sequence[str] | None = None,
    caption: str = "",
) -> Figure:
    """The most confident mistakes among images, uint8 (N, H, W, C) with C of 1 or 3, at most `MAX_SHOWN`.

    Above each are its label, the prediction and its probability; below it is its source, the name of a file or the
    number of the example, so that a wrong label can be mended. `mistakes` are sorted, the most confident first.
    """
    shown = mistakes[:MAX_SHOWN]
    short = list(map(lettering.drawable, lettering.short(names, 44)))
    titles = [_caption(mistake, short) for mistake in shown]
    columns = min(6, max(len(shown), 1))
    rows = math.ceil(len(shown) / columns)
    image_in = _WIDTH_IN * min(images.shape[1] / images.shape[2], 2)
    height = image_in + 0.4 + 0.17 * max((title.count("\n") + 1 for title in titles), default=1)
    figure = Figure(figsize=(columns * _WIDTH_IN, rows * height + 0.5), layout="constrained")
    letters = max(columns * 18, 54)
    figure.suptitle(
        _title(len(mistakes), len(images)) + (f"\n{lettering.caption(caption, letters)}" if caption else ""),
        fontsize=10,
    )
    for number, (mistake, title) in enumerate(zip(shown, titles, strict=True), start=1):
        axes = figure.add_subplot(rows, columns, number)
        axes.set_xticks([])
        axes.set_yticks([])
        axes.set_frame_on(False)
        source = str(mistake.index) if sources is None else Path(sources[mistake.index]).name
        (name,) = lettering.short([source], 52)
        axes.set_xlabel(textwrap.fill(lettering.drawable(name), 26), fontsize=7)
        image = images[mistake.index]
        axes.imshow(image[..., 0] if image.shape[-1] == 1 else image, cmap="gray", vmin=0, vmax=255)
        axes.set_title(title, fontsize=9)
    return figure


def text_page(
    texts: Sequence[str],
    mistakes: Sequence[Mistake],
    names: Sequence[str],
    sources: Sequence[str] | None = None,
    caption: str = "",
) -> str:
    """The most confident mistakes among N texts in Markdown, at most `MAX_SHOWN`, each text in full with its source.

    Without `sources`, the source is the number of the example.
    """
    parts = [f"# {_title(len(mistakes), len(texts))}", *([caption] if caption else [])]
    for number, mistake in enumerate(mistakes[:MAX_SHOWN], start=1):
        source = f"example {mistake.index}" if sources is None else sources[mistake.index]
        heading = f"{names[mistake.label]}, predicted {names[mistake.prediction]} ({mistake.probability:.2%}), {source}"
        # Markdown shows a block that is indented by four spaces unchanged, whatever markup the text holds.
        block = textwrap.fill(texts[mistake.index], 100, initial_indent="    ", subsequent_indent="    ")
        parts.append(f"## {number}. {heading}\n\n{block or '    (empty)'}")
    return "\n\n".join(parts) + "\n"


def _title(mistakes: int, examples: int) -> str:
    """The heading over the mistakes that are shown among `examples`."""
    if not mistakes:
        return f"No mistakes in {examples:,} examples"
    if mistakes > MAX_SHOWN:
        return f"The {MAX_SHOWN} most confident of {mistakes:,} mistakes"
    return f"{mistakes} mistake{'' if mistakes == 1 else 's'}"


def _caption(mistake: Mistake, names: Sequence[str]) -> str:
    lines = textwrap.wrap(f"{names[mistake.label]}, predicted {names[mistake.prediction]}", 22)
    return "\n".join([*lines, f"{mistake.probability:.2%}"])
