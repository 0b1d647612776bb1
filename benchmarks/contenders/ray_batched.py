"""Ray Serve as its documentation teaches it: one deployment of one replica, `@serve.batch` in front of each model.

The items are raw bodies. `python -m ... PORT` starts Ray on this machine alone and serves until it is stopped.
"""

import signal
import sys
import threading

import ray
from ray import serve
from starlette.requests import Request

from benchmarks.contenders import work


@serve.deployment(num_replicas=1, max_ongoing_requests=1024)
class Classifier:
    """All models in one replica; a batch a kind."""

    def __init__(self) -> None:
        self._models = work.load()

    @serve.batch(max_batch_size=64, batch_wait_timeout_s=0.001)  # type: ignore[untyped-decorator]
    async def digits(self, items: list[bytes]) -> list[str]:
        """The digit on each picture."""
        return self._label("digits", items)

    @serve.batch(max_batch_size=64, batch_wait_timeout_s=0.001)  # type: ignore[untyped-decorator]
    async def photos(self, items: list[bytes]) -> list[str]:
        """What each photo shows."""
        return self._label("photos", items)

    @serve.batch(max_batch_size=64, batch_wait_timeout_s=0.001)  # type: ignore[untyped-decorator]
    async def reviews(self, items: list[bytes]) -> list[str]:
        """What each text says."""
        return self._label("reviews", items)

    async def __call__(self, request: Request) -> dict[str, str] | dict[str, list[str]]:
        """Answer a request at /digits, /photos, /reviews, or of many digits at /tensor."""
        kind, body = request.url.path[1:], await request.body()
        if kind == "tensor":
            model = self._models["digits"]
            return {"labels": model.run(model.tensor(body))}
        batched = {"digits": self.digits, "photos": self.photos, "reviews": self.reviews}
        return {"label": await batched[kind](body)}

    def _label(self, kind: str, items: list[bytes]) -> list[str]:
        model = self._models[kind]
        return model.label([model.decode(item) for item in items])


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
