"""A data set by its name in a recipe or a manifest."""

from contract.spec import ImageInput, TextInput
from training.data import mnist, photos, reviews
from training.data.dataset import Dataset, Split
from training.data.schema import Data, Image, Input, Text
from training.errors import RecipeError

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


def tests(name: str, spec: ImageInput | TextInput, tokenizer: str | None) -> dict[str, Split]:
    """The test splits of a data set as a published model wants them; none where the name is not known.

    Raises:
        DataError: the data set is not there, or damaged.
    """
    match spec:
        case ImageInput() if name == "mnist":
            return {name: mnist.test_split()}
        case ImageInput() if name in PHOTOS:
            return {name: photos.test_split(name, spec)}
        case TextInput() if name in REVIEWS and tokenizer is not None:
            return reviews.tests(name, spec, tokenizer)
    return {}


def sample(data: Data, trained: Input, spec: ImageInput | TextInput, count: int) -> tuple[Split, str]:
    """Up to `count` examples to learn from, as a published model wants them, and the data set's fingerprint.

    Raises:
        DataError, RecipeError: as `load`.
    """
    if data.name in PHOTOS and isinstance(spec, ImageInput):
        return photos.sample(data, spec, count)
    whole = load(data, trained)
    step = max(len(whole.train) // count, 1)
    return Split(whole.train.inputs[::step], whole.train.labels[::step]).first(count), whole.fingerprint
