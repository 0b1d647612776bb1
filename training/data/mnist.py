"""MNIST (LeCun, Cortes & Burges, 1998), read by torchvision.

Layout: `mnist/MNIST/raw/` below the data folder. Files on the disk, compressed or not, are used offline, and a folder
of compressed files is never written to.
"""

import shutil
import tempfile
from pathlib import Path

import torch
from torchvision.datasets import MNIST

from contract.spec import ImageInput
from training.data.dataset import Dataset, Split, digests, fingerprint, hold_out, parts
from training.data.folders import data_folder, missing
from training.data.schema import Data, Image
from training.errors import DataError


def load(data: Data, _spec: Image) -> Dataset:
    """MNIST with `data.validation` of its 60,000 training images held out: uint8 (N, 28, 28, 1).

    Raises:
        DataError: the files are missing or damaged.
    """
    official_train, test = read(train=True), read(train=False)
    train, held_out = hold_out(official_train, data.held_out(len(official_train)))
    return Dataset(train, held_out, {"mnist": test}, fingerprint(official_train, test))


def fold(data: Data, _spec: Image, number: int) -> Dataset:
    """Fold `number`, from 0, of a cross-validation over the 60,000 training images.

    Raises:
        DataError: as `load`.
    """
    assert data.folds is not None, "no cross-validation"
    images = read(train=True)
    keys = digests(images)
    part_of = parts(keys, images.labels.tolist(), data.folds)
    tested = torch.tensor([part_of[key] == number for key in keys])
    test = images.at(tested)
    rest = images.at(~tested)
    train, held_out = hold_out(rest, data.held_out(len(rest)))
    return Dataset(train, held_out, {"mnist": test}, fingerprint(images))


def tests(name: str, _spec: ImageInput, _tokenizer: str | None) -> dict[str, Split]:
    """The 10,000 test images, uint8 (N, 28, 28, 1).

    Raises:
        DataError: as `load`.
    """
    return {name: read(train=False)}


def read(*, train: bool) -> Split:
    """One of the official splits: uint8 (N, 28, 28, 1).

    Raises:
        DataError: as `load`.
    """
    root = data_folder() / "mnist"
    raw = root / "MNIST" / "raw"
    packed = [raw / name for name, _md5 in MNIST.resources]
    is_unpacked = all(path.with_suffix("").exists() for path in packed)
    if not is_unpacked and not all(path.exists() for path in packed):
        raise missing("mnist", f"{raw} does not contain train-images-idx3-ubyte.gz and its three siblings")
    try:
        if is_unpacked:
            data = MNIST(str(root), train=train)
        else:
            with tempfile.TemporaryDirectory() as scratch:
                copies = Path(scratch) / "MNIST" / "raw"
                copies.mkdir(parents=True)
                for path in packed:
                    shutil.copyfile(path, copies / path.name)
                data = MNIST(scratch, train=train, download=True)  # unpacks the copies
        if len(data.data) != len(data.targets):
            raise ValueError(f"{len(data.data)} images, but {len(data.targets)} labels")  # noqa: TRY301
    except (RuntimeError, OSError, ValueError, AssertionError) as error:  # torchvision asserts on foreign files
        reason = " ".join(str(error).split()) or type(error).__name__
        raise DataError(
            f"MNIST cannot be read from {raw}: {reason}. Remove the damaged files, then: python -m training data mnist"
        ) from error
    return Split(data.data.unsqueeze(-1).contiguous(), data.targets.to(torch.int64))  # (N, 28, 28) -> (N, 28, 28, 1)
