"""Faults that happen to servers: they are told to stop, are killed, run out of files, lose their models."""

import http.client
import os
import resource
import shutil
import signal
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import httpx
import psutil  # type: ignore[import-untyped]
import pytest

from service.http import keys
from service.inference.repository import Repository
from service.settings import Settings
from service.telemetry.metrics import Metrics
from tests.drawing import encode, mnist_like
from tests.fuzz.faults import connections, workers
from tests.serving import ROOT, Server

DIGIT = encode(mnist_like(7))
Start = Callable[..., Server]


def ask(server: Server) -> int:
    """The status that a digit is answered with."""
    return httpx.post(f"{server.url}/classify/digits", content=DIGIT, timeout=30).status_code


def begin(server: Server) -> http.client.HTTPConnection:
    """A request whose head and half of whose body are sent."""
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=30)
    connection.putrequest("POST", "/classify/digits")
    connection.putheader("Content-Length", str(len(DIGIT)))
    connection.endheaders()
    connection.send(DIGIT[:100])
    return connection


class Load:
    """Callers that post digits one after the other, each over a connection of its own, until they are stopped."""

    def __init__(self, server: Server, callers: int) -> None:
        self.answered = 0
        self._failed: list[str] = []
        self._port = server.port
        self._stopped = False
        self._callers = [threading.Thread(target=self._call) for _ in range(callers)]
        for caller in self._callers:
            caller.start()

    def stop(self) -> list[str]:
        """End it: what failed, as the status or the kind of the error."""
        self._stopped = True
        for caller in self._callers:
            caller.join()
        return self._failed

    def _call(self) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=30)
        while not self._stopped:
            try:
                connection.request("POST", "/classify/digits", DIGIT)
                answer = connection.getresponse()
                answer.read()
            except (OSError, http.client.HTTPException) as error:
                self._failed.append(type(error).__name__)
                connection.close()
                continue
            if answer.status != 200:
                self._failed.append(str(answer.status))
            self.answered += 1
        connection.close()


@pytest.mark.slow
def test_sigterm_lets_go_in_order(start_server: Start) -> None:
    """At once not ready; requests, those under way and new ones, are answered; then it ends with 0."""
    server = start_server(CONVOKE_DRAIN_S="2")
    server.wait_until_ready()
    with httpx.Client(base_url=server.url) as kept:
        assert kept.get("/models").status_code == 200
        under_way = begin(server)
        psutil.Process(server.pid).send_signal(signal.SIGTERM)
        server.wait(lambda: kept.get("/readyz").status_code == 503)
        assert kept.get("/v2/health/ready").status_code == 503
        assert ask(server) == 200
        under_way.send(DIGIT[100:])
        assert under_way.getresponse().read()
        under_way.close()
    assert server.wait_for_end() == 0
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", server.port))


@pytest.mark.slow
def test_who_is_under_way_when_listening_ends_is_answered(start_server: Start) -> None:
    """Without a time to drain, a request whose body is half sent is answered before the server goes."""
    server = start_server(CONVOKE_DRAIN_S="0")
    server.wait_until_ready()
    under_way = begin(server)
    server.wait(lambda: ask(server) == 200)  # so that the half request was read
    psutil.Process(server.pid).send_signal(signal.SIGTERM)
    under_way.send(DIGIT[100:])
    assert under_way.getresponse().status == 200
    under_way.close()
    assert server.wait_for_end() == 0


@pytest.mark.slow
def test_a_killed_worker_is_replaced(start_server: Start) -> None:
    """Another worker takes the place of one that was killed, and answers."""
    server = start_server()
    server.wait_until_ready()
    (before,) = workers(server)
    os.kill(before.pid, signal.SIGKILL)
    server.wait(lambda: [one.pid for one in workers(server)] not in ([], [before.pid]))
    server.wait_until_ready()
    assert ask(server) == 200


@pytest.mark.slow
def test_of_a_worker_killed_under_load_only_its_own_requests_fail(start_server: Start) -> None:
    """Callers of the other worker notice nothing; those of the killed one lose what was under way, and go on."""
    server = start_server(CONVOKE_WORKERS="2")
    server.wait_until_ready()
    load = Load(server, callers=8)
    server.wait(lambda: load.answered > 100)
    held = {worker: connections(worker) for worker in workers(server)}
    killed = max(held, key=lambda worker: held[worker])
    holding = held[killed]
    assert holding
    os.kill(killed.pid, signal.SIGKILL)
    server.wait(lambda: len(workers(server)) == 2 and killed.pid not in {one.pid for one in workers(server)})
    server.wait_until_ready()
    before = load.answered
    server.wait(lambda: load.answered > before + 100)
    failed = load.stop()
    assert len(failed) <= holding, failed
    assert not [text for text in failed if text.isdigit()], failed  # connections that broke, no answers of errors


@pytest.fixture
def few_files(start_server: Start) -> Iterator[Server]:
    """A server whose processes may open 96 files each."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (96, hard))
    try:
        server = start_server()
        server.wait_until_ready()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    yield server
    server.stop()


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="limits of a running process are Linux's")
def test_used_up_file_descriptors_are_recovered_from(few_files: Server) -> None:
    """More idle connections than files: once they go, the same worker answers again."""
    (worker,) = workers(few_files)
    with ExitStack() as connections:
        for _ in range(120):
            connections.enter_context(socket.create_connection(("127.0.0.1", few_files.port), timeout=5))
        assert worker.is_running()
    few_files.wait(lambda: ask(few_files) == 200)
    assert [one.pid for one in workers(few_files)] == [worker.pid]


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="limits of a running process are Linux's")
def test_a_full_disk_is_told_and_recovered_from(start_server: Start, version: Path) -> None:
    """Where no byte can be written, models answer; what must write is refused with the reason, until it can again."""
    file = version.parents[2] / "keys"
    headers = {"X-API-Key": keys.add(file, "all", "manage")}
    server = start_server(
        CONVOKE_MODELS=str(version.parents[1]), CONVOKE_API_KEYS_FILE=str(file), CONVOKE_PUBLIC="predict,metrics"
    )
    server.wait_until_ready()
    unload = f"{server.url}/v2/repository/models/digits/unload"
    processes = [psutil.Process(server.pid), *workers(server)]
    for process in processes:
        process.rlimit(psutil.RLIMIT_FSIZE, (0, resource.RLIM_INFINITY))
    assert ask(server) == 200
    assert httpx.get(f"{server.url}/metrics").status_code == 200
    refused = httpx.post(unload, headers=headers)
    assert refused.status_code == 409
    assert "cannot be written: File too large; what is served stays as it is" in refused.json()["error"]
    assert ask(server) == 200
    for process in processes:
        process.rlimit(psutil.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    assert httpx.post(unload, headers=headers).status_code == 200
    assert ask(server) == 404
    assert processes[1].is_running()


@pytest.mark.slow
def test_a_clock_that_is_set_back_changes_nothing(start_server: Start, version: Path, tmp_path: Path) -> None:
    """A day is taken from the clock of a running service: it answers, finds new versions, replaces a killed worker."""
    mark = tmp_path / "set back"
    (tmp_path / "sitecustomize.py").write_text(
        "import os, time\n"
        "real, real_ns = time.time, time.time_ns\n"
        f"back = lambda: 86400 * os.path.exists({str(mark)!r})\n"
        "time.time = lambda: real() - back()\n"
        "time.time_ns = lambda: real_ns() - 10**9 * back()\n"
    )
    server = start_server(CONVOKE_MODELS=str(version.parents[1]), CONVOKE_POLL_S="0.2", PYTHONPATH=f"{tmp_path}:{ROOT}")
    server.wait_until_ready()
    mark.touch()
    assert ask(server) == 200
    newer = Path(shutil.copytree(version, tmp_path / "2"))
    manifest = newer / "manifest.json"
    manifest.write_text(manifest.read_text().replace('"version": 1,', '"version": 2,'))
    for path in (*newer.iterdir(), newer):
        os.utime(path, (0, 0))
    newer.rename(version.parent / "2")
    server.wait(lambda: httpx.get(f"{server.url}/models/digits").json()["version"] == "2")
    (before,) = workers(server)
    os.kill(before.pid, signal.SIGKILL)
    server.wait(lambda: [one.pid for one in workers(server)] not in ([], [before.pid]), seconds=30)
    server.wait_until_ready()
    assert ask(server) == 200


@pytest.mark.parametrize("how", ["gone", "emptied", "garbage", "unreadable", "a file"])
def test_models_that_are_ruined_while_they_serve_serve_on(version: Path, how: str) -> None:
    """Whatever becomes of models/, the loaded version stays, and a good one that comes later takes over."""
    models = version.parents[1]
    shelf = Repository(Settings(models=models, provider="cpu"), Metrics())
    shelf.load()
    match how:
        case "gone":
            shutil.rmtree(models)
        case "emptied":
            shutil.rmtree(version.parent)
        case "garbage":
            for file in version.iterdir():
                file.write_bytes(os.urandom(64))
            for name in ("2", "x", "03", "-1"):
                (version.parent / name).mkdir()
        case "unreadable":
            models.chmod(0)
        case "a file":
            shutil.rmtree(version.parent)
            version.parent.write_text("no folder")
    shelf.scan()
    served = shelf.get("digits")
    assert served.number == "1"
    assert shelf.ready
    models.parent.mkdir(exist_ok=True)
    if models.exists():
        models.chmod(0o700)
        shutil.rmtree(models)
    shutil.copytree(ROOT / "models/digits/1", models / "digits/1")
    shelf.scan()
    assert shelf.get("digits").number == "1"
