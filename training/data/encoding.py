"""The encoding of a table: UTF-8 and UTF-16 are certain, others are guessed and said to be."""

import codecs
import re

from charset_normalizer import from_bytes

BOMS = ((b"\xef\xbb\xbf", "utf-8-sig"), (b"\xff\xfe\0\0", "utf-32"), (b"\0\0\xfe\xff", "utf-32"),
        (b"\xff\xfe", "utf-16"), (b"\xfe\xff", "utf-16"))  # fmt: skip
_SAMPLE = 1 << 18
_MANY = 0.08
"""The share of letters outside ASCII above which a text may be of another language than those of Western Europe."""
_ODD = 0.1
"""The share of characters outside ASCII that are signs within words, where cp1252 is the wrong encoding."""
_LETTER, _LIKELY = r"[^\W\d_]", "\u2018\u2019\u2013\u2014\xad\xb4"  # apostrophes and dashes stand within words
_INSIDE = re.compile(rf"(?<={_LETTER})(?:[^\w\x00-\x7f{_LIKELY}]|[\xb2\xb3\xb9\xbc-\xbe])(?={_LETTER})")
"""Signs with a letter on each side."""
_OTHERS = ["cp1252", "cp1251", "koi8_r", "cp1250", "cp1253", "cp1254", "cp1255", "cp1256", "cp1257",
           "cp1258", "gb18030", "big5",
           "shift_jis", "euc_jp", "euc_kr", "cp949", "cp866", "cp874"]  # fmt: skip


def certain(data: bytes) -> str:
    """The encoding that a byte order mark or the zeros of UTF-16 show; "" if neither is there."""
    return next((name for bom, name in BOMS if data.startswith(bom)), "") or _utf16(data)


def guess(data: bytes) -> str:
    """The likeliest encoding of bytes that are not UTF-8: cp1252, unless its text looks like none of Western Europe.

    The library `charset-normalizer` chooses among the encodings of other languages by the letters that they would give.
    """
    sample = _sample(data)
    western = sample.decode("cp1252", "replace")
    letters = [character for character in western if character.isalpha()]
    foreign = [character for character in western if character > "\x7f"]
    share = sum(character > "\x7f" for character in letters) / max(len(letters), 1)
    inside = sum(len(_INSIDE.findall(line)) for line in western.split("\n"))
    is_odd = inside > _ODD * len(foreign)
    if share <= _MANY and not is_odd:
        return "cp1252"
    matches = list(from_bytes(sample, cp_isolation=_OTHERS[is_odd:], threshold=0.5))
    equal = [each for each in matches if (each.chaos, each.coherence) == (matches[0].chaos, matches[0].coherence)]
    names = [name for each in equal for name in (each.encoding, *each.could_be_from_charset)]
    return "cp1252" if not names or ("cp1252" in names and not is_odd) else _widest(names[0])


def _widest(name: str) -> str:
    """The encoding that contains another one: gb2312 and gbk are parts of gb18030."""
    return {"gb2312": "gb18030", "gbk": "gb18030", "euc_kr": "cp949", "shift_jis": "cp932"}.get(name, name)


def _sample(data: bytes) -> bytes:
    """The lines with bytes outside ASCII, up to a limit: the others say nothing."""
    lines, size = [], 0
    for line in data.split(b"\n"):
        if not line.isascii():
            lines.append(line)
            size += len(line)
            if size > _SAMPLE:
                break
    return b"\n".join(lines)


def is_mostly_utf8(data: bytes) -> bool:
    """Whether most of the bytes above 127 belong to valid UTF-8."""
    text = data.decode(errors="replace")
    bad = text.count("\N{REPLACEMENT CHARACTER}")
    good = sum(character > "\x7f" for character in text) - bad
    return good > 3 * bad


def exists(name: str) -> bool:
    """Whether Python knows an encoding of texts by this name."""
    try:
        return codecs.lookup(name)._is_text_encoding  # noqa: SLF001 -- base64 is a codec, too
    except LookupError:
        return False


def _utf16(data: bytes) -> str:
    """UTF-16 without a byte order mark, which has a zero in every other byte of Latin text."""
    head = data[:4096]
    even, odd = head[::2].count(0), head[1::2].count(0)
    if max(even, odd) < len(head) * 0.2:
        return ""
    return "utf-16-le" if odd > even else "utf-16-be"
