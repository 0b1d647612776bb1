"""A rolling update and a killed worker on this machine, under constant load: what a cluster does, without one.

    python -m deploy.rollout [--python PYTHON]

Three replicas stand behind a balancer: HAProxy in TCP mode, which knows nothing of requests, as kube-proxy; HAProxy in
HTTP mode, with health checks; and nginx with retries. Each replica is replaced: its successor starts, becomes ready and
joins; then the old one gets SIGTERM and leaves the balancer two seconds later, as an endpoint leaves the nodes of a
cluster. At the end a worker is killed. Prints what became of the requests, and exits with 1 if an update failed one,
or the kill more than those in flight.
"""

import argparse
import contextlib
import http.client
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

from deploy.traffic import Traffic

ROOT = Path(__file__).resolve().parents[1]
REPLICAS, CLIENTS = 3, 16
DRAIN_S = 6
LEAVES_AFTER_S = 2.0
READY_TIMEOUT_S = 300.0


class Replica:
    """One server with one worker."""

    def __init__(self, python: str, folder: Path, port: int) -> None:
        self.port = port
        environment = {
            **os.environ, "CONVOKE_DRAIN_S": str(DRAIN_S), "CONVOKE_ACCESS_LOG": "false", "CONVOKE_LOG_FORMAT": "json",
            "BENTOML_HOME": str(folder / str(self.port)), "PYTHONPATH": str(ROOT), "CONVOKE_PROVIDER": "cpu",
            "CONVOKE_WORKERS": "1",
        }  # fmt: skip
        self.log = (folder / f"{self.port}.log").open("wb")
        self.process = subprocess.Popen(
            [python, "-m", "service", "--port", str(self.port)],
            cwd=ROOT,
            env=environment,
            stdout=self.log,
            stderr=self.log,
        )

    def wait_until_ready(self) -> None:
        """Wait until it answers.

        Raises:
            TimeoutError: it does not become ready.
        """
        wait_until_ready(self.port)

    def kill_worker(self) -> None:
        """End its worker as the kernel does when memory runs out."""
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text().split()
        os.kill(int(children[-1]), signal.SIGKILL)

    def stop(self) -> None:
        """Send SIGTERM and wait for the end."""
        self.process.send_signal(signal.SIGTERM)
        self.process.wait(DRAIN_S + 60)
        self.log.close()


def wait_until_ready(port: int) -> None:
    """Wait until /readyz answers 200.

    Raises:
        TimeoutError: it does not.
    """
    end = time.monotonic() + READY_TIMEOUT_S
    while time.monotonic() < end:
        with (
            contextlib.suppress(OSError, http.client.HTTPException),
            urllib.request.urlopen(f"http://127.0.0.1:{port}/readyz", timeout=5),
        ):
            return
        time.sleep(0.1)
    raise TimeoutError(f"port {port} is not ready after {READY_TIMEOUT_S:.0f} s")


def _free_port() -> int:
    """A free port that the system does not give to outgoing connections, of which there are many."""
    for port in random.sample(range(10_000, 30_000), 100):
        with contextlib.suppress(OSError), socket.socket() as probe:
            probe.bind(("127.0.0.1", port))
            return port
    raise OSError("no port is free")


class Balancer:
    """A proxy that knows the ports of all replicas."""

    name, program = "", "haproxy"

    def __init__(self, folder: Path, ports: list[int]) -> None:
        self.port = _free_port()
        self._folder, self._ports = folder, ports
        self._process = subprocess.Popen(self._command(), stderr=subprocess.DEVNULL)
        self._wait_until_it_listens()

    def _wait_until_it_listens(self) -> None:
        while self._process.poll() is None:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port)):
                return
            time.sleep(0.1)
        raise OSError(f"{self.program} ended with status {self._process.returncode}")

    def _command(self) -> list[str]:
        """Write the configuration and return the command."""
        raise NotImplementedError

    def use(self, ports: list[int]) -> None:
        """Send new connections to these replicas; those with health checks or retries find them by themselves."""

    def close(self) -> None:
        """End it, with its connections."""
        self._process.terminate()
        self._process.wait(30)


class Tcp(Balancer):
    """HAProxy without knowledge of requests: a connection goes to the next replica, or to another if it is refused."""

    name = "TCP (HAProxy)"
    server, settings, backend = "disabled", "mode tcp\n  option redispatch 1\n  retries 3", ""

    def _command(self) -> list[str]:
        servers = "\n".join(f"  server s{port} 127.0.0.1:{port} {self.server}" for port in self._ports)
        config = self._folder / "haproxy.cfg"
        config.write_text(
            f"global\n  stats socket {self._folder}/haproxy level admin\n"
            f"defaults\n  {self.settings}\n  timeout connect 5s\n  timeout client 60s\n  timeout server 60s\n"
            "  timeout check 5s\n"
            f"frontend f\n  bind 127.0.0.1:{self.port}\n  default_backend b\n"
            f"backend b\n{self.backend}{servers}\n"
        )
        return ["haproxy", "-db", "-f", str(config)]

    def use(self, ports: list[int]) -> None:
        """Send new connections to these replicas, as the endpoints of a Service."""
        for port in self._ports:
            state = "ready" if port in ports else "maint"
            with socket.socket(socket.AF_UNIX) as control:
                control.connect(str(self._folder / "haproxy"))
                control.sendall(f"set server b/s{port} state {state}\n".encode())
                control.recv(1024)


class Http(Tcp):
    """HAProxy with health checks, by which it finds the replicas that are ready."""

    name = "HTTP (HAProxy)"
    server, backend = "check inter 500ms", "  option httpchk GET /readyz\n"
    settings = Tcp.settings.replace("tcp", "http") + "\n  retry-on conn-failure empty-response 503"

    def use(self, ports: list[int]) -> None:
        """Nothing: the checks find them."""


class Nginx(Balancer):
    """nginx as docs/operations.md configures it, over several replicas: it has no checks, and tries another one."""

    name, program = "nginx", "nginx"

    def _command(self) -> list[str]:
        kinds = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
        temporary = "".join(f"{kind}_temp_path {self._folder}/{kind};" for kind in kinds)
        servers = "".join(f"server 127.0.0.1:{port};" for port in self._ports)
        config = self._folder / "nginx.conf"
        config.write_text(
            f"daemon off; pid {self._folder}/pid; events {{}}\n"
            f"http {{ access_log off; {temporary}\n"
            f"upstream convoke {{ {servers} keepalive 64; }}\n"
            f"server {{ listen 127.0.0.1:{self.port}; location / {{\n"
            'proxy_pass http://convoke; proxy_http_version 1.1; proxy_set_header Connection "";\n'
            "client_body_buffer_size 1m; proxy_next_upstream error timeout http_503 non_idempotent;\n}}\n}\n"
        )
        return ["nginx", "-e", str(self._folder / "nginx.log"), "-c", str(config)]


@contextlib.contextmanager
def replicas(python: str, folder: Path) -> Iterator[list[Replica]]:
    """Ready replicas, which end with the block."""
    started = [Replica(python, folder, _free_port()) for _ in range(REPLICAS)]
    try:
        for replica in started:
            replica.wait_until_ready()
        yield started
    finally:
        for replica in started:
            replica.process.terminate()  # it ends its worker


def rehearse(balancer: Balancer, running: list[Replica], python: str, folder: Path, ports: list[int]) -> int:
    """A rolling update, then a killed worker; the number of rehearsals that lost too much."""
    digit = (ROOT / "examples/seven.png").read_bytes()
    balancer.use([replica.port for replica in running])
    wait_until_ready(balancer.port)
    with Traffic(balancer.port, "/classify/digits", digit, clients=CLIENTS, pause_s=0.1) as traffic:
        time.sleep(2)
        for old, port in zip(list(running), ports, strict=True):
            new = Replica(python, folder, port)
            running.append(new)
            new.wait_until_ready()
            balancer.use([replica.port for replica in running])
            old.process.send_signal(signal.SIGTERM)
            time.sleep(LEAVES_AFTER_S)
            running.remove(old)
            balancer.use([replica.port for replica in running])
            old.process.wait(DRAIN_S + 60)
        time.sleep(2)
    update = traffic.result
    print(f"{balancer.name}, rolling update of {REPLICAS}: {update}", flush=True)
    with Traffic(balancer.port, "/classify/digits", digit, clients=CLIENTS, pause_s=0.1) as traffic:
        time.sleep(2)
        start = time.monotonic()
        running[0].kill_worker()
        running[0].wait_until_ready()
        seconds = time.monotonic() - start
        time.sleep(2)
    killed = traffic.result
    print(f"{balancer.name}, a killed worker: {killed}; replaced after {seconds:.1f} s", flush=True)
    return bool(update.failed) + (killed.failed > CLIENTS)


def main() -> None:
    """Rehearse in each mode."""
    parser = argparse.ArgumentParser(
        prog="python -m deploy.rollout", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--python", default=sys.executable, help="of the serving environment (default: this one)")
    args = parser.parse_args()
    modes: list[type[Balancer]] = [mode for mode in (Tcp, Http, Nginx) if shutil.which(mode.program)]
    if missing := {Tcp.program, Nginx.program} - {mode.program for mode in modes}:
        print(f"left out, because they are not installed: {', '.join(sorted(missing))}")
    failed = 0
    with tempfile.TemporaryDirectory() as name, replicas(args.python, Path(name)) as running:
        for mode in modes:
            ports = [_free_port() for _ in range(REPLICAS)]
            balancer = mode(Path(name), [*(replica.port for replica in running), *ports])
            try:
                failed += rehearse(balancer, running, args.python, Path(name), ports)
            finally:
                balancer.close()
    sys.exit(failed > 0)


if __name__ == "__main__":
    main()
