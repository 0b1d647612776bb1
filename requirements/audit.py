"""Known holes in the locked packages: `make audit`.

Each package of each lock, for every platform and Python, is asked about at OSV, through pip-audit. It ends with 1 where
one has a hole that `exceptions.toml` does not name, with its reason; where OSV cannot be reached it says that nothing
was looked at, and ends with 0: no network is no hole.
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

HERE = Path(__file__).resolve().parent
EXCEPTIONS = HERE / "exceptions.toml"

_PIN = re.compile(r"^([A-Za-z0-9._-]+)(?:\[[^]]*\])?==([^ ;\\]+)", re.MULTILINE)
_AWAY = re.compile(r"ConnectionError|Timeout|ProxyError|SSLError|Could not connect")

Pin = tuple[str, str]


@dataclass(frozen=True)
class Hole:
    """A package of the locks in which a hole is known; `names` are the hole's own and its aliases."""

    package: str
    version: str
    names: frozenset[str]
    mended: tuple[str, ...]

    def __str__(self) -> str:
        where = f"mended in {', '.join(self.mended)}" if self.mended else "not mended yet"
        return f"{self.package} {self.version}: {', '.join(sorted(self.names))}, {where}"


def pins(lock: str) -> set[Pin]:
    """Name and version of every package in a lock, whatever its marker says."""
    return set(_PIN.findall(lock))


def layers(found: Iterable[Pin]) -> list[dict[str, str]]:
    """Pins in as few tables, by name, as it takes: a lock for several Pythons may hold two versions of a package."""
    tables: list[dict[str, str]] = []
    for name, version in sorted(found):
        table = next((table for table in tables if name not in table), None)
        if table is None:
            tables.append(table := {})
        table[name] = version
    return tables


def read_exceptions(path: Path, today: dt.date) -> dict[str, str]:
    """Hole -> package, of the exceptions that still count.

    Raises:
        ValueError: an exception without package, reason or date.
    """
    table: Mapping[str, Any] = tomllib.loads(path.read_text(encoding="utf-8"))
    for hole, entry in table.items():
        wanted = {"package": str, "reason": str, "until": dt.date}
        if set(entry) != set(wanted) or not all(isinstance(entry[key], kind) for key, kind in wanted.items()):
            raise ValueError(f"{path.name}: {hole}: expected package, reason and until, a date; found {entry}")
        if len(entry["reason"].split()) < 3:  # noqa: PLR2004 -- a word or two is no reason
            raise ValueError(f"{path.name}: {hole}: {entry['reason']!r} is no reason")
    return {hole: entry["package"] for hole, entry in table.items() if entry["until"] >= today}


def ask(found: Iterable[Pin], osv_url: str | None) -> list[Hole]:
    """What OSV knows of these packages.

    Raises:
        ConnectionError: it cannot be reached.
        RuntimeError: pip-audit failed in another way.
    """
    with tempfile.TemporaryDirectory() as folder:
        words = [sys.executable, "-m", "pip_audit", "--format", "json", "--vulnerability-service", "osv"]
        words += ["--disable-pip", "--no-deps", "--progress-spinner", "off", "--cache-dir", folder]
        words += ["--osv-url", osv_url] if osv_url else []
        for number, table in enumerate(layers(found)):
            path = Path(folder) / f"{number}.txt"
            path.write_text("".join(f"{name}=={version}\n" for name, version in table.items()), encoding="utf-8")
            words += ["--requirement", str(path)]
        ended = subprocess.run(words, capture_output=True, text=True, check=False)
    if not ended.stdout.strip():
        last = ended.stderr.strip().splitlines()[-1:]
        if _AWAY.search(ended.stderr):
            raise ConnectionError(*last)
        raise RuntimeError(f"pip-audit ended with {ended.returncode}:\n{ended.stderr}")
    return [
        Hole(one["name"], one["version"], frozenset([hole["id"], *hole["aliases"]]), tuple(hole["fix_versions"]))
        for one in json.loads(ended.stdout)["dependencies"]
        for hole in one.get("vulns", ())
    ]


def judge(holes: Iterable[Hole], exceptions: Mapping[str, str]) -> tuple[list[Hole], list[str]]:
    """The holes that no exception names, and the exceptions that no hole needs any more."""
    needed: set[str] = set()
    open_ones: list[Hole] = []
    for hole in holes:
        named = {name for name in hole.names if exceptions.get(name) == hole.package}
        needed |= named
        if not named:
            open_ones.append(hole)
    return open_ones, sorted(set(exceptions) - needed)


def main() -> int:
    """Print what is known; 1 for a hole that is not excepted."""
    parser = argparse.ArgumentParser(prog="make audit", description=__doc__)
    parser.add_argument("locks", nargs="*", type=Path, default=sorted(HERE.glob("*.txt")), help="by default all")
    parser.add_argument("--exceptions", type=Path, default=EXCEPTIONS, help="holes that are borne")
    parser.add_argument("--osv-url", help="another place that answers as OSV does")
    chosen = parser.parse_args()
    exceptions = read_exceptions(chosen.exceptions, dt.datetime.now(tz=dt.UTC).date())
    found = {pin for lock in chosen.locks for pin in pins(lock.read_text(encoding="utf-8"))}
    try:
        holes, unused = judge(ask(found, chosen.osv_url), exceptions)
    except ConnectionError as error:
        print(f"NOT AUDITED: OSV cannot be reached, so nothing is known of {len(found)} packages: {error}")
        return 0
    print(*(f"hole: {hole}" for hole in holes), *(f"needless exception: {name}" for name in unused), sep="\n")
    print(f"{len(found)} packages of {len(chosen.locks)} locks: {len(holes)} holes, {len(exceptions)} exceptions")
    return int(bool(holes or unused))


if __name__ == "__main__":
    sys.exit(main())
