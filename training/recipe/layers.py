"""The layers of a recipe, each a table whose first key names it.

`shapes` has their arithmetic, `network` builds them in torch.
"""

from typing import Annotated, Any, Literal

from pydantic import Discriminator, Field, Tag, model_validator

from training.section import Activation, Count, Fraction, Padding, Positive, Section, count_or


class Conv(Section):
    """A 2-D convolution of `conv` filters of `kernel` x `kernel`, without a bias if it has `batch_norm`.

    With `groups`, each group of filters sees only its group of channels (Krizhevsky et al., 2012, figure 2).
    """

    conv: Count
    kernel: Count
    stride: Count = 1
    padding: Padding = 0
    groups: Count = 1
    batch_norm: bool = False
    activation: Activation | None = None


class Pool(Section):
    """Max or average pooling over windows of `size` x `size`, or over the feature map if `size` is "global".

    The default stride is the size; with a smaller one, windows overlap (Krizhevsky et al., 2012).
    """

    pool: Literal["max", "average"]
    size: Annotated[int | Literal["global"], count_or("global", "the feature map")]
    stride: Count | None = None

    @model_validator(mode="after")
    def _global_has_no_stride(self) -> "Pool":
        if self.size == "global" and self.stride is not None:
            raise ValueError('size = "global" has one window and takes no stride')
        return self


class LocalResponseNorm(Section):
    """Local response normalisation over `lrn` neighbouring channels (Krizhevsky et al., 2012, section 3.3).

    b = a / (k + alpha * sum of a^2 over the neighbours)^beta, with the constants of the paper as defaults.
    """

    lrn: Count
    k: Positive = 2.0
    alpha: Positive = 1e-4
    beta: Positive = 0.75


class Flatten(Section):
    """(C, H, W) -> (C*H*W)."""

    flatten: Literal[True]


class Dense(Section):
    """A fully connected layer of `dense` units, without a bias if it has `batch_norm`."""

    dense: Count
    batch_norm: bool = False
    activation: Activation | None = None
    max_norm: Positive | None = None
    """The longest norm of a row of weights; after each step, longer rows are scaled to it (Hinton et al., 2012)."""


class Dropout(Section):
    """Sets each value to zero with probability p = `dropout` in training.

    To keep the expected sums, the other values are divided by 1 - p in `training`, or all values are multiplied by
    1 - p in `evaluation`, as in the first papers (Hinton et al., 2012; Kim, 2014, section 2.1).
    """

    dropout: Fraction
    scale_in: Literal["training", "evaluation"] = "training"


class Embedding(Section):
    """A vector of `embedding` values for each token, 0 for padding. (L) -> (E, L)."""

    embedding: Count
    company: Count | None = None
    """Initialise from the words up to this distance in training texts of each label; without it, at random."""


class Windows(Section):
    """Parallel 1-D convolutions, `filters` of each width in `windows`, then pooling over time (Kim, 2014).

    (E, L) -> (len(windows) * filters), or twice that if `over_time` is "both", the maximum and the average. Windows
    start at each token; `wide` ones also before the text, so that each weight sees each token (Kalchbrenner et al.,
    2014, section 2.2).
    """

    windows: Annotated[list[Count], Field(min_length=1)]
    filters: Count
    wide: bool = False
    over_time: Literal["max", "average", "both"] = "max"
    activation: Activation | None = None


class NGrams(Section):
    """The mean of the logits and of a linear model over n-grams of up to `ngrams` words (Wang & Manning, 2012).

    Only as the last layer, for texts with two labels. It has the n-grams that occur in at least `min_count` training
    texts.
    """

    ngrams: Annotated[int, Field(ge=1, le=3)]
    min_count: Count = 4
    slots: Count
    """The size of the hash table of n-grams: at least twice the number of n-grams."""
    share: Annotated[float, Field(gt=0, lt=1)] = 0.5
    """The weight of the linear model in the mean; the network has the rest."""
    cost: Positive = 10.0
    """The weight of the loss against the penalty on the weights: C in LIBLINEAR."""


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
