"""MNIST (LeCun, Cortes & Burges, 1998), read and downloaded by torchvision.

Layout: `mnist/MNIST/raw/` below the data folder, as torchvision leaves it. Files that are there, packed or unpacked,
are used offline, and a folder that holds packed files only is never written to.
"""

import shutil
import tempfile
from pathlib import Path
from typing import Literal

import torch
from torchvision.datasets import MNIST

from contract.spec import ImageInput
from training.data.dataset import Dataset, Split, fingerprint, folder, hold_out
from training.data.schema import Data, Image
from training.errors import DataError

KIND: Literal["image", "text"] = "image"
LABELS: tuple[str, ...] = tuple(map(str, range(10)))


def load(data: Data, _spec: Image) -> Dataset:
    """MNIST with `data.validation` of its 60,000 training images held out: uint8 (N, 28, 28, 1).

    Raises:
        DataError: the files are not there and cannot be downloaded, or are not MNIST's.
    """
    official_train, test = (_read(folder() / "mnist", train=train) for train in (True, False))
    train, held_out = hold_out(official_train, data.validation)
    return Dataset(train, held_out, {"mnist": test}, fingerprint(official_train, test))


def tests(name: str, _spec: ImageInput, _tokenizer: str | None) -> dict[str, Split]:
    """The 10,000 test pictures, uint8 (N, 28, 28, 1), and their labels.

    Raises:
        DataError: as `load`.
    """
    return {name: _read(folder() / "mnist", train=False)}


def _read(root: Path, *, train: bool) -> Split:
    raw = root / "MNIST" / "raw"
    packed = [raw / name for name, _md5 in MNIST.resources]
    try:
        if not all(path.with_suffix("").exists() for path in packed) and all(path.exists() for path in packed):
            with tempfile.TemporaryDirectory() as scratch:
                beside = Path(scratch) / "MNIST" / "raw"
                beside.mkdir(parents=True)
                for path in packed:
                    shutil.copyfile(path, beside / path.name)
                data = MNIST(scratch, train=train, download=True)
        else:
            data = MNIST(str(root), train=train, download=True)
        if len(data.data) != len(data.targets):
            raise ValueError(f"{len(data.data)} pictures, but {len(data.targets)} labels")  # noqa: TRY301
    except (RuntimeError, OSError, ValueError, AssertionError) as error:  # torchvision asserts on foreign files
        why = " ".join(str(error).split())
        raise DataError(
            f"MNIST cannot be read from {raw}, nor downloaded there: {why}. Put train-images-idx3-ubyte.gz and its "
            "three siblings there, or name the folder that holds mnist/ in CONVOKE_DATA."
        ) from error
    return Split(data.data.unsqueeze(-1).contiguous(), data.targets.to(torch.int64))
