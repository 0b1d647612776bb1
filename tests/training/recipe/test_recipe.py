"""Reading and checking recipes, and the facts in error messages."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from training.data.schema import Image
from training.errors import RecipeError
from training.recipe import schema as recipes
from training.recipe.layers import Pool
from training.recipe.optimise import SGD, AdaGrad
from training.recipe.schema import Recipe, load, parse
from training.recipe.shapes import trace

FLAT: dict[str, Any] = {"flatten": True}
OUT: dict[str, Any] = {"dense": 3, "activation": "none"}
TEXT: dict[str, Any] = {"kind": "text", "length": 12, "vocabulary": 50}
WORDS: list[dict[str, Any]] = [{"embedding": 4}, {"windows": [2, 3], "filters": 5}, OUT]
WEIGHTS: dict[str, Any] = {"name": "pretrained", "url": "https://example.org/w.pth", "sha256": "0123abcd"}
OWN: dict[str, Any] = {"name": "folder", "path": "images"}
SQUARE: dict[str, Any] = {"height": 6, "width": 6, "mode": "L", "framing": "squash", "mean": [0.4], "std": [0.3]}
OPTIMISERS = "allowed: sgd, adagrad, rmsprop, adadelta, adam, adamw, nadam"


def refusal(table: dict[str, Any]) -> str:
    with pytest.raises(RecipeError) as refused:
        parse(table)
    return str(refused.value)


@pytest.mark.parametrize("name", recipes.names())
def test_every_recipe_of_the_package_can_be_built(name: str) -> None:
    """It has the name of its file, and its layers fit each other and its labels."""
    recipe = load(name)
    assert recipe.name == name
    assert trace(recipe)[-1].output == (len(recipe.labels),)


def test_the_package_has_recipes() -> None:
    """The list of recipes is not empty, so that the test above tests something."""
    assert "lenet" in recipes.names()


@pytest.mark.parametrize(
    ("changes", "place", "facts"),
    [
        ({"epoch": 3}, "epoch", ["unknown key", "did you mean 'epochs'?", "allowed: task, labels,"]),
        ({"batch_sizes": 3}, "batch_sizes", ["unknown key", "did you mean 'batch_size'?", "allowed: task,"]),
        (
            {"augment": {"rotate": 3}},
            "augment.rotate",
            ["unknown key", "did you mean 'rotate_deg'?", "allowed: rotate_deg,"],
        ),
        ({"loss": {"conv": 3}}, "loss.conv", ["unknown key", "allowed: name, ", "label_smoothing"]),
        (
            {"optimiser": {"name": "adagrda", "learning_rate": 0.1}},
            "optimiser.name",
            ["'adagrda'", "did you mean 'adagrad'?", OPTIMISERS],
        ),
        ({"optimiser": {"learning_rate": 0.1}}, "optimiser", ["missing", "'name'", OPTIMISERS]),
        ({"optimiser": {"name": "sgd"}}, "optimiser.learning_rate", ["missing"]),
        (
            {"optimiser": {"name": "sgd", "learning_rate": 0.1, "momentun": 0.9}},
            "optimiser.momentun",
            [
                "unknown key",
                "did you mean 'momentum'?",
                "allowed: name, learning_rate, momentum, nesterov, weight_decay",
            ],
        ),
        (
            {"optimiser": {"name": "adagrad", "learning_rate": 0.1, "momentum": 0.9}},
            "optimiser.momentum",
            ["unknown key", "allowed: name, learning_rate, weight_decay"],
        ),
        ({"optimiser": {"name": "sgd", "learning_rate": 0.1, "nesterov": True}}, "optimiser", ["nesterov", "momentum"]),
        ({"optimiser": {"name": "sgd", "learning_rate": "fast"}}, "optimiser.learning_rate", ["'fast'"]),
        ({"optimiser": {"name": "sgd", "learning_rate": 0.0}}, "optimiser.learning_rate", ["0.0"]),
        ({"optimiser": {"name": "sgd", "learning_rate": float("nan")}}, "optimiser.learning_rate", ["nan"]),
        ({"schedule": {"name": "cosin"}}, "schedule.name", ["'cosin'", "did you mean 'cosine'?"]),
        ({"activation": "rely"}, "activation", ["'rely'", "did you mean 'relu'?"]),
        ({"initialise": {"name": "hee"}}, "initialise.name", ["'hee'", "did you mean 'he'?"]),
        ({"epochs": 0}, "epochs", ["0", "1"]),
        ({"epochs": "3"}, "epochs", ["'3'", "integer"]),
        ({"epochs": True}, "epochs", ["True", "integer"]),
        ({"data": {"name": "mnist", "validation": 1}}, "data.validation", ["1"]),
        ({"data": {"name": "minst", "validation": 100}}, "data.name", ["'minst'", "did you mean 'mnist'?"]),
        ({"layers": []}, "layers", ["[]"]),
        (
            {"layers": [FLAT, {"dens": 3}]},
            "layers[2]",
            ["dens", "did you mean 'dense'?", "allowed: conv, pool, flatten, reshape, dense, dropout"],
        ),
        ({"layers": [{"conv": 4}, FLAT, OUT]}, "layers[1] (conv).kernel", ["missing"]),
        (
            {"layers": [FLAT, {"dense": 3, "activaton": "none"}]},
            "layers[2] (dense).activaton",
            ["unknown key", "did you mean 'activation'?", "allowed: dense,"],
        ),
        (
            {"layers": [{"pool": "maxi", "size": 2}, FLAT, OUT]},
            "layers[1] (pool).pool",
            ["'maxi'", "did you mean 'max'?", "allowed: max, average"],
        ),
        ({"layers": [FLAT, {"dropout": 1.0}, OUT]}, "layers[2] (dropout).dropout", ["1.0", "1"]),
        ({"layers": [{"conv": "4", "kernel": 3}, FLAT, OUT]}, "layers[1] (conv).conv", ["'4'"]),
        ({"layers": [{"pool": "max", "size": 0}, FLAT, OUT]}, "layers[1] (pool).size", ["0", "'global'"]),
        ({"layers": [{"pool": "max", "size": "globl"}, FLAT, OUT]}, "layers[1] (pool).size", ["'globl'", "'global'"]),
        (
            {"layers": [{"pool": "max", "size": "global", "stride": 2}, FLAT, OUT]},
            "layers[1] (pool)",
            ['"global"', "stride"],
        ),
        (
            {"layers": [{"pool": "max", "size": 2, "strides": 2}, FLAT, OUT]},
            "layers[1] (pool).strides",
            ["unknown key", "did you mean 'stride'?", "allowed: pool, size, stride"],
        ),
        (
            {"layers": [{"lrn": 5, "alpa": 1e-4}, FLAT, OUT]},
            "layers[1] (lrn).alpa",
            ["unknown key", "did you mean 'alpha'?", "allowed: lrn, k, alpha, beta"],
        ),
        ({"layers": [FLAT, {**OUT, "max_norm": 0.0}]}, "layers[2] (dense).max_norm", ["0.0"]),
        ({"layers": [{"embedding": 4}, {"windows": [], "filters": 5}, OUT]}, "layers[2] (windows).windows", ["[]"]),
        (
            {"layers": [{"embedding": 4}, {"windows": [2, 0], "filters": 5}, OUT]},
            "layers[2] (windows).windows[2]",
            ["0"],
        ),
        (
            {"layers": [{"embedding": 4}, {"windows": [2], "filters": 5, "over_time": "maximum"}, OUT]},
            "layers[2] (windows).over_time",
            ["'maximum'", "did you mean 'max'?", "allowed: max, average,"],
        ),
        (
            {"layers": [{"embedding": 4}, {"window": [3], "filters": 5}, OUT]},
            "layers[2]",
            ["window, filters", "did you mean 'windows'?", "allowed: conv,"],
        ),
        (
            {"input": {**TEXT, "vocabulry": 60}},
            "input.vocabulry",
            ["unknown key", "did you mean 'vocabulary'?", "allowed: kind, length, vocabulary, min_co"],
        ),
        ({"input": {**TEXT, "height": 6}}, "input.height", ["unknown key"]),
        ({"input": {"kind": "text", "length": 12}}, "input.vocabulary", ["missing"]),
        ({"input": {**TEXT, "vocabulary": 2}}, "input.vocabulary", ["2"]),
        ({"input": {**TEXT, "kind": "txt"}}, "input.kind", ["'txt'", "did you mean 'text'?", "allowed: image, text"]),
        ({"input": 3}, "input", ["3"]),
        ({"initialise": {"name": "pretrained"}}, "initialise", ["url", "sha256", "'pretrained'"]),
        (
            {"initialise": {"name": "pretrained", "url": WEIGHTS["url"]}},
            "initialise",
            ["url", "sha256", "'pretrained'"],
        ),
        (
            {"initialise": {"name": "pretrained", "sha256": WEIGHTS["sha256"]}},
            "initialise",
            ["url", "sha256", "'pretrained'"],
        ),
        ({"initialise": {**WEIGHTS, "url": ""}}, "initialise", ["url", "sha256", "'pretrained'"]),
        ({"initialise": {**WEIGHTS, "name": "he"}}, "initialise", ["url", "no effect", "'pretrained'"]),
        ({"initialise": {"name": "he", "url": WEIGHTS["url"]}}, "initialise", ["url", "no effect", "'pretrained'"]),
        ({"initialise": {"name": "he", "sha256": WEIGHTS["sha256"]}}, "initialise", ["sha256", "'pretrained'"]),
        ({"initialise": {"name": "pytorch", "distribution": "normal"}}, "initialise", ["distribution", "'he'"]),
        ({"initialise": {"name": "he", "spread": 0.1}}, "initialise", ["spread", "no effect", "'fixed'"]),
        ({"loss": {"name": "hinge", "label_smoothing": 0.1}}, "loss", ["label_smoothing", "no effect"]),
        ({"loss": {"class_weights": {"wolf": 2.0}}}, "loss.class_weights", ["wolf", "left, middle, right"]),
        ({"schedule": {"name": "cosine", "milestones": [0.1]}}, "schedule", ["milestones", "no effect", "'step'"]),
        ({"augment": {"word_dropout": 0.1}}, "augment.word_dropout", ["texts", "'image'"]),
        ({"augment": {"span": 3}}, "augment.span", ["texts", "'image'"]),
        ({"augment": {"hue": 0.1}}, "augment.hue", ["colours", "'L'"]),
        ({"input": TEXT, "layers": WORDS, "augment": {"flip": True}}, "augment.flip", ["images", "'text'"]),
        ({"input": TEXT, "layers": WORDS, "augment": {"noise": 0.1}}, "augment.noise", ["images", "'text'"]),
        ({"data": {"name": "mnist", "validation": 9, "stored_side": 40}}, "data", ["stored_side", "cats-vs-dogs"]),
        (
            {"data": {"name": "cats-vs-dogs", "validation": 9, "stored_side": 8}},
            "data.stored_side",
            ["8", "longer side, 9"],
        ),
        (
            {"schedule": {"name": "plateau"}, "data": {"name": "mnist", "validation": 9, "refit": True}},
            "schedule.name",
            ["plateau", "refit"],
        ),
        ({"task": "a" * 101}, "task", ["100"]),
        ({"labels": ["", "a"]}, "labels[1]", ["''", "1"]),
        ({"labels": ["a", "b" * 201]}, "labels[2]", ["200"]),
        ({"epochs": 2**31}, "epochs", ["2147483648"]),
        ({"initialise": {**WEIGHTS, "sha256": "0123"}}, "initialise.sha256", ["'0123'"]),
        ({"initialise": {"name": "he", "freeze": True}}, "initialise", ["freeze", "'pretrained'"]),
        (
            {"optimiser": {"name": "adam", "learning_rate": 0.1, "weight_decay_on": "weights"}},
            "optimiser",
            ["weight_decay_on", "weight_decay above 0"],
        ),
        ({"schedule": {"name": "step", "milestones": []}}, "schedule", ["milestones", "'constant'"]),
        ({"schedule": {"name": "step", "factor": 1.0}}, "schedule.factor", ["1.0"]),
        ({"schedule": {"name": "plateau", "patience": 2}}, "schedule.patience", ["no effect in 3 epochs", "needs 4"]),
        (
            {"layers": [{"conv": 4, "kernel": 1, "dilation": 2}, FLAT, OUT]},
            "layers[1] (conv)",
            ["dilation", "no effect"],
        ),
        (
            {"input": TEXT, "layers": WORDS, "data": {**OWN, "test": 9, "validation": 9, "max_unreadable": 0.5}},
            "data.max_unreadable",
            ["images", "'text'"],
        ),
        (
            {"data": {**OWN, "test": "given", "validation": "given", "split_seed": 1}},
            "data",
            ["split_seed", "no effect"],
        ),
        ({"data": {**OWN, "test": 0.2, "validation": "given", "folds": 3}}, "data", ["validation", "folds", "0.1"]),
        ({"accumulate": 2, "batch_size": "full"}, "accumulate", ["no effect", "'full'"]),
        (
            {
                "loss": {"class_weights": "balanced"},
                "data": {"name": "mnist", "validation": 9, "sampling": "balanced"},
            },
            "loss.class_weights",
            ["data.sampling", "twice"],
        ),
        ({"input": TEXT, "layers": WORDS, "augment": {"span": 12}}, "augment.span", ["12", "input.length"]),
        ({"schedule": {"name": "step", "milestones": [0.5, 1.0]}}, "schedule.milestones[2]", ["1.0"]),
        ({"schedule": {"name": "step", "factor": 0.0}}, "schedule.factor", ["0.0"]),
        ({"augment": {"crop": 0.0}}, "augment.crop", ["0.0"]),
        ({"augment": {"crop": 1.5}}, "augment.crop", ["1.5"]),
        ({"augment": {"word_dropout": 1.0}}, "augment.word_dropout", ["1.0"]),
        ({"precision": "bfloat"}, "precision", ["'bfloat'", "did you mean 'bfloat16'?", "allowed: float32,"]),
        (
            {"early_stopping": 2, "data": {"name": "mnist", "validation": 100, "refit": True}},
            "early_stopping",
            ["data.refit"],
        ),
        ({"data": {"name": "mr", "validation": 100, "refit": True, "folds": 10}}, "data.folds", ["data.refit"]),
        ({"data": {"name": "mr", "validation": 100, "folds": 1}}, "data.folds", ["1"]),
        ({"resolutions": []}, "resolutions", ["[]"]),
        ({"resolutions": [6, 6], "input": SQUARE}, "resolutions", ["[6, 6]", "no effect"]),
        ({"resolutions": [6, 0]}, "resolutions[2]", ["0"]),
        ({"resolutions": [6]}, "resolutions", ["6", "9"]),
        ({"resolutions": [6], "input": TEXT, "layers": WORDS}, "resolutions", ["'text'"]),
    ],
)
def test_an_error_is_one_line_with_the_key_the_value_and_the_allowed_values(
    changes: dict[str, Any], place: str, facts: list[str], table_with: Callable[..., dict[str, Any]]
) -> None:
    """One wrong value gives one line: the key, with layers counted from 1, and a suggestion for a near miss."""
    message = refusal(table_with(**changes))
    assert message.startswith(f"small: {place}: ")
    assert [fact for fact in facts if fact not in message] == []
    assert "\n" not in message


def test_keys_that_agree_are_accepted(table_with: Callable[..., dict[str, Any]]) -> None:
    """The corrections of the errors above are accepted: each error is about one key."""
    held_out = {"name": "mr", "validation": 100}
    assert parse(table_with(early_stopping=2, data=held_out)).early_stopping == 2
    assert parse(table_with(data={**held_out, "folds": 10})).data.folds == 10
    assert parse(table_with(initialise={**WEIGHTS, "freeze": True})).initialise.freeze
    assert parse(table_with(input=TEXT, layers=WORDS)).input.kind == "text"
    assert parse(table_with(input=SQUARE, resolutions=[4, 6])).resolutions == [4, 6]
    pool = {"pool": "average", "size": "global"}
    assert parse(table_with(layers=[pool, FLAT, OUT])).layers[0] == Pool(pool="average", size="global")


@pytest.mark.parametrize("key", ["task", "labels", "layers", "epochs", "batch_size", "input", "data", "optimiser"])
def test_a_missing_key_is_named(key: str, table_with: Callable[..., dict[str, Any]]) -> None:
    """A missing key without a default is an error that names it."""
    table = table_with()
    del table[key]
    assert re.fullmatch(f"small: {key}: .*missing.*", refusal(table))


def test_each_of_several_errors_has_its_line(table_with: Callable[..., dict[str, Any]]) -> None:
    """Two errors give two lines; neither hides the other."""
    lines = refusal(table_with(epochs=0, seed=-1)).splitlines()
    assert [line.split(":")[1] for line in lines] == [" epochs", " seed"]


@pytest.mark.parametrize("value", ["ful", 0, 1.5])
def test_a_wrong_batch_size_is_refused_in_one_line(value: Any, table_with: Callable[..., dict[str, Any]]) -> None:
    """The key that takes a number or a word gives one error, which names the word."""
    message = refusal(table_with(batch_size=value))
    assert message.startswith("small: batch_size: ")
    assert "full" in message
    assert "\n" not in message


def test_a_layer_that_is_not_a_table_is_refused(table_with: Callable[..., dict[str, Any]]) -> None:
    """A number among the layers is an error that names its position."""
    assert refusal(table_with(layers=[FLAT, 3])).startswith("small: layers[2]: ")


def test_repeated_labels_are_refused(table_with: Callable[..., dict[str, Any]]) -> None:
    """A label that occurs twice is named, before any training."""
    assert re.match("small: labels: .*left", refusal(table_with(labels=["left", "right", "left"])))


@pytest.mark.parametrize("channels", [(0.5,), (0.5, 0.5, 0.5)])
def test_mean_and_std_have_one_value_for_each_channel(
    channels: tuple[float, ...], table_with: Callable[..., dict[str, Any]]
) -> None:
    """Mode L takes one value, mode RGB three; the other mode is refused."""
    table = {"height": 6, "width": 9, "framing": "squash", "mean": list(channels), "std": list(channels)}
    right, wrong = ("L", "RGB") if len(channels) == 1 else ("RGB", "L")
    spec = parse(table_with(input={**table, "mode": right})).input
    assert isinstance(spec, Image)
    assert spec.channels == len(channels)
    assert re.search(f"mean: .*{len(channels)}$", refusal(table_with(input={**table, "mode": wrong})))


def test_an_unknown_recipe_is_refused_with_the_known_ones() -> None:
    """The error suggests a near miss and lists the available recipes."""
    with pytest.raises(RecipeError, match=r"'lenett'; did you mean 'lenet'\? .*alexnet, .*lenet, "):
        load("lenett")
    with pytest.raises(RecipeError, match=r"'zzz'; .*alexnet, .*lenet, "):
        load("zzz")


def test_a_path_is_read_and_gives_the_recipe_its_name(tmp_path: Path) -> None:
    """A path that ends in .toml is read, and its stem is the name."""
    path = tmp_path / "mine.toml"
    path.write_bytes((recipes.RECIPES / "lenet.toml").read_bytes())
    assert load(str(path)) == load("lenet").model_copy(update={"name": "mine"})


@pytest.mark.parametrize("content", [b"epochs = = 3", b"\xff\xfe", b"[input\n"])
def test_invalid_toml_is_refused_by_path(content: bytes, tmp_path: Path) -> None:
    """Wrong syntax or encoding is an error of one line that names the file."""
    path = tmp_path / "broken.toml"
    path.write_bytes(content)
    with pytest.raises(RecipeError, match=r"broken\.toml: [^\n]*TOML[^\n]+$"):
        load(str(path))


def test_overrides_replace_keys_at_any_depth() -> None:
    """`KEY=VALUE` sets numbers, words, booleans and keys of tables, even of a table that the recipe does not have."""
    recipe = load(
        "lenet",
        ["epochs=2", "batch_size=full", "optimiser.name=adagrad", "data.refit=false", "seed=7", "activation=tanh"],
    )
    assert (recipe.epochs, recipe.batch_size, recipe.seed, recipe.activation) == (2, "full", 7, "tanh")
    assert recipe.optimiser == AdaGrad(name="adagrad", learning_rate=0.01, weight_decay=0.05)
    assert recipe.data.refit is False
    assert load("lenet", ["initialise.name=xavier"]).initialise.distribution == "normal"


def test_a_later_override_wins_over_an_earlier_one() -> None:
    """Overrides are applied in their order."""
    assert load("lenet", ["epochs=2", "epochs=3"]).epochs == 3


def test_overrides_are_checked_like_the_file() -> None:
    """A value of the wrong type and an unknown key are errors in an override, too."""
    with pytest.raises(RecipeError, match=r"^lenet: optimiser\.momentum: unknown key; allowed: name, "):
        load("lenet", ["optimiser.momentum=0.9"])
    with pytest.raises(RecipeError, match=r"^lenet: epochs: .*'many'.* integer$"):
        load("lenet", ["epochs=many"])


@pytest.mark.parametrize("override", ["epochs", "=3", ".epochs=3", "optimiser..name=sgd", ""])
def test_an_override_without_key_and_value_is_refused(override: str) -> None:
    """The error has an example of KEY=VALUE."""
    with pytest.raises(RecipeError, match=r"KEY=VALUE, like optimiser\.name=adagrad"):
        load("lenet", [override])


def test_an_override_below_a_value_is_refused() -> None:
    """A key below a value that is not a table is named."""
    with pytest.raises(RecipeError, match=r"'layers.1=3': '1' needs a table"):
        load("lenet", ["layers.1=3"])


@pytest.mark.parametrize("name", ["../../evil", "/evil", "a\\b", ".hidden", "", "a" * 101, "猫" * 100, "a\nb"])
def test_a_name_cannot_leave_the_folder_of_runs(name: str, table_with: Callable[..., dict[str, Any]]) -> None:
    """The name becomes a folder's, so it has no separator, no dot at its start and an end."""
    with pytest.raises(RecipeError, match=r"name: .*must be a file name"):
        parse(table_with(name=name))


def test_a_recipe_is_immutable(recipe_with: Callable[..., Recipe]) -> None:
    """Neither a recipe nor one of its sections can be changed."""
    recipe = recipe_with()
    with pytest.raises(ValidationError, match="frozen"):
        recipe.epochs = 9
    with pytest.raises(ValidationError, match="frozen"):
        recipe.optimiser.learning_rate = 9.0
    assert recipe.optimiser == SGD(name="sgd", learning_rate=0.05, momentum=0.9)


def test_a_recipe_survives_json(recipe_with: Callable[..., Recipe]) -> None:
    """The JSON in the folder of a run gives an equal recipe."""
    recipe = recipe_with(batch_size="full", augment={"scale": 0.1})
    assert Recipe.model_validate_json(recipe.model_dump_json()) == recipe
