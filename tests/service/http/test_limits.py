"""Limits are checked while a request is read, are answered as errors, and leave nothing in memory."""

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
    """The value of a JSON text that is read with these limits."""
    return limited.loads(text.encode(), Settings(max_json_values=values, max_json_depth=depth))


@pytest.mark.parametrize("text", ["[" + "1," * 98 + "1]", "[" * 8 + "]" * 8, '{"a":' * 8 + "1" + "}" * 8])
def test_json_up_to_the_limits_is_read(text: str) -> None:
    """A hundred values and eight levels are read; brackets and commas in strings do not count."""
    assert value(text) == json.loads(text)
    strings = json.dumps([f"{text}\\", '"' + text, '\\"[{,' * 100])
    assert value(strings) == json.loads(strings)


@pytest.mark.parametrize("text", ["[" + "1," * 99 + "1]", "[" + "[]," * 60 + "{}" + "," * 45, '{"a":{}},' * 200])
def test_json_of_too_many_values_is_refused_before_it_is_read(text: str) -> None:
    """One value more is too large, whatever the values are, even if the text is not valid JSON."""
    with pytest.raises(TooLarge, match="100"):
        value(text)


@pytest.mark.parametrize("text", ["[" * 9 + "]" * 9, '{"a":[' * 5 + "]}" * 5, "[" * 99, '["\\"]",' + "[" * 9])
def test_json_nested_too_deep_is_refused(text: str) -> None:
    """One level more is too deep."""
    with pytest.raises(InvalidRequest, match=r"deep.*\b8\b"):
        value(text)


@pytest.mark.parametrize("path", [CLASSIFY, "/v2/models/digits/infer", "/v2/repository/index", "/classify_images"])
def test_every_route_reads_json_within_limits(call: Call, path: str) -> None:
    """Every route that reads JSON refuses too many values and too many levels."""
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
    """A multipart part with a longer header, or with too many headers, is malformed."""
    call = client(max_part_head_bytes=300)
    for headers in (b"X: " + b"x" * 301 + b"\r\n", b"X: y\r\n" * 50, b"Content-Disposition: " + b"x" * 1000):
        body = b"--b\r\n" + headers + b"\r\n" + DIGIT + b"\r\n--b--\r\n"
        response = call("POST", CLASSIFY, content=body, headers={"Content-Type": "multipart/form-data; boundary=b"})
        assert code(response) == (400, "invalid_request")


def test_parts_are_counted_while_they_are_split() -> None:
    """A hundred thousand empty parts are refused at the first one above the limit."""
    body = b"--b\r\n\r\n\r\n" * 100_000 + b"--b--\r\n"
    response = client(max_items=3)(
        "POST", CLASSIFY, content=body, headers={"Content-Type": "multipart/form-data; boundary=b"}
    )
    assert code(response) == (413, "too_large")


@pytest.mark.parametrize("name", BOMBS)
def test_bombs_are_refused_in_their_place(call: Call, name: str) -> None:
    """A decompression bomb is answered 413 or 422 alone, and as an error in its place among other images.

    Large texts and profiles of a PNG are skipped, so that the blank image itself is what has no digit.
    """
    bomb = BOMBS[name]()
    status, error = code(call("POST", CLASSIFY, content=bomb))
    assert (status, error) in {(413, "too_large"), (422, "unreadable"), (422, "no_digit")}
    response = call("POST", CLASSIFY, files=[("f", ("x", DIGIT)), ("f", ("x", bomb)), ("f", ("x", DIGIT))])
    results = [item.get("label") or item["error"]["code"] for item in response.json()["predictions"]]
    assert results == ["3", error, "3"]


def test_bodies_share_the_memory() -> None:
    """While one body takes the memory, another large body is answered 429, and a small body 200."""
    app = application(max_body_bytes=150_000, max_pending_bytes=200_000)

    async def scenario() -> None:
        arrived, resume = asyncio.Event(), asyncio.Event()

        async def slowly() -> AsyncIterator[bytes]:
            yield bytes(140_000)
            arrived.set()
            await resume.wait()

        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test") as session:
            first = asyncio.create_task(session.post(CLASSIFY, content=slowly()))
            await asyncio.wait_for(arrived.wait(), 10)
            refused = await session.post(CLASSIFY, content=bytes(140_000))
            assert code(refused) == (429, "overloaded")
            assert refused.headers["Retry-After"] == "1"
            assert (await session.post(CLASSIFY, content=DIGIT)).status_code == 200
            resume.set()
            assert (await first).status_code == 415
            assert (await session.post(CLASSIFY, content=bytes(140_000))).status_code == 415

    asyncio.run(scenario())
    assert pending._held == 0  # noqa: SLF001 -- nothing public shows it


@pytest.mark.parametrize("content", [gzip.compress(bytes(140_000), mtime=0), gzip.compress(bytes(10_000_000), mtime=0)])
def test_the_memory_is_free_after_compressed_bodies(content: bytes) -> None:
    """Decompressed bytes count, and are released after a refusal, too."""
    call = client(max_body_bytes=150_000, max_pending_bytes=200_000)
    for _ in range(3):
        response = call("POST", CLASSIFY, content=content, headers={"Content-Encoding": "gzip"})
        assert code(response)[0] in {413, 415}
    assert pending._held == 0  # noqa: SLF001 -- nothing public shows it


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
def test_a_refusal_keeps_nothing_in_memory(call: Call, path: str, content: bytes, headers: dict[str, str]) -> None:
    """Once a request is refused, no error keeps its body in memory until the garbage collector runs."""
    call("POST", path, content=content, headers=headers)
    gc.collect()
    gc.disable()
    try:
        assert 400 <= call("POST", path, content=content, headers=headers).status_code < 500
        deadline = time.monotonic() + 10  # a thread may still hold its last item
        while kept := [item for item in gc.get_objects() if issubclass(type(item), ConvokeError)]:
            assert time.monotonic() < deadline, kept
            del kept
            time.sleep(0.01)
    finally:
        gc.enable()


def barrage() -> list[tuple[str, bytes, dict[str, str]]]:
    """Path, body and headers of requests that each try to take far more memory than their bytes."""
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
    """The resident memory of all processes of a server; skips the test if the machine has no /proc."""
    if not Path("/proc/self/stat").exists():
        pytest.skip("this machine has no /proc")
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
    """Two more rounds of costly requests leave a started server's memory as it was after the first; each is a 4xx."""
    server = start_server(CONVOKE_MAX_CONNECTIONS="20")
    server.wait_until_ready()
    requests = barrage()

    def fire() -> None:
        for path, content, headers in requests:
            with httpx.Client(base_url=server.url, timeout=60) as session:
                response = session.post(path, content=content, headers=headers)
                assert 400 <= response.status_code < 500, (path, headers, response.text)
        unfinished = [socket.create_connection(("127.0.0.1", server.port)) for _ in range(15)]
        for connection in unfinished:
            connection.sendall(
                b"POST /classify/digits HTTP/1.1\r\nHost: x\r\nContent-Length: 30000000\r\n\r\n" + bytes(1 << 20)
            )
        for connection in unfinished:
            connection.close()
        server.wait(lambda: httpx.post(server.url + CLASSIFY, content=DIGIT).status_code == 200)

    fire()  # fills arenas, decoders and caches, which stay
    before = resident_bytes(server)
    for _ in range(2):
        fire()
    grown = resident_bytes(server) - before
    assert grown < 64 << 20, f"grown by {grown >> 20} MiB"
    assert server.stop() == 0


def test_a_body_is_refused_before_it_was_sent(server: Server) -> None:
    """A gigabyte that is announced, or sent in chunks, is answered 413 before all of it was sent."""
    header = b"POST /classify/digits HTTP/1.1\r\nHost: x\r\n"
    with socket.create_connection(("127.0.0.1", server.port), timeout=20) as connection:
        connection.sendall(header + b"Content-Length: 1000000000\r\n\r\n" + bytes(1000))
        assert connection.recv(4096).startswith(b"HTTP/1.1 413 ")
    with socket.create_connection(("127.0.0.1", server.port), timeout=20) as connection:
        connection.sendall(header + b"Transfer-Encoding: chunked\r\n\r\n")
        sent, response = 0, b""
        connection.setblocking(False)
        chunk = b"100000\r\n" + bytes(1 << 20) + b"\r\n"
        rest = b""
        while not response and sent < 64 << 20:
            rest = rest or chunk
            try:
                count = connection.send(rest)
                sent, rest = sent + count, rest[count:]
            except BlockingIOError:
                pass
            try:
                response = connection.recv(4096)
            except BlockingIOError:
                continue
    assert response.startswith(b"HTTP/1.1 413 ")
    assert 32 << 20 <= sent < 40 << 20
