"""Splits a request body into encoded items: one image or text, the parts of a multipart body, or a list in JSON."""

import base64
from collections.abc import Collection
from functools import lru_cache, partial
from typing import Any

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header
from starlette.requests import Request

from contract.errors import ConvokeError, TooLarge, Unreadable, UnsupportedMediaType
from contract.spec import INPUTS, InputSpec
from service.errors import InvalidRequest
from service.http import body, limited
from service.inference.predictor import Item
from service.settings import Settings

_JSON_KEYS = {spec.json_key for spec in INPUTS}
_LISTS = {b"multipart/form-data", b"application/json"}
"""The media types of bodies that hold a list of items."""

_CHARSETS = {b"", b"utf-8", b"utf8", b"us-ascii"}


async def read(request: Request, spec: InputSpec, settings: Settings) -> list[Item]:
    """The encoded items of a request whose body was not read yet. An item that is not base64 is an error in its place.

    Args:
        request: the request.
        spec: the input of the model.
        settings: the limits.

    Raises:
        ConvokeError: as `body.read` and `limited.loads`.
        InvalidRequest: the body does not have the form that its Content-Type says.
        TooLarge: more items than `max_items`.
        UnsupportedMediaType: JSON of images for a model of texts, or the other way round; a charset other than UTF-8.
    """
    content_type = dict(request.scope["headers"]).get(b"content-type", b"")
    content = await body.read(request, settings)
    if _parse_content_type(content_type)[0] in _LISTS:
        return await body.run(partial(split, content, content_type, spec, settings), len(content))
    return split(content, content_type, spec, settings)


def split(content: bytes, content_type: bytes, spec: InputSpec, settings: Settings) -> list[Item]:
    """The encoded items of a body with this header Content-Type.

    Raises:
        ConvokeError: as `read`, apart from the errors of `body.read`.
    """
    media_type, options = _parse_content_type(content_type)
    match media_type:
        case b"multipart/form-data":
            return _from_multipart(content, options.get(b"boundary"), settings)
        case b"application/json":
            return _from_json(content, spec, settings)
        case _:
            if spec.is_text:
                _check_is_text(content, media_type, options.get(b"charset", b""))
            return [content]


def from_strings(values: list[str], spec: InputSpec) -> list[Item]:
    """Strings of a JSON body -> encoded items: texts as they are, others from base64."""
    return [*values] if spec.is_text else [_from_base64(value) for value in values]


def check_list(content: Any, key: str, form: str, *, beside: Collection[str] = ()) -> list[str]:
    """The list of strings under a key of a JSON object, which may have the keys `beside` and no others.

    Raises:
        InvalidRequest: the content does not have the form.
    """
    if not isinstance(content, dict):
        raise InvalidRequest(f"the JSON is {_type_name(content)}; expected {form}")
    unknown = sorted(set(content) - {key, *beside})
    if unknown:
        raise InvalidRequest(f"unknown key {unknown[0][:40]!r} in the JSON; expected {form}")
    values = content.get(key)
    if not isinstance(values, list) or not values:
        actual = "missing" if key not in content else "empty" if values == [] else _type_name(values)
        raise InvalidRequest(f"{key} is {actual}; expected {form}")
    for position, value in enumerate(values):
        if not isinstance(value, str):
            raise InvalidRequest(f"{key}[{position}] is {_type_name(value)}; expected a string")
    return values


@lru_cache(64)
def _parse_content_type(content_type: bytes) -> tuple[bytes, dict[bytes, bytes]]:
    """The media type and its parameters; cached, since the clients of a service send few different ones."""
    return parse_options_header(content_type)


def _check_is_text(content: bytes, content_type: bytes, charset: bytes) -> None:
    """Refuse a body that would be read as one text, but was surely meant as something else."""
    if charset.lower() not in _CHARSETS:
        raise UnsupportedMediaType(f"unsupported charset {charset[:40].decode('latin-1')!r}; send the text in UTF-8")
    if content_type != b"text/plain" and content.lstrip()[:1] == b"{":
        raise InvalidRequest(
            "the body looks like JSON, but its Content-Type does not say so; send JSON as application/json, and a text "
            "as text/plain"
        )


def _from_json(content: bytes, spec: InputSpec, settings: Settings) -> list[Item]:
    """The items of `{"images": ["<base64>", ...]}` or `{"texts": ["...", ...]}`."""
    key, form = spec.json_key, f'{{"{spec.json_key}": ["{"..." if spec.is_text else "<base64>"}", ...]}}'
    value = limited.loads(content, settings, form=form)
    if isinstance(value, dict) and len(value) == 1 and value.keys() <= _JSON_KEYS - {key}:
        raise UnsupportedMediaType(f"the model takes {key}, not {min(value)}; send {form}")
    values = check_list(value, key, form)
    if len(values) > settings.max_items:
        raise TooLarge(f"too many items: {len(values)} (maximum {settings.max_items})")
    return from_strings(values, spec)


def _type_name(value: Any) -> str:
    names = {dict: "an object", list: "a list", str: "a string", bool: "a boolean", type(None): "null"}
    return names.get(type(value), "a number")


def _from_base64(value: str) -> bytes | ConvokeError:
    try:
        return base64.b64decode(value, validate=True)
    except ValueError as error:
        return Unreadable(f"not base64: {error}; send the bytes of the file in base64, without prefix or line breaks")


def _from_multipart(content: bytes, boundary: bytes | None, settings: Settings) -> list[Item]:
    if not boundary:
        raise InvalidRequest("the Content-Type multipart/form-data has no boundary")
    parts: list[bytearray] = []
    is_complete = False

    def on_part_begin() -> None:
        if len(parts) == settings.max_items:
            raise TooLarge(f"too many items (maximum {settings.max_items})")
        parts.append(bytearray())

    def on_part_data(chunk: bytes, start: int, end: int) -> None:
        parts[-1] += chunk[start:end]

    def on_end() -> None:
        nonlocal is_complete
        is_complete = True

    try:
        parser = MultipartParser(
            boundary,
            {"on_part_begin": on_part_begin, "on_part_data": on_part_data, "on_end": on_end},
            max_header_size=settings.max_part_head_bytes,
        )
        parser.write(content)
        parser.finalize()
    except FormParserError as error:
        raise InvalidRequest(f"the multipart body is malformed: {error}") from error
    if not is_complete:
        raise InvalidRequest("the multipart body is cut off: its closing boundary is missing")
    if not parts:
        raise InvalidRequest("the multipart body has no parts; send at least one file")
    return [bytes(part) for part in parts]
