"""The precision of a run: the one that the recipe names, or the better one by measurement."""

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
COLOUR: dict[str, Any] = {**SQUARE, "width": 9, "mode": "RGB", "mean": [0.4] * 3, "std": [0.3] * 3}
GRADIENT = torch.tensor([3.0, 4.0])


def never(*_arguments: object) -> NoReturn:
    pytest.fail("measured although the recipe names its precision")


def test_three_dimensional_filters_over_colours_are_prepared(recipe_with: Callable[..., Recipe]) -> None:
    """Torch has no channels-last layout for them; they keep their own, and the network computes."""
    layers = [{"reshape": [1, 3, 6, 9]}, {"conv": 2, "kernel": [2, 3, 3]}, FLAT, OUT]
    recipe = recipe_with(input=COLOUR, layers=layers)
    network = prepare(build(recipe), recipe, CPU)
    assert network(layout(torch.zeros(2, 3, 6, 9), recipe)).shape == (2, 3)


@pytest.mark.parametrize("named", ["float32", "bfloat16"])
def test_the_named_precision_is_used(
    named: str, recipe_with: Callable[..., Recipe], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A recipe that names its precision gets it, for images and texts, without a measurement."""
    monkeypatch.setattr(precision, "_measure", never)
    assert resolve(recipe_with(precision=named), CPU) == named
    assert resolve(recipe_with(precision=named, **TEXT), CPU) == named


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
def test_bfloat16_is_chosen_if_it_is_faster_by_a_tenth_and_its_gradient_is_accurate(
    seconds: float,
    rough: Tensor,
    expected: str,
    recipe_with: Callable[..., Recipe],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Compared with 1 s in float32 and its gradient: neither speed nor accuracy alone is enough."""
    measured = {"float32": (1.0, GRADIENT), "bfloat16": (seconds, rough)}
    monkeypatch.setattr(precision, "_measure", lambda _network, _inputs, name, **_: measured[name])
    assert resolve(recipe_with(precision="auto"), CPU) == expected


@pytest.mark.parametrize(
    ("changes", "shape"),
    [
        ({}, (16, 1, 6, 9)),
        ({"input": COLOUR}, (16, 3, 6, 9)),
        (
            {
                "input": SQUARE,
                "resolutions": [4, 6],
                "layers": [{"conv": 2, "kernel": 3}, {"pool": "average", "size": "global"}, FLAT, OUT],
            },
            (16, 1, 6, 6),
        ),
        (TEXT, (16, 12)),
        ({**TEXT, "input": {**TEXT["input"], "length": 600}}, (16, 256)),
    ],
    ids=["grey", "colour", "progressive", "texts", "long texts"],
)
def test_the_recipe_s_network_and_inputs_are_measured(
    changes: dict[str, Any],
    shape: tuple[int, ...],
    recipe_with: Callable[..., Recipe],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Both measurements use the network in training mode, with inputs of the size that takes most of its time."""
    recipe, calls = recipe_with(precision="auto", **changes), []

    def measure(network: nn.Module, inputs: Tensor, name: str, *, give_up_s: float = 0.0) -> tuple[float, Tensor]:
        assert give_up_s in (0.0, 3.0)
        count = sum(weight.numel() for weight in network.parameters())
        calls.append((name, tuple(inputs.shape), network.training, count))
        return 1.0, GRADIENT

    monkeypatch.setattr(precision, "_measure", measure)
    resolve(recipe, CPU)
    count = sum(weight.numel() for weight in build(recipe).parameters())
    assert calls == [(name, shape, True, count) for name in ("float32", "bfloat16")]


def test_a_measurement_returns_a_step_s_time_and_gradient(recipe_with: Callable[..., Recipe]) -> None:
    """The gradient of the first weights equals autograd's in float32, and nearly equals it in bfloat16."""
    torch.manual_seed(0)
    network, images = build(recipe_with()).train(), torch.randn(16, 1, 6, 9)
    seconds, exact = precision._measure(network, images, "float32")  # noqa: SLF001 -- resolve depends on it
    _, rough = precision._measure(network, images, "bfloat16")  # noqa: SLF001
    network.zero_grad()
    F.cross_entropy(network(images), torch.arange(16) % 2).backward()  # type: ignore[no-untyped-call]
    expected = next(network.parameters()).grad
    assert expected is not None
    assert seconds > 0
    np.testing.assert_allclose(exact, expected.flatten(), rtol=1e-4, atol=1e-7)
    assert not torch.equal(rough, exact)
    assert F.cosine_similarity(rough, exact, dim=0) > 0.99


def test_slow_steps_are_not_repeated(recipe_with: Callable[..., Recipe]) -> None:
    """A processor that emulates bfloat16 takes seconds a step: one is enough to know."""
    network, steps = build(recipe_with()).train(), []
    network.register_forward_pre_hook(lambda _module, _inputs: steps.append(1))
    precision._measure(network, torch.randn(16, 1, 6, 9), "float32")  # noqa: SLF001 -- resolve depends on it
    assert len(steps) == 3
    precision._measure(network, torch.randn(16, 1, 6, 9), "float32", give_up_s=0.0)  # noqa: SLF001
    assert len(steps) == 4


def test_choosing_does_not_change_the_global_generator(recipe_with: Callable[..., Recipe]) -> None:
    """A run whose precision was measured starts from the same weights as a run that names it."""
    before = torch.get_rng_state()
    assert resolve(recipe_with(precision="auto"), CPU) in {"float32", "bfloat16"}
    assert torch.equal(torch.get_rng_state(), before)


def test_a_stack_that_cannot_be_built_is_refused(recipe_with: Callable[..., Recipe]) -> None:
    """The measurement needs the network, so it reports the layer that cannot be built."""
    with pytest.raises(RecipeError, match=r"layers\[1\]"):
        resolve(recipe_with(precision="auto", layers=[OUT]), CPU)


def test_layout_changes_the_order_in_memory_and_no_values(recipe_with: Callable[..., Recipe]) -> None:
    """Colour images and their filters become channels-last, grey images stay as they are; the outputs are equal."""
    torch.manual_seed(0)
    grey, coloured = recipe_with(), recipe_with(input=COLOUR)
    network = build(coloured).eval()
    images = torch.randn(2, 3, 6, 9)
    with torch.no_grad():
        expected = network(images)
        arranged = layout(images, coloured)
        actual = prepare(network, coloured, CPU)(arranged)
    assert torch.equal(arranged, images)
    assert arranged.is_contiguous(memory_format=torch.channels_last)
    assert not arranged.is_contiguous()
    assert next(network.parameters()).is_contiguous(memory_format=torch.channels_last)
    np.testing.assert_allclose(actual, expected, atol=1e-5)
    image = torch.randn(2, 1, 6, 9)
    assert layout(image, grey) is image
