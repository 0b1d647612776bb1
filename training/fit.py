"""The loop: a recipe's network trained on one split, one checkpoint an epoch.

Every draw of an epoch comes from a seed made of the recipe's seed and the epoch's number, and the learning rate from
the step's, so a run continued from a checkpoint goes the way of one that was never stopped.
"""

import math
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812 -- its usual name
from torch import Tensor, nn, optim
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from training import checkpoint, evaluate
from training.augment import augment
from training.data import Split
from training.errors import RunError
from training.network import build, normalise
from training.optimise import learning_rate, optimiser
from training.progress import EpochBar
from training.recipe import Recipe


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


@dataclass
class _State:
    """All that changes while a network is trained."""

    network: nn.Sequential
    average: AveragedModel
    optimiser: optim.Optimizer
    history: list[Epoch]

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
        except (KeyError, TypeError, RuntimeError, ValueError) as error:
            raise RunError(f"{path}: this checkpoint is not of this recipe: {error}") from error


def fit(recipe: Recipe, train: Split, validation: Split | None, path: Path) -> nn.Sequential:
    """Train a recipe's network, continuing from the checkpoint at `path` where there is one.

    Args:
        recipe: what to train, and how.
        train: the examples to learn from.
        validation: the examples to report on after each epoch, if any; they change nothing.
        path: the checkpoint, written after every epoch.

    Returns:
        The trained network, with averaged weights where the recipe asks for them, in evaluation mode.

    Raises:
        RecipeError: a stack that cannot be built.
        RunError: the loss became infinite or NaN, or the checkpoint cannot be read or written.
    """
    state = _start(recipe)
    state.load(path)
    batch_size = len(train) if recipe.batch_size == "full" else min(recipe.batch_size, len(train))
    for number in range(len(state.history) + 1, recipe.epochs + 1):
        with EpochBar(number, recipe.epochs, len(train)) as bar:
            began = time.perf_counter()
            loss, accuracy = _epoch(recipe, state, train, number, batch_size, bar)
            seconds = time.perf_counter() - began
            epoch = Epoch(number, loss, accuracy, *_validate(recipe, state, validation), len(train) / seconds, seconds)
            _check_finite(recipe, state, number, train.first(100))
            bar.finish(epoch.validation_loss, epoch.validation_accuracy)
        state.history.append(epoch)
        state.save(path)
    return state.best_known.eval()


def seconds(path: Path) -> float:
    """How long the training of a checkpoint took, over all its sittings."""
    state = checkpoint.load(path)
    return sum(epoch["seconds"] for epoch in state["history"]) if state else 0.0


def trained(recipe: Recipe, path: Path) -> nn.Sequential:
    """The network of a finished training.

    Raises:
        RunError: the checkpoint is missing, damaged, of another recipe, or of a training that was stopped.
    """
    state = _start(recipe)
    state.load(path)
    if len(state.history) < recipe.epochs:
        raise RunError(f"{path}: {len(state.history)} of {recipe.epochs} epochs are trained")
    return state.best_known.eval()


def _start(recipe: Recipe) -> _State:
    torch.manual_seed(recipe.seed)
    network = build(recipe)
    average = AveragedModel(network, multi_avg_fn=get_ema_multi_avg_fn(recipe.average_decay), use_buffers=True)  # type: ignore[no-untyped-call]
    return _State(network, average, optimiser(recipe.optimiser, network.parameters()), [])


def _epoch(
    recipe: Recipe, state: _State, train: Split, number: int, batch_size: int, bar: EpochBar
) -> tuple[float, float]:
    """Train for one epoch: (mean loss, accuracy) over the augmented examples as they were seen."""
    torch.manual_seed(recipe.seed * 1_000_003 + number)  # each epoch its own draws, wherever a run starts
    scale = normalise(recipe)
    state.network.train()
    batches = math.ceil(len(train) / batch_size)
    seen, loss_sum, correct = 0, 0.0, 0
    for index, (pictures, labels) in enumerate(_batches(train, batch_size)):
        step = (number - 1) * batches + index
        rate = recipe.optimiser.learning_rate * learning_rate(recipe.schedule, step, batches * recipe.epochs)
        for group in state.optimiser.param_groups:
            group["lr"] = rate
        with torch.autocast("cpu", torch.bfloat16, enabled=recipe.precision == "bfloat16"):
            outputs = state.network(augment(scale(pictures), recipe.augment))
        loss = F.cross_entropy(outputs.float(), labels, label_smoothing=recipe.loss.label_smoothing)
        state.optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        state.optimiser.step()
        state.average.update_parameters(state.network)
        seen += len(labels)
        loss_sum += loss.item() * len(labels)
        correct += int((outputs.argmax(dim=1) == labels).sum())
        if not math.isfinite(loss_sum):
            raise RunError(
                f"the loss became {loss.item()} in epoch {number}, step {index + 1}, at a learning rate of "
                f"{rate:.3g}. {_last_good(number)} Lower the learning rate: "
                f"--set optimiser.learning_rate={recipe.optimiser.learning_rate / 10:g}"
            )
        bar.step(seen, loss_sum / seen, correct / seen)
    return loss_sum / seen, correct / seen


def _last_good(number: int) -> str:
    return f"The last good checkpoint is of epoch {number - 1}." if number > 1 else "No epoch was finished before."


def _check_finite(recipe: Recipe, state: _State, number: int, examples: Split) -> None:
    """Keep weights that the epoch's last step spoilt out of the checkpoint."""
    if not evaluate.logits(state.network, normalise(recipe), examples).isfinite().all():
        raise RunError(
            f"the network's outputs are infinite or NaN after epoch {number}. {_last_good(number)} "
            f"Lower the learning rate with --set optimiser.learning_rate=..."
        )


def _batches(split: Split, batch_size: int) -> Iterator[tuple[Tensor, Tensor]]:
    """The examples in a new order; a last batch of one is left out, since batch norm has no variance over it."""
    order = torch.randperm(len(split))
    for start in range(0, len(split), batch_size):
        chosen = order[start : start + batch_size]
        if len(chosen) > 1 or batch_size == 1:
            yield split.inputs[chosen], split.labels[chosen]


def _validate(recipe: Recipe, state: _State, split: Split | None) -> tuple[float | None, float | None]:
    if split is None:
        return None, None
    logits = evaluate.logits(state.best_known, normalise(recipe), split)
    accuracy = float((logits.argmax(dim=1) == split.labels).float().mean())
    return F.cross_entropy(logits, split.labels).item(), accuracy
