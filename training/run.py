"""A run: one recipe trained, and the folder that it leaves.

    runs/RECIPE/TIME/
      recipe.json        the recipe as it ran, overrides applied
      fit.pt             checkpoint of the training on the training split
      refit.pt           checkpoint of the training on training and validation split, where the recipe asks for it
      result.json        temperature, validation metrics, seconds, data fingerprint

A run that was stopped goes on from its checkpoints; a finished one is only read.
"""

import json
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import count
from pathlib import Path

import torch
from torch import nn

from service.manifest import Metrics
from training import evaluate, fit, parallel, precision
from training.data import Dataset, catalogue
from training.errors import RecipeError, RunError
from training.fit import Machine
from training.network import normalise
from training.progress import say
from training.recipe import Image, Recipe, parse

RECIPE, RESULT = "recipe.json", "result.json"
CHECKPOINTS = FIT, REFIT = "fit.pt", "refit.pt"


@dataclass(frozen=True)
class Result:
    """What a finished run knows: its temperature and what it is worth on the validation split."""

    temperature: float
    validation: Metrics
    seconds: float
    fingerprint: str


def machine(device: str = "auto") -> Machine:
    """What to train on: `cpu`, `cuda`, or `auto`, which takes CUDA where it is; shared under torchrun.

    Raises:
        RunError: CUDA was asked for and is not there, or the processes of torchrun cannot meet.
    """
    cuda = torch.cuda.is_available()
    if device == "cuda" and not cuda:
        raise RunError("--device cuda: PyTorch finds no CUDA device on this machine; train with --device cpu")
    world = parallel.join()
    use = torch.device("cuda", torch.cuda.current_device()) if cuda and device != "cpu" else torch.device("cpu")
    return Machine(use, world)


def start(recipe: Recipe, runs: Path, on: Machine | None = None) -> Path:
    """Make the folder of a new run and save its recipe there, with the precision that it will compute in.

    Raises:
        RunError: the folder cannot be made.
    """
    on = on or Machine()
    recipe = recipe.model_copy(update={"precision": precision.resolve(recipe, on.device)})
    folder = home = runs / recipe.name / datetime.now(UTC).strftime("%Y%m%d-%H%M%S")
    try:
        for number in count(2):
            try:
                folder.mkdir(parents=True)
                break
            except FileExistsError:
                folder = home.with_name(f"{home.name}-{number}")
        (folder / RECIPE).write_text(recipe.model_dump_json(indent=2) + "\n", encoding="utf-8")
    except OSError as error:
        raise RunError(f"{folder}: the run's folder cannot be made: {error}") from error
    return folder


def recipe_of(folder: Path) -> Recipe:
    """The recipe that a run was started with.

    Raises:
        RunError: the folder is no run's.
    """
    try:
        return parse(json.loads((folder / RECIPE).read_text(encoding="utf-8")))
    except (OSError, ValueError, RecipeError) as error:
        raise RunError(f"{folder}: this is no run's folder; expected runs/RECIPE/TIME: {error}") from error


def train(folder: Path, on: Machine | None = None) -> Result:
    """Do what a run still lacks: fit, calibrate on the validation split, refit.

    Raises:
        RecipeError, DataError, RunError: as what it calls.
    """
    recipe = recipe_of(folder)
    data = load(recipe)
    on = on or Machine()
    network = fit.fit(recipe, data.train, data.validation, folder / FIT, machine=on)
    logits = evaluate.logits(network, normalise(recipe), data.validation)
    temperature = evaluate.fit_temperature(logits, data.validation.labels)
    probabilities = torch.softmax(logits / temperature, dim=1).numpy()
    validation = evaluate.metrics(probabilities, data.validation.labels)
    if recipe.data.refit:
        say(f"validation accuracy {validation.accuracy:.2%}; now once more, on training and validation split together")
        fit.fit(recipe, data.train + data.validation, None, folder / REFIT, machine=on)
    seconds = sum(fit.seconds(folder / name) for name in CHECKPOINTS)
    result = Result(temperature, validation, seconds, data.fingerprint)
    record = {**vars(result), "validation": validation.model_dump()}
    try:
        partial = folder / f"{RESULT}.partial"
        partial.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
        partial.replace(folder / RESULT)
    except OSError as error:
        raise RunError(
            f"{folder / RESULT}: cannot be written: {error}. The checkpoints beside it are whole."
        ) from error
    return result


def finished(folder: Path) -> tuple[nn.Sequential, Result]:
    """The network and the result of a run.

    Raises:
        RunError: the run is not finished, or its folder is no run's.
    """
    recipe = recipe_of(folder)
    try:
        record = json.loads((folder / RESULT).read_text(encoding="utf-8"))
        result = Result(**{**record, "validation": Metrics(**record["validation"])})
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise RunError(
            f"{folder}: this run is not finished: {error}. Go on with: python -m training train --resume {folder}"
        ) from error
    return fit.trained(recipe, folder / (REFIT if recipe.data.refit else FIT)), result


def load(recipe: Recipe) -> Dataset:
    """The data set of a recipe.

    Raises:
        DataError: it is not there, or damaged.
        RecipeError: its pictures or classes are not those of the recipe.
    """
    data = catalogue.load(recipe.data, recipe.input)
    if isinstance(recipe.input, Image):
        expected = (recipe.input.height, recipe.input.width, recipe.input.channels)
        found = tuple(data.validation.inputs.shape[1:])
        if found != expected:
            raise RecipeError(
                f"{recipe.name}: input: is {expected} (height, width, channels), {recipe.data.name} has {found}"
            )
    classes = int(data.train.labels.max()) + 1
    if classes != len(recipe.labels):
        raise RecipeError(
            f"{recipe.name}: labels: names {len(recipe.labels)} classes, {recipe.data.name} has {classes}"
        )
    return data
