"""Texts in figures: letters of any script, long labels, captions.

matplotlib's own font has Latin, Greek, Cyrillic, Arabic, Hebrew and some other scripts. Letters that it lacks are drawn
with a font of this machine that has them; without one, they are drawn as their codes, since boxes in place of letters
would make labels look alike.
"""

import re
import textwrap
import unicodedata
from collections.abc import Sequence
from functools import cache
from typing import Final

import matplotlib as mpl
from matplotlib.figure import Figure
from matplotlib.font_manager import FontEntry, FontProperties, findfont, fontManager, get_font
from matplotlib.text import Text

NOTE: Final = "Letters in the form \\u732b are in no font of this machine: install one that has them, such as Noto."

_REGULAR: Final = 400  # the weight of a font that is neither light nor bold
_ESCAPED: Final = re.compile(r"\\(u[0-9a-f]{4}|U[0-9a-f]{8})")
_UNUSABLE: Final = ("Last Resort", "Color", "STIX")  # boxes only, no outlines, mathematics


def drawable(text: str) -> str:
    r"""A text as matplotlib draws it: without mathematics, and with letters that no font has as `\u732b`.

    A text that contains letters from right to left keeps its order of words from left to right.
    """
    missing = _missing(text)
    lost = missing.difference(*fallbacks(missing).values())
    letters = [_code(each) if each in lost else each for each in text]
    is_mixed = any(unicodedata.bidirectional(each) in {"R", "AL"} for each in text)
    return ("\N{LEFT-TO-RIGHT MARK}" if is_mixed else "") + "".join(letters).replace("$", r"\$")


def short(names: Sequence[str], width: int) -> list[str]:
    """Labels of at most `width` letters that begin and end as `names`; alike ones get their place, from 1, as well."""

    def cut_off(name: str) -> str:
        return name if len(name) <= width else f"{name[: width // 2]}…{name[len(name) - (width - 1) // 2 :]}"

    cut = list(map(cut_off, names))
    return [f"{text} ({place})" if cut.count(text) > 1 else text for place, text in enumerate(cut, start=1)]


def caption(text: str, width: int) -> str:
    """A caption as `drawable`, in lines of up to `width` letters, with breaks between its parts."""
    parts = [
        part.replace(" ", "\N{NO-BREAK SPACE}") if len(part) < width else part for part in drawable(text).split(", ")
    ]
    lines = textwrap.wrap(", ".join(parts), width, break_on_hyphens=False)
    return "\n".join(lines).replace("\N{NO-BREAK SPACE}", " ")


def choose_fonts(figure: Figure) -> None:
    """Draw the texts of a figure with fonts that have their letters; a note below it explains codes of letters."""
    texts = figure.findobj(Text)
    others = fallbacks(_missing("".join(text.get_text() for text in texts)))
    for text in texts if others else []:
        text.set_fontfamily([*mpl.rcParams["font.family"], *others])
    if any(_ESCAPED.search(text.get_text()) for text in texts):
        lowest = min(figure.get_tightbbox().y0 / figure.get_figheight(), 0)  # labels can hang out of the figure
        figure.text(0.5, lowest - 0.01, NOTE, ha="center", va="top", fontsize=7)


def _code(letter: str) -> str:
    """What stands for a letter that no font has; nothing for one that is not seen, such as a joiner."""
    if unicodedata.category(letter) in {"Cf", "Cc"} or unicodedata.name(letter, "").startswith("VARIATION SELECTOR"):
        return ""
    return f"\\u{ord(letter):04x}" if ord(letter) < 1 << 16 else f"\\U{ord(letter):08x}"


def _missing(text: str) -> frozenset[str]:
    """The letters of a text that matplotlib's own font lacks."""
    return frozenset(text) - letters_of(findfont(FontProperties())) - {"\n"}


@cache
def letters_of(path: str) -> frozenset[str]:
    """The letters of the font in a file."""
    return frozenset(map(chr, get_font(path).get_charmap()))


@cache
def fallbacks(missing: frozenset[str]) -> dict[str, frozenset[str]]:
    """Fonts of this machine that have some of the `missing` letters, until none is left: the letters of each."""
    left, chosen = missing, {}
    for font in fonts() if missing else []:
        if left & letters_of(font.fname):
            chosen[font.name] = letters_of(font.fname)
            left -= chosen[font.name]
        if not left:
            break
    return chosen


@cache
def fonts() -> list[FontEntry]:
    """The upright fonts of this machine, one of each name; first those of the Noto project, which has one a script."""
    usable = {
        font.name: font
        for font in fontManager.ttflist
        if font.style == "normal" and font.weight == _REGULAR and not any(word in font.name for word in _UNUSABLE)
    }
    return sorted(usable.values(), key=lambda font: (not font.name.startswith("Noto"), font.name))
