"""The HTTP interface over the real application, in one process: every answer and every refusal."""

import asyncio
import json
import threading
from collections.abc import AsyncIterator

import httpx
import numpy as np
import pytest

from contract.session import Session
from tests.drawing import draw, encode, mnist_like
from tests.serving import Call, application, client, code


@pytest.fixture(scope="module")
def call() -> Call:
    """An application with the default settings."""
    return client()


@pytest.mark.parametrize("label", ["image/png", "image/jpg", "application/octet-stream", "text/plain", None])
def test_a_picture_is_read_by_content_not_by_label(call: Call, label: str | None) -> None:
    """Whatever the Content-Type says, or leaves out, a PNG is a PNG."""
    headers = {"Content-Type": label} if label else {}
    response = call("POST", "/classify/digits", content=encode(draw(7)), headers=headers)
    answer = response.json()
    assert response.status_code == 200
    assert (answer["model"], answer["version"]) == ("digits", "1")
    (prediction,) = answer["predictions"]
    assert prediction["label"] == "7"
    assert prediction["score"] == max(prediction["scores"].values()) > 0.9
    assert set(prediction["scores"]) == set("0123456789")
    assert sum(prediction["scores"].values()) == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF"])
def test_every_format_is_classified(call: Call, kind: str) -> None:
    """The label does not depend on the file's format."""
    response = call("POST", "/classify/digits", content=encode(draw(3), kind))
    assert response.json()["predictions"][0]["label"] == "3"


def test_many_pictures_come_back_in_order(call: Call) -> None:
    """One prediction a part, in the parts' order, whatever their field names, formats and sizes."""
    order = [9, 0, 5, 5, 1, 8, 2]
    pictures = [encode(mnist_like(digit) if index % 2 else draw(digit)) for index, digit in enumerate(order)]
    files = [(f"field{index % 3}", (f"{index}.png", picture)) for index, picture in enumerate(pictures)]
    predictions = call("POST", "/classify/digits", files=files).json()["predictions"]
    assert [prediction["label"] for prediction in predictions] == [str(digit) for digit in order]


def test_a_bad_item_does_not_hurt_its_neighbours(call: Call) -> None:
    """Each unreadable part has its own error in its place."""
    good, bad, cut = encode(draw(4)), b"%PDF-1.7", encode(draw(4))[:500]
    response = call("POST", "/classify/digits", files=[("f", ("x", data)) for data in (good, bad, cut, b"", good)])
    assert response.status_code == 200
    found = [item.get("label") or item["error"]["code"] for item in response.json()["predictions"]]
    assert found == ["4", "unsupported_kind", "unreadable", "unsupported_kind", "4"]


@pytest.mark.parametrize("multipart", [False, True])
def test_a_bad_item_alone_is_a_refusal(call: Call, multipart: bool) -> None:
    """Where the only item cannot be read, the request is a 4xx with that item's error."""
    for data, expected in ((b"hello", (415, "unsupported_kind")), (encode(draw(1))[:300], (422, "unreadable"))):
        body = {"files": [("f", ("x", data))]} if multipart else {"content": data}
        assert code(call("POST", "/classify/digits", **body)) == expected


def test_top_gives_that_many_scores(call: Call) -> None:
    """`?top=K` keeps the K highest, sorted; more than there are gives all."""
    content = encode(draw(8))
    for top, count in (("1", 1), ("3", 3), ("99", 10)):
        scores = call("POST", f"/classify/digits?top={top}", content=content).json()["predictions"][0]["scores"]
        assert len(scores) == count
        assert list(scores.values()) == sorted(scores.values(), reverse=True)
        assert "8" in scores
    for top in ("0", "-1", "x", "", "1.5", "9" * 5000):
        assert code(call("POST", f"/classify/digits?top={top}", content=content)) == (400, "invalid_request")


@pytest.mark.parametrize(
    ("content", "kind"),
    [
        (b"", "image/png"),
        (b"--x\r\n", "multipart/form-data"),
        (b"nonsense", "multipart/form-data; boundary=x"),
        (b"--x--\r\n", "multipart/form-data; boundary=x"),
        (b'--x\r\nContent-Disposition: form-data; name="a"\r\n\r\nabc', "multipart/form-data; boundary=x"),
    ],
)
def test_bodies_of_no_form_are_malformed(call: Call, content: bytes, kind: str) -> None:
    """Empty bodies and multipart bodies that are none are a 400."""
    response = call("POST", "/classify/digits", content=content, headers={"Content-Type": kind})
    assert code(response) == (400, "invalid_request")


def test_unknown_models_and_routes_are_named(call: Call) -> None:
    """A 404 says what there is, a 405 what the path takes."""
    response = call("POST", "/classify/dogs", content=b"x")
    assert code(response) == (404, "model_not_found")
    assert "served are: " in response.json()["error"]["message"]
    assert code(call("GET", "/models/..%2f..%2fetc")) == (404, "not_found")
    assert code(call("GET", "/models/dogs")) == (404, "model_not_found")
    response = call("GET", "/nothing")
    assert code(response) == (404, "not_found")
    assert "POST /classify/{model}" in response.json()["error"]["message"]
    response = call("GET", "/classify/digits")
    assert code(response) == (405, "method_not_allowed")
    assert response.headers["Allow"] == "POST"


def test_limits_are_told() -> None:
    """Too many bytes, pixels or items: each a 413 with the limit in its message."""
    call = client(max_body_bytes=5000, max_items=3, max_pixels=1000)
    announced = call("POST", "/classify/digits", content=bytes(5001))
    assert code(announced) == (413, "too_large")
    assert "5000" in announced.json()["error"]["message"]

    async def chunks() -> AsyncIterator[bytes]:
        for _ in range(6):
            yield bytes(1000)

    assert code(call("POST", "/classify/digits", content=chunks())) == (413, "too_large")
    small = encode(mnist_like(1))
    assert code(call("POST", "/classify/digits", files=[("f", ("x", small))] * 4)) == (413, "too_large")
    assert call("POST", "/classify/digits", files=[("f", ("x", small))] * 3).status_code == 200
    large = encode(draw(1, size=(40, 40), box=(5, 5, 35, 35), width=4))
    assert code(call("POST", "/classify/digits", content=large)) == (413, "too_large")


def test_a_slow_body_is_cut() -> None:
    """Who does not send is not waited for."""
    call = client(body_timeout_s=0.05)

    async def stall() -> AsyncIterator[bytes]:
        yield b"\x89PNG"
        await asyncio.Event().wait()

    assert code(call("POST", "/classify/digits", content=stall())) == (408, "slow_body")


def test_a_full_queue_answers_429(monkeypatch: pytest.MonkeyPatch) -> None:
    """Over the queue's bound: 429 with Retry-After, at once; who was accepted is answered."""
    entered, opened = threading.Semaphore(0), threading.Event()

    def run(_self: Session, batch: np.ndarray) -> np.ndarray:
        entered.release()
        assert opened.wait(10)
        return np.full((len(batch), 10), 0.1, np.float32)

    monkeypatch.setattr("contract.session.os.cpu_count", lambda: 1)  # one batch at a time
    app = application(max_items=2, max_queue_items=2)
    monkeypatch.setattr(Session, "run", run)
    monkeypatch.setattr(Session, "is_quick", lambda *_: False)  # else it would run, and wait, on the event loop
    files = [("f", ("x", encode(mnist_like(1))))] * 2

    async def scenario() -> list[httpx.Response]:
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test") as session:
            running = asyncio.create_task(session.post("/classify/digits", files=files))
            assert await asyncio.to_thread(entered.acquire, timeout=10)
            both = [asyncio.create_task(session.post("/classify/digits", files=files)) for _ in range(2)]
            done, _ = await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
            opened.set()
            await asyncio.wait([running, *both])
            return [done.pop().result(), *(task.result() for task in (running, *both))]

    first, *everyone = asyncio.run(scenario())
    assert code(first) == (429, "overloaded")
    assert first.headers["Retry-After"] == "1"
    assert sorted(response.status_code for response in everyone) == [200, 200, 429]


def test_pictures_that_wait_to_be_decoded_count_as_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    """Over the queue's bound in pictures that are not decoded yet: 429; over the time that a request may take: 504."""
    opened = threading.Event()

    def decode(*_: object, **__: object) -> np.ndarray:
        assert opened.wait(10)
        return np.zeros((28, 28, 1), np.uint8)

    app = application(max_items=2, max_queue_items=2, decode_threads=1, request_timeout_s=0.3)
    monkeypatch.setattr("contract.inputs.image_to_pixels", decode)
    large = encode(draw(1, size=(200, 300)))

    async def scenario() -> list[httpx.Response]:
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test") as session:
            try:
                return await asyncio.gather(*(session.post("/classify/digits", content=large) for _ in range(3)))
            finally:
                opened.set()

    first, second, third = asyncio.run(scenario())
    assert code(third) == (429, "overloaded")
    assert {code(first), code(second)} == {(504, "deadline_exceeded")}


def test_what_nobody_waits_for_any_more_is_not_decoded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a request that is over its time the item at hand is the last: a thousand tiny files can ask for hours."""
    opened, begun = threading.Event(), 0

    def decode(*_: object, **__: object) -> np.ndarray:
        nonlocal begun
        begun += 1
        assert opened.wait(10)
        return np.zeros((28, 28, 1), np.uint8)

    app = application(decode_threads=1, request_timeout_s=0.3)
    monkeypatch.setattr("contract.inputs.image_to_pixels", decode)
    small = encode(draw(1, size=(100, 150)))

    async def scenario() -> list[httpx.Response]:
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test") as session:
            try:
                late = await session.post("/classify/digits", files=[("f", ("x", small)) for _ in range(9)])
            finally:
                opened.set()
            return [late, await session.post("/classify/digits", content=small)]

    late, next_one = asyncio.run(scenario())
    assert code(late) == (504, "deadline_exceeded")
    assert next_one.status_code == 200
    assert begun == 2


def test_before_the_models_are_loaded_it_is_not_ready() -> None:
    """A request that comes too early is told to come back."""
    response = client(load=False)("POST", "/classify/digits", content=encode(draw(1)))
    assert code(response) == (503, "not_ready")
    assert response.headers["Retry-After"] == "1"


def test_every_answer_carries_id_and_timing(call: Call) -> None:
    """X-Request-ID is the caller's where it is plain, else new; Server-Timing says where the time went."""
    good = call("POST", "/classify/digits", content=encode(draw(2)), headers={"X-Request-ID": "abc-123"})
    assert good.headers["X-Request-ID"] == "abc-123"
    assert [part.split(";")[0] for part in good.headers["Server-Timing"].split(", ")] == [
        "read", "queue", "infer", "total",
    ]  # fmt: skip
    for path in ("/models", "/nothing", "/classify/digits"):
        response = call("GET", path, headers={"X-Request-ID": "a b\tc" + "x" * 500})
        assert len(response.headers["X-Request-ID"]) == 32
        assert "total;dur=" in response.headers["Server-Timing"]


def test_models_tells_what_is_served(call: Call) -> None:
    """Labels, input, measured accuracy, provider; and for one model its card and recipe."""
    (model,) = [model for model in call("GET", "/models").json()["models"] if model["name"] == "digits"]
    assert model["labels"] == list("0123456789")
    assert model["provider"] == "CPUExecutionProvider"
    assert model["test_metrics"]["mnist"]["n"] == 10_000
    one = call("GET", "/models/digits").json()
    assert model.items() <= one.items()
    assert one["card"].startswith("# digits, version 1")
    assert one["recipe"]["name"] == "lenet"
    assert json.dumps(one)
