"""A recipe: one experiment as a TOML file, checked.

It reads like the table in a paper: the data, the layers from first to last, and every hyper-parameter of the training.
`load` returns an immutable `Recipe`, or raises an error with one line for each wrong key.
"""

import difflib
import tomllib
from collections import Counter
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError, model_validator

from training.data.schema import INPUTS, Data, Image, Input, Text
from training.errors import RecipeError
from training.recipe.faults import Faults
from training.recipe.layers import LAYERS, Layer
from training.section import Activation, Count, Fraction, NotNegative, Positive, Section, count_or

RECIPES = Path(__file__).parents[1] / "recipes"


class Initialise(Section):
    """The initial weights: PyTorch's default, Glorot & Bengio (2010) or He et al. (2015), normal or uniform.

    `fixed` has the same `spread` in all layers: the standard deviation of the normal, or the bound of the uniform
    distribution (0.01 in Krizhevsky et al., 2012). `pretrained` reads all layers but the last from a file of torch
    weights at `url` with the checksum `sha256`, or its first digits; the last layer has PyTorch's default.
    """

    name: Literal["pytorch", "xavier", "he", "fixed", "pretrained"] = "pytorch"
    distribution: Literal["normal", "uniform"] = "uniform"
    spread: Positive = 0.01
    url: str | None = None
    sha256: Annotated[str, Field(pattern="^[0-9a-f]{8,64}$")] | None = None
    freeze: bool = False
    """Train the last layer only."""

    @model_validator(mode="after")
    def _pretrained_has_a_source(self) -> "Initialise":
        if any((self.name == "pretrained") != bool(value) for value in (self.url, self.sha256)):
            raise ValueError("url and sha256 are required with name = 'pretrained', and not allowed with other names")
        if self.freeze and self.name != "pretrained":
            raise ValueError("freeze = true needs name = 'pretrained'")
        return self


class Loss(Section):
    """Cross-entropy, or mean squared error of the probabilities, with label smoothing (Szegedy et al., 2016)."""

    name: Literal["cross-entropy", "mean-squared-error"] = "cross-entropy"
    label_smoothing: Fraction = 0.0


class SGD(Section):
    """Stochastic gradient descent, optionally with momentum (Polyak, 1964; Nesterov, 1983)."""

    name: Literal["sgd"]
    learning_rate: Positive
    momentum: Fraction = 0.0
    nesterov: bool = False
    weight_decay: NotNegative = 0.0

    @model_validator(mode="after")
    def _nesterov_needs_momentum(self) -> "SGD":
        if self.nesterov and not self.momentum:
            raise ValueError("nesterov = true needs a momentum above 0")
        return self


class AdaGrad(Section):
    """Duchi et al. (2011)."""

    name: Literal["adagrad"]
    learning_rate: Positive
    weight_decay: NotNegative = 0.0


class RMSProp(Section):
    """Tieleman & Hinton (2012)."""

    name: Literal["rmsprop"]
    learning_rate: Positive
    alpha: Fraction = 0.99
    weight_decay: NotNegative = 0.0


class Adadelta(Section):
    """Zeiler (2012)."""

    name: Literal["adadelta"]
    learning_rate: Positive = 1.0
    rho: Fraction = 0.9
    weight_decay: NotNegative = 0.0


class Adam(Section):
    """Kingma & Ba (2015)."""

    name: Literal["adam"]
    learning_rate: Positive
    beta1: Fraction = 0.9
    beta2: Fraction = 0.999
    weight_decay: NotNegative = 0.0


class AdamW(Adam):
    """Adam with decoupled weight decay (Loshchilov & Hutter, 2019)."""

    name: Literal["adamw"]  # type: ignore[assignment]


OPTIMISERS: dict[str, type[Section]] = {
    "sgd": SGD,
    "adagrad": AdaGrad,
    "rmsprop": RMSProp,
    "adadelta": Adadelta,
    "adam": Adam,
    "adamw": AdamW,
}
Optimiser = Annotated[SGD | AdaGrad | RMSProp | Adadelta | Adam | AdamW, Field(discriminator="name")]


class Schedule(Section):
    """The learning rate over the steps of a run, relative to that of the optimiser.

    `cosine` falls to 0 (Loshchilov & Hutter, 2017). `one-cycle` rises linearly from 1/25 during the fraction `warmup`
    of the steps, then falls along a cosine to 0 (Smith & Topin, 2018, without the momentum cycle). `step` is multiplied
    by `factor` at each of `milestones`, which are fractions of the steps (Krizhevsky et al., 2012).
    """

    name: Literal["constant", "cosine", "one-cycle", "step"] = "constant"
    warmup: Fraction = 0.3
    milestones: list[Fraction] = Field(default=[0.5, 0.75])
    factor: Annotated[float, Field(gt=0, le=1)] = 0.1


class Augment(Section):
    """Random changes to each training example, uniform within the bounds, drawn again in every epoch.

    Images: first a crop of at least the fraction `crop` of the area, with an aspect ratio from 3:4 to 4:3 (Szegedy et
    al., 2015); a mirror image half of the time with `flip`; rotation, scaling, shear and shift; then `brightness`,
    `contrast` and `tint` (brightness of each channel) in units of the input's standard deviation. Texts: those longer
    than `span` tokens are cut to a random part of at least `span` tokens; `word_dropout` replaces each token with the
    unknown word with that probability (Iyyer et al., 2015).
    """

    rotate_deg: Annotated[float, Field(ge=0, le=180)] = 0.0
    scale: Fraction = 0.0
    shear_deg: Annotated[float, Field(ge=0, lt=90)] = 0.0
    shift_px: NotNegative = 0.0
    crop: Annotated[float, Field(gt=0, le=1)] = 1.0
    flip: bool = False
    brightness: NotNegative = 0.0
    contrast: Fraction = 0.0
    tint: NotNegative = 0.0
    word_dropout: Fraction = 0.0
    span: Count | None = None


class Recipe(Section):
    """One experiment. `name` is the name of the file."""

    name: str
    task: Annotated[str, Field(pattern=r"^[a-z][a-z0-9-]*$")]
    """The name of the model that is published."""
    labels: Annotated[list[str], Field(min_length=2)]
    """The labels of the data set, in the order of the network's outputs."""
    description: str
    activation: Activation = "relu"
    """The activation of layers that do not name their own."""
    layers: Annotated[list[Layer], Field(min_length=1)]
    epochs: Count
    batch_size: Annotated[int | Literal["full"], count_or("full", "the training split")]
    seed: Annotated[int, Field(ge=0, lt=2**40)] = 0
    precision: Literal["float32", "bfloat16", "auto"] = "float32"
    """bfloat16 is mixed precision; auto uses it if a check at the start finds it correct and faster."""
    resolutions: Annotated[list[Count], Field(min_length=1)] | None = None
    """Progressive resolution: sides in pixels of the training images, each for an equal part of the epochs."""
    early_stopping: Count | None = None
    """Stop after this many epochs without a better validation accuracy, and keep the weights of the best epoch."""
    average_decay: Fraction = 0.0
    """Decay of a moving average of the weights, which is evaluated and published; 0 switches it off."""
    input: Input
    data: Data
    initialise: Initialise = Initialise()
    loss: Loss = Loss()
    optimiser: Optimiser
    schedule: Schedule = Schedule()
    augment: Augment = Augment()

    @model_validator(mode="after")
    def _labels_differ(self) -> "Recipe":
        repeated = [label for label, count in Counter(self.labels).items() if count > 1]
        if repeated:
            raise ValueError(f"labels: {', '.join(repeated)} must not be repeated")
        return self

    @model_validator(mode="after")
    def _keys_agree(self) -> "Recipe":
        if self.early_stopping and self.data.refit:
            raise ValueError("early_stopping: not allowed with data.refit = true, which trains on the validation split")
        if self.data.folds and self.data.refit:
            raise ValueError("data.folds: not allowed with data.refit = true, since cross-validation publishes nothing")
        if self.resolutions and isinstance(self.input, Text):
            raise ValueError("resolutions: not allowed for input.kind = 'text'")
        if self.resolutions and isinstance(self.input, Image) and self.input.height != self.input.width:
            raise ValueError(
                f"resolutions: need a square input, got height = {self.input.height} and width = {self.input.width}"
            )
        return self


_UNIONS: dict[str, dict[str, type[Section]]] = {"layers": LAYERS, "optimiser": OPTIMISERS, "input": INPUTS}


def names() -> list[str]:
    """The recipes that come with the package."""
    return sorted(path.stem for path in RECIPES.glob("*.toml"))


def load(recipe: str, overrides: list[str] | None = None) -> Recipe:
    """Read a recipe by name or path, with `KEY=VALUE` overrides applied.

    Raises:
        RecipeError: the recipe is unknown, not TOML or not valid; one line for each error.
    """
    path = Path(recipe) if recipe.endswith(".toml") else RECIPES / f"{recipe}.toml"
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        near = difflib.get_close_matches(recipe, names(), n=1)
        hint = f"did you mean {near[0]!r}? " if near else ""
        raise RecipeError(
            f"unknown recipe {recipe!r}; {hint}available recipes: {', '.join(names())}, or a path that ends in .toml"
        ) from error
    except (ValueError, RecursionError, OSError) as error:  # not TOML, not UTF-8, too deep, not a valid path
        raise RecipeError(f"{path}: cannot be read as TOML: {error}") from error
    for override in overrides or []:
        _override(table, override)
    return parse({"name": path.stem, **table})


def parse(table: Any) -> Recipe:
    """Check the content of a recipe.

    Raises:
        RecipeError: one line for each error, which names the key and the allowed values.
    """
    try:
        return Recipe.model_validate(table)
    except ValidationError as error:
        name = table.get("name", "recipe") if isinstance(table, dict) else "recipe"
        faults = Faults(Recipe, _UNIONS)
        raise RecipeError("\n".join(f"{name}: {faults.explain(fault)}" for fault in error.errors())) from error


def _override(table: dict[str, Any], override: str) -> None:
    """Apply an override like `optimiser.name=adagrad`; a value that is not TOML is a string."""
    key, equals, text = override.partition("=")
    if not equals or not all(key.split(".")):
        raise RecipeError(f"--set {override!r}: expected KEY=VALUE, like optimiser.name=adagrad")
    try:
        value: Any = tomllib.loads(f"value = {text}")["value"]
    except (ValueError, RecursionError):
        value = text
    *path, last = key.split(".")
    for part in path:
        table = table.setdefault(part, {})
        if not isinstance(table, dict):
            raise RecipeError(f"--set {override!r}: {part!r} is not a table")
    table[last] = value
