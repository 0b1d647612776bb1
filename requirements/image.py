"""The bill of materials of a container image, and known vulnerabilities of its Debian packages.

    python -m requirements.image ROOT FILE [--osv-url URL]

ROOT is the unpacked image (`buildah mount`, or `docker export` and `tar`). FILE becomes CycloneDX JSON with every
Debian and Python package. The Python packages are those of a lock file, which `make audit` checks; the Debian packages
are checked here, by OSV; with a known vulnerability the exit code is 1. If OSV cannot be reached, the program says that
nothing was audited and exits with 0.
"""

import argparse
import hashlib
import json
import re
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from email.parser import Parser
from importlib.metadata import distributions
from pathlib import Path
from typing import Any
from urllib.parse import quote

OSV_URL = "https://api.osv.dev/v1/querybatch"
ECOSYSTEM = "Debian:12"  # of the base that Containerfile names
_BATCH = 500
_TIMEOUT_S = 60

Component = dict[str, Any]


def components(root: Path) -> list[Component]:
    """The packages of an unpacked image, in CycloneDX's form."""
    found = [*_debian(root), *_python(root)]
    return sorted(found, key=lambda component: component["purl"])


def bill(root: Path) -> dict[str, Any]:
    """The bill of materials. The same image gives the same bill."""
    packages = components(root)
    digest = hashlib.sha256(json.dumps(packages).encode()).hexdigest()
    return {
        "$schema": "http://cyclonedx.org/schema/bom-1.6.schema.json",
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "serialNumber": f"urn:uuid:{digest[:8]}-{digest[8:12]}-5{digest[13:16]}-8{digest[17:20]}-{digest[20:32]}",
        "version": 1,
        "metadata": {"component": {"type": "container", "bom-ref": "convoke", "name": "convoke"}},
        "components": packages,
    }


def query(packages: Sequence[Component], osv_url: str) -> list[str]:
    """A line for each Debian package with known vulnerabilities.

    Raises:
        ConnectionError: OSV cannot be reached.
    """
    debian = [package for package in packages if package["purl"].startswith("pkg:deb/")]
    lines: list[str] = []
    for start in range(0, len(debian), _BATCH):
        part = debian[start : start + _BATCH]
        queries = [
            {"package": {"ecosystem": ECOSYSTEM, "name": _source(package)}, "version": package["version"]}
            for package in part
        ]
        request = urllib.request.Request(
            osv_url, json.dumps({"queries": queries}).encode(), {"Content-Type": "application/json"}
        )
        try:
            with urllib.request.urlopen(request, timeout=_TIMEOUT_S) as response:
                results = json.load(response)["results"]
        except (urllib.error.URLError, TimeoutError) as error:
            raise ConnectionError(str(error)) from error
        for package, result in zip(part, results, strict=True):
            ids = sorted(entry["id"] for entry in result.get("vulns", ()))
            if ids:
                lines.append(f"{package['name']} {package['version']}: {', '.join(ids)}")
    return lines


def _source(package: Component) -> str:
    source: str = package["properties"][0]["value"]
    return source


def _debian(root: Path) -> Iterator[Component]:
    """The installed packages in dpkg's list; the property is the name of the source, by which OSV knows them."""
    status = root / "var/lib/dpkg/status"
    for paragraph in status.read_text(encoding="utf-8").strip().split("\n\n") if status.exists() else []:
        entry = Parser().parsestr(paragraph)
        if not entry["Status"].endswith(" installed"):
            continue
        name, version = entry["Package"], entry["Version"]
        source = re.split(r"[ (]", entry["Source"] or name)[0]
        purl = f"pkg:deb/debian/{quote(name)}@{quote(version, safe='')}?arch={entry['Architecture']}"
        yield _component(name, version, purl) | {"properties": [{"name": "debian:source", "value": source}]}


def _python(root: Path) -> Iterator[Component]:
    """The installed packages of the virtual environment."""
    for folder in root.glob("opt/convoke/lib/python3.*/site-packages"):
        for distribution in distributions(path=[str(folder)]):
            name = re.sub(r"[-_.]+", "-", distribution.metadata["Name"]).lower()
            yield _component(name, distribution.version, f"pkg:{'py' + 'pi'}/{name}@{distribution.version}")


def _component(name: str, version: str, purl: str) -> Component:
    return {"type": "library", "bom-ref": purl, "name": name, "version": version, "purl": purl}


def main() -> int:
    """Write the bill of materials and print the vulnerabilities; 1 if there are any."""
    parser = argparse.ArgumentParser(prog="python -m requirements.image", description=__doc__)
    parser.add_argument("root", type=Path, help="folder of the unpacked image")
    parser.add_argument("file", type=Path, help="where to write the bill of materials")
    parser.add_argument("--osv-url", default=OSV_URL, help="another server with OSV's interface")
    args = parser.parse_args()
    content = bill(args.root)
    args.file.parent.mkdir(parents=True, exist_ok=True)
    args.file.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    packages = content["components"]
    print(f"{args.file}: {len(packages)} packages")
    try:
        lines = query(packages, args.osv_url)
    except ConnectionError as error:
        print(f"NOT AUDITED: OSV cannot be reached; the Debian packages were not checked: {error}")
        return 0
    print(*(f"vulnerable: {line}" for line in lines), sep="\n", end="\n" * bool(lines))
    return int(bool(lines))


if __name__ == "__main__":
    sys.exit(main())
