"""Bounds on connections and on heads of requests, over real sockets."""

import asyncio
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import pytest
import uvicorn
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.types import Receive, Scope, Send

from contract.errors import TooLarge
from service.server import connections, takeover
from service.server.connections import Connection, Limits
from service.settings import Settings
from tests.serving import Server

HEAD = b"POST / HTTP/1.1\r\nHost: x\r\n"
ROOMY = Limits(connections=50, head_bytes=4096, head_timeout_s=30)
Dial = Callable[[], socket.socket]


async def echo(scope: Scope, receive: Receive, send: Send) -> None:
    """Answers how many bytes the body has; one announced as larger than a megabyte is refused unread."""
    if scope["type"] == "http":
        request = Request(scope, receive)
        large = int(request.headers.get("content-length", "0")) > 1 << 20
        size = 0 if large else len(await request.body())
        await PlainTextResponse(f"{size}", TooLarge.status if large else 200)(scope, receive, send)


@contextmanager
def listening(limits: Limits = ROOMY) -> Iterator[Dial]:
    """Uvicorn with this protocol in a thread; gives what opens connections to it."""
    opened: list[socket.socket] = []
    with socket.create_server(("127.0.0.1", 0)) as listener:
        protocol: Any = partial(Connection, limits=limits)
        config = uvicorn.Config(echo, http=protocol, ws="none", lifespan="off", log_config=None)
        server = uvicorn.Server(config)
        thread = threading.Thread(target=lambda: asyncio.run(server.serve([listener])))

        def dial() -> socket.socket:
            opened.append(socket.create_connection(listener.getsockname(), timeout=20))
            return opened[-1]

        thread.start()
        try:
            yield dial
        finally:
            for one in opened:
                one.close()
            server.should_exit = True
            thread.join()


def answer(connection: socket.socket) -> tuple[int, dict[str, str], bytes]:
    """One answer: status, headers and body."""
    received = b""
    while b"\r\n\r\n" not in received:
        more = connection.recv(65536)
        assert more, f"closed after {received!r}"
        received += more
    head, body = received.split(b"\r\n\r\n", 1)
    first, *lines = head.decode().split("\r\n")
    headers = {name.lower(): value for name, value in (line.split(": ", 1) for line in lines)}
    while len(body) < int(headers["content-length"]):
        body += connection.recv(65536)
    return int(first.split()[1]), headers, body


def is_cut_off(connection: socket.socket, data: bytes) -> bool:
    """Whether the server closes a connection over which this comes again and again."""
    deadline = time.monotonic() + 10
    try:
        while time.monotonic() < deadline:
            connection.sendall(data)
    except OSError:
        return True
    return False


def refusal(connection: socket.socket) -> tuple[int, str]:
    """Status and code of an answer that is an error of one shape and ends its connection."""
    status, headers, body = answer(connection)
    assert headers["connection"] == "close"
    error = json.loads(body)["error"]
    assert set(error) == {"code", "message"}
    return status, error["code"]


def test_requests_pass_unchanged() -> None:
    """Bodies with a length, in chunks, after `Expect`, byte by byte, and several on one connection, one ahead."""
    with listening() as dial:
        connection = dial()
        for _ in range(3):
            connection.sendall(HEAD + b"Content-Length: 3\r\n\r\nabc")
            assert answer(connection)[::2] == (200, b"3")
        for byte in HEAD + b"Transfer-Encoding: chunked\r\n\r\n2\r\nab\r\n1\r\nc\r\n0\r\nTrailer: x\r\n\r\n":
            connection.sendall(bytes([byte]))
        assert answer(connection)[::2] == (200, b"3")
        connection.sendall(HEAD + b"Content-Length: 0\r\n\r\n")
        connection.sendall(HEAD + b"Content-Length: 200000\r\n\r\n" + bytes(200_000))
        assert answer(connection)[2] == b"0"
        assert answer(connection)[2] == b"200000"


@pytest.mark.parametrize(
    "head",
    [
        HEAD + b"X: " + bytes(b"x" * 5000) + b"\r\n\r\n",
        HEAD + b"X: y\r\n" * 1000 + b"\r\n",
        b"GET /" + b"x" * 5000 + b" HTTP/1.1\r\n\r\n",
        HEAD + b"X: " + b"x" * 200_000,
    ],
    ids=["one header", "many headers", "the path", "without end"],
)
@pytest.mark.parametrize("size", [1000, 1 << 20])
def test_a_large_head_is_refused(head: bytes, size: int) -> None:
    """Above the bound it is a 431, in one piece or in many, also where it has no end; the server serves on."""
    with listening() as dial:
        connection = dial()
        for place in range(0, len(head), size):
            try:
                connection.sendall(head[place : place + size])
            except OSError:
                break
        assert refusal(connection) == (431, "head_too_large")
        other = dial()
        other.sendall(HEAD + b"Content-Length: 1\r\n\r\nx")
        assert answer(other)[0] == 200


def test_headers_behind_a_body_are_bounded() -> None:
    """A body in chunks that ends in headers without end is cut off, while an answer waits for its end."""
    with listening() as dial:
        connection = dial()
        connection.sendall(HEAD + b"Transfer-Encoding: chunked\r\n\r\n1\r\nx\r\n0\r\nX: ")
        assert is_cut_off(connection, b"x" * 1024)


def test_a_slow_head_is_cut_off() -> None:
    """Half a head is answered 408 once its time is over; a connection that says nothing is closed without a word."""
    with listening(Limits(connections=50, head_bytes=4096, head_timeout_s=0.2)) as dial:
        slow, silent, second = dial(), dial(), dial()
        slow.sendall(HEAD)
        assert refusal(slow) == (408, "slow_head")
        assert silent.recv(1) == b""
        second = dial()
        second.sendall(HEAD + b"Content-Length: 1\r\n\r\nx" + HEAD)  # the second head on a connection counts as well
        assert answer(second)[0] == 200
        assert refusal(second) == (408, "slow_head")


def test_too_many_connections_are_refused() -> None:
    """The one above the bound is told to come back; one that closes makes room; those that are open are served."""
    with listening(Limits(connections=2, head_bytes=4096, head_timeout_s=30)) as dial:
        first, second = dial(), dial()
        for one in (first, second):
            one.sendall(HEAD + b"Content-Length: 1\r\n\r\nx")
            assert answer(one)[0] == 200
        third = dial()
        third.sendall(HEAD + b"Content-Length: 1\r\n\r\nx")
        status, headers, _ = answer(third)
        assert (status, headers["retry-after"]) == (429, "1")
        third.close()
        first.sendall(HEAD + b"Content-Length: 1\r\n\r\nx")
        assert answer(first)[0] == 200
        second.close()
        assert _comes_through(dial)


def _comes_through(dial: Dial) -> bool:
    """Whether a request is answered, once the server has noticed that another left."""
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        with dial() as connection:
            connection.sendall(HEAD + b"Content-Length: 1\r\n\r\nx")
            if answer(connection)[0] == 200:
                return True
    return False


def test_what_is_no_http_is_refused_in_the_shape_of_all_errors() -> None:
    """Garbage, and more requests than a client may send ahead, are a 400."""
    with listening() as dial:
        connection = dial()
        connection.sendall(b"\x16\x03\x01 nonsense\r\n\r\n")
        assert refusal(connection) == (400, "invalid_request")


def test_requests_ahead_are_bounded() -> None:
    """A client that sends thousands of requests and reads no answer is cut off, and holds nothing."""
    with listening() as dial:
        connection = dial()
        connection.sendall((b"GET / HTTP/1.1\r\nHost: x\r\n\r\n") * 2000)
        received = 0
        while more := connection.recv(65536):
            received += more.count(b"HTTP/1.1 200")
        assert received <= 20


def test_a_body_is_refused_before_it_was_sent_and_not_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    """The answer comes while the body is still announced; a body without end is cut off; a short rest is let pass."""
    monkeypatch.setattr(connections, "_LINGER_S", 0.3)
    with listening() as dial:
        connection = dial()
        connection.sendall(HEAD + b"Content-Length: 1000000000\r\n\r\n" + bytes(1000))
        assert answer(connection)[0] == 413
        assert is_cut_off(connection, bytes(1 << 16))
        polite = dial()
        polite.sendall(HEAD + b"Content-Length: 1048577\r\n\r\n" + bytes(1000))
        assert answer(polite)[0] == 413
        polite.sendall(bytes(1_048_577 - 1000) + HEAD + b"Content-Length: 1\r\n\r\nx")
        assert answer(polite)[::2] == (200, b"1")


def test_another_server_is_left_alone(caplog: pytest.LogCaptureFixture) -> None:
    """Where uvicorn is not what runs the service, that is said, and nothing else happens."""

    async def receive() -> dict[str, Any]:
        return {}

    takeover.take_over(receive, echo, Settings())
    assert "not uvicorn with httptools" in caplog.text


def test_the_started_service_has_the_bounds(server: Server) -> None:
    """`make serve` puts the protocol into uvicorn: a head above the default bound is a 431."""
    with socket.create_connection(("127.0.0.1", server.port), timeout=20) as connection:
        connection.sendall(HEAD + b"X: " + b"x" * 70_000 + b"\r\n\r\n")
        assert refusal(connection) == (431, "head_too_large")
    assert "not uvicorn with httptools" not in server.log
