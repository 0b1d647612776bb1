"""Reads a run's folder without torch: its recipe, its epochs and its result. `run.py` lists the files.

Only the form of the files is checked, so that runs of older recipes can be read, too.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from training.errors import RunError

RECIPE, RESULT, METRICS = "recipe.json", "result.json", "metrics.jsonl"


@dataclass(frozen=True)
class Record:
    """The content of the files in a run's folder."""

    folder: Path
    recipe: dict[str, Any]
    histories: dict[str, list[dict[str, Any]]]
    """The epochs of each training that has started, by its stage: `fit`, `refit`, `fold-01` and so on."""
    result: dict[str, Any] | None
    """None while the run is not finished."""

    @property
    def epochs_done(self) -> int:
        """The finished epochs of all trainings of the run."""
        return sum(map(len, self.histories.values()))

    @property
    def epochs_planned(self) -> int | None:
        """The epochs of all trainings without early stopping; None if the recipe has no number of epochs."""
        epochs, data = self.recipe.get("epochs"), self.recipe.get("data", {})
        if not isinstance(epochs, int) or not isinstance(data, dict):
            return None
        return epochs * (data.get("folds") or 1 + bool(data.get("refit")))

    @property
    def last(self) -> dict[str, Any] | None:
        """The last epoch with validation metrics, of the stage that is last by name, if any."""
        epochs = [epoch for _, history in sorted(self.histories.items()) for epoch in history]
        return next((epoch for epoch in reversed(epochs) if epoch.get("validation_accuracy") is not None), None)

    @property
    def seconds(self) -> float:
        """The time of all trainings of the run, interruptions left out."""
        if self.result is not None and isinstance(self.result.get("seconds"), int | float):
            return float(self.result["seconds"])
        return float(sum(epoch.get("seconds") or 0 for history in self.histories.values() for epoch in history))


def metrics_file(folder: Path, stage: str = "fit") -> Path:
    """The file with the epochs of one training of a run."""
    return folder / (METRICS if stage == "fit" else f"metrics-{stage}.jsonl")


def read(folder: Path) -> Record:
    """Read a run's folder.

    Raises:
        RunError: the folder is not a run's, or a file in it is damaged.
    """
    recipe = _read_object(folder / RECIPE)
    if recipe is None or not isinstance(recipe.get("name"), str):
        raise RunError(f"{folder}: not a run; expected a folder runs/RECIPE/TIME with a {RECIPE} in it")
    histories = {"fit": epochs(folder / METRICS)}
    for path in sorted(folder.glob("metrics-*.jsonl")):
        histories[path.stem.removeprefix("metrics-")] = epochs(path)
    started = {stage: history for stage, history in histories.items() if history}
    return Record(folder, recipe, started, _read_object(folder / RESULT))


def epochs(path: Path) -> list[dict[str, Any]]:
    """The epochs in a metrics file; empty if the file is missing.

    A last line without a line break is left out: its write has not finished.

    Raises:
        RunError: the file cannot be read, or a line is not a JSON object.
    """
    lines = (_read(path) or "").split("\n")[:-1]
    return [_object(line, f"{path}, line {number}") for number, line in enumerate(lines, start=1)]


def text(value: Any) -> str:
    """A value of a recipe for the terminal: `-` for None, a layer as `conv=10 kernel=5 batch_norm`."""
    match value:
        case None:
            return "-"
        case bool():
            return str(value).lower()
        case float():
            return f"{value:.6g}"
        case list():
            return "[" + ", ".join(map(text, value)) + "]"
        case dict():
            set_keys = {key: part for key, part in value.items() if part is not None and part is not False}
            return " ".join(key if part is True else f"{key}={text(part)}" for key, part in set_keys.items())
        case _:
            return str(value)


def temperature_text(temperature: float, length_exponent: float, length_range: Sequence[int] | None = None) -> str:
    """A temperature for the terminal, with the factor for the length of a text if there is an exponent."""
    if not length_exponent:
        return f"{temperature:.4f}"
    bounds = f", for {length_range[0]} to {length_range[1]} tokens" if length_range else ""
    return f"{temperature:.4f} * (tokens / 64)^{length_exponent:.3f}{bounds}"


def _read_object(path: Path) -> dict[str, Any] | None:
    content = _read(path)
    return None if content is None else _object(content, str(path))


def _read(path: Path) -> str | None:
    try:
        return path.read_text(encoding="utf-8")
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, UnicodeDecodeError) as error:
        raise RunError(f"{path}: cannot be read: {error}") from error


def _object(content: str, place: str) -> dict[str, Any]:
    try:
        value = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise RunError(f"{place}: invalid JSON: {error}") from error
    if not isinstance(value, dict):
        raise RunError(f"{place}: expected a JSON object, got {type(value).__name__}")
    return value
