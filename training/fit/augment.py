"""Random changes to batches of training examples.

All random numbers are drawn first, for the whole batch, so that processes that share a batch change each example alike.
"""

import math
from collections.abc import Callable, Iterable

import torch
import torch.nn.functional as F  # noqa: N812 -- its usual name
from torch import Tensor

from training.recipe.schema import Augment

_ASPECT = 4 / 3  # the largest aspect ratio of a crop (Szegedy et al., 2015)
_ERASED_ASPECT = 10 / 3  # the largest of an erased rectangle (Zhong et al., 2020)
_UNKNOWN = 1  # the id of the unknown word
_AFFINE = 5  # draws for each image: angle, shear, scale, shift in x and y
_CROP = 5  # area, aspect ratio, position in x and y, mirrored or not
_COLOUR = 5  # brightness, contrast, and one for each of up to three channels
_MORE = 7  # hue, upside down or not, blur; area, aspect ratio and position in x and y of what is erased
HUE = _AFFINE + _CROP + _COLOUR
"""The row of the draws that `rotate_hue` takes."""

Size = tuple[int, int]


def draw(options: Augment, count: int) -> Tensor:
    """Random numbers for `count` images, uniform in [-1, 1), from torch's global generator: (K, count)."""
    draws = torch.rand(_AFFINE, count) * 2 - 1
    has_more = bool(options.hue or options.flip_vertical or options.blur_px or options.erase)
    if options.crop < 1 or options.flip or _changes_colour(options) or has_more:
        draws = torch.cat([draws, torch.rand(_CROP + _COLOUR, count) * 2 - 1])
    return torch.cat([draws, torch.rand(_MORE, count) * 2 - 1]) if has_more else draws


def augment(
    images: Tensor,
    options: Augment,
    draws: Tensor | None = None,
    size: Size | None = None,
    scale: Callable[[Tensor], Tensor] = lambda images: images,
) -> Tensor:
    """Change each image by its own draws: float32 (N, C, H, W) -> scaled (N, C, H, W), or (N, C, *size).

    The images are scaled, or `scale` scales them when they have their size: stored ones can have several times as many
    pixels, and what moves pixels is the same before and after scaling.

    Pixels from outside the image repeat its border. Interpolation is bilinear (Jaderberg et al., 2015); where whole
    images are shrunk to less than two thirds, each pixel is the mean of several, since images are antialiased for
    serving, too. Noise and hue are functions of their own.
    """
    if draws is None:
        draws = no_draws(len(images)) if options == Augment() else draw(options, len(images))
    draws = draws.to(images.device)
    moved = _move(images, options, draws, size or (images.shape[2], images.shape[3]))
    return _recolour(scale(moved), options, draws)


def _move(images: Tensor, options: Augment, draws: Tensor, size: Size) -> Tensor:
    count, channels, height, width = images.shape
    if not _moves(options) and (height, width) == size:
        return images
    if not count:  # grid_sample refuses the empty share that a process may have of a small batch
        return images.new_empty([count, channels, *size])
    theta = _affine(options, draws, height, width)
    if len(draws) > _AFFINE:
        theta = _crop(options, draws[_AFFINE : _AFFINE + _CROP], draws[_AFFINE + _CROP + _COLOUR :], theta)
    return _warp(images, theta, size, _samples(options, (height, width), size))


def _recolour(images: Tensor, options: Augment, draws: Tensor) -> Tensor:
    more = draws[_AFFINE + _CROP + _COLOUR :]
    if _changes_colour(options):
        images = _colour(options, draws[_AFFINE + _CROP :], images)
    if options.blur_px:
        images = _blur(images, options.blur_px * (more[2] + 1) / 2)
    return _erase(options, more[3:], images) if options.erase else images


def resize(images: Tensor, size: Size) -> Tensor:
    """Images float32 (N, C, H, W) -> (N, C, *size), as `augment` resizes them."""
    return augment(images, Augment(), no_draws(len(images)), size)


def no_draws(count: int) -> Tensor:
    """Draws of `count` images that change nothing: (5, count)."""
    return torch.zeros(_AFFINE, count)


def rotate_hue(images: Tensor, turns: Tensor, mean: Tensor, std: Tensor) -> Tensor:
    """Turn the colours of scaled images (N, 3, H, W) around the grey axis of RGB, by turns (N) of the colour circle.

    A third of a turn makes red green, green blue and blue red. `mean` and `std`, (3), are those of the scaling.
    """
    angle = (turns * 2 * math.pi).view(-1, 1, 1)
    axis = torch.full((3,), 1 / math.sqrt(3), device=images.device)
    cross = torch.linalg.cross(axis.expand(3, 3), torch.eye(3, device=images.device)).T
    rotation = torch.eye(3, device=images.device) * torch.cos(angle) + cross * torch.sin(angle)
    rotation = rotation + torch.outer(axis, axis) * (1 - torch.cos(angle))  # Rodrigues' formula, (N, 3, 3)
    scaled = rotation * std / std.view(3, 1)
    offset = ((rotation @ mean) - mean) / std  # (N, 3)
    turned: Tensor = torch.einsum("nij,njhw->nihw", scaled, images)
    return torch.add(turned, offset.view(-1, 3, 1, 1))


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


def _moves(options: Augment) -> bool:
    places = (options.rotate_deg, options.scale, options.shear_deg, options.shift_px)
    return any(places) or options.crop < 1 or options.flip or options.flip_vertical


def _samples(options: Augment, old: Size, new: Size) -> int:
    """How many pixels along each axis become one, from the size of whole images and the smallest scale."""
    shrinking = max(before / after for before, after in zip(old, new, strict=True)) / (1 - options.scale)
    return max(math.ceil(shrinking - 0.5), 1)


def _warp(images: Tensor, theta: Tensor, size: Size, samples: int) -> Tensor:
    """Images (N, C, H, W), read at the places that `theta` maps those of new images to: (N, C, *size)."""
    height, width = (side * samples for side in size)
    x = (torch.arange(width, device=images.device) * 2 + 1) / width - 1
    y = (torch.arange(height, device=images.device) * 2 + 1) / height - 1
    # affine_grid(theta, ...) in a tenth of its time: (N, 2, 1, W) + (N, 2, H, 1) -> (N, H, W, 2)
    columns = theta[:, :, 0, None, None] * x
    rows = theta[:, :, 1, None, None] * y.unsqueeze(1) + theta[:, :, 2, None, None]
    grid = theta.new_empty(len(theta), height, width, 2)
    for axis in range(2):
        torch.add(columns[:, axis], rows[:, axis], out=grid[..., axis])
    read = F.grid_sample(images, grid, mode="bilinear", padding_mode="border", align_corners=False)
    return _pool(read, samples)


def _pool(images: Tensor, size: int) -> Tensor:
    """The means of squares of `size` pixels: avg_pool2d(images, size), in a third of its time."""
    if size == 1:
        return images
    rows = _sum_of(images[..., start::size, :] for start in range(size))
    return _sum_of(rows[..., start::size] for start in range(size)).div_(size**2)


def _sum_of(parts: Iterable[Tensor]) -> Tensor:
    first, second, *others = parts
    total = first + second
    for part in others:
        total += part
    return total


def _affine(options: Augment, draws: Tensor, height: int, width: int) -> Tensor:
    """Rotation, shear, scale and shift as maps from the new image's coordinates to the old one's: (N, 2, 3)."""
    angle = draws[0] * math.radians(options.rotate_deg)
    shear = torch.tan(draws[1] * math.radians(options.shear_deg))
    scale = 1 + draws[2] * options.scale
    cos, sin = torch.cos(angle) / scale, torch.sin(angle) / scale
    # The grid's coordinates run from -1 to 1, so a pixel is 2/width of them; a rotation needs square pixels.
    aspect = height / width
    return torch.stack(
        [
            torch.stack([cos, (shear * cos - sin) * aspect, draws[3] * options.shift_px * 2 / width], dim=1),
            torch.stack([sin / aspect, shear * sin + cos, draws[4] * options.shift_px * 2 / height], dim=1),
        ],
        dim=1,
    )


def _crop(options: Augment, draws: Tensor, more: Tensor, theta: Tensor) -> Tensor:
    """Restrict each map to a crop of the image, mirrored or not: (N, 2, 3) -> (N, 2, 3)."""
    side = torch.sqrt(options.crop + (1 - options.crop) * (draws[0] + 1) / 2)
    aspect = torch.exp(draws[1] * math.log(_ASPECT) / 2) if options.crop < 1 else torch.ones_like(side)
    # Both sides are shares of the image's; of a crop of 1 x `crop`, the smallest, neither can be smaller.
    crop_width, crop_height = (side * aspect).clamp(options.crop, 1), (side / aspect).clamp(options.crop, 1)
    centre = torch.stack([draws[2] * (1 - crop_width), draws[3] * (1 - crop_height)], dim=1)
    mirrored = torch.where((draws[4] < 0) & options.flip, -crop_width, crop_width)
    if options.flip_vertical:
        crop_height = torch.where(more[1] < 0, -crop_height, crop_height)
    axes = theta[:, :, :2] * torch.stack([mirrored, crop_height], dim=1).unsqueeze(1)
    return torch.cat([axes, (theta[:, :, 2] + centre).unsqueeze(2)], dim=2)


def _blur(images: Tensor, sigma: Tensor) -> Tensor:
    """Gaussian blur, with a standard deviation in pixels for each image, (N)."""

    def kernel(length: int) -> Tensor:
        """The weights of the old pixels in each new one of an axis, (N, 1, length, length)."""
        places = torch.arange(length, device=images.device)
        distance = (places.unsqueeze(1) - places).square()
        weights = torch.exp(-distance / (2 * sigma.clamp(min=1e-3).square().view(-1, 1, 1, 1)))
        return weights / weights.sum(dim=3, keepdim=True)

    return kernel(images.shape[2]) @ images @ kernel(images.shape[3]).transpose(2, 3)


def _erase(options: Augment, draws: Tensor, images: Tensor) -> Tensor:
    """Set a rectangle in each image to 0, the mean: area, aspect ratio and position by draws (4, N)."""
    area, aspect, x, y = draws
    side = torch.sqrt(options.erase * (area + 1) / 2)
    ratio = torch.exp(aspect * math.log(_ERASED_ASPECT) / 2)

    def covered(extent: Tensor, centre: Tensor, length: int) -> Tensor:
        places = (torch.arange(length, device=images.device) * 2 + 1) / length - 1
        extent = extent.clamp(max=1)
        return (places - (centre * (1 - extent)).unsqueeze(1)).abs() < extent.unsqueeze(1)  # (N, length)

    rows, columns = covered(side / ratio, y, images.shape[2]), covered(side * ratio, x, images.shape[3])
    return images.masked_fill((rows.unsqueeze(2) & columns.unsqueeze(1)).unsqueeze(1), 0.0)


def _colour(options: Augment, draws: Tensor, images: Tensor) -> Tensor:
    """Change brightness, contrast and tint of scaled images, whose standard deviation is about 1."""
    count, channels = images.shape[:2]
    mean = images.mean(dim=(1, 2, 3), keepdim=True)
    contrast = (1 + draws[0] * options.contrast).view(count, 1, 1, 1)
    offset = (draws[1] * options.brightness).view(count, 1) + draws[2 : 2 + channels].T * options.tint  # (N, C)
    return (images - mean) * contrast + mean + offset.view(count, channels, 1, 1)


def _changes_colour(options: Augment) -> bool:
    return bool(options.brightness or options.contrast or options.tint)
