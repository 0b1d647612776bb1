"""The soak, in its short form."""

import asyncio
from pathlib import Path

import pytest

from tests.fuzz import soak
from tests.fuzz.soak import Tally

SPARE_MIB = 64.0
"""What memory may still gain after seconds, in which not every thread has had its largest picture. To keep the decoded
pictures of one kind of request would take several times as much."""


@pytest.mark.slow
def test_a_short_soak_finds_nothing(tmp_path: Path) -> None:
    """Some seconds of good, bad, broken-off and cancelled requests: each answer as it should be, nothing kept open."""
    with soak.serving(tmp_path) as server:
        tally = asyncio.run(soak.soak(server, 8.0, 0, print))
        outcomes = asyncio.run(soak.faulty(server))
    assert tally.answered["digit"] > 0
    assert tally.answered["resets"] > 0
    assert not soak.findings(tally, SPARE_MIB)
    for fault, outcome in outcomes.items():
        assert outcome.sent > 0
        assert not outcome.findings(fault)


def tally(memory: list[float], files: list[int]) -> Tally:
    """A tally whose samples came at even times."""
    return Tally(samples=[(float(at), *held) for at, held in enumerate(zip(memory, files, strict=True))])


@pytest.mark.parametrize(
    ("found", "said"),
    [
        (tally([100] * 10, [20] * 10), ""),
        (tally([50, 80, 100, 100, 100, 100, 100, 100, 100, 100], [20] * 10), ""),
        (tally([100 + 10 * at for at in range(10)], [20] * 10), "memory grew"),
        (tally([100] * 10, [20] * 9 + [30]), "open files grew"),
    ],
    ids=["flat", "start", "leak", "files"],
)
def test_what_grows_is_found(found: Tally, said: str) -> None:
    """Memory that grows after the start, and files that stay open, are findings; the start's own growth is none."""
    assert said in "".join(soak.findings(found))
    assert bool(soak.findings(found)) is bool(said)


def test_lost_and_wrong_answers_are_found() -> None:
    """A request without an answer, or with another status than it deserves, is a finding."""
    found = tally([100] * 10, [20] * 10)
    found.lost, found.wrong = 2, ["digit: answered 500, expected [200]"]
    assert soak.findings(found) == ["digit: answered 500, expected [200]", "2 requests have no answer"]
