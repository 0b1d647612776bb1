"""The service under test: its application in this process, or a server that is really started."""

import asyncio
import os
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import httpx
from starlette.types import ASGIApp

from service.http import keys
from service.server.assembly import Parts, assemble
from service.settings import Settings
from service.telemetry.facts import OnResponse

ROOT = Path(__file__).resolve().parents[1]
Call = Callable[..., httpx.Response]


def parts(*, load: bool = True, on_response: Sequence[OnResponse] = (), **settings: Any) -> Parts:
    """A worker's parts with these settings, put together as the service does."""
    chosen = Settings.model_validate({"models": ROOT / "models", "provider": "cpu", **settings})
    assembled = assemble(chosen, on_response=on_response)
    if load:
        assembled.repository.load()
    return assembled


def application(**settings: Any) -> ASGIApp:
    """The application with these settings; arguments are those of `parts`."""
    return parts(**settings).application


def make_keys(path: Path, *roles: keys.Role) -> list[str]:
    """A file of keys, one a role, named after it; gives the keys."""
    return [keys.add(path, role, role) for role in roles]


def client(**settings: Any) -> Call:
    """Calls an application with these settings: call(method, path, ...) -> response."""
    app = application(**settings)

    async def send(method: str, path: str, **arguments: object) -> httpx.Response:
        transport = httpx.ASGITransport(app=app, raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as session:
            return await session.request(method, path, **arguments)  # type: ignore[arg-type]

    return lambda *words, **arguments: asyncio.run(send(*words, **arguments))


def code(response: httpx.Response) -> tuple[int, str]:
    """Status and error code of a refusal, once its shape is found to be the one of all errors."""
    error = response.json()["error"]
    assert set(error) == {"code", "message"}
    assert error["message"]
    return response.status_code, error["code"]


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Server:
    """A started service: its address, its log, and how to wait for it and stop it."""

    def __init__(self, command: list[str], cwd: Path, log: Path, environment: dict[str, str]) -> None:
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self._log = log
        # BENTOML_HOME: BentoML empties its metrics folder there at every start, also under a server that runs.
        environment = {
            **os.environ,
            "CONVOKE_DRAIN_S": "0",
            "BENTOML_HOME": str(log.parent),
            "BENTOML_DO_NOT_TRACK": "True",
            **environment,
        }
        with log.open("wb") as file:
            self._process = subprocess.Popen(
                [*command, "--port", str(self.port)],
                cwd=cwd, env=environment, stdout=file, stderr=subprocess.STDOUT, start_new_session=True,
            )  # fmt: skip

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def running(self) -> bool:
        return self._process.poll() is None

    @property
    def log(self) -> str:
        return self._log.read_text(encoding="utf-8", errors="replace")

    def wait(self, until: Callable[[], bool], seconds: float = 60) -> None:
        """Ask until the answer is yes."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            assert self._process.poll() is None, f"the server ended with {self._process.returncode}:\n{self.log}"
            try:
                if until():
                    return
            except httpx.TransportError:
                pass
            time.sleep(0.05)
        raise AssertionError(f"waited {seconds} s in vain:\n{self.log}")

    def wait_until_ready(self) -> None:
        """Ask /readyz until it says 200."""
        self.wait(lambda: httpx.get(f"{self.url}/readyz").status_code == 200)

    def stop(self) -> int:
        """Stop it as an orchestrator does, and give its exit code."""
        self._process.send_signal(signal.SIGTERM)
        return self.wait_for_end()

    def wait_for_end(self) -> int:
        """The exit code of a server that was told to stop."""
        try:
            return self._process.wait(20)
        except subprocess.TimeoutExpired:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
            raise
