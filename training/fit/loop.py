"""The training loop: `fit` goes from epoch to epoch, `Trainer.epoch` from step to step, and `Trainer.step` is one step.

Every draw of an epoch comes from a seed made of the recipe's seed and the epoch's number, and the learning rate depends
on the step's number alone, so a run that continues from a checkpoint ends as one that was never stopped.
"""

import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
import torch.nn.functional as F  # noqa: N812 -- its usual name
from torch import Tensor, nn

from training.data.dataset import Split
from training.errors import RecipeError, RunError
from training.evaluation import metrics as evaluate
from training.fit.batch import Loader, batches, loader_for, resolution
from training.fit.optimise import learning_rate, loss_of
from training.fit.parallel import Machine
from training.fit.precision import autocast
from training.fit.state import Epoch, State, initial_state
from training.network.build import BoundedLinear, normalise
from training.progress import EpochBar, say
from training.recipe.layers import NGrams
from training.recipe.schema import Recipe


def fit(
    recipe: Recipe,
    train: Split,
    validation: Split | None,
    path: Path,
    *,
    machine: Machine | None = None,
    watch: Callable[[list[Epoch]], None] | None = None,
) -> nn.Sequential:
    """Train a recipe's network, from the checkpoint at `path` if it exists.

    Args:
        recipe: the experiment; its precision is resolved.
        train: the examples to learn from.
        validation: the examples to measure after each epoch, if any; they influence early stopping and nothing else.
        path: the checkpoint, written after every epoch.
        machine: the device and the processes to train on; by default this process and its processor.
        watch: called with the history at the start and after every epoch.

    Returns:
        The trained network on the processor, with averaged weights if the recipe asks for them, in evaluation mode.

    Raises:
        RecipeError: a stack that cannot be built.
        DataError: pretrained weights cannot be downloaded.
        RunError: the loss became infinite or NaN, the memory is too small, or the checkpoint cannot be read or written.
    """
    machine = machine or Machine()
    world = machine.world
    batch_size = len(train) if recipe.batch_size == "full" else min(recipe.batch_size, len(train))
    if batch_size < world.size:
        raise RecipeError(f"{recipe.name}: batch_size: {batch_size} is less than the {world.size} processes")
    if isinstance(recipe.layers[-1], NGrams) and not path.exists() and world.leads:
        say("counting words and n-grams")
    state = world.in_turn(lambda: initial_state(recipe, machine.device, None if path.exists() else train))
    state.load(path)
    trainer = Trainer(recipe, state, train, validation, batch_size, machine)
    watch = watch or (lambda _history: None)
    watch(state.history)
    while not state.finished(recipe):
        number = len(state.history) + 1
        with _memory_checked(number, batch_size):
            epoch = trainer.epoch(number)
        state.add(epoch, recipe)
        if world.leads:
            state.save(path)
        world.wait()
        watch(state.history)
    return state.result().cpu()


class Trainer:
    """Trains the network of a state in place."""

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
        self._bounded = [layer for layer in state.network.modules() if isinstance(layer, BoundedLinear)]

    def epoch(self, number: int) -> Epoch:
        """Train for epoch `number`, counted from 1, then measure the network that would be published.

        Raises:
            RunError: the loss or an output of the network became infinite or NaN.
        """
        side = resolution(self._recipe, number)
        with EpochBar(number, self._recipe.epochs, len(self._train), visible=self._machine.world.leads) as bar:
            started = time.perf_counter()
            loss, accuracy, rate = self._steps(number, side, bar)
            seconds = time.perf_counter() - started
            figures = self._validate()
            self._check_finite(number)
            bar.finish(*figures)
        return Epoch(number, loss, accuracy, *figures, len(self._train) / seconds, seconds, rate, side)

    def _steps(self, number: int, side: int, bar: EpochBar) -> tuple[float, float, float]:
        """All steps of an epoch: mean loss and accuracy over the augmented examples, and the last learning rate."""
        recipe, world, train = self._recipe, self._machine.world, self._train
        torch.manual_seed(recipe.seed * 1_000_003 + number)  # an epoch draws the same wherever a run starts
        loader = loader_for(recipe, train, side, self._machine)
        self._network.train()
        steps = math.ceil(len(train) / self._batch_size)
        seen, rate, loss_sum, correct = 0, 0.0, 0.0, 0
        for index, chosen in enumerate(batches(train, self._batch_size)):
            step = (number - 1) * steps + index
            rate = recipe.optimiser.learning_rate * learning_rate(recipe.schedule, step, steps * recipe.epochs)
            loss, logits, labels = self.step(loader, chosen, rate)
            seen += len(chosen)
            loss_sum += loss * len(labels)
            correct += int((logits.argmax(dim=1) == labels).sum())
            if not math.isfinite(loss_sum):
                raise RunError(
                    f"the loss became {loss} in epoch {number}, step {index + 1}, at a learning rate of "
                    f"{rate:.3g}. {_last_good(number)} Lower the learning rate: "
                    f"--set optimiser.learning_rate={recipe.optimiser.learning_rate / 10:g}"
                )
            bar.step(seen, loss_sum * world.size / seen, correct * world.size / seen)
        if not recipe.average_decay:  # the average is the network itself: copied once an epoch, not after each step
            self._state.average.update_parameters(self._state.network)
        loss_sum, total_correct = world.sum(loss_sum, correct)
        return loss_sum / seen, total_correct / seen, rate

    def step(self, loader: Loader, chosen: Tensor, rate: float) -> tuple[float, Tensor, Tensor]:
        """Load, augment, forward, loss, backward, step and average, for the `chosen` examples (N) of a batch.

        Returns:
            The mean loss, the logits (n, classes) and the labels (n) of the n examples that this process computes: all
            N, or its share where several processes train together.
        """
        recipe, optimiser = self._recipe, self._state.optimiser
        for group in optimiser.param_groups:
            group["lr"] = rate
        # Scaled images float32 (n, C, H, W), or token ids int32 (N, L); labels int64 (n).
        inputs, labels = loader.load(chosen)
        # float32 (n, C, side, side), or token ids int64 (n, at most L).
        inputs = loader.augment(inputs, len(chosen))
        with autocast(self._machine.device, recipe.precision):
            logits = self._network(inputs)  # (n, classes)
        loss = loss_of(recipe.loss, logits.float(), labels)  # the mean over n examples
        optimiser.zero_grad()
        # Gradients of the mean over all N examples.
        self._machine.world.weighted(loss, len(labels), len(chosen)).backward()  # type: ignore[no-untyped-call]
        optimiser.step()
        for layer in self._bounded:
            layer.bound()
        if recipe.average_decay:
            self._state.average.update_parameters(self._state.network)
        return loss.item(), logits, labels

    def _validate(self) -> tuple[float | None, float | None]:
        """Loss and accuracy of the published network on the validation split, if any."""
        split = self._validation
        if split is None:
            return None, None
        logits = evaluate.logits(self._state.published, normalise(self._recipe), split, device=self._machine.device)
        accuracy = float((logits.argmax(dim=1) == split.labels).float().mean())
        return F.cross_entropy(logits, split.labels).item(), accuracy

    def _check_finite(self, number: int) -> None:
        """Refuse weights that the epoch's last step made infinite, before they reach the checkpoint."""
        scale, examples = normalise(self._recipe), self._train.first(100)
        if not evaluate.logits(self._state.network, scale, examples, device=self._machine.device).isfinite().all():
            raise RunError(
                f"the network's outputs are infinite or NaN after epoch {number}. {_last_good(number)} "
                "Lower the learning rate with --set optimiser.learning_rate=..."
            )


@contextmanager
def _memory_checked(number: int, batch_size: int) -> Iterator[None]:
    """Turn a failed allocation, on the processor or on the GPU, into a RunError."""
    try:
        yield
    except (torch.OutOfMemoryError, MemoryError, RuntimeError) as error:
        if not isinstance(error, torch.OutOfMemoryError | MemoryError) and "allocate memory" not in str(error):
            raise
        raise RunError(
            f"out of memory in epoch {number} with a batch size of {batch_size}. {_last_good(number)} "
            f"Start again with smaller batches: --set batch_size={max(batch_size // 2, 1)}"
        ) from error


def _last_good(number: int) -> str:
    """The checkpoint that remains when epoch `number` fails."""
    return f"The last good checkpoint is of epoch {number - 1}." if number > 1 else "No epoch was finished before."
