"""Overrides from the command line: their places, values, and what a change of kind removes."""

from typing import Any

import pytest

from training.errors import RecipeError
from training.recipe import schema as recipes
from training.recipe.optimise import OPTIMISERS, Schedule
from training.recipe.overrides import apply


def changed(table: dict[str, Any], *overrides: str) -> dict[str, Any]:
    apply(table, overrides, {"schedule": Schedule})
    return table


@pytest.mark.parametrize("name", recipes.names())
@pytest.mark.parametrize("optimiser", OPTIMISERS)
def test_every_recipe_can_have_every_optimiser(name: str, optimiser: str) -> None:
    """Keys that the new optimiser does not have are removed, and a line names them."""
    shown: list[str] = []
    before = recipes.load(name).optimiser
    rate = [] if name != "kim-2014-rand" else ["optimiser.learning_rate=0.1"]
    after = recipes.load(name, [f"optimiser.name={optimiser}", *rate], shown.append).optimiser
    assert after.name == optimiser
    assert after.weight_decay == before.weight_decay
    gone = {key for key in before.model_fields_set if key not in type(after).model_fields}
    assert all(f"optimiser.{key} = " in "".join(shown) for key in gone)
    assert bool(shown) == bool(gone)


@pytest.mark.parametrize("name", recipes.names())
@pytest.mark.parametrize("schedule", ["constant", "step", "plateau"])
def test_every_recipe_can_have_every_schedule(name: str, schedule: str) -> None:
    """A key like `milestones` goes with the schedule that uses it."""
    overrides = ["data.refit=false", "schedule.patience=1"] if schedule == "plateau" else []
    assert recipes.load(name, [f"schedule.name={schedule}", *overrides]).schedule.name == schedule


def test_keys_of_the_command_line_are_kept() -> None:
    """What was asked for is never dropped in silence: a key that the new kind lacks is an error."""
    with pytest.raises(RecipeError, match=r"optimiser\.momentum: unknown key"):
        recipes.load("textbook-cnn", ["optimiser.momentum=0.5", "optimiser.name=adam"])


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("a=1", {"a": 1}),
        ("a=x", {"a": "x"}),
        ("a=[1, 2]", {"a": [1, 2]}),
        ("b.c=true", {"b": {"c": True, "d": [5, 6]}}),
        ("b.d[2]=7", {"b": {"d": [5, 7]}}),
        ("b.d=", {"b": {}}),
        ("b.d[1]=", {"b": {"d": [6]}}),
        ("b=", {}),
        ("layers[1].kernel=3", {"layers": [{"conv": 4, "kernel": 3}]}),
        ("new.key=1", {"new": {"key": 1}}),
        ("missing=", {}),
    ],
)
def test_places_and_values(override: str, expected: dict[str, Any]) -> None:
    """Tables by dots, elements by numbers from 1, as `compare` names them; without a value, the key goes."""
    table: dict[str, Any] = {"b": {"d": [5, 6]}, "layers": [{"conv": 4, "kernel": 5}]}
    assert changed(table, override) == {
        key: value
        for key, value in {"b": {"d": [5, 6]}, "layers": [{"conv": 4, "kernel": 5}], **expected}.items()
        if not (override == "b=" and key == "b")
    }


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("a", "expected KEY=VALUE"),
        (".a=1", "expected KEY=VALUE"),
        ("a..b=1", "expected KEY=VALUE"),
        ("a[x]=1", "expected KEY=VALUE"),
        ("b.d[3]=1", r"there are 2 elements, counted from 1; got \[3\]"),
        ("b.d[0]=1", r"got \[0\]"),
        ("b.d[9]=", r"got \[9\]"),
        ("b[1]=1", r"\[1\] needs a list"),
        ("b.d.e=1", "'e' needs a table"),
        ("b.d.e.f=1", "'b.d' is not a table"),
    ],
)
def test_a_place_that_does_not_exist_is_refused(override: str, message: str) -> None:
    """The error has the override and says what was expected there."""
    with pytest.raises(RecipeError, match=message):
        changed({"b": {"d": [5, 6]}}, override)
