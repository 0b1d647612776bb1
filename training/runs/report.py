"""The plots and the list of mistakes that a run leaves, made from its validation split."""

from collections.abc import Sequence
from pathlib import Path

from tokenizers import Tokenizer
from torch import Tensor, nn

from training.data.dataset import Dataset
from training.errors import RunError
from training.evaluation import metrics as evaluate
from training.fit.state import Epoch
from training.network.calibrated import Calibration
from training.runs import mistakes, plots


def write(
    folder: Path,
    labels: Sequence[str],
    network: nn.Module,
    data: Dataset,
    logits: Tensor,
    calibration: Calibration,
    history: Sequence[Epoch],
    published: int | None = None,
) -> None:
    """Write learning curves, confusion matrix, reliability diagram, first filters and most confident mistakes.

    Args:
        folder: where the files go; it is made where it is missing.
        labels: the name of each class.
        network: the trained network.
        data: its data, of which the validation split is shown.
        logits: the network's outputs over the validation split, (N, classes).
        calibration: turns the logits into probabilities.
        history: the epochs of the training.
        published: the epoch whose weights are published; by default the last.

    Raises:
        RunError: a file cannot be written.
    """
    split, truth = data.validation, data.validation.labels.numpy()
    before, after = (each.probabilities(logits, split.lengths).numpy() for each in (Calibration(1.0), calibration))
    wrong = evaluate.mistakes(after, split.labels)
    figures = {
        "curves": plots.learning_curves([vars(epoch) for epoch in history], published),
        "confusion": plots.confusion_matrix(after, truth, labels),
        "reliability": plots.reliability_diagram(before, after, truth),
    }
    first = next((module for module in network.modules() if isinstance(module, nn.Conv2d)), None)
    if first is not None:
        figures["filters"] = plots.filters(first.weight.detach().numpy())
    if data.tokenizer is None:
        figures["mistakes"] = mistakes.image_figure(split.inputs.numpy(), wrong, labels)
    try:
        folder.mkdir(exist_ok=True)
        for name, figure in figures.items():
            plots.save(figure, folder / f"{name}.png")
        if data.tokenizer is not None:
            page = mistakes.text_page(_texts(split.inputs, data.tokenizer), wrong, labels)
            (folder / "mistakes.md").write_text(page, encoding="utf-8")
    except OSError as error:
        raise RunError(f"{folder}: cannot write the plots: {error}. The checkpoints are complete.") from error


def _texts(tokens: Tensor, tokenizer: str) -> list[str]:
    """Token ids (N, L) as texts: what the network reads, with the words outside of the vocabulary marked."""
    rows = [row[row != 0].tolist() for row in tokens]
    texts: list[str] = Tokenizer.from_str(tokenizer).decode_batch(rows, skip_special_tokens=False)
    return texts
