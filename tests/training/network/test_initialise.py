"""Initial weights, compared with the variances and bounds of the papers."""

import math
from collections.abc import Callable
from copy import deepcopy

import pytest
import torch
from torch import nn

from training.network.build import build
from training.network.initialise import initialise
from training.recipe.schema import Initialise, Recipe

# n_in and n_out: channels times the size of the filter for convolutions, units for the dense layer.
LAYERS = [
    (lambda: nn.Conv2d(40, 80, 5), 40 * 25, 80 * 25),
    (lambda: nn.Conv1d(300, 100, 5), 300 * 5, 100 * 5),
    (lambda: nn.Linear(600, 300), 600, 300),
]


@pytest.mark.parametrize(("make", "n_in", "n_out"), LAYERS)
@pytest.mark.parametrize("distribution", ["normal", "uniform"])
@pytest.mark.parametrize("name", ["xavier", "he"])
def test_weights_have_the_variance_and_bounds_of_the_paper(
    name: str, distribution: str, make: Callable[[], nn.Conv1d | nn.Conv2d | nn.Linear], n_in: int, n_out: int
) -> None:
    """Xavier: variance 2/(n_in + n_out), uniform within sqrt(6/(n_in + n_out)); He: 2/n_in, within sqrt(6/n_in)."""
    torch.manual_seed(0)
    layer = make()
    initialise(nn.Sequential(layer), Initialise.model_validate({"name": name, "distribution": distribution}))
    variance = 2 / (n_in + n_out) if name == "xavier" else 2 / n_in
    weights = layer.weight.detach().double()
    assert weights.var().item() == pytest.approx(variance, rel=0.02)
    assert abs(weights.mean().item()) < 4 * math.sqrt(variance / weights.numel())
    bound = math.sqrt(6 / (n_in + n_out) if name == "xavier" else 6 / n_in)
    if distribution == "uniform":
        assert 0.999 * bound < weights.abs().max().item() <= bound * (1 + 1e-6)
    else:
        within = (weights.abs() < math.sqrt(variance)).double().mean().item()
        assert within == pytest.approx(math.erf(math.sqrt(0.5)), abs=0.01)


@pytest.mark.parametrize(("make", "_n_in", "_n_out"), LAYERS)
@pytest.mark.parametrize("distribution", ["normal", "uniform"])
def test_a_fixed_spread_is_the_same_for_every_layer(
    distribution: str, make: Callable[[], nn.Conv1d | nn.Conv2d | nn.Linear], _n_in: int, _n_out: int
) -> None:
    """`fixed`: normal with the standard deviation `spread`, or uniform within it, for all fans."""
    torch.manual_seed(0)
    layer = make()
    options = Initialise.model_validate({"name": "fixed", "distribution": distribution, "spread": 0.02})
    initialise(nn.Sequential(layer), options)
    weights = layer.weight.detach().double()
    deviation = 0.02 if distribution == "normal" else 0.02 / math.sqrt(3)
    assert weights.std().item() == pytest.approx(deviation, rel=0.01)
    assert (weights.abs().max().item() <= 0.02 * (1 + 1e-6)) == (distribution == "uniform")


@pytest.mark.parametrize("name", ["xavier", "he", "fixed"])
def test_biases_are_zero(name: str) -> None:
    """Biases of convolutions and dense layers start at 0, at any depth; batch norm keeps its ones and zeros."""
    network = nn.Sequential(nn.Sequential(nn.Conv2d(2, 3, 3)), nn.BatchNorm2d(3), nn.Flatten(), nn.Linear(12, 4))
    initialise(network, Initialise.model_validate({"name": name}))
    zeros = [value for key, value in network.state_dict().items() if key.endswith("bias")]
    assert len(zeros) == 3
    assert not any(value.any() for value in zeros)
    assert torch.equal(network.state_dict()["1.weight"], torch.ones(3))


def test_pytorch_keeps_torch_s_weights() -> None:
    """`pytorch` draws nothing and changes neither weights nor biases."""
    network = nn.Sequential(nn.Conv2d(2, 3, 3), nn.Linear(12, 4))
    before, generator = deepcopy(network.state_dict()), torch.get_rng_state()
    initialise(network, Initialise(name="pytorch"))
    assert all(torch.equal(value, before[key]) for key, value in network.state_dict().items())
    assert torch.equal(torch.get_rng_state(), generator)


@pytest.mark.parametrize(("make", "n_in", "_n_out"), LAYERS)
def test_torch_s_weights_are_uniform_within_1_over_sqrt_n_in(
    make: Callable[[], nn.Conv1d | nn.Conv2d | nn.Linear], n_in: int, _n_out: int
) -> None:
    """Weights and biases that `pytorch` keeps are uniform within 1/sqrt(n_in), with the variance 1/(3 n_in)."""
    torch.manual_seed(0)
    layer = make()
    initialise(nn.Sequential(layer), Initialise(name="pytorch"))
    bound, weights = 1 / math.sqrt(n_in), layer.weight.detach().double()
    assert 0.999 * bound < weights.abs().max().item() <= bound * (1 + 1e-6)
    assert weights.var().item() == pytest.approx(1 / (3 * n_in), rel=0.02)
    assert layer.bias is not None
    assert 0.9 * bound < layer.bias.abs().max().item() <= bound * (1 + 1e-6)


def test_a_layer_without_bias_is_initialised() -> None:
    """A convolution before batch norm, which has no bias, is initialised, too."""
    network = nn.Sequential(nn.Conv2d(2, 3, 3, bias=False))
    before = network.state_dict()["0.weight"].clone()
    initialise(network, Initialise(name="he"))
    assert not torch.equal(network.state_dict()["0.weight"], before)


def test_windows_are_initialised_and_embeddings_are_not(
    recipe_with: Callable[..., Recipe],
) -> None:
    """Each width of parallel 1-D convolutions has its own n_in; word vectors stay uniform within 1/4.

    Padding and the unknown word start at 0.
    """
    torch.manual_seed(0)
    network = build(
        recipe_with(
            input={"kind": "text", "length": 9, "vocabulary": 2000},
            layers=[{"embedding": 50}, {"windows": [3, 5], "filters": 200}, {"dense": 3, "activation": "none"}],
            initialise={"name": "he", "distribution": "uniform"},
        )
    )
    weights = network.state_dict()
    for place, width in enumerate((3, 5)):
        bound = math.sqrt(6 / (50 * width))
        assert 0.999 * bound < weights[f"1.convs.{place}.weight"].abs().max() <= bound * (1 + 1e-6)
        assert not weights[f"1.convs.{place}.bias"].any()
    table = weights["0.table.weight"]
    assert table.abs().max() <= 0.25
    assert table[2:].std().item() == pytest.approx(0.5 / math.sqrt(12), rel=0.02)
    assert not table[:2].any()


@pytest.mark.parametrize(("make", "_n_in", "_n_out"), LAYERS)
def test_zeros_and_orthogonal_weights(
    make: Callable[[], nn.Conv1d | nn.Conv2d | nn.Linear], _n_in: int, _n_out: int
) -> None:
    """`zeros` has no other weight; the rows of `orthogonal`, or its columns if they are fewer, are orthonormal."""
    torch.manual_seed(0)
    layer = make()
    initialise(nn.Sequential(layer), Initialise(name="zeros"))
    assert not layer.weight.any()
    initialise(nn.Sequential(layer), Initialise(name="orthogonal"))
    matrix = layer.weight.detach().flatten(1).double()
    gram = matrix @ matrix.T if len(matrix) <= matrix.shape[1] else matrix.T @ matrix
    torch.testing.assert_close(gram, torch.eye(len(gram), dtype=torch.float64), atol=1e-4, rtol=0)
    assert layer.bias is not None
    assert not layer.bias.any()
