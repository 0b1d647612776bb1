"""No dependency calls out: their telemetry is off before they are imported, unless the user turned it on."""

import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

from tests.serving import ROOT

VARIABLES = ("ORT_DISABLE_TELEMETRY", "BENTOML_DO_NOT_TRACK")
ENTRIES = [
    "contract.session",
    "service.__main__",
    "service.app",
    "service.keys",
    "service.server.worker",
    "training.__main__",
    "training.release.quantise",
    "benchmarks.batches",
    "benchmarks.sessions",
    "benchmarks.serving",
]
WATCH = f"""
import importlib, os, sys

class Watch:
    def find_spec(self, name, path=None, target=None):
        if name in {{"onnxruntime", "bentoml"}}:
            print(name, *(os.environ.get(variable) for variable in {VARIABLES}), flush=True)

sys.meta_path.insert(0, Watch())
importlib.import_module(sys.argv[1])
print("at the end", *(os.environ.get(variable) for variable in {VARIABLES}))
"""
SESSION = """
import sys, time
import contract.session, onnxruntime
onnxruntime.InferenceSession("models/digits/1/model.onnx", providers=["CPUExecutionProvider"])
time.sleep(1)  # its telemetry starts at once
"""


def run(arguments: list[str], environment: Mapping[str, str]) -> str:
    """Run a command without the variables, except those given; returns what it printed."""
    inherited = {name: value for name, value in os.environ.items() if name not in VARIABLES}
    return subprocess.run(
        arguments, cwd=ROOT, env={**inherited, **environment}, capture_output=True, text=True, check=True
    ).stdout


def check(entry: str, environment: Mapping[str, str], expected: str) -> None:
    lines = run([sys.executable, "-c", WATCH, entry], environment).splitlines()
    assert lines
    for line in lines:
        assert line.endswith(expected), line


@pytest.mark.parametrize("entry", ENTRIES)
def test_telemetry_is_off_before_the_libraries_are_imported(entry: str) -> None:
    """Each program imports ONNX Runtime and BentoML after the variables are set."""
    check(entry, {}, "1 True")


@pytest.mark.parametrize(("choice", "expected"), [("", "1 True"), ("0", "0 0")])
def test_the_choice_of_the_user_stays(choice: str, expected: str) -> None:
    """An empty variable is not a choice."""
    check("contract.session", dict.fromkeys(VARIABLES, choice), expected)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="only the wheels for Linux have telemetry")
def test_a_session_leaves_no_trace_of_telemetry(tmp_path: Path) -> None:
    """ONNX Runtime writes no files of its telemetry and opens no socket for it."""
    log = tmp_path / "strace"
    strace = shutil.which("strace")
    trace = [strace, "-f", "-qq", "-e", "trace=socket,connect", "-o", str(log)] if strace else []
    home = tmp_path / "home"
    home.mkdir()
    run([*trace, sys.executable, "-c", SESSION], {"HOME": str(home), "XDG_CACHE_HOME": str(home / ".cache")})
    assert not list(home.rglob("Microsoft"))
    assert "AF_INET" not in (log.read_text() if log.exists() else "")


def test_the_container_and_make_turn_telemetry_off() -> None:
    """The Bento's image and make's commands set the variables, too, for programs that import the libraries first."""
    for name in ("bentofile.yaml", "Makefile"):
        text = (ROOT / name).read_text(encoding="utf-8")
        assert all(variable in text for variable in VARIABLES), name
