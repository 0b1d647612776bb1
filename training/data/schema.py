"""The two tables of a recipe that say what the data is: `[data]`, where it comes from, and `[input]`, its form."""

from typing import Annotated, Any, Literal

from pydantic import Discriminator, Field, Tag, model_validator

from training.section import Count, Positive, Section


class Image(Section):
    """What the network sees: pictures of height x width, scaled to [0, 1], then (x - mean) / std a channel."""

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

    @model_validator(mode="after")
    def _framing_fits(self) -> "Image":
        if self.framing == "mnist" and (self.height, self.width, self.mode) != (28, 28, "L"):
            raise ValueError("framing 'mnist' makes 28 x 28 pictures of mode 'L'")
        return self

    @model_validator(mode="after")
    def _one_value_a_channel(self) -> "Image":
        for key in ("mean", "std"):
            if len(getattr(self, key)) != self.channels:
                raise ValueError(f"{key} needs {self.channels} values, one a channel of mode {self.mode!r}")
        return self


class Text(Section):
    """What the network sees: the first `length` tokens of a text, as ids below `vocabulary`.

    Id 0 is padding, 1 stands for every word that is not among the `vocabulary` - 2 most frequent of the training
    split or occurs there fewer than `min_count` times.
    """

    kind: Literal["text"]
    length: Count
    vocabulary: Annotated[int, Field(ge=3)]
    min_count: Count = 1


def _input_kind(value: Any) -> str:
    return str(value.get("kind", "image") if isinstance(value, dict) else getattr(value, "kind", "image"))


INPUTS: dict[str, type[Section]] = {"image": Image, "text": Text}
Input = Annotated[Annotated[Image, Tag("image")] | Annotated[Text, Tag("text")], Discriminator(_input_kind)]


class Data(Section):
    """The data set, and how many of its training examples are held out for choices and calibration."""

    name: Literal["mnist", "cats-vs-dogs", "oxford-pets", "imdb", "mr", "sst2", "reviews"]
    validation: Annotated[int, Field(ge=100)]
    refit: bool = False
    """After the choices on the validation split, train once more on training and validation split together."""
    stored_side: Count | None = None
    """Side in pixels at which training photos are kept; above the input's it leaves detail for crops."""
    folds: Annotated[int, Field(ge=2)] | None = None
    """Cross-validate: train once for each of so many tenths (or other shares) of all examples, tested on it."""
    repeat: dict[Literal["imdb", "mr", "sst2"], Count] = Field(default={})
    """How often the training texts of a source of `reviews` are seen in an epoch; once where it is not named."""

    @model_validator(mode="after")
    def _folds_have_no_test_split_beside_them(self) -> "Data":
        if self.folds and self.name != "mr":
            raise ValueError(f"folds: {self.name!r} has a published test split; cross-validation is for 'mr'")
        return self

    @model_validator(mode="after")
    def _repeat_is_for_several_sources(self) -> "Data":
        if self.repeat and self.name != "reviews":
            raise ValueError(f"repeat weighs the sources of 'reviews' against each other; {self.name!r} is one source")
        return self
