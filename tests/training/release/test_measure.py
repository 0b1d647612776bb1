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
    assert "accuracy 97.50% (1 of 40 wrong)" in lines
    assert lines[-1] == f"7 {int(labels[7])} {predictions[7]} {probabilities[7].max():.3f}"


def test_a_version_that_cannot_be_loaded_is_refused(tmp_path: Path) -> None:
    """The error names the folder without a manifest."""
    with pytest.raises(PublishError, match=str(tmp_path)):
        next(measure(tmp_path))
