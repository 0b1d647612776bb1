"""What SIGTERM does: the service says that it is not ready, still answers for a while, then stops.

Whoever sends requests, a load balancer or Kubernetes, needs some seconds to see that this server is going; those that
arrive meanwhile are answered. After that uvicorn takes over: it listens no more and waits for what was accepted.
"""

import asyncio
import logging
import signal
from collections.abc import Callable
from types import FrameType

logger = logging.getLogger("bentoml.convoke")


class Draining:
    """A worker's SIGTERM, put off."""

    def __init__(self, seconds: float, begin: Callable[[], None]) -> None:
        """Prepare.

        Args:
            seconds: how long requests are still taken; 0 stops at once.
            begin: called once, when the signal comes, in the worker's main thread.
        """
        self._seconds = seconds
        self._begin = begin
        self._begun = False

    def watch(self) -> None:
        """Put the server's own handler of SIGTERM off, from now on; in its main thread, on its event loop.

        A second signal stops the server at once.
        """
        loop = asyncio.get_running_loop()
        stop = signal.getsignal(signal.SIGTERM)
        if not callable(stop):  # nobody handles it: the process just ends
            return

        def drain(number: int, frame: FrameType | None) -> None:
            if self._begun or not self._seconds:
                stop(number, frame)
                return
            self._begun = True
            self._begin()
            logger.info("going: not ready any more; requests are taken for another %g s", self._seconds)
            loop.call_soon_threadsafe(loop.call_later, self._seconds, stop, number, None)

        signal.signal(signal.SIGTERM, drain)
