"""Splits and fingerprints on made-up pictures; the reader of MNIST on files written here, and on the real ones."""

import gzip
import hashlib
from pathlib import Path

import numpy as np
import pytest
import torch
from torchvision.datasets import MNIST

from contract.spec import ImageInput
from tests.training.data.layouts import idx
from training.data import mnist
from training.data.dataset import Dataset, Split, fingerprint, folder, hold_out
from training.data.schema import Data, Image
from training.errors import DataError, TrainingError

TRAIN, TEST = 300, 20
SPEC = Image(height=28, width=28, mode="L", framing="mnist", mean=[0.1], std=[0.3])
FRAME = ImageInput(height=28, width=28, mode="L", framing="mnist")


def pictures(count: int, seed: int = 0, side: int = 4) -> Split:
    draw = torch.Generator().manual_seed(seed)
    return Split(
        torch.randint(0, 256, (count, side, side, 1), generator=draw, dtype=torch.uint8),
        torch.randint(0, 10, (count,), generator=draw),
    )


def contents(split: Split) -> list[tuple[bytes, int]]:
    return [(picture.numpy().tobytes(), int(label)) for picture, label in zip(split.inputs, split.labels, strict=True)]


def test_hold_out_parts_every_example_by_content() -> None:
    """The two parts share no picture, together they are the whole, and each label stays with its picture."""
    whole = pictures(200)
    rest, held_out = hold_out(whole, 30)
    assert (len(rest), len(held_out)) == (170, 30)
    assert not {pixels for pixels, _ in contents(rest)} & {pixels for pixels, _ in contents(held_out)}
    assert sorted(contents(rest) + contents(held_out)) == sorted(contents(whole))


def test_hold_out_does_not_depend_on_the_order() -> None:
    """The same examples in another order are parted into the same sets."""
    whole = pictures(200)
    order = torch.randperm(200, generator=torch.Generator().manual_seed(1))
    shuffled = Split(whole.inputs[order], whole.labels[order])
    for ours, theirs in zip(hold_out(whole, 30), hold_out(shuffled, 30), strict=True):
        assert sorted(contents(ours)) == sorted(contents(theirs))


@pytest.mark.parametrize("count", range(1, 40, 7))
def test_hold_out_keeps_equal_pictures_on_one_side(count: int) -> None:
    """Every picture stands three times: no copy is learnt from while another is held out."""
    single = pictures(40)
    rest, held_out = hold_out(single + single + single, count)
    assert not {pixels for pixels, _ in contents(rest)} & {pixels for pixels, _ in contents(held_out)}
    assert count <= len(held_out) < count + 3
    assert len(rest) + len(held_out) == 120


def test_a_fingerprint_changes_with_every_byte() -> None:
    """One label, one pixel, the order or the shape changed gives another fingerprint; equal data the same."""
    whole = pictures(6)
    label, pixel = whole.labels.clone(), whole.inputs.clone()
    label[3] += 1
    pixel[2, 1, 1, 0] ^= 1
    variants = [
        whole,
        Split(whole.inputs, label),
        Split(pixel, whole.labels),
        Split(whole.inputs.flip(0), whole.labels.flip(0)),
        Split(whole.inputs.view(6, 2, 8, 1), whole.labels),
    ]
    prints = [fingerprint(split) for split in variants]
    assert len(set(prints)) == len(variants)
    assert fingerprint(pictures(6)) == prints[0]
    assert fingerprint(whole, variants[1]) != fingerprint(variants[1], whole)


def test_a_fingerprint_is_the_sha256_of_shape_pictures_and_labels() -> None:
    """What is hashed is what the docstring names, so that another program can compute it."""
    whole = pictures(3)
    content = b"(3, 4, 4, 1)" + whole.inputs.numpy().tobytes() + whole.labels.numpy().tobytes()
    assert fingerprint(whole) == f"sha256:{hashlib.sha256(content).hexdigest()}"


def test_batches_are_the_pictures_in_order() -> None:
    """Batches of 4 of 10 pictures are 4, 4 and 2, and put together again the pictures."""
    whole = pictures(10)
    batches = list(whole.batches(4))
    assert [len(batch) for batch in batches] == [4, 4, 2]
    assert torch.equal(torch.cat(batches), whole.inputs)


def test_the_data_folder_is_named_by_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """CONVOKE_DATA names the folder; where it is unset or empty it is data/."""
    monkeypatch.setenv("CONVOKE_DATA", "/elsewhere")
    assert folder() == Path("/elsewhere")
    monkeypatch.setenv("CONVOKE_DATA", "")
    assert folder() == Path("data")
    monkeypatch.delenv("CONVOKE_DATA")
    assert folder() == Path("data")


def load(validation: int) -> Dataset:
    """MNIST with fewer examples held out than recipes may."""
    return mnist.load(Data.model_construct(name="mnist", validation=validation), SPEC)


@pytest.fixture
def files() -> dict[str, bytes]:
    """Four files as MNIST's, of 300 and 20 generated pictures, unpacked."""
    draw = np.random.default_rng(0)
    return {
        f"{name}-{kind}-ubyte": idx(draw.integers(0, 256 if axes else 10, (count, *axes), dtype=np.uint8))
        for name, count in (("train", TRAIN), ("t10k", TEST))
        for kind, axes in (("images-idx3", (28, 28)), ("labels-idx1", ()))
    }


@pytest.fixture
def raw(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty MNIST/raw where CONVOKE_DATA points to, and no network: the one mirror is a folder that is not."""
    monkeypatch.setenv("CONVOKE_DATA", str(tmp_path))
    monkeypatch.setattr(MNIST, "mirrors", [(tmp_path / "nowhere").as_uri() + "/"])
    place = tmp_path / "mnist" / "MNIST" / "raw"
    place.mkdir(parents=True)
    return place


def pack(raw: Path, files: dict[str, bytes], monkeypatch: pytest.MonkeyPatch) -> None:
    """Write the files packed, and have torchvision expect them by their MD5 as it does the real ones."""
    resources = []
    for name, content in files.items():
        packed = gzip.compress(content)
        (raw / f"{name}.gz").write_bytes(packed)
        resources.append((f"{name}.gz", hashlib.md5(packed).hexdigest()))
    monkeypatch.setattr(MNIST, "resources", resources)


def state(place: Path) -> list[tuple[str, int, int]]:
    """Names, sizes and times of everything below a folder, the folder itself included."""
    return sorted((str(path), path.stat().st_size, path.stat().st_mtime_ns) for path in (place, *place.rglob("*")))


def test_unpacked_files_are_read_as_they_are(raw: Path, files: dict[str, bytes]) -> None:
    """Pictures come out as uint8 (N, 28, 28, 1), labels as int64, in the files' order for the test split."""
    for name, content in files.items():
        (raw / name).write_bytes(content)
    data = load(50)
    assert len(data.train) + len(data.validation) == TRAIN
    assert len(data.validation) == 50
    assert (data.train.inputs.dtype, data.train.labels.dtype) == (torch.uint8, torch.int64)
    assert data.tests["mnist"].inputs.shape == (TEST, 28, 28, 1)
    assert data.tests["mnist"].inputs.numpy().tobytes() == files["t10k-images-idx3-ubyte"][16:]
    assert bytes(data.tests["mnist"].labels.tolist()) == files["t10k-labels-idx1-ubyte"][8:]
    assert contents(mnist.tests("mnist", FRAME, None)["mnist"]) == contents(data.tests["mnist"])


def test_the_fingerprint_does_not_depend_on_what_is_held_out(raw: Path, files: dict[str, bytes]) -> None:
    """The fingerprint is of the official splits: another number held out, the same data."""
    for name, content in files.items():
        (raw / name).write_bytes(content)
    assert load(50).fingerprint == load(100).fingerprint


def test_more_held_out_than_there_is_is_refused(raw: Path, files: dict[str, bytes]) -> None:
    """A recipe that holds every example out is told so."""
    for name, content in files.items():
        (raw / name).write_bytes(content)
    with pytest.raises(TrainingError):
        load(TRAIN)


def test_packed_files_are_read_without_writing_beside_them(
    raw: Path, files: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A folder of .gz files gives the same data as the unpacked ones and stays as it is."""
    pack(raw, files, monkeypatch)
    before = state(raw.parents[1])
    data = load(50)
    assert state(raw.parents[1]) == before
    assert data.tests["mnist"].inputs.numpy().tobytes() == files["t10k-images-idx3-ubyte"][16:]
    assert len(data.train) + len(data.validation) == TRAIN


def test_packed_files_that_are_not_mnist_s_are_refused(
    raw: Path, files: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A .gz of another MD5 is a DataError, and neither replaced nor removed."""
    pack(raw, files, monkeypatch)
    (raw / "t10k-labels-idx1-ubyte.gz").write_bytes(gzip.compress(files["t10k-labels-idx1-ubyte"][:-1] + b"\0"))
    before = state(raw.parents[1])
    with pytest.raises(DataError, match="MNIST cannot be read from"):
        load(50)
    assert state(raw.parents[1]) == before


def test_missing_files_are_a_data_error_that_says_what_to_do(raw: Path) -> None:
    """Without files and without a network the message names the place, the first file and CONVOKE_DATA."""
    with pytest.raises(DataError, match=r"train-images-idx3-ubyte\.gz and its three siblings") as refused:
        load(50)
    assert str(raw) in str(refused.value)
    assert "CONVOKE_DATA" in str(refused.value)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("train-images-idx3-ubyte", idx(np.zeros((TRAIN, 28, 28), np.uint8))[:-1]),
        ("train-images-idx3-ubyte", b""),
        ("train-images-idx3-ubyte", b"not an idx file"),
        ("t10k-labels-idx1-ubyte", idx(np.zeros(TEST - 1, np.uint8))),
    ],
    ids=["truncated", "empty", "foreign", "one label too few"],
)
def test_damaged_unpacked_files_are_a_data_error(name: str, content: bytes, raw: Path, files: dict[str, bytes]) -> None:
    """A file that is not whole, is something else or does not fit its sibling is refused like a missing one."""
    for each, whole in files.items():
        (raw / each).write_bytes(content if each == name else whole)
    with pytest.raises(DataError, match="MNIST cannot be read from"):
        load(50)


@pytest.mark.data
def test_the_real_mnist_has_its_published_counts_and_its_folder_is_left_alone(mnist_folder: Path) -> None:
    """60,000 and 10,000 pictures with the published numbers of each digit; nothing is written beside the files."""
    before = state(mnist_folder)
    data = load(5000)
    assert state(mnist_folder) == before
    official = data.train + data.validation
    assert (len(official), len(data.tests["mnist"])) == (60_000, 10_000)
    assert 5000 <= len(data.validation) < 5010
    assert data.train.inputs.shape[1:] == data.tests["mnist"].inputs.shape[1:] == (28, 28, 1)
    assert official.labels.bincount().tolist() == [5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949]
    assert data.tests["mnist"].labels.bincount().tolist() == [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]
