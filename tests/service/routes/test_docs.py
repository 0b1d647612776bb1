"""The OpenAPI document and the page made of it."""

import re
from collections.abc import Iterable, Sequence
from typing import Any

import pytest
from openapi_spec_validator import OpenAPIV31SpecValidator
from starlette.types import ASGIApp

from service.http.asgi import Application
from service.http.route import Route
from service.routes import docs, openapi
from service.settings import Settings
from tests.drawing import encode, mnist_like
from tests.serving import Call, application, client


@pytest.fixture(scope="module")
def call() -> Call:
    return client()


@pytest.fixture(scope="module")
def document(call: Call) -> dict[str, Any]:
    found: dict[str, Any] = call("GET", "/openapi.json").json()
    return found


def test_the_document_is_valid(document: dict[str, Any]) -> None:
    """It is OpenAPI 3.1, by the specification's own schema."""
    assert document["openapi"].startswith("3.1.")
    OpenAPIV31SpecValidator(document).validate()


def test_every_route_is_described_and_nothing_else(document: dict[str, Any]) -> None:
    """The table of operations and the document have every path that a route or BentoML answers, and its method."""
    routes = routes_of(application(load=False))
    assert differences(openapi.operations(Settings()), routes) == set()
    assert differences(document["paths"], routes) == set()
    for route in routes:
        assert list(document["paths"][route.path]) == [route.method.lower()]


@pytest.mark.parametrize("path", ["/playground", "/classify/{model}", "/livez"])
def test_a_stale_or_missing_path_is_noticed(path: str) -> None:
    """The comparison above reports a path without a route, and a route without a path."""
    changed = set(openapi.operations(Settings())) ^ {path}
    assert differences(changed, routes_of(application(load=False))) == {path}


def differences(paths: Iterable[str], routes: Sequence[Route]) -> set[str]:
    """Paths that are among these or among those of the routes and of BentoML, but not among both."""
    return {*paths} ^ {"/livez", "/readyz", *(route.path for route in routes)}


def routes_of(app: ASGIApp) -> tuple[Route, ...]:
    """The routes of an application."""
    assert isinstance(app, Application)
    return app.routes


def test_the_page_shows_every_route_and_loads_nothing(call: Call, document: dict[str, Any]) -> None:
    """One HTML file, readable without a network: no script, no style, font or picture from anywhere."""
    response = call("GET", "/docs")
    assert response.headers["Content-Type"].startswith("text/html")
    assert "default-src 'none'" in response.headers["Content-Security-Policy"]
    for path in document["paths"]:
        assert f"<code>{path}</code>" in response.text
    assert not re.search(r"<script|<link|<img|@import|url\(|//", response.text)


def test_what_people_write_cannot_become_markup() -> None:
    """Names and descriptions are escaped."""
    content = openapi.document(routes_of(application(load=False)), Settings())
    content["info"]["title"] = "<script>alert(1)</script>"
    assert "<script" not in docs.render(content)


def test_an_unsure_answer_abstains(call: Call) -> None:
    """Below ?min_score= the label is null and the guess stands beside it; scores stay."""
    path, picture = "/classify/digits", encode(mnist_like(4))
    (sure,) = call("POST", path, content=picture).json()["predictions"]
    (same,) = call("POST", f"{path}?min_score=0", content=picture).json()["predictions"]
    assert same == sure
    (unsure,) = call("POST", f"{path}?min_score=1", content=picture).json()["predictions"]
    assert sure["score"] < 1
    assert unsure == {**sure, "label": None, "guess": "4"}


@pytest.mark.parametrize("text", ["", "2", "-1", "nan", "0.5x", "1e-3", "1.5"])
def test_a_wrong_bound_is_refused(call: Call, text: str) -> None:
    """?min_score= takes a plain number from 0 to 1."""
    response = call("POST", f"/classify/digits?min_score={text}", content=encode(mnist_like(4)))
    assert response.status_code == 400
    assert "min_score" in response.json()["error"]["message"]
