"""The fast path, over real sockets: which requests take it, and that none is lost, mixed up or answered differently.

That both paths give the same responses is checked in all tests of the front ends (`tests/serving.py`).
"""

import asyncio
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import uvicorn

from contract.inputs import ImagePreprocessor
from contract.session import Session
from service.errors import Overloaded
from service.server import accepting, fast_path
from service.server.assembly import Parts
from service.server.connections import Connection
from service.server.fast_path import FastPath
from service.server.limits import Limits
from tests.drawing import encode, mnist_like
from tests.service.server.test_connections import read_response
from tests.serving import make_keys, parts

PNG = encode(mnist_like(3))
Dial = Callable[[], socket.socket]


def request(body: bytes = PNG, *fields: str, path: str = "/classify/digits", version: str = "1.1") -> bytes:
    """A POST request."""
    lines = [f"POST {path} HTTP/{version}", "Host: x", *fields, f"Content-Length: {len(body)}", "", ""]
    return "\r\n".join(lines).encode() + body


@pytest.fixture(scope="module")
def assembled() -> Parts:
    """The parts of a worker with the shipped models."""
    return parts()


@pytest.fixture
def starts(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """Whether each request that was offered to the fast path took it."""
    taken: list[bool] = []
    start = FastPath.start

    def spy(self: FastPath, *args: Any) -> bool:
        taken.append(start(self, *args))
        return taken[-1]

    monkeypatch.setattr(FastPath, "start", spy)
    return taken


@pytest.fixture
def dial(assembled: Parts) -> Iterator[Dial]:
    """Opens connections to a worker."""
    with listening(assembled) as connect:
        yield connect


class listening:  # noqa: N801 -- a context manager
    """Runs uvicorn with our connections and our acceptor in a thread."""

    def __init__(self, assembled: Parts) -> None:
        self._assembled = assembled
        self._opened: list[socket.socket] = []
        self._listener = socket.create_server(("127.0.0.1", 0))

    def __enter__(self) -> Dial:
        limits = Limits(500, 65536, 30, self._assembled.fast_path)
        protocol: Any = partial(Connection, limits=limits)
        config = uvicorn.Config(
            self._assembled.application, http=protocol, loop="uvloop", ws="none", lifespan="off", log_config=None
        )
        self._server = uvicorn.Server(config)

        async def serve() -> None:
            accepting.take_over(lambda: accepting.MAX_ACCEPTS)
            await self._server.serve([self._listener])

        self._thread = threading.Thread(target=lambda: uvicorn_run(serve))
        self._thread.start()
        return self._dial

    def __exit__(self, *_: object) -> None:
        for connection in self._opened:
            connection.close()
        self._server.should_exit = True
        self._thread.join()
        self._listener.close()

    def _dial(self) -> socket.socket:
        self._opened.append(socket.create_connection(self._listener.getsockname(), timeout=20))
        return self._opened[-1]


def uvicorn_run(serve: Callable[[], Any]) -> None:
    """Run a server in an event loop of uvloop, as the service does."""
    import uvloop  # noqa: PLC0415 -- not on every platform

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(serve())


def label(response: tuple[int, dict[str, str], bytes]) -> str:
    """The label in the response to one image."""
    status, _, body = response
    assert status == 200, body
    return str(json.loads(body)["predictions"][0]["label"])


def test_a_plain_request_takes_the_fast_path(dial: Dial, starts: list[bool]) -> None:
    """Several on one connection, with other lengths and ids of their own."""
    connection = dial()
    for number in range(3):
        connection.sendall(request(encode(mnist_like(number)), "Content-Type: image/png", f"X-Request-ID: id-{number}"))
        response = read_response(connection)
        label(response)
        assert response[1]["x-request-id"] == f"id-{number}"
        assert response[1]["server-timing"].startswith("read;dur=")
    assert starts == [True] * 3


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b"not an image", 415),
        (PNG[:100], 422),
        (encode(mnist_like(3).resize((300, 300))), 200),  # decoded in a thread
        (b'{"images": []}', 400),
    ],
)
def test_slow_and_bad_items_take_the_fast_path_too(dial: Dial, starts: list[bool], body: bytes, status: int) -> None:
    """An item that is not quickly decoded, or cannot be."""
    connection = dial()
    connection.sendall(request(body))
    assert read_response(connection)[0] == status
    assert starts == [not body.startswith(b"{")]  # an error in the form of the body is the ordinary path's


@pytest.mark.parametrize(
    ("data", "status"),
    [
        (request(version="1.0"), 200),
        (request(PNG, "Connection: close"), 200),
        (request(PNG, "Expect: 100-continue"), 100),
        (request(PNG, "Upgrade: h2c", "Connection: Upgrade"), 200),
        (request(PNG, "Content-Encoding: identity"), 200),
        (request(path="/classify/nothing"), 404),
        (request(path="/classify/digits?top=0"), 400),
        (request(path="/classify/digits?other=1"), 400),
        (request(path="/nothing"), 404),
        (request(path="/classify/\xc3\xa9"), 400),
        (request(b""), 400),
        (request(PNG, "Content-Length: 3"), 400),
        (b"POST /classify/digits HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\nX: 1\n\nabc: d\r\n\r\nabc", 400),
        (request().replace(b"Host: x\r\n", b""), 400),
        (request(PNG, f"X: {'x' * 70_000}"), 431),
        (b"POST /classify/digits HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400),
    ],
)  # fmt: skip
def test_other_requests_take_the_ordinary_path(dial: Dial, starts: list[bool], data: bytes, status: int) -> None:
    """Nothing is lost, and the response is that of the ordinary path."""
    connection = dial()
    connection.sendall(data)
    received = connection.recv(65536)
    assert int(received.split()[1]) == status
    assert not any(starts)


@pytest.mark.parametrize("size", [1, 30, 100, 200])
def test_requests_may_arrive_in_pieces(dial: Dial, size: int) -> None:
    """A header or a body in pieces, each sent on its own: the same answers."""
    connection, data = dial(), request(PNG, "Content-Type: image/png")
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    for _ in range(2):
        for start in range(0, len(data), size):
            connection.sendall(data[start : start + size])
            time.sleep(0.0005)
        label(read_response(connection))


def test_a_body_sent_after_the_header_takes_the_fast_path(dial: Dial, starts: list[bool]) -> None:
    """Many clients send the two apart. One that comes late takes the ordinary path, with the same answer."""
    connection, data = dial(), request()
    header, body = data[: -len(PNG)], data[-len(PNG) :]
    for pause_s, expected in ((0.01, [True]), (2 * fast_path_wait_s(), [True])):
        connection.sendall(header)
        time.sleep(pause_s)
        connection.sendall(body)
        label(read_response(connection))
        assert starts == expected


def fast_path_wait_s() -> float:
    """How long the fast path waits for a body."""
    from service.server import connections  # noqa: PLC0415

    return connections._SOON_S  # noqa: SLF001


def test_responses_keep_the_order_of_requests(dial: Dial) -> None:
    """Requests sent ahead, which mix both paths, are answered in order."""
    connection = dial()
    kinds = [request(), request(path="/classify/nothing"), b"GET /models HTTP/1.1\r\nHost: x\r\n\r\n", request()]
    connection.sendall(b"".join(kinds))
    statuses = []
    received = b""
    while received.count(b"HTTP/1.1 ") < 4:
        received += connection.recv(65536)
    statuses = [int(part.split()[0]) for part in received.split(b"HTTP/1.1 ")[1:]]
    assert statuses == [200, 404, 200, 200]


def test_a_request_sent_before_the_response_is_answered_after_it(dial: Dial) -> None:
    """Two requests in two packets, the second before the first response."""
    connection = dial()
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    for _ in range(50):
        connection.sendall(request())
        connection.sendall(request(path="/classify/nothing"))
        received = b""
        while received.count(b"HTTP/1.1 ") < 2 or b"route" not in received + b"route":
            received += connection.recv(65536)
        assert received.index(b" 200 ") < received.index(b" 404 ")
        while not received.endswith(b"}"):
            received += connection.recv(65536)


def test_a_header_that_only_looks_like_a_known_one_is_read_anew(dial: Dial) -> None:
    """Content-Length in the value of another header never gives the length of a body."""
    connection = dial()
    trap = f"X: ontent-Length: {len(PNG)}"
    for _ in range(2):
        connection.sendall(request(PNG, trap))
        label(read_response(connection))
    smuggled = b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n"
    connection.sendall(request(PNG + smuggled, trap))
    assert read_response(connection)[0] in {200, 422}, "the whole body belongs to the image"
    connection.settimeout(0.3)
    with pytest.raises(TimeoutError):
        connection.recv(1)


def test_a_half_closed_connection_is_answered_and_closed(dial: Dial) -> None:
    """A client that sends no more still receives its response."""
    connection = dial()
    connection.sendall(request())
    connection.shutdown(socket.SHUT_WR)
    label(read_response(connection))
    assert connection.recv(1) == b""


def test_keys_are_checked_for_each_request(tmp_path: Path, starts: list[bool]) -> None:
    """A key that is removed opens nothing any more, although its header is known."""
    file = tmp_path / "keys"
    (key,) = make_keys(file, "predict")
    with listening(parts(api_keys_file=file)) as dial:
        connection = dial()
        for _ in range(2):
            connection.sendall(request(PNG, f"X-API-Key: {key}"))
            label(read_response(connection))
        connection.sendall(request())
        assert read_response(connection)[0] == 401
        file.write_text("# none\n")
        connection.sendall(request(PNG, f"X-API-Key: {key}"))
        assert read_response(connection)[0] == 401
    assert starts[:2] == [True, True]


def test_the_setting_switches_the_fast_path_off() -> None:
    """Without it every request takes the ordinary path."""
    assert parts(load=False, fast_path=False).fast_path is None


def test_the_memory_for_headers_is_bounded(assembled: Parts) -> None:
    """Clients that never repeat a header make the cache neither large nor wrong."""
    made = assembled.fast_path
    assert made is not None
    for number in range(3000):
        assert made.read(request(PNG, f"X-Other: {number}")) is not None
    assert len(made._plans) <= fast_path._MAX_PLANS  # noqa: SLF001


def test_a_refused_request_has_its_response_at_once(dial: Dial, monkeypatch: pytest.MonkeyPatch) -> None:
    """Overloaded: 429 with Retry-After, and the connection goes on."""
    connection = dial()
    connection.sendall(request())
    label(read_response(connection))
    with monkeypatch.context() as context:

        def refuse(*_: object) -> None:
            raise Overloaded("the service is busy", 2.5)

        context.setattr("service.inference.batching.Batcher.check_capacity", refuse)
        connection.sendall(request())
        status, headers, body = read_response(connection)
    assert (status, headers["retry-after"], json.loads(body)["error"]["code"]) == (429, "3", "overloaded")
    connection.sendall(request())
    label(read_response(connection))


def test_a_broken_small_item_is_decoded_once(dial: Dial, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is wrong with it is known after the first look."""
    connection, looks = dial(), []
    look = ImagePreprocessor.decode_quickly

    def counted(self: ImagePreprocessor, encoded: bytes) -> object:
        looks.append(encoded)
        return look(self, encoded)

    monkeypatch.setattr(ImagePreprocessor, "decode_quickly", counted)
    connection.sendall(request(PNG[:-30], path="/classify/cats-vs-dogs"))
    assert read_response(connection)[0] == 422
    assert looks == [PNG[:-30]]


def test_a_failing_model_is_an_error_of_the_service(dial: Dial, monkeypatch: pytest.MonkeyPatch) -> None:
    """The error of the item is the response, and the connection goes on."""
    connection = dial()
    with monkeypatch.context() as context:

        def fail(*_: object) -> np.ndarray:
            raise RuntimeError("broken")

        context.setattr(Session, "_run", fail)
        connection.sendall(request())
        assert read_response(connection)[0] == 500
    connection.sendall(request())
    label(read_response(connection))


def test_many_clients_at_once_are_accepted_in_one_turn(dial: Dial) -> None:
    """200 connections that open together are all answered, and no answer goes to another client."""
    connections = [dial() for _ in range(200)]
    bodies = [encode(mnist_like(number)) for number in range(10)]
    for number, connection in enumerate(connections):
        connection.sendall(request(bodies[number % 10], f"X-Request-ID: id-{number}"))
    for number, connection in enumerate(connections):
        response = read_response(connection)
        label(response)
        assert response[1]["x-request-id"] == f"id-{number}"


def test_requests_on_their_way_are_answered_when_the_server_stops(assembled: Parts) -> None:
    """Clients that send while the server stops get an answer or see a refused connection, never a reset."""
    server = listening(assembled)
    dial = server.__enter__()
    lost, sent = [], 0
    stop = threading.Event()

    def send() -> None:
        nonlocal sent
        while not stop.is_set():
            try:
                connection = dial()
            except OSError:
                return
            try:
                connection.sendall(request())
                label(read_response(connection))
                sent += 1
            except (OSError, AssertionError) as error:
                lost.append(error)
            finally:
                connection.close()

    clients = [threading.Thread(target=send) for _ in range(4)]
    for client in clients:
        client.start()
    time.sleep(0.5)
    server._server.should_exit = True  # noqa: SLF001
    time.sleep(0.5)
    stop.set()
    server._listener.close()  # noqa: SLF001
    for client in clients:
        client.join()
    server.__exit__()
    assert sent > 10
    assert not lost
