"""The pages of the documentation, and the blocks of code in them."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]

GUIDES = (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")), ROOT / "CONTRIBUTING.md")
"""The pages with commands, each of which a test runs."""
PAGES = (*GUIDES, ROOT / "CHANGELOG.md", ROOT / "SECURITY.md")

_BLOCK = re.compile(
    r"""
    (?: ^<!--\ (?P<note>[^\n]*)\ -->\n )?
    ^```(?P<language>\w*)\n (?P<code>.*?) ^```$
    (?: \n\n```(?P<kind>json|text)\n (?P<answer>.*?) ^```$ )?
    """,
    re.DOTALL | re.MULTILINE | re.VERBOSE,
)


@dataclass(frozen=True)
class Block:
    """A fenced block of code."""

    page: str
    line: int
    language: str
    code: str
    note: str
    """The HTML comment above the block, like `not run: it needs Docker`; empty if it has none."""
    answer: str
    """What the last command prints: the block of JSON or text below; empty if it has none."""

    def __str__(self) -> str:
        return f"{self.page}:{self.line}"


def name_of(page: Path) -> str:
    """A page's path inside the repository."""
    return page.relative_to(ROOT).as_posix()


def blocks(page: Path) -> Iterator[Block]:
    """The blocks of a page, in order."""
    text = page.read_text(encoding="utf-8")
    for match in _BLOCK.finditer(text):
        line = text.count("\n", 0, match.start("code"))
        yield Block(
            name_of(page), line, match["language"], match["code"], match["note"] or "", (match["answer"] or "").strip()
        )


def prose(page: Path) -> str:
    """A page without its blocks of code."""
    return _BLOCK.sub("", page.read_text(encoding="utf-8"))
