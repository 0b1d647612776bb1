"""The OpenAPI document and its page."""

import re
from collections.abc import Iterable, Sequence
from typing import Any

import pytest
from openapi_spec_validator import OpenAPIV31SpecValidator
from starlette.types import ASGIApp

from service.http.asgi import Application
from service.http.route import Route
from service.routes import docs, openapi
from service.routes.operations import operations
from service.settings import Settings
from tests.serving import Call, application, client


@pytest.fixture(scope="module")
def call() -> Call:
    return client()


@pytest.fixture(scope="module")
def document(call: Call) -> dict[str, Any]:
    content: dict[str, Any] = call("GET", "/openapi.json").json()
    return content


def test_the_document_is_valid(document: dict[str, Any]) -> None:
    """The document matches the schema of the OpenAPI 3.1 specification."""
    assert document["openapi"].startswith("3.1.")
    OpenAPIV31SpecValidator(document).validate()


def test_every_route_is_described_and_nothing_else(document: dict[str, Any]) -> None:
    """The table of operations and the document have every path that a route or BentoML answers, and its method."""
    routes = routes_of(application(load=False))
    assert differences(operations(Settings()), routes) == set()
    assert differences(document["paths"], routes) == set()
    for route in routes:
        methods = {other.method.lower() for other in routes if other.path == route.path}
        assert {*document["paths"][route.path]} == methods


@pytest.mark.parametrize("path", ["/playground", "/classify/{model}", "/livez"])
def test_a_stale_or_missing_path_is_noticed(path: str) -> None:
    """The comparison above reports a path without a route, and a route without a path."""
    changed = set(operations(Settings())) ^ {path}
    assert differences(changed, routes_of(application(load=False))) == {path}


def differences(paths: Iterable[str], routes: Sequence[Route]) -> set[str]:
    """Paths that are either among these or among those of the routes and of BentoML, but not both."""
    return {*paths} ^ {"/livez", "/readyz", *(route.path for route in routes)}


def routes_of(app: ASGIApp) -> tuple[Route, ...]:
    """The routes of an application."""
    assert isinstance(app, Application)
    return app.routes


def test_the_page_shows_every_route_and_loads_nothing_from_elsewhere(call: Call, document: dict[str, Any]) -> None:
    """Without scripts it is a list of all routes; what it loads is the service's own, with its type and an ETag."""
    response = call("GET", "/docs")
    assert response.headers["Content-Type"].startswith("text/html")
    assert "default-src 'none'" in response.headers["Content-Security-Policy"]
    for path in document["paths"]:
        assert f"<code>{path}</code>" in response.text
    loaded = re.findall(r'(?:src|href)="(/docs/[^"]+)"', response.text)
    assert len(loaded) == 4
    for path in loaded:
        file = call("GET", path)
        assert file.headers["Content-Type"].split(";")[0] == ("text/css" if path.endswith("css") else "text/javascript")
        assert call("GET", path, headers={"if-none-match": file.headers["etag"]}).status_code == 304
    assert not re.search(r"<script>|<style|<img|@import|url\(|://| on\w+=| style=", response.text)
    assert call("GET", "/docs/../page.py").status_code == call("GET", "/docs/nothing.js").status_code == 404


def test_text_cannot_become_markup() -> None:
    """Text of the document is escaped in the page."""
    content = openapi.document(routes_of(application(load=False)), Settings())
    content["info"]["title"] = "<script>alert(1)</script>"
    assert "<script>" not in docs.render(content)
