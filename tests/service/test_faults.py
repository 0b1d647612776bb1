"""Faults of servers: a stop, a killed worker, no free file descriptors, a full disk, lost models."""

import http.client
import os
import resource
import shutil
import signal
import socket
import sys
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
from tests.serving import ROOT, Load, Server

DIGIT = encode(mnist_like(7))
Start = Callable[..., Server]


def classify(server: Server) -> int:
    """The status of the response to a digit."""
    return httpx.post(f"{server.url}/classify/digits", content=DIGIT, timeout=30).status_code


def start_request(server: Server) -> http.client.HTTPConnection:
    """Send the header of a request and half of its body."""
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=30)
    connection.putrequest("POST", "/classify/digits")
    connection.putheader("Content-Length", str(len(DIGIT)))
    connection.endheaders()
    connection.send(DIGIT[:100])
    return connection


@pytest.mark.slow
def test_sigterm_drains_the_server(start_server: Start) -> None:
    """It is not ready at once; requests, started and new ones, are answered; then it exits with 0.

    Each of these responses ends its connection, and idle connections end while new ones are still accepted.
    """
    server = start_server(CONVOKE_DRAIN_S="2")
    server.wait_until_ready()
    with httpx.Client(base_url=server.url) as kept, socket.create_connection(("127.0.0.1", server.port), 30) as idle:
        assert "connection" not in kept.get("/models").headers
        idle.sendall(b"HEAD /livez HTTP/1.1\r\nHost: x\r\n\r\n")
        assert idle.recv(1000).startswith(b"HTTP/1.1 200")
        started = start_request(server)
        psutil.Process(server.pid).send_signal(signal.SIGTERM)
        server.wait(lambda: kept.get("/readyz").status_code == 503)
        health = kept.get("/v2/health/ready")
        assert (health.status_code, health.headers["connection"]) == (503, "close")
        old = httpx.get(f"{server.url}/livez", headers={"Connection": "keep-alive"})
        assert old.headers.get_list("connection") == ["close"]
        assert idle.recv(1) == b""
        assert classify(server) == 200
        started.send(DIGIT[100:])
        response = started.getresponse()
        assert response.read()
        assert response.getheader("Connection") == "close"
        started.close()
    assert server.wait_for_end() == 0
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", server.port))


@pytest.mark.slow
def test_a_started_request_is_answered_after_sigterm(start_server: Start) -> None:
    """Without draining, a request whose body is half sent is answered before the server exits."""
    server = start_server(CONVOKE_DRAIN_S="0")
    server.wait_until_ready()
    started = start_request(server)
    server.wait(lambda: classify(server) == 200)  # so that the server has read the half request
    psutil.Process(server.pid).send_signal(signal.SIGTERM)
    started.send(DIGIT[100:])
    assert started.getresponse().status == 200
    started.close()
    assert server.wait_for_end() == 0


@pytest.mark.slow
def test_a_killed_worker_is_replaced(start_server: Start) -> None:
    """A killed worker gets a successor, which answers."""
    server = start_server()
    server.wait_until_ready()
    (before,) = workers(server)
    os.kill(before.pid, signal.SIGKILL)
    server.wait(lambda: [worker.pid for worker in workers(server)] not in ([], [before.pid]))
    server.wait_until_ready()
    assert classify(server) == 200


@pytest.mark.slow
def test_of_a_worker_killed_under_load_only_its_own_requests_fail(start_server: Start) -> None:
    """Clients of the other worker notice nothing; those of the killed one lose started requests only."""
    server = start_server(CONVOKE_WORKERS="2")
    server.wait_until_ready()
    with Load(server, clients=8, keep_alive=True) as load:
        server.wait(lambda: load.answers > 100)
        held = {worker: connections(worker) for worker in workers(server)}
        killed = max(held, key=lambda worker: held[worker])
        n_held = held[killed]
        assert n_held
        os.kill(killed.pid, signal.SIGKILL)
        server.wait(lambda: len(workers(server)) == 2 and killed.pid not in {worker.pid for worker in workers(server)})
        server.wait_until_ready()
        before = load.answers
        server.wait(lambda: load.answers > before + 100)
    assert len(load.failures) <= n_held, load.failures
    assert not [failure for failure in load.failures if failure[0].isdigit()]  # broken connections, no error responses


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
def test_the_server_recovers_from_too_many_open_files(few_files: Server) -> None:
    """After more idle connections than files were open, the same worker answers again."""
    (worker,) = workers(few_files)
    with ExitStack() as connections:
        for _ in range(120):
            connections.enter_context(socket.create_connection(("127.0.0.1", few_files.port), timeout=5))
        assert worker.is_running()
    few_files.wait(lambda: classify(few_files) == 200)
    assert [process.pid for process in workers(few_files)] == [worker.pid]


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="limits of a running process are Linux's")
def test_the_server_recovers_from_a_full_disk(start_server: Start, version: Path) -> None:
    """While nothing can be written, models answer, and an operation that must write fails with the reason."""
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
    assert classify(server) == 200
    assert httpx.get(f"{server.url}/metrics").status_code == 200
    refused = httpx.post(unload, headers=headers)
    assert refused.status_code == 409
    assert "File too large" in refused.json()["error"]
    assert classify(server) == 200
    for process in processes:
        process.rlimit(psutil.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    assert httpx.post(unload, headers=headers).status_code == 200
    assert classify(server) == 404
    assert processes[1].is_running()


@pytest.mark.slow
def test_a_clock_set_back_changes_nothing(start_server: Start, version: Path, tmp_path: Path) -> None:
    """After its clock is set back by a day, the service answers, finds new versions and replaces a killed worker."""
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
    assert classify(server) == 200
    newer = Path(shutil.copytree(version, tmp_path / "2"))
    manifest = newer / "manifest.json"
    manifest.write_text(manifest.read_text().replace('"version": 1,', '"version": 2,'))
    for path in (*newer.iterdir(), newer):
        os.utime(path, (0, 0))
    newer.rename(version.parent / "2")
    server.wait(lambda: httpx.get(f"{server.url}/models/digits").json()["version"] == "2")
    (before,) = workers(server)
    os.kill(before.pid, signal.SIGKILL)
    server.wait(lambda: [worker.pid for worker in workers(server)] not in ([], [before.pid]), seconds=30)
    server.wait_until_ready()
    assert classify(server) == 200


@pytest.mark.parametrize("damage", ["gone", "emptied", "garbage", "unreadable", "a file"])
def test_loaded_models_outlive_their_files(version: Path, damage: str) -> None:
    """Whatever happens to models/, the loaded version stays, and a good one that is added later is loaded."""
    models = version.parents[1]
    repository = Repository(Settings(models=models, provider="cpu"), Metrics())
    repository.load()
    match damage:
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
            version.parent.write_text("not a folder")
    repository.scan()
    served = repository.get("digits")
    assert served.number == "1"
    assert repository.ready
    models.parent.mkdir(exist_ok=True)
    if models.exists():
        models.chmod(0o700)
        shutil.rmtree(models)
    shutil.copytree(ROOT / "models/digits/1", models / "digits/1")
    repository.scan()
    assert repository.get("digits").number == "1"
