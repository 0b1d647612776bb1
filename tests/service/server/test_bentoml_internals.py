"""What BentoML and circus do not promise and `service/server/` relies on: one test for each use.

The tests check the installed libraries themselves. Each fails with a sentence that says what changed, what we use it
for, and which file to change. `test_uvicorn_internals.py` does the same for uvicorn.
"""

import asyncio
import importlib
import logging
import os
import re
import socket
import subprocess
import sys
from typing import Any

import pytest
from starlette.types import Message, Receive, Scope, Send

from service.server import startup, swagger
from tests.serving import free_port

pytestmark = pytest.mark.filterwarnings("ignore")  # importing BentoML warns about its own dependencies


# The service, in `service/app.py` and `service/server/takeover.py`


@pytest.fixture(scope="module")
def lifespan() -> list[tuple[str, object]]:
    """What a BentoML middleware sees of the lifespan: each message, and the current service at that moment."""
    bentoml: Any = importlib.import_module("bentoml")  # its warnings are ignored inside of tests only
    seen: list[tuple[str, object]] = []

    class Middleware:
        def __init__(self, app: Any) -> None:
            self.app = app

        async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
            async def forward(message: Message) -> None:
                service = bentoml.get_current_service() if message["type"] == "lifespan.startup.complete" else None
                seen.append((message["type"], getattr(service, "asgi", None)))
                await send(message)

            await self.app(scope, receive, forward)

    class Probe:
        asgi = "ours"

    service = bentoml.service(Probe, name="probe", metrics={"enabled": False})
    service.add_asgi_middleware(Middleware)
    messages = [{"type": "lifespan.startup"}, {"type": "lifespan.shutdown"}]

    async def receive() -> Message:
        return messages.pop(0)

    async def send(_message: Message) -> None:
        pass

    asyncio.run(service.to_asgi(is_main=True)({"type": "lifespan", "state": {}}, receive, send))
    return seen


def test_middleware_sees_the_lifespan(lifespan: list[tuple[str, object]]) -> None:
    """The messages of the lifespan pass through the middleware that is added to a service."""
    assert [message for message, _ in lifespan] == ["lifespan.startup.complete", "lifespan.shutdown.complete"], (
        "BentoML no longer sends the messages of the lifespan through middleware. "
        "TakeOver in service/server/takeover.py acts on them; find another moment after the start."
    )


def test_get_current_service_asgi(lifespan: list[tuple[str, object]]) -> None:
    """When the start is complete, `bentoml.get_current_service()` is the instance of our class."""
    assert dict(lifespan).get("lifespan.startup.complete") == "ours", (
        "bentoml.get_current_service() no longer is the service's instance when the start is complete. "
        "TakeOver in service/server/takeover.py gets the worker's application from it."
    )


def test_server_context_worker_index() -> None:
    """Outside of a worker, BentoML gives no index; a worker sets its own."""
    bentoml = importlib.import_module("bentoml")
    assert getattr(bentoml.server_context, "worker_index", 0) is None, (
        "bentoml.server_context.worker_index no longer is None outside of a worker. "
        "Convoke in service/app.py takes a worker's number from it, and 1 where it is None."
    )


def test_loggers() -> None:
    """BentoML gives handlers to the loggers that we format, to no others, and shows lines of `bentoml.convoke`."""
    loggers = importlib.import_module("bentoml._internal.log").SERVER_LOGGING_CONFIG["loggers"]
    assert {"", *loggers} == set(startup.LOGGERS) and loggers["bentoml"]["level"] <= logging.INFO, (  # noqa: PT018 -- one message
        f"BentoML's loggers are now {sorted(loggers)}, or 'bentoml' no longer shows lines of the level INFO. "
        "Change LOGGERS in service/server/startup.py, or the name of our loggers, 'bentoml.convoke'."
    )


def test_command_line() -> None:
    """`python -m bentoml serve` exists and takes a host and a port."""
    command = [sys.executable, "-W", "ignore", "-m", "bentoml", "serve", "--help"]
    help_text = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60).stdout
    assert {"--host", "--port"} <= set(re.findall(r"--[a-z]+", help_text)), (
        "`python -m bentoml serve` no longer exists with --host and --port. "
        "serve in service/server/launch.py runs it in this process."
    )


# The processes, which circus starts


@pytest.fixture
def watcher() -> Any:
    """Circus' watcher of a server's workers, as BentoML makes it."""
    return importlib.import_module("bentoml.serving").create_watcher("service", [], numprocesses=2)


def test_workers_inherit_the_environment(watcher: Any) -> None:
    """Workers have the environment variables that the server has set."""
    assert watcher.copy_env, (
        "BentoML no longer passes the server's environment to its workers. "
        "make_folder in service/server/fleet.py tells them their folder by it."
    )


def test_workers_may_drain(watcher: Any) -> None:
    """Circus waits for a worker that stops for as long as `drain_s` and a request may take."""
    assert watcher.graceful_timeout > 600 + 55, (
        f"circus now kills a worker {watcher.graceful_timeout} s after SIGTERM. Draining needs up to 600 s, and then "
        "a request up to 55 s; lower drain_s and request_timeout_s in service/settings.py."
    )


def test_a_new_worker_takes_the_lowest_free_number(watcher: Any) -> None:
    """The worker that replaces a dead one has the same number; the first has number 1."""
    numbers = []
    for occupied in ((), (1,), (2,)):
        watcher.processes = {number: type("Process", (), {"wid": number}) for number in occupied}
        numbers.append(watcher._nextwid)  # noqa: SLF001 -- this is what the test is about
    assert numbers == [1, 2, 1], (
        "circus no longer gives a new worker the lowest free number, from 1. "
        "Fleet in service/server/fleet.py lets the worker with a dead worker's number continue its counts."
    )


def test_command_line_of_a_worker() -> None:
    """Workers run the module by which tests find them."""
    script = getattr(importlib.import_module("_bentoml_impl.server.serving"), "_SERVICE_WORKER_SCRIPT", None)
    assert script == "_bentoml_impl.worker.service", (
        f"BentoML's workers now run {script!r}, not '_bentoml_impl.worker.service'. "
        "_is_worker in tests/fuzz/faults.py finds a server's workers by it."
    )


def set_up(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Set up the server's processes for the length of a test; return circus' module of sockets."""
    sockets = importlib.import_module("circus.sockets")
    processes = importlib.import_module("service.server.processes")
    patched = (sockets.CircusSocket, "listen"), (processes.Arbiter, "start"), (processes.SysHandler, "handle_hup")
    for owner, name in (*patched, (processes.Watcher, "notify_event")):
        monkeypatch.setattr(owner, name, getattr(owner, name))
    processes.set_up()
    return sockets


def test_the_socket_refuses_connections_until_a_worker_listens(monkeypatch: pytest.MonkeyPatch) -> None:
    """A server that is set up binds its socket without listening, so that a starting container is not yet reachable."""
    sockets = set_up(monkeypatch)
    with sockets.CircusSocket(name="api", host="127.0.0.1", port=0) as bound:
        bound.bind_and_listen()
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", bound.port)).close()
        socket.socket.listen(bound)
        socket.create_connection(("127.0.0.1", bound.port)).close()


def reap(program: str, sockets: dict[str, socket.socket], others: int = 0) -> None:
    """Let a worker that runs a program end, and circus find it, while other workers run."""
    watcher = importlib.import_module("circus.watcher").Watcher("service", sys.executable)
    watcher.initialize(None, sockets, None)
    process = subprocess.Popen([sys.executable, "-c", f"import os; {program}"])
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
    watcher.processes = {process.pid: process, **dict.fromkeys(range(-others, 0))}
    process.status = None  # type: ignore[attr-defined]  # as processes of circus have it
    process.stop = process.kill  # type: ignore[attr-defined]
    watcher.reap_process(process.pid)
    process.wait()  # circus has taken its status


@pytest.mark.parametrize(
    ("program", "expected"),
    [("os.kill(os.getpid(), 9)", "SIGKILL, which the system sends if memory runs out"), ("os._exit(3)", "status 3")],
)
def test_a_worker_that_ends_is_logged(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, program: str, expected: str
) -> None:
    """Circus tells of an ended process by notify_event, with its exit code; the log says how it ended."""
    set_up(monkeypatch)
    reap(program, {})
    assert "worker " in caplog.text
    assert expected in caplog.text


def test_after_the_last_worker_connections_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """A connection that the system has accepted for a dead worker ends at once, and so does a new one."""
    sockets = set_up(monkeypatch)
    with sockets.CircusSocket(name="api", host="127.0.0.1", port=free_port()) as bound:
        bound.bind_and_listen()
        socket.socket.listen(bound)
        with socket.create_connection(("127.0.0.1", bound.port), timeout=10) as waiting:
            reap("os.kill(os.getpid(), 9)", {"api": bound}, others=1)
            socket.create_connection(("127.0.0.1", bound.port)).close()
            reap("os.kill(os.getpid(), 9)", {"api": bound})
            with pytest.raises(ConnectionResetError):
                waiting.recv(1)
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", bound.port)).close()
        socket.socket.listen(bound)
        socket.create_connection(("127.0.0.1", bound.port)).close()


def test_workers_are_replaced_within_a_second_also_in_containers(monkeypatch: pytest.MonkeyPatch) -> None:
    """A server that is set up looks for dead workers each second, and replaces them, whatever BentoML's image sets."""
    serving = importlib.import_module("bentoml.serving")
    monkeypatch.setenv("BENTOML_CONTAINERIZED", "true")
    serving.running_inside_container.cache_clear()
    set_up(monkeypatch)
    assert serving.create_watcher("service", []).respawn, "BentoML has another variable that turns respawning off"
    arbiter = importlib.import_module("bentoml._internal.utils.circus").create_standalone_arbiter([])
    assert callable(arbiter.manage_watchers) and callable(arbiter.reap_processes) and not arbiter._stopping, (  # noqa: PT018, SLF001
        "circus no longer replaces workers in manage_watchers, or finds dead ones by reap_processes unless it stops; "
        "see service/server/processes.py"
    )
    assert arbiter.loop.asyncio_loop, (
        "circus has no loop of asyncio's before it starts: see service/server/processes.py"
    )


def test_sighup_stops_the_server_as_sigterm_does(monkeypatch: pytest.MonkeyPatch) -> None:
    """Circus would start all workers anew, so that none could answer for seconds."""
    handlers = importlib.import_module("circus.sighandler").SysHandler
    assert handlers.handle_hup is not handlers.handle_term
    set_up(monkeypatch)
    assert handlers.handle_hup is handlers.handle_term


# The page of routes, in `service/server/swagger.py`


def test_bentoml_has_swagger_ui() -> None:
    """BentoML's package has the files of Swagger UI 5, which reads OpenAPI 3.1."""
    place = swagger.folder()
    assert place is not None, "BentoML has no Swagger UI any more: change service/server/swagger.py"
    script = (place / "swagger-ui-bundle.js").read_text(encoding="utf-8")
    assert re.search(r'PACKAGE_VERSION:"5\.\d+', script), "its Swagger UI is not version 5; look at GET /docs"
