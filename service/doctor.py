"""`python -m service.doctor`: what this machine has for the service, and what to do about what is missing.

Each line is ok, a warning, or wrong; the exit status is 1 if anything is wrong. `--json` prints the same as JSON. It
opens every served version as the service does, with the same settings, but starts no server.
"""

import argparse
import importlib.util
import json
import os
import platform
import resource
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

import onnxruntime as ort

from contract import batches, processors, providers
from contract.errors import ConvokeError
from contract.manifest import GOLDEN
from service import __version__, settings
from service.bulk.scoring import find_version
from service.inference.version import Version, open_version
from service.settings import Settings, SettingsError

State = Literal["ok", "warning", "wrong"]

MIN_FREE_BYTES = 512 << 20
MIN_SHM_BYTES = 64 << 20
MIN_FILES = 1024
_TIMED_S = 0.2
_SIZES = (1, 8, 32)


@dataclass(frozen=True)
class Finding:
    """One line: what was looked at, its state, what is there, and what to do, if anything."""

    name: str
    state: State
    found: str
    todo: str = ""

    def __str__(self) -> str:
        todo = f"\n         {self.todo}" if self.todo else ""
        return f"{self.state:<8} {self.name}: {self.found}{todo}"


def examine(chosen: Settings, *, timed_s: float) -> Iterator[Finding]:
    """All findings, as they are made.

    Args:
        chosen: the settings of the service.
        timed_s: how long each batch size of each model is timed.
    """
    yield _versions()
    yield from _processors(chosen)
    yield from _gpu(chosen)
    yield from _memory(chosen)
    yield from _files()
    yield from _writable(chosen)
    yield from _models(chosen, timed_s)


def _versions() -> Finding:
    parts = [f"Convoke {__version__}", f"Python {platform.python_version()}", f"ONNX Runtime {ort.__version__}"]
    return Finding("versions", "ok", ", ".join([*parts, f"{platform.system()} {platform.machine()}"]))


def _processors(chosen: Settings) -> Iterator[Finding]:
    usable, all_ = processors.count(), os.cpu_count() or 1
    found = f"{usable} of {all_} may be used; {chosen.workers} workers, {chosen.decode_threads} decoding threads each"
    if chosen.workers > usable:
        todo = f"set CONVOKE_WORKERS to at most {usable}: workers that share a processor wait for each other"
        yield Finding("processors", "warning", found, todo)
    else:
        yield Finding("processors", "ok", found)


def _gpu(chosen: Settings) -> Iterator[Finding]:
    """Driver, build, libraries of CUDA, cuDNN and TensorRT, and the provider that the settings select."""
    driver = _driver()
    available = ort.get_available_providers()
    if chosen.provider == "auto" and providers.has_unused_cuda():
        yield Finding("NVIDIA driver", "warning", providers.NO_GPU, providers.GET_GPU)
    else:
        yield Finding("NVIDIA driver", "ok", driver or "none; the processors are used")
    if providers.CUDA in available:
        for name, library in (("CUDA and cuDNN", providers.CUDA), ("TensorRT", providers.TENSORRT)):
            is_needed = chosen.provider == "tensorrt" or (library == providers.CUDA and bool(driver))
            fault = providers.load_error(library) if is_needed and chosen.provider != "cpu" else ""
            todo = "install requirements/serve-cuda.txt" if library == providers.CUDA else "install TensorRT 10"
            found = fault or ("its libraries load" if is_needed else "not needed")
            yield Finding(name, "wrong" if fault else "ok", found, todo if fault else "")
    elif driver and chosen.provider == "auto":
        yield Finding(
            "ONNX Runtime's build", "warning", f"for processors: {', '.join(available)}",
            "there is a GPU: install requirements/serve-cuda.txt (rm .venv/serve.ready, then make serve), or set "
            "CONVOKE_PROVIDER=cpu",
        )  # fmt: skip
    try:
        selected = providers.choose(chosen.provider)
        yield Finding("execution provider", "ok", f"{selected} by CONVOKE_PROVIDER={chosen.provider}")
    except ConvokeError as error:
        yield Finding("execution provider", "wrong", str(error), "or set CONVOKE_PROVIDER=cpu")
    if driver:
        yield _gpu_memory()


def _driver() -> str:
    """The version of NVIDIA's driver and the names of the GPUs; empty without a driver."""
    if importlib.util.find_spec("pynvml") is None:
        return "installed" if providers.has_nvidia_driver() else ""
    import pynvml  # noqa: PLC0415 -- BentoML depends on it

    try:
        pynvml.nvmlInit()
        names = [
            str(pynvml.nvmlDeviceGetName(pynvml.nvmlDeviceGetHandleByIndex(index)))
            for index in range(pynvml.nvmlDeviceGetCount())
        ]
        return f"{pynvml.nvmlSystemGetDriverVersion()}: {', '.join(names) or 'no GPU'}"
    except pynvml.NVMLError as error:
        return f"installed, but does not answer: {error}" if providers.has_nvidia_driver() else ""


def _gpu_memory() -> Finding:
    import pynvml  # noqa: PLC0415

    try:
        memory = pynvml.nvmlDeviceGetMemoryInfo(pynvml.nvmlDeviceGetHandleByIndex(0))
    except pynvml.NVMLError as error:
        return Finding("GPU memory", "warning", f"unknown: {error}", "check nvidia-smi")
    found = f"{_mib(memory.free)} of {_mib(memory.total)} free"
    if memory.free < 2 * MIN_FREE_BYTES:
        return Finding("GPU memory", "warning", found, "end other programs on the GPU")
    return Finding("GPU memory", "ok", found)


def _memory(chosen: Settings) -> Iterator[Finding]:
    """Memory that may be used, within the cgroup's limit, and shared memory."""
    free = _free_bytes()
    needed = MIN_FREE_BYTES * chosen.workers
    todo = f"give it {_mib(needed)}, {_mib(MIN_FREE_BYTES)} for each worker"
    yield Finding("memory", "ok" if free >= needed else "warning", f"{_mib(free)} free", "" if free >= needed else todo)
    shared = Path("/dev/shm")  # noqa: S108 -- it is looked at
    if shared.is_dir():
        free = shutil.disk_usage(shared).free
        todo = "" if free >= MIN_SHM_BYTES else "start the container with --shm-size 64m or more"
        yield Finding(str(shared), "warning" if todo else "ok", f"{_mib(free)} free", todo)


def _free_bytes() -> int:
    lines = Path("/proc/meminfo")
    free = 1 << 62
    if lines.exists():
        values = dict(line.split(":") for line in lines.read_text().splitlines())
        free = int(values["MemAvailable"].split()[0]) << 10
    for limit, used in (
        ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory.current"),
        ("/sys/fs/cgroup/memory/memory.limit_in_bytes", "/sys/fs/cgroup/memory/memory.usage_in_bytes"),
    ):
        try:
            free = min(free, int(Path(limit).read_text()) - int(Path(used).read_text()))
        except (OSError, ValueError):
            continue
    return free


def _files() -> Iterator[Finding]:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    todo = "" if soft >= MIN_FILES else f"raise it: ulimit -n {MIN_FILES}; each connection takes one"
    yield Finding("open files", "warning" if todo else "ok", f"{soft} (at most {hard})", todo)


def _writable(chosen: Settings) -> Iterator[Finding]:
    """The folders that the service writes to."""
    folders = {"temporary folder": Path(tempfile.gettempdir())}
    folders["BENTOML_HOME"] = Path(os.environ.get("BENTOML_HOME", "~/bentoml")).expanduser()
    if chosen.provider == "tensorrt":
        folders["CONVOKE_ENGINE_CACHE"] = chosen.engine_cache.expanduser()
    for name, folder in folders.items():
        fault = _write_fault(folder)
        yield Finding(
            f"{name} {folder}", "wrong" if fault else "ok", fault or f"writable, {_mib(_free_disk(folder))} free",
            f"mount a volume there, or set {name if name.isupper() else 'TMPDIR'}" if fault else "",
        )  # fmt: skip


def _free_disk(folder: Path) -> int:
    return shutil.disk_usage(_existing(folder)).free


def _existing(folder: Path) -> Path:
    return next(path for path in (folder, *folder.parents) if path.exists())


def _write_fault(folder: Path) -> str:
    """Why nothing can be written to a folder that exists, or could be made; empty if it can."""
    existing = _existing(folder)
    if not existing.is_dir():
        return f"cannot be written: {existing} is a file"
    try:
        with tempfile.TemporaryFile(dir=existing) as file:
            file.write(b"x")
    except OSError as error:
        return f"cannot be written: {error.strerror or error}"
    return ""


def _models(chosen: Settings, timed_s: float) -> Iterator[Finding]:
    """The folder, and of each model the version that would be served: opened, replayed and timed."""
    try:
        names = sorted({path.parent.parent.name for path in chosen.models.glob("*/*/manifest.json")})
    except OSError as error:
        yield Finding(f"models {chosen.models}", "wrong", f"cannot be read: {error}", "set CONVOKE_MODELS")
        return
    if not names:
        todo = "set CONVOKE_MODELS to a folder with NAME/VERSION/manifest.json"
        yield Finding(f"models {chosen.models}", "wrong", "no model", todo)
        return
    yield Finding(f"models {chosen.models}", "ok", ", ".join(names))
    for name in names:
        try:
            start = time.perf_counter()
            version = open_version(find_version(chosen, name), chosen)
            version.session.replay(chosen.models / name / version.number)
        except ConvokeError as error:
            yield Finding(f"model {name}", "wrong", str(error), "publish the version again, or remove its folder")
            continue
        session, seconds = version.session, time.perf_counter() - start
        yield Finding(
            f"model {name}", "ok", f"version {version.number}, {session.precision}, {session.provider}; opened in "
            f"{seconds:.2f} s; {GOLDEN} replayed",
        )  # fmt: skip
        rates = ", ".join(f"{size}: {rate:,.0f}" for size, rate in _throughput(version, timed_s))
        yield Finding(f"model {name}", "ok", f"items a second by batch size, one run at a time: {rates}")


def _throughput(version: Version, timed_s: float) -> Iterator[tuple[int, float]]:
    for size in sorted({min(size, version.manifest.max_batch) for size in _SIZES}):
        batch = batches.example(version.manifest.input, size)
        start, runs = time.perf_counter(), 0
        while not runs or time.perf_counter() - start < timed_s:
            version.session.run(batch)
            runs += 1
        yield size, runs * size / (time.perf_counter() - start)


def _mib(size: int) -> str:
    return f"{size >> 20:,} MiB"


def main() -> None:
    """Print the findings; exit with 1 if something is wrong."""
    parser = argparse.ArgumentParser(prog="python -m service.doctor", description=__doc__)
    parser.add_argument("--json", action="store_true", help="print a list of objects")
    args = parser.parse_args()
    findings: list[Finding] = []

    def show(finding: Finding) -> None:
        findings.append(finding)
        if not args.json:
            print(finding, flush=True)

    try:
        for finding in examine(settings.from_environment(), timed_s=_TIMED_S):
            show(finding)
    except SettingsError as error:
        show(Finding("settings", "wrong", str(error), "correct the variable; docs/settings.md lists all"))
    if args.json:
        print(json.dumps([asdict(finding) for finding in findings], indent=2))
    sys.exit(any(finding.state == "wrong" for finding in findings))


if __name__ == "__main__":
    main()
