"""Texts in figures: every letter is drawn or named, and different labels look different."""

from pathlib import Path

import pytest
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties, findfont

from training.runs import lettering, plots


def test_letters_without_a_font_are_drawn_as_their_codes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not as boxes, which would be alike; joiners and variation selectors are not seen; dollars are dollars."""
    monkeypatch.setattr(lettering, "fonts", list)
    lettering.fallbacks.cache_clear()
    try:
        assert lettering.drawable("猫 ძაღლი naïve $1") == r"\u732b ძაღლი naïve \$1"
        assert lettering.drawable("\U0001f468\N{ZERO WIDTH JOINER}x") == "\\U0001f468\N{ZERO WIDTH JOINER}x"
    finally:
        lettering.fallbacks.cache_clear()


def test_letters_of_another_font_of_the_machine_are_drawn_with_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """If matplotlib's own font lacked Cyrillic, one that has it would be chosen, and the text stays as it is."""
    own = lettering.letters_of
    first = findfont(FontProperties())
    monkeypatch.setattr(
        lettering, "letters_of", lambda path: frozenset(map(chr, range(128))) if path == first else own(path)
    )
    others = [font for font in lettering.fonts() if font.fname != first]
    monkeypatch.setattr(lettering, "fonts", lambda: others)
    lettering.fallbacks.cache_clear()
    try:
        assert lettering.drawable("Кошка") == "Кошка"
        figure = Figure()
        text = figure.text(0, 0, "Кошка")
        lettering.choose_fonts(figure)
        chosen = text.get_fontfamily()[-1]
        assert chosen in {font.name for font in others}
        assert set("Кошка") <= own(findfont(chosen))
    finally:
        lettering.fallbacks.cache_clear()


@pytest.mark.parametrize("layout", ["constrained", "none"])
def test_a_figure_with_codes_of_letters_explains_them(layout: str, tmp_path: Path) -> None:
    """The note stands below everything else; a figure without codes has none."""
    for text, count in (("\\u732b", 1), ("cat", 0)):
        figure = Figure(layout=layout)  # type: ignore[arg-type]
        axes = figure.add_axes((0, 0, 1, 1)) if layout == "none" else figure.subplots()
        axes.set_xlabel(text)
        plots.save(figure, tmp_path / "figure.png")
        notes = [each for each in figure.texts if each.get_text() == lettering.NOTE]
        assert len(notes) == count
        for note in notes:
            assert note.get_window_extent().y1 < axes.xaxis.label.get_window_extent().y0


def test_a_text_from_right_to_left_does_not_turn_a_sentence_around() -> None:
    """The label stays before the prediction."""
    assert lettering.drawable("قطة, predicted dog") == "\N{LEFT-TO-RIGHT MARK}قطة, predicted dog"


def test_labels_that_are_shortened_stay_different() -> None:
    """They begin and end as before; those that would be alike have their place, and short ones are unchanged."""
    assert lettering.short(["cat", "a long label of a dog", "a long label of a cat"], 12) == [
        "cat",
        "a long…a dog",
        "a long…a cat",
    ]
    assert lettering.short(["aaaa1bbbb", "aaaa2bbbb", "c"], 5) == ["aa…bb (1)", "aa…bb (2)", "c"]


def test_a_caption_breaks_between_its_parts() -> None:
    """A part like `n = 5,000` stays in one line."""
    text = "recipe small, data mnist, validation split, n = 5,000, epoch 3 of 3"
    lines = lettering.caption(text, 30).split("\n")
    assert " ".join(lines) == text
    assert [line.strip().rstrip(",") for line in lines] == [
        "recipe small, data mnist",
        "validation split, n = 5,000",
        "epoch 3 of 3",
    ]
