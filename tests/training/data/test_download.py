"""Downloads from a local server that fails in many ways; malicious archives."""

import errno
import hashlib
import io
import random
import re
import shutil
import stat
import tarfile
import threading
import zipfile
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from training.data import download
from training.data.download import Patience
from training.errors import DataError

CONTENT = random.Random(0).randbytes(1_000_000)
SHA256 = hashlib.sha256(CONTENT).hexdigest()
QUICK = Patience(timeout_s=5, tries=3, pause_s=0)
IMPATIENT = Patience(timeout_s=5, tries=0, pause_s=0)


class Server(ThreadingHTTPServer):
    """Serves `content` at every path but /missing, and fails as a test wants it to."""

    content = CONTENT
    ranges = True
    redirect = ""
    drops: list[int]
    """After how many bytes each of the next responses breaks off."""
    failures: list[int]
    """Status codes of the next responses."""
    requests: list[str | None]
    """The Range header of each request."""

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/file.bin"


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        server, range_ = self.server, self.headers.get("Range")
        server.requests.append(range_)
        if self.path == "/missing" or server.failures:
            self.send_error(server.failures.pop(0) if server.failures else 404)
            return
        if server.redirect:
            self.send_response(302)
            self.send_header("Location", server.redirect)
            self.end_headers()
            return
        start = int(range_.removeprefix("bytes=").rstrip("-")) if range_ and server.ranges else 0
        if start >= len(server.content) > 0:
            self.send_error(416)
            return
        self.send_response(206 if start else 200)
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(server.content) - 1}/{len(server.content)}")
        self.send_header("Content-Length", str(len(server.content) - start))
        self.end_headers()
        rest = server.content[start:]
        self.wfile.write(rest[: server.drops.pop(0)] if server.drops else rest)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 -- the base class's name
        """Keep the tests' output clean."""


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    """A server in a thread; proxies of the environment are not used."""
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with Server(("127.0.0.1", 0), Handler) as local:
        local.drops, local.failures, local.requests = [], [], []
        thread = threading.Thread(target=local.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield local
        local.shutdown()
        thread.join()


def only(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_file_is_downloaded(server: Server, tmp_path: Path) -> None:
    """The file has the bytes of the server; folders are created, and no other file remains."""
    path = tmp_path / "a" / "b" / "file.bin"
    download.fetch(server.url, path, sha256=SHA256, patience=QUICK)
    assert path.read_bytes() == CONTENT
    assert only(path.parent) == ["file.bin"]


def test_a_broken_connection_is_resumed(server: Server, tmp_path: Path) -> None:
    """Dropped twice, the file is complete after three requests, each for the missing bytes."""
    server.drops = [300_000, 300_000]
    download.fetch(server.url, tmp_path / "file.bin", sha256=SHA256, patience=QUICK)
    assert (tmp_path / "file.bin").read_bytes() == CONTENT
    assert server.requests == [None, "bytes=300000-", "bytes=600000-"]


def test_a_later_call_resumes(server: Server, tmp_path: Path) -> None:
    """A failed download is kept as .part, under no name that looks complete, and resumed by the next call."""
    server.drops, server.failures = [400_000], []
    with pytest.raises(DataError, match="400,000 bytes are kept"):
        download.fetch(server.url, tmp_path / "file.bin", sha256=SHA256, patience=IMPATIENT)
    assert only(tmp_path) == ["file.bin.part"]
    download.fetch(server.url, tmp_path / "file.bin", sha256=SHA256, patience=QUICK)
    assert server.requests == [None, "bytes=400000-"]
    assert only(tmp_path) == ["file.bin"]


def test_a_file_that_has_changed_is_downloaded_again(server: Server, tmp_path: Path) -> None:
    """The start of an old file and the end of a new one do not have its checksum: all of it is downloaded."""
    server.drops = [400_000]
    with pytest.raises(DataError):
        download.fetch(server.url, tmp_path / "file.bin", sha256=SHA256, patience=IMPATIENT)
    server.content = CONTENT[::-1]
    changed = hashlib.sha256(server.content).hexdigest()
    download.fetch(server.url, tmp_path / "file.bin", sha256=changed, patience=QUICK)
    assert (tmp_path / "file.bin").read_bytes() == CONTENT[::-1]


def test_a_server_without_ranges_starts_over(server: Server, tmp_path: Path) -> None:
    """Where the server ignores ranges, all of the file comes again."""
    server.ranges, server.drops = False, [300_000]
    download.fetch(server.url, tmp_path / "file.bin", sha256=SHA256, patience=QUICK)
    assert (tmp_path / "file.bin").read_bytes() == CONTENT
    assert server.requests == [None, "bytes=300000-"]


@pytest.mark.parametrize("leftover", [CONTENT + b"more", CONTENT, b"something else"])
def test_leftovers_that_do_not_fit_are_replaced(server: Server, leftover: bytes, tmp_path: Path) -> None:
    """A .part of the file's length or more (416), and one of another file: the file is downloaded from its start."""
    (tmp_path / "file.bin.part").write_bytes(leftover)
    download.fetch(server.url, tmp_path / "file.bin", sha256=SHA256, patience=QUICK)
    assert (tmp_path / "file.bin").read_bytes() == CONTENT
    assert only(tmp_path) == ["file.bin"]


def test_a_server_that_always_disconnects_ends_the_download(server: Server, tmp_path: Path) -> None:
    """Tries that get no further than an earlier one count as failed, even if they received bytes."""
    server.ranges, server.drops = False, [300_000] * 20
    with pytest.raises(DataError, match=r"300,000 of 1,000,000 bytes"):
        download.fetch(server.url, tmp_path / "file.bin", sha256=SHA256, patience=QUICK)
    assert len(server.requests) == 1 + QUICK.tries


def test_a_busy_server_is_tried_again(server: Server, tmp_path: Path) -> None:
    """After 503 and 429, the third request gets the file."""
    server.failures = [503, 429]
    download.fetch(server.url, tmp_path / "file.bin", sha256=SHA256, patience=QUICK)
    assert len(server.requests) == 3


def test_an_unexpected_file_is_removed(server: Server, tmp_path: Path) -> None:
    """A wrong checksum is a DataError that names both checksums, and no file remains."""
    server.content = CONTENT[:-1] + b"\0"
    with pytest.raises(DataError, match=f"expected SHA-256 {SHA256}, got"):
        download.fetch(server.url, tmp_path / "file.bin", sha256=SHA256, patience=QUICK)
    assert only(tmp_path) == []


def test_an_address_that_does_not_exist_is_tried_once(server: Server, tmp_path: Path) -> None:
    """404 is a DataError, without another try."""
    with pytest.raises(DataError, match="status 404"):
        download.fetch(server.url.replace("file.bin", "missing"), tmp_path / "file.bin", sha256=SHA256, patience=QUICK)
    assert len(server.requests) == 1


def test_no_network_is_a_data_error(server: Server, tmp_path: Path) -> None:
    """A closed port is a DataError with the reason."""
    url = server.url
    server.server_close()
    with pytest.raises(DataError, match="refused"):
        download.fetch(url, tmp_path / "file.bin", sha256=SHA256, patience=QUICK)


@pytest.mark.parametrize("url", ["file:///etc/passwd", "ftp://example.com/a", "data:,a", "/etc/passwd", "http:///a"])
def test_only_http_addresses_are_downloaded(url: str, tmp_path: Path) -> None:
    """Local files and other schemes are refused before anything is opened."""
    with pytest.raises(DataError, match=re.escape(url)):
        download.fetch(url, tmp_path / "file.bin", sha256=SHA256, patience=QUICK)


def test_a_redirect_to_a_local_file_is_not_followed(server: Server, tmp_path: Path) -> None:
    """A redirect to a file:// address is a DataError."""
    server.redirect = "file:///etc/passwd"
    with pytest.raises(DataError):
        download.fetch(server.url, tmp_path / "file.bin", sha256=SHA256, patience=QUICK)
    assert not (tmp_path / "file.bin").exists()


def test_a_file_larger_than_the_disk_is_not_downloaded(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The missing bytes are compared with the free bytes."""
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda _path: usage._replace(free=1000))
    with pytest.raises(DataError, match=r"1,000,000 .* 1,000 "):
        download.fetch(server.url, tmp_path / "file.bin", sha256=SHA256, patience=QUICK)


def test_a_full_disk_is_a_data_error(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The message has the reason of the operating system, and there is no other try."""

    def full(_descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(DataError, match="No space left on device"):
        download.fetch(server.url, tmp_path / "file.bin", sha256=SHA256, patience=QUICK)
    assert len(server.requests) == 1


def test_a_file_above_the_maximum_is_refused(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file that the server declares as larger than the maximum is not downloaded."""
    monkeypatch.setattr(download, "MAX_BYTES", 1000)
    with pytest.raises(DataError, match=r"1,000,000 .* 1,000\b"):
        download.fetch(server.url, tmp_path / "file.bin", sha256=SHA256, patience=QUICK)


def tar(path: Path, members: dict[str, bytes], odd: tuple[tarfile.TarInfo, ...] = ()) -> Path:
    with tarfile.open(path, "w:gz") as archive:
        for name, content in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
        for member in odd:
            archive.addfile(member)
    return path


def zip_(path: Path, members: dict[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return path


def pack(kind: str, folder: Path, members: dict[str, bytes]) -> Path:
    return (tar if kind == "tar.gz" else zip_)(folder / f"archive.{kind}", members)


def everything(name: str) -> str:
    return name


@pytest.mark.parametrize("kind", ["tar.gz", "zip"])
def test_files_with_a_target_are_unpacked(kind: str, tmp_path: Path) -> None:
    """Members are unpacked to their target, others are skipped, and no temporary folder remains."""
    archive = pack(kind, tmp_path, {"top/a.txt": b"a", "top/b.txt": b"b", "readme": b"r"})
    made = download.unpack(archive, tmp_path / "out", lambda name: name.removeprefix("top/") if "top" in name else None)
    assert made == [tmp_path / "out" / "a.txt", tmp_path / "out" / "b.txt"]
    assert only(tmp_path / "out") == ["a.txt", "b.txt"]
    assert (tmp_path / "out" / "b.txt").read_bytes() == b"b"


@pytest.mark.parametrize("kind", ["tar.gz", "zip"])
@pytest.mark.parametrize("name", ["../evil", "/evil", "a/../../evil", "a//evil", "..\\evil", "C:/evil", "./../evil"])
def test_names_that_lead_out_are_passed_over(kind: str, name: str, tmp_path: Path) -> None:
    """No member is written outside the folder, whatever its name."""
    archive = pack(kind, tmp_path, {name: b"evil", "good": b"good"})
    out = tmp_path / "deep" / "out"
    assert download.unpack(archive, out, everything) == [out / "good"]
    assert sorted(path.name for path in tmp_path.rglob("*") if path.is_file()) == sorted([archive.name, "good"])


def test_links_and_devices_are_passed_over(tmp_path: Path) -> None:
    """A link could redirect a later member to another folder."""
    odd = []
    for name, type_ in (("link", tarfile.SYMTYPE), ("hard", tarfile.LNKTYPE), ("pipe", tarfile.FIFOTYPE)):
        member = tarfile.TarInfo(name)
        member.type, member.linkname = type_, "/etc/passwd"
        odd.append(member)
    archive = tar(tmp_path / "archive.tar.gz", {"good": b"good"}, tuple(odd))
    download.unpack(archive, tmp_path / "out", everything)
    assert only(tmp_path / "out") == ["good"]


def test_a_link_in_a_zip_is_a_regular_file(tmp_path: Path) -> None:
    """The Unix mode in a zip archive is ignored."""
    link = zipfile.ZipInfo("link")
    link.external_attr = (stat.S_IFLNK | 0o777) << 16
    with zipfile.ZipFile(tmp_path / "archive.zip", "w") as archive:
        archive.writestr(link, "/etc/passwd")
    download.unpack(tmp_path / "archive.zip", tmp_path / "out", everything)
    assert not (tmp_path / "out" / "link").is_symlink()


@pytest.mark.parametrize("kind", ["tar.gz", "zip"])
def test_a_bomb_is_stopped(kind: str, tmp_path: Path) -> None:
    """A small archive of ten million zeros is refused at the limit, and nothing of it remains."""
    archive = pack(kind, tmp_path, {"zeros": bytes(10_000_000)})
    with pytest.raises(DataError, match="1,000,000 bytes"):
        download.unpack(archive, tmp_path / "out", everything, max_bytes=1_000_000)
    assert only(tmp_path / "out") == []


@pytest.mark.parametrize("kind", ["tar.gz", "zip"])
@pytest.mark.parametrize(
    "spoil", [lambda content: content[: len(content) // 2], lambda _: b"<html>", lambda content: content[:40]]
)
def test_a_damaged_archive_leaves_nothing(kind: str, spoil: Callable[[bytes], bytes], tmp_path: Path) -> None:
    """A truncated archive or another file is a DataError that names it, and the folder is empty."""
    archive = pack(kind, tmp_path, {f"{n}": random.Random(n).randbytes(5000) for n in range(10)})
    archive.write_bytes(spoil(archive.read_bytes()))
    with pytest.raises(DataError, match=str(archive)):
        download.unpack(archive, tmp_path / "out", everything)
    assert only(tmp_path / "out") == []


def test_an_archive_without_expected_files_is_refused(tmp_path: Path) -> None:
    """An archive without a member to unpack is a DataError that names it."""
    archive = zip_(tmp_path / "archive.zip", {"other": b""})
    with pytest.raises(DataError, match=r"archive\.zip"):
        download.unpack(archive, tmp_path / "out", lambda _name: None)


def test_an_existing_folder_is_not_replaced(tmp_path: Path) -> None:
    """The files of a user remain."""
    mine = tmp_path / "out" / "top" / "mine"
    mine.parent.mkdir(parents=True)
    mine.write_text("mine")
    with pytest.raises(DataError, match="out"):
        download.unpack(tar(tmp_path / "archive.tar.gz", {"top/a": b"a"}), tmp_path / "out", everything)
    assert only(mine.parent) == ["mine"]
