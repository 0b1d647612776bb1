"""The versions in models/: each is complete, small, and computes what it did when it was published."""

import math
from pathlib import Path

import pytest

from contract import manifest as contract
from service.inference.version import open_version
from service.settings import Settings
from tests.serving import ROOT

VERSIONS = sorted(path.parent.relative_to(ROOT).as_posix() for path in (ROOT / "models").glob("*/*/manifest.json"))
MAX_BYTES = 25_000_000


def test_a_model_of_digits_exists() -> None:
    """The repository has a model of digits."""
    assert "models/digits/1" in VERSIONS


@pytest.mark.parametrize("version", VERSIONS)
def test_a_published_version_loads_and_replays(version: str) -> None:
    """The service opens it, hashes match, and the golden inputs give the stored outputs."""
    folder = ROOT / version
    opened = open_version(folder, Settings(provider="cpu"))
    opened.session.replay(folder)
    assert opened.manifest.model == folder.parent.name
    assert opened.card.startswith(f"# {opened.name}, version {opened.number}")


@pytest.mark.parametrize("version", VERSIONS)
def test_a_published_version_is_small_and_complete(version: str) -> None:
    """The files of a version have at most 25 MB together, and the manifest names each of them."""
    folder: Path = ROOT / version
    assert sum(path.stat().st_size for path in folder.iterdir()) <= MAX_BYTES
    assert {path.name for path in folder.iterdir()} == {contract.MANIFEST, *contract.read(folder).files}


@pytest.mark.parametrize("version", VERSIONS)
def test_a_published_version_was_calibrated(version: str) -> None:
    """The calibration error is at most 0.02, and what chance adds with so few examples; splits have 1,000 or more.

    The share of correct predictions among the n_b examples of a bin differs from its expectation by
    sqrt(1 / (2 pi n_b)) or less on average, and two classes fill 8 of 15 bins. Both errors are independent, so that
    their squares add up.
    """
    for name, metrics in contract.read(ROOT / version).test_metrics.items():
        assert metrics.ece <= math.hypot(0.02, math.sqrt(8 / (2 * math.pi * metrics.n))), name
        assert metrics.n >= 1000, name
