"""The table `[gate]` of a recipe: the figure in which a new version must not be worse. `evaluation` computes it."""

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, model_validator

from training.section import Section

_OF_LABEL = ("precision", "recall", "f1")
_OF_TWO = ("roc-auc", "average-precision")
_TITLES = {"roc-auc": "ROC AUC", "macro-f1": "macro F1", "f1": "F1"}


class Gate(Section):
    """The figure on the test splits in which a new version must not be worse than the versions before it.

    `balanced-accuracy` is the mean recall of the labels, and `macro-f1` their mean F1, so that rare labels count as
    much as others. `precision`, `recall` and `f1` are those of `label`. Of two labels, `roc-auc` is how often an
    example of one has a higher score than one of the other, and `average-precision` the area under precision over
    recall of `label`. A sweep and early stopping choose by the same figure on the validation split.
    """

    metric: Literal[
        "accuracy", "balanced-accuracy", "macro-f1", "roc-auc", "average-precision", "precision", "recall", "f1"
    ] = "accuracy"
    label: Annotated[str | None, BeforeValidator(lambda value: str(value) if type(value) is int else value)] = None
    """The label that the metric is about."""

    @model_validator(mode="after")
    def _label_belongs_to_the_metric(self) -> "Gate":
        needs_label = self.metric in {*_OF_LABEL, "average-precision"}
        if needs_label and self.label is None:
            raise ValueError(f"label is required with metric = {self.metric!r}, which is about one label")
        if self.label is not None and not needs_label:
            raise ValueError(f"label: has no effect with metric = {self.metric!r}, which is about all labels")
        return self

    def fault(self, labels: list[str]) -> str | None:
        """Why the metric does not exist for these labels, as a key of the recipe and a sentence."""
        if self.label is not None and self.label not in labels:
            return f"gate.label: {self.label!r} is not in labels: {', '.join(labels)}"
        if self.metric in _OF_TWO and len(labels) != 2:  # noqa: PLR2004 -- a score for each of two
            return (
                f"gate.metric: {self.metric!r} needs two labels, but the recipe has {len(labels)}; "
                "use 'balanced-accuracy', 'macro-f1', or 'f1' of one label"
            )
        return None

    @property
    def title(self) -> str:
        """The metric for people, like `balanced accuracy` or `recall of 'cat'`."""
        words = _TITLES.get(self.metric, self.metric.replace("-", " "))
        return words if self.label is None else f"{words} of {self.label!r}"

    def show(self, value: float) -> str:
        """A value of the metric: in percent, or with four digits where that is usual."""
        return f"{value:.4f}" if self.metric in _OF_TWO else f"{value:.2%}"

    def show_interval(self, low: float, high: float) -> str:
        """A 95 % interval of the metric."""
        if self.metric in _OF_TWO:
            return f"95 % interval {low:.4f}-{high:.4f}"
        return f"95 % interval {100 * low:.1f}-{100 * high:.1f} %"

    def of(self, accuracy: float | None, figures: Mapping[str, Any] | None) -> float | None:
        """The value among an accuracy and the figures of `evaluation.classes.figures`; None if it was not measured."""
        if self.metric == "accuracy":
            return accuracy
        table: Any = figures or {}
        if self.label is not None:
            table = table.get("classes", {}).get(self.label, {})
        value = table.get(self.metric.replace("-", "_"))
        return None if value is None else float(value)
