"""The guide's configuration of nginx, run in front of the service."""

import re
import shutil
import ssl
import subprocess
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.serving import ROOT, Server, free_port

GUIDE = (ROOT / "docs/operations.md").read_text(encoding="utf-8")


@pytest.fixture
def proxy(server: Server, tmp_path: Path) -> Iterator[str]:
    """The address of an nginx with the guide's configuration, a certificate of its own and another rate."""
    nginx = shutil.which("nginx", path="/usr/sbin:/usr/bin:/usr/local/bin")
    if nginx is None or shutil.which("openssl") is None:
        pytest.skip("nginx or openssl is not installed")
    certificate = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=localhost", "-days", "1"]
    certificate += ["-keyout", "tls.key", "-out", "tls.crt"]
    subprocess.run(certificate, cwd=tmp_path, check=True, capture_output=True)
    block = re.search(r"```nginx\n(.*?)```", GUIDE, re.DOTALL)
    assert block is not None
    port = free_port()
    text = block[1]
    for old, new in (
        ("127.0.0.1:3000", f"127.0.0.1:{server.port}"), ("listen 8443", f"listen 127.0.0.1:{port}"),
        ("/etc/nginx/tls", f"{tmp_path}/tls"), ("rate=50r/s", "rate=1r/s"), ("burst=100", "burst=5"),
    ):  # fmt: skip
        assert old in text
        text = text.replace(old, new)
    kinds = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    paths = "".join(f"{kind}_temp_path {tmp_path}/{kind};" for kind in kinds)
    (tmp_path / "nginx.conf").write_text(
        f"daemon off; pid {tmp_path}/pid; error_log {tmp_path}/error.log; events {{}}\n"
        f"http {{ access_log off; {paths}\n{text}\n}}\n"
    )
    process = subprocess.Popen([nginx, "-c", str(tmp_path / "nginx.conf"), "-e", str(tmp_path / "error.log")])
    url = f"https://127.0.0.1:{port}"
    server.wait(lambda: _answers(url), 20)
    yield url
    process.terminate()
    process.wait()


def _answers(url: str) -> bool:
    return httpx.get(f"{url}/livez", verify=_context()).status_code == 200


def _context() -> ssl.SSLContext:
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    return context


def test_nginx_adds_tls_and_a_rate_limit(proxy: str) -> None:
    """Requests pass over TLS; a client above its rate is refused with 429, another key of the same address is not."""
    seven = (ROOT / "examples/seven.png").read_bytes()
    with httpx.Client(base_url=proxy, verify=_context(), timeout=30) as session:
        answers = [session.post("/classify/digits", content=seven, headers={"Authorization": "a"}) for _ in range(10)]
        assert answers[0].json()["predictions"][0]["label"] == "7"
        assert {answer.status_code for answer in answers} == {200, 429}
        other = session.post("/classify/digits", content=seven, headers={"Authorization": "b"})
        assert other.status_code == 200
