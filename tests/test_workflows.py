"""GitHub's workflows: pinned, with no rights to speak of, and running what a laptop runs."""

import re
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[1]


def targets() -> set[str]:
    """What can be asked of make."""
    return set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))


@pytest.mark.parametrize("path", sorted((ROOT / ".github/workflows").glob("*.yml")), ids=lambda path: path.stem)
def test_workflows_are_pinned_and_run_make(path: Path) -> None:
    """Actions by a commit's SHA, their version beside it; rights to read alone; steps that run targets of make."""
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
            command, *named = step["run"].split()
            assert command == "make"
            assert named
            assert set(named) <= targets()
    assert any("run" in step for step in steps)


def test_every_python_is_tested() -> None:
    """The versions that pyproject.toml names, by what .ci/run runs."""
    workflow = yaml.safe_load((ROOT / ".github/workflows/ci.yml").read_text(encoding="utf-8"))
    (job,) = workflow["jobs"].values()
    named = re.findall(r"Python :: (3\.\d+)", (ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    assert job["strategy"]["matrix"]["python"] == named
    assert job["steps"][-1]["run"] in (ROOT / ".ci/run").read_text(encoding="utf-8").splitlines()
