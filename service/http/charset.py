"""Charsets of texts: UTF-8 passes as it is, and others are decoded."""

import codecs
from collections import Counter

from contract.errors import Unreadable, UnsupportedMediaType

_AS_UTF8 = {"", "utf8", "utf8mb4", "unicode11utf8", "usascii", "ascii", "ansix341968"}
_CODECS = {
    "utf16": "utf-16", "utf16le": "utf-16-le", "utf16be": "utf-16-be", "ucs2": "utf-16", "unicode": "utf-16",
    "utf32": "utf-32", "utf32le": "utf-32-le", "utf32be": "utf-32-be",
    **{f"iso8859{part}": f"iso8859-{part}" for part in range(2, 17) if part != 12},  # noqa: PLR2004 -- was given up
    **{f"latin{number}": f"latin{number}" for number in range(2, 11)},
    **{f"{prefix}125{page}": f"cp125{page}" for prefix in ("windows", "cp", "xcp") for page in range(9)},
    **dict.fromkeys(("iso88591", "latin1", "l1", "ansi"), "cp1252"),  # as browsers read it (WHATWG Encoding, 4.2)
    **dict.fromkeys(("shiftjis", "sjis", "windows31j", "cp932", "ms932"), "cp932"),
    **dict.fromkeys(("gb2312", "gbk", "cp936", "gb18030"), "gb18030"),
    **dict.fromkeys(("euckr", "ksc56011987", "cp949"), "cp949"),
    **dict.fromkeys(("macintosh", "macroman", "xmacroman"), "mac-roman"),
    **dict.fromkeys(("cp437", "ibm437"), "cp437"), **dict.fromkeys(("cp850", "ibm850"), "cp850"),
    "eucjp": "euc_jp", "iso2022jp": "iso2022_jp", "big5": "big5hkscs", "koi8r": "koi8-r", "koi8u": "koi8-u",
    "tis620": "cp874", "windows874": "cp874",
}  # fmt: skip
_SEPARATORS = {ord(mark): None for mark in "-_ :."}
_MARKS = (  # that of UTF-32 begins with that of UTF-16
    (codecs.BOM_UTF32_LE, "utf-32"), (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"), (codecs.BOM_UTF16_BE, "utf-16"),
)  # fmt: skip
_MARK_BYTES = (0xFF, 0xFE, 0x00)  # first bytes of these marks
_SAMPLE_BYTES, _MAIN_SHARE = 4096, 0.8


def decode(content: bytes, charset: str) -> bytes | str:
    """A text in its charset: as it is if it is in UTF-8, or without a charset and a sign of UTF-16, else decoded.

    Args:
        content: the text.
        charset: of the Content-Type, or an empty string.

    Raises:
        UnsupportedMediaType: an unknown charset.
        Unreadable: the text is not in its charset.
    """
    label = _normalise(charset)
    if label in _AS_UTF8:
        codec = guess(content)
        if codec is None:
            return content
    elif label in _CODECS:
        codec = _CODECS[label]
    else:
        raise UnsupportedMediaType(f"unsupported charset {charset[:40]!r}; send the text in UTF-8")
    try:
        return content.decode(codec).removeprefix("\ufeff")
    except UnicodeDecodeError as error:
        if codec == "cp1252":  # five of its bytes are undefined
            return content.decode("latin-1")
        raise Unreadable(f"the text is not {codec}: {error.reason} at position {error.start}") from error


def to_utf8(content: bytes, charset: str) -> bytes:
    """The same text in UTF-8.

    Raises:
        UnsupportedMediaType, Unreadable: as `decode`.
    """
    text = decode(content, charset)
    return text if isinstance(text, bytes) else text.encode("utf-8", "surrogatepass")


def is_utf8(charset: str) -> bool:
    """Whether a charset is UTF-8, a part of it, or empty."""
    return _normalise(charset) in _AS_UTF8


def _normalise(charset: str) -> str:
    return charset.strip(" '\"").lower().translate(_SEPARATORS) if charset else ""


def guess(content: bytes) -> str | None:
    """UTF-16 or UTF-32 by the byte order mark, UTF-16 also by the zeros in the upper bytes of its characters."""
    if content[:1] and content[0] in _MARK_BYTES:
        for mark, codec in _MARKS:
            if content.startswith(mark):
                return codec
    if b"\0" not in content or len(content) % 2:
        return None
    for upper, codec in ((content[1:_SAMPLE_BYTES:2], "utf-16-le"), (content[:_SAMPLE_BYTES:2], "utf-16-be")):
        common = Counter(upper).most_common(2)  # 0 for blanks and Latin letters, and one for another script
        if 0 in dict(common) and sum(count for _, count in common) >= _MAIN_SHARE * len(upper):
            return codec
    return None
