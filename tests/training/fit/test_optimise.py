"""Optimisers compared with textbook updates in NumPy; schedules compared with formulas and torch."""

import math
from collections import defaultdict
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from pydantic import TypeAdapter
from torch import nn, optim

from training.fit.optimise import learning_rate, optimiser
from training.recipe.schema import Optimiser, Schedule

Vector = npt.NDArray[np.float64]
Memory = defaultdict[str, Vector]
Update = Callable[[Vector, Vector, Memory], Vector]  # (weights, gradient, state) -> new weights

RATE = 0.1
START = np.array([1.3, -2.0, 0.5])
CURVATURE, CENTRE = np.array([1.0, 4.0, 0.3]), np.array([0.0, 1.0, -1.0])


def gradient(weights: Vector) -> Vector:
    """The gradient of sum(curvature * (weights - centre)^2) / 2."""
    slope: Vector = CURVATURE * (weights - CENTRE)
    return slope


def momentum(share: float, *, nesterov: bool = False) -> Update:
    """Sutskever et al. (2013), with the rate outside the velocity: v = m v + g; w -= rate v."""

    def update(weights: Vector, slope: Vector, memory: Memory) -> Vector:
        velocity = memory["v"] = share * memory["v"] + slope
        return weights - RATE * (slope + share * velocity if nesterov else velocity)

    return update


def adagrad(weights: Vector, slope: Vector, memory: Memory) -> Vector:
    """Duchi et al. (2011): h += g^2; w -= rate g / sqrt(h)."""
    h = memory["h"] = memory["h"] + slope**2
    return weights - RATE * slope / (np.sqrt(h) + 1e-10)


def rmsprop(weights: Vector, slope: Vector, memory: Memory) -> Vector:
    """Hinton (2012), lecture 6e: h = a h + (1 - a) g^2; w -= rate g / sqrt(h)."""
    h = memory["h"] = 0.99 * memory["h"] + 0.01 * slope**2
    return weights - RATE * slope / (np.sqrt(h) + 1e-8)


def adadelta(weights: Vector, slope: Vector, memory: Memory) -> Vector:
    """Zeiler (2012), algorithm 1, with its step multiplied by the rate."""
    h = memory["h"] = 0.9 * memory["h"] + 0.1 * slope**2
    step = np.sqrt(memory["d"] + 1e-6) / np.sqrt(h + 1e-6) * slope
    memory["d"] = 0.9 * memory["d"] + 0.1 * step**2
    return weights - RATE * step


def adam(weights: Vector, slope: Vector, memory: Memory) -> Vector:
    """Kingma & Ba (2015), algorithm 1."""
    t = memory["t"] = memory["t"] + 1
    m = memory["m"] = 0.9 * memory["m"] + 0.1 * slope
    v = memory["v"] = 0.999 * memory["v"] + 0.001 * slope**2
    return weights - RATE * (m / (1 - 0.9**t)) / (np.sqrt(v / (1 - 0.999**t)) + 1e-8)


def coupled(update: Update, decay: float) -> Update:
    """Weight decay as L2 regularisation: its gradient is added to that of the loss."""
    return lambda weights, slope, memory: update(weights, slope + decay * weights, memory)


def decoupled(update: Update, decay: float) -> Update:
    """Loshchilov & Hutter (2019), algorithm 2: the decay does not enter the moments."""
    return lambda weights, slope, memory: update(weights, slope, memory) - RATE * decay * weights


def sgd(weights: Vector, slope: Vector, _memory: Memory) -> Vector:
    """Plain gradient descent: w -= rate g."""
    return weights - RATE * slope


@pytest.mark.parametrize(
    ("keys", "update"),
    [
        ({"name": "sgd"}, sgd),
        ({"name": "sgd", "weight_decay": 0.3}, coupled(sgd, 0.3)),
        ({"name": "sgd", "momentum": 0.9}, momentum(0.9)),
        ({"name": "sgd", "momentum": 0.9, "weight_decay": 0.3}, coupled(momentum(0.9), 0.3)),
        ({"name": "sgd", "momentum": 0.9, "nesterov": True}, momentum(0.9, nesterov=True)),
        ({"name": "adagrad"}, adagrad),
        ({"name": "adagrad", "weight_decay": 0.3}, coupled(adagrad, 0.3)),
        ({"name": "rmsprop"}, rmsprop),
        ({"name": "rmsprop", "weight_decay": 0.3}, coupled(rmsprop, 0.3)),
        ({"name": "adadelta"}, adadelta),
        ({"name": "adadelta", "weight_decay": 0.3}, coupled(adadelta, 0.3)),
        ({"name": "adam"}, adam),
        ({"name": "adam", "weight_decay": 0.3}, coupled(adam, 0.3)),
        ({"name": "adamw"}, adam),
        ({"name": "adamw", "weight_decay": 0.3}, decoupled(adam, 0.3)),
    ],
    ids=lambda value: "-".join(map(str, value.values())) if isinstance(value, dict) else "",
)
def test_two_steps_equal_the_textbook_update(keys: dict[str, Any], update: Update) -> None:
    """The first two steps on a quadratic are those of the paper's formula, to nearly the precision of float64."""
    weights = nn.Parameter(torch.from_numpy(START.copy()))
    options = TypeAdapter[Optimiser](Optimiser).validate_python({"learning_rate": RATE, **keys})
    ours = optimiser(options, [weights])
    expected, memory = START, Memory(lambda: np.zeros(3))
    for _ in range(2):
        weights.grad = torch.from_numpy(gradient(weights.detach().numpy()))
        ours.step()
        expected = update(expected, gradient(expected), memory)
        np.testing.assert_allclose(weights.detach(), expected, rtol=1e-9)


def test_adadelta_s_default_rate_is_1() -> None:
    """Zeiler's method has no learning rate: its step is not scaled."""
    options = TypeAdapter[Optimiser](Optimiser).validate_python({"name": "adadelta"})
    assert optimiser(options, [nn.Parameter(torch.zeros(1))]).param_groups[0]["lr"] == 1.0


@pytest.mark.parametrize(
    ("keys", "first", "second"),
    [
        ({"name": "rmsprop", "alpha": 0.5}, 1 / math.sqrt(0.5), 1 / math.sqrt(0.5 * 0.5 + 0.5)),
        (
            {"name": "adadelta", "rho": 0.5},
            math.sqrt(1e-6 / (0.5 + 1e-6)),
            math.sqrt((0.5 * 1e-6 / (0.5 + 1e-6) + 1e-6) / (0.75 + 1e-6)),
        ),
    ],
    ids=lambda value: value["name"] if isinstance(value, dict) else "",
)
def test_alpha_and_rho_come_from_the_recipe(keys: dict[str, Any], first: float, second: float) -> None:
    """The first two steps with a gradient of 1 are those of the formula with this alpha or rho."""
    weights = nn.Parameter(torch.zeros(1, dtype=torch.float64))
    options = TypeAdapter[Optimiser](Optimiser).validate_python({"learning_rate": RATE, **keys})
    ours = optimiser(options, [weights])
    positions = [0.0]
    for _ in range(2):
        weights.grad = torch.ones(1, dtype=torch.float64)
        ours.step()
        positions.append(weights.item())
    assert [-(after - before) / RATE for before, after in pairwise(positions)] == pytest.approx(
        [first, second], rel=1e-6
    )


@pytest.mark.parametrize("name", ["adam", "adamw"])
def test_adam_s_betas_come_from_the_recipe(name: str) -> None:
    """With gradients 1 and -2, the second step is m/(1 - beta1^2) / sqrt(v/(1 - beta2^2))."""
    weights = nn.Parameter(torch.zeros(1, dtype=torch.float64))
    keys = {"name": name, "learning_rate": RATE, "beta1": 0.5, "beta2": 0.25}
    ours = optimiser(TypeAdapter[Optimiser](Optimiser).validate_python(keys), [weights])
    positions = [0.0]
    for slope in (1.0, -2.0):
        weights.grad = torch.full((1,), slope, dtype=torch.float64)
        ours.step()
        positions.append(weights.item())
    m, v = 0.5 * (0.5 * 1) + 0.5 * -2, 0.25 * (0.75 * 1) + 0.75 * 4
    expected = (m / (1 - 0.5**2)) / math.sqrt(v / (1 - 0.25**2))
    assert -(positions[2] - positions[1]) / RATE == pytest.approx(expected, rel=1e-6)


def rates(name: str, steps: int, **keys: Any) -> list[float]:
    schedule = Schedule.model_validate({"name": name, **keys})
    return [learning_rate(schedule, step, steps) for step in range(steps)]


def test_a_constant_rate_is_1_throughout() -> None:
    """`constant` is the optimiser's own rate at every step."""
    assert rates("constant", 7) == [1.0] * 7


def test_cosine_equals_torch_s() -> None:
    """`cosine` starts at 1, is 1/2 in the middle and ends at 0, like torch's CosineAnnealingLR."""
    actual = rates("cosine", 9)
    assert (actual[0], actual[4], actual[8]) == pytest.approx((1, 0.5, 0))
    sgd_at_1 = optim.SGD([nn.Parameter(torch.zeros(1))], lr=1.0)
    schedule = optim.lr_scheduler.CosineAnnealingLR(sgd_at_1, T_max=8)
    expected = []
    for _ in range(9):
        expected.append(sgd_at_1.param_groups[0]["lr"])
        sgd_at_1.step()
        schedule.step()
    assert actual == pytest.approx(expected)


def test_one_cycle_climbs_from_a_25th_to_1_and_falls_to_0() -> None:
    """`one-cycle` grows linearly over the share `warmup` of the steps, then falls along a half cosine."""
    actual = rates("one-cycle", 11, warmup=0.3)
    assert actual[:4] == pytest.approx([1 / 25 + (24 / 25) * step / 3 for step in range(4)])
    assert actual[3:] == pytest.approx([(1 + math.cos(math.pi * step / 7)) / 2 for step in range(8)])
    assert max(actual) == actual[3]


def test_one_cycle_without_warmup_starts_at_its_peak() -> None:
    """With a warmup of 0, it is the cosine schedule."""
    assert rates("one-cycle", 9, warmup=0.0) == pytest.approx(rates("cosine", 9))


def test_step_equals_torch_s() -> None:
    """`step` at milestones 0.25 and 0.5 of 8 steps is torch's MultiStepLR at steps 2 and 4."""
    actual = rates("step", 8, milestones=[0.25, 0.5], factor=0.1)
    assert actual == pytest.approx([1, 1, 0.1, 0.1, 0.01, 0.01, 0.01, 0.01])
    sgd_at_1 = optim.SGD([nn.Parameter(torch.zeros(1))], lr=1.0)
    schedule = optim.lr_scheduler.MultiStepLR(sgd_at_1, [2, 4], gamma=0.1)
    expected = []
    for _ in range(8):
        expected.append(sgd_at_1.param_groups[0]["lr"])
        sgd_at_1.step()
        schedule.step()
    assert actual == pytest.approx(expected)


def test_a_milestone_of_0_and_a_factor_of_1_are_allowed() -> None:
    """A milestone takes effect at the first step that is not before it, which may be step 0."""
    assert rates("step", 4, milestones=[0.0], factor=0.5) == [0.5] * 4
    assert rates("step", 4, milestones=[0.5], factor=1.0) == [1.0] * 4
    assert rates("step", 3, milestones=[0.5], factor=0.5) == [1.0, 1.0, 0.5]


@pytest.mark.parametrize(
    ("name", "expected"), [("constant", 1.0), ("cosine", 1.0), ("one-cycle", 1 / 25), ("step", 1.0)]
)
def test_a_run_of_one_step_has_the_schedule_s_first_rate(name: str, expected: float) -> None:
    """A single step does not divide by zero."""
    assert rates(name, 1) == pytest.approx([expected])
