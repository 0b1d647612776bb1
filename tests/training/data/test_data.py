"""Splits and fingerprints of random images; MNIST from files that a test writes, and the real MNIST."""

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
from training.data.dataset import Dataset, Split, fingerprint, hold_out, lowest, parts
from training.data.folders import data_folder
from training.data.schema import Data, Image
from training.errors import DataError

TRAIN, TEST = 300, 20
SPEC = Image(height=28, width=28, mode="L", framing="mnist", mean=[0.1], std=[0.3])
FRAME = ImageInput(height=28, width=28, mode="L", framing="mnist")


def images(count: int, seed: int = 0, side: int = 4) -> Split:
    draw = torch.Generator().manual_seed(seed)
    return Split(
        torch.randint(0, 256, (count, side, side, 1), generator=draw, dtype=torch.uint8),
        torch.randint(0, 10, (count,), generator=draw),
    )


def contents(split: Split) -> list[tuple[bytes, int]]:
    return [(image.numpy().tobytes(), int(label)) for image, label in zip(split.inputs, split.labels, strict=True)]


def test_hold_out_separates_examples_by_content() -> None:
    """The two parts share no image, together they are the split, and each label stays with its image."""
    split = images(200)
    rest, held_out = hold_out(split, 30)
    assert (len(rest), len(held_out)) == (170, 30)
    assert not {pixels for pixels, _ in contents(rest)} & {pixels for pixels, _ in contents(held_out)}
    assert sorted(contents(rest) + contents(held_out)) == sorted(contents(split))


def test_hold_out_does_not_depend_on_the_order() -> None:
    """The same examples in another order give the same two sets."""
    split = images(200)
    order = torch.randperm(200, generator=torch.Generator().manual_seed(1))
    shuffled = Split(split.inputs[order], split.labels[order])
    for ours, theirs in zip(hold_out(split, 30), hold_out(shuffled, 30), strict=True):
        assert sorted(contents(ours)) == sorted(contents(theirs))


@pytest.mark.parametrize("count", range(1, 40, 7))
def test_hold_out_keeps_equal_images_on_one_side(count: int) -> None:
    """Every image occurs three times: no copy is trained on while another is held out."""
    single = images(40)
    rest, held_out = hold_out(single + single + single, count)
    assert not {pixels for pixels, _ in contents(rest)} & {pixels for pixels, _ in contents(held_out)}
    assert count <= len(held_out) < count + 3
    assert len(rest) + len(held_out) == 120


def test_a_fingerprint_changes_with_every_byte() -> None:
    """Another label, pixel, order or shape gives another fingerprint; equal data give the same."""
    split = images(6)
    label, pixel = split.labels.clone(), split.inputs.clone()
    label[3] += 1
    pixel[2, 1, 1, 0] ^= 1
    variants = [
        split,
        Split(split.inputs, label),
        Split(pixel, split.labels),
        Split(split.inputs.flip(0), split.labels.flip(0)),
        Split(split.inputs.view(6, 2, 8, 1), split.labels),
    ]
    prints = [fingerprint(split) for split in variants]
    assert len(set(prints)) == len(variants)
    assert fingerprint(images(6)) == prints[0]
    assert fingerprint(split, variants[1]) != fingerprint(variants[1], split)


def test_a_fingerprint_is_the_sha256_of_shape_images_and_labels() -> None:
    """The hash is over the content that the docstring names, so that another program can compute it."""
    split = images(3)
    content = b"(3, 4, 4, 1)" + split.inputs.numpy().tobytes() + split.labels.numpy().tobytes()
    assert fingerprint(split) == f"sha256:{hashlib.sha256(content).hexdigest()}"


def test_batches_are_the_images_in_order() -> None:
    """Batches of 4 of 10 images are 4, 4 and 2; joined, they are the images again."""
    split = images(10)
    batches = list(split.batches(4))
    assert [len(batch) for batch in batches] == [4, 4, 2]
    assert torch.equal(torch.cat(batches), split.inputs)


def test_the_environment_sets_the_data_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    """CONVOKE_DATA names the folder; unset or empty, it is data/."""
    monkeypatch.setenv("CONVOKE_DATA", "/elsewhere")
    assert data_folder() == Path("/elsewhere")
    monkeypatch.setenv("CONVOKE_DATA", "")
    assert data_folder() == Path("data")
    monkeypatch.delenv("CONVOKE_DATA")
    assert data_folder() == Path("data")


def load(validation: int) -> Dataset:
    """MNIST with fewer examples held out than recipes may."""
    return mnist.load(Data.model_construct(name="mnist", validation=validation), SPEC)


@pytest.fixture
def files() -> dict[str, bytes]:
    """The four files of MNIST, with 300 and 20 random images, decompressed."""
    draw = np.random.default_rng(0)
    return {
        f"{name}-{kind}-ubyte": idx(draw.integers(0, 256 if axes else 10, (count, *axes), dtype=np.uint8))
        for name, count in (("train", TRAIN), ("t10k", TEST))
        for kind, axes in (("images-idx3", (28, 28)), ("labels-idx1", ()))
    }


@pytest.fixture
def raw(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty MNIST/raw below CONVOKE_DATA, and no network: the only mirror is a folder that does not exist."""
    monkeypatch.setenv("CONVOKE_DATA", str(tmp_path))
    monkeypatch.setattr(MNIST, "mirrors", [(tmp_path / "nowhere").as_uri() + "/"])
    folder = tmp_path / "mnist" / "MNIST" / "raw"
    folder.mkdir(parents=True)
    return folder


def pack(raw: Path, files: dict[str, bytes], monkeypatch: pytest.MonkeyPatch) -> None:
    """Write the files compressed, and let torchvision expect their MD5."""
    resources = []
    for name, content in files.items():
        packed = gzip.compress(content)
        (raw / f"{name}.gz").write_bytes(packed)
        resources.append((f"{name}.gz", hashlib.md5(packed).hexdigest()))
    monkeypatch.setattr(MNIST, "resources", resources)


def state(folder: Path) -> list[tuple[str, int, int]]:
    """Names, sizes and times of a folder and everything in it."""
    return sorted((str(path), path.stat().st_size, path.stat().st_mtime_ns) for path in (folder, *folder.rglob("*")))


def test_decompressed_files_are_read(raw: Path, files: dict[str, bytes]) -> None:
    """Images are uint8 (N, 28, 28, 1), labels int64, and the test split has the order of the files."""
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
    """The fingerprint is of the official splits, whatever number of examples is held out."""
    for name, content in files.items():
        (raw / name).write_bytes(content)
    assert load(50).fingerprint == load(100).fingerprint


def test_holding_out_every_example_is_refused(raw: Path, files: dict[str, bytes]) -> None:
    """Some examples must be left to train on."""
    for name, content in files.items():
        (raw / name).write_bytes(content)
    with pytest.raises(DataError, match=str(TRAIN)):
        load(TRAIN)


def test_compressed_files_are_read_without_writing_beside_them(
    raw: Path, files: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A folder of .gz files gives the same data as the decompressed ones and is not changed."""
    pack(raw, files, monkeypatch)
    before = state(raw.parents[1])
    data = load(50)
    assert state(raw.parents[1]) == before
    assert data.tests["mnist"].inputs.numpy().tobytes() == files["t10k-images-idx3-ubyte"][16:]
    assert len(data.train) + len(data.validation) == TRAIN


def test_compressed_files_with_another_checksum_are_refused(
    raw: Path, files: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A .gz with another MD5 is a DataError, and neither replaced nor removed."""
    pack(raw, files, monkeypatch)
    (raw / "t10k-labels-idx1-ubyte.gz").write_bytes(gzip.compress(files["t10k-labels-idx1-ubyte"][:-1] + b"\0"))
    before = state(raw.parents[1])
    with pytest.raises(DataError, match="MNIST"):
        load(50)
    assert state(raw.parents[1]) == before


def test_missing_files_are_an_error_that_says_what_to_do(raw: Path) -> None:
    """Without files and without a network, the message names the folder, the first file and CONVOKE_DATA."""
    with pytest.raises(DataError, match=r"train-images-idx3-ubyte\.gz") as refused:
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
def test_damaged_decompressed_files_are_a_data_error(
    name: str, content: bytes, raw: Path, files: dict[str, bytes]
) -> None:
    """A file that is truncated, of another format or does not fit its sibling is refused like a missing one."""
    for each, valid in files.items():
        (raw / each).write_bytes(content if each == name else valid)
    with pytest.raises(DataError, match="MNIST"):
        load(50)


@pytest.mark.data
def test_the_real_mnist_has_its_published_counts_and_its_folder_is_not_changed(mnist_folder: Path) -> None:
    """60,000 and 10,000 images with the published number of each digit; nothing is written beside the files."""
    before = state(mnist_folder)
    data = load(5000)
    assert state(mnist_folder) == before
    official = data.train + data.validation
    assert (len(official), len(data.tests["mnist"])) == (60_000, 10_000)
    assert 5000 <= len(data.validation) < 5010
    assert data.train.inputs.shape[1:] == data.tests["mnist"].inputs.shape[1:] == (28, 28, 1)
    assert official.labels.bincount().tolist() == [5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949]
    assert data.tests["mnist"].labels.bincount().tolist() == [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]


def test_a_hold_out_has_the_shares_of_the_labels() -> None:
    """A fifth of 200, 50 and 3 examples are 40, 10 and 0 or 1: the rare class never leaves the training split."""
    generator = torch.Generator().manual_seed(0)
    for _ in range(20):
        inputs = torch.randint(0, 256, (253, 2, 3, 1), generator=generator, dtype=torch.uint8)
        rest, held_out = hold_out(Split(inputs, torch.tensor([0] * 200 + [1] * 50 + [2] * 3)), 50)
        assert held_out.labels.bincount(minlength=3)[:2].tolist() in ([40, 10], [39, 10], [40, 9], [39, 11])
        assert rest.labels.bincount(minlength=3)[2] >= 2


def test_parts_have_equal_sizes_and_shares() -> None:
    """Five parts of 60 keys of three kinds differ by one at most, in all and of each kind; equal keys stay together."""
    keys, kinds = [f"{number:02}" for number in range(60)], ["a"] * 41 + ["b"] * 12 + ["c"] * 7
    part_of = parts(keys * 2, kinds * 2, 5)
    for chosen in (keys, keys[:41], keys[41:53], keys[53:]):
        sizes = [sum(part_of[key] == number for key in chosen) for number in range(5)]
        assert max(sizes) - min(sizes) <= 1


def test_the_lowest_keys_of_each_kind_are_chosen() -> None:
    """A quarter of each kind, by rank; without a count, none."""
    keys, kinds = list("abcdefgh"), [0, 0, 0, 0, 1, 1, 1, 1]
    assert lowest(keys, kinds, 2) == {"a", "e"}
    assert lowest(keys, kinds, 0) == set()
