"""What training refuses, and how it says so.

TrainingError
├── RecipeError    a recipe that cannot be read, checked or built
├── DataError      a data set that is not there or not what it should be
├── RunError       a run folder that cannot be continued or used
└── PublishError   a model that may not go into service
"""


class TrainingError(Exception):
    """Something the user can mend; the command line prints its message alone and exits with 2."""


class RecipeError(TrainingError):
    """A recipe that cannot be read, checked or built."""


class DataError(TrainingError):
    """A data set that is not there or not what it should be."""


class RunError(TrainingError):
    """A run folder that cannot be continued or used."""


class PublishError(TrainingError):
    """A model that may not go into service."""
