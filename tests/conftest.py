"""Fixtures of all tests: a version that a test may change, and started servers."""

import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.serving import ROOT, Server


@pytest.fixture
def version(tmp_path: Path) -> Path:
    """A copy of models/digits/1 that a test may change."""
    return Path(shutil.copytree(ROOT / "models/digits/1", tmp_path / "models/digits/1"))


@pytest.fixture(scope="session")
def start_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., Server]]:
    """Starts servers, and stops those that run after the last test."""
    started: list[Server] = []

    def start(command: list[str] | None = None, cwd: Path = ROOT, **environment: str) -> Server:
        log = tmp_path_factory.mktemp("server") / "log"
        server = Server(command or [sys.executable, "-m", "service"], cwd, log, environment)
        started.append(server)
        return server

    yield start
    for server in started:
        if server.running:
            server.stop()


@pytest.fixture(scope="session")
def server(start_server: Callable[..., Server]) -> Server:
    """The service as `make serve` starts it, once it is ready."""
    server = start_server()
    server.wait_until_ready()
    return server
