"""Reads request bodies within limits: while they arrive, not after."""

import asyncio
import re

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header
from starlette.requests import ClientDisconnect, Request

from service.errors import InvalidRequest, SlowBody, TooLarge
from service.settings import Settings


async def read(request: Request, settings: Settings) -> bytes:
    """The whole body of a request.

    Raises:
        TooLarge: more bytes than the limit, announced or sent.
        SlowBody: it did not arrive in time.
        InvalidRequest: it is empty, or the client went away.
    """
    limit = settings.max_body_bytes
    announced = request.headers.get("content-length", "")
    if re.fullmatch("[0-9]{1,18}", announced) and int(announced) > limit:
        raise TooLarge(f"the body has {announced} bytes; at most {limit} are read")
    body = bytearray()
    try:
        async with asyncio.timeout(settings.body_timeout_s):
            async for chunk in request.stream():
                body += chunk
                if len(body) > limit:
                    raise TooLarge(f"the body has more than {limit} bytes; at most that many are read")
    except TimeoutError as error:
        raise SlowBody(f"the body did not arrive within {settings.body_timeout_s:g} s") from error
    except ClientDisconnect as error:
        raise InvalidRequest("the client went away before its body was sent") from error
    if not body:
        raise InvalidRequest("the body is empty; send a picture, for example with curl --data-binary @picture.png")
    return bytes(body)


async def read_items(request: Request, settings: Settings) -> list[bytes]:
    """The items of a request: every part of a multipart body, or the body itself as one.

    Raises:
        TooLarge, SlowBody, InvalidRequest: as `read`; also for a multipart body that is none or has too many parts.
    """
    kind, options = parse_options_header(request.headers.get("content-type", ""))
    body = await read(request, settings)
    if kind != b"multipart/form-data":
        return [body]
    boundary = options.get(b"boundary")
    if not boundary:
        raise InvalidRequest("the Content-Type is multipart/form-data without a boundary")
    return _split(body, boundary, settings.max_items)


def _split(body: bytes, boundary: bytes, max_items: int) -> list[bytes]:
    """The contents of a multipart body's parts, in order."""
    parts: list[bytearray] = []
    ended = False

    def begin() -> None:
        if len(parts) == max_items:
            raise TooLarge(f"the request holds more than {max_items} items; at most that many are taken")
        parts.append(bytearray())

    def data(chunk: bytes, start: int, end: int) -> None:
        parts[-1] += chunk[start:end]

    def end() -> None:
        nonlocal ended
        ended = True

    try:
        parser = MultipartParser(boundary, {"on_part_begin": begin, "on_part_data": data, "on_end": end})
        parser.write(body)
        parser.finalize()
    except FormParserError as error:
        raise InvalidRequest(f"the multipart body cannot be read: {error}") from error
    if not ended:
        raise InvalidRequest("the multipart body is cut off: its closing boundary is missing")
    if not parts:
        raise InvalidRequest("the multipart body holds no parts; send one file or more")
    return [bytes(part) for part in parts]
