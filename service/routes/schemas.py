"""JSON that other modules read and write by hand, as pydantic classes for the OpenAPI document."""

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

Probability = Annotated[float, Field(ge=0, le=1)]


class _Closed(BaseModel):
    model_config = ConfigDict(extra="forbid")


class Problem(BaseModel):
    code: str
    message: str


class Error(_Closed):
    """Why a request, or one item of it, failed."""

    error: Problem


class ProtocolError(_Closed):
    """Why a request of the Open Inference Protocol failed."""

    error: str


class Prediction(_Closed):
    """The label of an item. If its score is below `min_score`, the label is null and `guess` is the label."""

    label: str | None
    score: Probability
    scores: dict[str, Probability]
    guess: str = Field(default_factory=str)
    box: list[int] = Field(
        default_factory=list, description="Left, top, right and bottom of one of several digits, in pixels."
    )
    truncated: bool = Field(default=False, description="Whether the text has more tokens than the model reads.")
    tokens_read: int = Field(default=0, description="How many tokens of a truncated text the model read.")
    tokens: int = Field(default=0, description="How many tokens a truncated text has.")


class Answer(BaseModel):
    """A prediction or an error for each item, in order."""

    model: str
    version: str
    top: int = Field(default=0, description="How many scores each prediction has, if the default left out some.")
    labels: int = Field(default=0, description="How many labels the model has, if the default left out some scores.")
    predictions: list[Prediction | Error]


class Word(_Closed):
    """A part of a text, from character `start` up to `end` (code points), and its weight."""

    text: str
    start: int
    end: int
    weight: float


class Explanation(_Closed):
    """Which parts of an item carry a label: an image has a grid of evidence, a text has words with weights.

    A value is the fall of the label's log-odds when the part is hidden: positive where it speaks for the label.
    """

    model: str
    version: str
    prediction: str
    label: str
    score: Probability
    method: str
    runs: int
    rows: int = 0
    columns: int = 0
    evidence: list[list[float]] = Field(default_factory=list, description="Row by row, from the top left.")
    image: str = Field(default="", description="The pixels that the model saw: a PNG in base64.")
    words: list[Word] = Field(default_factory=list)


class _Options(_Closed):
    """The options of the query, which may stand in the JSON instead."""

    top: Annotated[int, Field(ge=1, le=999_999_999)] | None = None
    min_score: Probability | None = None


class Texts(_Options):
    texts: Annotated[list[str], Field(min_length=1)]


class Images(_Options):
    images: Annotated[list[str], Field(min_length=1)]


class TextsCall(_Closed):
    model: str
    texts: Annotated[list[str], Field(min_length=1)]


class ImagesCall(_Closed):
    model: str
    images: Annotated[list[str], Field(min_length=1)]


class TensorMetadata(BaseModel):
    """A tensor without its values."""

    name: str
    datatype: str
    shape: list[int]


class InferenceAnswer(BaseModel):
    """The JSON of an inference response."""

    model_name: str
    model_version: str
    outputs: list[TensorMetadata]
