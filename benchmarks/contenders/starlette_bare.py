"""Starlette and ONNX Runtime, nothing between: one run a request, raw bodies.

A digit is decoded and run on the event loop, which is fastest for digits; all else in threads, so that the loop stays
free and every processor is used.
"""

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from benchmarks.contenders import work


def create() -> Starlette:
    """The application, with its models loaded."""
    models = work.load()

    def label(kind: str, encoded: bytes) -> str:
        model = models[kind]
        return model.label([model.decode(encoded)])[0]

    async def raw(request: Request) -> JSONResponse:
        kind, body = request.path_params["kind"], await request.body()
        found = label(kind, body) if kind == "digits" else await run_in_threadpool(label, kind, body)
        return JSONResponse({"label": found})

    async def tensor(request: Request) -> JSONResponse:
        body, model = await request.body(), models["digits"]
        return JSONResponse({"labels": await run_in_threadpool(lambda: model.run(model.tensor(body)))})

    return Starlette(routes=[Route("/raw/{kind}", raw, methods=["POST"]), Route("/tensor", tensor, methods=["POST"])])
