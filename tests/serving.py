"""The service under test: its application in this process, or a started server."""

import asyncio
import os
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Self

import httpx
from starlette.types import ASGIApp

from service.http import keys
from service.server.assembly import Parts, assemble
from service.server.fast_path import FastPath, Reply
from service.settings import Settings
from service.telemetry.facts import OnResponse
from tests.drawing import encode, mnist_like

ROOT = Path(__file__).resolve().parents[1]
Call = Callable[..., httpx.Response]


def parts(*, load: bool = True, on_response: Sequence[OnResponse] = (), **settings: Any) -> Parts:
    """The parts of a worker with these settings, put together as the service does."""
    chosen = Settings.model_validate({"models": ROOT / "models", "provider": "cpu", "workers": 1, **settings})
    assembled = assemble(chosen, on_response=on_response)
    if load:
        assembled.repository.load()
    return assembled


def application(**settings: Any) -> ASGIApp:
    """The application of a worker; takes the arguments of `parts`."""
    return parts(**settings).application


def make_keys(path: Path, *roles: keys.Role) -> list[str]:
    """Add a key for each role to a file, named after the role; return the keys."""
    return [keys.add(path, role, role) for role in roles]


def client(**settings: Any) -> Call:
    """Return a function that sends a request to a worker: call(method, path, ...) -> response.

    What the fast path answers is sent over both paths, whose responses must be equal.
    """
    assembled = parts(**settings)

    async def send(method: str, path: str, **kwargs: object) -> httpx.Response:
        async with httpx.AsyncClient(transport=BothPaths(assembled), base_url="http://test") as session:
            return await session.request(method, path, **kwargs)  # type: ignore[arg-type]

    return lambda *args, **kwargs: asyncio.run(send(*args, **kwargs))


class BothPaths(httpx.AsyncBaseTransport):
    """Sends requests to a worker in this process, over the ordinary path and, if it takes them, over the fast path."""

    def __init__(self, assembled: Parts) -> None:
        self._ordinary = httpx.ASGITransport(app=assembled.application, raise_app_exceptions=False)
        self._fast_path = assembled.fast_path

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """The response over the ordinary path, after a comparison with that over the fast path."""
        reply = None
        if self._fast_path is not None and isinstance(request.stream, httpx.ByteStream):
            reply = await over_fast_path(self._fast_path, request, await request.aread())
        response = await self._ordinary.handle_async_request(request)
        if reply is not None:
            await response.aread()
            fields = [line.partition(b": ")[::2] for line in reply.fields.split(b"\r\n")[:-1]]
            assert (reply.status, reply.body) == (response.status_code, response.content)
            assert [*map(_comparable, fields)] == [*map(_comparable, response.headers.raw)]
        return response


async def over_fast_path(fast_path: FastPath, request: httpx.Request, content: bytes) -> Reply | None:
    """The reply to a request over the fast path; None if it takes the ordinary path."""
    lines = [b"%b %b HTTP/1.1" % (request.method.encode(), request.url.raw_path)]
    lines += [b"%b: %b" % field for field in request.headers.raw]
    read = fast_path.read(b"\r\n".join([*lines, b"", content]))
    if read is None:
        return None
    done: asyncio.Future[Reply] = asyncio.get_running_loop().create_future()
    is_taken = fast_path.start(read[0], content, time.perf_counter(), done.set_result, lambda: False)
    return await done if is_taken else None


def _comparable(field: tuple[bytes, bytes]) -> tuple[bytes, bytes]:
    """A field; of those that differ from response to response the name only."""
    name, value = field
    return name, b"" if name in {b"x-request-id", b"server-timing"} else value


def code(response: httpx.Response) -> tuple[int, str]:
    """Status and error code of an error response, whose form is checked."""
    error = response.json()["error"]
    assert set(error) == {"code", "message"}
    assert error["message"]
    return response.status_code, error["code"]


def free_port() -> int:
    """A free TCP port."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Server:
    """A started server: its address, its log, and how to wait for it and stop it."""

    def __init__(self, command: list[str], cwd: Path, log: Path, environment: dict[str, str]) -> None:
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self._log = log
        # Each start of BentoML empties the folder of metrics below BENTOML_HOME, even if a server uses it.
        environment = {
            **os.environ,
            "CONVOKE_DRAIN_S": "0",
            "CONVOKE_WORKERS": "1",
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

    def wait(self, condition: Callable[[], bool], seconds: float = 60) -> None:
        """Wait until a condition holds."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            assert self._process.poll() is None, f"the server ended with {self._process.returncode}:\n{self.log}"
            try:
                if condition():
                    return
            except httpx.TransportError:
                pass
            time.sleep(0.05)
        raise AssertionError(f"the condition did not hold within {seconds} s:\n{self.log}")

    def wait_until_ready(self) -> None:
        """Wait until /readyz answers 200."""
        self.wait(lambda: httpx.get(f"{self.url}/readyz").status_code == 200)

    def stop(self) -> int:
        """Stop it as an orchestrator does; return its exit code."""
        self._process.send_signal(signal.SIGTERM)
        return self.wait_for_end()

    def wait_for_end(self) -> int:
        """Wait until a server that was signalled has stopped; return its exit code."""
        try:
            return self._process.wait(20)
        except subprocess.TimeoutExpired:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
            raise


class Load:
    """Clients that classify a digit again and again, each over connections of its own, until the block ends."""

    def __init__(self, server: Server, clients: int, *, keep_alive: bool) -> None:
        self.answers = 0
        self.failures: list[str] = []
        """Status and body of error responses; type of connection errors."""
        self.versions: dict[str, str] = {}
        """Worker -> the version in its last response."""
        self._url = f"{server.url}/classify/digits"
        self._headers = {} if keep_alive else {"Connection": "close"}
        self._stop = threading.Event()
        self._clients = [threading.Thread(target=self._send) for _ in range(clients)]

    def __enter__(self) -> Self:
        for client in self._clients:
            client.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for client in self._clients:
            client.join()

    def _send(self) -> None:
        digit = encode(mnist_like(7))
        with httpx.Client(timeout=30, headers=self._headers) as session:
            while not self._stop.is_set():
                try:
                    response = session.post(self._url, content=digit)
                except httpx.TransportError as error:
                    self.failures.append(type(error).__name__)
                    continue
                if response.status_code == 200:
                    self.answers += 1
                    self.versions[worker_of(response)] = response.json()["version"]
                else:
                    self.failures.append(f"{response.status_code} {response.text}")


def worker_of(response: httpx.Response) -> str:
    """The worker that answered: request ids start with ten random bytes of each worker."""
    return str(response.headers["x-request-id"][:20])
