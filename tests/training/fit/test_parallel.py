"""Several processes train as a single one: the same batches, the same gradients, the same weights."""

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn

from tests.training.fit.test_fit import history, sentences
from training.data.dataset import Split
from training.errors import RecipeError, RunError
from training.fit import loop as fit
from training.fit import parallel, state
from training.fit.parallel import World, _WholeBatchNorm, join, leave
from training.recipe.schema import Recipe

ROOT = Path(__file__).resolve().parents[3]

SCRIPT = """
import json, sys
from pathlib import Path
import torch
from training.data.dataset import Split
from training.fit import loop as fit
from training.fit import parallel, state
from training.network.build import build
from training.recipe.schema import parse
from training.runs import run

def in_blocks(recipe):
    *body, last = build(recipe)
    return torch.nn.Sequential(torch.nn.Sequential(*body[:2], torch.nn.Sequential(*body[2:])), last)

torch.set_num_threads(1)
folder = Path(sys.argv[1])
for name in sys.argv[2:]:
    state.build = in_blocks if name == "blocks" else build
    torch.manual_seed(hash(name))  # processes start with different generators
    train, validation = (Split(**part) for part in torch.load(folder / f"{name}-data.pt"))
    recipe = parse(json.loads((folder / f"{name}.json").read_text()))
    machine = run.find_machine("cpu")
    network = fit.fit(recipe, train, validation, folder / f"{name}.pt", machine=machine)
    torch.save(network.state_dict(), folder / f"{name}-rank{machine.world.rank}.pt")
parallel.leave()
"""

IMAGES: dict[str, Any] = {
    "layers": [
        {"conv": 4, "kernel": 3, "batch_norm": True},
        {"pool": "max", "size": 2},
        {"flatten": True},
        {"dense": 8, "batch_norm": True, "max_norm": 0.5},
        {"dense": 3, "activation": "none"},
    ],
    "epochs": 3,
    "batch_size": 16,
    "average_decay": 0.9,
    "augment": {"crop": 0.6, "flip": True, "rotate_deg": 10, "brightness": 0.1, "tint": 0.1},
    "schedule": {"name": "one-cycle"},
}
STOPPED: dict[str, Any] = {
    **IMAGES,
    "epochs": 30,
    "accumulate": 2,
    "average_decay": 0.5,
    "early_stopping": 2,
    "schedule": {"name": "plateau", "patience": 1},
}
TEXTS: dict[str, Any] = {
    "labels": ["down", "up"],
    "input": {"kind": "text", "length": 12, "vocabulary": 30},
    "layers": [
        {"embedding": 4},
        {"windows": [2, 3], "filters": 3},
        {"dense": 2, "activation": "none", "max_norm": 0.5},
    ],
    "epochs": 2,
    "batch_size": 8,
    "augment": {"word_dropout": 0.3},
    "data": {"name": "mr", "validation": 100},
}


def torchrun(count: int, *args: str) -> None:
    """Run a Python program in `count` processes."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={count}", *args]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    process = subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300, check=False
    )
    assert process.returncode == 0, process.stderr
    assert "Warning" not in process.stderr


def prepare(folder: Path, name: str, recipe: Recipe, train: Split, validation: Split) -> None:
    """Write the files that the script reads."""
    (folder / f"{name}.json").write_text(recipe.model_dump_json())
    parts = [{"inputs": split.inputs, "labels": split.labels} for split in (train, validation)]
    torch.save(parts, folder / f"{name}-data.pt")


def assert_alike(ours: dict[str, Tensor], theirs: dict[str, Tensor]) -> None:
    """The same values in the same order; blocks change names alone."""
    for (name, value), expected in zip(ours.items(), theirs.values(), strict=True):
        np.testing.assert_allclose(value, expected, rtol=0, atol=1e-5, err_msg=name)


@pytest.mark.slow
@pytest.mark.parametrize("count", [2, 3])
def test_more_processes_end_in_the_weights_of_one(
    count: int, recipe_with: Callable[..., Recipe], stripes: Callable[..., Split], tmp_path: Path
) -> None:
    """Images and texts with uneven last batches, averages, batch norm and augmentation end as in one process, to 1e-5.

    So do layers in blocks, whose batch norms and max-norm layers are nested, and a training with accumulated batches
    that stops early: all processes end after the same epoch.

    50 images in batches of 16 leave a last batch of 2, fewer than 3 processes; 45 texts in batches of 8 leave one of 5.
    Every process ends with the same network, and only the leading process writes a checkpoint, which any number of
    processes can resume.
    """
    cases = {
        "images": (recipe_with(**IMAGES), stripes(50), stripes(21, seed=1)),
        "blocks": (recipe_with(**IMAGES), stripes(50), stripes(21, seed=1)),
        "stopped": (recipe_with(**STOPPED), stripes(50), stripes(21, seed=1)),
        "texts": (recipe_with(**TEXTS), sentences(45), sentences(20, seed=1)),
    }
    single = {}
    for name, (recipe, train, validation) in cases.items():
        prepare(tmp_path, name, recipe, train, validation)
        single[name] = fit.fit(recipe, train, validation, tmp_path / f"{name}-single.pt").state_dict()
    resumed = recipe_with(**IMAGES)
    prepare(tmp_path, "resumed", resumed, *cases["images"][1:])
    fit_first_epoch(resumed, *cases["images"][1:], tmp_path / "resumed.pt")
    assert len(history(tmp_path / "resumed.pt")) == 1
    (tmp_path / "script.py").write_text(SCRIPT)
    torchrun(count, str(tmp_path / "script.py"), str(tmp_path), *cases, "resumed")
    for name in (*cases, "resumed"):
        like = "images" if name == "resumed" else name
        for rank in range(count):
            assert_alike(torch.load(tmp_path / f"{name}-rank{rank}.pt"), single[like])
        ours, theirs = history(tmp_path / f"{name}.pt"), history(tmp_path / f"{like}-single.pt")
        for key in ("loss", "accuracy", "validation_loss", "validation_accuracy", "learning_rate", "epoch"):
            assert [epoch[key] for epoch in ours] == pytest.approx([epoch[key] for epoch in theirs], abs=1e-5)
    assert len(history(tmp_path / "stopped.pt")) < STOPPED["epochs"]
    expected = {f"{name}{end}" for name in (*cases, "resumed") for end in (".json", ".pt", "-data.pt")}
    expected |= {f"{name}-rank{rank}.pt" for name in (*cases, "resumed") for rank in range(count)}
    assert {path.name for path in tmp_path.iterdir()} == expected | {f"{name}-single.pt" for name in cases} | {
        "script.py"
    }


def fit_first_epoch(recipe: Recipe, train: Split, validation: Split, path: Path) -> None:
    """Write the checkpoint of a training that is interrupted after its first epoch."""

    class Stop(Exception):
        pass

    def stop(history: list[state.Epoch]) -> None:
        if history:
            raise Stop

    with pytest.raises(Stop):
        fit.fit(recipe, train, validation, path, watch=stop)


@pytest.mark.parametrize("size", [1, 2, 3])
@pytest.mark.parametrize("count", [1, 2, 7, 8])
def test_a_batch_is_divided_among_the_processes(size: int, count: int) -> None:
    """Each example belongs to exactly one process, and their shares differ by at most one example."""
    parts = [list(range(count))[World(rank, size).rows(count)] for rank in range(size)]
    assert sorted(index for part in parts for index in part) == list(range(count))
    assert max(map(len, parts)) - min(map(len, parts)) <= 1


def test_a_single_process_runs_without_a_process_group(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without torchrun, every method of World leaves its arguments as they are."""
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    world = join()
    network = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))
    assert world == World()
    assert world.leads
    assert not World(1, 2).leads
    world.wait()
    assert world.sum(1.5, 2) == [1.5, 2]
    assert world.broadcast("a folder") == "a folder"
    assert world.in_turn(lambda: 3) == 3
    assert world.wrap(network) is network
    assert isinstance(network[1], nn.BatchNorm1d)
    leave()
    assert not dist.is_initialized()


def test_processes_that_cannot_connect_are_a_run_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """With an incomplete environment of torchrun, the message says how many processes were expected."""
    for name in ("RANK", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(RunError, match="2 processes"):
        join()


def test_a_batch_smaller_than_the_processes_is_refused(
    recipe_with: Callable[..., Recipe],
    stripes: Callable[..., Split],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A process would have no examples in any batch."""
    machine = parallel.Machine(world=World(0, 3))
    monkeypatch.setattr(World, "wait", lambda _self: None)
    with pytest.raises(RecipeError, match=r"batch_size: 2 .* 3 "):
        fit.fit(recipe_with(batch_size=2), stripes(20), None, tmp_path / "fit.pt", machine=machine)


@pytest.fixture
def _group(tmp_path: Path) -> Iterator[None]:
    """A process group with this process only."""
    dist.init_process_group("gloo", init_method=f"file://{tmp_path / 'rendezvous'}", rank=0, world_size=1)
    yield
    dist.destroy_process_group()


@pytest.mark.usefixtures("_group")
def test_batch_norms_in_blocks_are_replaced() -> None:
    """All batch norms are replaced, at any depth, and keep their names and values."""
    deep = nn.Sequential(nn.Conv2d(1, 2, 1, bias=False), nn.BatchNorm2d(2))
    network = nn.Sequential(nn.Sequential(deep, nn.Flatten()), nn.Linear(8, 4), nn.BatchNorm1d(4))
    before = {name: value.clone() for name, value in network.state_dict().items()}
    World(0, 2).wrap(network)
    kinds = [type(module) for module in network.modules()]
    assert kinds.count(_WholeBatchNorm) == 2
    assert not {nn.BatchNorm1d, nn.BatchNorm2d} & set(kinds)
    assert list(network.state_dict()) == list(before)
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())


@pytest.mark.usefixtures("_group")
@pytest.mark.parametrize("shape", [(6, 3), (6, 3, 4, 5)])
@pytest.mark.parametrize("offset", [0.0, 300.0])
def test_batch_norm_over_one_process_equals_torch_s(offset: float, shape: tuple[int, ...]) -> None:
    """Outputs, gradients and running statistics are equal, in training and evaluation, also far from zero."""
    torch.manual_seed(0)
    theirs = (nn.BatchNorm1d if len(shape) == 2 else nn.BatchNorm2d)(3)
    with torch.no_grad():
        theirs.weight.uniform_(0.5, 2)
        theirs.bias.uniform_(-1, 1)
    ours = _WholeBatchNorm(type(theirs)(3))
    ours.load_state_dict(theirs.state_dict())
    for _ in range(3):
        values, slope = torch.randn(shape) + offset, torch.randn(shape)
        inputs = [values.clone().requires_grad_() for _ in range(2)]
        outputs = [norm(argument) for norm, argument in zip((ours, theirs), inputs, strict=True)]
        for output in outputs:
            output.backward(slope)
        close(*outputs)
        close(*(argument.grad for argument in inputs))
    for name in ("weight", "bias"):
        close(getattr(ours, name).grad, getattr(theirs, name).grad)
    assert ours.state_dict().keys() == theirs.state_dict().keys()
    for name, value in theirs.state_dict().items():
        close(ours.state_dict()[name], value)
    close(ours.eval()(values), theirs.eval()(values))


def close(ours: Tensor | None, theirs: Tensor | None) -> None:
    assert ours is not None
    assert theirs is not None
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=2e-4)
