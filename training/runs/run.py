"""A run: one recipe trained, and the folder that it leaves.

    runs/RECIPE/TIME/
      recipe.json        the recipe as it ran, overrides applied
      fit.pt             checkpoint of the training on the training split
      refit.pt           checkpoint of the training on training and validation split, where the recipe asks for it
      metrics.jsonl      a line an epoch, metrics-refit.jsonl for the second training; events/ holds the same for
                         TensorBoard, where that is installed
      pictures/          learning curves, confusion matrix, reliability, first filters, worst mistakes
      result.json        temperature, validation metrics, seconds, data fingerprint; or the folds' metrics

A run that was stopped goes on from its checkpoints; a finished one is only read.
"""

import fcntl
import json
import platform
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import count
from pathlib import Path
from typing import Any

import torch
from torch import nn

from contract.manifest import Metrics
from training.data import catalogue
from training.data.dataset import Dataset, Split
from training.data.schema import Image
from training.errors import RecipeError, RunError
from training.evaluation import calibration as calibrate
from training.evaluation import metrics as evaluate
from training.fit import loop as fit
from training.fit import parallel, precision, state
from training.fit.parallel import Machine
from training.network.build import normalise
from training.network.calibrated import Calibration
from training.progress import say
from training.recipe.schema import Recipe, parse
from training.runs import album
from training.runs.log import Log

RECIPE, RESULT = "recipe.json", "result.json"
PICTURES, LOCK = "pictures", ".lock"
CHECKPOINTS = FIT, REFIT = "fit.pt", "refit.pt"


@dataclass(frozen=True)
class Result:
    """What a finished run knows: its calibration and what it is worth on the validation split."""

    temperature: float
    validation: Metrics
    seconds: float
    fingerprint: str
    hardware: str = "hardware that was not recorded"
    """What the training computed on, as people read it."""
    folds: tuple[Metrics, ...] = ()
    """The test metrics of each fold of a cross-validation, whose `validation` is over all folds together."""
    length_exponent: float = 0.0

    @property
    def calibration(self) -> Calibration:
        """What the network's logits are divided by."""
        return Calibration(self.temperature, self.length_exponent)


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
    if on.world.leads:
        recipe = recipe.model_copy(update={"precision": precision.resolve(recipe, on.device)})
    folder = _make(recipe, runs) if on.world.leads else Path()
    return Path(on.world.share(str(folder)))


def _make(recipe: Recipe, runs: Path) -> Path:
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
    """Do what a run still lacks: fit, calibrate on the validation split, refit; or all folds of a cross-validation.

    Raises:
        RecipeError, DataError, RunError: as what it calls; also where another process trains this run.
    """
    on = on or Machine()
    with _locked(folder, on):
        recipe = recipe_of(folder)
        result = _cross_validate(folder, recipe, on) if recipe.data.folds else _train(folder, recipe, on)
        if on.world.leads:
            record = {
                **vars(result),
                "validation": result.validation.model_dump(),
                "folds": [fold.model_dump() for fold in result.folds],
            }
            _write(folder / RESULT, record)
    return result


def _train(folder: Path, recipe: Recipe, on: Machine) -> Result:
    data = on.world.in_turn(lambda: load(recipe))
    network = _fit(folder, recipe, data.train, data.validation, FIT, on)
    logits = evaluate.logits(network, normalise(recipe), data.validation)
    split = data.validation
    calibration = calibrate.fit(logits, split.labels, split.lengths)
    probabilities = calibration.probabilities(logits, split.lengths).numpy()
    validation = evaluate.metrics(probabilities, split.labels)
    if on.world.leads:
        album.draw(folder / PICTURES, recipe, network, data, logits, calibration, state.history(folder / FIT))
    if recipe.data.refit:
        if on.world.leads:
            say(f"validation accuracy {validation.accuracy:.2%}; now once more, with the validation split")
        _fit(folder, recipe, data.train + data.validation, None, REFIT, on)
    seconds = sum(state.seconds(folder / name) for name in CHECKPOINTS)
    return Result(
        calibration.temperature,
        validation,
        seconds,
        data.fingerprint,
        _hardware(on),
        length_exponent=calibration.length_exponent,
    )


def _cross_validate(folder: Path, recipe: Recipe, on: Machine) -> Result:
    """Train once a fold and test on it; the metrics are over all folds' test examples together.

    A finished fold leaves its figures and no checkpoint: ten of them would take gigabytes.
    """
    assert recipe.data.folds is not None, "only called for a cross-validation"
    folds: list[Metrics] = []
    seconds, fingerprint = 0.0, ""
    for number in range(recipe.data.folds):
        name = f"fold-{number + 1:02}"
        found = _read_fold(folder / f"{name}.json")
        if found is None:
            if on.world.leads:
                say(f"fold {number + 1} of {recipe.data.folds}")
            data = catalogue.fold(recipe.data, recipe.input, recipe.labels, number)
            network = _fit(folder, recipe, data.train, data.validation, f"{name}.pt", on)
            scale = normalise(recipe)
            split = data.validation
            calibration = calibrate.fit(evaluate.logits(network, scale, split), split.labels, split.lengths)
            (test,) = data.tests.values()
            probabilities = calibration.probabilities(evaluate.logits(network, scale, test), test.lengths)
            metrics = evaluate.metrics(probabilities.numpy(), test.labels)
            found = _Fold(metrics, state.seconds(folder / f"{name}.pt"), data.fingerprint)
            if on.world.leads:
                _write(folder / f"{name}.json", {**vars(found), "metrics": metrics.model_dump()})
                (folder / f"{name}.pt").unlink()
                say(f"fold {number + 1}: test accuracy {metrics.accuracy:.2%} (n = {metrics.n:,})")
            on.world.wait()
        folds.append(found.metrics)
        seconds, fingerprint = seconds + found.seconds, found.fingerprint
    return Result(1.0, _pooled(folds), seconds, fingerprint, _hardware(on), tuple(folds))


def _hardware(on: Machine) -> str:
    device = on.device
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else f"{torch.get_num_threads()} cores"
    each = f"{on.world.size} times " if on.world.size > 1 else ""
    return f"{each}{name} ({platform.machine()})"


@dataclass(frozen=True)
class _Fold:
    """What one fold of a cross-validation leaves."""

    metrics: Metrics
    seconds: float
    fingerprint: str


def _read_fold(path: Path) -> _Fold | None:
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        return _Fold(**{**record, "metrics": Metrics(**record["metrics"])})
    except FileNotFoundError:
        return None
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise RunError(f"{path}: cannot be read: {error}. Remove it to train this fold again.") from error


def _pooled(folds: list[Metrics]) -> Metrics:
    """The metrics over all folds' examples; the calibration error is the folds' mean."""
    n = sum(fold.n for fold in folds)
    means = {key: sum(getattr(fold, key) * fold.n for fold in folds) / n for key in ("accuracy", "nll", "ece")}
    return Metrics(n=n, **means)


def _fit(folder: Path, recipe: Recipe, train: Split, validation: Split | None, name: str, on: Machine) -> nn.Sequential:
    """Fit with a log beside the checkpoint."""
    log: Log | None = None

    def watch(history: list[state.Epoch]) -> None:
        nonlocal log
        if log is None:
            log = Log(folder, [vars(epoch) for epoch in history], Path(name).stem)
        else:
            log.write(vars(history[-1]))

    return fit.fit(recipe, train, validation, folder / name, machine=on, watch=watch if on.world.leads else None)


@contextmanager
def _locked(folder: Path, on: Machine) -> Iterator[None]:
    """Keep a second training away from the same checkpoints."""
    if not on.world.leads or not folder.is_dir():
        yield
        return
    with (folder / LOCK).open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise RunError(f"{folder}: another process trains this run; wait for it, or end it first") from error
        yield


def _write(path: Path, record: dict[str, Any]) -> None:
    """Write a small file in one step."""
    try:
        partial = path.with_name(f"{path.name}.partial")
        partial.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
        partial.replace(path)
    except OSError as error:
        raise RunError(f"{path}: cannot be written: {error}. The checkpoints beside it are whole.") from error


def finished(folder: Path) -> tuple[nn.Sequential, Result]:
    """The network and the result of a run.

    Raises:
        RunError: the run is not finished, or its folder is no run's.
    """
    recipe = recipe_of(folder)
    try:
        record = json.loads((folder / RESULT).read_text(encoding="utf-8"))
        folds = tuple(Metrics(**fold) for fold in record.pop("folds", ()))
        result = Result(**{**record, "validation": Metrics(**record["validation"]), "folds": folds})
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise RunError(
            f"{folder}: this run is not finished: {error}. Go on with: python -m training train --resume {folder}"
        ) from error
    if result.folds:
        raise RunError(f"{folder}: is a cross-validation: it measures a recipe and leaves no model to publish")
    return state.trained(recipe, folder / (REFIT if recipe.data.refit else FIT)), result


def load(recipe: Recipe) -> Dataset:
    """The data set of a recipe.

    Raises:
        DataError: it is not there, or damaged.
        RecipeError: its pictures or labels are not those of the recipe.
    """
    data = catalogue.load(recipe.data, recipe.input, recipe.labels)
    if isinstance(recipe.input, Image):
        expected = (recipe.input.height, recipe.input.width, recipe.input.channels)
        found = tuple(data.validation.inputs.shape[1:])
        if found != expected:
            raise RecipeError(
                f"{recipe.name}: input: is {expected} (height, width, channels), {recipe.data.name} has {found}"
            )
    return data
