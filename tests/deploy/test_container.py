"""The container image: what its files say. `deploy/container/try` builds and runs it, where the tools are."""

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator

from deploy.container import trial
from deploy.traffic import Traffic
from requirements import image
from service.settings import from_environment

ROOT = Path(__file__).resolve().parents[2]
CONTAINERFILE = (ROOT / "deploy/container/Containerfile").read_text(encoding="utf-8").replace("\\\n", " ")


def environment() -> dict[str, str]:
    """The variables that the image sets."""
    blocks = re.findall(r"^ENV (.*)$", CONTAINERFILE, re.MULTILINE)
    return dict(pair.split("=", 1) for block in blocks for pair in block.split())


def test_the_image_has_the_files_that_it_copies() -> None:
    """Each COPY takes a path that exists, and that .dockerignore lets through."""
    allowed = [line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")]
    sources = re.findall(r"^COPY (?!--from)(.+) \S+$", CONTAINERFILE, re.MULTILINE)
    paths = [
        path.replace("${VARIANT}", variant) for line in sources for path in line.split() for variant in ("cpu", "cuda")
    ]
    assert {"contract", "service", "models"} <= set(paths)
    for path in paths:
        assert (ROOT / path).exists()
        assert any(Path(path).match(pattern) for pattern in allowed), path


def test_the_settings_of_the_image_are_valid() -> None:
    """The variables are settings of the service; what it writes lies in /tmp, and the log is JSON."""
    chosen = from_environment({**environment(), "CONVOKE_MODELS": "/models"})
    assert chosen.log_format == "json"
    assert chosen.engine_cache.is_relative_to("/tmp")
    assert {environment()[name].split("/")[1] for name in ("HOME", "BENTOML_HOME")} == {"tmp"}


def test_the_user_is_a_number_and_the_entry_point_has_no_shell() -> None:
    """Kubernetes' runAsNonRoot needs a number, and a shell as the first process would not pass signals on."""
    assert re.search(r"^USER [1-9][0-9]*:[1-9][0-9]*$", CONTAINERFILE, re.MULTILINE)
    assert json.loads(re.findall(r"^ENTRYPOINT (.*)$", CONTAINERFILE, re.MULTILINE)[-1])
    assert re.search(r"^HEALTHCHECK .* CMD \[.*service.health.*\]$", CONTAINERFILE, re.MULTILINE)


@pytest.mark.parametrize(("variant", "package"), [("cpu", "onnxruntime"), ("cuda", "onnxruntime-gpu")])
def test_each_variant_has_one_onnx_runtime_of_one_version(variant: str, package: str) -> None:
    """The lock files differ in ONNX Runtime's build and CUDA's libraries alone; both are on every platform."""
    pin = re.compile(r"^([a-z][a-z0-9.-]*)==(\S+)(.*)\\$", re.MULTILINE)
    locks = {
        name: {package: (version, marker.strip()) for package, version, marker in pin.findall(path.read_text())}
        for name in ("cpu", "cuda")
        for path in [ROOT / f"requirements/serve-{name}.txt"]
    }
    versions = {name: version for name, version in locks[variant].items() if name.startswith("onnxruntime")}
    assert list(versions) == [package]
    assert versions[package] == (locks["cpu"]["onnxruntime"][0], "")
    others = [{name for name in lock if not name.startswith(("onnxruntime", "nvidia-"))} for lock in locks.values()]
    assert others[0] == others[1]


@pytest.mark.parametrize("works", ["docker", "podman", "buildah", ""])
def test_the_build_uses_the_tool_that_works(tmp_path: Path, works: str) -> None:
    """The first tool that answers is used; without any, the message names all three."""
    for tool in ("docker", "podman", "buildah"):
        program = tmp_path / tool
        program.write_text(f'#!/bin/sh\n[ $1 = info ] && exit {int(tool != works)}\necho {tool} "$@"\n')
        program.chmod(0o755)
    build = [str(ROOT / "deploy/container/build"), "--build-arg", "X=1"]
    system = {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}", "VARIANT": "cuda"}
    done = subprocess.run(build, env=system, capture_output=True, text=True, check=False)
    if works:
        assert done.returncode == 0, done.stderr
        assert f"{works} build" in done.stdout
        assert "--build-arg X=1" in done.stdout
        assert "VARIANT=cuda" in done.stdout
    else:
        assert done.returncode == 2
        assert all(tool in done.stderr for tool in ("docker", "podman", "buildah"))


def test_the_trial_says_what_is_missing(tmp_path: Path) -> None:
    """Without buildah and runc it is skipped with status 77, and names them."""
    for tool in ("id", "dirname", "sh", "python3", "debootstrap"):
        (tmp_path / tool).symlink_to(shutil.which(tool) or "/bin/true")
    done = subprocess.run(
        [shutil.which("sh") or "sh", str(ROOT / "deploy/container/try")],
        env={"PATH": str(tmp_path)}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 77
    assert "buildah runc" in done.stderr


@pytest.mark.parametrize(
    ("size", "expected"), [("512 B", 0.000512), ("97.6 kB", 0.0976), ("90.6 MB", 90.6), ("1.81 GB", 1810)]
)
def test_sizes_of_images_are_in_megabytes(monkeypatch: pytest.MonkeyPatch, size: str, expected: float) -> None:
    """Buildah chooses the unit by the size; the trial compares megabytes."""
    monkeypatch.setattr(trial, "command", lambda *_: json.dumps([{"size": size}]).encode())
    assert trial.size_mb("image") == pytest.approx(expected)


@pytest.fixture
def unpacked(tmp_path: Path) -> Path:
    """A small image: two Debian packages, one of them removed, and one Python package."""
    status = tmp_path / "var/lib/dpkg/status"
    status.parent.mkdir(parents=True)
    status.write_text(
        "Package: libc6\nStatus: install ok installed\nArchitecture: amd64\nSource: glibc (2.36-8)\n"
        "Version: 2.36-9+deb12u9\nDescription: C\n library\n"
        "\nPackage: gone\nStatus: deinstall ok config-files\nArchitecture: all\nVersion: 1\n"
    )
    package = tmp_path / "opt/convoke/lib/python3.11/site-packages/Some_Package-1.2.dist-info"
    package.mkdir(parents=True)
    (package / "METADATA").write_text("Metadata-Version: 2.1\nName: Some_Package\nVersion: 1.2\n")
    return tmp_path


@pytest.fixture
def osv() -> Iterator[str]:
    """The address of a server with OSV's interface that knows a vulnerability of glibc."""

    class Osv(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            queries = json.loads(self.rfile.read(int(self.headers["Content-Length"])))["queries"]
            vulnerable = [query["package"] == {"ecosystem": "Debian:12", "name": "glibc"} for query in queries]
            results = [{"vulns": [{"id": "DSA-1"}]} if known else {} for known in vulnerable]
            self.send_response(200)
            self.end_headers()
            self.wfile.write(json.dumps({"results": results}).encode())

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Osv)
    Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def test_the_bill_of_materials_has_all_packages(
    unpacked: Path, tmp_path: Path, osv: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """It is valid CycloneDX, the same each time, and a vulnerable Debian package makes the exit code 1."""
    file = tmp_path / "bill.json"
    monkeypatch.setattr(sys, "argv", ["image", str(unpacked), str(file), "--osv-url", osv])
    assert image.main() == 1
    first = file.read_text()
    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(first) is None
    assert [entry["name"] for entry in json.loads(first)["components"]] == ["libc6", "some-package"]
    assert "libc6 2.36-9+deb12u9: DSA-1" in capsys.readouterr().out
    assert image.bill(unpacked) == json.loads(first)


def test_an_image_that_cannot_be_audited_is_reported(
    unpacked: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Without OSV the bill is written, and the output says that nothing was audited."""
    monkeypatch.setattr(sys, "argv", ["image", str(unpacked), str(tmp_path / "b"), "--osv-url", "http://127.0.0.1:9"])
    assert image.main() == 0
    assert "NOT AUDITED" in capsys.readouterr().out


class Unreliable(BaseHTTPRequestHandler):
    """Answers 200, then 503, then closes the connection without an answer, and so on."""

    protocol_version = "HTTP/1.1"
    served = 0

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        Unreliable.served += 1
        if Unreliable.served % 3 == 0:
            self.close_connection = True
            return
        self.send_response(200 if Unreliable.served % 3 == 1 else 503)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


def test_the_traffic_counts_each_outcome() -> None:
    """Answers, other statuses, broken connections and refused ones are counted apart, and nothing is retried."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), Unreliable)
    Thread(target=server.serve_forever, daemon=True).start()
    with Traffic(server.server_port, "/", b"x", clients=1) as traffic:
        while traffic.result.sent < 9:
            pass
        server.shutdown()
        server.server_close()
        while not traffic.result.refused and not traffic.result.lost["ConnectionResetError"]:
            pass
    result = traffic.result
    assert result.statuses[200] - result.statuses[503] in {0, 1}
    assert result.statuses[503] >= 3
    assert result.lost["RemoteDisconnected"] >= 2
    assert result.sent == sum(result.statuses.values()) + sum(result.lost.values())
    assert result.failed == result.sent - result.statuses[200]
