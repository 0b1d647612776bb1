"""The rules on imports between packages and folders, which import-linter checks: each one is shown to work."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("contract", "service", "training")


def violations(folder: Path) -> str:
    """The report of import-linter on the packages in a folder; empty if every contract is kept."""
    program = "import sys; from importlinter.cli import lint_imports_command; sys.exit(lint_imports_command())"
    completed = subprocess.run(
        [sys.executable, "-c", program, "--no-cache"], cwd=folder, capture_output=True, text=True, check=False
    )
    assert completed.returncode in {0, 1}, completed.stderr + completed.stdout
    return completed.stdout if completed.returncode else ""


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the packages and the rules."""
    folder = tmp_path_factory.mktemp("checkout")
    for package in PACKAGES:
        shutil.copytree(ROOT / package, folder / package, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", folder)
    return folder


def test_every_import_is_allowed() -> None:
    """No import in the repository breaks a contract."""
    assert not violations(ROOT)


@pytest.mark.parametrize(
    ("file", "statement"),
    [
        ("contract/session.py", "import torch"),
        ("service/routes/classify.py", "from torch import nn"),
        ("service/inference/predictor.py", "import training.recipe.shapes"),
        ("training/release/publish.py", "import service.inference.repository"),
        ("contract/manifest.py", "import service.errors"),
        ("contract/manifest.py", "import training.errors"),
        ("service/routes/classify.py", "from PIL import Image"),
        ("training/fit/augment.py", "from PIL import Image"),
        ("service/routes/native.py", "import bentoml"),
        ("service/http/asgi.py", "import uvicorn"),
        ("service/http/asgi.py", "import service.routes.oip"),
        ("service/telemetry/log.py", "import service.http.body"),
        ("training/data/mnist.py", "import training.recipe.schema"),
        ("training/network/build.py", "import training.fit.loop"),
        ("training/evaluation/metrics.py", "import training.runs.run"),
    ],
)
def test_a_forbidden_import_is_reported(checkout: Path, file: str, statement: str) -> None:
    """A contract is broken, and the report names the importing module."""
    path = checkout / file
    before = path.read_text(encoding="utf-8")
    path.write_text(f"{before}\n\n{statement}\n", encoding="utf-8")
    try:
        report = violations(checkout)
    finally:
        path.write_text(before, encoding="utf-8")
    assert f"{file.removesuffix('.py').replace('/', '.')} -> " in report
    assert "BROKEN" in report
