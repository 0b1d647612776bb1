"""The base class of all tables of a recipe, and the types of their values."""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

Activation = Literal["relu", "sigmoid", "tanh", "softmax", "none"]
Count = Annotated[int, Field(ge=1)]
Padding = Annotated[int, Field(ge=0)]
Fraction = Annotated[float, Field(ge=0, lt=1)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
NotNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]


class Section(BaseModel):
    """A table of a recipe. It is immutable; unknown keys and values of another type are errors."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


def count_or(word: str, meaning: str) -> BeforeValidator:
    """Validates a positive integer or `word`, with one error where a union would report one for each member."""

    def check(value: Any) -> Any:
        if value == word or (type(value) is int and value >= 1):
            return value
        raise ValueError(f"invalid value {value!r}: must be a positive integer, or {word!r} for {meaning}")

    return BeforeValidator(check)
