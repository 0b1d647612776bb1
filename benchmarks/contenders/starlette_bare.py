"""Starlette and ONNX Runtime, nothing between: one run a request, on the event loop, which is fastest for digits."""

import io
import os

import numpy as np
import onnxruntime as ort
from PIL import Image
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route


def create() -> Starlette:
    """The application, with its model loaded."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    session = ort.InferenceSession(os.environ["BENCH_MODEL"], options, providers=["CPUExecutionProvider"])

    async def classify(request: Request) -> JSONResponse:
        image = Image.open(io.BytesIO(await request.body())).convert("L")
        batch = np.asarray(image, np.uint8)[None, ..., None]  # (28, 28) -> (1, 28, 28, 1)
        probabilities = session.run(["probabilities"], {"image": batch})[0]  # (1, 10)
        return JSONResponse({"label": int(probabilities[0].argmax())})

    return Starlette(routes=[Route("/classify", classify, methods=["POST"])])
