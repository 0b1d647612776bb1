"""Nothing is unpickled, nothing is fetched, no name leads out of models/, and no route is there by accident."""

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
RUNS_DATA = {"pickle", "cPickle", "dill", "cloudpickle", "joblib", "marshal", "shelve", "jsonpickle", "yaml", "imp"}
RUNS_TEXT = {"eval", "exec", "compile", "__import__", "os.system", "os.popen"}


def calls(tree: ast.AST) -> Iterator[tuple[str, dict[str, object]]]:
    """The calls of a module: what is called, and the arguments by name that are constants."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            constants = {one.arg: one.value.value for one in node.keywords if isinstance(one.value, ast.Constant)}
            yield ast.unparse(node.func), {name or "": value for name, value in constants.items()}


def imports(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.module or ""


def faults(code: str) -> list[str]:
    """What a module does that runs what it reads."""
    tree = ast.parse(code)
    found = [name for name in imports(tree) if name.split(".")[0] in RUNS_DATA]
    for name, arguments in calls(tree):
        if (
            name in RUNS_TEXT
            or (name == "torch.load" and arguments.get("weights_only") is not True)
            or (name in {"np.load", "numpy.load"} and arguments.get("allow_pickle") is not False)
            or arguments.get("shell") is True
        ):
            found.append(name)
    return found


@pytest.mark.parametrize("path", CODE, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_module_runs_what_it_reads(path: Path) -> None:
    """No pickle or its like, no evaluation, no shell; checkpoints with `weights_only`, arrays without objects."""
    assert faults(path.read_text(encoding="utf-8")) == []


@pytest.mark.parametrize(
    "code",
    [
        "import pickle", "from cloudpickle import loads", "eval(text)", "torch.load(path)", "np.load(path)",
        "torch.load(path, weights_only=False)", "np.load(path, allow_pickle=True)", "run('x', shell=True)",
    ],
)  # fmt: skip
def test_what_runs_data_is_found(code: str) -> None:
    """The search above finds what it looks for."""
    assert faults(code)


def test_models_hold_no_pickle() -> None:
    """What is published is ONNX, JSON, text, and arrays that load without pickle."""
    files = [path for path in (ROOT / "models").rglob("*") if path.is_file()]
    assert files
    graphs = {"model.onnx", "model.int8.onnx", "model.float16.onnx"}
    for path in files:
        assert path.name in {*graphs, "manifest.json", "card.md", "golden.npz", "tokenizer.json"}, path
        if path.suffix == ".npz":
            with np.load(path, allow_pickle=False) as arrays:
                assert all(arrays[name].dtype != object for name in arrays.files)
            with zipfile.ZipFile(path) as archive:
                assert all(name.endswith(".npy") for name in archive.namelist())


class Payload:
    """Leaves a file behind where it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[object, ...]]:
        return Path.touch, (self.path,)


KINDS = [
    "application/vnd.bentoml+pickle", "application/vnd.bentoml+pickle; charset=x", "Application/Vnd.BentoML+Pickle",
    "application/vnd.bentoml+arrow", "multipart/form-data; boundary=x", "application/x-pickle", "text/plain", "",
]  # fmt: skip
NATIVE = ["/classify_texts", "/classify_images"]


@pytest.mark.parametrize("path", [*NATIVE, "/classify/digits", "/v2/models/digits/infer"])
def test_a_pickle_is_never_unpickled(server: Server, tmp_path: Path, path: str) -> None:
    """Under BentoML's own label, its variants and none, also with its headers for several parts: a 4xx, no file."""
    mark = tmp_path / "unpickled"
    content = pickle.dumps(Payload(mark))
    pickle.loads(content)
    assert mark.exists()
    mark.unlink()
    for kind in KINDS:
        for more in ({}, {"Payload-Container": "DefaultContainer", "Args-Number": "1", "Payload-Meta": "{}"}):
            response = httpx.post(server.url + path, content=content, headers={"Content-Type": kind, **more})
            assert 400 <= response.status_code < 500, (kind, response.text)
            if path in NATIVE and kind.lower().startswith("application/vnd"):
                assert response.status_code == 415
    assert not mark.exists()


@pytest.fixture
def listener() -> Iterator[tuple[str, list[bytes]]]:
    """An address that must stay silent, and what arrived there."""
    heard: list[bytes] = []
    with socket.create_server(("127.0.0.1", 0)) as door:
        door.settimeout(0.1)
        over = threading.Event()

        def listen() -> None:
            while not over.is_set():
                try:
                    visitor, _ = door.accept()
                except TimeoutError:
                    continue
                with visitor:
                    visitor.settimeout(1)
                    heard.append(visitor.recv(4096))
                    visitor.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")

        thread = threading.Thread(target=listen)
        thread.start()
        try:
            yield f"http://127.0.0.1:{door.getsockname()[1]}/picture.png", heard
        finally:
            over.set()
            thread.join()


def wishes(url: str) -> Iterator[tuple[str, dict[str, object]]]:
    """Every way in which a caller might have the server fetch something: path and arguments of a request."""
    coded = base64.b64encode(url.encode()).decode()
    for text in (url, coded, f"data:image/png;base64,{coded}", url.replace("http:", "HTTP:"), f"//{url[7:]}"):
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
        for one in inputs:
            yield "/v2/models/digits/infer", {"json": {"inputs": [one]}}
        yield "/v2/repository/models/digits/load", {"json": {"parameters": {"config": text, "file:1/model": text}}}
        yield f"/v2/repository/models/{quote(text, safe='')}/load", {"json": {}}
        yield f"/classify/{quote(text, safe='')}", {"content": DIGIT}


def test_no_url_is_ever_fetched(server: Server, listener: tuple[str, list[bytes]]) -> None:
    """With uvloop installed, which is when BentoML fetches, no request makes the server call out."""
    assert importlib.util.find_spec("uvloop")
    url, heard = listener
    with httpx.Client(base_url=server.url) as session:
        for path, arguments in wishes(url):
            assert session.post(path, **arguments).status_code < 500, (path, arguments)  # type: ignore[arg-type]
        assert session.post("/classify/digits", content=DIGIT).status_code == 200
    assert heard == []
    httpx.get(url)
    assert len(heard) == 1, "the listener hears nobody"


NAMES = [
    "..", "../..", "../../etc/passwd", "/etc/passwd", "digits/..", "digits/../..", ".", "digits\0", "digits\0.png",
    "digits%00", "%2e%2e", "%252e%252e%252f", "..\\..", "\u2025", "\u0661", "digits/\u0661", "digits ",
    "DIGITS", "d" * 4000,
    "\ud800".encode("utf-8", "surrogatepass").decode("latin-1"), "digits/1/model.onnx", "~", "$HOME", "digits\n",
]  # fmt: skip


@pytest.mark.parametrize("name", NAMES, ids=range(len(NAMES)))
def test_names_cannot_leave_models(server: Server, name: str) -> None:
    """As a model and as a version, plain and encoded once and twice: a 4xx that shows no file's content."""
    coded = quote(name, safe="")
    paths = [("GET", f"/models/{one}") for one in (coded, quote(coded, safe=""))]
    for one in (coded, quote(coded, safe="")):
        paths += [("GET", f"/v2/models/{one}"), ("POST", f"/classify/{one}"), ("POST", f"/v2/models/{one}/infer")]
        paths += [("GET", f"/v2/models/digits/versions/{one}"), ("GET", f"/v2/models/{one}/versions/1/ready")]
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=20)
    for method, path in paths:
        connection.putrequest(method, path, skip_accept_encoding=True)
        connection.putheader("Content-Length", "0")
        connection.endheaders()
        answer = connection.getresponse()
        content = answer.read()
        assert 400 <= answer.status < 500, (path, content)
        assert b"root:" not in content
        assert b"dataset_fingerprint" not in content
    connection.close()


@pytest.mark.parametrize(
    "number", ["..", "../1", "\u0661", "\u00b2", "1\0", "-1", "1.0", " 1", "0x1", 10**30, None, [1]]
)
def test_versions_to_load_are_plain_numbers(tmp_path: Path, number: object) -> None:
    """What is no decimal number in ASCII is refused, or, where it says nothing, left away."""
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


def test_of_bentoml_s_routes_only_those_we_want_answer(server: Server) -> None:
    """All that its application has, and what other versions of it had, is a 404 of ours, but for a list that is held.

    The list is asked of BentoML in a process of its own, which it leaves warnings in.
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
            if response.status_code not in {404, 405}:
                answered.add(path)
            elif path not in BENTOML_PATHS:
                assert response.headers["X-Request-ID"]
    assert answered == BENTOML_PATHS


def test_the_list_of_routes_is_written_down() -> None:
    """CONTRIBUTING names the routes that BentoML answers, and no others."""
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    (sentence,) = re.findall(r"BentoML itself answers ([^:]*):", text)
    assert set(re.findall(r"`(/[^`]*)`", sentence)) == BENTOML_PATHS


def test_what_bentoml_answers_tells_no_secret(server: Server) -> None:
    """The list of its calls names neither folders nor settings."""
    schema = json.dumps(httpx.get(f"{server.url}/schema.json").json())
    assert str(ROOT) not in schema
    assert "CONVOKE" not in schema


def test_web_sockets_are_turned_away(server: Server) -> None:
    """No route speaks it, neither ours nor BentoML's."""
    head = (
        "GET /classify/digits HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
    )
    with socket.create_connection(("127.0.0.1", server.port), timeout=20) as connection:
        connection.sendall(head.encode())
        assert not connection.recv(4096).startswith(b"HTTP/1.1 101 ")
