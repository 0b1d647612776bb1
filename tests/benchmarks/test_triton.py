"""Triton, where it cannot be installed: the reason; the files that it is started with."""

import json
import os
import shutil
import sys
from pathlib import Path

import pytest

from benchmarks.contenders import triton_python
from benchmarks.contenders.triton_python import UnavailableError
from tests.serving import ROOT


@pytest.fixture
def bare(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine that has what Triton needs, but not Triton."""
    monkeypatch.setattr(triton_python, "_READY", tmp_path / "triton.ready")
    monkeypatch.setattr(triton_python, "_ROOT", tmp_path / "triton")
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setattr(shutil, "which", lambda name: f"/bin/{name}")


@pytest.mark.usefixtures("bare")
def test_what_the_machine_lacks_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Root, a program, Python 3.12 or its library: each reason says what to do, before anything is installed."""
    monkeypatch.setenv("PYTHON312", str(tmp_path / "python3.12"))
    with pytest.raises(UnavailableError, match=r"needs Python 3\.12: .*PYTHON312"):
        triton_python.install()
    with monkeypatch.context() as patch:
        patch.setattr(os, "geteuid", lambda: 1000)
        with pytest.raises(UnavailableError, match="must run as root"):
            triton_python.install()
    with monkeypatch.context() as patch:
        patch.setattr(shutil, "which", lambda name: None if name == "debootstrap" else name)
        with pytest.raises(UnavailableError, match="needs debootstrap: apt-get install debootstrap"):
            triton_python.install()
    python = tmp_path / "python3.12"
    python.write_text(f"#!/bin/sh\necho {tmp_path}\n", encoding="utf-8")
    python.chmod(0o755)
    with pytest.raises(UnavailableError, match=f"shared library.*{tmp_path} has none"):
        triton_python.install()
    assert not (tmp_path / "triton").exists()


@pytest.mark.usefixtures("bare")
def test_a_step_that_fails_is_reported(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The reason holds the last lines of the step, and a next run starts anew."""
    monkeypatch.setattr(triton_python, "_python_prefix", lambda: tmp_path)
    folder = tmp_path / "bin"
    folder.mkdir()
    (folder / "debootstrap").write_text("#!/bin/sh\necho no such mirror >&2; exit 1\n", encoding="utf-8")
    (folder / "debootstrap").chmod(0o755)
    monkeypatch.setenv("PATH", str(folder), prepend=os.pathsep)
    with pytest.raises(UnavailableError, match="debootstrap failed: no such mirror"):
        triton_python.install()
    assert not (tmp_path / "triton.ready").exists()


def test_triton_is_started_with_the_published_graph(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The repository has the float32 graph, the model's program and one instance for each worker."""
    started: list[str] = []
    monkeypatch.setattr(os, "execvp", lambda _program, command: started.extend(command))
    monkeypatch.setattr(sys, "argv", ["triton", "8123", str(tmp_path)])
    version = ROOT / "models/digits/1"
    variables = {"MODELS": json.dumps({"digits": str(version)}), "WORKERS": "2", "THREADS": "1", "PRECISION": "float32"}
    for name, value in variables.items():
        monkeypatch.setenv(f"BENCH_{name}", value)
    triton_python.main()
    assert (tmp_path / "digits/1/model.onnx").read_bytes() == (version / "model.onnx").read_bytes()
    assert "class TritonPythonModel" in (tmp_path / "digits/1/model.py").read_text(encoding="utf-8")
    assert "count: 2" in (tmp_path / "digits/config.pbtxt").read_text(encoding="utf-8")
    assert {"--http-port=8123", "--http-address=127.0.0.1"} < set(started)
