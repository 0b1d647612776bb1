"""Faults that happen to servers: they are told to stop, are killed, run out of files, lose their models."""

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

from service.metrics import Metrics
from service.repository import Repository
from service.settings import Settings
from tests.drawing import encode, mnist_like
from tests.service.conftest import ROOT, Server

DIGIT = encode(mnist_like(7))
Start = Callable[..., Server]


def ask(server: Server) -> int:
    """The status that a digit is answered with."""
    return httpx.post(f"{server.url}/classify/digits", content=DIGIT, timeout=30).status_code


def workers(server: Server) -> list[psutil.Process]:
    """The processes that answer, the oldest first."""
    children = psutil.Process(server.pid).children(recursive=True)
    alive = [child for child in children if child.status() != psutil.STATUS_ZOMBIE]
    return [child for child in alive if "_bentoml_impl.worker" in " ".join(child.cmdline())]


def begin(server: Server) -> http.client.HTTPConnection:
    """A request whose head and half of whose body are sent."""
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=30)
    connection.putrequest("POST", "/classify/digits")
    connection.putheader("Content-Length", str(len(DIGIT)))
    connection.endheaders()
    connection.send(DIGIT[:100])
    return connection


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
