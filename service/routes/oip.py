"""The Open Inference Protocol, version 2, over HTTP, with the binary-tensor extension: /v2/...

Its clients work unchanged, among them tritonclient and KServe's. A model takes its graph's own tensor (`image` UINT8
[N, H, W, C] or `tokens` INT64 [N, L]), or encoded images (`image` BYTES [N]) or texts (`text` BYTES [N]), and gives
`probabilities` FP32 [N, C] and `label` BYTES [N]. Errors have the protocol's form, `{"error": "..."}`.
"""

import asyncio
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any, Literal

from pydantic import BaseModel, RootModel
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from service import __version__
from service.errors import InvalidRequest, NotReady
from service.http import body, limited
from service.http.route import (
    Content,
    Endpoint,
    Header,
    IsGone,
    Need,
    OnContent,
    Prepare,
    Route,
    Start,
    message_alone,
)
from service.inference.predictor import AnswerOrError, Predictor
from service.inference.repository import Repository
from service.inference.version import Version
from service.routes import tensors
from service.routes.schemas import TensorMetadata
from service.routes.tensor_values import datatype
from service.routes.tensors import Inference
from service.settings import Settings
from service.telemetry.facts import RequestFacts, of

_EXTENSIONS = ["binary_tensor_data", "model_repository"]
_JSON_LENGTH = "Inference-Header-Content-Length"


class ServerMetadata(BaseModel):
    name: str
    version: str
    extensions: list[str]


class ModelMetadata(BaseModel):
    """What Triton calls a model's metadata."""

    name: str
    versions: list[str]
    platform: str
    inputs: list[TensorMetadata]
    outputs: list[TensorMetadata]


class IndexEntry(BaseModel):
    """A version that is loaded, or one that was refused, with the reason."""

    name: str
    version: str
    state: Literal["READY", "UNAVAILABLE"]
    reason: str


class ModelNames(BaseModel):
    """What KServe's server answers to a request for its models."""

    models: list[str]


class Index(RootModel[list[IndexEntry]]):
    """What Triton calls the repository index."""


def routes(
    predictor: Predictor, repository: Repository, settings: Settings, is_ready: Callable[[], bool] | None = None
) -> list[Route]:
    """The routes of this front end; `is_ready` says whether the server is ready, by default the repository."""
    return [
        *_server_routes(is_ready or (lambda: repository.ready)),
        *_model_routes(predictor, repository, settings),
        *_repository_routes(repository, settings),
    ]


def _server_routes(is_ready: Callable[[], bool]) -> list[Route]:
    async def server(_request: Request) -> Response:
        return JSONResponse(ServerMetadata(name="convoke", version=__version__, extensions=_EXTENSIONS).model_dump())

    async def live(_request: Request) -> Response:
        return JSONResponse({"live": True})

    async def ready(_request: Request) -> Response:
        status = {"ready": is_ready()}
        return JSONResponse(status, 200 if status["ready"] else NotReady.status)

    return [
        replace(_route(path, "GET", endpoint, None), query=None)
        for path, endpoint in (("/v2", server), ("/v2/health/live", live), ("/v2/health/ready", ready))
    ]


def _model_routes(predictor: Predictor, repository: Repository, settings: Settings) -> list[Route]:
    reader = tensors.Reader(settings)

    async def names(_request: Request) -> Response:
        return JSONResponse(ModelNames(models=[version.name for version in repository.serving()]).model_dump())

    async def metadata(request: Request) -> Response:
        return JSONResponse(_metadata(_version(predictor, request), repository).model_dump())

    async def ready(request: Request) -> Response:
        version = _version(predictor, request)
        return JSONResponse({"name": version.name, "version": version.number, "ready": True})

    async def infer(request: Request) -> Response:
        facts, started = of(request.scope), time.perf_counter()
        version = _version(predictor, request)
        predictor.check_capacity(version)
        json_length = request.headers.get(_JSON_LENGTH)
        content = await body.read(request, settings)
        inference = await body.run(partial(reader.read, content, json_length, version.manifest), len(content))
        read_s = time.perf_counter() - started
        facts.model, facts.version, facts.items = version.name, version.number, len(inference.items)
        answer = await predictor.predict(version, inference.items, is_gone=body.gone(request))
        return _content(facts, inference, answer, read_s).response()

    def prepare_infer(header: Header) -> Start | None:
        model, number = header.parameters["model"], header.parameters.get("version")
        length = header.get(_JSON_LENGTH.lower().encode())
        json_length = None if length is None else length.decode("latin-1")

        def start(facts: RequestFacts, content: bytes, on_content: OnContent, is_gone: IsGone) -> None:
            started = time.perf_counter()
            version = predictor.resolve(model, number)
            inference = reader.read(content, json_length, version.manifest)
            read_s = time.perf_counter() - started
            facts.model, facts.version, facts.items = version.name, version.number, len(inference.items)

            def on_answer(answer: AnswerOrError) -> None:
                on_content(lambda: _content(facts, inference, answer, read_s))

            predictor.start(version, inference.items, on_answer, is_gone=is_gone)

        return start

    return [
        _route("/v2/models", "GET", names, "look"),
        *_each_version(metadata, ready, infer, prepare_infer),
    ]


def _each_version(metadata: Endpoint, ready: Endpoint, infer: Endpoint, prepare_infer: Prepare) -> list[Route]:
    """The routes of a model, and those of one version of it."""
    return [
        route
        for path in ("/v2/models/{model}", "/v2/models/{model}/versions/{version}")
        for route in (
            _route(path, "GET", metadata, "look"),
            _route(f"{path}/ready", "GET", ready, "look"),
            replace(_route(f"{path}/infer", "POST", infer, "predict"), prepare=prepare_infer),
        )
    ]


def _content(facts: RequestFacts, inference: Inference, answer: AnswerOrError, read_s: float) -> Content:
    """The content of an inference response; the timings of the request are completed.

    Raises:
        ConvokeError: the error of the request, or of the first item that failed.
    """
    if isinstance(answer, Exception):
        raise answer
    json, binary = tensors.answer(inference, answer.version.manifest, answer.probabilities(), answer.truncated)
    facts.timings_s = {"read": read_s + answer.decode_s, "queue": answer.queue_s, "infer": answer.infer_s}
    if not binary:
        return Content(json)
    return Content(b"".join([json, *binary]), "application/octet-stream", {_JSON_LENGTH: str(len(json))})


def _repository_routes(repository: Repository, settings: Settings) -> list[Route]:
    async def index(request: Request) -> Response:
        options = await _options(request, settings)
        only_ready = options.get("ready")
        if only_ready is not None and not isinstance(only_ready, bool):
            raise InvalidRequest(f"ready is {str(only_ready)[:20]!r}; expected true or false")
        return JSONResponse(_index(repository, only_ready=bool(only_ready)).model_dump())

    async def load(request: Request) -> Response:
        number = _version_number(await _options(request, settings))
        await asyncio.to_thread(repository.restore, request.path_params["model"], number)
        return JSONResponse({})

    async def unload(request: Request) -> Response:
        number = _version_number(await _options(request, settings))
        await asyncio.to_thread(repository.withdraw, request.path_params["model"], number)
        return JSONResponse({})

    return [
        _route("/v2/repository/index", "POST", index, "look"),
        _route("/v2/repository/models/{model}/load", "POST", load, "manage"),
        _route("/v2/repository/models/{model}/unload", "POST", unload, "manage"),
    ]


def _route(path: str, method: Literal["GET", "POST"], endpoint: Endpoint, needs: Need) -> Route:
    """A route whose errors have the protocol's form."""
    return Route(path, method, endpoint, needs, message_alone)


def _version(predictor: Predictor, request: Request) -> Version:
    return predictor.resolve(request.path_params["model"], request.path_params.get("version"))


async def _options(request: Request, settings: Settings) -> dict[str, Any]:
    """The JSON object in the body of a request; an empty body counts as an empty object.

    Raises:
        ConvokeError: the body is something else, or beyond a limit.
    """
    content = await body.read(request, settings, may_be_empty=True)
    options = await body.run(partial(limited.loads, content or b"{}", settings), len(content))
    if not isinstance(options, dict):
        raise InvalidRequest("the body is not a JSON object")
    return options


def _version_number(options: dict[str, Any]) -> str | None:
    """The version in `{"parameters": {"version": "2"}}`; Triton's other parameters are ignored."""
    parameters = options.get("parameters")
    number = parameters.get("version") if isinstance(parameters, dict) else None
    if number is not None and not (isinstance(number, str | int) and str(number).isascii() and str(number).isdigit()):
        raise InvalidRequest(f"parameters.version is {str(number)[:20]!r}; expected a positive whole number")
    return None if number is None else str(number)


def _index(repository: Repository, *, only_ready: bool) -> Index:
    entries = [
        IndexEntry(name=version.name, version=version.number, state="READY", reason="")
        for version in repository.loaded()
    ]
    if not only_ready:
        entries += [
            IndexEntry(name=name, version=number, state="UNAVAILABLE", reason=reason)
            for name, reasons in repository.refused.items()
            for number, reason in reasons.items()
        ]
    return Index(sorted(entries, key=lambda entry: (entry.name, int(entry.version))))


def _metadata(version: Version, repository: Repository) -> ModelMetadata:
    spec, labels = version.manifest.input, len(version.manifest.labels)
    shape = [axis if isinstance(axis, int) else -1 for axis in spec.axes]
    return ModelMetadata(
        name=version.name,
        versions=repository.numbers(version.name),
        platform="onnxruntime_onnx",
        inputs=[_tensor(spec.tensor, datatype(spec), shape)],
        outputs=[_tensor("probabilities", "FP32", [-1, labels]), _tensor("label", "BYTES", [-1])],
    )


def _tensor(name: str, datatype: str, shape: list[int]) -> TensorMetadata:
    return TensorMetadata(name=name, datatype=datatype, shape=shape)
