"""Random changes to whole batches of training pictures."""

import math

import torch
import torch.nn.functional as F  # noqa: N812 -- its usual name
from torch import Tensor

from training.recipe import Augment


def augment(pictures: Tensor, how: Augment) -> Tensor:
    """Rotate, scale, shear and shift each picture by its own draw: (N, C, H, W) float -> the same shape.

    Draws come from torch's global generator, uniform within the recipe's bounds. What comes in from outside repeats
    the border. Bilinear, like an affine layer of Jaderberg et al. (2015).
    """
    if how == Augment():
        return pictures
    count, _, height, width = pictures.shape
    unit = torch.rand(5, count, device=pictures.device) * 2 - 1
    angle = unit[0] * math.radians(how.rotate_deg)
    shear = torch.tan(unit[1] * math.radians(how.shear_deg))
    scale = 1 + unit[2] * how.scale
    cos, sin = torch.cos(angle) / scale, torch.sin(angle) / scale
    # Coordinates of affine_grid run from -1 to 1, so a pixel is 2/width of them; rotation needs square pixels.
    aspect = height / width
    theta = torch.stack(
        [
            torch.stack([cos, (shear * cos - sin) * aspect, unit[3] * how.shift_px * 2 / width], dim=1),
            torch.stack([sin / aspect, shear * sin + cos, unit[4] * how.shift_px * 2 / height], dim=1),
        ],
        dim=1,
    )  # (N, 2, 3)
    grid = F.affine_grid(theta, list(pictures.shape), align_corners=False)
    return F.grid_sample(pictures, grid, mode="bilinear", padding_mode="border", align_corners=False)
