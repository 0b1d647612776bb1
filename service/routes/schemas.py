"""JSON that other modules read and write by hand, as pydantic classes for the OpenAPI document."""

from typing import Annotated, Any

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
    ngrams: list[Word] = Field(
        default_factory=list, description="The strongest words and runs of up to three words that do not overlap."
    )


class Sheet(_Closed):
    """Where the maps of a sheet are: map i in row i // columns and column i % columns, each value a square."""

    maps: int
    columns: int
    map_height: int
    map_width: int
    zoom: int = Field(description="Pixels of a value.")
    gap: int = Field(description="Pixels between two maps.")
    width: int
    height: int


class ReceptiveField(_Closed):
    """What cell i of a layer has seen along each axis of the input: `size` from `start + i * stride` on."""

    size: list[int]
    stride: list[int]
    start: list[int]


class Strongest(_Closed):
    """Where a filter over a text responds most strongly, and what this adds to the predicted label's logit."""

    filter: int
    position: int
    value: float
    weight: float | None = None
    start: int | None = Field(default=None, description="The first token of the window.")
    end: int | None = Field(default=None, description="The token after the window.")
    text: str | None = None


class Layer(BaseModel):
    """A layer of the network: its name, shapes, weights and arithmetic, and figures of its values."""

    name: str
    kind: str
    title: str = Field(description="What it is, in the words of recipes.")
    node: str = Field(description="The name of its node in the graph.")
    input_shape: list[int]
    shape: list[int]
    parameters: int
    multiply_adds: int
    formulas: list[str] = Field(description="Its arithmetic, with the numbers of this layer.")
    activation: str | None
    recipe: dict[str, Any] = Field(default_factory=dict, description="Its number in the recipe, and its keys there.")
    receptive_field: ReceptiveField | None = None
    minimum: float
    maximum: float
    mean: float
    zeros: float = Field(description="The share of values that are exactly 0.")
    sheet: Sheet
    filters: Sheet | None = Field(default=None, description="The layout of its filters, if they can be drawn.")
    values: list[Any] | None = Field(default=None, description="All values, if they are few or one layer is requested.")
    strongest: list[Strongest] | None = None


class InspectedItem(_Closed):
    """What the model saw."""

    shape: list[int]
    image: str = Field(default="", description="The pixels: a PNG in base64.")
    tokens: list[str] = Field(default_factory=list)


class Inspection(BaseModel):
    """What each layer makes of an item; with `layer` the keys of this layer instead, with `cell` those of the cell."""

    model: str
    version: str
    precision: str = Field(description="Of the values: always float32.")
    prediction: str = ""
    score: Probability = 0.0
    input: InspectedItem | None = None
    layers: list[Layer] = Field(default_factory=list)


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
