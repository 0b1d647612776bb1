"""A version's golden file: inputs of its graph and what it gave, read within bounds."""

import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from contract.errors import ModelRefused
from contract.manifest import Precision

MAX_BYTES = 256 << 20
"""Of the arrays, unpacked: an archive of a few kilobytes can hold gigabytes of zeros."""
MAX_ARRAYS = 16

Array = npt.NDArray[Any]


def outputs_of(precision: Precision) -> str:
    """The name under which stands what the graph of that precision gives."""
    return "probabilities" if precision == "float32" else precision


def read(path: Path, outputs: str = "probabilities") -> tuple[Array, Array]:
    """The inputs of a golden file and the outputs of that name; whether they are those of a model is not looked at.

    Raises:
        ModelRefused: it cannot be read, or holds more than it may.
    """
    try:
        with path.open("rb") as file:
            with zipfile.ZipFile(file) as archive:  # numpy reads no more of a member than is declared here
                declared = [member.file_size for member in archive.infolist()]
            if len(declared) > MAX_ARRAYS or sum(declared) > MAX_BYTES:
                raise ModelRefused(  # noqa: TRY301 -- the handler below lets it pass
                    f"{path}: holds {len(declared)} arrays of {sum(declared)} bytes; at most {MAX_ARRAYS} of "
                    f"{MAX_BYTES} are read"
                )
            file.seek(0)
            with np.load(file, allow_pickle=False) as golden:
                return golden["inputs"], golden[outputs]
    except ModelRefused:
        raise
    except Exception as error:  # a damaged archive raises nearly anything
        raise ModelRefused(f"{path}: cannot be read: {error}") from error
