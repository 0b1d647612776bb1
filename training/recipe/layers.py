"""The layers of a recipe, each a table whose first key names it.

`shapes` has their arithmetic, `network` builds them in torch.
"""

from typing import Annotated, Any, Literal, Self

from pydantic import Discriminator, Field, Tag, model_validator

from training.section import Activation, Count, Fraction, Padding, Positive, Section, Sizes, sizes

Norm = Literal["batch norm", "group norm", "layer norm"]


class Normed(Section):
    """A layer that can have a norm between its weights and its activation; then it has no bias.

    Its class has the keys `batch_norm`, `group_norm` and `layer_norm`, behind the key that names the layer.
    """

    @property
    def norm(self) -> Norm | None:
        """The norm of the layer, if it has one."""
        return next(iter(self._norms()), None)

    def _norms(self) -> list[Norm]:
        norms: dict[str, Norm] = {"batch_norm": "batch norm", "group_norm": "group norm", "layer_norm": "layer norm"}
        return [name for key, name in norms.items() if getattr(self, key)]

    @model_validator(mode="after")
    def _has_one_norm(self) -> Self:
        if len(self._norms()) > 1:
            raise ValueError("batch_norm, group_norm and layer_norm: a layer has one of them at most")
        return self


class Conv(Normed):
    """A convolution of `conv` filters in one, two or three dimensions, those of its input.

    `kernel`, `stride`, `padding` and `dilation` are numbers for all axes, or lists like [3, 5] for height and width.
    `padding = "same"` keeps the size, with a stride of 1. With `groups`, each group of filters sees only its group of
    channels (Krizhevsky et al., 2012, figure 2); with `dilation`, the weights of a filter are that far apart (Yu &
    Koltun, 2016). It has no bias if it has a norm.
    """

    conv: Count
    kernel: Sizes
    stride: Sizes = 1
    padding: Annotated[Padding | list[Padding] | Literal["same"], sizes(0, "same")] = 0
    dilation: Sizes = 1
    groups: Count = 1
    batch_norm: bool = False
    group_norm: Count | None = None
    """Group norm over this number of groups of channels (Wu & He, 2018)."""
    layer_norm: bool = False
    """Layer norm over all values of an example, with weights for each channel (Ba et al., 2016)."""
    activation: Activation | None = None

    @model_validator(mode="after")
    def _same_has_a_stride_of_1(self) -> Self:
        strides = self.stride if isinstance(self.stride, list) else [self.stride]
        if self.padding == "same" and max(strides) > 1:
            raise ValueError(f"padding = 'same' needs stride = 1, got stride = {self.stride}: set padding as a number")
        return self

    @model_validator(mode="after")
    def _dilation_parts_weights(self) -> Self:
        kernels, dilations = (value if isinstance(value, list) else [value] for value in (self.kernel, self.dilation))
        if max(dilations) > 1 and max(kernels) == 1:
            raise ValueError(
                f"dilation = {self.dilation} has no effect with kernel = {self.kernel}: a filter of one weight"
            )
        return self


class Pool(Section):
    """Max or average pooling over windows of `size`, or over the feature map if `size` is "global".

    `size` and `stride` are numbers for all axes, or lists like [2, 3] for height and width. The default stride is the
    size; with a smaller one, windows overlap (Krizhevsky et al., 2012).
    """

    pool: Literal["max", "average"]
    size: Annotated[Count | list[Count] | Literal["global"], sizes(1, "global")]
    stride: Sizes | None = None

    @model_validator(mode="after")
    def _global_has_no_stride(self) -> "Pool":
        if self.size == "global" and self.stride is not None:
            raise ValueError('size = "global" has one window and takes no stride')
        return self


class Reshape(Section):
    """The same values in another shape, channels first: [1, 28, 28] or [28, 28] of 784 values.

    Convolutions and pools after it have as many dimensions as the shape has axes beside the channels: [C, L], [C, H, W]
    or [C, D, H, W].
    """

    reshape: Annotated[list[Count], Field(min_length=2, max_length=4)]


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


class Dense(Normed):
    """A fully connected layer of `dense` units, without a bias if it has a norm."""

    dense: Count
    batch_norm: bool = False
    group_norm: Count | None = None
    """Group norm over this number of groups of channels (Wu & He, 2018)."""
    layer_norm: bool = False
    """Layer norm over all values of an example, with weights for each channel (Ba et al., 2016)."""
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
    "reshape": Reshape,
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
    | Annotated[Reshape, Tag("reshape")]
    | Annotated[Dense, Tag("dense")]
    | Annotated[Dropout, Tag("dropout")]
    | Annotated[LocalResponseNorm, Tag("lrn")]
    | Annotated[Embedding, Tag("embedding")]
    | Annotated[Windows, Tag("windows")]
    | Annotated[NGrams, Tag("ngrams")],
    Discriminator(_layer_kind),
]
