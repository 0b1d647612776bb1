"""The supply chain: locks with hashes and no addresses, known holes, the bill of materials."""

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

# Put together here, so that this file does not hold what it looks for.
_HOSTS = ["py" + r"pi\.(org|python)", "python" + "hosted", "npm" + r"js\.(org|com)", "index" + "-url="]
REGISTRIES = re.compile("|".join(_HOSTS))
HOMES = re.compile(r"(?<![\w.~$}*-])/(?:home|root|Users)/\w")


def tracked() -> list[Path]:
    """The files of the repository that are text."""
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=True).stdout
    paths = [ROOT / name for name in listed.decode().split("\0") if name]
    return [path for path in paths if path.is_file() and b"\0" not in path.read_bytes()[:8192]]


@pytest.mark.parametrize("lock", LOCKS, ids=lambda lock: lock.stem)
def test_every_locked_package_has_hashes(lock: Path) -> None:
    """Each requirement is one version and at least one SHA-256, so that nothing else can be installed."""
    text = lock.read_text(encoding="utf-8")
    entries = re.split(r"\n(?=[^\s#])", re.sub(r"^\s*#.*\n", "", text, flags=re.MULTILINE).strip())
    assert len(entries) == len(re.findall(r"^[A-Za-z0-9]", text, re.MULTILINE)) > 0
    for entry in entries:
        assert re.match(r"[A-Za-z0-9._-]+(\[[a-z0-9,-]+\])?==[^ ]+ (; [^\\]+ )?\\\n", entry), entry
        assert re.search(r"--hash=sha256:[0-9a-f]{64}", entry), entry
        assert "://" not in entry


def test_no_file_holds_the_address_of_a_registry_or_of_a_home() -> None:
    """The repository installs from whatever index is configured, and lies wherever it is put."""
    found = [
        f"{path.relative_to(ROOT)}: {match[0]}"
        for path in tracked()
        for pattern in (REGISTRIES, HOMES)
        for match in [pattern.search(path.read_text(encoding="utf-8", errors="replace"))]
        if match
    ]
    assert not found


def test_no_graph_says_where_it_was_exported() -> None:
    """The exporter notes source lines under the paths of its machine; published graphs hold none."""
    graphs = list((ROOT / "models").rglob("*.onnx"))
    assert graphs
    for graph in graphs:
        content = graph.read_bytes()
        assert not [word for word in (b"stack_trace", b"site-packages", b'.py", line') if word in content], graph


def test_an_address_would_be_found() -> None:
    """What the test above looks for is what it says."""
    for host in ("https://files.python" + "hosted.org/x", "https://py" + "pi.org/simple", "--index" + "-url=x"):
        assert REGISTRIES.search(host)
    assert all(HOMES.search(text) for text in ("open('/home" + "/me/x')", "cd /root" + "/x", "HOME=/Users" + "/me"))
    assert not HOMES.search("models/home/x and ~/home")


class Osv(BaseHTTPRequestHandler):
    """Knows of one hole, in idna, and answers as OSV does."""

    def do_POST(self) -> None:
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        ranges = [{"type": "ECOSYSTEM", "events": [{"introduced": "0"}, {"fixed": "99.1"}]}]
        affected = [{"package": asked["package"], "ranges": ranges}]
        hole = {"id": "PYSEC-1", "aliases": ["CVE-1"], "summary": "a hole", "affected": affected}
        body = json.dumps({"vulns": [hole]} if asked["package"]["name"] == "idna" else {}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture(scope="module")
def osv() -> Iterator[str]:
    """The address of a listener on this machine that answers as OSV does."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), Osv)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/v1/query"
    server.shutdown()
    server.server_close()


def audited(tmp_path: Path, osv_url: str, lock: str, exceptions: str = "") -> subprocess.CompletedProcess[str]:
    """What `make audit` runs, over one lock and some exceptions."""
    (tmp_path / "lock.txt").write_text(lock, encoding="utf-8")
    (tmp_path / "exceptions.toml").write_text(exceptions, encoding="utf-8")
    program = ROOT / "requirements/audit.py"
    return subprocess.run(
        [sys.executable, program, "lock.txt", "--exceptions", "exceptions.toml", "--osv-url", osv_url],
        cwd=tmp_path, capture_output=True, text=True, check=False, timeout=120,
    )  # fmt: skip


def test_a_known_hole_ends_the_audit(osv: str, tmp_path: Path) -> None:
    """Package, version, names and the version that mends it are printed; a package without holes is not."""
    ended = audited(tmp_path, osv, "idna==3.20 ; python_version < '3' \\\n    --hash=sha256:0\nsix==1.17.0 \\\n")
    assert ended.returncode == 1, ended.stderr
    assert "hole: idna 3.20: CVE-1, PYSEC-1, mended in 99.1" in ended.stdout
    assert "six" not in ended.stdout
    assert "2 packages of 1 locks: 1 holes, 0 exceptions" in ended.stdout


def test_an_exception_with_its_reason_is_borne(osv: str, tmp_path: Path) -> None:
    """A hole that is excepted by any of its names lets the audit pass."""
    entry = '[CVE-1]\npackage = "idna"\nreason = "we never ask for it"\nuntil = 2999-01-01\n'
    ended = audited(tmp_path, osv, "idna==3.20 \\\n", entry)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert "0 holes, 1 exceptions" in ended.stdout


def test_without_a_network_the_audit_says_so(tmp_path: Path) -> None:
    """Nobody listens: nothing was looked at, which is printed, and is no failure."""
    ended = audited(tmp_path, "http://127.0.0.1:9/", "idna==3.20 \\\n")
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.startswith("NOT AUDITED: OSV cannot be reached, so nothing is known of 1 packages")


def test_the_exceptions_can_be_read() -> None:
    """Those of the repository have all that they need."""
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
def test_an_exception_without_reason_or_date_is_refused(entry: str, tmp_path: Path) -> None:
    """Package, reason in words, and the day on which it is looked at again: all three."""
    path = tmp_path / "exceptions.toml"
    path.write_text(entry, encoding="utf-8")
    with pytest.raises(ValueError, match=r"exceptions\.toml: X: "):
        audit.read_exceptions(path, TODAY)


def test_an_exception_that_is_over_does_not_count(tmp_path: Path) -> None:
    """The day that it names is its last."""
    path = tmp_path / "exceptions.toml"
    path.write_text('[X]\npackage = "a"\nreason = "it is not called"\nuntil = 2026-06-01\n', encoding="utf-8")
    assert audit.read_exceptions(path, TODAY) == {"X": "a"}
    assert audit.read_exceptions(path, TODAY + dt.timedelta(days=1)) == {}


def test_an_exception_is_for_one_package_and_is_needed() -> None:
    """The same hole in another package stays one, and what no hole needs is told."""
    holes = [audit.Hole("a", "1", frozenset({"X", "Y"}), ()), audit.Hole("b", "1", frozenset({"X"}), ())]
    assert audit.judge(holes, {"Y": "a", "Z": "c"}) == ([holes[1]], ["Z"])


def test_every_locked_package_is_asked_about() -> None:
    """Whatever its marker says, and in every version."""
    text = (ROOT / "requirements/dev.txt").read_text(encoding="utf-8")
    found = audit.pins(text)
    assert len(found) == len(re.findall(r"^[A-Za-z0-9]", text, re.MULTILINE))
    spread = [pin for table in audit.layers(found) for pin in table.items()]
    assert sorted(spread) == sorted(found)


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The Python of an environment that holds one package."""
    folder = tmp_path_factory.mktemp("environment")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", "--symlinks", folder], check=True)
    (site,) = folder.glob("lib/python*/site-packages")
    info = site / "something-1.2.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: something\nVersion: 1.2\n", encoding="utf-8")
    return folder / "bin/python"


def test_the_bill_of_materials_is_valid_and_repeatable(environment: Path, tmp_path: Path) -> None:
    """CycloneDX 1.6 by its own schema, of Convoke and what is installed, the same bytes each time, no path inside."""
    tool = Path(sys.executable).with_name("cyclonedx-py")
    made = []
    for name in ("one/bom.json", "two/bom.json"):
        subprocess.run(
            ["sh", ROOT / "requirements/sbom.sh", tool, environment, tmp_path / name, "--no-validate"],
            check=True, timeout=120, capture_output=True,
        )  # fmt: skip
        made.append((tmp_path / name).read_text(encoding="utf-8"))
    assert made[0] == made[1]
    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(made[0]) is None
    content = json.loads(made[0])
    assert content["metadata"]["component"]["name"] == "convoke"
    assert [(one["name"], one["version"], one["purl"]) for one in content["components"]] == [
        ("something", "1.2", "pkg:pypi/something@1.2")
    ]
    assert str(ROOT) not in made[0]
    assert str(environment.parent) not in made[0]
