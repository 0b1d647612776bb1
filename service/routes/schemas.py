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


class Answer(BaseModel):
    """A prediction or an error for each item, in order."""

    model: str
    version: str
    predictions: list[Prediction | Error]


class Texts(_Closed):
    texts: Annotated[list[str], Field(min_length=1)]


class Images(_Closed):
    images: Annotated[list[str], Field(min_length=1)]


class TextsCall(Texts):
    model: str


class ImagesCall(Images):
    model: str


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
