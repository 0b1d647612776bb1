"""Starlette and ONNX Runtime without anything between: one run for each request, raw bodies.

A digit is decoded and run on the event loop, which is fastest for digits. Other items run in threads, so that the event
loop stays free and every processor is used.
"""

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from benchmarks.contenders import inference


def create() -> Starlette:
    """The application, with its models loaded."""
    models = inference.load_models()

    async def raw(request: Request) -> JSONResponse:
        kind, body = request.path_params["kind"], await request.body()
        classify = models[kind].classify
        (label,) = classify([body]) if kind == "digits" else await run_in_threadpool(classify, [body])
        return JSONResponse({"label": label})

    async def tensor(request: Request) -> JSONResponse:
        body, model = await request.body(), models["digits"]
        return JSONResponse({"labels": await run_in_threadpool(lambda: model.run(model.tensor(body)))})

    return Starlette(routes=[Route("/raw/{kind}", raw, methods=["POST"]), Route("/tensor", tensor, methods=["POST"])])
