"""What a machine has for the service, by the settings of the service."""

import importlib.util
import os
import platform
import resource
import shutil
import socket
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import onnxruntime as ort

from contract import batches, processors, providers
from contract.errors import ConvokeError
from contract.manifest import GOLDEN, MANIFEST
from service import __version__, settings
from service.bulk.scoring import find_version
from service.doctor.finding import Finding
from service.http import keys
from service.inference.version import Version, open_version
from service.server import files
from service.settings import Settings, SettingsError

MIN_FREE_BYTES = 512 << 20
MIN_SHM_BYTES = 64 << 20
_SIZES = (1, 8, 32)


def examine(chosen: Settings, *, timed_s: float) -> Iterator[Finding]:
    """All findings, as they are made.

    Args:
        chosen: the settings of the service.
        timed_s: how long each batch size of each model is timed.
    """
    for name, check in (
        ("versions", _versions()), ("processors", _processors(chosen)), ("GPU", _gpu(chosen)),
        ("memory", _memory(chosen)), ("open files", _files(chosen)), ("folders", _writable(chosen)),
        ("API keys", _keys(chosen)), ("address", _address()), ("models", _models(chosen, timed_s)),
    ):  # fmt: skip
        try:
            yield from check
        except Exception as error:  # noqa: BLE001 -- the other findings are printed whatever happens
            found = f"could not be examined: {type(error).__name__}: {error}"
            yield Finding(name, "wrong", found, "mend what the message names; if that is not it, report it as a bug")


def _versions() -> Iterator[Finding]:
    parts = [f"Convoke {__version__}", f"Python {platform.python_version()}", f"ONNX Runtime {ort.__version__}"]
    yield Finding("versions", "ok", ", ".join([*parts, f"{platform.system()} {platform.machine()}"]))


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
        free, fault = shutil.disk_usage(shared).free, _write_fault(shared)
        todo = "" if free >= MIN_SHM_BYTES and not fault else "start the container with --shm-size 64m or more"
        yield Finding(str(shared), "warning" if todo else "ok", fault or f"{_mib(free)} free", todo)


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


def _files(chosen: Settings) -> Iterator[Finding]:
    """The limit of open files: the service raises the soft one; each connection takes a file."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    usable = soft if hard == resource.RLIM_INFINITY else max(hard, soft)
    fitting = min(usable - files.RESERVED, chosen.max_connections)
    found = f"{usable:,} may be open in a worker, which is enough for {max(fitting, 0):,} connections"
    wanted = chosen.max_connections + files.RESERVED
    todo = f"raise the limit to {wanted}: ulimit -n, LimitNOFILE of systemd, --ulimit nofile of Docker"
    if fitting < 1:
        yield Finding("open files", "wrong", found, todo)
    elif fitting < chosen.max_connections:
        yield Finding("open files", "warning", found, f"{todo}; or lower CONVOKE_MAX_CONNECTIONS")
    else:
        yield Finding("open files", "ok", found)


def _writable(chosen: Settings) -> Iterator[Finding]:
    """The folders that the service writes to."""
    wanted = os.environ.get("TMPDIR")
    if wanted and Path(wanted).absolute() != Path(tempfile.gettempdir()).absolute():
        fault = _write_fault(Path(wanted)) or "cannot be used"
        found = f"{fault}; {tempfile.gettempdir()} is used instead"
        yield Finding(f"TMPDIR {wanted}", "warning", found, "make it writable, or set TMPDIR to another folder")
    folders = {"temporary folder": Path(tempfile.gettempdir())}
    folders["BENTOML_HOME"] = Path(os.environ.get("BENTOML_HOME", "~/bentoml")).expanduser()
    if chosen.feedback_dir is not None:
        folders["CONVOKE_FEEDBACK_DIR"] = chosen.feedback_dir
    if chosen.provider == "tensorrt":
        folders["CONVOKE_ENGINE_CACHE"] = chosen.engine_cache.expanduser()
    for name, folder in folders.items():
        fault = _write_fault(folder)
        yield Finding(
            f"{name} {folder}", "wrong" if fault else "ok", fault or f"writable, {_mib(_free_disk(folder))} free",
            f"mount a volume there, or set {name if name.isupper() else 'TMPDIR'} to another folder" if fault else "",
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


def _keys(chosen: Settings) -> Iterator[Finding]:
    if chosen.api_keys_file is None:
        yield Finding("API keys", "ok", "none: everyone who reaches the port may send requests")
        return
    try:
        yield Finding("API keys", "ok", f"{len(keys.read(chosen.api_keys_file))} in {chosen.api_keys_file}")
    except SettingsError as error:
        yield Finding("API keys", "wrong", str(error), "python -m service.keys writes the file")


def _address() -> Iterator[Finding]:
    """Whether the port is free; the service that runs already takes it, too."""
    host, port = os.environ.get("CONVOKE_HOST") or "127.0.0.1", os.environ.get("CONVOKE_PORT") or "3000"
    if "://" in port:  # Kubernetes sets it for a Service that is called convoke
        port = "3000"
    name = f"address {host}:{port}"
    try:
        number = settings.port(port)
    except SettingsError as error:
        yield Finding(name, "wrong", str(error), "correct CONVOKE_PORT")
        return
    try:
        family, kind, _, _, target = socket.getaddrinfo(host, number, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(target)
    except (OSError, UnicodeError) as error:
        todo = "choose another CONVOKE_HOST or CONVOKE_PORT, unless it is the service itself that listens there"
        yield Finding(name, "warning", f"cannot be used: {getattr(error, 'strerror', None) or error}", todo)
    else:
        yield Finding(name, "ok", "free")


def _models(chosen: Settings, timed_s: float) -> Iterator[Finding]:
    """The folder, and of each model the version that would be served: opened, replayed and timed."""
    fault, names = _folder_of_models(chosen.models)
    if fault:
        todo = "set CONVOKE_MODELS to a folder with NAME/VERSION/manifest.json that the service may read"
        yield Finding(f"models {chosen.models}", "wrong", fault, todo)
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
            f"{seconds:.2f} s; its answers are those in {GOLDEN}",
        )  # fmt: skip
        rates = ", ".join(f"{rate:,.0f} (batches of {size})" for size, rate in _throughput(version, timed_s))
        yield Finding(f"model {name}", "ok", f"items a second, by one thread: {rates}")


def _folder_of_models(folder: Path) -> tuple[str, list[str]]:
    """What is wrong with the folder of models, or nothing, and the names of those with a manifest."""
    try:
        entries = sorted(path.name for path in folder.iterdir() if not path.name.startswith("."))
    except NotADirectoryError:
        return "is a file; expected a folder", []
    except FileNotFoundError:
        return "does not exist", []
    except OSError as error:
        return f"cannot be read: {error.strerror or error}", []
    names = sorted({path.parent.parent.name for path in folder.glob(f"*/*/{MANIFEST}")})
    if not names:
        held = f"it holds {', '.join(entries[:5])}" if entries else "it is empty"
        return f"no model: no {MANIFEST} at NAME/VERSION that can be read; {held}", []
    return "", names


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
