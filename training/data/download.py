"""Downloads that resume and are verified, and archives that are unpacked safely.

A download grows in `NAME.part` beside its destination. After an interruption it resumes from there, in the same call or
a later one (RFC 9110, section 14). The checksum decides whether the result is the expected file; only then is it moved
to its destination. Archives are untrusted: nothing is written outside of the given folder.
"""

import gzip
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
from http import HTTPStatus
from pathlib import Path
from typing import IO
from urllib.parse import urlsplit

from tqdm import tqdm

from contract.manifest import sha256 as sha256_of
from training.errors import DataError

MAX_BYTES = 4 << 30
"""The largest download, and the most that an archive may unpack to."""

_CHUNK_BYTES = 1 << 18
_TRANSIENT = {408, 425, 429, 500, 502, 503, 504}
_RANGE = re.compile(r"bytes (\d+)-\d+/(\d+)")


@dataclass(frozen=True)
class Patience:
    """How long to wait for a silent server, and how often to retry without progress, with a doubling pause."""

    timeout_s: float = 30
    tries: int = 5
    pause_s: float = 1


class _Interrupted(Exception):
    """The connection ended before the file did."""


def fetch(url: str, path: Path, *, sha256: str, patience: Patience | None = None) -> None:
    """Download `url` to `path`, where only a complete and verified file ever appears.

    Args:
        url: an http or https address.
        path: the destination; missing folders are created.
        sha256: the expected checksum in hexadecimal, or its first digits.
        patience: timeouts and retries.

    Raises:
        DataError: the address is not valid or not found, the network fails, the disk is full, or the checksum differs.
    """
    _check_url(url)
    part = path.with_name(f"{path.name}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        resumed = part.exists()
        _download(url, part, patience or Patience())
        if resumed and not sha256_of(part).startswith(sha256):  # it began with another file
            part.unlink()
            _download(url, part, patience or Patience())
        actual = sha256_of(part)
        if not actual.startswith(sha256):
            part.unlink()
            raise DataError(f"{url}: expected SHA-256 {sha256}, got {actual}; the download was removed")
        part.replace(path)
    except OSError as error:
        raise DataError(f"{path} cannot be written: {error.strerror or error}") from error


def _download(url: str, part: Path, patience: Patience) -> None:
    """Retry until the file is complete. A try counts as failed only if it got no further than an earlier one."""
    furthest, failed = _size(part), 0
    while True:
        try:
            _download_once(url, part, patience.timeout_s)
        except urllib.error.HTTPError as error:
            error.close()
            if error.code == HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
                part.unlink(missing_ok=True)  # it is longer than the file
            elif error.code not in _TRANSIENT:
                raise DataError(f"{url} cannot be downloaded: status {error.code} {error.reason}") from error
            cause: Exception = error
        except (urllib.error.URLError, http.client.HTTPException, ConnectionError, TimeoutError, _Interrupted) as error:
            cause = error
        else:
            return
        failed = 0 if _size(part) > furthest else failed + 1
        furthest = max(furthest, _size(part))
        if failed >= patience.tries:
            raise DataError(
                f"{url} cannot be downloaded: {_reason(cause)}. The first {_size(part):,} bytes are kept; run the same "
                "command to resume"
            ) from cause
        time.sleep(patience.pause_s * 2 ** max(failed - 1, 0))


def _download_once(url: str, part: Path, timeout_s: float) -> None:
    start = _size(part)
    headers = {"User-Agent": "convoke", "Accept-Encoding": "identity"}
    if start:
        headers["Range"] = f"bytes={start}-"
    request = urllib.request.Request(url, headers=headers)  # noqa: S310 -- `_check_url` allows http and https only
    with urllib.request.build_opener(_Redirect).open(request, timeout=timeout_s) as response:
        start, total = _extent(response, start)
        if total is not None:
            _check_space(part, start, total)
        _copy(response, part, start, total)


def _extent(response: http.client.HTTPResponse, start: int) -> tuple[int, int | None]:
    """(the position of the body's first byte in the file, the size of the file if the server tells it)."""
    if response.status != HTTPStatus.PARTIAL_CONTENT:
        length = response.headers.get("Content-Length", "")
        return 0, int(length) if length.isdecimal() else None
    match = _RANGE.fullmatch(response.headers.get("Content-Range", "").strip())
    if not match or int(match[1]) != start:
        raise _Interrupted(f"requested bytes from {start}, got {response.headers.get('Content-Range')!r}")
    return start, int(match[2])


def _check_space(part: Path, start: int, total: int) -> None:
    if total > MAX_BYTES:
        raise DataError(f"{part.stem} is too large: {total:,} bytes (maximum {MAX_BYTES:,})")
    free = shutil.disk_usage(part.parent).free
    if total - start > free:
        raise DataError(f"not enough disk space for {part.stem}: {total - start:,} bytes needed, {free:,} free")


def _copy(response: http.client.HTTPResponse, part: Path, start: int, total: int | None) -> None:
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
        while chunk := _read(response):
            file.write(chunk)
            bar.update(len(chunk))
            if file.tell() > MAX_BYTES:
                raise DataError(f"{part.stem} is too large: more than {MAX_BYTES:,} bytes")
        file.flush()
        os.fsync(file.fileno())
        if total is not None and file.tell() < total:
            raise _Interrupted(f"the connection ended after {file.tell():,} of {total:,} bytes")


def _read(response: http.client.HTTPResponse) -> bytes:
    try:
        return response.read(_CHUNK_BYTES)
    except OSError as error:  # of the network, unlike those of the disk
        raise _Interrupted(_reason(error)) from error


def _check_url(url: str) -> None:
    if urlsplit(url).scheme not in {"http", "https"} or not urlsplit(url).netloc:
        raise DataError(f"unsupported address {url!r}: expected http:// or https://")


class _Redirect(urllib.request.HTTPRedirectHandler):
    """Follows redirects to http and https, but not from https to http."""

    def redirect_request(
        self,
        req: urllib.request.Request,
        fp: IO[bytes],
        code: int,
        msg: str,
        headers: http.client.HTTPMessage,
        newurl: str,
    ) -> urllib.request.Request | None:
        _check_url(newurl)
        if req.type == "https" and urlsplit(newurl).scheme != "https":
            raise DataError(f"{req.full_url} redirects to {newurl}, which is not encrypted")
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def _reason(error: Exception) -> str:
    return str(getattr(error, "reason", "")) or str(error) or type(error).__name__


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def unpack(
    archive: Path, folder: Path, target: Callable[[str], str | None], *, max_bytes: int = MAX_BYTES
) -> list[Path]:
    """Unpack regular files of a .tar.gz or .zip archive into `folder`.

    Everything is unpacked into a temporary folder first, then moved; existing folders are not replaced. Links, devices
    and names that lead out of the folder are skipped.

    Args:
        archive: the file to unpack.
        folder: the destination; missing folders are created.
        target: maps the name of a member to its path below `folder`, or to None to skip it.
        max_bytes: the most that the members may unpack to.

    Returns:
        The new entries of `folder`, sorted.

    Raises:
        DataError: the archive is damaged, too large or has no member to unpack, or the disk is full.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".unpacking-", dir=folder) as scratch:
            written = 0
            for name, content in _members(archive, target):
                path = Path(scratch, name)
                path.parent.mkdir(parents=True, exist_ok=True)
                with path.open("xb") as file:
                    while chunk := content.read(_CHUNK_BYTES):
                        written += len(chunk)
                        if written > max_bytes:
                            raise DataError(f"{archive} is too large: it unpacks to more than {max_bytes:,} bytes")
                        file.write(chunk)
            tops = sorted(Path(scratch).iterdir())
            if not tops:
                raise DataError(f"{archive} has none of the expected files")
            return [top.replace(folder / top.name) for top in tops]
    except (tarfile.TarError, zipfile.BadZipFile, gzip.BadGzipFile, zlib.error, EOFError) as error:
        raise DataError(f"{archive} is damaged: {error}; remove it and download it again") from error
    except OSError as error:
        raise DataError(f"{archive} cannot be unpacked into {folder}: {error.strerror or error}") from error


def _members(archive: Path, target: Callable[[str], str | None]) -> Iterator[tuple[str, IO[bytes]]]:
    """The target path and the content of each member to unpack."""
    if archive.suffix == ".zip":
        with zipfile.ZipFile(archive) as packed:
            for entry in packed.infolist():
                name = target(entry.filename)
                if name and _is_safe(name) and not entry.is_dir():
                    with packed.open(entry) as content:
                        yield name, content
    else:
        with tarfile.open(archive, "r|gz") as stream:
            for member in stream:
                name = target(member.name)
                if name and _is_safe(name) and member.isreg():
                    regular = stream.extractfile(member)
                    assert regular is not None, member
                    yield name, regular


def _is_safe(name: str) -> bool:
    return {"", ".", ".."}.isdisjoint(name.split("/")) and not set(name) & set("\\\0:")
