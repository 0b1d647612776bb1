"""Ray Serve as its documentation teaches it: a deployment with $BENCH_WORKERS replicas, `@serve.batch` for each model.

Items are raw bodies. `python -m ... PORT` starts a local Ray and serves until SIGTERM.
"""

import os
import signal
import sys
import threading

import ray
from ray import serve
from starlette.requests import Request

from benchmarks.contenders import inference


@serve.deployment(num_replicas=int(os.environ["BENCH_WORKERS"]), max_ongoing_requests=1024)
class Classifier:
    """All models in one replica, each with its own batches."""

    def __init__(self) -> None:
        self._models = inference.load_models()

    @serve.batch(max_batch_size=64, batch_wait_timeout_s=0.001)  # type: ignore[untyped-decorator]
    async def digits(self, items: list[bytes]) -> list[str]:
        """The digit on each image."""
        return self._models["digits"].classify(items)

    @serve.batch(max_batch_size=64, batch_wait_timeout_s=0.001)  # type: ignore[untyped-decorator]
    async def photos(self, items: list[bytes]) -> list[str]:
        """The label of each photo."""
        return self._models["photos"].classify(items)

    @serve.batch(max_batch_size=64, batch_wait_timeout_s=0.001)  # type: ignore[untyped-decorator]
    async def reviews(self, items: list[bytes]) -> list[str]:
        """The label of each text."""
        return self._models["reviews"].classify(items)

    async def __call__(self, request: Request) -> dict[str, str] | dict[str, list[str]]:
        """Classify one item at /digits, /photos or /reviews, or many digits at /tensor."""
        kind, body = request.url.path[1:], await request.body()
        if kind == "tensor":
            model = self._models["digits"]
            return {"labels": model.run(model.tensor(body))}
        batched = {"digits": self.digits, "photos": self.photos, "reviews": self.reviews}
        return {"label": await batched[kind](body)}


def main() -> None:
    """Serve until SIGTERM."""
    ended = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: ended.set())
    ray.init("local", include_dashboard=False, log_to_driver=False, logging_level="warning")
    serve.start(
        http_options={"host": "127.0.0.1", "port": int(sys.argv[1])}, logging_config={"enable_access_log": False}
    )
    serve.run(Classifier.bind())  # type: ignore[attr-defined]
    ended.wait()
    serve.shutdown()
    ray.shutdown()


if __name__ == "__main__":
    main()
