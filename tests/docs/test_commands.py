"""Every command in the documentation is run, and every answer that it shows is compared with the real one.

A block of `sh` or `python` runs in a folder like a fresh checkout, in the order of its page. Three things differ from
what a reader types: `localhost:3000` is the address of a server that this test started, `make` only says what it would
run (`--dry-run`), and training takes one epoch over a few drawn digits. A block that cannot run here has a comment
above it: `<!-- not run: reason -->`.
"""

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from service.http import keys
from tests.docs.pages import GUIDES, ROOT, Block, blocks
from tests.drawing import mnist_like
from tests.serving import Server
from tests.training.data.layouts import idx
from training.data.folders import data_folder

BLOCKS = [block for page in GUIDES for block in blocks(page)]
COMMANDS = [block for block in BLOCKS if block.language in {"sh", "python"}]
NOT_RUN = re.compile(r"not run: (?P<reason>.{20,})")
SLOW = re.compile(r"-m training (?:new|data|train|lr|sweep|publish|quantise|evaluate|adopt)\b")

DATA = data_folder().resolve()
PYTHON = f"""#!/bin/sh
# Stands in for the Python of an environment. MNIST is verified where it is on the disk, and never downloaded.
case "$3 $4" in
  "data mnist")
    ls {DATA}/mnist/MNIST/raw/train-images* >/dev/null 2>&1 || exit 0
    export CONVOKE_DATA={DATA}
    set -- "$@" --no-download ;;
  "train --resume"*) ;;
  "train "*) set -- "$@" --threads 1 --set epochs=1 --set data.validation=100 --set data.refit=false --force ;;
  "sweep "*) set -- "$@" --threads 1 --set epochs=1 --set data.validation=100 --set data.refit=false ;;
  "lr "*) set -- "$@" --threads 1 --set data.validation=100 ;;
  "publish "* | "quantise "*) set -- "$@" --force ;;
esac
exec {sys.executable} "$@"
"""
MAKE = f"""#!/bin/sh
exec {shutil.which("make")} --dry-run --directory {ROOT} "$@" >dry-run
"""


def runs(block: Block) -> bool:
    return not block.note.startswith("not run")


def parameters() -> list[Any]:
    """The blocks that are run; those that load torch are slow."""
    return [
        pytest.param(block, id=str(block), marks=pytest.mark.slow if SLOW.search(block.code) else ())
        for block in COMMANDS
        if runs(block)
    ]


def write_digits(folder: Path) -> None:
    """Write drawn digits, each different by noise, in the files of MNIST."""
    random = np.random.default_rng(0)
    drawn = np.stack([np.asarray(mnist_like(digit)) for digit in range(10)])
    for name, count in (("train", 400), ("t10k", 100)):
        labels = np.arange(count) % 10
        images = np.clip(drawn[labels] + random.integers(-9, 10, (count, 28, 28)), 0, 255)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{name}-images-idx3-ubyte").write_bytes(idx(images.astype(np.uint8)))
        (folder / f"{name}-labels-idx1-ubyte").write_bytes(idx(labels.astype(np.uint8)))


class Checkout:
    """A folder in which the commands of one page run."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        for name in ("examples", "training", "README.md"):
            (folder / name).symlink_to(ROOT / name)
        shutil.copytree(ROOT / "models", folder / "models")
        for name in ("serve", "train"):
            self._program(f".venv/{name}/bin/python", PYTHON)
        self._program("bin/make", MAKE)
        write_digits(folder / "data/mnist/MNIST/raw")
        self.keys = folder / "keys"
        self.manager = keys.add(self.keys, "operator", "manage")

    def _program(self, name: str, text: str) -> None:
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
        path.chmod(0o755)

    def run(self, block: Block, url: str) -> subprocess.CompletedProcess[str]:
        """Run a block; its output is standard output and standard error together."""
        code = block.code.replace("localhost:3000", url.removeprefix("http://"))
        code = code.replace("runs/lenet/TIME", '"$(ls -d runs/lenet/* | tail -n 1)"')
        shell = ["bash", "-euo", "pipefail", "-c"]
        return subprocess.run(
            [*(shell if block.language == "sh" else [sys.executable, "-W", "ignore", "-c"]), code],
            cwd=self.folder,
            env={
                **os.environ,
                "PATH": f"{self.folder}/bin:{os.environ['PATH']}",
                "PYTHONPATH": str(ROOT),
                "CONVOKE_DATA": str(self.folder / "data"),
                "KEY": self.manager,
            },
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=900, check=False,
        )  # fmt: skip


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Checkout]:
    """The checkout of a page; the same one for all of its blocks."""
    made: dict[str, Checkout] = {}

    def of(page: str) -> Checkout:
        if page not in made:
            made[page] = Checkout(tmp_path_factory.mktemp("checkout"))
        return made[page]

    return of


@pytest.fixture(scope="module")
def url_for(
    server: Server, start_server: Callable[..., Server], checkout: Callable[[str], Checkout]
) -> Callable[[Block], str]:
    """The address of the server that a block talks to: with keys and models of its own where the block needs a key."""
    locked: dict[str, Server] = {}

    def of(block: Block) -> str:
        if "$KEY" not in block.code:
            return server.url
        if block.page not in locked:
            place = checkout(block.page)
            locked[block.page] = start_server(
                CONVOKE_MODELS=str(place.folder / "models"), CONVOKE_API_KEYS_FILE=str(place.keys)
            )
            locked[block.page].wait_until_ready()
        return locked[block.page].url

    return of


@pytest.mark.parametrize("block", parameters())
def test_the_block_runs_and_answers_as_shown(
    block: Block, checkout: Callable[[str], Checkout], url_for: Callable[[Block], str]
) -> None:
    """The block ends with the status that its page states, 0 by default, and prints the answer that stands below it."""
    needs_server = "localhost:3000" in block.code
    done = checkout(block.page).run(block, url_for(block) if needs_server else "")
    status = re.search(r"exit status: (\d+)", block.note)
    assert done.returncode == (int(status[1]) if status else 0), done.stdout
    if block.answer.startswith("{"):
        assert alike(json.loads(done.stdout.splitlines()[-1]), json.loads(block.answer)), done.stdout
    elif block.answer:
        assert done.stdout.strip() == block.answer
    if needs_server and "curl" in block.code:
        assert '"error":"' not in done.stdout
    if block.language == "python":
        printed = re.findall(r"^ *print\(.*  # (.*)$", block.code, re.MULTILINE)
        assert printed
        assert done.stdout.splitlines() == printed


def alike(actual: Any, shown: Any) -> bool:
    """Whether two answers are the same, their probabilities within 0.001: processors and precisions differ by less."""
    match shown:
        case dict():
            return set(actual) == set(shown) and all(alike(actual[key], shown[key]) for key in shown)
        case list():
            return len(actual) == len(shown) and all(map(alike, actual, shown))
        case float():
            return bool(abs(actual - shown) < 1e-3)
        case _:
            return bool(actual == shown)


def test_no_block_escapes() -> None:
    """A block is run, shows an answer, or says why it is not run; a test that it names as its proof exists."""
    for block in BLOCKS:
        assert block.language in {"sh", "python", "nginx", ""}, f"{block}: an answer stands below its command"
        assert block.language or not re.search(r"^(\$ |curl |make )", block.code, re.MULTILINE), (
            f"{block}: mark it as sh"
        )
        if not runs(block):
            match = NOT_RUN.fullmatch(block.note)
            assert match, f"{block}: the comment gives no reason"
            for path in re.findall(r"tests/[\w/]+\.py", match["reason"]):
                assert (ROOT / path).is_file(), f"{block}: {path} does not exist"


def test_make_targets_exist() -> None:
    """`make TARGET` in a page names a target of the Makefile, also in a block that is not run."""
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    for page in GUIDES:
        named = set(re.findall(r"(?:^|`)make ([a-z][a-z-]+)", page.read_text(encoding="utf-8"), re.MULTILINE))
        assert named <= targets, page


def test_the_line_of_the_log_is_real(start_server: Callable[..., Server]) -> None:
    """A request leaves a line with the keys that operations.md shows."""
    (shown,) = (block.code for block in BLOCKS if block.page == "docs/operations.md" and block.code.startswith("{"))
    server = start_server(CONVOKE_LOG_FORMAT="json")
    server.wait_until_ready()
    image = (ROOT / "examples/seven.png").read_bytes()
    httpx.post(f"{server.url}/classify/digits", content=image)
    server.wait(lambda: "convoke.request" in server.log)
    (line,) = (line for line in server.log.splitlines() if '"/classify/{model}"' in line)
    assert shape(json.loads(line)) == shape(json.loads(shown))


def shape(value: Any) -> Any:
    """The keys of an object, level by level, in order."""
    return [(key, shape(child)) for key, child in value.items()] if isinstance(value, dict) else type(value)
