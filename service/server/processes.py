"""What BentoML and circus do with the server's processes and socket, where a container needs something else.

`tests/service/server/test_bentoml_internals.py` checks that what is replaced still exists.
"""

import contextlib
import logging
import os
import signal
import socket
from typing import Any

from bentoml._internal.utils.circus import Arbiter
from circus.exc import ConflictError
from circus.sighandler import SysHandler
from circus.sockets import CircusSocket
from circus.watcher import Watcher

logger = logging.getLogger("bentoml.convoke")

CHECK_S = 1.0
"""Seconds between two looks for workers that have ended. Circus itself looks every 10 s, in which nothing answers, and
by the wall clock: set back, it would not look at all."""


def set_up() -> None:
    """Call this in the server, before it makes its socket and its workers."""
    os.environ.pop("BENTOML_CONTAINERIZED", None)  # with it, a worker that dies is not replaced
    Arbiter.start = _start
    SysHandler.handle_hup = SysHandler.handle_term  # else all workers would start anew, and none would answer meanwhile
    CircusSocket.listen = _do_not_listen
    Watcher.notify_event = _notify


def _start(arbiter: Any, **kwargs: Any) -> None:
    loop = arbiter.loop.asyncio_loop

    def check() -> None:
        loop.call_later(CHECK_S, check)
        with contextlib.suppress(ConflictError):  # it starts or stops workers at this moment
            arbiter.manage_watchers()

    def notice() -> None:
        if not arbiter._stopping:  # noqa: SLF001 -- as manage_watchers does: else it waits for them itself
            arbiter.reap_processes()

    loop.call_later(CHECK_S, check)
    loop.add_signal_handler(signal.SIGCHLD, notice)
    _start_arbiter(arbiter, **kwargs)


_start_arbiter = Arbiter.start


def _notify(watcher: Any, topic: str, message: dict[str, Any]) -> None:
    """Log a worker that ended by itself: without a line, nobody would learn that memory runs out.

    If it was the last one, connections are refused until its successor listens. The socket would take them, and their
    requests would wait for as long as a worker takes to start, while another server could answer them.
    """
    code = message.get("exit_code")
    if topic == "reap" and code not in {None, 0, -signal.SIGTERM, -signal.SIGINT}:
        end = f"was ended by {signal.Signals(-code).name}" if code < 0 else f"ended with status {code}"
        reason = ", which the system sends if memory runs out" if code == -signal.SIGKILL else ""
        logger.error("worker %d %s%s; another one starts", message["process_pid"], end, reason)
    if topic == "reap" and not watcher.processes:
        for listener in watcher.sockets.values():
            with contextlib.suppress(OSError):  # it does not listen
                listener.shutdown(socket.SHUT_RDWR)
    _notify_watcher(watcher, topic, message)


_notify_watcher = Watcher.notify_event


def _do_not_listen(_: socket.socket, backlog: int = 0) -> None:
    """Leave it to the first worker's event loop, so that connections are refused until a worker can answer them."""
