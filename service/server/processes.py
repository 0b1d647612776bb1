"""What BentoML and circus do with the server's processes and socket, where a container needs something else.

`tests/service/server/test_bentoml_internals.py` checks that what is replaced still exists.
"""

import os
import socket
from typing import Any

from bentoml._internal.utils.circus import Arbiter
from circus.sockets import CircusSocket

CHECK_S = 1.0
"""Seconds between two looks of circus for workers that have ended; BentoML's are 10, in which nothing answers."""


def set_up() -> None:
    """Call this in the server, before it makes its socket and its workers."""
    os.environ.pop("BENTOML_CONTAINERIZED", None)  # with it, a worker that dies is not replaced
    Arbiter._init_context = _init_context  # noqa: SLF001 -- the last step before its timer is made
    CircusSocket.listen = _do_not_listen


def _init_context(arbiter: Any, context: Any) -> None:
    arbiter.check_delay = CHECK_S
    super(Arbiter, arbiter)._init_context(context)


def _do_not_listen(_: socket.socket, backlog: int = 0) -> None:
    """Leave it to the first worker's event loop, so that connections are refused until a worker can answer them."""
