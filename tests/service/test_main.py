"""`python -m service`: the address on which it listens."""

import json
import os
import sys

import pytest

from service import __main__ as module
from service.server import launch
from tests.serving import free_port


@pytest.fixture
def served(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, int]]:
    """The addresses on which the server would have listened; without variables of the environment."""
    calls: list[tuple[str, int]] = []
    monkeypatch.setattr(launch, "serve", lambda address, port: calls.append((address, port)))
    monkeypatch.setattr(os, "chdir", lambda _: None)
    monkeypatch.setattr(os, "environ", {})
    return calls


def start(monkeypatch: pytest.MonkeyPatch, *args: str, **environment: str) -> None:
    os.environ.update(environment)
    monkeypatch.setattr(sys, "argv", ["service", *args])
    module.main()


def test_port_0_is_a_free_port(
    monkeypatch: pytest.MonkeyPatch, served: list[tuple[str, int]], capsys: pytest.CaptureFixture[str]
) -> None:
    """The port that is printed is the port that is used."""
    start(monkeypatch, "--port", "0")
    ((address, port),) = served
    assert port > 0
    assert f"http://{address}:{port}/" in capsys.readouterr().out


def test_a_log_of_json_has_no_other_lines(
    monkeypatch: pytest.MonkeyPatch, served: list[tuple[str, int]], capsys: pytest.CaptureFixture[str]
) -> None:
    """The greeting for a terminal is left out."""
    start(monkeypatch, "--port", "0", CONVOKE_LOG_FORMAT="json")
    assert served
    assert not capsys.readouterr().out


@pytest.mark.parametrize("port", ["99999", "-1", "65536", "http", "3000.0", "", "\u0663000", "1e3"])
@pytest.mark.parametrize("way", ["argument", "environment"])
def test_an_impossible_port_is_refused(
    monkeypatch: pytest.MonkeyPatch, served: list[tuple[str, int]], port: str, way: str
) -> None:
    """The message has the port and the range, and nothing is started; an empty variable counts as not set."""
    if way == "environment" and not port:
        return
    with pytest.raises(SystemExit) as end:
        start(monkeypatch, *([f"--port={port}"] if way == "argument" else []), CONVOKE_PORT=port)
    message = str(end.value)
    assert repr(port) in message
    assert "65535" in message
    assert served == []


def test_host_and_port_come_from_the_environment(
    monkeypatch: pytest.MonkeyPatch, served: list[tuple[str, int]]
) -> None:
    """An argument comes first; the link that Kubernetes sets under the same name is ignored."""
    first, second = free_port(), free_port()
    start(monkeypatch, CONVOKE_HOST="0.0.0.0", CONVOKE_PORT=str(first))
    start(monkeypatch, "--host", "127.0.0.1", "--port", str(second))
    assert served == [("0.0.0.0", first), ("127.0.0.1", second)]
    start(monkeypatch, "--port", "0", CONVOKE_PORT="tcp://10.0.0.1:3000")
    assert len(served) == 3


@pytest.mark.parametrize(
    ("name", "value"), [("CONVOKE_PORT", "abc"), ("CONVOKE_HOST", "no..name"), ("BENTOML_HOME", "/proc/nothing")]
)
def test_in_a_container_every_reason_is_a_line_of_json(
    monkeypatch: pytest.MonkeyPatch,
    served: list[tuple[str, int]],
    capsys: pytest.CaptureFixture[str],
    name: str,
    value: str,
) -> None:
    """A variable with nonsense, and a root that is read-only without a volume at /tmp, are named in one line."""
    with pytest.raises(SystemExit) as end:
        start(monkeypatch, **{"CONVOKE_PORT": "0", "CONVOKE_LOG_FORMAT": "json", name: value})
    assert end.value.code == 1
    (line,) = capsys.readouterr().out.splitlines()
    assert value in json.loads(line)["message"]
    assert served == []
