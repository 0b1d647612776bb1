"""New versions, broken versions and roll-backs while the service runs."""

import contextlib
import errno
import json
import os
import shutil
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest

from contract import manifest as contract
from contract.errors import ModelRefused
from service.errors import ModelNotFound, ReadOnly
from service.inference import withdrawn
from service.inference.repository import Repository
from service.settings import Settings
from service.telemetry.metrics import Metrics
from tests.drawing import encode, mnist_like
from tests.service.inference.test_repository import add_version
from tests.serving import ROOT, Server, make_keys


def loaded(folder: Path, versions: int = 2) -> Repository:
    """A loaded repository of a folder."""
    models = Repository(Settings(models=folder, provider="cpu", versions=versions), Metrics())
    models.load()
    return models


def test_a_new_version_takes_over_and_the_previous_stays_loaded(version: Path) -> None:
    """The setting says how many versions stay loaded; requests can name any of them."""
    models = loaded(version.parents[1])
    first = models.get("digits")
    for number in (2, 3):
        add_version(version, number)
        models.scan()
        assert models.get("digits").number == str(number)
        assert models.numbers("digits") == [str(number - 1), str(number)]
    assert models.get("digits", "2").number == "2"
    assert first not in models.loaded()
    with pytest.raises(ModelNotFound, match="loaded versions: 2, 3"):
        models.get("digits", "1")


def test_versions_are_not_loaded_again(version: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A scan without changes opens no version, not even a refused version."""
    (add_version(version, 2) / contract.GRAPH).write_bytes(b"garbage")
    models = loaded(version.parents[1])
    before = models.get("digits")
    monkeypatch.setattr("service.inference.repository.open_version", lambda *_: pytest.fail("opened again"))
    models.scan()
    assert models.get("digits") is before
    assert list(models.refused["digits"]) == ["2"]


def test_a_version_that_is_still_being_copied_is_served_once_it_is_complete(version: Path) -> None:
    """Half a copy is refused while the old version serves; the complete copy is tried again."""
    models = loaded(version.parents[1])
    copy = add_version(version, 2)
    graph = (copy / contract.GRAPH).read_bytes()
    (copy / contract.GRAPH).write_bytes(graph[:1000])
    models.scan()
    assert models.get("digits").number == "1"
    assert list(models.refused["digits"]) == ["2"]
    assert models.ready
    (copy / contract.GRAPH).write_bytes(graph)
    models.scan()
    assert models.get("digits").number == "2"
    assert models.refused == {}


@pytest.mark.parametrize("damage", ["removed", "emptied", "garbage"])
def test_a_served_version_does_not_need_its_folder(version: Path, damage: str) -> None:
    """The loaded version serves on if models/ is removed, emptied or filled with garbage."""
    folder = version.parents[1]
    models = loaded(folder)
    match damage:
        case "removed":
            shutil.rmtree(folder)
        case "emptied":
            shutil.rmtree(folder / "digits")
        case _:
            for path in version.iterdir():
                path.write_bytes(b"garbage")
            (folder / "digits" / withdrawn.FILE).write_bytes(b"garbage")
    models.scan()
    assert models.get("digits").number == "1"
    assert models.ready


def test_a_version_is_withdrawn_and_restored(version: Path) -> None:
    """The next lower version serves meanwhile, also after a restart; the last version can be withdrawn, too."""
    add_version(version, 2)
    folder = version.parents[1]
    models = loaded(folder)
    models.withdraw("digits")
    assert models.get("digits").number == "1"
    assert models.numbers("digits") == ["1"]
    assert loaded(folder).get("digits").number == "1"
    models.withdraw("digits")
    with pytest.raises(ModelNotFound):
        models.get("digits")
    assert models.restore("digits", "1").number == "1"
    assert models.restore("digits").number == "2"
    assert json.loads((folder / "digits" / withdrawn.FILE).read_text()) == []


def test_workers_do_not_overwrite_each_other(version: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two workers that withdraw a version each at the same time both succeed."""
    add_version(version, 2)
    workers = [loaded(version.parents[1]) for _ in range(2)]
    both, read = threading.Barrier(2, timeout=0.5), withdrawn.read

    def read_together(folder: Path) -> set[int]:
        numbers = read(folder)
        with contextlib.suppress(threading.BrokenBarrierError):
            both.wait()  # without a lock, both would read before either writes
        return numbers

    monkeypatch.setattr(withdrawn, "read", read_together)
    threads = [
        threading.Thread(target=worker.withdraw, args=("digits", number))
        for worker, number in zip(workers, ("1", "2"), strict=True)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert json.loads((version.parent / withdrawn.FILE).read_text()) == [1, 2]


def test_versions_that_cannot_be_restored_are_errors(version: Path) -> None:
    """A broken version is refused with its reason, a missing version is not found; the served version stays."""
    (add_version(version, 2) / contract.GRAPH).write_bytes(b"garbage")
    models = loaded(version.parents[1])
    with pytest.raises(ModelRefused, match=contract.GRAPH):
        models.restore("digits")
    with pytest.raises(ModelNotFound, match="version 'digits/9'"):
        models.restore("digits", "9")
    with pytest.raises(ModelNotFound, match=r"version '\.\./digits'"):
        models.restore("../digits")
    assert models.get("digits").number == "1"


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_nothing_is_withdrawn_from_a_folder_that_cannot_be_written(version: Path) -> None:
    """A version is only withdrawn if this can be stored."""
    models = loaded(version.parents[1])
    version.parent.chmod(0o500)
    try:
        with pytest.raises(ReadOnly):
            models.withdraw("digits")
    finally:
        version.parent.chmod(0o700)
    assert models.get("digits").number == "1"


def test_nothing_is_withdrawn_on_a_read_only_file_system(version: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The message has the error of the system."""
    models = loaded(version.parents[1])

    def refuse(*_: object, **__: object) -> None:
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr(Path, "write_text", refuse)
    with pytest.raises(ReadOnly, match="Read-only file system"):
        models.withdraw("digits")
    assert models.get("digits").number == "1"


def test_no_request_fails_while_versions_come_and_go(
    start_server: Callable[..., Server], tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Under load from four clients, three versions take over one after the other, and one is withdrawn."""
    folder = tmp_path_factory.mktemp("load")
    models, keys = folder / "models", folder / "keys"
    shutil.copytree(ROOT / "models/digits/1", models / "digits/1")
    (key,) = make_keys(keys, "manage")
    environment = {"CONVOKE_API_KEYS_FILE": str(keys), "CONVOKE_PUBLIC": "predict"}
    server = start_server(CONVOKE_MODELS=str(models), CONVOKE_POLL_S="0.1", **environment)
    server.wait_until_ready()
    stop, seen, failures = threading.Event(), set(), list[str]()

    def send(digit: int) -> None:
        with httpx.Client(base_url=server.url, timeout=30) as session:
            while not stop.is_set():
                response = session.post("/classify/digits", content=encode(mnist_like(digit)))
                if response.status_code != 200 or response.json()["predictions"][0]["label"] != str(digit):
                    failures.append(response.text)
                else:
                    seen.add(response.json()["version"])

    clients = [threading.Thread(target=send, args=(digit,)) for digit in range(4)]
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


UNREADABLE = [
    "",
    "[2",
    "{}",
    '{"2": true}',
    "2",
    "null",
    "[null]",
    "[true]",
    "[2.0]",
    '["two"]',
    "[[2]]",
    "\0",
    "[" * 10**5,
]


@pytest.mark.parametrize("text", UNREADABLE)
def test_a_damaged_list_withdraws_what_it_did_before(
    version: Path, text: str, caplog: pytest.LogCaptureFixture
) -> None:
    """The last list that was read stays valid, with one warning; at a start no version of the model is served."""
    add_version(version, 2)
    folder = version.parents[1]
    path = version.parent / withdrawn.FILE
    models = loaded(folder)
    models.withdraw("digits", "2")
    path.write_text(text)
    caplog.clear()
    for _ in range(3):
        models.scan()
    assert models.get("digits").number == "1"
    assert [str(path) in record.getMessage() for record in caplog.records] == [True]
    restarted = loaded(folder)
    assert restarted.serving() == []
    with pytest.raises(ModelRefused, match=withdrawn.FILE):
        restarted.restore("digits")
    path.write_text("[2]")
    restarted.scan()
    assert restarted.get("digits").number == "1"
    path.unlink()
    models.scan()
    assert models.get("digits").number == "2"


def test_a_list_that_cannot_be_read_is_not_an_empty_list(version: Path) -> None:
    """A pipe, a folder and a link to nothing."""
    path = version.parent / withdrawn.FILE
    replacements: list[Callable[[], object]] = [
        path.mkdir, lambda: os.mkfifo(path), lambda: path.symlink_to("nothing"),
    ]  # fmt: skip
    for replace in replacements:
        replace()
        assert loaded(version.parents[1]).serving() == []
        path.rmdir() if path.is_dir() else path.unlink()


@pytest.mark.parametrize("text", ["[2]", '["2"]', "\ufeff[2]", "[2, 2, 7]"])
def test_versions_may_stand_in_quotes(version: Path, text: str) -> None:
    """A list of numbers in quotes withdraws these versions."""
    add_version(version, 2)
    (version.parent / withdrawn.FILE).write_text(text, encoding="utf-8")
    assert loaded(version.parents[1]).get("digits").number == "1"


def test_a_withdrawal_replaces_a_damaged_list(version: Path) -> None:
    """A version can be withdrawn although the list is damaged; versions that were withdrawn before stay so."""
    for number in (2, 3):
        add_version(version, number)
    models = loaded(version.parents[1])
    models.withdraw("digits", "3")
    (version.parent / withdrawn.FILE).write_text("[3")
    models.withdraw("digits")
    assert json.loads((version.parent / withdrawn.FILE).read_text()) == [2, 3]
    assert models.get("digits").number == "1"


@pytest.fixture
def failing(monkeypatch: pytest.MonkeyPatch) -> dict[Path, OSError]:
    """Paths that the operating system does not open or list, with its error."""
    errors: dict[Path, OSError] = {}

    def fail(name: str) -> Callable[..., object]:
        original = getattr(Path, name)

        def call(path: Path, *args: object, **kwargs: object) -> object:
            if path in errors:
                raise errors[path]
            return original(path, *args, **kwargs)

        return call

    for name in ("open", "read_text", "read_bytes", "iterdir"):
        monkeypatch.setattr(Path, name, fail(name))
    return errors


@pytest.mark.parametrize("number", [errno.EACCES, errno.ESTALE, errno.EIO, errno.EMFILE])
@pytest.mark.parametrize("name", [contract.MANIFEST, contract.GRAPH, contract.CARD, contract.GOLDEN])
def test_a_failure_of_the_system_stops_no_other_version(
    version: Path, failing: dict[Path, OSError], caplog: pytest.LogCaptureFixture, number: int, name: str
) -> None:
    """The version is refused with the reason, in the log once, and tried again at each scan."""
    path = add_version(version, 2) / name
    failing[path] = OSError(number, os.strerror(number), str(path))
    models = loaded(version.parents[1])
    for _ in range(2):
        models.scan()
        assert models.ready
        assert models.get("digits").number == "1"
        assert os.strerror(number) in models.refused["digits"]["2"]
    assert sum("version 2 is refused" in record.getMessage() for record in caplog.records) == 1
    failing.clear()
    models.scan()
    assert models.get("digits").number == "2"
    assert models.refused == {}


def test_a_folder_that_cannot_be_read_stops_no_other(version: Path, failing: dict[Path, OSError]) -> None:
    """A model whose folder fails serves on; lost+found is passed over; models/ itself may fail for a while."""
    folder = version.parents[1]
    (folder / "lost+found").mkdir()
    failing[folder / "lost+found"] = PermissionError(errno.EACCES, "Permission denied")
    models = loaded(folder)
    assert models.ready
    add_version(version, 2)
    for path in (folder, version.parent):
        failing[path] = OSError(errno.ESTALE, "Stale file handle")
        models.scan()
        assert models.get("digits").number == "1"
        del failing[path]
    models.scan()
    assert models.get("digits").number == "2"


@pytest.mark.parametrize("mode", [0o000, 0o600])
def test_mended_permissions_take_effect_without_a_restart(
    version: Path, start_server: Callable[..., Server], mode: int
) -> None:
    """What the user may not read, or not enter, is loaded soon after the permission is given: folders and a file."""
    models, second = version.parents[1], add_version(version, 2)
    command = [sys.executable, "-m", "service"]
    if os.geteuid() == 0:  # whom permissions bind only without these rights
        if shutil.which("setpriv") is None:
            pytest.skip("setpriv is not installed, and root may read everything")
        command = ["setpriv", "--bounding-set=-dac_override,-dac_read_search", *command]
    places = [models, version.parent, second, second / contract.GRAPH]
    for place in reversed(places):
        place.chmod(0 if place.is_file() else mode)
    server = start_server(command, CONVOKE_MODELS=str(models), CONVOKE_POLL_S="0.1")
    server.wait(lambda: "Permission denied" in server.log)
    server.wait(lambda: httpx.get(f"{server.url}/readyz").status_code == 503)
    try:
        for place in places[:2]:
            assert httpx.get(f"{server.url}/readyz").status_code == 503
            place.chmod(0o755)
        server.wait_until_ready()
        url = f"{server.url}/models/digits"
        assert httpx.get(url).json()["version"] == "1"
        second.chmod(0o755)
        server.wait(lambda: "cannot be read" in httpx.get(f"{server.url}/models").text)
        places[-1].chmod(0o644)
        server.wait(lambda: httpx.get(url).json()["version"] == "2")
    finally:
        for place in places:
            place.chmod(0o755)
    server.stop()


@pytest.mark.parametrize("other", ["digits-old", "scratch", "Digits2", "lost+found", "new"])
@pytest.mark.parametrize("content", ["copy", "without a manifest", "without versions"])
def test_ready_once_stays_ready(version: Path, other: str, content: str, caplog: pytest.LogCaptureFixture) -> None:
    """A folder that was never served changes nothing, at the start and later; its refusals go with it."""
    folder = version.parents[1]
    models = loaded(folder)
    match content:
        case "copy":
            shutil.copytree(version.parent, folder / other)
        case "without a manifest":
            shutil.copytree(version.parent, folder / other)
            (folder / other / "1" / contract.MANIFEST).unlink()
        case _:
            (folder / other / "notes").mkdir(parents=True)
    for _ in range(3):
        models.scan()
        assert models.ready
    assert sum(str(folder / other) in record.getMessage() for record in caplog.records) == 1
    assert list(models.refused) == ([other] if content == "copy" else [])
    assert loaded(folder).ready
    shutil.rmtree(folder / other)
    models.scan()
    assert models.refused == {}
    assert [served.name for served in models.serving()] == ["digits"]


def test_a_version_whose_manifest_arrives_last_is_served(version: Path) -> None:
    """A copy without a manifest yet is passed over; it cannot be restored before it has one."""
    models = loaded(version.parents[1])
    copy = add_version(version, 2)
    manifest = (copy / contract.MANIFEST).read_text()
    (copy / contract.MANIFEST).unlink()
    models.scan()
    assert models.refused == {}
    with pytest.raises(ModelNotFound):
        models.restore("digits", "2")
    (copy / contract.MANIFEST).write_text(manifest)
    models.scan()
    assert models.get("digits").number == "2"
