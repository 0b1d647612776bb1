"""The Bento and the wheel hold every package that they need, without building either."""

import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[1]
IMPORTED = """
import sys
import service.__main__, service.app, service.server.worker
print(*(getattr(module, "__file__", None) or "" for module in list(sys.modules.values())), sep="\\n")
"""


@pytest.fixture(scope="module")
def imported() -> set[Path]:
    """The files of this repository that a server and a worker import, relative to its root."""
    done = subprocess.run([sys.executable, "-c", IMPORTED], cwd=ROOT, capture_output=True, text=True, check=True)
    paths = (Path(line) for line in done.stdout.splitlines() if line)
    return {path.relative_to(ROOT) for path in paths if path.is_relative_to(ROOT) and ".venv" not in path.parts}


def test_the_bento_holds_the_packages_that_the_service_imports(imported: set[Path]) -> None:
    """bentofile.yaml includes each file of these packages, whatever its kind, and nothing of training."""
    patterns = yaml.safe_load((ROOT / "bentofile.yaml").read_text(encoding="utf-8"))["include"]
    included = {path.relative_to(ROOT) for pattern in patterns for path in ROOT.glob(pattern.lstrip("/"))}
    packages = {path.parts[0] for path in imported}
    files = {
        path.relative_to(ROOT)
        for package in packages
        for path in (ROOT / package).rglob("*")
        if path.is_file() and path.parent.name != "__pycache__"
    }
    assert packages == {"contract", "service"}
    assert imported <= files
    assert files <= included
    assert not [path for path in included if path.parts[0] == "training"]


def test_the_wheel_holds_the_packages_that_have_walls(imported: set[Path]) -> None:
    """The packages of the wheel are import-linter's roots, and cover what the service imports."""
    tools = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]
    packages = tools["hatch"]["build"]["targets"]["wheel"]["packages"]
    assert packages == tools["importlinter"]["root_packages"]
    assert {path.parts[0] for path in imported} <= set(packages)
