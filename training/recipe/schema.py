"""A recipe: one experiment as a TOML file, checked.

It reads like the table in a paper: the data, the layers from first to last, and every hyper-parameter of the training.
`load` returns an immutable `Recipe`, or raises an error with one line for each wrong key.
"""

import difflib
import tomllib
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from pydantic import AfterValidator, Field, ValidationError, model_validator

from contract.manifest import Labels, ModelName
from training.data.schema import INPUTS, Data, Image, Input, Text
from training.errors import RecipeError
from training.recipe.faults import Faults
from training.recipe.gate import Gate
from training.recipe.layers import LAYERS, Layer
from training.recipe.optimise import OPTIMISERS, Loss, Optimiser, Schedule
from training.recipe.overrides import apply
from training.section import Activation, Count, Fraction, NotNegative, Positive, Section, count_or

RECIPES = Path(__file__).parents[1] / "recipes"


class Initialise(Section):
    """The initial weights: PyTorch's default, Glorot & Bengio (2010) or He et al. (2015), normal or uniform.

    `fixed` has the same `spread` in all layers: the standard deviation of the normal, or the bound of the uniform
    distribution (0.01 in Krizhevsky et al., 2012). `orthogonal` has orthogonal rows (Saxe et al., 2014); with `zeros`
    all units of a layer stay equal. `pretrained` reads all layers but the last from a file of torch weights at `url`
    with the checksum `sha256`, or its first digits; the last layer has PyTorch's default. `version` reads them from a
    version of a model of ours in the folder `path`, like `models/NAME/VERSION`; the recipe must have its mode, mean,
    std, and layers but the last.
    """

    USES: ClassVar[dict[str, frozenset[str]]] = {
        "distribution": frozenset({"xavier", "he", "fixed"}),
        "spread": frozenset({"fixed"}),
        "url": frozenset({"pretrained"}),
        "sha256": frozenset({"pretrained"}),
        "path": frozenset({"version"}),
        "freeze": frozenset({"pretrained", "version"}),
        "body_rate": frozenset({"pretrained", "version"}),
    }

    name: Literal["pytorch", "xavier", "he", "fixed", "zeros", "orthogonal", "pretrained", "version"] = "pytorch"
    distribution: Literal["normal", "uniform"] = "uniform"
    spread: Positive = 0.01
    url: str | None = None
    sha256: Annotated[str, Field(pattern="^[0-9a-f]{8,64}$")] | None = None
    path: str | None = None
    """The folder of the version, seen from the working directory."""
    freeze: bool = False
    """Train the last layer only; the others compute as in evaluation, without dropout and with fixed batch norm."""

    body_rate: Annotated[float, Field(gt=0, le=1)] = 1.0
    """The learning rate of all layers but the last, as a share of that of the last."""

    @model_validator(mode="after")
    def _version_has_a_path(self) -> "Initialise":
        if self.name == "version" and not self.path:
            raise ValueError("path is required with name = 'version', like models/NAME/VERSION")
        if self.freeze and self.body_rate != 1:
            raise ValueError("body_rate: has no effect with freeze = true")
        return self

    @model_validator(mode="after")
    def _pretrained_has_a_source(self) -> "Initialise":
        if self.name == "pretrained" and not (self.url and self.sha256):
            raise ValueError("url and sha256 are required with name = 'pretrained'")
        return self


class Augment(Section):
    """Random changes to each training example, uniform within the bounds, drawn again in every epoch.

    Images: first a crop of at least the fraction `crop` of the area, with an aspect ratio from 3:4 to 4:3 (Szegedy et
    al., 2015); a mirror image half of the time with `flip`, and upside down with `flip_vertical`; rotation, scaling,
    shear and shift; then `brightness`, `contrast` and `tint` (brightness of each channel) in units of the input's
    standard deviation, `hue` in turns of the colour circle, a Gaussian blur with a standard deviation of up to
    `blur_px`, normal `noise` with that standard deviation in units of the input's; last, a rectangle of up to the
    fraction `erase` of the area is set to the mean (Zhong et al., 2020). Texts: those longer than `span` tokens are cut
    to a random part of at least `span` tokens; `word_dropout` replaces each token with the unknown word with that
    probability (Iyyer et al., 2015).
    """

    rotate_deg: Annotated[float, Field(ge=0, le=180)] = 0.0
    scale: Fraction = 0.0
    shear_deg: Annotated[float, Field(ge=0, lt=90)] = 0.0
    shift_px: NotNegative = 0.0
    crop: Annotated[float, Field(gt=0, le=1)] = 1.0
    flip: bool = False
    flip_vertical: bool = False
    brightness: NotNegative = 0.0
    contrast: Fraction = 0.0
    tint: NotNegative = 0.0
    hue: Annotated[float, Field(ge=0, le=0.5)] = 0.0
    blur_px: NotNegative = 0.0
    noise: NotNegative = 0.0
    erase: Fraction = 0.0
    word_dropout: Fraction = 0.0
    span: Count | None = None


TEXT_AUGMENTATIONS = ("word_dropout", "span")


def _is_file_name(name: str) -> str:
    is_long = len(name) > MAX_NAME or len(name.encode(errors="replace")) > MAX_NAME_BYTES
    if not name or is_long or name.startswith(".") or any(each in "/\\" or each < " " for each in name):
        raise ValueError(
            f"invalid value {name[:MAX_NAME]!r}: must be a file name of up to {MAX_NAME} characters and "
            f"{MAX_NAME_BYTES} bytes, without / or \\ and without a dot at its start, since runs are saved in a folder "
            "of this name"
        )
    return name


MAX_NAME, MAX_NAME_BYTES = 100, 255
RecipeName = Annotated[str, AfterValidator(_is_file_name)]


class Recipe(Section):
    """One experiment. `name` is the name of the file."""

    name: RecipeName
    task: ModelName
    """The name of the model that is published."""
    labels: Labels
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
    """Stop after this many epochs without a better `gate.metric` on the validation split, and keep the best weights."""
    average_decay: Fraction = 0.0
    """Decay of a moving average of the weights, which is evaluated and published; 0 switches it off. After n steps, it
    is at most (1 + n) / (10 + n), so that a short run forgets its initial weights."""
    accumulate: Count = 1
    """The number of batches whose gradients are averaged for one step."""
    clip_gradient: Positive | None = None
    """The longest norm of the gradient of all parameters; longer ones are scaled to it (Pascanu et al., 2013)."""
    l1: NotNegative = 0.0
    """The weight of the sum of absolute weights, without biases and norms, in what is minimised."""
    input: Input
    data: Data
    initialise: Initialise = Initialise()
    loss: Loss = Loss()
    optimiser: Optimiser
    schedule: Schedule = Schedule()
    augment: Augment = Augment()
    gate: Gate = Gate()

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
        if self.schedule.name == "plateau" and self.data.refit:
            raise ValueError("schedule.name: 'plateau' needs a validation split, which data.refit = true trains on")
        if self.schedule.name == "plateau" and self.schedule.patience > self.epochs - 2:
            raise ValueError(
                f"schedule.patience: {self.schedule.patience} has no effect in {self.epochs} epochs; it needs "
                f"{self.schedule.patience + 2}: a best one, as many without a better one, and one with a lower rate"
            )
        if self.accumulate > 1 and self.batch_size == "full":
            raise ValueError("accumulate: has no effect with batch_size = 'full', which has one batch in an epoch")
        if self.data.folds and self.gate != Gate():
            raise ValueError(
                "gate.metric: has no effect with data.folds, since a cross-validation publishes nothing; unset it with "
                "--set gate="
            )
        fault = self.gate.fault(self.labels)
        if fault:
            raise ValueError(fault)
        weights = self.loss.class_weights
        if weights == "balanced" and self.data.sampling == "balanced":
            raise ValueError(
                "loss.class_weights: 'balanced' with data.sampling = 'balanced', whose epochs have all labels equally "
                "often, would count small classes twice; set one of them"
            )
        unknown = sorted(set(weights) - set(self.labels)) if isinstance(weights, dict) else []
        if unknown:
            raise ValueError(f"loss.class_weights: {', '.join(unknown)} not in labels: {', '.join(self.labels)}")
        return self

    @model_validator(mode="after")
    def _keys_fit_the_input(self) -> "Recipe":
        spec, is_text = self.input, isinstance(self.input, Text)
        if is_text and self.data.max_unreadable != Data.model_fields["max_unreadable"].default:
            raise ValueError("data.max_unreadable: is for images, but input.kind = 'text'")
        for key, field in Augment.model_fields.items():
            if (key in TEXT_AUGMENTATIONS) != is_text and getattr(self.augment, key) != field.default:
                kind = "images" if is_text else "texts"
                raise ValueError(f"augment.{key}: is for {kind}, but input.kind = {spec.kind!r}")
        for key, value in (("resolutions", self.resolutions), ("data.stored_side", self.data.stored_side)):
            if value and is_text:
                raise ValueError(f"{key}: is for images, but input.kind = 'text'")
        if isinstance(spec, Image):
            self._check_sides(spec)
        elif (self.augment.span or 0) >= spec.length:
            raise ValueError(
                f"augment.span: {self.augment.span} has no effect, since texts have at most input.length = "
                f"{spec.length} tokens"
            )
        return self

    def _check_sides(self, spec: Image) -> None:
        if self.augment.hue and spec.mode != "RGB":
            raise ValueError(f"augment.hue: needs colours, but input.mode = {spec.mode!r}")
        longest, stored = max(spec.height, spec.width), self.data.stored_side
        if stored and stored < longest:
            raise ValueError(
                f"data.stored_side: {stored} is less than the input's longer side, {longest}: photos would be enlarged"
            )
        if self.resolutions and spec.height != spec.width:
            raise ValueError(f"resolutions: need a square input, got height = {spec.height} and width = {spec.width}")
        if self.resolutions and set(self.resolutions) == {spec.height}:
            raise ValueError(f"resolutions: {self.resolutions} has no effect, since the input has {spec.height} pixels")
        if self.resolutions and max(self.resolutions) > (stored or longest):
            raise ValueError(
                f"resolutions: {max(self.resolutions)} is more than the {stored or longest} pixels at which training "
                "images are stored; set data.stored_side to it"
            )


_UNIONS: dict[str, dict[str, type[Section]]] = {"layers": LAYERS, "optimiser": OPTIMISERS, "input": INPUTS}


def names() -> list[str]:
    """The recipes that come with the package."""
    return sorted(path.stem for path in RECIPES.glob("*.toml"))


def load(recipe: str, overrides: list[str] | None = None, show: Callable[[str], object] = lambda _line: None) -> Recipe:
    """Read a recipe by name or path, with `KEY=VALUE` overrides applied; `show` gets a line about each key it drops.

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
    apply(table, overrides or [], {"loss": Loss, "schedule": Schedule, "initialise": Initialise}, show)
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
