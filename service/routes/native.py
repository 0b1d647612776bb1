"""POST /classify_texts and /classify_images: the calls of BentoML's own clients, over the same predictor.

BentoML would answer them itself, but it bounds no body, reads other kinds of content than these calls have, and fetches
what it takes for a URL. Its clients find the calls in /schema.json, send JSON and want JSON, which is all that is done
here.
"""

import base64
import json
from collections.abc import Sequence
from http import HTTPStatus
from typing import Any

from bentoml.exceptions import BentoMLException
from python_multipart.multipart import parse_options_header
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from service.errors import CallerGone, InvalidRequest, ServiceError, Unreadable, UnsupportedKind
from service.predictor import Answer, Item, Predictor
from service.routes import body, limited
from service.routes.answer import render
from service.settings import Settings


def routes(predictor: Predictor, settings: Settings) -> list[Route]:
    """The routes of this front end."""

    async def texts(request: Request) -> Response:
        model, items = await _asked(request, "texts", settings)
        return _rendered(request, await predictor.classify(model, items, is_gone=body.gone(request)))

    async def images(request: Request) -> Response:
        model, items = await _asked(request, "images", settings)
        pictures = await run_in_threadpool(lambda: [picture(str(item)) for item in items])
        items.clear()  # what waits for its turn holds no body
        return _rendered(request, await predictor.classify(model, pictures, is_gone=body.gone(request)))

    return [Route("/classify_texts", texts, methods=["POST"]), Route("/classify_images", images, methods=["POST"])]


def _rendered(request: Request, answer: Answer) -> Response:
    request.scope["convoke.served"] = (answer.version.name, answer.version.number, len(answer.rows))
    return Response(render(answer), media_type="application/json")


async def _asked(request: Request, key: str, settings: Settings) -> tuple[str, list[Item]]:
    """The arguments of a call: the model's name, and the items.

    Raises:
        UnsupportedKind: the content is not JSON, which it is where nothing is said, as BentoML has it.
        ServiceError: as `body.read` and `limited.loads`; or the JSON is not of the call's form.
    """
    label, _ = parse_options_header(request.headers.get("content-type", "application/json"))
    if label != b"application/json":
        raise UnsupportedKind(f"Content-Type {label[:60].decode('latin-1')!r} is not read here; send application/json")
    form = f'{{"model": "...", "{key}": ["...", ...]}}'
    content = await run_in_threadpool(limited.loads, await body.read(request, settings), settings, form=form)
    if not isinstance(content, dict) or set(content) != {"model", key}:
        raise InvalidRequest(f"the JSON is not of the form {form}")
    model, items = content["model"], content[key]
    if not (isinstance(model, str) and items and isinstance(items, list) and all(isinstance(i, str) for i in items)):
        raise InvalidRequest(f"the JSON is not of the form {form}")
    return model, items


async def classify(predictor: Predictor, model: str, items: Sequence[Item]) -> dict[str, Any]:
    """The answer of a call inside of this process; an item that failed has its error in its place.

    Raises:
        BentoMLException: the request failed; with the status that the other front ends answer.
    """
    try:
        content: dict[str, Any] = json.loads(render(await predictor.classify(model, [*items])))
    except ServiceError as error:
        status = HTTPStatus.BAD_REQUEST if isinstance(error, CallerGone) else HTTPStatus(error.status)
        raise BentoMLException(f"{error.code}: {error}", error_code=status) from error
    return content


def picture(text: str) -> Item:
    """A picture in base64."""
    try:
        return base64.b64decode(text, validate=True)
    except ValueError as error:
        return Unreadable(f"the picture is no base64: {error}; send its bytes in base64, not a path or a URL")
