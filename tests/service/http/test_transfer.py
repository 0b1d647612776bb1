"""Base64 as clients write it is read on every route, and what is not base64 is named."""

import base64
import json
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from contract.errors import ConvokeError, Unreadable, UnsupportedMediaType
from service.http.transfer import decode_base64, decode_transfer
from tests.drawing import draw, encode
from tests.serving import Call, client

IMAGE = encode(draw(4))
FILE = IMAGE + bytes(4 - len(IMAGE) % 3)  # so that its base64 is padded
STRICT = base64.b64encode(FILE).decode()
assert "+" in STRICT
assert STRICT.endswith("==")
LINES = base64.encodebytes(FILE).decode()
URL_SAFE = base64.urlsafe_b64encode(FILE).decode()

READ = {
    "strict": STRICT,
    "data URI": f"data:image/png;base64,{STRICT}",
    "data URI with parameters": f"DATA:image/png;name=a.png;BASE64, {STRICT}",
    "data URI without a type": f"data:;base64,{STRICT}",
    "data URI, percent-encoded": f"data:image/png;base64,{STRICT.replace('+', '%2B').replace('=', '%3D')}",
    "data URI without base64": "data:image/png," + "".join(f"%{byte:02x}" for byte in FILE),
    "lines": LINES,
    "lines with CR LF": LINES.replace("\n", "\r\n"),
    "lines joined by a shell": LINES.replace("\n", " "),
    "indented lines": LINES.replace("\n", "\n    "),
    "URL-safe": URL_SAFE,
    "URL-safe without padding": URL_SAFE.rstrip("="),
    "without padding": STRICT.rstrip("="),
    "too much padding": STRICT + "==",
    "blanks around": f" \t{STRICT}\r\n ",
    "byte order mark": f"\ufeff{STRICT}",
    "data URI in URL-safe lines": f"data:image/png;base64,\r\n{URL_SAFE[:76]}\r\n{URL_SAFE[76:].rstrip('=')}",
}
NAMED = {
    "Python's bytes": (repr(base64.b64encode(FILE)), "b'...'"),
    "Python's bytes in double quotes": (f'b"{STRICT}"', "b'...'"),
    "the file's bytes": (repr(FILE), "b'...'"),
    "escaped bytes": (repr(FILE)[2:-1], "escaped bytes"),
    "percent-encoded": (STRICT.replace("+", "%2B"), "percent-encoded"),
    "padding percent-encoded": (STRICT.replace("=", "%3D"), "percent-encoded"),
    "hexadecimal": (FILE.hex(), "hexadecimal"),
    "hexadecimal in capitals": (FILE.hex().upper(), "hexadecimal"),
    "hexadecimal with 0x": (f"0x{FILE.hex()}", "hexadecimal"),
    "hexadecimal with colons": (FILE.hex(":"), "hexadecimal"),
    "hexadecimal of a JPEG": (encode(draw(1), "JPEG").hex(), "hexadecimal"),
    "a path": ("examples/seven.png", "path"),
    "a path from the root": ("/photos/seven.png", "path"),
    "a path without a suffix": ("/tmp/photo", "path"),
    "a path on Windows": ("C:\\Users\\me\\seven.jpg", "path"),
    "a path from here": ("./seven", "path"),
    "a path from the home folder": ("~/seven", "path"),
    "a URL": ("https://example.org/seven.png?size=28", "URL"),
    "a URL of a bucket": ("s3://bucket/seven", "URL"),
    "a URL of a file": ("file:///etc/passwd", "URL"),
    "a URL of a blob": ("blob:https://example.org/1", "URL"),
    "an empty string": ("", "empty"),
    "blanks only": (" \n", "empty"),
    "encoded twice": (base64.b64encode(STRICT.encode()).decode(), "again"),
    "lines encoded twice": (base64.b64encode(LINES.encode()).decode(), "again"),
    "a data URI encoded": (base64.b64encode(READ["data URI"].encode()).decode(), "again"),
    "quotes": (f'"{STRICT}"', "quotes"),
    "blanks instead of +": (STRICT.replace("+", " "), "'+'"),
    "escaped line breaks": (LINES.replace("\n", "\\n"), "line breaks"),
    "HTML entities": (STRICT.replace("+", "&#43;"), "HTML"),
    "an object": ("[object Object]", "object"),
    "a Python object": ("<PIL.Image.Image image mode=L size=28x28>", "object"),
    "a list of bytes": ("[137, 80, 78, 71]", "object"),
    "JSON": (json.dumps({"b64": STRICT}), "object"),
    "null": ("null", "placeholder"),
    "None": ("None", "placeholder"),
    "undefined": ("undefined", "placeholder"),
    "two texts": (f"{STRICT}{STRICT}", "several"),
    "a data URI without data": ("data:image/png;base64,", "incomplete data: URI"),
    "a data URI without a comma": ("data:image/png;base64", "incomplete data: URI"),
    "cut off": (STRICT[:85], "cut off"),
    "other characters": ("caf\u00e9", "not base64"),
}


@pytest.fixture(scope="module")
def call() -> Call:
    return client()


def send(call: Call, route: str, value: str) -> tuple[int, str]:
    """Send an image on a route: the status, with its label or the error."""
    match route:
        case "classify":
            response = call("POST", "/classify/digits", json={"images": [value]})
        case "v2":
            tensor = {"name": "image", "shape": [1], "datatype": "BYTES", "data": [value]}
            response = call("POST", "/v2/models/digits/infer", json={"inputs": [tensor]})
        case _:
            response = call("POST", "/classify_images", json={"model": "digits", "images": [value]})
    return response.status_code, response.text


@pytest.mark.parametrize("route", ["classify", "v2", "bentoml"])
def test_every_route_reads_base64_as_clients_write_it(call: Call, route: str) -> None:
    """Each form of base64 is the same image, on every route that takes strings."""
    for name, value in READ.items():
        status, text = send(call, route, value)
        assert status == 200, (name, text)
        assert '"label":"4"' in text or '"data":["4"]' in text, name


@pytest.mark.parametrize("name", NAMED)
def test_what_is_not_base64_is_named(name: str) -> None:
    """The message says what the text seems to be, and repeats only its beginning."""
    text, fact = NAMED[name]
    with pytest.raises(Unreadable) as caught:
        decode_base64(text)
    assert fact in str(caught.value)
    assert "base64" in str(caught.value)
    assert len(str(caught.value)) < 250


@pytest.mark.parametrize("route", ["classify", "v2"])
def test_text_that_is_not_base64_is_a_422(call: Call, route: str) -> None:
    """A string that is not base64 is answered 422 with that message."""
    for text, fact in (NAMED["a URL"], NAMED["hexadecimal"], NAMED["an empty string"], NAMED["encoded twice"]):
        status, answer = send(call, route, text)
        assert status == 422
        assert fact in answer


@given(st.binary(min_size=1, max_size=80), st.sampled_from(["", "\n", "\r\n"]), st.booleans(), st.booleans())
def test_any_bytes_are_read_back(content: bytes, line_end: str, url_safe: bool, padded: bool) -> None:
    """Base64 of any bytes in any of these forms, but for what is a mistake in itself, is read back."""
    text = (base64.urlsafe_b64encode if url_safe else base64.b64encode)(content).decode()
    text = line_end.join(text[start : start + 60] for start in range(0, len(text), 60)) + line_end
    try:
        assert decode_base64(text if padded else text.rstrip("=\r\n")) == content
    except Unreadable as error:
        assert any(fact in str(error) for fact in ("placeholder", "path", "again", "hexadecimal"))  # noqa: PT017


@given(st.text(max_size=60) | st.text("+/-_=% \nAZaz09\\'\"b&#;:.", max_size=60))
def test_any_text_is_read_or_refused(text: str) -> None:
    """A text is bytes, or an error below 500."""
    try:
        assert decode_base64(text)
    except ConvokeError as error:
        assert error.status == 422  # noqa: PT017


@pytest.mark.parametrize("unit", ["A", "A ", "00", "&", "\\", "%2B", "a.", "=", "- ", "\n"])
def test_a_long_text_is_refused_in_little_time(unit: str) -> None:
    """The search for a mistake takes time in proportion to the text, at most."""
    text = "iVBORw0KGgo" + unit * (2_000_000 // len(unit)) + "!"
    started = time.process_time()
    with pytest.raises(Unreadable):
        decode_base64(text)
    assert time.process_time() - started < 1


def test_transfer_encodings() -> None:
    """The encodings of RFC 2045 are read, and others are named."""
    assert decode_transfer(b"a=20b=\r\nc=C3=A9", "Quoted-Printable ") == "a bcé".encode()
    assert decode_transfer(LINES.encode(), "BASE64") == FILE
    for plain in ("", "7bit", "8bit", "binary"):
        assert decode_transfer(b"=20", plain) == b"=20"
    with pytest.raises(UnsupportedMediaType, match="x-uuencode"):
        decode_transfer(b"", "x-uuencode")
