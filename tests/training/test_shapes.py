"""The arithmetic of shapes, held against torch's own modules and the textbook's numbers."""

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

from training.errors import RecipeError
from training.network import build, layer_modules
from training.recipe import Conv, Dense, Dropout, Flatten, Pool, Recipe, load
from training.shapes import LayerShape, layer_shape, table, trace

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
    return sum(weight.numel() for weight in network.parameters())


def test_padding_of_1_keeps_4x4_under_a_3x3_filter_and_the_values_are_the_textbook_s() -> None:
    """A convolution is the cross-correlation worked out by hand, at the shape that the formula gives."""
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


@given(window=windows, filters=st.integers(1, 4), batch_norm=st.booleans())
@settings(deadline=None, max_examples=150, derandomize=True)
def test_a_convolution_has_torch_s_shape_and_parameters_or_is_refused_as_by_torch(
    window: dict[str, int], filters: int, *, batch_norm: bool
) -> None:
    """For any input, kernel, stride and padding: torch's output shape and count, and refusal where torch refuses."""
    kernel, stride, padding = window["kernel"], window["stride"], window["padding"]
    shape = (window["channels"], window["height"], window["width"])
    modules: list[nn.Module] = [nn.Conv2d(shape[0], filters, kernel, stride, padding, bias=not batch_norm)]
    if batch_norm:
        modules.append(nn.BatchNorm2d(filters))
    reference = nn.Sequential(*modules).eval()
    layer = Conv(conv=filters, kernel=kernel, stride=stride, padding=padding, batch_norm=batch_norm)
    found: LayerShape | None = None
    with suppress(RecipeError):
        found = layer_shape(layer, shape)
    try:
        output = reference(torch.zeros(1, *shape))
    except RuntimeError:
        assert found is None
    else:
        assert found is not None
        assert found.output == tuple(output.shape[1:])
        assert found.parameters == parameters(reference)


@given(window=windows, kind=st.sampled_from(["max", "average"]), own_stride=st.booleans())
@settings(deadline=None, max_examples=150, derandomize=True)
def test_pooling_has_torch_s_shape_or_is_refused_as_by_torch(
    window: dict[str, int], kind: Any, *, own_stride: bool
) -> None:
    """For any input, window and stride: torch's output shape, and refusal where torch refuses."""
    shape = (window["channels"], window["height"], window["width"])
    stride = window["stride"] if own_stride else None
    reference = (nn.MaxPool2d if kind == "max" else nn.AvgPool2d)(window["kernel"], stride)
    found: LayerShape | None = None
    with suppress(RecipeError):
        found = layer_shape(Pool(pool=kind, size=window["kernel"], stride=stride), shape)
    try:
        output = reference(torch.zeros(1, *shape))
    except RuntimeError:
        assert found is None
    else:
        assert found is not None
        assert found.output == tuple(output.shape[1:])
        assert found.parameters == 0


@pytest.mark.parametrize("batch_norm", [False, True])
def test_a_dense_layer_has_torch_s_parameters(*, batch_norm: bool) -> None:
    """Weights, biases and batch norm are counted as torch holds them."""
    reference = nn.Sequential(nn.Linear(7, 5, bias=not batch_norm), *([nn.BatchNorm1d(5)] if batch_norm else []))
    step = layer_shape(Dense(dense=5, batch_norm=batch_norm), (7,))
    assert step.output == (5,)
    assert step.parameters == parameters(reference)


def test_flatten_and_dropout_change_no_count() -> None:
    """Flatten multiplies the axes out, dropout leaves the shape; neither has parameters."""
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
def test_every_step_of_a_stack_has_the_shape_that_torch_gives(
    layers: list[dict[str, Any]], recipe_with: Callable[..., Recipe]
) -> None:
    """Layer after layer, on pictures that are not square, the traced shapes and the sum of parameters are torch's."""
    recipe = recipe_with(layers=[*layers, {"dense": 3, "activation": "none"}])
    steps = trace(recipe)
    values = torch.zeros(2, 1, 6, 9)
    for layer, step in zip(recipe.layers, steps, strict=True):
        assert step.input == tuple(values.shape[1:])
        values = nn.Sequential(*layer_modules(layer, step.input, recipe.activation)).eval()(values)
        assert step.output == tuple(values.shape[1:])
    assert sum(step.parameters for step in steps) == parameters(build(recipe))


def test_the_textbook_cnn_has_the_textbook_s_numbers(recipe_with: Callable[..., Recipe]) -> None:
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
    """What is printed for the textbook's CNN holds its formulas, sizes and weights."""
    text = table(recipe_with(layers=TEXTBOOK, **DIGITS))
    assert "OH = (28 + 2*0 - 5)/1 + 1 = 24" in text
    assert "OH = (24 + 2*0 - 2)/2 + 1 = 12" in text
    assert "OH = (12 + 2*0 - 5)/1 + 1 = 8" in text
    assert re.search(r"conv 20, 5x5[^\n]* 20 x 8 x 8 +5,000 +20 ", text)
    assert re.search(r"dense 100[^\n]* 100 +32,000 +100 ", text)


def test_height_and_width_each_have_their_formula_where_they_differ() -> None:
    """On pictures that are not square, OH and OW are both written out."""
    step = layer_shape(Conv(conv=1, kernel=3), (1, 6, 9))
    assert step.output == (1, 4, 7)
    assert step.formulas == ("OH = (6 + 2*0 - 3)/1 + 1 = 4", "OW = (9 + 2*0 - 3)/1 + 1 = 7")


def test_a_stride_that_does_not_divide_is_rounded_down_and_said() -> None:
    """(28 - 5)/2 + 1 = 12.5 becomes 12, as in torch, and the formula says what is not seen."""
    step = layer_shape(Conv(conv=1, kernel=5, stride=2), (1, 28, 28))
    assert step.output == tuple(nn.Conv2d(1, 1, 5, 2)(torch.zeros(1, 1, 28, 28)).shape[1:]) == (1, 12, 12)
    (formula,) = step.formulas
    assert formula.startswith("OH = (28 + 2*0 - 5)/2 + 1 = 12.5, rounded down to 12: stride 2 does not divide 23")
    assert "the last 1 of 28 along H is not seen" in formula


@pytest.mark.parametrize(
    ("layers", "message"),
    [
        ([{"conv": 2, "kernel": 7}], r"layers\[1\]: a filter of 7 is larger than its input, H = 6"),
        ([{"conv": 2, "kernel": 3}, {"pool": "max", "size": 5}], r"layers\[2\]: a window of 5 .* H = 4"),
        ([{"conv": 2, "kernel": 9, "padding": 1}], r"layers\[1\]: .* with padding 1 on both sides: at most 8 fits"),
        ([{"dense": 3}], r"layers\[1\]: dense needs a vector, its input is 1 x 6 x 9: put flatten = true before it"),
        ([{"flatten": True}, {"conv": 2, "kernel": 1}], r"layers\[2\]: conv needs feature maps .* vector of 54"),
        ([{"flatten": True}, {"pool": "max", "size": 1}], r"layers\[2\]: pool needs feature maps"),
        ([{"flatten": True}, {"dense": 4, "activation": "none"}], r"layers\[2\]: .* ends in 4; expected 3 values"),
        ([{"conv": 3, "kernel": 1}], r"layers\[1\]: the network ends in 3 x 6 x 9; expected 3 values"),
    ],
)
def test_a_stack_that_cannot_be_built_is_refused_at_its_layer(
    layers: list[dict[str, Any]], message: str, recipe_with: Callable[..., Recipe]
) -> None:
    """The refusal is one line that names the recipe and the layer, counted from 1, by `trace` and `build` alike."""
    recipe = recipe_with(layers=layers)
    for refusing in (trace, table, build):
        with pytest.raises(RecipeError, match=message) as refusal:
            refusing(recipe)
        assert str(refusal.value).startswith("small: ")
        assert "\n" not in str(refusal.value)


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
    """The last layer is a dense one without activation or batch norm: anything else could not be published."""
    with pytest.raises(RecipeError, match=r"layers\[\d\]"):
        trace(recipe_with(layers=[{"flatten": True}, *last]))


def test_lenet_counts_what_torch_holds_and_computes() -> None:
    """LeNet has 62,026 parameters, under its bound of 70,000, and torch counts the same multiply-adds."""
    recipe = load("lenet")
    network = build(recipe).eval()
    steps = trace(recipe)
    assert sum(step.parameters for step in steps) == parameters(network) == 62_026
    assert parameters(network) <= 70_000
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        network(torch.zeros(1, 1, 28, 28))
    assert sum(step.multiply_adds for step in steps) == counter.get_total_flops() / 2
    assert table(recipe).endswith("62,026 parameters")
