"""Drift over HTTP: inputs like the test data do not raise it, shifted inputs do."""

import asyncio
from pathlib import Path
from random import Random

import httpx
import numpy as np
import pytest

from contract import reference as references
from contract.inputs import load_preprocessor
from contract.manifest import read as read_manifest
from contract.manifest import sha256
from contract.spec import ImageInput
from service.server.assembly import Parts, assemble
from service.settings import Settings
from tests import reviews
from tests.serving import ROOT, client, code
from training.data import mnist
from training.data.folders import data_folder

FAMILIAR = ["film", "good", "fine", "bad", "awful"]


def texts(count: int, seed: int, words: list[str] = FAMILIAR, longest: int = 12) -> list[str]:
    """Random texts."""
    random = Random(seed)
    return [" ".join(random.choices(words, k=random.randint(2, longest))) for _ in range(count)]


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of texts with a reference over 2,000 texts."""
    folder = tmp_path_factory.mktemp("models")
    version = reviews.publish(folder)
    manifest = read_manifest(version)
    preprocessor = load_preprocessor(version, manifest.input)
    test_data = texts(2000, seed=0)
    items = [preprocessor.decode(text) for text in test_data]
    measured = references.measure(reviews.reference(test_data), items, preprocessor.unknown_id)
    references.make(measured, manifest.labels, "random texts").write(version)
    files = {**manifest.files, references.REFERENCE: sha256(version / references.REFERENCE)}
    manifest.model_copy(update={"files": files}).write(version)
    return folder


@pytest.mark.parametrize(
    ("sent", "large"),
    [
        (texts(240, seed=1), set()),
        (texts(240, seed=1, words=[*FAMILIAR, "le", "bon", "cinéma"]), {"unknown"}),
        (texts(240, seed=1, longest=60), {"length"}),
        (texts(240, seed=1, words=["good", "fine"]), {"label"}),
        (texts(240, seed=1, words=["xyzzy"]), {"unknown", "score", "label"}),
    ],
    ids=["test data", "other language", "longer", "one class", "noise"],
)
def test_shifted_texts_raise_the_index(sent: list[str], large: set[str], models: Path) -> None:
    """The index of what is shifted is large and that of test data is not, in both forms; each text counts once."""
    call = client(models=models, fast_path=False)
    for start in range(0, len(sent), 60):
        assert call("POST", "/classify/reviews", json={"texts": sent[start : start + 60]}).status_code == 200
    found = call("GET", "/models/reviews/drift").json()
    assert (found["version"], found["reference"], found["reference_items"]) == ("1", "random texts", 2000)
    assert found["items"] == 240
    states = {each["quantity"]: each["state"] for each in found["quantities"]}
    assert states.keys() == {"score", "label", "length", "unknown"}
    assert large <= {name for name, state in states.items() if state == "large"}
    assert large or set(states.values()) <= {"stable", "moderate"}
    metrics = call("GET", "/metrics").text
    for each in found["quantities"]:
        assert sum(bin_["expected"] for bin_ in each["bins"]) == pytest.approx(1, abs=1e-4)
        assert sum(bin_["actual"] for bin_ in each["bins"]) == pytest.approx(1, abs=1e-4)
        name = f'convoke_drift{{model="reviews",quantity="{each["quantity"]}",version="1"}} '
        (line,) = [line for line in metrics.splitlines() if line.startswith(name)]
        assert float(line.removeprefix(name)) == pytest.approx(each["index"], abs=1e-6)


def test_few_items_have_no_index(models: Path) -> None:
    """Below 200 items the index is null, and not among the metrics. The fast path counts, too."""
    call = client(models=models)
    for text in texts(5, seed=2):
        call("POST", "/classify/reviews", content=text, headers={"content-type": "text/plain"})
    found = call("GET", "/models/reviews/drift").json()
    assert found["items"] == 10
    assert {each["state"] for each in found["quantities"]} == {"too few items"}
    assert {each["index"] for each in found["quantities"]} == {None}
    assert "convoke_drift{" not in call("GET", "/metrics").text


def test_a_version_without_a_reference_has_no_drift(tmp_path: Path) -> None:
    """It is served as before; an unknown model is a 404."""
    reviews.publish(tmp_path)
    call = client(models=tmp_path)
    assert call("POST", "/classify/reviews", json={"texts": texts(300, seed=1)}).status_code == 200
    found = call("GET", "/models/reviews/drift").json()
    assert (found["reference"], found["items"], found["quantities"]) == (None, 0, [])
    assert "convoke_drift{" not in call("GET", "/metrics").text
    assert code(call("GET", "/models/nothing/drift")) == (404, "model_not_found")


def test_the_items_of_all_workers_count(models: Path, tmp_path: Path) -> None:
    """Each of two workers sees 120 items; either of them answers with 240, also one that has answered nothing."""
    settings = Settings(models=models, provider="cpu", workers=3)
    workers = [assemble(settings, index=index, folder=tmp_path) for index in (1, 2, 3)]
    for worker in workers:
        worker.repository.load()

    async def call(worker: Parts, method: str, path: str, **content: object) -> httpx.Response:
        transport = httpx.ASGITransport(app=worker.application)
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as session:
            return await session.request(method, path, **content)  # type: ignore[arg-type]

    for worker, seed in zip(workers, (3, 4), strict=False):
        sent = texts(120, seed)
        for half in (sent[:60], sent[60:]):
            assert asyncio.run(call(worker, "POST", "/classify/reviews", json={"texts": half})).status_code == 200
        worker.fleet.publish()
    for worker in workers:
        found = asyncio.run(call(worker, "GET", "/models/reviews/drift")).json()
        assert found["items"] == 240
        assert all(each["index"] < 0.25 for each in found["quantities"])


@pytest.mark.data
def test_the_model_of_digits_knows_its_test_data() -> None:
    """300 MNIST test digits are stable; the same with thicker strokes and ones alone are not."""
    raw = data_folder() / "mnist/MNIST/raw"
    if not any((raw / f"t10k-images-idx3-ubyte{ending}").exists() for ending in ("", ".gz")):
        pytest.skip(f"no MNIST in {raw}: set CONVOKE_DATA to the data folder")
    spec = read_manifest(ROOT / "models/digits/1").input
    assert isinstance(spec, ImageInput)
    images = mnist.tests("mnist", spec, None)["mnist"].inputs.numpy()
    thick = np.maximum(images, np.roll(images, 1, axis=2))
    thick = np.maximum(thick, np.roll(thick, 1, axis=1))
    found = {}
    for name, pixels in {"test data": images[:300], "thick": thick[:300]}.items():
        call = client(fast_path=False)
        for start in range(0, 300, 60):
            part = pixels[start : start + 60]
            tensor = {"name": "image", "datatype": "UINT8", "shape": part.shape, "data": part.ravel().tolist()}
            assert call("POST", "/v2/models/digits/infer", json={"inputs": [tensor]}).status_code == 200
        quantities = call("GET", "/models/digits/drift").json()["quantities"]
        found[name] = {each["quantity"]: each["index"] for each in quantities}
    assert max(found["test data"].values()) < 0.15
    assert found["thick"]["brightness"] > 0.5
