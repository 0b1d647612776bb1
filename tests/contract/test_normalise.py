"""Normalisation of texts: one form for what looks the same to a reader, in time in proportion to the text."""

import json
import re
import time
import unicodedata
from urllib.parse import quote, quote_plus

import pytest
from hypothesis import given
from hypothesis import strategies as st

from contract.normalise import normalise

PLAIN = "It's not a good film, it doesn't work."


def words(text: str) -> list[str]:
    """The words and punctuation of a text, without the white space between them."""
    return re.findall(r"[\w']+|[^\w\s]", normalise(text))


@pytest.mark.parametrize(
    ("entity", "character"),
    [
        ("&#39;", "'"), ("&#039;", "'"), ("&#39", "'"), ("&#x27;", "'"), ("&#X27", "'"), ("&apos;", "'"),
        ("&rsquo;", "'"), ("&rsquo", "'"), ("&RSQUO;", "'"), ("&#8217;", "'"), ("&#146;", "'"), ("&#x2019", "'"),
        ("&amp;#39;", "'"), ("&amp;rsquo;", "'"), ("&amp;amp;#39;", "'"), ("%27", "'"), ("%E2%80%99", "'"),
        ("%u2019", "'"),
        ("\\'", "'"), ("\\\\'", "'"), ("\\u2019", "'"), ("\\x27", "'"), ("\\xe2\\x80\\x99", "'"), ("\\x92", "'"),
        ("\\u{2019}", "'"), ("\\U00002019", "'"), ("\\u0027", "'"), ("\\u0026rsquo;", "'"),
    ],
)  # fmt: skip
def test_escapes_are_decoded(entity: str, character: str) -> None:
    """Entities with and without a semicolon, in hexadecimal and escaped twice; escapes of URLs and of programs."""
    assert words(PLAIN.replace("'", entity)) == words(PLAIN.replace("'", character))


@pytest.mark.parametrize(
    "apostrophe",
    [
        *"\u2019\u2018\u201b\u02bc\u02bb\u02bd\u02b9\u02c8\u02ca\u02cb\ua78c\ua78b\u055a\u2032\u2035\u00b4`\uff07\uff40",
        *"\u1fbf\u1fbd\u1ffd\u1fef\u0384\u05f3\u07f4\u275c\u201a\x91\x92\ufffd", " \u0301", "\u00e2\u20ac\u2122",
        "\u200b\u2019", "'\ufe0f",
    ],
)  # fmt: skip
def test_an_apostrophe_of_any_kind_is_one(apostrophe: str) -> None:
    """Also what other programs make of one: spacing accents, the wrong encoding, a replacement character."""
    assert words(PLAIN.replace("'", apostrophe)) == words(PLAIN)


def test_invisible_characters_are_dropped() -> None:
    """Every control and format character of Unicode, and each that is ignorable by default, disappears in a word."""
    ignorable = {0x34F, 0x115F, 0x1160, 0x17B4, 0x17B5, 0x3164, 0xFFA0, 0x2065, *range(0x180B, 0x1810)}
    ignorable |= {*range(0xFE00, 0xFE10), *range(0xFFF0, 0xFFF9), *range(0xE0000, 0xE1000)}
    of_windows = {code for code in range(0x80, 0xA0) if bytes([code]).decode("cp1252", "ignore")}
    for code in range(0x110000):
        character = chr(code)
        is_control = unicodedata.category(character) in {"Cc", "Cf"} and character not in "\t\n\v\f\r"
        if code in ignorable or (is_control and code not in of_windows):
            assert normalise(f"no{character}t") == "not", hex(code)


@pytest.mark.parametrize(
    "first",
    [0x1D400, 0x1D468, 0x1D5D4, 0x1D670, 0x24B6, 0xFF21, 0x1F110, 0x1F130, 0x1F150, 0x1F170],
    ids=lambda first: unicodedata.name(chr(first)).lower(),
)
def test_capitals_of_any_font_are_letters(first: int) -> None:
    """Bold, italic, monospace, circled, fullwidth, squared."""
    assert normalise("".join(chr(first + ord(letter) - ord("A")) for letter in "NOTBAD")) == "notbad"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Crème Brûlée, Søren, Œuvre, STRASSE Straße", "creme brulee, soren, oeuvre, strasse strasse"),
        ("Cre\u0300me", "creme"),
        ("ɴᴏᴛ ʙᴀᴅ", "not bad"),
        ("n\u0336o\u0336t\u0336 n\u20e3o\u20e3t\u20e3", "not not"),
        ("\u210cello \ufb01ne \u24a9\u24aa\u24af", "hello fine not"),
        ("\u0442\u0435rribl\u0435 \u0412AD \u039fK br\u0438lliant", "terrible bad ok br\u0438lliant"),
        ("\u0430 r\u0435ally b\u043ering film, \u0430nd \u0430 \u0430\u0441\u0435", "a really boring film, and a ace"),
        (
            "\u043d\u0435 \u043f\u043b\u043e\u0445\u043e\u0439 film",
            "\u043d\u0435 \u043f\u043b\u043e\u0445\u043e\u0438 film",
        ),
        ("\u0430\u043a\u0442\u0435\u0440 super", "\u0430\u043a\u0442\u0435\u0440 super"),
        ("\u0939\u093f\u0928\u094d\u0926\u0940", "\u0939\u093f\u0928\u094d\u0926\u0940"),
    ],
)
def test_letters_have_one_form(text: str, expected: str) -> None:
    """Accents and ligatures go; look-alikes are folded in words with Latin letters, and other scripts stay."""
    assert normalise(text) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("not<br />good", "not good"),
        ("<p class='a' title=\"x > y\">not</p><p>good</p>", "not good"),
        ("<P\nSTYLE=color:red>not</P>\n<DIV>good</DIV>", "not good"),
        ("n<b>o</b>t g<wbr>ood", "not good"),
        ("<a href='http://awful.com/bad?x=1&amp;y=2'>not</a> good <img src=bad.png alt=\"awful worst\" />", "not good"),
        ("not &lt;b&gt;good&lt;/b&gt; &amp;lt;br&amp;gt;", "not good"),
        ("not <!-- awful <b>bad</b> --> good <!--[if mso]>bad<![endif]-->", "not good"),
        ("<script>var bad = '<b>' < 1;</script>not <STYLE type=x>.bad {}</STYLE >good", "not good"),
        ("<svg><path d='M0 bad'/></svg>not <template>bad</template>good<iframe src=x>bad</iframe>", "not good"),
        ("<!DOCTYPE html><?xml bad?>not <![CDATA[good]]>", "not good"),
        ('not good <a href="http://bad.com/aw', "not good"),
        ("not good <br", "not good"),
        ("not <good", "not < good"),
        ("&lt;3 1 < 2 and 3 > 2", "< 3 1 < 2 and 3 > 2"),
        ("[b]not[/b] [color=#f00][size=4]good[/size][/color] [img]http://bad/awful.png[/img]", "not good"),
        ('[quote="bad"]not[/quote] [url=http://bad.com]good[/url][youtube]bad[/youtube]', "not good"),
        ("[URL]http://bad.com/[/URL] not [i mean it] good", "not [ i mean it ] good"),
        ("[not](http://bad.com/a_(b) \"awful\") [good](/bad 'x') ![bad](awful.png)", "not good"),
        ('[not][1] [good][bad]\n\n[1]: https://bad.com/ "awful"\n [bad]: <http://awful.com>', "not good"),
        ("[I](http://bad.com) not **good** [sic]", "i not * * good * * [ sic ]"),
        ("<http://bad.com> not <bad@awful.com> good bad@awful.co.uk www.bad.com/awful. data:image/png;base64,Bad=",
         "< > not < > good ."),
        ("HTTPS://BAD.COM/awful_(bad)?x=1#bad! not good", "! not good"),
    ],
)  # fmt: skip
def test_markup_is_removed_with_what_a_reader_does_not_see(text: str, expected: str) -> None:
    """HTML, BBCode and the addresses of Markdown; what only looks like markup stays."""
    assert words(text) == expected.split()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("beauti-\nful", "beautiful"),
        ("beauti- \r\n   ful beauti-\u2028ful", "beautiful beautiful"),
        ("beauti\u2010\nful beauti\u00ad\nful beauti\u00adful", "beautiful beautiful beautiful"),
        ("beauti-<br>ful beauti-\\nful", "beautiful beautiful"),
        ("coming-of-\nage, Hitch-\nCock", "coming - of - age , hitch - cock"),
        ("great\\nfilm\\r\\nof\\tall\\n\\n", "great film of all"),
        (r"a comedy\thriller", r"a comedy \ thriller"),
        (r"writer\/director \*not\*", "writer / director * not *"),
        ("great%20film%21 %2520 50%50 100%de", "great film ! 50 % 50 100 % de"),
        ("great%20film+of+all%0Awell", "great film of all well"),
        ("yes" + "!" * 1000, "yes !"),
        ("yes" + " ?" * 1000 + "!?" * 9 + "\n!", "yes ? !"),
        ("yes\u203c\u2049\uff01\u2757 no\u203d", "yes ? ! no ? !"),
        ("well....... yes . . . no\u2026\x85 a,,, ,b", "well . . . yes . . . no . . . a , b"),
        ("-LRB- well -rrb-", "well"),
        ("\U0001f600\U0001f600 \U0001f600 \u2605\u2605", "\U0001f600 \u2605 \u2605"),
    ],
)  # fmt: skip
def test_words_and_punctuation_have_one_form(text: str, expected: str) -> None:
    """Hyphens at the ends of lines, escaped white space, and repeated punctuation."""
    assert words(text) == expected.split()


def test_what_programs_make_of_a_text_is_undone() -> None:
    """A text that was encoded as JSON, as bytes in Python, or for a URL has the words of the text."""
    text = "\u201cIt\u2019s\u201d good:\n50 % of caf\u00e9\u2019s films aren't \U0001f600!"
    for encoded in (
        json.dumps(text)[1:-1],
        repr(text.encode())[2:-1],
        quote(text),
        quote_plus(text),
        quote(quote(text)),
    ):
        assert words(encoded) == words(text), encoded


@given(st.text() | st.text("<>&#;[]()\"'=/\\%x0a!-. \n").map(str))
def test_any_text_is_normalised(text: str) -> None:
    """No text is an error, and no result has a capital letter or an apostrophe of another kind."""
    result = normalise(text)
    assert result == result.casefold()
    assert "\u2019" not in result


UNITS = [
    *("<", "<a ", "<a '", '<a ="', "<!--", "<script>", "</", "<b>", "[", "[b=", "[img]", "[x](", "[]([", "[](()"),
    *("![](", "[x][", "[1]: ", "&", "&#", "&a", "&amp;", "&rsquo", "%", "%25", "%2", "\\", "\\n", "\\u2019", "\\ud83d"),
    *("a@b.", "a-\n", "ab-\n ", "www.", "http://(", "http://a.,", "! ", "!.", ". ", ",  ", " \u0301", "\ufffd"),
    *("\ufdfa", "\u0430", "a\u0430 ", "\U0001f44d ", "\u00e2\u20ac", "ab\u00ad\n"),
]  # fmt: skip


@pytest.mark.parametrize("tail", ["x" * 20_000, " " * 20_000], ids=["word", "blank"])
def test_time_is_in_proportion_to_the_text(tail: str) -> None:
    """No opening mark that is repeated and never closed takes a second; a quadratic pattern would take several."""
    for unit in UNITS:
        start = time.process_time()
        normalise(unit * (40_000 // len(unit)) + tail)
        assert time.process_time() - start < 1, unit


def test_numbers_that_no_integer_holds_are_removed() -> None:
    """Python refuses to read an integer of more than 4,300 digits."""
    assert normalise(f"a &#{'9' * 5000}; &#x{'f' * 5000}; b").split() == ["a", "b"]
