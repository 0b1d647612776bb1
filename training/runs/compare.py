"""Compares runs: the metrics of each, and the keys in which their recipes differ.

`table` reads the files of the runs, without torch and without the data set.
"""

import textwrap
from collections.abc import Callable, Sequence
from itertools import zip_longest
from pathlib import Path
from statistics import mean, stdev
from typing import Any, Final

from pydantic import ValidationError

from training.errors import RecipeError, RunError
from training.intervals import percent, wilson
from training.recipe import shapes
from training.recipe.gate import Gate
from training.recipe.schema import parse
from training.runs import record
from training.runs.record import Record
from training.table import columns

_NONE: Final = "-"
_IGNORED: Final = {"name", "description", "seed"}  # in the first table, or without effect
_MIN_PATH: Final = 12  # characters of a path that are always shown
_MIN_VALUE: Final = (
    28  # characters of a long value in a line; runs that do not fit side by side get a table of their own
)
_LESS: Final = (
    "parameters",
    "seed",
    "ECE",
    "s",
    "epochs",
)  # columns that are left out where they do not fit, in this order
_DIFFER: Final = "recipes differ in"
_BALANCED: Final = Gate(metric="balanced-accuracy")
_HEADERS: Final = {_BALANCED.title: "balanced"}


def table(runs: Sequence[Path], width: int = 120) -> str:
    """The keys in which recipes differ, then a row for each run: the best first, unfinished ones last.

    The best are those of the highest accuracy, or of the metric that the gates of all their recipes name. Accuracy,
    NLL and ECE are those on the validation split after calibration. A run that is not finished, marked by `*`, has the
    accuracy of its last epoch. A cross-validation has the mean over the folds +- their sample standard deviation (over
    n - 1). Lines have at most `width` characters, from 100 on: where they would be longer, columns are left out.

    Raises:
        RunError: a path is not a run's folder, or a file in it is damaged.
    """
    records = [record.read(run) for run in runs]
    gates = {gate_of(run) for run in records}
    gate = next(iter(gates)) if len(gates) == 1 else Gate()
    records.sort(key=lambda run: _rank(run, gate))
    others = [each for each in dict.fromkeys((_BALANCED, gate)) if each != Gate()]
    shown = [each for each in others if any(value_of(run, each) is not None for run in records)]
    header = ["", "run", "recipe", "seed", "epochs", "parameters", "accuracy", "95 %", "n"]
    header += [_HEADERS.get(each.title, each.title) for each in shown] + ["NLL", "ECE", "s"]
    rows = [header, *([str(number), *_row(run, shown)] for number, run in enumerate(records, start=1))]
    lines = columns(rows, left={1, 2})
    excess = max(map(len, lines)) - width
    if excess > 0:
        size = max(max(len(row[1]) for row in rows) - excess, _MIN_PATH)
        rows = [[row[0], _shorten(row[1], size), *row[2:]] for row in rows]
        lines = columns(rows, left={1, 2})
    for name in _LESS:
        if max(map(len, lines)) > width:
            place = rows[0].index(name)
            rows = [[*row[:place], *row[place + 1 :]] for row in rows]
            lines = columns(rows, left={1, 2})
    lines.append("accuracy with its 95 % interval (in %), NLL (in nats) and ECE are of n examples of the validation")
    lines.append("split, after calibration" + (f"; the best {gate.title} first" if gate != Gate() else ""))
    if _BALANCED in shown:
        lines.append("balanced: the mean recall of the labels, rare ones as important as others")
    if len(gates) > 1:
        lines.append("the recipes' gates hold on different metrics, so the runs are in the order of accuracy")
    if any(run.result and run.result.get("folds") for run in records):
        lines.append("+- cross-validation: mean and standard deviation over the test examples of each fold")
    if any(run.result is None for run in records):
        lines.append("* not finished: accuracy after the last epoch, before calibration")
    different = _difference_lines(records, width)
    return "\n".join([*different, *([""] if different else []), *lines])


def gate_of(run: Record) -> Gate:
    """What the gate of a run's recipe holds on."""
    try:
        return Gate.model_validate(run.recipe.get("gate") or {})
    except ValidationError:
        return Gate()  # a recipe of another version


def value_of(run: Record, gate: Gate) -> float | None:
    """The metric of a gate on the validation split; None if it was not measured."""
    figures = (run.result or run.last or {}).get("validation_figures")
    return gate.of(_mean_accuracy(run), figures)


def _rank(run: Record, gate: Gate) -> tuple[int, float]:
    """Finished runs first, the best of them at the top; runs without an epoch at the end."""
    value = value_of(run, gate)
    return (0 if run.result is not None else 1 if run.last else 2), -(value or 0.0)


def _mean_accuracy(run: Record) -> float | None:
    if run.result is None:
        return run.last["validation_accuracy"] if run.last else None
    folds = run.result.get("folds") or [run.result.get("validation")]
    values = [_number(run, metrics, "accuracy") for metrics in folds]
    known = [value for value in values if value is not None]
    return mean(known) if known else None


def differences(recipes: Sequence[dict[str, Any]]) -> dict[str, list[Any]]:
    """The keys in which recipes differ, flattened (`layers[2].kernel`, counted from 1), with each recipe's value.

    The value of a missing key is None. Layers of different kinds in the same place are compared as a whole.
    """
    different: dict[str, list[Any]] = {}
    _walk("", list(recipes), different)
    return different


def _walk(key: str, values: list[Any], different: dict[str, list[Any]]) -> None:
    if all(value == values[0] for value in values):
        return
    if all(isinstance(value, dict | None) for value in values):
        for name in dict.fromkeys(name for value in values for name in value or {}):
            _walk(f"{key}.{name}".lstrip("."), [(value or {}).get(name) for value in values], different)
    elif all(_is_tables(value) for value in values):
        for place, items in enumerate(zip_longest(*(value or [] for value in values)), start=1):
            if len({None if item is None else tuple(item) for item in items}) == 1:  # layers of one kind
                _walk(f"{key}[{place}]", list(items), different)
            else:
                different[f"{key}[{place}]"] = list(items)
    else:
        different[key] = values


def _is_tables(value: Any) -> bool:
    return value is None or (isinstance(value, list) and all(isinstance(item, dict) for item in value))


def _row(run: Record, gates: Sequence[Gate]) -> list[str]:
    return [
        str(run.folder),
        run.recipe["name"],
        str(run.recipe.get("seed", _NONE)),
        f"{run.epochs_done}/{run.epochs_planned or '?'}",
        _parameters(run),
        _accuracy(run),
        *_interval(run),
        *(_NONE if (value := value_of(run, gate)) is None else gate.show(value) for gate in gates),
        _metric(run, "nll"),
        _metric(run, "ece"),
        f"{run.seconds:,.0f}",
    ]


def _parameters(run: Record) -> str:
    try:
        return f"{sum(step.parameters for step in shapes.trace(parse(run.recipe))):,}"
    except RecipeError:
        return _NONE  # a recipe of an older version


def _accuracy(run: Record) -> str:
    if run.result is not None:
        return _metric(run, "accuracy", "{:.2%}".format)
    return f"{run.last['validation_accuracy']:.2%} *" if run.last else f"{_NONE} *"


def _interval(run: Record) -> tuple[str, str]:
    """The 95 % interval of the accuracy in percent, and the number of examples that it was measured on."""
    validation = None if run.result is None else run.result.get("validation")
    n, accuracy = (_number(run, validation, key) for key in ("n", "accuracy"))
    if n is None:
        return _NONE, _NONE
    return _NONE if accuracy is None else percent(wilson(accuracy, int(n))), f"{int(n):,}"


def _metric(run: Record, key: str, show: Callable[[float], str] = "{:.4f}".format) -> str:
    """A metric of a finished run, or its mean and standard deviation over the folds."""
    if run.result is None:
        return _NONE
    values = [_number(run, metrics, key) for metrics in run.result.get("folds") or [run.result.get("validation")]]
    known = [value for value in values if value is not None]
    if len(known) < len(values):
        return _NONE
    return show(mean(known)) + (f" +- {show(stdev(known))}" if len(known) > 1 else "")


def _number(run: Record, metrics: Any, key: str) -> float | None:
    value = metrics.get(key) if isinstance(metrics, dict) else None
    if value is not None and not isinstance(value, int | float):
        raise RunError(f"{run.folder / record.RESULT}: {key}: expected a number, got {value!r}")
    return value


def _difference_lines(runs: list[Record], width: int) -> list[str]:
    different = differences([{key: value for key, value in r.recipe.items() if key not in _IGNORED} for r in runs])
    if not different:
        return ["the recipes do not differ"] if len(runs) > 1 else []
    cells = {key: [record.text(value) for value in values] for key, values in different.items()}
    free = width - max(len(_DIFFER), *map(len, cells))
    longest = max(len(cell) for row in cells.values() for cell in row)
    side_by_side = max(free // (min(longest, _MIN_VALUE) + 2), 1)
    lines: list[str] = []
    for start in range(0, len(runs), side_by_side):
        chosen = range(len(runs))[start : start + side_by_side]
        size = max(free // len(chosen) - 2, _MIN_PATH)
        rows = [[_DIFFER, *(str(run + 1) for run in chosen)]]
        for key, row in cells.items():
            rows += map(list, zip_longest([key], *(textwrap.wrap(row[run], size) for run in chosen), fillvalue=""))
        lines += [*([""] if lines else []), *columns(rows, left=range(len(rows[0])))]
    return lines


def _shorten(path: str, size: int) -> str:
    return path if len(path) <= size else "…" + path[len(path) - size + 1 :]
