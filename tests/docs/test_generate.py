"""The program that writes the tables of the documentation."""

import sys
from pathlib import Path

import pytest

from contract.errors import ConvokeError
from service.settings import PREFIX, Settings
from tests.docs import generate, keys
from tests.docs.pages import PAGES, ROOT, name_of
from training.recipe.schema import Recipe


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_the_tables_are_up_to_date(page: Path) -> None:
    """What `make check` verifies: a page holds the tables that the code gives today."""
    text = page.read_text(encoding="utf-8")
    assert generate.render(text) == text, "run `make docs`"


def test_every_table_has_a_place() -> None:
    """Each table is in one page, so none is generated for nobody."""
    text = "".join(page.read_text(encoding="utf-8") for page in PAGES)
    assert {name: text.count(f"<!-- generated: {name} -->") for name in generate.TABLES} == dict.fromkeys(
        generate.TABLES, 1
    )


def test_a_stale_page_is_reported_and_then_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """`--check` names the page and changes nothing; without it the table is written, and the rest stays."""
    page = tmp_path / "page.md"
    stale = "before\n\n<!-- generated: errors -->\nold\n<!-- end -->\n\nafter\n"
    page.write_text(stale, encoding="utf-8")
    monkeypatch.setattr(generate, "PAGES", [page])
    monkeypatch.setattr(generate, "name_of", lambda path: path.name)
    monkeypatch.setattr(sys, "argv", ["generate", "--check"])
    assert generate.main() == 1
    assert "page.md" in capsys.readouterr().out
    assert page.read_text(encoding="utf-8") == stale
    monkeypatch.setattr(sys, "argv", ["generate"])
    assert generate.main() == 0
    text = page.read_text(encoding="utf-8")
    assert "\nold\n" not in text
    assert text.startswith("before\n\n<!-- generated: errors -->\n\n| status |")
    assert text.endswith("|\n\n<!-- end -->\n\nafter\n")
    monkeypatch.setattr(sys, "argv", ["generate", "--check"])
    assert generate.main() == 0


def test_every_setting_and_error_has_a_row() -> None:
    """No setting and no error code is left out, and bounds and defaults are those of the code."""
    settings = generate.settings()
    assert [f"{PREFIX}{name.upper()}" for name in Settings.model_fields] == [
        line.split("`")[1] for line in settings.splitlines()[2:]
    ]
    assert f"| `{PREFIX}MAX_ITEMS` | `1024` | 1 to 65536 |" in settings
    errors = generate.errors()
    for error in subclasses(ConvokeError) | {ConvokeError}:
        if error.__module__.split(".")[0] in {"contract", "service"}:
            assert f"| {error.status} | `{error.code}` | " in errors


def subclasses(error: type[ConvokeError]) -> set[type[ConvokeError]]:
    """The classes below an error, at any depth."""
    return {child for each in error.__subclasses__() for child in {each, *subclasses(each)}}


def test_the_keys_of_a_recipe_are_all_there() -> None:
    """Every key of every table of a recipe has a row or a mention."""
    page = (ROOT / "docs/recipes.md").read_text(encoding="utf-8")
    for name, field in Recipe.model_fields.items():
        for section in keys.sections(field.annotation):
            for key in section.model_fields:
                assert f"`{key}`" in page, f"{name}.{key}"


@pytest.mark.parametrize(
    ("entry", "words"),
    [
        ({"type": "integer", "minimum": 1}, "a whole number from 1"),
        ({"type": "number", "minimum": 0, "exclusiveMaximum": 1}, "a number from 0 to below 1"),
        ({"type": "number", "exclusiveMinimum": 0}, "a number above 0"),
        ({"enum": ["sgd", "adam"]}, "`sgd`, `adam`"),
        ({"const": True}, "`true`"),
        ({"anyOf": [{"type": "integer"}, {"const": "full"}]}, "a whole number or `full`"),
        ({"anyOf": [{"type": "string"}, {"type": "null"}]}, "text"),
        ({"type": "array", "items": {"type": "number"}}, "a list; each value is a number"),
        ({"type": "array", "items": {"$ref": "#/$defs/Conv"}}, "a list; each value is a table"),
    ],
)
def test_values_are_put_in_words(entry: keys.Json, words: str) -> None:
    """An entry of a JSON schema becomes what a reader may write."""
    assert keys.values(entry) == words


def test_docstrings_cannot_become_markup() -> None:
    """Asterisks of formulas are escaped outside of code."""
    assert keys.prose("(C, H, W) ->\n    (C*H*W), `a*b`") == "(C, H, W) -> (C\\*H\\*W), `a*b`"
