"""A run: one recipe trained, and the folder that it leaves.

    runs/RECIPE/TIME/
      recipe.json        the recipe as it ran, with overrides applied
      fit.pt             checkpoint of the training on the training split
      refit.pt           checkpoint of the training on training and validation split, if the recipe has a refit
      metrics.jsonl      one line for each epoch; metrics-refit.jsonl for the second training; events/ holds the same
                         for TensorBoard, if that is installed
      pictures/          learning curves, confusion matrix, reliability diagram, first filters, worst mistakes
      result.json        temperature, validation metrics, seconds, data fingerprint; or the metrics of the folds

A run that was stopped continues from its checkpoints; a finished one stays as it is.
"""

import fcntl
import json
import platform
from collections.abc import Iterator
from contextlib import closing, contextmanager
from datetime import UTC, datetime
from itertools import count
from pathlib import Path

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
from training.runs import report
from training.runs.log import Log
from training.runs.record import RECIPE, RESULT
from training.runs.result import Fold, Result, pooled

PICTURES, LOCK = "pictures", ".lock"
CHECKPOINTS = FIT, REFIT = "fit.pt", "refit.pt"


def find_machine(device: str = "auto") -> Machine:
    """The hardware to train on: `cpu`, `cuda`, or `auto`, which takes CUDA if there is any; shared under torchrun.

    Raises:
        RunError: CUDA was requested but is missing, or the processes of torchrun cannot connect.
    """
    cuda = torch.cuda.is_available()
    if device == "cuda" and not cuda:
        raise RunError("--device cuda: PyTorch finds no CUDA device on this machine; train with --device cpu")
    world = parallel.join()
    use = torch.device("cuda", torch.cuda.current_device()) if cuda and device != "cpu" else torch.device("cpu")
    return Machine(use, world)


def start(recipe: Recipe, runs: Path, machine: Machine | None = None) -> Path:
    """Make the folder of a new run and save its recipe there, with the precision that it will compute in.

    Raises:
        RunError: the folder cannot be made.
    """
    machine = machine or Machine()
    folder = Path()
    if machine.world.leads:
        resolved = recipe.model_copy(update={"precision": precision.resolve(recipe, machine.device)})
        folder = _make_folder(resolved, runs)
    return Path(machine.world.broadcast(str(folder)))


def _make_folder(recipe: Recipe, runs: Path) -> Path:
    folder = first = runs / recipe.name / datetime.now(UTC).strftime("%Y%m%d-%H%M%S")
    try:
        for number in count(2):
            try:
                folder.mkdir(parents=True)
                break
            except FileExistsError:
                folder = first.with_name(f"{first.name}-{number}")
        (folder / RECIPE).write_text(recipe.model_dump_json(indent=2) + "\n", encoding="utf-8")
    except OSError as error:
        raise RunError(f"{folder}: cannot make the run's folder: {error}") from error
    return folder


def recipe_of(folder: Path) -> Recipe:
    """The recipe that a run was started with.

    Raises:
        RunError: the folder is not a run's.
    """
    try:
        return parse(json.loads((folder / RECIPE).read_text(encoding="utf-8")))
    except (OSError, ValueError, RecipeError) as error:
        raise RunError(f"{folder}: not a run; expected a folder runs/RECIPE/TIME: {error}") from error


def train(folder: Path, machine: Machine | None = None) -> Result:
    """Do all that a run has not done yet: fit, calibrate, refit; or train and test each fold of a cross-validation.

    Raises:
        RunError: another process trains this run, a file cannot be written, or the training fails.
        RecipeError: the network cannot be built, or the data do not fit the recipe.
        DataError: the data set is missing or damaged.
    """
    machine = machine or Machine()
    with _locked(folder, machine):
        recipe = recipe_of(folder)
        result = (_cross_validate if recipe.data.folds else _train)(folder, recipe, machine)
        if machine.world.leads:
            result.write(folder / RESULT)
    return result


def _train(folder: Path, recipe: Recipe, machine: Machine) -> Result:
    data = machine.world.in_turn(lambda: load(recipe))
    if machine.world.leads:
        for line in data.cut_texts():
            say(line)
    network = _fit(folder / FIT, recipe, data.train, data.validation, machine)
    logits = evaluate.logits(network, normalise(recipe), data.validation)
    calibration = calibrate.fit(logits, data.validation.labels, data.validation.lengths)
    validation = _metrics(calibration, logits, data.validation)
    if machine.world.leads:
        history = state.history(folder / FIT)
        published = state.best_epoch(history) if recipe.early_stopping else len(history)
        report.write(folder / PICTURES, recipe.labels, network, data, logits, calibration, history, published)
    if recipe.data.refit:
        if machine.world.leads and not (folder / REFIT).exists():
            say(f"validation accuracy {validation.accuracy:.2%}; training again, on training and validation split")
        _fit(folder / REFIT, recipe, data.refit, None, machine)
    return Result(
        temperature=calibration.temperature,
        length_exponent=calibration.length_exponent,
        length_range=calibration.length_range,
        temperature_interval=calibrate.interval(calibration, logits, data.validation.labels, data.validation.lengths),
        baseline=evaluate.baseline(data.validation.labels),
        validation=validation,
        seconds=sum(state.seconds(folder / name) for name in CHECKPOINTS),
        fingerprint=data.fingerprint,
        tokenizer=data.tokenizer_sha256,
        hardware=_hardware(machine),
    )


def _cross_validate(folder: Path, recipe: Recipe, machine: Machine) -> Result:
    """Train and test each fold once; the metrics are over the test examples of all folds together.

    A finished fold leaves its metrics without its checkpoint: the checkpoints of ten folds would take gigabytes.
    """
    assert recipe.data.folds is not None, "only called for a cross-validation"
    folds: list[Fold] = []
    for number in range(recipe.data.folds):
        path = folder / f"fold-{number + 1:02}.json"
        fold = Fold.read(path)
        if fold is None:
            if machine.world.leads:
                say(f"fold {number + 1} of {recipe.data.folds}")
            fold = _train_fold(path.with_suffix(".pt"), recipe, number, machine)
            if machine.world.leads:
                fold.write(path)
                path.with_suffix(".pt").unlink()
                say(f"fold {number + 1}: test accuracy {fold.metrics.accuracy:.2%} (n = {fold.metrics.n:,})")
            machine.world.wait()
        folds.append(fold)
    metrics = tuple(fold.metrics for fold in folds)
    return Result(
        temperature=1.0,
        validation=pooled(metrics),
        seconds=sum(fold.seconds for fold in folds),
        fingerprint=folds[-1].fingerprint,
        hardware=_hardware(machine),
        folds=metrics,
    )


def _train_fold(path: Path, recipe: Recipe, number: int, machine: Machine) -> Fold:
    data = catalogue.fold(recipe.data, recipe.input, recipe.labels, number)
    if machine.world.leads:
        for line in data.cut_texts():
            say(line)
    network, scale = _fit(path, recipe, data.train, data.validation, machine), normalise(recipe)
    logits = evaluate.logits(network, scale, data.validation)
    calibration = calibrate.fit(logits, data.validation.labels, data.validation.lengths)
    metrics = pooled(tuple(_metrics(calibration, evaluate.logits(network, scale, t), t) for t in data.tests.values()))
    return Fold(metrics=metrics, seconds=state.seconds(path), fingerprint=data.fingerprint)


def _fit(path: Path, recipe: Recipe, train: Split, validation: Split | None, machine: Machine) -> nn.Sequential:
    """Fit with the checkpoint `path`, and write a log beside it."""
    with closing(Log(path.parent, path.stem)) as log:

        def watch(history: list[state.Epoch]) -> None:
            log.update([vars(epoch) for epoch in history])

        leads = machine.world.leads
        return fit.fit(recipe, train, validation, path, machine=machine, watch=watch if leads else None)


def _metrics(calibration: Calibration, logits: torch.Tensor, split: Split) -> Metrics:
    return evaluate.metrics(calibration.probabilities(logits, split.lengths).numpy(), split.labels)


def _hardware(machine: Machine) -> str:
    cuda = machine.device.type == "cuda"
    name = torch.cuda.get_device_name(machine.device) if cuda else f"{torch.get_num_threads()} cores"
    processes = f"{machine.world.size} x " if machine.world.size > 1 else ""
    return f"{processes}{name} ({platform.machine()})"


@contextmanager
def _locked(folder: Path, machine: Machine) -> Iterator[None]:
    """Keep other processes from training with the same checkpoints."""
    if not machine.world.leads or not folder.is_dir():
        yield
        return
    with (folder / LOCK).open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise RunError(f"{folder}: another process trains this run; wait for it or stop it first") from error
        yield


def finished(folder: Path) -> tuple[nn.Sequential, Result]:
    """The network and the result of a run.

    Raises:
        RunError: the run is not finished, is a cross-validation, or its folder is not a run's.
    """
    recipe = recipe_of(folder)
    result = Result.read(folder / RESULT)
    if result is None:
        raise RunError(
            f"{folder}: this run is not finished; continue it with: python -m training train --resume {folder}"
        )
    if result.folds:
        raise RunError(f"{folder}: a cross-validation measures a recipe and leaves no model to publish")
    return state.trained(recipe, folder / (REFIT if recipe.data.refit else FIT)), result


def load(recipe: Recipe) -> Dataset:
    """The data set of a recipe.

    Raises:
        DataError: the data set is missing or damaged.
        RecipeError: its images or labels are not those of the recipe.
    """
    data = catalogue.load(recipe.data, recipe.input, recipe.labels)
    if isinstance(recipe.input, Image):
        expected = (recipe.input.height, recipe.input.width, recipe.input.channels)
        actual = tuple(data.validation.inputs.shape[1:])
        if actual != expected:
            raise RecipeError(
                f"{recipe.name}: input: the recipe has {expected} (height, width, channels), but the images of "
                f"{recipe.data.name} have {actual}"
            )
    return data
