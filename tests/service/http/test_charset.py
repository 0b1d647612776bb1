"""Charsets of texts: those that clients name, and UTF-16 without a name."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from contract.errors import ConvokeError, Unreadable, UnsupportedMediaType
from service.http.charset import decode, to_utf8

TEXTS = {
    "English": "A good film, really.",
    "French": "Un tr\u00e8s bon film, vraiment.",
    "quotes": "It\u2019s good \u2013 very.",
    "Russian": "\u0425\u043e\u0440\u043e\u0448\u0438\u0439 \u0444\u0438\u043b\u044c\u043c, \u0434\u0430.",
    "Greek": "\u039a\u03b1\u03bb\u03ae \u03c4\u03b1\u03b9\u03bd\u03af\u03b1, \u03b1\u03be\u03af\u03b6\u03b5\u03b9",
    "two letters": "ok",
}


@pytest.mark.parametrize("codec", ["utf-16-le", "utf-16-be", "utf-16", "utf-32", "utf-8", "utf-8-sig"])
@pytest.mark.parametrize("name", TEXTS)
def test_unicode_is_recognised_without_a_charset(name: str, codec: str) -> None:
    """UTF-16 without a byte order mark, and all of Unicode's encodings with one."""
    text = TEXTS[name]
    assert to_utf8(text.encode(codec), "").decode("utf-8-sig") == text


@pytest.mark.parametrize(
    ("charset", "codec", "text"),
    [
        ("ascii", "ascii", "good"), ("US-ASCII", "ascii", "good"), ("ISO-8859-1", "latin-1", "caf\u00e9"),
        ("latin1", "latin-1", "caf\u00e9"), ("iso_8859-1", "cp1252", "it\u2019s"), ("'utf-8'", "utf-8", "caf\u00e9"),
        ("UTF8", "utf-8", "caf\u00e9"), ("utf8mb4", "utf-8", "caf\u00e9"), ("windows-1252", "cp1252", "it\u2019s"),
        ("CP1252", "cp1252", "it\u2019s"), ("iso-8859-15", "iso8859-15", "5 \u20ac"), ("utf-16", "utf-16", "caf\u00e9"),
        ("UTF-16LE", "utf-16-le", "caf\u00e9"), ("utf-16be", "utf-16-be", "a\u00e9"), ("utf-32", "utf-32", "a\u00e9"),
        ("Shift_JIS", "cp932", "\u826f\u3044"), ("GBK", "gbk", "\u597d"), ("gb2312", "gb2312", "\u597d"),
        ("EUC-KR", "euc_kr", "\uc88b\ub2e4"), ("Big5", "big5", "\u597d"), ("KOI8-R", "koi8-r", "\u0444"),
        ("windows-1251", "cp1251", "\u0444"), ("ISO-8859-2", "iso8859-2", "\u0142"), ("EUC-JP", "euc_jp", "\u826f"),
    ],
)  # fmt: skip
def test_named_charsets_are_read(charset: str, codec: str, text: str) -> None:
    """The charsets of the web, under the names that clients give them; ISO-8859-1 as browsers read it."""
    assert to_utf8(text.encode(codec), charset).decode() == text


@pytest.mark.parametrize("content", [b"good\0bad!", b"good film\0", b"a b\0\0", b"caf\xc3\xa9", b"\0", b"", b"\xff"])
def test_utf8_is_passed_as_it_is(content: bytes) -> None:
    """A few zeros do not make UTF-16; what is not UTF-8 either is refused where the text is decoded."""
    assert decode(content, "utf-8") == content


@pytest.mark.parametrize("charset", ["utf-7", "idna", "cp037", "unicode_escape", "base64", "x" * 500, "../x", "utf-9"])
def test_other_charsets_are_named(charset: str) -> None:
    """No codec of Python is reached by a client's word."""
    with pytest.raises(UnsupportedMediaType, match="UTF-8") as caught:
        decode(b"good", charset)
    assert len(str(caught.value)) < 120


def test_a_text_in_another_charset_than_it_says_is_unreadable() -> None:
    """The message has the charset and the position."""
    with pytest.raises(Unreadable, match=r"utf-16.*position 2"):
        decode(b"abc", "utf-16le")


@given(st.binary(max_size=60), st.sampled_from(["", "utf-16", "utf-32", "latin1", "gbk", "iso-2022-jp", "x"]))
def test_any_bytes_are_read_or_refused(content: bytes, charset: str) -> None:
    """A text, or an error below 500."""
    try:
        to_utf8(content, charset)
    except ConvokeError as error:
        assert 400 <= error.status < 500  # noqa: PT017
