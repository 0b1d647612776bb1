"""`python -m service.doctor`: what it finds on this machine, and on others."""

import json
import resource
import sys
from pathlib import Path
from typing import Any

import onnxruntime as ort
import pytest

from contract import providers
from contract.manifest import GRAPH
from service import doctor
from service.doctor import Finding
from service.settings import Settings
from tests.serving import ROOT


def find(findings: list[Finding], name: str) -> list[Finding]:
    return [finding for finding in findings if finding.name.startswith(name)]


def examine(**settings: Any) -> list[Finding]:
    return list(doctor.examine(Settings.model_validate({"provider": "cpu", **settings}), timed_s=0))


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
    monkeypatch.setattr(doctor, "_driver", lambda: "580: H200")
    monkeypatch.setattr(doctor, "_gpu_memory", lambda: Finding("GPU memory", "ok", ""))
    (finding,) = find(examine(provider="auto"), "ONNX Runtime's build")
    assert finding.state == "warning"
    assert "serve-cuda.txt" in finding.todo


def test_small_limits_are_warnings(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Little memory, few open files, more workers than processors, and a folder that cannot be written."""
    monkeypatch.setattr(doctor, "_free_bytes", lambda: 100 << 20)
    monkeypatch.setattr(resource, "getrlimit", lambda _: (256, 512))
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("BENTOML_HOME", str(tmp_path / "file/home"))
    states = {finding.name.split(" /")[0]: finding for finding in examine(models=ROOT / "models", workers=64)}
    assert [states[name].state for name in ("memory", "open files", "processors", "BENTOML_HOME")] == [
        "warning", "warning", "warning", "wrong",
    ]  # fmt: skip
    assert all(states[name].todo for name in ("memory", "open files", "processors", "BENTOML_HOME"))


def test_invalid_settings_are_a_finding(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """The message of the setting is printed, without a traceback."""
    monkeypatch.setenv("CONVOKE_WORKERS", "0")
    monkeypatch.setattr(sys, "argv", ["doctor"])
    with pytest.raises(SystemExit):
        doctor.main()
    assert "CONVOKE_WORKERS" in capsys.readouterr().out
