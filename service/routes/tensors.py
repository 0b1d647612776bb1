"""Tensors of the Open Inference Protocol: from a request's body to items, and from rows to an answer's body.

A body is JSON; with the binary-tensor extension, the JSON's length stands in a header, and the tensors' values follow
it in the order of their descriptions, little-endian; BYTES as 4 bytes of length and the value, each.
"""

import json
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from typing import Annotated, Any, Literal, get_args

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from contract.errors import TooLarge, Unreadable
from contract.manifest import Manifest
from contract.spec import InputSpec
from service.errors import InvalidRequest
from service.http import body, limited
from service.inference.predictor import Item
from service.settings import Settings

Array = npt.NDArray[Any]

_DTYPES: dict[str, np.dtype[Any]] = {"UINT8": np.dtype("<u1"), "INT64": np.dtype("<i8"), "FP32": np.dtype("<f4")}
OutputName = Literal["probabilities", "label"]
_OUTPUTS: tuple[OutputName, ...] = get_args(OutputName)
_LENGTH = struct.Struct("<I")


class _Part(BaseModel):
    """A piece of the protocol's JSON; keys that it does not know are let be, as the protocol wants."""

    model_config = ConfigDict(extra="ignore", strict=True)


class InputTensor(_Part):
    name: str
    shape: list[Annotated[int, Field(ge=0, le=1 << 40)]]
    datatype: str
    parameters: dict[str, Any] = {}
    data: list[Any] | None = None


class RequestedOutput(_Part):
    name: OutputName
    parameters: dict[str, Any] = {}


class TensorMetadata(BaseModel):
    """A tensor without its values."""

    name: str
    datatype: str
    shape: list[int]


class InferenceAnswer(BaseModel):
    """The JSON of an inference response."""

    model_name: str
    model_version: str
    outputs: list[TensorMetadata]


class InferenceRequest(_Part):
    """The JSON of an inference request."""

    inputs: Annotated[list[InputTensor], Field(min_length=1, max_length=1)]
    outputs: list[RequestedOutput] = []
    id: Annotated[str, Field(max_length=1024)] | None = None
    parameters: dict[str, Any] = {}


@dataclass(frozen=True)
class Asked:
    """One inference request: an item a row, and the outputs that are wanted, each with whether it comes as bytes."""

    items: list[Item] | Array
    outputs: list[tuple[OutputName, bool]]
    id: str | None


def datatype(spec: InputSpec) -> str:
    """The protocol's name of the type of the graph's input."""
    return next(name for name, dtype in _DTYPES.items() if dtype == spec.dtype)


def parse(content: bytes, head_length: str | None, manifest: Manifest, settings: Settings) -> Asked:
    """Read the body of an inference request.

    Args:
        content: the body.
        head_length: the header `Inference-Header-Content-Length`: how many bytes of the body are JSON; None for all.
        manifest: the model's, which says what tensors it takes.
        settings: the limits.

    Raises:
        InvalidRequest: the body is not of the protocol's form, or its tensor is not one that the model takes.
        TooLarge: too many items.
        Unreadable: a text that is not UTF-8, a picture that is no base64.
    """
    head, tail = _split(content, head_length, settings)
    described = head.inputs[0]
    if "shared_memory_region" in described.parameters:
        raise InvalidRequest("shared memory is not supported; send the tensor in the body")
    values = _values(described, tail)
    count = described.shape[0] if described.shape else 0
    if not count:
        raise InvalidRequest(f"input {described.name!r} has shape {described.shape}; its first axis counts the items")
    if count > settings.max_items:
        raise TooLarge(f"the request holds {count} items; at most {settings.max_items} are taken")
    return Asked(_items(described, values, manifest), _outputs(head), head.id)


def answer(asked: Asked, manifest: Manifest, rows: Sequence[npt.NDArray[np.float32]]) -> tuple[bytes, list[bytes]]:
    """The body of an inference answer: its JSON, and the tensors' bytes behind it.

    Args:
        asked: what was asked for.
        manifest: the model's.
        rows: probabilities (classes,) of each item, in order.
    """
    probabilities = np.concatenate(rows).reshape(len(rows), -1)  # N x (C) -> (N, C)
    outputs: list[dict[str, Any]] = []
    tail: list[bytes] = []
    for name, binary in asked.outputs:
        output: dict[str, Any] = {"name": name, "datatype": "FP32", "shape": list(probabilities.shape)}
        if name == "label":
            labels = [manifest.labels[index] for index in probabilities.argmax(axis=1)]
            output |= {"datatype": "BYTES", "shape": [len(labels)]}
            packed = b"".join(_LENGTH.pack(len(label.encode())) + label.encode() for label in labels) if binary else b""
            data: list[Any] = [] if binary else labels
        else:
            packed = probabilities.astype("<f4").tobytes() if binary else b""
            data = [] if binary else probabilities.ravel().tolist()
        if binary:
            output["parameters"] = {"binary_data_size": len(packed)}
            tail.append(packed)
        else:
            output["data"] = data
        outputs.append(output)
    head = {"model_name": manifest.model, "model_version": str(manifest.version), "outputs": outputs}
    if asked.id is not None:
        head["id"] = asked.id
    return json.dumps(head, separators=(",", ":")).encode(), tail


def _split(content: bytes, head_length: str | None, settings: Settings) -> tuple[InferenceRequest, bytes]:
    """The JSON of a body, and the bytes behind it."""
    length = len(content)
    if head_length is not None:
        if not (head_length.isascii() and head_length.isdigit() and len(head_length) < 12):  # noqa: PLR2004 -- digits
            raise InvalidRequest(f"Inference-Header-Content-Length is {head_length[:40]!r}; expected a number of bytes")
        length = int(head_length)
        if length > len(content):
            raise InvalidRequest(
                f"Inference-Header-Content-Length is {length}, but the body has only {len(content)} bytes"
            )
    try:
        return InferenceRequest.model_validate(limited.loads(content[:length], settings)), content[length:]
    except Unreadable as error:  # the length in the header may be what is wrong
        raise InvalidRequest(str(error)) from error
    except ValidationError as error:
        fault = error.errors()[0]
        where = ".".join(map(str, fault["loc"])) or "the request"
        raise InvalidRequest(f"{where}: {fault['msg'][0].lower()}{fault['msg'][1:]}") from error


def _values(described: InputTensor, tail: bytes) -> list[Any] | bytes:
    """A tensor's values as they were sent: a list from the JSON, or bytes from behind it."""
    size = described.parameters.get("binary_data_size")
    if size is None:
        if described.data is None:
            raise InvalidRequest(f"input {described.name!r} has neither data nor parameters.binary_data_size")
        if tail:
            raise InvalidRequest(f"{len(tail)} bytes follow the JSON that no tensor's binary_data_size accounts for")
        return described.data
    if described.data is not None:
        raise InvalidRequest(f"input {described.name!r} has both data and parameters.binary_data_size; send one")
    if type(size) is not int or size != len(tail):
        raise InvalidRequest(f"binary_data_size is {size!r}, but {len(tail)} bytes follow the JSON")
    return tail


def _items(described: InputTensor, values: list[Any] | bytes, manifest: Manifest) -> list[Item] | Array:
    """One item a row of a tensor that the model takes."""
    spec = manifest.input
    match described.name, described.datatype:
        case name, "BYTES" if name == spec.kind:
            if len(described.shape) != 1:
                raise InvalidRequest(f"input {name!r} has shape {described.shape}; BYTES are of shape [N]")
            items = _packed(values) if isinstance(values, bytes) else _strings(values, spec)
            if len(items) != described.shape[0]:
                raise InvalidRequest(f"input {name!r} has shape {described.shape}, but {len(items)} values")
            return items
        case name, kind if (name, kind) == (spec.tensor, datatype(spec)):
            try:
                return spec.split(_tensor(described, values))
            except ValueError as error:
                raise InvalidRequest(f"input {name!r} {error}") from error
        case name, kind:
            raise InvalidRequest(
                f"model {manifest.model!r} takes the input {spec.tensor!r} of {datatype(spec)} or {spec.kind!r} of "
                f"BYTES; this is {name[:40]!r} of {kind[:40]!r}"
            )


def _tensor(described: InputTensor, values: list[Any] | bytes) -> Array:
    """Numbers in the shape that was described."""
    dtype, shape = _DTYPES[described.datatype], described.shape
    if isinstance(values, bytes):
        if len(values) != prod(shape) * dtype.itemsize:
            raise InvalidRequest(
                f"input {described.name!r} of {described.datatype} and shape {shape} has "
                f"{prod(shape) * dtype.itemsize} bytes; {len(values)} were sent"
            )
        return np.frombuffer(values, dtype).reshape(shape)
    try:
        numbers = np.array(values)
    except ValueError as error:  # lists of differing lengths
        raise InvalidRequest(f"the data of input {described.name!r} is no tensor: {error}") from error
    limits = np.iinfo(dtype)
    if not numbers.size:  # numpy takes a list of nothing for real numbers
        numbers = numbers.astype(dtype)
    if numbers.dtype.kind != "i" or not ((numbers >= limits.min) & (numbers <= limits.max)).all():
        raise InvalidRequest(
            f"the data of input {described.name!r} must be whole numbers that fit {described.datatype}"
        )
    if numbers.size != prod(shape):
        raise InvalidRequest(f"input {described.name!r} has shape {shape}, but {numbers.size} values")
    return numbers.astype(dtype).reshape(shape)


def _packed(values: bytes) -> list[Item]:
    """The values of a BYTES tensor: each behind its length."""
    found: list[Item] = []
    place = 0
    while place < len(values):
        stop = place + _LENGTH.size
        if stop <= len(values):
            stop += _LENGTH.unpack_from(values, place)[0]
        if stop > len(values):
            raise InvalidRequest("the BYTES tensor is cut off: a value is shorter than the length before it")
        found.append(values[place + _LENGTH.size : stop])
        place = stop
    return found


def _strings(values: list[Any], spec: InputSpec) -> list[Item]:
    """The values of a BYTES tensor in JSON: texts as they are, others in base64."""
    if not all(isinstance(value, str) for value in values):
        raise InvalidRequest("the data of a BYTES tensor must be a flat list of strings")
    return body.from_strings(values, spec)


def _outputs(head: InferenceRequest) -> list[tuple[OutputName, bool]]:
    """The outputs that are wanted, all where none is named, and whether each comes as bytes behind the JSON."""
    usual = head.parameters.get("binary_data_output") is True
    for output in head.outputs:
        if output.parameters.get("classification"):
            raise InvalidRequest("the classification extension is not supported; ask for 'label' and 'probabilities'")
        if "shared_memory_region" in output.parameters:
            raise InvalidRequest("shared memory is not supported; outputs come in the answer")
    chosen = [(output.name, output.parameters.get("binary_data", usual) is True) for output in head.outputs]
    return chosen or [(name, usual) for name in _OUTPUTS]
