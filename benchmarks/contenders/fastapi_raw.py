"""FastAPI and ONNX Runtime: the picture is the raw body, one run a request, on the event loop."""

import importlib
import io
import os
from typing import Any

import numpy as np
import onnxruntime as ort
from PIL import Image
from starlette.requests import Request


def create() -> Any:
    """The application, with its model loaded."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    session = ort.InferenceSession(os.environ["BENCH_MODEL"], options, providers=["CPUExecutionProvider"])
    # FastAPI is in the benchmark's environment alone, which the type checker does not see.
    app = importlib.import_module("fastapi").FastAPI()

    @app.post("/classify")  # type: ignore[untyped-decorator]
    async def classify(request: Request) -> dict[str, int]:
        image = Image.open(io.BytesIO(await request.body())).convert("L")
        batch = np.asarray(image, np.uint8)[None, ..., None]  # (28, 28) -> (1, 28, 28, 1)
        probabilities = session.run(["probabilities"], {"image": batch})[0]  # (1, 10)
        return {"label": int(probabilities[0].argmax())}

    return app
