"""LitServe as its documentation teaches it: one LitAPI for each model, batching on, images as base64 in JSON.

$BENCH_WORKERS workers and as many API servers. Multipart files cannot be passed to a worker (large ones cannot be
pickled), so images are sent in base64, as in LitServe's own `ImageInput`.
"""

import base64
import os
import sys
from typing import Any

import litserve
from fastapi import Request, Response

from benchmarks.contenders import inference


class Classifier(litserve.LitAPI):  # type: ignore[misc]
    """One model, served at its own path."""

    def __init__(self, kind: str, **settings: Any) -> None:
        super().__init__(api_path=f"/{kind}", **settings)
        self._kind = kind

    def setup(self, device: str) -> None:  # noqa: ARG002 -- LitServe's own signature
        """Load the model in the worker."""
        self._model = inference.load_models()[self._kind]

    def decode_request(self, request: Request) -> inference.Array:
        """A request's JSON, already parsed by LitServe -> the decoded item."""
        if "text" in request:
            return self._model.tokenize(request["text"])
        return self._model.decode(base64.b64decode(request["image"]))

    def batch(self, inputs: list[inference.Array]) -> list[inference.Array]:
        """Leave a batch as a list, since texts differ in length."""
        return inputs

    def unbatch(self, output: list[str]) -> list[str]:
        """Return one label for each request."""
        return output

    def predict(self, batch: list[inference.Array]) -> list[str]:
        """Predict the labels of a batch."""
        return self._model.predict(batch)

    def encode_response(self, output: str) -> Response:
        """The response's JSON. LitServe requires these annotations and makes a response of the dict."""
        return {"label": output}


def main() -> None:
    """Serve every model on the given port."""
    apis = [Classifier(kind, max_batch_size=64, batch_timeout=0.001) for kind in inference.load_models()]
    workers = int(os.environ["BENCH_WORKERS"])
    server = litserve.LitServer(apis, accelerator="cpu", workers_per_device=workers, fast_queue=True)
    server.run(
        host="127.0.0.1",
        port=int(sys.argv[1]),
        num_api_servers=workers,
        log_level="warning",
        generate_client_file=False,
        access_log=False,
    )


if __name__ == "__main__":
    main()
