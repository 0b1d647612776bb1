"""The training loop: `fit` goes from epoch to epoch, `Trainer.epoch` from step to step, and `Trainer.step` is one step.

Every draw of an epoch comes from a seed made of the recipe's seed and the epoch's number, and the learning rate depends
on the step's number alone, so a run that continues from a checkpoint ends as one that was never stopped.
"""

import math
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F  # noqa: N812 -- its usual name
from torch import Tensor, nn

from training.data.dataset import Split
from training.errors import RecipeError, RunError
from training.evaluation import classes
from training.evaluation import metrics as evaluate
from training.fit.batch import Loader, batches, loader_for, resolution
from training.fit.optimise import class_weights, learning_rate, loss_of, reductions
from training.fit.parallel import Machine, World
from training.fit.precision import autocast
from training.fit.state import Epoch, State, initial_state
from training.network import pretrained
from training.network.build import BoundedLinear, normalise
from training.progress import EpochBar, say
from training.recipe.layers import NGrams
from training.recipe.optimise import Loss
from training.recipe.schema import Recipe


def fit(
    recipe: Recipe,
    train: Split,
    validation: Split | None,
    path: Path,
    *,
    machine: Machine | None = None,
    watch: Callable[[list[Epoch]], None] | None = None,
    later: int = 0,
) -> nn.Sequential:
    """Train a recipe's network, from the checkpoint at `path` if it exists.

    Args:
        recipe: the experiment; its precision is resolved.
        train: the examples to learn from.
        validation: the examples to measure after each epoch, if any; they influence early stopping and nothing else.
        path: the checkpoint, written after every epoch.
        machine: the device and the processes to train on; by default this process and its processor.
        watch: called with the history at the start and after every epoch.
        later: the epochs of other trainings of the same run that follow, for the time left.

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
    _check_batches(recipe, len(train), batch_size, world)
    if isinstance(recipe.layers[-1], NGrams) and not path.exists() and world.leads:
        say("counting words and n-grams")
    state = world.in_turn(lambda: initial_state(recipe, machine.device, None if path.exists() else train))
    state.load(path)
    trainer = Trainer(recipe, state, train, validation, batch_size, machine, later)
    watch = watch or (lambda _history: None)
    watch(state.history)
    while not state.finished(recipe):
        number = len(state.history) + 1
        with memory_checked(number, batch_size):
            epoch = trainer.epoch(number)
        state.add(epoch, recipe)
        if world.leads:
            state.save(path)
        world.wait()
        watch(state.history)
    return state.result().cpu()


def _check_batches(recipe: Recipe, examples: int, batch_size: int, world: World) -> None:
    """Refuse batches that cannot be accumulated or shared, and say what has no effect on so few examples.

    Raises:
        RecipeError: the message names the key.
    """
    count = math.ceil(examples / batch_size)
    if batch_size < world.size:
        raise RecipeError(f"{recipe.name}: batch_size: {batch_size} is less than the {world.size} processes")
    if recipe.accumulate > count:
        raise RecipeError(
            f"{recipe.name}: accumulate: {recipe.accumulate} is more than the {count} batches of an epoch of "
            f"{examples:,} examples; set it to {count} or less, or a smaller batch_size"
        )
    if not world.leads:
        return
    if recipe.batch_size != "full" and recipe.batch_size > examples:
        say(f"batch_size: {recipe.batch_size} is more than the {examples:,} training examples: an epoch is one step")
    steps = math.ceil(count / recipe.accumulate) * recipe.epochs
    if recipe.schedule.warmup and recipe.schedule.warmup * steps < 1:
        say(f"schedule.warmup: {recipe.schedule.warmup:g} of {steps} steps is less than one: it has no effect")
    last = 1 - 1 / steps
    late = [milestone for milestone in recipe.schedule.milestones if milestone > last]
    if recipe.schedule.name == "step" and late:
        say(f"schedule.milestones: {late[0]:g} is after the last step, which begins at {last:.3g}: it has no effect")


class Trainer:
    """Trains the network of a state in place."""

    def __init__(
        self,
        recipe: Recipe,
        state: State,
        train: Split,
        validation: Split | None,
        batch_size: int,
        machine: Machine,
        later: int = 0,
    ) -> None:
        self._recipe = recipe
        self._state = state
        self._train = train
        self._validation = validation
        self._batch_size = batch_size
        self._machine = machine
        self._later = later
        self._network = machine.world.wrap(state.network)
        bounded = (layer for layer in state.network.modules() if isinstance(layer, BoundedLinear))
        self._bounded = [layer for layer in bounded if layer.weight.requires_grad]  # not those that are frozen
        weights = class_weights(recipe.loss, recipe.labels, train.labels)
        self._class_weights = None if weights is None else weights.to(machine.device)

    def epoch(self, number: int) -> Epoch:
        """Train for epoch `number`, counted from 1, then measure the network that would be published.

        Raises:
            RunError: the loss or an output of the network became infinite or NaN.
        """
        side = resolution(self._recipe, number)
        epochs, leads = self._recipe.epochs, self._machine.world.leads
        with EpochBar(number, epochs, len(self._train), later=self._later, visible=leads) as bar:
            started = time.perf_counter()
            sums, rate = self._steps(number, side, bar)
            seconds = time.perf_counter() - started
            # The leading process decides for all when to stop: on GPUs the others may round differently.
            loss, accuracy, figures = self._machine.world.broadcast(self._validate())
            self._check_finite(number, loss)
            bar.finish(loss, accuracy)
        mean = sums.mean(self._machine.world)
        return Epoch(
            number,
            mean.loss,
            mean.accuracy,
            loss,
            accuracy,
            len(self._train) / seconds,
            seconds,
            rate,
            side,
            cross_entropy=mean.cross_entropy,
            validation_figures=figures,
        )

    def _steps(self, number: int, side: int, bar: EpochBar) -> tuple["Sums", float]:
        """All steps of an epoch: sums over the augmented examples, and the last learning rate."""
        recipe, train, sums, rate = self._recipe, self._train, Sums(), 0.0
        torch.manual_seed(recipe.seed * 1_000_003 + number)  # an epoch draws the same wherever a run starts
        loader = loader_for(recipe, train, side, self._machine)
        self.train_mode()
        reduced, balanced = self._reductions(), recipe.data.sampling == "balanced"
        steps = math.ceil(math.ceil(len(train) / self._batch_size) / recipe.accumulate)
        for index, group in enumerate(grouped(batches(train, self._batch_size, balanced=balanced), recipe.accumulate)):
            step = (number - 1) * steps + index
            rate = recipe.optimiser.learning_rate * learning_rate(recipe.schedule, step, steps * recipe.epochs, reduced)
            self.step(loader, group, rate, (number, step), sums)
            if not math.isfinite(sums.loss):
                raise RunError(
                    f"the loss became {sums.loss} in epoch {number}, step {index + 1}, at a learning rate of "
                    f"{rate:.3g}. {_last_good(number)} Lower the learning rate: "
                    f"--set optimiser.learning_rate={recipe.optimiser.learning_rate / 10:g}"
                )
            bar.step(sums.seen, *sums.shown(self._machine.world.size))
        if not recipe.average_decay:  # the average is the network itself: copied once an epoch, not after each step
            self._state.average.update_parameters(self._state.network)
        return sums, rate

    def train_mode(self) -> None:
        """Switch the network to training; a frozen body computes as it will be served."""
        self._network.train()
        if self._recipe.initialise.freeze:
            pretrained.body(self._state.network).eval()  # without dropout, batch norm fixed

    def step(self, loader: Loader, group: list[Tensor], rate: float, place: tuple[int, int], sums: "Sums") -> None:
        """Load, augment, forward, loss, backward, step and average, for the batches (N) of a `group` of examples.

        With several processes, each computes its share of every batch. `place`, the numbers of epoch and step, seeds
        the dropout of each process. The results are added to `sums`.
        """
        recipe, optimiser, world = self._recipe, self._state.optimiser, self._machine.world
        for settings in optimiser.param_groups:
            settings["lr"] = rate * settings.get("share", 1.0)
        optimiser.zero_grad()
        total = sum(map(len, group))
        for part, chosen in enumerate(group):
            # Images float32 (n, C, H, W) from 0 to 255, or token ids int32 (N, L); labels int64 (n).
            inputs, labels = loader.load(chosen)
            # Scaled images float32 (n, C, side, side), or token ids int64 (n, at most L).
            inputs = loader.augment(inputs, len(chosen))
            with world.own_draws(recipe.seed, *place, part), autocast(self._machine.device, recipe.precision):
                logits = self._network(inputs)  # (n, classes)
            logits = logits.float()
            loss = loss_of(recipe.loss, logits, labels, self._class_weights)  # the mean over n examples
            # Gradients of the mean over all examples of the group.
            world.weighted(loss, len(labels), total).backward()  # type: ignore[no-untyped-call]
            sums.add(recipe.loss, loss.item(), logits.detach(), labels, len(chosen))
        self._adjust_gradients()
        optimiser.step()
        for layer in self._bounded:
            layer.bound()
        if recipe.average_decay:
            self._state.average.update_parameters(self._state.network)

    def _adjust_gradients(self) -> None:
        """Add the gradient of the L1 penalty on weights, then shorten a gradient that is longer than the bound."""
        recipe = self._recipe
        parameters = [each for each in self._state.network.parameters() if each.grad is not None]
        if recipe.l1:
            for weights in parameters:
                if weights.ndim > 1 and weights.grad is not None:
                    weights.grad.add_(weights.detach().sign(), alpha=recipe.l1)
        if recipe.clip_gradient:
            nn.utils.clip_grad_norm_(parameters, recipe.clip_gradient)

    def _reductions(self) -> int:
        """How often the schedule `plateau` has reduced the learning rate."""
        if self._recipe.schedule.name != "plateau":
            return 0
        losses = [epoch.validation_loss for epoch in self._state.history]
        return reductions(losses, self._recipe.schedule.patience)

    def _validate(self) -> tuple[float | None, float | None, dict[str, Any] | None]:
        """Loss, accuracy and other figures of the published network on the validation split, if any."""
        split = self._validation
        if split is None or not self._machine.world.leads:
            return None, None, None
        logits = evaluate.logits(self._state.published, normalise(self._recipe), split, device=self._machine.device)
        accuracy = float((logits.argmax(dim=1) == split.labels).float().mean())
        scores = torch.softmax(logits.double(), dim=1).numpy()
        figures = classes.figures(scores, split.labels.numpy(), self._recipe.labels)
        return F.cross_entropy(logits, split.labels).item(), accuracy, figures

    def _check_finite(self, number: int, validation_loss: float | None) -> None:
        """Refuse weights that the epoch's last step made infinite, before they reach the checkpoint.

        Some examples show it first in the published network, which may be an average of weights.
        """
        network, device = self._state.network.eval(), self._machine.device
        loader = loader_for(self._recipe, self._train, resolution(self._recipe, self._recipe.epochs), self._machine)
        inputs = loader.plain(torch.arange(min(len(self._train), 100)))
        with torch.inference_mode():
            is_finite = network(inputs.to(device)).isfinite().all()
        if not is_finite or not math.isfinite(validation_loss or 0.0):
            raise RunError(
                f"the network's outputs are infinite or NaN after epoch {number}. {_last_good(number)} "
                "Lower the learning rate with --set optimiser.learning_rate=..."
            )


@dataclass
class Sums:
    """Sums over the examples that this process has computed in an epoch, and the number that all have `seen`."""

    loss: float = 0.0
    cross_entropy: float = 0.0
    correct: int = 0
    seen: int = 0

    def add(self, options: Loss, loss: float, logits: Tensor, labels: Tensor, examples: int) -> None:
        """Add a batch: its mean loss, logits (n, classes), labels (n), and its examples in all processes."""
        is_plain = options == Loss()
        entropy = loss if is_plain or not len(labels) else F.cross_entropy(logits, labels).item()
        self.loss += loss * len(labels)
        self.cross_entropy += entropy * len(labels)
        self.correct += int((logits.argmax(dim=1) == labels).sum())
        self.seen += examples

    def shown(self, processes: int) -> tuple[float, float]:
        """Mean loss and accuracy so far, as this process estimates them."""
        return self.loss * processes / self.seen, self.correct * processes / self.seen

    def mean(self, world: World) -> "Mean":
        """The means over the examples of all processes."""
        return Mean(*(value / self.seen for value in world.sum(self.loss, self.cross_entropy, self.correct)))


class Mean(NamedTuple):
    """Means over the augmented examples of an epoch: the loss of the recipe, plain cross-entropy, and accuracy."""

    loss: float
    cross_entropy: float
    accuracy: float


def grouped(parts: Iterable[Tensor], size: int) -> Iterator[list[Tensor]]:
    """Batches in lists of `size`; the last may be shorter."""
    iterator = iter(parts)
    while group := list(islice(iterator, size)):
        yield group


@contextmanager
def memory_checked(number: int, batch_size: int) -> Iterator[None]:
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
