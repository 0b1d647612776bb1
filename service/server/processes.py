"""What BentoML and circus do with the server's processes and socket, where a container needs something else.

`tests/service/server/test_bentoml_internals.py` checks that what is replaced still exists.
"""

import contextlib
import os
import socket
from typing import Any

from bentoml._internal.utils.circus import Arbiter
from circus.exc import ConflictError
from circus.sighandler import SysHandler
from circus.sockets import CircusSocket

CHECK_S = 1.0
"""Seconds between two looks for workers that have ended. Circus itself looks every 10 s, in which nothing answers, and
by the wall clock: set back, it would not look at all."""


def set_up() -> None:
    """Call this in the server, before it makes its socket and its workers."""
    os.environ.pop("BENTOML_CONTAINERIZED", None)  # with it, a worker that dies is not replaced
    Arbiter.start = _start
    SysHandler.handle_hup = SysHandler.handle_term  # else all workers would start anew, and none would answer meanwhile
    CircusSocket.listen = _do_not_listen


def _start(arbiter: Any, **kwargs: Any) -> None:
    loop = arbiter.loop.asyncio_loop

    def check() -> None:
        loop.call_later(CHECK_S, check)
        with contextlib.suppress(ConflictError):  # it starts or stops workers at this moment
            arbiter.manage_watchers()

    loop.call_later(CHECK_S, check)
    _start_arbiter(arbiter, **kwargs)


_start_arbiter = Arbiter.start


def _do_not_listen(_: socket.socket, backlog: int = 0) -> None:
    """Leave it to the first worker's event loop, so that connections are refused until a worker can answer them."""
