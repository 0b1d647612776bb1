"""Multipart and URL-encoded forms, as browsers, frameworks and mail clients write them."""

import base64
import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote_plus

import httpx
import pytest

from tests import reviews
from tests.drawing import draw, encode
from tests.serving import ROOT, Call, client, code

DIGIT = encode(draw(4))
BASE64 = base64.b64encode(DIGIT).decode()
OTHER_FIELDS = {
    "csrf": "aZ09", "csrfmiddlewaretoken": "x" * 64, "_charset_": "utf-8", "submit": "Send", "utf8": "\u2713",
    "metadata": '{"user": 1, "tags": ["a"]}', "__RequestVerificationToken": "abc", "MAX_FILE_SIZE": "30000",
    "note": "", "tags": "[1, 2]",
}  # fmt: skip


@pytest.fixture(scope="module")
def call(tmp_path_factory: pytest.TempPathFactory) -> Call:
    """An application that serves a model of images, digits, and a model of texts, reviews."""
    folder = tmp_path_factory.mktemp("models")
    shutil.copytree(ROOT / "models/digits/1", folder / "digits/1")
    reviews.publish(folder)
    return client(models=folder)


def part(content: bytes, *headers: str, name: str = "f", filename: str | None = "x.png") -> bytes:
    """A part with further headers."""
    disposition = f'Content-Disposition: form-data; name="{name}"'
    disposition += "" if filename is None else f'; filename="{filename}"'
    return "\r\n".join([disposition, *headers, "", ""]).encode() + content


def mixed(content: bytes, *headers: str) -> bytes:
    """A part with these headers alone."""
    return "".join(f"{header}\r\n" for header in headers).encode() + b"\r\n" + content


def joined(parts: Sequence[bytes], boundary: str = "b") -> bytes:
    line = f"--{boundary}".encode()
    return b"".join(line + b"\r\n" + each + b"\r\n" for each in parts) + line + b"--\r\n"


def send(
    call: Call, model: str, parts: Sequence[bytes] | bytes, content_type: str = "multipart/form-data; boundary=b"
) -> httpx.Response:
    content = parts if isinstance(parts, bytes) else joined(parts)
    return call("POST", f"/classify/{model}", content=content, headers={"Content-Type": content_type})


def results(response: httpx.Response) -> list[str]:
    """The label or the error code of each item."""
    assert response.status_code == 200, response.text
    return [item.get("label") or item["error"]["code"] for item in response.json()["predictions"]]


@pytest.mark.parametrize("model", ["digits", "reviews"])
def test_fields_that_are_not_items_are_passed_over(call: Call, model: str) -> None:
    """What frameworks and browsers add to a form is neither a prediction nor an error, before or behind the item."""
    item, label = (DIGIT, "4") if model == "digits" else (b"good film", "positive")
    fields = [part(value.encode(), name=name, filename=None) for name, value in OTHER_FIELDS.items()]
    about = part(b'{"user": 1}', "Content-Type: application/json", name="meta", filename="blob")
    assert results(send(call, model, [*fields, part(item), about])) == [label]
    key = "image" if model == "digits" else "text"
    assert results(send(call, model, [part(item, name=key, filename=None), *fields])) == [label]
    assert results(send(call, model, [part(item, name="any", filename=None), *fields])) == [label]


def test_a_text_may_have_any_field_s_name(call: Call) -> None:
    """Without a file, and without a field with the name of an item, other fields are texts, in order."""
    fields = [part(b"good", name="review", filename=None), part(b"bad", name="b", filename=None)]
    assert results(send(call, "reviews", fields)) == ["positive", "negative"]
    fields.append(part(b"awful", name="texts[]", filename=None))
    assert results(send(call, "reviews", fields)) == ["negative"]


@pytest.mark.parametrize("value", [BASE64, f"data:image/png;base64,{BASE64}", f" {BASE64}\n"])
def test_an_image_may_be_a_field_in_base64(call: Call, value: str) -> None:
    """In a field named image, also URL-encoded; a field that is not base64 is an error that says so."""
    assert results(send(call, "digits", [part(value.encode(), name="image", filename=None)])) == ["4"]
    form = f"image={quote_plus(value)}&csrf=1".encode()
    assert results(send(call, "digits", form, "application/x-www-form-urlencoded")) == ["4"]
    response = send(call, "digits", b"image=https://example.org/a.png", "application/x-www-form-urlencoded")
    assert code(response) == (422, "unreadable")
    assert "URL" in response.json()["error"]["message"]


def test_images_without_a_file_name_are_recognised(call: Call) -> None:
    """By their content under any name, and by their Content-Type even if they cannot be read."""
    plain = part(DIGIT, name="whatever", filename=None)
    typed = part(b"no image", "Content-Type: image/png", name="whatever", filename=None)
    extended = mixed(DIGIT, "Content-Disposition: form-data; name=f; filename*=UTF-8''x.png")
    assert results(send(call, "digits", [plain, typed, extended])) == ["4", "unsupported_kind", "4"]


def test_an_empty_file_input_is_passed_over(call: Call) -> None:
    """A browser sends an empty file for an input that was left out; alone, it is named."""
    empty = part(b"", "Content-Type: application/octet-stream", name="second", filename="")
    assert results(send(call, "digits", [empty, part(DIGIT), empty])) == ["4"]
    response = send(call, "digits", [empty])
    assert code(response) == (400, "invalid_request")
    assert "'second'" in response.json()["error"]["message"]
    assert results(send(call, "digits", [part(b"", filename="x.png"), part(DIGIT)])) == ["unsupported_kind", "4"]


def test_options_are_read_from_forms_and_json(call: Call) -> None:
    """`top` and `min_score` are read wherever the items are; twice, or with a bad value, they are refused."""
    fields = [part(b"1", name="top", filename=None), part(b"1.0", name="min_score", filename=None)]
    for response in (
        send(call, "digits", [part(DIGIT), *fields]),
        send(
            call,
            "digits",
            f"top=1&min_score=1&image={quote_plus(BASE64)}".encode(),
            "application/x-www-form-urlencoded",
        ),
        call("POST", "/classify/digits", json={"images": [BASE64], "top": 1, "min_score": 1.0}),
        call("POST", "/classify/digits?min_score=1", json={"images": [BASE64], "top": "1", "min_score": None}),
    ):
        (prediction,) = response.json()["predictions"]
        assert (prediction["label"], prediction["guess"], len(prediction["scores"])) == (None, "4", 1)
    bad_values: tuple[Any, ...] = (0, 1.5, True, "x", [1], {})
    for value in bad_values:
        assert code(call("POST", "/classify/digits", json={"images": [BASE64], "top": value})) == (
            400,
            "invalid_request",
        )
    twice = call("POST", "/classify/digits?top=1", json={"images": [BASE64], "top": 1})
    assert code(twice) == (400, "invalid_request")
    assert "top" in twice.json()["error"]["message"]


def test_transfer_encodings_of_parts(call: Call) -> None:
    """Base64 and quoted-printable, as mail clients and some libraries write parts; another one is an error in place."""
    lines = base64.encodebytes(DIGIT).replace(b"\n", b"\r\n")
    encoded = part(lines, "Content-Transfer-Encoding: BASE64", "Content-Type: image/png")
    binary = part(DIGIT, "Content-Transfer-Encoding: binary")
    unknown = part(DIGIT, "content-transfer-encoding: x-uuencode")
    assert results(send(call, "digits", [encoded, binary, unknown])) == ["4", "4", "unsupported_kind"]
    printable = part(b"go=6Fd =\r\nfilm", "Content-Transfer-Encoding: quoted-printable", filename="x.txt")
    assert results(send(call, "reviews", [printable])) == ["positive"]


def test_charsets_of_parts(tmp_path: Path) -> None:
    """A part's own charset, and that of the field `_charset_` for parts without one (RFC 7578, 4.6)."""
    weights = {**reviews.WEIGHTS}
    tokenizer = reviews.tokenizer().to_str().replace('"awful"', '"caf\u00e9"')
    reviews.publish(tmp_path, tokenizer_json=tokenizer)
    call = client(models=tmp_path)
    assert weights["awful"] < 0
    latin = part(b"caf\xe9", "Content-Type: text/plain; charset=ISO-8859-1", filename="x.txt")
    wide = part("caf\u00e9".encode("utf-16-le"), "Content-Type: text/plain", filename="x.txt")
    utf8 = part("caf\u00e9".encode(), "Content-Type: text/plain; charset=utf-8", filename="x.txt")
    assert results(send(call, "reviews", [latin, wide, utf8])) == ["negative"] * 3
    default = part(b"iso-8859-1", name="_charset_", filename=None)
    plain = part(b"caf\xe9", name="text", filename=None)
    assert results(send(call, "reviews", [default, plain, utf8])) == ["negative"] * 2
    assert results(send(call, "reviews", [plain, utf8])) == ["unreadable", "negative"]
    form = b"_charset_=windows-1252&text=caf%E9"
    assert results(send(call, "reviews", form, "application/x-www-form-urlencoded")) == ["negative"]


@pytest.mark.parametrize(
    ("content", "content_type"),
    [
        (b"a preamble\r\n" + joined([part(DIGIT)]), "multipart/form-data; boundary=b"),
        (b"\r\n\r\n" + joined([part(DIGIT)]), "multipart/form-data; boundary=b"),
        (b"--c, not --b inside\r\n" + joined([part(DIGIT)]) + b"an epilogue", "multipart/form-data; boundary=b"),
        (joined([part(DIGIT)]).replace(b"--b\r\n", b"--b \t\r\n"), "multipart/form-data; boundary=b"),
        (joined([part(DIGIT)], "a b:c"), 'multipart/form-data; boundary="a b:c"'),
        (joined([part(DIGIT)]), 'Multipart/Form-Data; charset=utf-8; Boundary="b"'),
        (joined([part(DIGIT)])[:-2], "multipart/form-data; boundary=b"),
        (joined([mixed(DIGIT, "Content-Type: image/png")]), "multipart/mixed; boundary=b"),
        (joined([mixed(DIGIT)]), "multipart/mixed; boundary=b"),
        (joined([mixed(DIGIT, "Content-Type: image/png", "Content-ID: <1>")]), "multipart/related; boundary=b"),
        (joined([mixed(b'{"a": 1}', "Content-Type: application/json"), mixed(DIGIT, "Content-Type: image/png")]),
         "multipart/related; boundary=b"),
        (joined([mixed(DIGIT, 'Content-Disposition: attachment; filename="x.png"')]), "multipart/mixed; boundary=b"),
        (joined([part(DIGIT, *(f"X-{number}: a" for number in range(19)))]), "multipart/form-data; boundary=b"),
        (joined([part(joined([mixed(DIGIT, 'Content-Disposition: file; filename="x.png"')], "c"),
                      "Content-Type: multipart/mixed; boundary=c", filename=None)]), "multipart/form-data; boundary=b"),
    ],
)  # fmt: skip
def test_what_rfc_2046_allows_is_read(call: Call, content: bytes, content_type: str) -> None:
    """Preamble, epilogue, blanks behind a boundary, other multipart types, many headers, nested parts."""
    assert results(send(call, "digits", content, content_type)) == ["4"]


@pytest.mark.parametrize(
    ("content", "content_type", "facts"),
    [
        (joined([part(DIGIT)], "Y"), "multipart/form-data; boundary=X", ["'X'", "'--Y'"]),
        (joined([part(DIGIT)], "----WebKitFormBoundaryA"), "multipart/form-data; boundary=--WebKitFormBoundaryA",
         ["'--WebKitFormBoundaryA'", "'------WebKitFormBoundaryA'"]),
        (DIGIT, "multipart/form-data; boundary=b", ["'b'", "PNG"]),
        (b'{"images": []}', "multipart/form-data; boundary=b", ["'b'", "images"]),
        (joined([part(DIGIT)]), "multipart/form-data", ["no boundary"]),
        (joined([part(DIGIT)]), "multipart/form-data; boundary=", ["no boundary"]),
        (joined([part(b"x")]).replace(b"\r\n", b"\n"), "multipart/form-data; boundary=b", ["LF", "CR LF"]),
        (joined([part(DIGIT)])[:-8], "multipart/form-data; boundary=b", ["cut off"]),
        (joined([part(DIGIT, *(f"X-{number}: a" for number in range(40)))]), "multipart/form-data; boundary=b",
         ["32 headers"]),
        (joined([part(DIGIT, "X: " + "a" * 9000)]), "multipart/form-data; boundary=b", ["8192 bytes"]),
        (joined([mixed(DIGIT, "Content-Disposition: form-data;", ' name="f"')]), "multipart/form-data; boundary=b",
         ["on one line"]),
        (joined([mixed(DIGIT, "no colon")]), "multipart/form-data; boundary=b", ["Name: value"]),
        (joined([part(b"1", name="csrf", filename=None)]), "multipart/form-data; boundary=b", ["'csrf'", "images"]),
        (joined([part(b"x", "Content-Type: multipart/mixed", filename=None)]), "multipart/form-data; boundary=b",
         ["no boundary"]),
        (b"--b--\r\n", "multipart/form-data; boundary=b", ["no parts"]),
    ],
)  # fmt: skip
def test_what_cannot_be_read_is_named(call: Call, content: bytes, content_type: str, facts: list[str]) -> None:
    """The answer is 400, and says what was received and what was expected."""
    response = send(call, "digits", content, content_type)
    assert code(response) == (400, "invalid_request")
    message = response.json()["error"]["message"]
    assert all(fact in message for fact in facts), message
    assert len(message) < 400


def test_nesting_and_parts_are_limited(call: Call) -> None:
    """Parts within parts are read up to three levels, and counted together."""
    content, boundary = part(DIGIT), "b9"
    for level in range(9):
        boundary = f"b{level}"
        content = part(
            joined([content], boundary), f"Content-Type: multipart/mixed; boundary={boundary}", filename=None
        )
    response = send(call, "digits", [content])
    assert code(response) == (400, "invalid_request")
    assert "deep" in response.json()["error"]["message"]
    small = client(max_items=3)
    inner = part(joined([part(DIGIT)] * 60, "c"), "Content-Type: multipart/mixed; boundary=c", filename=None)
    assert code(send(small, "digits", [inner, inner])) == (413, "too_large")
    assert code(send(small, "digits", b"&".join([b"image=AAAA"] * 4), "application/x-www-form-urlencoded"))[0] == 413
    assert code(send(small, "digits", b"a=1&" * 5000, "application/x-www-form-urlencoded"))[0] == 413


FORM_TEXTS: list[tuple[bytes, list[str]]] = [
    (b"text=A+Good%20film", ["positive"]),
    (b"text=A Good film", ["positive"]),
    (b"text=bad&text=good", ["negative", "positive"]),
    (b"texts%5B%5D=bad&texts%5B%5D=good", ["negative", "positive"]),
    (b"texts[0]=bad&csrf=good&submit=good", ["negative"]),
    (b"review=awful&_token=good&commit=good", ["negative"]),
    (b"text=bad & worse=1", ["negative"]),
    (b"text=awful & good = bad film", ["negative"]),
    (b"A Good film", ["positive"]),
    (b"good", ["positive"]),
    (b"100% good 1+1 = 2", ["positive"]),
    (b'{"texts": ["bad", "good"]}', ["negative", "positive"]),
    ("text=caf\u00e9+good".encode(), ["positive"]),
]


@pytest.mark.parametrize(("content", "labels"), FORM_TEXTS)
def test_url_encoded_texts_are_decoded(call: Call, content: bytes, labels: list[str]) -> None:
    """A form is decoded, as `curl --data-urlencode` and browsers encode it; what `curl -d` sends plainly is a text."""
    assert results(send(call, "reviews", content, "application/x-www-form-urlencoded")) == labels


def test_an_image_sent_by_curl_as_a_form_is_an_image(call: Call) -> None:
    """`curl --data-binary` calls every body a form."""
    assert results(send(call, "digits", DIGIT, "application/x-www-form-urlencoded")) == ["4"]


def test_json_in_a_part_is_refused(call: Call) -> None:
    """A part is one item: a list in JSON belongs into the body, whatever the name of its file."""
    content = json.dumps({"texts": ["good"]}).encode()
    file = part(content, filename="texts.json")
    typed = part(content, "Content-Type: application/json", filename="texts.json")
    table = part(b"text\r\ngood", "Content-Type: text/csv", filename="texts.csv")
    good: Any = part(b"good", filename="a.txt")
    expected = ["unsupported_kind"] * 3 + ["positive"]
    assert results(send(call, "reviews", [file, typed, table, good])) == expected
