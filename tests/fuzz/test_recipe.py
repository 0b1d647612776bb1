"""Any recipe file and any override gives a `Recipe` or a `RecipeError`, and no other exception."""

import contextlib
import tomllib
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.fuzz.strategies import json_values, mutations_of, numbers
from training.errors import RecipeError
from training.recipe import schema as recipes
from training.recipe.schema import RECIPES, Recipe, load, parse
from training.recipe.shapes import trace

SHIPPED = [
    {"name": path.stem, **tomllib.loads(path.read_text(encoding="utf-8"))} for path in sorted(RECIPES.glob("*.toml"))
]
WORDS = sorted(
    {word for table in SHIPPED for word in table} | {"kind", "name", "image", "text", "sgd", "conv", "dense"}
)
LEAVES = st.one_of(st.booleans(), numbers, st.sampled_from(WORDS), st.text(max_size=12))


def check(table: Any) -> None:
    """The property: a recipe whose shapes can be traced; or a `RecipeError`."""
    with contextlib.suppress(RecipeError):
        recipe = parse(table)
        assert isinstance(recipe, Recipe)
        trace(recipe)


@given(json_values())
def test_any_content_is_read_or_refused(table: Any) -> None:
    """Any content of TOML or JSON."""
    check(table)


@given(st.sampled_from(SHIPPED).flatmap(lambda shipped: mutations_of(shipped, LEAVES)))
def test_a_mutated_recipe_is_read_or_refused(table: Any) -> None:
    """Shipped recipes with entries replaced, deleted, duplicated or added."""
    check(table)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.binary(max_size=60) | st.text(max_size=60).map(str.encode))
def test_any_file_is_refused(tmp_path: Path, content: bytes) -> None:
    """Bytes that are not TOML, and TOML that is not a recipe."""
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
def test_any_override_is_accepted_or_refused(name: str, overrides: list[str]) -> None:
    """Any arguments of `--set`."""
    with contextlib.suppress(RecipeError):
        assert isinstance(load(name, overrides), Recipe)


@given(st.text(max_size=30))
def test_any_other_name_is_refused(name: str) -> None:
    """Names of recipes that do not exist, and paths of files that do not exist."""
    if name not in recipes.names():
        with pytest.raises(RecipeError):
            load(name)


@pytest.mark.parametrize(
    "content", ["a = " + "[" * 100_000, "epochs = " + "9" * 5_000], ids=["too deeply nested", "too many digits"]
)
def test_a_file_beyond_the_limits_of_python_is_refused(tmp_path: Path, content: str) -> None:
    """Files on which tomllib raises other exceptions than its own are refused, too."""
    path = tmp_path / "deep.toml"
    path.write_text(content, encoding="utf-8")
    with pytest.raises(RecipeError, match=r"deep\.toml: .*TOML"):
        load(str(path))
    with pytest.raises(RecipeError):
        load("lenet", [content.replace(" ", "")])


def test_an_impossible_file_name_is_refused() -> None:
    """With a null byte, or with more characters than a file name may have."""
    for name in ("le\0net", "x" * 5_000):
        with pytest.raises(RecipeError):
            load(name)
