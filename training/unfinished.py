"""Files and folders that are renamed into their place when they are complete: their names until then.

A process that is killed leaves them behind. Their names tell which process of which machine writes them, so that the
next one removes what is left of those that are gone.
"""

import os
import re
import shutil
import socket
from contextlib import suppress
from pathlib import Path


def name(start: str) -> str:
    """A hidden name for this process: `.START-HOST-PID-`."""
    return f".{start}-{_host()}-{os.getpid()}-"


def remove(folder: Path, start: str) -> None:
    """Remove what killed processes of this machine left in a folder under names of `name(start)`."""
    pattern = re.compile(rf"\.{re.escape(start)}-{re.escape(_host())}-(\d+)-.*")
    for path in folder.iterdir() if folder.is_dir() else []:
        match = pattern.fullmatch(path.name)
        if match and not _runs(int(match[1])):
            if path.is_dir():
                shutil.rmtree(path, ignore_errors=True)
            else:
                with suppress(OSError):
                    path.unlink()


def _host() -> str:
    return re.sub(r"\W", "", socket.gethostname()) or "host"


def _runs(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except OSError:  # it belongs to another user
        return True
    return True
