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

import errno
import fcntl
import json
import platform
import shutil
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from datetime import UTC, datetime
from itertools import count
from pathlib import Path

import torch
from torch import nn

from contract.manifest import Metrics
from training import unfinished
from training.data import catalogue
from training.data.dataset import Dataset, Split
from training.data.schema import Image
from training.errors import RecipeError, RunError
from training.evaluation import calibration as calibrate
from training.evaluation import classes
from training.evaluation import metrics as evaluate
from training.evaluation.linear import LinearBaseline
from training.fit import loop as fit
from training.fit import parallel, precision, state
from training.fit.parallel import Machine
from training.network import pretrained, version
from training.network.build import normalise
from training.network.calibrated import Calibration
from training.progress import say
from training.recipe.schema import Recipe, parse
from training.runs import report
from training.runs.log import Log
from training.runs.record import RECIPE, RESULT
from training.runs.result import Fold, Result, pooled

PICTURES, LOCK = "pictures", ".lock"
_STARTING = "starting"
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
    """A new folder, which holds the recipe from its first moment: it is made under a hidden name."""
    home = runs / recipe.name
    folder = first = home / datetime.now(UTC).strftime("%Y%m%d-%H%M%S")
    try:
        unfinished.remove(home, _STARTING)
        hidden = home / f"{unfinished.name(_STARTING)}{first.name}"
        hidden.mkdir(parents=True, exist_ok=True)
        (hidden / RECIPE).write_text(recipe.model_dump_json(indent=2) + "\n", encoding="utf-8")
        for number in count(2):
            try:
                hidden.rename(folder)
                break
            except OSError as error:
                if error.errno not in {errno.EEXIST, errno.ENOTEMPTY}:
                    raise
                folder = first.with_name(f"{first.name}-{number}")
    except OSError as error:
        raise RunError(
            f"{folder}: cannot make the run's folder: {error.strerror}; --runs FOLDER names another place"
        ) from error
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


def prepare(recipe: Recipe, machine: Machine | None = None) -> Dataset:
    """The data that a new run begins with: of a cross-validation, its first fold. Nothing is written but caches.

    Raises:
        RecipeError, DataError, RunError: what cannot work is refused before the run has a folder.
    """
    return (machine or Machine()).world.in_turn(lambda: _prepare(recipe))


def _prepare(recipe: Recipe) -> Dataset:
    if recipe.initialise.name == "pretrained":
        pretrained.fetch(recipe.initialise)
    if recipe.initialise.name == "version":
        version.check(recipe)
    return load(recipe) if recipe.data.folds is None else _load_fold(recipe, 0)


def discard_unstarted(folder: Path, machine: Machine) -> bool:
    """Remove the folder of a run without a finished epoch, which cannot be resumed; whether it was removed."""
    stopped = not any(folder.glob("*.pt")) and not any(folder.glob("fold-*.json"))
    if stopped and machine.world.leads:
        shutil.rmtree(folder, ignore_errors=True)
        with suppress(OSError):  # other runs of the recipe
            folder.parent.rmdir()
    return stopped


def extend(folder: Path, epochs: str, machine: Machine | None = None) -> Recipe:
    """Give a run more epochs: a number of them in all, or `+N` more; what follows from its epochs is made again.

    The learning rate at a step is that of the longer schedule.

    Raises:
        RunError: the run cannot be extended, or already has as many epochs.
    """
    machine = machine or Machine()
    recipe = recipe_of(folder)
    done = len(state.history(folder / FIT))
    if recipe.data.folds:
        raise RunError(f"{folder}: a cross-validation keeps no checkpoints and cannot have more epochs")
    if not epochs.removeprefix("+").isdecimal():
        raise RunError(f"--epochs {epochs!r}: expected a number of epochs like 30, or of more epochs like +10")
    count = int(epochs.removeprefix("+")) + (recipe.epochs if epochs.startswith("+") else 0)
    if count <= recipe.epochs:
        raise RunError(f"--epochs {epochs}: the run {folder} has {recipe.epochs} epochs already; expected more")
    if done < recipe.epochs and (folder / RESULT).exists():
        raise RunError(f"{folder}: early stopping ended this run after {done} epochs; start a new run")
    machine.world.wait()
    longer = recipe.model_copy(update={"epochs": count})
    if machine.world.leads:
        for name in (RESULT, REFIT):
            (folder / name).unlink(missing_ok=True)
        partial = folder / f"{RECIPE}.partial"
        partial.write_text(longer.model_dump_json(indent=2) + "\n", encoding="utf-8")
        partial.replace(folder / RECIPE)
    machine.world.wait()
    return longer


def train(folder: Path, machine: Machine | None = None, data: Dataset | None = None) -> Result:
    """Do all that a run has not done yet: fit, calibrate, refit; or train and test each fold of a cross-validation.

    `data` are those of `prepare`; without them, they are loaded.

    Raises:
        RunError: another process trains this run, a file cannot be written, or the training fails.
        RecipeError: the network cannot be built, or the data do not fit the recipe.
        DataError: the data set is missing or damaged.
    """
    machine = machine or Machine()
    with _locked(folder, machine):
        recipe = recipe_of(folder)
        result = (_cross_validate if recipe.data.folds else _train)(folder, recipe, machine, data)
        if machine.world.leads:
            result.write(folder / RESULT)
    return result


def _train(folder: Path, recipe: Recipe, machine: Machine, prepared: Dataset | None) -> Result:
    data = machine.world.in_turn(lambda: load(recipe)) if prepared is None else prepared
    if machine.world.leads:
        for line in data.cut_texts():
            say(line)
    linear = _linear_baseline(data) if machine.world.leads else None
    later = recipe.epochs if recipe.data.refit else 0
    network = _fit(folder / FIT, recipe, data.train, data.validation, machine, later)
    logits = evaluate.logits(network, normalise(recipe), data.validation)
    calibration = calibrate.fit(logits, data.validation.labels, data.validation.lengths)
    validation = _metrics(calibration, logits, data.validation)
    probabilities = calibration.probabilities(logits.double(), data.validation.lengths).numpy()
    if machine.world.leads:
        history = state.history(folder / FIT)
        published = state.best_epoch(history, recipe.gate) if recipe.early_stopping else len(history)
        report.write(folder / PICTURES, recipe, network, data, logits, calibration, history, published)
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
        linear=linear,
        validation=validation,
        validation_figures=classes.figures(probabilities, data.validation.labels.numpy(), recipe.labels),
        seconds=sum(state.seconds(folder / name) for name in CHECKPOINTS),
        fingerprint=data.fingerprint,
        tokenizer=data.tokenizer_sha256,
        hardware=_hardware(machine),
    )


def _linear_baseline(data: Dataset) -> float | None:
    """Say which accuracies a network has to beat; that of a linear model of texts, None for images."""
    majority = f"always naming the largest class has {evaluate.baseline(data.validation.labels):.2%}"
    if data.train.lengths is None:
        say(f"baseline on the validation split: {majority}")
        return None
    accuracy = LinearBaseline(data.train).accuracy(data.validation)
    say(f"baselines on the validation split: {majority}, logistic regression over TF-IDF {accuracy:.2%}")
    return accuracy


def _cross_validate(folder: Path, recipe: Recipe, machine: Machine, prepared: Dataset | None) -> Result:
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
            data = prepared if prepared is not None and number == 0 else _load_fold(recipe, number)
            later = (recipe.data.folds - number - 1) * recipe.epochs
            fold = _train_fold(path.with_suffix(".pt"), recipe, data, machine, later)
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


def _load_fold(recipe: Recipe, number: int) -> Dataset:
    return catalogue.fold(recipe.data, recipe.input, recipe.labels, number)


def _train_fold(path: Path, recipe: Recipe, data: Dataset, machine: Machine, later: int) -> Fold:
    if machine.world.leads:
        for line in data.cut_texts():
            say(line)
    network, scale = _fit(path, recipe, data.train, data.validation, machine, later), normalise(recipe)
    logits = evaluate.logits(network, scale, data.validation)
    calibration = calibrate.fit(logits, data.validation.labels, data.validation.lengths)
    metrics = pooled(tuple(_metrics(calibration, evaluate.logits(network, scale, t), t) for t in data.tests.values()))
    return Fold(metrics=metrics, seconds=state.seconds(path), fingerprint=data.fingerprint)


def _fit(
    path: Path, recipe: Recipe, train: Split, validation: Split | None, machine: Machine, later: int = 0
) -> nn.Sequential:
    """Fit with the checkpoint `path`, and write a log beside it; `later` epochs of the run follow."""
    with closing(Log(path.parent, path.stem)) as log:

        def watch(history: list[state.Epoch]) -> None:
            log.update([vars(epoch) for epoch in history])

        leads = machine.world.leads
        return fit.fit(recipe, train, validation, path, machine=machine, watch=watch if leads else None, later=later)


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
