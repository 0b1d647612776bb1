"""Publication of a small run: a version computes what torch computes, and is complete or absent."""

import json
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch

from contract import reference
from contract.manifest import CARD, GOLDEN, GRAPH, MANIFEST, verify
from contract.manifest import read as read_manifest
from contract.session import Session
from contract.spec import ImageInput, InputSpec
from training.data.dataset import Dataset, Split
from training.errors import PublishError, RunError
from training.evaluation import metrics as evaluate
from training.fit import checkpoint
from training.network.build import Served, build
from training.network.calibrated import Calibration
from training.recipe.schema import Recipe
from training.release import looks
from training.release.publish import check_parity, export, publish
from training.runs import record, run


@dataclass(frozen=True)
class Published:
    """A run on stripes, its data, and its first version."""

    run: Path
    data: Dataset
    version: Path

    def served(self, temperature: float | None = None) -> Served:
        network, result = run.finished(self.run)
        return Served(run.recipe_of(self.run), network, Calibration(temperature) if temperature else result.calibration)

    def session(self) -> Session:
        return Session(self.version / GRAPH, read_manifest(self.version), provider="cpu")


@pytest.fixture(scope="module")
def published(
    recipe_with: Callable[..., Recipe], stripes: Callable[..., Split], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Published]:
    """One export, which takes seconds, for all tests of this file."""
    place = tmp_path_factory.mktemp("published")
    data = Dataset(stripes(120), stripes(45, seed=1), {"stripes": stripes(30, seed=2)}, "sha256:stripes")
    recipe = recipe_with(data={"name": "mnist", "validation": 100, "refit": True}, average_decay=0.9)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("training.runs.run.load", lambda _recipe: data)
        patch.setattr("training.release.gate.tests_of", lambda _manifest, _folder: data.tests)
        folder = run.start(recipe, place / "runs")
        run.train(folder)
        yield Published(folder, data, publish(folder, place / "models"))


@pytest.fixture
def _exported_before(published: Published, monkeypatch: pytest.MonkeyPatch) -> None:
    """Copies the graph of the first version instead of exporting the same network again."""

    def copy(_served: Served, _spec: InputSpec, path: Path) -> None:
        shutil.copyfile(published.version / GRAPH, path)

    monkeypatch.setattr("training.release.publish.export", copy)


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()} - {looks.FILE}


def test_a_version_is_complete(published: Published) -> None:
    """The first version is 1; it has graph, golden file, card and manifest, and all weights are in the graph."""
    assert published.version.parts[-2:] == ("stripes", "1")
    assert names(published.version) == {"model.onnx", "golden.npz", "card.md", "manifest.json"}
    assert names(published.version.parent) == {"1"}
    weights = onnx.load(published.version / "model.onnx", load_external_data=False).graph.initializer
    assert len(weights) > 0
    assert all(weight.data_location != onnx.TensorProto.EXTERNAL for weight in weights)


def test_the_manifest_has_what_was_measured(published: Published) -> None:
    """Hashes, parameters, temperature, labels and metrics are those of the run and the exported graph."""
    manifest = read_manifest(published.version)
    verify(published.version, manifest)
    recipe, (network, result) = run.recipe_of(published.run), run.finished(published.run)
    assert set(manifest.files) == {"model.onnx", "golden.npz", "card.md"}
    assert (manifest.model, manifest.version, manifest.labels) == ("stripes", 1, recipe.labels)
    assert manifest.input == ImageInput(height=6, width=9, mode="L", framing="squash")
    assert manifest.parameters == sum(weight.numel() for weight in network.parameters())
    assert manifest.temperature == result.temperature
    assert manifest.dataset_fingerprint == "sha256:stripes"
    assert Recipe.model_validate(manifest.recipe) == recipe
    test = published.data.tests["stripes"]
    probabilities = evaluate.probabilities(published.session(), test)
    assert manifest.test_metrics["stripes"] == evaluate.metrics(probabilities, test.labels)
    assert manifest.test_metrics["stripes"].n == 30


@pytest.mark.usefixtures("_exported_before")
@pytest.mark.parametrize(("tests", "data"), [(200, "stripes"), (155, "stripes, validation"), (154, None)])
def test_a_version_has_a_reference(
    tests: int,
    data: str | None,
    published: Published,
    stripes: Callable[..., Split],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It is made of the test splits, of less than 200 examples with the validation split, and of less not at all."""
    more = replace(published.data, tests={"stripes": stripes(tests, seed=2)})
    monkeypatch.setattr("training.runs.run.load", lambda _recipe: more)
    version = publish(published.run, tmp_path)
    made = reference.read(version, read_manifest(version))
    assert (made and made.data) == data
    assert made is None or set(made.quantities) == {"score", "label", "brightness"}


@pytest.mark.parametrize("batch_size", [1, 2, 7])
def test_onnx_runtime_gives_what_torch_gives(batch_size: int, published: Published) -> None:
    """At any batch size the probabilities of the exported graph are torch's within 1e-5, and sum to 1."""
    images = torch.randint(
        0, 256, (batch_size, 6, 9, 1), dtype=torch.uint8, generator=torch.Generator().manual_seed(batch_size)
    )
    with torch.inference_mode():
        expected = published.served()(images).numpy()
    actual = published.session().run(images.numpy())
    assert actual.dtype == np.float32
    np.testing.assert_allclose(actual, expected, rtol=0, atol=1e-5)
    np.testing.assert_allclose(actual.sum(axis=1), np.ones(batch_size), atol=1e-6)


def test_the_golden_file_replays_and_holds_no_example(published: Published) -> None:
    """The service's check passes on the machine of the publication; the stored inputs are random."""
    published.session().replay(published.version)
    with np.load(published.version / GOLDEN) as golden:
        inputs = golden["inputs"]
    assert inputs.shape[1:] == (6, 9, 1)
    data = published.data
    every = data.train + data.validation + data.tests["stripes"]
    examples = {image.numpy().tobytes() for image in every.inputs}
    assert not examples & {image.tobytes() for image in inputs}


def test_the_card_has_the_metrics_of_the_manifest(published: Published) -> None:
    """The card has accuracy, n, fingerprint and the table of the network."""
    card = (published.version / CARD).read_text(encoding="utf-8")
    metrics = read_manifest(published.version).test_metrics["stripes"]
    assert f"| test: stripes | 30 | {metrics.accuracy:.2%} | {metrics.nll:.4f} | {metrics.ece:.4f} |" in card
    assert "sha256:stripes" in card
    assert "dense 3" in card


@pytest.mark.usefixtures("_exported_before")
def test_the_next_version_is_one_above_the_highest(published: Published, tmp_path: Path) -> None:
    """2 follows 1, 8 follows 7, and folders without a number do not count."""
    home = tmp_path / "stripes"
    shutil.copytree(published.version, home / "1")
    (home / "notes").mkdir()
    second = publish(published.run, tmp_path)
    assert second == home / "2"
    manifest = read_manifest(second)
    assert manifest.version == 2
    verify(second, manifest)
    second.rename(home / "7")
    assert publish(published.run, tmp_path) == home / "8"
    assert names(home) == {"1", "notes", "7", "8"}


@pytest.mark.usefixtures("_exported_before")
@pytest.mark.parametrize("where", ["export", "check_parity", "pass_gate", "card", "place"])
@pytest.mark.parametrize("failure", [OSError(28, "No space left on device"), KeyboardInterrupt()])
def test_a_publication_that_fails_leaves_nothing(
    failure: BaseException, where: str, published: Published, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After a full disk or Ctrl-C at any step, only the version before is left."""
    home = tmp_path / "stripes"
    shutil.copytree(published.version, home / "1")

    def fail(*_: Any, **__: Any) -> None:
        raise failure

    monkeypatch.setattr(f"training.release.publish.{where}", fail)
    with pytest.raises(PublishError if isinstance(failure, OSError) else KeyboardInterrupt):
        publish(published.run, tmp_path)
    assert names(home) == {"1"}
    verify(home / "1", read_manifest(home / "1"))


@pytest.mark.usefixtures("_exported_before")
def test_models_that_cannot_be_written_are_refused(published: Published, tmp_path: Path) -> None:
    """A file in the place of the folder of models is named."""
    (tmp_path / "models").write_text("in the way")
    with pytest.raises(PublishError, match="models/stripes: "):
        publish(published.run, tmp_path / "models")


def test_another_data_set_than_the_run_s_is_refused(
    published: Published, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The error names both fingerprints, and nothing is written."""
    other = replace(published.data, fingerprint="sha256:other")
    monkeypatch.setattr("training.runs.run.load", lambda _recipe: other)
    with pytest.raises(PublishError, match=r"data set is sha256:other.* trained on sha256:stripes"):
        publish(published.run, tmp_path / "models")
    assert names(tmp_path) == set()


def test_other_token_ids_than_the_run_s_are_refused(
    published: Published, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run whose tokenizer the present code does not build again is not published: its weights would not fit."""
    other = replace(published.data, tokenizer="{}")
    monkeypatch.setattr("training.runs.run.load", lambda _recipe: other)
    with pytest.raises(PublishError, match="token ids"):
        publish(published.run, tmp_path / "models")
    assert names(tmp_path) == set()


def test_a_run_that_is_not_finished_is_refused(published: Published, tmp_path: Path) -> None:
    """A run without its last epochs, or without a result, is not published."""
    folder = tmp_path / "run"
    shutil.copytree(published.run, folder)
    (folder / "refit.pt").unlink()
    with pytest.raises(RunError, match="0 of 3 epochs"):
        publish(folder, tmp_path / "models")
    (folder / record.RESULT).unlink()
    with pytest.raises(RunError, match="not finished"):
        publish(folder, tmp_path / "models")
    assert names(tmp_path) == {"run"}


@pytest.fixture(scope="module")
def worse(published: Published, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run whose network predicts the first class for all images, with its graph exported beside it."""
    folder = tmp_path_factory.mktemp("worse") / "run"
    shutil.copytree(published.run, folder)
    state = checkpoint.load(folder / "refit.pt")
    assert state is not None
    for name, value in state["average"].items():
        if name.startswith("module.5."):  # the last layer
            value.copy_(torch.tensor([1.0, 0.0, 0.0]) if value.ndim == 1 else torch.zeros_like(value))
    checkpoint.save(folder / "refit.pt", state)
    network, result = run.finished(folder)
    recipe = run.recipe_of(folder)
    export(Served(recipe, network, result.calibration), recipe.input.served(), folder / GRAPH)
    return folder


@pytest.fixture
def _exported_worse(worse: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def copy(_served: Served, _spec: InputSpec, path: Path) -> None:
        shutil.copyfile(worse / GRAPH, path)

    monkeypatch.setattr("training.release.publish.export", copy)


@pytest.mark.usefixtures("_exported_worse")
def test_a_worse_model_is_refused_and_leaves_nothing(published: Published, worse: Path, tmp_path: Path) -> None:
    """The error names both accuracies and --force; only the version in service is left."""
    home = tmp_path / "stripes"
    shutil.copytree(published.version, home / "1")
    with pytest.raises(PublishError, match=r"worse: stripes: .*33\.33%.* version 1 .*100\.00%.*--force"):
        publish(worse, tmp_path)
    assert names(home) == {"1"}
    verify(home / "1", read_manifest(home / "1"))


@pytest.mark.usefixtures("_exported_worse")
def test_a_worse_model_is_published_with_force_and_its_card_says_so(
    published: Published, worse: Path, tmp_path: Path
) -> None:
    """With force it becomes the next version, and the comparison is in its card."""
    home = tmp_path / "stripes"
    shutil.copytree(published.version, home / "1")
    second = publish(worse, tmp_path, force=True)
    assert second == home / "2"
    verify(second, read_manifest(second))
    card = (second / CARD).read_text(encoding="utf-8")
    assert "Published with --force, although" in card
    assert "significantly worse" in " ".join(card.split())
    assert "33.33%" in card


@pytest.mark.usefixtures("_exported_before")
def test_a_better_model_needs_no_force(published: Published, tmp_path: Path) -> None:
    """An equal model passes with and without force, and its card has the comparison alone."""
    home = tmp_path / "stripes"
    shutil.copytree(published.version, home / "1")
    for number, force in ((2, False), (3, True)):
        card = (publish(published.run, tmp_path, force=force) / CARD).read_text(encoding="utf-8")
        text = " ".join(card.split())
        assert "--force" not in text
        value = "100.00% (95 % interval 88.6-100.0 %)"
        assert f"accuracy {value}, version {number - 1} has {value}; 0 examples gained, 0 lost, p = 1" in text
    assert "no version was in service" in (published.version / CARD).read_text("utf-8")


def test_a_graph_that_is_not_the_network_is_refused(published: Published) -> None:
    """The check gives the graph's probabilities if torch agrees, and refuses a network of another temperature."""
    test, session = published.data.tests["stripes"], published.session()
    actual = check_parity(published.served(), session, test)
    np.testing.assert_array_equal(actual, evaluate.probabilities(session, test))
    with pytest.raises(PublishError, match="disagree: 0 of 30 labels"):
        check_parity(published.served(temperature=9.0), session, test)


def test_the_recipe_in_the_manifest_is_plain_json(published: Published) -> None:
    """The recipe in the manifest equals the recipe in the run's folder."""
    written = json.loads((published.version / MANIFEST).read_text(encoding="utf-8"))
    assert written["recipe"] == json.loads((published.run / record.RECIPE).read_text(encoding="utf-8"))


def test_wide_windows_and_dropout_scaled_in_evaluation_are_exported(
    recipe_with: Callable[..., Recipe], tmp_path: Path
) -> None:
    """ONNX Runtime's probabilities of texts of any number and length are torch's within 1e-5."""
    recipe = recipe_with(
        input={"kind": "text", "length": 9, "vocabulary": 30},
        layers=[
            {"embedding": 6},
            {"windows": [2, 4], "filters": 5, "over_time": "both", "wide": True},
            {"dropout": 0.5, "scale_in": "evaluation"},
            {"dense": 3, "activation": "softmax"},
        ],
    )
    torch.manual_seed(0)
    served = Served(recipe, build(recipe), Calibration(0.5))
    export(served, recipe.input.served(), tmp_path / GRAPH)
    session = onnxruntime.InferenceSession(tmp_path / GRAPH, providers=["CPUExecutionProvider"])
    for tokens in ([[3, 7, 0], [5, 1, 4]], [[2]], [[9, 8, 7, 6, 5, 4, 3, 2, 1]]):
        (actual,) = session.run(None, {"tokens": np.array(tokens)})
        with torch.inference_mode():
            np.testing.assert_allclose(actual, served(torch.tensor(tokens)), rtol=0, atol=1e-5)
