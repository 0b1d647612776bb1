"""The HTTP interface of the application, in one process: responses and errors."""

import asyncio
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
def test_an_image_is_recognised_by_its_content(call: Call, label: str | None) -> None:
    """A PNG is a PNG under any Content-Type, and without one."""
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
    """The prediction does not depend on the format of the file."""
    response = call("POST", "/classify/digits", content=encode(draw(3), kind))
    assert response.json()["predictions"][0]["label"] == "3"


def test_many_images_are_answered_in_order(call: Call) -> None:
    """Each part has one prediction, in the order of the parts, for all field names, formats and sizes."""
    order = [9, 0, 5, 5, 1, 8, 2]
    images = [encode(mnist_like(digit) if index % 2 else draw(digit)) for index, digit in enumerate(order)]
    files = [(f"field{index % 3}", (f"{index}.png", image)) for index, image in enumerate(images)]
    predictions = call("POST", "/classify/digits", files=files).json()["predictions"]
    assert [prediction["label"] for prediction in predictions] == [str(digit) for digit in order]


def test_a_bad_item_does_not_affect_the_others(call: Call) -> None:
    """Each unreadable part has an error in its place, and the others have their predictions."""
    good, bad, cut = encode(draw(4)), b"%PDF-1.7", encode(draw(4))[:500]
    response = call("POST", "/classify/digits", files=[("f", ("x", data)) for data in (good, bad, cut, b"", good)])
    assert response.status_code == 200
    results = [item.get("label") or item["error"]["code"] for item in response.json()["predictions"]]
    assert results == ["4", "unsupported_kind", "unreadable", "unsupported_kind", "4"]


@pytest.mark.parametrize("multipart", [False, True])
def test_a_bad_item_alone_is_an_error(call: Call, multipart: bool) -> None:
    """If the only item cannot be read, the request is answered 4xx with the error of the item."""
    for data, expected in ((b"hello", (415, "unsupported_kind")), (encode(draw(1))[:300], (422, "unreadable"))):
        body = {"files": [("f", ("x", data))]} if multipart else {"content": data}
        assert code(call("POST", "/classify/digits", **body)) == expected


def test_top_gives_that_many_scores(call: Call) -> None:
    """`?top=K` gives the K highest scores, sorted; a K above the number of labels gives all."""
    content = encode(draw(8))
    for top, count in (("1", 1), ("3", 3), ("99", 10)):
        scores = call("POST", f"/classify/digits?top={top}", content=content).json()["predictions"][0]["scores"]
        assert len(scores) == count
        assert list(scores.values()) == sorted(scores.values(), reverse=True)
        assert "8" in scores
    for top in ("0", "-1", "x", "", "1.5", "9" * 5000):
        assert code(call("POST", f"/classify/digits?top={top}", content=content)) == (400, "invalid_request")


def test_an_unsure_prediction_abstains(call: Call) -> None:
    """Below ?min_score= the label is null and the guess is beside it; the scores do not change."""
    path, image = "/classify/digits", encode(mnist_like(4))
    (prediction,) = call("POST", path, content=image).json()["predictions"]
    (same,) = call("POST", f"{path}?min_score=0", content=image).json()["predictions"]
    assert same == prediction
    (unsure,) = call("POST", f"{path}?min_score=1", content=image).json()["predictions"]
    assert prediction["score"] < 1
    assert unsure == {**prediction, "label": None, "guess": "4"}


@pytest.mark.parametrize("text", ["", "2", "-1", "nan", "0.5x", "1e-3", "1.5"])
def test_an_invalid_min_score_is_refused(call: Call, text: str) -> None:
    """?min_score= must be a decimal number from 0 to 1."""
    response = call("POST", f"/classify/digits?min_score={text}", content=encode(mnist_like(4)))
    assert response.status_code == 400
    assert "min_score" in response.json()["error"]["message"]


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
def test_malformed_bodies_are_refused(call: Call, content: bytes, kind: str) -> None:
    """Empty bodies and malformed multipart bodies are answered 400."""
    response = call("POST", "/classify/digits", content=content, headers={"Content-Type": kind})
    assert code(response) == (400, "invalid_request")


def test_unknown_models_and_routes_are_named(call: Call) -> None:
    """A 404 lists models or routes, and a 405 the methods of the path."""
    response = call("POST", "/classify/dogs", content=b"x")
    assert code(response) == (404, "model_not_found")
    assert "digits" in response.json()["error"]["message"]
    assert code(call("GET", "/models/..%2f..%2fetc")) == (404, "not_found")
    assert code(call("GET", "/models/dogs")) == (404, "model_not_found")
    response = call("GET", "/nothing")
    assert code(response) == (404, "not_found")
    assert "POST /classify/{model}" in response.json()["error"]["message"]
    response = call("GET", "/classify/digits")
    assert code(response) == (405, "method_not_allowed")
    assert response.headers["Allow"] == "POST"


def test_limits_are_in_the_message() -> None:
    """Too many bytes, pixels or items are answered 413; the message has the limit."""
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


def test_a_slow_body_is_refused() -> None:
    """A body that does not arrive in time is answered 408."""
    call = client(body_timeout_s=0.05)

    async def stall() -> AsyncIterator[bytes]:
        yield b"\x89PNG"
        await asyncio.Event().wait()

    assert code(call("POST", "/classify/digits", content=stall())) == (408, "slow_body")


def test_a_full_queue_answers_429(monkeypatch: pytest.MonkeyPatch) -> None:
    """A request above the limit of the queue is answered 429 with Retry-After at once; accepted ones are answered."""
    running, released = threading.Semaphore(0), threading.Event()

    def run(_self: Session, batch: np.ndarray) -> np.ndarray:
        running.release()
        assert released.wait(10)
        return np.full((len(batch), 10), 0.1, np.float32)

    monkeypatch.setattr("contract.session.processors.count", lambda: 1)  # one batch at a time
    app = application(max_items=2, max_queue_items=2)
    monkeypatch.setattr(Session, "run", run)
    monkeypatch.setattr(Session, "is_quick", lambda *_: False)  # else it would run, and wait, on the event loop
    files = [("f", ("x", encode(mnist_like(1))))] * 2

    async def scenario() -> list[httpx.Response]:
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test") as session:
            first = asyncio.create_task(session.post("/classify/digits", files=files))
            assert await asyncio.to_thread(running.acquire, timeout=10)
            others = [asyncio.create_task(session.post("/classify/digits", files=files)) for _ in range(2)]
            done, _ = await asyncio.wait(others, return_when=asyncio.FIRST_COMPLETED)
            released.set()
            await asyncio.wait([first, *others])
            return [done.pop().result(), *(task.result() for task in (first, *others))]

    refused, *responses = asyncio.run(scenario())
    assert code(refused) == (429, "overloaded")
    assert refused.headers["Retry-After"] == "1"
    assert sorted(response.status_code for response in responses) == [200, 200, 429]


def test_images_that_wait_to_be_decoded_count_as_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    """Images that are not decoded yet count for the queue: a request above its limit is a 429, a late one a 504."""
    released = threading.Event()

    def decode(*_: object, **__: object) -> np.ndarray:
        assert released.wait(10)
        return np.zeros((28, 28, 1), np.uint8)

    app = application(max_items=2, max_queue_items=2, decode_threads=1, request_timeout_s=0.3)
    monkeypatch.setattr("contract.inputs.image_to_pixels", decode)
    large = encode(draw(1, size=(200, 300)))

    async def scenario() -> list[httpx.Response]:
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test") as session:
            try:
                return await asyncio.gather(*(session.post("/classify/digits", content=large) for _ in range(3)))
            finally:
                released.set()

    first, second, third = asyncio.run(scenario())
    assert code(third) == (429, "overloaded")
    assert {code(first), code(second)} == {(504, "deadline_exceeded")}


def test_a_late_request_is_not_decoded_further(monkeypatch: pytest.MonkeyPatch) -> None:
    """Once a request is late, no further item of it is decoded: a thousand small files can take hours."""
    released, decoded = threading.Event(), 0

    def decode(*_: object, **__: object) -> np.ndarray:
        nonlocal decoded
        decoded += 1
        assert released.wait(10)
        return np.zeros((28, 28, 1), np.uint8)

    app = application(decode_threads=1, request_timeout_s=0.3)
    monkeypatch.setattr("contract.inputs.image_to_pixels", decode)
    small = encode(draw(1, size=(100, 150)))

    async def scenario() -> list[httpx.Response]:
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test") as session:
            try:
                late = await session.post("/classify/digits", files=[("f", ("x", small)) for _ in range(9)])
            finally:
                released.set()
            return [late, await session.post("/classify/digits", content=small)]

    late, next_one = asyncio.run(scenario())
    assert code(late) == (504, "deadline_exceeded")
    assert next_one.status_code == 200
    assert decoded == 2


def test_before_the_models_are_loaded_it_is_not_ready() -> None:
    """A request before the models are loaded is answered 503 with Retry-After."""
    response = client(load=False)("POST", "/classify/digits", content=encode(draw(1)))
    assert code(response) == (503, "not_ready")
    assert response.headers["Retry-After"] == "1"


def test_every_response_has_id_and_timing(call: Call) -> None:
    """X-Request-ID is the client's if it is short and plain, else new; Server-Timing has the parts of the time."""
    response = call("POST", "/classify/digits", content=encode(draw(2)), headers={"X-Request-ID": "abc-123"})
    assert response.headers["X-Request-ID"] == "abc-123"
    assert [part.split(";")[0] for part in response.headers["Server-Timing"].split(", ")] == [
        "read", "queue", "infer", "total",
    ]  # fmt: skip
    for path in ("/models", "/nothing", "/classify/digits"):
        response = call("GET", path, headers={"X-Request-ID": "a b\tc" + "x" * 500})
        assert len(response.headers["X-Request-ID"]) == 32
        assert "total;dur=" in response.headers["Server-Timing"]


def test_models_describes_what_is_served(call: Call) -> None:
    """The list has labels, input, test metrics and provider; a single model also has its card and recipe."""
    (summary,) = [model for model in call("GET", "/models").json()["models"] if model["name"] == "digits"]
    assert summary["labels"] == list("0123456789")
    assert summary["provider"] == "CPUExecutionProvider"
    assert summary["test_metrics"]["mnist"]["n"] == 10_000
    model = call("GET", "/models/digits").json()
    assert summary.items() <= model.items()
    assert model["card"].startswith("# digits, version 1")
    assert model["recipe"]["name"] == "lenet"
