"""Results of runs: for people to read, and as files."""

import json
from pathlib import Path

import pytest

from contract.manifest import Metrics
from training.errors import RunError
from training.network.calibrated import REFERENCE
from training.runs.record import temperature_text
from training.runs.result import Fold, Result, pooled

METRICS = Metrics(n=5000, accuracy=0.9626, nll=0.13, ece=0.0051)


def test_a_result_is_printed_with_its_metrics() -> None:
    """Seconds, accuracy, n, calibration error and temperature are in one line."""
    text = str(Result(temperature=0.5, validation=METRICS, seconds=1416.3, fingerprint="sha256:0"))
    for fact in ("1,416 s", "96.26%", "n = 5,000", "0.0051", "0.5000"):
        assert fact in text
    assert "tokens" not in text
    assert "\n" not in text


def test_a_cross_validation_is_printed_with_its_deviation() -> None:
    """The standard deviation of two folds at 70 and 80 % is 7.07 points."""
    folds = tuple(Metrics(n=100, accuracy=accuracy, nll=1, ece=0) for accuracy in (0.7, 0.8))
    text = str(Result(temperature=1, validation=pooled(folds), seconds=5, fingerprint="sha256:0", folds=folds))
    for fact in ("2 folds", "75.00%", "n = 200", "7.07%"):
        assert fact in text


def test_a_temperature_has_the_reference_length_of_the_calibration() -> None:
    """The text names the length in tokens at which the temperature is that of the calibration."""
    assert temperature_text(0.8193, -0.1305) == f"0.8193 * (tokens / {REFERENCE})^-0.131"
    assert temperature_text(0.8193, 0.0) == "0.8193"


def test_a_file_is_read_as_it_was_written(tmp_path: Path) -> None:
    """Nothing else is left in the folder, and a missing file is None."""
    fold = Fold(metrics=METRICS, seconds=0.1, fingerprint="sha256:0")
    assert Fold.read(tmp_path / "fold-01.json") is None
    fold.write(tmp_path / "fold-01.json")
    assert Fold.read(tmp_path / "fold-01.json") == fold
    assert [path.name for path in tmp_path.iterdir()] == ["fold-01.json"]


def test_a_file_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    """A missing folder is a RunError that names the file."""
    with pytest.raises(RunError, match=r"gone/fold\.json"):
        Fold(metrics=METRICS, seconds=1, fingerprint="").write(tmp_path / "gone/fold.json")


def test_results_of_older_runs_can_be_read(tmp_path: Path) -> None:
    """Fields that were added later have defaults."""
    older = {"temperature": 1.5, "validation": METRICS.model_dump(), "seconds": 9, "fingerprint": "sha256:0"}
    (tmp_path / "result.json").write_text(json.dumps(older))
    result = Result.read(tmp_path / "result.json")
    assert result is not None
    assert (result.folds, result.length_exponent, result.validation) == ((), 0.0, METRICS)
