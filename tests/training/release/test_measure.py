"""The measurement of a published model."""

from pathlib import Path

import pytest
import torch

from contract.manifest import GRAPH
from contract.manifest import read as read_manifest
from contract.session import Session
from training.data.dataset import Split
from training.errors import PublishError
from training.release.measure import measure

DIGITS = Path(__file__).resolve().parents[3] / "models/digits/1"


def test_the_metrics_and_the_mistakes_are_printed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of 40 images with one wrong label the accuracy is 97.5 %, and the mistake is named with both labels."""
    images = torch.randint(0, 256, (40, 28, 28, 1), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    probabilities = Session(DIGITS / GRAPH, read_manifest(DIGITS), provider="cpu").run(images.numpy())
    predictions = probabilities.argmax(axis=1)
    labels = torch.from_numpy(predictions.copy())
    labels[7] = (labels[7] + 1) % 10
    monkeypatch.setattr("training.release.gate.catalogue.tests", lambda *_: {"noise": Split(images, labels)})
    lines = [" ".join(line.split()) for line in measure(DIGITS)]
    assert "62,026 parameters" in lines[0]
    assert "\n".join(lines).count("n = 40") == 1
    assert "accuracy 97.50% (1 of 40 wrong), 95 % interval 87.1-99.6 %" in lines
    counts = labels.bincount(minlength=10)
    assert f"always '{int(counts.argmax())}' {int(counts.max()) / 40:.2%}" in lines
    right, label = int(predictions[7]), int(labels[7])
    recall = f"{100 * (1 - 1 / int(counts[label])):.2f}%"
    rows = {tuple(cells[:2]): cells[2:] for cells in map(str.split, lines) if len(cells) == 5}
    assert rows["label", "n"] == ["precision", "recall", "F1"]
    assert rows[str(label), str(int(counts[label]))][1] == recall
    assert not counts[right] or rows[str(right), str(int(counts[right]))][1] == "100.00%"
    assert lines[-1] == f"7 {int(labels[7])} {predictions[7]} {probabilities[7].max():.3f}"


def test_mistakes_in_files_have_their_paths(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where each example is a file, its path stands beside the mistake, so that a wrong label can be mended."""
    images = torch.zeros(3, 28, 28, 1, dtype=torch.uint8)
    (prediction,) = set(
        Session(DIGITS / GRAPH, read_manifest(DIGITS), provider="cpu").run(images.numpy()).argmax(axis=1)
    )
    split = Split(images, torch.tensor([prediction, (prediction + 1) % 10, prediction]), ("a.png", "b c.png", "d.png"))
    monkeypatch.setattr("training.release.gate.catalogue.tests", lambda *_: {"files": split})
    assert list(measure(DIGITS))[-1].split("  ")[2].strip() == "b c.png"


def test_a_version_that_cannot_be_loaded_is_refused(tmp_path: Path) -> None:
    """The error names the folder without a manifest."""
    with pytest.raises(PublishError, match=str(tmp_path)):
        next(measure(tmp_path))
