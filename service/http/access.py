"""Who may call which route: the keys of callers, and the origins of pages.

Without a file of keys every route is open but those of management, which stay shut until a key of their role is made.
Nothing of this is on the way of a request that needs no key.
"""

from collections.abc import Sequence
from typing import Literal

from starlette.middleware.cors import CORSMiddleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp

from service.errors import Forbidden, Unauthorized
from service.http.keys import VARIABLE, Key, Keys, Role
from service.http.route import Route
from service.settings import Settings

Need = Role | Literal["look"] | None
"""What a route asks for: a role, any role but that of metrics (`look`), or nothing."""

_OPEN = {"/livez", "/readyz", "/v2", "/v2/health/live", "/v2/health/ready", "/openapi.json", "/docs"}
_LOOKS = {"/models", "/models/{model}", "/v2/repository/index"}
_HEADERS = ["Authorization", "Content-Encoding", "Content-Type", "Inference-Header-Content-Length", "X-API-Key"]
_SHOWN = ["Inference-Header-Content-Length", "Retry-After", "Server-Timing", "WWW-Authenticate", "X-Request-ID"]


def need(path: str) -> Need:
    """What the route of a pattern asks for, where there is a file of keys; `predict` where it is not known here."""
    if path in _OPEN:
        return None
    if path == "/metrics":
        return "metrics"
    if path.startswith("/v2/repository/") and path.endswith(("/load", "/unload")):
        return "manage"
    if path in _LOOKS or (path.startswith("/v2/models/") and not path.endswith("/infer")):
        return "look"
    return "predict"


def protect(routes: Sequence[Route], settings: Settings) -> list[Route]:
    """The routes, those that need a key behind a check of it.

    Raises:
        SettingsError: the file of keys cannot be read.
    """
    keys = None if settings.api_keys_file is None else Keys(settings.api_keys_file)
    return [_guarded(route, need(route.path), keys) if is_locked(route.path, settings) else route for route in routes]


def is_locked(path: str, settings: Settings) -> bool:
    """Whether the route of a pattern asks for a key with these settings."""
    needed, public = need(path), settings.public.split(",")
    if needed is None or (needed == "look" and "predict" in public):
        return False
    return needed == "manage" or (settings.api_keys_file is not None and needed not in public)


def _guarded(route: Route, needed: Need, keys: Keys | None) -> Route:
    async def admitted(request: Request) -> Response:
        check(request, needed, keys)
        return await route.endpoint(request)

    return route.with_endpoint(admitted)


def check(request: Request, needed: Need, keys: Keys | None) -> None:
    """Let a request through.

    Raises:
        Unauthorized: it shows no key, or one that is not known.
        Forbidden: its key is of another role, or there is no key of that role at all.
    """
    known = () if keys is None else keys.current()
    if needed == "manage" and not any(key.role == "manage" for key in known):
        raise Forbidden(
            f"loading and unloading is switched off: there is no key of the role 'manage' in the file that {VARIABLE} "
            "names; make one with `python -m service.keys NAME manage`"
        )
    token = _token(request)
    if token is None:
        raise Unauthorized("this route needs a key: send it as 'Authorization: Bearer KEY' or as 'X-API-Key: KEY'")
    key = None if keys is None else keys.find(token)
    if key is None:
        raise Unauthorized("the key is not known here")
    if not _opens(key, needed):
        raise Forbidden(f"the key {key.name!r} has the role {key.role!r}, which does not open this route")


def _opens(key: Key, needed: Need) -> bool:
    return key.role in {"predict", "manage"} if needed == "look" else key.role == needed


def _token(request: Request) -> str | None:
    """The key that a request shows."""
    scheme, _, token = request.headers.get("authorization", "").partition(" ")
    if scheme.lower() == "bearer" and token.strip():
        return token.strip()
    return request.headers.get("x-api-key") or None


def cross_origin(app: ASGIApp, settings: Settings) -> ASGIApp:
    """The application, open to pages of the origins that the settings name; as it is where they name none."""
    if not settings.cors_origins:
        return app
    return CORSMiddleware(
        app,
        allow_origins=settings.cors_origins.split(","),
        allow_methods=["GET", "POST"],
        allow_headers=_HEADERS,
        expose_headers=_SHOWN,
    )
