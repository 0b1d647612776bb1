"""What every table of a recipe is made of: the section, and the types of its values."""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

Activation = Literal["relu", "sigmoid", "tanh", "softmax", "none"]
Count = Annotated[int, Field(ge=1)]
Padding = Annotated[int, Field(ge=0)]
Fraction = Annotated[float, Field(ge=0, lt=1)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
NotNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]


class Section(BaseModel):
    """A table of a recipe: no unknown keys, no conversions between types, no change once it is made."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


def count_or(word: str, meaning: str) -> BeforeValidator:
    """A whole number from 1, or one word; refused in one line, where a union would give one a member."""

    def check(value: Any) -> Any:
        if value == word or (type(value) is int and value >= 1):
            return value
        raise ValueError(f"{value!r} is refused: expected a whole number from 1, or {word!r} for {meaning}")

    return BeforeValidator(check)
