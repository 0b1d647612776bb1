"""New versions, broken ones and roll-backs while the service serves."""

import contextlib
import json
import os
import shutil
import threading
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest

from contract import manifest as contract
from contract.errors import ModelRefused
from service.errors import ModelNotFound, ReadOnly
from service.inference import repository
from service.inference.repository import WITHDRAWN, Repository
from service.settings import Settings
from service.telemetry.metrics import Metrics
from tests.drawing import encode, mnist_like
from tests.service.inference.test_repository import add_version
from tests.serving import ROOT, Server, make_keys


def loaded(models: Path, versions: int = 2) -> Repository:
    """A repository over a folder, loaded."""
    shelf = Repository(Settings(models=models, provider="cpu", versions=versions), Metrics())
    shelf.load()
    return shelf


def test_a_new_version_takes_over_and_the_one_before_stays_loaded(version: Path) -> None:
    """As many versions as the setting says are kept, the highest served; others can be asked by number."""
    shelf = loaded(version.parents[1])
    first = shelf.get("digits")
    for number in (2, 3):
        add_version(version, number)
        shelf.scan()
        assert shelf.get("digits").number == str(number)
        assert shelf.numbers("digits") == [str(number - 1), str(number)]
    assert shelf.get("digits", "2").number == "2"
    assert first not in shelf.loaded()
    with pytest.raises(ModelNotFound, match="loaded are: 2, 3"):
        shelf.get("digits", "1")


def test_what_is_loaded_is_not_loaded_again(version: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A scan that finds nothing new opens nothing, not even a version that it has refused."""
    (add_version(version, 2) / contract.GRAPH).write_bytes(b"garbage")
    shelf = loaded(version.parents[1])
    before = shelf.get("digits")
    monkeypatch.setattr("service.inference.repository.open_version", lambda *_: pytest.fail("opened again"))
    shelf.scan()
    assert shelf.get("digits") is before
    assert list(shelf.refused["digits"]) == ["2"]


def test_a_version_that_is_still_being_copied_is_taken_once_it_is_whole(version: Path) -> None:
    """Half a copy is refused while the old version serves; when the rest has come, it is tried again."""
    shelf = loaded(version.parents[1])
    copy = add_version(version, 2)
    graph = (copy / contract.GRAPH).read_bytes()
    (copy / contract.GRAPH).write_bytes(graph[:1000])
    shelf.scan()
    assert shelf.get("digits").number == "1"
    assert list(shelf.refused["digits"]) == ["2"]
    assert shelf.ready
    (copy / contract.GRAPH).write_bytes(graph)
    shelf.scan()
    assert shelf.get("digits").number == "2"
    assert shelf.refused == {}


@pytest.mark.parametrize("spoil", ["removed", "emptied", "garbage"])
def test_what_is_served_does_not_need_its_folder(version: Path, spoil: str) -> None:
    """models/ removed, emptied or filled with garbage: the loaded version serves on."""
    shelf, models = loaded(version.parents[1]), version.parents[1]
    match spoil:
        case "removed":
            shutil.rmtree(models)
        case "emptied":
            shutil.rmtree(models / "digits")
        case _:
            for path in version.iterdir():
                path.write_bytes(b"garbage")
            (models / "digits" / WITHDRAWN).write_bytes(b"garbage")
    shelf.scan()
    assert shelf.get("digits").number == "1"
    assert shelf.ready


def test_a_version_is_withdrawn_and_restored(version: Path) -> None:
    """The next lower one serves meanwhile, also after a restart; the last one can be withdrawn, too."""
    add_version(version, 2)
    models = version.parents[1]
    shelf = loaded(models)
    shelf.withdraw("digits")
    assert shelf.get("digits").number == "1"
    assert shelf.numbers("digits") == ["1"]
    assert loaded(models).get("digits").number == "1"
    shelf.withdraw("digits")
    with pytest.raises(ModelNotFound):
        shelf.get("digits")
    assert shelf.restore("digits", "1").number == "1"
    assert shelf.restore("digits").number == "2"
    assert json.loads((models / "digits" / WITHDRAWN).read_text()) == []


def test_workers_do_not_lose_each_other_s_notes(version: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two workers that withdraw a version each at the same moment both find it noted."""
    add_version(version, 2)
    workers = [loaded(version.parents[1]) for _ in range(2)]
    both, read = threading.Barrier(2, timeout=0.5), repository._read_withdrawn  # noqa: SLF001

    def read_together(folder: Path) -> set[int]:
        numbers = read(folder)
        with contextlib.suppress(threading.BrokenBarrierError):
            both.wait()  # without a lock both have read before either writes
        return numbers

    monkeypatch.setattr(repository, "_read_withdrawn", read_together)
    threads = [
        threading.Thread(target=worker.withdraw, args=("digits", number))
        for worker, number in zip(workers, ("1", "2"), strict=True)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert json.loads((version.parent / WITHDRAWN).read_text()) == [1, 2]


def test_what_cannot_be_restored_is_said(version: Path) -> None:
    """A broken version gives its reason, one that is not there is not found; what serves stays."""
    (add_version(version, 2) / contract.GRAPH).write_bytes(b"garbage")
    shelf = loaded(version.parents[1])
    with pytest.raises(ModelRefused, match=contract.GRAPH):
        shelf.restore("digits")
    with pytest.raises(ModelNotFound, match="no version 'digits/9'"):
        shelf.restore("digits", "9")
    with pytest.raises(ModelNotFound, match=r"no version '\.\./digits'"):
        shelf.restore("../digits")
    assert shelf.get("digits").number == "1"


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_that_cannot_be_written_is_left_as_it_is(version: Path) -> None:
    """Withdrawing needs its note: without it nothing changes."""
    shelf = loaded(version.parents[1])
    version.parent.chmod(0o500)
    try:
        with pytest.raises(ReadOnly):
            shelf.withdraw("digits")
    finally:
        version.parent.chmod(0o700)
    assert shelf.get("digits").number == "1"


def test_a_note_that_cannot_be_written_changes_nothing(version: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a read-only file system."""
    shelf = loaded(version.parents[1])

    def refuse(*_: object, **__: object) -> None:
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr(Path, "write_text", refuse)
    with pytest.raises(ReadOnly, match="Read-only file system"):
        shelf.withdraw("digits")
    assert shelf.get("digits").number == "1"


def test_no_request_fails_while_versions_come_and_go(
    start_server: Callable[..., Server], tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Under load from four clients, three versions take over one after another, and one is withdrawn."""
    folder = tmp_path_factory.mktemp("load")
    models, file = folder / "models", folder / "keys"
    shutil.copytree(ROOT / "models/digits/1", models / "digits/1")
    (key,) = make_keys(file, "manage")
    environment = {"CONVOKE_API_KEYS_FILE": str(file), "CONVOKE_PUBLIC": "predict"}
    server = start_server(CONVOKE_MODELS=str(models), CONVOKE_POLL_S="0.1", **environment)
    server.wait_until_ready()
    stop, seen, failures = threading.Event(), set(), list[str]()

    def ask(digit: int) -> None:
        with httpx.Client(base_url=server.url, timeout=30) as session:
            while not stop.is_set():
                response = session.post("/classify/digits", content=encode(mnist_like(digit)))
                if response.status_code != 200 or response.json()["predictions"][0]["label"] != str(digit):
                    failures.append(response.text)
                else:
                    seen.add(response.json()["version"])

    clients = [threading.Thread(target=ask, args=(digit,)) for digit in range(4)]
    for client in clients:
        client.start()
    try:
        for number in (2, 3, 4):
            add_version(models / "digits/1", number)
            server.wait(lambda wanted=str(number): wanted in seen)  # type: ignore[misc]
        unload = f"{server.url}/v2/repository/models/digits/unload"
        assert httpx.post(unload, json={}, headers={"X-API-Key": key}).status_code == 200
        seen.clear()
        server.wait(lambda: "3" in seen)
    finally:
        stop.set()
        for client in clients:
            client.join()
    assert failures == []
