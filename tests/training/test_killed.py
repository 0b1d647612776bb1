"""A process that is killed (kill -9) in the middle of a command leaves nothing half-written, and the next one works."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import parser
from PIL import Image

from training import unfinished
from training.__main__ import main
from training.release.version import numbers, open_version
from training.runs import record
from training.runs.result import Result

ROOT = Path(__file__).resolve().parents[2]


GREY = """
    <ir_version: 8, opset_import: ["" : 18]> g (float[N, 1, 8, 8] x) => (float[N, 2] s)
    <int64[1] axes = {1}, float[1, 2] signs = {1, -1}> {
        f = Flatten (x)  m = ReduceMean <keepdims = 1> (f, axes)  s = Mul (m, signs)
    }
"""
IMPORTS = {
    "new": ["training.recipe.findings", "training.recipe.look", "training.recipe.new"],
    "adopt": ["training.release.adopt"],
    "train": ["training.runs.run", "training.runs.track"],
}
KILLER = """
import importlib, itertools, os, pathlib, shutil, signal, sys
from training.__main__ import main

work, command = pathlib.Path(sys.argv[1]), sys.argv[2:]
for name in {imports}[command[0]]:
    importlib.import_module(name)  # once for all children
if command[0] == "train":
    sys.modules["training.runs.report"].write = lambda *_: None  # the plots take most of the time


def killing(original):
    def call(*args, **keywords):
        count()
        result = original(*args, **keywords)
        count()
        return result

    return call


def count():
    global left
    left -= 1
    if not left:
        os.kill(os.getpid(), signal.SIGKILL)


for number in itertools.count(1):
    place = work.with_name(f"killed-{number}")
    shutil.copytree(work, place)
    child = os.fork()
    if not child:
        os.chdir(place)
        os.environ["CONVOKE_CACHE"] = str(place / "cache")
        left = number
        os.fsync = lambda _file: None  # what was written outlives the process anyway
        for name in ("fsync", "replace", "rename", "mkdir"):
            setattr(os, name, killing(getattr(os, name)))
        os._exit(main(command))
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    if status != -signal.SIGKILL:
        break
sys.exit(status)
"""


def killed_everywhere(work: Path, *command: str) -> list[Path]:
    """Run a command in copies of a folder, killed in each before or after another sync, renaming or new folder.

    Returns the copies; in the last, the command came to its end.
    """
    program = KILLER.replace("{imports}", repr(IMPORTS))
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, "-c", program, str(work), *command], check=False, env=environment)
    assert done.returncode == 0
    copies = sorted(work.parent.glob("killed-*"), key=lambda path: int(path.name.partition("-")[2]))
    assert len(copies) > 2
    return copies


def hidden(folder: Path) -> list[str]:
    return [path.name for path in folder.rglob(".*") if path.name not in {".lock", ".test-uses.jsonl"}]


@pytest.fixture
def workplace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory with photos of two kinds."""
    work = tmp_path / "work"
    random = np.random.default_rng(0)
    for kind, low in (("dark", 0), ("light", 120)):
        (work / "photos" / kind).mkdir(parents=True)
        for seed in range(12):
            coarse = Image.fromarray(random.integers(low, low + 100, (4, 4, 3), np.uint8))
            coarse.resize((16, 16)).save(work / "photos" / kind / f"{seed}.png")
    go(work, monkeypatch)
    return work


def go(work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(work)
    monkeypatch.setenv("CONVOKE_CACHE", str(work / "cache"))
    monkeypatch.setattr(os, "fsync", lambda _file: None)


def test_new(workplace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The recipe is there as a whole or not at all, and the next command removes what else is left."""
    *killed, whole = killed_everywhere(workplace, "new", "shades", "photos")
    text = (whole / "recipes/shades.toml").read_text(encoding="utf-8")
    for place in killed:
        go(place, monkeypatch)
        recipes = list(place.glob("recipes/[!.]*"))
        assert [path.read_text(encoding="utf-8") for path in recipes] in ([], [text])
        assert main(["new", "shades", "photos", "--force"]) == 0
        assert (place / "recipes/shades.toml").read_text(encoding="utf-8") == text
        assert hidden(place) == []


@pytest.mark.slow
def test_adopt(workplace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder that the service would load is a complete version; the next command removes all others."""
    onnx.save(parser.parse_model(GREY), workplace / "shades.onnx")
    command = ["adopt", "shades.onnx", "--labels", "light,dark", "--scale", "1/255"]
    *killed, _ = killed_everywhere(workplace, *command)
    for place in killed:
        go(place, monkeypatch)
        home = place / "models/shades"
        done = [open_version(home / str(number)).version for number in numbers(home)] if home.exists() else []
        assert done in ([], [1])
        assert main([*command, "--force"]) == 0
        assert numbers(home) == [*done, len(done) + 1]
        assert hidden(place) == []


@pytest.mark.slow
def test_train(workplace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run that was killed is a run, says that it is not finished, and ends as one that was never stopped."""
    settings = [f"--set={each}" for each in ("epochs=2", "input.height=16", "input.width=16")]
    assert main(["new", "shades", "photos", *settings]) == 0
    command = ["train", "recipes/shades.toml", "--threads", "1"]
    monkeypatch.setattr("training.runs.run.report.write", lambda *_: None)  # the plots take most of the time
    assert main(command) == 0  # which also decodes the images
    (run,) = (workplace / "runs/shades").iterdir()
    expected = outcome(run)
    shutil.rmtree(workplace / "runs")
    *killed, _ = killed_everywhere(workplace, *command)
    for place in killed:
        go(place, monkeypatch)
        for run in place.glob("runs/shades/[!.]*"):
            if record.read(run).result is None:
                assert main(["publish", str(run)]) == 2
            assert main(["train", "--resume", str(run), "--threads", "1"]) == 0
            assert outcome(run) == expected
            assert not list(run.glob("*.partial"))
    started = next(place for place in killed if list(place.glob("runs/shades/.*")))
    go(started, monkeypatch)
    assert main(command) == 0
    assert hidden(started) == []


def outcome(run: Path) -> tuple[object, ...]:
    """What a run leaves, without times."""
    result = Result.read(run / "result.json")
    assert result is not None
    epochs = record.read(run).histories["fit"]
    losses = [(epoch["loss"], epoch["validation_loss"]) for epoch in epochs]
    return result.model_copy(update={"seconds": 0.0}), losses


def test_what_a_running_process_writes_is_kept(workplace: Path) -> None:
    """Only what belongs to a process that is gone is removed."""
    mine = workplace / f"{unfinished.name('x')}1"
    gone = workplace / mine.name.replace(str(os.getpid()), "999999999")
    for folder in (mine, gone):
        folder.mkdir()
    unfinished.remove(workplace, "x")
    assert [mine.exists(), gone.exists()] == [True, False]
