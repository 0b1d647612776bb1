"""models/NAME/withdrawn.json: the versions of a model that must not be served, for all workers and later starts."""

import fcntl
import json
import logging
import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from service.errors import ReadOnly

logger = logging.getLogger("bentoml.convoke")

FILE = "withdrawn.json"


def read(folder: Path) -> set[int]:
    """The withdrawn versions of the model in a folder; none if the file cannot be read."""
    path = folder / FILE
    if not path.is_file():  # a pipe would never end
        return set()
    try:
        numbers = json.loads(path.read_text(encoding="utf-8"))
        return {number for number in numbers if type(number) is int}
    except FileNotFoundError:
        return set()
    except (OSError, ValueError, TypeError) as error:
        logger.warning("%s cannot be read, so no version counts as withdrawn: %s", path, error)
        return set()


def write(folder: Path, numbers: set[int]) -> None:
    """Replace the file in one step.

    Raises:
        ReadOnly: the folder cannot be written.
    """
    path = folder / FILE
    new = folder / f".{FILE}-{os.getpid()}"
    try:
        new.write_text(json.dumps(sorted(numbers)) + "\n", encoding="utf-8")
        new.replace(path)
    except OSError as error:
        raise ReadOnly(f"{path} cannot be written: {error.strerror}; the served versions do not change") from error


@contextmanager
def lock(folder: Path) -> Iterator[None]:
    """Keep other workers from changing the file, if the file system supports locks."""
    with ExitStack() as stack:
        with suppress(OSError):
            descriptor = os.open(folder, os.O_RDONLY)
            stack.callback(os.close, descriptor)
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
