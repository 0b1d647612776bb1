"""Reads request bodies within limits, which are checked while a body arrives."""

import asyncio
import re
from collections.abc import Callable
from functools import partial
from typing import TypeVar

from starlette.requests import Request
from starlette.types import Message, Receive

from contract.errors import TooLarge
from service.errors import InvalidRequest, SlowBody
from service.http import encoding, pending
from service.settings import Settings
from service.telemetry.facts import of

Result = TypeVar("Result")

_QUICK_BYTES = pending.SMALL_BYTES  # longer bodies are decompressed and parsed in another thread


async def read(request: Request, settings: Settings, *, may_be_empty: bool = False) -> bytes:
    """The body of a request, decompressed by its Content-Encoding.

    Raises:
        TooLarge: more bytes than `max_body_bytes`, announced, received or decompressed.
        UnsupportedMediaType, Unreadable: as `encoding.decompress`.
        SlowBody: the body did not arrive in time.
        Overloaded: the memory for bodies is full.
        InvalidRequest: the body is empty, or the client disconnected.
    """
    limit = settings.max_body_bytes
    headers = dict(request.scope["headers"])
    announced = headers.get(b"content-length", b"")
    if re.fullmatch(b"[0-9]{1,18}", announced) and int(announced) > limit:
        raise TooLarge(f"request body too large: {int(announced)} bytes (maximum {limit})")
    message = _receive_now(request.receive)
    body: bytes | bytearray
    if message is not None and message["type"] == "http.request" and not message.get("more_body"):
        body = message["body"]
    else:
        body = await _receive_all(request, message, settings)
    if len(body) > limit:
        raise TooLarge(f"request body too large (maximum {limit} bytes)")
    facts = of(request.scope)
    facts.body_bytes = len(body)
    if len(body) > pending.SMALL_BYTES:
        pending.hold(facts, len(body), settings.max_pending_bytes)
    if b"content-encoding" in headers and body:
        codings = encoding.codings_of(request.scope["headers"])
        body = await run(partial(encoding.decompress, body, codings, limit), len(body))
        if len(body) > pending.SMALL_BYTES:
            pending.hold(facts, len(body), settings.max_pending_bytes)
    if not body and not may_be_empty:
        raise InvalidRequest("the body is empty; send an image or a text, for example with curl --data-binary @FILE")
    return bytes(body)


async def run(work: Callable[[], Result], size_bytes: int) -> Result:
    """Do work on a body of this size: here if it is quick, else in another thread, so that the event loop goes on."""
    return work() if size_bytes <= _QUICK_BYTES else await asyncio.to_thread(work)


def gone(request: Request) -> Callable[[], bool]:
    """A function that says, without waiting, whether the client has disconnected; for a request whose body was read."""

    def is_gone() -> bool:
        message = _receive_now(request.receive)
        return message is not None and message["type"] == "http.disconnect"

    return is_gone


async def _receive_all(request: Request, message: Message | None, settings: Settings) -> bytearray:
    """A body of several messages, of which the first may have arrived; it stops at the first byte above the limit.

    Raises:
        SlowBody, Overloaded, InvalidRequest: as `read`.
    """
    body = bytearray()
    try:
        async with asyncio.timeout(settings.body_timeout_s):
            while True:
                message = message or await request.receive()
                if message["type"] == "http.disconnect":
                    raise InvalidRequest("the client disconnected before it had sent its body")
                body += message.get("body", b"")
                if len(body) > pending.SMALL_BYTES:
                    pending.hold(of(request.scope), len(body), settings.max_pending_bytes)
                if len(body) > settings.max_body_bytes or not message.get("more_body"):
                    return body
                message = None
    except TimeoutError as error:
        raise SlowBody(f"the body did not arrive within {settings.body_timeout_s:g} s") from error


def _receive_now(receive: Receive) -> Message | None:
    """The next message if it has arrived already, as most bodies have with their header; None instead of waiting."""
    waiting = receive().__await__()  # driven by hand for one step, which ends it if nothing must be awaited
    try:
        next(waiting)
    except StopIteration as done:
        message: Message = done.value
        return message
    waiting.close()
    return None
