"""A data set by its name in a recipe or a manifest."""

from service import manifest as contract
from training.data import Dataset, Split, mnist, photos
from training.errors import RecipeError
from training.recipe import Data, Image, Input

PHOTOS = ("cats-vs-dogs", "oxford-pets")


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
    kind = "pictures" if data.name == "mnist" or data.name in PHOTOS else "texts"
    raise RecipeError(f"data.name: {data.name} holds {kind}, the input is of kind {spec.kind!r}")


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
    return {}
