"""The errors of training.

TrainingError
├── RecipeError    a recipe that cannot be read, checked or built
├── DataError      a data set that is missing, damaged or not the expected one
├── RunError       a run that cannot be started, resumed or used
│   └── LostProcess  another process of the same training ended
└── PublishError   a model that cannot be published
"""

from collections.abc import Sequence


class TrainingError(Exception):
    """An error that the user can fix; the command line prints its message and exits with status 2."""


class RecipeError(TrainingError):
    """A recipe that cannot be read, checked or built."""


class DataError(TrainingError):
    """A data set that is missing, damaged or not the expected one."""


class RunError(TrainingError):
    """A run that cannot be started, resumed or used."""


class LostProcess(RunError):
    """Another process of the same training ended, so this one cannot go on; `ranks` of those, if they are known."""

    def __init__(self, message: str, ranks: Sequence[int] = ()) -> None:
        super().__init__(message)
        self.ranks = ranks


class PublishError(TrainingError):
    """A model that cannot be published."""
