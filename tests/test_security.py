"""SECURITY.md's promises, each held by tests that are there."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
SECURITY = (ROOT / "SECURITY.md").read_text(encoding="utf-8")
TEST = re.compile(r"`(tests/[\w/]+\.py)::(test_\w+)`")


def rows() -> list[list[str]]:
    """The cells of the table's rows: threat, promise, tests."""
    table = SECURITY.split("| --- | --- | --- |\n", 1)[1]
    return [[cell.strip() for cell in line.strip("|").split(" | ")] for line in table.splitlines() if line]


@pytest.mark.parametrize(("threat", "promise", "shown"), rows(), ids=lambda cell: cell[:40])
def test_every_promise_is_shown_by_tests_that_exist(threat: str, promise: str, shown: str) -> None:
    """Each row names tests and nothing else, and each of them is a function of its file."""
    assert threat
    assert promise
    named = TEST.findall(shown)
    assert named
    assert TEST.sub("", shown).strip() == ""
    for path, name in named:
        assert re.search(rf"^def {name}\(", (ROOT / path).read_text(encoding="utf-8"), re.MULTILINE), f"{path}::{name}"


def test_it_says_how_to_report_and_what_is_supported() -> None:
    """The headings that someone who found a vulnerability looks for."""
    for heading in ("## Report a vulnerability", "## Supported versions"):
        assert heading in SECURITY
