"""POST /classify/{model}: one image or text as the body, or any number as multipart parts or in JSON."""

import re
import time
from collections.abc import Mapping, Sequence

from starlette.requests import Request
from starlette.responses import Response

from contract.errors import ConvokeError
from service.errors import InvalidRequest
from service.http import body, items
from service.http.route import Route
from service.inference.predictor import Answer, Item, Predictor
from service.routes.answer import render
from service.settings import Settings
from service.telemetry.facts import of

TOP = "[1-9][0-9]{0,8}"
SEVERAL = "true|false"
MIN_SCORE = r"0(\.[0-9]{1,9})?|1(\.0{1,9})?"


def routes(predictor: Predictor, settings: Settings) -> list[Route]:
    """The routes of this front end."""

    async def classify(request: Request) -> Response:
        facts, started = of(request.scope), time.perf_counter()
        query = request.query_params if request.scope["query_string"] else {}
        top, min_score = _options(query)
        several = _option(query, "several", SEVERAL, "true or false") == "true"
        version = predictor.resolve(request.path_params["model"])
        encoded, in_body = await items.read(request, version.manifest.input, settings)
        if in_body:
            top, min_score = _options(_merge(query, in_body))
        read_s = time.perf_counter() - started
        boxes: Sequence[Sequence[int]] = ()
        if several:
            answer, boxes = await predictor.predict_all(version, _only(encoded), is_gone=body.gone(request))
        else:
            answer = await predictor.predict(version, encoded, is_gone=body.gone(request))
        facts.model, facts.version, facts.items = version.name, version.number, len(answer.rows)
        _raise_if_alone(answer)
        facts.timings_s = {"read": read_s + answer.decode_s, "queue": answer.queue_s, "infer": answer.infer_s}
        content = render(answer, top=top, min_score=min_score, boxes=boxes)
        return Response(content, media_type="application/json")

    return [Route("/classify/{model}", "POST", classify, needs="predict", query=(*items.OPTIONS, "several"))]


def _options(sent: Mapping[str, str]) -> tuple[int | None, float]:
    """How many labels get a score, or None for all; and the score below which a prediction abstains.

    Raises:
        InvalidRequest: an option has an invalid value.
    """
    top = _option(sent, "top", TOP, "a whole number from 1 to 999999999")
    min_score = _option(sent, "min_score", MIN_SCORE, "a probability from 0 to 1, like 0.9")
    return int(top) if top else None, float(min_score or 0)


def _merge(query: Mapping[str, str], in_body: Mapping[str, str]) -> Mapping[str, str]:
    """The options of the query and those of the body.

    Raises:
        InvalidRequest: both have the same one.
    """
    twice = sorted(query.keys() & in_body.keys())
    if twice:
        raise InvalidRequest(f"{twice[0]} is both in the query and in the body; send it once")
    return {**query, **in_body}


def _only(encoded: list[Item]) -> Item:
    """The only item of a request.

    Raises:
        InvalidRequest: it has several.
    """
    if len(encoded) > 1:
        raise InvalidRequest(f"several=true takes one image, and the body has {len(encoded)}; send each on its own")
    return encoded[0]


def _option(sent: Mapping[str, str], name: str, pattern: str, expected: str) -> str | None:
    text = sent.get(name)
    if text is not None and not re.fullmatch(pattern, text):
        raise InvalidRequest(f"{name}={text[:20]!r}: expected {expected}")
    return text


def _raise_if_alone(answer: Answer) -> None:
    """The error of the only item is the error of the request."""
    if len(answer.rows) == 1 and isinstance(answer.rows[0], ConvokeError):
        raise answer.rows[0]
