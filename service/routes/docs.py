"""GET /openapi.json and GET /docs: every route, for machines and for people."""

import json
from collections.abc import Mapping, Sequence
from html import escape

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

    own = [
        Route("/openapi.json", "GET", document, needs=None, query=None),
        Route("/docs", "GET", page, needs=None, query=None),
    ]
    content = openapi.document([*others, *own], settings)
    as_json, as_html = json.dumps(content).encode(), render(content)
    return own


def render(document: openapi.Json) -> str:
    """An OpenAPI document as a page of HTML that loads nothing: every route, what it takes and what it answers."""
    info = {name: escape(document["info"][name]) for name in ("title", "version", "summary", "description")}
    routes = "".join(
        _render_operation(method.upper(), path, operation)
        for path, operations in document["paths"].items()
        for method, operation in operations.items()
    )
    return _PAGE.format(**info, routes=routes)


def _render_operation(method: str, path: str, operation: openapi.Json) -> str:
    parameters = {parameter["name"]: parameter["description"] for parameter in operation["parameters"]}
    bodies = operation.get("requestBody", {}).get("content", {})
    takes = {content_type: body["x-means"] for content_type, body in bodies.items()}
    answers = {status: response["description"] for status, response in operation["responses"].items()}
    lists = _render_list("Parameters", parameters) + _render_list("Takes", takes) + _render_list("Answers", answers)
    description = f"<p>{escape(operation['description'])}</p>" if "description" in operation else ""
    return (
        f"<details><summary><b>{method}</b> <code>{escape(path)}</code> "
        f"<span>{escape(operation['summary'])}</span></summary>{description}{lists}</details>"
    )


def _render_list(title: str, entries: Mapping[str, str]) -> str:
    items = "".join(f"<li><code>{escape(name)}</code> {escape(text)}</li>" for name, text in entries.items())
    return f"<h3>{title}</h3><ul>{items}</ul>" if items else ""


_PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title} {version}</title>
<style>
:root {{ color-scheme: light dark; --line: #8884; --quiet: #888; }}
body {{ font: 16px/1.5 system-ui, sans-serif; max-width: 56rem; margin: 2rem auto; padding: 0 1rem; }}
h1 {{ margin-bottom: 0; }} h3 {{ font-size: 0.9rem; margin: 0.8rem 0 0.2rem; }}
ul {{ margin: 0; padding-left: 1.2rem; }}
summary {{ cursor: pointer; padding: 0.5rem 0; }} summary span {{ color: var(--quiet); }}
summary b {{ display: inline-block; min-width: 3.2rem; }}
details {{ border-top: 1px solid var(--line); }} details[open] {{ padding-bottom: 1rem; }}
code {{ font-size: 0.9em; overflow-wrap: anywhere; }}
</style>
</head>
<body>
<h1>{title}</h1>
<p>{summary} Version {version}; the same for machines: <a href="/openapi.json">/openapi.json</a>.</p>
<p>{description}</p>
{routes}
</body>
</html>
"""
