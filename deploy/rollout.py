"""A rolling update and a killed worker on this machine, under constant load: what a cluster does, without one.

    python -m deploy.rollout [--python PYTHON]

Three replicas stand behind a balancer. In TCP mode it connects each new connection to the next replica and knows
nothing of requests, as kube-proxy does; in HTTP mode it is HAProxy with health checks, if it is installed. Each replica
is replaced: its successor starts, becomes ready and joins; then the old one gets SIGTERM and leaves the balancer two
seconds later, as an endpoint leaves the nodes of a cluster. At the end a worker is killed. Prints what became of the
requests, and exits with 1 if an update lost one, or the kill lost more than those in flight.
"""

import argparse
import asyncio
import contextlib
import itertools
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.error
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

    def is_ready(self) -> bool:
        """Whether /readyz answers 200."""
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/readyz", timeout=5) as response:
                return bool(response.status == 200)  # noqa: PLR2004
        except (urllib.error.URLError, OSError):
            return False

    def wait_until_ready(self) -> None:
        """Wait until it answers.

        Raises:
            TimeoutError: it does not become ready.
        """
        end = time.monotonic() + READY_TIMEOUT_S
        while not self.is_ready():
            if time.monotonic() > end:
                raise TimeoutError(f"the replica on port {self.port} is not ready; its log: {self.log.name}")
            time.sleep(0.1)

    def kill_worker(self) -> None:
        """End its worker as the kernel does when memory runs out."""
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text().split()
        os.kill(int(children[-1]), signal.SIGKILL)

    def stop(self) -> None:
        """Send SIGTERM and wait for the end."""
        self.process.send_signal(signal.SIGTERM)
        self.process.wait(DRAIN_S + 60)
        self.log.close()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class TcpBalancer:
    """Connects each new connection to the next replica, in a thread of its own."""

    name = "TCP"

    def __init__(self, _folder: Path, _ports: list[int]) -> None:
        self.port = 0
        self._targets: list[int] = []
        self._turn = itertools.count()
        self._loop = asyncio.new_event_loop()
        started = threading.Event()
        threading.Thread(target=self._run, args=(started,), daemon=True).start()
        started.wait()

    def use(self, ports: list[int]) -> None:
        """Send new connections to these replicas."""
        self._targets = list(ports)

    def close(self) -> None:
        """End it, with its connections."""
        self._loop.call_soon_threadsafe(self._cancel)

    def _cancel(self) -> None:
        for task in asyncio.all_tasks(self._loop):
            task.cancel()
        self._loop.call_later(0.5, self._loop.stop)

    def _run(self, started: threading.Event) -> None:
        asyncio.set_event_loop(self._loop)
        server = self._loop.run_until_complete(asyncio.start_server(self._connect, "127.0.0.1", 0, backlog=1024))
        self.port = server.sockets[0].getsockname()[1]
        started.set()
        self._loop.run_forever()

    async def _connect(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        target = self._targets[next(self._turn) % len(self._targets)]
        try:
            other_reader, other_writer = await asyncio.open_connection("127.0.0.1", target)
        except OSError:
            writer.transport.abort()
            return
        with contextlib.suppress(asyncio.CancelledError):  # at the end of the rehearsal
            await asyncio.gather(_copy(reader, other_writer), _copy(other_reader, writer))


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError):
        while data := await reader.read(1 << 16):
            writer.write(data)
            await writer.drain()
    writer.close()


class HttpBalancer:
    """HAProxy, which knows all ports and finds by its health checks on which of them a replica is ready."""

    name = "HTTP (HAProxy)"

    def __init__(self, folder: Path, ports: list[int]) -> None:
        self.port = _free_port()
        servers = "\n".join(f"  server s{port} 127.0.0.1:{port} check inter 500ms" for port in ports)
        config = folder / "haproxy.cfg"
        config.write_text(
            "defaults\n  mode http\n  timeout connect 5s\n  timeout client 60s\n  timeout server 60s\n"
            "  retries 3\n  option redispatch\n  retry-on conn-failure empty-response 503\n"
            f"frontend f\n  bind 127.0.0.1:{self.port}\n  default_backend b\n"
            f"backend b\n  option httpchk GET /readyz\n{servers}\n"
        )
        self._process = subprocess.Popen(["haproxy", "-db", "-f", config], stderr=subprocess.DEVNULL)
        time.sleep(3)

    def use(self, ports: list[int]) -> None:
        """Nothing: the checks find the replicas."""

    def close(self) -> None:
        """End it."""
        self._process.terminate()
        self._process.wait(30)


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


def rehearse(
    balancer: TcpBalancer | HttpBalancer, running: list[Replica], python: str, folder: Path, ports: list[int]
) -> int:
    """A rolling update, then a killed worker; the number of rehearsals that lost too much."""
    digit = (ROOT / "examples/seven.png").read_bytes()
    balancer.use([replica.port for replica in running])
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
        running[0].kill_worker()
        running[0].wait_until_ready()
        time.sleep(2)
    killed = traffic.result
    print(f"{balancer.name}, a killed worker:         {killed}", flush=True)
    return bool(update.lost) + (sum(killed.lost.values()) > CLIENTS)


def main() -> None:
    """Rehearse in each mode."""
    parser = argparse.ArgumentParser(
        prog="python -m deploy.rollout", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--python", default=sys.executable, help="of the serving environment (default: this one)")
    args = parser.parse_args()
    modes: list[type[TcpBalancer | HttpBalancer]] = [TcpBalancer]
    if shutil.which("haproxy"):
        modes.append(HttpBalancer)
    else:
        print("skipped: HTTP mode, because haproxy is not installed")
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
