"""The versions that the repository carries: each is whole, computes what it did when it was published, and is small."""

import math
from pathlib import Path

import pytest

from contract import manifest as contract
from service.inference.repository import open_version
from service.settings import Settings
from tests.serving import ROOT

VERSIONS = sorted(path.parent.relative_to(ROOT).as_posix() for path in (ROOT / "models").glob("*/*/manifest.json"))
MAX_BYTES = 25_000_000


def test_the_models_are_there() -> None:
    """Digits can be read out of the box."""
    assert "models/digits/1" in VERSIONS


@pytest.mark.parametrize("version", VERSIONS)
def test_a_published_version_loads_and_replays(version: str) -> None:
    """Hashes hold, and the stored outputs of the golden inputs come out again; the service opens it as it would."""
    folder = ROOT / version
    opened = open_version(folder, Settings(provider="cpu"))
    opened.session.replay(folder)
    assert opened.manifest.model == folder.parent.name
    assert opened.card.startswith(f"# {opened.name}, version {opened.number}")


@pytest.mark.parametrize("version", VERSIONS)
def test_a_published_version_is_fit_for_a_repository(version: str) -> None:
    """All files of a version take at most 25 MB, and nothing lies beside what the manifest names."""
    folder: Path = ROOT / version
    assert sum(path.stat().st_size for path in folder.iterdir()) <= MAX_BYTES
    assert {path.name for path in folder.iterdir()} == {contract.MANIFEST, *contract.read(folder).files}


@pytest.mark.parametrize("version", VERSIONS)
def test_a_published_version_was_calibrated(version: str) -> None:
    """The calibration error is at most 0.02, or what chance alone makes of so few examples; each split is a real one.

    Among n_b examples of a bin the share of right ones is off by sqrt(1 / (2 pi n_b)) or less on average, and two
    classes fill 8 of 15 bins.
    """
    for name, metrics in contract.read(ROOT / version).test_metrics.items():
        assert metrics.ece <= max(0.02, math.sqrt(8 / (2 * math.pi * metrics.n))), name
        assert metrics.n >= 1000, name
