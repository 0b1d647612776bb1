"""A sweep: trials of one recipe with other values, each an ordinary run, chosen on the validation split.

The folder of a sweep holds what it varies and Optuna's journal of its trials. The process may be killed at any time:
the next one with the same folder continues the trial that it was at, and repeats none that is finished. Trials never
receive the test splits.
"""

import fcntl
import os
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import optuna
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import TrialState

from training.data.dataset import Dataset
from training.errors import RunError, TrainingError
from training.evaluation.measures import Measure
from training.fit.parallel import Machine
from training.progress import duration
from training.recipe.schema import Recipe
from training.recipe.space import Axis, Choice, Load, Plan, Range, overrides
from training.runs import run
from training.runs.record import read

JOURNAL, LOCK = "trials.log", ".running"
MAX_STARTS = 3  # of a trial without a further epoch, after which it is left aside


Follow = Callable[[Path], AbstractContextManager[object]]


class Sweep:
    """The trials of a plan, kept in a folder that is `locked`."""

    def __init__(self, folder: Path, plan: Plan, load: Load, runs: Path, show: Callable[[str], object]) -> None:
        self._folder = folder
        self._plan = plan
        self._load = load
        self._runs = runs
        self._show = show
        self._data: tuple[Any, Dataset] | None = None
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        storage = JournalStorage(JournalFileBackend(str(folder / JOURNAL)))
        self._study = optuna.create_study(
            storage=storage, study_name="sweep", direction="maximize", load_if_exists=True
        )
        self._distributions = {axis.key: _distribution(axis) for axis in plan.axes}

    def run(self, machine: Machine, follow: Follow = nullcontext) -> list[Path]:
        """Do the trials that are missing; returns the runs of those that succeeded and are there, the best first.

        Each run is trained within `follow(folder)`.

        Raises:
            RunError: the data have changed, all trials failed, or all runs are gone.
        """
        while (number := self._next()) is not None:
            self._trial(number, machine, follow)
        done = self._of(TrialState.COMPLETE)
        if not done:
            errors = dict.fromkeys(self._attribute("error", each.number) for each in self._of(TrialState.FAIL))
            raise RunError(f"all {self._plan.trials} trials failed: {'; '.join(map(str, errors))}")
        done.sort(key=lambda each: -(each.value or 0.0))
        runs = [Path(self._attribute("run", each.number)) for each in done]
        left = [folder for folder in runs if folder.is_dir()]
        if len(left) < len(runs):
            self._show(f"{len(runs) - len(left)} of the runs have been removed since and are not compared")
        if not left:
            raise RunError(f"{self._folder}: all runs of this sweep have been removed; remove it, too, to begin again")
        return left

    def value(self, folder: Path) -> float:
        """What the run in a folder has."""
        return max(
            each.value or 0.0
            for each in self._of(TrialState.COMPLETE)
            if Path(self._attribute("run", each.number)) == folder
        )

    @property
    def failures(self) -> list[str]:
        """A line for each trial that failed."""
        failed = self._of(TrialState.FAIL)
        return [f"trial {each.number + 1} failed: {self._attribute('error', each.number)}" for each in failed]

    @property
    def finished(self) -> int:
        """The number of trials that are finished, those that failed included."""
        return len(self._of(TrialState.COMPLETE)) + len(self._of(TrialState.FAIL))

    def _next(self) -> int | None:
        """The number of the trial to do: one that was interrupted, or a new one; None if all are done."""
        running = self._of(TrialState.RUNNING)
        if running:
            return running[0].number
        if self.finished >= self._plan.trials:
            return None
        if self._plan.sampler is None:
            if len(self._study.get_trials(deepcopy=False)) < self._plan.trials:
                for values in self._plan.combinations():
                    self._study.enqueue_trial(values, skip_if_exists=True)
        else:
            seed = self._plan.seed * 1_000_003 + self.finished  # a sweep that continues draws what it would have drawn
            kinds = {"random": optuna.samplers.RandomSampler, "tpe": optuna.samplers.TPESampler}
            self._study.sampler = kinds[self._plan.sampler](seed=seed)
        return self._study.ask(self._distributions).number

    def _trial(self, number: int, machine: Machine, follow: Follow) -> None:
        values = self._values(number)
        title = f"trial {number + 1} of {self._plan.trials}"
        self._show(f"{title}: {', '.join(values)}")
        started = time.perf_counter()
        try:
            value = self._value(number, values, machine, follow)
        except _NoTrialCanWork:
            raise
        except TrainingError as error:
            folder = self._attribute("run", number)
            if folder is not None:
                run.discard_unstarted(Path(folder), machine)
            self._attribute("error", number, str(error))
            self._study.tell(number, state=TrialState.FAIL)
            self._show(f"{title}: failed: {error}")
            return
        self._study.tell(number, value)
        self._attribute("seconds", number, time.perf_counter() - started)
        gate, best = self._plan.gate, max(each.value or 0.0 for each in self._of(TrialState.COMPLETE))
        self._show(f"{title}: {gate.title} {gate.show(value)}; the best {gate.show(best)}{self._left()}\n")

    def _value(self, number: int, values: list[str], machine: Machine, follow: Follow) -> float:
        """Train the run of a trial, or continue it, and measure it on the validation split."""
        folder = self._folder_of(number)
        recipe = self._load(values) if folder is None else run.recipe_of(folder)
        data = self._prepare(recipe, machine)
        if folder is None:
            folder = run.start(recipe, self._runs, machine)
            self._attribute("run", number, str(folder))
        self._count_start(number, folder)
        try:
            with follow(folder):
                result = run.train(folder, machine, data)
        except KeyboardInterrupt:
            self._attribute("starts", number, [-1, 0])  # the user's wish, not the trial's fault
            raise
        value = self._plan.gate.of(result.validation.accuracy, result.validation_figures)
        assert value is not None, "the validation split has the examples"
        return value

    def _folder_of(self, number: int) -> Path | None:
        """The run of a trial that was interrupted, if it has one that can be continued."""
        folder = self._attribute("run", number)
        with suppress(RunError):
            if folder is not None:
                run.recipe_of(Path(folder))
                return Path(folder)
        return None

    def _count_start(self, number: int, folder: Path) -> None:
        """Refuse a trial that has ended the process again and again at the same epoch."""
        epochs = read(folder).epochs_done
        before, count = self._attribute("starts", number) or (-1, 0)
        count = count + 1 if before == epochs else 1
        self._attribute("starts", number, [epochs, count])
        if count > MAX_STARTS:
            raise RunError(f"the process ended {MAX_STARTS} times in this trial, after {epochs} epochs")

    def _prepare(self, recipe: Recipe, machine: Machine) -> Dataset:
        """The data of a recipe without the test splits, read again only if they depend on what the sweep varies."""
        key = recipe.model_dump(include={"data", "input", "labels", "initialise"})
        if self._data is None or self._data[0] != key:
            data = run.prepare(recipe, machine)
            self._check_same(data, "-".join(sorted(map(str, (recipe.data, recipe.input)))))
            if not Measure(recipe.gate, recipe.labels).is_defined(data.validation.labels.numpy()):
                raise _NoTrialCanWork(
                    f"the validation split has no example for {recipe.gate.title}; set another gate.metric or "
                    "gate.label, or hold out more examples with data.validation"
                )
            self._data = key, replace(data, tests={})
        return self._data[1]

    def _check_same(self, data: Dataset, about: str) -> None:
        seen = dict(self._study.user_attrs.get("fingerprints", {}))
        if seen.setdefault(about, data.fingerprint) != data.fingerprint:
            raise _NoTrialCanWork(
                f"{self._folder}: the data have changed since this sweep began, so its trials cannot be compared; "
                "start another with --sweeps FOLDER"
            )
        self._study.set_user_attr("fingerprints", seen)

    def _values(self, number: int) -> list[str]:
        """What a trial sets."""
        params = self._study.trials[number].params
        texts = {
            axis.key: axis.text(params[axis.key]) if isinstance(axis, Range) else str(params[axis.key])
            for axis in self._plan.axes
        }
        return overrides(texts)

    def _left(self) -> str:
        """How long the other trials may take, as those before."""
        seconds = [self._attribute("seconds", each.number) for each in self._of(TrialState.COMPLETE)]
        known = [each for each in seconds if each is not None]
        left = self._plan.trials - self.finished
        return f"; about {duration(sum(known) / len(known) * left)} left" if known and left > 0 else ""

    def _of(self, state: TrialState) -> list[optuna.trial.FrozenTrial]:
        return self._study.get_trials(deepcopy=False, states=[state])

    def _attribute(self, name: str, number: int, value: Any = None) -> Any:
        """What is noted about a trial; notes `value` first if it is given."""
        if value is not None:
            self._study.set_user_attr(f"{name}-{number}", value)
        return self._study.user_attrs.get(f"{name}-{number}")


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Make the folder of a sweep, keep other processes out of it, and repair what a killed one left.

    Raises:
        RunError: another process runs the sweep, or the folder cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = (folder / LOCK).open("w")
    except OSError as error:
        raise RunError(f"{folder}: the sweep cannot be written: {error}") from error
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise RunError(f"{folder}: another process runs this sweep; wait for it or stop it first") from error
        journal = folder / JOURNAL
        journal.with_name(f"{JOURNAL}.lock").unlink(missing_ok=True)  # Optuna's own lock
        if journal.exists():
            content = journal.read_bytes()
            os.truncate(journal, content.rfind(b"\n") + 1)  # without a line that was not written to its end
        yield


class _NoTrialCanWork(RunError):
    """An error that ends the sweep instead of a trial."""


def _distribution(axis: Axis) -> optuna.distributions.BaseDistribution:
    if isinstance(axis, Choice):
        return optuna.distributions.CategoricalDistribution(axis.values)
    if axis.whole:
        return optuna.distributions.IntDistribution(int(axis.low), int(axis.high), log=axis.log)
    return optuna.distributions.FloatDistribution(axis.low, axis.high, log=axis.log)
