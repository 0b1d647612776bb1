"""Which arithmetic a training computes in: decided once, when a run starts, and saved with it.

bfloat16 halves the memory that a layer moves and doubles what a processor with the instructions for it computes; on
one without them it is emulated, and several times slower. So it is measured here, on the network that will be trained.
"""

import time
from typing import Literal

import torch
import torch.nn.functional as F  # noqa: N812 -- its usual name
from torch import Tensor, nn

from training.data.schema import Image
from training.network.build import build
from training.recipe.schema import Recipe

_STEPS = 3
_BATCH = 16
_TOKENS = 256  # of a text, more or less a film review
_WORTH = 1.1  # bfloat16 has to be faster by a tenth
_LIKE = 0.9  # cosine between the two gradients, below which bfloat16 computes something else


def resolve(recipe: Recipe, device: torch.device) -> Literal["float32", "bfloat16"]:
    """The precision that a recipe asks for, measured on `device` where it leaves the choice.

    Raises:
        RecipeError: a stack that cannot be built.
    """
    if recipe.precision != "auto":
        return recipe.precision
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = prepare(build(recipe), recipe, device).train()
        inputs = layout(_examples(recipe), recipe).to(device)
        exact_s, exact = _measure(network, inputs, "float32")
        rough_s, rough = _measure(network, inputs, "bfloat16")
    alike = float(F.cosine_similarity(exact, rough, dim=0)) > _LIKE
    return "bfloat16" if alike and exact_s > _WORTH * rough_s else "float32"


def _examples(recipe: Recipe) -> Tensor:
    """A batch as the network takes it: pictures float32 (16, C, H, W), or the ids of texts int64 (16, L)."""
    spec = recipe.input
    if not isinstance(spec, Image):
        return torch.randint(1, spec.vocabulary, (_BATCH, min(spec.length, _TOKENS)))
    side = max(recipe.resolutions) if recipe.resolutions else None
    return torch.randn(_BATCH, spec.channels, side or spec.height, side or spec.width)


def prepare(network: nn.Sequential, recipe: Recipe, device: torch.device) -> nn.Sequential:
    """A network on `device`, its filters laid out as its pictures are."""
    if _channels_last(recipe):
        network.to(memory_format=torch.channels_last)
    return network.to(device)


def layout(inputs: Tensor, recipe: Recipe) -> Tensor:
    """Pictures (N, C, H, W) with the channels of a pixel side by side in memory, where convolutions are faster so."""
    return inputs.contiguous(memory_format=torch.channels_last) if _channels_last(recipe) else inputs


def autocast(device: torch.device, precision: str) -> torch.autocast:
    """A context in which layers compute in bfloat16 if that is the precision."""
    return torch.autocast(device.type, torch.bfloat16, enabled=precision == "bfloat16")


def _channels_last(recipe: Recipe) -> bool:
    return isinstance(recipe.input, Image) and recipe.input.channels > 1


def _measure(network: nn.Module, inputs: Tensor, precision: str) -> tuple[float, Tensor]:
    """Seconds of the fastest step, and the gradient of the first layer's weights in it."""
    labels = torch.arange(len(inputs), device=inputs.device) % 2
    state = {name: value.clone() for name, value in network.state_dict().items()}
    best, gradient = float("inf"), torch.empty(0)
    for _ in range(_STEPS):
        torch.manual_seed(0)
        network.load_state_dict(state)
        began = time.perf_counter()
        network.zero_grad()
        with autocast(inputs.device, precision):
            outputs = network(inputs)
        F.cross_entropy(outputs.float(), labels).backward()  # type: ignore[no-untyped-call]
        weights = next(network.parameters()).grad
        assert weights is not None, "a step leaves a gradient in the first layer"
        gradient = weights.detach().flatten().float().cpu()
        best = min(best, time.perf_counter() - began)
    return best, gradient
