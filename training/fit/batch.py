"""Examples chosen, augmented, scaled and put where they are computed on: whole batches at a time."""

from collections.abc import Iterator

import torch
from torch import Tensor

from training.data.dataset import Split
from training.data.schema import Image
from training.fit import augment
from training.fit.parallel import Machine
from training.fit.precision import layout
from training.network.build import normalise
from training.recipe.schema import Recipe

_CHUNK = 50  # batches of texts that are sorted by length among themselves


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


def resolution(recipe: Recipe, number: int) -> int:
    """The side in pixels of the training pictures in epoch `number`, counted from 1; 0 for texts."""
    if not isinstance(recipe.input, Image):
        return 0
    if recipe.resolutions is None:
        return recipe.input.height
    return recipe.resolutions[(number - 1) * len(recipe.resolutions) // recipe.epochs]


class Prepared:
    """Turns chosen examples of a split into a batch of this process: augmented, scaled, on the device."""

    def __init__(self, recipe: Recipe, side: int, machine: Machine) -> None:
        self._recipe = recipe
        self._machine = machine
        self._side = side if recipe.resolutions or recipe.data.stored_side else None
        self._scale = normalise(recipe).to(machine.device)

    def __call__(self, split: Split, chosen: Tensor) -> tuple[Tensor, Tensor]:
        """Inputs as the network takes them, labels (n), for this process's share of the examples `chosen`."""
        rows = self._machine.world.rows(len(chosen))
        inputs = self._texts(split, chosen, rows) if split.lengths is not None else self._pictures(split, chosen, rows)
        return inputs, split.labels[chosen[rows]].to(self._machine.device)

    def _texts(self, split: Split, chosen: Tensor, rows: slice) -> Tensor:
        """Drawn for the whole batch, so that several processes see what one would."""
        how, tokens = self._recipe.augment, split.texts(chosen)
        if how.span:
            tokens = augment.cut(tokens, how.span, torch.rand(2, len(tokens)))
        if how.word_dropout:
            tokens = augment.drop_words(tokens, how.word_dropout, torch.rand(tokens.shape))
        scaled: Tensor = self._scale(tokens[rows].to(self._machine.device))
        return scaled

    def _pictures(self, split: Split, chosen: Tensor, rows: slice) -> Tensor:
        how = self._recipe.augment
        draws = None if how == type(how)() else augment.draw(how, len(chosen))[:, rows]
        pictures = self._scale(split.inputs[chosen[rows]].to(self._machine.device))
        return layout(augment.augment(pictures, how, draws, self._side), self._recipe)
