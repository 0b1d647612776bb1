"""GitHub's workflows: pinned actions, read-only permissions, and the same make targets as on a laptop."""

import re
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[1]


def targets() -> set[str]:
    """The targets of the Makefile."""
    return set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))


@pytest.mark.parametrize("path", sorted((ROOT / ".github/workflows").glob("*.yml")), ids=lambda path: path.stem)
def test_workflows_are_pinned_and_run_make(path: Path) -> None:
    """Actions are pinned by commit SHA and name their version, permissions are read-only, steps run make or apt-get."""
    text = path.read_text(encoding="utf-8")
    workflow = yaml.safe_load(text)
    assert workflow["permissions"] == {"contents": "read"}
    steps = [step for job in workflow["jobs"].values() for step in job["steps"]]
    assert all("permissions" not in job for job in workflow["jobs"].values())
    for step in steps:
        assert ("uses" in step) != ("run" in step)
        if "uses" in step:
            assert re.fullmatch(r"actions/[a-z-]+@[0-9a-f]{40}", step["uses"])
            assert re.search(rf"{step['uses']} # v\d+\.\d+\.\d+\n", text)
        else:
            command, *goals = step["run"].removeprefix("sudo ").split()
            assert command in {"make", "apt-get"}
            assert goals
            assert command == "apt-get" or set(goals) <= targets()
    assert any("run" in step for step in steps)


def test_every_python_is_tested() -> None:
    """CI tests the Python versions in pyproject.toml, with the same command as .ci/run."""
    workflow = yaml.safe_load((ROOT / ".github/workflows/ci.yml").read_text(encoding="utf-8"))
    job = workflow["jobs"]["check-and-test"]
    versions = re.findall(r"Python :: (3\.\d+)", (ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    assert job["strategy"]["matrix"]["python"] == versions
    assert job["steps"][-1]["run"] in (ROOT / ".ci/run").read_text(encoding="utf-8").splitlines()
