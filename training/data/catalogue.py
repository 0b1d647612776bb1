"""A data set by its name in a recipe or a manifest."""

from service import manifest as contract
from training.data import Dataset, Split, mnist, photos, reviews
from training.errors import RecipeError
from training.recipe import Data, Image, Input, Recipe, Text

PHOTOS = ("cats-vs-dogs", "oxford-pets")
REVIEWS = (*reviews.SOURCES, "reviews")


def load(data: Data, spec: Input) -> Dataset:
    """The splits that a recipe trains and is measured on, as its input wants them.

    Raises:
        DataError: the data set is not there, or damaged.
        RecipeError: the input is of another kind than the data.
    """
    match spec:
        case Image() if data.name == "mnist":
            return mnist.load(data.validation)
        case Image() if data.name in PHOTOS:
            return photos.load(data, spec)
        case Text() if data.name in REVIEWS:
            return reviews.load(data, spec)
    kind = "texts" if data.name in REVIEWS else "pictures"
    raise RecipeError(f"data.name: {data.name} holds {kind}, the input is of kind {spec.kind!r}")


def fold(data: Data, spec: Input, number: int) -> Dataset:
    """Fold `number`, from 0, of the cross-validation that `data.folds` asks for.

    Raises:
        DataError: the data set is not there, or has a test split of its own.
        RecipeError: the input is of another kind than the data.
    """
    if not isinstance(spec, Text) or data.name not in REVIEWS or data.folds is None:
        raise RecipeError(f"data.folds: cross-validation is for mr, a data set of texts, not for {data.name}")
    return reviews.fold(data, spec, number, data.folds)


def tests(name: str, spec: contract.ImageInput | contract.TextInput, tokenizer: str | None) -> dict[str, Split]:
    """The test splits of a data set as a published model wants them; none where the name is not known.

    Raises:
        DataError: the data set is not there, or damaged.
    """
    match spec:
        case contract.ImageInput() if name == "mnist":
            return {name: mnist.test_split()}
        case contract.ImageInput() if name in PHOTOS:
            return {name: photos.test_split(name, spec)}
        case contract.TextInput() if name in REVIEWS and tokenizer is not None:
            return reviews.tests(name, spec, tokenizer)
    return {}


def sample(recipe: Recipe, spec: contract.ImageInput | contract.TextInput, count: int) -> tuple[Split, str]:
    """Up to `count` examples to learn from, as a published model wants them, and the data set's fingerprint.

    Raises:
        DataError, RecipeError: as `load`.
    """
    if recipe.data.name in PHOTOS and isinstance(spec, contract.ImageInput):
        return photos.sample(recipe.data, spec, count)
    data = load(recipe.data, recipe.input)
    step = max(len(data.train) // count, 1)
    return Split(data.train.inputs[::step], data.train.labels[::step]).first(count), data.fingerprint
