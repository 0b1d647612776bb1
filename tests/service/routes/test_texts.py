"""Models that take texts, and JSON bodies of texts and images, with the application in one process."""

import asyncio
import base64
import json
import shutil
import threading
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from contract.session import Session
from contract.spec import TextInput
from contract.text import text_to_tokens
from service.inference.batching import Batcher
from service.inference.decoding import Item
from tests import reviews
from tests.drawing import draw, encode, mnist_like
from tests.serving import ROOT, Call, application, client, code, parts

JSON = {"Content-Type": "application/json"}


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a model of images, digits, and a model of texts, reviews."""
    folder = tmp_path_factory.mktemp("models")
    shutil.copytree(ROOT / "models/digits/1", folder / "digits/1")
    reviews.publish(folder)
    return folder


@pytest.fixture(scope="module")
def call(models: Path) -> Call:
    """An application that serves both models."""
    return client(models=models)


def classify(call: Call, texts: list[str]) -> list[Any]:
    """The predictions for texts that are sent as JSON."""
    response = call("POST", "/classify/reviews", json={"texts": texts})
    assert response.status_code == 200
    predictions: list[Any] = response.json()["predictions"]
    return predictions


def rows(predictions: list[Any]) -> npt.NDArray[np.float64]:
    """The probabilities of predictions, (N, 2)."""
    return np.array([[prediction["scores"][label] for label in reviews.LABELS] for prediction in predictions])


def message_of(response: httpx.Response) -> str:
    """The message of an error response, which is one line."""
    message: str = response.json()["error"]["message"]
    assert "\n" not in message
    return message


@pytest.mark.parametrize(
    "body",
    [
        {"content": b"A Good film"},
        {"content": b"A Good film", "headers": {"Content-Type": "text/plain"}},
        {"content": b"A Good film", "headers": {"Content-Type": 'Text/Plain; Charset="UTF-8"'}},
        {"content": b"A Good film", "headers": {"Content-Type": "application/octet-stream"}},
        {"content": b"A Good film", "headers": {"Content-Type": "application/x-www-form-urlencoded"}},
        {"content": b"\xef\xbb\xbfGood film", "headers": {"Content-Type": "text/plain"}},
        {"files": [("any", ("review.txt", b"A Good film"))]},
        {"json": {"texts": ["A Good film"]}},
        {"content": b'\xef\xbb\xbf{"texts": ["Good film"]}', "headers": {"Content-Type": "application/json; x=y"}},
    ],
)
def test_a_text_can_be_sent_in_any_form(call: Call, body: dict[str, Any]) -> None:
    """A text has the same scores as a body of any Content-Type, with a byte order mark, as a part, and in JSON."""
    response = call("POST", "/classify/reviews", **body)
    assert response.status_code == 200
    answer = response.json()
    assert (answer["model"], answer["version"]) == ("reviews", "1")
    (prediction,) = answer["predictions"]
    assert prediction["label"] == "positive"
    assert rows([prediction]) == pytest.approx(reviews.reference(["good film"]), abs=1e-5)


def test_many_texts_are_answered_in_order(call: Call) -> None:
    """Each part or list entry has one prediction, in order, over several batches."""
    texts = ["bad " * (index % 7) + "film " + "good " * (index % 5) for index in range(3 * reviews.MAX_BATCH + 1)]
    parts = [("f", ("x.txt", text.encode())) for text in texts]
    predictions = call("POST", "/classify/reviews", files=parts).json()["predictions"]
    assert rows(predictions) == pytest.approx(reviews.reference(texts), abs=1e-5)
    assert classify(call, texts) == predictions


@settings(max_examples=40, deadline=None)
@given(
    st.lists(
        st.lists(st.sampled_from([*reviews.WORDS, "unknown"]), min_size=1, max_size=reviews.LENGTH + 9).map(" ".join),
        min_size=1,
        max_size=10,
    )
)
def test_a_prediction_does_not_depend_on_other_texts(call: Call, texts: list[str]) -> None:
    """A text has the probabilities of the reference, alone and among shorter and longer texts."""
    together = rows(classify(call, texts))
    alone = rows([classify(call, [text])[0] for text in texts])
    assert together == pytest.approx(alone, abs=2e-6)
    assert together == pytest.approx(reviews.reference(texts), abs=1e-5)


def test_the_tokens_of_a_batch_are_limited(models: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Long texts run in smaller batches, texts of similar length run together, and each has its own prediction."""
    shapes = []
    run = Session.run

    def spy(self: Session, batch: Any) -> Any:
        shapes.append(batch.shape)
        return run(self, batch)

    monkeypatch.setattr(TextInput, "max_batch_tokens", 60)
    call = client(models=models)
    monkeypatch.setattr(Session, "run", spy)
    texts = ["good " * 64, "bad " * 20, "fine", "film " * 20, "good", "bad", "film " * 30]
    assert rows(classify(call, texts)) == pytest.approx(reviews.reference(texts), abs=1e-5)
    assert shapes == 2 * [(1, 64), (3, 20), (2, 1), (1, 30)]  # over both paths


def test_a_bad_text_does_not_affect_the_others(models: Path) -> None:
    """Texts that are empty, too long or not UTF-8 have an error in their place."""
    call = client(models=models, max_characters=20)
    texts = ["good", "", " \n\t", "x" * 21, "half \ud83d", "film " * 4, "\0", "bad"]
    content = json.dumps({"texts": texts})
    predictions = call("POST", "/classify/reviews", content=content, headers=JSON).json()["predictions"]
    assert [item.get("label") or item["error"]["code"] for item in predictions] == [
        "positive", "unreadable", "unreadable", "too_large", "unreadable", "positive", "negative", "negative",
    ]  # fmt: skip
    assert "21 characters (maximum 20)" in predictions[3]["error"]["message"]
    parts = [("f", ("x", part)) for part in (b"good", b"caf\xe9", encode(draw(1)), b"", b"bad")]
    predictions = call("POST", "/classify/reviews", files=parts).json()["predictions"]
    assert [item.get("label") or item["error"]["code"] for item in predictions] == [
        "positive", "unreadable", "unsupported_kind", "unreadable", "negative",
    ]  # fmt: skip
    assert "byte 0xe9 at position 3" in predictions[1]["error"]["message"]


def test_a_text_on_which_the_tokenizer_fails_does_not_affect_the_others(tmp_path: Path) -> None:
    """A tokenizer without a token for unknown words fails on the texts that have one, not on the others."""
    reviews.publish(tmp_path, tokenizer_json=reviews.tokenizer(unknown="[NONE]").to_str())
    predictions = classify(client(models=tmp_path), ["good", "strange", "bad"])
    assert [item.get("label") or item["error"]["code"] for item in predictions] == [
        "positive", "inference_failed", "negative",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("model", "body", "expected", "fact"),
    [
        ("reviews", {"content": b""}, (400, "invalid_request"), "curl"),
        ("reviews", {"content": b" "}, (422, "unreadable"), "word"),
        ("reviews", {"content": b"caf\xe9"}, (422, "unreadable"), "UTF-8"),
        ("reviews", {"content": encode(draw(1))}, (415, "unsupported_kind"), "texts"),
        ("reviews", {"content": b"a", "headers": {"Content-Type": "text/plain; charset=utf-7"}},
         (415, "unsupported_kind"), "utf-7"),
        ("reviews", {"content": b' {"texts": ["good"]', "headers": {"Content-Type": "text/html"}},
         (400, "invalid_request"), "application/json"),
        ("reviews", {"json": {"images": ["aGk="]}}, (415, "unsupported_kind"), '{"texts"'),
        ("digits", {"json": {"texts": ["good"]}}, (415, "unsupported_kind"), '{"images"'),
        ("digits", {"content": b"good", "headers": {"Content-Type": "text/plain"}}, (415, "unsupported_kind"), "JPEG"),
        ("digits", {"json": {"images": ["?"]}}, (422, "unreadable"), "base64"),
        ("digits", {"json": {"images": ["\u00e9"]}}, (422, "unreadable"), "base64"),
    ],
)  # fmt: skip
def test_a_wrong_text_or_image_alone_is_an_error(
    call: Call, model: str, body: dict[str, Any], expected: tuple[int, str], fact: str
) -> None:
    """A body that cannot be read, or is of the other kind, is answered 4xx with a message that helps."""
    response = call("POST", f"/classify/{model}", **body)
    assert code(response) == expected
    assert fact in message_of(response)


def test_json_sent_as_text_is_a_text(call: Call) -> None:
    """A body with the Content-Type text/plain is a text, even if it begins like JSON."""
    response = call("POST", "/classify/reviews", content=b"{ good }", headers={"Content-Type": "text/plain"})
    assert response.json()["predictions"][0]["label"] == "positive"


@pytest.mark.parametrize("model", ["digits", "reviews"])
@pytest.mark.parametrize(
    ("content", "fact"),
    [
        ("{", "JSON"),
        ('{"KEY": ["a"]} x', "JSON"),
        ('["a"]', "a list"),
        ("null", "null"),
        ("7", "a number"),
        ("{}", "KEY is missing"),
        ('{"KEY": []}', "KEY is empty"),
        ('{"KEY": "a"}', "KEY is a string"),
        ('{"KEY": {}}', "KEY is an object"),
        ('{"KEY": ["a", 1]}', "KEY[1] is a number; expected a string"),
        ('{"KEY": [true]}', "KEY[0] is a boolean"),
        ('{"KEY": ["a"], "to\\np": 1}', "'to\\\\np'"),
        ('{"texts": ["a"], "images": ["a"]}', "unknown key"),
        ("[" * 200_000, "deep"),
        ('{"KEY": [' + "9" * 5000 + "]}", "JSON"),
    ],
)
def test_json_of_another_form_is_malformed(call: Call, model: str, content: str, fact: str) -> None:
    """Invalid JSON, and JSON that is nested too deep or of another form, is answered 400 with the expected form."""
    key = "images" if model == "digits" else "texts"
    response = call("POST", f"/classify/{model}", content=content.replace("KEY", key), headers=JSON)
    assert code(response) == (400, "invalid_request")
    message = message_of(response)
    assert fact.replace("KEY", key).replace("\\\\", "\\") in message
    assert f'{{"{key}": [' in message or "expected a string" in message


def test_json_that_is_not_utf8_is_unreadable(call: Call) -> None:
    """JSON in another encoding is answered 422 with the form that the model expects."""
    for model, content, form in (
        ("reviews", '{"texts": ["caf\u00e9"]}'.encode("latin-1"), '{"texts": ['),
        ("digits", encode(draw(1)), '{"images": ['),
    ):
        response = call("POST", f"/classify/{model}", content=content, headers=JSON)
        assert code(response) == (422, "unreadable")
        assert form in message_of(response)


@pytest.mark.parametrize("model", ["digits", "reviews"])
def test_too_many_items_in_json_are_refused(models: Path, model: str) -> None:
    """The limit on items applies to JSON, too, and is in the message."""
    call = client(models=models, max_items=3)
    key, item = ("images", base64.b64encode(encode(mnist_like(1))).decode()) if model == "digits" else ("texts", "good")
    response = call("POST", f"/classify/{model}", json={key: [item] * 4})
    assert code(response) == (413, "too_large")
    assert "3" in message_of(response)
    assert call("POST", f"/classify/{model}", json={key: [item] * 3}).status_code == 200


def test_images_in_json_are_classified(call: Call) -> None:
    """Images in base64 are answered in order, and invalid ones have an error in their place, also in a large body."""
    good = [base64.b64encode(encode(draw(digit), "BMP")).decode() for digit in (4, 2)]
    images = [good[0], "data:image/png;base64," + good[0], "a.bmp", base64.b64encode(b"hi").decode(), "", good[1]]
    assert sum(map(len, images)) > 1 << 16
    predictions = call("POST", "/classify/digits", json={"images": images}).json()["predictions"]
    assert [item.get("label") or item["error"]["code"] for item in predictions] == [
        "4", "4", "unreadable", "unsupported_kind", "unreadable", "2",
    ]  # fmt: skip


@pytest.mark.parametrize(("text", "on_the_loop"), [("good " * 400, True), ("good " * 401, False)])
def test_a_large_text_is_tokenized_off_the_event_loop(
    models: Path, monkeypatch: pytest.MonkeyPatch, text: str, on_the_loop: bool
) -> None:
    """A text of up to 2,000 characters is tokenized in the event loop's thread, a longer one in another thread."""
    threads = []

    def spy(*arguments: Any) -> Any:
        threads.append(threading.current_thread())
        return text_to_tokens(*arguments)

    monkeypatch.setattr("contract.inputs.text_to_tokens", spy)
    assert client(models=models)("POST", "/classify/reviews", content=text).status_code == 200
    assert {thread is threading.main_thread() for thread in threads} == {on_the_loop}


def test_characters_are_counted_after_normalisation(models: Path) -> None:
    """One character can become eighteen, and each of them counts for the limit."""
    call = client(models=models, max_characters=1800)
    for count, expected in ((100, 200), (101, 413)):
        text = ("\ufdfa" * count).encode()
        response = call("POST", "/classify/reviews", content=text, headers={"Content-Type": "text/plain"})
        assert response.status_code in {expected, 422}, response.text
        assert (response.status_code == 413) is (expected == 413)
    assert "1800" in message_of(response)


def test_a_queued_request_keeps_no_body(models: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """When the items of a request are queued, the list of encoded items is empty."""
    served = parts(models=models).predictor
    items: list[Item] = ["good " * 500, "bad"]
    lengths: list[int] = []
    submit = Batcher.submit

    def spy(self: Batcher, *args: Any, **kwargs: Any) -> Any:
        lengths.append(len(items))
        return submit(self, *args, **kwargs)

    monkeypatch.setattr(Batcher, "submit", spy)
    answer = asyncio.run(served.predict(served.resolve("reviews"), items))
    assert len(answer.rows) == 2
    assert lengths == [0]


def test_concurrent_requests_get_their_own_responses(models: Path) -> None:
    """Responses to concurrent requests with images and texts of many lengths are never swapped."""
    app = application(models=models)

    async def scenario() -> None:
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test") as session:
            texts = [f"{'film ' * (index % 50)} {'good' if index % 3 else 'awful'}" for index in range(120)]
            images = [encode(mnist_like(index % 10)) for index in range(40)]
            responses = await asyncio.gather(
                *(session.post("/classify/reviews", content=text) for text in texts),
                *(session.post("/classify/digits", content=image) for image in images),
            )
        predictions = [response.json()["predictions"][0] for response in responses]
        assert rows(predictions[:120]) == pytest.approx(reviews.reference(texts), abs=1e-5)
        assert [item["label"] for item in predictions[120:]] == [str(index % 10) for index in range(40)]

    asyncio.run(scenario())


def test_models_describes_the_input(call: Call) -> None:
    """GET /models describes the input of each model: its kind, its size and its files."""
    served = {model["name"]: model["input"] for model in call("GET", "/models").json()["models"]}
    assert served["digits"]["kind"] == "image"
    assert served["reviews"] == {
        "kind": "text", "length": reviews.LENGTH, "vocabulary": len(reviews.WEIGHTS), "tokenizer": "tokenizer.json",
        "normalisation": 0, "special_tokens": False, "shift": 0,
    }  # fmt: skip
