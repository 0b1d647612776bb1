"""Short runs of the programs that measure sessions and batches."""

import json
import shutil
import sys
from pathlib import Path

import pytest

from benchmarks import batches, gpu, sessions
from benchmarks.versions import latest_versions
from tests.serving import ROOT


@pytest.fixture
def models(tmp_path: Path) -> Path:
    """A models/ with version 1 of digits, and a higher version without a valid manifest."""
    shutil.copytree(ROOT / "models/digits/1", tmp_path / "models/digits/1")
    broken = tmp_path / "models/digits/2"
    broken.mkdir()
    (broken / "manifest.json").write_text("{}", encoding="utf-8")
    return tmp_path / "models"


def test_the_latest_valid_versions_are_measured(models: Path) -> None:
    """A version whose manifest cannot be read is skipped; versions are compared as numbers."""
    assert list(latest_versions(models)) == [models / "digits/1"]
    for name in ("9", "10"):
        shutil.copytree(models / "digits/1", models / "digits" / name)
    assert list(latest_versions(models)) == [models / "digits/10"]


@pytest.mark.slow
def test_sessions_are_measured_in_every_configuration(
    models: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Each configuration has a row in the table, and positive speeds and memory in the JSON file."""
    out = models.parent / "sessions.json"
    arguments = ["sessions", "--rounds", "1", "--seconds", "0.01", "--models", str(models), "--out", str(out)]
    monkeypatch.setattr(sys, "argv", arguments)
    sessions.main()
    (figures,) = json.loads(out.read_text(encoding="utf-8"))["found"].values()
    table = capsys.readouterr().out
    assert "digits 1, float32" in table
    assert len(figures) == 6
    for name, columns in figures.items():
        assert f"| {name} |" in table
        assert columns["peak MiB"] > 10
        assert all(value > 0 for column, value in columns.items() if column.startswith("items/"))


@pytest.mark.slow
def test_batches_are_measured(
    models: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A line for each size of a batch has the time of an item and the memory."""
    monkeypatch.setattr(sys, "argv", ["batches", str(models)])
    monkeypatch.setattr(batches, "_SIZES", (1, 4))
    batches.main()
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(": ")[1] for line in lines] == ["1 images", "4 images"]
    assert all("us per item" in line for line in lines)


def test_without_a_gpu_nothing_is_measured(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """The exit status is 2, and no figure is written."""
    monkeypatch.setattr(sys, "argv", ["gpu", "--out", str(tmp_path / "gpu.json")])
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    with pytest.raises(SystemExit) as end:
        gpu.main()
    assert end.value.code == 2
    assert "no GPU" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_the_program_for_gpus_runs_on_processors(
    models: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Each batch size has a row that agrees with the CPU, and training and the all-reduce have figures."""
    out = models.parent / "gpu.json"
    arguments = ["gpu", "--provider", "cpu", "--seconds", "0.01", "--models", str(models), "--out", str(out)]
    monkeypatch.setattr(sys, "argv", arguments)
    monkeypatch.setattr(gpu, "TRAININGS", gpu.TRAININGS[:1])  # each takes seconds on processors
    gpu.main()
    record = json.loads(out.read_text(encoding="utf-8"))
    assert [figure["batch"] for figure in record["figures"]] == list(gpu.SIZES)
    assert all(figure["items_per_s"] > 0 and figure["difference"] < 1e-5 for figure in record["figures"])
    assert list(record["training_images_per_s"].values()) > [0]
    assert "digits 1" in capsys.readouterr().out
