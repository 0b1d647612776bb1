"""The contenders: how each server is started, what requests it takes, and how labels are read from its responses.

Each peer is a program in contenders/, written as its own documentation recommends. Convoke is started as `make serve`
starts it.
"""

import base64
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from benchmarks.items import Kind

FOLDER = Path(__file__).resolve().parent
ROOT = FOLDER.parent
CONVOKE = "convoke"
TENSORS = "OIP, binary tensors"
"""The request format that needs no decoding, which Triton and Convoke share."""

_HEADER_LENGTH = "Inference-Header-Content-Length"
_BINARY = "application/octet-stream"
_BOUNDARY = b"item"


@dataclass(frozen=True)
class Request:
    """A POST request: path, Content-Type, body and further headers."""

    path: str
    content_type: str
    body: bytes
    headers: tuple[tuple[str, str], ...] = ()

    def encode(self, port: int) -> bytes:
        """The request as HTTP/1.1 bytes, for a server on this machine."""
        lines = [
            f"POST {self.path} HTTP/1.1",
            f"Host: 127.0.0.1:{port}",
            f"Content-Type: {self.content_type}",
            f"Content-Length: {len(self.body)}",
            *(f"{name}: {value}" for name, value in self.headers),
        ]
        return "\r\n".join([*lines, "", ""]).encode("ascii") + self.body


@dataclass(frozen=True)
class Response:
    """A response: status, headers with names in lower case, body."""

    status: int
    headers: Mapping[str, str]
    body: bytes


@dataclass(frozen=True)
class Batch:
    """Many digits for one request: as encoded images, and as the graph's tensor, uint8 (N, 28, 28, 1)."""

    encoded: tuple[bytes, ...]
    tensor: npt.NDArray[np.uint8]


@dataclass(frozen=True)
class Form:
    """One request format of a contender.

    `single` makes the request for one encoded item, from its kind, the model's name and the item; None where the
    contender takes only tensors. `batch` makes the request for many digits, from the model's name; None where the
    contender takes one item for each request. `labels` reads the predicted labels from a response.
    """

    name: str
    single: Callable[[Kind, str, bytes], Request] | None
    batch: Callable[[str, Batch], Request] | None
    labels: Callable[[Response], list[str]]


@dataclass(frozen=True)
class Contender:
    """A server: its environment, the arguments for that environment's Python, and its request formats, main one first.

    In the arguments, "{port}" and "{folder}" (an empty folder) are filled in. The number of its worker processes or
    replicas is in $BENCH_WORKERS, or for servers with a variable of their own in that (`server.py`).
    """

    key: str
    name: str
    environment: Literal["bench", "peers", "triton"]
    arguments: tuple[str, ...]
    forms: tuple[Form, ...]


def content_type(encoded: bytes) -> str:
    """The Content-Type of an item."""
    if encoded.startswith(b"\x89PNG"):
        return "image/png"
    return "image/jpeg" if encoded.startswith(b"\xff\xd8\xff") else "text/plain"


def _raw(path: str) -> Callable[[Kind, str, bytes], Request]:
    """Items as raw bodies, at a path that may contain {kind} and {model}."""
    return lambda kind, model, item: Request(path.format(kind=kind, model=model), content_type(item), item)


def _multipart(path: str, field: str, items: tuple[bytes, ...]) -> Request:
    """A multipart form with one file for each item, as browsers and curl send it."""
    template = b'--%s\r\nContent-Disposition: form-data; name="%s"; filename="%d"\r\nContent-Type: %s\r\n\r\n%s\r\n'
    parts = [
        template % (_BOUNDARY, field.encode(), index, content_type(item).encode(), item)
        for index, item in enumerate(items)
    ]
    body = b"".join([*parts, b"--%s--\r\n" % _BOUNDARY])
    return Request(path, f"multipart/form-data; boundary={_BOUNDARY.decode()}", body)


def _json(path: str, content: Mapping[str, Any]) -> Request:
    return Request(path, "application/json", json.dumps(content, separators=(",", ":")).encode())


def _base64(item: bytes) -> str:
    return base64.b64encode(item).decode("ascii")


def _oip_tensor(model: str, batch: Batch) -> Request:
    """The Open Inference Protocol with binary tensors in both directions."""
    header = {
        "inputs": [
            {
                "name": "image",
                "shape": list(batch.tensor.shape),
                "datatype": "UINT8",
                "parameters": {"binary_data_size": batch.tensor.nbytes},
            }
        ],
        "outputs": [{"name": "probabilities", "parameters": {"binary_data": True}}],
    }
    encoded = json.dumps(header).encode()
    headers = ((_HEADER_LENGTH, str(len(encoded))),)
    return Request(f"/v2/models/{model}/infer", _BINARY, encoded + batch.tensor.tobytes(), headers)


def _convoke_labels(response: Response) -> list[str]:
    """Labels from /classify."""
    return [str(prediction["label"]) for prediction in json.loads(response.body)["predictions"]]


def _oip_labels(response: Response) -> list[str]:
    """Labels from the protocol's binary probabilities, where a digit's label is its position."""
    length = int(response.headers[_HEADER_LENGTH.lower()])
    (output,) = json.loads(response.body[:length])["outputs"]
    probabilities = np.frombuffer(response.body[length:], "<f4").reshape(output["shape"])  # (N, 10)
    return [str(index) for index in probabilities.argmax(axis=1)]


def _mlserver_single(kind: Kind, _model: str, item: bytes) -> Request:
    name, value, codec = ("text", item.decode(), "str") if kind == "reviews" else ("image", _base64(item), "base64")
    tensor = {"name": name, "shape": [1], "datatype": "BYTES", "data": [value], "parameters": {"content_type": codec}}
    return _json(f"/v2/models/{kind}/infer", {"inputs": [tensor]})


def _mlserver_batch(_model: str, batch: Batch) -> Request:
    tensor = {"name": "image", "shape": list(batch.tensor.shape), "datatype": "UINT8"}
    return _json("/v2/models/digits/infer", {"inputs": [{**tensor, "data": batch.tensor.ravel().tolist()}]})


def _litserve_single(kind: Kind, _model: str, item: bytes) -> Request:
    return _json(f"/{kind}", {"text": item.decode()} if kind == "reviews" else {"image": _base64(item)})


def _bentoml_single(kind: Kind, _model: str, item: bytes) -> Request:
    if kind == "reviews":
        return _json("/reviews", {"texts": [item.decode()]})
    return _multipart(f"/{kind}", "images", (item,))


def _json_labels(response: Response) -> list[str]:
    """Labels from {"label": "7"} or {"labels": ["7", ...]}."""
    content = json.loads(response.body)
    return content["labels"] if "labels" in content else [content["label"]]


def _tensor(_model: str, batch: Batch) -> Request:
    return Request("/tensor", _BINARY, batch.tensor.tobytes())


def _uvicorn(module: str) -> tuple[str, ...]:
    command = (
        f"-m uvicorn benchmarks.contenders.{module}:create --factory --host 127.0.0.1 --port {{port}} "
        "--loop uvloop --http httptools --no-access-log --log-level warning"
    )
    return tuple(command.split())


CONTENDERS = (
    Contender(
        CONVOKE, "Convoke", "bench", ("-m", "service", "--port", "{port}"),
        (
            Form("raw body", _raw("/classify/{model}"), None, _convoke_labels),
            Form(TENSORS, None, _oip_tensor, _oip_labels),
            Form(
                "multipart",
                lambda _kind, model, item: _multipart(f"/classify/{model}", "file", (item,)),
                lambda model, batch: _multipart(f"/classify/{model}", "file", batch.encoded),
                _convoke_labels,
            ),
        ),
    ),
    Contender(
        "starlette", "Starlette, bare", "bench", _uvicorn("starlette_bare"),
        (Form("raw body", _raw("/raw/{kind}"), _tensor, _json_labels),),
    ),
    Contender(
        "starlette-batched", "Starlette with a small batcher", "bench", _uvicorn("starlette_batched"),
        (Form("raw body", _raw("/raw/{kind}"), None, _json_labels),),
    ),
    Contender(
        "fastapi", "FastAPI", "bench", _uvicorn("fastapi_uvicorn"),
        (
            Form("raw body", _raw("/raw/{kind}"), _tensor, _json_labels),
            Form(
                "multipart", lambda kind, _model, item: _multipart(f"/file/{kind}", "file", (item,)), None, _json_labels
            ),
        ),
    ),
    Contender(
        "bentoml", "BentoML, idiomatic", "bench",
        (
            "-m", "bentoml", "serve", "benchmarks.contenders.bentoml_idiomatic:Idiomatic",
            "--host", "127.0.0.1", "--port", "{port}",
        ),
        (
            Form(
                "multipart",
                _bentoml_single,
                lambda _model, batch: _multipart("/digits", "images", batch.encoded),
                lambda response: [str(label) for label in json.loads(response.body)],
            ),
        ),
    ),
    Contender(
        "litserve", "LitServe", "peers", ("-m", "benchmarks.contenders.litserve_batched", "{port}"),
        (Form("base64 in JSON", _litserve_single, None, _json_labels),),
    ),
    Contender(
        "mlserver", "MLServer", "peers", ("-m", "benchmarks.contenders.mlserver_batched", "{port}", "{folder}"),
        (
            Form(
                "OIP in JSON",
                _mlserver_single,
                _mlserver_batch,
                lambda response: [str(label) for label in json.loads(response.body)["outputs"][0]["data"]],
            ),
        ),
    ),
    Contender(
        "ray", "Ray Serve", "peers", ("-m", "benchmarks.contenders.ray_batched", "{port}"),
        (Form("raw body", _raw("/{kind}"), _tensor, _json_labels),),
    ),
    Contender(
        "triton", "Triton, Python backend", "triton",
        ("-m", "benchmarks.contenders.triton_python", "{port}", "{folder}"),
        (Form(TENSORS, None, _oip_tensor, _oip_labels),),
    ),
)  # fmt: skip
