"""Random changes to whole batches of training examples.

The draws come first, for the whole batch, so that processes that share a batch change each example alike.
"""

import math

import torch
import torch.nn.functional as F  # noqa: N812 -- its usual name
from torch import Tensor

from training.recipe.schema import Augment

_ASPECT = 4 / 3  # the most oblong part that is cut out (Szegedy et al., 2015)
_UNKNOWN = 1  # the token that stands for every word outside of the vocabulary
_COLOUR = 5  # draws of colour an example: brightness, contrast, one a channel
_PART = 5  # draws of a part an example: area, aspect, place across and down, mirrored or not


def draw(how: Augment, count: int) -> Tensor:
    """The draws for `count` pictures, uniform in [-1, 1), from torch's global generator: (K, count)."""
    draws = torch.rand(5, count) * 2 - 1
    if how.crop < 1 or how.flip or _changes_colour(how):
        draws = torch.cat([draws, torch.rand(_PART + _COLOUR, count) * 2 - 1])
    return draws


def augment(pictures: Tensor, how: Augment, draws: Tensor | None = None, side: int | None = None) -> Tensor:
    """Change each picture by its own draws: (N, C, H, W) float, scaled -> the same, or (N, C, side, side).

    What comes in from outside repeats the border. Bilinear, like an affine layer of Jaderberg et al. (2015).
    """
    count, channels, height, width = pictures.shape
    size = [count, channels, side or height, side or width]
    if how == Augment() and list(pictures.shape) == size:
        return pictures
    if not count:  # affine_grid refuses what a process among many may have of a small batch
        return pictures.new_empty(size)
    draws = (draw(how, count) if draws is None else draws).to(pictures.device)
    theta = _affine(how, draws, height, width)
    if len(draws) > 5:  # noqa: PLR2004 -- draws beyond those of the affine map
        theta = _part(how, draws[5 : 5 + _PART], theta)
    grid = F.affine_grid(theta, size, align_corners=False)
    changed = F.grid_sample(pictures, grid, mode="bilinear", padding_mode="border", align_corners=False)
    return _colour(how, draws[5 + _PART :], changed) if _changes_colour(how) else changed


def cut(tokens: Tensor, span: int, draws: Tensor) -> Tensor:
    """Keep a part of each text that is longer than `span`: token ids (N, L) -> (N, at most L).

    Length and place of the part come from two draws a text, uniform in [0, 1), (2, N).
    """
    lengths = (tokens != 0).sum(dim=1)
    room = (lengths - span).clamp(min=0)
    kept = lengths - (draws[0] * (room + 1)).long()  # span ... length
    start = (draws[1] * (lengths - kept + 1)).long()
    places = torch.arange(int(kept.max()))
    part = tokens.gather(1, (start.unsqueeze(1) + places).clamp(max=tokens.shape[1] - 1))
    return part.masked_fill(places >= kept.unsqueeze(1), 0)


def drop_words(tokens: Tensor, share: float, draws: Tensor) -> Tensor:
    """Replace tokens by the unknown one where a draw, uniform in [0, 1), is below `share`: (N, L) -> (N, L)."""
    return tokens.masked_fill((draws < share) & (tokens != 0), _UNKNOWN)


def _affine(how: Augment, draws: Tensor, height: int, width: int) -> Tensor:
    """Rotation, shear, scale and shift as maps from the new picture's coordinates to the old one's: (N, 2, 3)."""
    angle = draws[0] * math.radians(how.rotate_deg)
    shear = torch.tan(draws[1] * math.radians(how.shear_deg))
    scale = 1 + draws[2] * how.scale
    cos, sin = torch.cos(angle) / scale, torch.sin(angle) / scale
    # Coordinates of affine_grid run from -1 to 1, so a pixel is 2/width of them; rotation needs square pixels.
    aspect = height / width
    return torch.stack(
        [
            torch.stack([cos, (shear * cos - sin) * aspect, draws[3] * how.shift_px * 2 / width], dim=1),
            torch.stack([sin / aspect, shear * sin + cos, draws[4] * how.shift_px * 2 / height], dim=1),
        ],
        dim=1,
    )


def _part(how: Augment, draws: Tensor, theta: Tensor) -> Tensor:
    """Let a map cover a part of the picture only, mirrored or not: (N, 2, 3) -> (N, 2, 3)."""
    side = torch.sqrt(how.crop + (1 - how.crop) * (draws[0] + 1) / 2)
    aspect = torch.exp(draws[1] * math.log(_ASPECT) / 2) if how.crop < 1 else torch.ones_like(side)
    across, down = (side * aspect).clamp(how.crop, 1), (side / aspect).clamp(how.crop, 1)  # 1 x crop is the least
    mirrored = torch.where((draws[4] < 0) & how.flip, -across, across)
    axes = theta[:, :, :2] * torch.stack([mirrored, down], dim=1).unsqueeze(1)
    place = torch.stack([draws[2] * (1 - across), draws[3] * (1 - down)], dim=1)
    return torch.cat([axes, (theta[:, :, 2] + place).unsqueeze(2)], dim=2)


def _colour(how: Augment, draws: Tensor, pictures: Tensor) -> Tensor:
    """Change brightness, contrast and the tint of scaled pictures, whose standard deviation is about 1."""
    count, channels = pictures.shape[:2]
    mean = pictures.mean(dim=(1, 2, 3), keepdim=True)
    contrast = (1 + draws[0] * how.contrast).view(count, 1, 1, 1)
    offset = (draws[1] * how.brightness).view(count, 1) + draws[2 : 2 + channels].T * how.tint  # (N, C)
    return (pictures - mean) * contrast + mean + offset.view(count, channels, 1, 1)


def _changes_colour(how: Augment) -> bool:
    return bool(how.brightness or how.contrast or how.tint)
