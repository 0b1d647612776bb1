"""GET /: the page for browsers, the index for other clients, and what the page is made of."""

import re

import pytest

from service.routes.page import FOLDER, MEDIA_TYPES
from tests.serving import Call, client, code

BROWSER = "text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,image/webp,*/*;q=0.8"
MAX_BYTES = 150_000


@pytest.fixture(scope="module")
def call() -> Call:
    return client()


@pytest.mark.parametrize("accept", ["*/*", "application/json", "text/html;q=0.5, application/json", "image/png", ""])
def test_other_clients_get_an_index(call: Call, accept: str) -> None:
    """The index names the routes; each of them exists."""
    response = call("GET", "/", headers={"Accept": accept})
    assert response.headers["content-type"] == "application/json"
    assert response.headers["vary"] == "Accept"
    index = response.json()
    for path in (index["models"], index["openapi"], index["docs"], index["protocol"]):
        assert call("GET", path).status_code == 200
    document = call("GET", "/openapi.json").json()["paths"]
    assert {index["classify"], index["explain"], index["models"]} < set(document)


def test_browsers_get_a_page_under_a_strict_policy(call: Call) -> None:
    """The page and its files load nothing from elsewhere, run no inline code, and are cached by their content."""
    page = call("GET", "/", headers={"Accept": BROWSER})
    assert page.headers["content-type"] == "text/html; charset=utf-8"
    policy = page.headers["content-security-policy"]
    assert "unsafe" not in policy
    assert policy.startswith("default-src 'none'; script-src 'self'; style-src 'self';")
    files = {*re.findall(r'(?:href|src)="page/([^"#]+)', page.text)}
    assert {"app.js", "style.css", "icon.svg"} == files
    assert not re.search(r"<script(?![^>]*src=)|<style|\sstyle=|\son[a-z]+=|javascript:", page.text)
    for path in FOLDER.iterdir():
        response = call("GET", f"/page/{path.name}")
        assert response.content == path.read_bytes()
        assert response.headers["content-type"].startswith(MEDIA_TYPES[path.suffix])
        assert response.headers["x-content-type-options"] == "nosniff"
        again = call("GET", f"/page/{path.name}", headers={"If-None-Match": response.headers["etag"]})
        assert (again.status_code, again.content) == (304, b"")
        addresses = set(re.findall(r"https?://[^\"'`\s)]+", path.read_text(encoding="utf-8")))
        assert addresses <= {"http://www.w3.org/2000/svg"}


def test_the_page_is_small_and_every_import_exists() -> None:
    """All files together, and the modules that they import."""
    files = [*FOLDER.iterdir()]
    assert sum(path.stat().st_size for path in files) < MAX_BYTES
    for path in files:
        assert path.suffix in MEDIA_TYPES
        for module in re.findall(r'from "\./([a-z]+\.js)"', path.read_text(encoding="utf-8")):
            assert (FOLDER / module).is_file()


def test_the_page_can_be_switched_off() -> None:
    """With CONVOKE_PAGE=false browsers get the index, and the files do not exist."""
    call = client(page=False)
    response = call("GET", "/", headers={"Accept": BROWSER})
    assert response.headers["content-type"] == "application/json"
    assert "page" not in response.json()
    assert code(call("GET", "/page/app.js")) == (404, "not_found")
    assert code(client()("GET", "/page/nothing.js")) == (404, "not_found")
