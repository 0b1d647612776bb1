"""Nothing is unpickled or fetched, no name leads out of models/, and no route exists by accident."""

import ast
import base64
import http.client
import importlib.util
import json
import pickle
import re
import socket
import subprocess
import sys
import threading
import zipfile
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

import httpx
import numpy as np
import pytest

from service.server.takeover import BENTOML_PATHS
from tests.drawing import encode, mnist_like
from tests.service.routes.test_docs import routes_of
from tests.serving import ROOT, Server, application, client, make_keys

DIGIT = encode(mnist_like(7))
CODE = [path for folder in ("service", "training") for path in sorted((ROOT / folder).rglob("*.py"))]
UNSAFE_MODULES = {
    "pickle",
    "cPickle",
    "dill",
    "cloudpickle",
    "joblib",
    "marshal",
    "shelve",
    "jsonpickle",
    "yaml",
    "imp",
}
UNSAFE_CALLS = {"eval", "exec", "compile", "__import__", "os.system", "os.popen"}


def calls(tree: ast.AST) -> Iterator[tuple[str, dict[str, object]]]:
    """The calls of a module: the name of the function, and the keyword arguments that are constants."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            constants = {
                keyword.arg: keyword.value.value for keyword in node.keywords if isinstance(keyword.value, ast.Constant)
            }
            yield ast.unparse(node.func), {name or "": value for name, value in constants.items()}


def imports(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.module or ""


def unsafe(code: str) -> list[str]:
    """The imports and calls of a module that can execute data."""
    tree = ast.parse(code)
    names = [name for name in imports(tree) if name.split(".")[0] in UNSAFE_MODULES]
    for name, arguments in calls(tree):
        if (
            name in UNSAFE_CALLS
            or (name == "torch.load" and arguments.get("weights_only") is not True)
            or (name in {"np.load", "numpy.load"} and arguments.get("allow_pickle") is not False)
            or arguments.get("shell") is True
        ):
            names.append(name)
    return names


@pytest.mark.parametrize("path", CODE, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_module_executes_data(path: Path) -> None:
    """No module uses pickle or the like, `eval` or a shell; checkpoints are loaded with `weights_only`."""
    assert unsafe(path.read_text(encoding="utf-8")) == []


@pytest.mark.parametrize(
    "code",
    [
        "import pickle", "from cloudpickle import loads", "eval(text)", "torch.load(path)", "np.load(path)",
        "torch.load(path, weights_only=False)", "np.load(path, allow_pickle=True)", "run('x', shell=True)",
    ],
)  # fmt: skip
def test_unsafe_code_is_recognised(code: str) -> None:
    """The search above recognises each of these."""
    assert unsafe(code)


def test_models_contain_no_pickle() -> None:
    """Published files are ONNX, JSON, text, and arrays that load without pickle."""
    files = [path for path in (ROOT / "models").rglob("*") if path.is_file()]
    assert files
    graphs = {"model.onnx", "model.int8.onnx", "model.float16.onnx"}
    others = {"manifest.json", "card.md", "golden.npz", "reference.json", "tokenizer.json", ".test-uses.jsonl"}
    for path in files:
        assert path.name in graphs | others, path
        if path.suffix == ".npz":
            with np.load(path, allow_pickle=False) as arrays:
                assert all(arrays[name].dtype != object for name in arrays.files)
            with zipfile.ZipFile(path) as archive:
                assert all(name.endswith(".npy") for name in archive.namelist())


class Payload:
    """Creates a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[object, ...]]:
        return Path.touch, (self.path,)


CONTENT_TYPES = [
    "application/vnd.bentoml+pickle", "application/vnd.bentoml+pickle; charset=x", "Application/Vnd.BentoML+Pickle",
    "application/vnd.bentoml+arrow", "multipart/form-data; boundary=x", "application/x-pickle", "text/plain", "",
]  # fmt: skip
NATIVE = ["/classify_texts", "/classify_images"]


@pytest.mark.parametrize("path", [*NATIVE, "/classify/digits", "/v2/models/digits/infer"])
def test_a_pickle_is_never_unpickled(server: Server, tmp_path: Path, path: str) -> None:
    """A pickle is answered 4xx under each Content-Type, also with BentoML's headers for several parts."""
    mark = tmp_path / "unpickled"
    content = pickle.dumps(Payload(mark))
    pickle.loads(content)
    assert mark.exists()
    mark.unlink()
    for content_type in CONTENT_TYPES:
        for more in ({}, {"Payload-Container": "DefaultContainer", "Args-Number": "1", "Payload-Meta": "{}"}):
            response = httpx.post(server.url + path, content=content, headers={"Content-Type": content_type, **more})
            assert 400 <= response.status_code < 500, (content_type, response.text)
            if path in NATIVE and content_type.lower().startswith("application/vnd"):
                assert response.status_code == 415
    assert not mark.exists()


@pytest.fixture
def listener() -> Iterator[tuple[str, list[bytes]]]:
    """The URL of a server that nobody may connect to, and the requests that it received."""
    received: list[bytes] = []
    with socket.create_server(("127.0.0.1", 0)) as listening:
        listening.settimeout(0.1)
        stop = threading.Event()

        def listen() -> None:
            while not stop.is_set():
                try:
                    connection, _ = listening.accept()
                except TimeoutError:
                    continue
                with connection:
                    connection.settimeout(1)
                    received.append(connection.recv(4096))
                    connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")

        thread = threading.Thread(target=listen)
        thread.start()
        try:
            yield f"http://127.0.0.1:{listening.getsockname()[1]}/image.png", received
        finally:
            stop.set()
            thread.join()


def requests_with(url: str) -> Iterator[tuple[str, dict[str, object]]]:
    """Path and arguments of requests that have a URL wherever a client might try to make the server fetch it."""
    encoded = base64.b64encode(url.encode()).decode()
    for text in (url, encoded, f"data:image/png;base64,{encoded}", url.replace("http:", "HTTP:"), f"//{url[7:]}"):
        for key, path in (("images", "/classify_images"), ("texts", "/classify_texts")):
            yield path, {"json": {"model": "digits", key: [text]}}
            yield path, {"json": {"model": text, key: [text]}}
            yield path, {"json": {"model": "digits", key: text}}
            yield path, {"json": text}
            yield path, {"data": {"model": "digits", key: text}}
            yield path, {"data": {"model": "digits"}, "files": {key: ("x.png", text)}}
            yield path, {"params": {"model": "digits", key: text}}
        for key in ("images", "texts", "image", "url", "urls", "path"):
            yield "/classify/digits", {"json": {key: [text]}}
            yield "/classify/digits", {"files": {key: ("x.png", text, "text/uri-list")}}
            yield "/classify/digits", {"params": {key: text}, "content": DIGIT}
        yield "/classify/digits", {"content": text, "headers": {"Content-Type": "image/png"}}
        yield "/classify/digits", {"content": text, "headers": {"Content-Type": "text/uri-list"}}
        yield "/classify/digits", {"content": DIGIT, "headers": {"X-Original-URL": text, "Referer": text, "Host": "x"}}
        inputs = [
            {"name": "image", "shape": [1], "datatype": "BYTES", "data": [text]},
            {
                "name": "image",
                "shape": [1],
                "datatype": "BYTES",
                "parameters": {"shared_memory_region": text, "url": text},
            },
        ]
        for tensor in inputs:
            yield "/v2/models/digits/infer", {"json": {"inputs": [tensor]}}
        yield "/v2/repository/models/digits/load", {"json": {"parameters": {"config": text, "file:1/model": text}}}
        yield f"/v2/repository/models/{quote(text, safe='')}/load", {"json": {}}
        yield f"/classify/{quote(text, safe='')}", {"content": DIGIT}


def test_no_url_is_ever_fetched(server: Server, listener: tuple[str, list[bytes]]) -> None:
    """No request makes the server open a connection, even with uvloop, with which BentoML would fetch URLs."""
    assert importlib.util.find_spec("uvloop")
    url, received = listener
    with httpx.Client(base_url=server.url) as session:
        for path, kwargs in requests_with(url):
            assert session.post(path, **kwargs).status_code < 500, (path, kwargs)  # type: ignore[arg-type]
        assert session.post("/classify/digits", content=DIGIT).status_code == 200
    assert received == []
    httpx.get(url)
    assert len(received) == 1, "the listener receives nothing"


NAMES = [
    "..", "../..", "../../etc/passwd", "/etc/passwd", "digits/..", "digits/../..", ".", "digits\0", "digits\0.png",
    "digits%00", "%2e%2e", "%252e%252e%252f", "..\\..", "\u2025", "\u0661", "digits/\u0661", "digits ",
    "DIGITS", "d" * 4000,
    "\ud800".encode("utf-8", "surrogatepass").decode("latin-1"), "digits/1/model.onnx", "~", "$HOME", "digits\n",
]  # fmt: skip


@pytest.mark.parametrize("name", NAMES, ids=range(len(NAMES)))
def test_names_cannot_leave_models(server: Server, name: str) -> None:
    """As a model and as a version, encoded once and twice, they are answered 4xx without the content of a file."""
    quoted = quote(name, safe="")
    paths = []
    for segment in (quoted, quote(quoted, safe="")):
        paths += [
            ("GET", f"/models/{segment}"),
            ("GET", f"/v2/models/{segment}"),
            ("POST", f"/classify/{segment}"),
            ("POST", f"/v2/models/{segment}/infer"),
            ("GET", f"/v2/models/digits/versions/{segment}"),
            ("GET", f"/v2/models/{segment}/versions/1/ready"),
        ]
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=20)
    for method, path in paths:
        connection.putrequest(method, path, skip_accept_encoding=True)
        connection.putheader("Content-Length", "0")
        connection.endheaders()
        response = connection.getresponse()
        content = response.read()
        assert 400 <= response.status < 500, (path, content)
        assert b"root:" not in content
        assert b"dataset_fingerprint" not in content
    connection.close()


@pytest.mark.parametrize(
    "number", ["..", "../1", "\u0661", "\u00b2", "1\0", "-1", "1.0", " 1", "0x1", 10**30, None, [1]]
)
def test_versions_to_load_are_plain_numbers(tmp_path: Path, number: object) -> None:
    """A version that is not a decimal number in ASCII is refused; null counts as no version."""
    (key,) = make_keys(tmp_path / "keys", "manage")
    call = client(load=False, models=tmp_path, api_keys_file=tmp_path / "keys")
    headers = {"X-API-Key": key}
    body = {"parameters": {"version": number}}
    response = call("POST", "/v2/repository/models/digits/load", json=body, headers=headers)
    assert response.status_code == (404 if number is None or number == 10**30 else 400), response.text


LISTING = """
from service.app import Convoke
print(*(getattr(route, "path", "") for route in Convoke.to_asgi(is_main=True).routes))
"""
KNOWN = ["/", "/healthz", "/docs.json", "/static_content", "/static_content/index.css", "/assets", "/assets/x.js",
         "/index.html", "/favicon.ico", "/robots.txt", "/livez/", "/readyz/x", "//livez", "/classify_texts/submit",
         "/classify_texts/status", "/classify_texts/get", "/classify_texts/retry", "/classify_texts/cancel",
         "/ws", "/debug", "/server-status", "/.env", "/.git/config"]  # fmt: skip


def test_only_listed_routes_of_bentoml_answer(server: Server) -> None:
    """Every path of BentoML's application, and of its other versions, is answered 404, except those of a fixed list.

    Another process lists BentoML's paths, since that leaves warnings behind.
    """
    listed = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", LISTING], cwd=ROOT, capture_output=True, text=True, check=True
    )
    paths = {*listed.stdout.split("\n")[-2].split(), *KNOWN}
    assert {"/livez", "/readyz", "/healthz", "/schema.json", "/docs.json"} < paths
    ours = {route.path for route in routes_of(application(load=False))}
    answered = set()
    for path in paths - ours:
        for method in ("GET", "POST", "PUT", "DELETE", "PATCH", "OPTIONS"):
            response = httpx.request(method, server.url + path)
            if response.status_code == 308:
                assert path in {"/livez/", "//livez"}
                assert response.headers["Location"] == "/livez"
            elif response.status_code not in {404, 405}:
                answered.add(path)
            elif path not in BENTOML_PATHS:
                assert response.headers["X-Request-ID"]
    assert answered == BENTOML_PATHS


def test_the_list_of_bentoml_s_routes_is_documented() -> None:
    """CONTRIBUTING lists exactly the routes that BentoML answers."""
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    (sentence,) = re.findall(r"BentoML itself answers ([^:]*):", text)
    assert set(re.findall(r"`(/[^`]*)`", sentence)) == BENTOML_PATHS


def test_the_schema_of_bentoml_reveals_nothing(server: Server) -> None:
    """/schema.json names neither folders nor settings."""
    schema = json.dumps(httpx.get(f"{server.url}/schema.json").json())
    assert str(ROOT) not in schema
    assert "CONVOKE" not in schema


def test_web_sockets_are_refused(server: Server) -> None:
    """No route accepts a WebSocket."""
    request = (
        "GET /classify/digits HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
    )
    with socket.create_connection(("127.0.0.1", server.port), timeout=20) as connection:
        connection.sendall(request.encode())
        assert not connection.recv(4096).startswith(b"HTTP/1.1 101 ")
