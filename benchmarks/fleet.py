"""Several contenders' servers beside each other, of which all but the measured one are paused.

A paused server (SIGSTOP to all its processes) holds its memory and takes no processor time. So contenders can take
turns within seconds, and a change of the machine's speed meets all of them alike.
"""

import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

from benchmarks.contender import Contender
from benchmarks.items import Kind, Runtime
from benchmarks.server import BenchmarkError, Server, serving


class Fleet:
    """The running servers; one that fails is reported and leaves the fleet, and the others continue.

    `on_failure` receives the contender and the reason.
    """

    def __init__(self, on_failure: Callable[[Contender, str], None]) -> None:
        self._on_failure = on_failure
        self._servers: list[Server] = []

    @contextmanager
    def start(
        self,
        contenders: Mapping[Contender, Path],
        models: Mapping[Kind, Path],
        runtime: Runtime,
        workers: int,
        on_start: Callable[[Server], None],
    ) -> Iterator[None]:
        """Start contenders (with the interpreters of their environments) one after the other; stop all at the end.

        `on_start` receives each server while no other runs.
        """
        with ExitStack() as stack:
            for contender, python in contenders.items():
                scratch = tempfile.TemporaryDirectory(prefix="bench", ignore_cleanup_errors=True)
                folder = Path(stack.enter_context(scratch))
                server = stack.enter_context(serving(contender, python, models, runtime, folder, workers))
                self._servers.append(server)
                self._measure(server, on_start)
                server.pause()
            yield
            self._servers.clear()

    def each(self, measure: Callable[[Server], None], contenders: Sequence[Contender] | None = None) -> None:
        """Measure every server, or those of some contenders, in turn; the others are paused meanwhile."""
        for server in list(self._servers):
            if contenders is None or server.contender in contenders:
                with server.awake():
                    self._measure(server, measure)

    def _measure(self, server: Server, measure: Callable[[Server], None]) -> None:
        try:
            measure(server)
        except BenchmarkError as error:
            self._servers.remove(server)
            self._on_failure(server.contender, str(server.explain(error)))
