"""What is minimised and how: losses and optimisers by their textbook names, the learning rate over the steps."""

import math
from collections.abc import Iterable

import torch
import torch.nn.functional as F  # noqa: N812 -- its usual name
from torch import Tensor, nn, optim

from training.recipe.schema import SGD, Adadelta, AdaGrad, Adam, AdamW, Loss, Optimiser, RMSProp, Schedule

_START = 1 / 25  # one-cycle's first learning rate, as a share of its highest (Smith & Topin, 2018)


def optimiser(how: Optimiser, parameters: Iterable[nn.Parameter]) -> optim.Optimizer:
    """The torch optimiser of a recipe over `parameters`."""
    rate, decay = how.learning_rate, how.weight_decay
    match how:
        case SGD():
            return optim.SGD(parameters, rate, how.momentum, nesterov=how.nesterov, weight_decay=decay)
        case AdaGrad():
            return optim.Adagrad(parameters, rate, weight_decay=decay)
        case RMSProp():
            return optim.RMSprop(parameters, rate, how.alpha, weight_decay=decay)
        case Adadelta():
            return optim.Adadelta(parameters, rate, how.rho, weight_decay=decay)
        case AdamW():
            return optim.AdamW(parameters, rate, (how.beta1, how.beta2), weight_decay=decay)
        case Adam():
            return optim.Adam(parameters, rate, (how.beta1, how.beta2), weight_decay=decay)


def learning_rate(schedule: Schedule, step: int, steps: int) -> float:
    """The learning rate at `step` of `steps`, counted from 0, as a share of the optimiser's own.

    A function of the step alone: a resumed run needs no state for it.
    """
    done = step / max(steps - 1, 1)
    match schedule.name:
        case "constant":
            return 1.0
        case "step":
            return math.prod(schedule.factor for milestone in schedule.milestones if step >= milestone * steps)
        case "cosine":
            return (1 + math.cos(math.pi * done)) / 2
        case "one-cycle" if done < schedule.warmup:
            return _START + (1 - _START) * done / schedule.warmup
        case "one-cycle":
            return (1 + math.cos(math.pi * (done - schedule.warmup) / (1 - schedule.warmup))) / 2


def loss_of(how: Loss, outputs: Tensor, labels: Tensor) -> Tensor:
    """The mean loss of logits (N, classes) against labels (N); 0 for N = 0."""
    if not len(labels):  # a process without a share of a small batch: torch's mean would be NaN
        return outputs.sum()
    if how.name == "cross-entropy":
        return F.cross_entropy(outputs, labels, label_smoothing=how.label_smoothing)
    classes = outputs.shape[1]
    goal = F.one_hot(labels, classes) * (1 - how.label_smoothing) + how.label_smoothing / classes
    return (torch.softmax(outputs, dim=1) - goal).square().sum(dim=1).mean()
