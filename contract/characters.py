"""Variants of a character -> one form: accents, apostrophes, invisible characters, fonts, and letters that look alike.

Patterns and tables use only what every version of Unicode since 9.0 says of a character, or name it.
"""

import re
import unicodedata
from functools import lru_cache
from string import ascii_lowercase

# What Unicode's confusables.txt lists for the apostrophe, and similar marks.
_APOSTROPHES = (
    "`\u00b4\u02b9\u02bb\u02bc\u02bd\u02be\u02bf\u02c8\u02ca\u02cb\u02f4\u0374\u0384\u055a\u055d\u05f3\u07f4\u07f5\u144a"
    "\u16cc\u1fbd\u1fbf\u1fef\u1ffd\u1ffe\u2018\u2019\u201a\u201b\u2032\u2035\u275b\u275c\ua78b\ua78c\uff07\uff40"
    "\U00016f51\U00016f52\x91\x92"
)
_NAMED: dict[int, str | None] = {
    # C1 controls, as web pages mean them: characters of Windows-1252.
    **{code: bytes([code]).decode("cp1252", "ignore") or None for code in range(0x80, 0xA0)},
    **dict.fromkeys(map(ord, _APOSTROPHES), "'"),
    **dict.fromkeys(map(ord, "\u00a9\u00ae\u00b0\u2120\u2122\ufffc"), " "),  # (c), (r), degree, sm, tm, object
    **dict.fromkeys(map(ord, "\u2755\u2757"), "!"),  # emoji; then Arabic and East Asian punctuation
    **dict.fromkeys(map(ord, "\u2753\u2754\u061f"), "?"),
    **dict.fromkeys(map(ord, "\u060c\u3001"), ","),
    0x203D: "?!",
    0x3002: ". ",
    # Letters that NFKD keeps, or whose parentheses it keeps: in parentheses, and white in circles and squares.
    **{
        first + place: letter
        for first in (0x249C, 0x1F110, 0x1F150, 0x1F170)
        for place, letter in enumerate(ascii_lowercase)
    },
}
_SHORT = 4  # characters of a run outside of ASCII that is worth keeping in a cache
_NOT_ASCII = re.compile(r"[^\x00-\x7f]+")
_UNUSUAL = re.compile(r"[^\t-\r -_a-~]+")  # neither white space nor visible ASCII but the grave accent
_INVISIBLE = re.compile(  # Default_Ignorable_Code_Point of DerivedCoreProperties.txt, Cc but for white space, and Cf
    r"[\x00-\x08\x0e-\x1f\x7f\xad\u034f\u0600-\u0605\u061c\u06dd\u070f\u0890\u0891\u08e2\u115f\u1160\u17b4\u17b5"
    r"\u180b-\u180f\u200b-\u200f\u202a-\u202e\u2060-\u206f\u3164\ufe00-\ufe0f\ufeff\uffa0\ufff0-\ufffb\U000110bd"
    r"\U000110cd\U00013430-\U0001343f\U0001bca0-\U0001bca3\U0001d173-\U0001d17a\U000e0000-\U000e0fff]+"
)
_ACCENTS = re.compile(r"[\u0300-\u036f\u0483-\u0489\u1ab0-\u1aff\u1dc0-\u1dff\u20d0-\u20ff\ufe20-\ufe2f]+")
_SYMBOLS = re.compile(r"([^\x00-\x7f\w\s\u2605\u2606\u2b50])(?:\s?\1)+")  # the number of stars has a meaning

_OF_WINDOWS = bytes(range(0x80, 0xC0)).decode("cp1252", "ignore") + "\x80-\xbf"
_MISREAD = re.compile(f"[\xc2\xc3][{_OF_WINDOWS}]|\xe2[{_OF_WINDOWS}]{{2}}")
_CONTRACTION = r"(?=(?:[dmst]|re|ve|ll)(?!\w))"
_LOST_APOSTROPHE = re.compile(rf"(?<=[^\W_])\ufffd{_CONTRACTION}", re.IGNORECASE)
_APOSTROPHE_ACCENTS = "\u0300", "\u0301", "\u0313", "\u0314"
_ACCENT_FOR_APOSTROPHE = re.compile(  # what NFKC makes of U+00B4
    rf"(?:(?<=[^\W_])[ ]|(?<=n))[{''.join(_APOSTROPHE_ACCENTS)}]{_CONTRACTION}", re.IGNORECASE
)

# Small capitals, and letters that NFKD keeps: of the phonetic alphabet, and with a stroke.
_LATIN_VARIANTS = {
    ord(variant): letter
    for letter, variants in {
        "a": "ᴀɑⱭ", "b": "ʙƀɃ", "c": "ᴄȼȻ", "d": "ᴅđĐ", "e": "ᴇɇɆ", "f": "ꜰ", "g": "ɢɡǥǤ", "h": "ʜħĦ", "i": "ɪıɩɨƗ",
        "j": "ᴊȷɉɈ", "k": "ᴋ", "l": "ʟłŁƚȽ", "m": "ᴍ", "n": "ɴ", "o": "ᴏøØ", "p": "ᴘᵽⱣ", "r": "ʀɍɌ", "s": "ꜱ",
        "t": "ᴛŧŦ", "u": "ᴜʋʉɄ", "v": "ᴠ", "w": "ᴡ", "y": "ʏɏɎ", "z": "ᴢƶƵ", "ae": "ᴁæÆ", "oe": "ɶœŒ",
    }.items()
    for variant in variants
}  # fmt: skip
# Letters of other scripts that look like a Latin one, in upper or lower case, after Unicode's confusables.txt.
_LOOK_ALIKES = {
    ord(look_alike): letter
    for letter, look_alikes in {
        "a": "ΑαАаᎪꓮ", "b": "ΒВвЬьᏴꓐ", "c": "СсϹϲᏟꓚ", "d": "ԀԁᎠꓓ", "e": "ΕεЕеҽᎬꓰ", "f": "ϜᖴꓝϝքԲ", "g": "ԌԍᏀꓖց",
        "h": "ΗНнҺһᎻꓧհ", "i": "ΙιІіӀӏꓲᎥ", "j": "ͿϳЈјᎫꓙ", "k": "ΚκКкᏦꓗ", "l": "ᏞꓡⳐ", "m": "ΜМмᎷꓟϺ", "n": "ΝηꓠոռПп",
        "o": "ΟοσОоՕօꓳ", "p": "ΡρРрᏢꓑ", "q": "Ԛԛգզ", "r": "ᏒᎡꓣгГ", "s": "ЅѕՏᏚꓢ", "t": "ΤτТтᎢꓔ", "u": "υՍսꓴ",
        "v": "νѴѵᏙꓦ", "w": "ωԜԝѡᎳꓪա", "x": "ΧχХхꓫ", "y": "ΥγУуҮүᎩꓬ", "z": "ΖᏃꓜ",
    }.items()
    for look_alike in look_alikes
}  # fmt: skip
_LOOK_ALIKE = re.compile(f"[{''.join(map(chr, _LOOK_ALIKES))}]")
_OTHER_LETTER = re.compile(f"[^\\W\\d_\x00-\u02ff\u1e00-\u1eff{''.join(map(chr, _LOOK_ALIKES))}]")
_WORD, _LATIN = re.compile(r"[^\W\d_]+"), re.compile(r"[A-Za-z]")
_FEW = 3  # Latin letters for each letter that only looks like one


def fold(text: str) -> str:
    """Give variants of a character one form: compatibility characters are decomposed (NFKD), without their accents.

    The case of letters stays. Apostrophes of all kinds become `'`, invisible characters are dropped, and a symbol
    that is repeated occurs once. A letter of another script that looks like a Latin one becomes it in words that also
    have Latin letters, and in all words if the text has few others.
    """
    text = _UNUSUAL.sub(_name, text)
    if text.isascii():
        return text
    if any(accent in text for accent in _APOSTROPHE_ACCENTS):
        text = _ACCENT_FOR_APOSTROPHE.sub("'", text)
    if "\ufffd" in text:
        text = _LOST_APOSTROPHE.sub("'", text).replace("\ufffd", " ")
    text = _NOT_ASCII.sub(_decompose, text)
    if text.isascii():
        return text
    if _LOOK_ALIKE.search(text):
        text = _fold_look_alikes(text)
    return _SYMBOLS.sub(r"\1", text)


def _name(run: re.Match[str]) -> str:
    return _named(run[0]) if len(run[0]) <= _SHORT else _named.__wrapped__(run[0])


def _decompose(run: re.Match[str]) -> str:
    return _decomposed(run[0]) if len(run[0]) <= _SHORT else _decomposed.__wrapped__(run[0])


@lru_cache(maxsize=1024)
def _named(run: str) -> str:
    """A run of characters without invisible ones, and with those of `_NAMED` replaced."""
    return _MISREAD.sub(_from_utf8, _INVISIBLE.sub("", run)).translate(_NAMED)


@lru_cache(maxsize=1024)
def _decomposed(run: str) -> str:
    text = _ACCENTS.sub("", unicodedata.normalize("NFKD", run)).translate(_LATIN_VARIANTS)
    return unicodedata.normalize("NFC", text)


def _from_utf8(run: re.Match[str]) -> str:
    """The character whose UTF-8 was read as Windows-1252: U+2019 for U+00E2 U+20AC U+2122."""
    try:
        return bytes(ord(c) if c < "\u0100" else c.encode("cp1252")[0] for c in run[0]).decode()
    except UnicodeDecodeError:
        return run[0]


def _fold_look_alikes(text: str) -> str:
    text = _WORD.sub(_fold_mixed_word, text)
    rest = len(_LOOK_ALIKE.findall(text))
    if rest and not _OTHER_LETTER.search(text) and len(_LATIN.findall(text)) >= _FEW * rest:
        return text.translate(_LOOK_ALIKES)
    return text


def _fold_mixed_word(word: re.Match[str]) -> str:
    return word[0].translate(_LOOK_ALIKES) if _LATIN.search(word[0]) else word[0]
