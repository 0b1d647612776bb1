"""Who is measured: how each contender is started, how it is asked, and how its answers are read.

The programs are in contenders/, one a peer, each as its own documentation recommends; Convoke is started as
`make serve` starts it. A form is one way in which a contender takes items; where it takes several at once in no way, it
has no `many`.
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

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
OURS = "convoke"
_JSON = "application/json"
_HEAD_LENGTH = "inference-header-content-length"
_BOUNDARY = b"item"


@dataclass(frozen=True)
class Request:
    """What is sent: a POST to a path, with its Content-Type, body and further headers."""

    path: str
    kind: str
    body: bytes
    headers: tuple[tuple[str, str], ...] = ()

    def wire(self, port: int) -> bytes:
        """The request as HTTP/1.1 has it, for a server on this machine."""
        lines = [
            f"POST {self.path} HTTP/1.1",
            f"Host: 127.0.0.1:{port}",
            f"Content-Type: {self.kind}",
            f"Content-Length: {len(self.body)}",
            *(f"{name}: {value}" for name, value in self.headers),
        ]
        return "\r\n".join([*lines, "", ""]).encode("ascii") + self.body


@dataclass(frozen=True)
class Answer:
    """What came back: status, headers in lower case, body."""

    status: int
    headers: Mapping[str, str]
    body: bytes


@dataclass(frozen=True)
class Batch:
    """Many digits for one request: as encoded pictures, and as the graph's tensor, uint8 (N, 28, 28, 1)."""

    encoded: tuple[bytes, ...]
    tensor: npt.NDArray[np.uint8]


@dataclass(frozen=True)
class Form:
    """One way to ask: a request of one item (its kind, the model's name, its bytes) or of many, and the labels back."""

    name: str
    one: Callable[[Kind, str, bytes], Request]
    many: Callable[[str, Batch], Request] | None
    labels: Callable[[Answer], list[str]]


@dataclass(frozen=True)
class Contender:
    """A server: its environment, the arguments for that environment's Python, and its forms, the main one first.

    The arguments "{port}" and "{folder}", an empty one, are filled in.
    """

    key: str
    name: str
    environment: Literal["bench", "peers"]
    arguments: tuple[str, ...]
    forms: tuple[Form, ...]


def content_type(encoded: bytes) -> str:
    """The Content-Type of an item."""
    if encoded.startswith(b"\x89PNG"):
        return "image/png"
    return "image/jpeg" if encoded.startswith(b"\xff\xd8\xff") else "text/plain"


def multipart(path: str, field: str, items: tuple[bytes, ...]) -> Request:
    """A form with a file an item, as browsers and curl send it."""
    head = b'--%s\r\nContent-Disposition: form-data; name="%s"; filename="%d"\r\nContent-Type: %s\r\n\r\n%s\r\n'
    parts = [
        head % (_BOUNDARY, field.encode(), index, content_type(item).encode(), item) for index, item in enumerate(items)
    ]
    body = b"".join([*parts, b"--%s--\r\n" % _BOUNDARY])
    return Request(path, f"multipart/form-data; boundary={_BOUNDARY.decode()}", body)


def in_json(path: str, content: Mapping[str, Any]) -> Request:
    """A JSON body."""
    return Request(path, _JSON, json.dumps(content, separators=(",", ":")).encode())


def _raw(path: Callable[[Kind, str], str]) -> Callable[[Kind, str, bytes], Request]:
    return lambda kind, model, item: Request(path(kind, model), content_type(item), item)


def _base64(item: bytes) -> str:
    return base64.b64encode(item).decode("ascii")


def oip_tensor(model: str, batch: Batch) -> Request:
    """The Open Inference Protocol with binary tensors in both directions."""
    head = {
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
    encoded = json.dumps(head).encode()
    return Request(
        f"/v2/models/{model}/infer",
        "application/octet-stream",
        encoded + batch.tensor.tobytes(),
        (("Inference-Header-Content-Length", str(len(encoded))),),
    )


def our_labels(answer: Answer) -> list[str]:
    """Labels from /classify, or from the protocol's binary probabilities; digits are labelled by their places."""
    if _HEAD_LENGTH not in answer.headers:
        return [str(prediction["label"]) for prediction in json.loads(answer.body)["predictions"]]
    length = int(answer.headers[_HEAD_LENGTH])
    (output,) = json.loads(answer.body[:length])["outputs"]
    probabilities = np.frombuffer(answer.body[length:], "<f4").reshape(output["shape"])  # (N, 10)
    return [str(index) for index in probabilities.argmax(axis=1)]


def _mlserver_one(kind: Kind, _model: str, item: bytes) -> Request:
    name, value, read_as = ("text", item.decode(), "str") if kind == "reviews" else ("image", _base64(item), "base64")
    described = {"name": name, "shape": [1], "datatype": "BYTES", "data": [value]}
    return in_json(f"/v2/models/{kind}/infer", {"inputs": [{**described, "parameters": {"content_type": read_as}}]})


def _mlserver_many(_model: str, batch: Batch) -> Request:
    described = {"name": "image", "shape": list(batch.tensor.shape), "datatype": "UINT8"}
    return in_json("/v2/models/digits/infer", {"inputs": [{**described, "data": batch.tensor.ravel().tolist()}]})


def _litserve_one(kind: Kind, _model: str, item: bytes) -> Request:
    return in_json(f"/{kind}", {"text": item.decode()} if kind == "reviews" else {"image": _base64(item)})


def _bentoml_one(kind: Kind, _model: str, item: bytes) -> Request:
    if kind == "reviews":
        return in_json("/reviews", {"texts": [item.decode()]})
    return multipart(f"/{kind}", "images", (item,))


def _plain_labels(answer: Answer) -> list[str]:
    """{"label": "7"} or {"labels": ["7", ...]}."""
    content = json.loads(answer.body)
    return content["labels"] if "labels" in content else [content["label"]]


def _tensor(_model: str, batch: Batch) -> Request:
    return Request("/tensor", "application/octet-stream", batch.tensor.tobytes())


def _uvicorn(module: str) -> tuple[str, ...]:
    fast = ("--loop", "uvloop", "--http", "httptools", "--no-access-log", "--log-level", "warning")
    return (
        "-m",
        "uvicorn",
        f"benchmarks.contenders.{module}:create",
        "--factory",
        "--host",
        "127.0.0.1",
        "--port",
        "{port}",
        *fast,
    )


CONTENDERS = (
    Contender(
        OURS, "Convoke", "bench", ("-m", "service", "--port", "{port}"),
        (
            Form("raw body", _raw(lambda _kind, model: f"/classify/{model}"), oip_tensor, our_labels),
            Form(
                "multipart",
                lambda _kind, model, item: multipart(f"/classify/{model}", "file", (item,)),
                lambda model, batch: multipart(f"/classify/{model}", "file", batch.encoded),
                our_labels,
            ),
        ),
    ),
    Contender(
        "starlette", "Starlette, bare", "bench", _uvicorn("starlette_bare"),
        (Form("raw body", _raw(lambda kind, _model: f"/raw/{kind}"), _tensor, _plain_labels),),
    ),
    Contender(
        "fastapi", "FastAPI", "bench", _uvicorn("fastapi_uvicorn"),
        (
            Form("raw body", _raw(lambda kind, _model: f"/raw/{kind}"), _tensor, _plain_labels),
            Form(
                "multipart", lambda kind, _model, item: multipart(f"/file/{kind}", "file", (item,)), None, _plain_labels
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
                _bentoml_one,
                lambda _model, batch: multipart("/digits", "images", batch.encoded),
                lambda answer: [str(label) for label in json.loads(answer.body)],
            ),
        ),
    ),
    Contender(
        "litserve", "LitServe", "peers", ("-m", "benchmarks.contenders.litserve_batched", "{port}"),
        (Form("base64 in JSON", _litserve_one, None, _plain_labels),),
    ),
    Contender(
        "mlserver", "MLServer", "peers", ("-m", "benchmarks.contenders.mlserver_batched", "{port}", "{folder}"),
        (
            Form(
                "JSON of its protocol",
                _mlserver_one,
                _mlserver_many,
                lambda answer: [str(label) for label in json.loads(answer.body)["outputs"][0]["data"]],
            ),
        ),
    ),
    Contender(
        "ray", "Ray Serve", "peers", ("-m", "benchmarks.contenders.ray_batched", "{port}"),
        (Form("raw body", _raw(lambda kind, _model: f"/{kind}"), _tensor, _plain_labels),),
    ),
)  # fmt: skip
