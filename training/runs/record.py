"""What a run's folder says of itself, read without torch: the recipe as it ran, its epochs, its result.

    runs/RECIPE/TIME/
      recipe.json            the recipe, overrides applied
      metrics.jsonl          one JSON object an epoch; metrics-STAGE.jsonl for a further training, like `refit`
      result.json            what the finished run is worth

Nothing is checked beyond its form, so that a run of an older recipe can still be looked at.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from training.errors import RunError

RECIPE, RESULT, METRICS = "recipe.json", "result.json", "metrics.jsonl"


@dataclass(frozen=True)
class Record:
    """A run's folder, read.

    `histories` are the epochs of each training by its stage: `fit`, and where there are more of them `refit` and the
    like. `result` is None while the run is not finished.
    """

    folder: Path
    recipe: dict[str, Any]
    histories: dict[str, list[dict[str, Any]]]
    result: dict[str, Any] | None

    @property
    def epochs_done(self) -> int:
        """Epochs over all trainings of the run."""
        return sum(map(len, self.histories.values()))

    @property
    def epochs_planned(self) -> int | None:
        """Epochs that all trainings of the run come to where none stops early; None where the recipe does not say."""
        epochs, data = self.recipe.get("epochs"), self.recipe.get("data", {})
        if not isinstance(epochs, int) or not isinstance(data, dict):
            return None
        return epochs * (data.get("folds") or 1 + bool(data.get("refit")))

    @property
    def last(self) -> dict[str, Any] | None:
        """The last epoch with validation figures, of the stage that is last by name; None where there is none."""
        epochs = [epoch for _, history in sorted(self.histories.items()) for epoch in history]
        return next((epoch for epoch in reversed(epochs) if epoch.get("validation_accuracy") is not None), None)

    @property
    def seconds(self) -> float:
        """What the trainings took, over all their sittings."""
        if self.result is not None and isinstance(self.result.get("seconds"), int | float):
            return float(self.result["seconds"])
        return float(sum(epoch.get("seconds") or 0 for history in self.histories.values() for epoch in history))


def metrics_file(folder: Path, stage: str = "fit") -> Path:
    """Where the epochs of one training of a run are written down."""
    return folder / (METRICS if stage == "fit" else f"metrics-{stage}.jsonl")


def read(folder: Path) -> Record:
    """Read a run's folder.

    Raises:
        RunError: it is no run's, or one of its files is damaged.
    """
    recipe = _table(folder / RECIPE)
    if recipe is None or not isinstance(recipe.get("name"), str):
        raise RunError(f"{folder}: this is no run's folder; expected runs/RECIPE/TIME with a {RECIPE} in it")
    histories = {"fit": epochs(folder / METRICS)}
    for path in sorted(folder.glob("metrics-*.jsonl")):
        histories[path.stem.removeprefix("metrics-")] = epochs(path)
    begun = {stage: history for stage, history in histories.items() if history}
    return Record(folder, recipe, begun, _table(folder / RESULT))


def epochs(path: Path) -> list[dict[str, Any]]:
    """The epochs of a metrics file; none where there is no file.

    A last line without its end belongs to a write that is under way or was cut off, and is left out.

    Raises:
        RunError: the file cannot be read, or a line of it is no JSON object.
    """
    try:
        lines = path.read_text(encoding="utf-8").split("\n")[:-1]
    except FileNotFoundError:
        return []
    except (OSError, UnicodeDecodeError) as error:
        raise RunError(f"{path}: cannot be read: {error}") from error
    return [_object(line, f"{path}, line {number}") for number, line in enumerate(lines, start=1)]


def text(value: Any) -> str:
    """A recipe's value as a terminal shows it: `-` for none, a layer as `conv=10 kernel=5 batch_norm`."""
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
            given = {key: part for key, part in value.items() if part is not None and part is not False}
            return " ".join(key if part is True else f"{key}={text(part)}" for key, part in given.items())
        case _:
            return str(value)


def _table(path: Path) -> dict[str, Any] | None:
    """The JSON object in a file; None where there is no file."""
    try:
        text = path.read_text(encoding="utf-8")
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, UnicodeDecodeError) as error:
        raise RunError(f"{path}: cannot be read: {error}") from error
    return _object(text, str(path))


def _object(text: str, where: str) -> dict[str, Any]:
    try:
        content = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise RunError(f"{where}: this is no JSON: {error}") from error
    if not isinstance(content, dict):
        raise RunError(f"{where}: expected a JSON object, found {type(content).__name__}")
    return content
