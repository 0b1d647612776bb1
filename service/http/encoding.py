"""Content-Encoding: which codings a request names (RFC 9110, 8.4), and how they are undone within a limit."""

import zlib
from collections.abc import Iterable

from contract.errors import TooLarge, Unreadable, UnsupportedMediaType

_GZIP, _ZLIB, _RAW = 31, 15, -15  # zlib's wbits
_CODINGS = {"gzip", "x-gzip", "deflate"}
_MAX_CODINGS, _MAX_MEMBERS = 3, 10_000
_CHUNK_BYTES = 1 << 16
_ACCEPTED = "gzip, deflate, identity"


def codings_of(headers: Iterable[tuple[bytes, bytes]]) -> list[str]:
    """The codings in the Content-Encoding lines of a request, in the order in which they were applied."""
    listed = b",".join(value for name, value in headers if name == b"content-encoding").decode("latin-1").lower()
    return [coding for coding in map(str.strip, listed.split(",")) if coding not in {"", "identity"}]


def decompress(body: bytes | bytearray, codings: list[str], limit: int) -> bytes | bytearray:
    """The content of a body; never more than one byte above the limit is in memory for each coding.

    Raises:
        UnsupportedMediaType: an unknown coding, or more than three.
        Unreadable: the body does not match its coding.
        TooLarge: the content has more bytes than `limit`.
    """
    unknown = [coding for coding in codings if coding not in _CODINGS]
    if unknown or len(codings) > _MAX_CODINGS:
        received = repr((unknown[0] if unknown else ", ".join(codings))[:40])
        error = UnsupportedMediaType(
            f"unsupported Content-Encoding {received}; supported: {_ACCEPTED}. Leave the header out if the body is not "
            "compressed"
        )
        error.headers = {"Accept-Encoding": _ACCEPTED}  # RFC 9110, 12.5.3
        raise error
    for coding in reversed(codings):
        body = _undo(body, coding, limit)
    return body


def _undo(body: bytes | bytearray, coding: str, limit: int) -> bytearray:
    """Undo one coding. A gzip body may have several members and zeros at its end, as gzip files may."""
    is_gzip = coding != "deflate"
    window = _GZIP if is_gzip else _ZLIB if _is_zlib(body) else _RAW
    packed, content, start = memoryview(body), bytearray(), 0
    for _ in range(_MAX_MEMBERS if is_gzip else 1):
        unpacker, member = zlib.decompressobj(window), start
        while start < len(packed) and not unpacker.eof:
            chunk = packed[start : start + _CHUNK_BYTES]
            try:
                content += unpacker.decompress(chunk, limit + 1 - len(content))
            except zlib.error as error:
                what = f"{len(packed) - member} bytes follow the end of the body, and are" if member else "the body is"
                raise Unreadable(f"{what} not {coding}, as its Content-Encoding says: {error}") from error
            if len(content) > limit:
                raise TooLarge(f"request body too large after decompression (maximum {limit} bytes)")
            start += len(chunk) - len(unpacker.unused_data)
        if not unpacker.eof:
            raise Unreadable(f"the {coding} body is cut off")
        if start == len(packed) or (is_gzip and packed[start] == 0 and not bytes(packed[start:]).strip(b"\0")):
            return content
    raise Unreadable(f"{len(packed) - start} bytes follow the end of the {coding} body")


def _is_zlib(body: bytes | bytearray) -> bool:
    """Whether a body has the two bytes in front that RFC 1950 asks for; many clients send raw deflate without them."""
    return len(body) > 1 and body[0] & 0x0F == zlib.DEFLATED and int.from_bytes(body[:2]) % 31 == 0
