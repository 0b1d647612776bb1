"""Known vulnerabilities in the locked packages: `make audit`.

pip-audit queries OSV for every package of every lock file, for all platforms and Python versions. The exit code is 1 if
a vulnerability is not listed in `exceptions.toml`, or if an exception is no longer needed. If OSV cannot be reached,
the program says that nothing was audited and exits with 0.
"""

import argparse
import datetime as dt
import json
import re
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).resolve().parent
EXCEPTIONS = FOLDER / "exceptions.toml"

_PIN = re.compile(r"^([A-Za-z0-9._-]+)(?:\[[^]]*\])?==([^ ;\\]+)", re.MULTILINE)
_UNREACHABLE = re.compile(r"ConnectionError|Timeout|ProxyError|SSLError|Could not connect")

Pin = tuple[str, str]


@dataclass(frozen=True)
class Vulnerability:
    """A known vulnerability of a locked package; `ids` are its own id and its aliases."""

    package: str
    version: str
    ids: frozenset[str]
    fixed_in: tuple[str, ...]

    def __str__(self) -> str:
        fix = f"fixed in {', '.join(self.fixed_in)}" if self.fixed_in else "no fix available"
        return f"{self.package} {self.version}: {', '.join(sorted(self.ids))}, {fix}"


def pins(lock: str) -> set[Pin]:
    """Name and version of every package in a lock file, whatever its markers."""
    return set(_PIN.findall(lock))


def split_by_name(locked: Iterable[Pin]) -> list[dict[str, str]]:
    """Split pins into as few name -> version tables as possible: locks may hold several versions of a package."""
    tables: list[dict[str, str]] = []
    for name, version in sorted(locked):
        table = next((table for table in tables if name not in table), None)
        if table is None:
            tables.append(table := {})
        table[name] = version
    return tables


def read_exceptions(path: Path, today: dt.date) -> dict[str, str]:
    """The exceptions that have not expired: id of the vulnerability -> package.

    Raises:
        ValueError: an exception has no package, reason or date.
    """
    table: Mapping[str, Any] = tomllib.loads(path.read_text(encoding="utf-8"))
    for name, entry in table.items():
        expected = {"package": str, "reason": str, "until": dt.date}
        if set(entry) != set(expected) or not all(isinstance(entry[key], kind) for key, kind in expected.items()):
            raise ValueError(f"{path.name}: {name}: expected the keys package, reason and until (a date), got {entry}")
        if len(entry["reason"].split()) < 3:  # noqa: PLR2004 -- a word or two explain nothing
            raise ValueError(f"{path.name}: {name}: reason {entry['reason']!r} is too short")
    return {name: entry["package"] for name, entry in table.items() if entry["until"] >= today}


def query(locked: Iterable[Pin], osv_url: str | None) -> list[Vulnerability]:
    """The vulnerabilities that OSV lists for the given packages.

    Raises:
        ConnectionError: OSV cannot be reached.
        RuntimeError: pip-audit failed for another reason.
    """
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "pip_audit", "--format", "json", "--vulnerability-service", "osv"]
        command += ["--disable-pip", "--no-deps", "--progress-spinner", "off", "--cache-dir", folder]
        command += ["--osv-url", osv_url] if osv_url else []
        for number, table in enumerate(split_by_name(locked)):
            path = Path(folder) / f"{number}.txt"
            path.write_text("".join(f"{name}=={version}\n" for name, version in table.items()), encoding="utf-8")
            command += ["--requirement", str(path)]
        completed = subprocess.run(command, capture_output=True, text=True, check=False)
    if not completed.stdout.strip():
        if _UNREACHABLE.search(completed.stderr):
            raise ConnectionError(*completed.stderr.strip().splitlines()[-1:])
        raise RuntimeError(f"pip-audit failed with exit code {completed.returncode}:\n{completed.stderr}")
    return [
        Vulnerability(
            package["name"], package["version"], frozenset([entry["id"], *entry["aliases"]]),
            tuple(entry["fix_versions"]),
        )
        for package in json.loads(completed.stdout)["dependencies"]
        for entry in package.get("vulns", ())
    ]  # fmt: skip


def apply_exceptions(
    vulnerabilities: Iterable[Vulnerability], exceptions: Mapping[str, str]
) -> tuple[list[Vulnerability], list[str]]:
    """The vulnerabilities without an exception, and the exceptions that are no longer needed."""
    used: set[str] = set()
    remaining: list[Vulnerability] = []
    for vulnerability in vulnerabilities:
        matches = {name for name in vulnerability.ids if exceptions.get(name) == vulnerability.package}
        used |= matches
        if not matches:
            remaining.append(vulnerability)
    return remaining, sorted(set(exceptions) - used)


def main() -> int:
    """Print the vulnerabilities; 1 if one has no exception."""
    parser = argparse.ArgumentParser(prog="make audit", description=__doc__)
    parser.add_argument("locks", nargs="*", type=Path, default=sorted(FOLDER.glob("*.txt")), help="default: all")
    parser.add_argument("--exceptions", type=Path, default=EXCEPTIONS, help="file of accepted vulnerabilities")
    parser.add_argument("--osv-url", help="another server with OSV's interface")
    args = parser.parse_args()
    exceptions = read_exceptions(args.exceptions, dt.datetime.now(tz=dt.UTC).date())
    locked = {pin for lock in args.locks for pin in pins(lock.read_text(encoding="utf-8"))}
    try:
        vulnerabilities, unused = apply_exceptions(query(locked, args.osv_url), exceptions)
    except ConnectionError as error:
        print(f"NOT AUDITED: OSV cannot be reached; {len(locked)} packages were not checked: {error}")
        return 0
    lines = [f"vulnerable: {vulnerability}" for vulnerability in vulnerabilities] + [
        f"unused exception: {name}" for name in unused
    ]
    print(*lines, sep="\n", end="\n" * bool(lines))
    print(f"packages: {len(locked)}, vulnerabilities: {len(vulnerabilities)}, exceptions: {len(exceptions)}")
    return int(bool(vulnerabilities or unused))


if __name__ == "__main__":
    sys.exit(main())
