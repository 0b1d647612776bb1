"""GET /openapi.json and GET /docs: every route, for machines and for people."""

import json
from collections.abc import Sequence

from starlette.requests import Request
from starlette.responses import HTMLResponse, Response

from service.http.route import Route
from service.routes import openapi
from service.settings import Settings

_HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'; base-uri 'none'; form-action 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
}


def routes(others: Sequence[Route], settings: Settings) -> list[Route]:
    """The routes of this front end, which describe the others and themselves; both responses are made once."""

    async def document(_request: Request) -> Response:
        return Response(as_json, media_type="application/json")

    async def page(_request: Request) -> Response:
        return HTMLResponse(as_html, headers=_HEADERS)

    own = [Route("/openapi.json", "GET", document, needs=None), Route("/docs", "GET", page, needs=None)]
    content = openapi.document([*others, *own], settings)
    as_json, as_html = json.dumps(content).encode(), openapi.page(content)
    return own
