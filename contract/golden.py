"""A version's golden file: inputs of its graph, and what the graph gave for them when it was published."""

import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from contract.errors import ModelRefused
from contract.manifest import Manifest, Precision
from contract.spec import Axes, format_axes

MAX_BYTES = 256 << 20
"""Of the unpacked arrays: an archive of a few kilobytes can hold gigabytes of zeros."""
MAX_ARRAYS = 16

Array = npt.NDArray[Any]


def key(precision: Precision) -> str:
    """The name of the array that holds what the graph of a precision gave."""
    return "probabilities" if precision == "float32" else precision


def read(path: Path, manifest: Manifest, precision: Precision = "float32") -> tuple[Array, Array]:
    """Read the inputs of a golden file, and the probabilities (N, classes) that the graph of a precision gave.

    Raises:
        ModelRefused: the file cannot be read, holds too much, or does not fit the graph of the manifest.
    """
    inputs, outputs = _load(path, key(precision))
    spec = manifest.input
    if inputs.dtype != spec.dtype or not inputs.size or not _fits(inputs.shape, spec.axes):
        raise ModelRefused(
            f"{path}: expected inputs {spec.dtype} of shape {format_axes(spec.axes)}, "
            f"found {inputs.dtype} of shape {list(inputs.shape)}"
        )
    shape = (len(inputs), len(manifest.labels))
    if outputs.dtype != np.float32 or outputs.shape != shape:
        raise ModelRefused(
            f"{path}: expected probabilities float32 of shape {list(shape)}, "
            f"found {outputs.dtype} of shape {list(outputs.shape)}"
        )
    if not np.isfinite(outputs).all():
        raise ModelRefused(f"{path}: the probabilities hold values that are not finite numbers")
    return inputs, outputs


def _fits(shape: tuple[int, ...], axes: Axes) -> bool:
    return len(shape) == len(axes) and all(
        isinstance(axis, str) or size == axis for size, axis in zip(shape, axes, strict=True)
    )


def _load(path: Path, outputs: str) -> tuple[Array, Array]:
    try:
        with path.open("rb") as file:
            with zipfile.ZipFile(file) as archive:  # numpy reads no more of a member than is declared here
                sizes = [member.file_size for member in archive.infolist()]
            if len(sizes) > MAX_ARRAYS or sum(sizes) > MAX_BYTES:
                raise ModelRefused(  # noqa: TRY301 -- the handler below lets it pass
                    f"{path}: holds too much: {len(sizes)} arrays of {sum(sizes)} bytes "
                    f"(maximum {MAX_ARRAYS} arrays of {MAX_BYTES} bytes)"
                )
            file.seek(0)
            with np.load(file, allow_pickle=False) as golden:
                return golden["inputs"], golden[outputs]
    except ModelRefused:
        raise
    except Exception as error:  # a damaged archive raises nearly anything
        raise ModelRefused(f"{path}: cannot be read: {error}") from error
