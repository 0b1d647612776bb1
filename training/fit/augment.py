"""Random changes to batches of training examples.

All random numbers are drawn first, for the whole batch, so that processes that share a batch change each example alike.
"""

import math

import torch
import torch.nn.functional as F  # noqa: N812 -- its usual name
from torch import Tensor

from training.recipe.schema import Augment

_ASPECT = 4 / 3  # the largest aspect ratio of a crop (Szegedy et al., 2015)
_UNKNOWN = 1  # the id of the unknown word
_AFFINE = 5  # draws for each image: angle, shear, scale, shift in x and y
_CROP = 5  # area, aspect ratio, position in x and y, mirrored or not
_COLOUR = 5  # brightness, contrast, and one for each of up to three channels


def draw(options: Augment, count: int) -> Tensor:
    """Random numbers for `count` images, uniform in [-1, 1), from torch's global generator: (K, count)."""
    draws = torch.rand(_AFFINE, count) * 2 - 1
    if options.crop < 1 or options.flip or _changes_colour(options):
        draws = torch.cat([draws, torch.rand(_CROP + _COLOUR, count) * 2 - 1])
    return draws


def augment(images: Tensor, options: Augment, draws: Tensor | None = None, side: int | None = None) -> Tensor:
    """Change each image by its own draws: scaled float32 (N, C, H, W) -> the same, or (N, C, side, side).

    Pixels from outside the image repeat its border. Interpolation is bilinear (Jaderberg et al., 2015).
    """
    count, channels, height, width = images.shape
    size = [count, channels, side or height, side or width]
    if options == Augment() and list(images.shape) == size:
        return images
    if not count:  # affine_grid refuses the empty share that a process may have of a small batch
        return images.new_empty(size)
    draws = (draw(options, count) if draws is None else draws).to(images.device)
    theta = _affine(options, draws, height, width)
    if len(draws) > _AFFINE:
        theta = _crop(options, draws[_AFFINE : _AFFINE + _CROP], theta)
    grid = F.affine_grid(theta, size, align_corners=False)  # (N, H, W, 2)
    changed = F.grid_sample(images, grid, mode="bilinear", padding_mode="border", align_corners=False)
    return _colour(options, draws[_AFFINE + _CROP :], changed) if _changes_colour(options) else changed


def cut(tokens: Tensor, span: int, draws: Tensor) -> Tensor:
    """Keep a part of each text that is longer than `span`: token ids (N, L) -> (N, at most L).

    Two draws for each text, uniform in [0, 1), (2, N), give the length and the start of the part.
    """
    lengths = (tokens != 0).sum(dim=1)
    surplus = (lengths - span).clamp(min=0)
    kept = lengths - (draws[0] * (surplus + 1)).long()  # span ... length
    start = (draws[1] * (lengths - kept + 1)).long()
    offsets = torch.arange(int(kept.max()))
    part = tokens.gather(1, (start.unsqueeze(1) + offsets).clamp(max=tokens.shape[1] - 1))
    return part.masked_fill(offsets >= kept.unsqueeze(1), 0)


def drop_words(tokens: Tensor, probability: float, draws: Tensor) -> Tensor:
    """Replace a token by the unknown word if its draw, uniform in [0, 1), is below `probability`: (N, L) -> (N, L)."""
    return tokens.masked_fill((draws < probability) & (tokens != 0), _UNKNOWN)


def _affine(options: Augment, draws: Tensor, height: int, width: int) -> Tensor:
    """Rotation, shear, scale and shift as maps from the new image's coordinates to the old one's: (N, 2, 3)."""
    angle = draws[0] * math.radians(options.rotate_deg)
    shear = torch.tan(draws[1] * math.radians(options.shear_deg))
    scale = 1 + draws[2] * options.scale
    cos, sin = torch.cos(angle) / scale, torch.sin(angle) / scale
    # affine_grid's coordinates run from -1 to 1, so a pixel is 2/width of them; a rotation needs square pixels.
    aspect = height / width
    return torch.stack(
        [
            torch.stack([cos, (shear * cos - sin) * aspect, draws[3] * options.shift_px * 2 / width], dim=1),
            torch.stack([sin / aspect, shear * sin + cos, draws[4] * options.shift_px * 2 / height], dim=1),
        ],
        dim=1,
    )


def _crop(options: Augment, draws: Tensor, theta: Tensor) -> Tensor:
    """Restrict each map to a crop of the image, mirrored or not: (N, 2, 3) -> (N, 2, 3)."""
    side = torch.sqrt(options.crop + (1 - options.crop) * (draws[0] + 1) / 2)
    aspect = torch.exp(draws[1] * math.log(_ASPECT) / 2) if options.crop < 1 else torch.ones_like(side)
    # Both sides are shares of the image's; of a crop of 1 x `crop`, the smallest, neither can be smaller.
    crop_width, crop_height = (side * aspect).clamp(options.crop, 1), (side / aspect).clamp(options.crop, 1)
    mirrored = torch.where((draws[4] < 0) & options.flip, -crop_width, crop_width)
    axes = theta[:, :, :2] * torch.stack([mirrored, crop_height], dim=1).unsqueeze(1)
    centre = torch.stack([draws[2] * (1 - crop_width), draws[3] * (1 - crop_height)], dim=1)
    return torch.cat([axes, (theta[:, :, 2] + centre).unsqueeze(2)], dim=2)


def _colour(options: Augment, draws: Tensor, images: Tensor) -> Tensor:
    """Change brightness, contrast and tint of scaled images, whose standard deviation is about 1."""
    count, channels = images.shape[:2]
    mean = images.mean(dim=(1, 2, 3), keepdim=True)
    contrast = (1 + draws[0] * options.contrast).view(count, 1, 1, 1)
    offset = (draws[1] * options.brightness).view(count, 1) + draws[2 : 2 + channels].T * options.tint  # (N, C)
    return (images - mean) * contrast + mean + offset.view(count, channels, 1, 1)


def _changes_colour(options: Augment) -> bool:
    return bool(options.brightness or options.contrast or options.tint)
