"""Measures the service beside its peers: `make bench`, about 100 seconds; ARGS="--seconds 10 --json FILE" for more.

Each contender in turn is one server process on this machine, on the processor, with the same published model
(models/digits) and the same pictures of digits, one a request, sent by wrk from 1, 16 and 64 connections. The ceiling
is what the same work makes in a loop without HTTP, on one thread, a picture at a time.

Before it is timed, a contender must give every picture the label that the model gives it offline. Requests/s counts
answers below status 400 alone; p50 and p99 are over all answers. wrk shares the machine's processors with the server,
so compare ratios within one run on a quiet machine; absolute numbers do not travel. Speed for larger pictures, batches
in one request and GPUs is not measured here.
"""

import argparse
import io
import json
import os
import platform
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import psutil  # type: ignore[import-untyped]
from PIL import Image, ImageDraw, ImageFont

ROOT = Path(__file__).resolve().parent.parent
HERE = ROOT / "benchmarks"
CONNECTIONS = (1, 16, 64)
PICTURES = 50
WARM_UP_S = 1
START_DEADLINE_S = 60.0
STOP_DEADLINE_S = 10.0
PACKAGES = ("bentoml", "fastapi", "httptools", "onnxruntime", "onnxruntime-gpu", "pillow", "starlette", "uvloop")
OURS, CEILING = "convoke", "no HTTP"


class BenchmarkError(Exception):
    """Why nothing can be measured, in words for whoever started the benchmark."""


@dataclass(frozen=True)
class Contender:
    """A server: the arguments for Python that start it ({port} is filled in), where it classifies, and how."""

    name: str
    arguments: tuple[str, ...]
    folder: Path
    path: str
    label: Callable[[Any], str]
    multipart: bool = False

    def encode(self, png: bytes) -> tuple[str, bytes]:
        """The Content-Type and body of a request with one picture."""
        if not self.multipart:
            return "image/png", png
        head = b'--picture\r\nContent-Disposition: form-data; name="images"; filename="digit.png"\r\n'
        body = head + b"Content-Type: image/png\r\n\r\n" + png + b"\r\n--picture--\r\n"
        return "multipart/form-data; boundary=picture", body


@dataclass(frozen=True)
class Measured:
    """One contender under one workload. Errors are answers from status 400 and connections that broke."""

    contender: str
    connections: int
    requests_per_s: float
    p50_ms: float
    p99_ms: float
    errors: int


def _uvicorn(module: str) -> tuple[str, ...]:
    quiet = ("--no-access-log", "--log-level", "warning")
    return ("-m", "uvicorn", f"{module}:create", "--factory", "--host", "127.0.0.1", "--port", "{port}", *quiet)


PEERS = HERE / "contenders"
CONTENDERS = (
    Contender(
        OURS,
        ("-m", "service", "--port", "{port}"),
        ROOT,
        "/classify/digits",
        lambda answer: str(answer["predictions"][0]["label"]),
    ),
    Contender(
        "BentoML, idiomatic",
        ("-m", "bentoml", "serve", "bentoml_idiomatic:Digits", "--host", "127.0.0.1", "--port", "{port}"),
        PEERS,
        "/classify",
        lambda answer: str(answer[0]),
        multipart=True,
    ),
    Contender("Starlette, bare", _uvicorn("starlette_bare"), PEERS, "/classify", lambda answer: str(answer["label"])),
    Contender("FastAPI, raw body", _uvicorn("fastapi_raw"), PEERS, "/classify", lambda answer: str(answer["label"])),
)


def main() -> int:
    """Measure every contender, print the table, and save it where --json says."""
    assert __doc__
    parser = argparse.ArgumentParser(prog="make bench", description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=_positive, default=5, help="seconds a workload (default: %(default)s)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also save the results and what they ran on")
    arguments = parser.parse_args()
    if shutil.which("wrk") is None:
        print("make bench needs wrk, which sends the requests. Install it:", file=sys.stderr)
        print("  Debian, Ubuntu: apt-get install wrk    macOS: brew install wrk", file=sys.stderr)
        return 2
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that `finally` stops the servers then, too
    machine = _machine()
    print(
        f"{machine['cpu']}, {machine['cpu_count']} processors, Python {machine['python']}, load {machine['load']:.1f}; "
        f"{arguments.seconds} s a workload, one digit a request"
    )
    try:
        results = _measure(arguments.seconds)
    except BenchmarkError as error:
        print(f"make bench: {error}", file=sys.stderr)
        return 1
    _print_table(results)
    if arguments.json:
        content = {"machine": machine, "seconds": arguments.seconds, "results": [asdict(one) for one in results]}
        arguments.json.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    return 0


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text}: expected whole seconds from 1")
    return value


def _measure(seconds: int) -> list[Measured]:
    """Every contender under every workload, and the ceiling.

    Raises:
        BenchmarkError: there is no model, or a contender does not start, breaks down or answers wrongly.
    """
    model = _model()
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    session = ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    pictures = _pictures()
    expected = [_classify(session, png) for png in pictures]
    if len(set(expected)) < 5:  # noqa: PLR2004 -- half of the digits
        raise BenchmarkError(f"{model}: tells only {sorted(set(expected))} apart on {PICTURES} drawn digits")
    results = [_ceiling(session, pictures, seconds)]
    for contender in CONTENDERS:
        print(f"{contender.name} ...", file=sys.stderr, flush=True)
        with tempfile.TemporaryDirectory() as name, _serving(contender, model, Path(name), pictures[0]) as url:
            _check(contender, url, pictures, expected)
            _write_requests(contender, pictures, Path(name))
            _wrk(url, Path(name), 16, WARM_UP_S)
            for connections in CONNECTIONS:
                found = _wrk(url, Path(name), connections, seconds)
                results.append(_measured(contender.name, connections, found))
    return results


def _model() -> Path:
    """The graph of the highest version of the digits model, in models/ or else in $CONVOKE_MODELS."""
    roots = [ROOT / "models", *(Path(name) for name in [os.environ.get("CONVOKE_MODELS")] if name)]
    for root in roots:
        graphs = [path for path in root.glob("digits/*/model.onnx") if path.parent.name.isdecimal()]
        if graphs:
            return max(graphs, key=lambda path: int(path.parent.name)).resolve()
    raise BenchmarkError("there is no model in models/digits; publish one with `make train RECIPE=lenet`")


def _pictures() -> list[bytes]:
    """PNGs of digits as MNIST has them, 28 x 28, light on black, each shifted and turned a little."""
    random = np.random.default_rng(0)
    font = ImageFont.load_default(size=24)
    pictures = []
    for index in range(PICTURES):
        image = Image.new("L", (28, 28))
        x, y = (14 + shift for shift in random.uniform(-1.5, 1.5, 2))
        ImageDraw.Draw(image).text((x, y), str(index % 10), 255, font, anchor="mm", stroke_width=0.5)
        image = image.rotate(random.uniform(-10, 10), Image.Resampling.BILINEAR)
        buffer = io.BytesIO()
        image.save(buffer, "PNG")
        pictures.append(buffer.getvalue())
    return pictures


def _classify(session: ort.InferenceSession, png: bytes) -> str:
    batch = np.asarray(Image.open(io.BytesIO(png)), np.uint8)[None, ..., None]  # (28, 28) -> (1, 28, 28, 1)
    probabilities = session.run(["probabilities"], {"image": batch})[0]  # (1, 10)
    return str(probabilities[0].argmax())


def _ceiling(session: ort.InferenceSession, pictures: list[bytes], seconds: int) -> Measured:
    """Decode and classify for some seconds in a plain loop."""
    times_s: list[float] = []
    began = before = time.perf_counter()
    while before - began < seconds:
        _classify(session, pictures[len(times_s) % len(pictures)])
        now = time.perf_counter()
        times_s.append(now - before)
        before = now
    p50, p99 = np.percentile(times_s, [50, 99]) * 1000
    return Measured(CEILING, 0, round(len(times_s) / (before - began), 1), round(p50, 3), round(p99, 3), 0)


@contextmanager
def _serving(contender: Contender, model: Path, folder: Path, png: bytes) -> Iterator[str]:
    """Start a contender, give its URL once it has answered for one picture, and stop it and all that it started.

    Raises:
        BenchmarkError: it does not start, or what is done with it fails; the message ends with its log's last lines.
    """
    port = _free_port()
    mine = {
        "BENCH_MODEL": str(model),
        "BENTOML_DO_NOT_TRACK": "True",
        "CONVOKE_MODELS": str(model.parent.parent.parent),
        "CONVOKE_PROVIDER": "cpu",
        "PYTHONPATH": str(contender.folder),
    }
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(("CONVOKE_", "BENTOML_"))}
    command = [sys.executable, *(argument.format(port=port) for argument in contender.arguments)]
    log = folder / "log"
    with log.open("wb") as output:
        server = subprocess.Popen(
            command,
            cwd=contender.folder,
            env=inherited | mine,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    url = f"http://127.0.0.1:{port}{contender.path}"
    try:
        _await_ready(contender, server, url, png)
        yield url
    except BenchmarkError as error:
        tail = log.read_text(encoding="utf-8", errors="replace").splitlines()[-20:]
        raise BenchmarkError("\n  ".join([str(error), "The end of its log:", *tail])) from error
    finally:
        _stop(server)


def _stop(server: subprocess.Popen[bytes]) -> None:
    """End a server and what it started, politely, then not. BentoML's workers are in sessions of their own."""
    try:
        started = psutil.Process(server.pid).children(recursive=True)
    except psutil.NoSuchProcess:
        started = []
    server.terminate()
    try:
        server.wait(STOP_DEADLINE_S)
    except subprocess.TimeoutExpired:
        server.kill()
        server.wait()
    _, left = psutil.wait_procs(started, timeout=1)
    for process in left:
        process.kill()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _await_ready(contender: Contender, server: subprocess.Popen[bytes], url: str, png: bytes) -> None:
    """Ask until the first good answer.

    Raises:
        BenchmarkError: the server ends, or there is none before the deadline.
    """
    deadline = time.monotonic() + START_DEADLINE_S
    while True:
        try:
            _ask(contender, url, png)
        except OSError as error:
            if server.poll() is not None:
                raise BenchmarkError(
                    f"{contender.name}: the server ended with code {server.returncode} before it answered"
                ) from error
            if time.monotonic() > deadline:
                raise BenchmarkError(
                    f"{contender.name}: no good answer within {START_DEADLINE_S:g} s of its start: {error}"
                ) from error
            time.sleep(0.1)
        else:
            return


def _ask(contender: Contender, url: str, png: bytes) -> str:
    kind, body = contender.encode(png)
    request = urllib.request.Request(url, body, {"Content-Type": kind})
    with urllib.request.urlopen(request, timeout=10) as response:
        return contender.label(json.load(response))


def _check(contender: Contender, url: str, pictures: list[bytes], expected: list[str]) -> None:
    """Compare a contender's labels with those of the model offline.

    Raises:
        BenchmarkError: one differs, or there is no answer.
    """
    for index, (png, label) in enumerate(zip(pictures, expected, strict=True)):
        try:
            found = _ask(contender, url, png)
        except OSError as error:
            raise BenchmarkError(f"{contender.name}: no answer for picture {index}: {error}") from error
        if found != label:
            raise BenchmarkError(f"{contender.name}: says {found!r} of picture {index}, the model offline {label!r}")


def _write_requests(contender: Contender, pictures: list[bytes], folder: Path) -> None:
    """Write what post.lua reads: the Content-Type without a newline, and a body a file."""
    for index, png in enumerate(pictures):
        kind, body = contender.encode(png)
        (folder / "type").write_text(kind, encoding="ascii")
        (folder / f"{index}.body").write_bytes(body)


def _wrk(url: str, requests: Path, connections: int, seconds: int) -> dict[str, int]:
    """What wrk counted: see post.lua."""
    command = ["wrk", "-t1", f"-c{connections}", f"-d{seconds}s", "--timeout", "10s", "-s", str(HERE / "post.lua"), url]
    done = subprocess.run(
        [*command, "--", str(requests)], capture_output=True, text=True, check=False, timeout=seconds + 60
    )
    lines = done.stdout.splitlines()
    if done.returncode or not lines or not lines[-1].startswith("{"):
        raise BenchmarkError(f"wrk failed with code {done.returncode}: {done.stderr.strip() or done.stdout.strip()}")
    counted: dict[str, int] = json.loads(lines[-1])
    return counted


def _measured(name: str, connections: int, found: dict[str, int]) -> Measured:
    good = found["requests"] - found["bad_status"]
    return Measured(
        name,
        connections,
        round(good / found["duration_us"] * 1e6, 1),
        found["p50_us"] / 1000,
        found["p99_us"] / 1000,
        found["bad_status"] + found["broken"],
    )


def _print_table(results: list[Measured]) -> None:
    ours = {one.connections: one.requests_per_s for one in results if one.contender == OURS}
    ceiling = next(one for one in results if one.contender == CEILING)
    row = "{:<20} {:>11} {:>12} {:>9} {:>9} {:>8} {:>9}"
    print(row.format("", "connections", "requests/s", "p50 ms", "p99 ms", "errors", "ours is"))
    for connections in CONNECTIONS:
        for one in (*(one for one in results if one.connections == connections), ceiling):
            numbers = (f"{one.requests_per_s:,.0f}", f"{one.p50_ms:.2f}", f"{one.p99_ms:.2f}", f"{one.errors:,}")
            ratio = f"{ours[connections] / one.requests_per_s:.2f} x" if one.requests_per_s else "-"
            print(row.format(one.contender, connections if one is not ceiling else "", *numbers, ratio))
        print()


def _machine() -> dict[str, Any]:
    """What the numbers depend on; nothing that says whose machine it is."""
    return {
        "cpu": _cpu(),
        "cpu_count": os.cpu_count(),
        "load": os.getloadavg()[0],
        "system": platform.system(),
        "python": platform.python_version(),
        "packages": {name: version for name in PACKAGES if (version := _version(name))},
    }


def _cpu() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


if __name__ == "__main__":
    sys.exit(main())
