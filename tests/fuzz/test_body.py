"""Any request body is read into items or refused, in whatever chunks it arrives."""

import asyncio
import base64
import contextlib
import gzip
import json
import zlib
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from starlette.requests import Request
from starlette.types import Message

from contract.errors import ConvokeError, TooLarge, Unreadable, UnsupportedMediaType
from contract.spec import ImageInput, InputSpec, TextInput
from service.errors import InvalidRequest
from service.http import items, multipart
from service.inference.decoding import Item
from service.settings import Settings
from service.telemetry.facts import RequestFacts, attach
from tests.fuzz.strategies import json_values, mutations_of

SETTINGS = Settings(max_items=8, max_body_bytes=4096)
REFUSALS = (InvalidRequest, TooLarge, Unreadable, UnsupportedMediaType)
TYPES = st.one_of(
    st.sampled_from(
        [
            "", "text/plain", "text/plain; charset=latin-1", "application/json", "application/octet-stream",
            "multipart/form-data", "multipart/form-data; boundary=b", 'multipart/form-data; boundary="b"',
            "multipart/form-data; boundary=" + "b" * 300, "multipart/form-data; boundary*=utf-8''b",
        ]
    ),
    st.text(max_size=30),
)  # fmt: skip
ENCODINGS = st.sampled_from(["identity", "gzip", "deflate", "x-gzip", "br", "gzip, gzip", ""])
IMAGE = ImageInput(height=28, width=28, mode="L", framing="mnist")
TEXT = TextInput(length=4, vocabulary=7)
INPUTS: st.SearchStrategy[InputSpec] = st.sampled_from([IMAGE, TEXT])
PARTS = (
    b'--b\r\nContent-Disposition: form-data; name="f"; filename="x"\r\n\r\n', b"--b\r\n", b"\r\n--b--\r\n", b"\r\n--b",
    b"\r\n\r\n", b"\r\n", b"--", b"Content-Type: text/plain\r\n", b"good film", b"\x89PNG\r\n\x1a\n", b": \r\n", b"\0",
)  # fmt: skip
FORMS = st.lists(st.sampled_from(PARTS) | st.binary(max_size=6), max_size=12).map(b"".join)


HEADS = st.lists(
    st.sampled_from(
        [
            b'Content-Disposition: form-data; name="f"; filename="x"', b"content-disposition:form-data;name=text",
            b"Content-Type: text/plain; charset=latin-1", b"Content-Transfer-Encoding: base64", b"X: ", b": y",
            b"no colon", b"Content-Type: multipart/mixed; boundary=c", b"--b: c", b"\xc3\xa4: \xc3\xa4",
        ]
    ),
    max_size=3,
).map(b"\r\n".join)  # fmt: skip
PIECES = (b"\r\n", b"--b", b"--", b"b", b"\r\n--b", b"\r\n--bb", b"\r\n\r\n", b"\n--b\n", b"good")
CONTENTS = st.lists(st.sampled_from(PIECES) | st.binary(max_size=3), max_size=4).map(b"".join)


def read(chunks: Sequence[bytes], spec: InputSpec, content_type: str, **headers: str) -> list[Item]:
    """The items of a request whose body arrives in the given chunks."""
    fields = {"content-type": content_type, **headers}
    raw = [(name.replace("_", "-").encode(), value.encode("utf-8", "replace")) for name, value in fields.items()]
    messages: list[Message] = [{"type": "http.request", "body": chunk, "more_body": True} for chunk in chunks]
    remaining = iter([*messages, {"type": "http.request", "body": b"", "more_body": False}])

    async def receive() -> Message:
        return next(remaining)

    scope = {"type": "http", "method": "POST", "path": "/", "query_string": b"", "headers": raw}
    attach(scope, RequestFacts("x", "POST"))
    return asyncio.run(items.read(Request(scope, receive), spec, SETTINGS))[0]


def check(content: bytes, spec: InputSpec, content_type: str, **headers: str) -> None:
    """The property: an allowed number of encoded items, or errors in their place; or a refusal."""
    with contextlib.suppress(*REFUSALS):
        encoded = read([content], spec, content_type, **headers)
        assert 1 <= len(encoded) <= SETTINGS.max_items
        for item in encoded:
            assert isinstance(item, bytes | ConvokeError) or (isinstance(item, str) and spec.is_text)
            assert not isinstance(item, ConvokeError) or 400 <= item.status < 500


@given(st.binary(max_size=200), INPUTS, TYPES, ENCODINGS, st.text(max_size=8))
def test_any_body_is_read_or_refused(
    content: bytes, spec: InputSpec, content_type: str, encoding: str, length: str
) -> None:
    """With any Content-Type, Content-Encoding and Content-Length."""
    check(content, spec, content_type, content_encoding=encoding, content_length=length)


@given(FORMS, INPUTS, TYPES)
def test_any_multipart_body_is_read_or_refused(content: bytes, spec: InputSpec, content_type: str) -> None:
    """With boundaries, headers and ends in any order."""
    check(content, spec, content_type)
    check(content, spec, "multipart/form-data; boundary=b")


@given(
    st.lists(st.tuples(HEADS, CONTENTS), max_size=4),
    st.sampled_from([b"--b--\r\n", b"--b--", b"--b", b"", b"--b--\r\nepilogue\r\n--b\r\n\r\nx\r\n--b--"]),
    st.sampled_from([b"\r\n", b"", b" \r\n"]),
)
def test_plain_multipart_bodies_have_the_parts_that_the_library_finds(
    parts: list[tuple[bytes, bytes]], end: bytes, line_end: bytes
) -> None:
    """Or neither reads them."""
    body = b"".join(
        b"--b" + line_end + head + (b"\r\n" if head else b"") + b"\r\n" + content + b"\r\n" for head, content in parts
    )

    content = body + end
    try:
        plain = multipart.split_plain(content, b"b", SETTINGS)
    except REFUSALS:
        with pytest.raises(REFUSALS):
            multipart.split_any(content, b"b", SETTINGS)
    else:
        assert plain is None or plain == multipart.split_any(content, b"b", SETTINGS)


@given(
    json_values() | mutations_of({"texts": ["good film", "bad"]}) | mutations_of({"images": ["AAAA", "iVBORw0KGgo="]}),
    INPUTS,
)
def test_any_json_is_read_or_refused(content: Any, spec: InputSpec) -> None:
    """Including NaN, lone surrogates, unknown keys, and strings that are not base64."""
    check(json.dumps(content).encode(), spec, "application/json")
    check(json.dumps(content, ensure_ascii=False).encode("utf-8", "surrogatepass"), spec, "application/json; x=y")


@given(st.binary(max_size=120), st.sampled_from(["gzip", "deflate"]), st.integers(0, 140), st.integers(0, 1100))
def test_damaged_compression_is_read_or_refused(content: bytes, encoding: str, cut: int, bit: int) -> None:
    """A compressed body with a flipped bit, then truncated, is decompressed correctly or refused, by its checksum."""
    damaged = bytearray(gzip.compress(content) if encoding == "gzip" else zlib.compress(content))
    if bit // 8 < len(damaged):
        damaged[bit // 8] ^= 1 << bit % 8
    with contextlib.suppress(*REFUSALS):
        assert read([bytes(damaged[: cut or None])], IMAGE, "", content_encoding=encoding) == [content]


@given(
    st.lists(st.binary(max_size=60), min_size=1, max_size=8),
    st.text("abcdefghijklmnopqrstuvwxyz0123456789'-_", min_size=1, max_size=60),
    st.lists(st.integers(0, 600), max_size=6),
)
def test_parts_are_read_unchanged(parts: list[bytes], boundary: str, cuts: list[int]) -> None:
    """Any content, between any boundaries, in any chunks of the body."""
    delimiter = b"--" + boundary.encode()
    assume(not any(delimiter in part for part in parts))
    content = b"".join(
        delimiter + b'\r\nContent-Disposition: form-data; name="f"; filename="x"\r\n\r\n' + part + b"\r\n"
        for part in parts
    )
    content += delimiter + b"--\r\n"
    offsets = [0, *sorted(min(cut, len(content)) for cut in cuts), len(content)]
    chunks = [content[start:end] for start, end in pairwise(offsets)]
    assert read(chunks, IMAGE, f'multipart/form-data; boundary="{boundary}"') == parts


@given(st.lists(st.text(max_size=40), min_size=1, max_size=8), st.booleans())
def test_texts_are_read_unchanged(texts: list[str], escaped: bool) -> None:
    """Any characters, in JSON with or without escapes."""
    content = json.dumps({"texts": texts}, ensure_ascii=escaped).encode()
    assert read([content], TEXT, "application/json") == texts


@given(st.lists(st.binary(max_size=60), min_size=1, max_size=8))
def test_base64_images_are_read_unchanged(images: list[bytes]) -> None:
    """Any bytes, in base64."""
    content = json.dumps({"images": [base64.b64encode(image).decode() for image in images]}).encode()
    read_back = read([content], IMAGE, "application/json")
    assert [item for item in read_back if isinstance(item, bytes)] == [image for image in images if image]
    assert len(read_back) == len(images)


@pytest.mark.parametrize("extra", [1, 100])
def test_one_byte_or_item_too_many_is_refused(extra: int) -> None:
    """The limits are exact to the byte and to the item, also for a compressed body."""
    full = bytes(SETTINGS.max_body_bytes)
    assert read([full], IMAGE, "") == [full]
    for headers, content in (({}, full + bytes(extra)), ({"content_encoding": "gzip"}, gzip.compress(full + b"x"))):
        with pytest.raises(TooLarge):
            read([content], IMAGE, "", **headers)
    with pytest.raises(TooLarge):
        read([json.dumps({"texts": ["a"] * (SETTINGS.max_items + extra)}).encode()], TEXT, "application/json")
