"""All that changes while a network is trained: its weights, their average, the optimiser's memory, the history.

`begin` makes it, `State.save` and `State.load` keep it in a checkpoint, `trained` and `history` read it from there.
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn, optim
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from training.data.dataset import Split
from training.errors import RunError
from training.fit import checkpoint
from training.fit.optimise import optimiser
from training.fit.precision import prepare
from training.network import ngrams, pretrained, vectors
from training.network.build import Embed, build
from training.recipe.layers import Embedding, NGrams
from training.recipe.schema import Recipe


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
class State:
    """All that changes while a network is trained."""

    network: nn.Sequential
    average: AveragedModel
    optimiser: optim.Optimizer
    history: list[Epoch]
    best: dict[str, Any] = field(default_factory=dict)
    """The state of the published network after the best epoch, where the recipe stops early."""

    @property
    def published(self) -> nn.Sequential:
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

    def add(self, epoch: Epoch, recipe: Recipe) -> None:
        """Enter an epoch that was trained; its weights are kept where the recipe stops early and it is the best."""
        self.history.append(epoch)
        if recipe.early_stopping and best_epoch(self.history) == epoch.epoch:
            self.best = {name: value.clone() for name, value in self.published.state_dict().items()}

    def finished(self, recipe: Recipe) -> bool:
        """Whether all epochs are trained, or as many without a gain as the recipe waits for."""
        if len(self.history) >= recipe.epochs:
            return True
        patience = recipe.early_stopping
        return patience is not None and len(self.history) - best_epoch(self.history) >= patience

    def result(self) -> nn.Sequential:
        """The network to publish, in evaluation mode."""
        if self.best:
            self.published.load_state_dict(self.best)
        return self.published.eval()


def best_epoch(history: list[Epoch]) -> int:
    """The number of the epoch with the highest validation accuracy, the lower loss where two are equal.

    As Kim (2014) chooses: dropout keeps accuracy growing long after the loss has begun to rise, and the temperature
    mends the loss. The last epoch where nothing was validated.
    """
    scored = [epoch for epoch in history if epoch.validation_accuracy is not None]
    best = max(scored, key=lambda epoch: (epoch.validation_accuracy, -(epoch.validation_loss or 0)), default=None)
    return len(history) if best is None else best.epoch


def begin(recipe: Recipe, device: torch.device, train: Split | None = None) -> State:
    """The state before the first step, or an empty one for a checkpoint's: without the texts to learn from.

    Raises:
        RecipeError, DataError: as what it calls.
    """
    torch.manual_seed(recipe.seed)
    network = build(recipe)
    if train is not None:
        _read(recipe, network, train)
    if train is not None and recipe.initialise.name == "pretrained":
        pretrained.load(network, recipe.initialise)
    if recipe.initialise.freeze:
        pretrained.body(network).requires_grad_(requires_grad=False)
    network = prepare(network, recipe, device)
    average = AveragedModel(network, multi_avg_fn=get_ema_multi_avg_fn(recipe.average_decay), use_buffers=True)  # type: ignore[no-untyped-call]
    learning = (parameter for parameter in network.parameters() if parameter.requires_grad)
    return State(network, average, optimiser(recipe.optimiser, learning), [])


def _read(recipe: Recipe, network: nn.Sequential, train: Split) -> None:
    """What is learnt from texts before the first step: word vectors, weights of runs of words."""
    first, last = recipe.layers[0], recipe.layers[-1]
    if isinstance(first, Embedding) and first.company:
        embed = network[0]
        assert isinstance(embed, Embed), "build puts the embedding first"
        words, width = embed.table.weight.shape
        with torch.no_grad():
            embed.table.weight.copy_(vectors.learn(train, words, width, first.company, recipe.seed))
    if isinstance(last, NGrams):
        table = network[-1]
        assert isinstance(table, ngrams.RunTable), "build puts the table last"
        ngrams.learn(table, last, train)


def trained(recipe: Recipe, path: Path) -> nn.Sequential:
    """The network of a finished training.

    Raises:
        RunError: the checkpoint is missing, damaged, of another recipe, or of a training that was stopped.
    """
    state = begin(recipe, torch.device("cpu"))
    state.load(path)
    if not state.finished(recipe):
        raise RunError(f"{path}: {len(state.history)} of {recipe.epochs} epochs are trained")
    return state.result()


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
