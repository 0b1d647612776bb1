"""Runs in MLflow: what is sent, once each, and that a server which fails costs a line."""

import socket
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient

from training.__main__ import main
from training.commands import arguments
from training.runs import track

pytestmark = [
    pytest.mark.usefixtures("use_stripes"),
    pytest.mark.filterwarnings("ignore"),  # of MLflow and what it imports
]


@pytest.fixture(autouse=True)
def _environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", str(tmp_path / "tracking"))
    for name, value in track.DEFAULTS.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(track.Tracker, "_has_failed", False)
    monkeypatch.setattr(track, "_INTERVAL_S", 0.05)


def sent(folder: Path) -> Any:
    """What MLflow has of a run, and how many epochs of each curve."""
    client = MlflowClient(track.uri())
    state = track.State.read(folder / track.STATE)
    assert state is not None
    made = client.get_run(state.run_id)
    return made, {key: [p.step for p in client.get_metric_history(state.run_id, key)] for key in made.data.metrics}


def train(recipe_file: Path, *args: str) -> Path:
    assert main(["train", str(recipe_file), "--threads", "1", "--track", "mlflow", *args]) == 0
    return max((Path("runs") / "mine").iterdir())


def test_a_run_has_parameters_curves_result_and_version(recipe_file: Path) -> None:
    """Each epoch is one point of each curve, the recipe is in the parameters, and the published version in a tag."""
    folder = train(recipe_file, "--set", "epochs=2", "--publish")
    made, steps = sent(folder)
    assert made.info.status == "FINISHED"
    assert made.info.run_name == f"mine/{folder.name}"
    parameters = made.data.params
    assert (parameters["optimiser.learning_rate"], parameters["epochs"]) == ("0.05", "2")
    assert parameters["layers.1"] == "conv=4 kernel=3 stride=1 padding=1 dilation=1 groups=1 batch_norm"
    for curve in ("loss/train", "loss/validation", "accuracy/validation", "accuracy/validation_balanced"):
        assert steps[curve] == [1, 2]
    assert steps["validation/accuracy"] == [0]
    assert made.data.metrics["validation/macro_f1"] > 0
    assert made.data.metrics["test/stripes/n"] == 30
    assert made.data.tags["convoke.version"] == "stripes/1"
    files = {each.path for each in MlflowClient(track.uri()).list_artifacts(made.info.run_id)}
    assert files == {"card.md", "manifest.json"}


def test_a_run_that_is_resumed_stays_one_run(recipe_file: Path) -> None:
    """No point is sent twice, and `publish --track` adds the version to the same run."""
    folder = train(recipe_file, "--set", "epochs=1")
    first, _ = sent(folder)
    assert main(["train", "--resume", str(folder), "--epochs", "+1", "--track", "mlflow", "--threads", "1"]) == 0
    assert main(["publish", str(folder), "--track", "mlflow"]) == 0
    made, steps = sent(folder)
    assert made.info.run_id == first.info.run_id
    assert steps["loss/train"] == [1, 2]
    assert made.data.tags["convoke.version"] == "stripes/1"


@pytest.fixture
def silent_server() -> Iterator[str]:
    """Accepts connections and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        kept: list[socket.socket] = []
        stop = threading.Event()

        def accept() -> None:
            server.settimeout(0.1)
            while not stop.is_set():
                try:
                    kept.append(server.accept()[0])
                except TimeoutError:
                    continue

        thread = threading.Thread(target=accept)
        thread.start()
        yield f"http://127.0.0.1:{server.getsockname()[1]}"
        stop.set()
        thread.join()
        for each in kept:
            each.close()


@pytest.mark.parametrize("kind", ["silent", "closed"])
def test_a_server_that_fails_costs_a_line(
    kind: str,
    silent_server: str,
    recipe_file: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """The run ends as without it; the fault is said once, with the command that sends the run later."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", silent_server if kind == "silent" else "http://127.0.0.1:9")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "1")
    folder = train(recipe_file, "--set", "epochs=2")
    assert (folder / "result.json").exists()
    errors = capsys.readouterr().err
    assert errors.count("cannot be used, so the training goes on without it") == 1
    assert f"train --resume {folder} --track mlflow" in errors
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "tracking")
    assert main(["train", "--resume", str(folder), "--track", "mlflow", "--threads", "1"]) == 0
    assert sent(folder)[1]["loss/train"] == [1, 2]


def test_the_end_of_a_run_waits_a_bounded_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A tracker that hangs is left behind."""
    monkeypatch.setattr(track, "_LAST_S", 0.2)
    monkeypatch.setattr(track.Tracker, "_send", lambda *_, **__: time.sleep(30))
    started = time.monotonic()
    with track.Tracker(tmp_path):
        pass
    assert time.monotonic() - started < 20


def test_a_package_that_is_missing_is_one_sentence(
    recipe_file: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Refused before anything is trained, with the command that installs it."""
    monkeypatch.setattr(arguments, "find_spec", lambda _name: None)
    for args in (["train", str(recipe_file)], ["sweep", str(recipe_file), "--grid", "seed=1"], ["publish", "nowhere"]):
        assert main([*args, "--track", "mlflow"]) == 2
        assert "pip install 'mlflow-skinny>=3.1'" in capsys.readouterr().err
    assert not Path("runs").exists()


def test_tracking_is_not_imported_without_need(recipe_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without --track, MLflow is not imported and nothing is written for it."""
    monkeypatch.delitem(sys.modules, "mlflow", raising=False)
    assert main(["train", str(recipe_file), "--threads", "1", "--set", "epochs=1"]) == 0
    assert "mlflow" not in sys.modules
    (folder,) = (Path("runs") / "mine").iterdir()
    assert not (folder / track.STATE).exists()
