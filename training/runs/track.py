"""Sends the parameters, curves, result and published version of a run to MLflow.

A thread follows the files that the run writes, so training never waits for a server. What could not be sent is sent
later: after a pause, at the end, or when the run is resumed. `MLFLOW_TRACKING_URI` names a server or a folder.
"""

import os
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from textwrap import shorten
from types import TracebackType
from typing import Any, Self

from pydantic import Field

from contract.manifest import Manifest
from contract.manifest import read as read_manifest
from training.progress import say
from training.runs.log import scalars
from training.runs.record import RESULT, Record, read, text
from training.runs.result import Result, Saved

STATE = "mlflow.json"
_MAX_BATCH = 100  # parameters in a request, a limit of MLflow's
_MAX_VALUE = 500
_INTERVAL_S, _PAUSE_S, _LAST_S = 1.0, 30.0, 20.0
DEFAULTS = {
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "5",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0",
    "MLFLOW_DISABLE_TELEMETRY": "true",  # of MLflow's own use
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "MLFLOW_ALLOW_FILE_STORE": "true",  # its folders are in maintenance, and refused without this
}


class State(Saved):
    """What MLflow has of a run, kept in its folder."""

    uri: str
    run_id: str
    sent: dict[str, int] = Field(default={})
    """The epochs of each training of the run."""
    has_result: bool = False
    version: str | None = None


def follow(tracker: str | None, folder: Path) -> "AbstractContextManager[Tracker | None]":
    """Follows a run with the tracker `mlflow`; without a tracker, nothing happens."""
    return nullcontext() if tracker is None else Tracker(folder)


def uri() -> str:
    """Where MLflow keeps its runs."""
    place = os.environ.get("MLFLOW_TRACKING_URI") or "mlruns"
    return place if ":" in place or place == "databricks" else str(Path(place).resolve())


class Tracker:
    """Follows a run in a thread, from `with` to its end."""

    _has_failed = False  # in this process, which says it once

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._uri = uri()
        self._state: State | None = None
        self._client: Any = None
        self._version: Path | None = None
        self._status = ""
        self._complete = False
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="mlflow", daemon=True)

    def __enter__(self) -> Self:
        for name, value in DEFAULTS.items():
            os.environ.setdefault(name, value)
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._status = "FINISHED" if kind is None else "KILLED" if kind is KeyboardInterrupt else "FAILED"
        self._stop.set()
        self._thread.join(_LAST_S)
        if not self._complete:
            self._tell("it has not answered in time" if self._thread.is_alive() else "")
            command = f"python -m training train --resume {self._folder} --track mlflow"
            say(f"MLflow lacks a part of this run; send it with: {command}")

    def published(self, version: Path) -> None:
        """Note the folder of the version that the run was published as."""
        self._version = version

    def _run(self) -> None:
        pause_s = _INTERVAL_S
        while not self._complete:
            is_last = self._stop.wait(pause_s)
            try:
                self._send(is_last=is_last)
                pause_s = _INTERVAL_S
            except Exception as error:  # noqa: BLE001 -- whatever a tracker does, the training goes on
                pause_s = _PAUSE_S
                self._tell(_cause(error))
            if is_last:
                return

    def _tell(self, cause: str) -> None:
        if not Tracker._has_failed:
            Tracker._has_failed = True
            say(f"MLflow at {self._uri} cannot be used, so the training goes on without it: {cause}")

    def _send(self, *, is_last: bool) -> None:
        """Send what MLflow does not have yet."""
        record = read(self._folder)
        state = self._state or self._start(record)
        for stage, history in record.histories.items():
            for epoch in history[state.sent.get(stage, 0) :]:
                prefix = "" if stage == "fit" else f"{stage}/"
                self._log(
                    state, {f"{prefix}{tag}": value for tag, value in scalars(epoch).items()}, int(epoch["epoch"])
                )
                state = self._keep(state, sent={**state.sent, stage: int(epoch["epoch"])})
        result = Result.read(self._folder / RESULT)
        if result is not None and not state.has_result:
            self._log(state, dict(_result_metrics(result)), 0)
            state = self._keep(state, has_result=True)
        if self._version is not None and state.version != self._version.name:
            self._log_version(state, self._version, read_manifest(self._version))
            state = self._keep(state, version=self._version.name)
        if is_last:
            self._client.set_terminated(state.run_id, self._status)
            self._complete = True

    def _start(self, record: Record) -> State:
        """Open the run in MLflow: the one that this folder has already, or a new one with the recipe."""
        from mlflow import MlflowClient  # noqa: PLC0415 -- an extra
        from mlflow.entities import Param  # noqa: PLC0415

        self._client = MlflowClient(self._uri)
        state = State.read(self._folder / STATE)
        if state is not None and state.uri == self._uri:
            self._client.get_run(state.run_id)
            self._state = state
            return state
        name = os.environ.get("MLFLOW_EXPERIMENT_NAME") or str(record.recipe.get("task", "convoke"))
        experiment = self._client.get_experiment_by_name(name)
        number = self._client.create_experiment(name) if experiment is None else experiment.experiment_id
        title = f"{record.recipe['name']}/{self._folder.name}"
        made = self._client.create_run(number, run_name=title, tags={"convoke.run": str(self._folder)})
        parameters = [Param(key, value) for key, value in _parameters(record.recipe)]
        for start in range(0, len(parameters), _MAX_BATCH):
            self._client.log_batch(made.info.run_id, params=parameters[start : start + _MAX_BATCH])
        return self._keep(State(uri=self._uri, run_id=made.info.run_id))

    def _keep(self, state: State, **changes: Any) -> State:
        self._state = state.model_copy(update=changes)
        self._state.write(self._folder / STATE)
        return self._state

    def _log(self, state: State, values: Mapping[str, float], step: int) -> None:
        from mlflow.entities import Metric  # noqa: PLC0415 -- an extra

        now = int(time.time() * 1000)
        self._client.log_batch(state.run_id, [Metric(key, value, now, step) for key, value in values.items()])

    def _log_version(self, state: State, version: Path, manifest: Manifest) -> None:
        figures = {
            f"test/{name}/{key}": float(value)
            for name, metrics in manifest.test_metrics.items()
            for key, value in metrics.model_dump().items()
        }
        self._log(state, figures, 0)
        self._client.set_tag(state.run_id, "convoke.version", f"{manifest.model}/{manifest.version}")
        for name in ("card.md", "manifest.json"):
            self._client.log_artifact(state.run_id, str(version / name))


def _cause(error: Exception) -> str:
    text = str(error) or type(error).__name__
    return (
        "it cannot be reached" if "ConnectionPool" in text else shorten(text.splitlines()[0], 150, placeholder=" ...")
    )


def _result_metrics(result: Result) -> Iterator[tuple[str, float]]:
    for key, value in result.validation.model_dump().items():
        yield f"validation/{key}", float(value)
    for key, value in (result.validation_figures or {}).items():
        if isinstance(value, float):
            yield f"validation/{key}", value


def _parameters(recipe: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """The keys of a recipe, like `optimiser.learning_rate` and `layers[1]`, with their values as texts."""

    def walk(key: str, value: Any) -> Iterator[tuple[str, str]]:
        if isinstance(value, dict):
            for name, part in value.items():
                yield from walk(f"{key}.{name}".lstrip("."), part)
        elif isinstance(value, list) and value and isinstance(value[0], dict):
            for place, part in enumerate(value, start=1):
                yield f"{key}.{place}", text(part)[:_MAX_VALUE]
        elif value is not None:
            yield key, text(value)[:_MAX_VALUE]

    return walk("", recipe)
