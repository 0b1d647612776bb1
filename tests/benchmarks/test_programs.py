"""Short runs of the programs that measure sessions and batches."""

import json
import shutil
import sys
from pathlib import Path

import pytest

from benchmarks import batches, gpu, sessions
from benchmarks.versions import latest_versions
from contract import manifest, providers
from contract.manifest import Manifest, Precision
from tests.serving import ROOT

MANIFEST = manifest.read(ROOT / "models/cats-vs-dogs/3")


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
    assert "--provider cpu" in capsys.readouterr().err
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
    assert record["left_out"] == ["digits 1, CPU, int8: the version has no graph in int8"]


def test_each_run_on_a_gpu_has_its_own_options(monkeypatch: pytest.MonkeyPatch) -> None:
    """TF32 and CUDA graphs are as the run's name says, and the service's own options are as before afterwards."""
    usual = providers.cuda_options(cuda_graphs=True)
    assert usual["use_tf32"] == "1"
    opened: dict[str, tuple[str, str, str]] = {}

    def session(path: Path, _manifest: Manifest, *, provider: str, precision: Precision, cuda_graphs: bool) -> None:
        options = providers.cuda_options(cuda_graphs=cuda_graphs)
        assert options.keys() == usual.keys()
        assert path.name == MANIFEST.graph(precision)
        opened[setup.name] = provider, options["use_tf32"], options["enable_cuda_graph"]

    monkeypatch.setattr(gpu, "Session", session)
    for setup in gpu.SETUPS:
        if setup.precision in MANIFEST.precisions:
            gpu.open_session(ROOT / "models/cats-vs-dogs/3", MANIFEST, setup)
    assert opened["CUDA, float32"] == ("cuda", "0", "0")
    assert opened["CUDA, TF32"] == ("cuda", "1", "0")
    assert opened["CUDA, TF32, graphs"] == ("cuda", "1", "1")
    assert opened["TensorRT, float32"][0] == "tensorrt"
    assert opened["CPU, int8"][0] == "cpu"
    assert providers.cuda_options(cuda_graphs=True) == usual


def test_what_has_no_time_left_is_named() -> None:
    """After the budget no session is opened, and each run that was left out has its reason."""
    omitted: list[str] = []
    setups = [setup for setup in gpu.SETUPS if setup.precision in MANIFEST.precisions]
    figures = gpu.measure(ROOT / "models/cats-vs-dogs/3", MANIFEST, setups, 0.01, omitted, end=0.0)
    assert not list(figures)
    assert len(omitted) == len(setups)
    assert all("no time was left" in reason for reason in omitted)


@pytest.mark.parametrize("arguments", [["--provider", "rocm"], ["--seconds", "fast"], ["--unknown"]])
def test_arguments_of_the_program_for_gpus(arguments: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """An argument that it does not know is refused with status 2."""
    monkeypatch.setattr(sys, "argv", ["gpu", *arguments])
    with pytest.raises(SystemExit) as end:
        gpu.main()
    assert end.value.code == 2
