"""The plots and the list of mistakes that a run leaves, made from its validation split."""

from collections.abc import Sequence
from pathlib import Path

from matplotlib.figure import Figure
from tokenizers import Tokenizer
from torch import Tensor, nn

from training.data.dataset import Dataset
from training.errors import RunError
from training.evaluation import metrics as evaluate
from training.fit.state import Epoch
from training.network.calibrated import Calibration
from training.recipe.layers import Reshape
from training.recipe.schema import Recipe
from training.runs import mistakes, plots, strongest


def write(
    folder: Path,
    recipe: Recipe,
    network: nn.Module,
    data: Dataset,
    logits: Tensor,
    calibration: Calibration,
    history: Sequence[Epoch],
    published: int | None = None,
) -> None:
    """Write learning curves, confusion matrix, recall and precision, reliability, filters and confident mistakes.

    Each says which recipe, data, split, number of examples and epoch it shows.

    Args:
        folder: where the files go; it is made where it is missing.
        recipe: the experiment, with the name of each class.
        network: the trained network.
        data: its data, of which the validation split is shown.
        logits: the network's outputs over the validation split, (N, classes).
        calibration: turns the logits into probabilities.
        history: the epochs of the training.
        published: the epoch whose weights are published; by default the last.

    Raises:
        RunError: a file cannot be written.
    """
    split, truth, labels = data.validation, data.validation.labels.numpy(), recipe.labels
    before, after = (each.probabilities(logits, split.lengths).numpy() for each in (Calibration(1.0), calibration))
    wrong = evaluate.mistakes(after, split.labels)
    name = f"recipe {recipe.name}, data {recipe.data.title}"
    epoch = f"epoch {published or len(history)} of {recipe.epochs}"
    caption = f"{name}, validation split, n = {len(split):,}, {epoch}"
    by_class = zip(labels, evaluate.by_class(after.argmax(axis=1), truth, len(labels)), strict=True)
    curves = f"{name}, training n = {len(data.train):,}, validation n = {len(split):,}"
    figures = {
        "curves": plots.learning_curves([vars(each) for each in history], published, curves),
        "confusion": plots.confusion_matrix(after, truth, labels, caption),
        "classes": plots.classes([(label, each.n, each.recall, each.precision) for label, each in by_class], caption),
        "reliability": plots.reliability_diagram(before, after, truth, caption),
        **({} if data.tokenizer else _filters(network, f"{name}, {epoch}", has_images=_starts_on_images(recipe))),
    }
    pages: dict[str, str] = {}
    if data.tokenizer is None:
        figures["mistakes"] = mistakes.image_figure(split.inputs.numpy(), wrong, labels, split.files, caption)
    else:
        pages["mistakes"] = mistakes.text_page(
            _texts(split.inputs, data.tokenizer), wrong, labels, split.files, caption
        )
        ngrams = strongest.page(network, split, data.tokenizer, caption)
        pages |= {"filters": ngrams} if ngrams else {}
    try:
        folder.mkdir(exist_ok=True)
        for file, figure in figures.items():
            plots.save(figure, folder / f"{file}.png")
        for file, page in pages.items():
            (folder / f"{file}.md").write_text(page, encoding="utf-8")
    except OSError as error:
        raise RunError(f"{folder}: cannot write the plots: {error}. The checkpoints are complete.") from error


def _filters(network: nn.Module, caption: str, *, has_images: bool) -> dict[str, Figure]:
    """A figure for each convolution, `filters` for the first, `filters-2` and so on for the others.

    `has_images` says whether the first one sees the pixels of images. Filters along one axis are drawn as lines, those
    in three as their slices along the first.
    """
    convs = [module for module in network.modules() if isinstance(module, nn.Conv1d | nn.Conv2d | nn.Conv3d)]
    figures = {}
    for number, conv in enumerate(convs, start=1):
        weights = conv.weight.detach()
        count, *_, width = weights.shape
        height = weights.shape[-2] if weights.ndim > 3 else 1  # noqa: PLR2004 -- filters, channels and one axis
        figures[f"filters-{number}" if number > 1 else "filters"] = plots.filters(
            weights.reshape(count, -1, height, width).numpy(),
            f"{caption}, convolution {number} of {len(convs)}",
            over_images=has_images and number == 1,
        )
    return figures


def _starts_on_images(recipe: Recipe) -> bool:
    return not any(isinstance(layer, Reshape) for layer in recipe.layers)


def _texts(tokens: Tensor, tokenizer: str) -> list[str]:
    """Token ids (N, L) as texts: what the network reads, with the words outside of the vocabulary marked."""
    rows = [row[row != 0].tolist() for row in tokens]
    texts: list[str] = Tokenizer.from_str(tokenizer).decode_batch(rows, skip_special_tokens=False)
    return texts
