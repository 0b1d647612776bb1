"""Training in several processes: the same batches, the same weights as one process."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from training import fit, parallel
from training.data import Split
from training.errors import RecipeError
from training.parallel import World
from training.recipe import Recipe

ROOT = Path(__file__).resolve().parents[2]

PROGRAM = """
import sys
from pathlib import Path
import torch
from training import checkpoint, fit, parallel, run
from training.data import Split
from training.recipe import parse
import json

torch.set_num_threads(1)
place = Path(sys.argv[1])
given = torch.load(place / "given.pt", weights_only=True)
recipe = parse(json.loads((place / "recipe.json").read_text()))
on = run.machine("cpu")
train, validation = (Split(*given[name]) for name in ("train", "validation"))
network = fit.fit(recipe, train, validation, place / sys.argv[2], machine=on)
if on.world.leads:
    torch.save(network.state_dict(), place / (sys.argv[2] + ".end"))
parallel.leave()
"""

HARD: dict[str, Any] = {
    "layers": [
        {"conv": 4, "kernel": 3, "batch_norm": True},
        {"flatten": True},
        {"dense": 6, "batch_norm": True},
        {"dense": 3, "activation": "none"},
    ],
    "epochs": 3,
    "batch_size": 16,
    "average_decay": 0.8,
    "augment": {"crop": 0.6, "flip": True, "shift_px": 1, "brightness": 0.2},
}


def torchrun(processes: int, place: Path, checkpoint: str) -> None:
    """Run the program in so many processes."""
    done = subprocess.run(
        [
            sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", str(processes), "--rdzv-backend", "c10d",
            "--rdzv-endpoint", "127.0.0.1:0", str(place / "program.py"), str(place), checkpoint,
        ],
        cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        capture_output=True, text=True, timeout=240, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
def test_two_processes_end_in_the_weights_of_one(
    recipe_with: Callable[..., Recipe], stripes: Callable[..., Split], tmp_path: Path
) -> None:
    """With batch norm, augmentation, averages and an uneven last batch; and a checkpoint of one goes on in two."""
    recipe = recipe_with(**HARD)
    train, validation = stripes(75), stripes(30, seed=1)
    data = {"train": [train.inputs, train.labels], "validation": [validation.inputs, validation.labels]}
    torch.save(data, tmp_path / "given.pt")
    (tmp_path / "recipe.json").write_text(recipe.model_dump_json())
    (tmp_path / "program.py").write_text(PROGRAM)
    alone = fit.fit(recipe, train, validation, tmp_path / "one.pt")
    torchrun(2, tmp_path, "two.pt")
    together = torch.load(tmp_path / "two.pt.end", weights_only=True)
    for name, value in alone.state_dict().items():
        torch.testing.assert_close(together[name], value, rtol=1e-4, atol=1e-5, msg=name)
    first, second = (fit.history(tmp_path / name) for name in ("one.pt", "two.pt"))
    for one, two in zip(first, second, strict=True):
        assert two.loss == pytest.approx(one.loss, abs=1e-4)
        assert two.validation_loss == pytest.approx(one.validation_loss, abs=1e-4)

    def stop(history: list[fit.Epoch]) -> None:
        if len(history) == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fit.fit(recipe, train, validation, tmp_path / "mixed.pt", watch=stop)
    torchrun(2, tmp_path, "mixed.pt")
    mixed = torch.load(tmp_path / "mixed.pt.end", weights_only=True)
    for name, value in alone.state_dict().items():
        torch.testing.assert_close(mixed[name], value, rtol=1e-4, atol=1e-5, msg=name)


def test_one_process_is_the_whole_world() -> None:
    """Without torchrun nothing is shared: all rows, plain sums, the network as it is."""
    world = parallel.join()
    network = nn.Sequential(nn.Linear(2, 2))
    assert world == World(0, 1)
    assert world.leads
    assert list(range(5))[world.rows(5)] == [0, 1, 2, 3, 4]
    assert world.sum(1.5, 2) == [1.5, 2]
    assert world.share("here") == "here"
    assert world.wrap(network) is network


def test_the_rows_of_all_processes_are_a_batch() -> None:
    """Each example goes to one process, and none has more than one example more than another."""
    for count in (2, 7, 8):
        rows = [list(range(count))[World(rank, 3).rows(count)] for rank in range(3)]
        assert sorted(row for own in rows for row in own) == list(range(count))
        assert max(map(len, rows)) - min(map(len, rows)) <= 1


def test_a_batch_smaller_than_the_processes_is_refused(
    recipe_with: Callable[..., Recipe], stripes: Callable[..., Split], tmp_path: Path
) -> None:
    """Some process would have nothing to do in every step."""
    with pytest.raises(RecipeError, match="batch_size: 2 is less than the 3 processes"):
        fit.fit(
            recipe_with(batch_size=2), stripes(30), None, tmp_path / "fit.pt", machine=fit.Machine(world=World(0, 3))
        )
