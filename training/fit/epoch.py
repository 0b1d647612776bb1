"""One epoch: the steps of the optimiser, then the figures of the weights that would be published.

Every draw of an epoch comes from a seed made of the recipe's seed and the epoch's number, and the learning rate from
the step's, so a run continued from a checkpoint goes the way of one that was never stopped.
"""

import math
import time

import torch
import torch.nn.functional as F  # noqa: N812 -- its usual name
from torch import Tensor

from training.data.dataset import Split
from training.errors import RunError
from training.evaluation import metrics as evaluate
from training.fit.batch import Prepared, batches, resolution
from training.fit.optimise import learning_rate, loss_of
from training.fit.parallel import Machine
from training.fit.state import Epoch, State
from training.network.build import BoundedLinear, normalise
from training.progress import EpochBar
from training.recipe.schema import Recipe


class Trainer:
    """Trains the network of a state, epoch by epoch, in place."""

    def __init__(
        self, recipe: Recipe, state: State, train: Split, validation: Split | None, batch_size: int, machine: Machine
    ) -> None:
        self._recipe = recipe
        self._state = state
        self._train = train
        self._validation = validation
        self._batch_size = batch_size
        self._machine = machine
        self._network = machine.world.wrap(state.network)
        self._bounded = [module for module in state.network.modules() if isinstance(module, BoundedLinear)]

    def epoch(self, number: int) -> Epoch:
        """Train for epoch `number`, counted from 1, then measure.

        Raises:
            RunError: the loss, or what the network gives, became infinite or NaN.
        """
        side = resolution(self._recipe, number)
        with EpochBar(number, self._recipe.epochs, len(self._train), visible=self._machine.world.leads) as bar:
            began = time.perf_counter()
            loss, accuracy, rate = self._steps(number, side, bar)
            seconds = time.perf_counter() - began
            figures = self._validate()
            self._check_finite(number)
            bar.finish(*figures)
        return Epoch(number, loss, accuracy, *figures, len(self._train) / seconds, seconds, rate, side)

    def _steps(self, number: int, side: int, bar: EpochBar) -> tuple[float, float, float]:
        """Mean loss and accuracy over the augmented examples as they were seen, and the last learning rate."""
        recipe, world = self._recipe, self._machine.world
        torch.manual_seed(recipe.seed * 1_000_003 + number)  # each epoch its own draws, wherever a run starts
        prepared = Prepared(recipe, side, self._machine)
        self._network.train()
        steps = math.ceil(len(self._train) / self._batch_size)
        seen, rate, loss_sum, correct = 0, 0.0, 0.0, 0
        for index, chosen in enumerate(batches(self._train, self._batch_size)):
            step = (number - 1) * steps + index
            rate = recipe.optimiser.learning_rate * learning_rate(recipe.schedule, step, steps * recipe.epochs)
            inputs, labels = prepared(self._train, chosen)
            loss, outputs = self._step(inputs, labels, len(chosen), rate)
            seen += len(chosen)
            loss_sum += loss * len(labels)
            correct += int((outputs.argmax(dim=1) == labels).sum())
            if not math.isfinite(loss_sum):
                raise RunError(
                    f"the loss became {loss} in epoch {number}, step {index + 1}, at a learning rate of "
                    f"{rate:.3g}. {last_good(number)} Lower the learning rate: "
                    f"--set optimiser.learning_rate={recipe.optimiser.learning_rate / 10:g}"
                )
            bar.step(seen, loss_sum * world.size / seen, correct * world.size / seen)
        if not recipe.average_decay:  # the average of one: copied once an epoch, which is millions of values
            self._state.average.update_parameters(self._state.network)
        loss_sum, right = world.sum(loss_sum, correct)
        return loss_sum / seen, right / seen, rate

    def _step(self, inputs: Tensor, labels: Tensor, count: int, rate: float) -> tuple[float, Tensor]:
        """One update from this process's share of a batch of `count`: (its mean loss, logits)."""
        recipe, optimiser = self._recipe, self._state.optimiser
        for group in optimiser.param_groups:
            group["lr"] = rate
        with torch.autocast(self._machine.device.type, torch.bfloat16, enabled=recipe.precision == "bfloat16"):
            outputs = self._network(inputs)
        # The mean over this process's examples, weighted so that the mean over processes is the whole batch's.
        share = len(labels) * self._machine.world.size / count
        loss = loss_of(recipe.loss, outputs.float(), labels) if len(labels) else outputs.sum()  # none of a small batch
        optimiser.zero_grad()
        (loss if share == 1 else loss * share).backward()
        optimiser.step()
        for module in self._bounded:
            module.bound()
        if recipe.average_decay:
            self._state.average.update_parameters(self._state.network)
        return loss.item(), outputs

    def _validate(self) -> tuple[float | None, float | None]:
        split = self._validation
        if split is None:
            return None, None
        logits = evaluate.logits(self._state.best_known, normalise(self._recipe), split, device=self._machine.device)
        accuracy = float((logits.argmax(dim=1) == split.labels).float().mean())
        return F.cross_entropy(logits, split.labels).item(), accuracy

    def _check_finite(self, number: int) -> None:
        """Keep weights that the epoch's last step spoilt out of the checkpoint."""
        scale, examples = normalise(self._recipe), self._train.first(100)
        if not evaluate.logits(self._state.network, scale, examples, device=self._machine.device).isfinite().all():
            raise RunError(
                f"the network's outputs are infinite or NaN after epoch {number}. {last_good(number)} "
                f"Lower the learning rate with --set optimiser.learning_rate=..."
            )


def last_good(number: int) -> str:
    """Which checkpoint is left when epoch `number` fails."""
    return f"The last good checkpoint is of epoch {number - 1}." if number > 1 else "No epoch was finished before."
