"""Splits a request body into encoded items: one image or text, the parts of a form, or a list in JSON."""

import json
import re
from collections.abc import Callable, Collection, Mapping
from functools import partial
from typing import Any
from urllib.parse import unquote_to_bytes

from starlette.requests import Request

from contract.errors import ConvokeError, TooLarge, UnsupportedMediaType
from contract.picture import has_signature
from contract.spec import INPUTS, InputSpec
from service.errors import InvalidRequest
from service.http import body, charset, limited, media, multipart
from service.http.media import Media
from service.http.multipart import Part
from service.http.transfer import decode_base64, decode_transfer
from service.inference.decoding import Item
from service.settings import Settings

Options = Mapping[str, str]
"""Options of a request that stand in its body, by name."""

OPTIONS = ("top", "min_score")

_JSON_KEYS = {spec.json_key for spec in INPUTS}
_BRACKETS = {b"[", b"{"}
_UNUSUAL_STARTS = {*_BRACKETS, b'"', b" ", b"\t", b"\r", b"\n", b"\xef", b"\xff", b"\xfe"}  # JSON and byte order marks
_NO_OPTIONS: Options = {}
_JSON_START = re.compile(rb'(\xef\xbb\xbf)?\s*[\[{"]')
_BROKEN_JSON = re.compile(rb"""(\xef\xbb\xbf)?\s*(\{\s*["']|\[\s*[{"'])""")
"""The start of JSON that is cut off, of lines of JSON, and of Python's notation of a dictionary."""
_FIELD_NAME = rb"[\w.%+\[\]-]{1,100}="
_FORM = re.compile(_FIELD_NAME)
_NEXT_FIELD = re.compile(rb"&(?=" + _FIELD_NAME + rb")")
_MAX_FIELDS = 2000
_FORM_PARTS = re.compile(  # what frameworks and browsers add to a form
    r"_.*|.*(csrf|xsrf|captcha|token|verification|session|nonce).*|"
    r"utf8|submit|commit|action|button|send|go|method|meta|metadata|max_file_size|id|lang|language|locale",
    re.IGNORECASE,
)


async def read(request: Request, spec: InputSpec, settings: Settings) -> tuple[list[Item], Options]:
    """The encoded items of a request whose body was not read yet, and the options in the body.

    An item that cannot be read is an error in its place.

    Args:
        request: the request.
        spec: the input of the model.
        settings: the limits.

    Raises:
        ConvokeError: as `body.read` and `split`.
    """
    content_type = dict(request.scope["headers"]).get(b"content-type", b"")
    content = await body.read(request, settings)
    if _is_item(content, media.parse(content_type), spec):
        return [content], _NO_OPTIONS
    return await body.run(partial(split, content, content_type, spec, settings), len(content))


def _is_item(content: bytes, kind: Media, spec: InputSpec) -> bool:
    """Whether a body is one encoded item as it is, as most are."""
    if spec.is_text:
        return kind.kind == "text" and kind.is_utf8 and content[:1] not in _UNUSUAL_STARTS and b"\0" not in content
    return kind.kind not in {"multipart", "json"} and content[:1] not in _BRACKETS and not _is_form(content, kind)


def split(content: bytes, content_type: bytes, spec: InputSpec, settings: Settings) -> tuple[list[Item], Options]:
    """The encoded items of a body with this header Content-Type, and the options in it.

    Raises:
        InvalidRequest: the body does not have the form that its Content-Type says, or holds no item.
        TooLarge: more items than `max_items`.
        UnsupportedMediaType: JSON of images for a model of texts, or the other way round; another charset or type.
        Unreadable: a text that is not in its charset.
    """
    kind = media.parse(content_type)
    if _is_item(content, kind, spec):
        return [content], _NO_OPTIONS
    if kind.kind == "json":
        return _from_json(charset.to_utf8(content, kind.charset), spec, settings)
    if kind.kind == "multipart" or _is_form(content, kind):
        is_form = kind.kind == "form"
        parts = _form_fields(content) if is_form else multipart.parse(content, kind.boundary, settings)
        return _from_parts(parts, spec, settings)
    if spec.is_text:
        return _from_text(content, kind, spec, settings)
    if _is_json(content, settings):
        return _from_json(content, spec, settings)
    return [content], _NO_OPTIONS


def from_strings(values: list[str], spec: InputSpec) -> list[Item]:
    """Strings of a JSON body -> encoded items: texts as they are, others from base64."""
    return [*values] if spec.is_text else [_attempt(decode_base64, value) for value in values]


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


def _from_json(content: bytes, spec: InputSpec, settings: Settings) -> tuple[list[Item], Options]:
    """The items of `{"images": ["<base64>", ...]}` or `{"texts": ["...", ...]}`, and the options beside them."""
    key, form = spec.json_key, f'{{"{spec.json_key}": ["{"..." if spec.is_text else "<base64>"}", ...]}}'
    value = limited.loads(content, settings, form=form)
    if isinstance(value, dict) and value.keys() - OPTIONS and value.keys() <= {*_JSON_KEYS, *OPTIONS} - {key}:
        raise UnsupportedMediaType(f"the model takes {key}, not {min(value.keys() - OPTIONS)}; send {form}")
    values = check_list(value, key, form, beside=OPTIONS)
    if len(values) > settings.max_items:
        raise TooLarge(f"too many items: {len(values)} (maximum {settings.max_items})")
    options = {name: value[name] for name in OPTIONS if value.get(name) is not None}
    texts = {name: option if isinstance(option, str) else json.dumps(option) for name, option in options.items()}
    return from_strings(values, spec), texts


def _from_text(content: bytes, kind: Media, spec: InputSpec, settings: Settings) -> tuple[list[Item], Options]:
    """The text of a body, or the texts of a body that is JSON although its media type does not say so."""
    text = _text(content, kind, settings)
    if text is None:
        return _from_json(charset.to_utf8(content, kind.charset), spec, settings)
    return [text], _NO_OPTIONS


def _text(content: bytes, kind: Media, settings: Settings, default_charset: str = "") -> bytes | str | None:
    """One text, which may be a string in JSON; None if it is a list or an object in JSON.

    Raises:
        UnsupportedMediaType: its media type is that of something else, or its charset is unknown.
        Unreadable: it is not in its charset.
        InvalidRequest: it looks like JSON, but is not.
    """
    if kind.kind not in {"text", "form"}:
        raise UnsupportedMediaType(
            f"unsupported Content-Type {kind.type[:60]!r} for a text; send one text as text/plain, or several in JSON "
            'as {"texts": ["...", ...]}'
        )
    text = charset.decode(content, kind.charset or default_charset)
    content = text if isinstance(text, bytes) else text.encode("utf-8", "replace")
    if _JSON_START.match(content) and _is_json(content, settings):
        value = limited.loads(content, settings)
        return value if isinstance(value, str) else None
    if _BROKEN_JSON.match(content) or (kind.type != "text/plain" and content.lstrip()[:1] == b"{"):
        raise InvalidRequest(
            'the body looks like JSON, but is not valid; send texts as {"texts": ["...", ...]} with the Content-Type '
            "application/json, and one text as text/plain"
        )
    return text


def _is_json(content: bytes, settings: Settings) -> bool:
    """Whether a body of another media type is JSON."""
    try:
        limited.loads(content, settings)
    except TooLarge:
        return True
    except ConvokeError:
        return False
    return True


def _is_form(content: bytes, kind: Media) -> bool:
    """Whether a body is a form; `curl -d` calls every body one, and a form with an image in its body has no name."""
    return kind.kind == "form" and _FORM.match(content) is not None


def _form_fields(content: bytes) -> list[Part]:
    """The fields of application/x-www-form-urlencoded; `curl -d` sends them without encoding, with blanks inside."""
    is_encoded = b" " not in content
    pairs = [
        field.partition(b"=")[::2] for field in (content.split(b"&") if is_encoded else _NEXT_FIELD.split(content))
    ]
    if len(pairs) > _MAX_FIELDS:
        raise TooLarge(f"too many fields in the form: {len(pairs)} (maximum {_MAX_FIELDS})")
    if is_encoded:
        pairs = [(_unquote(name), _unquote(value)) for name, value in pairs]
    return [Part(name.decode("utf-8", "replace"), value) for name, value in pairs]


def _unquote(text: bytes) -> bytes:
    return unquote_to_bytes(text.replace(b"+", b" "))


def _from_parts(parts: list[Part], spec: InputSpec, settings: Settings) -> tuple[list[Item], Options]:
    """The items of a form, and its options."""
    fields = {part.name: part.content.decode("latin-1").strip() for part in parts if part.filename is None}
    sent = [part for part in parts if _is_sent_as_item(part, spec)]
    if not sent and spec.is_text:
        sent = [part for part in parts if _may_be_text(part, settings)]
    if not sent:
        names = ", ".join(sorted({repr(part.name[:40]) for part in parts})[:10]) or "none"
        raise InvalidRequest(
            f"the form has no {spec.json_key}; send each as a file, or in a field named {spec.json_key!r}. Its fields "
            f"are: {names}"
        )
    if len(sent) > settings.max_items:
        raise TooLarge(f"too many items: {len(sent)} (maximum {settings.max_items})")
    options = {name: fields[name] for name in OPTIONS if fields.get(name)}
    return [_attempt(_part_item, part, spec, settings, fields.get("_charset_", "")) for part in sent], options


def _is_sent_as_item(part: Part, spec: InputSpec) -> bool:
    """Whether a part is a file, or a field with the name of an item; an image is recognised under any name."""
    if part.media.kind == "json" and part.filename in {None, "", "blob"}:  # data about the items
        return False
    if part.filename is not None:
        return bool(part.filename or part.content)  # browsers send an empty file if none was chosen
    if re.sub(r"\[.*", "", part.name).lower() in {"file", "files", spec.json_key, spec.json_key.removesuffix("s")}:
        return True
    return not spec.is_text and (part.media.is_file or has_signature(part.content))


def _may_be_text(part: Part, settings: Settings) -> bool:
    """Whether a field of any name is a text: neither empty, nor an option, nor what frameworks add, nor JSON."""
    content = part.content.strip()
    if part.filename is not None or part.name in OPTIONS or not content or part.media.kind == "json":
        return False
    is_structure = content[:1] in _BRACKETS and _is_json(content, settings)
    return not is_structure and not _FORM_PARTS.fullmatch(part.name)


def _part_item(part: Part, spec: InputSpec, settings: Settings, default_charset: str) -> Item:
    """The item in a part.

    Raises:
        ConvokeError: it cannot be read.
    """
    content = decode_transfer(part.content, part.transfer_encoding)
    if spec.is_text:
        text = _text(content, part.media, settings, default_charset)
        if text is None:
            raise UnsupportedMediaType(f"the part {part.name[:40]!r} is JSON; send JSON as the body of the request")
        return text
    is_written = part.filename is None and not part.media.is_file and not has_signature(content)
    return decode_base64(content.decode("latin-1")) if is_written else content


def _attempt(read: Callable[..., Item], *args: Any) -> Item:
    """An item, or why it cannot be read."""
    try:
        return read(*args)
    except ConvokeError as error:
        return error


def _type_name(value: Any) -> str:
    names = {dict: "an object", list: "a list", str: "a string", bool: "a boolean", type(None): "null"}
    return names.get(type(value), "a number")
