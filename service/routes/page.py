"""GET /: for a browser a page that tries the models, for other clients a short index in JSON.

The page (`service/page/`) uses the public HTTP interface only. Its files are read when the service starts.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

from starlette.requests import Request
from starlette.responses import Response

from service import __version__
from service.errors import RouteNotFound
from service.http import accept
from service.http.route import Route
from service.settings import Settings

FOLDER = Path(__file__).resolve().parent.parent / "page"
MEDIA_TYPES = {".html": "text/html", ".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml"}

_INDEX = "index.html"
_JSON, _HTML = "application/json", "text/html"
SECURITY = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; connect-src 'self'; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cache-Control": "no-cache",
}


@dataclass(frozen=True)
class Asset:
    """A file of the page."""

    content: bytes
    media_type: str

    def response(self, request: Request, headers: Mapping[str, str]) -> Response:
        """The file, or 304 if the client has it already."""
        tag = f'"{sha256(self.content).hexdigest()[:32]}"'
        headers = {**SECURITY, "ETag": tag, **headers}
        if tag in request.headers.get("if-none-match", ""):
            return Response(status_code=304, headers=headers)
        return Response(self.content, media_type=self.media_type, headers=headers)


def routes(settings: Settings) -> list[Route]:
    """The routes of this front end; without the page only the index."""
    assets = _read_assets() if settings.page else {}
    index = json.dumps(_describe(has_page=settings.page, keeps_feedback=settings.feedback_dir is not None)).encode()
    vary = {"Vary": "Accept"}

    async def root(request: Request) -> Response:
        header = ",".join(request.headers.getlist("accept"))
        if settings.page and accept.quality(header, _HTML) > accept.quality(header, _JSON):
            return assets[_INDEX].response(request, vary)
        return Response(index, media_type=_JSON, headers=vary)

    async def file(request: Request) -> Response:
        name = request.path_params["file"]
        if name not in assets:
            raise RouteNotFound(f"GET /page/{name[:100]}: not a file of the page; the page is at GET /")
        return assets[name].response(request, {})

    own = [Route("/", "GET", root, needs=None, query=None)]
    if settings.page:
        own.append(Route("/page/{file}", "GET", file, needs=None, query=None))
    return own


def _describe(*, has_page: bool, keeps_feedback: bool) -> dict[str, str]:
    """The index for clients that are not browsers."""
    index = {
        "name": "convoke",
        "version": __version__,
        "models": "/models",
        "classify": "/classify/{model}",
        "explain": "/explain/{model}",
        "inspect": "/inspect/{model}",
        "protocol": "/v2",
        "openapi": "/openapi.json",
        "docs": "/docs",
    }
    if keeps_feedback:
        index["feedback"] = "/feedback/{request_id}"
    return {**index, "page": "/ with Accept: text/html"} if has_page else index


def _read_assets() -> dict[str, Asset]:
    files = (path for path in sorted(FOLDER.iterdir()) if path.suffix in MEDIA_TYPES)
    return {path.name: Asset(path.read_bytes(), MEDIA_TYPES[path.suffix]) for path in files}
