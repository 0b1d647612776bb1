"""POST /inspect/{model}: what each layer of the served version makes of one image or text."""

import json
import re
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, get_args

from starlette.datastructures import QueryParams
from starlette.requests import Request
from starlette.responses import Response

from contract import inspection
from contract.anatomy import Layer
from contract.inspection import Show
from contract.twin import Inspection
from service.errors import InvalidRequest
from service.http import accept, body, items
from service.http.route import Route
from service.inference.inspect import Inspector
from service.inference.predictor import Predictor
from service.inference.version import Version
from service.settings import Settings
from service.telemetry.facts import of

SHOW = "|".join(get_args(Show))
CELL = r"[0-9]{1,7}(,[0-9]{1,7}){0,3}"

_JSON, _PNG = "application/json", "image/png"
_VARY = {"Vary": "Accept"}
_SHOWN_LAYERS = 40


def routes(predictor: Predictor, inspector: Inspector, settings: Settings) -> list[Route]:
    """The routes of this front end."""

    async def inspect(request: Request) -> Response:
        facts, started = of(request.scope), time.perf_counter()
        asked = Asked.of(request.query_params)
        media_type = accept.choose(request, [_JSON] if asked.layer is None or asked.cell else [_JSON, _PNG])
        version = predictor.resolve(request.path_params["model"])
        encoded, in_body = await items.read(request, version.manifest.input, settings)
        if len(encoded) != 1 or in_body:
            raise InvalidRequest(f"the body has {len(encoded)} items and the options {sorted(in_body)}; send one item")
        read_s = time.perf_counter() - started

        def show(found: Inspection, units: list[str]) -> bytes:
            return asked.content(version, found, units, media_type)

        done = await inspector.inspect(version, encoded[0], show, is_gone=body.gone(request))
        facts.model, facts.version, facts.items = version.name, version.number, 1
        facts.timings_s = {"read": read_s + done.decode_s, "infer": done.infer_s}
        return Response(done.content, media_type=media_type, headers=_VARY)

    return [Route("/inspect/{model}", "POST", inspect, needs="predict", query=("layer", "show", "cell"))]


@dataclass(frozen=True)
class Asked:
    """The options of a request: all layers, or one of them, its filters or a cell of it."""

    layer: str | None
    show: Show
    cell: tuple[int, ...]

    @classmethod
    def of(cls, query: QueryParams) -> "Asked":
        """The options in a query.

        Raises:
            InvalidRequest: an option has another form, or needs `layer`.
        """
        layer, show, cell = query.get("layer"), query.get("show", "maps"), query.get("cell", "")
        if not re.fullmatch(SHOW, show):
            raise InvalidRequest(f"show={show[:40]!r}: expected {' or '.join(get_args(Show))}")
        if cell and not re.fullmatch(CELL, cell):
            raise InvalidRequest(f"cell={cell[:40]!r}: expected numbers from 0, like 3,10,12 for map, row and column")
        if layer is None and (cell or "show" in query):
            raise InvalidRequest("cell and show need the name of a layer: add layer=NAME")
        return cls(layer, "filters" if show == "filters" else "maps", tuple(map(int, cell.split(","))) if cell else ())

    def content(self, version: Version, found: Inspection, units: list[str], media_type: str) -> bytes:
        """The body of the response.

        Raises:
            InvalidRequest: the network has no such layer, or the layer no such cell or no filters.
        """
        try:
            if media_type == _PNG:
                return inspection.sheet(found, self._layer(found), self.show)
            return _render(version, self._report(found, units))
        except ValueError as error:
            raise InvalidRequest(str(error)) from error

    def _report(self, found: Inspection, units: list[str]) -> Mapping[str, Any]:
        if self.layer is None:
            return inspection.report(found, units)
        if self.cell:
            return inspection.cell(found, self._layer(found), self.cell, units)
        return inspection.listed(found, self._layer(found), units)

    def _layer(self, found: Inspection) -> Layer:
        assert self.layer is not None, "a PNG shows a layer"
        layer = found.layer(self.layer)
        if layer is None:
            names = ", ".join(each.name for each in found.layers[:_SHOWN_LAYERS])
            raise InvalidRequest(f"unknown layer {self.layer[:60]!r}; the layers are {names}")
        return layer


def _render(version: Version, content: Mapping[str, Any]) -> bytes:
    head = {"model": version.name, "version": version.number, "precision": "float32"}
    return json.dumps({**head, **content}, separators=(",", ":"), ensure_ascii=False).encode()
