"""Tensors of the Open Inference Protocol: from a request body to items, and from rows to a response body.

A body is JSON. With the binary-tensor extension a header gives the length of the JSON, and the values of the tensors
follow it in the order of their descriptions, little-endian. A BYTES value has its length in 4 bytes before it.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from math import prod
from typing import Annotated, Any, Literal, get_args

import numpy as np
import numpy.typing as npt
from pydantic import Field, ValidationError

from contract.errors import TooLarge, Unreadable
from contract.manifest import Manifest
from contract.picture import has_signature
from service.errors import InvalidRequest
from service.http import limited
from service.inference.decoding import Item
from service.routes.tensor_values import InputTensor, Parameters, Part, items_of, packed, values_of
from service.settings import Settings

Array = npt.NDArray[Any]
OutputName = Literal["probabilities", "label"]

_OUTPUTS: tuple[OutputName, ...] = get_args(OutputName)
_MAX_REPEATED, _MAX_DESCRIPTIONS = 1024, 256  # descriptions of tensors that are kept: their bytes, and how many
_MAX_OUTPUTS = 256  # descriptions of outputs that are kept
_MAX_DIGITS = 11  # of the length of the JSON


class RequestedOutput(Part):
    """A tensor that the response shall have."""

    name: OutputName
    parameters: Parameters = None


class InferenceRequest(Part):
    """The JSON of an inference request."""

    inputs: Annotated[list[InputTensor], Field(min_length=1, max_length=1)]
    outputs: Annotated[list[RequestedOutput], Field(max_length=len(_OUTPUTS))] | None = None
    id: Annotated[str, Field(max_length=1024)] | None = None
    parameters: Parameters = None


Outputs = Sequence[tuple[OutputName, bool]]
"""The outputs of a response, each with whether it is binary."""


@dataclass(slots=True)
class Inference:
    """What an inference request asks for.

    Args:
        items: an item for each row of the tensor.
        outputs: those of the response.
        id: the request's own, which the response repeats.
    """

    items: list[Item] | Array
    outputs: Outputs
    id: str | None


@dataclass(frozen=True)
class _Description:
    """What the JSON of a request says."""

    tensor: InputTensor
    outputs: Outputs
    id: str | None


class _NotJSONError(InvalidRequest):
    """The part of a body that should be JSON is not."""


class Reader:
    """Reads the bodies of inference requests."""

    def __init__(self, settings: Settings) -> None:
        """Take the limits from the settings."""
        self._settings = settings
        self._describe_again = lru_cache(_MAX_DESCRIPTIONS)(self._describe)

    def read(self, content: bytes, json_length: str | None, manifest: Manifest) -> Inference:
        """Read a body.

        Args:
            content: the body.
            json_length: the header `Inference-Header-Content-Length`: how many bytes of the body are JSON; None for
                all.
            manifest: that of the model.

        Raises:
            InvalidRequest: the body does not have the protocol's form, or the model does not take its tensor.
            TooLarge: more items than `max_items`.
        """
        length = len(content) if json_length is None else _json_bytes(content, json_length)
        text, binary = content[:length], content[length:]
        is_repeated = binary and length <= _MAX_REPEATED  # clients send the same description with each binary tensor
        try:
            described = (self._describe_again if is_repeated else self._describe)(text)
        except _NotJSONError as error:
            raise InvalidRequest(_explain_json(content, json_length) or str(error)) from error
        values = values_of(described.tensor, binary)
        return Inference(items_of(described.tensor, values, manifest), described.outputs, described.id)

    def _describe(self, text: bytes) -> _Description:
        """What the JSON of a request says.

        Raises:
            InvalidRequest, TooLarge: as `read`.
        """
        try:
            request = InferenceRequest.model_validate(limited.loads(text, self._settings))
        except (InvalidRequest, Unreadable) as error:  # also not UTF-8, if the length in the header is wrong
            raise _NotJSONError(str(error)) from error
        except ValidationError as error:
            fault = error.errors(include_url=False, include_input=False)[0]
            place = ".".join(map(str, fault["loc"])) or "the request"
            raise InvalidRequest(f"{place}: {fault['msg'][0].lower()}{fault['msg'][1:]}") from error
        tensor = request.inputs[0]
        if tensor.parameters and "shared_memory_region" in tensor.parameters:
            raise InvalidRequest("shared memory is not supported; send the tensor in the body")
        self._check_shape(tensor)
        return _Description(tensor, _outputs(request), request.id)

    def _check_shape(self, tensor: InputTensor) -> None:
        """Check how many items a tensor has."""
        count = tensor.shape[0] if tensor.shape else 0
        if len(tensor.shape) > 1 and tensor.datatype == "BYTES":  # [N, 1] and [1, N], as clients of Triton send them
            count = prod(tensor.shape)
            if count != max(tensor.shape):
                raise InvalidRequest(f"input {tensor.name[:40]!r} has shape {tensor.shape}; expected [N] for BYTES")
        if not count:
            place = f"input {tensor.name[:40]!r} has shape {tensor.shape}"
            raise InvalidRequest(f"{place}; its first axis counts the items")
        if count > self._settings.max_items:
            raise TooLarge(f"too many items: {count} (maximum {self._settings.max_items})")


def answer(
    inference: Inference,
    manifest: Manifest,
    rows: Sequence[npt.NDArray[np.float32]],
    truncated: Mapping[int, tuple[int, int]] | None = None,
) -> tuple[bytes, list[bytes]]:
    """The body of an inference response: its JSON, and the binary tensors that follow it.

    Args:
        inference: the request.
        manifest: that of the model.
        rows: probabilities (classes,) of each item, in order.
        truncated: as `Answer.truncated`.
    """
    probabilities = np.concatenate(rows).reshape(len(rows), -1)  # N x (C) -> (N, C)
    outputs: list[str] = []
    tensors: list[bytes] = []
    for name, is_binary in inference.outputs:
        shape: tuple[int, ...] = probabilities.shape
        values: list[Any]
        if name == "label":
            values = [manifest.labels[index] for index in probabilities.argmax(axis=1).tolist()]
            shape, binary = (len(values),), b"".join(map(packed, values)) if is_binary else b""
        else:
            values = [] if is_binary else probabilities.ravel().tolist()
            binary = probabilities.astype("<f4", copy=False).tobytes() if is_binary else b""
        if is_binary:
            outputs.append(_output(name, shape, len(binary)))
            tensors.append(binary)
        else:
            outputs.append(f'{_output(name, shape)[:-1]},"data":{_json(values)}}}')
    rest = "" if inference.id is None else f',"id":{_json(inference.id)}'
    if truncated:  # the protocol's parameters are no lists
        names = "truncated_items", "tokens_read", "tokens"
        columns = zip(*((place, *counts) for place, counts in truncated.items()), strict=True)
        texts = {name: ",".join(map(str, column)) for name, column in zip(names, columns, strict=True)}
        rest += f',"parameters":{_json({"truncated": True, **texts})}'
    return f'{_served(manifest.model, manifest.version)},"outputs":[{",".join(outputs)}]{rest}}}'.encode(), tensors


def _json(value: Any) -> str:
    return json.dumps(value, separators=(",", ":"))


@lru_cache
def _served(model: str, version: int) -> str:
    """The start of a response."""
    return _json({"model_name": model, "model_version": str(version)})[:-1]


@lru_cache(_MAX_OUTPUTS)
def _output(name: OutputName, shape: tuple[int, ...], binary_bytes: int | None = None) -> str:
    """The description of an output, without the values in JSON."""
    output: dict[str, Any] = {"name": name, "datatype": "BYTES" if name == "label" else "FP32", "shape": shape}
    if binary_bytes is not None:
        output["parameters"] = {"binary_data_size": binary_bytes}
    return _json(output)


def _json_bytes(content: bytes, json_length: str) -> int:
    """How many bytes of a body are JSON, by the header that says it."""
    if not (json_length.isascii() and json_length.isdigit() and len(json_length) <= _MAX_DIGITS):
        raise InvalidRequest(f"Inference-Header-Content-Length is {json_length[:40]!r}; expected a number of bytes")
    length = int(json_length)
    if length > len(content):
        raise InvalidRequest(f"Inference-Header-Content-Length is {length}, but the body has {len(content)} bytes")
    return length


def _explain_json(content: bytes, json_length: str | None) -> str:
    """What a body is that does not begin with the JSON of a request; empty if it cannot be recognised."""
    if has_signature(content):
        return "the body is an image; send it to /classify/{model}, or as a BYTES tensor after the JSON of a request"
    if content.startswith(b"\x1f\x8b"):
        return "the body is compressed; say so with Content-Encoding: gzip"
    if content.startswith(b"--"):
        return "the body is multipart; send it to /classify/{model}, or tensors as JSON"
    if json_length is None and content.lstrip()[:1] == b"{" and b'"binary_data_size"' in content:
        return "bytes follow the JSON; the header Inference-Header-Content-Length must say how long the JSON is"
    return ""


def _outputs(request: InferenceRequest) -> Outputs:
    """The requested outputs, or all if none is named, each with whether it is binary."""
    default = bool(request.parameters and _flag(request.parameters, "binary_data_output"))
    requested: dict[OutputName, bool] = {}
    for output in request.outputs or ():
        parameters = output.parameters or {}
        if parameters.get("classification"):
            raise InvalidRequest("the classification extension is not supported; request 'label' and 'probabilities'")
        if "shared_memory_region" in parameters:
            raise InvalidRequest("shared memory is not supported; outputs are in the response")
        if output.name in requested:
            raise InvalidRequest(f"output {output.name!r} is requested twice; request it once")
        is_binary = _flag(parameters, "binary_data") if parameters else None
        requested[output.name] = default if is_binary is None else is_binary
    return list(requested.items()) or [(name, default) for name in _OUTPUTS]


def _flag(parameters: Parameters, name: str) -> bool | None:
    """A parameter that is true or false, or None if it is not there.

    Raises:
        InvalidRequest: it is something else.
    """
    value = parameters.get(name) if parameters else None
    if value is not None and not isinstance(value, bool):
        raise InvalidRequest(f"{name} is {json.dumps(value)[:40]}; expected true or false")
    return value
