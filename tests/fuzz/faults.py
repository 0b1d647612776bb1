"""Faults under load: a worker is killed, then the server is stopped, while clients keep sending requests.

The last part of `python -m tests.fuzz.soak`. A killed worker may lose only the requests that it was working on. A
stopped server may lose none of the requests that it received before it closed its socket.
"""

import asyncio
import os
import signal
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

import httpx
import psutil  # type: ignore[import-untyped]

from tests.serving import Server

CLIENTS = 16
WAIT_S = 60.0
Send = Callable[[], Awaitable[bool]]
"""Sends one request; returns whether the response was correct."""


@dataclass(frozen=True)
class Outcome:
    """What a fault did to the requests that were sent during it.

    `lost` counts requests with a wrong response or none; at most `may_be_lost` of them, those that the killed process
    was working on, are acceptable. `seconds` is the time until the worker was replaced, or until the server had exited.
    """

    sent: int
    lost: int
    may_be_lost: int
    seconds: float

    def findings(self, fault: str) -> list[str]:
        """A sentence for each violation."""
        if self.lost <= self.may_be_lost:
            return []
        return [f"{fault}: {self.lost} of {self.sent} requests lost (maximum {self.may_be_lost})"]


def workers(server: Server) -> list[psutil.Process]:
    """A server's worker processes, the oldest first."""
    return [child for child in psutil.Process(server.pid).children(recursive=True) if _is_worker(child)]


def _is_worker(process: psutil.Process) -> bool:
    try:
        return "_bentoml_impl.worker" in " ".join(process.cmdline())
    except psutil.NoSuchProcess:  # it is exiting, or is a zombie
        return False


async def kill_a_worker(server: Server, send: Send) -> Outcome:
    """Kill one worker under load, and wait until it is replaced and the server is ready."""
    before = workers(server)
    working_on = 0

    async def kill() -> None:
        nonlocal working_on
        await asyncio.sleep(1)  # until the load has started
        os.kill(before[0].pid, signal.SIGSTOP)  # it must not accept more connections than are counted
        working_on = connections(before[0])
        os.kill(before[0].pid, signal.SIGKILL)
        async with httpx.AsyncClient(base_url=server.url) as client:
            await _until(lambda: _is_replaced(server, before))
            await _until(lambda: _readyz_is(client, 200))

    sent, lost, seconds = await _under_load(kill, send)
    return Outcome(sent, lost, working_on, seconds - 1)


async def drain(server: Server, send: Send) -> Outcome:
    """Stop the server under load; clients stop sending once it is not ready, as load balancers do."""
    start = time.monotonic()

    async def stop() -> None:
        nonlocal start
        async with httpx.AsyncClient(base_url=server.url) as client:
            await _until(lambda: _readyz_is(client, 200))
            await asyncio.sleep(1)
            start = time.monotonic()
            os.kill(server.pid, signal.SIGTERM)
            await _until(lambda: _readyz_is(client, 503))

    sent, lost, _ = await _under_load(stop, send)
    code = await asyncio.to_thread(server.wait_for_end)
    return Outcome(sent, lost + (code != 0), 0, time.monotonic() - start)


async def _under_load(act: Callable[[], Awaitable[None]], send: Send) -> tuple[int, int, float]:
    """Requests sent during `act`, requests lost, and the duration of `act` in seconds."""
    ended, sent, lost = False, 0, 0

    async def client() -> None:
        nonlocal sent, lost
        while not ended:
            sent += 1
            lost += not await send()

    start = time.monotonic()
    async with asyncio.TaskGroup() as clients:
        for _ in range(CLIENTS):
            clients.create_task(client())
        await act()
        seconds = time.monotonic() - start
        ended = True
    return sent, lost, seconds


async def _until(condition: Callable[[], Awaitable[bool]]) -> None:
    async with asyncio.timeout(WAIT_S):
        while not await condition():  # noqa: ASYNC110 -- another process cannot set an event
            await asyncio.sleep(0.05)


async def _readyz_is(client: httpx.AsyncClient, status: int) -> bool:
    try:
        return (await client.get("/readyz")).status_code == status
    except httpx.TransportError:
        return False


async def _is_replaced(server: Server, before: list[psutil.Process]) -> bool:
    now = {worker.pid for worker in workers(server)}
    return len(now) == len(before) and before[0].pid not in now


def connections(worker: psutil.Process) -> int:
    """The number of connections that a worker has accepted."""
    return sum(connection.status == psutil.CONN_ESTABLISHED for connection in worker.net_connections("tcp"))
