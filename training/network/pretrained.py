"""Weights that somebody else trained, under a new last layer.

The file is what `torch.save` leaves of a state dict, like torchvision's. It is downloaded once, checked against its
checksum and read with `weights_only=True`, so that nothing in it is run.
"""

from pathlib import Path
from urllib.parse import urlsplit

import torch
from torch import Tensor, nn

from contract.manifest import sha256
from training.data import download
from training.data.dataset import cache_folder
from training.errors import RunError
from training.recipe.schema import Initialise


def load(network: nn.Sequential, how: Initialise) -> None:
    """Take over the weights of all layers but the last, in order.

    Raises:
        DataError: the file cannot be downloaded, or is not what its checksum says.
        RunError: it holds no weights, or those of another network.
    """
    assert how.url is not None
    path = fetch(how)
    try:
        state: dict[str, Tensor] = torch.load(path, map_location="cpu", weights_only=True)
        theirs = list(state.items())
        shapes = [tuple(tensor.shape) for _, tensor in theirs]
    except Exception as error:  # torch lets through whatever its unpickler meets in garbage
        kind = type(error).__name__
        raise RunError(f"{path}: holds no weights that torch can read ({kind}); it came from {how.url}") from error
    ours = list(body(network).state_dict().items())
    expected = [tuple(tensor.shape) for _, tensor in ours]
    if shapes[: len(expected)] != expected:
        place = next(
            (i for i, shape in enumerate(expected) if i >= len(shapes) or shapes[i] != shape), len(expected) - 1
        )
        found = f"{theirs[place][0]} of shape {shapes[place]}" if place < len(theirs) else "nothing"
        raise RunError(
            f"{path}: the weights are of another network: expected {expected[place]} for layer {ours[place][0]}, "
            f"found {found}"
        )
    with torch.no_grad():
        for (_, target), (_, tensor) in zip(ours, theirs, strict=False):
            target.copy_(tensor)


def body(network: nn.Sequential) -> nn.Sequential:
    """All modules but the last, which is the dense layer of logits."""
    assert isinstance(network[-1], nn.Linear), "a network ends in a dense layer"
    return network[:-1]


def fetch(how: Initialise) -> Path:
    """The file of weights, downloaded where it is not whole in the cache yet.

    Raises:
        DataError: it cannot be downloaded, or is not what its checksum says.
    """
    assert how.url is not None
    assert how.sha256 is not None
    name = Path(urlsplit(how.url).path).name or "weights.pth"
    path = cache_folder() / f"{how.sha256[:16]}-{name}"
    if not path.exists() or not sha256(path).startswith(how.sha256):
        download.fetch(how.url, path, sha256=how.sha256)
    return path
