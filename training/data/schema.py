"""The tables of a recipe that describe the data: `[data]`, its source, and `[input]`, what the network takes."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, get_args

from pydantic import BeforeValidator, Discriminator, Field, Tag, model_validator

from contract.normalise import VERSION as NORMALISATION
from contract.spec import ImageInput, Length, Side, TextInput, Vocabulary
from training.errors import RecipeError
from training.section import Count, Positive, Section


class Image(Section):
    """Images of height x width, scaled to [0, 1], then (x - mean) / std for each channel.

    With `trim_bars`, bars of one colour at opposite edges are cut off before, in training as in the service.
    """

    kind: Literal["image"] = "image"
    height: Side
    width: Side
    mode: Literal["L", "RGB"]
    framing: Literal["mnist", "squash"]
    trim_bars: bool = False
    mean: list[float]
    std: list[Positive]

    @property
    def channels(self) -> int:
        return {"L": 1, "RGB": 3}[self.mode]

    def served(self, longest: int | None = None) -> ImageInput:
        """The input of the published model, or the same shape with another longer side, in pixels."""
        scale = 1 if longest is None else longest / max(self.height, self.width)
        height, width = round(self.height * scale), round(self.width * scale)
        return ImageInput(
            height=max(height, 1),
            width=max(width, 1),
            mode=self.mode,
            framing=self.framing,
            trim_bars=self.trim_bars,
        )

    @model_validator(mode="after")
    def _framing_fits(self) -> "Image":
        if self.framing == "mnist" and (self.height, self.width, self.mode) != (28, 28, "L"):
            raise ValueError("framing 'mnist' needs height = 28, width = 28 and mode = 'L'")
        if self.framing == "mnist" and self.trim_bars:
            raise ValueError("trim_bars needs framing 'squash'")
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
    length: Length
    vocabulary: Annotated[Vocabulary, Field(ge=3)]
    min_count: Count = 1
    unit: Literal["word", "character"] = "word"
    """What a token is: a word, or each letter, for languages that put no spaces between words."""

    def served(self) -> TextInput:
        """The input of the published model."""
        return TextInput(length=self.length, vocabulary=self.vocabulary, normalisation=NORMALISATION)


def _input_kind(value: Any) -> str:
    return str(value.get("kind", "image") if isinstance(value, dict) else getattr(value, "kind", "image"))


INPUTS: dict[str, type[Section]] = {"image": Image, "text": Text}
Input = Annotated[Annotated[Image, Tag("image")] | Annotated[Text, Tag("text")], Discriminator(_input_kind)]


Name = Literal["mnist", "cats-vs-dogs", "oxford-pets", "imdb", "mr", "sst2", "reviews", "folder", "table"]
OWN = frozenset({"folder", "table"})
"""Data of the user's own: a folder with a subfolder for each class, or a table with a row for each example."""
PHOTOS = frozenset({"cats-vs-dogs", "oxford-pets"})
DIGITS = tuple(map(str, range(10)))
SPECIES = ("cat", "dog")
SENTIMENTS = ("negative", "positive")
LABELS: dict[str, tuple[str, ...]] = {
    name: DIGITS if name == "mnist" else SPECIES if name in PHOTOS else SENTIMENTS for name in get_args(Name)
}
"""The labels of each data set, in the order in which its loader numbers them."""
KINDS: dict[str, Literal["image", "text"]] = {
    name: "image" if name == "mnist" or name in PHOTOS else "text" for name in LABELS
}


def _check_part(value: Any) -> Any:
    is_count = type(value) is int and value >= 2  # noqa: PLR2004 -- a split of one example measures nothing
    if is_count or value == "given" or (type(value) is float and 0 < value < 1):
        return value
    raise ValueError(
        f"invalid value {value!r}: must be a number of examples from 2, a share between 0 and 1, or 'given' for a "
        "split that the data have"
    )


Part = Annotated[
    Annotated[int, Field(ge=2)] | Annotated[float, Field(gt=0, lt=1)] | Literal["given"], BeforeValidator(_check_part)
]


class Data(Section):
    """The data set, and how its training examples are used."""

    USES: ClassVar[dict[str, frozenset[str]]] = {
        **dict.fromkeys(("path", "test", "split_seed", "label_names", "max_unreadable"), OWN),
        **dict.fromkeys(
            ("text", "image", "images", "label", "one_hot", "split", "group", "encoding", "delimiter", "header"),
            frozenset({"table"}),
        ),
    }

    name: Name
    validation: Part
    """The number or the share of the training examples that are held out for choices and calibration; `given` for
    the validation split that the data have, which otherwise joins the training examples."""
    path: str | None = None
    """The folder or the file of the user's own data, seen from the working directory."""
    test: Part | None = None
    """The number or the share of the user's examples that become the test split; `given` if the data have one."""
    split_seed: Annotated[int, Field(ge=0)] = 0
    """Another number makes other splits. With the same number, the same content is always split alike."""
    label_names: dict[str, str] = Field(default={})
    """Other names for the labels in the data, like `{ 0 = "ham", 1 = "spam" }`."""
    max_unreadable: Annotated[float, Field(ge=0, le=1)] = 0.1
    """The share of files that may be unreadable; they are left out. More are an error."""
    text: str | None = None
    """The column of the texts."""
    image: str | None = None
    """The column of the paths of images."""
    images: str | None = None
    """The folder of the images; the default is the folder of the table."""
    label: str | None = None
    """The column of the labels."""
    one_hot: list[str] = Field(default=[])
    """Instead of `label`: columns of 0 and 1, one for each label, whose names are the labels."""
    split: str | None = None
    """The column that says of which split a row is: train, validation or test."""
    group: str | None = None
    """A column whose equal values stay in one split, such as the patient or the author."""
    encoding: str | None = None
    """How the table is encoded, such as `utf-8` or `cp1252`; detected if not given."""
    delimiter: str | None = None
    """What separates the columns; detected if not given."""
    header: bool | None = None
    """Whether the first row names the columns; detected if not given. Otherwise they are `column 1`, `column 2`, ..."""
    sampling: Literal["natural", "balanced"] = "natural"
    """How the examples of an epoch are drawn: each once, or with replacement, so that all labels are equally
    frequent."""
    refit: bool = False
    """After the choices on the validation split, train again on the training and the validation split together."""
    stored_side: Side | None = None
    """Longer side in pixels at which training photos are stored; above the input's it leaves detail for crops."""
    folds: Annotated[int, Field(ge=2)] | None = None
    """Cross-validation: the number of folds. For each, a network is trained on the others and tested on it. The folds
    are of the training examples; the test split is not used."""
    repeat: dict[Literal["imdb", "mr", "sst2"], Count] = Field(default={})
    """How often each training text of a source of `reviews` is seen in an epoch; the default is once."""

    @property
    def title(self) -> str:
        """What people call the data set: its name, or that of the user's own file or folder."""
        return self.name if self.path is None else Path(self.path).resolve().stem

    def held_out(self, total: int) -> int:
        """How many of `total` training examples are held out for validation."""
        return count_of(self.validation, total)

    @model_validator(mode="after")
    def _stored_side_is_for_photos(self) -> "Data":
        if self.stored_side and self.name not in PHOTOS | OWN:
            photos = " and ".join(sorted(PHOTOS | OWN))
            raise ValueError(f"stored_side: has no effect on {self.name!r}; it is for {photos}")
        return self

    @model_validator(mode="after")
    def _own_data_are_described(self) -> "Data":
        if self.name not in OWN:
            if self.validation == "given":
                raise ValueError(f"validation: {self.name!r} has no validation split of its own; set a number or share")
            return self
        needed = ["path", "test", *(["label"] if self.name == "table" and not self.one_hot else [])]
        missing = [key for key in needed if getattr(self, key) is None]
        if missing:
            raise ValueError(f"{missing[0]}: is required with name = {self.name!r}")
        if self.name == "table" and (self.text is None) == (self.image is None):
            raise ValueError("text: expected either the column of the texts, text, or that of image paths, image")
        if self.label is not None and self.one_hot:
            raise ValueError("one_hot: has no effect with the column of the labels, label; remove one of them")
        if self.images and not self.image:
            raise ValueError("images: has no effect without the column of image paths, image")
        self._check_given()
        return self

    def _check_given(self) -> None:
        """Refuse keys that have no effect on, or cannot be done with, splits that the data have."""
        if self.validation == "given" and self.folds:
            raise ValueError(
                "validation: 'given' is not possible with folds, which have other splits; set a share like 0.1"
            )
        if self.validation == self.test == "given" and self.split_seed:
            raise ValueError("split_seed: has no effect, since the test and the validation split are given")

    @model_validator(mode="after")
    def _repeat_needs_several_sources(self) -> "Data":
        if self.repeat and self.name != "reviews":
            raise ValueError(f"repeat: {self.name!r} is one source; only the sources of 'reviews' can be repeated")
        return self


def count_of(part: float | str | None, total: int) -> int:
    """How many of `total` examples a number or a share of them is."""
    assert isinstance(part, int | float), "a split that the data have is not counted"
    return part if isinstance(part, int) else max(round(part * total), 1)


def check(data: Data, spec: Image | Text, labels: list[str]) -> None:
    """Refuse an input or labels that are not those of the data set, without reading it.

    Raises:
        RecipeError: the kind or the size of the input, or the labels, are not those of the data set.
    """
    if data.name in OWN:
        return
    check_kind(data.name, spec.kind)
    check_labels(data.name, labels)
    if data.name == "mnist" and isinstance(spec, Image) and (spec.height, spec.width, spec.channels) != (28, 28, 1):
        raise RecipeError(
            f"input: got {spec.height} x {spec.width} pixels of mode {spec.mode!r}, but the images of 'mnist' have 28 "
            "x 28 of mode 'L'"
        )


def check_kind(name: str, kind: str) -> None:
    """Refuse the kind of another data set.

    Raises:
        RecipeError: the message names both kinds.
    """
    if kind != KINDS[name]:
        raise RecipeError(f"input.kind: got {kind!r}, but data set {name!r} has inputs of kind {KINDS[name]!r}")


def check_labels(name: str, labels: Sequence[str]) -> None:
    """Refuse labels that are not those of a data set, in any order.

    Raises:
        RecipeError: the message names the unknown and the missing labels.
    """
    expected = LABELS[name]
    if sorted(labels) != sorted(expected):
        unknown = ", ".join(label for label in labels if label not in expected) or "none"
        missing = ", ".join(label for label in expected if label not in labels) or "none"
        raise RecipeError(
            f"labels: got {', '.join(labels)}; expected the labels of {name!r} in any order: {', '.join(expected)} "
            f"(unknown: {unknown}; missing: {missing})"
        )
