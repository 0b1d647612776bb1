"""POST /explain/{model}: which pixels or words carry the label of one image or text."""

import json
import time
from functools import partial

from starlette.requests import Request
from starlette.responses import Response

from contract.cam import activation_map
from contract.occlusion import draw_grid, report_grid
from contract.twin import Inspection
from service.errors import InvalidRequest
from service.http import accept, body, items
from service.http.route import Route
from service.inference.decoding import Item
from service.inference.explain import Explainer, Explanation, place_of
from service.inference.inspect import Inspected, Inspector
from service.inference.predictor import Predictor
from service.inference.version import Version
from service.settings import Settings
from service.telemetry.facts import of

OCCLUSION, CAM = "occlusion", "cam"

_JSON, _PNG = "application/json", "image/png"
_VARY = {"Vary": "Accept"}


def routes(predictor: Predictor, explainer: Explainer, inspector: Inspector, settings: Settings) -> list[Route]:
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
        if request.query_params.get("method", OCCLUSION) != OCCLUSION:
            found = await _activation_map(request, version, encoded[0], label, media_type)
            facts.model, facts.version, facts.items = version.name, version.number, 1
            facts.timings_s = {"read": read_s + found.decode_s, "infer": found.infer_s}
            return Response(found.content, media_type=media_type, headers=_VARY)
        explanation = await explainer.explain(version, encoded[0], label, is_gone=body.gone(request))
        facts.model, facts.version, facts.items = version.name, version.number, 1
        facts.timings_s = {"read": read_s + explanation.decode_s, "infer": explanation.infer_s}
        content = render(explanation) if media_type == _JSON else explanation.occlusions.overlay(explanation.weights)
        assert content is not None, "images have an overlay"
        return Response(content, media_type=media_type, headers=_VARY)

    async def _activation_map(
        request: Request, version: Version, item: Item, label: str | None, media_type: str
    ) -> Inspected:
        method = request.query_params["method"]
        if method != CAM:
            raise InvalidRequest(f"method={method[:40]!r}: expected {OCCLUSION} or {CAM}")
        target = None if label is None else place_of(version, label)
        show = partial(_show_activation_map, version, target, media_type)
        return await inspector.inspect(version, item, show, is_gone=body.gone(request))

    return [Route("/explain/{model}", "POST", explain, needs="predict", query=("label", "method"))]


def _show_activation_map(
    version: Version, target: int | None, media_type: str, found: Inspection, _units: list[str]
) -> bytes:
    """The body of a response with a class activation map.

    Raises:
        InvalidRequest: the network does not have one.
    """
    best = int(found.row.argmax())
    target = best if target is None else target
    grid = activation_map(found, target)
    if grid is None:
        raise InvalidRequest(
            f"{version.name} does not end in global average pooling and dense layers, so it has no class activation "
            f"map; leave out method, or send method={OCCLUSION}"
        )
    if media_type == _PNG:
        return draw_grid(found.item, grid)
    labels = version.manifest.labels
    content = {
        "model": version.name,
        "version": version.number,
        "prediction": labels[best],
        "label": labels[target],
        "score": round(float(found.row[target]), 6),
        "method": CAM,
        "runs": 1,
        **report_grid(found.item, grid),
    }
    return json.dumps(content, separators=(",", ":"), ensure_ascii=False).encode()


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
        **explanation.report(),
    }
    return json.dumps(content, separators=(",", ":"), ensure_ascii=False).encode()
