"""GET /openapi.json and GET /docs: every route, for machines and for people."""

import json

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


def routes(settings: Settings) -> list[Route]:
    """The routes of this front end; both answers are made once, when the service starts."""
    content = openapi.document(settings)
    document, page = json.dumps(content).encode(), openapi.page(content)

    async def machines(_request: Request) -> Response:
        return Response(document, media_type="application/json")

    async def people(_request: Request) -> Response:
        return HTMLResponse(page, headers=_HEADERS)

    return [Route("/openapi.json", machines, methods=["GET"]), Route("/docs", people, methods=["GET"])]
