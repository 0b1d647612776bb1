"""The pictures that a run leaves, drawn from what it measured on its validation split."""

from pathlib import Path

from tokenizers import Tokenizer
from torch import Tensor, nn

from training.data.dataset import Dataset
from training.data.schema import Image
from training.errors import RunError
from training.fit.state import Epoch
from training.network.calibrated import Calibration
from training.recipe.schema import Recipe
from training.runs import pictures


def draw(
    folder: Path,
    recipe: Recipe,
    network: nn.Sequential,
    data: Dataset,
    logits: Tensor,
    calibration: Calibration,
    history: list[Epoch],
) -> None:
    """Draw learning curves, confusion matrix, reliability diagram, first filters and most confident mistakes.

    Args:
        folder: where the files go.
        recipe: what was trained.
        network: the trained network.
        data: its data; the validation split is what is drawn.
        logits: the network's outputs over the validation split, (N, classes).
        calibration: what they are divided by.
        history: the epochs.

    Raises:
        RunError: a file cannot be written.
    """
    split, labels = data.validation, data.validation.labels.numpy()
    before, after = (how.probabilities(logits, split.lengths).numpy() for how in (Calibration(1.0), calibration))
    try:
        folder.mkdir(exist_ok=True)
        pictures.curves([vars(epoch) for epoch in history], folder / "curves.png")
        pictures.confusion(after, labels, recipe.labels, folder / "confusion.png")
        pictures.reliability(before, after, labels, folder / "reliability.png")
        first = next((module for module in network.modules() if isinstance(module, nn.Conv2d)), None)
        if first is not None:
            pictures.filters(first.weight.detach().numpy(), folder / "filters.png")
        said, confidence = after.argmax(axis=1), after.max(axis=1)
        if isinstance(recipe.input, Image):
            shown = split.inputs.numpy()
            pictures.mistakes(shown, labels, said, confidence, recipe.labels, folder / "mistakes.png")
        else:
            pictures.mistaken_texts(_texts(data), labels, said, confidence, recipe.labels, folder / "mistakes.md")
    except OSError as error:
        raise RunError(f"{folder}: the pictures cannot be written: {error}. The checkpoints are whole.") from error


def _texts(data: Dataset) -> list[str]:
    """The validation split's texts as the network reads them: their tokens, those outside of the vocabulary marked."""
    assert data.tokenizer is not None, "texts come with their tokenizer"
    tokenizer = Tokenizer.from_str(data.tokenizer)
    rows = data.validation.inputs
    return [tokenizer.decode(row[row != 0].tolist(), skip_special_tokens=False) for row in rows]
