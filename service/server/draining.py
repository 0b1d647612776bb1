"""What SIGTERM does: the service says that it is not ready, still answers for a while, then stops.

A load balancer or Kubernetes needs some seconds to notice that this server is stopping; requests that arrive meanwhile
are answered. Then uvicorn closes the listening socket and waits for the requests that it has accepted.
"""

import asyncio
import logging
import signal
from collections.abc import Callable
from types import FrameType

logger = logging.getLogger("bentoml.convoke")


def postpone_sigterm(seconds: float, on_drain: Callable[[], None]) -> None:
    """From now on, run the server's own handler of SIGTERM only some seconds after the signal.

    A second signal stops the server at once. Call this in the main thread, on the server's event loop.

    Args:
        seconds: how long requests are still accepted; 0 stops at once.
        on_drain: called once, when the first signal arrives, in the main thread.
    """
    loop = asyncio.get_running_loop()
    stop = signal.getsignal(signal.SIGTERM)
    if not callable(stop):  # without a handler the process ends anyway
        return
    is_draining = False

    def drain(number: int, frame: FrameType | None) -> None:
        nonlocal is_draining
        if is_draining or not seconds:
            stop(number, frame)
            return
        is_draining = True
        on_drain()
        logger.info("stopping: not ready any more; requests are accepted for another %g s", seconds)
        loop.call_soon_threadsafe(loop.call_later, seconds, stop, number, None)

    signal.signal(signal.SIGTERM, drain)
