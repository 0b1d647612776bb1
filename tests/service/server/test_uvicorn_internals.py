"""What uvicorn does not promise and `service/server/` relies on: one test for each use.

The tests check the installed library itself. Each fails with a sentence that says what changed, what we use it for, and
which file to change. `test_bentoml_internals.py` does the same for BentoML.
"""

import asyncio
import signal
import socket
import threading
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
import uvicorn
from starlette.responses import PlainTextResponse
from starlette.types import Receive, Scope, Send
from uvicorn.lifespan.on import LifespanOn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.server import ServerState

BODY = b"POST /path?query HTTP/1.1\r\nHost: x\r\nX-Name: Value\r\nContent-Length: 3\r\n\r\n"
GET = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"


class Transport(asyncio.Transport):
    """A connection without a peer, which keeps the bytes that are written."""

    def __init__(self) -> None:
        super().__init__()
        self.written = b""

    def write(self, data: Any) -> None:
        self.written += data

    def close(self) -> None:
        """Stay open: tests look at the protocol afterwards."""

    def is_closing(self) -> bool:
        return False

    def pause_reading(self) -> None:
        """Nothing is read."""

    def resume_reading(self) -> None:
        """Nothing is read."""


class Recorder(HttpToolsProtocol):
    """uvicorn's protocol, which notes the calls of the methods that `Connection` overrides."""

    def __init__(self, **arguments: Any) -> None:
        super().__init__(**arguments)
        self.calls: list[str] = []

    def on_message_begin(self) -> None:
        self.calls.append("on_message_begin")
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        self.calls.append("on_headers_complete")
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        self.calls.append("on_body")
        super().on_body(body)

    def on_message_complete(self) -> None:
        self.calls.append("on_message_complete")
        super().on_message_complete()

    def on_response_complete(self) -> None:
        self.calls.append("on_response_complete")
        super().on_response_complete()

    def send_400_response(self, msg: str) -> None:
        self.calls.append("send_400_response")
        super().send_400_response(msg)


async def answer_ok(scope: Scope, receive: Receive, send: Send) -> None:
    """Answers 200 once the body has arrived."""
    while (await receive()).get("more_body"):
        pass
    await PlainTextResponse("ok")(scope, receive, send)


@pytest.fixture
def loop() -> Iterator[asyncio.AbstractEventLoop]:
    """An event loop that runs only when a test says so."""
    loop = asyncio.new_event_loop()
    yield loop
    for task in asyncio.all_tasks(loop):
        task.cancel()
    run_briefly(loop)
    loop.close()


@pytest.fixture
def protocol(loop: asyncio.AbstractEventLoop) -> Recorder:
    """Uvicorn's protocol with an open connection, made as uvicorn's server makes it."""
    config = uvicorn.Config(answer_ok, log_config=None, lifespan="off")
    config.load()
    protocol = Recorder(config=config, server_state=ServerState(), app_state={}, _loop=loop)
    protocol.connection_made(Transport())
    return protocol


def run_briefly(loop: asyncio.AbstractEventLoop) -> None:
    """Let the tasks of a loop go as far as they can without a timer."""
    for _ in range(20):
        loop.run_until_complete(asyncio.sleep(0))


# uvicorn's protocol, which `service/server/connections.py` extends


def test_http_tools_protocol_is_what_uvicorn_chooses() -> None:
    """With httptools installed, uvicorn's configuration names the class that `Connection` extends."""
    config = uvicorn.Config(answer_ok)
    config.load()
    assert config.http_protocol_class is HttpToolsProtocol, (
        "uvicorn no longer chooses HttpToolsProtocol where httptools is installed. "
        "Let Connection in service/server/connections.py extend the class that it chooses."
    )


def test_connections(protocol: Recorder) -> None:
    """`connections` holds the open connections of the worker, this one included, until it is lost."""
    opened = protocol in protocol.connections
    protocol.connection_lost(None)
    assert (opened, len(protocol.connections)) == (True, 0), (
        "HttpToolsProtocol.connections of uvicorn no longer holds exactly the open connections. "
        "Connection.connection_made in service/server/connections.py counts them by it to enforce max_connections."
    )


def test_cycle_more_body(protocol: Recorder) -> None:
    """`cycle.more_body` says whether the body of the current request is incomplete."""
    protocol.data_received(BODY)
    before = protocol.cycle.more_body
    protocol.data_received(b"abc")
    assert (before, protocol.cycle.more_body) == (True, False), (
        "RequestResponseCycle.more_body of uvicorn no longer says whether the body is incomplete. "
        "Connection in service/server/connections.py uses it to limit trailers and unread bodies."
    )


def test_cycle_response_complete(protocol: Recorder, loop: asyncio.AbstractEventLoop) -> None:
    """`cycle.response_complete` says whether the current request has been answered."""
    protocol.data_received(GET)
    before = protocol.cycle.response_complete
    run_briefly(loop)
    assert (before, protocol.cycle.response_complete) == (False, True), (
        "RequestResponseCycle.response_complete of uvicorn no longer says whether the response was sent. "
        "Connection in service/server/connections.py uses it so as not to write an error into another response."
    )


def test_pipeline(protocol: Recorder) -> None:
    """`pipeline` holds the requests that arrived before an earlier one was answered."""
    protocol.data_received(GET * 3)
    assert len(protocol.pipeline) == 2, (
        "HttpToolsProtocol.pipeline of uvicorn no longer holds the requests that wait for an earlier one's response. "
        "Connection.on_message_begin in service/server/connections.py limits how many a client may send ahead by it."
    )


def test_url_and_headers(protocol: Recorder) -> None:
    """`url` and `headers` hold the request target and the headers, as bytes."""
    protocol.data_received(BODY)
    headers = [(b"host", b"x"), (b"x-name", b"Value"), (b"content-length", b"3")]
    assert (protocol.url, protocol.headers) == (b"/path?query", headers), (
        "HttpToolsProtocol.url or .headers of uvicorn no longer hold a request's target and headers. "
        "Connection in service/server/connections.py measures a request's header by them to enforce max_head_bytes."
    )


def test_transport_and_loop(protocol: Recorder, loop: asyncio.AbstractEventLoop) -> None:
    """`transport` and `loop` are those that the protocol was given."""
    assert isinstance(protocol.transport, Transport) and protocol.loop is loop, (  # noqa: PT018 -- one message
        "HttpToolsProtocol.transport or .loop of uvicorn are no longer the connection's transport and event loop. "
        "Connection in service/server/connections.py writes refusals and sets timers by them."
    )


def test_unset_keepalive_if_required(protocol: Recorder, loop: asyncio.AbstractEventLoop) -> None:
    """`_unset_keepalive_if_required` cancels the timer that closes an idle connection."""
    protocol.data_received(GET)
    run_briefly(loop)
    timer = protocol.timeout_keep_alive_task
    protocol._unset_keepalive_if_required()  # noqa: SLF001 -- this is what the test is about
    assert timer is not None and timer.cancelled(), (  # noqa: PT018 -- one message
        "HttpToolsProtocol._unset_keepalive_if_required of uvicorn no longer cancels the keep-alive timer. "
        "Connection._refuse in service/server/connections.py uses it so that a refusal is not cut off."
    )


def test_callbacks_of_a_request(protocol: Recorder) -> None:
    """The parser calls the overridden methods, in the order of a request's parts."""
    protocol.data_received(BODY + b"abc")
    assert protocol.calls == ["on_message_begin", "on_headers_complete", "on_body", "on_message_complete"], (
        "httptools or uvicorn's HttpToolsProtocol no longer call on_message_begin, on_headers_complete, on_body and "
        "on_message_complete in this order. Connection in service/server/connections.py follows a request by them."
    )


def test_on_response_complete(protocol: Recorder, loop: asyncio.AbstractEventLoop) -> None:
    """The overridden `on_response_complete` is called when a response is complete."""
    protocol.data_received(GET)
    run_briefly(loop)
    assert "on_response_complete" in protocol.calls, (
        "uvicorn no longer calls HttpToolsProtocol.on_response_complete when a response is complete. "
        "Connection in service/server/connections.py starts to discard an unread body there."
    )


def test_timeout_keep_alive(protocol: Recorder) -> None:
    """A connection reads how long it may be idle from the configuration when it opens."""
    protocol.config.timeout_keep_alive = 123
    opened = HttpToolsProtocol(
        config=protocol.config, server_state=protocol.server_state, app_state={}, _loop=protocol.loop
    )
    assert opened.timeout_keep_alive == 123, (
        "A connection of uvicorn no longer reads timeout_keep_alive from its configuration when it opens. "
        "take_over in service/server/takeover.py sets keep_alive_s there."
    )


@pytest.mark.parametrize("source", ["parser", "callback"])
def test_send_400_response(protocol: Recorder, monkeypatch: pytest.MonkeyPatch, source: str) -> None:
    """The overridden `send_400_response` is called when the parser fails, and when a callback raises."""

    def fail(_self: object) -> None:
        raise ValueError

    if source == "callback":
        monkeypatch.setattr(HttpToolsProtocol, "on_message_begin", fail)
    protocol.data_received(GET if source == "callback" else b"\x16\x03\x01 no HTTP\r\n\r\n")
    assert protocol.calls[-1:] == ["send_400_response"], (
        f"uvicorn no longer calls HttpToolsProtocol.send_400_response when the {source} fails. "
        "Connection in service/server/connections.py answers malformed and oversized requests there."
    )


# uvicorn's server, into which `service/server/takeover.py` puts our protocol and application


def test_lifespan_receive_self_config() -> None:
    """The `receive` of the lifespan leads to uvicorn's configuration."""
    config = uvicorn.Config(answer_ok)
    owner = getattr(LifespanOn(config).receive, "__self__", None)
    assert getattr(owner, "config", None) is config, (
        "The lifespan's receive of uvicorn no longer is a method of an object that has the configuration. "
        "take_over in service/server/takeover.py finds uvicorn's configuration that way; find another."
    )


@pytest.mark.parametrize("attribute", ["http_protocol_class", "loaded_app"])
def test_config_is_read_after_the_start(attribute: str) -> None:
    """The protocol and the application that the configuration has when the start is complete serve all connections."""
    made: list[Recorder] = []

    async def teapot(scope: Scope, receive: Receive, send: Send) -> None:
        await PlainTextResponse("replaced", 418)(scope, receive, send)

    def protocol(**arguments: Any) -> Recorder:
        made.append(Recorder(**arguments))
        return made[-1]

    async def application(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await receive()
            setattr(config, attribute, {"http_protocol_class": protocol, "loaded_app": teapot}[attribute])
            await send({"type": "lifespan.startup.complete"})
            await receive()
            await send({"type": "lifespan.shutdown.complete"})
        else:
            await answer_ok(scope, receive, send)

    config = uvicorn.Config(application, log_config=None, ws="none")
    server = uvicorn.Server(config)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=lambda: asyncio.run(server.serve([listener])))
        thread.start()
        status = httpx.get(f"http://127.0.0.1:{listener.getsockname()[1]}/", timeout=20).status_code
        server.should_exit = True
        thread.join()
    assert made if attribute == "http_protocol_class" else status == 418, (
        f"uvicorn no longer reads {attribute} from its configuration once the application has started. "
        "take_over in service/server/takeover.py replaces it there; find another place."
    )


# uvicorn's messages, which `service/http/body.py` receives without waiting


def test_receive_may_be_abandoned(protocol: Recorder, loop: asyncio.AbstractEventLoop) -> None:
    """A `receive` that is abandoned while it waits loses nothing: the next one gets the body."""

    async def receive_twice() -> object:
        protocol.data_received(BODY)
        abandoned = protocol.cycle.receive().__await__()
        next(abandoned)
        abandoned.close()
        protocol.data_received(b"abc")
        try:
            return next(protocol.cycle.receive().__await__())
        except StopIteration as done:
            return done.value

    message = loop.run_until_complete(receive_twice())
    assert message == {"type": "http.request", "body": b"abc", "more_body": False}, (
        "A receive of uvicorn that is abandoned while it waits loses a message, or waits for one that has arrived. "
        "_at_once in service/http/body.py reads a body that has arrived, and notices a disconnect, that way."
    )


# uvicorn's signals, which `service/server/draining.py` postpones


def test_sigterm_has_a_handler_that_can_be_called_later() -> None:
    """Uvicorn handles SIGTERM by a Python function that stops the server whenever it is called."""
    server = uvicorn.Server(uvicorn.Config(answer_ok))
    delivered: list[int] = []
    before = signal.signal(signal.SIGTERM, lambda number, _frame: delivered.append(number))
    try:
        with server.capture_signals():
            handler = signal.getsignal(signal.SIGTERM)
            if callable(handler):
                handler(signal.SIGTERM, None)
    finally:
        signal.signal(signal.SIGTERM, before)
    assert server.should_exit and not delivered[1:], (  # noqa: PT018 -- one message
        "uvicorn no longer handles SIGTERM by a function, set with signal.signal, that stops the server when called. "
        "postpone_sigterm in service/server/draining.py calls it after the seconds of drain_s."
    )
