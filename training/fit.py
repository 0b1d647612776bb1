"""The loop: a recipe's network trained on one split, one checkpoint an epoch.

Every draw of an epoch comes from a seed made of the recipe's seed and the epoch's number, and the learning rate from
the step's, so a run continued from a checkpoint goes the way of one that was never stopped.
"""

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812 -- its usual name
from torch import Tensor, nn, optim
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from training import augment, checkpoint, evaluate, pretrained
from training.data import Split
from training.errors import RecipeError, RunError
from training.network import BoundedLinear, build, normalise
from training.optimise import learning_rate, optimiser
from training.parallel import World
from training.precision import layout, prepare
from training.progress import EpochBar
from training.recipe import Image, Loss, Recipe

_CHUNK = 50  # batches of texts that are sorted by length among themselves


@dataclass(frozen=True)
class Epoch:
    """One epoch's figures; validation's are of the weights that would be published, None without a split."""

    epoch: int
    loss: float
    accuracy: float
    validation_loss: float | None
    validation_accuracy: float | None
    images_per_s: float
    seconds: float
    learning_rate: float = 0.0
    """The last step's."""
    resolution: int = 0
    """Side of the training pictures in pixels; 0 for texts."""


@dataclass
class _State:
    """All that changes while a network is trained."""

    network: nn.Sequential
    average: AveragedModel
    optimiser: optim.Optimizer
    history: list[Epoch]
    best: dict[str, Any] = field(default_factory=dict)
    """The state of the published network after the best epoch, where the recipe stops early."""

    @property
    def best_known(self) -> nn.Sequential:
        network = self.average.module
        assert isinstance(network, nn.Sequential)
        return network

    def save(self, path: Path) -> None:
        state = {
            "network": self.network.state_dict(),
            "average": self.average.state_dict(),
            "optimiser": self.optimiser.state_dict(),
            "history": [vars(epoch) for epoch in self.history],
            "best": self.best,
        }
        checkpoint.save(path, state)

    def load(self, path: Path) -> None:
        state: dict[str, Any] | None = checkpoint.load(path)
        if state is None:
            return
        try:
            self.network.load_state_dict(state["network"])
            self.average.load_state_dict(state["average"])
            self.optimiser.load_state_dict(state["optimiser"])
            self.history = [Epoch(**epoch) for epoch in state["history"]]
            self.best = state.get("best", {})
        except (KeyError, TypeError, RuntimeError, ValueError) as error:
            raise RunError(f"{path}: this checkpoint is not of this recipe: {error}") from error

    def finished(self, recipe: Recipe) -> bool:
        """Whether all epochs are trained, or as many without a gain as the recipe waits for."""
        if len(self.history) >= recipe.epochs:
            return True
        patience = recipe.early_stopping
        return patience is not None and len(self.history) - best_epoch(self.history) >= patience

    def result(self) -> nn.Sequential:
        """The network to publish, in evaluation mode."""
        if self.best:
            self.best_known.load_state_dict(self.best)
        return self.best_known.eval()


@dataclass(frozen=True)
class Machine:
    """What a training computes on: a device, and the processes that share the work."""

    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    world: World = field(default_factory=World)


def fit(
    recipe: Recipe,
    train: Split,
    validation: Split | None,
    path: Path,
    *,
    machine: Machine | None = None,
    watch: Callable[[list[Epoch]], None] | None = None,
) -> nn.Sequential:
    """Train a recipe's network, continuing from the checkpoint at `path` where there is one.

    Args:
        recipe: what to train, and how; its precision is resolved.
        train: the examples to learn from.
        validation: the examples to report on after each epoch, if any; they change nothing, but for early stopping.
        path: the checkpoint, written after every epoch.
        machine: what to compute on; by default this process and its processor.
        watch: told of the history at the start and after every epoch.

    Returns:
        The trained network on the processor, with averaged weights where the recipe asks for them, in evaluation mode.

    Raises:
        RecipeError: a stack that cannot be built.
        DataError: pretrained weights cannot be downloaded.
        RunError: the loss became infinite or NaN, the memory is too small, or the checkpoint cannot be read or written.
    """
    machine = machine or Machine()
    batch_size = len(train) if recipe.batch_size == "full" else min(recipe.batch_size, len(train))
    if batch_size < machine.world.size:
        raise RecipeError(f"{recipe.name}: batch_size: {batch_size} is less than the {machine.world.size} processes")
    state = machine.world.in_turn(lambda: _start(recipe, machine.device, pretrain=not path.exists()))
    state.load(path)
    trained_network = machine.world.wrap(state.network)
    if watch:
        watch(state.history)
    while not state.finished(recipe):
        number = len(state.history) + 1
        try:
            epoch = _epoch(recipe, state, trained_network, train, validation, number, batch_size, machine)
        except (torch.OutOfMemoryError, MemoryError, RuntimeError) as error:
            if not _is_out_of_memory(error):
                raise
            raise RunError(
                f"the memory is too small for epoch {number} with batches of {batch_size}. {_last_good(number)} "
                f"Start again with smaller ones: --set batch_size={max(batch_size // 2, 1)}"
            ) from error
        state.history.append(epoch)
        if recipe.early_stopping and best_epoch(state.history) == number:
            state.best = {name: value.clone() for name, value in state.best_known.state_dict().items()}
        if machine.world.leads:
            state.save(path)
        machine.world.wait()
        if watch:
            watch(state.history)
    return state.result().cpu()


def best_epoch(history: list[Epoch]) -> int:
    """The number of the epoch with the highest validation accuracy, the lower loss where two are equal.

    As Kim (2014) chooses: dropout keeps accuracy growing long after the loss has begun to rise, and the temperature
    mends the loss. The last epoch where nothing was validated.
    """
    scored = [epoch for epoch in history if epoch.validation_accuracy is not None]
    best = max(scored, key=lambda epoch: (epoch.validation_accuracy, -(epoch.validation_loss or 0)), default=None)
    return len(history) if best is None else best.epoch


def seconds(path: Path) -> float:
    """How long the training of a checkpoint took, over all its sittings."""
    return sum(epoch.seconds for epoch in history(path))


def history(path: Path) -> list[Epoch]:
    """The epochs that a checkpoint has behind it; none where there is no checkpoint.

    Raises:
        RunError: the file is no checkpoint of ours.
    """
    state = checkpoint.load(path)
    try:
        return [Epoch(**epoch) for epoch in state["history"]] if state else []
    except (KeyError, TypeError) as error:
        raise RunError(f"{path}: this checkpoint has no history: {error}") from error


def trained(recipe: Recipe, path: Path) -> nn.Sequential:
    """The network of a finished training.

    Raises:
        RunError: the checkpoint is missing, damaged, of another recipe, or of a training that was stopped.
    """
    state = _start(recipe, torch.device("cpu"))
    state.load(path)
    if not state.finished(recipe):
        raise RunError(f"{path}: {len(state.history)} of {recipe.epochs} epochs are trained")
    return state.result()


def _start(recipe: Recipe, device: torch.device, *, pretrain: bool = False) -> _State:
    """The state before the first step; a checkpoint brings pretrained weights of its own."""
    torch.manual_seed(recipe.seed)
    network = build(recipe)
    if pretrain and recipe.initialise.name == "pretrained":
        pretrained.load(network, recipe.initialise)
    if recipe.initialise.freeze:
        pretrained.body(network).requires_grad_(requires_grad=False)
    network = prepare(network, recipe, device)
    average = AveragedModel(network, multi_avg_fn=get_ema_multi_avg_fn(recipe.average_decay), use_buffers=True)  # type: ignore[no-untyped-call]
    learning = (parameter for parameter in network.parameters() if parameter.requires_grad)
    return _State(network, average, optimiser(recipe.optimiser, learning), [])


def _epoch(
    recipe: Recipe,
    state: _State,
    network: nn.Module,
    train: Split,
    validation: Split | None,
    number: int,
    batch_size: int,
    machine: Machine,
) -> Epoch:
    """Train for one epoch, then measure."""
    side = resolution(recipe, number)
    with EpochBar(number, recipe.epochs, len(train), visible=machine.world.leads) as bar:
        began = time.perf_counter()
        loss, accuracy, rate = _steps(recipe, state, network, train, number, batch_size, machine, bar)
        seconds = time.perf_counter() - began
        figures = _validate(recipe, state, validation, machine.device)
        _check_finite(recipe, state, number, train.first(100), machine.device)
        bar.finish(*figures)
    return Epoch(number, loss, accuracy, *figures, len(train) / seconds, seconds, rate, side)


def resolution(recipe: Recipe, number: int) -> int:
    """The side in pixels of the training pictures in epoch `number`, counted from 1; 0 for texts."""
    if not isinstance(recipe.input, Image):
        return 0
    if recipe.resolutions is None:
        return recipe.input.height
    return recipe.resolutions[(number - 1) * len(recipe.resolutions) // recipe.epochs]


def _steps(
    recipe: Recipe,
    state: _State,
    network: nn.Module,
    train: Split,
    number: int,
    batch_size: int,
    machine: Machine,
    bar: EpochBar,
) -> tuple[float, float, float]:
    """One epoch's steps: (mean loss, accuracy) over the augmented examples as they were seen, last learning rate."""
    torch.manual_seed(recipe.seed * 1_000_003 + number)  # each epoch its own draws, wherever a run starts
    prepared = _Prepared(recipe, resolution(recipe, number), machine)
    bounded = [module for module in state.network if isinstance(module, BoundedLinear)]
    network.train()
    steps = math.ceil(len(train) / batch_size)
    seen, rate, loss_sum, correct = 0, 0.0, 0.0, 0
    for index, chosen in enumerate(batches(train, batch_size)):
        step = (number - 1) * steps + index
        rate = recipe.optimiser.learning_rate * learning_rate(recipe.schedule, step, steps * recipe.epochs)
        for group in state.optimiser.param_groups:
            group["lr"] = rate
        inputs, labels = prepared(train, chosen)
        with torch.autocast(machine.device.type, torch.bfloat16, enabled=recipe.precision == "bfloat16"):
            outputs = network(inputs)
        # The mean over this process's examples, weighted so that the mean over processes is the whole batch's.
        share = len(labels) * machine.world.size / len(chosen)
        loss = loss_of(recipe.loss, outputs.float(), labels) if len(labels) else outputs.sum()  # none of a small batch
        state.optimiser.zero_grad()
        (loss if share == 1 else loss * share).backward()
        state.optimiser.step()
        for module in bounded:
            module.bound()
        if recipe.average_decay:
            state.average.update_parameters(state.network)
        seen += len(chosen)
        loss_sum += loss.item() * len(labels)
        correct += int((outputs.argmax(dim=1) == labels).sum())
        if not math.isfinite(loss_sum):
            raise RunError(
                f"the loss became {loss.item()} in epoch {number}, step {index + 1}, at a learning rate of "
                f"{rate:.3g}. {_last_good(number)} Lower the learning rate: "
                f"--set optimiser.learning_rate={recipe.optimiser.learning_rate / 10:g}"
            )
        bar.step(seen, loss_sum * machine.world.size / seen, correct * machine.world.size / seen)
    if (
        not recipe.average_decay
    ):  # the average of one: copied once an epoch, which is millions of values in some networks
        state.average.update_parameters(state.network)
    loss_sum, right = machine.world.sum(loss_sum, correct)
    return loss_sum / seen, right / seen, rate


def loss_of(how: Loss, outputs: Tensor, labels: Tensor) -> Tensor:
    """The mean loss of logits (N, classes) against labels (N)."""
    if how.name == "cross-entropy":
        return F.cross_entropy(outputs, labels, label_smoothing=how.label_smoothing)
    classes = outputs.shape[1]
    goal = F.one_hot(labels, classes) * (1 - how.label_smoothing) + how.label_smoothing / classes
    return (torch.softmax(outputs, dim=1) - goal).square().sum(dim=1).mean()


class _Prepared:
    """Turns chosen examples of a split into a batch of this process: augmented, scaled, on the device."""

    def __init__(self, recipe: Recipe, side: int, machine: Machine) -> None:
        self._recipe = recipe
        self._machine = machine
        self._side = side if recipe.resolutions or recipe.data.stored_side else None
        self._scale = normalise(recipe).to(machine.device)

    def __call__(self, split: Split, chosen: Tensor) -> tuple[Tensor, Tensor]:
        """Inputs as the network takes them, labels (n), for this process's share of the examples `chosen`."""
        rows, device, how = self._machine.world.rows(len(chosen)), self._machine.device, self._recipe.augment
        labels = split.labels[chosen[rows]].to(device)
        if not isinstance(self._recipe.input, Image):
            tokens = split.texts(chosen)
            if how.span:
                tokens = augment.cut(tokens, how.span, torch.rand(2, len(tokens)))
            if how.word_dropout:
                tokens = augment.drop_words(tokens, how.word_dropout, torch.rand(tokens.shape))
            return self._scale(tokens[rows].to(device)), labels
        draws = None if how == type(how)() else augment.draw(how, len(chosen))[:, rows]
        pictures = self._scale(split.inputs[chosen[rows]].to(device))
        return layout(augment.augment(pictures, how, draws, self._side), self._recipe), labels


def _is_out_of_memory(error: BaseException) -> bool:
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or "allocate memory" in str(error)


def _last_good(number: int) -> str:
    return f"The last good checkpoint is of epoch {number - 1}." if number > 1 else "No epoch was finished before."


def _check_finite(recipe: Recipe, state: _State, number: int, examples: Split, device: torch.device) -> None:
    """Keep weights that the epoch's last step spoilt out of the checkpoint."""
    if not evaluate.logits(state.network, normalise(recipe), examples, device=device).isfinite().all():
        raise RunError(
            f"the network's outputs are infinite or NaN after epoch {number}. {_last_good(number)} "
            f"Lower the learning rate with --set optimiser.learning_rate=..."
        )


def batches(split: Split, batch_size: int) -> Iterator[Tensor]:
    """Indices in a new order; a last batch of one is left out, since batch norm has no variance over it.

    Texts are sorted by length within every 50 batches, whose order is then drawn, so that little padding is computed.
    """
    order = torch.randperm(len(split))
    found = list(torch.split(order, batch_size))
    if split.lengths is not None:
        chunks = torch.split(order, _CHUNK * batch_size)
        sorted_chunks = [chunk[split.lengths[chunk].argsort(stable=True)] for chunk in chunks]
        found = [batch for chunk in sorted_chunks for batch in torch.split(chunk, batch_size)]
        found = [found[place] for place in torch.randperm(len(found)).tolist()]
    for batch in found:
        if len(batch) > 1 or batch_size == 1:
            yield batch


def _validate(
    recipe: Recipe, state: _State, split: Split | None, device: torch.device
) -> tuple[float | None, float | None]:
    if split is None:
        return None, None
    logits = evaluate.logits(state.best_known, normalise(recipe), split, device=device)
    accuracy = float((logits.argmax(dim=1) == split.labels).float().mean())
    return F.cross_entropy(logits, split.labels).item(), accuracy
