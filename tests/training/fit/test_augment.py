"""Augmentation, measured in pixels and degrees on images that are not square."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F  # noqa: N812 -- its usual name
from PIL import Image
from torch import Tensor

from training.fit.augment import augment, draw, drop_words, rotate_hue
from training.recipe.schema import Augment

HEIGHT, WIDTH = 30, 40


def blob(x: float, y: float, count: int = 1, height: int = HEIGHT, width: int = WIDTH) -> Tensor:
    """A soft spot, `x` pixels right of and `y` below the centre: float32 (count, 1, height, width)."""
    rows = torch.arange(height).view(-1, 1) - (height - 1) / 2
    columns = torch.arange(width).view(1, -1) - (width - 1) / 2
    spot = torch.exp(-((columns - x) ** 2 + (rows - y) ** 2) / (2 * 1.2**2))
    return spot.expand(count, 1, height, width).clone()


def centres(images: Tensor) -> tuple[Tensor, Tensor]:
    """The centres of mass (x, y) of the spots, in pixels from the centre of the image."""
    masses = images[:, 0] / images.sum(dim=(1, 2, 3)).view(-1, 1, 1)
    height, width = masses.shape[1:]
    x = (masses.sum(dim=1) * (torch.arange(width) - (width - 1) / 2)).sum(dim=1)
    y = (masses.sum(dim=2) * (torch.arange(height) - (height - 1) / 2)).sum(dim=1)
    return x, y


@pytest.fixture
def at_the_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every draw is at its upper bound."""
    monkeypatch.setattr(torch, "rand", torch.ones)


def test_without_bounds_nothing_changes() -> None:
    """Without augmentation, images are returned unchanged and nothing is drawn."""
    images, generator = torch.rand(3, 2, 5, 5), torch.get_rng_state()
    assert augment(images, Augment()) is images
    assert augment(images, Augment(), size=(5, 5)) is images
    assert torch.equal(torch.get_rng_state(), generator)


def test_tiny_bounds_change_images_little() -> None:
    """As all bounds approach 0, the images approach the original ones."""
    torch.manual_seed(0)
    images = torch.rand(3, 2, 5, 7)
    options = Augment(rotate_deg=1e-4, scale=1e-6, shear_deg=1e-4, shift_px=1e-5)
    np.testing.assert_allclose(augment(images, options), images, atol=1e-4)


@pytest.mark.parametrize(
    "options",
    [
        Augment(rotate_deg=45),
        Augment(scale=0.5),
        Augment(shear_deg=30),
        Augment(shift_px=9),
        Augment(rotate_deg=12, scale=0.12, shear_deg=10, shift_px=2),
        Augment(crop=0.2, flip=True, rotate_deg=45),
    ],
)
def test_the_border_is_repeated(options: Augment) -> None:
    """Shape and type stay, and an image of one grey stays the same, since pixels from outside repeat the border."""
    torch.manual_seed(0)
    images = torch.full((8, 3, 5, 7), 0.25)
    changed = augment(images, options)
    assert changed.dtype == torch.float32
    np.testing.assert_allclose(changed, images, atol=1e-6)


def test_a_shift_stays_within_its_bound_on_both_axes() -> None:
    """Spots move by up to 3 pixels in each direction along both axes, although the image is wider than high."""
    torch.manual_seed(0)
    for moved in centres(augment(blob(0, 0, count=300), Augment(shift_px=3))):
        assert moved.abs().max() <= 3.01
        assert moved.min() < -2.8
        assert moved.max() > 2.8
        assert moved.std() == pytest.approx(3 / math.sqrt(3), rel=0.1)  # uniform


def test_a_rotation_keeps_the_distance_and_stays_within_its_bound() -> None:
    """Spots turn about the centre by up to 30 degrees in each direction, at a constant distance in pixels."""
    torch.manual_seed(0)
    x, y = centres(augment(blob(9, 0, count=300), Augment(rotate_deg=30)))
    np.testing.assert_allclose(torch.hypot(x, y), np.full(300, 9.0), atol=0.05)
    turned = torch.rad2deg(torch.atan2(y, x))
    assert turned.abs().max() <= 30.1
    assert turned.min() < -28
    assert turned.max() > 28


@pytest.mark.usefixtures("at_the_bound")
def test_a_right_angle_is_rot90() -> None:
    """A rotation of a square image by 90 degrees is NumPy's rot90."""
    images = torch.arange(50.0).view(1, 2, 5, 5)
    np.testing.assert_allclose(augment(images, Augment(rotate_deg=90)), np.rot90(images, axes=(2, 3)), atol=1e-4)


@pytest.mark.usefixtures("at_the_bound")
def test_a_scale_magnifies_both_axes_alike() -> None:
    """A spot at (x, y) moves to (1 + scale) * (x, y)."""
    x, y = centres(augment(blob(6, 5), Augment(scale=0.25)))
    assert (x.item(), y.item()) == pytest.approx((7.5, 6.25), abs=0.02)


@pytest.mark.usefixtures("at_the_bound")
def test_a_shear_moves_rows_by_their_distance_from_the_centre() -> None:
    """A spot at (0, y) moves along x by y times the tangent of the angle and stays in its row."""
    x, y = centres(augment(blob(0, 8), Augment(shear_deg=20)))
    assert (abs(x.item()), y.item()) == pytest.approx((8 * math.tan(math.radians(20)), 8), abs=0.02)


def test_a_seed_repeats_the_draws() -> None:
    """The same seed gives the same images; another seed gives others."""
    images, options = torch.rand(4, 1, 8, 8), Augment(rotate_deg=20, shift_px=2)
    drawn = []
    for seed in (5, 5, 6):
        torch.manual_seed(seed)
        drawn.append(augment(images, options))
    assert torch.equal(drawn[0], drawn[1])
    assert not torch.equal(drawn[0], drawn[2])


@pytest.mark.parametrize(
    "options", [Augment(rotate_deg=20), Augment(scale=0.2), Augment(shear_deg=9), Augment(shift_px=2)]
)
def test_each_image_has_its_own_draw(options: Augment) -> None:
    """Four copies of an image in a batch are changed in four ways."""
    torch.manual_seed(0)
    changed = augment(torch.rand(1, 1, 8, 8).expand(4, 1, 8, 8), options)
    assert len({tuple(image.flatten().tolist()) for image in changed}) == 4


def ramps(height: int, width: int, count: int = 1) -> Tensor:
    """The position of each pixel, from -1 to 1 over the image: x and y as channels, (count, 2, height, width)."""
    x = ((torch.arange(width) * 2 + 1) / width - 1).expand(height, width)
    y = ((torch.arange(height) * 2 + 1) / height - 1).view(-1, 1).expand(height, width)
    return torch.stack([x, y]).expand(count, 2, height, width).clone()


def cut_out(changed: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The source of changed `ramps`: sides as shares of the image's, negative if mirrored, and centres.

    Measured between a quarter and three quarters of the image, where no border is repeated.
    """
    height, width = changed.shape[2:]
    place = ramps(height, width)[0]
    top, left = height // 4, width // 4
    bottom, right = height - 1 - top, width - 1 - left
    across = (changed[:, 0, top, right] - changed[:, 0, top, left]) / (place[0, top, right] - place[0, top, left])
    down = (changed[:, 1, bottom, left] - changed[:, 1, top, left]) / (place[1, bottom, left] - place[1, top, left])
    x = (changed[:, 0, top, right] + changed[:, 0, top, left]) / 2
    y = (changed[:, 1, bottom, left] + changed[:, 1, top, left]) / 2
    return across, down, x, y


@pytest.mark.parametrize("share", [0.1, 0.35, 0.78, 0.95])
@pytest.mark.parametrize("flip", [False, True])
def test_a_crop_has_bounded_area_position_and_aspect_ratio(share: float, *, flip: bool) -> None:
    """None of 2,000 crops is smaller than `crop`, extends beyond the image or has an aspect ratio above 4:3."""
    torch.manual_seed(0)
    changed = augment(ramps(30, 40, count=2000), Augment(crop=share, flip=flip))
    across, down, x, y = cut_out(changed)
    across, area, close = across.abs(), (across * down).abs(), 1e-4
    assert share - close <= area.min()
    assert area.min() < share + 0.05 * (1 - share) + close
    assert area.max() > 1 - 0.2 * (1 - share)
    assert (across / down).max() <= 4 / 3 + close
    assert (across / down).min() >= 3 / 4 - close
    assert (across + x.abs()).max() <= 1 + close
    assert (down + y.abs()).max() <= 1 + close
    for side, centre in ((across, x), (down, y)):
        free = side < 1 - 0.05 * (1 - share)
        place = centre[free] / (1 - side[free])
        assert place.min() < -0.98
        assert place.max() > 0.98
        assert abs(place.mean().item()) < 0.06


def test_a_crop_s_area_is_uniform() -> None:
    """With crop = 0.35, areas are uniform between 0.35 and 1."""
    torch.manual_seed(0)
    across, down, _, _ = cut_out(augment(ramps(30, 40, count=2000), Augment(crop=0.35)))
    area = across * down
    for share in (0.25, 0.5):
        assert float((area < 0.35 + 0.65 * share).float().mean()) == pytest.approx(share, abs=0.05)


def test_a_flip_mirrors_half_of_the_images_exactly() -> None:
    """Without other changes, each image is the original or its torch.flip, equally often."""
    torch.manual_seed(0)
    image = torch.rand(1, 3, 5, 8)
    changed = augment(image.expand(1000, 3, 5, 8), Augment(flip=True))
    same = (changed - image).abs().amax(dim=(1, 2, 3)) < 1e-5
    mirrored = (changed - image.flip(3)).abs().amax(dim=(1, 2, 3)) < 1e-5
    assert (same ^ mirrored).all()
    assert float(mirrored.float().mean()) == pytest.approx(0.5, abs=0.05)


@pytest.mark.usefixtures("at_the_bound")
def test_colours_at_the_bound_are_their_formulas() -> None:
    """Brightness and tint are added; contrast scales about the image's mean: (x - mean) (1 + c) + mean."""
    images = torch.randn(3, 3, 5, 7)
    mean = images.mean(dim=(1, 2, 3), keepdim=True)
    for options, expected in (
        (Augment(brightness=0.3), images + 0.3),
        (Augment(tint=0.2), images + 0.2),
        (Augment(contrast=0.4), (images - mean) * 1.4 + mean),
        (Augment(brightness=0.3, tint=0.2, contrast=0.4), (images - mean) * 1.4 + mean + 0.5),
    ):
        np.testing.assert_allclose(augment(images, options), expected, atol=1e-5)


def test_brightness_is_an_offset_for_each_image_and_tint_for_each_channel() -> None:
    """Both are uniform within their bounds; brightness is equal in all channels, tint is independent."""
    torch.manual_seed(0)
    images = torch.randn(1, 3, 4, 5).expand(1500, 3, 4, 5)
    for options in (Augment(brightness=0.3), Augment(tint=0.3)):
        offsets = augment(images, options) - images
        np.testing.assert_allclose(offsets, offsets[:, :, :1, :1].expand_as(offsets), atol=1e-5)
        channel = offsets[:, :, 0, 0]  # (N, C)
        assert channel.abs().max() <= 0.3 + 1e-5
        np.testing.assert_allclose(channel.std(dim=0), np.full(3, 0.3 / math.sqrt(3)), rtol=0.06)
        alike = float(torch.corrcoef(channel.T)[0, 1])
        assert alike == pytest.approx(1.0 if options.brightness else 0.0, abs=0.1)


def test_contrast_keeps_the_mean_of_each_image() -> None:
    """Standard deviations change by a uniform factor up to the bound; means stay."""
    torch.manual_seed(0)
    images = torch.randn(1, 3, 4, 5).expand(1500, 3, 4, 5) + 2
    changed = augment(images, Augment(contrast=0.4))
    np.testing.assert_allclose(changed.mean(dim=(1, 2, 3)), images.mean(dim=(1, 2, 3)), atol=1e-5)
    spread = changed.std(dim=(1, 2, 3)) / images.std(dim=(1, 2, 3)) - 1
    assert spread.abs().max() <= 0.4 + 1e-5
    assert spread.std() == pytest.approx(0.4 / math.sqrt(3), rel=0.06)


@pytest.mark.parametrize("side", [4, 5, 8, 12])
def test_a_side_resizes_the_image(side: int) -> None:
    """An 8 x 8 image on side x side pixels: each pixel shows its own position, limited to the border."""
    actual = augment(ramps(8, 8), Augment(), size=(side, side))
    border = 0.04 if side == 5 else 0  # of which one of two samples is outside of the old pixels' centres
    np.testing.assert_allclose(actual, ramps(side, side).clamp(-7 / 8, 7 / 8), atol=1e-5 + border)
    np.testing.assert_allclose(actual[..., 1:-1, 1:-1], ramps(side, side)[..., 1:-1, 1:-1], atol=1e-5)


def test_a_side_does_not_change_the_draws() -> None:
    """The same draws give the same crop at each resolution."""
    options = Augment(crop=0.3, flip=True)
    draws, images = draw(options, 50), ramps(32, 32, count=50)
    coarse, fine = (cut_out(augment(images, options, draws, size)) for size in ((22, 22), None))
    for from_coarse, from_fine in zip(coarse, fine, strict=True):
        np.testing.assert_allclose(from_coarse, from_fine, atol=1e-4)


@pytest.mark.parametrize(
    "options",
    [
        Augment(rotate_deg=20, shift_px=2),
        Augment(crop=0.3, flip=True),
        Augment(flip=True, brightness=0.2, contrast=0.2, tint=0.2),
    ],
)
def test_an_example_is_changed_alike_in_any_part_of_its_batch(options: Augment) -> None:
    """Processes that share a batch slice the same draws, and together compute the batch of a single process."""
    torch.manual_seed(0)
    images, draws = torch.rand(10, 3, 6, 7), draw(options, 10)
    whole = augment(images, options, draws)
    for rows in (slice(0, 5), slice(5, 10), slice(7, 8), slice(1, None, 3)):
        np.testing.assert_allclose(augment(images[rows], options, draws[:, rows]), whole[rows], atol=1e-6)
    torch.manual_seed(3)
    drawn = draw(options, 10)
    torch.manual_seed(3)
    np.testing.assert_allclose(augment(images, options), augment(images, options, drawn), atol=0)


def test_words_are_dropped_with_their_probability_and_padding_never() -> None:
    """A share of the tokens becomes the unknown word, 1; the others and the padding, 0, stay."""
    torch.manual_seed(0)
    tokens = torch.randint(2, 50, (200, 60))
    tokens[:, 40:] = 0
    before = tokens.clone()
    dropped = drop_words(tokens, 0.3, torch.rand(tokens.shape))
    assert torch.equal(tokens, before)
    assert not dropped[:, 40:].any()
    changed = dropped[:, :40] != tokens[:, :40]
    assert (dropped[:, :40][changed] == 1).all()
    assert float(changed.float().mean()) == pytest.approx(0.3, abs=0.02)


def test_a_word_is_dropped_where_its_draw_is_below_the_share() -> None:
    """Each token has its own draw in [0, 1), so a probability of 0 drops none."""
    tokens, draws = torch.tensor([[5, 6, 7, 0]], dtype=torch.int32), torch.tensor([[0.0, 0.19, 0.2, 0.0]])
    assert drop_words(tokens, 0.2, draws).tolist() == [[1, 1, 7, 0]]
    assert drop_words(tokens, 0.0, draws).tolist() == tokens.tolist()
    assert drop_words(tokens, 0.2, draws).dtype == torch.int32


def test_images_can_be_scaled_when_they_have_their_size() -> None:
    """What moves pixels gives the same before and after scaling, for all changes together."""
    options = Augment(crop=0.5, flip=True, rotate_deg=10, shift_px=1, brightness=0.3, contrast=0.3, tint=0.1, erase=0.2)
    pixels = torch.randint(0, 256, (6, 3, 20, 24)).float()
    draws = draw(options, 6)
    before = augment(pixels / 64 - 2, options, draws, (8, 9))
    after = augment(pixels, options, draws, (8, 9), lambda images: images / 64 - 2)
    torch.testing.assert_close(after, before, rtol=1e-5, atol=1e-5)


def test_shrunk_images_have_the_gradient_energy_of_served_ones() -> None:
    """Within a fifth of that of Pillow's bilinear filter; without antialiasing it is 1.3 to 1.5 times as large.

    The images have 144 pixels and, like photos, noise of every size.
    """
    torch.manual_seed(0)
    octaves = [
        F.interpolate(torch.rand(4, 3, size, size), 144, mode="bicubic").clamp(0, 1) * (9 / size) ** 0.7
        for size in (9, 18, 36, 72, 144)
    ]
    noise = torch.stack(octaves).sum(dim=0) / sum((9 / size) ** 0.7 for size in (9, 18, 36, 72, 144))
    served = [Image.fromarray((each.permute(1, 2, 0) * 255).round().byte().numpy()) for each in noise]
    for side in (64, 80):
        small = [each.resize((side, side), Image.Resampling.BILINEAR) for each in served]
        expected = torch.from_numpy(np.stack([np.asarray(each) for each in small])).permute(0, 3, 1, 2) / 255
        ratio = energy(augment(noise, Augment(), size=(side, side))) / energy(expected)
        assert 0.8 < ratio < 1.2
        whole = F.affine_grid(torch.eye(2, 3).expand(4, 2, 3), [4, 3, side, side], align_corners=False)
        assert energy(F.grid_sample(noise, whole, align_corners=False)) / energy(expected) > 1.3


@pytest.mark.parametrize(("side", "samples"), [(100, 1), (64, 2), (50, 3), (40, 4)])
def test_shrinking_equals_torch_s_own_functions(side: int, samples: int) -> None:
    """`affine_grid`, `grid_sample` and `avg_pool2d` give the same images, for any number of samples a pixel."""
    torch.manual_seed(0)
    images, draws = torch.rand(3, 2, 144, 144), draw(Augment(rotate_deg=20), 3)
    turned = draws[0] * math.radians(20)
    rows = [[turned.cos(), -turned.sin(), turned * 0], [turned.sin(), turned.cos(), turned * 0]]
    theta = torch.stack([torch.stack(row, dim=1) for row in rows], dim=1)  # (N, 2, 3)
    fine = side * samples
    grid = F.affine_grid(theta, [3, 2, fine, fine], align_corners=False)
    read = F.grid_sample(images, grid, padding_mode="border", align_corners=False)
    expected = F.avg_pool2d(read, samples)
    torch.testing.assert_close(
        augment(images, Augment(rotate_deg=20), draws, (side, side)), expected, rtol=0, atol=2e-5
    )


def energy(images: Tensor) -> float:
    """The mean square of the differences between neighbouring pixels."""
    return float(images.diff(dim=2).square().mean() + images.diff(dim=3).square().mean())


def test_a_vertical_flip_turns_half_of_the_images() -> None:
    """With `flip_vertical` alone, each image is unchanged or upside down, each about half of the time."""
    torch.manual_seed(0)
    image = torch.rand(1, 1, 5, 7)
    changed = augment(image.expand(400, 1, 5, 7), Augment(flip_vertical=True))
    upside_down = (changed - image.flip(2)).abs().amax(dim=(1, 2, 3)) < 1e-5
    same = (changed - image).abs().amax(dim=(1, 2, 3)) < 1e-5
    assert bool((upside_down ^ same).all())
    assert 150 < int(upside_down.sum()) < 250


def test_a_hue_of_a_third_turns_red_into_green() -> None:
    """A third of a turn permutes the channels, whatever the scaling; grey stays, and no turn changes nothing."""
    mean, std = torch.tensor([0.5, 0.4, 0.3]), torch.tensor([0.2, 0.25, 0.3])
    pixels = torch.rand(3, 3, 4, 5)
    pixels[2] = 0.6  # grey
    scaled = (pixels - mean.view(3, 1, 1)) / std.view(3, 1, 1)
    turned = rotate_hue(scaled, torch.tensor([0.0, 1 / 3, 0.2]), mean, std) * std.view(3, 1, 1) + mean.view(3, 1, 1)
    np.testing.assert_allclose(turned[0], pixels[0], atol=1e-5)
    np.testing.assert_allclose(turned[1], pixels[1].roll(1, dims=0), atol=1e-5)  # red -> green -> blue -> red
    np.testing.assert_allclose(turned[2], pixels[2], atol=1e-5)


@pytest.mark.usefixtures("at_the_bound")
def test_a_blur_is_a_gaussian() -> None:
    """A spot of standard deviation 1.2 that is blurred by 2 pixels has one of sqrt(1.2^2 + 2^2), in the same place."""
    blurred = augment(blob(0, 0), Augment(blur_px=2))
    columns = torch.arange(WIDTH) - (WIDTH - 1) / 2
    profile = blurred[0, 0].sum(dim=0) / blurred.sum()
    assert (profile * columns).sum().item() == pytest.approx(0, abs=1e-4)
    assert (profile * columns**2).sum().sqrt().item() == pytest.approx(math.hypot(1.2, 2), rel=0.02)


def test_the_erased_part_is_a_rectangle_within_its_bound() -> None:
    """Up to a fifth of the pixels of each image are the mean, 0, in a rectangle; the others are unchanged."""
    torch.manual_seed(0)
    images = torch.rand(300, 2, 20, 30) + 1
    changed = augment(images, Augment(erase=0.2))
    erased = (changed == 0).all(dim=1)
    assert torch.equal(changed[:, 0][~erased], images[:, 0][~erased])
    shares = erased.float().mean(dim=(1, 2))
    assert shares.max() <= 0.2 + 0.03
    assert shares.mean() == pytest.approx(0.1, abs=0.015)
    for each in erased:
        if each.any():
            rows, columns = each.any(dim=1), each.any(dim=0)
            assert int(each.sum()) == int(rows.sum()) * int(columns.sum())
