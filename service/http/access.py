"""Who may call which route: API keys of clients, and origins of pages.

Without a file of keys every route is open, except load and unload, which need a key of the role `manage`. A route that
needs no key keeps its own endpoint, so its requests pass no check.
"""

from collections.abc import Iterable, Sequence
from dataclasses import replace

from starlette.middleware.cors import CORSMiddleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp

from service.errors import Forbidden, Unauthorized
from service.http.keys import VARIABLE, Keys
from service.http.route import Header, IsGone, Need, OnContent, Route, Start
from service.settings import Settings
from service.telemetry.facts import RequestFacts

_REQUEST_HEADERS = [
    "Authorization", "Baggage", "Content-Encoding", "Content-Type", "Inference-Header-Content-Length", "Traceparent",
    "Tracestate", "X-API-Key", "X-Request-ID", "X-Requested-With",
]  # fmt: skip
_RESPONSE_HEADERS = [
    "Inference-Header-Content-Length", "Retry-After", "Server-Timing", "WWW-Authenticate", "X-Request-ID",
]  # fmt: skip


def protect(routes: Sequence[Route], settings: Settings) -> list[Route]:
    """The routes; those that need a key check it before they call their endpoint.

    Raises:
        SettingsError: the file of keys cannot be read.
    """
    keys = None if settings.api_keys_file is None else Keys(settings.api_keys_file)
    return [_guarded(route, keys) if is_locked(route, settings) else route for route in routes]


def is_locked(route: Route, settings: Settings) -> bool:
    """Whether a route checks keys with these settings."""
    public = settings.public.split(",")
    if route.needs is None or (route.needs == "look" and "predict" in public):
        return False
    return route.needs == "manage" or (settings.api_keys_file is not None and route.needs not in public)


def _guarded(route: Route, keys: Keys | None) -> Route:
    async def endpoint(request: Request) -> Response:
        check(request.scope["headers"], route.needs, keys)
        return await route.endpoint(request)

    def prepare(header: Header) -> Start | None:
        unchecked = route.prepare(header) if route.prepare else None
        if unchecked is None:
            return None

        def start(facts: RequestFacts, body: bytes, on_content: OnContent, is_gone: IsGone) -> None:
            check(header.fields, route.needs, keys)  # for each request, since keys may be removed
            unchecked(facts, body, on_content, is_gone)

        return start

    return replace(route, endpoint=endpoint, prepare=prepare if route.prepare else None)


def check(fields: Iterable[tuple[bytes, bytes]], needed: Need, keys: Keys | None) -> None:
    """Check the key in the header fields of a request.

    Raises:
        Unauthorized: the request has no key, or an unknown one.
        Forbidden: the key has another role, or no key of the role `manage` exists.
    """
    known = () if keys is None else keys.current()
    if needed == "manage" and not any(key.role == "manage" for key in known):
        raise Forbidden(
            f"load and unload need a key of the role 'manage', and none exists; set {VARIABLE} and make a key with "
            "`python -m service.keys NAME manage`"
        )
    token = _token(fields)
    if token is None:
        raise Unauthorized("missing API key; send it as 'Authorization: Bearer KEY' or as 'X-API-Key: KEY'")
    key = None if keys is None else keys.find(token)
    if key is None:
        raise Unauthorized("unknown API key")
    if key.role not in ({"predict", "manage"} if needed == "look" else {needed}):
        raise Forbidden(f"the role {key.role!r} of the key {key.name!r} does not open this route")


def _token(fields: Iterable[tuple[bytes, bytes]]) -> str | None:
    """The API key in the header fields of a request."""
    values = {name: value.decode("latin-1") for name, value in fields}
    scheme, _, token = values.get(b"authorization", "").partition(" ")
    if scheme.lower() == "bearer" and token.strip():
        return token.strip()
    return values.get(b"x-api-key", "").strip() or None


def cross_origin(app: ASGIApp, settings: Settings) -> ASGIApp:
    """The application, open to pages of the origins in the settings; unchanged if the settings name no origin."""
    if not settings.cors_origins:
        return app
    return CORSMiddleware(
        app,
        allow_origins=settings.cors_origins.split(","),
        allow_methods=["GET", "POST", "DELETE"],
        allow_headers=_REQUEST_HEADERS,
        expose_headers=_RESPONSE_HEADERS,
    )
