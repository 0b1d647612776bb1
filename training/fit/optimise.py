"""Losses, optimisers and the learning rate of each step."""

import math
from collections.abc import Iterable

import torch
import torch.nn.functional as F  # noqa: N812 -- its usual name
from torch import Tensor, nn, optim

from training.recipe.schema import SGD, Adadelta, AdaGrad, Adam, AdamW, Loss, Optimiser, RMSProp, Schedule

_START = 1 / 25  # one-cycle's first learning rate, as a share of its highest (Smith & Topin, 2018)


def optimiser(options: Optimiser, parameters: Iterable[nn.Parameter]) -> optim.Optimizer:
    """The torch optimiser of a recipe over `parameters`."""
    rate, decay = options.learning_rate, options.weight_decay
    match options:
        case SGD():
            return optim.SGD(parameters, rate, options.momentum, nesterov=options.nesterov, weight_decay=decay)
        case AdaGrad():
            return optim.Adagrad(parameters, rate, weight_decay=decay)
        case RMSProp():
            return optim.RMSprop(parameters, rate, options.alpha, weight_decay=decay)
        case Adadelta():
            return optim.Adadelta(parameters, rate, options.rho, weight_decay=decay)
        case AdamW():
            return optim.AdamW(parameters, rate, (options.beta1, options.beta2), weight_decay=decay)
        case Adam():
            return optim.Adam(parameters, rate, (options.beta1, options.beta2), weight_decay=decay)


def learning_rate(schedule: Schedule, step: int, steps: int) -> float:
    """The learning rate at `step` of `steps`, counted from 0, as a share of the optimiser's own.

    It depends on the step alone, so a resumed run needs no state for it.
    """
    progress = step / max(steps - 1, 1)
    match schedule.name:
        case "constant":
            return 1.0
        case "step":
            return math.prod(schedule.factor for milestone in schedule.milestones if step >= milestone * steps)
        case "cosine":
            return (1 + math.cos(math.pi * progress)) / 2
        case "one-cycle" if progress < schedule.warmup:
            return _START + (1 - _START) * progress / schedule.warmup
        case "one-cycle":
            return (1 + math.cos(math.pi * (progress - schedule.warmup) / (1 - schedule.warmup))) / 2


def loss_of(options: Loss, logits: Tensor, labels: Tensor) -> Tensor:
    """The mean loss of logits (N, classes) against labels (N); 0 for N = 0."""
    if not len(labels):  # the empty share that a process may have of a small batch: torch's mean would be NaN
        return logits.sum()
    if options.name == "cross-entropy":
        return F.cross_entropy(logits, labels, label_smoothing=options.label_smoothing)
    classes = logits.shape[1]
    target = F.one_hot(labels, classes) * (1 - options.label_smoothing) + options.label_smoothing / classes
    return (torch.softmax(logits, dim=1) - target).square().sum(dim=1).mean()
