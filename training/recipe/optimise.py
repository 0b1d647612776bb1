"""The tables of a recipe about learning: `[loss]`, `[optimiser]` and `[schedule]`. `fit.optimise` computes them."""

from typing import Annotated, ClassVar, Literal, Self

from pydantic import Field, model_validator

from training.section import Count, Fraction, NotNegative, Positive, Section

Decayed = Literal["all", "weights"]
"""What weight decay falls on: all parameters, or only weights, without biases and the parameters of norms."""


class Loss(Section):
    """The mean over examples of a loss of the logits z and the label y.

    `cross-entropy` of the softmax; `binary-cross-entropy` of each logit's sigmoid, summed over the labels;
    `mean-squared-error` and `mean-absolute-error` of the softmax, summed over the labels; `hinge`, the sum over the
    other labels of max(0, 1 + z_other - z_y) (Weston & Watkins, 1999); `focal`, the cross-entropy times
    (1 - p)^`gamma` with the softmax p of the label, so that what is right already counts less (Lin et al., 2017).
    """

    USES: ClassVar[dict[str, frozenset[str]]] = {
        "gamma": frozenset({"focal"}),
        "label_smoothing": frozenset(
            {"cross-entropy", "binary-cross-entropy", "mean-squared-error", "mean-absolute-error"}
        ),
    }

    name: Literal[
        "cross-entropy", "binary-cross-entropy", "mean-squared-error", "mean-absolute-error", "hinge", "focal"
    ] = "cross-entropy"
    gamma: NotNegative = 2.0
    """How strongly examples that are right already are left aside; 0 is cross-entropy."""
    label_smoothing: Fraction = 0.0
    """The share of the target that is spread over all labels (Szegedy et al., 2016)."""
    class_weights: Literal["balanced"] | dict[str, Positive] | None = None
    """The weight of the examples of each label, 1 if not given; `balanced` is n / (labels * n of the label)."""


class _Optimiser(Section):
    """What all optimisers have."""

    @model_validator(mode="after")
    def _decay_falls_on_something(self) -> Self:
        if getattr(self, "weight_decay_on", "all") != "all" and not getattr(self, "weight_decay", 0.0):
            raise ValueError("weight_decay_on: has no effect without a weight_decay above 0")
        return self


class SGD(_Optimiser):
    """Stochastic gradient descent, optionally with momentum (Polyak, 1964; Nesterov, 1983)."""

    name: Literal["sgd"]
    learning_rate: Positive
    momentum: Fraction = 0.0
    nesterov: bool = False
    weight_decay: NotNegative = 0.0
    weight_decay_on: Decayed = "all"

    @model_validator(mode="after")
    def _nesterov_needs_momentum(self) -> "SGD":
        if self.nesterov and not self.momentum:
            raise ValueError("nesterov = true needs a momentum above 0")
        return self


class AdaGrad(_Optimiser):
    """Duchi et al. (2011)."""

    name: Literal["adagrad"]
    learning_rate: Positive
    weight_decay: NotNegative = 0.0
    weight_decay_on: Decayed = "all"


class RMSProp(_Optimiser):
    """Tieleman & Hinton (2012), optionally with momentum."""

    name: Literal["rmsprop"]
    learning_rate: Positive
    alpha: Fraction = 0.99
    momentum: Fraction = 0.0
    weight_decay: NotNegative = 0.0
    weight_decay_on: Decayed = "all"


class Adadelta(_Optimiser):
    """Zeiler (2012)."""

    name: Literal["adadelta"]
    learning_rate: Positive = 1.0
    rho: Fraction = 0.9
    weight_decay: NotNegative = 0.0
    weight_decay_on: Decayed = "all"


class Adam(_Optimiser):
    """Kingma & Ba (2015); with `amsgrad`, Reddi et al. (2018)."""

    name: Literal["adam"]
    learning_rate: Positive
    beta1: Fraction = 0.9
    beta2: Fraction = 0.999
    amsgrad: bool = False
    weight_decay: NotNegative = 0.0
    weight_decay_on: Decayed = "all"


class AdamW(Adam):
    """Adam with decoupled weight decay (Loshchilov & Hutter, 2019)."""

    name: Literal["adamw"]  # type: ignore[assignment]


class NAdam(_Optimiser):
    """Adam with Nesterov's momentum (Dozat, 2016)."""

    name: Literal["nadam"]
    learning_rate: Positive
    beta1: Fraction = 0.9
    beta2: Fraction = 0.999
    weight_decay: NotNegative = 0.0
    weight_decay_on: Decayed = "all"


OPTIMISERS: dict[str, type[Section]] = {
    "sgd": SGD,
    "adagrad": AdaGrad,
    "rmsprop": RMSProp,
    "adadelta": Adadelta,
    "adam": Adam,
    "adamw": AdamW,
    "nadam": NAdam,
}
Optimiser = Annotated[SGD | AdaGrad | RMSProp | Adadelta | Adam | AdamW | NAdam, Field(discriminator="name")]


class Schedule(Section):
    """The learning rate over the steps of a run, relative to that of the optimiser.

    First, it rises linearly from 1/25 of its value during the fraction `warmup` of the steps. Then, with t from 0 to
    below 1 over the other steps: `constant` stays; `cosine` and `one-cycle` fall as (1 + cos(pi t)) / 2 (Loshchilov &
    Hutter, 2017; Smith & Topin, 2018, without the momentum cycle); `exponential` is `factor`^t; `inverse-time` is
    1 / (1 + `decay` t). `step` is multiplied by `factor` at each of `milestones`, which are fractions of all steps
    (Krizhevsky et al., 2012), and `plateau` after each `patience` epochs without a lower validation loss.
    """

    USES: ClassVar[dict[str, frozenset[str]]] = {
        "milestones": frozenset({"step"}),
        "factor": frozenset({"step", "exponential", "plateau"}),
        "decay": frozenset({"inverse-time"}),
        "patience": frozenset({"plateau"}),
    }

    name: Literal["constant", "cosine", "one-cycle", "step", "exponential", "inverse-time", "plateau"] = "constant"
    warmup: Fraction | None = None
    """The default is 0.3 for `one-cycle` and 0 for the others."""
    milestones: list[Fraction] = Field(default=[0.5, 0.75])
    factor: Annotated[float, Field(gt=0, lt=1)] = 0.1
    decay: Positive = 9.0
    patience: Count = 3

    @model_validator(mode="after")
    def _steps_have_milestones(self) -> Self:
        if self.name == "step" and not self.milestones:
            raise ValueError("milestones: name = 'step' without milestones is constant; set name = 'constant'")
        return self

    @property
    def warmup_share(self) -> float:
        """The share of the steps that `warmup` has, with its default."""
        if self.warmup is not None:
            return self.warmup
        return 0.3 if self.name == "one-cycle" else 0.0
