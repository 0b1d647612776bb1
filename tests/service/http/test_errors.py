"""The form of errors: the message alone below /v2, code and message elsewhere, whatever is wrong with a request."""

import asyncio
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest
from starlette.requests import Request
from starlette.responses import Response

from service.errors import InvalidRequest
from service.http.asgi import Application
from service.http.route import Route, code_and_message, message_alone
from service.telemetry.metrics import Metrics
from tests.serving import Call, client, code, make_keys


def plain(response: httpx.Response) -> int:
    """The status of an error in the form of the Open Inference Protocol."""
    content = response.json()
    assert list(content) == ["error"]
    assert isinstance(content["error"], str)
    return response.status_code


def structured(response: httpx.Response) -> int:
    """The status of an error in the form of all other routes."""
    return code(response)[0]


@pytest.fixture(scope="module")
def call() -> Call:
    """An application without keys."""
    return client(load=False)


@pytest.mark.parametrize(
    ("path", "status_in_form"),
    [
        *(
            (path, plain)
            for path in ("/v2/health", "/v2/nothing", "http://test//v2/nothing/", "/v2/models/digits/config")
        ),
        *(
            (path, structured)
            for path in ("/nothing", "/models/digits/v2", "/v20", "/V2", "http://test//nothing", "/classify/")
        ),
    ],
)
def test_an_unknown_path_has_the_form_of_its_first_segment(
    call: Call, path: str, status_in_form: Callable[[httpx.Response], int]
) -> None:
    """A 404 below /v2 has the protocol's form, and any other 404 has code and message."""
    for method in ("GET", "POST", "DELETE"):
        assert status_in_form(call(method, path)) == 404


@pytest.mark.parametrize(
    ("path", "status_in_form"),
    [
        ("/v2", plain),
        ("/v2/health/live", plain),
        ("/v2/models/digits/infer", plain),
        ("/v2/repository/index", plain),
        ("/classify/digits", structured),
        ("/models", structured),
        ("/metrics", structured),
    ],
)
def test_a_method_that_is_not_allowed(call: Call, path: str, status_in_form: Callable[[httpx.Response], int]) -> None:
    """A 405 names the allowed methods, in the form of the route that has the path."""
    response = call("DELETE", path)
    assert status_in_form(response) == 405
    assert response.headers["Allow"] in {"GET, HEAD", "POST"}


@pytest.mark.parametrize(
    ("method", "path", "status_in_form"),
    [
        ("GET", "/v2/models/digits", plain),
        ("POST", "/v2/models/digits/infer", plain),
        ("POST", "/v2/repository/models/digits/load", plain),
        ("GET", "/models", structured),
        ("POST", "/classify/digits", structured),
        ("POST", "/classify_texts", structured),
        ("GET", "/metrics", structured),
    ],
)
def test_a_refused_key(tmp_path: Path, method: str, path: str, status_in_form: Callable[[httpx.Response], int]) -> None:
    """A 401 for a missing and for an unknown key, and a 403 for one of another role, in the form of the route."""
    other = make_keys(tmp_path / "keys", "manage", "predict" if path == "/metrics" else "metrics")[-1]
    call = client(load=False, api_keys_file=tmp_path / "keys", public="none")
    assert status_in_form(call(method, path)) == 401
    assert status_in_form(call(method, path, headers={"X-API-Key": "guess"})) == 401
    assert status_in_form(call(method, path, headers={"X-API-Key": other})) == 403


@pytest.mark.parametrize(("error_form", "status_in_form"), [(message_alone, plain), (code_and_message, structured)])
def test_a_failing_endpoint_has_the_form_of_its_route(
    error_form: Callable[..., object], status_in_form: Callable[[httpx.Response], int]
) -> None:
    """An expected error is a 400 with its message, and an unexpected error a 500 without its reason."""

    async def endpoint(request: Request) -> Response:
        if request.headers.get("x-ours"):
            raise InvalidRequest("a reason")
        raise RuntimeError("a secret")

    app = Application([Route("/any/path", "GET", endpoint, None, error_form)], Metrics())

    async def get(headers: dict[str, str]) -> httpx.Response:
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test") as session:
            return await session.get("/any/path", headers=headers)

    ours, unexpected = asyncio.run(get({"X-Ours": "1"})), asyncio.run(get({}))
    assert (status_in_form(ours), status_in_form(unexpected)) == (400, 500)
    assert "a reason" in ours.text
    assert "a secret" not in unexpected.text
