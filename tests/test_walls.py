"""The walls between the packages are the linter's: each is shown to stand."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent


def findings(path: str, code: str) -> str:
    """What the linter's import rules say of code, were it the file at `path`."""
    command = [sys.executable, "-m", "ruff", "check", "--select", "TID251", "--output-format", "concise"]
    ended = subprocess.run(
        [*command, "--no-cache", "--stdin-filename", path, "-"],
        cwd=ROOT, input=code, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert ended.returncode in {0, 1}, ended.stderr
    return ended.stdout


@pytest.mark.parametrize(
    ("path", "code"),
    [
        ("service/session.py", "import torch"),
        ("service/routes/classify.py", "from torch import nn"),
        ("service/app.py", "import torchvision.transforms"),
        ("service/predictor.py", "from training.shapes import trace"),
        ("service/routes/explain.py", "from PIL import Image"),
        ("training/augment.py", "from PIL import Image"),
        ("training/data/photos.py", "from torchvision import transforms"),
        ("training/publish.py", "from service.repository import Repository"),
        ("training/run.py", "import service.app"),
    ],
)
def test_what_must_not_be_imported_is_refused(path: str, code: str) -> None:
    """Torch in service, training in service, Pillow outside its one file, serving in training: TID251."""
    assert "TID251" in findings(path, code)


@pytest.mark.parametrize(
    ("path", "code"),
    [
        ("service/preprocess.py", "from PIL import Image"),
        (
            "training/publish.py",
            "import torch\nfrom service.manifest import Manifest\nfrom service.session import Session",
        ),
        ("training/data/photos.py", "from service.preprocess import image_to_pixels"),
    ],
)
def test_what_may_be_imported_is_not(path: str, code: str) -> None:
    """The rules leave the doors that DESIGN opens."""
    assert "TID251" not in findings(path, code)
