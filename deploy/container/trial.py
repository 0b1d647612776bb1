"""Runs an image of buildah's store under runc, as a cluster would, and checks what docs/container.md says of it.

The root is read-only, the user is a number that is not the image's own, and the limits are one processor and 512 MiB.
`deploy/container/try` builds the image and starts this program, which exits with 1 if a check fails.
"""

import argparse
import http.client
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from deploy.traffic import Traffic

ROOT = Path(__file__).resolve().parents[2]
USER = 12345
MEMORY_BYTES = 512 << 20
DRAIN_S = 4
MAX_BEYOND_BASE_MB = 350
MAX_PEAK_MIB = 268
PHOTO = """
import io, sys
from PIL import Image
noise = Image.effect_noise((400, 300), 60).resize((4000, 3000)).convert("RGB")
noise.save(sys.stdout.buffer, "JPEG", quality=90)
"""
ORPHAN = """
import os, time
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        time.sleep(0.5)
    os._exit(0)
"""
WRITABLE = 0o022  # by the group or by others


class Checks:
    """Prints each check as it is made, and counts those that fail."""

    def __init__(self) -> None:
        self.failed = 0

    def __call__(self, holds: object, text: str) -> None:
        """Print a check; what does not hold fails the trial."""
        self.failed += not holds
        print(f"{'ok    ' if holds else 'FAILED'} {text}", flush=True)


def command(*args: str | Path, data: bytes | None = None) -> bytes:
    """The output of a program.

    Raises:
        subprocess.CalledProcessError: it failed.
    """
    return subprocess.run([str(arg) for arg in args], input=data, stdout=subprocess.PIPE, check=True).stdout


class Container:
    """A container that runc runs from an unpacked image."""

    def __init__(self, image: str, folder: Path) -> None:
        self.name = f"convoke-try-{os.getpid()}"
        self.bundle = folder / self.name
        self.log = folder / "container.log"
        self.models = self.bundle / "models"
        self.bundle.mkdir(parents=True)
        self._build = command("buildah", "from", image).decode().strip()
        self.root = Path(command("buildah", "mount", self._build).decode().strip())
        inspected = json.loads(command("buildah", "inspect", "--type", "image", image))
        self.config: dict[str, Any] = inspected["Docker"]["config"]
        self.port = _free_port()

    def start(self, *, mount_models: bool, **environment: str) -> None:
        """Start it, with its own models or those in `self.models`."""
        path = self.bundle / "config.json"
        path.unlink(missing_ok=True)
        command("runc", "spec", "--bundle", self.bundle)
        spec = json.loads(path.read_text())
        env = [*self.config["Env"], f"CONVOKE_PORT={self.port}", "CONVOKE_HOST=127.0.0.1"]
        env += [f"{name}={value}" for name, value in environment.items()]
        spec["process"].update(
            terminal=False, user={"uid": USER, "gid": USER}, args=self.config["Entrypoint"], env=env,
            cwd=self.config["WorkingDir"], capabilities={}, noNewPrivileges=True,
        )  # fmt: skip
        spec["process"]["rlimits"] = []
        spec["root"] = {"path": str(self.root), "readonly": True}
        spec["mounts"].append({
            "destination": "/tmp", "type": "tmpfs", "source": "tmpfs",
            "options": ["nosuid", "nodev", "noexec", "mode=1777", "size=64m"],
        })  # fmt: skip
        spec["mounts"].append({  # as every runtime does
            "destination": "/etc/hosts", "type": "bind", "source": "/etc/hosts", "options": ["bind", "ro"],
        })  # fmt: skip
        if mount_models:
            spec["mounts"].append({
                "destination": "/models", "type": "bind", "source": str(self.models), "options": ["rbind", "ro"],
            })  # fmt: skip
        spec["linux"]["namespaces"] = [kind for kind in spec["linux"]["namespaces"] if kind["type"] != "network"]
        spec["linux"]["cgroupsPath"] = f"/{self.name}"
        spec["linux"]["resources"].update(
            memory={"limit": MEMORY_BYTES, "swap": MEMORY_BYTES}, cpu={"quota": 100_000, "period": 100_000}
        )
        path.write_text(json.dumps(spec))
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                ["runc", "run", "--bundle", self.bundle, self.name], stdout=log, stderr=log, stdin=subprocess.DEVNULL
            )

    def request(self, method: str, path: str, body: bytes | None = None, kind: str = "") -> tuple[int, bytes]:
        """Status and body of a response; status 0 if nothing answers."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        try:
            connection.request(method, path, body, {"Content-Type": kind} if kind else {})
            response = connection.getresponse()
            return response.status, response.read()
        except (OSError, http.client.HTTPException):
            return 0, b""
        finally:
            connection.close()

    def label(self, model: str, body: bytes, kind: str) -> str:
        """The label of an item."""
        status, answer = self.request("POST", f"/classify/{model}", body, kind)
        return str(json.loads(answer)["predictions"][0]["label"]) if status == http.HTTPStatus.OK else answer.decode()

    def wait(self, condition: Callable[[], bool], seconds: float = 60) -> float:
        """The seconds until a condition holds; infinite if it does not hold in time, or the container ends."""
        start = time.monotonic()
        while time.monotonic() - start < seconds and self._process.poll() is None:
            if condition():
                return time.monotonic() - start
            time.sleep(0.02)
        return float("inf")

    def is_ready(self) -> bool:
        """Whether /readyz answers 200."""
        return self.request("GET", "/readyz")[0] == http.HTTPStatus.OK

    def execute(self, *args: str, check: bool = True) -> subprocess.CompletedProcess[bytes]:
        """Run a program inside."""
        return subprocess.run(["runc", "exec", self.name, *args], capture_output=True, check=check)

    def processes(self) -> dict[int, str]:
        """The processes inside, as this machine numbers them, the first one first, and the state of each."""
        pids = sorted(json.loads(command("runc", "ps", "--format", "json", self.name)))
        status = {pid: Path(f"/proc/{pid}/status").read_text() for pid in pids if Path(f"/proc/{pid}").exists()}
        return {pid: text.split("State:")[1].split()[0] for pid, text in status.items()}

    def peak_mib(self) -> float:
        """The largest resident memory of a process inside, so far."""
        return max(_high_water_kib(pid) for pid in self.processes()) / 1024

    def terminate(self) -> int:
        """Send SIGTERM, and return the status with which the container ends."""
        subprocess.run(["runc", "kill", self.name, "TERM"], check=False)
        return self._process.wait(60)

    def remove(self) -> None:
        """Stop and remove it, and what was unpacked."""
        subprocess.run(["runc", "delete", "--force", self.name], stderr=subprocess.DEVNULL, check=False)
        command("buildah", "rm", self._build)
        shutil.rmtree(self.bundle, ignore_errors=True)


def main() -> None:
    """Make all checks."""
    parser = argparse.ArgumentParser(prog="python -m deploy.container.trial", description=__doc__)
    parser.add_argument("image", help="name of the image in buildah's store")
    parser.add_argument("--base", default="", help="name of its base, for the size")
    parser.add_argument("--folder", type=Path, required=True, help="where the container's log is written")
    args = parser.parse_args()
    check = Checks()
    container = Container(args.image, args.folder)
    try:
        inspect(check, container, args.image, args.base)
        start(check, container)
        classify(check, container)
        replace_worker(check, container)
        stop(check, container)
        check_log(check, container)
    finally:
        container.remove()
    print(f"{check.failed} checks failed; the container's log is {container.log}")
    sys.exit(check.failed > 0)


def inspect(check: Checks, container: Container, image: str, base: str) -> None:
    """The image as it lies on the disk."""
    size = _size_mb(image)
    print(f"       size: {size:.0f} MB")
    if base:
        check(size - _size_mb(base) <= MAX_BEYOND_BASE_MB, f"beyond its base: {size - _size_mb(base):.0f} MB")
    config, root = container.config, container.root
    check(config["User"].split(":")[0].isdecimal(), f"user: {config['User']}")
    check(config.get("Healthcheck"), f"health check: {config.get('Healthcheck', {}).get('Test')}")
    labels = {key.rpartition(".")[2]: value for key, value in config["Labels"].items() if "opencontainers" in key}
    check({"version", "revision"} <= set(labels), f"labels: {labels}")
    tools = [tool for tool in ("gcc", "cc", "git", "pip", "pip3", "uv", "curl") if shutil.which(tool, path=_path(root))]
    packages = list((root / "opt/convoke/lib").glob("python3.*/site-packages/*"))
    tools += [path.name for path in packages if path.name in {"torch", "pip", "training"}]
    check(not tools, f"neither compiler nor pip, torch or git: {tools or 'none'}")
    ours = [path for folder in ("app", "opt/convoke", "models") for path in (root / folder).rglob("*")]
    states = [path.lstat() for path in ours if not path.is_symlink()]
    open_ = [state for state in states if state.st_uid or state.st_gid or state.st_mode & WRITABLE]
    check(not open_, f"{len(ours)} files, owned by root, none writable")
    sources = [path for path in ours if path.suffix == ".py" and "site-packages" in path.parts]
    compiled = sum(1 for path in sources if list((path.parent / "__pycache__").glob(f"{path.stem}.cpython-*.pyc")))
    command(sys.executable, "-m", "requirements.image", root, bill := container.log.with_name("image.cdx.json"))
    packages = json.loads(bill.read_text())["components"]
    check(packages, f"bill of materials: {len(packages)} packages in {bill}")
    check(compiled > 0.99 * len(sources), f"bytecode for {compiled} of {len(sources)} modules")


def start(check: Checks, container: Container) -> None:
    """Models inside, then models in a mounted folder, as a volume holds them."""
    for source in (ROOT / "models").iterdir():
        shutil.copytree(source, container.models / source.name)
    (container.models / "lost+found").mkdir(mode=0o700)
    begin = time.monotonic()
    container.start(mount_models=False)
    container.wait(lambda: container.request("GET", "/livez")[0] == http.HTTPStatus.OK)
    alive_s = time.monotonic() - begin
    ready_s = alive_s + container.wait(container.is_ready)
    check(ready_s < float("inf"), f"with its own models alive after {alive_s:.1f} s, ready after {ready_s:.1f} s")
    check(container.terminate() == 0, "SIGTERM ends it with status 0")
    container.start(mount_models=True, CONVOKE_DRAIN_S=str(DRAIN_S))
    check(container.wait(container.is_ready) < float("inf"), "with mounted models, beside lost+found, ready")
    probe = container.execute("python", "-m", "service.health", check=False)
    check(probe.returncode == 0, f"the health check passes: {probe.stderr.decode() or 'status 0'}")
    writable = container.execute("sh", "-c", "touch /tmp/x && ! touch /app/x && ! touch /models/x", check=False)
    check(writable.returncode == 0, "only /tmp can be written")


def classify(check: Checks, container: Container) -> None:
    """An item of each model, a version that is added, and the memory under large photos."""
    seven, cat = (ROOT / "examples/seven.png").read_bytes(), (ROOT / "examples/cat.jpg").read_bytes()
    photo = container.execute("python", "-c", PHOTO).stdout
    answers = {
        "digits": container.label("digits", seven, "image/png"),
        "cats-vs-dogs": container.label("cats-vs-dogs", cat, "image/jpeg"),
        "reviews": container.label("reviews", b"A warm, funny film that earns every one of its tears.", "text/plain"),
    }
    check(list(answers.values()) == ["7", "cat", "positive"], f"labels: {answers}")
    with Traffic(container.port, "/classify/cats-vs-dogs", photo, clients=8) as traffic:
        time.sleep(8)
    check(not traffic.result.lost, f"photos of 12 million pixels, 8 clients, 8 s: {traffic.result}")
    check(container.peak_mib() <= MAX_PEAK_MIB, f"peak memory of the worker: {container.peak_mib():.0f} MiB")
    new = container.models / "digits/.new"
    shutil.copytree(container.models / "digits/1", new)
    manifest = json.loads((new / "manifest.json").read_text())
    (new / "manifest.json").write_text(json.dumps({**manifest, "version": 2}))
    new.rename(container.models / "digits/2")
    seconds = container.wait(
        lambda: json.loads(container.request("GET", "/models/digits")[1] or b"{}").get("version") == "2"
    )
    check(seconds < float("inf"), f"a version added to the mounted folder is served after {seconds:.1f} s")


def replace_worker(check: Checks, container: Container) -> None:
    """A worker is killed, and a process is left to the first one."""
    worker = max(container.processes())
    os.kill(worker, signal.SIGKILL)
    seconds = container.wait(lambda: worker not in container.processes() and container.is_ready())
    check(seconds < float("inf"), f"a killed worker is replaced, and ready, after {seconds:.1f} s")
    container.execute("python", "-c", ORPHAN)
    seconds = container.wait(lambda: len(container.processes()) == 2, 10)  # noqa: PLR2004 -- server and worker
    check(seconds < float("inf"), f"an orphan is reaped after {seconds:.1f} s; states: {container.processes()}")


def stop(check: Checks, container: Container) -> None:
    """SIGTERM under load loses nothing."""
    seven = (ROOT / "examples/seven.png").read_bytes()
    with Traffic(container.port, "/classify/digits", seven, clients=16, pause_s=0.05) as traffic:
        time.sleep(2)
        begin = time.monotonic()
        status = container.terminate()
        seconds = time.monotonic() - begin
        traffic.stop()
    check(status == 0, f"SIGTERM under load ends it after {seconds:.1f} s with status {status}")
    check(not traffic.result.lost, f"meanwhile: {traffic.result}")


def check_log(check: Checks, container: Container) -> None:
    """Each line of the log is JSON, from the first on."""
    lines = container.log.read_text().splitlines()
    others = [line for line in lines if not line.startswith('{"time":')]
    check(lines and not others, f"{len(lines)} log lines, all JSON{': ' + others[0] if others else ''}")
    print(lines[0][:160])


def _size_mb(image: str) -> float:
    return float(json.loads(command("buildah", "images", "--json", image))[0]["size"].split()[0])


def _path(root: Path) -> str:
    return os.pathsep.join(str(root / folder) for folder in ("usr/bin", "bin", "usr/local/bin", "opt/convoke/bin"))


def _high_water_kib(pid: int) -> int:
    return int(Path(f"/proc/{pid}/status").read_text().split("VmHWM:")[1].split()[0])


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


if __name__ == "__main__":
    main()
