"""models/ -> served versions."""

import errno
import json
import os
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
from service.inference.repository import Repository
from service.inference.version import Version, open_version
from service.settings import Settings
from service.telemetry.metrics import Metrics
from tests import reviews
from tests.drawing import encode, mnist_like


def repository(folder: Path) -> Repository:
    """A repository of a folder, not loaded yet."""
    return Repository(Settings(models=folder, provider="cpu"), Metrics())


def add_version(version: Path, number: int) -> Path:
    """A copy of a version with another number."""
    copy = Path(shutil.copytree(version, version.parent / str(number)))
    content = json.loads((copy / contract.MANIFEST).read_text())
    (copy / contract.MANIFEST).write_text(json.dumps({**content, "version": number}))
    return copy


def test_nothing_is_served_before_it_is_loaded(version: Path) -> None:
    """No model is ready until the models are loaded."""
    models = repository(version.parents[1])
    assert not models.ready
    with pytest.raises(NotReady):
        models.get("digits")
    models.load()
    assert models.get("digits").number == "1"


def test_the_highest_version_is_served(version: Path) -> None:
    """Versions are compared as numbers: 10 is above 9 and 2."""
    for number in (2, 10, 9):
        add_version(version, number)
    models = repository(version.parents[1])
    models.load()
    assert models.get("digits").number == "10"


def test_the_served_versions_are_ready_before_the_versions_below(version: Path) -> None:
    """The start waits for the highest good version of each model only; the others are loaded right after."""
    for number in (2, 3):
        add_version(version, number)
    (version.parent / "3" / contract.GRAPH).write_bytes(b"garbage")
    models = repository(version.parents[1])
    states: list[tuple[bool, list[str]]] = []
    models.load(lambda: states.append((models.ready, models.numbers("digits"))))
    assert states == [(True, ["2"])]
    assert models.numbers("digits") == ["1", "2"]
    assert list(models.refused["digits"]) == ["3"]


def test_a_version_that_is_still_loading_is_not_ready(version: Path) -> None:
    """A request for it is answered 'not ready' rather than 'not found'."""
    add_version(version, 2)
    models = repository(version.parents[1])

    def request() -> None:
        with pytest.raises(NotReady, match="'digits' other than 2"):
            models.get("digits", "1")

    models.load(request)
    assert models.get("digits", "1").number == "1"
    with pytest.raises(ModelNotFound, match="loaded versions: 1, 2"):
        models.get("digits", "3")


def test_a_version_that_is_completed_while_it_is_loaded_is_tried_again(
    version: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Half a file is refused; the next scan finds the complete file, whenever its last byte was written."""
    graph = version / contract.GRAPH
    content = graph.read_bytes()
    graph.write_bytes(content[:1000])

    def slow(folder: Path, settings: Settings) -> Version:
        try:
            return open_version(folder, settings)
        finally:
            graph.write_bytes(content)

    monkeypatch.setattr(module, "open_version", slow)
    models = repository(version.parents[1])
    models.load()
    assert models.ready
    assert models.get("digits").number == "1"


def test_a_failure_of_the_machine_is_not_remembered(version: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A provider that fails once does not prevent later loading."""
    calls = []

    def fail_first(folder: Path, settings: Settings) -> Version:
        calls.append(folder)
        if len(calls) == 1:
            raise ProviderError("busy")
        return open_version(folder, settings)

    monkeypatch.setattr(module, "open_version", fail_first)
    models = repository(version.parents[1])
    with pytest.raises(ProviderError):
        models.load()
    models.scan()
    assert models.get("digits").number == "1"


def test_a_failure_below_the_served_version_is_repaired(version: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The start ends without the versions below; the next scan loads them, and they are ready."""
    add_version(version, 2)
    fails = [True]

    def fail(folder: Path, settings: Settings) -> Version:
        if folder.name == "1" and fails:
            raise ProviderError("busy")
        return open_version(folder, settings)

    monkeypatch.setattr(module, "open_version", fail)
    models = repository(version.parents[1])
    with pytest.raises(ProviderError):
        models.load()
    assert models.ready
    fails.clear()
    models.scan()
    assert models.get("digits", "1").number == "1"
    with pytest.raises(ModelNotFound):
        models.get("digits", "3")


def test_a_broken_version_leaves_the_version_below_in_service(version: Path) -> None:
    """The reason is kept, and the highest version that passes its checks is served."""
    (add_version(version, 3) / contract.GRAPH).write_bytes(b"garbage")
    add_version(version, 2)
    models = repository(version.parents[1])
    models.load()
    assert models.ready
    assert models.get("digits").number == "2"
    assert list(models.refused) == ["digits"]
    assert "SHA-256" in models.refused["digits"]["3"]


def test_a_folder_that_is_not_the_manifests_is_refused(version: Path) -> None:
    """A version in a folder with another name or number is refused."""
    version.rename(version.parent / "2")
    models = repository(version.parents[1])
    models.load()
    assert "version 1" in models.refused["digits"]["2"]


def test_a_model_without_a_good_version_is_not_ready(version: Path) -> None:
    """The service is not ready either; a model that does not exist is 'not found'."""
    (version / contract.GRAPH).write_bytes(b"garbage")
    models = repository(version.parents[1])
    models.load()
    assert not models.ready
    with pytest.raises(NotReady, match="no version of model 'digits' passed"):
        models.get("digits")
    with pytest.raises(ModelNotFound, match="unknown model 'dogs'"):
        models.get("dogs")


@pytest.mark.parametrize("name", ["0", "01", "-1", "one", ".publishing-x", "1.bak", "\u0661"])
def test_only_positive_integers_are_versions(version: Path, name: str) -> None:
    """Unfinished and other folders are ignored."""
    shutil.copytree(version, version.parent / name)
    models = repository(version.parents[1])
    models.load()
    assert models.get("digits").number == "1"
    assert models.refused == {}


def test_an_empty_or_missing_folder_is_not_ready(tmp_path: Path) -> None:
    """Without models the service is not ready, and every model is unknown."""
    for folder in (tmp_path, tmp_path / "none"):
        models = repository(folder)
        models.load()
        assert not models.ready
        with pytest.raises(ModelNotFound, match="available models: none"):
            models.get("digits")


def test_models_of_images_and_texts_are_served_side_by_side(version: Path) -> None:
    """Each has its own preprocessing: images their size and framing, texts the tokenizer of their folder."""
    reviews.publish(version.parents[1])
    models = repository(version.parents[1])
    models.load()
    assert models.ready
    assert models.get("digits").preprocessor.decode(encode(mnist_like(1))).shape == (28, 28, 1)
    assert models.get("reviews").preprocessor.decode("Good film").tolist() == [3, 2]


def padding() -> str:
    """A tokenizer that pads."""
    tokenizer = reviews.tokenizer()
    tokenizer.enable_padding()
    return tokenizer.to_str()


def truncating() -> str:
    """A tokenizer that truncates."""
    tokenizer = reviews.tokenizer()
    tokenizer.enable_truncation(5)
    return tokenizer.to_str()


def added() -> str:
    """A tokenizer with one word more than the graph has embeddings."""
    tokenizer: Tokenizer = reviews.tokenizer()
    tokenizer.add_tokens(["more"])
    return tokenizer.to_str()


@pytest.mark.parametrize(
    ("tokenizer_json", "fact"),
    [
        (lambda: "{}", "cannot be read as a tokenizer"),
        (lambda: "", "cannot be read as a tokenizer"),
        (padding, "pads or truncates"),
        (truncating, "pads or truncates"),
        (added, "id 7, but the graph only takes ids below 7"),
    ],
)
def test_a_tokenizer_that_does_not_fit_is_refused(tmp_path: Path, tokenizer_json: Callable[[], str], fact: str) -> None:
    """A tokenizer that cannot be read, has more ids than the graph, pads or truncates; the message names the file."""
    reviews.publish(tmp_path, tokenizer_json=tokenizer_json())
    models = repository(tmp_path)
    models.load()
    assert not models.ready
    assert fact in models.refused["reviews"]["1"]
    assert TOKENIZER in models.refused["reviews"]["1"]


def test_a_tokenizer_that_is_not_utf_8_is_refused(tmp_path: Path) -> None:
    """Bytes that are not text raise no other exception."""
    version = reviews.publish(tmp_path)
    (version / TOKENIZER).write_bytes(b"\xff\xfe")
    content = json.loads((version / contract.MANIFEST).read_text())
    content["files"][TOKENIZER] = contract.sha256(version / TOKENIZER)
    (version / contract.MANIFEST).write_text(json.dumps(content))
    models = repository(tmp_path)
    models.load()
    assert "cannot be read as a tokenizer" in models.refused["reviews"]["1"]


@pytest.mark.parametrize("place", ["digits", "digits/1", "..", "nothing", "empty", "file"])
def test_a_wrong_folder_is_explained(version: Path, place: str, caplog: pytest.LogCaptureFixture) -> None:
    """The message names the setting and, where models are near, its right value; no warning is repeated."""
    folder = version.parents[1]
    (version.parents[2] / "empty").mkdir()
    (version.parents[2] / "file").touch()
    chosen = {"..": folder.parent, "empty": folder.parent / "empty", "file": folder.parent / "file"}.get(
        place, folder / place
    )
    models = repository(chosen)
    models.load()
    assert not models.ready
    (message,) = [record.getMessage() for record in caplog.records if "CONVOKE_MODELS" in record.getMessage()]
    assert str(chosen) in message
    assert message.endswith(f"set it to {folder}") == (place in {"digits", "digits/1", ".."})
    before = len(caplog.records)
    for _ in range(3):
        models.scan()
    assert len(caplog.records) == before


def test_a_folder_that_the_user_may_not_open_is_explained(
    version: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """As a volume of another user: the message names the user and what to do, and the next scan may find the models."""

    def refuse(self: Path) -> bool:
        raise PermissionError(errno.EACCES, "Permission denied", str(self))

    empty = repository(version.parents[1] / "none")
    with monkeypatch.context() as patch:
        patch.setattr(Path, "is_dir", refuse)
        empty.load()
    assert f"cannot be read by user {os.getuid()}: Permission denied" in caplog.text


def test_a_folder_without_versions_is_named_unless_it_holds_notes_alone(
    version: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A model's folder that somebody fills is named; what a refused first publication leaves is not worth a line."""
    root = version.parents[1]
    (root / "empty").mkdir()
    (root / "refused").mkdir()
    (root / "refused" / ".test-uses.jsonl").write_text("{}\n")
    repository(root).load()
    warnings = [record.getMessage() for record in caplog.records if "passed over" in record.getMessage()]
    assert warnings == [f"{root}/empty has no folder of a version, such as {root}/empty/1, and is passed over"]
