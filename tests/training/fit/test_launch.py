"""`train --processes N` starts the processes, and shows the error of the one that failed first, once."""

import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch.distributed as dist
from PIL import Image
from torch.distributed import TCPStore  # type: ignore[attr-defined]
from torch.distributed.elastic.multiprocessing.errors import ProcessFailure

from training import __main__ as cli
from training.commands import train
from training.errors import DataError, LostProcess, RunError
from training.fit import parallel
from training.fit.launch import launch, message
from training.fit.parallel import connected, hand_over

ROOT = Path(__file__).resolve().parents[3]
# A process that fails as the command line does, without the seconds that it takes to import torch.
PROCESS = """
import json, os, pathlib, sys, time
rank = os.environ["RANK"]
kind, message, later_s = json.loads(sys.argv[1])[rank]
if kind == "error":
    record = {"message": message, "timestamp": int(time.time()) + later_s}
    pathlib.Path(os.environ["TORCHELASTIC_ERROR_FILE"]).write_text(json.dumps(record))
    sys.exit(2)
if kind == "killed":
    os.kill(os.getpid(), 9)
if kind == "waits":
    time.sleep(60)
sys.exit(3 if kind == "crash" else 0)
"""


@pytest.fixture
def _signals() -> Iterator[None]:
    """Torch's launcher changes how signals are handled, and leaves it so."""
    kinds = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT)
    before = {kind: signal.getsignal(kind) for kind in kinds}
    yield
    for kind, handler in before.items():
        signal.signal(kind, handler)


@pytest.mark.usefixtures("_signals")
@pytest.mark.parametrize(
    ("first", "second", "message"),
    [
        (["error", "data.path: 'x' is missing", 0], ["waits", "", 0], r"^data.path: 'x' is missing$"),
        (["waits", "", 0], ["killed", "", 0], r"^process 1 of 2 was ended by SIGKILL.*memory"),
    ],
    ids=["a message", "killed"],
)
def test_the_error_that_came_first_is_raised(
    first: list[object], second: list[object], message: str, capfd: pytest.CaptureFixture[str]
) -> None:
    """The other processes are stopped at once, and nothing is printed beside the error."""
    with pytest.raises(RunError, match=message):
        launch(["-c", PROCESS, json.dumps({"0": first, "1": second})], 2)
    assert capfd.readouterr() == ("", "")


def test_an_error_goes_before_those_that_follow_from_it(tmp_path: Path) -> None:
    """A lost connection and the SIGTERM of the launcher follow from an error; a crash has printed its own message."""

    def failure(rank: int, status: int, error: Exception | None = None) -> ProcessFailure:
        path = tmp_path / f"{rank}.json"
        path.unlink(missing_ok=True)
        if error is not None:
            record = {"message": str(error), "timestamp": 1000 + 3600 * isinstance(error, LostProcess)}
            path.write_text(json.dumps(record))
        return ProcessFailure(rank, 1234, status, str(path))

    lost, ended = failure(0, 2, LostProcess("lost")), failure(0, -signal.SIGTERM)
    full = failure(1, 2, DataError("the disk is full"))
    assert message([lost, full], 2) == message([ended, full], 2) == "the disk is full"
    assert message([failure(1, 3)], 2) == "process 1 of 2 ended with exit status 3; its own message is above"


@pytest.mark.usefixtures("_signals")
def test_processes_that_succeed_end_without_a_word(capfd: pytest.CaptureFixture[str]) -> None:
    """`launch` returns when all have ended."""
    launch(["-c", PROCESS, json.dumps({rank: ["fine", "", 0] for rank in "01"})], 2)
    assert capfd.readouterr() == ("", "")


def test_errors_are_handed_over_with_the_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A lost connection counts as later than any error, since an error of another process is its cause."""
    times = []
    for error in (LostProcess("lost"), DataError("missing")):
        path = tmp_path / f"{error}.json"
        monkeypatch.setenv("TORCHELASTIC_ERROR_FILE", str(path))
        hand_over(error)
        record = json.loads(path.read_text())
        assert record["message"] == str(error)
        times.append(record["timestamp"])
    assert times[0] > times[1]


@pytest.mark.parametrize(
    ("environment", "printed"),
    [
        ({}, "error: missing\n"),
        ({"RANK": "0"}, "error: missing\n"),
        ({"RANK": "1"}, ""),
        ({"RANK": "0", "CONVOKE_LAUNCHED": "1"}, ""),
        ({"CONVOKE_LAUNCHED": "1"}, "error: missing\n"),
    ],
)
def test_one_process_prints_an_error(
    environment: dict[str, str], printed: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Alone, this process; under torchrun, the leading one; under --processes, the process that started the others."""

    def fail(_options: object) -> None:
        raise DataError("missing")

    for name in ("RANK", "CONVOKE_LAUNCHED", "TORCHELASTIC_ERROR_FILE"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(cli, "_shapes", fail)
    assert cli.main(["shapes", "lenet"]) == 2
    assert capsys.readouterr().err == printed


def test_processes_are_not_started_twice(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """--processes under torchrun is refused: each of its processes would start others."""
    monkeypatch.setenv("RANK", "0")
    with pytest.raises(SystemExit):
        cli.main(["train", "--resume", "run", "--processes", "2"])
    assert "torchrun" in capsys.readouterr().err


def test_a_connection_that_another_process_closed_is_a_lost_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """What gloo says is a RuntimeError; other RuntimeErrors, and those of a single process, stay what they are."""
    gone = RuntimeError("[gloo/transport/tcp/pair.cc:561] Connection closed by peer [127.0.0.1]:41666")
    monkeypatch.setattr(dist, "destroy_process_group", lambda: None)
    for joined, error, expected in (
        (True, gone, LostProcess),
        (True, RuntimeError("shapes do not match"), RuntimeError),
        (False, gone, RuntimeError),
    ):
        monkeypatch.setattr(dist, "is_initialized", lambda joined=joined: joined)
        with pytest.raises(RuntimeError if expected is RuntimeError else expected) as raised, connected():
            raise error
        assert type(raised.value) is expected


@pytest.mark.parametrize(
    ("lost", "local", "prints"),
    [([1], 0, True), ([], 0, True), ([], 1, False), ([2], 1, True), ([0, 1], 1, False), ([0, 2], 1, True)],
)
def test_each_machine_reports_a_lost_process_once(
    lost: list[int], local: int, prints: bool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The first process that is left on a machine prints; here the machine has ranks 2 and 3, and there are others."""

    def fail(_options: object) -> None:
        raise LostProcess("gone", lost)

    for name, value in (("RANK", str(2 + local)), ("LOCAL_RANK", str(local))):
        monkeypatch.setenv(name, value)
    for name in ("CONVOKE_LAUNCHED", "TORCHELASTIC_ERROR_FILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(cli, "_shapes", fail)
    assert cli.main(["shapes", "lenet"]) == 2
    assert capsys.readouterr().err == ("error: gone\n" if prints else "")


def test_the_message_names_the_lost_process_and_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ranks that do not report to torchrun's store are lost; with a checkpoint the training can be resumed."""
    store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    for name, value in (
        ("TORCHELASTIC_USE_AGENT_STORE", "True"), ("MASTER_ADDR", "127.0.0.1"), ("MASTER_PORT", str(store.port)),
    ):  # fmt: skip
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(parallel, "REPORT_S", 0.2)
    monkeypatch.setattr(dist, "is_initialized", lambda: True)
    monkeypatch.setattr(dist, "get_rank", lambda: 0)
    monkeypatch.setattr(dist, "get_world_size", lambda: 4)
    monkeypatch.setattr(dist, "destroy_process_group", lambda: None)
    for rank in (0, 2):
        store.set(f"convoke/survivors/0/{rank}", "")
    (tmp_path / "fit.pt").touch()
    with (
        pytest.raises(LostProcess, match=r"^processes 1, 3 of 4 .* --resume ") as raised,
        connected(lambda: train.advice_after_loss([tmp_path])),
    ):
        raise RuntimeError("[gloo/transport/tcp/pair.cc:561] Connection closed by peer [127.0.0.1]:41666")
    assert raised.value.ranks == [1, 3]
    assert str(tmp_path) in str(raised.value)
    assert "start the training again" in train.advice_after_loss([])
    monkeypatch.setattr(dist, "get_rank", lambda: 2)
    del store
    assert parallel.find_lost() == [0]


@pytest.mark.slow
def test_the_command_line_trains_in_two_processes(tmp_path: Path) -> None:
    """`train --processes 2` writes one run's folder with one log and one result, and prints each line once."""
    for index in range(40):
        path = tmp_path / "photos" / ("dark", "light")[index % 2] / f"{index}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels = np.random.default_rng(index).integers(0, 90, (8, 8), np.uint8) + 150 * (index % 2)
        Image.fromarray(pixels.astype(np.uint8)).save(path)
    recipe = tmp_path / "tiny.toml"
    recipe.write_text(
        f"""
        description = "Light and dark"
        task = "light"
        labels = ["dark", "light"]
        epochs = 2
        batch_size = 8
        layers = [{{ flatten = true }}, {{ dense = 2, activation = "none" }}]
        precision = "float32"
        [input]
        height = 8
        width = 8
        mode = "L"
        framing = "squash"
        mean = [0.5]
        std = [0.25]
        [data]
        name = "folder"
        path = {json.dumps(str(tmp_path / "photos"))}
        validation = 0.2
        test = 0.2
        [optimiser]
        name = "sgd"
        learning_rate = 0.05
        """,
        encoding="utf-8",
    )
    args = ["-m", "training", "train", str(recipe), "--processes", "2", "--runs", str(tmp_path / "runs")]
    done = subprocess.run(
        [sys.executable, *args, "--device", "cpu"], cwd=ROOT, capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "Warning" not in done.stderr
    (folder,) = (tmp_path / "runs" / "tiny").iterdir()
    assert done.stdout.count(f"publish this run with: python -m training publish {folder}") == 1
    assert json.loads((folder / "result.json").read_text())["hardware"].startswith("2 x ")
    assert len((folder / "metrics.jsonl").read_text().splitlines()) == 2
    assert (folder / "fit.pt").exists()
