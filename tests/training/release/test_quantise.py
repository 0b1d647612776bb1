"""Quantisation of a published version: the next version, what is refused, and that failures leave no files."""

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper

from contract.manifest import CARD, GOLDEN, GRAPH, MANIFEST, Precision, sha256, verify
from contract.manifest import read as read_manifest
from contract.session import Session
from tests import reviews
from training.data import catalogue
from training.data.dataset import Split
from training.errors import PublishError
from training.recipe.schema import Recipe
from training.release import quantise as module
from training.release.quantise import quantise

DIGITS = Path(__file__).resolve().parents[3] / "models/digits/1"


@pytest.fixture(scope="module")
def blots() -> Split:
    """Blots for which `models/digits/1` is confident, labelled with its predictions: its accuracy is 100 %."""
    draw = torch.Generator().manual_seed(0)
    rough = torch.rand(2000, 1, 7, 7, generator=draw) * torch.rand(2000, 1, 1, 1, generator=draw)
    smooth = torch.nn.functional.interpolate(rough, size=(28, 28), mode="bilinear")
    inputs = (smooth.permute(0, 2, 3, 1) * 255).to(torch.uint8).contiguous()  # (N, 28, 28, 1)
    rows = Session(DIGITS / GRAPH, read_manifest(DIGITS), provider="cpu").run(inputs.numpy())
    sure = torch.from_numpy(rows.max(axis=1) > 0.9)
    assert int(sure.sum()) > 100
    return Split(inputs[sure], torch.from_numpy(rows.argmax(axis=1))[sure])


@pytest.fixture
def home(tmp_path: Path, blots: Split, monkeypatch: pytest.MonkeyPatch) -> Path:
    """models/digits with its version 1, and the blots in place of MNIST."""
    fingerprint = read_manifest(DIGITS).dataset_fingerprint
    monkeypatch.setattr("training.release.gate.catalogue.tests", lambda *_: {"blots": blots})
    monkeypatch.setattr("training.release.quantise.catalogue.sample", lambda *_: (blots.first(60), fingerprint))
    return shutil.copytree(DIGITS, tmp_path / "digits/1").parent


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def contents(split: Split) -> set[bytes]:
    return {image.numpy().tobytes() for image in split.inputs}


@pytest.mark.parametrize("precision", ["int8", "float16"])
def test_the_next_version_has_the_network_twice(home: Path, precision: Precision, blots: Split) -> None:
    """It has the same bytes in float32 and the variant, both hashed, measured, replayed and on the card."""
    folder = quantise(home / "1", precision)  # type: ignore[arg-type]
    old, new = read_manifest(home / "1"), read_manifest(folder)
    verify(folder, new)
    assert (folder, new.version, new.precisions) == (home / "2", 2, ["float32", precision])
    assert names(folder) == {*new.files, MANIFEST}
    assert new.files[GRAPH] == old.files[GRAPH]
    assert new.test_metrics == old.test_metrics
    assert new.metrics(precision)["blots"].n == len(blots)
    session = Session(folder / new.graph(precision), new, provider="cpu", precision=precision)
    session.replay(folder)
    card = (folder / CARD).read_text(encoding="utf-8")
    assert card.startswith("# digits, version 2\n")
    assert "models/digits/1" not in card
    assert f"| blots, {precision} | {len(blots):,} |" in card
    assert ("items/s" in card) == (precision == "int8")


def test_weights_are_in_eight_bits_without_the_last(home: Path) -> None:
    """Convolutions have int8 weights within 7 bits, whose products overflow on no processor."""
    folder = quantise(home / "1", "int8")
    graph = onnx.load(folder / "model.int8.onnx").graph
    stored = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    filters = [values for values in stored.values() if values.dtype == np.int8 and values.ndim == 4]
    assert len(filters) == 2
    assert all(np.abs(values.astype(int)).max() <= 64 for values in filters)


def test_a_variant_gives_nearly_what_float32_gives(home: Path, blots: Split) -> None:
    """Probabilities differ by less than 0.1 on images that it was not calibrated on."""
    folder = quantise(home / "1", "int8")
    manifest = read_manifest(folder)
    rest = blots.inputs[60:].numpy()
    exact, rough = (
        Session(folder / manifest.graph(precision), manifest, provider="cpu", precision=precision).run(rest)
        for precision in manifest.precisions
    )
    assert 0 < np.abs(exact - rough).max() < 0.1


def test_a_variant_that_loses_too_much_is_refused(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The error names both accuracies, and only the version before is left."""

    def spoil(source: Path, target: Path, _examples: Split) -> None:
        graph = onnx.load(source)
        bias = next(tensor for tensor in graph.graph.initializer if tensor.name == "network.12.bias")
        bias.CopyFrom(numpy_helper.from_array(np.eye(10, dtype=np.float32)[0] * 1e3, bias.name))
        onnx.save(graph, target)

    monkeypatch.setattr(module, "write_int8", spoil)
    with pytest.raises(PublishError, match=r"int8 .*blots: .*%, float32 has 100\.00% \(maximum loss 0\.3%\)"):
        quantise(home / "1", "int8")
    assert names(home) == {"1"}


def test_another_data_set_is_refused(home: Path, blots: Split, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ranges are not taken from data that may contain test examples: the error names both fingerprints."""
    monkeypatch.setattr("training.release.quantise.catalogue.sample", lambda *_: (blots, "sha256:other"))
    with pytest.raises(PublishError, match=r"data set is sha256:other.* trained on sha256:"):
        quantise(home / "1", "int8")
    assert names(home) == {"1"}


def test_a_version_that_cannot_be_used_is_refused(home: Path) -> None:
    """A variant that exists already, a changed file, and a network with other outputs than the golden file."""
    second = quantise(home / "1", "int8")
    with pytest.raises(PublishError, match="already has a variant in int8"):
        quantise(second, "int8")
    (second / CARD).write_text("other")
    with pytest.raises(PublishError, match=f"{second / CARD}: "):
        quantise(second, "float16")
    with np.load(home / "1" / GOLDEN) as golden:
        np.savez(home / "1" / GOLDEN, inputs=golden["inputs"], probabilities=golden["probabilities"][:, ::-1])
    manifest = read_manifest(home / "1")
    hashes = {**manifest.files, GOLDEN: sha256(home / "1" / GOLDEN)}
    manifest.model_copy(update={"files": hashes}).write(home / "1")
    with pytest.raises(PublishError, match="golden"):
        quantise(home / "1", "int8")
    assert names(home) == {"1", "2"}


def test_a_layer_of_ngrams_is_not_converted_to_float16() -> None:
    """Its fingerprints need 24 bits: the error comes before any file is written."""
    with pytest.raises(PublishError, match=r"ngrams.*float16"):
        quantise(DIGITS.parents[1] / "reviews/2", "float16")


@pytest.mark.parametrize("where", ["write_int8", "pass_gate", "race", "place"])
def test_a_quantisation_that_fails_leaves_nothing(home: Path, where: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """After a full disk at any step, only the version before is left, and it is complete."""

    def fail(*_: Any, **__: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(module, where, fail)
    with pytest.raises(PublishError, match="No space left on device"):
        quantise(home / "1", "int8")
    assert names(home) == {"1"}
    verify(home / "1", read_manifest(home / "1"))


def test_a_version_can_have_two_variants(home: Path) -> None:
    """int8 and float16 of one network are in one version, each with its own golden outputs."""
    third = quantise(quantise(home / "1", "int8"), "float16")
    manifest = read_manifest(third)
    assert manifest.precisions == ["float32", "int8", "float16"]
    for precision in manifest.precisions:
        Session(third / manifest.graph(precision), manifest, provider="cpu", precision=precision).replay(third)
    assert (third / CARD).read_text(encoding="utf-8").count("## In ") == 2


def test_texts_are_calibrated_at_their_own_lengths(tmp_path: Path) -> None:
    """Each text is a batch by itself, without padding, in int64; an empty text has one token."""
    tokens = torch.tensor([[3, 4, 0, 0], [5, 0, 0, 0], [0, 0, 0, 0]], dtype=torch.int32)
    fed = [feed["tokens"] for feed in module.feeds(Split(tokens, torch.zeros(3, dtype=torch.int64)))]
    assert [feed.tolist() for feed in fed] == [[[3, 4]], [[5]], [[0]]]
    version = reviews.publish(tmp_path)
    session = Session(version / GRAPH, read_manifest(version), provider="cpu")
    assert all(session.run(feed).shape == (1, 2) for feed in fed)


@pytest.mark.data
@pytest.mark.usefixtures("mnist_folder")
def test_calibration_takes_training_examples_only() -> None:
    """All examples are images of the training split, and none is in the test split."""
    examples = module.examples_of(read_manifest(DIGITS), DIGITS)
    assert len(examples) == module.EXAMPLES
    recipe = Recipe.model_validate(read_manifest(DIGITS).recipe)
    data = catalogue.load(recipe.data, recipe.input, recipe.labels)
    assert contents(examples) <= contents(data.train)
    assert not contents(examples) & contents(data.tests["mnist"])
