"""The folder of a version, models/NAME/VERSION: read, built and moved into its place.

A version is built in a hidden folder beside its place and renamed when it is complete, so that a publication that is
killed leaves no incomplete version: the service reads only folders whose name is a number.
"""

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from contract.errors import ConvokeError
from contract.manifest import CARD, MANIFEST, Manifest, sha256, verify
from contract.manifest import read as read_manifest
from training import unfinished
from training.errors import PublishError

_PUBLISHING = "publishing"


def open_version(folder: Path) -> Manifest:
    """The manifest of a version whose files match it.

    Raises:
        PublishError: the manifest cannot be read, or a file does not match it.
    """
    try:
        manifest = read_manifest(folder)
        verify(folder, manifest)
    except (ConvokeError, OSError) as error:
        raise PublishError(str(error)) from error
    return manifest


def numbers(home: Path) -> list[int]:
    """The versions of a model, in ascending order."""
    return sorted(int(path.name) for path in home.iterdir() if path.name.isascii() and path.name.isdigit())


@contextmanager
def building(home: Path) -> Iterator[Path]:
    """A hidden folder for the next version of the model in `home`; removed at the end, or by the next publication.

    Raises:
        PublishError: a file cannot be written.
    """
    try:
        home.mkdir(parents=True, exist_ok=True)
        unfinished.remove(home, _PUBLISHING)
        partial = Path(tempfile.mkdtemp(prefix=unfinished.name(_PUBLISHING), dir=home))
        try:
            yield partial
        finally:
            shutil.rmtree(partial, ignore_errors=True)
            with suppress(OSError):  # the folder of a model without versions, which no one needs
                home.rmdir()
    except OSError as error:
        raise PublishError(
            f"{home}: the version cannot be written: {error.strerror or error}; --models FOLDER names another place"
        ) from error


def provenance(partial: Path, home: Path) -> dict[str, Any]:
    """The fields of a manifest about the publication: the next version, the files so far, the commit and the time."""
    return {
        "version": max(numbers(home), default=0) + 1,
        "files": hashes(partial),
        "commit": commit(),
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def hashes(folder: Path) -> dict[str, str]:
    """The SHA-256 of each file in a version's folder, apart from the manifest."""
    return {path.name: sha256(path) for path in sorted(folder.iterdir()) if path.name != MANIFEST}


def place(partial: Path, home: Path, manifest: Manifest, card: str) -> Path:
    """Write card and manifest, and rename the complete version into its place; its bytes are on the disk before."""
    (partial / CARD).write_text(card, encoding="utf-8")
    manifest.model_copy(update={"files": hashes(partial)}).write(partial)
    verify(partial, read_manifest(partial))
    for path in partial.iterdir():
        with path.open("rb") as file:
            os.fsync(file.fileno())
    partial.chmod(0o755)
    return partial.rename(home / str(manifest.version))


def commit() -> str:
    """The commit of the code that publishes, with `-dirty` if that code has changes; `unknown` outside git."""
    root = Path(__file__).resolve().parents[2]
    if not (root / ".git").exists():
        return "unknown"  # an installed copy may lie inside another repository
    try:
        revision = _git(root, "rev-parse", "HEAD").stdout.strip()
        changed = _git(root, "diff", "--quiet", "HEAD", "--", "contract", "training", "requirements").returncode
    except OSError:
        return "unknown"
    return f"{revision}-dirty" if revision and changed else revision or "unknown"


def _git(root: Path, *args: str) -> subprocess.CompletedProcess[str]:
    command = ["git", "-C", str(root), *args]
    return subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603 -- fixed arguments, no shell
