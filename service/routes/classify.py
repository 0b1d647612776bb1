"""POST /classify/{model}: one image or text as the body, or any number as multipart parts or in JSON."""

import re
import time

from starlette.requests import Request
from starlette.responses import Response

from contract.errors import ConvokeError
from service.errors import InvalidRequest
from service.http import body, items
from service.http.route import Route
from service.inference.predictor import Answer, Predictor
from service.routes.answer import render
from service.settings import Settings
from service.telemetry.facts import of

TOP = "[1-9][0-9]{0,8}"
MIN_SCORE = r"0(\.[0-9]{1,9})?|1(\.0{1,9})?"


def routes(predictor: Predictor, settings: Settings) -> list[Route]:
    """The routes of this front end."""

    async def classify(request: Request) -> Response:
        facts, started = of(request.scope), time.perf_counter()
        top = _option(request, "top", TOP, "a whole number from 1 to 999999999")
        min_score = _option(request, "min_score", MIN_SCORE, "a probability from 0 to 1, like 0.9")
        version = predictor.resolve(request.path_params["model"])
        encoded = await items.read(request, version.manifest.input, settings)
        read_s = time.perf_counter() - started
        answer = await predictor.predict(version, encoded, is_gone=body.gone(request))
        facts.model, facts.version, facts.items = version.name, version.number, len(answer.rows)
        _raise_if_alone(answer)
        facts.timings_s = {"read": read_s + answer.decode_s, "queue": answer.queue_s, "infer": answer.infer_s}
        content = render(answer, top=int(top) if top else None, min_score=float(min_score or 0))
        return Response(content, media_type="application/json")

    return [Route("/classify/{model}", "POST", classify, needs="predict")]


def _option(request: Request, name: str, pattern: str, expected: str) -> str | None:
    """An option in the query of a request."""
    text = request.query_params.get(name) if request.scope["query_string"] else None
    if text is not None and not re.fullmatch(pattern, text):
        raise InvalidRequest(f"{name}={text[:20]!r}: expected {expected}")
    return text


def _raise_if_alone(answer: Answer) -> None:
    """The error of the only item is the error of the request."""
    if len(answer.rows) == 1 and isinstance(answer.rows[0], ConvokeError):
        raise answer.rows[0]
