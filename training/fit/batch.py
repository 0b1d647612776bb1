"""Batches: their examples are chosen, then loaded, scaled and augmented on the device.

Random numbers are drawn for the whole batch, so that the processes that share it see what a single process would.
"""

from collections.abc import Iterator

import torch
from torch import Tensor

from training.data.dataset import Split
from training.data.schema import Image
from training.fit import augment
from training.fit.parallel import Machine
from training.fit.precision import layout
from training.network.build import Normalise
from training.recipe.schema import Augment, Recipe

_CHUNK = 50  # batches of texts that are sorted by length among themselves


def batches(split: Split, batch_size: int, *, balanced: bool = False) -> Iterator[Tensor]:
    """The examples of each batch in a new random order: their indices, int64 (N).

    If `balanced`, as many examples are drawn with replacement, all labels with equal probability. A last batch of a
    single example is left out, since batch norm has no variance over it. Texts are sorted by length within every 50
    batches, and these batches are shuffled, so that they hold little padding.
    """
    order = _draw_balanced(split.labels) if balanced else torch.randperm(len(split))
    parts = list(torch.split(order, batch_size))
    if split.lengths is not None:
        chunks = torch.split(order, _CHUNK * batch_size)
        by_length = [chunk[split.lengths[chunk].argsort(stable=True)] for chunk in chunks]
        parts = [batch for chunk in by_length for batch in torch.split(chunk, batch_size)]
        parts = [parts[place] for place in torch.randperm(len(parts)).tolist()]
    for batch in parts:
        if len(batch) > 1 or batch_size == 1:
            yield batch


def _draw_balanced(labels: Tensor) -> Tensor:
    """As many examples as there are labels (N), each label as probable as the others: their indices, int64 (N).

    `torch.multinomial` takes at most 2^24 weights, so a label is drawn first and then one of its examples.
    """
    order = labels.argsort(stable=True)
    counts = labels.bincount()
    starts = counts.cumsum(0) - counts
    present = counts.nonzero().squeeze(1)
    drawn = present[torch.randint(len(present), (len(labels),))]
    places = (torch.rand(len(labels), dtype=torch.float64) * counts[drawn]).long()
    return order[starts[drawn] + places]


def resolution(recipe: Recipe, number: int) -> int:
    """The side of the training images in epoch `number`, counted from 1, in pixels; 0 for texts.

    Each resolution has an equal part of the epochs. Of fewer epochs than resolutions, the last have the last ones.
    """
    if not isinstance(recipe.input, Image):
        return 0
    if recipe.resolutions is None:
        return recipe.input.height
    count = len(recipe.resolutions)
    if recipe.epochs < count:
        return recipe.resolutions[count - recipe.epochs + number - 1]
    return recipe.resolutions[(number - 1) * count // recipe.epochs]


class ImageLoader:
    """Loads and augments a batch of N images, of which this process computes n."""

    def __init__(self, recipe: Recipe, split: Split, side: int, machine: Machine) -> None:
        self._recipe = recipe
        self._split = split
        self._machine = machine
        assert isinstance(recipe.input, Image), "loads images"
        self._size = (side, side) if recipe.resolutions else (recipe.input.height, recipe.input.width)
        self._scale = Normalise(recipe.input.mean, list(recipe.input.std)).to(machine.device)
        self._mean, self._std = torch.tensor(recipe.input.mean), torch.tensor(list(recipe.input.std))
        self._random = recipe.augment != Augment()

    def load(self, chosen: Tensor) -> tuple[Tensor, Tensor]:
        """Images float32 (n, C, H, W) from 0 to 255, and labels int64 (n)."""
        share, device = chosen[self._machine.world.rows(len(chosen))], self._machine.device
        images = self._split.inputs[share].to(device).permute(0, 3, 1, 2)  # (n, H, W, C) -> (n, C, H, W)
        return images.to(torch.float32), self._split.labels[share].to(device)

    def plain(self, chosen: Tensor) -> Tensor:
        """The chosen images without augmentation, whatever the processes: float32 (N, C, height, width)."""
        images = self._scale(self._split.inputs[chosen].to(self._machine.device))
        return layout(augment.resize(images, self._size), self._recipe)

    def augment(self, images: Tensor, batch_size: int) -> Tensor:
        """float32 (n, C, H, W) from 0 to 255 -> scaled (n, C, height, width) in the memory layout of the network."""
        options, rows, device = self._recipe.augment, self._machine.world.rows(batch_size), self._machine.device
        draws = augment.draw(options, batch_size)[:, rows] if self._random else augment.no_draws(len(images))

        def scale(images: Tensor) -> Tensor:
            images = self._scale.scaled(images)
            if not options.hue:
                return images
            turns = (draws[augment.HUE] * options.hue).to(device)
            return augment.rotate_hue(images, turns, self._mean.to(device), self._std.to(device))

        images = augment.augment(images, options, draws, self._size, scale)
        if options.noise:
            images = images + torch.randn(batch_size, *images.shape[1:])[rows].to(device) * options.noise
        return layout(images, self._recipe)


class TextLoader:
    """Loads and augments a batch of N texts, of which this process computes n."""

    def __init__(self, recipe: Recipe, split: Split, machine: Machine) -> None:
        self._options = recipe.augment
        self._split = split
        self._machine = machine

    def load(self, chosen: Tensor) -> tuple[Tensor, Tensor]:
        """Token ids int32 (N, L) of all texts, since augmentation depends on the longest; labels int64 (n)."""
        share = chosen[self._machine.world.rows(len(chosen))]
        return self._split.texts(chosen), self._split.labels[share].to(self._machine.device)

    def plain(self, chosen: Tensor) -> Tensor:
        """The chosen texts without augmentation, whatever the processes: int64 (N, L)."""
        return self._split.texts(chosen).long()

    def augment(self, tokens: Tensor, batch_size: int) -> Tensor:
        """int32 (N, L) -> int64 (n, at most L) on the device."""
        if self._options.span:
            tokens = augment.cut(tokens, self._options.span, torch.rand(2, batch_size))
        if self._options.word_dropout:
            tokens = augment.drop_words(tokens, self._options.word_dropout, torch.rand(tokens.shape))
        return tokens[self._machine.world.rows(batch_size)].to(self._machine.device, torch.int64)


Loader = ImageLoader | TextLoader


def loader_for(recipe: Recipe, split: Split, side: int, machine: Machine) -> Loader:
    """The loader of a split, for images at the resolution `side`."""
    return ImageLoader(recipe, split, side, machine) if split.lengths is None else TextLoader(recipe, split, machine)
