"""A recipe: one experiment, typed and checked.

A recipe is a TOML file that reads like the table in a paper: the input, the layers from first to last, and every
hyper-parameter of the training. `load` turns it into a frozen `Recipe` or refuses it in lines that name the key.
"""

import difflib
import tomllib
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
    """Weights at the start: PyTorch's own, Glorot & Bengio (2010) or He et al. (2015), normal or uniform.

    `fixed` gives all layers the same `spread`: the standard deviation of the normal, the bound of the uniform
    distribution (Krizhevsky et al., 2012, have 0.01).
    `pretrained` takes all layers but the last from a file of weights that torch can read, downloaded from `url`;
    `sha256` is its checksum or the first digits of it. The last layer is drawn as PyTorch does.
    """

    name: Literal["pytorch", "xavier", "he", "fixed", "pretrained"] = "pytorch"
    distribution: Literal["normal", "uniform"] = "uniform"
    spread: Positive = 0.01
    url: str | None = None
    sha256: Annotated[str, Field(pattern="^[0-9a-f]{8,64}$")] | None = None
    freeze: bool = False
    """Keep the pretrained layers as they are and train the last one only."""

    @model_validator(mode="after")
    def _pretrained_has_a_source(self) -> "Initialise":
        if any((self.name == "pretrained") != bool(value) for value in (self.url, self.sha256)):
            raise ValueError("name = 'pretrained' needs url and sha256, and no other name takes them")
        if self.freeze and self.name != "pretrained":
            raise ValueError("freeze = true needs name = 'pretrained'")
        return self


class Loss(Section):
    """Cross-entropy or mean squared error of the probabilities; labels may be smoothed (Szegedy et al., 2016)."""

    name: Literal["cross-entropy", "mean-squared-error"] = "cross-entropy"
    label_smoothing: Fraction = 0.0


class SGD(Section):
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
    name: Literal["adagrad"]
    learning_rate: Positive
    weight_decay: NotNegative = 0.0


class RMSProp(Section):
    name: Literal["rmsprop"]
    learning_rate: Positive
    alpha: Fraction = 0.99
    weight_decay: NotNegative = 0.0


class Adadelta(Section):
    name: Literal["adadelta"]
    learning_rate: Positive = 1.0
    rho: Fraction = 0.9
    weight_decay: NotNegative = 0.0


class Adam(Section):
    name: Literal["adam"]
    learning_rate: Positive
    beta1: Fraction = 0.9
    beta2: Fraction = 0.999
    weight_decay: NotNegative = 0.0


class AdamW(Adam):
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
    """The learning rate over the steps of a run, as a share of the optimiser's.

    `constant`; `cosine` falls to 0 (Loshchilov & Hutter, 2017); `one-cycle` climbs linearly from a 25th over the
    share `warmup` of the steps, then falls along a cosine to 0 (Smith & Topin, 2018, without the momentum cycle);
    `step` is multiplied by `factor` at each share of the steps in `milestones` (Krizhevsky et al., 2012).
    """

    name: Literal["constant", "cosine", "one-cycle", "step"] = "constant"
    warmup: Fraction = 0.3
    milestones: list[Fraction] = Field(default=[0.5, 0.75])
    factor: Annotated[float, Field(gt=0, le=1)] = 0.1


class Augment(Section):
    """Random changes to each training example, uniform within +-bounds: a new draw every epoch.

    For pictures, geometry first: a part of the picture, at least the share `crop` of its area with sides up to 4:3
    or 3:4 (Szegedy et al., 2015), mirrored half of the time where `flip` is set, turned, scaled, sheared and shifted;
    then colours: `brightness`, `contrast` and `tint` (brightness a channel) in shares of the standard deviation that
    the input is scaled by. For texts: one longer than `span` tokens is cut to a part of it, of a length between `span`
    and its own; `word_dropout` replaces each token by the unknown one with that probability
    (Iyyer et al., 2015).
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
    """One experiment. `name` is the file's, everything else its content."""

    name: str
    task: Annotated[str, Field(pattern=r"^[a-z][a-z0-9-]*$")]
    labels: Annotated[list[str], Field(min_length=2)]
    description: str
    activation: Activation = "relu"
    layers: Annotated[list[Layer], Field(min_length=1)]
    epochs: Count
    batch_size: Annotated[int | Literal["full"], count_or("full", "all of the training split")]
    seed: Annotated[int, Field(ge=0, lt=2**40)] = 0
    precision: Literal["float32", "bfloat16", "auto"] = "float32"
    """bfloat16 computes in mixed precision; auto takes it where a check at the start finds it right and faster."""
    resolutions: Annotated[list[Count], Field(min_length=1)] | None = None
    """Progressive resolution: sides in pixels of the training pictures, each for an equal share of the epochs."""
    early_stopping: Count | None = None
    """Stop after so many epochs without a better validation accuracy, and keep the best epoch's weights."""
    average_decay: Fraction = 0.0
    """Exponential moving average of the weights, used for evaluation and publication; 0 switches it off."""
    input: Input
    data: Data
    initialise: Initialise = Initialise()
    loss: Loss = Loss()
    optimiser: Optimiser
    schedule: Schedule = Schedule()
    augment: Augment = Augment()

    @model_validator(mode="after")
    def _labels_differ(self) -> "Recipe":
        if len(set(self.labels)) != len(self.labels):
            raise ValueError("labels: a label stands twice in the list")
        return self

    @model_validator(mode="after")
    def _keys_agree(self) -> "Recipe":
        if self.early_stopping and self.data.refit:
            raise ValueError("early_stopping: needs a validation split, which data.refit = true trains on in the end")
        if self.data.folds and self.data.refit:
            raise ValueError("data.folds: cross-validation publishes nothing, so there is nothing to refit")
        if self.resolutions and isinstance(self.input, Text):
            raise ValueError("resolutions: are of pictures; this input is text")
        if self.resolutions and isinstance(self.input, Image) and self.input.height != self.input.width:
            raise ValueError("resolutions: are sides of square pictures; this input is not square")
        return self


_UNIONS: dict[str, dict[str, type[Section]]] = {"layers": LAYERS, "optimiser": OPTIMISERS, "input": INPUTS}


def names() -> list[str]:
    """The recipes that come with the package."""
    return sorted(path.stem for path in RECIPES.glob("*.toml"))


def load(recipe: str, overrides: list[str] | None = None) -> Recipe:
    """Read a recipe by name or path, with `KEY=VALUE` overrides applied.

    Raises:
        RecipeError: no such recipe, no TOML, an unknown key, a value out of bounds; one line for each fault.
    """
    path = Path(recipe) if recipe.endswith(".toml") else RECIPES / f"{recipe}.toml"
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        near = difflib.get_close_matches(recipe, names(), n=1)
        hint = f"did you mean {near[0]!r}? " if near else ""
        raise RecipeError(
            f"there is no recipe {recipe!r}; {hint}there are {', '.join(names())}, or give a path ending in .toml"
        ) from error
    except (ValueError, RecursionError, OSError) as error:  # no TOML, no UTF-8, too deep, no path
        raise RecipeError(f"{path}: cannot be read as TOML: {error}") from error
    for override in overrides or []:
        _override(table, override)
    return parse({"name": path.stem, **table})


def parse(table: Any) -> Recipe:
    """Check a recipe's content.

    Raises:
        RecipeError: with one line for each fault, each naming its key and what is allowed there.
    """
    try:
        return Recipe.model_validate(table)
    except ValidationError as error:
        name = table.get("name", "recipe") if isinstance(table, dict) else "recipe"
        faults = Faults(Recipe, _UNIONS)
        raise RecipeError("\n".join(f"{name}: {faults.explain(fault)}" for fault in error.errors())) from error


def _override(table: dict[str, Any], override: str) -> None:
    """Apply `optimiser.name=adagrad` to a recipe's table; a value that is not TOML is a string."""
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
            raise RecipeError(f"--set {override!r}: {part!r} is not a table of the recipe")
    table[last] = value
