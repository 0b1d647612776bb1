"""Bytes that travel as text: base64, as JSON and forms carry files, and quoted-printable.

`decode_base64` reads what clients send in practice, and names the mistake where the text is something else.
"""

import binascii
import quopri
import re
from urllib.parse import unquote_to_bytes

from contract.errors import Unreadable, UnsupportedMediaType
from contract.picture import has_signature

_SEND = "send the bytes of the file in base64"
_SHOWN = 20  # characters of a text in messages
_EXAMINED = 100_000  # characters of a text that the search for a mistake reads
_WRAPPED = 60  # characters; base64 tools break lines at 64 or 76
_DATA_URI = re.compile(r"data:([^,]*),", re.IGNORECASE)
_URL_SAFE = str.maketrans("-_", "+/")
_BASE64_AGAIN = re.compile(rb"(data:[^,]*,)?[A-Za-z0-9+/_-]{8,}[A-Za-z0-9+/_=\s-]*")
_HEX = re.compile(r"(0x)?([0-9a-fA-F]{2}[ :]?){4,}")
_PLACEHOLDER = re.compile(r"null|none|nil|nan|true|false|undefined", re.IGNORECASE)
_PATH = re.compile(r"/(app|data|home|media|mnt|opt|root|srv|tmp|usr|users|var)/.*", re.IGNORECASE | re.DOTALL)
_MISTAKES: tuple[tuple[re.Pattern[str], str], ...] = (
    (_PLACEHOLDER, "a placeholder"),
    (_PATH, "a path; the service does not read it"),
    *(
        (re.compile(pattern, re.IGNORECASE | re.DOTALL), mistake)
        for pattern, mistake in (
            (r"", "an empty string"),
            (r"b(['\"]).*\1", "Python's notation of bytes, b'...'; call .decode() on the result of base64.b64encode"),
            (r"(['\"]).*\1", "a text in quotes, probably written as JSON twice"),
            (r"[\[{<].*", "an object written as a text"),
            (r"base64[:,].*|data:[^,]*,?", "an incomplete data: URI; expected data:image/png;base64,..."),
            (r"[a-z][a-z0-9+.-]+:.*", "a URL; the service does not fetch it"),
            (r"\\x[0-9a-f]{2}.*", "escaped bytes like \\x89"),
            (r"([a-z]:)?[\\~.].*|[a-z]:/.*|.*\.[a-z0-9]{2,5}", "a path; the service does not read it"),
            (r".*\\[nrt].*", "a text with escaped line breaks, a backslash and a letter each"),
            (r".*&(#\d+|#x[0-9a-f]+|amp|quot|lt|gt);.*", "a text with HTML entities"),
            (_HEX.pattern, "hexadecimal digits"),
            (r".*%[0-9a-f]{2}.*", "a percent-encoded text, with %2B for '+'; JSON carries base64 as it is"),
            (r"[a-z0-9+/_-]+=+[a-z0-9+/_-].*", "several base64 texts in one, with '=' in the middle"),
            (
                r"[a-z0-9+/_=-]+( +[a-z0-9+/_=-]+)+",
                "base64 with blanks inside; a form or a URL turned each '+' into a blank",
            ),
            (r"[a-z0-9+/_-]*=*", "a text that is cut off, or has a character too many"),
        )
    ),
)


def decode_base64(text: str) -> bytes:
    """The bytes of a file in base64.

    Line breaks, blanks around the text, the URL-safe alphabet, missing padding and `data:` URIs are read as well.

    Raises:
        Unreadable: the text is something else; the message names what.
    """
    try:
        content = binascii.a2b_base64(text, strict_mode=True)
    except ValueError:
        content = _decode_leniently(text)
    if not has_signature(content):
        _check_mistakes(text, content)
    return content


def decode_transfer(content: bytes, encoding: str) -> bytes:
    """The content of a multipart part, by its Content-Transfer-Encoding.

    Raises:
        UnsupportedMediaType: an unknown encoding.
        Unreadable: the content does not match it.
    """
    match encoding.strip().lower():
        case "" | "7bit" | "8bit" | "binary":
            return content
        case "base64":
            return decode_base64(content.decode("latin-1"))
        case "quoted-printable":
            return quopri.decodestring(content)
        case _:
            raise UnsupportedMediaType(
                f"unsupported Content-Transfer-Encoding {encoding[:40]!r}; supported: 7bit, 8bit, binary, base64, "
                "quoted-printable"
            )


def _decode_leniently(text: str) -> bytes:
    """Base64 that is not written strictly.

    Raises:
        Unreadable: it is not base64.
    """
    data = text.strip(" \t\r\n\ufeff\0")
    uri = _DATA_URI.match(data)
    if uri:
        encoded = unquote_to_bytes(data[uri.end() :])
        if not uri[1].replace(" ", "").lower().endswith(";base64"):
            return encoded
        data = encoded.decode("latin-1")
    lines = data.split()
    if len(lines) > 1 and not re.search(r"[\r\n]", data) and not _is_wrapped(lines):
        raise Unreadable(_explain(text))
    data = "".join(lines).translate(_URL_SAFE).rstrip("=")
    try:
        return binascii.a2b_base64(data + "=" * (-len(data) % 4), strict_mode=True)
    except ValueError as error:
        raise Unreadable(_explain(text)) from error


def _is_wrapped(lines: list[str]) -> bool:
    """Whether blanks stand where line breaks were, which a shell replaces."""
    return len(lines[0]) >= _WRAPPED and {*map(len, lines[:-1])} == {len(lines[0])}


def _check_mistakes(text: str, content: bytes) -> None:
    """Refuse a text with a mistake that consists of characters of base64 only.

    Raises:
        Unreadable: it is such a text.
    """
    if not content or _PLACEHOLDER.fullmatch(text) or _PATH.match(text) or _is_hex_of_image(text):
        raise Unreadable(_explain(text))
    if _BASE64_AGAIN.fullmatch(content) and _is_base64_of_image(content):
        raise Unreadable(_message(text, "base64 that was encoded in base64 again"))


def _explain(text: str) -> str:
    """The message for a text that is not base64: what it seems to be."""
    examined = text.strip()
    if len(examined) > _EXAMINED:
        examined = examined[: _EXAMINED // 2] + examined[-_EXAMINED // 2 :]
    return _message(text, next((name for pattern, name in _MISTAKES if pattern.fullmatch(examined)), ""))


def _message(text: str, mistake: str) -> str:
    received = repr(text[:_SHOWN]) + ("..." if len(text) > _SHOWN else "")
    return f"not base64 but {mistake}: {received}; {_SEND}" if mistake else f"not base64: {received}; {_SEND}"


def _is_hex_of_image(text: str) -> bool:
    try:
        start = bytes.fromhex(text.removeprefix("0x")[:32])
    except ValueError:
        return False
    return has_signature(start) and _HEX.fullmatch(text) is not None


def _is_base64_of_image(content: bytes) -> bool:
    try:
        return has_signature(_decode_leniently(content.decode("latin-1")))
    except Unreadable:
        return False
