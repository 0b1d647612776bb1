"""Triton with its Python backend over the ONNX file of the digits: dynamic batching, tensors in and out.

`install` puts a whole Triton (the wheel nvidia-pytriton) into a Debian of its own below .venv/, because the wheel needs
a newer C library than many machines have; it takes root, `debootstrap`, a Python 3.12 and some minutes, once.
`python -m ... PORT FOLDER` writes the model repository and then becomes the server. The folders that it mounts are seen
by its own processes only, and vanish with them.
"""

import json
import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path

_FOLDER = Path(__file__).resolve().parent
_LOCK = _FOLDER.parents[1] / "requirements/triton.txt"
_ENVIRONMENTS = Path(sys.prefix).parent
_ROOT = _ENVIRONMENTS / "triton"
_READY = _ENVIRONMENTS / "triton.ready"
_LIBRARIES = "ca-certificates,libgomp1,libssl3t64,libffi8,libsqlite3-0,zlib1g,libbz2-1.0,liblzma5,libexpat1"
_PLATFORM = "x86_64-manylinux_2_40"
_PREFIX = Path("/python")
_PACKAGES = _PREFIX / "lib/python3.12/site-packages"
_TRITON = _PACKAGES / "pytriton/tritonserver"
_CONFIGURATION = """
name: "digits"
backend: "python"
max_batch_size: 256
input [ { name: "image" data_type: TYPE_UINT8 dims: [28, 28, 1] } ]
output [ { name: "probabilities" data_type: TYPE_FP32 dims: [10] } ]
dynamic_batching { max_queue_delay_microseconds: 100 }
instance_group [ { count: %d kind: KIND_CPU } ]
"""
_START = """
root=$1; models=$2; shift 2
mount --rbind /dev "$root/dev"
mount --bind /proc "$root/proc"
mount --bind "$models" "$root/models"
exec chroot "$root" "$@"
"""


class UnavailableError(Exception):
    """Triton cannot be installed on this machine; the message says why."""


def is_installed() -> bool:
    """Whether Triton is installed with the present lock file."""
    return _READY.exists() and _READY.stat().st_mtime >= _LOCK.stat().st_mtime


def install() -> None:
    """Install Triton below .venv/, unless it is installed.

    Raises:
        UnavailableError: this machine lacks something, or a step failed.
    """
    if is_installed():
        return
    if os.geteuid() != 0:
        raise UnavailableError("Triton is run in a root of its own, for which `make bench` must run as root")
    missing = [name for name in ("debootstrap", "unshare", "chroot") if shutil.which(name) is None]
    if missing:
        raise UnavailableError(f"Triton needs {', '.join(missing)}: apt-get install debootstrap util-linux coreutils")
    prefix = _python_prefix()
    shutil.rmtree(_ROOT, ignore_errors=True)
    _run("debootstrap", "--variant=minbase", f"--include={_LIBRARIES}", "trixie", str(_ROOT))
    (_ROOT / "models").mkdir()
    for name in ("bin", "lib"):
        shutil.copytree(prefix / name, _inside(_PREFIX) / name, symlinks=True)
    shutil.rmtree(_inside(_PACKAGES))
    _run(
        str(_ENVIRONMENTS / "uv/bin/uv"), "pip", "install", "--quiet", "--require-hashes", "--only-binary", ":all:",
        "--python", str(prefix / "bin/python3.12"), "--python-platform", _PLATFORM,
        "--target", str(_inside(_PACKAGES)), "--requirements", str(_LOCK),
    )  # fmt: skip
    stub = "triton_python_backend_stub"
    shutil.copy2(_inside(_TRITON) / "python_backend_stubs/3.12" / stub, _inside(_TRITON) / "backends/python" / stub)
    _READY.touch()


def _python_prefix() -> Path:
    """The prefix of a Python 3.12 that can be copied: it has a folder of its own and a shared library."""
    python = os.environ.get("PYTHON312", "python3.12")
    command = [python, "-c", "import sys; print(sys.base_prefix)"]
    try:
        output = subprocess.check_output(
            command, env={**os.environ, "PYENV_VERSION": "3.12"}, text=True, stderr=subprocess.DEVNULL
        )
    except (OSError, subprocess.CalledProcessError):
        raise UnavailableError(
            "Triton needs Python 3.12: put it on the path or set PYTHON312=/path/to/python3.12"
        ) from None
    prefix = Path(output.strip())
    if not (prefix / "lib/libpython3.12.so.1.0").exists():
        message = f"Triton needs a Python 3.12 with a shared library in a folder of its own; {prefix} has none"
        raise UnavailableError(f"{message}. Set PYTHON312 to another, such as one that pyenv or uv has installed")
    return prefix


def _run(*command: str) -> None:
    completed = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    if completed.returncode:
        lines = (completed.stderr.strip() or completed.stdout.strip()).splitlines()[-3:]
        raise UnavailableError(f"Triton cannot be installed: {Path(command[0]).name} failed: {' '.join(lines)}")


def _inside(path: Path) -> Path:
    """Where a path of Triton's root is seen from outside."""
    return _ROOT / path.relative_to("/")


def main() -> None:
    """Write the model repository and replace this process by Triton."""
    port, folder = sys.argv[1], Path(sys.argv[2])
    version = folder / "digits/1"
    version.mkdir(parents=True)
    shutil.copy(_FOLDER / "triton_model.py", version / "model.py")
    shutil.copy(_graph(Path(json.loads(os.environ["BENCH_MODELS"])["digits"])), version / "model.onnx")
    configuration = _CONFIGURATION % int(os.environ["BENCH_WORKERS"])
    (folder / "digits/config.pbtxt").write_text(configuration, encoding="utf-8")
    environment = {
        "BENCH_THREADS": os.environ["BENCH_THREADS"],
        "LD_LIBRARY_PATH": f"{_PACKAGES}/nvidia_pytriton.libs:{_PREFIX}/lib",
        "ORT_DISABLE_TELEMETRY": "1",
        "PATH": f"{_PREFIX}/bin:/usr/bin:/bin",
        "PYTHONHOME": str(_PREFIX),
    }
    ports = zip(("http", "grpc", "metrics"), (port, _free_port(), _free_port()), strict=True)
    addresses = [f"--{name}-{key}={value}" for name, number in ports
                 for key, value in (("address", "127.0.0.1"), ("port", number))]  # fmt: skip
    command = [
        "unshare", "--mount", "sh", "-eu", "-c", _START, "sh", str(_ROOT), str(folder),
        "env", *(f"{name}={value}" for name, value in environment.items()), f"{_TRITON}/bin/tritonserver",
        "--log-info=false", "--model-repository=/models", f"--backend-directory={_TRITON}/backends", *addresses,
    ]  # fmt: skip
    os.execvp(command[0], command)


def _graph(folder: Path) -> Path:
    """The version's graph in the precision that is measured."""
    manifest = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
    graphs = {variant["precision"]: variant["graph"] for variant in manifest.get("variants", [])}
    return folder / str(graphs.get(os.environ["BENCH_PRECISION"], "model.onnx"))


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


if __name__ == "__main__":
    main()
