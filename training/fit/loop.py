"""The loop: a recipe's network trained on one split, one checkpoint an epoch."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import nn

from training.data.dataset import Split
from training.errors import RecipeError, RunError
from training.fit.epoch import Trainer, last_good
from training.fit.parallel import Machine
from training.fit.state import Epoch, begin
from training.progress import say
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
    if isinstance(recipe.layers[-1], NGrams) and not path.exists() and machine.world.leads:
        say("counting words and runs of words")
    state = machine.world.in_turn(lambda: begin(recipe, machine.device, None if path.exists() else train))
    state.load(path)
    trainer = Trainer(recipe, state, train, validation, batch_size, machine)
    if watch:
        watch(state.history)
    while not state.finished(recipe):
        number = len(state.history) + 1
        with _memory_checked(number, batch_size):
            epoch = trainer.epoch(number)
        state.add(epoch, recipe)
        if machine.world.leads:
            state.save(path)
        machine.world.wait()
        if watch:
            watch(state.history)
    return state.result().cpu()


@contextmanager
def _memory_checked(number: int, batch_size: int) -> Iterator[None]:
    try:
        yield
    except (torch.OutOfMemoryError, MemoryError, RuntimeError) as error:
        if not isinstance(error, torch.OutOfMemoryError | MemoryError) and "allocate memory" not in str(error):
            raise
        raise RunError(
            f"the memory is too small for epoch {number} with batches of {batch_size}. {last_good(number)} "
            f"Start again with smaller ones: --set batch_size={max(batch_size // 2, 1)}"
        ) from error
