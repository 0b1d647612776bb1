"""The precision in which a version is served."""

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
from service.telemetry.metrics import Metrics as ServiceMetrics
from tests.serving import client

METRICS = {"blots": Metrics(n=2, accuracy=0.5, nll=1, ece=0)}


@pytest.fixture
def variants(version: Path) -> Path:
    """models/digits/1 with variants in int8 and float16, both of which are copies of its float32."""
    manifest = contract.read(version)
    with np.load(version / contract.GOLDEN) as golden:
        inputs, rows = golden["inputs"], golden["probabilities"]
    np.savez(version / contract.GOLDEN, inputs=inputs, probabilities=rows, int8=rows, float16=rows)
    entries = [
        Variant(precision=name, graph=f"model.{name}.onnx", test_metrics=METRICS) for name in ("int8", "float16")
    ]
    for variant in entries:
        shutil.copyfile(version / contract.GRAPH, version / variant.graph)
    files = [*manifest.files, *(variant.graph for variant in entries)]
    hashes = {name: contract.sha256(version / name) for name in files}
    manifest.model_copy(update={"files": hashes, "variants": entries}).write(version)
    return version


def opened(version: Path, precision: str = "auto") -> Session:
    settings = Settings.model_validate({"provider": "cpu", "precision": precision})
    return open_session(version, contract.read(version), settings)


def fake_race(monkeypatch: pytest.MonkeyPatch, alone: float, in_batch: float) -> list[int]:
    """Replace races by the speedups of the variant, alone and in a batch; returns the sizes that were raced."""
    sizes: list[int] = []

    def race(sessions: list[Session], size: int) -> list[float]:
        assert [session.precision for session in sessions] == ["float32", "int8"]
        sizes.append(size)
        return [alone if size == 1 else in_batch, 1.0]

    monkeypatch.setattr(module, "race", race)
    return sizes


@pytest.mark.parametrize(
    ("alone", "in_batch", "served"),
    [(2.0, 3.0, "int8"), (2.0, 1.0, "float32"), (0.9, 3.0, "float32"), (1.05, 1.05, "float32")],
)
def test_a_variant_is_served_if_it_is_faster(
    variants: Path, monkeypatch: pytest.MonkeyPatch, alone: float, in_batch: float, served: str
) -> None:
    """It must be a tenth faster, both alone and in a batch; the variant of another provider is not raced."""
    sizes = fake_race(monkeypatch, alone, in_batch)
    assert opened(variants).precision == served
    assert sizes == [1, 4]


@pytest.mark.parametrize("precision", ["float32", "int8"])
def test_a_configured_precision_is_not_raced(variants: Path, monkeypatch: pytest.MonkeyPatch, precision: str) -> None:
    """The precision of the settings is served without a race; a model without it runs in float32."""
    monkeypatch.setattr(module, "race", None)
    assert opened(variants, precision).precision == precision
    manifest = contract.read(variants)
    manifest.model_copy(update={"variants": []}).write(variants)
    assert opened(variants, precision).precision == "float32"
    assert opened(variants).precision == "float32"


def test_a_variant_with_other_outputs_is_not_served(
    variants: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """With `auto`, float32 is served and the log says why; with `int8`, the version is refused."""
    with np.load(variants / contract.GOLDEN) as golden:
        arrays = dict(golden)
    np.savez(variants / contract.GOLDEN, **{**arrays, "int8": arrays["int8"][:, ::-1]})
    fake_race(monkeypatch, 9, 9)
    with caplog.at_level(logging.WARNING, "bentoml.convoke"):
        assert opened(variants).precision == "float32"
    assert "int8 is refused" in caplog.text
    assert "in int8 on CPUExecutionProvider the golden probabilities differ by" in caplog.text
    with pytest.raises(ModelRefused, match="in int8 on CPUExecutionProvider"):
        opened(variants, "int8")


def test_a_variant_without_golden_outputs_is_not_served(variants: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A variant that cannot be replayed is not served."""
    with np.load(variants / contract.GOLDEN) as golden:
        inputs, rows = golden["inputs"], golden["probabilities"]
    np.savez(variants / contract.GOLDEN, inputs=inputs, probabilities=rows)
    fake_race(monkeypatch, 9, 9)
    assert opened(variants).precision == "float32"
    with pytest.raises(ModelRefused, match="cannot be read"):
        opened(variants, "int8")


def test_the_served_precision_is_shown(
    variants: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """/models has the provider, the precision and the metrics of the variant, and the log has both."""
    fake_race(monkeypatch, 9, 9)
    with caplog.at_level(logging.INFO, "bentoml.convoke"):
        call = client(models=variants.parents[1], poll_s=0)
    (summary,) = call("GET", "/models").json()["models"]
    assert (summary["precision"], summary["provider"]) == ("int8", "CPUExecutionProvider")
    assert summary["test_metrics"] == {"blots": METRICS["blots"].model_dump()}
    assert [variant["precision"] for variant in call("GET", "/models/digits").json()["variants"]] == ["int8", "float16"]
    assert "model digits version 1 is served in int8 by CPUExecutionProvider" in caplog.text


def test_a_metric_has_the_loaded_versions(version: Path) -> None:
    """Its value is 1 for a loaded version, with provider and precision, and 0 once it is not loaded any more."""
    metrics = ServiceMetrics()
    models = Repository(Settings(models=version.parents[1], provider="cpu", versions=1), metrics)
    models.load()
    first, second = (("digits", number, "CPUExecutionProvider", "float32") for number in "12")
    assert dict(metrics.model_info.state()) == {first: [1]}
    folder = shutil.copytree(version, version.parent / "2")
    contract.read(version).model_copy(update={"version": 2}).write(folder)
    models.scan()
    models.scan()
    assert dict(metrics.model_info.state()) == {first: [0], second: [1]}


def test_float16_is_not_for_cpus(variants: Path) -> None:
    """A variant that is made for GPUs is not raced on a CPU, and is an error there if it is configured."""
    manifest = contract.read(variants)
    only = [variant for variant in manifest.variants if variant.precision == "float16"]
    manifest.model_copy(update={"variants": only}).write(variants)
    assert opened(variants).precision == "float32"
    with pytest.raises(ProviderError, match=r"float16.*CPUExecutionProvider"):
        providers.check("cpu", "float16")
