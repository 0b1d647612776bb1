"""Labels are matched by name, for every data source and every command that reads one.

Each example shows its label: photos are dark (cat) or bright (dog), the pixels of a digit are 25 times its value, and
reviews hold "good" or "bad".
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from tokenizers import Tokenizer

from contract.manifest import GRAPH, Manifest, Metrics
from contract.manifest import read as read_manifest
from contract.session import Session
from contract.spec import TOKENIZER, ImageInput, TextInput
from tests.drawing import encode
from tests.training.data import layouts
from training.data import catalogue
from training.data.dataset import Dataset, Split
from training.data.folders import cache_folder
from training.errors import DataError, RecipeError
from training.recipe.schema import Recipe
from training.release import gate
from training.release.publish import publish
from training.release.quantise import examples_of
from training.runs import run

DIGITS = tuple(map(str, range(10)))
IMAGE = {"height": 6, "width": 9, "mode": "RGB", "framing": "squash", "mean": [0.5] * 3, "std": [0.2] * 3}
DIGIT = {"height": 28, "width": 28, "mode": "L", "framing": "mnist", "mean": [0.5], "std": [0.2]}
TEXT = {"kind": "text", "length": 20, "vocabulary": 9000}
FLAT = [{"flatten": True}]
WINDOWS = [{"embedding": 4}, {"windows": [1], "filters": 4}]


def photos(count: int, seed: int) -> list[layouts.Example]:
    """Alternating dark cats and bright dogs: noise, 12 wide and 8 high."""
    draw = np.random.default_rng(seed)
    pixels = draw.integers(0, 60, (count, 8, 12, 3), dtype=np.uint8)
    pixels[1::2] += 190
    return [(encode(Image.fromarray(each), "PNG"), number % 2) for number, each in enumerate(pixels)]


def text(number: int, label: int) -> str:
    """A sentence of unique words, and the word that shows its label."""
    return " ".join(f"w{number}x{place}" for place in range(9)) + (" good" if label else " bad")


def texts(count: int, start: int) -> list[tuple[int, str]]:
    return [(number % 2, text(start + number, number % 2)) for number in range(count)]


def mnist(root: Path) -> None:
    for split, count in (("train", 400), ("t10k", 40)):
        labels = (np.arange(count) % 10).astype(np.uint8)
        pixels = np.repeat(labels * 25, 28 * 28).reshape(count, 28, 28)
        pixels[:, 0, 0], pixels[:, 0, 1] = np.arange(count) % 256, np.arange(count) // 256
        raw = root / "mnist" / "MNIST" / "raw"
        layouts.write(raw / f"{split}-images-idx3-ubyte", layouts.idx(pixels))
        layouts.write(raw / f"{split}-labels-idx1-ubyte", layouts.idx(labels))


def imdb(root: Path) -> None:
    layouts.imdb(root, {
        f"{split}/{('neg', 'pos')[label]}/{number}_5.txt": content
        for split, count, start in (("train", 300, 0), ("test", 20, 1000))
        for number, (label, content) in enumerate(texts(count, start))
    })  # fmt: skip


def mr(root: Path) -> None:
    layouts.mr(root, *[[text(2000 + 2 * n + label, label) for n in range(150)] for label in (0, 1)])


def sst2(root: Path) -> None:
    layouts.sst2(root, {"train": texts(200, 3000), "dev": texts(20, 4000), "test": texts(20, 5000)})


def reviews(root: Path) -> None:
    for write in (imdb, mr, sst2):
        write(root)


def photos_in(layout: Callable[..., None]) -> Callable[[Path], None]:
    return lambda root: layout(root, photos(200, 1), photos(20, 2))


SOURCES: dict[str, tuple[str, Callable[[Path], None]]] = {
    "mnist": ("mnist", mnist),
    "folders": ("cats-vs-dogs", photos_in(layouts.folders)),
    "kaggle": ("cats-vs-dogs", photos_in(layouts.kaggle)),
    "microsoft": ("cats-vs-dogs", photos_in(layouts.microsoft)),
    "oxford": ("oxford-pets", photos_in(layouts.oxford)),
    "imdb": ("imdb", imdb),
    "mr": ("mr", mr),
    "sst2": ("sst2", sst2),
    "reviews": ("reviews", reviews),
}
LABELS = {"mnist": DIGITS, "cats-vs-dogs": ("cat", "dog"), "oxford-pets": ("cat", "dog")}


@pytest.fixture(params=SOURCES)
def source(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The name of a data set, whose files are written."""
    monkeypatch.setenv("CONVOKE_DATA", str(tmp_path / "data"))
    monkeypatch.setenv("CONVOKE_CACHE", str(tmp_path / "cache"))
    name, write = SOURCES[request.param]
    (tmp_path / "data").mkdir()
    write(tmp_path / "data")
    return name


@pytest.fixture
def recipe(source: str, recipe_with: Callable[..., Recipe]) -> Recipe:
    """A recipe for the data set, with its labels in reverse order."""
    return reversed_recipe(source, recipe_with)


def reversed_recipe(source: str, recipe_with: Callable[..., Recipe], **changes: Any) -> Recipe:
    labels = list(LABELS.get(source, ("negative", "positive"))[::-1])
    is_text = source not in LABELS
    table: dict[str, Any] = {
        "labels": labels,
        "layers": [*(WINDOWS if is_text else FLAT), {"dense": len(labels), "activation": "none"}],
        "input": TEXT if is_text else DIGIT if source == "mnist" else IMAGE,
        "data": {"name": source, "validation": 100},
    }
    return recipe_with(**{**table, **changes})


def shown(split: Split, source: str, tokenizer: str | None) -> list[str]:
    """The labels that the examples show."""
    if source == "mnist":
        return [str(int(image[14, 14, 0]) // 25) for image in split.inputs]
    if tokenizer is None:
        return ["dog" if image.float().mean() > 128 else "cat" for image in split.inputs]
    good = Tokenizer.from_str(tokenizer).token_to_id("good")
    return ["positive" if good in row else "negative" for row in split.inputs]


def named(split: Split, labels: list[str]) -> list[str]:
    return [labels[number] for number in split.labels.tolist()]


def assert_named(data: Dataset, recipe: Recipe) -> None:
    for split in (data.train, data.validation, *data.tests.values()):
        assert len(split) > 0
        assert named(split, recipe.labels) == shown(split, recipe.data.name, data.tokenizer)


def manifest_of(recipe: Recipe, fingerprint: str = "") -> Manifest:
    """The manifest of a version of the recipe, as far as it is about data."""
    spec = recipe.input
    return Manifest.model_construct(
        input=TextInput(length=spec.length, vocabulary=spec.vocabulary)
        if spec.kind == "text"
        else ImageInput(height=spec.height, width=spec.width, mode=spec.mode, framing=spec.framing),
        labels=recipe.labels,
        dataset=recipe.data.name,
        dataset_fingerprint=fingerprint,
        recipe=recipe.model_dump(),
    )


def test_training_reads_labels_by_name(recipe: Recipe) -> None:
    """In every split, the label of an example in the order of the recipe is the one that the example shows."""
    assert_named(run.load(recipe), recipe)


@pytest.mark.parametrize("source", ["mr"], indirect=True)
def test_folds_read_labels_by_name(
    source: str, recipe_with: Callable[..., Recipe], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The splits of each fold of a cross-validation have the labels that the examples show."""
    recipe = reversed_recipe(source, recipe_with, data={"name": "mr", "validation": 100, "folds": 2}, epochs=1)
    folds: list[Dataset] = []
    load_fold = catalogue.fold

    def recorded(*args: Any) -> Dataset:
        folds.append(load_fold(*args))
        return folds[-1]

    monkeypatch.setattr(catalogue, "fold", recorded)
    run.train(run.start(recipe, tmp_path / "runs"))
    assert len(folds) == 2
    for data in folds:
        assert_named(data, recipe)


def test_a_published_version_is_measured_by_name(recipe: Recipe, tmp_path: Path) -> None:
    """Evaluation and gate number the test splits in the order of the manifest."""
    tokenizer = run.load(recipe).tokenizer
    (tmp_path / TOKENIZER).write_text(tokenizer or "")
    tests = gate.tests_of(manifest_of(recipe), tmp_path)
    assert tests
    for split in tests.values():
        assert named(split, recipe.labels) == shown(split, recipe.data.name, tokenizer)


def test_quantisation_samples_by_name(recipe: Recipe, tmp_path: Path) -> None:
    """The sample is numbered in the order of the manifest, on which the fingerprint does not depend."""
    data = run.load(recipe)
    assert run.load(recipe.model_copy(update={"labels": recipe.labels[::-1]})).fingerprint == data.fingerprint
    examples = examples_of(manifest_of(recipe, data.fingerprint), tmp_path)
    assert named(examples, recipe.labels) == shown(examples, recipe.data.name, data.tokenizer)


@pytest.mark.parametrize("source", ["folders"], indirect=True)
def test_the_cache_has_no_labels(recipe: Recipe) -> None:
    """Photos that were decoded with one order of labels are read from the cache with another, correctly labelled."""
    other = recipe.model_copy(update={"labels": recipe.labels[::-1]})
    assert_named(run.load(other), other)
    before = sorted((path.name, path.stat().st_mtime_ns) for path in cache_folder().iterdir())
    assert_named(run.load(recipe), recipe)
    assert sorted((path.name, path.stat().st_mtime_ns) for path in cache_folder().iterdir()) == before


@pytest.mark.parametrize("source", ["folders"], indirect=True)
def test_a_version_with_another_order_predicts_by_name(
    source: str, recipe_with: Callable[..., Recipe], tmp_path: Path
) -> None:
    """Published with dog before cat, it classifies dark photos as cats; the gate compares it with cat before dog."""
    recipe = reversed_recipe(source, recipe_with, optimiser={"name": "adam", "learning_rate": 0.01})
    folder = publish(run_of(recipe, tmp_path), tmp_path / "models")
    manifest = read_manifest(folder)
    session = Session(folder / GRAPH, manifest, provider="cpu")
    dark = np.full((1, 6, 9, 3), 30, np.uint8)
    assert manifest.labels[session.run(dark).argmax()] == "cat"
    assert manifest.labels[session.run(dark + 190).argmax()] == "dog"
    assert manifest.test_metrics["cats-vs-dogs"] == Metrics(
        **{**manifest.test_metrics["cats-vs-dogs"].model_dump(), "accuracy": 1.0}
    )
    answers = gate.version_answers(session, manifest, folder, manifest)
    turned = manifest.model_copy(update={"labels": manifest.labels[::-1]})
    ours = {name: gate.Answers(each.probabilities[:, ::-1], 1 - each.truth) for name, each in answers.items()}
    (comparison,), _, _ = gate.compare(ours, turned, folder.parent)
    assert (comparison.gained, comparison.lost, comparison.ours.value) == (0, 0, 1.0)


def run_of(recipe: Recipe, place: Path) -> Path:
    folder = run.start(recipe, place / "runs")
    run.train(folder)
    return folder


@pytest.mark.parametrize(
    ("labels", "unknown", "missing"),
    [
        (["cat", "wolf"], "wolf", "dog"),
        (["cat", "dog", "wolf"], "wolf", "none"),
        (["Cat", "Dog"], "Cat, Dog", "cat, dog"),
    ],
)
@pytest.mark.parametrize("source", ["folders"], indirect=True)
def test_other_labels_are_refused_by_name(
    labels: list[str], unknown: str, missing: str, source: str, recipe_with: Callable[..., Recipe], tmp_path: Path
) -> None:
    """The error names the labels of recipe and data, the unknown and the missing ones; no photo is decoded."""
    layers = [{"flatten": True}, {"dense": len(labels), "activation": "none"}]
    recipe = reversed_recipe(source, recipe_with, labels=labels, layers=layers)
    for command in (
        lambda: run.load(recipe),
        lambda: gate.tests_of(manifest_of(recipe), tmp_path),
        lambda: examples_of(manifest_of(recipe), tmp_path),
    ):
        with pytest.raises(RecipeError) as refusal:
            command()
        message = str(refusal.value)
        assert all(part in message for part in (", ".join(labels), "cat, dog", source))
        assert f"unknown: {unknown};" in message
        assert f"missing: {missing})" in message
    assert not cache_folder().exists()


@pytest.mark.parametrize("name", catalogue.LOADERS)
def test_a_missing_label_is_refused_for_every_data_set(name: str, recipe_with: Callable[..., Recipe]) -> None:
    """A recipe without one of the labels is refused before the data is read."""
    recipe = reversed_recipe(name, recipe_with)
    incomplete = recipe.model_copy(update={"labels": recipe.labels[1:]})
    with pytest.raises(RecipeError, match=f"missing: {recipe.labels[0]}"):
        run.load(incomplete)


@pytest.mark.parametrize("source", ["folders"], indirect=True)
def test_a_label_without_an_example_is_refused(recipe: Recipe, tmp_path: Path) -> None:
    """A network cannot learn a class of which the training split has no example."""
    for path in (tmp_path / "data" / "cats-vs-dogs" / "train" / "dog").iterdir():
        path.unlink()
    few = recipe.model_copy(update={"data": recipe.data.model_copy(update={"validation": 10})})
    with pytest.raises(DataError, match="dog"):
        run.load(few)
