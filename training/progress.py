"""Progress on standard error: a bar on a terminal, one line for each epoch elsewhere."""

import sys
import time
from types import TracebackType
from typing import Self

from tqdm import tqdm


def say(line: str) -> None:
    """Print a line on standard error."""
    print(line, file=sys.stderr, flush=True)  # noqa: T201 -- the purpose of this function


class EpochBar:
    """The progress of one epoch: examples, loss and accuracy so far, speed, time left; then a line with the results.

    The bar fits the terminal, which cuts what is too long; so the line takes its place.

    The time left includes that of `later` epochs of the same run, such as those of a refit.
    """

    def __init__(self, epoch: int, epochs: int, examples: int, *, later: int = 0, visible: bool = True) -> None:
        self._terminal = visible and sys.stderr.isatty()
        self._visible = visible
        self._started, self._epochs_left = time.perf_counter(), epochs - epoch + later
        self._title, self._line = f"epoch {epoch:>{len(str(epochs))}}/{epochs}", ""
        self._bar = tqdm(
            total=examples,
            desc=self._title,
            unit="",
            disable=not self._terminal,
            dynamic_ncols=True,
            leave=False,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.close()
        if kind is None and self._visible:
            say(f"{self._title}: {self._line}")

    def step(self, seen: int, loss: float, accuracy: float) -> None:
        """Show loss and accuracy after `seen` examples."""
        self._line = f"loss {loss:.4f}, accuracy {accuracy:.2%}"
        self._bar.set_postfix_str(self._line, refresh=False)
        self._bar.update(seen - self._bar.n)

    def finish(self, validation_loss: float | None, validation_accuracy: float | None) -> None:
        """Show the results of the epoch."""
        if validation_loss is not None and validation_accuracy is not None:
            self._line += f", validation loss {validation_loss:.4f}, accuracy {validation_accuracy:.2%}"
        seconds = time.perf_counter() - self._started
        left = f", about {duration(seconds * self._epochs_left)} left" if self._epochs_left else ""
        self._line += f", {seconds:.0f} s{left}"


class StepBar:
    """The progress of a number of steps on a terminal, with a text about the last; nothing elsewhere."""

    def __init__(self, title: str, steps: int) -> None:
        terminal = sys.stderr.isatty()
        self._bar = tqdm(total=steps, desc=title, unit=" steps", disable=not terminal, dynamic_ncols=True, leave=False)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.close()

    def step(self, text: str) -> None:
        """Show a finished step."""
        self._bar.set_postfix_str(text, refresh=False)
        self._bar.update()


def duration(seconds: float) -> str:
    """A time for people, like 12 min."""
    return f"{seconds / 60:.0f} min" if seconds >= 90 else f"{seconds:.0f} s"  # noqa: PLR2004 -- a minute and a half
