"""What a finished run measured: its calibration and its metrics, kept in result.json."""

from pathlib import Path
from statistics import stdev
from typing import Any, Self

from pydantic import BaseModel, ConfigDict, ValidationError

from contract.manifest import Metrics
from training.errors import RunError
from training.network.calibrated import Calibration
from training.recipe.gate import Gate
from training.runs.record import temperature_text


class Saved(BaseModel):
    """A small JSON file in a run's folder."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    @classmethod
    def read(cls, path: Path) -> Self | None:
        """Read the file; None if it is missing.

        Raises:
            RunError: the file cannot be read, or its content is invalid.
        """
        try:
            return cls.model_validate_json(path.read_bytes())
        except (FileNotFoundError, NotADirectoryError):
            return None
        except (OSError, ValidationError) as error:
            cause = str(error)
            if isinstance(error, ValidationError):
                fault = error.errors()[0]
                cause = ": ".join([*map(str, fault["loc"]), fault["msg"]])
            raise RunError(
                f"{path}: cannot be read: {cause}. Remove the file, then continue the run with: "
                f"python -m training train --resume {path.parent}"
            ) from error

    def write(self, path: Path) -> None:
        """Write the file in one step.

        Raises:
            RunError: it cannot be written.
        """
        partial = path.with_name(f"{path.name}.partial")
        try:
            partial.write_text(self.model_dump_json(indent=2) + "\n", encoding="utf-8")
            partial.replace(path)
        except OSError as error:
            raise RunError(f"{path}: cannot be written: {error}. The checkpoints beside it are complete.") from error


class Result(Saved):
    """The result of a finished run; the metrics are those of the calibrated probabilities."""

    temperature: float
    validation: Metrics
    """The metrics on the validation split; of a cross-validation, over the test examples of all folds."""
    seconds: float
    fingerprint: str
    """Of the data set."""
    hardware: str = "hardware that was not recorded"
    folds: tuple[Metrics, ...] = ()
    """The test metrics of each fold of a cross-validation."""
    length_exponent: float = 0.0
    length_range: tuple[int, int] | None = None
    temperature_interval: tuple[float, float] | None = None
    """The 95 % interval of the temperature; None if there were too few examples to fit it."""
    baseline: float | None = None
    """The share of the most frequent label of the validation split: the accuracy of always naming it."""
    linear: float | None = None
    """For texts, the validation accuracy of logistic regression over TF-IDF."""
    validation_figures: dict[str, Any] | None = None
    """Those of `evaluation.classes.figures`; None for a cross-validation."""
    tokenizer: str | None = None
    """For texts, the SHA-256 of the tokenizer.json that gave the token ids."""

    @property
    def calibration(self) -> Calibration:
        return Calibration(self.temperature, self.length_exponent, self.length_range)

    @property
    def calibration_text(self) -> str:
        """The temperature with its interval, and what can be said about it."""
        text = temperature_text(self.temperature, self.length_exponent, self.length_range)
        if self.temperature_interval is None:
            return f"{text} (not fitted: {self.validation.n:,} examples are too few)"
        low, high = self.temperature_interval
        text = f"{text} (95 % interval {low:.2f} to {high:.2f})"
        if low <= 1 <= high and not self.length_exponent:
            text += ", which does not differ from 1 by more than chance"
        return text

    def __str__(self) -> str:
        return self.summary(Gate())

    def summary(self, gate: Gate) -> str:
        """The result for the terminal, with the figure that a gate holds on."""
        metrics = self.validation
        if self.folds:
            deviation = stdev(fold.accuracy for fold in self.folds)
            return (
                f"trained in {self.seconds:,.0f} s; test accuracy over {len(self.folds)} folds {metrics.accuracy:.2%} "
                f"(n = {metrics.n:,}, standard deviation of the folds {deviation:.2%}), "
                f"calibration error {metrics.ece:.4f}"
            )
        baseline = "" if self.baseline is None else f", always naming the largest class has {self.baseline:.2%}"
        for each in dict.fromkeys((Gate(metric="balanced-accuracy"), gate)):
            value = each.of(None, self.validation_figures)
            if value is not None:
                baseline += f", {each.title} {each.show(value)}"
        if self.linear is not None:
            baseline += f", logistic regression over TF-IDF {self.linear:.2%}"
            if self.linear > metrics.accuracy and gate.metric == "accuracy":
                baseline += ": THE BASELINE IS BETTER, so train longer, with more examples, or use it"
            elif self.linear > metrics.accuracy:
                baseline += f", a higher accuracy, but the gate holds on the {gate.title}"
        return (
            f"trained in {self.seconds:,.0f} s; validation accuracy {metrics.accuracy:.2%} (n = {metrics.n:,})"
            f"{baseline}, calibration error {metrics.ece:.4f}, temperature {self.calibration_text}"
        )


class Fold(Saved):
    """The result of one fold of a cross-validation."""

    metrics: Metrics
    """On the test examples of the fold."""
    seconds: float
    fingerprint: str


def pooled(folds: tuple[Metrics, ...]) -> Metrics:
    """The metrics over the examples of all folds; the calibration error is the mean of the folds'."""
    n = sum(fold.n for fold in folds)
    means = {key: sum(getattr(fold, key) * fold.n for fold in folds) / n for key in ("accuracy", "nll", "ece")}
    return Metrics(n=n, **means)
