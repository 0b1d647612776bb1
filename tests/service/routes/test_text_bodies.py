"""Bodies that are texts by one sign and something else by another: JSON, tables, charsets; and long texts."""

import gzip
import json
import shutil
from typing import Any

import httpx
import pytest

from tests import reviews
from tests.drawing import encode, mnist_like
from tests.serving import ROOT, Call, client, code

TEXT = "text/plain"


@pytest.fixture(scope="module")
def call(tmp_path_factory: pytest.TempPathFactory) -> Call:
    """An application that serves a model of images, digits, and a model of texts, reviews."""
    folder = tmp_path_factory.mktemp("models")
    shutil.copytree(ROOT / "models/digits/1", folder / "digits/1")
    reviews.publish(folder)
    return client(models=folder)


def send(call: Call, content: bytes | str, content_type: str | None, model: str = "reviews") -> httpx.Response:
    headers = {"Content-Type": content_type} if content_type else {}
    return call("POST", f"/classify/{model}", content=content, headers=headers)


def labels(response: httpx.Response) -> list[str]:
    assert response.status_code == 200, response.text
    return [prediction["label"] for prediction in response.json()["predictions"]]


@pytest.mark.parametrize(
    "content_type",
    [
        "application/json", "text/json", "application/vnd.api+json", "application/ld+json; charset=utf-8",
        "text/x-json", "Application/Problem+JSON", "application/json;charset=UTF-8", "application/x-json",
        "image/svg+json",
        TEXT, "text/plain;charset=UTF-8", None, "application/octet-stream", "application/x-www-form-urlencoded",
        "text/html", "*/*",
    ],
)  # fmt: skip
def test_json_is_read_as_json(call: Call, content_type: str | None) -> None:
    """Under every type of JSON, and under those that clients send by default, as `fetch` does text/plain."""
    content = ' {"texts": ["awful", "good"]}\n'
    assert labels(send(call, content, content_type)) == ["negative", "positive"]
    images = {"images": ["aGk="]}
    assert code(send(call, json.dumps(images), content_type)) == (415, "unsupported_kind")


@pytest.mark.parametrize("content_type", [TEXT, None, "application/x-www-form-urlencoded", "application/json"])
@pytest.mark.parametrize("content", ['["good", "bad"]', '{"text": "good"}', "[1]", "[]", '{"texts": "good"}', "{}"])
def test_json_of_another_form_is_refused(call: Call, content: str, content_type: str | None) -> None:
    """It is not classified as if its brackets and quotes were words."""
    response = send(call, content, content_type)
    assert code(response) == (400, "invalid_request")
    assert '{"texts": ["...", ...]}' in response.json()["error"]["message"]


@pytest.mark.parametrize("content_type", [TEXT, None, "text/html"])
@pytest.mark.parametrize(
    "content",
    [
        '{"text": "good"}\n{"text": "bad"}\n', '{"texts": ["good"', "{'texts': ['good']}", '["good", "bad"] x',
        "['good']", '[{"text": "good"}', "{ \n'text'", '\ufeff{"texts": ["good"],}',
    ],
)  # fmt: skip
def test_broken_json_is_refused(call: Call, content: str, content_type: str | None) -> None:
    """Lines of JSON, JSON that is cut off, and a Python dictionary written as a text are not classified."""
    response = send(call, content, content_type)
    assert code(response) == (400, "invalid_request")
    assert '{"texts": ["...", ...]}' in response.json()["error"]["message"]


@pytest.mark.parametrize(
    ("content", "label"),
    [
        ('"good"', "positive"), ('"\\u0067ood film"', "positive"), ('"so" good', "positive"),
        ("[good film]", "negative"), ("{ good film }", "positive"), ("[ good", "positive"), ("good", "positive"),
        ('"bad', "negative"), (" good", "positive"), ("\ufeffgood", "positive"), ("[" * 50 + " good", "positive"),
    ],
)  # fmt: skip
def test_a_text_may_begin_like_json(call: Call, content: str, label: str) -> None:
    """What is not JSON is a text, and a string in JSON is the text in it."""
    assert labels(send(call, content, TEXT)) == [label]


@pytest.mark.parametrize("content_type", ["application/json", "text/json", "application/vnd.api+json", TEXT, None])
def test_images_in_json_are_read_under_every_type(call: Call, content_type: str | None) -> None:
    """The same holds for a model of images."""
    content = json.dumps({"images": ["https://example.org/a.png"]})
    response = send(call, content, content_type, "digits")
    assert code(response) == (422, "unreadable")
    assert "URL" in response.json()["error"]["message"]
    assert code(send(call, '{"image": "x"}', content_type, "digits")) == (400, "invalid_request")


@pytest.mark.parametrize(
    "content_type",
    [
        "text/csv", "text/csv; charset=utf-8", "text/tab-separated-values", "application/x-ndjson", "application/jsonl",
        "application/x-jsonlines", "application/jsonlines", "application/json-seq", "application/xml", "text/xml",
        "application/soap+xml", "image/svg+xml", "application/yaml", "text/yaml", "application/pdf",
        "application/msword", "application/zip", "image/png", "audio/mpeg", "application/x-protobuf",
        "application/msgpack",
    ],
)  # fmt: skip
@pytest.mark.parametrize("content", [b"good", b'{"texts": ["good"]}'])
def test_other_types_are_refused(call: Call, content_type: str, content: bytes) -> None:
    """A table, lines of JSON, XML or a document is not one text; the message has the type and what is taken."""
    response = send(call, content, content_type)
    assert code(response) == (415, "unsupported_kind")
    message = response.json()["error"]["message"]
    assert content_type.partition(";")[0] in message
    assert "text/plain" in message


@pytest.mark.parametrize("content_type", [TEXT, "text/markdown", "text/html", "text/rtf", "text", "application/text"])
def test_types_of_texts_are_read(call: Call, content_type: str) -> None:
    """Any other type of text is a text."""
    assert labels(send(call, "good film", content_type)) == ["positive"]


@pytest.mark.parametrize(
    ("content", "content_type"),
    [
        (b"good film", "text/plain; charset=ascii"),
        (b"good film", "text/plain; charset=ISO-8859-1"),
        ("good film".encode("utf-16-le"), TEXT),
        ("good film".encode("utf-16-be"), None),
        ("good film".encode("utf-16"), "text/plain; charset=utf-8"),
        ("good film".encode("utf-16-le"), "text/plain; charset=utf-16"),
        ("\ufeffgood film".encode("utf-16-be"), "text/plain; charset=utf-16be"),
        ("good film".encode("utf-32"), TEXT),
        ('{"texts": ["good film"]}'.encode("utf-16"), "application/json"),
        ('{"texts": ["good film"]}'.encode("utf-16-le"), "application/json; charset=utf-16"),
        ('{"texts": ["good film", "caf\u00e9 good"]}'.encode("latin-1"), "application/json; charset=iso-8859-1"),
        ('{"texts": ["good film"]}'.encode("utf-16-le"), TEXT),
    ],
)
def test_charsets_are_read(call: Call, content: bytes, content_type: str | None) -> None:
    """The charset of the Content-Type, and UTF-16 by its bytes, in texts and in JSON."""
    assert set(labels(send(call, content, content_type))) == {"positive"}


def test_a_compressed_text_without_its_header_is_not_a_text(call: Call) -> None:
    """It is unreadable, and the message names the header."""
    response = send(call, gzip.compress(b"good film"), TEXT)
    assert code(response) == (422, "unreadable")
    assert "Content-Encoding: gzip" in response.json()["error"]["message"]
    assert code(send(call, encode(mnist_like(1)), TEXT)) == (415, "unsupported_kind")


LONG = "film " * (reviews.LENGTH + 9) + "awful"
CUT = {"truncated": True, "tokens_read": reviews.LENGTH, "tokens": reviews.LENGTH + 10}


@pytest.mark.parametrize(
    "request_",
    [
        {"path": "/classify/reviews", "content": LONG, "headers": {"Content-Type": TEXT}},
        {"path": "/classify/reviews", "json": {"texts": [LONG]}},
        {"path": "/classify/reviews", "files": [("f", ("x.txt", LONG.encode()))]},
        {"path": "/classify_texts", "json": {"model": "reviews", "texts": [LONG]}},
        {"path": "/classify/reviews?top=1&min_score=1", "content": LONG, "headers": {"Content-Type": TEXT}},
    ],
)
def test_a_truncated_text_says_so(call: Call, request_: dict[str, Any]) -> None:
    """The prediction says that the model read the beginning, how many tokens and of how many."""
    kwargs = {**request_}
    response = call("POST", kwargs.pop("path"), **kwargs)
    (prediction,) = response.json()["predictions"]
    assert CUT.items() <= prediction.items()
    assert prediction["scores"]["positive"] > 0.5


def test_only_truncated_texts_say_so(call: Call) -> None:
    """Each in its own place, among short texts, errors and texts of exactly the length that the model reads."""
    texts = ["good", LONG, "", "film " * reviews.LENGTH, LONG + " bad", "x" * 200_000]
    predictions = call("POST", "/classify/reviews", json={"texts": texts}).json()["predictions"]
    assert [prediction.get("tokens") for prediction in predictions] == [
        None, reviews.LENGTH + 10, None, None, reviews.LENGTH + 11, None
    ]  # fmt: skip
    assert ["truncated" in prediction for prediction in predictions] == [False, True, False, False, True, False]
    large = call("POST", "/classify/reviews", content="film " * 15_000, headers={"Content-Type": TEXT})
    assert large.json()["predictions"][0]["tokens"] == 15_000


def test_the_protocol_says_which_texts_are_truncated(call: Call) -> None:
    """In the parameters of the response, which are single values there."""

    def parameters(*texts: str) -> Any:
        tensor = {"name": "text", "shape": [len(texts)], "datatype": "BYTES", "data": texts}
        return call("POST", "/v2/models/reviews/infer", json={"inputs": [tensor]}).json().get("parameters")

    assert parameters("good", "bad") is None
    assert parameters("good", LONG, "bad", LONG + " bad") == {
        "truncated": True,
        "truncated_items": "1,3",
        "tokens_read": f"{reviews.LENGTH},{reviews.LENGTH}",
        "tokens": f"{reviews.LENGTH + 10},{reviews.LENGTH + 11}",
    }
