"""The command `python -m training data` with a mirror on this machine, and on the real data."""

import dataclasses
import functools
import gzip
import hashlib
import io
import re
import tarfile
import threading
import zipfile
from collections.abc import Iterator
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from tests.serving import ROOT
from training.data import sources
from training.data.folders import data_folder
from training.data.reviews import Review
from training.errors import DataError


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 -- the base class's name
        """Keep the tests' output clean."""


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty data folder."""
    folder = tmp_path / "data"
    monkeypatch.setenv("CONVOKE_DATA", str(folder))
    monkeypatch.delenv("CONVOKE_MIRROR", raising=False)
    return folder


@pytest.fixture
def mirror(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The folder of a local server, which is set as CONVOKE_MIRROR."""
    folder = tmp_path / "mirror"
    folder.mkdir()
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    handler = functools.partial(Quiet, directory=str(folder))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        monkeypatch.setenv("CONVOKE_MIRROR", f"http://127.0.0.1:{server.server_address[1]}/")
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield folder
        server.shutdown()
        thread.join()


def offer(mirror: Path, name: str, files: dict[str, bytes], monkeypatch: pytest.MonkeyPatch) -> None:
    """Put files on the mirror, and expect their checksums in place of the real ones."""
    (mirror / name).mkdir()
    for file, content in files.items():
        (mirror / name / file).write_bytes(content)
    expected = tuple(
        dataclasses.replace(file, sha256=hashlib.sha256(files[file.name]).hexdigest())
        for file in sources.SOURCES[name].files
    )
    monkeypatch.setitem(sources.SOURCES, name, dataclasses.replace(sources.SOURCES[name], files=expected))


def tar(members: dict[str, bytes]) -> bytes:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as archive:
        for name, content in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return packed.getvalue()


SST2 = {f"stsa.binary.{split}": f"0 bad {split} .\n1 good {split} .\n".encode() for split in ("train", "dev", "test")}


def expect_texts(name: str, monkeypatch: pytest.MonkeyPatch, train: tuple[int, int], test: tuple[int, int]) -> None:
    monkeypatch.setitem(sources.TEXT_COUNTS, name, {"train": train, "test": test})


def test_every_data_set_is_listed_with_its_state_and_terms(data: Path) -> None:
    """Without a name: for each data set its state, its terms, how to cite it and how to download it."""
    (data / "mr").mkdir(parents=True)
    for name in ("rt-polarity.neg", "rt-polarity.pos"):
        (data / "mr" / name).touch()
    lines = list(sources.report(None))
    text = "\n".join(lines)
    assert "\nmr: complete" in text
    for name in sources.SOURCES:
        assert f"\n{name}: " in text
    assert re.search(r"imdb: missing.* python -m training data imdb", text)
    assert len(re.findall("terms: .*cite", text)) == len(sources.SOURCES)


def test_an_unknown_name_is_refused_with_the_known_ones() -> None:
    """The message lists all names."""
    with pytest.raises(DataError, match=r"'cifar'.* mnist, cats-vs-dogs, .*reviews"):
        list(sources.report("cifar"))


@pytest.mark.parametrize("name", sources.SOURCES)
def test_no_download_downloads_nothing(data: Path, name: str) -> None:
    """With --no-download, the message names the folder and the address, and nothing is written."""
    with pytest.raises(DataError, match=f"{name} .*{re.escape(str(data))}.*https://"):
        list(sources.report(name, download=False))
    assert not data.exists()


def test_plain_files_are_downloaded_and_counted(data: Path, mirror: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """SST-2: three files below sst2/, then the counts; a second call downloads nothing."""
    offer(mirror, "sst2", SST2, monkeypatch)
    expect_texts("sst2", monkeypatch, (2, 2), (1, 1))
    lines = list(sources.report("sst2"))
    assert sum("downloading http://127.0.0.1" in line for line in lines) == 3
    assert "  train: 4 (negative: 2, positive: 2)" in lines
    assert "  test: 2 (negative: 1, positive: 1)" in lines
    assert sorted(path.name for path in (data / "sst2").iterdir()) == sorted(SST2)
    assert not any("downloading" in line for line in sources.report("sst2"))


@pytest.mark.usefixtures("data")
def test_unexpected_content_is_reported(mirror: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Texts with the expected counts that are not the published ones are used, with a notice."""
    offer(mirror, "sst2", SST2, monkeypatch)
    expect_texts("sst2", monkeypatch, (2, 2), (1, 1))
    assert sum("content: differs" in line for line in sources.report("sst2")) == 2


@pytest.mark.usefixtures("data")
def test_incomplete_texts_are_refused(mirror: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Counts that differ from the published ones are a DataError."""
    offer(mirror, "sst2", SST2, monkeypatch)
    with pytest.raises(DataError, match=r"sst2 .*3,738 negative"):
        list(sources.report("sst2"))


def test_a_wrong_checksum_leaves_the_data_set_missing(data: Path, mirror: Path) -> None:
    """Files without the expected checksums are removed."""
    (mirror / "sst2").mkdir()
    for name, content in SST2.items():
        (mirror / "sst2" / name).write_bytes(content)
    with pytest.raises(DataError, match="expected SHA-256"):
        list(sources.report("sst2"))
    assert list((data / "sst2").iterdir()) == []


def test_an_archive_is_unpacked_to_the_loaders_layout(
    data: Path, mirror: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """MR: only the two files are unpacked to mr/, and the archive is removed."""
    archive = tar(
        {
            "rt-polaritydata/rt-polarity.neg": b"".join(b"bad %d \n" % n for n in range(10)),
            "rt-polaritydata/rt-polarity.pos": b"".join(b"good %d \n" % n for n in range(10)),
            "rt-polaritydata.README.1.0.txt": b"",
        }
    )
    offer(mirror, "mr", {"rt-polaritydata.tar.gz": archive}, monkeypatch)
    with pytest.raises(DataError, match="mr is incomplete"):
        list(sources.report("mr"))
    assert sorted(path.name for path in (data / "mr").iterdir()) == ["rt-polarity.neg", "rt-polarity.pos"]


@pytest.mark.usefixtures("data")
def test_reviews_are_their_three_sources() -> None:
    """`reviews` is imdb, mr and sst2, one after the other: the first that is missing is named."""
    with pytest.raises(DataError, match="imdb is missing"):
        list(sources.report("reviews", download=False))


@pytest.mark.parametrize(
    ("name", "file", "member", "target"),
    [
        ("cats-vs-dogs", 0, "PetImages/Cat/0.jpg", "PetImages/Cat/0.jpg"),
        ("cats-vs-dogs", 0, "PetImages/Cat/Thumbs.db", None),
        ("cats-vs-dogs", 0, "readme[1].txt", None),
        ("oxford-pets", 0, "images/Egyptian_Mau_14.jpg", "images/Egyptian_Mau_14.jpg"),
        ("oxford-pets", 0, "./images/Abyssinian_1.jpg", "images/Abyssinian_1.jpg"),
        ("oxford-pets", 0, "images/Abyssinian_100.mat", None),
        ("oxford-pets", 1, "annotations/trainval.txt", "annotations/trainval.txt"),
        ("oxford-pets", 1, "annotations/._trimaps/x.png", None),
        ("mr", 0, "rt-polaritydata/rt-polarity.pos", "rt-polarity.pos"),
        ("mr", 0, "rt-polaritydata.README.1.0.txt", None),
    ],
)
def test_members_of_each_archive(name: str, file: int, member: str, target: str | None) -> None:
    """The members that the loaders read are unpacked to where they read them; others are skipped."""
    assert sources.SOURCES[name].files[file].target(member) == target


def test_cats_and_dogs_are_unpacked_from_microsofts_archive(
    data: Path, mirror: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """PetImages is unpacked below cats-vs-dogs/, photos are counted, and a photo that cannot be decoded is named."""
    seven = (ROOT / "examples" / "seven.png").read_bytes()
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        archive.writestr("PetImages/Cat/0.jpg", seven)
        archive.writestr("PetImages/Cat/666.jpg", b"")
        archive.writestr("PetImages/Dog/0.jpg", seven)
        archive.writestr("PetImages/Dog/Thumbs.db", b"")
    offer(mirror, "cats-vs-dogs", {"kagglecatsanddogs_5340.zip": packed.getvalue()}, monkeypatch)
    text = "\n".join(sources.report("cats-vs-dogs"))
    assert "train: 3 (cat: 2, dog: 1)" in text
    assert "cannot be decoded and will be skipped: 1" in text
    assert str(data / "cats-vs-dogs" / "PetImages" / "Cat" / "666.jpg") in text
    assert [path.name for path in (data / "cats-vs-dogs").iterdir()] == ["PetImages"]


def test_a_damaged_mnist_file_is_named(data: Path) -> None:
    """Of four files, the first with another checksum than MNIST's is named."""
    raw = data / "mnist" / "MNIST" / "raw"
    raw.mkdir(parents=True)
    for file in sources.SOURCES["mnist"].files:
        (raw / file.name).write_bytes(gzip.compress(b""))
    with pytest.raises(DataError, match=r"train-images-idx3-ubyte\.gz is damaged"):
        list(sources.report("mnist", download=False))


def test_the_digest_depends_on_texts_and_labels_alone() -> None:
    """Order, spacing and accents change nothing; a word or a label does."""
    first = [Review("It's a  café .", 1, "mr"), Review("bad", 0, "mr")]
    same = [Review("BAD", 0, "sst2"), Review("it 's a caf\u00e9", 1, "sst2")]
    assert sources.digest(first) == sources.digest(same)
    assert sources.digest([Review("bad", 1, "mr")]) != sources.digest([Review("bad", 0, "mr")])
    assert sources.digest([Review("bad", 1, "mr")]) != sources.digest([Review("sad", 1, "mr")])


def test_checksums_and_addresses_are_complete() -> None:
    """Each file has an https address and 64 hexadecimal digits, and no two of them are the same."""
    files = [file for source in sources.SOURCES.values() for file in source.files]
    assert all(file.url.startswith("https://") and re.fullmatch("[0-9a-f]{64}", file.sha256) for file in files)
    assert len({file.sha256 for file in files}) == len(files)


@pytest.mark.data
@pytest.mark.parametrize("name", ["mnist", "mr", "sst2", pytest.param("imdb", marks=pytest.mark.slow)])
def test_the_real_data_is_as_expected(name: str) -> None:
    """Counts, checksums and contents are those behind the figures in this repository."""
    if not sources.SOURCES[name].is_complete(data_folder() / name):
        pytest.skip(f"missing {data_folder() / name}: set CONVOKE_DATA to the data folder")
    lines = list(sources.report(name, download=False))
    assert sum("content: as expected" in line for line in lines) == (0 if name == "mnist" else 2)
    assert any(line.startswith("  test: ") for line in lines)
