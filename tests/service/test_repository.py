"""models/ to served versions."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from tokenizers import Tokenizer

from service import manifest as contract
from service.errors import ModelNotFound, NotReady
from service.metrics import Metrics
from service.repository import Repository
from service.settings import Settings
from tests import reviews


def repository(models: Path) -> Repository:
    """A repository over a folder, not loaded yet."""
    return Repository(Settings(models=models, provider="cpu"), Metrics())


def add_version(version: Path, number: int) -> Path:
    """A copy of a version under another number."""
    copy = Path(shutil.copytree(version, version.parent / str(number)))
    content = json.loads((copy / contract.MANIFEST).read_text())
    (copy / contract.MANIFEST).write_text(json.dumps({**content, "version": number}))
    return copy


def test_nothing_is_served_before_it_is_loaded(version: Path) -> None:
    """Until the models are loaded, every question is answered 'not yet'."""
    shelf = repository(version.parents[1])
    assert not shelf.ready
    with pytest.raises(NotReady):
        shelf.get("digits")
    shelf.load()
    assert shelf.get("digits").number == "1"


def test_the_highest_version_is_served(version: Path) -> None:
    """Versions are numbers: 10 is above 9, and above 2."""
    for number in (2, 10, 9):
        add_version(version, number)
    shelf = repository(version.parents[1])
    shelf.load()
    assert shelf.get("digits").number == "10"


def test_who_is_served_is_ready_before_the_versions_below(version: Path) -> None:
    """The start waits for the highest good version of each model; the others come right after."""
    for number in (2, 3):
        add_version(version, number)
    (version.parent / "3" / contract.GRAPH).write_bytes(b"garbage")
    shelf = repository(version.parents[1])
    seen: list[tuple[bool, list[str]]] = []
    shelf.load(lambda: seen.append((shelf.ready, shelf.numbers("digits"))))
    assert seen == [(True, ["2"])]
    assert shelf.numbers("digits") == ["1", "2"]
    assert list(shelf.refused["digits"]) == ["3"]


def test_a_broken_version_leaves_the_one_below_it_in_service(version: Path) -> None:
    """The reason is kept; the highest version that passes its checks is served."""
    (add_version(version, 3) / contract.GRAPH).write_bytes(b"garbage")
    add_version(version, 2)
    shelf = repository(version.parents[1])
    shelf.load()
    assert shelf.ready
    assert shelf.get("digits").number == "2"
    assert list(shelf.refused) == ["digits"]
    assert "SHA-256" in shelf.refused["digits"]["3"]


def test_a_folder_that_is_not_the_manifests_is_refused(version: Path) -> None:
    """A version moved to another name or number would lie about what it is."""
    version.rename(version.parent / "2")
    shelf = repository(version.parents[1])
    shelf.load()
    assert "the folder names must agree" in shelf.refused["digits"]["2"]


def test_a_model_without_a_good_version_keeps_the_service_unready(version: Path) -> None:
    """A model that nobody can ask is told apart from one that does not exist."""
    (version / contract.GRAPH).write_bytes(b"garbage")
    shelf = repository(version.parents[1])
    shelf.load()
    assert not shelf.ready
    with pytest.raises(NotReady, match="no version of model 'digits' passed"):
        shelf.get("digits")
    with pytest.raises(ModelNotFound, match="there is no model 'dogs'"):
        shelf.get("dogs")


@pytest.mark.parametrize("name", ["0", "01", "-1", "one", ".publishing-x", "1.bak", "\u0661"])
def test_only_positive_integers_are_versions(version: Path, name: str) -> None:
    """Half-made and foreign folders are not looked at."""
    shutil.copytree(version, version.parent / name)
    shelf = repository(version.parents[1])
    shelf.load()
    assert shelf.get("digits").number == "1"
    assert shelf.refused == {}


def test_an_empty_or_missing_folder_is_not_ready(tmp_path: Path) -> None:
    """No models: not ready, and an answer that says that nothing is served."""
    for models in (tmp_path, tmp_path / "none"):
        shelf = repository(models)
        shelf.load()
        assert not shelf.ready
        with pytest.raises(ModelNotFound, match="served are: none"):
            shelf.get("digits")


def test_a_model_of_texts_comes_with_its_tokenizer(version: Path) -> None:
    """Both kinds are served side by side; only the one that takes texts has a tokenizer, the one of its folder."""
    reviews.publish(version.parents[1])
    shelf = repository(version.parents[1])
    shelf.load()
    assert shelf.ready
    assert shelf.get("digits").tokenizer is None
    tokenizer = shelf.get("reviews").tokenizer
    assert tokenizer is not None
    assert tokenizer.encode("Good film").ids == [3, 2]


def padding() -> str:
    """A tokenizer that pads by itself."""
    tokenizer = reviews.tokenizer()
    tokenizer.enable_padding()
    return tokenizer.to_str()


def truncating() -> str:
    """A tokenizer that cuts by itself."""
    tokenizer = reviews.tokenizer()
    tokenizer.enable_truncation(5)
    return tokenizer.to_str()


def added() -> str:
    """A tokenizer with one word more than the graph has embeddings for."""
    tokenizer: Tokenizer = reviews.tokenizer()
    tokenizer.add_tokens(["more"])
    return tokenizer.to_str()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (lambda: "{}", "cannot be read as a tokenizer"),
        (lambda: "", "cannot be read as a tokenizer"),
        (padding, "pads or truncates by itself"),
        (truncating, "pads or truncates by itself"),
        (added, "holds id 7, but the graph takes ids below 7 only"),
    ],
)
def test_a_tokenizer_that_does_not_fit_is_refused(tmp_path: Path, words: Callable[[], str], said: str) -> None:
    """One that cannot be read, knows more ids than the graph, or pads and cuts by itself, is refused by name."""
    reviews.publish(tmp_path, words=words())
    shelf = repository(tmp_path)
    shelf.load()
    assert not shelf.ready
    assert said in shelf.refused["reviews"]["1"]
    assert contract.TOKENIZER in shelf.refused["reviews"]["1"]


def test_a_tokenizer_that_is_no_utf8_is_refused(tmp_path: Path) -> None:
    """Bytes that are no text give a refusal, never another exception."""
    version = reviews.publish(tmp_path)
    (version / contract.TOKENIZER).write_bytes(b"\xff\xfe")
    content = json.loads((version / contract.MANIFEST).read_text())
    content["files"][contract.TOKENIZER] = contract.sha256(version / contract.TOKENIZER)
    (version / contract.MANIFEST).write_text(json.dumps(content))
    shelf = repository(tmp_path)
    shelf.load()
    assert "cannot be read as a tokenizer" in shelf.refused["reviews"]["1"]
