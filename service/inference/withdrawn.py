"""models/NAME/withdrawn.json: the versions of a model that must not be served, for all workers and later starts."""

import fcntl
import json
import os
import re
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from contract.errors import ModelRefused
from service.errors import ReadOnly

FILE = "withdrawn.json"

_NUMBER = re.compile(r"[0-9]{1,9}")


def read(folder: Path) -> set[int]:
    """The withdrawn versions of the model in a folder; none without the file. Numbers may stand in quotes.

    Raises:
        ModelRefused: the file cannot be read, or is not a list of versions.
    """
    path = folder / FILE
    try:
        path.lstat()  # in contrast to a link to nothing, a missing file withdraws nothing
        if not path.is_file():  # a pipe would never end
            raise ModelRefused(f"{path}: is not a regular file")
        content = json.loads(path.read_text(encoding="utf-8-sig"))
    except FileNotFoundError:
        return set()
    except (OSError, ValueError, RecursionError) as error:
        raise ModelRefused(f"{path}: cannot be read: {error}") from error
    if not isinstance(content, list) or not all(
        type(number) is int or (isinstance(number, str) and _NUMBER.fullmatch(number)) for number in content
    ):
        raise ModelRefused(f"{path}: has another form; expected a list of versions, such as [1, 2]")
    return {int(number) for number in content}


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
