"""Recipes: what is read, what is refused, and in which words."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from training.data.schema import Image
from training.errors import RecipeError
from training.recipe import schema as recipes
from training.recipe.layers import Pool
from training.recipe.schema import SGD, AdaGrad, Recipe, load, parse
from training.recipe.shapes import trace

FLAT: dict[str, Any] = {"flatten": True}
OUT: dict[str, Any] = {"dense": 3, "activation": "none"}
TEXT: dict[str, Any] = {"kind": "text", "length": 12, "vocabulary": 50}
WORDS: list[dict[str, Any]] = [{"embedding": 4}, {"windows": [2, 3], "filters": 5}, OUT]
WEIGHTS: dict[str, Any] = {"name": "pretrained", "url": "https://example.org/w.pth", "sha256": "0123abcd"}
SOURCE = "small: initialise: name = 'pretrained' needs url and sha256, and no other name takes them"
OPTIMISERS = "sgd, adagrad, rmsprop, adadelta, adam, adamw"


def refusal(table: dict[str, Any]) -> str:
    with pytest.raises(RecipeError) as refused:
        parse(table)
    return str(refused.value)


@pytest.mark.parametrize("name", recipes.names())
def test_every_recipe_that_comes_along_can_be_built(name: str) -> None:
    """A shipped recipe loads under its file's name, and its layers fit each other and its labels."""
    recipe = load(name)
    assert recipe.name == name
    assert trace(recipe)[-1].output == (len(recipe.labels),)


def test_there_are_recipes() -> None:
    """The list of shipped recipes is not empty and knows lenet, so that the test above tests something."""
    assert "lenet" in recipes.names()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"epoch": 3}, "small: epoch: unknown key; did you mean 'epochs'? allowed: task, labels, "),
        ({"batch_sizes": 3}, "small: batch_sizes: unknown key; did you mean 'batch_size'? allowed: task, "),
        (
            {"augment": {"rotate": 3}},
            "small: augment.rotate: unknown key; did you mean 'rotate_deg'? allowed: rotate_deg,",
        ),
        ({"loss": {"conv": 3}}, "small: loss.conv: unknown key; allowed: name, label_smoothing"),
        (
            {"optimiser": {"name": "adagrda", "learning_rate": 0.1}},
            f"small: optimiser.name: 'adagrda' is not known; did you mean 'adagrad'? allowed: {OPTIMISERS}",
        ),
        (
            {"optimiser": {"learning_rate": 0.1}},
            f"small: optimiser: the key 'name' is missing; allowed: {OPTIMISERS}",
        ),
        ({"optimiser": {"name": "sgd"}}, "small: optimiser.learning_rate: this key is missing"),
        (
            {"optimiser": {"name": "sgd", "learning_rate": 0.1, "momentun": 0.9}},
            (
                "small: optimiser.momentun: unknown key; did you mean 'momentum'? "
                "allowed: name, learning_rate, momentum, nesterov, weight_decay"
            ),
        ),
        (
            {"optimiser": {"name": "adagrad", "learning_rate": 0.1, "momentum": 0.9}},
            "small: optimiser.momentum: unknown key; allowed: name, learning_rate, weight_decay",
        ),
        (
            {"optimiser": {"name": "sgd", "learning_rate": 0.1, "nesterov": True}},
            "small: optimiser: nesterov = true needs a momentum above 0",
        ),
        (
            {"optimiser": {"name": "sgd", "learning_rate": "fast"}},
            "small: optimiser.learning_rate: 'fast' is refused: ",
        ),
        ({"optimiser": {"name": "sgd", "learning_rate": 0.0}}, "small: optimiser.learning_rate: 0.0 is refused"),
        (
            {"optimiser": {"name": "sgd", "learning_rate": float("nan")}},
            "small: optimiser.learning_rate: nan is refused: ",
        ),
        (
            {"schedule": {"name": "cosin"}},
            "small: schedule.name: 'cosin' is not known; did you mean 'cosine'? ",
        ),
        (
            {"activation": "rely"},
            "small: activation: 'rely' is not known; did you mean 'relu'? ",
        ),
        ({"initialise": {"name": "hee"}}, "small: initialise.name: 'hee' is not known; did you mean 'he'? allowed: "),
        ({"epochs": 0}, "small: epochs: 0 is refused: input should be greater than or equal to 1"),
        ({"epochs": "3"}, "small: epochs: '3' is refused: input should be a valid integer"),
        ({"epochs": True}, "small: epochs: True is refused: input should be a valid integer"),
        ({"data": {"name": "mnist", "validation": 10}}, "small: data.validation: 10 is refused"),
        (
            {"data": {"name": "minst", "validation": 100}},
            "small: data.name: 'minst' is not known; did you mean 'mnist'?",
        ),
        ({"layers": []}, "small: layers: [] is refused"),
        (
            {"layers": [FLAT, {"dens": 3}]},
            (
                "small: layers[2]: no kind of layer has the keys dens; did you mean 'dense'? "
                "allowed: conv, pool, flatten, dense, dropout"
            ),
        ),
        ({"layers": [{"conv": 4}, FLAT, OUT]}, "small: layers[1] (conv).kernel: this key is missing"),
        (
            {"layers": [FLAT, {"dense": 3, "activaton": "none"}]},
            "small: layers[2] (dense).activaton: unknown key; did you mean 'activation'? allowed: dense, ",
        ),
        (
            {"layers": [{"pool": "maxi", "size": 2}, FLAT, OUT]},
            "small: layers[1] (pool).pool: 'maxi' is not known; did you mean 'max'? allowed: max, average",
        ),
        (
            {"layers": [FLAT, {"dropout": 1.0}, OUT]},
            "small: layers[2] (dropout).dropout: 1.0 is refused: input should be less than 1",
        ),
        ({"layers": [{"conv": "4", "kernel": 3}, FLAT, OUT]}, "small: layers[1] (conv).conv: '4' is refused"),
        (
            {"layers": [{"pool": "max", "size": 0}, FLAT, OUT]},
            "small: layers[1] (pool).size: 0 is refused: expected a whole number from 1, or 'global'",
        ),
        (
            {"layers": [{"pool": "max", "size": "globl"}, FLAT, OUT]},
            "small: layers[1] (pool).size: 'globl' is refused: expected a whole number from 1, or 'global'",
        ),
        (
            {"layers": [{"pool": "max", "size": "global", "stride": 2}, FLAT, OUT]},
            'small: layers[1] (pool): size = "global" is one window: it takes no stride',
        ),
        (
            {"layers": [{"pool": "max", "size": 2, "strides": 2}, FLAT, OUT]},
            "small: layers[1] (pool).strides: unknown key; did you mean 'stride'? allowed: pool, size, stride",
        ),
        (
            {"layers": [{"lrn": 5, "alpa": 1e-4}, FLAT, OUT]},
            "small: layers[1] (lrn).alpa: unknown key; did you mean 'alpha'? allowed: lrn, k, alpha, beta",
        ),
        ({"layers": [FLAT, {**OUT, "max_norm": 0.0}]}, "small: layers[2] (dense).max_norm: 0.0 is refused: "),
        (
            {"layers": [{"embedding": 4}, {"windows": [], "filters": 5}, OUT]},
            "small: layers[2] (windows).windows: [] is refused: ",
        ),
        (
            {"layers": [{"embedding": 4}, {"windows": [2, 0], "filters": 5}, OUT]},
            "small: layers[2] (windows).windows[2]: 0 is refused: ",
        ),
        (
            {"layers": [{"embedding": 4}, {"windows": [2], "filters": 5, "over_time": "maximum"}, OUT]},
            "small: layers[2] (windows).over_time: 'maximum' is not known; did you mean 'max'? allowed: max, average, ",
        ),
        (
            {"layers": [{"embedding": 4}, {"window": [3], "filters": 5}, OUT]},
            "small: layers[2]: no kind of layer has the keys window, filters; did you mean 'windows'? allowed: conv, ",
        ),
        (
            {"input": {**TEXT, "vocabulry": 60}},
            "small: input.vocabulry: unknown key; did you mean 'vocabulary'? allowed: kind, length, vocabulary, min_co",
        ),
        ({"input": {**TEXT, "height": 6}}, "small: input.height: unknown key; "),
        ({"input": {"kind": "text", "length": 12}}, "small: input.vocabulary: this key is missing"),
        ({"input": {**TEXT, "vocabulary": 2}}, "small: input.vocabulary: 2 is refused: "),
        (
            {"input": {**TEXT, "kind": "txt"}},
            "small: input.kind: 'txt' is not known; did you mean 'text'? allowed: image, text",
        ),
        ({"input": 3}, "small: input: 3 is refused: "),
        ({"initialise": {"name": "pretrained"}}, SOURCE),
        ({"initialise": {"name": "pretrained", "url": WEIGHTS["url"]}}, SOURCE),
        ({"initialise": {"name": "pretrained", "sha256": WEIGHTS["sha256"]}}, SOURCE),
        ({"initialise": {**WEIGHTS, "url": ""}}, SOURCE),
        ({"initialise": {**WEIGHTS, "name": "he"}}, SOURCE),
        ({"initialise": {"name": "he", "url": WEIGHTS["url"]}}, SOURCE),
        ({"initialise": {"name": "he", "sha256": WEIGHTS["sha256"]}}, SOURCE),
        ({"initialise": {**WEIGHTS, "sha256": "0123"}}, "small: initialise.sha256: '0123' is refused: "),
        ({"initialise": {"name": "he", "freeze": True}}, "small: initialise: freeze = true needs name = 'pretrained'"),
        ({"schedule": {"name": "step", "milestones": [0.5, 1.0]}}, "small: schedule.milestones[2]: 1.0 is refused: "),
        ({"schedule": {"name": "step", "factor": 0.0}}, "small: schedule.factor: 0.0 is refused: "),
        ({"augment": {"crop": 0.0}}, "small: augment.crop: 0.0 is refused: "),
        ({"augment": {"crop": 1.5}}, "small: augment.crop: 1.5 is refused: "),
        ({"augment": {"word_dropout": 1.0}}, "small: augment.word_dropout: 1.0 is refused: "),
        (
            {"precision": "bfloat"},
            "small: precision: 'bfloat' is not known; did you mean 'bfloat16'? allowed: float32,",
        ),
        (
            {"early_stopping": 2, "data": {"name": "mnist", "validation": 100, "refit": True}},
            "small: early_stopping: needs a validation split",
        ),
        (
            {"data": {"name": "mr", "validation": 100, "refit": True, "folds": 10}},
            "small: data.folds: cross-validation publishes nothing",
        ),
        ({"data": {"name": "mr", "validation": 100, "folds": 1}}, "small: data.folds: 1 is refused: "),
        ({"resolutions": []}, "small: resolutions: [] is refused: "),
        ({"resolutions": [6, 0]}, "small: resolutions[2]: 0 is refused: "),
        ({"resolutions": [6]}, "small: resolutions: are sides of square pictures; this input is not square"),
        (
            {"resolutions": [6], "input": TEXT, "layers": WORDS},
            "small: resolutions: are of pictures; this input is text",
        ),
    ],
)
def test_a_fault_is_refused_in_one_line_that_names_the_key_and_what_is_allowed(
    changes: dict[str, Any], message: str, table_with: Callable[..., dict[str, Any]]
) -> None:
    """A recipe with one fault is refused in one line: the place, layers counted from 1, and a near miss suggested."""
    found = refusal(table_with(**changes))
    assert found.startswith(message)
    assert "\n" not in found


def test_keys_that_agree_are_taken(table_with: Callable[..., dict[str, Any]]) -> None:
    """What the refusals above ask for is accepted: each is of one key alone."""
    held_out = {"name": "mr", "validation": 100}
    assert parse(table_with(early_stopping=2, data=held_out)).early_stopping == 2
    assert parse(table_with(data={**held_out, "folds": 10})).data.folds == 10
    assert parse(table_with(initialise={**WEIGHTS, "freeze": True})).initialise.freeze
    assert parse(table_with(input=TEXT, layers=WORDS)).input.kind == "text"
    square = {"height": 6, "width": 6, "mode": "L", "framing": "squash", "mean": [0.4], "std": [0.3]}
    assert parse(table_with(input=square, resolutions=[4, 6])).resolutions == [4, 6]
    pool = {"pool": "average", "size": "global"}
    assert parse(table_with(layers=[pool, FLAT, OUT])).layers[0] == Pool(pool="average", size="global")


@pytest.mark.parametrize("key", ["task", "labels", "layers", "epochs", "batch_size", "input", "data", "optimiser"])
def test_a_missing_key_is_named(key: str, table_with: Callable[..., dict[str, Any]]) -> None:
    """Every key without a default is asked for by name."""
    table = table_with()
    del table[key]
    assert refusal(table) == f"small: {key}: this key is missing"


def test_each_of_several_faults_has_its_line(table_with: Callable[..., dict[str, Any]]) -> None:
    """Two faults give two lines, neither hides the other."""
    lines = refusal(table_with(epochs=0, seed=-1)).splitlines()
    assert [line.split(":")[1] for line in lines] == [" epochs", " seed"]


@pytest.mark.parametrize("value", ["ful", 0, 1.5])
def test_a_wrong_batch_size_is_refused_in_one_line(value: Any, table_with: Callable[..., dict[str, Any]]) -> None:
    """The one key that takes a number or a word is one fault too, and the line says that both are possible."""
    found = refusal(table_with(batch_size=value))
    assert found.startswith("small: batch_size: ")
    assert "full" in found
    assert "\n" not in found


def test_a_layer_that_is_no_table_is_refused(table_with: Callable[..., dict[str, Any]]) -> None:
    """A bare number among the layers is a fault of the recipe, named by its place."""
    assert refusal(table_with(layers=[FLAT, 3])).startswith("small: layers[2]: ")


def test_labels_that_stand_twice_are_refused(table_with: Callable[..., dict[str, Any]]) -> None:
    """What no manifest may say is refused before any training."""
    assert refusal(table_with(labels=["left", "right", "left"])).startswith("small: labels")


@pytest.mark.parametrize("channels", [(0.5,), (0.5, 0.5, 0.5)])
def test_mean_and_std_have_one_value_a_channel(
    channels: tuple[float, ...], table_with: Callable[..., dict[str, Any]]
) -> None:
    """A grey picture takes one value, a coloured one three; the other mode is refused."""
    picture = {"height": 6, "width": 9, "framing": "squash", "mean": list(channels), "std": list(channels)}
    right, wrong = ("L", "RGB") if len(channels) == 1 else ("RGB", "L")
    spec = parse(table_with(input={**picture, "mode": right})).input
    assert isinstance(spec, Image)
    assert spec.channels == len(channels)
    assert "mean needs" in refusal(table_with(input={**picture, "mode": wrong}))


def test_an_unknown_recipe_is_refused_with_the_known_ones() -> None:
    """A misspelt name is answered with the near one, and every refusal lists what there is."""
    with pytest.raises(RecipeError, match=r"^there is no recipe 'lenett'; did you mean 'lenet'\? there are .*lenet"):
        load("lenett")
    with pytest.raises(RecipeError, match=r"^there is no recipe 'zzz'; there are .*lenet"):
        load("zzz")


def test_a_path_is_read_and_gives_the_recipe_its_name(tmp_path: Path) -> None:
    """A path that ends in .toml is read where it lies and named by its stem."""
    path = tmp_path / "mine.toml"
    path.write_bytes((recipes.RECIPES / "lenet.toml").read_bytes())
    assert load(str(path)) == load("lenet").model_copy(update={"name": "mine"})


@pytest.mark.parametrize("content", [b"epochs = = 3", b"\xff\xfe", b"[input\n"])
def test_what_is_no_toml_is_refused_by_path(content: bytes, tmp_path: Path) -> None:
    """Neither bad syntax nor bad encoding is a traceback; the line names the file."""
    path = tmp_path / "broken.toml"
    path.write_bytes(content)
    with pytest.raises(RecipeError, match=r"broken\.toml: cannot be read as TOML: [^\n]+$"):
        load(str(path))


def test_overrides_replace_keys_at_any_depth() -> None:
    """`KEY=VALUE` sets numbers, words, truth values and keys of tables, in a table that the recipe left out too."""
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
    """A value of the wrong kind and an unknown key are refused when they come from an override, too."""
    with pytest.raises(RecipeError, match=r"^lenet: optimiser\.momentum: unknown key; allowed: name, "):
        load("lenet", ["optimiser.momentum=0.9"])
    with pytest.raises(RecipeError, match=r"^lenet: epochs: 'many' is refused: input should be a valid integer$"):
        load("lenet", ["epochs=many"])


@pytest.mark.parametrize("override", ["epochs", "=3", ".epochs=3", "optimiser..name=sgd", ""])
def test_an_override_that_is_no_key_and_value_is_refused(override: str) -> None:
    """Anything but KEY=VALUE is answered with an example of it."""
    with pytest.raises(RecipeError, match=r"expected KEY=VALUE, like optimiser\.name=adagrad"):
        load("lenet", [override])


def test_an_override_below_a_value_is_refused() -> None:
    """A key below something that is no table is named."""
    with pytest.raises(RecipeError, match="'layers' is not a table of the recipe"):
        load("lenet", ["layers.1=3"])


def test_a_recipe_is_frozen(recipe_with: Callable[..., Recipe]) -> None:
    """Neither a recipe nor a section of it can be changed once it is made."""
    recipe = recipe_with()
    with pytest.raises(ValidationError, match="frozen"):
        recipe.epochs = 9
    with pytest.raises(ValidationError, match="frozen"):
        recipe.optimiser.learning_rate = 9.0
    assert recipe.optimiser == SGD(name="sgd", learning_rate=0.05, momentum=0.9)


def test_a_recipe_survives_json(recipe_with: Callable[..., Recipe]) -> None:
    """What a run's folder keeps is the recipe: JSON and back gives an equal one."""
    recipe = recipe_with(batch_size="full", augment={"scale": 0.1})
    assert Recipe.model_validate_json(recipe.model_dump_json()) == recipe
