"""API keys: a file with a name, a role and the SHA-256 of a key on each line; `service/keys.py` adds a line.

A key is 256 random bits. Nobody can guess it, so it does not need a slow hash as a password does, and each request can
be checked quickly. The key itself is not stored anywhere.
"""

import hashlib
import hmac
import logging
import os
import re
import secrets
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from service.settings import PREFIX, SettingsError

logger = logging.getLogger("bentoml.convoke")

Role = Literal["predict", "manage", "metrics"]
ROLES: tuple[Role, ...] = get_args(Role)
VARIABLE = f"{PREFIX}API_KEYS_FILE"

_LINE = re.compile(r"(?P<name>[A-Za-z0-9][A-Za-z0-9._@-]{0,63}) (?P<role>[a-z]+) (?P<digest>[0-9a-f]{64})")
_MAX_BYTES = 1 << 20
_HEADING = "# API keys of Convoke: name, role (predict, manage or metrics), SHA-256 of the key\n"


@dataclass(frozen=True)
class Key:
    """A key as far as we know it."""

    name: str
    role: Role
    digest: bytes


class Keys:
    """The keys of a file, read again whenever the file has changed."""

    def __init__(self, path: Path) -> None:
        """Read the file.

        Raises:
            SettingsError: it cannot be read, or has a faulty line.
        """
        self._path = path
        self._looks = _looks(path)
        self._keys = read(path)

    def find(self, token: str) -> Key | None:
        """The key that a caller showed; every key is compared in full, so that time tells nothing."""
        shown, found = digest(token), None
        for key in self.current():
            if hmac.compare_digest(shown, key.digest):
                found = key
        return found

    def current(self) -> tuple[Key, ...]:
        """The keys of the file as it is now; those before, where it cannot be read now."""
        looks = _looks(self._path)
        if looks != self._looks:
            self._looks = looks
            try:
                self._keys = read(self._path)
                logger.info("%s: %d keys", self._path, len(self._keys))
            except SettingsError as error:
                logger.error("%s; the keys that were read before stay in force", error)  # noqa: TRY400
        return self._keys


def digest(token: str) -> bytes:
    """The SHA-256 of a key, as bytes."""
    return hashlib.sha256(token.encode("utf-8", "surrogateescape")).digest()


def read(path: Path) -> tuple[Key, ...]:
    """The keys of a file.

    Raises:
        SettingsError: it cannot be read, or has a faulty line; the message never holds the line itself.
    """
    try:
        with path.open(encoding="utf-8") as file:
            lines = file.read(_MAX_BYTES).splitlines()
    except (OSError, ValueError) as error:
        raise SettingsError(f"{VARIABLE}={str(path)!r}: cannot be read: {error}") from error
    return tuple(
        _key(path, number, line) for number, line in enumerate(lines, 1) if line.strip() and not line.startswith("#")
    )


def _key(path: Path, number: int, line: str) -> Key:
    match = _LINE.fullmatch(" ".join(line.split()))
    if match is None or match["role"] not in ROLES:
        raise SettingsError(
            f"{VARIABLE}={str(path)!r}: line {number} is no name, role ({', '.join(ROLES)}) and SHA-256 in hexadecimal"
        )
    role = next(role for role in ROLES if role == match["role"])
    return Key(match["name"], role, bytes.fromhex(match["digest"]))


def _looks(path: Path) -> tuple[int, int, int] | None:
    """What changes with the file's content: also where a link to it is exchanged, as Kubernetes does it."""
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_mtime_ns, status.st_size, status.st_ino


def add(path: Path, name: str, role: Role) -> str:
    """Make a key, append its hash to the file and give the key, which nobody can read again.

    Raises:
        SettingsError: the file cannot be read or written, or holds the name already.
    """
    known = read(path) if path.exists() else ()
    if any(key.name == name for key in known):
        raise SettingsError(f"{path} has a key {name!r} already; remove its line, or choose another name")
    token = f"convoke_{secrets.token_urlsafe(32)}"
    line = f"{name} {role} {digest(token).hex()}\n"
    if not _LINE.fullmatch(line.strip()):
        raise SettingsError(f"{name!r} is no name for a key: up to 64 letters, digits, '.', '_', '@' and '-'")
    try:
        with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600), "w", encoding="utf-8") as file:
            file.write(line if known or file.tell() else _HEADING + line)
    except OSError as error:
        raise SettingsError(f"{path} cannot be written: {error.strerror}") from error
    return token
