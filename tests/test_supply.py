"""The supply chain: lock files with hashes and without addresses, known vulnerabilities, the bill of materials."""

import datetime as dt
import json
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator

from requirements import audit

ROOT = Path(__file__).resolve().parents[1]
LOCKS = sorted((ROOT / "requirements").glob("*.txt"))
TODAY = dt.date(2026, 6, 1)

# Assembled from parts, so that this file itself does not match.
_HOSTS = ["py" + r"pi\.(org|python)", "python" + "hosted", "npm" + r"js\.(org|com)", "index" + "-url="]
REGISTRIES = re.compile("|".join(_HOSTS))
HOMES = re.compile(r"(?<![\w.~$}*-])/(?:home|root|Users)/\w")


def tracked() -> list[Path]:
    """The text files of the repository."""
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=True).stdout
    paths = [ROOT / name for name in listed.decode().split("\0") if name]
    return [path for path in paths if path.is_file() and b"\0" not in path.read_bytes()[:8192]]


@pytest.mark.parametrize("lock", LOCKS, ids=lambda lock: lock.stem)
def test_every_locked_package_has_hashes(lock: Path) -> None:
    """Each requirement has one version and at least one SHA-256, so that no other file can be installed."""
    text = lock.read_text(encoding="utf-8")
    entries = re.split(r"\n(?=[^\s#])", re.sub(r"^\s*#.*\n", "", text, flags=re.MULTILINE).strip())
    assert len(entries) == len(re.findall(r"^[A-Za-z0-9]", text, re.MULTILINE)) > 0
    for entry in entries:
        assert re.match(r"[A-Za-z0-9._-]+(\[[a-z0-9,-]+\])?==[^ ]+ (; [^\\]+ )?\\\n", entry), entry
        assert re.search(r"--hash=sha256:[0-9a-f]{64}", entry), entry
        assert "://" not in entry


def test_no_file_holds_a_registry_or_home_address() -> None:
    """The repository installs from any configured index, and works in any folder."""
    matches = [
        f"{path.relative_to(ROOT)}: {match[0]}"
        for path in tracked()
        for pattern in (REGISTRIES, HOMES)
        for match in [pattern.search(path.read_text(encoding="utf-8", errors="replace"))]
        if match
    ]
    assert not matches


def test_no_graph_holds_source_paths() -> None:
    """The exporter can record source lines with the paths of its machine; published graphs have none."""
    graphs = list((ROOT / "models").rglob("*.onnx"))
    assert graphs
    for graph in graphs:
        content = graph.read_bytes()
        assert not [text for text in (b"stack_trace", b"site-packages", b'.py", line') if text in content], graph


def test_the_patterns_match_addresses() -> None:
    """The patterns of the test above match addresses of registries and homes, and nothing else."""
    for host in ("https://files.python" + "hosted.org/x", "https://py" + "pi.org/simple", "--index" + "-url=x"):
        assert REGISTRIES.search(host)
    assert all(HOMES.search(text) for text in ("open('/home" + "/me/x')", "cd /root" + "/x", "HOME=/Users" + "/me"))
    assert not HOMES.search("models/home/x and ~/home")


class Osv(BaseHTTPRequestHandler):
    """A server with OSV's interface that knows one vulnerability, in idna."""

    def do_POST(self) -> None:
        request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        ranges = [{"type": "ECOSYSTEM", "events": [{"introduced": "0"}, {"fixed": "99.1"}]}]
        affected = [{"package": request["package"], "ranges": ranges}]
        entry = {"id": "PYSEC-1", "aliases": ["CVE-1"], "summary": "a vulnerability", "affected": affected}
        body = json.dumps({"vulns": [entry]} if request["package"]["name"] == "idna" else {}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture(scope="module")
def osv() -> Iterator[str]:
    """The address of a local server with OSV's interface."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), Osv)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/v1/query"
    server.shutdown()
    server.server_close()


def audited(tmp_path: Path, osv_url: str, lock: str, exceptions: str = "") -> subprocess.CompletedProcess[str]:
    """Run the program of `make audit` on one lock file."""
    (tmp_path / "lock.txt").write_text(lock, encoding="utf-8")
    (tmp_path / "exceptions.toml").write_text(exceptions, encoding="utf-8")
    program = ROOT / "requirements/audit.py"
    return subprocess.run(
        [sys.executable, program, "lock.txt", "--exceptions", "exceptions.toml", "--osv-url", osv_url],
        cwd=tmp_path, capture_output=True, text=True, check=False, timeout=120,
    )  # fmt: skip


def test_a_known_vulnerability_fails_the_audit(osv: str, tmp_path: Path) -> None:
    """Its package, version, ids and fixed version are printed; a package without vulnerabilities is not."""
    completed = audited(tmp_path, osv, "idna==3.20 ; python_version < '3' \\\n    --hash=sha256:0\nsix==1.17.0 \\\n")
    assert completed.returncode == 1, completed.stderr
    assert re.search(r"idna 3\.20: CVE-1, PYSEC-1,.* 99\.1\n", completed.stdout)
    assert "six" not in completed.stdout
    assert "packages: 2, vulnerabilities: 1, exceptions: 0" in completed.stdout


def test_an_excepted_vulnerability_passes(osv: str, tmp_path: Path) -> None:
    """A vulnerability with an exception for any of its ids passes the audit."""
    entry = '[CVE-1]\npackage = "idna"\nreason = "it is never called"\nuntil = 2999-01-01\n'
    completed = audited(tmp_path, osv, "idna==3.20 \\\n", entry)
    assert completed.returncode == 0, completed.stdout + completed.stderr
    assert "vulnerabilities: 0, exceptions: 1" in completed.stdout


def test_an_unreachable_osv_is_reported(tmp_path: Path) -> None:
    """If OSV cannot be reached, the program prints that nothing was audited, and succeeds."""
    completed = audited(tmp_path, "http://127.0.0.1:9/", "idna==3.20 \\\n")
    assert completed.returncode == 0, completed.stderr
    assert completed.stdout.startswith("NOT AUDITED: OSV cannot be reached; 1 packages")


def test_the_exceptions_are_valid() -> None:
    """The repository's exceptions have all keys."""
    audit.read_exceptions(audit.EXCEPTIONS, TODAY)


@pytest.mark.parametrize(
    "entry",
    [
        '[X]\npackage = "a"\nreason = "it is not called"\n',
        '[X]\npackage = "a"\nuntil = 2999-01-01\n',
        '[X]\npackage = "a"\nreason = "no"\nuntil = 2999-01-01\n',
        '[X]\npackage = "a"\nreason = "it is not called"\nuntil = "soon"\n',
    ],
)
def test_an_incomplete_exception_is_refused(entry: str, tmp_path: Path) -> None:
    """An exception needs a package, a reason in words, and a date."""
    path = tmp_path / "exceptions.toml"
    path.write_text(entry, encoding="utf-8")
    with pytest.raises(ValueError, match=r"exceptions\.toml: X: "):
        audit.read_exceptions(path, TODAY)


def test_an_expired_exception_does_not_count(tmp_path: Path) -> None:
    """The date of an exception is its last day."""
    path = tmp_path / "exceptions.toml"
    path.write_text('[X]\npackage = "a"\nreason = "it is not called"\nuntil = 2026-06-01\n', encoding="utf-8")
    assert audit.read_exceptions(path, TODAY) == {"X": "a"}
    assert audit.read_exceptions(path, TODAY + dt.timedelta(days=1)) == {}


def test_an_exception_is_for_one_package() -> None:
    """The same vulnerability in another package remains, and unused exceptions are reported."""
    first = audit.Vulnerability("a", "1", frozenset({"X", "Y"}), ())
    second = audit.Vulnerability("b", "1", frozenset({"X"}), ())
    assert audit.apply_exceptions([first, second], {"Y": "a", "Z": "c"}) == ([second], ["Z"])


def test_every_locked_package_is_queried() -> None:
    """With any marker, and in every locked version."""
    text = (ROOT / "requirements/dev.txt").read_text(encoding="utf-8")
    locked = audit.pins(text)
    assert len(locked) == len(re.findall(r"^[A-Za-z0-9]", text, re.MULTILINE))
    split = [pin for table in audit.split_by_name(locked) for pin in table.items()]
    assert sorted(split) == sorted(locked)


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The Python of an environment with one package."""
    folder = tmp_path_factory.mktemp("environment")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", "--symlinks", folder], check=True)
    (site,) = folder.glob("lib/python*/site-packages")
    info = site / "something-1.2.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: something\nVersion: 1.2\n", encoding="utf-8")
    return folder / "bin/python"


def test_the_bill_of_materials_is_valid_and_reproducible(environment: Path, tmp_path: Path) -> None:
    """It is CycloneDX 1.6, lists Convoke and the installed packages, has no local paths, and is the same every time."""
    tool = Path(sys.executable).with_name("cyclonedx-py")
    documents = []
    for name in ("one/bom.json", "two/bom.json"):
        subprocess.run(
            ["sh", ROOT / "requirements/sbom.sh", tool, environment, tmp_path / name, "--no-validate"],
            check=True, timeout=120, capture_output=True,
        )  # fmt: skip
        documents.append((tmp_path / name).read_text(encoding="utf-8"))
    assert documents[0] == documents[1]
    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(documents[0]) is None
    content = json.loads(documents[0])
    assert content["metadata"]["component"]["name"] == "convoke"
    assert [(part["name"], part["version"], part["purl"]) for part in content["components"]] == [
        ("something", "1.2", "pkg:pypi/something@1.2")
    ]
    assert str(ROOT) not in documents[0]
    assert str(environment.parent) not in documents[0]
