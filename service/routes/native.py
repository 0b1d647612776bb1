"""POST /classify_texts and /classify_images: the calls of BentoML's own clients, over the same predictor.

BentoML would answer them itself, but it bounds no body, reads other kinds of content than these calls have, and fetches
URLs. Its clients find the calls in /schema.json, send JSON and expect JSON, which is all that is done here.
"""

from collections.abc import Callable
from typing import Literal

from python_multipart.multipart import parse_options_header
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response

from contract.errors import UnsupportedMediaType
from service.errors import InvalidRequest
from service.http import body, limited
from service.http.route import Endpoint, Route
from service.inference.predictor import Answer, Predictor
from service.routes.answer import render
from service.settings import Settings
from service.telemetry.facts import of

Key = Literal["texts", "images"]
"""The name of the list in a call's JSON."""


def routes(predictor: Predictor, settings: Settings) -> list[Route]:
    """The routes of this front end."""

    def endpoint(key: Key) -> Endpoint:
        async def classify(request: Request) -> Response:
            model, items = await _arguments(request, key, settings)
            answer = await call(predictor, model, key, items, is_gone=body.gone(request))
            facts = of(request.scope)
            facts.model, facts.version, facts.items = answer.version.name, answer.version.number, len(answer.rows)
            return Response(render(answer), media_type="application/json")

        return classify

    return [
        Route("/classify_texts", "POST", endpoint("texts"), needs="predict"),
        Route("/classify_images", "POST", endpoint("images"), needs="predict"),
    ]


async def call(
    predictor: Predictor, model: str, key: Key, items: list[str], *, is_gone: Callable[[], bool] = lambda: False
) -> Answer:
    """Classify texts, or images in base64; a list of one call, which is emptied.

    Raises:
        ConvokeError: as `Predictor.classify`.
    """
    version = predictor.resolve(model)
    spec = version.manifest.input
    if key == spec.json_key:
        encoded = await run_in_threadpool(body.from_strings, items, spec)
    else:
        error = UnsupportedMediaType(f"model {version.name!r} takes {spec.json_key}, not {key}")
        encoded = [error for _ in items]
    items.clear()  # what waits for its turn holds no body
    return await predictor.classify(version, encoded, is_gone=is_gone)


async def _arguments(request: Request, key: Key, settings: Settings) -> tuple[str, list[str]]:
    """The arguments of a call: the model's name, and the items.

    Raises:
        UnsupportedMediaType: the content is not JSON, which is what BentoML assumes without a Content-Type.
        ConvokeError: as `body.read` and `limited.loads`; or the JSON does not have the form of the call.
    """
    label, _ = parse_options_header(request.headers.get("content-type", "application/json"))
    if label != b"application/json":
        raise UnsupportedMediaType(
            f"unsupported Content-Type {label[:60].decode('latin-1')!r}; expected application/json"
        )
    form = f'{{"model": "...", "{key}": ["...", ...]}}'
    content = await run_in_threadpool(limited.loads, await body.read(request, settings), settings, form=form)
    if not isinstance(content, dict) or set(content) != {"model", key}:
        raise InvalidRequest(f"the JSON does not have the form {form}")
    model, items = content["model"], content[key]
    if not (isinstance(model, str) and items and isinstance(items, list) and all(isinstance(i, str) for i in items)):
        raise InvalidRequest(f"the JSON does not have the form {form}")
    return model, items
