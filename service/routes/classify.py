"""POST /classify/{model}: one image or text as the body, or any number as multipart parts or in JSON."""

import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

from starlette.datastructures import QueryParams
from starlette.requests import Request
from starlette.responses import Response

from contract.errors import ConvokeError
from service.errors import InvalidRequest
from service.http import body, items
from service.http.route import Content, Header, IsGone, OnContent, Route, Start
from service.inference.decoding import Item
from service.inference.feedback import Feedback
from service.inference.predictor import Answer, AnswerOrError, Predictor
from service.routes.answer import render
from service.settings import Settings
from service.telemetry.facts import RequestFacts, of

TOP = "[1-9][0-9]{0,8}"
SEVERAL = "true|false"
_QUERY = (*items.OPTIONS, "several")
MIN_SCORE = r"0(\.[0-9]{1,9})?|1(\.0{1,9})?"


def routes(predictor: Predictor, settings: Settings, feedback: Feedback | None = None) -> list[Route]:
    """The routes of this front end; `feedback` remembers what they answer."""

    async def classify(request: Request) -> Response:
        facts, started = of(request.scope), time.perf_counter()
        options = Options.of(request.scope["query_string"])
        version = predictor.resolve(request.path_params["model"])
        predictor.check_capacity(version)
        encoded, in_body = await items.read(request, version.manifest.input, settings)
        if in_body:
            options = Options.of(request.scope["query_string"], in_body)
        read_s = time.perf_counter() - started
        boxes: Sequence[Sequence[int]] = ()
        sent = [] if feedback is None or options.several else [*encoded]
        if options.several:
            answer, boxes = await predictor.predict_all(version, _only(encoded), is_gone=body.gone(request))
        else:
            answer = await predictor.predict(version, encoded, is_gone=body.gone(request))
        if feedback is not None and sent:
            feedback.remember(facts.id, sent, answer)
        return _content(facts, answer, options, read_s, boxes).response()

    def prepare(header: Header) -> Start | None:
        from_query, model = Options.of(header.query), header.parameters["model"]
        content_type = header.get(b"content-type") or b""
        if from_query.several:
            return None

        def start(facts: RequestFacts, content: bytes, on_content: OnContent, is_gone: IsGone) -> None:
            started = time.perf_counter()
            version = predictor.resolve(model)
            encoded, in_body = items.split(content, content_type, version.manifest.input, settings)
            options = Options.of(header.query, in_body) if in_body else from_query
            sent = encoded if feedback is None else [*encoded]  # the predictor empties the list
            read_s = time.perf_counter() - started

            def on_answer(answer: AnswerOrError) -> None:
                if feedback is not None and isinstance(answer, Answer):
                    feedback.remember(facts.id, sent, answer)
                on_content(lambda: _content(facts, answer, options, read_s))

            predictor.start(version, encoded, on_answer, is_gone=is_gone)

        return start

    return [Route("/classify/{model}", "POST", classify, needs="predict", query=_QUERY, prepare=prepare)]


@dataclass(frozen=True)
class Options:
    """The options of a request."""

    top: int | None
    """How many labels get a score; None for all."""
    min_score: float
    """The score below which a prediction abstains."""
    several: bool
    """Whether each digit of an image gets a prediction."""

    @classmethod
    def of(cls, query: bytes, in_body: Mapping[str, str] = MappingProxyType({})) -> "Options":
        """The options in the query and in the body of a request.

        Raises:
            InvalidRequest: an option has an invalid value, or is in both.
        """
        if not query and not in_body:
            return _DEFAULTS
        in_query = QueryParams(query)
        twice = sorted(in_query.keys() & in_body.keys())
        if twice:
            raise InvalidRequest(f"{twice[0]} is both in the query and in the body; send it once")
        sent = {**in_query, **in_body}
        top = _option(sent, "top", TOP, "a whole number from 1 to 999999999")
        min_score = _option(sent, "min_score", MIN_SCORE, "a probability from 0 to 1, like 0.9")
        several = _option(sent, "several", SEVERAL, "true or false")
        return cls(int(top) if top else None, float(min_score or 0), several == "true")


_DEFAULTS = Options(None, 0.0, several=False)


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


def _content(
    facts: RequestFacts,
    answer: AnswerOrError,
    options: Options,
    read_s: float,
    boxes: Sequence[Sequence[int]] = (),
) -> Content:
    """The content of a response; the facts of the request are completed.

    Raises:
        ConvokeError: the error of the request or of its only item.
    """
    if isinstance(answer, Exception):
        raise answer
    facts.model, facts.version, facts.items = answer.version.name, answer.version.number, len(answer.rows)
    _raise_if_alone(answer)
    facts.timings_s = {"read": read_s + answer.decode_s, "queue": answer.queue_s, "infer": answer.infer_s}
    return Content(render(answer, top=options.top, min_score=options.min_score, boxes=boxes))


def _raise_if_alone(answer: Answer) -> None:
    """The error of the only item is the error of the request."""
    if len(answer.rows) == 1 and isinstance(answer.rows[0], ConvokeError):
        raise answer.rows[0]
