"""The state of a training: the network, the average of its weights, the optimiser and the history.

`initial_state` makes it, `State.save` and `State.load` keep it in a checkpoint; `trained`, `history` and `seconds` read
a checkpoint.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn, optim
from torch.optim.swa_utils import AveragedModel

from training.data.dataset import Split
from training.errors import RunError
from training.fit import checkpoint
from training.fit.optimise import optimiser, slow_down
from training.fit.precision import prepare
from training.network import ngrams, pretrained, vectors, version
from training.network.build import Embed, build
from training.recipe.gate import Gate
from training.recipe.layers import Embedding, NGrams
from training.recipe.schema import Recipe

Parts = tuple[Tensor, ...] | list[Tensor]

_MAY_CHANGE = frozenset({"name", "description", "epochs", "data.path", "data.images", "gate.metric", "gate.label"})
"""What a run may change before it is resumed: more epochs, where the same data are, and how it will be judged, unless
this decides when it stops."""


@dataclass(frozen=True)
class Epoch:
    """The metrics of one epoch; validation measures the network that would be published, None without a split."""

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
    """Side of the training images in pixels; 0 for texts."""
    cross_entropy: float | None = None
    """Of the training examples, without label smoothing and weights: what `validation_loss` is on the others."""
    validation_figures: dict[str, Any] | None = None
    """Those of `evaluation.classes.figures`."""


@dataclass
class State:
    """Everything that changes during a training."""

    network: nn.Sequential
    average: AveragedModel
    optimiser: optim.Optimizer
    history: list[Epoch]
    recipe: dict[str, Any] = field(default_factory=dict)
    """The recipe, as JSON has it."""
    best: dict[str, Any] = field(default_factory=dict)
    """The published network's weights after the best epoch, with early stopping."""

    @property
    def published(self) -> nn.Sequential:
        """The network that would be published now: with averaged weights, if the recipe averages them."""
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
            "recipe": self.recipe,
        }
        checkpoint.save(path, state)

    def load(self, path: Path) -> None:
        state: dict[str, Any] | None = checkpoint.load(path)
        if state is None:
            return
        try:
            _check_unchanged(path, state.get("recipe", {}), self.recipe)
            self.network.load_state_dict(state["network"])
            self.average.load_state_dict(state["average"])
            self.optimiser.load_state_dict(state["optimiser"])
            self.history = [Epoch(**epoch) for epoch in state["history"]]
            self.best = state.get("best", {})
        except (AttributeError, KeyError, TypeError, RuntimeError, ValueError) as error:
            raise RunError(f"{path}: the checkpoint does not match this recipe: {error}") from error

    def add(self, epoch: Epoch, recipe: Recipe) -> None:
        """Add a finished epoch to the history; with early stopping, keep the weights of the best epoch."""
        self.history.append(epoch)
        if recipe.early_stopping and best_epoch(self.history, recipe.gate) == epoch.epoch:
            self.best = {name: value.clone() for name, value in self.published.state_dict().items()}

    def finished(self, recipe: Recipe) -> bool:
        """Whether all epochs are trained, or early stopping has waited long enough for a better epoch."""
        if len(self.history) >= recipe.epochs:
            return True
        patience = recipe.early_stopping
        return patience is not None and len(self.history) - best_epoch(self.history, recipe.gate) >= patience

    def result(self) -> nn.Sequential:
        """The network to publish, in evaluation mode."""
        if self.best:
            self.published.load_state_dict(self.best)
        return self.published.eval()


def best_epoch(history: list[Epoch], gate: Gate) -> int:
    """The number of the epoch with the highest metric of a gate on the validation split; of equal ones, lowest loss.

    Kim (2014) chooses by accuracy, not loss: with dropout, it still grows long after the loss has begun to rise, and
    the temperature corrects the loss. Without a validation split, the last epoch; where the split lacks the label that
    the metric is about, the one with the lowest loss.
    """
    scored = [epoch for epoch in history if epoch.validation_accuracy is not None]

    def rank(epoch: Epoch) -> tuple[float, float]:
        return gate.of(epoch.validation_accuracy, epoch.validation_figures) or 0.0, -(epoch.validation_loss or 0)

    best = max(scored, key=rank, default=None)
    return len(history) if best is None else best.epoch


def initial_state(recipe: Recipe, device: torch.device, train: Split | None = None) -> State:
    """The state before the first step; without `train`, an empty state to load a checkpoint into.

    Raises:
        RecipeError: a stack that cannot be built, or n-grams that do not fit their table.
        DataError: pretrained weights cannot be downloaded.
        RunError: the pretrained weights are of another network.
    """
    torch.manual_seed(recipe.seed)
    network = build(recipe)
    if train is not None:
        _learn_words(recipe, network, train)
    if train is not None and recipe.initialise.name == "pretrained":
        pretrained.load(network, recipe.initialise)
    if train is not None and recipe.initialise.name == "version":
        version.load(network, recipe)
    if recipe.initialise.freeze:
        pretrained.body(network).requires_grad_(requires_grad=False)
    network = prepare(network, recipe, device)
    average = average_of(network, recipe.average_decay)
    trainable = (parameter for parameter in network.parameters() if parameter.requires_grad)
    steps = optimiser(recipe.optimiser, trainable)
    if recipe.initialise.body_rate != 1:
        slow_down(steps, pretrained.body(network).parameters(), recipe.initialise.body_rate)
    return State(network, average, steps, [], recipe.model_dump(mode="json"))


def _check_unchanged(path: Path, before: dict[str, Any], now: dict[str, Any]) -> None:
    """Refuse a checkpoint of a recipe with other values; keys that one of them lacks are of another release.

    Raises:
        RunError: the message names the first key that differs, and both values.
    """
    stops = now.get("early_stopping") is not None
    for key, (old, new) in _pairs(before, now):
        if old != new and (key not in _MAY_CHANGE or (stops and key.startswith("gate."))):
            raise RunError(
                f"{path}: was trained with {key} = {old!r}, but the recipe has {new!r} now. A run keeps its recipe: "
                "undo the change, or start a new run"
            )


def _pairs(before: dict[str, Any], now: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, tuple[Any, Any]]]:
    """The keys that both recipes have, like `optimiser.momentum`, with both values."""
    for key in filter(now.__contains__, before):
        old, new = before[key], now[key]
        if isinstance(old, dict) and isinstance(new, dict):
            yield from _pairs(old, new, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", (old, new)


def average_of(network: nn.Module, decay: float) -> AveragedModel:
    """The exponential moving average of a network's weights and buffers.

    After n steps the decay is min(decay, (1 + n) / (10 + n)), as in TensorFlow's ExponentialMovingAverage: with `decay`
    itself, the average of a short run would be nearly its initial weights.
    """

    @torch.no_grad()
    def update(averages: Parts, values: Parts, steps: Tensor | int) -> None:
        share = 1 - min(decay, (1 + int(steps)) / (10 + int(steps)))
        if averages[0].is_floating_point():
            torch._foreach_lerp_(averages, values, share)
        else:
            for average, value in zip(averages, values, strict=True):
                average.copy_(value)  # counters

    return AveragedModel(network, multi_avg_fn=update, use_buffers=True)


def _learn_words(recipe: Recipe, network: nn.Sequential, train: Split) -> None:
    """Learn word vectors and the weights of n-grams from the training texts, if the recipe asks for them."""
    first, last = recipe.layers[0], recipe.layers[-1]
    if isinstance(first, Embedding) and first.company:
        embed = network[0]
        assert isinstance(embed, Embed), "build puts the embedding first"
        words, width = embed.table.weight.shape
        with torch.no_grad():
            embed.table.weight.copy_(vectors.learn(train, words, width, first.company, recipe.seed))
    if isinstance(last, NGrams):
        table = network[-1]
        assert isinstance(table, ngrams.NGramTable), "build puts the table last"
        ngrams.learn(table, last, train)


def trained(recipe: Recipe, path: Path) -> nn.Sequential:
    """The network of a finished training.

    Raises:
        RunError: the checkpoint is missing, damaged, of another recipe, or of a training that was stopped.
    """
    state = initial_state(recipe, torch.device("cpu"))
    state.load(path)
    if not state.finished(recipe):
        raise RunError(f"{path}: only {len(state.history)} of {recipe.epochs} epochs are trained")
    return state.result()


def seconds(path: Path) -> float:
    """How long the training of a checkpoint took, over all its sessions."""
    return sum(epoch.seconds for epoch in history(path))


def history(path: Path) -> list[Epoch]:
    """The finished epochs of a checkpoint; none if the file does not exist.

    Raises:
        RunError: the file is not a checkpoint of a training.
    """
    state = checkpoint.load(path)
    try:
        return [Epoch(**epoch) for epoch in state["history"]] if state else []
    except (KeyError, TypeError) as error:
        raise RunError(f"{path}: the checkpoint has no history: {error}") from error
