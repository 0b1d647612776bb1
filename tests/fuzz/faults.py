"""Faults under load: a worker is killed, then the server is told to stop, while callers ask on and on.

`python -m tests.fuzz.soak` ends with it. Of a killed worker only the requests that it held may be lost; of a server
that is told to stop, none of those that were sent while it still took them.
"""

import asyncio
import os
import signal
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

import httpx
import psutil  # type: ignore[import-untyped]

from tests.serving import Server

CALLERS = 16
WAIT_S = 60.0
Ask = Callable[[], Awaitable[bool]]
"""Sends one request, and says whether it was answered as it should be."""


@dataclass(frozen=True)
class Outcome:
    """What a fault did to the requests that were sent meanwhile."""

    sent: int
    lost: int
    """Without an answer, or with another than they deserve."""
    may_be_lost: int
    """Requests that were under way in the process that was killed."""
    seconds: float
    """Until another worker had taken its place, or until the server had ended."""

    def findings(self, fault: str) -> list[str]:
        """What is not as it should be, in words."""
        if self.lost <= self.may_be_lost:
            return []
        return [f"{fault}: {self.lost} requests of {self.sent} are lost, at most {self.may_be_lost} may be"]


def workers(server: Server) -> list[psutil.Process]:
    """The processes that answer, the oldest first."""
    return [child for child in psutil.Process(server.pid).children(recursive=True) if _is_worker(child)]


def _is_worker(process: psutil.Process) -> bool:
    try:
        return "_bentoml_impl.worker" in " ".join(process.cmdline())
    except psutil.NoSuchProcess:  # it ends just now, or has ended and was not waited for
        return False


async def kill_a_worker(server: Server, ask: Ask) -> Outcome:
    """Kill one of the workers, and wait until as many as before are ready."""
    before = workers(server)
    held = 0

    async def kill() -> None:
        nonlocal held
        await asyncio.sleep(1)  # so that the load is there
        os.kill(before[0].pid, signal.SIGSTOP)  # so that it takes no more than are counted
        held = connections(before[0])
        os.kill(before[0].pid, signal.SIGKILL)
        async with httpx.AsyncClient(base_url=server.url) as caller:
            await _until(lambda: _are_replaced(server, before))
            await _until(lambda: _answers(caller, 200))

    sent, lost, seconds = await _under_load(kill, ask)
    return Outcome(sent, lost, held, seconds - 1)


async def drain(server: Server, ask: Ask) -> Outcome:
    """Tell the server to stop; callers go elsewhere once it is not ready, as load balancers do."""
    began = time.monotonic()

    async def stop() -> None:
        nonlocal began
        async with httpx.AsyncClient(base_url=server.url) as caller:
            await _until(lambda: _answers(caller, 200))
            await asyncio.sleep(1)
            began = time.monotonic()
            os.kill(server.pid, signal.SIGTERM)
            await _until(lambda: _answers(caller, 503))

    sent, lost, _ = await _under_load(stop, ask)
    code = await asyncio.to_thread(server.wait_for_end)
    return Outcome(sent, lost + (code != 0), 0, time.monotonic() - began)


async def _under_load(act: Callable[[], Awaitable[None]], ask: Ask) -> tuple[int, int, float]:
    """Requests sent while `act` ran, those lost, and the seconds that it took."""
    over, sent, lost = False, 0, 0

    async def caller() -> None:
        nonlocal sent, lost
        while not over:
            sent += 1
            lost += not await ask()

    began = time.monotonic()
    callers: Sequence[asyncio.Task[None]] = [asyncio.create_task(caller()) for _ in range(CALLERS)]
    await act()
    seconds = time.monotonic() - began
    over = True
    await asyncio.gather(*callers)
    return sent, lost, seconds


async def _until(holds: Callable[[], Awaitable[bool]]) -> None:
    async with asyncio.timeout(WAIT_S):
        while not await holds():  # noqa: ASYNC110 -- another process cannot set an event
            await asyncio.sleep(0.05)


async def _answers(caller: httpx.AsyncClient, status: int) -> bool:
    try:
        return (await caller.get("/readyz")).status_code == status
    except httpx.TransportError:
        return False


async def _are_replaced(server: Server, before: list[psutil.Process]) -> bool:
    now = {one.pid for one in workers(server)}
    return len(now) == len(before) and before[0].pid not in now


def connections(worker: psutil.Process) -> int:
    """How many callers a worker has taken on."""
    return sum(one.status == psutil.CONN_ESTABLISHED for one in worker.net_connections("tcp"))
