"""models/ to served versions."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from tokenizers import Tokenizer

from contract import manifest as contract
from contract.errors import ProviderError
from contract.spec import TOKENIZER
from service.errors import ModelNotFound, NotReady
from service.inference import repository as module
from service.inference.repository import Repository, Version
from service.settings import Settings
from service.telemetry.metrics import Metrics
from tests import reviews
from tests.drawing import encode, mnist_like


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


def test_a_version_below_that_is_still_loading_is_not_ready(version: Path) -> None:
    """Who asks for it meanwhile is told to come back, not that it does not exist."""
    add_version(version, 2)
    shelf = repository(version.parents[1])

    def ask() -> None:
        with pytest.raises(NotReady, match="other versions of model 'digits' than 2 are still being loaded"):
            shelf.get("digits", "1")

    shelf.load(ask)
    assert shelf.get("digits", "1").number == "1"
    with pytest.raises(ModelNotFound, match="loaded are: 1, 2"):
        shelf.get("digits", "3")


def test_a_version_that_becomes_whole_while_it_is_loaded_is_tried_again(
    version: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Half a file is refused; once it is whole the next look finds it, whenever its last byte came."""
    graph = version / contract.GRAPH
    whole = graph.read_bytes()
    graph.write_bytes(whole[:1000])
    opened = module.open_version

    def slow(folder: Path, settings: Settings) -> Version:
        try:
            return opened(folder, settings)
        finally:
            graph.write_bytes(whole)

    monkeypatch.setattr(module, "open_version", slow)
    shelf = repository(version.parents[1])
    shelf.load()
    assert shelf.ready
    assert shelf.get("digits").number == "1"


def test_a_failure_of_the_machine_is_not_remembered(version: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A provider that is busy for a moment does not fail what is loaded later."""
    opened, calls = module.open_version, []

    def busy_at_first(folder: Path, settings: Settings) -> Version:
        calls.append(folder)
        if len(calls) == 1:
            raise ProviderError("busy")
        return opened(folder, settings)

    monkeypatch.setattr(module, "open_version", busy_at_first)
    shelf = repository(version.parents[1])
    with pytest.raises(ProviderError):
        shelf.load()
    shelf.scan()
    assert shelf.get("digits").number == "1"


def test_a_failure_below_what_is_served_is_made_up_for(version: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The start ends without the versions below; the next look loads them, and who asks is no longer put off."""
    add_version(version, 2)
    opened, fails = module.open_version, [True]

    def busy(folder: Path, settings: Settings) -> Version:
        if folder.name == "1" and fails:
            raise ProviderError("busy")
        return opened(folder, settings)

    monkeypatch.setattr(module, "open_version", busy)
    shelf = repository(version.parents[1])
    with pytest.raises(ProviderError):
        shelf.load()
    assert shelf.ready
    fails.clear()
    shelf.scan()
    assert shelf.get("digits", "1").number == "1"
    with pytest.raises(ModelNotFound):
        shelf.get("digits", "3")


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
    """Both kinds are served side by side, each with its own preprocessing: texts with the tokenizer of the folder."""
    reviews.publish(version.parents[1])
    shelf = repository(version.parents[1])
    shelf.load()
    assert shelf.ready
    assert shelf.get("digits").preprocessor.decode(encode(mnist_like(1))).shape == (28, 28, 1)
    assert shelf.get("reviews").preprocessor.decode("Good film").tolist() == [3, 2]


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
        (padding, "pads or truncates"),
        (truncating, "pads or truncates"),
        (added, "id 7, but the graph only takes ids below 7"),
    ],
)
def test_a_tokenizer_that_does_not_fit_is_refused(tmp_path: Path, words: Callable[[], str], said: str) -> None:
    """One that cannot be read, knows more ids than the graph, or pads and cuts by itself, is refused by name."""
    reviews.publish(tmp_path, tokenizer_json=words())
    shelf = repository(tmp_path)
    shelf.load()
    assert not shelf.ready
    assert said in shelf.refused["reviews"]["1"]
    assert TOKENIZER in shelf.refused["reviews"]["1"]


def test_a_tokenizer_that_is_no_utf8_is_refused(tmp_path: Path) -> None:
    """Bytes that are no text give a refusal, never another exception."""
    version = reviews.publish(tmp_path)
    (version / TOKENIZER).write_bytes(b"\xff\xfe")
    content = json.loads((version / contract.MANIFEST).read_text())
    content["files"][TOKENIZER] = contract.sha256(version / TOKENIZER)
    (version / contract.MANIFEST).write_text(json.dumps(content))
    shelf = repository(tmp_path)
    shelf.load()
    assert "cannot be read as a tokenizer" in shelf.refused["reviews"]["1"]
