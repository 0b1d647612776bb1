"""Two processes are as good as one: the same batches, the same gradients, the same weights in the end."""

import json
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

from training.data.dataset import Split
from training.errors import RecipeError, RunError
from training.fit import checkpoint, parallel, state
from training.fit import loop as fit
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
    torch.manual_seed(hash(name))  # processes do not start alike
    train, validation = (Split(**part) for part in torch.load(folder / f"{name}-data.pt"))
    recipe = parse(json.loads((folder / f"{name}.json").read_text()))
    machine = run.find_machine("cpu")
    network = fit.fit(recipe, train, validation, folder / f"{name}.pt", machine=machine)
    torch.save(network.state_dict(), folder / f"{name}-rank{machine.world.rank}.pt")
parallel.leave()
"""

PICTURES: dict[str, Any] = {
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


def torchrun(count: int, *words: str) -> None:
    """Run a Python program in `count` processes that meet."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={count}", *words]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    assert "Warning" not in done.stderr


def prepare(folder: Path, name: str, recipe: Recipe, train: Split, validation: Split) -> None:
    """What the script reads."""
    (folder / f"{name}.json").write_text(recipe.model_dump_json())
    parts = [{"inputs": split.inputs, "labels": split.labels} for split in (train, validation)]
    torch.save(parts, folder / f"{name}-data.pt")


def assert_alike(ours: dict[str, Tensor], theirs: dict[str, Tensor]) -> None:
    """The same values in the same order; blocks change names alone."""
    for (name, value), expected in zip(ours.items(), theirs.values(), strict=True):
        np.testing.assert_allclose(value, expected, rtol=0, atol=1e-5, err_msg=name)


def history(path: Path) -> list[dict[str, Any]]:
    state = checkpoint.load(path)
    assert state is not None
    epochs: list[dict[str, Any]] = state["history"]
    return epochs


def sentences(count: int, seed: int = 0) -> Split:
    """Texts of 1 to 12 words, of the upper half of the vocabulary or the lower: int32 (count, 12)."""
    draw = torch.Generator().manual_seed(seed)
    labels = torch.arange(count) % 2
    tokens = torch.randint(2, 16, (count, 12), generator=draw, dtype=torch.int32) + 14 * labels.int().unsqueeze(1)
    lengths = torch.randint(1, 13, (count, 1), generator=draw)
    return Split(tokens * (torch.arange(12) < lengths), labels)


@pytest.mark.slow
@pytest.mark.parametrize("count", [2, 3])
def test_more_processes_end_in_the_weights_of_one(
    count: int, recipe_with: Callable[..., Recipe], stripes: Callable[..., Split], tmp_path: Path
) -> None:
    """Images and texts, uneven last batches, averages, batch norm and draws: all as one process has them, to 1e-5.

    So do layers in blocks, whose batch norms and bounded rows lie deeper.

    50 pictures in batches of 16 leave a last batch of 2, which is fewer than 3 processes; 45 texts in batches of 8
    leave one of 5. Every process ends with the same network, and there is one checkpoint, the leader's, which any
    number of processes can go on from.
    """
    cases = {
        "pictures": (recipe_with(**PICTURES), stripes(50), stripes(21, seed=1)),
        "blocks": (recipe_with(**PICTURES), stripes(50), stripes(21, seed=1)),
        "texts": (recipe_with(**TEXTS), sentences(45), sentences(20, seed=1)),
    }
    alone = {}
    for name, (recipe, train, validation) in cases.items():
        prepare(tmp_path, name, recipe, train, validation)
        alone[name] = fit.fit(recipe, train, validation, tmp_path / f"{name}-alone.pt").state_dict()
    resumed = recipe_with(**PICTURES)
    prepare(tmp_path, "resumed", resumed, *cases["pictures"][1:])
    fit_first_epoch(resumed, *cases["pictures"][1:], tmp_path / "resumed.pt")
    assert len(history(tmp_path / "resumed.pt")) == 1
    (tmp_path / "script.py").write_text(SCRIPT)
    torchrun(count, str(tmp_path / "script.py"), str(tmp_path), *cases, "resumed")
    for name in (*cases, "resumed"):
        like = "pictures" if name == "resumed" else name
        for rank in range(count):
            assert_alike(torch.load(tmp_path / f"{name}-rank{rank}.pt"), alone[like])
        ours, theirs = history(tmp_path / f"{name}.pt"), history(tmp_path / f"{like}-alone.pt")
        for key in ("loss", "accuracy", "validation_loss", "validation_accuracy", "learning_rate", "epoch"):
            assert [epoch[key] for epoch in ours] == pytest.approx([epoch[key] for epoch in theirs], abs=1e-5)
    expected = {f"{name}{end}" for name in (*cases, "resumed") for end in (".json", ".pt", "-data.pt")}
    expected |= {f"{name}-rank{rank}.pt" for name in (*cases, "resumed") for rank in range(count)}
    assert {path.name for path in tmp_path.iterdir()} == expected | {f"{name}-alone.pt" for name in cases} | {
        "script.py"
    }


def fit_first_epoch(recipe: Recipe, train: Split, validation: Split, path: Path) -> None:
    """Leave the checkpoint of a training that was stopped after its first epoch."""

    class Stop(Exception):
        pass

    def stop(history: list[state.Epoch]) -> None:
        if history:
            raise Stop

    with pytest.raises(Stop):
        fit.fit(recipe, train, validation, path, watch=stop)


@pytest.mark.slow
@pytest.mark.data
@pytest.mark.usefixtures("mnist_folder")
def test_the_command_line_trains_in_two_processes(tmp_path: Path) -> None:
    """`torchrun -m training train` leaves one run's folder, with one log and one result."""
    words = ["lenet", "--runs", str(tmp_path / "runs"), "--device", "cpu", "--threads", "1"]
    words += ["--set", "epochs=1", "--set", "data.refit=false", "--set", "batch_size=1000"]
    torchrun(2, "-m", "training", "train", *words)
    (folder,) = (tmp_path / "runs" / "lenet").iterdir()
    assert json.loads((folder / "result.json").read_text())["validation"]["n"] >= 5000
    assert len((folder / "metrics.jsonl").read_text().splitlines()) == 1
    assert (folder / "fit.pt").exists()


@pytest.mark.parametrize("size", [1, 2, 3])
@pytest.mark.parametrize("count", [1, 2, 7, 8])
def test_processes_part_a_batch_between_them(size: int, count: int) -> None:
    """Every example is some process's, none is two's, and no process has more than one above another."""
    parts = [list(range(count))[World(rank, size).rows(count)] for rank in range(size)]
    assert sorted(place for part in parts for place in part) == list(range(count))
    assert max(map(len, parts)) - min(map(len, parts)) <= 1


def test_one_process_needs_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without torchrun nothing is met, waited for, summed or wrapped."""
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    world = join()
    network = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))
    assert world == World()
    assert world.leads
    assert not World(1, 2).leads
    world.wait()
    assert world.sum(1.5, 2) == [1.5, 2]
    assert world.share("a folder") == "a folder"
    assert world.in_turn(lambda: 3) == 3
    assert world.wrap(network) is network
    assert isinstance(network[1], nn.BatchNorm1d)
    leave()
    assert not dist.is_initialized()


def test_processes_that_cannot_meet_are_a_run_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """Half of torchrun's environment is not enough to meet by, and the refusal says how many were expected."""
    for name in ("RANK", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(RunError, match="the 2 processes of torchrun cannot meet"):
        join()


def test_a_batch_smaller_than_the_processes_is_refused(
    recipe_with: Callable[..., Recipe],
    stripes: Callable[..., Split],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Some process would have nothing to learn from in any batch."""
    machine = parallel.Machine(world=World(0, 3))
    monkeypatch.setattr(World, "wait", lambda _self: None)
    with pytest.raises(RecipeError, match="2 is less than the 3 processes"):
        fit.fit(recipe_with(batch_size=2), stripes(20), None, tmp_path / "fit.pt", machine=machine)


@pytest.fixture
def _group(tmp_path: Path) -> Iterator[None]:
    """A process group of this process alone."""
    dist.init_process_group("gloo", init_method=f"file://{tmp_path / 'meet'}", rank=0, world_size=1)
    yield
    dist.destroy_process_group()


@pytest.mark.usefixtures("_group")
def test_batch_norms_in_blocks_are_wrapped_too() -> None:
    """At any depth, under their names and with their values: no layer keeps statistics of its process alone."""
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
def test_batch_norm_over_one_process_is_torch_s(offset: float, shape: tuple[int, ...]) -> None:
    """Outputs, all gradients and running statistics, in training and evaluation, also far from zero."""
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
        outputs = [norm(given) for norm, given in zip((ours, theirs), inputs, strict=True)]
        for output in outputs:
            output.backward(slope)
        close(*outputs)
        close(*(given.grad for given in inputs))
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
