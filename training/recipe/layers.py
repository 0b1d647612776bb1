"""The layers that a recipe's stack may hold, each a table that its first key names.

What a layer computes stands in `shapes`, how torch builds it in `network`.
"""

from typing import Annotated, Any, Literal

from pydantic import Discriminator, Field, Tag, model_validator

from training.section import Activation, Count, Fraction, Padding, Positive, Section, count_or


class Conv(Section):
    """A 2-D convolution: `conv` filters of `kernel` x `kernel`; with `batch_norm` it carries no bias.

    With `groups`, each share of the filters sees only its share of the channels (Krizhevsky et al., 2012, figure 2).
    """

    conv: Count
    kernel: Count
    stride: Count = 1
    padding: Padding = 0
    groups: Count = 1
    batch_norm: bool = False
    activation: Activation | None = None


class Pool(Section):
    """Max or average pooling over `size` x `size`, or over the whole map where `size` is "global".

    The stride is the size where none is given; a smaller one makes the windows overlap (Krizhevsky et al., 2012).
    """

    pool: Literal["max", "average"]
    size: Annotated[int | Literal["global"], count_or("global", "the whole map")]
    stride: Count | None = None

    @model_validator(mode="after")
    def _global_has_no_stride(self) -> "Pool":
        if self.size == "global" and self.stride is not None:
            raise ValueError('size = "global" is one window: it takes no stride')
        return self


class LocalResponseNorm(Section):
    """Local response normalisation across `lrn` neighbouring channels (Krizhevsky et al., 2012, section 3.3).

    b = a / (k + alpha * sum of a^2 over the neighbours)^beta, with the paper's constants as defaults.
    """

    lrn: Count
    k: Positive = 2.0
    alpha: Positive = 1e-4
    beta: Positive = 0.75


class Flatten(Section):
    """(C, H, W) -> (C*H*W)."""

    flatten: Literal[True]


class Dense(Section):
    """A fully connected layer of `dense` units; with `batch_norm` it carries no bias."""

    dense: Count
    batch_norm: bool = False
    activation: Activation | None = None
    max_norm: Positive | None = None
    """After each step, rows of weights longer than this are scaled back to it (Hinton et al., 2012)."""


class Dropout(Section):
    """Sets each value to zero with probability p = `dropout` while training.

    So that the next layer sees as much in evaluation, what is kept is divided by 1 - p in `training`; or everything is
    multiplied by 1 - p in `evaluation`, as in the first papers (Hinton et al., 2012; Kim, 2014, section 2.1).
    """

    dropout: Fraction
    scale_in: Literal["training", "evaluation"] = "training"


class Embedding(Section):
    """A vector of `embedding` values for each token; padding's is 0 and stays so. (L) -> (E, L)."""

    embedding: Count
    company: Count | None = None
    """Start from what stands up to so many words to either side in training texts of each label; else from chance."""


class Windows(Section):
    """Parallel 1-D convolutions, `filters` of each width in `windows`, then pooling over time (Kim, 2014).

    (E, L) -> (len(windows) * filters), or twice that where `over_time` is "both", the maximum and the average.
    Windows start within the text; where they are `wide`, also in front of it, so that each of their places meets each
    token (Kalchbrenner et al., 2014, section 2.2).
    """

    windows: Annotated[list[Count], Field(min_length=1)]
    filters: Count
    wide: bool = False
    over_time: Literal["max", "average", "both"] = "max"
    activation: Activation | None = None


class NGrams(Section):
    """A mean of the logits above and of a linear model over runs of up to `ngrams` words (Wang & Manning, 2012).

    Only as the last layer, over a text and two labels. It counts runs that stand in `min_count` training texts.
    """

    ngrams: Annotated[int, Field(ge=1, le=3)]
    min_count: Count = 4
    slots: Count
    """Places of the table that holds the runs: at least twice as many as there are runs."""
    share: Annotated[float, Field(gt=0, lt=1)] = 0.5
    """Of the linear model in the mean; the rest is the network's."""
    cost: Positive = 10.0
    """Of a text's loss beside the penalty on the weights, the C of LIBLINEAR."""


LAYERS: dict[str, type[Section]] = {
    "conv": Conv,
    "pool": Pool,
    "flatten": Flatten,
    "dense": Dense,
    "dropout": Dropout,
    "lrn": LocalResponseNorm,
    "embedding": Embedding,
    "windows": Windows,
    "ngrams": NGrams,
}


def _layer_kind(value: Any) -> str | None:
    keys = value if isinstance(value, dict) else type(value).model_fields if isinstance(value, Section) else ()
    return next((kind for kind in LAYERS if kind in keys), None)


Layer = Annotated[
    Annotated[Conv, Tag("conv")]
    | Annotated[Pool, Tag("pool")]
    | Annotated[Flatten, Tag("flatten")]
    | Annotated[Dense, Tag("dense")]
    | Annotated[Dropout, Tag("dropout")]
    | Annotated[LocalResponseNorm, Tag("lrn")]
    | Annotated[Embedding, Tag("embedding")]
    | Annotated[Windows, Tag("windows")]
    | Annotated[NGrams, Tag("ngrams")],
    Discriminator(_layer_kind),
]
