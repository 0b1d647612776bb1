"""Files from the web: resumed where they broke off, checked, and put into place whole or not at all; and archives.

A download goes into `NAME.part` beside its place. When it breaks off it goes on from there, in this call or a later
one, if the server says by `ETag` or `Last-Modified` that the file is still the same (RFC 9110, sections 13.1.5 and 14);
the mark is kept in `NAME.part.mark`. Archives are opened as a stranger's: nothing is written outside the folder given.
"""

import gzip
import hashlib
import http.client
import os
import re
import shutil
import sys
import tarfile
import tempfile
import time
import urllib.error
import urllib.request
import zipfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO
from urllib.parse import urlsplit

from tqdm import tqdm

from training.errors import DataError

MAX_BYTES = 4 << 30
"""More than any data set here has; a download or an archive that holds more is refused."""

_CHUNK_BYTES = 1 << 18
_TRANSIENT = {408, 425, 429, 500, 502, 503, 504}
_RANGE = re.compile(r"bytes (\d+)-\d+/(\d+)")


@dataclass(frozen=True)
class Patience:
    """How long to wait for a silent server, and how often to try again without a byte gained, ever longer apart."""

    timeout_s: float = 30
    tries: int = 5
    pause_s: float = 1


class _Broken(Exception):
    """The connection ended before the file did."""


def fetch(url: str, path: Path, *, sha256: str | None = None, patience: Patience | None = None) -> None:
    """Download `url` to `path`, which holds nothing or the whole file at any time.

    Args:
        url: of scheme http or https.
        path: where the file goes; folders above it are made.
        sha256: what the file must have, in hexadecimal, or the first digits of it; a file that has another is removed.
        patience: how long and how often to try.

    Raises:
        DataError: the address is of another kind or leads nowhere, the network is down, the disk is full, or the file
            is not the one expected.
    """
    patience = patience or Patience()
    _refuse_odd(url)
    part = path.with_name(f"{path.name}.part")
    mark = path.with_name(f"{path.name}.part.mark")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _insist(url, part, mark, patience)
        _verify(part, mark, url, sha256)
        part.replace(path)
        mark.unlink(missing_ok=True)
    except OSError as error:
        raise DataError(f"{path} cannot be written: {error.strerror or error}") from error


def _insist(url: str, part: Path, mark: Path, patience: Patience) -> None:
    """Try until the file is whole. A try counts as lost only where it came no further than any before."""
    furthest, lost = _size(part), 0
    while True:
        try:
            _once(url, part, mark, patience.timeout_s)
        except urllib.error.HTTPError as error:
            error.close()
            if error.code not in _TRANSIENT:
                raise DataError(f"{url} answers {error.code} {error.reason}") from error
            reason: Exception = error
        except (urllib.error.URLError, http.client.HTTPException, ConnectionError, TimeoutError, _Broken) as error:
            reason = error
        else:
            return
        lost = 0 if _size(part) > furthest else lost + 1
        furthest = max(furthest, _size(part))
        if lost >= patience.tries:
            raise DataError(
                f"{url} cannot be downloaded: {_why(reason)}. What there is, {furthest:,} bytes, is kept: the same "
                "command goes on from there"
            ) from reason
        time.sleep(patience.pause_s * 2 ** max(lost - 1, 0))


def _once(url: str, part: Path, mark: Path, timeout_s: float) -> None:
    known = mark.read_text(encoding="utf-8") if mark.exists() and part.exists() else ""
    start = _size(part) if known else 0
    headers = {"User-Agent": "convoke", "Accept-Encoding": "identity"}
    if start:
        headers |= {"Range": f"bytes={start}-", "If-Range": known}
    request = urllib.request.Request(url, headers=headers)  # noqa: S310 -- `_refuse_odd` has seen the scheme
    try:
        answer = _opener().open(request, timeout=timeout_s)
    except urllib.error.HTTPError as error:
        if error.code == http.HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
            error.close()
            part.unlink(missing_ok=True)
            raise _Broken("what was there before did not fit the file") from error
        raise
    with answer:
        start, total = _extent(answer, start)
        _room(part, start, total)
        mark.write_text(_validator(answer.headers), encoding="utf-8")
        _copy(answer, part, start, total)


def _extent(answer: http.client.HTTPResponse, start: int) -> tuple[int, int | None]:
    """(where the answer's bytes belong, how many the file has if that is said)."""
    if answer.status != http.HTTPStatus.PARTIAL_CONTENT:
        length = answer.headers.get("Content-Length", "")
        return 0, int(length) if length.isdecimal() else None
    match = _RANGE.fullmatch(answer.headers.get("Content-Range", "").strip())
    if not match or int(match[1]) != start:
        raise _Broken(f"asked for bytes from {start} on, got {answer.headers.get('Content-Range')!r}")
    return start, int(match[2])


def _room(part: Path, start: int, total: int | None) -> None:
    if total is None:
        return
    if total > MAX_BYTES:
        raise DataError(f"{part.stem} has {total:,} bytes on the server; more than {MAX_BYTES:,} are not downloaded")
    free = shutil.disk_usage(part.parent).free
    if total - start > free:
        raise DataError(f"the disk is too full for {part.stem}: {total - start:,} bytes to come, {free:,} free")


def _copy(answer: http.client.HTTPResponse, part: Path, start: int, total: int | None) -> None:
    with (
        part.open("r+b" if start else "wb") as file,
        tqdm(
            desc=part.stem,
            initial=start,
            total=total,
            unit="B",
            unit_scale=True,
            unit_divisor=1024,
            disable=not sys.stderr.isatty(),
        ) as bar,
    ):
        file.seek(start)
        file.truncate()
        while chunk := _read(answer):
            file.write(chunk)
            bar.update(len(chunk))
            if file.tell() > MAX_BYTES:
                raise DataError(f"{part.stem} has no end: more than {MAX_BYTES:,} bytes are not downloaded")
        file.flush()
        os.fsync(file.fileno())
        if total is not None and file.tell() < total:
            raise _Broken(f"the connection ended after {file.tell():,} of {total:,} bytes")


def _read(answer: http.client.HTTPResponse) -> bytes:
    try:
        return answer.read(_CHUNK_BYTES)
    except OSError as error:  # TLS and sockets, never the disk
        raise _Broken(_why(error)) from error


def _validator(headers: http.client.HTTPMessage) -> str:
    """What says later that the file is the same: a strong ETag or the date; a weak one does not serve ranges."""
    tag = headers.get("ETag", "")
    return tag if tag.startswith('"') else headers.get("Last-Modified", "")


def _verify(part: Path, mark: Path, url: str, sha256: str | None) -> None:
    if sha256 is None:
        return
    with part.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if not found.startswith(sha256):
        part.unlink()
        mark.unlink(missing_ok=True)
        raise DataError(f"{url} gave another file than expected: SHA-256 {found} instead of {sha256}; it was removed")


def _refuse_odd(url: str) -> None:
    if urlsplit(url).scheme not in {"http", "https"} or not urlsplit(url).netloc:
        raise DataError(f"{url!r} cannot be downloaded: the address must begin with http:// or https://")


class _Redirect(urllib.request.HTTPRedirectHandler):
    """Follows redirects within the web, but not from https to http."""

    def redirect_request(
        self,
        req: urllib.request.Request,
        fp: IO[bytes],
        code: int,
        msg: str,
        headers: http.client.HTTPMessage,
        newurl: str,
    ) -> urllib.request.Request | None:
        _refuse_odd(newurl)
        if req.type == "https" and urlsplit(newurl).scheme != "https":
            raise DataError(f"{req.full_url} leads to {newurl}, which is not encrypted")
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def _opener() -> urllib.request.OpenerDirector:
    """An opener for http and https alone: urllib's own also opens files and FTP."""
    opener = urllib.request.OpenerDirector()
    for handler in (
        urllib.request.ProxyHandler(),
        urllib.request.HTTPHandler(),
        urllib.request.HTTPSHandler(),
        _Redirect(),
        urllib.request.HTTPErrorProcessor(),
        urllib.request.HTTPDefaultErrorHandler(),
    ):
        opener.add_handler(handler)
    return opener


def _why(error: Exception) -> str:
    return str(getattr(error, "reason", "")) or str(error) or type(error).__name__


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def unpack(
    archive: Path, folder: Path, target: Callable[[str], str | None], *, max_bytes: int = MAX_BYTES
) -> list[Path]:
    """Unpack regular files of a .tar.gz or .zip into `folder`: `target` says where each goes by its name, or None.

    All are unpacked beside it first; then the top entries come into `folder`, and replace no folder that is there.
    Links, devices, and names that lead out of the folder are passed over.

    Returns:
        The entries that are now in `folder`, sorted.

    Raises:
        DataError: the archive is damaged, holds none of the files or too many bytes of them, or the disk is full.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".unpacking-", dir=folder) as scratch:
            left = max_bytes
            for name, content in _members(archive, target):
                left -= _extract(content, Path(scratch) / name, left)
            tops = sorted(Path(scratch).iterdir())
            if not tops:
                raise DataError(f"{archive} holds none of the files that are looked for in it")
            return [top.replace(folder / top.name) for top in tops]
    except (tarfile.TarError, zipfile.BadZipFile, gzip.BadGzipFile, zlib.error, EOFError) as error:
        raise DataError(f"{archive} is damaged or cut off: {error}; remove it and download it again") from error
    except OSError as error:
        raise DataError(f"{archive} cannot be unpacked into {folder}: {error.strerror or error}") from error


def _members(archive: Path, target: Callable[[str], str | None]) -> Iterator[tuple[str, IO[bytes]]]:
    """Target and content of each file that is wanted and harmless."""
    if archive.suffix == ".zip":
        with zipfile.ZipFile(archive) as packed:
            for entry in packed.infolist():
                name = target(entry.filename)
                if name and _harmless(name) and not entry.is_dir():
                    with packed.open(entry) as content:
                        yield name, content
    else:
        with tarfile.open(archive, "r|gz") as stream:
            for member in stream:
                name = target(member.name)
                if name and _harmless(name) and member.isreg():
                    regular = stream.extractfile(member)
                    assert regular is not None, member
                    yield name, regular


def _harmless(name: str) -> bool:
    parts = name.split("/")
    return not (set(parts) & {"", ".", ".."} or "\\" in name or "\0" in name or ":" in name)


def _extract(content: IO[bytes], target: Path, left: int) -> int:
    """Write a member into a new file, never more than `left` bytes; returns how many it has."""
    target.parent.mkdir(parents=True, exist_ok=True)
    written = 0
    with target.open("xb") as file:
        while chunk := content.read(_CHUNK_BYTES):
            written += len(chunk)
            if written > left:
                raise DataError(f"{target.name} and what stands before it in its archive are larger than expected")
            file.write(chunk)
    return written
