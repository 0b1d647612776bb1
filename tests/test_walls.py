"""The walls between the packages and folders are import-linter's: each is shown to stand."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("contract", "service", "training")


def broken(folder: Path) -> str:
    """What import-linter says of the packages in a folder; empty where every contract is kept."""
    program = "import sys; from importlinter.cli import lint_imports_command; sys.exit(lint_imports_command())"
    ended = subprocess.run(
        [sys.executable, "-c", program, "--no-cache"], cwd=folder, capture_output=True, text=True, check=False
    )
    assert ended.returncode in {0, 1}, ended.stderr + ended.stdout
    return ended.stdout if ended.returncode else ""


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the packages and of the rules."""
    folder = tmp_path_factory.mktemp("house")
    for package in PACKAGES:
        shutil.copytree(ROOT / package, folder / package, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", folder)
    return folder


def test_the_walls_stand() -> None:
    """No import of the repository breaks one."""
    assert not broken(ROOT)


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
def test_an_import_across_a_wall_is_refused(house: Path, file: str, statement: str) -> None:
    """The contract that the import breaks names the file that has it."""
    path = house / file
    before = path.read_text(encoding="utf-8")
    path.write_text(f"{before}\n\n{statement}\n", encoding="utf-8")
    try:
        report = broken(house)
    finally:
        path.write_text(before, encoding="utf-8")
    assert f"{file.removesuffix('.py').replace('/', '.')} -> " in report
    assert "BROKEN" in report
