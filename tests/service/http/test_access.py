"""Who may call which route: API keys, roles, and origins of pages."""

import asyncio
import hmac
import os
import subprocess
import sys
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from types import SimpleNamespace

import httpx
import pytest
from starlette.responses import PlainTextResponse
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from service.http import access, keys
from service.http.route import Need, Route
from service.routes import oip
from service.server import takeover
from service.server.draining import Drain
from service.settings import Settings, SettingsError
from tests.drawing import encode, mnist_like
from tests.service.routes.test_docs import routes_of
from tests.serving import ROOT, Call, Server, application, client, code, make_keys

DIGIT = encode(mnist_like(7))
LOAD = "/v2/repository/models/nothing/load"
UNLOAD = "/v2/repository/models/nothing/unload"
NEEDS: dict[str, Need] = {
    "/classify/{model}": "predict",
    "/classify_images": "predict",
    "/classify_texts": "predict",
    "/explain/{model}": "predict",
    "/feedback/{request_id}": "predict",
    "/inspect/{model}": "predict",
    "/models": "look",
    "/models/{model}": "look",
    "/models/{model}/drift": "look",
    "/v2": None,
    "/v2/health/live": None,
    "/v2/health/ready": None,
    "/v2/models": "look",
    "/v2/models/{model}": "look",
    "/v2/models/{model}/infer": "predict",
    "/v2/models/{model}/ready": "look",
    "/v2/models/{model}/versions/{version}": "look",
    "/v2/models/{model}/versions/{version}/infer": "predict",
    "/v2/models/{model}/versions/{version}/ready": "look",
    "/v2/repository/index": "look",
    "/v2/repository/models/{model}/load": "manage",
    "/v2/repository/models/{model}/unload": "manage",
    "/metrics": "metrics",
    "/": None,
    "/page/{file}": None,
    "/docs": None,
    "/docs/{file}": None,
    "/openapi.json": None,
}


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "keys"


def bearer(key: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"}


@lru_cache
def all_routes() -> tuple[Route, ...]:
    return routes_of(application(load=False))


def statuses(call: Call, need: Need, headers: dict[str, str]) -> set[int]:
    """The statuses of one request to each route with a need: 401, 403, or 0 for any other status."""
    model = "nothing" if need == "manage" else "digits"
    responses = (
        call(route.method, route.path.format(model=model, version=1, file="app.js", request_id="x"), headers=headers)
        for route in all_routes()
        if route.needs == need
    )
    return {response.status_code if response.status_code in {401, 403} else 0 for response in responses}


@pytest.mark.parametrize("public", ["metrics", "predict", "predict,metrics", "none"])
@pytest.mark.parametrize("role", [None, *keys.ROLES])
def test_each_role_opens_its_routes_and_no_others(file: Path, public: str, role: keys.Role | None) -> None:
    """Every role is tried on every route, for each value of `public`; health and documentation are always open."""
    tokens = dict(zip(keys.ROLES, make_keys(file, *keys.ROLES), strict=True))
    call = client(load=False, api_keys_file=file, public=public)
    headers = bearer(tokens[role]) if role else {}
    open_to_all = {*public.split(","), None, *(["look"] if "predict" in public else [])}
    opened_by_role = {role, *(["look"] if role in {"predict", "manage"} else [])}
    for need in {*NEEDS.values()}:
        expected = 0 if need in open_to_all | opened_by_role else 403 if role else 401
        assert statuses(call, need, headers) == {expected}, (need, role, public)


def test_without_a_file_only_management_is_closed() -> None:
    """No route needs a key, except load and unload, which are refused with a message that says how to make a key."""
    call = client()
    for need in {*NEEDS.values()} - {"manage"}:
        assert statuses(call, need, {}) == {0}
    for headers in ({}, bearer("guess")):
        response = call("POST", UNLOAD, json={}, headers=headers)
        assert response.status_code == 403
        assert "python -m service.keys NAME manage" in response.json()["error"]
    assert call("GET", "/v2/models/digits/ready").status_code == 200


def test_management_is_closed_until_a_key_of_its_role_exists(file: Path) -> None:
    """Load and unload need a key with the role `manage`, which can be added and removed while the service runs."""
    (token,) = make_keys(file, "predict")
    call = client(api_keys_file=file)
    assert call("POST", LOAD, json={}, headers=bearer(token)).status_code == 403
    content = file.read_text()
    manage = keys.add(file, "later", "manage")
    assert call("POST", LOAD, json={}, headers=bearer(manage)).status_code == 404
    assert call("POST", LOAD, json={}).status_code == 401
    file.write_text(content)
    assert call("POST", LOAD, json={}, headers=bearer(manage)).status_code == 403


def test_a_key_is_read_from_both_headers(file: Path) -> None:
    """`Authorization: Bearer` in upper or lower case, or `X-API-Key`, also next to another scheme for a proxy."""
    (token,) = make_keys(file, "predict")
    call = client(api_keys_file=file)
    for headers in (
        bearer(token),
        {"authorization": f"bearer  {token}"},
        {"X-API-Key": token},
        {"Authorization": "Basic eDp5", "X-API-Key": token},
    ):
        assert call("POST", "/classify/digits", content=DIGIT, headers=headers).status_code == 200


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"Authorization": "Bearer"},
        {"Authorization": "Bearer "},
        {"X-API-Key": ""},
        {"X-API-Key": "guess"},
        {"Authorization": "Bearer caf\u00e9".encode("latin-1")},
        {"Authorization": b"Bearer \xff\xfe"},
        {"Authorization": "Basic eDp5"},
        {"Authorization": "Bearer " + "x" * 50_000},
    ],
)
def test_an_invalid_key_is_answered_401(file: Path, headers: dict[str, str]) -> None:
    """A missing, unknown or malformed key is answered 401 with WWW-Authenticate, before the body is read."""
    make_keys(file, "predict")
    response = client(load=False, api_keys_file=file)("POST", "/classify/digits", content=DIGIT, headers=headers)
    assert code(response) == (401, "unauthorized")
    assert response.headers["WWW-Authenticate"] == 'Bearer realm="convoke"'
    assert response.headers["X-Request-ID"]


def test_the_hash_is_not_a_key(file: Path) -> None:
    """The content of the file opens no route."""
    (token,) = make_keys(file, "predict")
    assert token not in file.read_text()
    name, role, digest = file.read_text().splitlines()[-1].split()
    call = client(load=False, api_keys_file=file)
    for guess in (digest, f"{name} {role} {digest}", name):
        assert call("POST", "/classify/digits", content=DIGIT, headers=bearer(guess)).status_code == 401


def test_every_key_is_compared_in_full(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first key, the last key and an unknown key take the same number of comparisons."""
    tokens = [keys.add(file, f"key-{number}", "predict") for number in range(5)]
    stored, comparisons = keys.Keys(file), 0
    original = hmac.compare_digest

    def compare(left: bytes, right: bytes) -> bool:
        nonlocal comparisons
        comparisons += 1
        assert len(left) == len(right) == 32
        return original(left, right)

    monkeypatch.setattr(hmac, "compare_digest", compare)
    for token, name in ((tokens[0], "key-0"), (tokens[4], "key-4"), ("guess", None)):
        comparisons = 0
        key = stored.find(token)
        assert (key.name if key else None) == name
        assert comparisons == 5


def test_a_damaged_file_leaves_the_keys_as_they_were(file: Path, caplog: pytest.LogCaptureFixture) -> None:
    """If the file is damaged or missing, the keys stay valid; the log reports each change once, without the line."""
    (token,) = make_keys(file, "predict")
    content = file.read_text()
    stored = keys.Keys(file)
    for damage in (lambda: file.write_text("someone predict convoke_secret\n"), file.unlink):
        damage()
        for _ in range(3):
            assert stored.find(token)
    assert sum("stay valid" in record.getMessage() for record in caplog.records) == 2
    assert "convoke_secret" not in caplog.text
    file.write_text(content + "# more\n")
    assert stored.find(token)
    file.write_text("")
    assert stored.find(token) is None


@pytest.mark.parametrize(
    "text",
    ["alone", "name predict", f"name root {'0' * 64}", f"name predict {'0' * 63}", f"name predict {'G' * 64}", "\0"],
)
def test_an_invalid_file_stops_the_start(file: Path, text: str) -> None:
    """A service whose file of keys cannot be read does not start."""
    file.write_text(f"# comment\n\n{text}\n")
    with pytest.raises(SettingsError, match=r"CONVOKE_API_KEYS_FILE=.*: line 3"):
        client(load=False, api_keys_file=file)
    with pytest.raises(SettingsError, match=r"CONVOKE_API_KEYS_FILE=.*none"):
        client(load=False, api_keys_file=file.with_name("none"))


def test_the_command_makes_a_key_that_works(file: Path) -> None:
    """`python -m service.keys` prints a key, writes its hash into a private file, and refuses a name that exists."""

    def make(*args: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "service.keys", *args]
        environment = {**os.environ, "CONVOKE_API_KEYS_FILE": str(file)}
        return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)

    token = make("shop", "predict").stdout.strip()
    assert len(token) > 50
    assert file.stat().st_mode & 0o777 == 0o600
    assert client(api_keys_file=file)("POST", "/classify/digits", content=DIGIT, headers=bearer(token)).is_success
    again = make("shop", "manage")
    assert (again.returncode, again.stdout) == (1, "")
    assert "already" in again.stderr
    assert make("two words", "predict").returncode == 1
    assert make("other", "root").returncode == 2
    assert len(keys.read(file)) == 1


def test_no_key_is_ever_logged(start_server: Callable[..., Server], file: Path) -> None:
    """On a started server keys open their routes, BentoML's calls included; the log and the metrics hold no key."""
    predict, manage = make_keys(file, "predict", "manage")
    server = start_server(CONVOKE_API_KEYS_FILE=str(file), CONVOKE_PUBLIC="none")
    server.wait_until_ready()
    texts = {"model": "digits", "texts": ["seven"]}

    def status(path: str, key: str | None, **kwargs: object) -> int:
        headers = bearer(key) if key else {}
        return httpx.post(server.url + path, headers=headers, **kwargs).status_code  # type: ignore[arg-type]

    for path, kwargs in (("/classify/digits", {"content": DIGIT}), ("/classify_texts", {"json": texts})):
        statuses = [status(path, key, **kwargs) for key in (None, "wrong-guess", manage, predict)]
        assert statuses == [401, 401, 403, 200]
    assert [status(LOAD, key, json={}) for key in (None, "wrong-guess", predict, manage)] == [401, 401, 403, 404]
    assert httpx.get(f"{server.url}/metrics").status_code == 401
    assert httpx.get(f"{server.url}/livez").status_code == httpx.get(f"{server.url}/readyz").status_code == 200
    metrics = make_keys(file, "metrics")[0]
    text = httpx.get(f"{server.url}/metrics", headers=bearer(metrics)).text
    for secret in (predict, manage, metrics, "wrong-guess"):
        assert secret not in server.log
        assert secret not in text
    assert server.stop() == 0


def test_a_route_that_needs_no_key_keeps_its_endpoint() -> None:
    """Without a file of keys only the routes of management get a check in front of their endpoint."""
    routes = oip.routes(None, None, Settings())  # type: ignore[arg-type]
    protected = access.protect(routes, Settings())
    assert {route.path for route in protected if route not in routes} == {
        route.path for route in routes if route.needs == "manage"
    }


def test_every_route_says_what_it_needs() -> None:
    """The needs of the routes are those of the table above, with none missing, and no route can leave its need out."""
    assert {route.path: route.needs for route in all_routes()} == NEEDS
    with pytest.raises(TypeError, match="needs"):
        Route("/brand-new", "GET", None)  # type: ignore[call-arg, arg-type]


def test_the_document_says_which_operations_need_a_key(file: Path) -> None:
    """Operations that need a key name both headers, 401 and 403; without a file of keys these are load and unload."""
    make_keys(file, "predict")

    def locked(**settings: object) -> set[str]:
        paths = client(load=False, **settings)("GET", "/openapi.json").json()["paths"]
        secured = {path for path, methods in paths.items() for operation in methods.values() if "security" in operation}
        for path in secured:
            for operation in paths[path].values():
                assert {"401", "403"} <= set(operation["responses"])
                assert {name for scheme in operation["security"] for name in scheme} == {"bearer", "header"}
        return secured

    assert locked() == {path.replace("nothing", "{model}") for path in (LOAD, UNLOAD)}
    assert {"/classify/{model}", "/models", "/classify_texts"} < locked(api_keys_file=file)
    assert "/metrics" not in locked(api_keys_file=file)


def test_other_origins_are_refused_by_default() -> None:
    """No response names an origin, and a preflight request is answered 405."""
    call = client(load=False)
    headers = {"Origin": "https://shop.example", "Access-Control-Request-Method": "POST"}
    preflight = call("OPTIONS", "/classify/digits", headers=headers)
    assert preflight.status_code == 405
    for response in (preflight, call("GET", "/v2", headers=headers)):
        assert not [name for name in response.headers if name.startswith("access-control")]


def test_named_origins_are_allowed() -> None:
    """Preflight requests and other requests of the named origins are allowed, and those of other origins are not."""
    call = client(cors_origins="https://shop.example,http://localhost:5173")
    preflight = {"Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "x-api-key,content-type"}
    for origin, status in (
        ("https://shop.example", 200),
        ("http://localhost:5173", 200),
        ("https://evil.example", 400),
    ):
        response = call("OPTIONS", "/classify/digits", headers={"Origin": origin, **preflight})
        assert response.status_code == status
        answer = call("POST", "/classify/digits", content=DIGIT, headers={"Origin": origin})
        allowed = answer.headers.get("Access-Control-Allow-Origin")
        assert allowed == (origin if status == 200 else None)
        assert "Access-Control-Allow-Credentials" not in answer.headers


@pytest.mark.parametrize("name", ["x-request-id", "traceparent", "tracestate", "baggage", "x-requested-with"])
def test_pages_may_send_the_headers_of_their_libraries(name: str) -> None:
    """A preflight request for the headers of tracing, request ids and AJAX libraries is allowed."""
    headers = {
        "Origin": "https://shop.example",
        "Access-Control-Request-Method": "POST",
        "Access-Control-Request-Headers": name,
    }
    assert client(cors_origins="*", load=False)("OPTIONS", "/classify/digits", headers=headers).status_code == 200


def test_origins_may_be_written_as_people_write_them() -> None:
    """Blanks around an origin and a slash at its end are dropped."""
    origins = Settings(cors_origins=" https://a.example/ ,  http://b.example:81 ").cors_origins
    assert origins == "https://a.example,http://b.example:81"


def test_health_is_open_to_the_origins() -> None:
    """What BentoML answers has the headers of CORS, too."""

    class Lifespan:
        config = SimpleNamespace(http_protocol_class=HttpToolsProtocol, loaded_app=PlainTextResponse("alive"))

        async def receive(self) -> dict[str, str]:
            return {}

    lifespan = Lifespan()

    async def get() -> httpx.Response:
        settings = Settings(cors_origins="https://shop.example")
        takeover.take_over(lifespan.receive, PlainTextResponse("ours"), settings, Drain())
        transport = httpx.ASGITransport(app=lifespan.config.loaded_app)
        async with httpx.AsyncClient(transport=transport, base_url="http://x") as session:
            return await session.get("/livez", headers={"Origin": "https://shop.example"})

    response = asyncio.run(get())
    assert (response.text, response.headers["Access-Control-Allow-Origin"]) == ("alive", "https://shop.example")


@pytest.mark.parametrize(
    "text", ["shop.example", "https://shop.example/x", "https://a.example,", "null", "*,https://a"]
)
def test_origins_are_checked(text: str) -> None:
    """An origin is a scheme, a host and an optional port; other values are refused."""
    with pytest.raises(ValueError, match="cors_origins"):
        Settings(cors_origins=text)
    assert Settings(cors_origins="*").cors_origins == "*"


def test_the_page_has_restrictive_headers() -> None:
    """/docs loads nothing from elsewhere, runs no inline code, cannot be framed, and sends no referrer."""
    headers = client(load=False)("GET", "/docs").headers
    policy = dict(part.split(" ", 1) for part in headers["Content-Security-Policy"].split("; "))
    assert policy["default-src"] == policy["frame-ancestors"] == policy["base-uri"] == policy["form-action"] == "'none'"
    assert policy["script-src"] == policy["style-src"] == policy["connect-src"] == "'self'"
    assert headers["X-Content-Type-Options"] == "nosniff"
    assert headers["Referrer-Policy"] == "no-referrer"
    assert headers["X-Frame-Options"] == "DENY"


@pytest.mark.parametrize("form", ["{}  ", "{}\t", "  {}"])
def test_blanks_around_a_key_are_not_part_of_it(file: Path, form: str) -> None:
    """In X-API-Key as in Authorization; blanks alone are no key."""
    (token,) = make_keys(file, "predict")
    call = client(load=False, api_keys_file=file)
    for name, scheme in (("X-API-Key", ""), ("Authorization", "Bearer ")):
        headers = {name: scheme + form.format(token)}
        assert call("POST", "/classify/digits", content=DIGIT, headers=headers).status_code != 401, name
        assert (
            call("POST", "/classify/digits", content=DIGIT, headers={name: scheme + form.format("")}).status_code == 401
        )


def test_a_byte_order_mark_in_the_file_is_ignored(file: Path) -> None:
    """The first line is read, whether it is a comment or a key; a line can be added."""
    (token,) = make_keys(file, "predict")
    text = file.read_text()
    for content in (text, text.splitlines()[-1] + "\n"):
        file.write_text(content, encoding="utf-8-sig")
        assert keys.Keys(file).find(token)
    added = keys.add(file, "another", "predict")
    assert keys.Keys(file).find(token)
    assert keys.Keys(file).find(added)
