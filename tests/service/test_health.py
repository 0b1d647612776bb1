"""`python -m service.health`: the health check of the container."""

import pytest

from service import health
from tests.serving import Server, free_port


def test_a_ready_service_is_healthy(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """The check reads address and port from the environment; 0.0.0.0 is this machine. It returns without an exit."""
    monkeypatch.setenv("CONVOKE_HOST", "0.0.0.0")
    monkeypatch.setenv("CONVOKE_PORT", str(server.port))
    health.main()


def test_a_service_that_does_not_answer_is_unhealthy(monkeypatch: pytest.MonkeyPatch) -> None:
    """The exit says which port does not answer."""
    port = free_port()
    monkeypatch.setenv("CONVOKE_HOST", "127.0.0.1")
    monkeypatch.setenv("CONVOKE_PORT", str(port))
    with pytest.raises(SystemExit, match=str(port)):
        health.main()


def test_a_service_that_is_not_ready_is_unhealthy(server: Server) -> None:
    """Another answer than 200 is a fault that names the status."""
    assert "404" in health.check("127.0.0.1", server.port, path="/nothing")


@pytest.mark.parametrize(("port", "expected"), [("tcp://10.0.0.1:3000", "3000"), ("", "3000"), ("abc", "'abc'")])
def test_the_port_is_a_number(monkeypatch: pytest.MonkeyPatch, port: str, expected: str) -> None:
    """What Kubernetes sets for a Service that is called convoke is left out, as by the service; else it is named."""
    monkeypatch.setenv("CONVOKE_PORT", port)
    monkeypatch.setattr(health, "check", lambda _host, port: f"port {port}")
    with pytest.raises(SystemExit, match=expected):
        health.main()
