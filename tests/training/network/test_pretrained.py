"""Pretrained weights from a local web server: copied completely, or refused before the first step."""

import hashlib
import os
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from training.data.dataset import Split
from training.errors import DataError, RunError
from training.fit.loop import fit
from training.network.build import build
from training.recipe.schema import Recipe

LAYERS: list[dict[str, Any]] = [
    {"conv": 4, "kernel": 3, "batch_norm": True},
    {"flatten": True},
    {"dense": 5},
    {"dense": 3, "activation": "none"},
]


@dataclass
class Web:
    """A web server with one file, and the paths of the requests."""

    url: str
    content: bytes = b""
    paths: list[str] = field(default_factory=list)


@pytest.fixture
def web(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Web]:
    """A local server; the cache of downloads is in the folder of the test."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            served.paths.append(self.path)
            self.send_response(200)
            self.send_header("Content-Length", str(len(served.content)))
            self.end_headers()
            self.wfile.write(served.content)

        def log_message(self, *_: Any) -> None:
            """Log nothing."""

    monkeypatch.setenv("CONVOKE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        served = Web(f"http://127.0.0.1:{server.server_port}/weights.pth")
        thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield served
        server.shutdown()
        thread.join()


@pytest.fixture
def recipe_of(recipe_with: Callable[..., Recipe], web: Web) -> Callable[..., Recipe]:
    """A recipe that starts from the server's file, with a full checksum or its first digits."""

    def make(digits: int = 64, sha256: str | None = None, *, freeze: bool = False, **changes: Any) -> Recipe:
        checksum = sha256 or hashlib.sha256(web.content).hexdigest()
        options = {"name": "pretrained", "url": web.url, "sha256": checksum[:digits], "freeze": freeze}
        return recipe_with(**{"layers": LAYERS, "initialise": options, "epochs": 1, **changes})

    return make


@pytest.fixture
def source(recipe_with: Callable[..., Recipe]) -> nn.Sequential:
    """A network with the same body and a head of 7 classes."""
    torch.manual_seed(5)
    network = build(recipe_with(layers=[*LAYERS[:-1], {"dense": 7, "activation": "none"}], labels=list("abcdefg")))
    with torch.no_grad():
        for tensor in network.state_dict().values():
            if tensor.is_floating_point():
                tensor.uniform_(0.1, 1)
    return network


def packed(state: Any, folder: Path) -> bytes:
    """The bytes that `torch.save` writes."""
    torch.save(state, folder / "packed.pth")
    return (folder / "packed.pth").read_bytes()


def renamed(network: nn.Sequential) -> dict[str, Tensor]:
    """A state dict with other names, as another program writes them."""
    return {f"features.{index}": tensor for index, tensor in enumerate(network.state_dict().values())}


@pytest.mark.parametrize("digits", [8, 64])
def test_the_body_is_copied_in_order_and_the_head_is_trained(
    digits: int,
    web: Web,
    source: nn.Sequential,
    recipe_of: Callable[..., Recipe],
    stripes: Callable[..., Split],
    tmp_path: Path,
) -> None:
    """With `freeze`, the body's parameters after a training are the file's, under any names; the head has changed."""
    web.content = packed(renamed(source), tmp_path)
    recipe = recipe_of(digits, freeze=True)
    network = fit(recipe, stripes(64), None, tmp_path / "fit.pt")
    for actual, expected in zip(network[:-1].parameters(), source[:-1].parameters(), strict=True):
        assert torch.equal(actual, expected)
    torch.manual_seed(recipe.seed)
    head, before = network[-1], build(recipe)[-1]
    assert isinstance(head, nn.Linear)
    assert isinstance(before, nn.Linear)
    assert head.weight.shape == (3, 5)
    assert not torch.equal(head.weight, before.weight)
    assert not torch.equal(head.bias, before.bias)


def test_without_freeze_the_body_is_trained_further(
    web: Web, source: nn.Sequential, recipe_of: Callable[..., Recipe], stripes: Callable[..., Split], tmp_path: Path
) -> None:
    """After steps with a tiny learning rate the weights differ from the file's by little."""
    web.content = packed(source.state_dict(), tmp_path)
    recipe = recipe_of(optimiser={"name": "sgd", "learning_rate": 1e-3})
    network = fit(recipe, stripes(64), None, tmp_path / "fit.pt")
    actual, expected = next(network.parameters()), next(source.parameters())
    assert not torch.equal(actual, expected)
    torch.testing.assert_close(actual, expected, rtol=0, atol=0.05)


@pytest.mark.usefixtures("source")
def test_a_file_with_another_checksum_is_refused(
    web: Web, recipe_of: Callable[..., Recipe], stripes: Callable[..., Split], tmp_path: Path
) -> None:
    """The message names both checksums, and the file is deleted."""
    web.content = packed({"layer": torch.ones(3)}, tmp_path)
    with pytest.raises(DataError) as refusal:
        fit(recipe_of(sha256="0" * 64), stripes(64), None, tmp_path / "fit.pt")
    assert all(digest in str(refusal.value) for digest in ("0" * 64, hashlib.sha256(web.content).hexdigest()))
    assert [path for path in (tmp_path / "cache").rglob("*") if path.is_file()] == []
    assert not (tmp_path / "fit.pt").exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"features.0": torch.ones(4, 1, 5, 5)},
            r"\(4, 1, 3, 3\) .*0\.weight.* features\.0 .*\(4, 1, 5, 5\)",
        ),
        ({"features.7": torch.ones(6)}, r"\(5,\) .*4\.bias.* features\.7 .*\(6,\)"),
        (None, r"4\.weight"),
    ],
    ids=["another kernel", "another width", "too few"],
)
def test_weights_of_another_network_are_refused(
    change: dict[str, Tensor] | None,
    message: str,
    web: Web,
    source: nn.Sequential,
    recipe_of: Callable[..., Recipe],
    stripes: Callable[..., Split],
    tmp_path: Path,
) -> None:
    """The message names the first layer that differs, with both shapes, and nothing is trained."""
    state = {**renamed(source), **change} if change else dict(list(renamed(source).items())[:6])
    web.content = packed(state, tmp_path)
    with pytest.raises(RunError, match=message):
        fit(recipe_of(), stripes(64), None, tmp_path / "fit.pt")
    assert not (tmp_path / "fit.pt").exists()


@pytest.mark.parametrize("content", [b"", b"<html>not found</html>", b"PK\x03\x04 and no more"])
def test_garbage_is_refused(
    content: bytes, web: Web, recipe_of: Callable[..., Recipe], stripes: Callable[..., Split], tmp_path: Path
) -> None:
    """A file that torch cannot read is refused although its checksum is right; the message names its source."""
    web.content = content
    with pytest.raises(RunError, match=re.escape(web.url)):
        fit(recipe_of(), stripes(64), None, tmp_path / "fit.pt")


@pytest.mark.parametrize("state", [[torch.ones(2)], {"layer": "no tensor"}, {"epoch": 3, "state_dict": {}}])
def test_a_file_that_is_not_a_state_dict_is_refused(
    state: Any, web: Web, recipe_of: Callable[..., Recipe], stripes: Callable[..., Split], tmp_path: Path
) -> None:
    """A file that torch can read, but whose values are not tensors, is refused."""
    web.content = packed(state, tmp_path)
    with pytest.raises(RunError, match=r"weights\.pth: "):
        fit(recipe_of(), stripes(64), None, tmp_path / "fit.pt")


class Malicious:
    """A pickle that creates a folder when it is loaded."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.folder),)


def test_code_in_the_file_is_not_run(
    web: Web, recipe_of: Callable[..., Recipe], stripes: Callable[..., Split], tmp_path: Path
) -> None:
    """A pickle that would create a folder is refused, and the folder does not exist."""
    web.content = packed({"layer": Malicious(tmp_path / "created")}, tmp_path)
    with pytest.raises(RunError, match=r"weights\.pth: "):
        fit(recipe_of(), stripes(64), None, tmp_path / "fit.pt")
    assert not (tmp_path / "created").exists()
    torch.load(tmp_path / "packed.pth", weights_only=False)
    assert (tmp_path / "created").exists()  # the pickle works


def test_the_file_is_downloaded_once(
    web: Web, source: nn.Sequential, recipe_of: Callable[..., Recipe], stripes: Callable[..., Split], tmp_path: Path
) -> None:
    """A second training reads it from the cache; a resumed training needs neither server nor cache."""
    web.content = packed(source.state_dict(), tmp_path)
    first = fit(recipe_of(), stripes(64), None, tmp_path / "fit.pt")
    second = fit(recipe_of(), stripes(64), None, tmp_path / "again.pt")
    assert web.paths == ["/weights.pth"]
    for actual, expected in zip(second.parameters(), first.parameters(), strict=True):
        assert torch.equal(actual, expected)
    for path in (tmp_path / "cache").iterdir():
        path.unlink()
    fit(recipe_of(epochs=2), stripes(64), None, tmp_path / "fit.pt")
    assert web.paths == ["/weights.pth"]


def test_a_damaged_file_in_the_cache_is_downloaded_again(
    web: Web, source: nn.Sequential, recipe_of: Callable[..., Recipe], stripes: Callable[..., Split], tmp_path: Path
) -> None:
    """A truncated file in the cache is replaced, and the training is the same."""
    web.content = packed(source.state_dict(), tmp_path)
    first = fit(recipe_of(), stripes(64), None, tmp_path / "fit.pt")
    (cached,) = (tmp_path / "cache").iterdir()
    cached.write_bytes(web.content[:100])
    second = fit(recipe_of(), stripes(64), None, tmp_path / "again.pt")
    assert cached.read_bytes() == web.content
    assert torch.equal(next(first.parameters()), next(second.parameters()))
