"""The precision of a training: chosen when a run starts, and saved with it.

bfloat16 halves the memory traffic of a layer and doubles the speed of a processor with instructions for it; a processor
without them emulates it, several times slower than float32. So `resolve` measures both on the network to be trained.
"""

import math
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
_TOKENS = 256  # about the length of a film review
_MIN_SPEEDUP = 1.1  # of bfloat16 over float32
_GIVE_UP = 3.0  # times as long as in float32, of a first step in bfloat16, which also prepares its kernels
_MIN_SIMILARITY = 0.9  # the cosine between the two gradients


def resolve(recipe: Recipe, device: torch.device) -> Literal["float32", "bfloat16"]:
    """The precision of a recipe; "auto" becomes bfloat16 if that is fast and accurate on `device`, else float32.

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
        rough_s, rough = _measure(network, inputs, "bfloat16", give_up_s=_GIVE_UP * exact_s)
    accurate = float(F.cosine_similarity(exact, rough, dim=0)) > _MIN_SIMILARITY
    return "bfloat16" if accurate and exact_s > _MIN_SPEEDUP * rough_s else "float32"


def _examples(recipe: Recipe) -> Tensor:
    """A random batch for the network: images float32 (16, C, H, W), or token ids int64 (16, L)."""
    spec = recipe.input
    if not isinstance(spec, Image):
        return torch.randint(1, spec.vocabulary, (_BATCH, min(spec.length, _TOKENS)))
    side = max(recipe.resolutions) if recipe.resolutions else None
    return torch.randn(_BATCH, spec.channels, side or spec.height, side or spec.width)


def prepare(network: nn.Sequential, recipe: Recipe, device: torch.device) -> nn.Sequential:
    """Move a network to `device`, its filters in the memory layout of its images; torch has none for filters in 3-D."""
    if _channels_last(recipe) and all(weights.ndim <= 4 for weights in network.parameters()):  # noqa: PLR2004 -- O, I, H, W
        network.to(memory_format=torch.channels_last)
    return network.to(device)


def layout(inputs: Tensor, recipe: Recipe) -> Tensor:
    """Images (N, C, H, W) in the memory layout in which convolutions are fastest: colours channels-last."""
    return inputs.contiguous(memory_format=torch.channels_last) if _channels_last(recipe) else inputs


def autocast(device: torch.device, precision: str) -> torch.autocast:
    """A context in which layers compute in `precision`; weights stay float32."""
    return torch.autocast(device.type, torch.bfloat16, enabled=precision == "bfloat16")


def _channels_last(recipe: Recipe) -> bool:
    return isinstance(recipe.input, Image) and recipe.input.channels > 1


def _measure(
    network: nn.Module, inputs: Tensor, precision: str, *, give_up_s: float = math.inf
) -> tuple[float, Tensor]:
    """Seconds of the fastest of several equal steps, and the gradient of the first layer's weights.

    Emulated steps of a second each are not repeated: a step of more than `give_up_s` is the last.
    """
    labels = torch.arange(len(inputs), device=inputs.device) % 2
    state = {name: value.clone() for name, value in network.state_dict().items()}
    best, gradient = math.inf, torch.empty(0)
    for _ in range(_STEPS):
        torch.manual_seed(0)
        network.load_state_dict(state)
        started = time.perf_counter()
        network.zero_grad()
        with autocast(inputs.device, precision):
            outputs = network(inputs)
        F.cross_entropy(outputs.float(), labels).backward()  # type: ignore[no-untyped-call]
        weights = next(network.parameters()).grad
        assert weights is not None, "a step leaves a gradient in the first layer"
        gradient = weights.detach().flatten().float().cpu()
        best = min(best, time.perf_counter() - started)
        if best > give_up_s:
            break
    return best, gradient
