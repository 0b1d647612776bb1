"""A process that is killed (kill -9) in the middle of a command leaves nothing half-written, and the next one works."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from training import unfinished
from training.__main__ import main

ROOT = Path(__file__).resolve().parents[2]


def killed(place: str, *command: str, calls: int = 1) -> None:
    """Run a command of training in a process that is killed when it calls the function at `place`."""
    module, _, name = place.rpartition(".")
    program = f"""
import importlib, os, signal
from training.__main__ import main
module, count = importlib.import_module({module!r}), 0
original = module.{name}
def call(*args, **keywords):
    global count
    count += 1
    if count >= {calls}:
        os.kill(os.getpid(), signal.SIGKILL)
    return original(*args, **keywords)
module.{name} = call
main({list(command)!r})
"""
    done = subprocess.run([sys.executable, "-c", program], check=False, env={**os.environ, "PYTHONPATH": str(ROOT)})
    assert done.returncode == -signal.SIGKILL


def hidden(folder: Path) -> list[str]:
    return [path.name for path in folder.rglob(".*") if path.name != ".lock"]


@pytest.fixture
def workplace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory with photos of two kinds."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CONVOKE_CACHE", str(tmp_path / "cache"))
    random = np.random.default_rng(0)
    for kind, low in (("dark", 0), ("light", 120)):
        (tmp_path / "photos" / kind).mkdir(parents=True)
        for seed in range(12):
            coarse = Image.fromarray(random.integers(low, low + 100, (4, 4, 3), np.uint8))
            coarse.resize((16, 16)).save(tmp_path / "photos" / kind / f"{seed}.png")
    return tmp_path


@pytest.mark.parametrize(
    ("place", "calls"), [("training.data.decoded.image_to_pixels", 5), ("training.recipe.new.check_output", 2)]
)
def test_new(workplace: Path, place: str, calls: int) -> None:
    """Neither while images are decoded nor before the recipe is written."""
    killed(place, "new", "shades", "photos", calls=calls)
    assert not list(workplace.glob("recipes/*"))
    assert main(["new", "shades", "photos"]) == 0
    assert [path.name for path in (workplace / "recipes").iterdir()] == ["shades.toml"]
    assert hidden(workplace) == []


def test_what_a_running_process_writes_is_kept(workplace: Path) -> None:
    """Only what belongs to a process that is gone is removed."""
    mine = workplace / f"{unfinished.name('x')}1"
    gone = workplace / mine.name.replace(str(os.getpid()), "999999999")
    for folder in (mine, gone):
        folder.mkdir()
    unfinished.remove(workplace, "x")
    assert [mine.exists(), gone.exists()] == [True, False]
