"""No part of the packages knows a model: recipes and data sources name them, and nothing else."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.serving import ROOT

PACKAGES = "contract", "service", "training"
NAMING = "training/data/", "training/recipes/"
"""Folders whose subject the data sets and their models are."""
NAMES = re.compile(
    r"(?<![\w-])(cats-vs-dogs|imdb|oxford-pets)(?![\w-])|^(digits|reviews)$|[/'\"`](digits|reviews)(?![\w ])"
)


def literals(source: str) -> Iterator[tuple[int, str]]:
    """The line and the value of each string of a module, docstrings among them."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.lineno, node.value


def named(path: str, source: str) -> list[str]:
    """The places in a file that name a published model."""
    if path.startswith(NAMING):
        return []
    return [f"{path}:{line}: {text[:60]!r}" for line, text in literals(source) if NAMES.search(text)]


def test_no_module_names_a_model() -> None:
    """The code of contract, service and training works for any model: only recipes and data sources name one."""
    files: list[Path] = [file for package in PACKAGES for file in sorted((ROOT / package).rglob("*.py"))]
    assert len(files) > 50
    paths = {file.relative_to(ROOT).as_posix(): file.read_text(encoding="utf-8") for file in files}
    assert not [place for path, source in paths.items() for place in named(path, source)]


@pytest.mark.parametrize(
    "source",
    ['USES = {"digits": 1}', 'if name == "cats-vs-dogs": pass', 'f"{url}/classify/digits"', '"models/reviews/1"'],
)
def test_a_name_is_found(source: str) -> None:
    """The search above finds names in keys, comparisons and paths, and passes over data sources and plain words."""
    assert named("service/app.py", source)
    assert not named("training/data/catalogue.py", source)
    assert not named("service/app.py", '"one of several digits, in pixels"')
