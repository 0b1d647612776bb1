"""A recipe is a `Recipe` or a `RecipeError`: nothing that a file or a command line can say gives another exception."""

import contextlib
import tomllib
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.fuzz.spoil import numbers, spoilt, values
from training.errors import RecipeError
from training.recipe import schema as recipes
from training.recipe.schema import RECIPES, Recipe, load, parse
from training.recipe.shapes import trace

GOOD = [
    {"name": path.stem, **tomllib.loads(path.read_text(encoding="utf-8"))} for path in sorted(RECIPES.glob("*.toml"))
]
WORDS = sorted({word for table in GOOD for word in table} | {"kind", "name", "image", "text", "sgd", "conv", "dense"})
LEAVES = st.one_of(st.booleans(), numbers, st.sampled_from(WORDS), st.text(max_size=12))


def check(table: Any) -> None:
    """The property: a recipe, whose layers can be traced; or a refusal."""
    with contextlib.suppress(RecipeError):
        recipe = parse(table)
        assert isinstance(recipe, Recipe)
        trace(recipe)


@given(values())
def test_any_content_is_a_recipe_or_refused(table: Any) -> None:
    """Whatever TOML or JSON can hold."""
    check(table)


@given(st.sampled_from(GOOD).flatmap(lambda good: spoilt(good, LEAVES)))
def test_a_spoilt_recipe_is_a_recipe_or_refused(table: Any) -> None:
    """Shipped recipes with places replaced, dropped, doubled or added."""
    check(table)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.binary(max_size=60) | st.text(max_size=60).map(str.encode))
def test_any_file_is_a_recipe_or_refused(tmp_path: Path, content: bytes) -> None:
    """Bytes that are no TOML, and TOML that is no recipe."""
    path = tmp_path / "any.toml"
    path.write_bytes(content)
    with pytest.raises(RecipeError):
        load(str(path))


@given(
    st.sampled_from(recipes.names()),
    st.lists(
        st.builds("{}={}".format, st.sampled_from([*WORDS, "input.kind", "optimiser.name", "layers.0", "data"]), LEAVES)
        | st.text(max_size=20),
        max_size=3,
    ),
)
def test_any_override_is_taken_or_refused(name: str, overrides: list[str]) -> None:
    """`--set` of anything."""
    with contextlib.suppress(RecipeError):
        assert isinstance(load(name, overrides), Recipe)


@given(st.text(max_size=30))
def test_any_name_is_a_recipe_or_refused(name: str) -> None:
    """Names that are none, and paths that lead nowhere."""
    if name not in recipes.names():
        with pytest.raises(RecipeError):
            load(name)


@pytest.mark.parametrize(
    "content", ["a = " + "[" * 100_000, "epochs = " + "9" * 5_000], ids=["nested too deep", "too long a number"]
)
def test_a_file_that_python_cannot_take_is_refused(tmp_path: Path, content: str) -> None:
    """What tomllib stumbles over with other errors than its own is a fault of the file, too."""
    path = tmp_path / "deep.toml"
    path.write_text(content, encoding="utf-8")
    with pytest.raises(RecipeError, match=r"deep\.toml: cannot be read as TOML"):
        load(str(path))
    with pytest.raises(RecipeError):
        load("lenet", [content.replace(" ", "")])


def test_a_name_that_no_file_can_have_is_refused() -> None:
    """A null byte, and more characters than a file name takes."""
    for name in ("le\0net", "x" * 5_000):
        with pytest.raises(RecipeError):
            load(name)
