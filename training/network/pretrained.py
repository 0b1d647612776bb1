"""Pretrained weights, under a new last layer.

The file is a state dict written by `torch.save`, like torchvision's. It is downloaded once, verified by its checksum
and read with `weights_only=True`, so that no code in it runs.
"""

from itertools import zip_longest
from pathlib import Path
from urllib.parse import urlsplit

import torch
from torch import Tensor, nn

from contract.manifest import sha256
from training.data import download
from training.data.folders import cache_folder
from training.errors import RunError
from training.recipe.schema import Initialise


def load(network: nn.Sequential, options: Initialise) -> None:
    """Copy pretrained weights into all layers but the last, in order; names may differ.

    Raises:
        DataError: the file cannot be downloaded, or its checksum is wrong.
        RunError: the file holds no weights, or those of another network.
    """
    path = fetch(options)
    try:
        state: dict[str, Tensor] = torch.load(path, map_location="cpu", weights_only=True)
        shapes = [(name, tuple(tensor.shape)) for name, tensor in state.items()]
    except Exception as error:  # torch lets any exception of its unpickler through
        kind = type(error).__name__
        raise RunError(f"{path}: not a file of weights that torch can read ({kind}); source: {options.url}") from error
    targets = body(network).state_dict()
    for (layer, target), source in zip_longest(targets.items(), shapes[: len(targets)]):
        expected = tuple(target.shape)
        if source is None or source[1] != expected:
            actual = f"{source[0]} of shape {source[1]}" if source else "the end of the file"
            raise RunError(
                f"{path}: the weights are of another network: expected shape {expected} for layer {layer}, "
                f"found {actual}"
            )
    with torch.no_grad():
        for target, tensor in zip(targets.values(), state.values(), strict=False):
            target.copy_(tensor)


def body(network: nn.Sequential) -> nn.Sequential:
    """All modules but the last, which is the dense layer that gives the logits."""
    assert isinstance(network[-1], nn.Linear), "a network ends in a dense layer"
    return network[:-1]


def fetch(options: Initialise) -> Path:
    """The file of weights in the cache, downloaded unless a complete file is already there.

    Raises:
        DataError: the file cannot be downloaded, or its checksum is wrong.
    """
    assert options.url is not None
    assert options.sha256 is not None
    name = Path(urlsplit(options.url).path).name or "weights.pth"
    path = cache_folder() / f"{options.sha256[:16]}-{name}"
    if not path.exists() or not sha256(path).startswith(options.sha256):
        download.fetch(options.url, path, sha256=options.sha256)
    return path
