"""Weights of our own making, served by a web server of our own: taken over whole, or refused before a step is taken."""

import hashlib
import os
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
    """A server of one file, and how often it was asked for it."""

    url: str
    content: bytes = b""
    asked: list[str] = field(default_factory=list)


@pytest.fixture
def web(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Web]:
    """A server on this machine; what is downloaded goes below the test's own folder."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            served.asked.append(self.path)
            self.send_response(200)
            self.send_header("Content-Length", str(len(served.content)))
            self.end_headers()
            self.wfile.write(served.content)

        def log_message(self, *_: Any) -> None:
            """Nothing on the test's output."""

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
    """A recipe that starts from what the server holds, its checksum given in full or by its first digits."""

    def make(digits: int = 64, sha256: str | None = None, *, freeze: bool = False, **changes: Any) -> Recipe:
        checksum = sha256 or hashlib.sha256(web.content).hexdigest()
        start = {"name": "pretrained", "url": web.url, "sha256": checksum[:digits], "freeze": freeze}
        return recipe_with(**{"layers": LAYERS, "initialise": start, "epochs": 1, **changes})

    return make


@pytest.fixture
def theirs(recipe_with: Callable[..., Recipe]) -> nn.Sequential:
    """Somebody else's network: the same body under a head of 7 classes."""
    torch.manual_seed(5)
    network = build(recipe_with(layers=[*LAYERS[:-1], {"dense": 7, "activation": "none"}], labels=list("abcdefg")))
    with torch.no_grad():
        for tensor in network.state_dict().values():
            if tensor.is_floating_point():
                tensor.uniform_(0.1, 1)
    return network


def packed(state: Any, folder: Path) -> bytes:
    """What `torch.save` makes of it."""
    torch.save(state, folder / "packed.pth")
    return (folder / "packed.pth").read_bytes()


def renamed(network: nn.Sequential) -> dict[str, Tensor]:
    """A state dict with names of its own, as another program gives them."""
    return {f"features.{place}": tensor for place, tensor in enumerate(network.state_dict().values())}


@pytest.mark.parametrize("digits", [8, 64])
def test_the_body_is_taken_over_in_order_and_the_head_is_new(
    digits: int,
    web: Web,
    theirs: nn.Sequential,
    recipe_of: Callable[..., Recipe],
    stripes: Callable[..., Split],
    tmp_path: Path,
) -> None:
    """Frozen, the body's parameters after a training are the file's, under whatever names; the head has learnt."""
    web.content = packed(renamed(theirs), tmp_path)
    recipe = recipe_of(digits, freeze=True)
    found = fit(recipe, stripes(64), None, tmp_path / "fit.pt")
    for ours, expected in zip(found[:-1].parameters(), theirs[:-1].parameters(), strict=True):
        assert torch.equal(ours, expected)
    torch.manual_seed(recipe.seed)
    head, before = found[-1], build(recipe)[-1]
    assert isinstance(head, nn.Linear)
    assert isinstance(before, nn.Linear)
    assert head.weight.shape == (3, 5)
    assert not torch.equal(head.weight, before.weight)
    assert not torch.equal(head.bias, before.bias)


def test_without_freeze_the_body_learns_on_from_where_it_was(
    web: Web, theirs: nn.Sequential, recipe_of: Callable[..., Recipe], stripes: Callable[..., Split], tmp_path: Path
) -> None:
    """After steps of a tiny learning rate every weight has moved from the file's, and by little."""
    web.content = packed(theirs.state_dict(), tmp_path)
    recipe = recipe_of(optimiser={"name": "sgd", "learning_rate": 1e-3})
    found = fit(recipe, stripes(64), None, tmp_path / "fit.pt")
    ours, expected = next(found.parameters()), next(theirs.parameters())
    assert not torch.equal(ours, expected)
    torch.testing.assert_close(ours, expected, rtol=0, atol=0.05)


@pytest.mark.usefixtures("theirs")
def test_a_file_of_another_checksum_is_refused(
    web: Web, recipe_of: Callable[..., Recipe], stripes: Callable[..., Split], tmp_path: Path
) -> None:
    """Both checksums are named, and the file is not kept."""
    web.content = packed({"layer": torch.ones(3)}, tmp_path)
    with pytest.raises(DataError) as refusal:
        fit(recipe_of(sha256="0" * 64), stripes(64), None, tmp_path / "fit.pt")
    assert all(digest in str(refusal.value) for digest in ("0" * 64, hashlib.sha256(web.content).hexdigest()))
    assert [path for path in (tmp_path / "cache").rglob("*") if path.is_file()] == []
    assert not (tmp_path / "fit.pt").exists()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (
            {"features.0": torch.ones(4, 1, 5, 5)},
            r"\(4, 1, 3, 3\) for layer 0\.weight, found features\.0 .*\(4, 1, 5, 5\)",
        ),
        ({"features.7": torch.ones(6)}, r"expected \(5,\) for layer 4\.bias, found features\.7 of shape \(6,\)"),
        (None, r"for layer 4\.weight, found nothing"),
    ],
    ids=["another kernel", "another width", "too few"],
)
def test_weights_of_another_network_are_refused_by_the_layer(
    change: dict[str, Tensor] | None,
    said: str,
    web: Web,
    theirs: nn.Sequential,
    recipe_of: Callable[..., Recipe],
    stripes: Callable[..., Split],
    tmp_path: Path,
) -> None:
    """The first layer that does not fit is named with both shapes, and nothing is trained."""
    state = {**renamed(theirs), **change} if change else dict(list(renamed(theirs).items())[:6])
    web.content = packed(state, tmp_path)
    with pytest.raises(RunError, match=f"the weights are of another network: .*{said}"):
        fit(recipe_of(), stripes(64), None, tmp_path / "fit.pt")
    assert not (tmp_path / "fit.pt").exists()


@pytest.mark.parametrize("content", [b"", b"<html>not found</html>", b"PK\x03\x04 and no more"])
def test_garbage_is_refused(
    content: bytes, web: Web, recipe_of: Callable[..., Recipe], stripes: Callable[..., Split], tmp_path: Path
) -> None:
    """A file that torch cannot read is refused with where it came from, though its checksum is right."""
    web.content = content
    with pytest.raises(RunError, match=f"holds no weights that torch can read .* it came from {web.url}"):
        fit(recipe_of(), stripes(64), None, tmp_path / "fit.pt")


@pytest.mark.parametrize("state", [[torch.ones(2)], {"layer": "no tensor"}, {"epoch": 3, "state_dict": {}}])
def test_a_file_of_something_else_is_refused(
    state: Any, web: Web, recipe_of: Callable[..., Recipe], stripes: Callable[..., Split], tmp_path: Path
) -> None:
    """What torch can read, but is no state dict, is no weights either."""
    web.content = packed(state, tmp_path)
    with pytest.raises(RunError, match="holds no weights that torch can read"):
        fit(recipe_of(), stripes(64), None, tmp_path / "fit.pt")


class Evil:
    """A pickle that makes a file when it is loaded."""

    def __init__(self, made: Path) -> None:
        self.made = made

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.made),)


def test_code_in_the_file_is_not_run(
    web: Web, recipe_of: Callable[..., Recipe], stripes: Callable[..., Split], tmp_path: Path
) -> None:
    """A pickle that would make a folder is refused, and there is no folder."""
    web.content = packed({"layer": Evil(tmp_path / "made")}, tmp_path)
    with pytest.raises(RunError, match="holds no weights that torch can read"):
        fit(recipe_of(), stripes(64), None, tmp_path / "fit.pt")
    assert not (tmp_path / "made").exists()
    torch.load(tmp_path / "packed.pth", weights_only=False)
    assert (tmp_path / "made").exists()  # it would have been made


def test_the_file_is_downloaded_once(
    web: Web, theirs: nn.Sequential, recipe_of: Callable[..., Recipe], stripes: Callable[..., Split], tmp_path: Path
) -> None:
    """Another training of the recipe takes it from the cache; one that is resumed needs neither server nor cache."""
    web.content = packed(theirs.state_dict(), tmp_path)
    first = fit(recipe_of(), stripes(64), None, tmp_path / "fit.pt")
    second = fit(recipe_of(), stripes(64), None, tmp_path / "again.pt")
    assert web.asked == ["/weights.pth"]
    for ours, expected in zip(second.parameters(), first.parameters(), strict=True):
        assert torch.equal(ours, expected)
    for path in (tmp_path / "cache").iterdir():
        path.unlink()
    fit(recipe_of(epochs=2), stripes(64), None, tmp_path / "fit.pt")
    assert web.asked == ["/weights.pth"]


def test_a_damaged_file_in_the_cache_is_downloaded_again(
    web: Web, theirs: nn.Sequential, recipe_of: Callable[..., Recipe], stripes: Callable[..., Split], tmp_path: Path
) -> None:
    """What lies in the cache is checked as well: cut off, it is replaced and the training is the same."""
    web.content = packed(theirs.state_dict(), tmp_path)
    first = fit(recipe_of(), stripes(64), None, tmp_path / "fit.pt")
    (kept,) = (tmp_path / "cache").iterdir()
    kept.write_bytes(web.content[:100])
    second = fit(recipe_of(), stripes(64), None, tmp_path / "again.pt")
    assert kept.read_bytes() == web.content
    assert torch.equal(next(first.parameters()), next(second.parameters()))
