"""Text as people send it -> words and punctuation that a tokenizer counts, without markup, escapes and variants.

`normalise` is version 1 of the normalisation of texts. `TextInput.normalisation` names the version that a model was
trained with; a model of version 0 has a tokenizer that takes raw text. A change here or in `characters` that turns a
training text into other words is a new version.

Every step takes time in proportion to the text: patterns are possessive, stop at the next opening mark, or search for a
closing mark only until one is missing.
"""

import html
import re
import sys
from typing import Final

from contract.characters import fold

VERSION: Final = 1
"""The version of the normalisation of models that are trained now."""

# Text without these characters has no escape, no markup but addresses, and nothing to fold: not < & [ \ % ` @.
_UNUSUAL = re.compile(r"[^\n\r\t !-$'-;=-?A-Z\]^_a-~]")

# Escapes of URLs, of programming languages and JSON, and of HTML.
_PERCENT_TWICE = re.compile(r"%(?:25)+(?=[0-9A-Fa-f]{2})")
_PERCENT_U = re.compile(r"%(?=u[0-9A-Fa-f]{4})")
_PERCENT = re.compile(r"(?:%[0-9A-Fa-f]{2})+")
_LETTER_OR_DIGIT = re.compile(r"[A-Za-z0-9]")
_BACKSLASHES = re.compile(r"\\{2,}")
_CODE_POINTS = re.compile(r"(?:\\(?:u[0-9A-Fa-f]{4}|u\{[0-9A-Fa-f]{1,6}\}|U[0-9A-Fa-f]{8}|x[0-9A-Fa-f]{2}))+")
_CODE_POINT = re.compile(r"\\([uUx])\{?([0-9A-Fa-f]+)")
_ESCAPED_NEWLINE = re.compile(r"\\(?:r\\)?n|\\[rt](?![a-z])")
_ESCAPED_SPACE = re.compile(r"\\[nrt]")
_ESCAPED_MARK = re.compile(r"\\(?=[^\w\s])")
_LONG_NUMBER = re.compile(r"&#(?:[0-9]{12,}|[xX][0-9A-Fa-f]{12,});?")  # on 4,300 digits html.unescape fails
_NO_SEMICOLON = re.compile(
    r"&((?:[lr]s|[lr]d|sb|bd)quo|apos|[nm]dash|hellip|(?:en|em|thin|nb)sp|zwn?j|[lr]rm);?", re.IGNORECASE
)

# Markup.
_HIDDEN_TAGS = "script", "style", "template", "svg", "iframe", "object", "noscript"
_HIDDEN_BBCODE = "img", "image", "youtube", "video", "media", "attach", "attachment", "code"
_HIDDEN = tuple(  # the opening and the closing mark of what a reader does not see
    (re.compile(opening, re.IGNORECASE), re.compile(closing, re.IGNORECASE))
    for opening, closing in (
        ("<!--", "-->"),
        *((rf"<{name}(?=[\s/>])", rf"</{name}[^<>]*>") for name in _HIDDEN_TAGS),
        *((rf"\[{name}(?=[\s=\]])", rf"\[/{name}\]") for name in _HIDDEN_BBCODE),
    )
)
_HIDDEN_START = re.compile(rf"[<\[](?:!--|{'|'.join(_HIDDEN_TAGS + _HIDDEN_BBCODE)})", re.IGNORECASE)
_SECTION = re.compile(r"<!\[CDATA\[|\]\]>")
_BBCODE = re.compile(
    r"\[/?(b|i|u|s|font|size|colou?r|highlight|url|email|quote|spoiler|list|ul|ol|li|center|left|right|justify|indent"
    r"|align|table|tr|td|th|h[1-6r]|br|p|pre|su[bp]|user|mention)(?:\s*=[^\[\]\n]*|\s+[\w-]+=[^\[\]\n]*)?\]"
    r"(?!\(|\[\d)",  # the text of a link in Markdown
    re.IGNORECASE,
)
_TARGET = r"(?:\(\s*+<?(?:[^\s()<>]|\([^\s()<>]*+\))*+>?(?:\s++(?:\"[^\"]*+\"|'[^']*+'))?\s*+\)|\[[^\[\]]*+\])"
_IMAGE = re.compile(rf"!\[[^\[\]]*+\]{_TARGET}")
_LINK = re.compile(rf"\[([^\[\]]*+)\]{_TARGET}")
_REFERENCE = re.compile(
    r"^[ ]{0,3}\[[^\[\]\n]++\]:[ \t]*+<?(?:\w+:|www\.|[/.#])\S*+[^\n]*+$", re.IGNORECASE | re.MULTILINE
)
_ADDRESS_MARKS = "://", "www.", "mailto:", "data:"
_ADDRESS = re.compile(
    r"\b(?:(?:https?|ftps?|file)://|www\.|mailto:|data:\w+/)(?:[^\s<>()\[\]\"']|\([^\s<>()\[\]\"']*+\))+(?<![.,!?;:])",
    re.IGNORECASE,
)
_MAIL = re.compile(r"(?<![\w.+-])[\w.+-]++@[\w-]++(?:\.[\w-]++)+")
_ATTRIBUTES = r"(?:[\s/](?:[^<>\"'=]++|=\s*+\"[^\"<]*+\"|=\s*+'[^'<]*+'|[\"'=])*+)?"
_TAG = re.compile(
    rf"<(?:/?([a-z][a-z0-9:-]*+){_ATTRIBUTES}>"
    r"|[!?][^<>]*+>"
    r"|[a-z][a-z0-9:-]*+\s++[\w:-]++\s*+=[^<>]*+(?=<|\Z)"  # cut off in an attribute
    r"|/?(?:[abipu]|br|div|em|font|h[1-6r]|li|span|strong|t[dr]|[ou]l)[\s/]*+\Z)",  # cut off at the end of the text
    re.IGNORECASE,
)
_INLINE = frozenset(
    (
        *("a", "abbr", "acronym", "b", "bdi", "bdo", "big", "cite", "code", "color", "colour", "del", "dfn", "em"),
        *("font", "highlight", "i", "ins", "kbd", "label", "mark", "q", "s", "samp", "size", "small", "span", "strike"),
        *("strong", "sub", "sup", "tt", "u", "url", "var", "wbr"),
    )
)
"""Tags that do not end a word: a browser shows `un<b>believ</b>able` as one word."""
_TREEBANK_BRACKET = re.compile(r"-[lr][rsc]b-")

# Words and punctuation.
_HYPHEN_AT_END = re.compile(r"[-\xad\u2010\u2011][ \t]*[\n-\r\u2028\u2029]")
_HYPHENATED = re.compile(  # not in coming-of-\nage
    r"(?<![-\w])([^\W\d_]{2,})[-\xad\u2010\u2011][ \t]*[\n-\r\u2028\u2029]\s*(?=[^\W\d_]{2})(?![A-Z])"
)
_ELLIPSIS = re.compile(r"\.(?: ?\.)+")
_EXCLAMATIONS = re.compile(r"[!?](?:[\s.,]*[!?])+")
_COMMAS = re.compile(r",(?:\s*,)+")


def normalise(text: str) -> str:
    r"""The words and punctuation of a text, in lower case: the same for texts that look the same to a reader.

    Escapes (HTML entities, `%20`, `\n`, `\u2019`) are decoded. Tags, comments, scripts, BBCode, addresses and what else
    a reader does not see are removed. Words that were hyphenated at the end of a line are joined. Variants of a
    character have one form (`contract.characters`). Repeated punctuation occurs once.
    """
    is_unusual = _UNUSUAL.search(text)
    text = _without_markup(_unescape(text)) if is_unusual else _without_addresses(text)
    if _HYPHEN_AT_END.search(text):
        text = _HYPHENATED.sub(r"\1", text)
    if is_unusual:
        text = fold(text)
    text = text.casefold()
    if "b-" in text:
        text = _TREEBANK_BRACKET.sub(" ", text)
    if ".." in text or ". ." in text:
        text = _ELLIPSIS.sub("...", text)
    if text.count("!") + text.count("?") > 1:
        text = _EXCLAMATIONS.sub(_one_of_each, text)
    return _COMMAS.sub(",", text)


def _one_of_each(run: re.Match[str]) -> str:
    return "?" * ("?" in run[0]) + "!" * ("!" in run[0])


def _unescape(text: str) -> str:
    """Decode escapes; entities up to three times, since many texts are escaped more than once."""
    if "%" in text:
        if " " not in text:
            text = text.replace("+", " ")  # a form
        text = _PERCENT.sub(_from_url, _PERCENT_U.sub(r"\\", _PERCENT_TWICE.sub("%", text)))
    if "\\" in text:
        text = _CODE_POINTS.sub(_from_program, _BACKSLASHES.sub(r"\\", text))
        # A text with several escapes has escaped tabs; `comedy\thriller` has not.
        text = (_ESCAPED_SPACE if text.count("\\") > 1 else _ESCAPED_NEWLINE).sub("\n", text)
        text = _ESCAPED_MARK.sub("", text)
    for _ in range(3):
        if "&" in text:
            text = html.unescape(_NO_SEMICOLON.sub(_with_semicolon, _LONG_NUMBER.sub(" ", text)))
    return text


def _with_semicolon(entity: re.Match[str]) -> str:
    return f"&{entity[1].lower()};"


def _from_url(run: re.Match[str]) -> str:
    """The characters of `%E2%80%99`; `50%50` and `100%de` stay: URLs escape UTF-8, and neither letters nor digits."""
    try:
        text = bytes.fromhex(run[0].replace("%", "")).decode()
    except UnicodeDecodeError:
        return run[0]
    return run[0] if _LETTER_OR_DIGIT.search(text) else text


def _from_program(run: re.Match[str]) -> str:
    r"""The characters of `\u2019`, `\ud83d\ude00` (UTF-16), `\U0001f600` and `\xe2\x80\x99` (bytes)."""
    data, text = bytearray(), ""
    for kind, digits in _CODE_POINT.findall(run[0]):
        if kind == "x":
            data += bytes.fromhex(digits)
            continue
        code = int(digits, 16)
        text += _decode(data) + (chr(code) if code <= sys.maxunicode else " ")
        data.clear()
    text += _decode(data)
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def _decode(data: bytearray) -> str:
    try:
        return data.decode()
    except UnicodeDecodeError:
        return data.decode("cp1252", "replace")


def _without_markup(text: str) -> str:
    """Remove HTML, BBCode and the addresses of Markdown, but keep the words that a reader sees."""
    if _HIDDEN_START.search(text):
        for opening, closing in _HIDDEN:
            text = _without(text, opening, closing)
    if "[" in text:
        text = _BBCODE.sub(_space_for_tag, _SECTION.sub(" ", text))
        text = _REFERENCE.sub(" ", _LINK.sub(r"\1", _IMAGE.sub(" ", text)))
    text = _without_addresses(text)
    if "@" in text:
        text = _MAIL.sub(" ", text)
    return _TAG.sub(_space_for_tag, text) if "<" in text else text


def _without(text: str, opening: re.Pattern[str], closing: re.Pattern[str]) -> str:
    """Remove what is between two marks, up to the first opening mark that is not closed."""
    kept, start = [], 0
    while (first := opening.search(text, start)) and (last := closing.search(text, first.end())):
        kept.append(text[start : first.start()])
        start = last.end()
    return " ".join([*kept, text[start:]])


def _without_addresses(text: str) -> str:
    lower = text.lower()
    return _ADDRESS.sub(" ", text) if any(mark in lower for mark in _ADDRESS_MARKS) else text


def _space_for_tag(tag: re.Match[str]) -> str:
    return "" if (tag[1] or "").lower() in _INLINE else "\n"
