"""POST /classify_texts and /classify_images: the calls of BentoML's own clients, over the same predictor.

BentoML's clients read the calls in /schema.json, send JSON and expect JSON, which is what these routes take and answer.
BentoML would answer the calls itself, but it reads bodies of any size and of other kinds of content, and fetches URLs.
"""

from collections.abc import Callable
from functools import partial
from typing import Literal

from starlette.requests import Request
from starlette.responses import Response

from contract.errors import UnsupportedMediaType
from service.errors import InvalidRequest
from service.http import body, charset, items, limited, media
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
            model, values = await _read(request, key, settings)
            answer = await call(predictor, model, key, values, is_gone=body.gone(request))
            facts = of(request.scope)
            facts.model, facts.version, facts.items = answer.version.name, answer.version.number, len(answer.rows)
            return Response(render(answer), media_type="application/json")

        return classify

    return [
        Route("/classify_texts", "POST", endpoint("texts"), needs="predict"),
        Route("/classify_images", "POST", endpoint("images"), needs="predict"),
    ]


async def call(
    predictor: Predictor, model: str, key: Key, values: list[str], *, is_gone: Callable[[], bool] = lambda: False
) -> Answer:
    """Classify texts, or images in base64. The list is emptied, so that a call that waits does not hold its body.

    Raises:
        ConvokeError: as `Predictor.predict`.
    """
    version = predictor.resolve(model)
    spec = version.manifest.input
    if key == spec.json_key:
        encoded = await body.run(partial(items.from_strings, values, spec), sum(map(len, values)))
    else:
        encoded = [UnsupportedMediaType(f"model {version.name!r} takes {spec.json_key}, not {key}")] * len(values)
    values.clear()
    return await predictor.predict(version, encoded, is_gone=is_gone)


async def _read(request: Request, key: Key, settings: Settings) -> tuple[str, list[str]]:
    """The name of the model and the list of a call.

    Raises:
        UnsupportedMediaType: the content is not JSON, which BentoML assumes if there is no Content-Type.
        ConvokeError: as `body.read` and `limited.loads`; or the JSON does not have the form of the call.
    """
    kind = media.parse(request.headers.get("content-type", "application/json").encode("latin-1"))
    if kind.kind != "json":
        raise UnsupportedMediaType(f"unsupported Content-Type {kind.type[:60]!r}; expected application/json")
    form = f'{{"model": "...", "{key}": ["...", ...]}}'
    data = charset.to_utf8(await body.read(request, settings), kind.charset)
    content = await body.run(partial(limited.loads, data, settings, form=form), len(data))
    values = items.check_list(content, key, form, beside=["model"])
    if not isinstance(content.get("model"), str):
        raise InvalidRequest(f"model is not a string; expected {form}")
    return content["model"], values
