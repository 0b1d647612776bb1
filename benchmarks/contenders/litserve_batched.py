"""LitServe as its documentation teaches it: a LitAPI a model, batching on, pictures as base64 in JSON.

One worker and one API server; multipart files cannot be handed to a worker (they do not pickle once they are large),
so pictures come as its own `ImageInput` has them, in base64.
"""

import base64
import sys
from typing import Any

import litserve
from fastapi import Request, Response

from benchmarks.contenders import work


class Classifier(litserve.LitAPI):  # type: ignore[misc]
    """One model at a path of its own."""

    def __init__(self, kind: str, **settings: Any) -> None:
        super().__init__(api_path=f"/{kind}", **settings)
        self._kind = kind

    def setup(self, device: str) -> None:  # noqa: ARG002 -- LitServe's own signature
        """Load the model, in the worker."""
        self._model = work.load()[self._kind]

    def decode_request(self, request: Request) -> work.Array:
        """A request's JSON, which LitServe has read already, -> what the graph takes."""
        if "text" in request:
            return self._model.text(request["text"])
        return self._model.decode(base64.b64decode(request["image"]))

    def batch(self, inputs: list[work.Array]) -> list[work.Array]:
        """Texts differ in length, so a batch stays a list."""
        return inputs

    def unbatch(self, output: list[str]) -> list[str]:
        """A label a request."""
        return output

    def predict(self, batch: list[work.Array]) -> list[str]:
        """Label a batch."""
        return self._model.label(batch)

    def encode_response(self, output: str) -> Response:
        """An answer's JSON; LitServe wants these two types named, and makes a response of it."""
        return {"label": output}


def main() -> None:
    """Serve every model on the port that the command names."""
    apis = [Classifier(kind, max_batch_size=64, batch_timeout=0.001) for kind in work.load()]
    server = litserve.LitServer(apis, accelerator="cpu", workers_per_device=1, fast_queue=True)
    server.run(
        host="127.0.0.1",
        port=int(sys.argv[1]),
        num_api_servers=1,
        log_level="warning",
        generate_client_file=False,
        access_log=False,
    )


if __name__ == "__main__":
    main()
