"""Losses, optimisers and the learning rate of each step."""

import math
from collections.abc import Iterable, Sequence
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812 -- its usual name
from torch import Tensor, nn, optim

from training.recipe.optimise import (
    SGD,
    Adadelta,
    AdaGrad,
    Adam,
    AdamW,
    Loss,
    NAdam,
    Optimiser,
    RMSProp,
    Schedule,
)

_START = 1 / 25  # the first learning rate of a warm-up, as a share of its highest (Smith & Topin, 2018)


def optimiser(options: Optimiser, parameters: Iterable[nn.Parameter]) -> optim.Optimizer:  # noqa: PLR0911 -- one a case
    """The torch optimiser of a recipe over `parameters`."""
    groups = _groups(options, list(parameters))
    rate, decay = options.learning_rate, options.weight_decay
    match options:
        case SGD():
            return optim.SGD(groups, rate, options.momentum, nesterov=options.nesterov, weight_decay=decay, fused=True)
        case AdaGrad():
            return optim.Adagrad(groups, rate, weight_decay=decay)
        case RMSProp():
            return optim.RMSprop(groups, rate, options.alpha, momentum=options.momentum, weight_decay=decay)
        case Adadelta():
            return optim.Adadelta(groups, rate, options.rho, weight_decay=decay)
        case AdamW():
            return optim.AdamW(groups, rate, _betas(options), weight_decay=decay, amsgrad=options.amsgrad, fused=True)
        case Adam():
            return optim.Adam(groups, rate, _betas(options), weight_decay=decay, amsgrad=options.amsgrad, fused=True)
        case NAdam():
            return optim.NAdam(groups, rate, _betas(options), weight_decay=decay)


def _betas(options: Adam | NAdam) -> tuple[float, float]:
    return options.beta1, options.beta2


def _groups(options: Optimiser, parameters: list[nn.Parameter]) -> Any:
    """The parameters, or two groups of them: those with weight decay, and biases and norms without."""
    if options.weight_decay_on == "all" or not options.weight_decay:
        return parameters
    weights = [parameter for parameter in parameters if parameter.ndim > 1]
    others = [parameter for parameter in parameters if parameter.ndim <= 1]
    return [{"params": weights}, {"params": others, "weight_decay": 0.0}]


def slow_down(optimiser: optim.Optimizer, parameters: Iterable[nn.Parameter], share: float) -> None:
    """Give some of an optimiser's parameters a share of the learning rate, before its first step."""
    slow = set(map(id, parameters))
    groups = []
    for group in optimiser.param_groups:
        for is_slow in (True, False):
            chosen = [each for each in group["params"] if (id(each) in slow) == is_slow]
            if chosen:
                groups.append({**group, "params": chosen, "share": share if is_slow else 1.0})
    optimiser.param_groups[:] = groups


def learning_rate(schedule: Schedule, step: int, steps: int, reductions: int = 0) -> float:
    """The learning rate at `step` of `steps`, counted from 0, as a share of the optimiser's own; never 0.

    It depends on the step, and for `plateau` on the number of `reductions` so far, so a resumed run needs no state.
    """
    warmup = math.floor(schedule.warmup_share * steps)
    if step < warmup:
        return (_START + (1 - _START) * step / warmup) * _falling(schedule, 0, step / steps, reductions)
    return _falling(schedule, (step - warmup) / (steps - warmup), step / steps, reductions)


def _falling(schedule: Schedule, t: float, progress: float, reductions: int) -> float:
    """The schedule at `t` of the steps after the warm-up, which is at `progress` of all steps."""
    match schedule.name:
        case "constant":
            return 1.0
        case "step":
            return schedule.factor ** sum(progress >= milestone for milestone in schedule.milestones)
        case "cosine" | "one-cycle":
            return (1 + math.cos(math.pi * t)) / 2
        case "exponential":
            return math.pow(schedule.factor, t)
        case "inverse-time":
            return 1 / (1 + schedule.decay * t)
        case "plateau":
            return schedule.factor**reductions


def reductions(losses: Sequence[float | None], patience: int) -> int:
    """How often `plateau` has reduced the rate after epochs with these validation losses.

    It is reduced each time that `patience` epochs in a row have no lower loss than the best epoch before.
    """
    best, waited, count = math.inf, 0, 0
    for loss in losses:
        if loss is not None and loss < best:
            best, waited = loss, 0
        else:
            waited += 1
        if waited >= patience:
            count, waited = count + 1, 0
    return count


def loss_of(options: Loss, logits: Tensor, labels: Tensor, weights: Tensor | None = None) -> Tensor:
    """The mean loss of logits (N, classes) against labels (N), each example with its label's of the `weights`.

    `weights` are float (classes). The sum of weighted losses is divided by N. The loss is 0 for N = 0.
    """
    if not len(labels):  # the empty share that a process may have of a small batch: torch's mean would be NaN
        return logits.sum()
    if weights is None and options.name == "cross-entropy":
        return F.cross_entropy(logits, labels, label_smoothing=options.label_smoothing)
    losses = _losses(options, logits, labels)
    return (losses if weights is None else losses * weights[labels]).mean()


def _losses(options: Loss, logits: Tensor, labels: Tensor) -> Tensor:
    """The loss of each example: logits (N, classes), labels (N) -> (N)."""
    classes = logits.shape[1]
    if options.name == "cross-entropy":
        return F.cross_entropy(logits, labels, label_smoothing=options.label_smoothing, reduction="none")
    if options.name == "hinge":
        return F.multi_margin_loss(logits, labels, reduction="none") * classes  # torch divides by the classes
    if options.name == "focal":
        likelihood = torch.log_softmax(logits, dim=1).gather(1, labels.unsqueeze(1)).squeeze(1)  # (N, classes) -> (N)
        return -((1 - likelihood.exp()).clamp(min=1e-6) ** options.gamma) * likelihood  # 0^gamma has no finite slope
    target = F.one_hot(labels, classes) * (1 - options.label_smoothing) + options.label_smoothing / classes
    match options.name:
        case "binary-cross-entropy":
            return F.binary_cross_entropy_with_logits(logits, target, reduction="none").sum(dim=1)
        case "mean-absolute-error":
            return (torch.softmax(logits, dim=1) - target).abs().sum(dim=1)
        case "mean-squared-error":
            return (torch.softmax(logits, dim=1) - target).square().sum(dim=1)


def class_weights(options: Loss, names: Sequence[str], labels: Tensor) -> Tensor | None:
    """The weight of each label by the recipe, float32 (classes), from the training labels (N); None without weights."""
    given = options.class_weights
    if given is None:
        return None
    if isinstance(given, dict):
        return torch.tensor([given.get(name, 1.0) for name in names])
    counts = labels.bincount(minlength=len(names)).clamp(min=1)
    return len(labels) / (len(names) * counts.float())
