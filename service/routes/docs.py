"""GET /openapi.json and GET /docs: every route, for machines and for people.

The page is a list of all routes, in which Swagger UI takes its place where scripts run: it groups the routes and tries
them, with a file picker and the curl command. BentoML has its files (`service/server/swagger.py`); ours are `docs.js`
and `docs.css` in `service/page/`.
"""

import json
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path

from starlette.requests import Request
from starlette.responses import HTMLResponse, Response

from service.errors import RouteNotFound
from service.http.route import Route
from service.routes import openapi
from service.routes.operations import Json
from service.routes.page import FOLDER, MEDIA_TYPES, SECURITY, Asset
from service.settings import Settings

_OWN = ("docs.css", "docs.js")
SWAGGER = ("swagger-ui.css", "swagger-ui-bundle.js")


def routes(others: Sequence[Route], settings: Settings, swagger: Path | None = None) -> list[Route]:
    """The routes of this front end, which describe the others and themselves.

    Args:
        others: the other routes.
        settings: of the service.
        swagger: the folder with the files of Swagger UI; None if there is none, and the page stays a list.
    """
    folders = dict.fromkeys(_OWN, FOLDER) | (dict.fromkeys(SWAGGER, swagger) if swagger else {})
    assets: dict[str, Asset] = {}  # read when they are first requested: most services never show the page

    async def document(_request: Request) -> Response:
        return Response(as_json, media_type="application/json")

    async def page(_request: Request) -> Response:
        return HTMLResponse(as_html, headers=SECURITY)

    async def file(request: Request) -> Response:
        name = request.path_params["file"]
        if name not in folders:
            raise RouteNotFound(f"GET /docs/{name[:100]}: not a file of the page; the page is at GET /docs")
        if name not in assets:
            path = folders[name] / name
            assets[name] = Asset(path.read_bytes(), MEDIA_TYPES[path.suffix])
        return assets[name].response(request, {})

    own = [
        Route("/openapi.json", "GET", document, needs=None, query=None),
        Route("/docs", "GET", page, needs=None, query=None),
        Route("/docs/{file}", "GET", file, needs=None, query=None),
    ]
    content = openapi.document([*others, *own], settings)
    as_json, as_html = json.dumps(content).encode(), render(content)
    return own


def render(document: Json) -> str:
    """An OpenAPI document as a page of HTML: every route, what it takes and what it answers, in groups."""
    info = {name: escape(document["info"][name]) for name in ("title", "version", "summary", "description")}
    groups: dict[str, str] = {tag["name"]: "" for tag in document["tags"]}
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            groups[operation["tags"][0]] += _render_operation(method.upper(), path, operation)
    routes = "".join(
        f"<h2>{escape(tag['name'])}</h2><p>{escape(tag['description'])}</p>{groups[tag['name']]}"
        for tag in document["tags"]
    )
    return _PAGE.format(**info, routes=routes)


def _render_operation(method: str, path: str, operation: Json) -> str:
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
<link rel="icon" href="data:,">
<link rel="stylesheet" href="/docs/swagger-ui.css">
<link rel="stylesheet" href="/docs/docs.css">
<script src="/docs/swagger-ui-bundle.js" defer></script>
<script src="/docs/docs.js" defer></script>
</head>
<body>
<main>
<header>
<h1>{title}</h1>
<p>{summary} Version {version}; the same for machines: <a href="/openapi.json">/openapi.json</a>.</p>
<p>{description}</p>
</header>
<div id="routes">
{routes}
</div>
</main>
</body>
</html>
"""
