"""Optimisers compared with textbook updates in NumPy; schedules compared with formulas and torch."""

import math
from collections import defaultdict
from collections.abc import Callable
from itertools import pairwise
from typing import Any, get_args

import numpy as np
import numpy.typing as npt
import pytest
import torch
import torch.nn.functional as F  # noqa: N812 -- its usual name
from pydantic import TypeAdapter, ValidationError
from torch import Tensor, nn, optim

from training.fit.optimise import class_weights, learning_rate, loss_of, optimiser, reductions
from training.recipe.optimise import Loss, Optimiser, Schedule

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


def nadam(weights: Vector, slope: Vector, memory: Memory) -> Vector:
    """Dozat (2016), as in torch: the momentum of step t is 0.9 (1 - 0.96^(0.004 t) / 2)."""
    t = memory["t"] = memory["t"] + 1
    now, after = (0.9 * (1 - 0.5 * 0.96 ** (step * 0.004)) for step in (t, t + 1))
    product = memory["p"] = (memory["p"] if t[0] > 1 else np.ones(3)) * now
    m = memory["m"] = 0.9 * memory["m"] + 0.1 * slope
    v = memory["v"] = 0.999 * memory["v"] + 0.001 * slope**2
    momentum = after * m / (1 - product * after) + (1 - now) * slope / (1 - product)
    return weights - RATE * momentum / (np.sqrt(v / (1 - 0.999**t)) + 1e-8)


def amsgrad(weights: Vector, slope: Vector, memory: Memory) -> Vector:
    """Reddi et al. (2018), algorithm 2, with Adam's correction of the bias, as in torch."""
    t = memory["t"] = memory["t"] + 1
    m = memory["m"] = 0.9 * memory["m"] + 0.1 * slope
    v = memory["v"] = 0.999 * memory["v"] + 0.001 * slope**2
    highest = memory["h"] = np.maximum(memory["h"], v)
    return weights - RATE * (m / (1 - 0.9**t)) / (np.sqrt(highest / (1 - 0.999**t)) + 1e-8)


def rmsprop_with_momentum(weights: Vector, slope: Vector, memory: Memory) -> Vector:
    """RMSProp whose steps are summed with a momentum of 0.9: b = 0.9 b + g / sqrt(h); w -= rate b."""
    h = memory["h"] = 0.99 * memory["h"] + 0.01 * slope**2
    b = memory["b"] = 0.9 * memory["b"] + slope / (np.sqrt(h) + 1e-8)
    return weights - RATE * b


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
        ({"name": "rmsprop", "momentum": 0.9}, rmsprop_with_momentum),
        ({"name": "nadam"}, nadam),
        ({"name": "nadam", "weight_decay": 0.3}, coupled(nadam, 0.3)),
        ({"name": "adam", "amsgrad": True}, amsgrad),
        ({"name": "adamw", "amsgrad": True, "weight_decay": 0.3}, decoupled(amsgrad, 0.3)),
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
        np.testing.assert_allclose(weights.detach(), expected, rtol=1e-8)


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
    """`cosine` starts at 1, is 1/2 in the middle and 0 after its last step, like torch's CosineAnnealingLR."""
    actual = rates("cosine", 8)
    assert (actual[0], actual[4]) == pytest.approx((1, 0.5))
    sgd_at_1 = optim.SGD([nn.Parameter(torch.zeros(1))], lr=1.0)
    schedule = optim.lr_scheduler.CosineAnnealingLR(sgd_at_1, T_max=8)
    expected = []
    for _ in range(8):
        expected.append(sgd_at_1.param_groups[0]["lr"])
        sgd_at_1.step()
        schedule.step()
    assert actual == pytest.approx(expected)


def test_one_cycle_climbs_from_a_25th_to_1_and_falls_to_0() -> None:
    """`one-cycle` grows linearly over the share `warmup` of the steps, then falls along a half cosine."""
    actual = rates("one-cycle", 10, warmup=0.3)
    assert actual[:4] == pytest.approx([1 / 25 + (24 / 25) * step / 3 for step in range(4)])
    assert actual[3:] == pytest.approx([(1 + math.cos(math.pi * step / 7)) / 2 for step in range(7)])
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


def test_a_milestone_of_0_is_allowed() -> None:
    """A milestone takes effect at the first step that is not before it, which may be step 0."""
    assert rates("step", 4, milestones=[0.0], factor=0.5) == [0.5] * 4
    assert rates("step", 3, milestones=[0.5], factor=0.5) == [1.0, 1.0, 0.5]


SCHEDULES = get_args(Schedule.model_fields["name"].annotation)


@pytest.mark.parametrize("name", SCHEDULES)
def test_every_step_trains(name: str) -> None:
    """Whatever the number of steps, none has a rate of 0, and a single step has the whole rate."""
    assert rates(name, 1) == [1.0]
    assert all(min(rates(name, steps)) > 0 for steps in (2, 3, 7, 100))


@pytest.mark.parametrize("name", SCHEDULES)
def test_every_schedule_can_warm_up(name: str) -> None:
    """With `warmup`, the first steps rise linearly from 1/25, and the others follow the schedule from its start."""
    actual = rates(name, 20, warmup=0.25)
    assert actual[:5] == pytest.approx([1 / 25 + (24 / 25) * step / 5 for step in range(5)])
    assert actual[5] == 1.0
    if name not in {"step", "plateau"}:  # their reductions are at fixed places
        assert actual[5:] == pytest.approx(rates(name, 15, warmup=0.0))


def test_exponential_equals_torch_s() -> None:
    """`exponential` reaches `factor` after the last step, by equal ratios, like torch's ExponentialLR."""
    sgd_at_1 = optim.SGD([nn.Parameter(torch.zeros(1))], lr=1.0)
    schedule = optim.lr_scheduler.ExponentialLR(sgd_at_1, 0.01 ** (1 / 8))
    expected = []
    for _ in range(8):
        expected.append(sgd_at_1.param_groups[0]["lr"])
        sgd_at_1.step()
        schedule.step()
    assert rates("exponential", 8, factor=0.01) == pytest.approx(expected)


def test_inverse_time_is_its_formula() -> None:
    """`inverse-time` at the share t of the steps is 1 / (1 + decay t)."""
    assert rates("inverse-time", 4, decay=3.0) == pytest.approx([1, 1 / 1.75, 1 / 2.5, 1 / 3.25])


def test_plateau_equals_torch_s() -> None:
    """After each epoch, the rate is that of torch's ReduceLROnPlateau with a patience that counts from 0."""
    losses = [3.0, 2.0, 2.5, 2.0, 1.9, 2.0, 2.0, 2.0, 2.0, 1.0, 1.0, 1.1]
    sgd_at_1 = optim.SGD([nn.Parameter(torch.zeros(1))], lr=1.0)
    schedule = optim.lr_scheduler.ReduceLROnPlateau(sgd_at_1, factor=0.5, patience=1, threshold=0, cooldown=0)
    plateau = Schedule(name="plateau", factor=0.5, patience=2)
    for epoch, loss in enumerate(losses, start=1):
        schedule.step(loss)
        actual = learning_rate(plateau, epoch, len(losses), reductions(losses[:epoch], plateau.patience))
        assert actual == pytest.approx(sgd_at_1.param_groups[0]["lr"]), epoch


@pytest.mark.parametrize(
    ("name", "key", "value"),
    [
        ("cosine", "milestones", [0.1]),
        ("constant", "factor", 0.2),
        ("step", "decay", 1.0),
        ("one-cycle", "patience", 2),
    ],
)
def test_a_key_of_another_schedule_is_refused(name: str, key: str, value: Any) -> None:
    """A key that would do nothing is named, with the schedules that it is for."""
    with pytest.raises(ValidationError, match=f"{key}: has no effect with name = '{name}'; only with '"):
        Schedule.model_validate({"name": name, key: value})


LOGITS = torch.tensor([[2.0, -1.0, 0.5], [0.1, 0.2, -0.3], [-2.0, 3.0, 1.0], [0.0, 0.0, 0.0]])
LABELS = torch.tensor([0, 2, 2, 1])
ONE_HOT = F.one_hot(LABELS, 3).float()


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("cross-entropy", F.cross_entropy(LOGITS, LABELS)),
        ("binary-cross-entropy", F.binary_cross_entropy(LOGITS.sigmoid(), ONE_HOT, reduction="sum") / 4),
        ("mean-squared-error", F.mse_loss(LOGITS.softmax(1), ONE_HOT, reduction="sum") / 4),
        ("mean-absolute-error", F.l1_loss(LOGITS.softmax(1), ONE_HOT, reduction="sum") / 4),
        ("hinge", F.multi_margin_loss(LOGITS, LABELS) * 3),
    ],
)
def test_losses_equal_torch_s(name: Any, expected: Tensor) -> None:
    """Each loss is torch's, summed over the labels; class weights multiply the losses of their examples."""
    np.testing.assert_allclose(loss_of(Loss(name=name), LOGITS, LABELS), expected, rtol=1e-6)
    weights = torch.tensor([1.0, 2.0, 4.0])
    one_by_one = [
        weights[label] * loss_of(Loss(name=name), LOGITS[[row]], LABELS[[row]]) for row, label in enumerate(LABELS)
    ]
    actual = loss_of(Loss(name=name), LOGITS, LABELS, weights)
    np.testing.assert_allclose(actual, torch.stack(one_by_one).mean(), rtol=1e-6)


def test_the_hinge_loss_is_that_of_the_course() -> None:
    """Scores 3.2, 5.1 and -1.7 with the first label: max(0, 5.1 - 3.2 + 1) + max(0, -1.7 - 3.2 + 1) = 2.9."""
    actual = loss_of(Loss(name="hinge"), torch.tensor([[3.2, 5.1, -1.7]]), torch.tensor([0]))
    assert actual.item() == pytest.approx(2.9, rel=1e-6)


def test_the_focal_loss_leaves_easy_examples_aside() -> None:
    """Lin et al. (2017), eq. 4: with p = 0.9 and gamma = 2 it is a hundredth of the cross-entropy; 0 is that."""
    logits = torch.tensor([[0.9, 0.1]]).log()
    label = torch.tensor([0])
    assert loss_of(Loss(name="focal"), logits, label).item() == pytest.approx(-(0.1**2) * math.log(0.9), rel=1e-5)
    plain = loss_of(Loss(name="focal", gamma=0.0), LOGITS, LABELS)
    assert plain.item() == pytest.approx(F.cross_entropy(LOGITS, LABELS).item(), rel=1e-6)
    sure = torch.tensor([[50.0, -50.0]], requires_grad=True)
    loss_of(Loss(name="focal", gamma=0.5), sure, label).backward()  # type: ignore[no-untyped-call]
    assert sure.grad is not None
    assert sure.grad.isfinite().all()


def test_class_weights_come_by_name_or_from_the_counts() -> None:
    """Labels without a weight have 1; `balanced` gives every label the same sum, with a mean of 1 over the examples."""
    labels = torch.tensor([0] * 6 + [1] * 3 + [2])
    assert class_weights(Loss(), "abc", labels) is None
    named = class_weights(Loss(class_weights={"c": 5.0}), "abc", labels)
    assert named is not None
    assert named.tolist() == [1.0, 1.0, 5.0]
    balanced = class_weights(Loss(class_weights="balanced"), "abc", labels)
    assert balanced is not None
    assert (balanced * torch.tensor([6, 3, 1])).tolist() == pytest.approx([10 / 3] * 3)
    assert balanced[labels].mean().item() == pytest.approx(1.0)


def test_weight_decay_can_leave_out_biases_and_norms() -> None:
    """With a gradient of 0, only matrices and filters shrink."""
    options = TypeAdapter[Optimiser](Optimiser).validate_python(
        {"name": "sgd", "learning_rate": 0.5, "weight_decay": 0.1, "weight_decay_on": "weights"}
    )
    matrix, bias = nn.Parameter(torch.ones(2, 2)), nn.Parameter(torch.ones(2))
    matrix.grad, bias.grad = torch.zeros(2, 2), torch.zeros(2)
    optimiser(options, [bias, matrix]).step()
    assert (matrix.mean().item(), bias.mean().item()) == pytest.approx((0.95, 1.0))
