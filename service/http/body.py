"""Reads request bodies within limits: while they arrive, not after."""

import asyncio
import base64
import re
import zlib
from collections.abc import Callable
from functools import lru_cache, partial
from typing import Any

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header
from starlette.requests import Request
from starlette.types import Message, Receive

from contract.errors import ConvokeError, TooLarge, Unreadable, UnsupportedMediaType
from contract.spec import INPUTS, InputSpec
from service.errors import InvalidRequest, SlowBody
from service.http import limited, pending
from service.inference.predictor import Item
from service.settings import Settings
from service.telemetry.facts import of

_QUICK_BYTES = pending.SMALL_BYTES  # longer bodies are taken apart off the event loop
_JSON_KEYS = {spec.json_key for spec in INPUTS}
_WINDOWS = {"gzip": 31, "x-gzip": 31, "deflate": 15}  # zlib's wbits
_CHARSETS = {b"", b"utf-8", b"utf8", b"us-ascii"}


async def read(request: Request, settings: Settings, *, may_be_empty: bool = False) -> bytes:
    """The whole body of a request, unpacked where its Content-Encoding is gzip or deflate.

    Raises:
        TooLarge: more bytes than the limit, announced, sent or unpacked.
        UnsupportedMediaType: another Content-Encoding.
        Unreadable: it is not packed as it says.
        SlowBody: it did not arrive in time.
        Overloaded: other bodies leave no room for it.
        InvalidRequest: it is empty, or the client went away.
    """
    limit = settings.max_body_bytes
    headers = dict(request.scope["headers"])
    announced = headers.get(b"content-length", b"")
    if re.fullmatch(b"[0-9]{1,18}", announced) and int(announced) > limit:
        raise TooLarge(f"the body has {int(announced)} bytes; at most {limit} are read")
    message = _at_once(request.receive)
    body: bytes | bytearray
    if message is not None and message["type"] == "http.request" and not message.get("more_body"):
        body = message["body"]
    else:
        body = await _gather(request, message, settings)
    if len(body) > limit:
        raise TooLarge(f"the body has more than {limit} bytes; at most that many are read")
    facts = of(request.scope)
    facts.body_bytes = len(body)
    if len(body) > pending.SMALL_BYTES:
        pending.hold(facts, len(body), settings.max_pending_bytes)
    encoding = headers.get(b"content-encoding", b"identity").decode("latin-1").strip().lower()
    if encoding != "identity" and body:
        body = (
            _unpack(body, encoding, limit)
            if len(body) <= _QUICK_BYTES
            else (await asyncio.to_thread(_unpack, body, encoding, limit))
        )
        if len(body) > pending.SMALL_BYTES:
            pending.hold(facts, len(body), settings.max_pending_bytes)
    if not body and not may_be_empty:
        raise InvalidRequest("the body is empty; send a picture or a text, for example with curl --data-binary @FILE")
    return bytes(body)


async def _gather(request: Request, message: Message | None, settings: Settings) -> bytearray:
    """A body that comes in several messages, of which the first may be there; a little above the limit at most.

    Raises:
        SlowBody, Overloaded, InvalidRequest: as `read`.
    """
    body = bytearray()
    try:
        async with asyncio.timeout(settings.body_timeout_s):
            while True:
                message = message or await request.receive()
                if message["type"] == "http.disconnect":
                    raise InvalidRequest("the client went away before its body was sent")
                body += message.get("body", b"")
                if len(body) > pending.SMALL_BYTES:
                    pending.hold(of(request.scope), len(body), settings.max_pending_bytes)
                if len(body) > settings.max_body_bytes or not message.get("more_body"):
                    return body
                message = None
    except TimeoutError as error:
        raise SlowBody(f"the body did not arrive within {settings.body_timeout_s:g} s") from error


def _at_once(receive: Receive) -> Message | None:
    """The next message where it is there already, without waiting for it: most bodies arrive with their head."""
    # What would be awaited is driven by hand for one step: either the message is there, or it is let go.
    waiting = receive().__await__()
    try:
        next(waiting)
    except StopIteration as done:
        message: Message = done.value
        return message
    waiting.close()
    return None


def _unpack(body: bytes | bytearray, encoding: str, limit: int) -> bytearray:
    """A packed body's content, never more than one byte above the limit in memory."""
    if encoding not in _WINDOWS:
        raise UnsupportedMediaType(f"Content-Encoding {encoding[:40]!r} is not read; send gzip, deflate or identity")
    unpacker = zlib.decompressobj(_WINDOWS[encoding])
    try:
        content = bytearray(unpacker.decompress(body, limit + 1))
    except zlib.error as error:
        raise Unreadable(f"the body is not packed in {encoding}, as its Content-Encoding says: {error}") from error
    if len(content) > limit:
        raise TooLarge(f"the body has more than {limit} bytes once it is unpacked; at most that many are read")
    if not unpacker.eof:
        raise Unreadable(f"the {encoding} body is cut off")
    if unpacker.unused_data:
        raise Unreadable(f"{len(unpacker.unused_data)} bytes follow the end of the {encoding} body")
    return content


def gone(request: Request) -> Callable[[], bool]:
    """Whether the client of a request, whose body was read, has closed its connection: a question that never waits."""

    def ask() -> bool:
        message = _at_once(request.receive)
        return message is not None and message["type"] == "http.disconnect"

    return ask


async def read_items(request: Request, spec: InputSpec, settings: Settings) -> list[Item]:
    """The items of a request: every part of a multipart body, those of a JSON list, or the body itself as one.

    Items are still encoded. An item of a JSON list that is not base64 is an error in its place.

    Args:
        request: the request, its body not read yet.
        spec: the input of the model.
        settings: the limits.

    Raises:
        TooLarge, SlowBody, InvalidRequest: as `read`; also for a multipart body or JSON that is none, or has too many
            items.
        UnsupportedMediaType: JSON of pictures for a model that takes texts, or the other way round; a foreign charset.
        Unreadable: JSON that is not UTF-8.
    """
    label, options = _label(dict(request.scope["headers"]).get(b"content-type", b""))
    body = await read(request, settings)
    match label:
        case b"multipart/form-data":
            split = partial(_from_multipart, body, options.get(b"boundary"), settings)
        case b"application/json":
            split = partial(_from_json, body, spec, settings)
        case _:
            if spec.is_text:
                _check_text_label(label, options.get(b"charset", b""), body)
            return [body]
    return split() if len(body) <= _QUICK_BYTES else await asyncio.to_thread(split)


@lru_cache(64)
def _label(content_type: bytes) -> tuple[bytes, dict[bytes, bytes]]:
    """A Content-Type's kind and options; a caller's own are few."""
    return parse_options_header(content_type)


def _check_text_label(label: bytes, charset: bytes, body: bytes) -> None:
    """Refuse what would be read as one text but was surely meant otherwise."""
    if charset.lower() not in _CHARSETS:
        raise UnsupportedMediaType(f"charset {charset[:40].decode('latin-1')!r} is not read; send the text in UTF-8")
    if label != b"text/plain" and body.lstrip()[:1] == b"{":
        raise InvalidRequest(
            "the body looks like JSON, its Content-Type does not; send JSON as application/json, a text as text/plain"
        )


def _from_json(body: bytes, spec: InputSpec, settings: Settings) -> list[Item]:
    """The items of `{"images": ["<base64>", ...]}` or `{"texts": ["...", ...]}`, in order."""
    form = f'{{"{spec.json_key}": ["{"..." if spec.is_text else "<base64>"}", ...]}}'
    values = _values(limited.loads(body, settings, form=form), spec.json_key, form)
    if len(values) > settings.max_items:
        raise _too_many(settings.max_items)
    for position, value in enumerate(values):
        if not isinstance(value, str):
            raise InvalidRequest(f"{spec.json_key}[{position}] is {_json_name(value)}; expected a string")
    return from_strings(values, spec)


def _values(content: Any, key: str, form: str) -> list[Any]:
    """The list that a JSON body is about, not empty."""
    if not isinstance(content, dict):
        raise InvalidRequest(f"the JSON is {_json_name(content)}; expected {form}")
    if len(content) == 1 and content.keys() <= _JSON_KEYS - {key}:
        raise UnsupportedMediaType(f"the model takes {key}, not {min(content)}; send {form}")
    foreign = sorted(set(content) - {key})
    if foreign:
        raise InvalidRequest(f"the JSON has a key {foreign[0][:40]!r} that is not known; expected {form}")
    values = content.get(key)
    if not isinstance(values, list) or not values:
        found = "missing" if key not in content else "empty" if values == [] else _json_name(values)
        raise InvalidRequest(f"{key} is {found}; expected {form}")
    return values


def _json_name(value: Any) -> str:
    """A JSON value's type, in words."""
    names = {dict: "an object", list: "a list", str: "a string", bool: "a boolean", type(None): "null"}
    return names.get(type(value), "a number")


def from_strings(values: list[str], spec: InputSpec) -> list[Item]:
    """Strings of a JSON body -> encoded items: texts as they are, others from base64."""
    return [*values] if spec.is_text else [_from_base64(value) for value in values]


def _from_base64(value: str) -> bytes | ConvokeError:
    try:
        return base64.b64decode(value, validate=True)
    except ValueError as error:
        return Unreadable(f"the picture is no base64: {error}; send its bytes in base64, without prefix or line breaks")


def _too_many(max_items: int) -> TooLarge:
    return TooLarge(f"the request holds more than {max_items} items; at most that many are taken")


def _from_multipart(body: bytes, boundary: bytes | None, settings: Settings) -> list[Item]:
    """The contents of a multipart body's parts, in order."""
    if not boundary:
        raise InvalidRequest("the Content-Type is multipart/form-data without a boundary")
    parts: list[bytearray] = []
    ended = False

    def begin() -> None:
        if len(parts) == settings.max_items:
            raise _too_many(settings.max_items)
        parts.append(bytearray())

    def data(chunk: bytes, start: int, end: int) -> None:
        parts[-1] += chunk[start:end]

    def end() -> None:
        nonlocal ended
        ended = True

    try:
        parser = MultipartParser(
            boundary,
            {"on_part_begin": begin, "on_part_data": data, "on_end": end},
            max_header_size=settings.max_part_head_bytes,
        )
        parser.write(body)
        parser.finalize()
    except FormParserError as error:
        raise InvalidRequest(f"the multipart body cannot be read: {error}") from error
    if not ended:
        raise InvalidRequest("the multipart body is cut off: its closing boundary is missing")
    if not parts:
        raise InvalidRequest("the multipart body holds no parts; send one file or more")
    return [bytes(part) for part in parts]
