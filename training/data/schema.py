"""The tables of a recipe that describe the data: `[data]`, its source, and `[input]`, what the network takes."""

from typing import Annotated, Any, Literal

from pydantic import Discriminator, Field, Tag, model_validator

from contract.spec import ImageInput, TextInput
from training.section import Count, Positive, Section


class Image(Section):
    """Images of height x width, scaled to [0, 1], then (x - mean) / std for each channel."""

    kind: Literal["image"] = "image"
    height: Count
    width: Count
    mode: Literal["L", "RGB"]
    framing: Literal["mnist", "squash"]
    mean: list[float]
    std: list[Positive]

    @property
    def channels(self) -> int:
        return {"L": 1, "RGB": 3}[self.mode]

    def served(self, side: int | None = None) -> ImageInput:
        """The input of the published model, or the same with another `side` in pixels."""
        return ImageInput(height=side or self.height, width=side or self.width, mode=self.mode, framing=self.framing)

    @model_validator(mode="after")
    def _framing_fits(self) -> "Image":
        if self.framing == "mnist" and (self.height, self.width, self.mode) != (28, 28, "L"):
            raise ValueError("framing 'mnist' needs height = 28, width = 28 and mode = 'L'")
        return self

    @model_validator(mode="after")
    def _one_value_for_each_channel(self) -> "Image":
        for key in ("mean", "std"):
            count = len(getattr(self, key))
            if count != self.channels:
                raise ValueError(
                    f"{key}: expected one value for each channel of mode {self.mode!r} ({self.channels}), got {count}"
                )
        return self


class Text(Section):
    """The first `length` tokens of a text, as ids below `vocabulary`.

    Id 0 is padding. Id 1 is the unknown word: all but the `vocabulary` - 2 most frequent words of the training split,
    and those that occur there fewer than `min_count` times.
    """

    kind: Literal["text"]
    length: Count
    vocabulary: Annotated[int, Field(ge=3)]
    min_count: Count = 1

    def served(self) -> TextInput:
        """The input of the published model."""
        return TextInput(length=self.length, vocabulary=self.vocabulary)


def _input_kind(value: Any) -> str:
    return str(value.get("kind", "image") if isinstance(value, dict) else getattr(value, "kind", "image"))


INPUTS: dict[str, type[Section]] = {"image": Image, "text": Text}
Input = Annotated[Annotated[Image, Tag("image")] | Annotated[Text, Tag("text")], Discriminator(_input_kind)]


class Data(Section):
    """The data set, and how its training examples are used."""

    name: Literal["mnist", "cats-vs-dogs", "oxford-pets", "imdb", "mr", "sst2", "reviews"]
    validation: Annotated[int, Field(ge=100)]
    """The number of training examples that are held out for choices and calibration."""
    refit: bool = False
    """After the choices on the validation split, train again on the training and the validation split together."""
    stored_side: Count | None = None
    """Side in pixels at which training photos are stored; above the input's it leaves detail for crops."""
    folds: Annotated[int, Field(ge=2)] | None = None
    """Cross-validation: the number of folds. For each, a network is trained on the others and tested on it."""
    repeat: dict[Literal["imdb", "mr", "sst2"], Count] = Field(default={})
    """How often each training text of a source of `reviews` is seen in an epoch; the default is once."""

    @model_validator(mode="after")
    def _folds_replace_a_test_split(self) -> "Data":
        if self.folds and self.name != "mr":
            raise ValueError(f"folds: {self.name!r} has a published test split; cross-validation is for 'mr'")
        return self

    @model_validator(mode="after")
    def _repeat_needs_several_sources(self) -> "Data":
        if self.repeat and self.name != "reviews":
            raise ValueError(f"repeat: {self.name!r} is one source; only the sources of 'reviews' can be repeated")
        return self
