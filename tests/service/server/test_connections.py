"""Limits of connections and of the headers of requests, over real sockets."""

import asyncio
import json
import re
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
from service.server import connections, limits, takeover
from service.server.connections import Connection
from service.server.draining import Drain
from service.server.limits import Limits
from service.settings import Settings
from tests.serving import Server

START = b"POST / HTTP/1.1\r\nHost: x\r\n"
COMPLETE = START + b"Content-Length: 1\r\n\r\nx"
GENEROUS = Limits(connections=50, header_bytes=4096, header_timeout_s=30)
Dial = Callable[[], socket.socket]


async def echo(scope: Scope, receive: Receive, send: Send) -> None:
    """Answers with the size of the body; refuses a body announced as larger than a megabyte, without reading it."""
    if scope["type"] == "http":
        request = Request(scope, receive)
        large = int(request.headers.get("content-length", "0")) > 1 << 20
        if request.url.path == "/slow":
            while (await receive())["type"] != "http.disconnect":
                pass
        size = 0 if large else len(await request.body())
        await PlainTextResponse(f"{size}", TooLarge.status if large else 200)(scope, receive, send)


@contextmanager
def listening(limits: Limits = GENEROUS) -> Iterator[Dial]:
    """Run uvicorn with our protocol in a thread; yield a function that opens connections to it."""
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
            for connection in opened:
                connection.close()
            server.should_exit = True
            thread.join()


def read_response(connection: socket.socket) -> tuple[int, dict[str, str], bytes]:
    """Status, headers and body of the next response; one that follows it is left for the next call."""
    header, body = b"", b""
    while not header.endswith(b"\r\n\r\n"):
        data = connection.recv(1)
        assert data, f"closed after {header!r}"
        header += data
    status_line, *lines = header.decode().removesuffix("\r\n\r\n").split("\r\n")
    headers = {name.lower(): value for name, value in (line.split(": ", 1) for line in lines)}
    while (left := int(headers["content-length"]) - len(body)) > 0:
        data = connection.recv(left)
        assert data, f"closed after {body!r}"
        body += data
    return int(status_line.split()[1]), headers, body


def is_cut_off(connection: socket.socket, data: bytes) -> bool:
    """Whether the server closes a connection to which this data is sent again and again."""
    deadline = time.monotonic() + 10
    try:
        while time.monotonic() < deadline:
            connection.sendall(data)
    except OSError:
        return True
    return False


def read_error(connection: socket.socket) -> tuple[int, str]:
    """Status and code of an error response, which has the usual form and ends its connection."""
    status, headers, body = read_response(connection)
    assert headers["connection"] == "close"
    error = json.loads(body)["error"]
    assert set(error) == {"code", "message"}
    return status, error["code"]


def test_requests_pass_unchanged() -> None:
    """Bodies with a length, in chunks and byte by byte, and several requests on one connection, one sent ahead."""
    with listening() as dial:
        connection = dial()
        for _ in range(3):
            connection.sendall(START + b"Content-Length: 3\r\n\r\nabc")
            assert read_response(connection)[::2] == (200, b"3")
        for byte in START + b"Transfer-Encoding: chunked\r\n\r\n2\r\nab\r\n1\r\nc\r\n0\r\nTrailer: x\r\n\r\n":
            connection.sendall(bytes([byte]))
        assert read_response(connection)[::2] == (200, b"3")
        connection.sendall(START + b"Content-Length: 0\r\n\r\n")
        connection.sendall(START + b"Content-Length: 200000\r\n\r\n" + bytes(200_000))
        assert read_response(connection)[2] == b"0"
        assert read_response(connection)[2] == b"200000"


@pytest.mark.parametrize(
    "header",
    [
        START + b"X: " + bytes(b"x" * 5000) + b"\r\n\r\n",
        START + b"X: y\r\n" * 1000 + b"\r\n",
        b"GET /" + b"x" * 5000 + b" HTTP/1.1\r\n\r\n",
        START + b"X: " + b"x" * 200_000,
    ],
    ids=["one header", "many headers", "the path", "no end"],
)
@pytest.mark.parametrize("size", [1000, 1 << 20])
def test_a_large_header_is_refused(header: bytes, size: int) -> None:
    """Above the limit it is a 431, in one piece or in many, also if it has no end; other connections are served."""
    with listening() as dial:
        connection = dial()
        for start in range(0, len(header), size):
            try:
                connection.sendall(header[start : start + size])
            except OSError:
                break
        assert read_error(connection) == (431, "head_too_large")
        other = dial()
        other.sendall(COMPLETE)
        assert read_response(other)[0] == 200


def test_trailers_are_limited() -> None:
    """A body in chunks with endless trailers is cut off, although a response waits for its end."""
    with listening() as dial:
        connection = dial()
        connection.sendall(START + b"Transfer-Encoding: chunked\r\n\r\n1\r\nx\r\n0\r\nX: ")
        assert is_cut_off(connection, b"x" * 1024)


def test_a_slow_header_is_cut_off() -> None:
    """Half a header is answered 408 after the timeout; a connection on which nothing arrives is closed silently."""
    with listening(Limits(connections=50, header_bytes=4096, header_timeout_s=0.2)) as dial:
        slow, silent, second = dial(), dial(), dial()
        slow.sendall(START)
        assert read_error(slow) == (408, "slow_head")
        assert silent.recv(1) == b""
        second = dial()
        second.sendall(COMPLETE + START)  # the second header on a connection is limited too
        assert read_response(second)[0] == 200
        assert read_error(second) == (408, "slow_head")


def test_too_many_connections_are_refused() -> None:
    """One more than allowed is a 429 with Retry-After; open ones are served; a closed one makes room for another."""
    with listening(Limits(connections=2, header_bytes=4096, header_timeout_s=30)) as dial:
        first, second = dial(), dial()
        for connection in (first, second):
            connection.sendall(COMPLETE)
            assert read_response(connection)[0] == 200
        third = dial()
        third.sendall(COMPLETE)
        status, headers, _ = read_response(third)
        assert (status, headers["retry-after"]) == (429, "1")
        third.close()
        first.sendall(COMPLETE)
        assert read_response(first)[0] == 200
        second.close()
        assert _is_served_soon(dial)


@pytest.mark.parametrize("path", ["/livez", "/readyz", "/metrics", "/v2/health/live", "/v2/health/ready", "/livez?x=y"])
def test_health_is_answered_although_all_connections_are_taken(path: str) -> None:
    """Health and metrics are answered on a connection above the limit, which then ends; other requests are a 429."""
    with listening(Limits(connections=2, header_bytes=4096, header_timeout_s=30)) as dial:
        for _ in range(2):
            dial().sendall(START)
        time.sleep(0.2)
        silent = [dial() for _ in range(3 * limits.RESERVE)]
        for _ in range(3):
            probe = dial()
            probe.sendall(f"GET {path} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
            status, headers, _body = read_response(probe)
            assert (status, headers["connection"]) == (200, "close")
        other = dial()
        other.sendall(COMPLETE)
        assert read_error(other) == (429, "too_many_connections")
        assert read_error(silent[0]) == (429, "too_many_connections")  # the oldest made way


def _is_served_soon(dial: Dial) -> bool:
    """Whether a request is answered once the server has noticed that another connection was closed."""
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        with dial() as connection:
            connection.sendall(COMPLETE)
            if read_response(connection)[0] == 200:
                return True
    return False


@pytest.mark.parametrize("size", [10, 20_000])
def test_a_malformed_request_is_refused(size: int, caplog: pytest.LogCaptureFixture) -> None:
    """Bytes that are not HTTP are one 400 of the usual form, also if there are more than a header may have."""
    with listening() as dial:
        connection = dial()
        connection.sendall(b"\x16\x03\x01" + b"x" * size + b"\r\n\r\n")
        assert read_error(connection) == (400, "invalid_request")
        assert connection.recv(1) == b""
    assert "Traceback" not in caplog.text


def test_pipelined_requests_are_limited() -> None:
    """A client that sends thousands of requests ahead of their responses is cut off."""
    with listening() as dial:
        connection = dial()
        connection.sendall((b"GET / HTTP/1.1\r\nHost: x\r\n\r\n") * 2000)
        received = 0
        while data := connection.recv(65536):
            received += data.count(b"HTTP/1.1 200")
        assert received <= 20


def test_the_rest_of_a_refused_body_is_discarded(monkeypatch: pytest.MonkeyPatch) -> None:
    """The response comes before the body was sent; an endless body is cut off; after a short one the next is served."""
    monkeypatch.setattr(connections, "_LINGER_S", 0.3)
    with listening() as dial:
        connection = dial()
        connection.sendall(START + b"Content-Length: 1000000000\r\n\r\n" + bytes(1000))
        assert read_response(connection)[0] == 413
        assert is_cut_off(connection, bytes(1 << 16))
        short = dial()
        short.sendall(START + b"Content-Length: 1048577\r\n\r\n" + bytes(1000))
        assert read_response(short)[0] == 413
        short.sendall(bytes(1_048_577 - 1000) + COMPLETE)
        assert read_response(short)[::2] == (200, b"1")


JUNK = b"\x89PNG\r\n\x1a\n" + bytes(20)


@pytest.mark.parametrize(
    ("sent", "statuses"),
    [
        (START + b"\r\n" + JUNK, [200, 400]),
        (START + b"Content-Length: 10\r\n\r\n" + JUNK, [200, 400]),
        (START + b"Content-Length: 3\r\n\r\nabcPOST", [200, 400]),
        (START + b"Transfer-Encoding: chunked\r\n\r\n" + JUNK, [400]),
        (START + b"Transfer-Encoding: chunked\r\n\r\n2\r\nabc\r\n", [400]),
        (COMPLETE + START + b"Transfer-Encoding: chunked\r\n\r\n" + JUNK, [200, 400]),
        (COMPLETE * 3 + JUNK, [200, 200, 200, 400]),
        (COMPLETE, [200]),
        (COMPLETE * 3, [200, 200, 200]),
        (START + b"Content-Length: 10\r\n\r\nabc", [400]),
        (COMPLETE + START + b"Content-Length: 10\r\n\r\nabc", [200, 400]),
        (START + b"Transfer-Encoding: chunked\r\n\r\n1\r\na\r\n", [400]),
        (START, [400]),
        (COMPLETE + START, [200, 400]),
        (b"", []),
    ],
)
def test_no_request_ends_without_a_response(sent: bytes, statuses: list[int]) -> None:
    """Each complete request is answered, and what follows is a 400, also if the client has shut down its side."""
    with listening() as dial:
        for half_closed in (True, False) if sent.endswith(JUNK) else (True,):
            connection = dial()
            connection.sendall(sent)
            if half_closed:
                connection.shutdown(socket.SHUT_WR)
            received = b""
            while data := connection.recv(65536):
                received += data
            assert [int(status) for status in re.findall(rb"HTTP/1.1 (\d+)", received)] == statuses


def test_a_client_that_has_gone_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    """A client that closes its connection while its response takes long frees the connection."""
    monkeypatch.setattr(connections, "_HALF_CLOSED_S", 0.2)
    with listening(Limits(connections=1, header_bytes=4096, header_timeout_s=30)) as dial:
        with dial() as gone:
            gone.sendall(START.replace(b"/", b"/slow", 1) + b"Content-Length: 1\r\n\r\nx")
        assert _is_served_soon(dial)


@pytest.mark.parametrize(
    ("header", "status"),
    [
        ("POST / HTTP/1.1", 400),
        ("POST / HTTP/1.1|Host: x|Host: x", 400),
        ("POST / HTTP/1.1|Host: x|Host: y", 400),
        ("POST / HTTP/1.0", 200),
        ("POST / HTTP/1.0|Host: x|Host: y", 400),
        ("POST / HTTP/1.1|Host:", 200),
        ("POST / HTTP/1.1|Host: x|Content-Type: image/png|Content-Type: image/jpeg", 400),
        ("POST / HTTP/1.1|Host: x|content-type: image/png|Content-Type: image/png", 200),
        ("POST / HTTP/1.1|Host: x|X-API-Key: a|X-API-Key: b", 400),
        ("POST / HTTP/1.1|Host: x|Accept: a|Accept: b", 200),
    ],
)
def test_ambiguous_headers_are_refused(header: str, status: int) -> None:
    """Exactly one Host in HTTP/1.1, and one value of the headers that decide how a request is read."""
    with listening() as dial:
        connection = dial()
        connection.sendall(header.replace("|", "\r\n").encode() + b"\r\nContent-Length: 1\r\n\r\nx")
        if status == 400:
            assert read_error(connection) == (400, "invalid_request")
        else:
            assert read_response(connection)[::2] == (200, b"1")


@pytest.mark.parametrize(
    "lines",
    ["gzip, chunked", "gzip", "identity", "chunked, gzip", "chunked, chunked", "xchunked", "gzip|chunked", "chunked|x"],
)
def test_only_chunked_is_a_transfer_encoding(lines: str) -> None:
    """Any other Transfer-Encoding is a 400, and the body is not read as if it were plain; so it is in HTTP/1.0."""
    codings = "".join(f"Transfer-Encoding: {coding}\r\n" for coding in lines.split("|")).encode()
    with listening() as dial:
        for start, coding in ((START, codings), (START.replace(b"1.1", b"1.0"), b"Transfer-Encoding: chunked\r\n")):
            connection = dial()
            connection.sendall(start + coding + b"\r\n1\r\nx\r\n0\r\n\r\n")
            assert read_error(connection) == (400, "invalid_request")
        connection = dial()
        connection.sendall(START + b"Transfer-Encoding: Chunked\r\n\r\n1\r\nx\r\n0\r\n\r\n")
        assert read_response(connection)[::2] == (200, b"1")


def test_http_1_0_may_keep_its_connection() -> None:
    """With `Connection: keep-alive`, as `ab -k` sends it, the response says so and the next request is answered."""
    old = START.replace(b"1.1", b"1.0") + b"Content-Length: 1\r\n"
    with listening() as dial:
        connection = dial()
        for _ in range(3):
            connection.sendall(old + b"Connection: Keep-Alive\r\n\r\nx")
            status, headers, body = read_response(connection)
            assert (status, headers["connection"], body) == (200, "keep-alive", b"1")
        connection.sendall(old + b"\r\nx")
        assert read_response(connection)[1]["connection"] == "close"
        assert connection.recv(1) == b""


UPGRADE = {
    "h2c, as curl sends it": b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABk\r\n",
    "h2c, after the length": b"X: y\r\nupgrade:h2c\r\nCONNECTION:  keep-alive,upgrade \r\n",
    "websocket": b"Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Key: eA==\r\n",
    "any word": b"Upgrade: TLS/1.0, IRC/6.9\r\nConnection: upgrade\r\n",
    "two lines": b"Upgrade: x\r\nUpgrade: h2c\r\nConnection: close-not\r\nConnection: upgrade\r\n",
}
SMUGGLED = b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n"


@pytest.mark.parametrize("offer", UPGRADE.values(), ids=UPGRADE)
@pytest.mark.parametrize("chunked", [False, True], ids=["length", "chunked"])
@pytest.mark.parametrize("split", ["one packet", "two packets", "byte by byte"])
def test_an_offer_to_upgrade_is_ignored(offer: bytes, split: str, *, chunked: bool) -> None:
    """The body is read as the body of its request, never as another request (RFC 9110, section 7.8)."""
    size = len(SMUGGLED)
    length = b"Transfer-Encoding: chunked\r\n" if chunked else b"Content-Length: %d\r\n" % size
    body = b"%x\r\n%s\r\n0\r\n\r\n" % (size, SMUGGLED) if chunked else SMUGGLED
    header = START + offer + length + b"\r\n"
    with listening() as dial:
        connection = dial()
        for _ in range(2):
            if split == "byte by byte":
                pieces = [bytes([byte]) for byte in header + body]
            else:
                pieces = [header + body] if split == "one packet" else [header, body]
            for piece in pieces:
                connection.sendall(piece)
                time.sleep(0.1 if len(pieces) == 2 else 0)
            assert read_response(connection)[::2] == (200, b"%d" % size)
        connection.sendall(COMPLETE)
        assert read_response(connection)[::2] == (200, b"1")


def test_requests_that_offer_upgrades_may_be_sent_ahead() -> None:
    """Several such requests in one packet, with and without a body, are each answered once."""
    offer = UPGRADE["any word"]
    sized = START + offer + b"Content-Length: 2\r\n\r\nab"
    without = b"GET / HTTP/1.1\r\nHost: x\r\n" + offer + b"\r\n"
    with listening() as dial:
        connection = dial()
        connection.sendall(
            sized + without + sized + COMPLETE + b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
        )
        received = b""
        while data := connection.recv(65536):
            received += data
    assert received.count(b"HTTP/1.1 200") == 5


def test_the_header_of_an_offer_is_limited() -> None:
    """A large header with an offer is a 431, and a body after CONNECT is not taken for a request."""
    with listening() as dial:
        connection = dial()
        connection.sendall(START + UPGRADE["any word"] + b"X: " + b"x" * 5000 + b"\r\n\r\n")
        assert read_error(connection) == (431, "head_too_large")
        tunnel = dial()
        tunnel.sendall(b"CONNECT x:80 HTTP/1.1\r\nHost: x\r\n\r\n" + SMUGGLED)
        assert read_error(tunnel) == (400, "invalid_request")
        assert tunnel.recv(1) == b""


def test_another_server_is_reported(caplog: pytest.LogCaptureFixture) -> None:
    """A server that is not uvicorn with httptools is not changed; a warning says so."""

    async def receive() -> dict[str, Any]:
        return {}

    takeover.take_over(receive, echo, Settings(), Drain())
    assert "not uvicorn with httptools" in caplog.text


def test_a_connection_stays_open_longer_than_a_proxy_keeps_it(server: Server) -> None:
    """By default more than the 60 to 75 s of common proxies; here, that 6 s without a request end nothing."""
    assert Settings().keep_alive_s > 75
    with socket.create_connection(("127.0.0.1", server.port), timeout=20) as connection:
        for pause_s in (6, 0):
            connection.sendall(b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n")
            assert read_response(connection)[0] == 200
            time.sleep(pause_s)


def test_an_idle_connection_ends_after_the_setting(start_server: Callable[..., Server]) -> None:
    """CONVOKE_KEEP_ALIVE_S is the time that a connection stays open without a request."""
    server = start_server(CONVOKE_KEEP_ALIVE_S="0.5")
    server.wait_until_ready()
    with socket.create_connection(("127.0.0.1", server.port), timeout=20) as connection:
        connection.sendall(b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n")
        assert read_response(connection)[0] == 200
        start = time.monotonic()
        assert connection.recv(1) == b""
        assert 0.3 < time.monotonic() - start < 3


def test_the_started_service_has_the_limits(server: Server) -> None:
    """With `make serve` a header above the default limit is a 431."""
    with socket.create_connection(("127.0.0.1", server.port), timeout=20) as connection:
        connection.sendall(START + b"X: " + b"x" * 70_000 + b"\r\n\r\n")
        assert read_error(connection) == (431, "head_too_large")
    assert "not uvicorn with httptools" not in server.log


@pytest.mark.parametrize(
    ("data", "is_refused"),
    [
        (COMPLETE, True),
        (b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n", False),
        (COMPLETE[:-1], False),
        (START, False),
        (b"", False),
        (START + b"Content-Length: 99999\r\n\r\n" + bytes(99_999), False),
    ],
)
def test_a_new_connection_above_the_reserve_is_refused_before_it_is_opened(data: bytes, is_refused: bool) -> None:
    """Only if its whole request has arrived, so that the response is not lost; what may ask for health is opened."""
    with socket.create_server(("127.0.0.1", 0)) as listener, socket.create_connection(listener.getsockname()) as client:
        limited = Limits(connections=2, header_bytes=4096, header_timeout_s=30)
        threading.Thread(target=client.sendall, args=(data,), daemon=True).start()
        connection, _ = listener.accept()
        time.sleep(0.1)
        connection.settimeout(0)
        assert not limited.refuse(connection, limits.RESERVE + 1)
        assert limited.refuse(connection, limits.RESERVE + 2) is is_refused
        if is_refused:
            client.settimeout(10)
            assert read_error(client) == (429, "too_many_connections")
            assert client.recv(1) == b""
        connection.close()
