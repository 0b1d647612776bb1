"""One line of the doctor; it imports nothing that could be missing."""

from dataclasses import dataclass
from typing import Literal

State = Literal["ok", "warning", "wrong"]


@dataclass(frozen=True)
class Finding:
    """One line: what was looked at, its state, what is there, and what to do, if anything."""

    name: str
    state: State
    found: str
    todo: str = ""

    def __str__(self) -> str:
        todo = f"\n         {self.todo}" if self.todo else ""
        return f"{self.state:<8} {self.name}: {self.found}{todo}"
