"""What a model takes: the `input` section of a manifest, one class for each kind of input.

Each class says what the rest of the code must know about a kind of input: the tensor of the graph, the form of encoded
items, and how large a batch may be. `contract.inputs` has the code that needs decoding libraries. To add a kind of
input, add a class here and a preprocessor there.
"""

from abc import abstractmethod
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

TOKENIZER = "tokenizer.json"
DIGIT_SIDES = 896, 2048
"""Pixels of the longer side, at least and at most, at which an image is decoded in which a digit is searched for: one
of 30 pixels on a page of 1,754 still has 15."""
MAX_PIXELS, MAX_CHARACTERS = 51_000_000, 100_000
"""The default limits of an encoded image and of a text. Phones of 50 megapixels write 8,160 x 6,144 pixels."""

_MAX_RUN_IMAGES, _MAX_RUN_VALUES = 32, 1 << 18

FileName = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")]
Side = Annotated[int, Field(ge=1, le=4096)]
Length = Annotated[int, Field(ge=1, le=1 << 20)]
Vocabulary = Annotated[int, Field(ge=2, le=1 << 24)]
Axes = tuple[int | str, ...]


def format_axes(axes: Axes) -> str:
    """Axes for messages, like `[N, 28, 28, 1]`."""
    return f"[{', '.join(map(str, axes))}]"


class Section(BaseModel):
    """A part of a manifest. Unknown keys are errors."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class InputSpec(Section):
    """A kind of input, as the code sees it that runs, batches and transports items."""

    tensor: ClassVar[str]
    """The name of the graph's input."""
    dtype: ClassVar[str]
    """The type of its values, as NumPy names it."""
    json_key: ClassVar[str]
    """The key of the list of items in JSON."""
    is_text: ClassVar[bool]
    """Whether encoded items are texts: UTF-8 in a body, strings in JSON. Other items are bytes, in base64 in JSON."""
    max_batch_tokens: ClassVar[int | None] = None
    """The largest product of items and length of a batch, padding included; a single item may be longer."""

    @property
    @abstractmethod
    def axes(self) -> Axes:
        """The axes of the graph's input: sizes, and letters for open axes (`N` items, `L` the length of an item)."""

    @property
    @abstractmethod
    def values(self) -> range:
        """The values of an item, without padding."""

    @property
    @abstractmethod
    def max_run_items(self) -> int:
        """How many items a CPU runs at once. More would not be faster, but would take more memory."""

    @property
    def max_length(self) -> int:
        """The largest size of the axis `L`."""
        return 1

    @property
    def files(self) -> tuple[str, ...]:
        """The files in the version's folder that decoding needs."""
        return ()

    @property
    def has_fixed_shape(self) -> bool:
        """Whether all items have the same shape."""
        return "L" not in self.axes

    def shape(self, items: int, length: int = 1) -> tuple[int, ...]:
        """The shape of a batch of `items`, each of `length` up to `max_length`."""
        sizes = {"N": items, "L": min(length, self.max_length)}
        return tuple(axis if isinstance(axis, int) else sizes[axis] for axis in self.axes)

    @abstractmethod
    def split(self, tensor: "npt.NDArray[Any]") -> "list[Any] | npt.NDArray[Any]":
        """Take a tensor that a client sent for the graph's input apart into items.

        Raises:
            ValueError: the graph does not take this shape, or these values.
        """


class ImageInput(InputSpec):
    """An image as the graph takes it: uint8 (height, width, channels).

    `framing` says how an image is brought to that size: `squash` resizes both sides; `pad` keeps the aspect and adds
    black on both sides of the shorter one; `crop` keeps the aspect and takes the middle, 7/8 of the shorter side (224
    of 256 pixels, as torchvision's classifiers do); `mnist` makes it light ink on black, fits the ink into a 20 x 20
    box and centres it by its mass in 28 x 28. With `trim_bars`, bars of one colour along the edges are cut off before.
    """

    tensor: ClassVar[str] = "image"
    dtype: ClassVar[str] = "uint8"
    json_key: ClassVar[str] = "images"
    is_text: ClassVar[bool] = False

    kind: Literal["image"] = "image"
    height: Side
    width: Side
    mode: Literal["L", "RGB"]
    framing: Literal["mnist", "squash", "pad", "crop"]
    resample: Literal["bilinear"] = "bilinear"
    trim_bars: bool = False

    @property
    def channels(self) -> int:
        return 1 if self.mode == "L" else 3

    @property
    def working_side(self) -> int:
        """The smallest side in pixels at which an image is decoded; a digit is searched for at a larger side."""
        if self.framing == "mnist":
            return DIGIT_SIDES[0]
        longest = max(self.height, self.width)
        return -(-longest * 8 // 7) if self.framing == "crop" else longest

    @property
    def axes(self) -> Axes:
        return "N", self.height, self.width, self.channels

    @property
    def values(self) -> range:
        return range(256)

    @property
    def max_run_items(self) -> int:
        """32 digits, or 9 photos of 96 x 96, so that activations fit the cache. CONTRIBUTING has the measurements."""
        return min(_MAX_RUN_IMAGES, max(_MAX_RUN_VALUES // (self.height * self.width * self.channels), 1))

    def split(self, tensor: "npt.NDArray[np.uint8]") -> "npt.NDArray[np.uint8]":
        """(N, H, W, C) as it is."""
        if tensor.shape[1:] != self.axes[1:]:
            raise ValueError(f"has shape {list(tensor.shape)}; expected {format_axes(self.axes)}")
        return tensor

    def __str__(self) -> str:
        size = f"{self.height} x {self.width} pixels (height x width), {self.mode}"
        return f"image, {size}, framing {self.framing}, {self.resample}"

    @model_validator(mode="after")
    def _framing_fits(self) -> "ImageInput":
        if self.framing == "mnist" and (self.height, self.width, self.mode) != (28, 28, "L"):
            raise ValueError("framing 'mnist' makes 28 x 28 images of mode 'L'")
        if self.framing == "mnist" and self.trim_bars:
            raise ValueError("trim_bars is for whole images; framing 'mnist' finds the digit beside any bars")
        return self


class TextInput(InputSpec):
    """A text as the graph takes it: token ids int64 (L), 1 <= L <= `length`, each below `vocabulary`.

    Id 0 is padding: it follows the end of the shorter texts of a batch, (N, L), and changes nothing. `tokenizer` names
    the file, a `tokenizer.json` of Hugging Face `tokenizers`, that turns text into ids. `normalisation` is the
    version of `contract.normalise` that texts pass through before; 0 if the tokenizer takes raw text. If
    `special_tokens`, the tokenizer's own, such as [CLS] and [SEP], are added and count as a part of the length. `shift`
    is added to each id of the tokenizer, whose id 0 is a token of its own if that is 1.
    """

    tensor: ClassVar[str] = "tokens"
    dtype: ClassVar[str] = "int64"
    json_key: ClassVar[str] = "texts"
    is_text: ClassVar[bool] = True
    max_batch_tokens: ClassVar[int] = 1 << 11
    """Larger batches are not faster, and slower once activations no longer fit the cache. CONTRIBUTING has the
    measurements."""

    kind: Literal["text"] = "text"
    length: Length
    vocabulary: Vocabulary
    tokenizer: FileName = TOKENIZER
    normalisation: Literal[0, 1] = 0
    special_tokens: bool = False
    shift: Literal[0, 1] = 0

    @property
    def axes(self) -> Axes:
        return "N", "L"

    @property
    def values(self) -> range:
        return range(1, self.vocabulary)

    @property
    def max_run_items(self) -> int:
        """`max_batch_tokens` texts of one token."""
        return self.max_batch_tokens

    @property
    def max_length(self) -> int:
        return self.length

    @property
    def files(self) -> tuple[str, ...]:
        return (self.tokenizer,)

    def split(self, tensor: "npt.NDArray[np.int64]") -> "list[Any]":
        """(N, L) -> N rows of token ids, without the padding at their ends."""
        if tensor.ndim != len(self.axes) or not 1 <= tensor.shape[1] <= self.length:
            raise ValueError(
                f"has shape {list(tensor.shape)}; expected {format_axes(self.axes)}, L from 1 to {self.length}"
            )
        if tensor.min() < 0 or tensor.max() >= self.vocabulary:
            raise ValueError(f"holds ids outside of 0 to {self.vocabulary - 1}, the model's vocabulary")
        is_token = tensor != 0
        if not is_token.any(axis=1).all():
            raise ValueError("has a row of padding (id 0) only; a text has one token at least")
        ends = tensor.shape[1] - is_token[:, ::-1].argmax(axis=1)
        return [row[:end] for row, end in zip(tensor, ends, strict=True)]

    def __str__(self) -> str:
        return f"text, {self.length} tokens of {self.vocabulary:,}, {self.tokenizer}"


Input = Annotated[ImageInput | TextInput, Field(discriminator="kind")]
INPUTS: tuple[type[InputSpec], ...] = (ImageInput, TextInput)
