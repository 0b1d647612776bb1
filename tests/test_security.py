"""Every promise in SECURITY.md is covered by tests that exist."""

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


@pytest.mark.parametrize(("threat", "promise", "tests"), rows(), ids=lambda cell: cell[:40])
def test_every_promise_is_covered_by_tests(threat: str, promise: str, tests: str) -> None:
    """Each row names only tests, and each test is a function in its file."""
    assert threat
    assert promise
    names = TEST.findall(tests)
    assert names
    assert TEST.sub("", tests).strip() == ""
    for path, name in names:
        assert re.search(rf"^def {name}\(", (ROOT / path).read_text(encoding="utf-8"), re.MULTILINE), f"{path}::{name}"


def test_reporting_and_supported_versions_are_documented() -> None:
    """The headings that a reporter of a vulnerability looks for."""
    for heading in ("## Report a vulnerability", "## Supported versions"):
        assert heading in SECURITY
