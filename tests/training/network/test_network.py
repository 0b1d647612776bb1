"""Recipes as torch modules: the scaling of the input, the output of each layer, and the exported graph."""

from collections.abc import Callable
from copy import deepcopy
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
import torch.nn.functional as F  # noqa: N812 -- its usual name
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from training.network.build import (
    BoundedLinear,
    Embed,
    Embedded,
    Normalise,
    ParallelWindows,
    Served,
    build,
    layer_modules,
    normalise,
)
from training.network.calibrated import Calibration
from training.recipe.arithmetic import Texts
from training.recipe.layers import Conv, Dense, Dropout, LocalResponseNorm, Pool, Windows
from training.recipe.schema import Recipe

TEXT: dict[str, Any] = {"kind": "text", "length": 9, "vocabulary": 30}
WORDS: list[dict[str, Any]] = [
    {"embedding": 6},
    {"dropout": 0.3},
    {"windows": [1, 3, 5], "filters": 4, "over_time": "both"},
    {"dropout": 0.5},
    {"dense": 3, "activation": "softmax"},
]


@pytest.mark.parametrize(("mean", "std"), [([0.1307], [0.3081]), ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])])
def test_normalise_equals_its_formula(mean: list[float], std: list[float]) -> None:
    """For each channel (x / 255 - mean) / std, from uint8 (N, H, W, C) to float32 (N, C, H, W), also if not square."""
    images = np.random.default_rng(0).integers(0, 256, (2, 5, 7, len(mean)), dtype=np.uint8)
    expected = ((images / 255 - np.array(mean)) / np.array(std)).transpose(0, 3, 1, 2)
    actual = Normalise(mean, std)(torch.from_numpy(images))
    assert actual.dtype == torch.float32
    assert actual.shape == (2, len(mean), 5, 7)
    np.testing.assert_allclose(actual.numpy(), expected, rtol=0, atol=1e-6)


def test_normalise_takes_mean_and_std_of_the_recipe(recipe_with: Callable[..., Recipe]) -> None:
    """Black and white pixels become -mean/std and (1 - mean)/std, with the recipe's mean and std."""
    scale = normalise(recipe_with())
    images = torch.tensor([0, 255], dtype=torch.uint8).view(1, 1, 2, 1)
    np.testing.assert_allclose(scale(images).flatten().numpy(), [-0.4 / 0.3, 0.6 / 0.3], rtol=1e-6)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.5])
def test_served_gives_softmax_of_logits_over_temperature(
    temperature: float, recipe_with: Callable[..., Recipe]
) -> None:
    """Served, with the temperature in its last layer, gives softmax(logits / T) of the trained network."""
    recipe = recipe_with()
    torch.manual_seed(0)
    network = build(recipe).eval()
    images = torch.randint(0, 256, (4, 6, 9, 1), dtype=torch.uint8)
    with torch.inference_mode():
        logits = network(normalise(recipe)(images)).double()
        actual = Served(recipe, deepcopy(network), Calibration(temperature))(images)
    np.testing.assert_allclose(actual, torch.softmax(logits / temperature, dim=1), rtol=0, atol=1e-6)


def test_served_is_in_evaluation_mode(recipe_with: Callable[..., Recipe]) -> None:
    """Served drops no values and takes no batch statistics: the output for an image does not depend on its batch."""
    hidden = [{"conv": 4, "kernel": 3, "batch_norm": True}, {"flatten": True}, {"dropout": 0.5}]
    recipe = recipe_with(layers=[*hidden, {"dense": 3, "activation": "none"}])
    served = Served(recipe, build(recipe).train(), Calibration(1.0))
    images = torch.randint(0, 256, (5, 6, 9, 1), dtype=torch.uint8)
    with torch.inference_mode():
        together, alone = served(images), torch.cat([served(image[None]) for image in images])
    np.testing.assert_allclose(together, alone, rtol=0, atol=1e-6)


def test_batch_norm_uses_batch_statistics_in_training_and_running_ones_in_evaluation() -> None:
    """In training each channel has mean 0 and variance 1 over the batch; evaluation uses running averages."""
    conv, norm = layer_modules(Conv(conv=3, kernel=1, batch_norm=True, activation="none"), (2, 4, 5), "relu")
    torch.manual_seed(0)
    values = torch.randn(16, 2, 4, 5) * 3 + 1
    block = nn.Sequential(conv, norm)
    with torch.no_grad():
        before = block.eval()(values)
        np.testing.assert_allclose(
            before, conv(values) / (1 + 1e-5) ** 0.5, rtol=1e-5, atol=1e-6
        )  # the initial statistics
        trained = block.train()(values)
        np.testing.assert_allclose(trained.mean(dim=(0, 2, 3)), np.zeros(3), atol=1e-5)
        np.testing.assert_allclose(trained.var(dim=(0, 2, 3), unbiased=False), np.ones(3), atol=1e-3)
        assert not torch.allclose(block.eval()(values), before)


def test_dropout_drops_in_training_only() -> None:
    """In training a share p of the values is 0 and the others x / (1 - p); in evaluation nothing changes."""
    (dropout,) = layer_modules(Dropout(dropout=0.25), (40_000,), "relu")
    torch.manual_seed(0)
    ones = torch.ones(40_000)
    dropped = dropout.train()(ones)
    assert set(dropped.unique().tolist()) == {0.0, torch.tensor(1 / 0.75).item()}
    assert float((dropped == 0).float().mean()) == pytest.approx(0.25, abs=0.01)
    assert torch.equal(dropout.eval()(ones), ones)


def test_a_layer_with_batch_norm_has_no_bias() -> None:
    """Batch norm's shift replaces the bias of a convolution or dense layer."""
    conv = layer_modules(Conv(conv=3, kernel=1, batch_norm=True), (2, 4, 4), "relu")[0]
    dense = layer_modules(Dense(dense=3, batch_norm=True), (8,), "relu")[0]
    assert [name for name, _ in conv.named_parameters()] == ["weight"]
    assert [name for name, _ in dense.named_parameters()] == ["weight"]


@pytest.mark.parametrize(("kind", "reduce"), [("max", np.max), ("average", np.mean)])
def test_pooling_reduces_each_window(kind: str, reduce: Callable[..., float]) -> None:
    """Max and average pooling equal NumPy's max and mean over each window."""
    (pool,) = layer_modules(Pool.model_validate({"pool": kind, "size": 2}), (1, 4, 6), "relu")
    values = np.random.default_rng(0).normal(size=(1, 1, 4, 6)).astype(np.float32)
    expected = reduce(values.reshape(1, 1, 2, 2, 3, 2), axis=(3, 5))
    np.testing.assert_allclose(pool(torch.from_numpy(values)), expected, rtol=1e-6)


@pytest.mark.parametrize(
    ("own", "usual", "expected"),
    [
        (None, "relu", [0.0, 0.5]),
        (None, "tanh", np.tanh([-0.5, 0.5])),
        ("sigmoid", "relu", 1 / (1 + np.exp([0.5, -0.5]))),
        ("none", "relu", [-0.5, 0.5]),
    ],
)
def test_a_layer_s_activation_is_its_own_or_the_recipe_s(own: str | None, usual: str, expected: list[float]) -> None:
    """A layer without an activation has the recipe's; `none` means no activation."""
    layer = Dense.model_validate({"dense": 2, "activation": own})
    modules = layer_modules(layer, (2,), usual)  # type: ignore[arg-type]
    with torch.no_grad():
        actual = nn.Sequential(*modules[1:])(torch.tensor([[-0.5, 0.5]]))
    np.testing.assert_allclose(actual[0], expected, rtol=1e-6)


def test_a_seed_gives_the_same_network(recipe_with: Callable[..., Recipe]) -> None:
    """Weights depend on torch's global generator only."""
    weights = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        weights.append(torch.cat([parameter.flatten() for parameter in build(recipe_with()).parameters()]))
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])


def test_a_final_softmax_is_part_of_the_served_graph_only(recipe_with: Callable[..., Recipe]) -> None:
    """`softmax` and `none` build the same network, which gives logits; Served gives probabilities."""
    flat = {"flatten": True}
    logits = []
    images = torch.randint(0, 256, (4, 6, 9, 1), dtype=torch.uint8)
    for last in ("softmax", "none"):
        torch.manual_seed(0)
        recipe = recipe_with(layers=[flat, {"dense": 3, "activation": last}])
        network = build(recipe).eval()
        assert isinstance(network[-1], nn.Linear)
        logits.append(network(normalise(recipe)(images)))
        with torch.inference_mode():
            np.testing.assert_allclose(
                Served(recipe, network, Calibration(1.0))(images).sum(dim=1), np.ones(4), atol=1e-6
            )
    assert torch.equal(logits[0], logits[1])
    assert (logits[0] < 0).any()


@pytest.mark.parametrize("neighbours", [1, 2, 5])
def test_local_response_norm_equals_the_paper_s_formula(neighbours: int) -> None:
    """b_i = a_i / (k + alpha * sum of a_j^2 over |j - i| <= n/2)^beta (Krizhevsky et al., 2012, section 3.3)."""
    layer = LocalResponseNorm(lrn=neighbours, k=1.5, alpha=0.3, beta=0.6)
    (norm,) = layer_modules(layer, (7, 2, 3), "relu")
    maps = np.random.default_rng(0).normal(size=(4, 7, 2, 3))
    expected = np.empty_like(maps)
    for i in range(7):
        # As in torch, an even number of neighbours has one more below than above.
        below, above = max(i - neighbours // 2, 0), min(i + (neighbours - 1) // 2, 6)
        total = (maps[:, below : above + 1] ** 2).sum(axis=1)
        expected[:, i] = maps[:, i] / (1.5 + 0.3 * total) ** 0.6
    np.testing.assert_allclose(norm(torch.from_numpy(maps)), expected, rtol=1e-6)


def test_local_response_norm_has_the_paper_s_constants() -> None:
    """One channel of value 100 under n = 5: 100 / (2 + 0.0001 * 100^2)^0.75."""
    (norm,) = layer_modules(LocalResponseNorm(lrn=5), (1, 1, 1), "relu")
    assert norm(torch.full((1, 1, 1, 1), 100.0)).item() == pytest.approx(100 / 3**0.75)


@pytest.mark.parametrize(("kind", "reduce"), [("max", np.max), ("average", np.mean)])
def test_global_pooling_reduces_each_map(kind: str, reduce: Callable[..., float]) -> None:
    """For any height and width, one value for each channel: NumPy's max or mean over both axes."""
    (pool,) = layer_modules(Pool.model_validate({"pool": kind, "size": "global"}), (3, 4, 6), "relu")
    for height, width in ((4, 6), (1, 1), (5, 2)):
        values = np.random.default_rng(0).normal(size=(2, 3, height, width))
        actual = pool(torch.from_numpy(values))
        np.testing.assert_allclose(actual, reduce(values, axis=(2, 3), keepdims=True), rtol=1e-12)


def test_groups_are_independent_convolutions() -> None:
    """Two groups are two convolutions, each with half of the filters over half of the channels."""
    torch.manual_seed(0)
    conv = layer_modules(Conv(conv=6, kernel=3, groups=2, activation="none"), (4, 5, 6), "relu")[0]
    assert isinstance(conv, nn.Conv2d)
    assert conv.bias is not None
    values = torch.randn(2, 4, 5, 6)
    with torch.no_grad():
        halves = [
            F.conv2d(values[:, :2], conv.weight[:3], conv.bias[:3]),
            F.conv2d(values[:, 2:], conv.weight[3:], conv.bias[3:]),
        ]
        np.testing.assert_allclose(conv(values), torch.cat(halves, dim=1), atol=1e-6)


def test_the_vector_of_padding_is_0_and_is_not_trained() -> None:
    """Id 0 is embedded as zeros, is not present in the mask and gets no gradient; other ids do."""
    torch.manual_seed(0)
    embed = Embed(6, 4)
    tokens = torch.tensor([[2, 3, 0, 0], [5, 1, 4, 0]])
    values, present = embed(tokens)
    assert values.shape == (2, 4, 4)
    assert present.tolist() == [[[True, True, False, False]], [[True, True, True, False]]]
    assert torch.equal(values[1, :, 2], embed.table.weight[4])
    assert not values.masked_select(~present).any()
    (values + 1).square().sum().backward()
    gradient = embed.table.weight.grad
    assert gradient is not None
    assert gradient.any(dim=1).tolist() == [False, True, True, True, True, True]


def by_hand(over: ParallelWindows, values: npt.NDArray[np.float64], lengths: list[int]) -> npt.NDArray[np.float64]:
    """Kim (2014), equations 2 and 4, in loops: windows start inside a text and see zeros beyond its end.

    Wide windows also start before it, as long as they cover its first token.
    """
    rows = []
    for vectors, length in zip(values, lengths, strict=True):
        row: list[float] = []
        for conv in over.convs:
            assert isinstance(conv, nn.Conv1d)
            assert conv.bias is not None
            (size,) = conv.kernel_size
            weight, bias = conv.weight.detach().numpy(), conv.bias.detach().numpy()
            before = size - 1 if over.wide else 0
            text = np.pad(vectors[:, :length], ((0, 0), (before, size)))
            maps = np.array(
                [np.tanh((weight * text[:, at : at + size]).sum(axis=(1, 2)) + bias) for at in range(before + length)]
            )  # (L, F), or (size - 1 + L, F)
            row += list(maps.max(axis=0)) if over.over_time != "average" else []
            row += list(maps.mean(axis=0)) if over.over_time != "max" else []
        rows.append(row)
    return np.array(rows)


@pytest.mark.parametrize("over_time", ["max", "average", "both"])
@pytest.mark.parametrize("windows", [[1], [3], [2, 5], [3, 3, 4]])
@pytest.mark.parametrize("wide", [False, True])
def test_windows_equal_loops_over_each_text(windows: list[int], over_time: str, *, wide: bool) -> None:
    """Each width is a dot product at each position, pooled over the text, also if it is shorter than the width."""
    torch.manual_seed(0)
    layer = Windows.model_validate({"windows": windows, "filters": 2, "over_time": over_time, "wide": wide})
    (over,) = layer_modules(layer, (3, 7), "tanh")
    assert isinstance(over, ParallelWindows)
    over.double()
    lengths = [7, 4, 2, 1]
    present = torch.arange(7).view(1, 1, 7) < torch.tensor(lengths).view(4, 1, 1)
    values = torch.randn(4, 3, 7, dtype=torch.float64) * present
    with torch.no_grad():
        actual = over(Embedded(values, present))
    np.testing.assert_allclose(actual, by_hand(over, values.numpy(), lengths), rtol=1e-9)


@given(
    text=st.lists(st.integers(1, 29), min_size=1, max_size=9),
    more=st.integers(1, 8),
    wide=st.booleans(),
    data=st.data(),
)
@settings(deadline=None, max_examples=60, derandomize=True)
def test_padding_after_a_text_changes_nothing(
    text: list[int], more: int, data: st.DataObject, recipe_with: Callable[..., Recipe], *, wide: bool
) -> None:
    """A text has the same logits alone, with padding after it, and in a batch with a longer text."""
    torch.manual_seed(0)
    layers = [{**layer, "wide": wide} if "windows" in layer else layer for layer in WORDS]
    recipe = recipe_with(input=TEXT, layers=layers)
    network = build(recipe).eval()
    size = len(text) + more
    longer = data.draw(st.lists(st.integers(1, 29), min_size=size, max_size=size))
    with torch.inference_mode():
        alone = network(torch.tensor([text]))
        padded = network(torch.tensor([text + [0] * more]))
        beside = network(torch.tensor([longer, text + [0] * more]))[1:]
    np.testing.assert_allclose(padded, alone, atol=1e-6)
    np.testing.assert_allclose(beside, alone, atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.int32, torch.int64])
def test_served_gives_a_text_s_probabilities(dtype: torch.dtype, recipe_with: Callable[..., Recipe]) -> None:
    """Token ids of either type become softmax(logits / T(L)) for each text of L tokens, without dropout."""
    torch.manual_seed(0)
    recipe = recipe_with(input=TEXT, layers=WORDS)
    network = build(recipe).eval()
    tokens = torch.tensor([[3, 7, 7, 0], [4, 29, 0, 0], [1, 0, 0, 0]], dtype=dtype)
    with torch.inference_mode():
        logits = network(tokens.long()).double()
        actual = Served(recipe, deepcopy(network).train(), Calibration(2.0))(tokens)
        by_length = Served(recipe, deepcopy(network).train(), Calibration(2.0, -0.5))(tokens)
    np.testing.assert_allclose(actual, torch.softmax(logits / 2, dim=1), rtol=0, atol=1e-6)
    divisors = 2 * (torch.tensor([[3.0], [2.0], [1.0]]) / 64) ** -0.5
    np.testing.assert_allclose(by_length, torch.softmax(logits / divisors, dim=1), rtol=0, atol=1e-6)


def test_dropout_on_embedded_texts_drops_single_values_in_training_only() -> None:
    """A share p of the vectors' values is 0, the others x / (1 - p); the mask of tokens stays."""
    (dropout,) = layer_modules(Dropout(dropout=0.25), Texts((50, 40)), "relu")
    torch.manual_seed(0)
    present = torch.arange(40).view(1, 1, 40) < torch.tensor([40, 30]).view(2, 1, 1)
    texts = Embedded(torch.ones(2, 50, 40) * present, present)
    dropped: Embedded = dropout.train()(texts)
    assert torch.equal(dropped.present, present)
    kept = dropped.values.masked_select(present)
    assert set(kept.tolist()) == {0.0, torch.tensor(1 / 0.75).item()}
    assert float((kept == 0).float().mean()) == pytest.approx(0.25, abs=0.03)
    assert not dropped.values.masked_select(~present).any()
    assert torch.equal(dropout.eval()(texts).values, texts.values)


@pytest.mark.parametrize("shape", [(40_000,), Texts((50, 40))])
def test_dropout_scaled_in_evaluation_does_not_scale_in_training(shape: tuple[int, ...]) -> None:
    """Hinton et al. (2012): a share p is 0, the others stay; in evaluation all values are x * (1 - p)."""
    (dropout,) = layer_modules(Dropout(dropout=0.25, scale_in="evaluation"), shape, "relu")
    torch.manual_seed(0)
    ones = torch.ones(20, *shape)
    inputs = ones if len(shape) == 1 else Embedded(ones, torch.ones(20, 1, shape[1], dtype=torch.bool))
    dropped, scaled = (
        outputs if isinstance(outputs, Tensor) else outputs.values
        for outputs in (dropout.train()(inputs), dropout.eval()(inputs))
    )
    assert set(dropped.flatten().tolist()) == {0.0, 1.0}
    assert float((dropped == 0).float().mean()) == pytest.approx(0.25, abs=0.01)
    assert torch.equal(scaled, ones * 0.75)


def test_max_norm_scales_long_rows_and_keeps_short_ones() -> None:
    """Each unit's weights w become w * min(1, bound / |w|); its bias is not bounded."""
    torch.manual_seed(0)
    (dense,) = layer_modules(Dense(dense=4, max_norm=3, activation="none"), (10,), "relu")
    assert isinstance(dense, BoundedLinear)
    lengths = torch.tensor([0.5, 2.99, 3.01, 40.0]).view(4, 1)
    with torch.no_grad():
        dense.weight.copy_(F.normalize(torch.randn(4, 10)) * lengths)
        dense.bias.fill_(9)
    before = dense.weight.detach().clone()
    dense.bound()
    np.testing.assert_allclose(dense.weight.detach(), before * (3 / lengths).clamp(max=1), rtol=1e-6)
    assert torch.equal(dense.weight[:2], before[:2])
    assert dense.bias.tolist() == [9] * 4


def test_max_norm_is_of_the_layer_that_names_it(recipe_with: Callable[..., Recipe]) -> None:
    """Other dense layers are torch's, and a layer with max-norm computes the same as torch's."""
    torch.manual_seed(0)
    layers: list[dict[str, Any]] = [{"flatten": True}, {"dense": 5}, {"dense": 3, "max_norm": 3, "activation": "none"}]
    hidden, last = (module for module in build(recipe_with(layers=layers)) if isinstance(module, nn.Linear))
    assert type(hidden) is nn.Linear
    assert type(last) is BoundedLinear
    values: Tensor = torch.randn(2, 5)
    assert torch.equal(last(values), F.linear(values, last.weight, last.bias))
