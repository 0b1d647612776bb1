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
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from deploy.traffic import Traffic

ROOT = Path(__file__).resolve().parents[2]
USER = 12345
MEMORY_BYTES = 512 << 20
DRAIN_S = 4
MAX_BEYOND_BASE_MB = 350
MAX_PEAK_MIB = 268
MAX_START_FACTOR = 1.5
READY_S = 120.0
SERVE = Path(".venv/serve/bin/python")
SLOW_BYTES_PER_S = 8 << 20
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

    def start(self, mounts: Mapping[str, Path] | None = None, **environment: str) -> None:
        """Start it.

        Args:
            mounts: folder inside -> folder of this machine, read-only.
            environment: variables beside those of the image.
        """
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
        for target, source in {
            "/etc/hosts": Path("/etc/hosts"),
            **(mounts or {}),
        }.items():  # hosts: every runtime has it
            options = ["rbind" if source.is_dir() else "bind", "ro"]
            spec["mounts"].append({"destination": target, "type": "bind", "source": str(source), "options": options})
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
        return _send(self.port, method, path, body, kind)

    def label(self, model: str, body: bytes, kind: str) -> str:
        """The label of an item."""
        status, answer = self.request("POST", f"/classify/{model}", body, kind)
        return str(json.loads(answer)["predictions"][0]["label"]) if status == http.HTTPStatus.OK else answer.decode()

    def wait(self, condition: Callable[[], bool], seconds: float = READY_S) -> float:
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
        mount(check, container)
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
    size = size_mb(image)
    print(f"       size: {size:.0f} MB")
    if base:
        check(size - size_mb(base) <= MAX_BEYOND_BASE_MB, f"beyond its base: {size - size_mb(base):.0f} MB")
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
    """Models inside, beside the start of `make serve` on this machine; then models in a mounted folder."""
    for source in (ROOT / "models").iterdir():
        shutil.copytree(source, container.models / source.name)
    (container.models / "lost+found").mkdir(mode=0o700)
    ready_s, outside_s = float("inf"), float("inf")
    for _ in range(2):  # the better of two, since other programs run, too
        outside_s = min(outside_s, start_outside())
        begin = time.monotonic()
        container.start()
        container.wait(lambda: container.request("GET", "/livez")[0] == http.HTTPStatus.OK)
        alive_s = time.monotonic() - begin
        ready_s = min(ready_s, alive_s + container.wait(container.is_ready))
        check(container.terminate() == 0, f"alive after {alive_s:.1f} s with its own models; SIGTERM ends it, status 0")
    if outside_s < float("inf"):
        limit_s = MAX_START_FACTOR * outside_s
        check(ready_s <= limit_s, f"ready after {ready_s:.1f} s; on one processor outside after {outside_s:.1f} s")
    else:
        check(ready_s < float("inf"), f"ready after {ready_s:.1f} s; not compared, since `make serve` was never run")
    container.start({"/models": container.models}, CONVOKE_DRAIN_S=str(DRAIN_S))
    check(container.wait(container.is_ready) < float("inf"), "with mounted models, beside lost+found, ready")
    probe = container.execute("python", "-m", "service.health", check=False)
    check(probe.returncode == 0, f"the health check passes: {probe.stderr.decode() or 'status 0'}")
    writable = container.execute("sh", "-c", "touch /tmp/x && ! touch /app/x && ! touch /models/x", check=False)
    check(writable.returncode == 0, "only /tmp can be written")


def start_outside() -> float:
    """Seconds until the service is ready on this machine, on one processor; infinite if it is not installed."""
    python, port = ROOT / SERVE, _free_port()
    if not python.exists():
        return float("inf")
    begin = time.monotonic()
    process = subprocess.Popen(
        ["taskset", "-c", str(max(os.sched_getaffinity(0))), python, "-m", "service", "--port", str(port)],
        cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        env={**os.environ, "BENTOML_DO_NOT_TRACK": "True", "CONVOKE_LOG_FORMAT": "json"},
    )  # fmt: skip
    try:
        while process.poll() is None and time.monotonic() - begin < READY_S:
            if _send(port, "GET", "/readyz")[0] == http.HTTPStatus.OK:
                return time.monotonic() - begin
            time.sleep(0.02)
        return float("inf")
    finally:
        process.terminate()
        process.wait(60)


def mount(check: Checks, container: Container) -> None:
    """Models as clusters mount them: links of a ConfigMap, KServe's link to another root, a slow FUSE file system."""
    folder = container.bundle / "layouts"
    config, link, slow = folder / "config", folder / "mnt", folder / "slow"
    version = config / "digits/1"
    shutil.copytree(ROOT / "models/digits/1", version / "..2026_11_30_08_00_00.1")
    (version / "..data").symlink_to("..2026_11_30_08_00_00.1")
    for path in (version / "..data").iterdir():
        (version / path.name).symlink_to(f"..data/{path.name}")
    link.mkdir()
    (link / "models").symlink_to("/proc/1/root/models")  # as KServe's modelcars do, with the id of their process
    slow.mkdir()
    try_models(check, container, "a ConfigMap's links", {"/models": config})
    try_models(check, container, "KServe's link at /mnt/models", {"/mnt": link}, CONVOKE_MODELS="/mnt/models")
    closed = Path(shutil.copytree(ROOT / "models/digits", folder / "closed/digits"))
    closed.chmod(0o700)
    container.start({"/models": closed.parent})
    container.wait(lambda: container.request("GET", "/livez")[0] == http.HTTPStatus.OK)
    container.wait(lambda: f"{closed.name} cannot be read" in container.log.read_text())
    check(not container.is_ready(), "with a folder that its user may not read it is alive, and not ready")
    closed.chmod(0o755)
    seconds = container.wait(container.is_ready)
    check(seconds < float("inf"), f"ready {seconds:.1f} s after the permission was given, without a restart")
    check(container.terminate() == 0, "SIGTERM ends it with status 0")
    if shutil.which("bindfs") is None:
        print("       skipped: a slow FUSE mount needs Debian's bindfs")
        return
    command("bindfs", "-o", "ro,allow_other", f"--read-rate={SLOW_BYTES_PER_S}", ROOT / "models", slow)
    try:
        try_models(check, container, f"a FUSE mount of {SLOW_BYTES_PER_S >> 20} MiB/s", {"/models": slow})
    finally:
        command("umount", "-l", slow)


def try_models(check: Checks, container: Container, name: str, mounts: Mapping[str, Path], **environment: str) -> None:
    """Start with a mounted folder, classify a digit, and end."""
    container.start(mounts, **environment)
    alive_s = container.wait(lambda: container.request("GET", "/livez")[0] == http.HTTPStatus.OK)
    ready_s = alive_s + container.wait(container.is_ready)
    label = container.label("digits", (ROOT / "examples/seven.png").read_bytes(), "image/png")
    check(label == "7", f"models by {name}: alive after {alive_s:.1f} s, ready after {ready_s:.1f} s, answer {label}")
    check(container.terminate() == 0, "SIGTERM ends it with status 0")


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


def size_mb(image: str) -> float:
    """The size of an image in MB; buildah gives it in the largest unit that fits."""
    number, unit = json.loads(command("buildah", "images", "--json", image))[0]["size"].split()
    return float(number) * {"B": 1e-6, "KB": 1e-3, "MB": 1, "GB": 1e3}[unit.upper()]


def _path(root: Path) -> str:
    return os.pathsep.join(str(root / folder) for folder in ("usr/bin", "bin", "usr/local/bin", "opt/convoke/bin"))


def _high_water_kib(pid: int) -> int:
    return int(Path(f"/proc/{pid}/status").read_text().split("VmHWM:")[1].split()[0])


def _send(port: int, method: str, path: str, body: bytes | None = None, kind: str = "") -> tuple[int, bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    try:
        connection.request(method, path, body, {"Content-Type": kind} if kind else {})
        response = connection.getresponse()
        return response.status, response.read()
    except (OSError, http.client.HTTPException):
        return 0, b""
    finally:
        connection.close()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


if __name__ == "__main__":
    main()
