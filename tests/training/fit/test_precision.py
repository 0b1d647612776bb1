"""Which arithmetic a run takes: what is asked for, and what is measured where the choice is left open."""

from collections.abc import Callable
from typing import Any, NoReturn

import numpy as np
import pytest
import torch
import torch.nn.functional as F  # noqa: N812 -- its usual name
from torch import Tensor, nn

from training.errors import RecipeError
from training.fit import precision
from training.fit.precision import layout, prepare, resolve
from training.network.build import build
from training.recipe.schema import Recipe

CPU = torch.device("cpu")
FLAT: dict[str, Any] = {"flatten": True}
OUT: dict[str, Any] = {"dense": 3, "activation": "none"}
SQUARE: dict[str, Any] = {"height": 6, "width": 6, "mode": "L", "framing": "squash", "mean": [0.4], "std": [0.3]}
TEXT: dict[str, Any] = {
    "input": {"kind": "text", "length": 12, "vocabulary": 50},
    "layers": [{"embedding": 4}, {"windows": [2, 3], "filters": 5}, OUT],
}
COLOURED: dict[str, Any] = {**SQUARE, "width": 9, "mode": "RGB", "mean": [0.4] * 3, "std": [0.3] * 3}
GRADIENT = torch.tensor([3.0, 4.0])


def never(*_arguments: object) -> NoReturn:
    pytest.fail("measured, where there is nothing to choose")


@pytest.mark.parametrize("asked", ["float32", "bfloat16"])
def test_what_is_asked_for_is_kept(
    asked: str, recipe_with: Callable[..., Recipe], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A recipe that names its precision gets it, for pictures and texts, and nothing is measured."""
    monkeypatch.setattr(precision, "_measure", never)
    assert resolve(recipe_with(precision=asked), CPU) == asked
    assert resolve(recipe_with(precision=asked, **TEXT), CPU) == asked


@pytest.mark.parametrize(
    ("seconds", "rough", "expected"),
    [
        (0.5, GRADIENT, "bfloat16"),
        (0.5, 7 * GRADIENT, "bfloat16"),
        (0.9, GRADIENT, "bfloat16"),
        (0.92, GRADIENT, "float32"),
        (3.0, GRADIENT, "float32"),
        (0.5, -GRADIENT, "float32"),
        (0.5, torch.tensor([4.0, -3.0]), "float32"),
        (0.5, torch.tensor([3.0, 0.0]), "float32"),
        (0.5, torch.tensor([torch.nan, 4.0]), "float32"),
    ],
    ids=["faster", "faster, scaled", "a tenth", "less than a tenth", "slower", "turned", "across", "off", "nan"],
)
def test_bfloat16_is_taken_where_it_is_faster_by_a_tenth_and_its_gradient_points_the_same_way(
    seconds: float,
    rough: Tensor,
    expected: str,
    recipe_with: Callable[..., Recipe],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Against 1 s in float32 and its gradient: either alone, fast or right, is not enough."""
    measured = {"float32": (1.0, GRADIENT), "bfloat16": (seconds, rough)}
    monkeypatch.setattr(precision, "_measure", lambda _network, _pictures, which: measured[which])
    assert resolve(recipe_with(precision="auto"), CPU) == expected


@pytest.mark.parametrize(
    ("changes", "shape"),
    [
        ({}, (16, 1, 6, 9)),
        ({"input": COLOURED}, (16, 3, 6, 9)),
        (
            {
                "input": SQUARE,
                "resolutions": [4, 8],
                "layers": [{"conv": 2, "kernel": 3}, {"pool": "average", "size": "global"}, FLAT, OUT],
            },
            (16, 1, 8, 8),
        ),
        (TEXT, (16, 12)),
        ({**TEXT, "input": {**TEXT["input"], "length": 600}}, (16, 256)),
    ],
    ids=["grey", "coloured", "progressive", "texts", "long texts"],
)
def test_it_is_measured_on_the_recipe_s_own_network_and_inputs(
    changes: dict[str, Any],
    shape: tuple[int, ...],
    recipe_with: Callable[..., Recipe],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Both measurements see the network in training mode, under inputs of the size that most of its time goes to."""
    recipe, seen = recipe_with(precision="auto", **changes), []

    def measure(network: nn.Module, pictures: Tensor, which: str) -> tuple[float, Tensor]:
        count = sum(weight.numel() for weight in network.parameters())
        seen.append((which, tuple(pictures.shape), network.training, count))
        return 1.0, GRADIENT

    monkeypatch.setattr(precision, "_measure", measure)
    resolve(recipe, CPU)
    count = sum(weight.numel() for weight in build(recipe).parameters())
    assert seen == [(which, shape, True, count) for which in ("float32", "bfloat16")]


def test_a_measurement_is_a_step_s_time_and_its_gradient(recipe_with: Callable[..., Recipe]) -> None:
    """The gradient of the first weights is autograd's in float32, and nearly so in bfloat16."""
    torch.manual_seed(0)
    network, pictures = build(recipe_with()).train(), torch.randn(16, 1, 6, 9)
    seconds, exact = precision._measure(network, pictures, "float32")  # noqa: SLF001 -- what resolve rests on
    _, rough = precision._measure(network, pictures, "bfloat16")  # noqa: SLF001
    network.zero_grad()
    F.cross_entropy(network(pictures), torch.arange(16) % 2).backward()  # type: ignore[no-untyped-call]
    expected = next(network.parameters()).grad
    assert expected is not None
    assert seconds > 0
    np.testing.assert_allclose(exact, expected.flatten(), rtol=1e-4, atol=1e-7)
    assert not torch.equal(rough, exact)
    assert F.cosine_similarity(rough, exact, dim=0) > 0.99


def test_choosing_draws_nothing_from_the_run_s_generator(recipe_with: Callable[..., Recipe]) -> None:
    """A run whose precision was measured starts from the weights of one that was told it."""
    before = torch.get_rng_state()
    assert resolve(recipe_with(precision="auto"), CPU) in {"float32", "bfloat16"}
    assert torch.equal(torch.get_rng_state(), before)


def test_a_stack_that_cannot_be_built_is_refused(recipe_with: Callable[..., Recipe]) -> None:
    """The choice is made on the network, so its fault shows here."""
    with pytest.raises(RecipeError, match=r"layers\[1\]"):
        resolve(recipe_with(precision="auto", layers=[OUT]), CPU)


def test_layout_changes_where_values_lie_and_none_of_them(recipe_with: Callable[..., Recipe]) -> None:
    """Coloured pictures and their filters lie channel by channel, grey ones as they came; what is computed is equal."""
    torch.manual_seed(0)
    grey, coloured = recipe_with(), recipe_with(input=COLOURED)
    network = build(coloured).eval()
    pictures = torch.randn(2, 3, 6, 9)
    with torch.no_grad():
        expected = network(pictures)
        laid = layout(pictures, coloured)
        found = prepare(network, coloured, CPU)(laid)
    assert torch.equal(laid, pictures)
    assert laid.is_contiguous(memory_format=torch.channels_last)
    assert not laid.is_contiguous()
    assert next(network.parameters()).is_contiguous(memory_format=torch.channels_last)
    np.testing.assert_allclose(found, expected, atol=1e-5)
    one = torch.randn(2, 1, 6, 9)
    assert layout(one, grey) is one
