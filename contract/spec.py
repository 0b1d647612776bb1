"""What a model takes: the `input` section of a manifest, one class for each kind of input."""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

TOKENIZER = "tokenizer.json"
DIGIT_WORKING_SIDE = 112
"""Pixels of the longer side at which a digit is searched for: four for each pixel of MNIST's 28."""

FileName = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")]
Side = Annotated[int, Field(ge=1, le=4096)]


class Section(BaseModel):
    """A part of a manifest. Unknown keys are errors."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class ImageInput(Section):
    """A picture as the graph wants it: uint8 (height, width, channels).

    `framing` says how a picture comes to that size: `squash` resizes both sides; `mnist` makes light ink on black
    of it, fitted into a 20 x 20 box and centred by its mass in 28 x 28.
    """

    kind: Literal["image"] = "image"
    height: Side
    width: Side
    mode: Literal["L", "RGB"]
    framing: Literal["mnist", "squash"]
    resample: Literal["bilinear"] = "bilinear"

    @property
    def channels(self) -> int:
        return 1 if self.mode == "L" else 3

    @property
    def working_side(self) -> int:
        """The side in pixels at which an image is decoded at least: a digit is searched for at a larger one."""
        return DIGIT_WORKING_SIDE if self.framing == "mnist" else max(self.height, self.width)

    @property
    def size_bytes(self) -> int:
        return self.height * self.width * self.channels

    @model_validator(mode="after")
    def _framing_fits(self) -> "ImageInput":
        if self.framing == "mnist" and (self.height, self.width, self.mode) != (28, 28, "L"):
            raise ValueError("framing 'mnist' makes 28 x 28 pictures of mode 'L'")
        return self


class TextInput(Section):
    """A text as the graph wants it: token ids int64 (L), 1 <= L <= `length`, each below `vocabulary`.

    Id 0 is padding: it stands behind the end of the shorter texts of a batch, (N, L), and changes nothing. `tokenizer`
    is the file, a `tokenizer.json` of Hugging Face `tokenizers`, that turns text into ids.
    """

    kind: Literal["text"] = "text"
    length: Annotated[int, Field(ge=1, le=1 << 20)]
    vocabulary: Annotated[int, Field(ge=2, le=1 << 24)]
    tokenizer: FileName = TOKENIZER
