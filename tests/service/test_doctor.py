"""`python -m service.doctor`: what it finds on this machine, and on others."""

import importlib
import json
import resource
import shutil
import socket
import sys
from pathlib import Path
from typing import Any

import onnxruntime as ort
import pytest

from contract import providers
from contract.manifest import GRAPH
from service.doctor import __main__ as doctor
from service.doctor import checks
from service.doctor.finding import Finding
from service.settings import Settings
from tests.serving import ROOT


def find(findings: list[Finding], name: str) -> list[Finding]:
    return [finding for finding in findings if finding.name.startswith(name)]


def examine(**settings: Any) -> list[Finding]:
    return list(checks.examine(Settings.model_validate({"provider": "cpu", **settings}), timed_s=0))


def test_this_machine_is_fit(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Each model is opened, replayed and timed, nothing is wrong, and --json has the same findings."""
    monkeypatch.setenv("CONVOKE_PROVIDER", "cpu")
    monkeypatch.setattr(doctor, "_TIMED_S", 0.0)
    outputs = []
    for args in ([], ["--json"]):
        monkeypatch.setattr(sys, "argv", ["doctor", *args])
        with pytest.raises(SystemExit) as end:
            doctor.main()
        assert not end.value.code
        outputs.append(capsys.readouterr().out)
    findings = json.loads(outputs[1])
    assert {key for finding in findings for key in finding} == {"name", "state", "found", "todo"}
    assert "wrong" not in {finding["state"] for finding in findings}
    for name in ("digits", "cats-vs-dogs", "reviews"):
        assert [finding["state"] for finding in findings if finding["name"] == f"model {name}"] == ["ok", "ok"]
        assert f"model {name}" in outputs[0]


def test_a_damaged_model_is_wrong(version: Path) -> None:
    """The reason is that of the service; without any model the folder is wrong."""
    (version / GRAPH).write_bytes(b"garbage")
    (finding,) = find(examine(models=version.parents[1]), "model digits")
    assert finding.state == "wrong"
    assert GRAPH in finding.found
    (finding,) = find(examine(models=version), "models")
    assert (finding.state, bool(finding.todo)) == ("wrong", True)


def test_a_provider_that_is_missing_is_wrong() -> None:
    """CUDA without a driver is named, and what to do."""
    (finding,) = find(examine(provider="cuda"), "execution provider")
    assert finding.state == "wrong"
    assert "CUDAExecutionProvider" in finding.found


def test_a_gpu_that_is_not_used_is_a_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    """With a driver, but ONNX Runtime's build for processors, the lock file with CUDA is named."""
    monkeypatch.setattr(ort, "get_available_providers", lambda: [providers.CPU])
    monkeypatch.setattr(checks, "_driver", lambda: "580: H200")
    monkeypatch.setattr(checks, "_gpu_memory", lambda: Finding("GPU memory", "ok", ""))
    (finding,) = find(examine(provider="auto"), "ONNX Runtime's build")
    assert finding.state == "warning"
    assert "serve-cuda.txt" in finding.todo


def test_small_limits_are_warnings(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Little memory, few open files, more workers than processors, and a folder that cannot be written."""
    monkeypatch.setattr(checks, "_free_bytes", lambda: 100 << 20)
    monkeypatch.setattr(resource, "getrlimit", lambda _: (256, 512))
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("BENTOML_HOME", str(tmp_path / "file/home"))
    states = {finding.name.split(" /")[0]: finding for finding in examine(models=ROOT / "models", workers=64)}
    assert [states[name].state for name in ("memory", "open files", "processors", "BENTOML_HOME")] == [
        "warning", "warning", "warning", "wrong",
    ]  # fmt: skip
    assert all(states[name].todo for name in ("memory", "open files", "processors", "BENTOML_HOME"))


@pytest.mark.parametrize(
    ("make", "expected"),
    [
        (lambda path: path.write_text(""), "is a file"),
        (lambda _path: None, "does not exist"),
        (lambda path: (path / "digits/1").mkdir(parents=True), "it holds digits"),
        (lambda path: path.mkdir(), "it is empty"),
    ],
)
def test_a_folder_without_models_is_described(make: Any, expected: str, tmp_path: Path) -> None:
    """A file, nothing, an empty folder, or a version without a manifest."""
    make(tmp_path / "models")
    (finding,) = find(examine(models=tmp_path / "models"), "models")
    assert finding.state == "wrong"
    assert expected in finding.found
    assert "CONVOKE_MODELS" in finding.todo


@pytest.mark.parametrize(
    ("limits", "state"), [((4096, 4096), "ok"), ((256, 4096), "ok"), ((256, 256), "warning"), ((64, 64), "wrong")]
)
def test_open_files_are_counted_as_connections(
    limits: tuple[int, int], state: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The service raises the soft limit; where not even one connection fits, it cannot work."""
    monkeypatch.setattr(resource, "getrlimit", lambda _: limits)
    (finding,) = find(examine(max_connections=1000), "open files")
    assert finding.state == state
    assert bool(finding.todo) == (state != "ok")


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (ModuleNotFoundError("No module named 'tokenizers'"), "serve-cpu.txt"),
        (ImportError("libgomp.so.1: cannot open shared object file"), "system's library"),
    ],
)
def test_a_library_that_is_missing_is_named(
    error: ImportError, expected: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """With what to do, and without a traceback."""
    real = importlib.import_module

    def load(name: str) -> Any:
        if name == "tokenizers":
            raise error
        return real(name)

    monkeypatch.setattr(importlib, "import_module", load)
    monkeypatch.setattr(sys, "argv", ["doctor", "--json"])
    with pytest.raises(SystemExit) as end:
        doctor.main()
    assert end.value.code
    (finding,) = json.loads(capsys.readouterr().out)
    assert finding["name"] == "library tokenizers"
    assert str(error) in finding["found"]
    assert expected in finding["todo"]


def test_keys_address_and_temporary_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A file of keys that is missing is wrong; a port that is taken, and a TMPDIR that is not used, are warnings."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        monkeypatch.setenv("CONVOKE_PORT", str(taken.getsockname()[1]))
        monkeypatch.setenv("TMPDIR", str(tmp_path / "missing"))
        findings = examine(models=tmp_path, api_keys_file=tmp_path / "keys")
    states = {name: find(findings, name)[0] for name in ("API keys", "address", "TMPDIR")}
    assert [finding.state for finding in states.values()] == ["wrong", "warning", "warning"]
    assert all(finding.todo for finding in states.values())


@pytest.mark.parametrize("port", ["99999", "-1", "http"])
def test_an_invalid_port_is_wrong(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, port: str) -> None:
    """The system would take the last 16 bits of a large number."""
    monkeypatch.setenv("CONVOKE_PORT", port)
    (finding,) = find(examine(models=tmp_path), "address")
    assert (finding.state, port in finding.found, bool(finding.todo)) == ("wrong", True, True)


def test_a_folder_of_feedback_that_cannot_be_written_is_wrong(tmp_path: Path) -> None:
    """The service would not start with it."""
    (tmp_path / "file").touch()
    for folder, state in (("file", "wrong"), ("new", "ok")):
        (finding,) = find(examine(models=tmp_path, feedback_dir=tmp_path / folder), "CONVOKE_FEEDBACK_DIR")
        assert (finding.state, bool(finding.todo)) == (state, state == "wrong")


def test_a_check_that_fails_does_not_hide_the_others(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """What could not be examined is wrong, with the reason, and the rest follows."""
    monkeypatch.setattr(shutil, "disk_usage", lambda _: (_ for _ in ()).throw(OSError("not supported")))
    findings = examine(models=tmp_path)
    assert any("not supported" in finding.found for finding in findings if finding.state == "wrong")
    assert find(findings, "models")


def test_invalid_settings_are_a_finding(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """The message of the setting is printed, without a traceback."""
    monkeypatch.setenv("CONVOKE_WORKERS", "0")
    monkeypatch.setattr(sys, "argv", ["doctor"])
    with pytest.raises(SystemExit):
        doctor.main()
    assert "CONVOKE_WORKERS" in capsys.readouterr().out
