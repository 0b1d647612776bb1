"""The base class of all tables of a recipe, and the types of their values."""

from collections.abc import Iterable
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

Activation = Literal["relu", "leaky-relu", "elu", "gelu", "softplus", "sigmoid", "tanh", "softmax", "none"]
Count = Annotated[int, Field(ge=1, lt=1 << 31)]
Padding = Annotated[int, Field(ge=0, lt=1 << 31)]
Fraction = Annotated[float, Field(ge=0, lt=1)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
NotNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]


class Section(BaseModel):
    """A table of a recipe. It is immutable; unknown keys and values of another type are errors."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    USES: ClassVar[dict[str, frozenset[str]]] = {}
    """In a table whose `name` selects a kind: the keys that only some kinds use, each with these."""

    @model_validator(mode="after")
    def _keys_have_an_effect(self) -> Self:
        for key, users in self.USES.items():
            default = type(self).model_fields[key].get_default(call_default_factory=True)
            name: str = getattr(self, "name", "")
            if name not in users and getattr(self, key) != default:
                raise ValueError(f"{key}: has no effect with name = {name!r}; only with {_either(users)}")
        return self


def _either(words: Iterable[str]) -> str:
    return " or ".join(map(repr, sorted(words)))


def sizes(lowest: int, *words: str) -> BeforeValidator:
    """Validates a whole number from `lowest`, a list of one for each axis, or one of `words`, with one error."""

    def fits(value: Any) -> bool:
        return type(value) is int and lowest <= value < 1 << 31

    def check(value: Any) -> Any:
        values = value if isinstance(value, list) else [value]
        if value in words or (1 <= len(values) <= MAX_AXES and all(map(fits, values))):
            return value
        others = "".join(f", or {word!r}" for word in words)
        raise ValueError(
            f"invalid value {value!r}: must be a whole number from {lowest}, a list with one for each axis{others}"
        )

    return BeforeValidator(check)


MAX_AXES = 3
Sizes = Annotated[Count | list[Count], sizes(1)]


def count_or(word: str, meaning: str) -> BeforeValidator:
    """Validates a positive integer or `word`, with one error where a union would report one for each member."""

    def check(value: Any) -> Any:
        if value == word or (type(value) is int and value >= 1):
            return value
        raise ValueError(f"invalid value {value!r}: must be a positive integer, or {word!r} for {meaning}")

    return BeforeValidator(check)
