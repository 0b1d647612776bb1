"""A started server: as `make serve` runs it, and from a built Bento."""

import asyncio
import base64
import gzip
import json
import os
import re
import signal
import struct
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import httpx
import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

from contract import manifest as contract
from contract.session import Session
from tests.drawing import draw, encode, mnist_like
from tests.serving import ROOT, Load, Server

EXAMPLE = ROOT / "examples/seven.png"


def test_the_example_of_the_readme_is_a_seven(server: Server) -> None:
    """The README's image, sent as in the README, gives the label in the README."""
    response = httpx.post(
        f"{server.url}/classify/digits", content=EXAMPLE.read_bytes(), headers={"Content-Type": "image/png"}
    )
    assert response.status_code == 200
    assert response.json()["predictions"][0]["label"] == "7"


def test_health_and_metrics_answer(server: Server) -> None:
    """/livez and /readyz are 200, and /metrics counts items, not requests."""

    def items() -> float:
        text = httpx.get(f"{server.url}/metrics").text
        match = re.search(r'^convoke_items_total\{model="digits",version="1"\} (\S+)$', text, re.MULTILINE)
        return float(match[1]) if match else 0.0

    before = items()
    files = [("f", ("x", encode(mnist_like(digit)))) for digit in range(10)]
    assert httpx.post(f"{server.url}/classify/digits", files=files).status_code == 200
    assert items() == before + 10
    for path in ("/livez", "/readyz"):
        assert httpx.get(server.url + path).status_code == 200


def test_paths_never_become_metric_labels(server: Server) -> None:
    """A client that requests random paths adds no time series."""
    for path in ("/surprise-1", "/models/surprise-2", "/classify/surprise-3"):
        httpx.get(server.url + path)
        httpx.post(server.url + path, content=b"x")
    assert "surprise" not in httpx.get(f"{server.url}/metrics").text


def test_concurrent_clients_get_their_own_answers(server: Server) -> None:
    """Concurrent requests over many connections are batched and their responses never swapped."""

    async def scenario() -> None:
        async with httpx.AsyncClient(base_url=server.url, limits=httpx.Limits(max_connections=32)) as session:
            bodies = {digit: encode(mnist_like(digit)) for digit in range(10)}
            order = [digit for _ in range(40) for digit in range(10)]
            answers = await asyncio.gather(
                *(session.post("/classify/digits", content=bodies[digit], timeout=60) for digit in order)
            )
            assert [answer.json()["predictions"][0]["label"] for answer in answers] == [str(digit) for digit in order]

    asyncio.run(scenario())


NATIVE = """
import json, sys
import bentoml
from bentoml.exceptions import BentoMLException

url, *images = sys.argv[1:]
with bentoml.SyncHTTPClient(url) as session:
    many = session.classify_images(model="digits", images=images)
    mixed = session.classify_images(model="digits", images=[images[3], "%", "http://localhost/x.png"])
    texts = session.classify_texts(model="digits", texts=["seven"])
    try:
        error = session.classify_images(model="nothing", images=images)
    except BentoMLException as exception:
        error = str(exception)
print(json.dumps([many, mixed, texts, error]))
"""


def test_bentomls_own_client_works(server: Server) -> None:
    """Images in base64 through bentoml.SyncHTTPClient give the labels of the other routes; errors are BentoML's.

    It runs in a process of its own, because its warnings and unclosed resources would fail the test.
    """
    images = [base64.b64encode(encode(mnist_like(digit))).decode() for digit in range(10)]
    command = [sys.executable, "-W", "ignore", "-c", NATIVE, server.url, *images]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
    many, mixed, texts, error = json.loads(done.stdout.splitlines()[-1])
    assert [prediction["label"] for prediction in many["predictions"]] == [str(digit) for digit in range(10)]
    assert [prediction.get("label") for prediction in mixed["predictions"]] == ["3", None, None]
    assert texts["predictions"][0]["error"]["code"] == "unsupported_kind"
    assert "'nothing'" in error


def test_a_connection_outlives_an_error(server: Server) -> None:
    """After an error the same connection serves the next request."""
    with httpx.Client(base_url=server.url) as session:
        for _ in range(3):
            assert session.post("/classify/digits", content=b"nonsense").status_code == 415
            assert session.post("/classify/digits", content=encode(draw(6))).status_code == 200


def test_a_refused_version_is_reported(start_server: Callable[..., Server], version: Path) -> None:
    """With a damaged graph the server is alive but never ready, and gives the reason in /models and its log."""
    (version / contract.GRAPH).write_bytes(b"garbage")
    server = start_server(CONVOKE_MODELS=str(version.parents[1]))
    server.wait(lambda: bool(httpx.get(f"{server.url}/models").json()["refused"]))
    assert "SHA-256" in httpx.get(f"{server.url}/models").json()["refused"]["digits"]["1"]
    assert httpx.get(f"{server.url}/livez").status_code == 200
    assert httpx.get(f"{server.url}/readyz").status_code == 503
    assert httpx.post(f"{server.url}/classify/digits", content=b"x").status_code == 503
    assert "is refused" in server.log
    assert server.stop() == 0


def test_a_failed_start_gives_its_reason(server: Server) -> None:
    """A port in use, an unknown host and an invalid setting end the start with one line, before anything runs."""
    for args, environment, reason in (
        (["--port", str(server.port)], {}, "cannot listen on"),
        (["--port", "0"], {"CONVOKE_THREADS": "many"}, "CONVOKE_THREADS='many'"),
        (["--host", "no.such.host.invalid", "--port", "0"], {}, "cannot listen on"),
    ):
        ended = subprocess.run(
            [sys.executable, "-m", "service", *args],
            cwd=ROOT, env={**os.environ, **environment}, capture_output=True, text=True, timeout=60, check=False,
        )  # fmt: skip
        assert ended.returncode == 1
        assert reason in ended.stderr
        assert "Traceback" not in ended.stderr


@pytest.mark.parametrize(("number", "drain_s", "workers"), [(signal.SIGTERM, "0", "1"), (signal.SIGHUP, "0.5", "2")])
def test_no_request_is_lost_when_the_server_stops(
    start_server: Callable[..., Server], number: int, drain_s: str, workers: str
) -> None:
    """Connections opened while the server stops are answered or refused, never reset; kept ones are ended in time."""
    server = start_server(CONVOKE_DRAIN_S=drain_s, CONVOKE_WORKERS=workers)
    server.wait_until_ready()
    with Load(server, clients=3, keep_alive=False) as new, Load(server, clients=3, keep_alive=True) as kept:
        server.wait(lambda: min(new.answers, kept.answers) > 20)
        os.kill(server.pid, number)
        assert server.wait_for_end() == 0
    assert {*new.failures, *kept.failures} <= {"ConnectError"}, "a refused connection can be tried elsewhere"


def test_serving_needs_no_torch() -> None:
    """The service can be imported without torch, torchvision and training."""
    program = (
        "import sys\n"
        "for name in ('torch', 'torchvision', 'training'): sys.modules[name] = None\n"
        "import service.app, service.__main__\n"
    )
    subprocess.run([sys.executable, "-c", program], cwd=ROOT, check=True, timeout=60)


@pytest.mark.slow
def test_a_built_bento_answers_the_same(server: Server, start_server: Callable[..., Server], tmp_path: Path) -> None:
    """`bentoml build`, then `bentoml serve` in another folder with two workers, gives the checkout's answer."""
    environment = {"BENTOML_HOME": str(tmp_path / "home"), "BENTOML_DO_NOT_TRACK": "True"}
    bentoml = [sys.executable, "-m", "bentoml"]
    built = subprocess.run(
        [*bentoml, "build", "--output", "tag"],
        cwd=ROOT, env={**os.environ, **environment}, capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    assert built.returncode == 0, built.stderr
    (tag,) = re.findall(r"convoke:\w+", built.stdout)
    folder = tmp_path / "home/bentos" / tag.replace(":", "/")
    assert not any("torch" in line for line in (folder / "env/python/requirements.txt").read_text().splitlines())
    packed = {path.relative_to(folder / "src").parts[0] for path in (folder / "src").rglob("*") if path.is_file()}
    assert packed <= {"contract", "service", "models", "requirements", "bentofile.yaml", "README.md", "LICENSE"}
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    bento = start_server(
        [*bentoml, "serve", tag, "--host", "127.0.0.1"],
        cwd=elsewhere, PYTHONPATH="", CONVOKE_WORKERS="2", **environment,
    )  # fmt: skip
    bento.wait_until_ready()
    assert "\nconvoke_workers_ready 2.0\n" in httpx.get(f"{bento.url}/metrics").text
    request = {"content": EXAMPLE.read_bytes(), "headers": {"Content-Type": "image/png"}}
    answers = [httpx.post(f"{each.url}/classify/digits", **request).json() for each in (server, bento)]  # type: ignore[arg-type]
    assert answers[0] == answers[1]
    assert bento.stop() == 0


def mnist_test_split() -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.uint8]]:
    """MNIST's 10,000 test images (N, 28, 28) and labels, read by the description of the format; skips without them."""
    raw = Path(os.environ.get("CONVOKE_DATA") or ROOT / "data") / "mnist/MNIST/raw"
    arrays = []
    for name in ("t10k-images-idx3-ubyte.gz", "t10k-labels-idx1-ubyte.gz"):
        if not (raw / name).exists():
            pytest.skip(f"MNIST is missing: no {name} in the folder that CONVOKE_DATA names")
        data = gzip.decompress((raw / name).read_bytes())
        shape = struct.unpack_from(f">{data[3]}I", data, 4)
        arrays.append(np.frombuffer(data, np.uint8, offset=4 + 4 * data[3]).reshape(shape))
    return arrays[0], arrays[1]


@pytest.mark.data
@pytest.mark.slow
def test_mnist_over_http_equals_the_offline_evaluation(server: Server) -> None:
    """10,000 PNGs in multipart batches: the labels of the offline run, probabilities within 1e-4, and its accuracy."""
    images, labels = mnist_test_split()
    folder = ROOT / "models/digits/1"
    manifest = contract.read(folder)
    offline = Session(folder / contract.GRAPH, manifest, provider="cpu", threads=2).run(images[..., None])
    online = np.empty_like(offline)
    with httpx.Client(base_url=server.url, timeout=60) as session:
        for start in range(0, len(images), 500):
            batch = images[start : start + 500]
            files = [("f", ("x.png", encode(Image.fromarray(image)))) for image in batch]
            predictions = session.post("/classify/digits", files=files).json()["predictions"]
            for row, prediction in enumerate(predictions):
                online[start + row] = [prediction["scores"][label] for label in manifest.labels]
                assert prediction["label"] == manifest.labels[offline[start + row].argmax()]
    assert np.abs(online - offline).max() < 1e-4
    assert (online.argmax(axis=1) == labels).mean() == manifest.test_metrics["mnist"].accuracy >= 0.993
    assert json.dumps(manifest.model_dump())
