"""The pages of the documentation: their length, their links, and the paths that they name."""

import re
import subprocess
from pathlib import Path

import pytest

from tests.docs.pages import PAGES, ROOT, name_of, prose

LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
HEADING = re.compile(r"^#+ (.*)$", re.MULTILINE)
PATH = re.compile(r"(?<![\w/.{}-])((?:[a-z_.]+/)+[\w.-]*)")
PLACEHOLDER = re.compile(r"\b(?:NAME|VERSION|TIME|RECIPE|MODEL|FILE|N)\b")
FOLDERS = {path.name for path in ROOT.iterdir() if path.is_dir()} - {"data", "dist", "runs", ".venv", ".git"}


def slug(heading: str) -> str:
    """The anchor that GitHub gives a heading."""
    return re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-")


def test_readme_and_pages_are_short() -> None:
    """README has fewer than 200 lines, each page of docs/ at most 250."""
    lines = {name_of(page): len(page.read_text(encoding="utf-8").splitlines()) for page in PAGES}
    assert lines["README.md"] < 200
    assert all(count <= 250 for name, count in lines.items() if name.startswith("docs/")), lines


def test_readme_links_to_every_page() -> None:
    """A reader who starts at README finds all others."""
    links = set(LINK.findall((ROOT / "README.md").read_text(encoding="utf-8")))
    assert {name_of(page) for page in PAGES} - {"README.md"} <= links


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_links_are_relative_and_lead_somewhere(page: Path) -> None:
    """A link inside the repository leads to a file, and its anchor to a heading of that file."""
    for link in LINK.findall(prose(page)):
        if re.match(r"https?://", link):
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        assert target.is_relative_to(ROOT), link
        assert target.exists(), link
        if anchor:
            assert anchor in map(slug, HEADING.findall(target.read_text(encoding="utf-8"))), link


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_paths_exist(page: Path) -> None:
    """Every path of the repository that a page names between backticks, as in `service/app.py`, exists."""
    missing = []
    for code in re.findall(r"`([^`\n]+)`", prose(page)):
        for path in PATH.findall(code):
            known = path.split("/")[0] in FOLDERS and not PLACEHOLDER.search(code) and not re.search(r"[*{]", code)
            if known and not (ROOT / path).exists():
                missing.append(path)
    assert not missing


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_modules_and_names_exist(page: Path) -> None:
    """`python -m NAME` names a program of the repository, and "`NAME` in `FILE.py`" a name that occurs in the file."""
    text = page.read_text(encoding="utf-8")
    for module in re.findall(r"-m ((?:benchmarks|service|tests|training)[\w.]*)", text):
        path = ROOT / module.replace(".", "/")
        assert path.with_suffix(".py").is_file() or (path / "__main__.py").is_file(), module
    for name, path in re.findall(r"`(\w+)`\s+in\s+`([\w/]+\.py)`", text):
        assert re.search(rf"\b{name}\b", (ROOT / path).read_text(encoding="utf-8")), f"{name} in {path}"


def test_the_map_is_complete() -> None:
    """The map in CONTRIBUTING names every top-level folder and every package, and nothing that does not exist."""
    contributing = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    named: list[str] = []
    for line in contributing.split("## The tree", 1)[1].split("```")[1].strip("\n").splitlines():
        name = line.split()[0]
        named.append(f"{named_above(named)}{name}" if line.startswith(" ") else name)
    assert [name for name in named if not (ROOT / name).is_dir()] == []
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.split()
    top = {f"{path.split('/')[0]}/" for path in listed if "/" in path and not path.startswith(".")}
    packages = {path.removesuffix("__init__.py") for path in listed if path.endswith("/__init__.py")}
    assert top | packages <= set(named)


def named_above(named: list[str]) -> str:
    """The top-level folder that the last line of the map stands in."""
    return f"{named[-1].split('/')[0]}/"
