"""The choice of arithmetic at the start of a run."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from training import precision
from training.network import build
from training.recipe import Recipe

CPU = torch.device("cpu")
COLOUR = {"height": 6, "width": 9, "mode": "RGB", "framing": "squash", "mean": [0.5] * 3, "std": [0.3] * 3}


@pytest.mark.parametrize("asked", ["float32", "bfloat16"])
def test_what_is_asked_for_is_taken(asked: str, recipe_with: Callable[..., Recipe]) -> None:
    """No measurement overrules a recipe."""
    assert precision.resolve(recipe_with(precision=asked), CPU) == asked


@pytest.mark.parametrize(
    ("exact_s", "rough_s", "alike", "expected"),
    [
        (2.0, 1.0, True, "bfloat16"),
        (1.0, 2.0, True, "float32"),
        (1.05, 1.0, True, "float32"),
        (2.0, 1.0, False, "float32"),
    ],
)
def test_auto_takes_what_is_right_and_faster(
    exact_s: float, rough_s: float, expected: str, *, alike: bool,
    recipe_with: Callable[..., Recipe], monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """bfloat16 has to be faster by a tenth and to give the gradient that float32 gives."""
    gradient = torch.tensor([1.0, 2.0, 3.0])

    def measure(_network: object, _pictures: Tensor, kind: str) -> tuple[float, Tensor]:
        return (exact_s, gradient) if kind == "float32" else (rough_s, gradient if alike else -gradient)

    monkeypatch.setattr(precision, "_measure", measure)
    assert precision.resolve(recipe_with(precision="auto"), CPU) == expected


def test_the_measurement_leaves_the_draws_of_a_training_alone(recipe_with: Callable[..., Recipe]) -> None:
    """A run starts with the same weights whether its precision was measured or named."""
    torch.manual_seed(5)
    before = torch.get_rng_state()
    assert precision.resolve(recipe_with(precision="auto"), CPU) in {"float32", "bfloat16"}
    assert torch.equal(torch.get_rng_state(), before)


def test_the_gradients_of_both_precisions_agree(recipe_with: Callable[..., Recipe]) -> None:
    """What the check compares is the same direction on a real network, so it can be passed."""
    torch.manual_seed(0)
    network = precision.prepare(build(recipe_with(input=COLOUR)), recipe_with(input=COLOUR), CPU).train()
    pictures = torch.randn(16, 3, 6, 9)
    exact, rough = (precision._measure(network, pictures, kind)[1] for kind in ("float32", "bfloat16"))  # noqa: SLF001
    assert float(torch.nn.functional.cosine_similarity(exact, rough, dim=0)) > 0.95
    assert not torch.equal(exact, rough)


def test_colour_pictures_lie_with_their_channels_side_by_side(recipe_with: Callable[..., Recipe]) -> None:
    """Values are the same; grey pictures, where it makes no difference, are left as they are."""
    pictures = torch.randn(2, 3, 6, 9)
    found = precision.layout(pictures, recipe_with(input=COLOUR))
    assert torch.equal(found, pictures)
    assert found.is_contiguous(memory_format=torch.channels_last)
    grey = torch.randn(2, 1, 6, 9)
    assert precision.layout(grey, recipe_with()) is grey
