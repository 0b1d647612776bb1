"""The arithmetic of layers, compared with torch's modules and with published figures."""

import re
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.utils.flop_counter import FlopCounterMode
from torchvision import models

from training.data.schema import Text
from training.errors import RecipeError
from training.network.build import Served, build, layer_modules, normalise
from training.network.calibrated import Calibration
from training.network.ngrams import NGramTable
from training.recipe.arithmetic import LayerShape, layer_shape
from training.recipe.layers import Conv, Dense, Dropout, Flatten, LocalResponseNorm, Pool
from training.recipe.schema import Recipe, load, names
from training.recipe.shapes import table, trace

TEXTBOOK = [
    {"conv": 10, "kernel": 5},
    {"pool": "max", "size": 2},
    {"conv": 20, "kernel": 5},
    {"pool": "max", "size": 2},
    {"flatten": True},
    {"dense": 100},
    {"dense": 10, "activation": "none"},
]
DIGITS = {
    "labels": list("0123456789"),
    "input": {"height": 28, "width": 28, "mode": "L", "framing": "mnist", "mean": [0.0], "std": [1.0]},
}

TEXT: dict[str, Any] = {"kind": "text", "length": 12, "vocabulary": 50}
SQUARE: dict[str, Any] = {"height": 8, "width": 8, "mode": "L", "framing": "squash", "mean": [0.4], "std": [0.3]}
FLAT: dict[str, Any] = {"flatten": True}
OUT: dict[str, Any] = {"dense": 3, "activation": "none"}
GLOBAL: dict[str, Any] = {"pool": "average", "size": "global"}

windows = st.fixed_dictionaries(
    {
        "kernel": st.integers(1, 6),
        "stride": st.integers(1, 4),
        "padding": st.integers(0, 3),
        "height": st.integers(1, 12),
        "width": st.integers(1, 12),
        "channels": st.integers(1, 3),
    }
)


def parameters(network: nn.Module) -> int:
    """The number of trained values, including the tables of n-grams, which are not torch parameters."""
    tables = [module for module in network.modules() if isinstance(module, NGramTable)]
    runs = sum(table.get_buffer(name).numel() for table in tables for name in ("weights", "bias"))
    return sum(weight.numel() for weight in network.parameters()) + runs


def test_padding_of_1_keeps_4x4_under_a_3x3_filter_and_the_values_are_the_textbook_s() -> None:
    """A convolution is the cross-correlation computed by hand, with the shape of the formula."""
    layer = Conv(conv=1, kernel=3, padding=1, activation="none")
    (conv,) = layer_modules(layer, (1, 4, 4), "relu")
    assert isinstance(conv, nn.Conv2d)
    assert conv.bias is not None
    with torch.no_grad():
        conv.weight.copy_(torch.tensor([[2, 0, 1], [0, 1, 2], [1, 0, 2]]))
        conv.bias.zero_()
        output = conv(torch.tensor([[[[1.0, 2, 3, 0], [0, 1, 2, 3], [3, 0, 1, 2], [2, 3, 0, 1]]]]))
    assert output.tolist() == [[[[7, 12, 10, 2], [4, 15, 16, 10], [10, 6, 15, 6], [8, 10, 4, 3]]]]
    assert layer_shape(layer, (1, 4, 4)).output == (1, 4, 4)


@given(
    channels=st.integers(1, 8),
    filters=st.integers(1, 8),
    groups=st.integers(1, 4),
    kernel=st.integers(1, 3),
)
@settings(deadline=None, max_examples=100, derandomize=True)
def test_groups_have_torch_s_weights_and_multiply_adds_or_are_refused_as_by_torch(
    channels: int, filters: int, groups: int, kernel: int
) -> None:
    """Each filter sees the channels of its group: torch's parameters and flops, and an error where torch has one."""
    layer, shape = Conv(conv=filters, kernel=kernel, groups=groups), (channels, 4, 5)
    try:
        reference = nn.Conv2d(channels, filters, kernel, groups=groups)
    except ValueError:
        with pytest.raises(RecipeError, match=f"groups = {groups} .* {channels} input channels"):
            layer_shape(layer, shape)
        return
    step = layer_shape(layer, shape)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        output = reference(torch.zeros(1, *shape))
    assert step.output == tuple(output.shape[1:])
    assert (step.weights, step.biases) == (reference.weight.numel(), filters)
    assert step.multiply_adds == counter.get_total_flops() / 2
    (conv, *_) = layer_modules(layer, shape, "relu")
    assert isinstance(conv, nn.Conv2d)
    assert conv.weight.shape == reference.weight.shape


@given(window=windows, filters=st.integers(1, 4), batch_norm=st.booleans())
@settings(deadline=None, max_examples=150, derandomize=True)
def test_a_convolution_has_torch_s_shape_and_parameters_or_is_refused_as_by_torch(
    window: dict[str, int], filters: int, *, batch_norm: bool
) -> None:
    """For any input, kernel, stride and padding: torch's shape and parameters, and an error where torch has one."""
    kernel, stride, padding = window["kernel"], window["stride"], window["padding"]
    shape = (window["channels"], window["height"], window["width"])
    modules: list[nn.Module] = [nn.Conv2d(shape[0], filters, kernel, stride, padding, bias=not batch_norm)]
    if batch_norm:
        modules.append(nn.BatchNorm2d(filters))
    reference = nn.Sequential(*modules).eval()
    layer = Conv(conv=filters, kernel=kernel, stride=stride, padding=padding, batch_norm=batch_norm)
    step: LayerShape | None = None
    with suppress(RecipeError):
        step = layer_shape(layer, shape)
    try:
        output = reference(torch.zeros(1, *shape))
    except RuntimeError:
        assert step is None
    else:
        assert step is not None
        assert step.output == tuple(output.shape[1:])
        assert step.parameters == parameters(reference)


@given(window=windows, kind=st.sampled_from(["max", "average"]), own_stride=st.booleans())
@settings(deadline=None, max_examples=150, derandomize=True)
def test_pooling_has_torch_s_shape_or_is_refused_as_by_torch(
    window: dict[str, int], kind: Any, *, own_stride: bool
) -> None:
    """For any input, window and stride: torch's output shape, and an error where torch has one."""
    shape = (window["channels"], window["height"], window["width"])
    stride = window["stride"] if own_stride else None
    reference = (nn.MaxPool2d if kind == "max" else nn.AvgPool2d)(window["kernel"], stride)
    step: LayerShape | None = None
    with suppress(RecipeError):
        step = layer_shape(Pool(pool=kind, size=window["kernel"], stride=stride), shape)
    try:
        output = reference(torch.zeros(1, *shape))
    except RuntimeError:
        assert step is None
    else:
        assert step is not None
        assert step.output == tuple(output.shape[1:])
        assert step.parameters == 0


@pytest.mark.parametrize("kind", ["max", "average"])
def test_a_global_pool_gives_one_value_for_each_channel(kind: Any) -> None:
    """(C, H, W) -> (C, 1, 1), without parameters."""
    step = layer_shape(Pool(pool=kind, size="global"), (7, 5, 3))
    assert (step.output, step.parameters, step.title) == ((7, 1, 1), 0, f"global {kind} pool")


def test_local_response_norm_changes_no_shape_and_has_no_parameters() -> None:
    """(C, H, W) -> (C, H, W), with a multiplication for each value and neighbour."""
    step = layer_shape(LocalResponseNorm(lrn=5), (6, 4, 3))
    assert (step.output, step.parameters, step.multiply_adds) == ((6, 4, 3), 0, 5 * 6 * 4 * 3)


@pytest.mark.parametrize(("over_time", "width"), [("max", 15), ("average", 15), ("both", 30)])
def test_windows_over_a_text_have_torch_s_parameters(
    over_time: str, width: int, recipe_with: Callable[..., Recipe]
) -> None:
    """Three widths of 5 filters give 15 values, 30 with both; the embedding has one vector for each token."""
    layers = [{"embedding": 4}, {"windows": [1, 2, 4], "filters": 5, "over_time": over_time}, OUT]
    recipe = recipe_with(input=TEXT, layers=layers)
    embedding, over, dense = trace(recipe)
    reference = [nn.Conv1d(4, 5, size) for size in (1, 2, 4)]
    assert (embedding.input, embedding.output, embedding.parameters) == ((12,), (4, 12), 50 * 4)
    assert (over.output, over.parameters) == ((width,), sum(parameters(conv) for conv in reference))
    assert over.multiply_adds == 12 * sum(conv.weight.numel() for conv in reference)
    assert dense.input == (width,)
    assert parameters(build(recipe)) == sum(step.parameters for step in trace(recipe))


def test_wide_windows_also_start_before_a_text(recipe_with: Callable[..., Recipe]) -> None:
    """A wide window of k tokens has L + k - 1 positions, and as many weights as a narrow one."""
    layers = [{"embedding": 4}, {"windows": [1, 2, 4], "filters": 5, "wide": True}, OUT]
    _embedding, over, _dense = trace(recipe_with(input=TEXT, layers=layers))
    assert over.weights == 4 * 5 * (1 + 2 + 4)
    assert over.multiply_adds == 4 * 5 * (12 * 1 + 13 * 2 + 15 * 4)
    assert over.formulas[0].startswith("OL = (12 + 2*3 - 4)/1 + 1 = 15, ")


@pytest.mark.parametrize("batch_norm", [False, True])
def test_a_dense_layer_has_torch_s_parameters(*, batch_norm: bool) -> None:
    """Weights, biases and batch norm are those of torch's modules."""
    reference = nn.Sequential(nn.Linear(7, 5, bias=not batch_norm), *([nn.BatchNorm1d(5)] if batch_norm else []))
    step = layer_shape(Dense(dense=5, batch_norm=batch_norm), (7,))
    assert step.output == (5,)
    assert step.parameters == parameters(reference)


def test_flatten_and_dropout_have_no_parameters() -> None:
    """Flatten joins the axes, dropout keeps the shape; neither has parameters."""
    flat = layer_shape(Flatten(flatten=True), (20, 4, 3))
    assert (flat.output, flat.parameters, flat.formulas) == ((240,), 0, ("20 x 4 x 3 = 240",))
    dropped = layer_shape(Dropout(dropout=0.5), (20, 4, 3))
    assert (dropped.output, dropped.parameters) == ((20, 4, 3), 0)


@pytest.mark.parametrize(
    "layers",
    [
        [{"conv": 3, "kernel": 3, "stride": 2}, {"pool": "average", "size": 2}, {"flatten": True}],
        [{"conv": 2, "kernel": 1, "batch_norm": True}, {"conv": 5, "kernel": 4, "padding": 3}, {"flatten": True}],
        [{"pool": "max", "size": 3, "stride": 1}, {"flatten": True}, {"dense": 8, "batch_norm": True}],
        [{"conv": 4, "kernel": 5, "padding": 2, "stride": 3}, {"dropout": 0.2}, {"flatten": True}, {"dense": 4}],
    ],
)
def test_every_layer_of_a_network_has_torch_s_shape(
    layers: list[dict[str, Any]], recipe_with: Callable[..., Recipe]
) -> None:
    """For images that are not square, the shapes of all layers and the sum of parameters are torch's."""
    recipe = recipe_with(layers=[*layers, {"dense": 3, "activation": "none"}])
    steps = trace(recipe)
    values = torch.zeros(2, 1, 6, 9)
    for layer, step in zip(recipe.layers, steps, strict=True):
        assert step.input == tuple(values.shape[1:])
        values = nn.Sequential(*layer_modules(layer, step.input, recipe.activation)).eval()(values)
        assert step.output == tuple(values.shape[1:])
    assert sum(step.parameters for step in steps) == parameters(build(recipe))


def test_the_textbook_cnn_has_the_figures_of_the_textbook(recipe_with: Callable[..., Recipe]) -> None:
    """Two 5x5 convolutions with pooling on 28x28: sizes 24, 12, 8, 4 and weights 250, 5,000, 32,000."""
    steps = trace(recipe_with(layers=TEXTBOOK, **DIGITS))
    assert [step.output for step in steps] == [
        (10, 24, 24),
        (10, 12, 12),
        (20, 8, 8),
        (20, 4, 4),
        (320,),
        (100,),
        (10,),
    ]
    assert [step.weights for step in steps] == [250, 0, 5000, 0, 0, 32000, 1000]
    assert [step.biases for step in steps] == [10, 0, 20, 0, 0, 100, 10]
    assert steps[0].formulas == ("OH = (28 + 2*0 - 5)/1 + 1 = 24",)


def test_the_table_shows_formulas_and_counts(recipe_with: Callable[..., Recipe]) -> None:
    """The table of the textbook CNN has its formulas, sizes and weights."""
    text = table(recipe_with(layers=TEXTBOOK, **DIGITS))
    assert "OH = (28 + 2*0 - 5)/1 + 1 = 24" in text
    assert "OH = (24 + 2*0 - 2)/2 + 1 = 12" in text
    assert "OH = (12 + 2*0 - 5)/1 + 1 = 8" in text
    assert re.search(r"conv 20, 5x5[^\n]* 20 x 8 x 8 +5,000 +20 ", text)
    assert re.search(r"dense 100[^\n]* 100 +32,000 +100 ", text)


def test_different_height_and_width_have_a_formula_each() -> None:
    """Images that are not square have a formula for OH and one for OW."""
    step = layer_shape(Conv(conv=1, kernel=3), (1, 6, 9))
    assert step.output == (1, 4, 7)
    assert step.formulas == ("OH = (6 + 2*0 - 3)/1 + 1 = 4", "OW = (9 + 2*0 - 3)/1 + 1 = 7")


def test_a_stride_that_does_not_divide_is_rounded_down_and_reported() -> None:
    """(28 - 5)/2 + 1 = 12.5 becomes 12, as in torch, and the formula says which part of the input is not used."""
    step = layer_shape(Conv(conv=1, kernel=5, stride=2), (1, 28, 28))
    assert step.output == tuple(nn.Conv2d(1, 1, 5, 2)(torch.zeros(1, 1, 28, 28)).shape[1:]) == (1, 12, 12)
    (formula,) = step.formulas
    assert re.match(r"OH = \(28 \+ 2\*0 - 5\)/2 \+ 1 = 12\.5, .* 12: stride 2 .* 23, .* 1 of 28 along H", formula)


@pytest.mark.parametrize(
    ("layers", "message"),
    [
        ([{"conv": 2, "kernel": 7}], r"layers\[1\]: .* filter of 7 .* H = 6"),
        ([{"conv": 2, "kernel": 3}, {"pool": "max", "size": 5}], r"layers\[2\]: .* window of 5 .* H = 4"),
        ([{"conv": 2, "kernel": 9, "padding": 1}], r"layers\[1\]: .* padding 1 .*maximum 8"),
        ([{"dense": 3}], r"layers\[1\]: dense .* vector, .* 1 x 6 x 9: .* flatten = true"),
        ([{"flatten": True}, {"conv": 2, "kernel": 1}], r"layers\[2\]: conv .* feature maps .* vector of 54"),
        ([{"flatten": True}, {"pool": "max", "size": 1}], r"layers\[2\]: pool .* feature maps"),
        ([{"flatten": True}, {"dense": 4, "activation": "none"}], r"layers\[2\]: expected .* 3 values, .* got 4"),
        ([{"conv": 3, "kernel": 1}], r"layers\[1\]: expected .* 3 values, .* got 3 x 6 x 9"),
        ([{"conv": 4, "kernel": 1, "groups": 2}], r"layers\[1\]: groups = 2 .* 1 input channels"),
        (
            [{"conv": 4, "kernel": 1}, {"conv": 3, "kernel": 1, "groups": 2}],
            r"layers\[2\]: groups = 2 .* 4 input channels .* 3 filters",
        ),
        ([FLAT, {"lrn": 5}, OUT], r"layers\[2\]: local response norm .* feature maps .* vector of 54"),
        ([FLAT, GLOBAL, OUT], r"layers\[2\]: pool .* feature maps .* vector of 54"),
        ([{"embedding": 4}, FLAT, OUT], r"layers\[1\]: embedding .* input\.kind = 'text'"),
        ([FLAT, {"embedding": 4}, OUT], r"layers\[2\]: embedding .* first layer"),
        ([{"windows": [3], "filters": 5}, OUT], r"layers\[1\]: windows .* embedded text .* 1 x 6 x 9"),
        ([FLAT, {"windows": [3], "filters": 5}, OUT], r"layers\[2\]: windows .* embedded text .* 54"),
        ([FLAT, {"dense": 5, "activation": "softmax"}, OUT], r"layers\[2\]: .*softmax"),
        ([{"conv": 5, "kernel": 1, "activation": "softmax"}, FLAT, OUT], r"layers\[1\]: .*softmax"),
    ],
)
def test_an_error_names_the_layer_that_does_not_fit(
    layers: list[dict[str, Any]], message: str, recipe_with: Callable[..., Recipe]
) -> None:
    """`trace`, `table` and `build` raise one line with the recipe and the layer, counted from 1."""
    recipe = recipe_with(layers=layers)
    for function in (trace, table, build):
        with pytest.raises(RecipeError, match=message) as refusal:
            function(recipe)
        assert str(refusal.value).startswith("small: ")
        assert "\n" not in str(refusal.value)


@pytest.mark.parametrize(
    ("layers", "message"),
    [
        ([FLAT, OUT], r"layers\[1\]: .*{ embedding = N }"),
        ([{"windows": [3], "filters": 5}, OUT], r"layers\[1\]: .*{ embedding = N }"),
        ([{"embedding": 4}, FLAT, OUT], r"layers\[2\]: flatten .* windows"),
        ([{"embedding": 4}, OUT], r"layers\[2\]: dense .* vector, .* 4 x 12: .* windows"),
        ([{"embedding": 4}, {"dropout": 0.1}, OUT], r"layers\[3\]: dense .* vector"),
        ([{"embedding": 4}, {"embedding": 4}, OUT], r"layers\[2\]: embedding .* first layer"),
        ([{"embedding": 4}, {"conv": 4, "kernel": 1}, OUT], r"layers\[2\]: conv .* an embedded text, 4 x 12"),
        ([{"embedding": 4}, GLOBAL, OUT], r"layers\[2\]: pool .* an embedded text, 4 x 12"),
        ([{"embedding": 4}, {"lrn": 5}, OUT], r"layers\[2\]: local response norm .* an embedded text, 4 x 12"),
        (
            [{"embedding": 4}, {"windows": [3], "filters": 5}, {"windows": [3], "filters": 5}, OUT],
            r"layers\[3\]: windows .* embedded text \(E, L\), .* 5",
        ),
        ([{"embedding": 4}, {"windows": [3], "filters": 5}], r"layers\[2\]: expected .* 3 values, .* got 5:"),
    ],
)
def test_an_error_names_the_layer_that_does_not_fit_a_text(
    layers: list[dict[str, Any]], message: str, recipe_with: Callable[..., Recipe]
) -> None:
    """As for images: one line with the recipe, the layer and what would fit."""
    recipe = recipe_with(input=TEXT, layers=layers)
    for function in (trace, build):
        with pytest.raises(RecipeError, match=f"^small: {message}[^\n]*$"):
            function(recipe)


@pytest.mark.parametrize(
    ("layers", "message"),
    [
        ([{"conv": 2, "kernel": 5}, GLOBAL, FLAT, OUT], r"layers\[1\] at resolution 4: .* filter of 5 .* H = 4"),
        (
            [{"pool": "max", "size": 3}, {"pool": "max", "size": 2}, GLOBAL, FLAT, OUT],
            r"layers\[2\] at resolution 4: .* window of 2 .* H = 1",
        ),
        (
            [FLAT, {"dropout": 0.1}, OUT],
            r"layers\[3\] at resolution 4: expected 64 .* got 16: .* before flatten",
        ),
    ],
)
def test_a_resolution_that_a_layer_does_not_fit_is_refused(
    layers: list[dict[str, Any]], message: str, recipe_with: Callable[..., Recipe]
) -> None:
    """Layers that fit the input of 8 x 8, but not images of 4 x 4, are an error before any training."""
    assert trace(recipe_with(input=SQUARE, layers=layers))
    with pytest.raises(RecipeError, match=f"^small: {message}[^\n]*$"):
        trace(recipe_with(input=SQUARE, layers=layers, resolutions=[8, 4]))


def test_resolutions_over_a_global_pool_change_no_parameter(recipe_with: Callable[..., Recipe]) -> None:
    """A network that ends in a global pool takes each resolution; `trace` gives the shapes of the input's own."""
    layers = [{"conv": 2, "kernel": 3}, GLOBAL, FLAT, OUT]
    plain, progressive = (recipe_with(input=SQUARE, layers=layers, resolutions=sides) for sides in (None, [4, 6, 8]))
    assert trace(progressive) == trace(plain)
    network = build(progressive).eval()
    assert all(network(torch.zeros(2, 1, side, side)).shape == (2, 3) for side in (4, 6, 11, 8))


def test_an_activation_that_no_layer_takes_is_refused(recipe_with: Callable[..., Recipe]) -> None:
    """If every layer names its own; one layer without its own is enough to use it."""
    named: list[dict[str, Any]] = [FLAT, {"dense": 4, "activation": "elu"}, {"dense": 3, "activation": "none"}]
    with pytest.raises(RecipeError, match="activation: 'tanh' has no effect"):
        trace(recipe_with(layers=named, activation="tanh"))
    trace(recipe_with(layers=[FLAT, {"dense": 4}, named[-1]], activation="tanh"))


def test_softmax_as_the_default_activation_is_refused_at_the_first_hidden_layer(
    recipe_with: Callable[..., Recipe],
) -> None:
    """Otherwise, a hidden layer would be trained without an activation."""
    with pytest.raises(RecipeError, match=r"^small: layers\[2\]: .*softmax"):
        trace(recipe_with(activation="softmax", layers=[FLAT, {"dense": 5}, {"dense": 3}]))
    assert trace(recipe_with(activation="softmax", layers=[FLAT, {"dense": 3}]))


@pytest.mark.parametrize(
    "last",
    [
        [{"dense": 3}],
        [{"dense": 3, "batch_norm": True, "activation": "none"}],
        [{"dense": 3, "activation": "none"}, {"dropout": 0.1}],
    ],
    ids=["relu", "batch norm", "dropout"],
)
def test_a_network_whose_temperature_cannot_be_folded_is_refused(
    last: list[dict[str, Any]], recipe_with: Callable[..., Recipe]
) -> None:
    """The last layer must be dense, without activation or batch norm, for the model to be published."""
    with pytest.raises(RecipeError, match=r"layers\[\d\]"):
        trace(recipe_with(layers=[{"flatten": True}, *last]))


def test_lenet_counts_what_torch_holds_and_computes() -> None:
    """LeNet has 62,026 parameters, below its limit of 70,000, and torch counts the same multiply-adds."""
    recipe = load("lenet")
    network = build(recipe).eval()
    steps = trace(recipe)
    assert sum(step.parameters for step in steps) == parameters(network) == 62_026
    assert parameters(network) <= 70_000
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        network(torch.zeros(1, 1, 28, 28))
    assert sum(step.multiply_adds for step in steps) == counter.get_total_flops() / 2
    assert table(recipe).endswith("62,026 parameters")


def thousand(recipe: Recipe) -> Recipe:
    """The recipe with as many labels as ImageNet."""
    layers = [*recipe.layers[:-1], Dense(dense=1000, activation="softmax")]
    return recipe.model_copy(update={"labels": [str(label) for label in range(1000)], "layers": layers})


@pytest.mark.parametrize(("name", "expected"), [("alexnet-2012", 60_965_224), ("alexnet-finetune", 61_100_840)])
def test_alexnet_with_1000_labels_has_the_published_number_of_parameters(name: str, expected: int) -> None:
    """The two-column network of the paper has 60,965,224, torchvision's, after Krizhevsky (2014), 61,100,840."""
    assert sum(step.parameters for step in trace(thousand(load(name)))) == expected


def test_alexnet_finetune_has_the_layers_of_torchvision_s() -> None:
    """The weights of all layers have the shapes of torchvision's file, so that it can be loaded."""
    with torch.device("meta"):
        ours, theirs = build(thousand(load("alexnet-finetune"))), models.alexnet()
    assert [weight.shape for weight in ours.parameters()] == [weight.shape for weight in theirs.parameters()]


def test_alexnet_2012_has_the_feature_maps_of_the_paper() -> None:
    """Figure 2 of the paper: 55 x 55 x 96, 27 x 27 x 256, 13 x 13 x 384 twice and x 256, then 4,096 twice."""
    steps = trace(load("alexnet-2012"))
    assert [step.output for step in steps if step.weights] == [
        (96, 55, 55),
        (256, 27, 27),
        (384, 13, 13),
        (384, 13, 13),
        (256, 13, 13),
        (4096,),
        (4096,),
        (2,),
    ]


def test_the_recipe_textbook_cnn_has_the_weights_of_the_textbook() -> None:
    """10*5*5 = 250, 20*5*5*10 = 5,000 and 320*100 = 32,000."""
    assert [step.weights for step in trace(load("textbook-cnn")) if step.weights] == [250, 5_000, 32_000, 1_000]


@pytest.mark.parametrize("name", names())
def test_every_recipe_has_the_parameters_of_its_network(name: str) -> None:
    """On the meta device: torch's parameters are those of `trace`, with one logit and probability for each label."""
    recipe = load(name)
    with torch.device("meta"):
        network = build(recipe).eval()
        spec = recipe.input
        size = (3, spec.length) if isinstance(spec, Text) else (3, spec.height, spec.width, spec.channels)
        inputs = torch.zeros(size, dtype=torch.int64 if isinstance(spec, Text) else torch.uint8)
        assert network(normalise(recipe)(inputs)).shape == (3, len(recipe.labels))
        assert Served(recipe, network, Calibration(1.5))(inputs).shape == (3, len(recipe.labels))
    assert parameters(network) == sum(step.parameters for step in trace(recipe))
    assert f"{parameters(network):,} parameters" in table(recipe)
