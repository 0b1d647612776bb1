"""Convolutions and pools in one to three dimensions, rectangular and dilated, with norms, against torch.

For each, `shapes` has the size and parameters of torch's layer, and the exported graph computes the same.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
from torch import nn

from contract.graph import inspect
from contract.manifest import GRAPH
from training.errors import RecipeError
from training.network.build import Served, build, layer_modules, normalise
from training.network.calibrated import Calibration
from training.recipe.arithmetic import layer_shape
from training.recipe.layers import Conv, Dense, Pool
from training.recipe.schema import Recipe
from training.recipe.shapes import table, trace
from training.release.publish import export

FLAT: list[dict[str, Any]] = [{"flatten": True}, {"dense": 3, "activation": "none"}]


@pytest.mark.filterwarnings("ignore:Using padding='same'")
@pytest.mark.parametrize("batch_norm", [False, True])
@pytest.mark.parametrize(
    ("layer", "shape", "reference"),
    [
        ({"kernel": 3}, (2, 11), nn.Conv1d(2, 4, 3)),
        ({"kernel": 3, "stride": 2, "padding": 1, "dilation": 2}, (2, 11), nn.Conv1d(2, 4, 3, 2, 1, 2)),
        ({"kernel": [3, 5]}, (2, 9, 11), nn.Conv2d(2, 4, (3, 5))),
        (
            {"kernel": [3, 2], "stride": [2, 1], "padding": [1, 0], "dilation": [1, 3]},
            (2, 9, 11),
            nn.Conv2d(2, 4, (3, 2), (2, 1), (1, 0), (1, 3)),
        ),
        ({"kernel": 4, "padding": "same"}, (2, 9, 11), nn.Conv2d(2, 4, 4, padding="same")),
        ({"kernel": 3, "padding": "same", "dilation": 2}, (2, 9, 11), nn.Conv2d(2, 4, 3, padding="same", dilation=2)),
        ({"kernel": 3, "groups": 2}, (2, 9, 11), nn.Conv2d(2, 4, 3, groups=2)),
        ({"kernel": 3, "stride": 2}, (2, 5, 9, 11), nn.Conv3d(2, 4, 3, 2)),
        ({"kernel": [1, 3, 5], "padding": [0, 1, 2]}, (2, 5, 9, 11), nn.Conv3d(2, 4, (1, 3, 5), padding=(0, 1, 2))),
    ],
    ids=["1d", "1d dilated", "rectangular", "all", "same", "same dilated", "groups", "3d", "3d rectangular"],
)
def test_convolutions_are_torch_s(
    layer: dict[str, Any], shape: tuple[int, ...], reference: nn.Module, *, batch_norm: bool
) -> None:
    """Shape, parameters and multiply-adds are those of torch's layer, and so are the values with its weights."""
    conv = Conv.model_validate({"conv": 4, **layer, "batch_norm": batch_norm, "activation": "none"})
    step, inputs = layer_shape(conv, shape), torch.randn(5, *shape)
    expected = reference(inputs)
    modules = nn.Sequential(*layer_modules(conv, shape, "relu"))
    assert step.output == expected.shape[1:]
    assert step.weights == reference.weight.numel()  # type: ignore[operator]
    assert (step.biases, step.norms) == ((0, 8) if batch_norm else (4, 0))
    assert step.multiply_adds == step.weights * expected[0, 0].numel()
    assert sum(each.numel() for each in modules.parameters()) == step.parameters
    if not batch_norm:
        for ours, theirs in zip(modules.parameters(), reference.parameters(), strict=True):
            ours.data.copy_(theirs)
        torch.testing.assert_close(modules(inputs), expected)


@pytest.mark.parametrize(
    ("layer", "shape", "reference"),
    [
        ({"size": 2}, (3, 11), nn.MaxPool1d(2)),
        ({"size": [2, 3]}, (3, 9, 11), nn.MaxPool2d((2, 3))),
        ({"size": [2, 3], "stride": [1, 2]}, (3, 9, 11), nn.MaxPool2d((2, 3), (1, 2))),
        ({"size": 2, "stride": 1}, (3, 5, 9, 11), nn.MaxPool3d(2, 1)),
        ({"size": "global"}, (3, 11), nn.AdaptiveMaxPool1d(1)),
        ({"size": "global"}, (3, 5, 9, 11), nn.AdaptiveMaxPool3d(1)),
    ],
    ids=str,
)
def test_pools_are_torch_s(layer: dict[str, Any], shape: tuple[int, ...], reference: nn.Module) -> None:
    """Shapes and values; average pools have the same windows."""
    inputs = torch.randn(5, *shape)
    expected = reference(inputs)
    for kind in ("max", "average"):
        pool = Pool.model_validate({"pool": kind, **layer})
        (module,) = layer_modules(pool, shape, "relu")
        assert layer_shape(pool, shape).output == expected.shape[1:] == module(inputs).shape[1:]
        if kind == "max":
            torch.testing.assert_close(module(inputs), expected)


def test_the_formula_of_the_course_in_three_dimensions() -> None:
    """16 filters of 3 x 3 x 3 on 1 x 16 x 28 x 28 with stride 2 and padding 1: 8 x 14 x 14, 432 weights."""
    step = layer_shape(Conv(conv=16, kernel=3, stride=2, padding=1), (1, 16, 28, 28))
    assert step.output == (16, 8, 14, 14)
    assert step.weights == 16 * 27
    assert [formula.split(":")[0] for formula in step.formulas] == [
        "OD = (16 + 2*1 - 3)/2 + 1 = 8.5, rounded down to 8",
        "OH = (28 + 2*1 - 3)/2 + 1 = 14.5, rounded down to 14",
        "OW = (28 + 2*1 - 3)/2 + 1 = 14.5, rounded down to 14",
    ]


def test_dilation_and_same_padding_are_in_the_formula() -> None:
    """A filter of 3 with dilation 2 covers 5; `same` pads it by 2 on each side, one of 4 by 1 and 2."""
    (dilated,) = layer_shape(Conv(conv=1, kernel=3, dilation=2), (1, 9)).formulas
    assert dilated == "OL = (9 + 2*0 - (2*(3 - 1) + 1))/1 + 1 = 5"
    (same,) = layer_shape(Conv(conv=1, kernel=4, padding="same"), (1, 9)).formulas
    assert same == "OL = (9 + 1 + 2 - 4)/1 + 1 = 9"


@pytest.mark.parametrize(
    ("layer", "reference"),
    [
        ({"batch_norm": True}, nn.BatchNorm2d(4)),
        ({"group_norm": 2}, nn.GroupNorm(2, 4)),
        ({"layer_norm": True}, nn.LayerNorm([4, 5, 5])),
    ],
    ids=["batch", "group", "layer"],
)
def test_norms_are_torch_s(layer: dict[str, Any], reference: nn.Module) -> None:
    """A norm stands between the convolution and its activation, over the same values as torch's."""
    conv, norm, activation = layer_modules(Conv.model_validate({"conv": 4, "kernel": 3, **layer}), (2, 7, 7), "relu")
    inputs = torch.randn(6, 2, 7, 7)
    torch.testing.assert_close(activation(norm(conv(inputs))), torch.relu(reference(conv(inputs))))
    dense = Dense.model_validate({"dense": 4, **layer, "activation": "none"})
    modules = nn.Sequential(*layer_modules(dense, (3,), "relu"))
    assert sum(each.numel() for each in modules.parameters()) == layer_shape(dense, (3,)).parameters == 3 * 4 + 2 * 4
    assert modules(torch.randn(6, 3)).shape == (6, 4)


@pytest.mark.parametrize(
    ("name", "reference"),
    [
        ("leaky-relu", nn.LeakyReLU(0.01)),
        ("elu", nn.ELU()),
        ("gelu", nn.GELU()),
        ("softplus", nn.Softplus()),
        ("sigmoid", nn.Sigmoid()),
        ("tanh", nn.Tanh()),
    ],
)
def test_activations_are_torch_s(name: Any, reference: nn.Module) -> None:
    """Each has the values of torch's module."""
    modules = layer_modules(Dense(dense=5, activation=name), (3,), "relu")
    inputs = torch.randn(20, 5)
    torch.testing.assert_close(nn.Sequential(*modules[1:])(inputs), reference(inputs))


NETWORKS: dict[str, list[dict[str, Any]]] = {
    "1d": [
        {"reshape": [6, 9]},
        {"conv": 5, "kernel": 3, "dilation": 2, "batch_norm": True, "activation": "elu"},
        {"pool": "max", "size": 2},
        *FLAT,
    ],
    "2d": [
        {"conv": 4, "kernel": [3, 5], "padding": "same", "group_norm": 2, "activation": "gelu"},
        {"conv": 4, "kernel": 2, "dilation": [1, 2], "layer_norm": True, "activation": "leaky-relu"},
        {"pool": "average", "size": [2, 3]},
        {"flatten": True},
        {"dense": 6, "layer_norm": True, "activation": "softplus"},
        {"dense": 6, "group_norm": 3},
        {"dense": 3, "activation": "none"},
    ],
    "3d": [
        {"reshape": [1, 3, 6, 3]},
        {"conv": 4, "kernel": [2, 3, 2], "batch_norm": True},
        {"pool": "max", "size": [1, 2, 2]},
        {"pool": "average", "size": "global"},
        *FLAT,
    ],
    "global max": [{"conv": 4, "kernel": [2, 4], "padding": "same"}, {"pool": "max", "size": "global"}, *FLAT],
    "global max 1d": [{"reshape": [6, 9]}, {"conv": 4, "kernel": 2}, {"pool": "max", "size": "global"}, *FLAT],
}


@pytest.mark.parametrize("name", NETWORKS)
def test_networks_are_exported_as_they_are(name: str, recipe_with: Callable[..., Recipe], tmp_path: Path) -> None:
    """The exported graph has torch's probabilities for any batch size, and only operators that serving accepts."""
    recipe = recipe_with(layers=NETWORKS[name])
    torch.manual_seed(0)
    network = build(recipe)
    assert sum(each.numel() for each in network.parameters()) == sum(step.parameters for step in trace(recipe))
    assert table(recipe)
    network(normalise(recipe)(torch.randint(0, 256, (8, 6, 9, 1), dtype=torch.uint8)))  # running statistics
    served = Served(recipe, network, Calibration(1.3)).eval()
    export(served, recipe.input.served(), tmp_path / GRAPH)
    inspect(tmp_path / GRAPH)
    session = onnxruntime.InferenceSession(tmp_path / GRAPH, providers=["CPUExecutionProvider"])
    for count in (1, 5):
        images = torch.randint(0, 256, (count, 6, 9, 1), dtype=torch.uint8)
        (actual,) = session.run(None, {"image": images.numpy()})
        with torch.inference_mode():
            np.testing.assert_allclose(actual, served(images), atol=1e-5)


@pytest.mark.parametrize(
    ("layers", "message"),
    [
        ([{"conv": 2, "kernel": [3, 3, 3]}], r"kernel = \[3, 3, 3\] has 3 numbers, but the input has 2 axes"),
        ([{"conv": 2, "kernel": 3, "stride": [1]}], r"stride = \[1\] has 1 numbers, but the input has 2 axes"),
        ([{"conv": 2, "kernel": 4, "dilation": 3}], r"filter of 4, dilated to 10, is larger than H = 6"),
        ([{"conv": 4, "kernel": 3, "group_norm": 3}], "group_norm = 3 must divide the 4 channels"),
        ([{"reshape": [5, 11]}], r"reshape = \[5, 11\] has 55 values, but the input 1 x 6 x 9 has 54"),
        ([{"flatten": True}, {"conv": 2, "kernel": 1}], "conv expects feature maps"),
    ],
)
def test_a_layer_that_does_not_fit_is_named(
    layers: list[dict[str, Any]], message: str, recipe_with: Callable[..., Recipe]
) -> None:
    """The error has the layer, its key and the axes of its input."""
    with pytest.raises(RecipeError, match=rf"layers\[{len(layers)}\]: .*{message}"):
        trace(recipe_with(layers=[*layers, *FLAT]))


@pytest.mark.parametrize(
    ("layer", "message"),
    [
        ({"conv": 2, "kernel": 3, "padding": "same", "stride": 2}, "padding = 'same' needs stride = 1"),
        ({"conv": 2, "kernel": [3, 0]}, r"kernel: invalid value \[3, 0\]: must be a whole number from 1"),
        ({"conv": 2, "kernel": 3, "padding": "full"}, "padding: invalid value 'full': .* or 'same'"),
        ({"conv": 2, "kernel": 3, "batch_norm": True, "layer_norm": True}, "one of them at most"),
        ({"reshape": [5]}, "reshape"),
    ],
)
def test_a_key_that_cannot_be_is_named(layer: dict[str, Any], message: str, recipe_with: Callable[..., Recipe]) -> None:
    """The error names the layer and says what is allowed."""
    with pytest.raises(RecipeError, match=rf"layers\[1\].*{message}"):
        recipe_with(layers=[layer, *FLAT])
