"""The values of the Open Inference Protocol's tensors: from JSON or bytes to items, and labels to bytes.

Binary values are little-endian. A BYTES value has its length in 4 bytes before it.
"""

import re
import struct
from functools import lru_cache
from itertools import chain
from math import prod
from typing import Annotated, Any

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, Field

from contract.manifest import Manifest
from contract.picture import has_signature
from contract.spec import InputSpec
from service.errors import InvalidRequest
from service.http import items
from service.inference.decoding import Item

Array = npt.NDArray[Any]
Parameters = dict[str, Any] | None

_DTYPES: dict[str, np.dtype[Any]] = {"UINT8": np.dtype("<u1"), "INT64": np.dtype("<i8"), "FP32": np.dtype("<f4")}
_DATATYPES = {dtype.name: name for name, dtype in _DTYPES.items()}
_LENGTH = struct.Struct("<I")
_MAX_AXES = 8
_MASK = re.compile(rb"\x00*+\x01[\x00\x01]*+")
"""An image whose values are only 0 and 1. One that is black throughout is not meant: load generators send it."""
_MAX_LABELS = 4096  # binary labels that are kept


class Part(BaseModel):
    """A part of the protocol's JSON; unknown keys are ignored, as the protocol requires."""

    model_config = ConfigDict(extra="ignore", strict=True)


class InputTensor(Part):
    """A tensor, with its values in `data` or after the JSON."""

    name: str
    shape: Annotated[list[Annotated[int, Field(ge=0, le=1 << 40)]], Field(max_length=_MAX_AXES)]
    datatype: str
    parameters: Parameters = None
    data: list[Any] | None = None


def datatype(spec: InputSpec) -> str:
    """The protocol's name of the type of the graph's input."""
    return _DATATYPES[spec.dtype]


def values_of(tensor: InputTensor, binary: bytes) -> list[Any] | bytes:
    """The values of a tensor as they were sent: a list in the JSON, or the bytes after it.

    Raises:
        InvalidRequest: neither was sent, both, or another number of bytes than stated.
    """
    size = tensor.parameters.get("binary_data_size") if tensor.parameters else None
    if size is None and tensor.data is None:
        raise InvalidRequest(f"input {tensor.name[:40]!r} has neither data nor parameters.binary_data_size")
    if size is not None and tensor.data is not None:
        raise InvalidRequest(f"input {tensor.name[:40]!r} has both data and parameters.binary_data_size; send one")
    if tensor.data is not None:
        if binary:
            raise InvalidRequest(f"{len(binary)} bytes follow the JSON, but no tensor has a binary_data_size")
        return tensor.data
    if type(size) is not int:
        raise InvalidRequest(f"binary_data_size is {str(size)[:40]!r}; expected a number of bytes")
    if size != len(binary):
        raise InvalidRequest(f"binary_data_size is {str(size)[:40]}, but {len(binary)} bytes follow the JSON")
    return binary


def items_of(tensor: InputTensor, values: list[Any] | bytes, manifest: Manifest) -> list[Item] | Array:
    """An item for each row of a tensor that the model takes.

    Raises:
        InvalidRequest: the model takes another tensor, or the values do not have its shape and type.
    """
    spec = manifest.input
    match tensor.name, tensor.datatype:
        case name, "BYTES" if name == spec.kind:
            return _encoded_items(tensor, values, spec)
        case name, kind if (name, kind) == (spec.tensor, datatype(spec)):
            try:
                numbers = _numbers(tensor, values)
                rows = spec.split(numbers)
            except ValueError as error:
                raise InvalidRequest(f"input {name!r} {error}") from error
            if kind == "UINT8" and _has_mask(values if isinstance(values, bytes) else numbers.tobytes(), len(rows)):
                raise InvalidRequest(
                    f"input {name!r} holds an image of only 0 and 1; expected values from 0 to 255, so multiply by 255"
                )
            return rows
        case name, kind:
            raise InvalidRequest(
                f"model {manifest.model!r} takes the input {spec.tensor!r} of {datatype(spec)} or {spec.kind!r} of "
                f"BYTES, not {name[:40]!r} of {kind[:40]!r}"
            )


def _has_mask(values: bytes, count: int) -> bool:
    """Whether one of `count` images holds only 0 and 1."""
    size = len(values) // count
    return any(_MASK.fullmatch(values, start, start + size) for start in range(0, len(values), size))


def _encoded_items(tensor: InputTensor, values: list[Any] | bytes, spec: InputSpec) -> list[Item]:
    """The items of a BYTES tensor (N,), (N, 1) or (1, N)."""
    count = prod(tensor.shape)
    if isinstance(values, bytes):
        return _unpack(values, count)
    while values and type(values[0]) is list and {*map(type, values)} == {list}:
        values = list(chain.from_iterable(values))
    if not all(isinstance(value, str) for value in values):
        raise InvalidRequest("the data of a BYTES tensor must be strings")
    if len(values) != count:
        raise InvalidRequest(f"input {tensor.name!r} has shape {tensor.shape}, but {len(values)} values")
    return items.from_strings(values, spec)


def _numbers(tensor: InputTensor, values: list[Any] | bytes) -> Array:
    """The values of a tensor in its shape.

    Raises:
        ValueError: their number or type does not match.
    """
    dtype, size = _DTYPES[tensor.datatype], prod(tensor.shape)
    if isinstance(values, bytes):
        if len(values) != size * dtype.itemsize:
            raise ValueError(f"has shape {tensor.shape}, {size * dtype.itemsize} bytes, but {len(values)} were sent")
        return np.frombuffer(values, dtype).reshape(tensor.shape)
    flat = _flatten(values)
    if len(flat) != size:
        raise ValueError(f"has shape {tensor.shape}, but {len(flat)} values")
    try:
        return np.array(flat, dtype).reshape(tensor.shape)
    except OverflowError as error:
        raise ValueError(f"has values that do not fit {tensor.datatype}") from error


def _flatten(values: list[Any]) -> list[int]:
    """The whole numbers in lists, which may be nested.

    NumPy would do it, too, but makes all strings as long as the longest before it could be seen that they are strings.

    Raises:
        ValueError: something else is in the lists, or lists differ in length.
    """
    while values and type(values[0]) is list:
        if {*map(type, values)} != {list} or len({*map(len, values)}) > 1:
            raise ValueError("has nested lists of different lengths")
        values = list(chain.from_iterable(values))
    if not {*map(type, values)} <= {int}:
        raise ValueError("has values that are not whole numbers")
    return values


def _unpack(data: bytes, count: int) -> list[Item]:
    """The values of a binary BYTES tensor."""
    values: list[Item] = []
    stop = 0
    while stop < len(data) and len(values) < count:
        start = stop + _LENGTH.size
        stop = start + (_LENGTH.unpack_from(data, stop)[0] if start <= len(data) else 0)
        if stop > len(data):
            raise InvalidRequest(_explain_length(data, start - _LENGTH.size))
        values.append(data[start:stop])
    if len(values) < count:
        raise InvalidRequest(f"the BYTES tensor has {len(values)} values; its shape holds {count}")
    if stop < len(data):
        raise InvalidRequest(f"{len(data) - stop} bytes follow the {count} values of the BYTES tensor")
    return values


def _explain_length(data: bytes, start: int) -> str:
    """Why a value of a binary BYTES tensor is shorter than the length before it."""
    expected = "each value has its length before it, in 4 bytes, little-endian"
    rest = data[start:]
    if has_signature(rest):
        return f"the BYTES tensor holds an image without its length; {expected}"
    if int.from_bytes(rest[:4]) <= len(rest) - _LENGTH.size:
        return f"the BYTES tensor holds a length in big-endian order; {expected}"
    if rest[:4].isascii() and rest[:4].decode().isprintable():
        return f"the BYTES tensor holds {rest[:20]!r} without its length; {expected}"
    return f"the BYTES tensor is cut off: a value is shorter than the length before it; {expected}"


@lru_cache(_MAX_LABELS)
def packed(label: str) -> bytes:
    """A value of a binary BYTES tensor."""
    value = label.encode()
    return _LENGTH.pack(len(value)) + value
