"""Which precision of a version is served."""

import logging
import shutil
from pathlib import Path

import numpy as np
import pytest

from contract import manifest as contract
from contract import providers
from contract.errors import ModelRefused, ProviderError
from contract.manifest import Metrics, Variant
from contract.session import Session
from service.inference import precision as module
from service.inference.precision import open_session
from service.inference.repository import Repository
from service.settings import Settings
from service.telemetry.metrics import Metrics as Figures
from tests.serving import client

WORTH = {"blots": Metrics(n=2, accuracy=0.5, nll=1, ece=0)}


@pytest.fixture
def twice(version: Path) -> Path:
    """models/digits/1 with a variant in int8 and one in float16, both in truth its float32 under other names."""
    manifest = contract.read(version)
    with np.load(version / contract.GOLDEN) as golden:
        inputs, rows = golden["inputs"], golden["probabilities"]
    np.savez(version / contract.GOLDEN, inputs=inputs, probabilities=rows, int8=rows, float16=rows)
    variants = [Variant(precision=name, graph=f"model.{name}.onnx", test_metrics=WORTH) for name in ("int8", "float16")]
    for variant in variants:
        shutil.copyfile(version / contract.GRAPH, version / variant.graph)
    files = [*manifest.files, *(variant.graph for variant in variants)]
    hashes = {name: contract.sha256(version / name) for name in files}
    manifest.model_copy(update={"files": hashes, "variants": variants}).write(version)
    return version


def opened(version: Path, precision: str = "auto") -> Session:
    settings = Settings.model_validate({"provider": "cpu", "precision": precision})
    return open_session(version, contract.read(version), settings)


def let_win(monkeypatch: pytest.MonkeyPatch, alone: float, together: float) -> list[int]:
    """Races in which the variant is so many times as fast, alone and in a batch; gives the sizes that were raced."""
    sizes: list[int] = []

    def race(sessions: list[Session], size: int) -> list[float]:
        assert [session.precision for session in sessions] == ["float32", "int8"]
        sizes.append(size)
        return [alone if size == 1 else together, 1.0]

    monkeypatch.setattr(module, "race", race)
    return sizes


@pytest.mark.parametrize(
    ("alone", "together", "served"),
    [(2.0, 3.0, "int8"), (2.0, 1.0, "float32"), (0.9, 3.0, "float32"), (1.05, 1.05, "float32")],
)
def test_a_variant_is_served_where_it_is_faster(
    twice: Path, monkeypatch: pytest.MonkeyPatch, alone: float, together: float, served: str
) -> None:
    """It must win by a tenth both alone and in a large batch; the other one's graph is not touched."""
    sizes = let_win(monkeypatch, alone, together)
    assert opened(twice).precision == served
    assert sizes == [1, 8]


@pytest.mark.parametrize("precision", ["float32", "int8"])
def test_what_is_asked_for_is_not_raced(twice: Path, monkeypatch: pytest.MonkeyPatch, precision: str) -> None:
    """A precision that the settings name is served without a race, and a model without it runs in float32."""
    monkeypatch.setattr(module, "race", None)
    assert opened(twice, precision).precision == precision
    manifest = contract.read(twice)
    manifest.model_copy(update={"variants": []}).write(twice)
    assert opened(twice, precision).precision == "float32"
    assert opened(twice).precision == "float32"


def test_a_variant_that_computes_something_else_is_not_served(
    twice: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Under `auto` float32 takes its place, and the log says why; where int8 was asked for, the version is refused."""
    with np.load(twice / contract.GOLDEN) as golden:
        arrays = dict(golden)
    np.savez(twice / contract.GOLDEN, **{**arrays, "int8": arrays["int8"][:, ::-1]})
    let_win(monkeypatch, 9, 9)
    with caplog.at_level(logging.WARNING, "bentoml.convoke"):
        assert opened(twice).precision == "float32"
    assert "int8 is refused" in caplog.text
    assert "in int8 on CPUExecutionProvider the golden probabilities differ by" in caplog.text
    with pytest.raises(ModelRefused, match="in int8 on CPUExecutionProvider"):
        opened(twice, "int8")


def test_a_variant_without_golden_outputs_is_not_served(twice: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What cannot be replayed is not served."""
    with np.load(twice / contract.GOLDEN) as golden:
        inputs, rows = golden["inputs"], golden["probabilities"]
    np.savez(twice / contract.GOLDEN, inputs=inputs, probabilities=rows)
    let_win(monkeypatch, 9, 9)
    assert opened(twice).precision == "float32"
    with pytest.raises(ModelRefused, match="cannot be read"):
        opened(twice, "int8")


def test_what_is_served_is_told(twice: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    """Provider and precision stand in /models, with the variant's own figures, in the metric and in the log."""
    let_win(monkeypatch, 9, 9)
    with caplog.at_level(logging.INFO, "bentoml.convoke"):
        call = client(models=twice.parents[1], poll_s=0)
    (summary,) = call("GET", "/models").json()["models"]
    assert (summary["precision"], summary["provider"]) == ("int8", "CPUExecutionProvider")
    assert summary["test_metrics"] == {"blots": WORTH["blots"].model_dump()}
    assert [one["precision"] for one in call("GET", "/models/digits").json()["variants"]] == ["int8", "float16"]
    assert "model digits version 1 is served in int8 by CPUExecutionProvider" in caplog.text


def test_the_metric_tells_which_versions_are_loaded(version: Path) -> None:
    """1 with provider and precision for a loaded version, 0 once it is let go of."""
    figures = Figures()
    shelf = Repository(Settings(models=version.parents[1], provider="cpu", versions=1), figures)
    shelf.load()
    first, second = (("digits", number, "CPUExecutionProvider", "float32") for number in "12")
    assert dict(figures.model_info.state()) == {first: [1]}
    folder = shutil.copytree(version, version.parent / "2")
    contract.read(version).model_copy(update={"version": 2}).write(folder)
    shelf.scan()
    shelf.scan()
    assert dict(figures.model_info.state()) == {first: [0], second: [1]}


def test_float16_is_not_for_processors(twice: Path) -> None:
    """A variant that is made for GPUs is not even raced on a processor; asking for it there ends the start."""
    manifest = contract.read(twice)
    only = [variant for variant in manifest.variants if variant.precision == "float16"]
    manifest.model_copy(update={"variants": only}).write(twice)
    assert opened(twice).precision == "float32"
    with pytest.raises(ProviderError, match=r"float16.*CPUExecutionProvider"):
        providers.check("cpu", "float16")
