"""FastAPI and ONNX Runtime, one run for each request: the item as raw body or as multipart file.

A digit is decoded and run on the event loop, which is fastest for digits. Other items run in FastAPI's threads, so that
the event loop stays free and every processor is used.
"""

from typing import Annotated

from fastapi import FastAPI, File, Request, UploadFile
from fastapi.concurrency import run_in_threadpool

from benchmarks.contenders import inference


def create() -> FastAPI:
    """The application, with its models loaded."""
    models = inference.load_models()
    app = FastAPI()

    async def predict(kind: str, encoded: bytes) -> dict[str, str]:
        classify = models[kind].classify
        (label,) = classify([encoded]) if kind == "digits" else await run_in_threadpool(classify, [encoded])
        return {"label": label}

    @app.post("/raw/{kind}")  # type: ignore[untyped-decorator]
    async def raw(kind: str, request: Request) -> dict[str, str]:
        return await predict(kind, await request.body())

    @app.post("/tensor")  # type: ignore[untyped-decorator]
    async def tensor(request: Request) -> dict[str, list[str]]:
        body = await request.body()
        model = models["digits"]
        return {"labels": await run_in_threadpool(lambda: model.run(model.tensor(body)))}

    @app.post("/file/{kind}")  # type: ignore[untyped-decorator]
    async def file(kind: str, file: Annotated[UploadFile, File()]) -> dict[str, str]:
        return await predict(kind, await file.read())

    return app
