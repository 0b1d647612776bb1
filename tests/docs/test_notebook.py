"""The notebook in examples/: it runs from top to bottom, and keeps the outputs of a run.

Its cells are executed here as Jupyter does, in one namespace, without a kernel: nbclient would add thirty packages of
IPython and Jupyter to the locked environment.
"""

import contextlib
import io
import json
import re
from typing import Any

import matplotlib as mpl
import pytest
import torch
from matplotlib import pyplot as plt

from tests.serving import ROOT

NOTEBOOK = json.loads((ROOT / "examples/week-3.ipynb").read_text(encoding="utf-8"))
CELLS = [cell for cell in NOTEBOOK["cells"] if cell["cell_type"] == "code"]


def printed(cell: dict[str, Any]) -> str:
    """What a cell has printed in the run that is kept."""
    return "".join("".join(output["text"]) for output in cell["outputs"] if output["output_type"] == "stream")


def test_the_cells_are_short_and_have_outputs() -> None:
    """Code cells have at most 45 lines; each that prints or plots keeps it, without errors or paths of a machine."""
    for cell in CELLS:
        source = "".join(cell["source"])
        assert len(source.splitlines()) <= 45
        kinds = {output["output_type"] for output in cell["outputs"]}
        assert "error" not in kinds
        assert bool(re.search(r"^(print|figure|compare\()", source, re.MULTILINE)) <= bool(kinds), source
        assert not re.search(r"/(home|root|work|tmp|Users)/", json.dumps(cell["outputs"]))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # matplotlib and torch's exporter use deprecated parts of others
def test_the_notebook_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each cell runs in order; the arithmetic of layers is what the notebook shows."""
    monkeypatch.chdir(ROOT)
    threads = torch.get_num_threads()
    mpl.use("agg")
    names: dict[str, Any] = {}
    for number, cell in enumerate(CELLS):
        source, output = "".join(cell["source"]), io.StringIO()
        with contextlib.redirect_stdout(output):
            exec(compile(source, f"cell {number}", "exec"), names)
        plt.close("all")
        if source.startswith("print(shapes"):
            assert output.getvalue() == printed(cell)
    torch.set_num_threads(threads)
    assert names["answer"]["predictions"][0]["label"] == "7"
    assert names["gap"] < 1e-5
