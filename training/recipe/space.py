"""What a sweep varies: keys of a recipe, with lists of values or ranges to draw from."""

import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Literal

from training.errors import RecipeError
from training.recipe.gate import Gate
from training.recipe.schema import Recipe

MAX_TRIALS = 1000
_VALUE = re.compile(r"(?:\[[^\]]*\]|\{[^}]*\}|\"[^\"]*\"|'[^']*'|[^,])+")
_RANGE = re.compile(r"([^.,]+(?:\.\d+)?(?:[eE][+-]?\d+)?)\.\.([^:,]+)(:log)?")


@dataclass(frozen=True)
class Choice:
    """A key with the values that it takes, as `--set` takes them."""

    key: str
    values: tuple[str, ...]

    @property
    def ends(self) -> tuple[str, ...]:
        return self.values

    def __str__(self) -> str:
        return f"{self.key} ({', '.join(self.values)})"


@dataclass(frozen=True)
class Range:
    """A key with the numbers from `low` to `high`, whole ones if both are; evenly by their logarithm with `log`."""

    key: str
    low: float
    high: float
    log: bool
    whole: bool

    @property
    def ends(self) -> tuple[str, ...]:
        return self.text(self.low), self.text(self.high)

    def text(self, value: float) -> str:
        """A number as `--set` takes it, with up to four digits."""
        return str(round(value)) if self.whole else f"{value:.4g}"

    def __str__(self) -> str:
        return f"{self.key} ({' to '.join(self.ends)}{', by its logarithm' if self.log else ''})"


Sampler = Literal["random", "tpe"]
Axis = Choice | Range
Load = Callable[[list[str]], Recipe]
"""The recipe of a sweep with some keys overridden."""


def grid(texts: Sequence[str]) -> list[Choice]:
    """The axes of a grid from `KEY=V1,V2` texts.

    Raises:
        RecipeError: a text is not of this form, a key or a value is repeated, or there are over 1,000 combinations.
    """
    axes = [_choice(text, "--grid") for text in texts]
    _check_keys([axis.key for axis in axes])
    size = len(list(combinations(axes)))
    if size > MAX_TRIALS:
        raise RecipeError(f"--grid: {size:,} combinations are too many (maximum {MAX_TRIALS:,}); use --random N")
    return axes


def ranges(texts: Sequence[str]) -> list[Axis]:
    """The axes to draw from: `KEY=LOW..HIGH`, `KEY=LOW..HIGH:log` or `KEY=V1,V2`.

    Raises:
        RecipeError: a text is not of this form, or a key is repeated.
    """
    if not texts:
        raise RecipeError("--random needs --range KEY=LOW..HIGH, like --range optimiser.learning_rate=1e-4..1e-1:log")
    axes = [_range(text) for text in texts]
    _check_keys([axis.key for axis in axes])
    return axes


def combinations(axes: Sequence[Choice]) -> Iterator[dict[str, str]]:
    """Every combination of values, the last axis fastest."""
    for values in product(*(axis.values for axis in axes)):
        yield dict(zip((axis.key for axis in axes), values, strict=True))


def overrides(values: dict[str, str]) -> list[str]:
    """A combination as `--set` takes it."""
    return [f"{key}={value}" for key, value in values.items()]


def _choice(text: str, option: str) -> Choice:
    key, sign, rest = text.partition("=")
    parts = _VALUE.findall(rest)
    values = tuple(part.strip() for part in parts)
    if not sign or not key.strip() or not values or not all(values) or ",".join(parts) != rest:
        raise RecipeError(f"{option} {text!r}: expected KEY=V1,V2, like optimiser.name=sgd,adam or batch_size=32,64")
    if len(set(values)) < len(values):
        raise RecipeError(f"{option} {text!r}: has a value twice")
    return Choice(key.strip(), values)


def _range(text: str) -> Axis:
    key, _, rest = text.partition("=")
    if ".." not in rest:
        return _choice(text, "--range")
    match = _RANGE.fullmatch(rest.strip())
    try:
        low, high = (float(part) for part in match.groups()[:2]) if match else (1.0, 0.0)
    except ValueError:
        low, high = 1.0, 0.0
    if match is None or not low < high or (match[3] and low <= 0):
        raise RecipeError(
            f"--range {text!r}: expected KEY=LOW..HIGH with numbers, the lower first, like "
            "optimiser.learning_rate=1e-4..1e-1:log; :log needs numbers above 0"
        )
    whole = all(re.fullmatch(r"[+-]?\d+", part.strip()) for part in match.groups()[:2])
    return Range(key.strip(), low, high, log=bool(match[3]), whole=whole)


def _check_keys(keys: Sequence[str]) -> None:
    repeated = [key for key, count in Counter(keys).items() if count > 1]
    if repeated:
        raise RecipeError(f"the key {repeated[0]} is varied twice; list all its values in one option")


@dataclass(frozen=True)
class Plan:
    """What a sweep tries, to choose by the metric of `gate` on the validation split.

    Without `sampler`, every combination of the axes, which are choices; else `trials` drawn by Optuna's sampler
    `random`, or `tpe`, which draws near the trials that were good.
    """

    axes: Sequence[Axis]
    trials: int
    sampler: Sampler | None
    seed: int
    gate: Gate

    def combinations(self) -> list[dict[str, str]]:
        """Those of a grid."""
        return list(combinations([axis for axis in self.axes if isinstance(axis, Choice)]))

    def check(self, load: Load) -> None:
        """Check the recipes that may be tried: each combination of a grid, and the ends of each range.

        Raises:
            RecipeError: it names the values of the first recipe that is wrong.
        """
        usual = {axis.key: axis.ends[0] for axis in self.axes}
        ends = [{**usual, axis.key: end} for axis in self.axes for end in axis.ends]
        for values in self.combinations() if self.sampler is None else ends:
            try:
                recipe = load(overrides(values))
            except RecipeError as error:
                raise RecipeError(f"with {', '.join(overrides(values))}: {error}") from error
            if recipe.data.folds:
                raise RecipeError(
                    "data.folds: a sweep chooses on the validation split, not on test examples; unset it with "
                    "--set data.folds="
                )
