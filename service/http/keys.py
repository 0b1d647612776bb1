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
from typing import Literal, cast, get_args

from service.settings import PREFIX, SettingsError

logger = logging.getLogger("bentoml.convoke")

Role = Literal["predict", "manage", "metrics"]
ROLES: tuple[Role, ...] = get_args(Role)
VARIABLE = f"{PREFIX}API_KEYS_FILE"

_LINE = re.compile(
    rf"(?P<name>[A-Za-z0-9][A-Za-z0-9._@-]{{0,63}}) (?P<role>{'|'.join(ROLES)}) (?P<digest>[0-9a-f]{{64}})"
)
_MAX_BYTES = 1 << 20
_HEADING = f"# API keys of Convoke: name, role ({', '.join(ROLES)}), SHA-256 of the key\n"


@dataclass(frozen=True)
class Key:
    """One line of the file."""

    name: str
    role: Role
    digest: bytes


class Keys:
    """The keys of a file, which is read again when it has changed."""

    def __init__(self, path: Path) -> None:
        """Read the file.

        Raises:
            SettingsError: it cannot be read, or has an invalid line.
        """
        self._path = path
        self._fingerprint = _fingerprint(path)
        self._keys = read(path)

    def find(self, token: str) -> Key | None:
        """The key with this token; all keys are compared in full, so that the time taken reveals nothing."""
        received, match = digest(token), None
        for key in self.current():
            if hmac.compare_digest(received, key.digest):
                match = key
        return match

    def current(self) -> tuple[Key, ...]:
        """The keys that the file has now; if it cannot be read now, the keys that it had before."""
        fingerprint = _fingerprint(self._path)
        if fingerprint != self._fingerprint:
            self._fingerprint = fingerprint
            try:
                self._keys = read(self._path)
                logger.info("%s: read %d keys", self._path, len(self._keys))
            except SettingsError as error:
                logger.error("%s; the keys read before stay valid", error)  # noqa: TRY400
        return self._keys


def digest(token: str) -> bytes:
    """The SHA-256 of a key, 32 bytes."""
    return hashlib.sha256(token.encode("utf-8", "surrogateescape")).digest()


def read(path: Path) -> tuple[Key, ...]:
    """The keys of a file.

    Raises:
        SettingsError: it cannot be read, or has an invalid line; the message never repeats the line.
    """
    try:
        with path.open(encoding="utf-8-sig") as file:  # editors on Windows write a byte order mark
            lines = file.read(_MAX_BYTES).splitlines()
    except (OSError, ValueError) as error:
        raise SettingsError(f"{VARIABLE}={str(path)!r}: cannot be read: {error}") from error
    return tuple(
        _key(path, number, line) for number, line in enumerate(lines, 1) if line.strip() and not line.startswith("#")
    )


def _key(path: Path, number: int, line: str) -> Key:
    match = _LINE.fullmatch(" ".join(line.split()))
    if match is None:
        raise SettingsError(
            f"{VARIABLE}={str(path)!r}: line {number} is invalid; expected a name, a role ({', '.join(ROLES)}) and a "
            "SHA-256 in hexadecimal"
        )
    return Key(match["name"], cast("Role", match["role"]), bytes.fromhex(match["digest"]))


def _fingerprint(path: Path) -> tuple[int, int, int] | None:
    """Changes with the file, also when a link to it is replaced, as Kubernetes does."""
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_mtime_ns, status.st_size, status.st_ino


def add(path: Path, name: str, role: Role) -> str:
    """Make a key, append its hash to the file, and return the key, which is stored nowhere.

    Raises:
        SettingsError: the file cannot be read or written, the name is invalid, or the file has a key of this name.
    """
    known = read(path) if path.exists() else ()
    if any(key.name == name for key in known):
        raise SettingsError(f"{path} already has a key {name!r}; remove its line, or choose another name")
    token = f"convoke_{secrets.token_urlsafe(32)}"
    line = f"{name} {role} {digest(token).hex()}\n"
    if not _LINE.fullmatch(line.strip()):
        raise SettingsError(f"invalid name {name!r}; expected up to 64 letters, digits, '.', '_', '@' and '-'")
    try:
        with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600), "w", encoding="utf-8") as file:
            file.write(line if known or file.tell() else _HEADING + line)
    except OSError as error:
        raise SettingsError(f"{path} cannot be written: {error.strerror}") from error
    return token
