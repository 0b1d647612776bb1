"""POST /explain/{model}: which pixels or words carry the label of one image or text."""

import json
import time

from starlette.requests import Request
from starlette.responses import Response

from service.errors import InvalidRequest
from service.http import accept, body, items
from service.http.route import Route
from service.inference.explain import Explainer, Explanation
from service.inference.predictor import Predictor
from service.settings import Settings
from service.telemetry.facts import of

_JSON, _PNG = "application/json", "image/png"
_VARY = {"Vary": "Accept"}


def routes(predictor: Predictor, explainer: Explainer, settings: Settings) -> list[Route]:
    """The routes of this front end."""

    async def explain(request: Request) -> Response:
        facts, started = of(request.scope), time.perf_counter()
        version = predictor.resolve(request.path_params["model"])
        spec = version.manifest.input
        media_type = accept.choose(request, [_JSON] if spec.is_text else [_JSON, _PNG])
        label = request.query_params.get("label")
        encoded, in_body = await items.read(request, spec, settings)
        if len(encoded) != 1 or in_body:
            raise InvalidRequest(f"the body has {len(encoded)} items and the options {sorted(in_body)}; send one item")
        read_s = time.perf_counter() - started
        explanation = await explainer.explain(version, encoded[0], label, is_gone=body.gone(request))
        facts.model, facts.version, facts.items = version.name, version.number, 1
        facts.timings_s = {"read": read_s + explanation.decode_s, "infer": explanation.infer_s}
        content = render(explanation) if media_type == _JSON else explanation.occlusions.overlay(explanation.weights)
        assert content is not None, "images have an overlay"
        return Response(content, media_type=media_type, headers=_VARY)

    return [Route("/explain/{model}", "POST", explain, needs="predict", query=("label",))]


def render(explanation: Explanation) -> bytes:
    """The body of a response in JSON."""
    labels, row = explanation.version.manifest.labels, explanation.row
    content = {
        "model": explanation.version.name,
        "version": explanation.version.number,
        "prediction": labels[int(row.argmax())],
        "label": explanation.label,
        "score": round(explanation.score, 6),
        "method": "occlusion",
        "runs": explanation.runs,
        **explanation.occlusions.report(explanation.weights),
    }
    return json.dumps(content, separators=(",", ":"), ensure_ascii=False).encode()
