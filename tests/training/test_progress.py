"""Progress on a terminal and elsewhere."""

import io

import pytest

from training.progress import EpochBar


class Terminal(io.StringIO):
    """A standard error that says that it is a terminal."""

    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize("is_terminal", [True, False])
def test_the_line_of_an_epoch_is_whole(is_terminal: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """A bar is cut to the width of the terminal; the results of the epoch are not, and take its place."""
    error = Terminal() if is_terminal else io.StringIO()
    monkeypatch.setattr("sys.stderr", error)
    monkeypatch.setenv("COLUMNS", "60")
    with EpochBar(1, 2, 80) as bar:
        bar.step(80, 0.5, 0.75)
        bar.finish(0.25, 0.875)
    shown = error.getvalue().split("\r")[-1]
    assert shown.startswith("epoch 1/2: loss 0.5000, accuracy 75.00%, validation loss 0.2500, accuracy 87.50%, 0 s")
    assert shown.endswith(" left\n")
    assert ("/80 [" in error.getvalue()) is is_terminal
