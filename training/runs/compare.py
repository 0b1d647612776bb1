"""Runs side by side: what each is worth, and what differs between their recipes.

`table` reads what the runs left, without torch and without the data set.
"""

import textwrap
from collections.abc import Callable, Sequence
from itertools import zip_longest
from pathlib import Path
from statistics import mean, stdev
from typing import Any, Final

from training.errors import RecipeError, RunError
from training.recipe import shapes
from training.recipe.schema import parse
from training.runs import record
from training.runs.record import Record

_NONE: Final = "-"
_ABOVE: Final = {"name", "description", "seed"}  # said above the differences, or of no effect
_LEAST: Final = 12  # characters below which a cell says nothing
_MOST: Final = 28  # characters of a value's line, below which fewer runs stand side by side
_DIFFER: Final = "recipes differ in"


def table(runs: Sequence[Path], width: int = 120) -> str:
    """A row a run, then a row a key in which their recipes differ; at most `width` characters, from 100 on, a line.

    Accuracy, NLL (nats an example) and ECE are the finished run's, on its validation split and calibrated; for a run
    that is not finished the accuracy of its last epoch, marked by `*`; for a cross-validated one, marked by `+-`, the
    mean over the folds and their standard deviation (of a sample, over n - 1).

    Raises:
        RunError: a path is no run's folder, or a file in it is damaged.
    """
    records = [record.read(run) for run in runs]
    header = ["", "run", "recipe", "seed", "epochs", "parameters", "accuracy", "NLL", "ECE", "seconds"]
    rows = [[str(number), *_row(found)] for number, found in enumerate(records, start=1)]
    lines = _columns([header, *rows], width, flexible=1, left={1, 2})
    if any(found.result is None for found in records):
        lines.append("* not finished: its last epoch so far, before calibration")
    lines += ["", *_difference_lines(records, width)]
    return "\n".join(line.rstrip() for line in lines)


def differences(recipes: Sequence[dict[str, Any]]) -> dict[str, list[Any]]:
    """The keys in which recipes differ, flattened (`layers[2].kernel`, counted from 1), with each recipe's value.

    A key that a recipe lacks is None there, and equal to one that is None. Layers of different kinds at one place are
    given whole.
    """
    found: dict[str, list[Any]] = {}
    _walk("", list(recipes), found)
    return found


def _walk(where: str, values: list[Any], found: dict[str, list[Any]]) -> None:
    if all(value == values[0] for value in values):
        return
    if all(isinstance(value, dict | None) for value in values):
        for key in dict.fromkeys(key for value in values for key in value or {}):
            _walk(f"{where}.{key}".lstrip("."), [(value or {}).get(key) for value in values], found)
    elif all(_is_tables(value) for value in values):
        for place in range(max(len(value or []) for value in values)):
            items = [value[place] if value and place < len(value) else None for value in values]
            name = f"{where}[{place + 1}]"
            if len({_kind(item) for item in items}) == 1:
                _walk(name, items, found)
            else:
                found[name] = items
    else:
        found[where] = values


def _is_tables(value: Any) -> bool:
    return value is None or (isinstance(value, list) and all(isinstance(item, dict) for item in value))


def _kind(layer: dict[str, Any] | None) -> tuple[str, ...] | None:
    return None if layer is None else tuple(layer)


def _row(found: Record) -> list[str]:
    return [
        str(found.folder),
        found.recipe["name"],
        str(found.recipe.get("seed", _NONE)),
        f"{found.epochs_done}/{found.epochs_planned or '?'}",
        _parameters(found),
        _accuracy(found),
        _metric(found, "nll"),
        _metric(found, "ece"),
        f"{found.seconds:,.0f}",
    ]


def _parameters(found: Record) -> str:
    try:
        return f"{sum(step.parameters for step in shapes.trace(parse(found.recipe))):,}"
    except RecipeError:
        return _NONE  # a recipe of an older version


def _accuracy(found: Record) -> str:
    if found.result is not None:
        return _metric(found, "accuracy", lambda value: f"{value:.2%}")
    last = found.last
    return f"{last['validation_accuracy']:.2%} *" if last else f"{_NONE} *"


def _metric(found: Record, key: str, show: Callable[[float], str] = "{:.4f}".format) -> str:
    """A figure of a finished run, or its mean and deviation over the folds."""
    if found.result is None:
        return _NONE
    folds = found.result.get("folds")
    if folds:
        return _spread([_figure(found, fold, key) for fold in folds], show)
    value = _figure(found, found.result.get("validation"), key)
    return _NONE if value is None else show(value)


def _spread(values: list[float | None], show: Callable[[float], str]) -> str:
    known = [value for value in values if value is not None]
    if len(known) < len(values):
        return _NONE
    return show(mean(known)) + (f" +- {show(stdev(known))}" if len(known) > 1 else "")


def _figure(found: Record, metrics: Any, key: str) -> float | None:
    value = metrics.get(key) if isinstance(metrics, dict) else None
    if value is not None and not isinstance(value, int | float):
        raise RunError(f"{found.folder / record.RESULT}: {key}: expected a number, found {value!r}")
    return value


def _difference_lines(records: list[Record], width: int) -> list[str]:
    found = differences([{key: value for key, value in r.recipe.items() if key not in _ABOVE} for r in records])
    if not found:
        return ["the recipes do not differ"] if len(records) > 1 else []
    keys = max(len(_DIFFER), *map(len, found))
    most = max((width - keys) // len(records) - 2, _MOST)
    cells = [[textwrap.wrap(record.text(value), most) for value in values] for values in found.values()]
    widths = [max(_LEAST, *(len(line) for row in cells for line in row[run])) for run in range(len(records))]
    lines: list[str] = []
    for runs in _groups(widths, width - keys):
        rows = [[_DIFFER, *(str(run + 1) for run in runs)]]
        for key, row in zip(found, cells, strict=True):
            rows += map(list, zip_longest([key], *(row[run] for run in runs), fillvalue=""))
        lines += [*([""] if lines else []), *_columns(rows, width, flexible=0, left=set(range(len(rows[0]))))]
    return lines


def _groups(widths: list[int], room: int) -> list[list[int]]:
    """The places of columns, in order, in groups that fit side by side with two spaces before each."""
    groups: list[list[int]] = [[]]
    used = 0
    for place, width in enumerate(widths):
        if groups[-1] and used + width + 2 > room:
            groups.append([])
            used = 0
        groups[-1].append(place)
        used += width + 2
    return groups


def _columns(rows: list[list[str]], width: int, flexible: int, left: set[int]) -> list[str]:
    """Rows as lines; the `flexible` column is cut from its front where the lines would be longer than `width`."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    excess = sum(widths) + 2 * (len(widths) - 1) - width
    widths[flexible] = max(widths[flexible] - max(excess, 0), min(widths[flexible], _LEAST))
    return [
        "  ".join(
            _cut(cell, size).ljust(size) if place in left else cell.rjust(size)
            for place, (cell, size) in enumerate(zip(row, widths, strict=True))
        )
        for row in rows
    ]


def _cut(text: str, size: int) -> str:
    return text if len(text) <= size else "…" + text[len(text) - size + 1 :]
