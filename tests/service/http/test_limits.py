"""Every limit is kept while a request is read, is told in one shape, and leaves nothing behind."""

import asyncio
import base64
import gc
import gzip
import json
import socket
import time
import tracemalloc
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import httpx
import pytest

from contract.errors import ConvokeError, TooLarge
from service.errors import InvalidRequest
from service.http import limited, pending
from service.settings import Settings
from tests.contract.test_screen import BOMBS
from tests.drawing import encode, mnist_like
from tests.serving import Call, Server, application, client, code

DIGIT = encode(mnist_like(3))
CLASSIFY = "/classify/digits"
JSON = {"Content-Type": "application/json"}


@pytest.fixture(scope="module")
def call() -> Call:
    return client(max_json_values=100, max_json_depth=8)


@pytest.fixture(scope="module")
def default_call() -> Call:
    """An application with the default limits."""
    return client()


def value(text: str, values: int = 100, depth: int = 8) -> object:
    """What a JSON text is read as within these limits."""
    return limited.loads(text.encode(), Settings(max_json_values=values, max_json_depth=depth))


@pytest.mark.parametrize("text", ["[" + "1," * 98 + "1]", "[" * 8 + "]" * 8, '{"a":' * 8 + "1" + "}" * 8])
def test_json_up_to_the_limits_is_read(text: str) -> None:
    """A hundred values, and eight levels, are read; marks inside of strings are no values and no levels."""
    assert value(text) == json.loads(text)
    strings = json.dumps([f"{text}\\", '"' + text, '\\"[{,' * 100])
    assert value(strings) == json.loads(strings)


@pytest.mark.parametrize("text", ["[" + "1," * 99 + "1]", "[" + "[]," * 60 + "{}" + "," * 45, '{"a":{}},' * 200])
def test_json_of_too_many_values_is_refused_before_it_is_read(text: str) -> None:
    """One value more is too large, whatever the values are, and whether or not it is JSON to its end."""
    with pytest.raises(TooLarge, match="100"):
        value(text)


@pytest.mark.parametrize("text", ["[" * 9 + "]" * 9, '{"a":[' * 5 + "]}" * 5, "[" * 99, '["\\"]",' + "[" * 9])
def test_json_that_is_nested_too_deep_is_refused(text: str) -> None:
    """One level more is too deep."""
    with pytest.raises(InvalidRequest, match=r"deep.*\b8\b"):
        value(text)


@pytest.mark.parametrize("path", [CLASSIFY, "/v2/models/digits/infer", "/v2/repository/index", "/classify_images"])
def test_every_route_reads_json_within_limits(call: Call, path: str) -> None:
    """Each front end that reads JSON refuses too many values and too many levels, in its shape of errors."""
    many = call("POST", path, content=b"[" + b"[]," * 100 + b"[]]", headers=JSON)
    deep = call("POST", path, content=b"[" * 20 + b"]" * 20, headers=JSON)
    assert (many.status_code, deep.status_code) == (413, 400)
    assert "100" in many.text
    assert "deep" in deep.text


IMAGE = {"name": "image", "shape": [1, 28, 28, 1], "datatype": "UINT8", "data": [0] * 784}
COSTLY_TENSORS = {
    "a product of many axes": {"inputs": [{**IMAGE, "shape": [1, *[1 << 40] * 50_000]}]},
    "many axes that are not numbers": {"inputs": [{**IMAGE, "shape": ["x"] * 50_000}]},
    "a long string among many short ones": {"inputs": [{**IMAGE, "data": ["x" * 20_000, *[""] * 5000]}]},
    "the same output many times": {"inputs": [IMAGE], "outputs": [{"name": "probabilities"}] * 5000},
    "many outputs without a name": {"inputs": [IMAGE], "outputs": [{}] * 50_000},
}


@pytest.mark.parametrize("case", COSTLY_TENSORS)
def test_a_tensor_costs_no_more_than_its_bytes(default_call: Call, case: str) -> None:
    """A description that would take long to compute, or far more memory than its bytes, is refused in few words."""
    content = json.dumps(COSTLY_TENSORS[case]).encode()
    tracemalloc.start()
    try:
        response = default_call("POST", "/v2/models/digits/infer", content=content)
        _, peak_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert response.status_code == 400
    assert len(response.content) < 1000
    assert peak_bytes < 20_000_000


def test_headers_of_parts_are_bounded() -> None:
    """A multipart part with a longer header, or with very many, is no form that is read."""
    call = client(max_part_head_bytes=300)
    for heads in (b"X: " + b"x" * 301 + b"\r\n", b"X: y\r\n" * 50, b"Content-Disposition: " + b"x" * 1000):
        body = b"--b\r\n" + heads + b"\r\n" + DIGIT + b"\r\n--b--\r\n"
        response = call("POST", CLASSIFY, content=body, headers={"Content-Type": "multipart/form-data; boundary=b"})
        assert code(response) == (400, "invalid_request")


def test_parts_are_counted_while_they_are_split() -> None:
    """A million empty parts are refused at the bound."""
    body = b"--b\r\n\r\n\r\n" * 100_000 + b"--b--\r\n"
    response = client(max_items=3)(
        "POST", CLASSIFY, content=body, headers={"Content-Type": "multipart/form-data; boundary=b"}
    )
    assert code(response) == (413, "too_large")


@pytest.mark.parametrize("name", BOMBS)
def test_bombs_are_refused_in_their_place(call: Call, name: str) -> None:
    """A picture that would cost far more than its bytes is a 413 or a 422 alone, and hurts no neighbour."""
    bomb = BOMBS[name]()
    status, kind = code(call("POST", CLASSIFY, content=bomb))
    assert (status, kind) in {(413, "too_large"), (422, "unreadable")}
    response = call("POST", CLASSIFY, files=[("f", ("x", DIGIT)), ("f", ("x", bomb)), ("f", ("x", DIGIT))])
    found = [one.get("label") or one["error"]["code"] for one in response.json()["predictions"]]
    assert found == ["3", kind, "3"]


def test_bodies_share_one_room() -> None:
    """While one caller's body takes the room, another large one is told to come back, a small one is answered."""
    app = application(max_body_bytes=150_000, max_pending_bytes=200_000)

    async def scenario() -> None:
        arrived, go_on = asyncio.Event(), asyncio.Event()

        async def slowly() -> AsyncIterator[bytes]:
            yield bytes(140_000)
            arrived.set()
            await go_on.wait()

        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test") as session:
            first = asyncio.create_task(session.post(CLASSIFY, content=slowly()))
            await asyncio.wait_for(arrived.wait(), 10)
            refused = await session.post(CLASSIFY, content=bytes(140_000))
            assert code(refused) == (429, "overloaded")
            assert refused.headers["Retry-After"] == "1"
            assert (await session.post(CLASSIFY, content=DIGIT)).status_code == 200
            go_on.set()
            assert (await first).status_code == 415
            assert (await session.post(CLASSIFY, content=bytes(140_000))).status_code == 415

    asyncio.run(scenario())
    assert pending._held == 0  # noqa: SLF001 -- nothing else tells


@pytest.mark.parametrize("content", [gzip.compress(bytes(140_000)), gzip.compress(bytes(10_000_000))])
def test_the_room_is_free_after_packed_bodies(content: bytes) -> None:
    """What is unpacked counts, up to the limit, and is given back, also by those that are refused."""
    call = client(max_body_bytes=150_000, max_pending_bytes=200_000)
    for _ in range(3):
        response = call("POST", CLASSIFY, content=content, headers={"Content-Encoding": "gzip"})
        assert code(response)[0] in {413, 415}
    assert pending._held == 0  # noqa: SLF001 -- nothing else tells


@pytest.mark.parametrize(
    ("path", "content", "headers"),
    [
        (CLASSIFY, BOMBS["tiff with two million fractions"](), {}),
        (CLASSIFY, BOMBS["png with 80 texts of 1 MB"](), {}),
        (CLASSIFY, b"[" + b"[]," * 100_000, JSON),
        (CLASSIFY, b"x" * 100_000, {"Content-Encoding": "gzip"}),
        (CLASSIFY, b"x" * 100_000, {"Content-Type": "multipart/form-data; boundary=b"}),
        ("/v2/models/digits/infer", b"[" + b"[]," * 100_000, JSON),
        ("/classify_images", b"[" + b"[]," * 100_000, JSON),
    ],
    ids=range(7),
)
def test_a_refusal_keeps_nothing(call: Call, path: str, content: bytes, headers: dict[str, str]) -> None:
    """Once it is answered, no error is left that would hold its body until the garbage collector comes by."""
    call("POST", path, content=content, headers=headers)
    gc.collect()
    gc.disable()
    try:
        assert 400 <= call("POST", path, content=content, headers=headers).status_code < 500
        deadline = time.monotonic() + 10  # a thread may be about to let go of its last item
        while left := [one for one in gc.get_objects() if issubclass(type(one), ConvokeError)]:
            assert time.monotonic() < deadline, left
            del left
            time.sleep(0.01)
    finally:
        gc.enable()


def barrage() -> list[tuple[str, bytes, dict[str, str]]]:
    """Path, body and headers of requests that each try to take far more than they bring."""
    many = json.dumps({"images": [base64.b64encode(DIGIT).decode()] * 2000}).encode()
    return [
        *((CLASSIFY, BOMBS[name](), {}) for name in BOMBS),
        (CLASSIFY, b"[" + b"[]," * 8_000_000 + b"[]]", JSON),
        ("/v2/models/digits/infer", b'{"inputs":[' + b"{}," * 5_000_000, JSON),
        ("/classify_images", b"[" * 5_000_000, JSON),
        (CLASSIFY, many, JSON),
        (CLASSIFY, gzip.compress(bytes(1 << 30), 9), {"Content-Encoding": "gzip"}),
        (CLASSIFY, b"--b\r\n\r\n\r\n" * 2_000_000, {"Content-Type": "multipart/form-data; boundary=b"}),
        (CLASSIFY, bytes(33 << 20), {}),
    ]


def resident_bytes(server: Server) -> int:
    """The memory of the processes of a server; skips where there is no /proc."""
    if not Path("/proc/self/stat").exists():
        pytest.skip("no /proc on this machine")
    parents = {}
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            try:
                parents[int(folder.name)] = int((folder / "stat").read_text().rsplit(")", 1)[1].split()[1])
            except OSError:
                continue
    family = {server.pid}
    while more := {child for child, parent in parents.items() if parent in family} - family:
        family |= more
    pages = (int(Path(f"/proc/{one}/statm").read_text().split()[1]) for one in family)
    return sum(pages) * 4096


@pytest.mark.slow
def test_a_barrage_leaves_the_memory_where_it_was(start_server: Callable[..., Server]) -> None:
    """After bombs of every kind, two rounds, a started server holds no more than after the first; each got a 4xx."""
    server = start_server(CONVOKE_MAX_CONNECTIONS="20")
    server.wait_until_ready()
    requests = barrage()

    def fire() -> None:
        for path, content, headers in requests:
            with httpx.Client(base_url=server.url, timeout=60) as session:
                response = session.post(path, content=content, headers=headers)
                assert 400 <= response.status_code < 500, (path, headers, response.text)
        halves = [socket.create_connection(("127.0.0.1", server.port)) for _ in range(15)]
        for half in halves:
            half.sendall(
                b"POST /classify/digits HTTP/1.1\r\nHost: x\r\nContent-Length: 30000000\r\n\r\n" + bytes(1 << 20)
            )
        for half in halves:
            half.close()
        server.wait(lambda: httpx.post(server.url + CLASSIFY, content=DIGIT).status_code == 200)

    fire()  # what a first time leaves for good: arenas, decoders, caches
    before = resident_bytes(server)
    for _ in range(2):
        fire()
    grown = resident_bytes(server) - before
    assert grown < 64 << 20, f"grown by {grown >> 20} MiB"
    assert server.stop() == 0


def test_a_body_is_refused_before_it_was_sent(server: Server) -> None:
    """A gigabyte that is announced, or comes in chunks, is a 413 after a part of it, whatever else is to come."""
    head = b"POST /classify/digits HTTP/1.1\r\nHost: x\r\n"
    with socket.create_connection(("127.0.0.1", server.port), timeout=20) as connection:
        connection.sendall(head + b"Content-Length: 1000000000\r\n\r\n" + bytes(1000))
        assert connection.recv(4096).startswith(b"HTTP/1.1 413 ")
    with socket.create_connection(("127.0.0.1", server.port), timeout=20) as connection:
        connection.sendall(head + b"Transfer-Encoding: chunked\r\n\r\n")
        sent, connection_says = 0, b""
        connection.setblocking(False)
        chunk = b"100000\r\n" + bytes(1 << 20) + b"\r\n"
        rest = b""
        while not connection_says and sent < 64 << 20:
            rest = rest or chunk
            try:
                count = connection.send(rest)
                sent, rest = sent + count, rest[count:]
            except BlockingIOError:
                pass
            try:
                connection_says = connection.recv(4096)
            except BlockingIOError:
                continue
    assert connection_says.startswith(b"HTTP/1.1 413 ")
    assert 32 << 20 <= sent < 40 << 20
