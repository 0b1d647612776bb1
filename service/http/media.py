"""Media types: what the Content-Type of a body or of a multipart part says about it."""

from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

from python_multipart.multipart import parse_options_header

from service.http import charset

_TABLES = {"csv", "tab-separated-values", "xml", "x-ndjson", "ndjson", "yaml", "x-yaml", "calendar", "vcard"}
_PLAIN = {"", "application/octet-stream", "binary/octet-stream", "application/x-binary", "application/text", "*/*"}

Kind = Literal["multipart", "json", "form", "text", "other"]


@dataclass(frozen=True, slots=True)
class Media:
    """A Content-Type.

    Args:
        type: in lower case, without parameters.
        kind: `text` if a body of this type can be one text, `other` if it is a file or a structure of another kind.
        charset: as it was sent; empty if there is none.
        is_utf8: whether a text is in UTF-8 by its charset, or for lack of one.
        boundary: of a multipart body.
    """

    type: str
    kind: Kind
    charset: str = ""
    is_utf8: bool = True
    boundary: bytes = b""

    @property
    def is_file(self) -> bool:
        """Whether the type is that of a file, rather than of a value in a form."""
        return self.type.startswith("image/") or self.type == "application/octet-stream"


@lru_cache(64)
def parse(content_type: bytes) -> Media:
    """The media type of a header; cached, since the clients of a service send few different ones."""
    name, parameters = parse_options_header(content_type)
    media_type = name.decode("latin-1").strip()
    label = parameters.get(b"charset", b"").decode("latin-1")
    return Media(media_type, _kind(media_type), label, charset.is_utf8(label), parameters.get(b"boundary", b""))


def _kind(media_type: str) -> Kind:
    main, _, subtype = media_type.partition("/")
    if main == "multipart":
        return "multipart"
    if subtype in {"json", "x-json"} or subtype.endswith("+json"):
        return "json"
    if media_type == "application/x-www-form-urlencoded":
        return "form"
    is_text = main == "text" and subtype not in _TABLES and not subtype.endswith("+xml")
    return "text" if is_text or media_type in _PLAIN or not subtype else "other"
