"""A started server with two workers: what they answer together."""

import json
import os
import re
import shutil
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.drawing import encode, mnist_like
from tests.service.inference.test_repository import add_version
from tests.serving import ROOT, Load, Server, make_keys

SEVEN = encode(mnist_like(7))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the server's models and temporary files."""
    folder = tmp_path_factory.mktemp("workers")
    shutil.copytree(ROOT / "models/digits/1", folder / "models/digits/1")
    return folder


@pytest.fixture(scope="module")
def manager(folder: Path) -> dict[str, str]:
    """Headers that allow loading and unloading."""
    (key,) = make_keys(folder / "keys", "manage")
    return {"Authorization": f"Bearer {key}"}


@pytest.fixture(scope="module")
def pair(folder: Path, manager: dict[str, str], start_server: Callable[..., Server]) -> Server:  # noqa: ARG001 -- its file
    """A server of two workers, ready."""
    environment = {"CONVOKE_WORKERS": "2", "CONVOKE_POLL_S": "0.1", "CONVOKE_PUBLIC": "predict,metrics"}
    environment["CONVOKE_API_KEYS_FILE"] = str(folder / "keys")
    server = start_server(CONVOKE_MODELS=str(folder / "models"), TMPDIR=str(folder), **environment)
    server.wait_until_ready()
    return server


def metric(server: Server, name: str) -> float:
    """The value of a metric with these labels; 0 if it is missing."""
    match = re.search(rf"^{re.escape(name)} (\S+)$", httpx.get(f"{server.url}/metrics").text, re.MULTILINE)
    return float(match[1]) if match else 0.0


def lines(server: Server) -> Iterator[dict[str, Any]]:
    """The JSON lines that the server and its workers have logged."""
    return (json.loads(line) for line in server.log.splitlines() if line.startswith("{"))


def test_counts_of_both_workers_add_up(pair: Server) -> None:
    """After many requests to both, each reports the sums of items, batches and requests."""
    name = 'convoke_items_total{model="digits",version="1"}'
    before = metric(pair, name)
    with Load(pair, clients=4, keep_alive=False) as load:
        pair.wait(lambda: len(load.versions) == 2 and load.answers > 200)
    expected = before + load.answers
    pair.wait(lambda: metric(pair, name) == expected)
    assert metric(pair, 'convoke_queue_seconds_count{model="digits",version="1"}') == expected
    assert metric(pair, 'convoke_requests_total{route="/classify/{model}",status="200"}') == expected
    assert metric(pair, 'convoke_queue_items{model="digits",version="1"}') == 0
    assert metric(pair, 'convoke_model_loads_total{model="digits",outcome="loaded"}') == 2
    assert metric(pair, "convoke_workers_ready") == 2
    assert load.failures == []


def test_a_new_version_and_a_roll_back_reach_both_workers(pair: Server, folder: Path, manager: dict[str, str]) -> None:
    """No request fails while version 2 is added, unloaded through one of the workers, and loaded again."""
    with Load(pair, clients=4, keep_alive=False) as load:
        pair.wait(lambda: len(load.versions) == 2)
        add_version(folder / "models/digits/1", 2)
        pair.wait(lambda: set(load.versions.values()) == {"2"})
        for verb, number in (("unload", "1"), ("load", "2")):
            url = f"{pair.url}/v2/repository/models/digits/{verb}"
            assert httpx.post(url, json={}, headers=manager).status_code == 200
            pair.wait(lambda expected=number: set(load.versions.values()) == {expected})  # type: ignore[misc]
    assert load.failures == []
    pair.wait(lambda: metric(pair, 'convoke_model_served{model="digits",version="2"}') == 2)
    assert metric(pair, 'convoke_model_served{model="digits",version="1"}') == 0


def test_the_log_is_json_without_what_clients_send(pair: Server) -> None:
    """A line for each request with its timings; the settings once; never a body, a header, a path or a query."""
    secret = "hunter2"
    headers = {"Authorization": f"Bearer {secret}", "X-Request-ID": "mine-1"}
    assert httpx.post(f"{pair.url}/classify/digits?top={secret}", content=secret, headers=headers).status_code == 400
    assert httpx.get(f"{pair.url}/{secret}", headers={**headers, "X-Request-ID": "mine-2"}).status_code == 404
    valid = {**headers, "X-Request-ID": "mine-3"}
    assert httpx.post(f"{pair.url}/classify/digits?top=1", content=SEVEN, headers=valid).status_code == 200
    pair.wait(lambda: {"mine-1", "mine-2", "mine-3"} <= {line.get("request_id") for line in lines(pair)})
    assert secret not in pair.log
    (line,) = [line for line in lines(pair) if line.get("request_id") == "mine-3"]
    assert {"read", "queue", "infer", "total"} == set(line.pop("ms"))
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", line.pop("time"))
    assert line.pop("version") in {"1", "2"}
    assert line == {
        "level": "info", "logger": "convoke.request", "request_id": "mine-3", "method": "POST",
        "route": "/classify/{model}", "status": 200, "bytes": len(SEVEN), "model": "digits", "items": 1,
    }  # fmt: skip
    assert [line["error"] for line in lines(pair) if line.get("request_id") == "mine-2"] == ["not_found"]
    assert pair.log.count("settings: ") == 1


def has_ended(process: int) -> bool:
    """Whether a process has ended, even if its parent has not waited for it."""
    state = subprocess.run(["ps", "-o", "stat=", "-p", str(process)], capture_output=True, text=True, check=False)
    return state.stdout[:1] in {"", "Z"}


@pytest.mark.slow
def test_a_worker_that_dies_is_replaced_without_failures(pair: Server, folder: Path) -> None:
    """After kill -9 the other worker answers everything, also /readyz, until the successor is ready; counts stay."""
    name = 'convoke_items_total{model="digits",version="1"}'
    (report,) = folder.glob("convoke-*/2.json")
    process = json.loads(report.read_text())["process"]
    before = metric(pair, name)
    os.kill(process, signal.SIGKILL)
    pair.wait(lambda: has_ended(process))
    statuses = set[int]()

    def is_replaced() -> bool:
        statuses.add(httpx.get(f"{pair.url}/readyz").status_code)
        return bool(json.loads(report.read_text())["process"] != process)

    with Load(pair, clients=4, keep_alive=False) as load:
        pair.wait(is_replaced)
        assert metric(pair, name) >= before
        pair.wait(lambda: metric(pair, "convoke_workers_ready") == 2)
        pair.wait(lambda: len(load.versions) == 2)
    assert load.failures == []
    assert statuses == {200}


def test_a_stopped_server_removes_its_folder(pair: Server, folder: Path) -> None:
    """A server that an orchestrator stops leaves no temporary files."""
    assert list(folder.glob("convoke-*"))
    assert pair.stop() == 0
    assert not list(folder.glob("convoke-*"))
