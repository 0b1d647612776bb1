"""The range test of the learning rate (Smith, 2017): one short training in which it grows from step to step.

Too low a rate leaves the loss where it is, a good one lowers it, and too high a one raises it again.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import count

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from training.data.dataset import Split
from training.fit.batch import batches, loader_for, resolution
from training.fit.loop import Sums, Trainer, grouped, memory_checked
from training.fit.parallel import Machine
from training.fit.state import initial_state
from training.recipe.schema import Recipe

LOWEST, HIGHEST = 1e-6, 10.0
MIN_STEPS, MAX_STEPS = 200, 400
_SMOOTHING = 0.04  # of the steps: the standard deviation of the window
_RISE = 4.0  # times the lowest loss
_REST = 0.1  # of the fall of the loss


@dataclass(frozen=True)
class Ramp:
    """The learning rate and the loss of each step; the last loss may be infinite or NaN."""

    rates: list[float]
    losses: list[float]
    planned: int
    """The steps to the highest rate."""

    @property
    def has_diverged(self) -> bool:
        """Whether the test ended before the highest rate."""
        return len(self.rates) < self.planned

    @property
    def smoothed(self) -> npt.NDArray[np.float64]:
        """The finite losses, smoothed by a Gaussian window over steps."""
        losses = np.array([loss for loss in self.losses if math.isfinite(loss)])
        steps = np.arange(len(losses))
        weights = np.exp(-(((steps[:, None] - steps) / (_SMOOTHING * self.planned)) ** 2) / 2)
        smooth: npt.NDArray[np.float64] = weights @ losses / weights.sum(axis=1)
        return smooth

    @property
    def start(self) -> float:
        """The loss before the rate is high enough to change it: the median of the first tenth of the steps."""
        return float(np.median(self.losses[: max(self.planned // 10, 1)]))

    @property
    def suggestion(self) -> float | None:
        """The lowest rate with nine tenths of the fall to the lowest loss, to two digits; None if it never fell."""
        smooth = self.smoothed
        if len(smooth) < MIN_STEPS // 10 or smooth.min() > 0.95 * smooth[0]:
            return None
        lowest = int(smooth.argmin())
        above = np.flatnonzero(smooth[:lowest] > smooth.min() + _REST * (self.start - smooth.min()))
        return float(f"{self.rates[int(above[-1]) + 1 if len(above) else 0]:.2g}")


def steps_of(recipe: Recipe, examples: int) -> int:
    """The steps of the test: those of an epoch, at least 200 and at most 400."""
    batch_size = examples if recipe.batch_size == "full" else min(recipe.batch_size, examples)
    steps = math.ceil(math.ceil(examples / batch_size) / recipe.accumulate)
    return min(max(steps, MIN_STEPS), MAX_STEPS)


def bounds(recipe: Recipe) -> tuple[float, float]:
    """The lowest and the highest rate: 1e-6 and 10, or ten times away from the recipe's own."""
    own = recipe.optimiser.learning_rate
    return min(LOWEST, own / 10), max(HIGHEST, own * 10)


def run(recipe: Recipe, train: Split, machine: Machine, on_step: Callable[[float, float], object]) -> Ramp:
    """Train from the recipe's initial weights, with its loss, batches and augmentation, and no schedule.

    It stops when the loss has risen to four times its lowest, and above its first, or is not finite. `on_step` is
    called with the rate and the loss of each step. Nothing is written.

    Raises:
        RecipeError, DataError, RunError: as `fit.loop.fit`.
    """
    batch_size = len(train) if recipe.batch_size == "full" else min(recipe.batch_size, len(train))
    state = initial_state(recipe, machine.device, train)
    trainer = Trainer(recipe, state, train, None, batch_size, machine)
    loader = loader_for(recipe, train, resolution(recipe, 1), machine)
    planned, (low, high) = steps_of(recipe, len(train)), bounds(recipe)
    ramp = Ramp([], [], planned)
    trainer.train_mode()
    smooth, weight, lowest = 0.0, 0.0, math.inf
    with memory_checked(1, batch_size):
        for step, group in zip(range(planned), _groups(recipe, train, batch_size), strict=False):
            rate, sums = low * (high / low) ** (step / (planned - 1)), Sums()
            trainer.step(loader, group, rate, (1, step), sums)
            loss = sums.loss / sums.seen
            ramp.rates.append(rate)
            ramp.losses.append(loss)
            on_step(rate, loss)
            if not math.isfinite(loss):
                break
            smooth, weight = 0.9 * smooth + 0.1 * loss, 0.9 * weight + 0.1
            if step < planned // 10:
                continue
            lowest = min(lowest, smooth / weight)
            if smooth / weight > max(_RISE * lowest, 1.2 * ramp.start):
                break
    return ramp


def _groups(recipe: Recipe, train: Split, batch_size: int) -> Iterator[list[Tensor]]:
    """The batches of each step, in as many passes over the examples as it takes."""
    for number in count(1):
        torch.manual_seed(recipe.seed * 1_000_003 + number)
        yield from grouped(batches(train, batch_size, balanced=recipe.data.sampling == "balanced"), recipe.accumulate)
