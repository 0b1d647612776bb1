"""Examples of the user's own data before they are decoded, and what was seen on the way to them. Needs no torch."""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, NamedTuple

SplitName = Literal["", "train", "validation", "test"]
"""The split that the data give an example; "" if they give none."""
SPLITS: dict[str, SplitName] = {
    **dict.fromkeys(("train", "training", "trn"), "train"),
    **dict.fromkeys(("val", "valid", "validation", "dev", "eval"), "validation"),
    **dict.fromkeys(("test", "testing", "tst"), "test"),
}
"""What people call the splits, in lower case."""

_SHOWN = 5  # names in a list of many


@dataclass(frozen=True, slots=True)
class Example:
    """One labelled image file or text."""

    content: Path | str
    label: str
    source: str
    """How people find it: the path of the file, or the table and the row, from 1 without the header."""
    split: SplitName = ""
    group: str = ""


class LeftOut(NamedTuple):
    """A file or a row that is not used, and why."""

    source: str
    reason: str

    def __str__(self) -> str:
        return f"{self.source}: {self.reason}"


@dataclass
class Found:
    """What is in a folder or a table."""

    kind: Literal["image", "text"]
    examples: list[Example] = field(default_factory=list)
    left_out: list[LeftOut] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    """Sentences about the data as a whole: how a table was read, and which names were passed over."""

    @property
    def labels(self) -> list[str]:
        """The labels, in natural order: numbers by their value, others by the alphabet."""
        return natural({example.label for example in self.examples})

    @property
    def splits(self) -> Counter[SplitName]:
        """How many examples are in each split that the data give."""
        return Counter(example.split for example in self.examples)


def natural(words: Iterable[str]) -> list[str]:
    """Words in order, numbers by their value."""
    return sorted(words, key=lambda word: (not word.isdecimal(), int(word) if word.isdecimal() else 0, word))


def listed(words: Sequence[str], shown: int = _SHOWN) -> str:
    """Some words, and how many more there are."""
    more = len(words) - shown
    return ", ".join(words[:shown]) + (f" and {more:,} more" if more > 0 else "")
