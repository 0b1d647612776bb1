"""A short soak test, and tests of its findings."""

import asyncio
from pathlib import Path

import pytest

from tests.fuzz import soak
from tests.fuzz.soak import Tally

SPARE_MIB = 64.0
"""Growth allowed in a short run, in which not every thread has decoded its largest image yet. A leak of the decoded
images of one kind of request would be several times as large."""


@pytest.mark.slow
def test_a_short_soak_has_no_findings(tmp_path: Path) -> None:
    """Under valid, invalid, aborted and slow requests, every response is as expected and no file stays open."""
    with soak.serving(tmp_path) as server:
        tally = asyncio.run(soak.soak(server, 8.0, 0, print))
        outcomes = asyncio.run(soak.inject_faults(server))
    assert tally.answered["digit"] > 0
    assert tally.answered["resets"] > 0
    assert not soak.findings(tally, SPARE_MIB)
    for fault, outcome in outcomes.items():
        assert outcome.sent > 0
        assert not outcome.findings(fault)


def tally(memory: list[float], files: list[int]) -> Tally:
    """A tally with samples at regular intervals."""
    return Tally(samples=[(float(at_s), *sample) for at_s, sample in enumerate(zip(memory, files, strict=True))])


@pytest.mark.parametrize(
    ("measured", "finding"),
    [
        (tally([100] * 10, [20] * 10), ""),
        (tally([50, 80, 100, 100, 100, 100, 100, 100, 100, 100], [20] * 10), ""),
        (tally([100 + 10 * at for at in range(10)], [20] * 10), "memory grew"),
        (tally([100] * 10, [20] * 9 + [30]), "open files grew"),
    ],
    ids=["flat", "start", "leak", "files"],
)
def test_growth_is_a_finding(measured: Tally, finding: str) -> None:
    """Memory that grows after the start, and files that stay open, are findings; growth at the start is not."""
    assert finding in "".join(soak.findings(measured))
    assert bool(soak.findings(measured)) is bool(finding)


def test_lost_and_wrong_responses_are_findings() -> None:
    """A request without a response, or with an unexpected status, is a finding."""
    measured = tally([100] * 10, [20] * 10)
    measured.lost, measured.wrong = 2, ["digit: status 500, expected [200]"]
    wrong, lost = soak.findings(measured)
    assert wrong == measured.wrong[0]
    assert lost.startswith("2 requests")
