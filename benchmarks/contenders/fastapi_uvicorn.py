"""FastAPI and ONNX Runtime, one run a request: the item as raw body or as multipart file.

A digit is decoded and run on the event loop, which is fastest for digits; all else in FastAPI's threads, so that the
loop stays free and every processor is used.
"""

from typing import Annotated

from fastapi import FastAPI, File, Request, UploadFile
from fastapi.concurrency import run_in_threadpool

from benchmarks.contenders import work


def create() -> FastAPI:
    """The application, with its models loaded."""
    models = work.load()
    app = FastAPI()

    def classify(kind: str, encoded: bytes) -> dict[str, str]:
        model = models[kind]
        return {"label": model.label([model.decode(encoded)])[0]}

    async def answer(kind: str, encoded: bytes) -> dict[str, str]:
        return classify(kind, encoded) if kind == "digits" else await run_in_threadpool(classify, kind, encoded)

    @app.post("/raw/{kind}")  # type: ignore[untyped-decorator]
    async def raw(kind: str, request: Request) -> dict[str, str]:
        return await answer(kind, await request.body())

    @app.post("/tensor")  # type: ignore[untyped-decorator]
    async def tensor(request: Request) -> dict[str, list[str]]:
        body = await request.body()
        model = models["digits"]
        return {"labels": await run_in_threadpool(lambda: model.run(model.tensor(body)))}

    @app.post("/file/{kind}")  # type: ignore[untyped-decorator]
    async def file(kind: str, file: Annotated[UploadFile, File()]) -> dict[str, str]:
        return await answer(kind, await file.read())

    return app
