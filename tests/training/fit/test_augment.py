"""Augmentation, measured in pixels and degrees on pictures that are not square."""

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from training.fit.augment import augment, draw, drop_words
from training.recipe.schema import Augment

HEIGHT, WIDTH = 30, 40


def blob(x: float, y: float, count: int = 1, height: int = HEIGHT, width: int = WIDTH) -> Tensor:
    """A soft spot, `x` pixels right of and `y` below the centre: float32 (count, 1, height, width)."""
    rows = torch.arange(height).view(-1, 1) - (height - 1) / 2
    columns = torch.arange(width).view(1, -1) - (width - 1) / 2
    spot = torch.exp(-((columns - x) ** 2 + (rows - y) ** 2) / (2 * 1.2**2))
    return spot.expand(count, 1, height, width).clone()


def centres(pictures: Tensor) -> tuple[Tensor, Tensor]:
    """The spots' (x, y) in pixels from the centre, by their mass."""
    masses = pictures[:, 0] / pictures.sum(dim=(1, 2, 3)).view(-1, 1, 1)
    height, width = masses.shape[1:]
    x = (masses.sum(dim=1) * (torch.arange(width) - (width - 1) / 2)).sum(dim=1)
    y = (masses.sum(dim=2) * (torch.arange(height) - (height - 1) / 2)).sum(dim=1)
    return x, y


@pytest.fixture
def at_the_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every draw is the highest that there is."""
    monkeypatch.setattr(torch, "rand", torch.ones)


def test_without_bounds_nothing_changes() -> None:
    """A recipe without augmentation gives its pictures back and draws nothing."""
    pictures, generator = torch.rand(3, 2, 5, 5), torch.get_rng_state()
    assert augment(pictures, Augment()) is pictures
    assert augment(pictures, Augment(), side=5) is pictures
    assert torch.equal(torch.get_rng_state(), generator)


def test_bounds_next_to_nothing_change_next_to_nothing() -> None:
    """As all bounds go to 0, the pictures come out as they came in, at their place."""
    torch.manual_seed(0)
    pictures = torch.rand(3, 2, 5, 7)
    how = Augment(rotate_deg=1e-4, scale=1e-6, shear_deg=1e-4, shift_px=1e-5)
    np.testing.assert_allclose(augment(pictures, how), pictures, atol=1e-4)


@pytest.mark.parametrize(
    "how",
    [
        Augment(rotate_deg=45),
        Augment(scale=0.5),
        Augment(shear_deg=30),
        Augment(shift_px=9),
        Augment(rotate_deg=12, scale=0.12, shear_deg=10, shift_px=2),
        Augment(crop=0.2, flip=True, rotate_deg=45),
    ],
)
def test_the_border_is_repeated(how: Augment) -> None:
    """Shape and type stay, and a picture of one grey keeps it: what comes in from outside repeats the border."""
    torch.manual_seed(0)
    pictures = torch.full((8, 3, 5, 7), 0.25)
    changed = augment(pictures, how)
    assert changed.dtype == torch.float32
    np.testing.assert_allclose(changed, pictures, atol=1e-6)


def test_a_shift_stays_within_its_bound_on_both_axes() -> None:
    """Spots move by up to 3 pixels either way along x and y alike, though the picture is wider than high."""
    torch.manual_seed(0)
    for moved in centres(augment(blob(0, 0, count=300), Augment(shift_px=3))):
        assert moved.abs().max() <= 3.01
        assert moved.min() < -2.8
        assert moved.max() > 2.8
        assert moved.std() == pytest.approx(3 / math.sqrt(3), rel=0.1)  # uniform


def test_a_rotation_keeps_the_distance_and_stays_within_its_bound() -> None:
    """Spots turn about the centre by up to 30 degrees either way, at their distance in pixels."""
    torch.manual_seed(0)
    x, y = centres(augment(blob(9, 0, count=300), Augment(rotate_deg=30)))
    np.testing.assert_allclose(torch.hypot(x, y), np.full(300, 9.0), atol=0.05)
    turned = torch.rad2deg(torch.atan2(y, x))
    assert turned.abs().max() <= 30.1
    assert turned.min() < -28
    assert turned.max() > 28


@pytest.mark.usefixtures("at_the_bound")
def test_a_right_angle_is_rot90() -> None:
    """A rotation by 90 degrees of a square picture moves each pixel as numpy's rot90 does."""
    pictures = torch.arange(50.0).view(1, 2, 5, 5)
    np.testing.assert_allclose(augment(pictures, Augment(rotate_deg=90)), np.rot90(pictures, axes=(2, 3)), atol=1e-4)


@pytest.mark.usefixtures("at_the_bound")
def test_a_scale_magnifies_both_axes_alike() -> None:
    """A spot at (x, y) goes to (1 + scale) * (x, y)."""
    x, y = centres(augment(blob(6, 5), Augment(scale=0.25)))
    assert (x.item(), y.item()) == pytest.approx((7.5, 6.25), abs=0.02)


@pytest.mark.usefixtures("at_the_bound")
def test_a_shear_moves_rows_by_their_distance_from_the_centre() -> None:
    """A spot at (0, y) moves along x by y times the tangent of the angle and stays in its row."""
    x, y = centres(augment(blob(0, 8), Augment(shear_deg=20)))
    assert (abs(x.item()), y.item()) == pytest.approx((8 * math.tan(math.radians(20)), 8), abs=0.02)


def test_a_seed_repeats_the_draws() -> None:
    """The same seed gives the same pictures, another one others."""
    pictures, how = torch.rand(4, 1, 8, 8), Augment(rotate_deg=20, shift_px=2)
    drawn = []
    for seed in (5, 5, 6):
        torch.manual_seed(seed)
        drawn.append(augment(pictures, how))
    assert torch.equal(drawn[0], drawn[1])
    assert not torch.equal(drawn[0], drawn[2])


@pytest.mark.parametrize("how", [Augment(rotate_deg=20), Augment(scale=0.2), Augment(shear_deg=9), Augment(shift_px=2)])
def test_each_picture_has_its_own_draw(how: Augment) -> None:
    """One picture, four times in a batch, comes out in four ways."""
    torch.manual_seed(0)
    changed = augment(torch.rand(1, 1, 8, 8).expand(4, 1, 8, 8), how)
    assert len({tuple(picture.flatten().tolist()) for picture in changed}) == 4


def ramps(height: int, width: int, count: int = 1) -> Tensor:
    """Each pixel's own place, from -1 to 1 over the picture: x and y as channels, (count, 2, height, width)."""
    x = ((torch.arange(width) * 2 + 1) / width - 1).expand(height, width)
    y = ((torch.arange(height) * 2 + 1) / height - 1).view(-1, 1).expand(height, width)
    return torch.stack([x, y]).expand(count, 2, height, width).clone()


def cut_out(changed: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Where changed `ramps` come from: sides as shares of the picture's, negative where mirrored; centres.

    Read between a quarter and three quarters of the picture, where no border is repeated.
    """
    height, width = changed.shape[2:]
    here = ramps(height, width)[0]
    top, left = height // 4, width // 4
    bottom, right = height - 1 - top, width - 1 - left
    across = (changed[:, 0, top, right] - changed[:, 0, top, left]) / (here[0, top, right] - here[0, top, left])
    down = (changed[:, 1, bottom, left] - changed[:, 1, top, left]) / (here[1, bottom, left] - here[1, top, left])
    x = (changed[:, 0, top, right] + changed[:, 0, top, left]) / 2
    y = (changed[:, 1, bottom, left] + changed[:, 1, top, left]) / 2
    return across, down, x, y


@pytest.mark.parametrize("share", [0.1, 0.35, 0.78, 0.95])
@pytest.mark.parametrize("flip", [False, True])
def test_a_crop_has_its_share_of_the_area_lies_inside_and_is_not_too_oblong(share: float, *, flip: bool) -> None:
    """Of 2,000 parts none is smaller than `crop`, reaches out of the picture or is more oblong than 4:3."""
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
    """Down to 0.35 of the area, half of the parts are smaller than the middle between 0.35 and 1."""
    torch.manual_seed(0)
    across, down, _, _ = cut_out(augment(ramps(30, 40, count=2000), Augment(crop=0.35)))
    area = across * down
    for share in (0.25, 0.5):
        assert float((area < 0.35 + 0.65 * share).float().mean()) == pytest.approx(share, abs=0.05)


def test_a_flip_mirrors_half_of_the_pictures_exactly() -> None:
    """With nothing else asked for, each picture comes out as it was or as torch.flip of it, both equally often."""
    torch.manual_seed(0)
    picture = torch.rand(1, 3, 5, 8)
    changed = augment(picture.expand(1000, 3, 5, 8), Augment(flip=True))
    same = (changed - picture).abs().amax(dim=(1, 2, 3)) < 1e-5
    mirrored = (changed - picture.flip(3)).abs().amax(dim=(1, 2, 3)) < 1e-5
    assert (same ^ mirrored).all()
    assert float(mirrored.float().mean()) == pytest.approx(0.5, abs=0.05)


@pytest.mark.usefixtures("at_the_bound")
def test_colours_at_the_bound_are_their_formulas() -> None:
    """Brightness and tint are added, contrast stretches about the picture's own mean: (x - mean) (1 + c) + mean."""
    pictures = torch.randn(3, 3, 5, 7)
    mean = pictures.mean(dim=(1, 2, 3), keepdim=True)
    for how, expected in (
        (Augment(brightness=0.3), pictures + 0.3),
        (Augment(tint=0.2), pictures + 0.2),
        (Augment(contrast=0.4), (pictures - mean) * 1.4 + mean),
        (Augment(brightness=0.3, tint=0.2, contrast=0.4), (pictures - mean) * 1.4 + mean + 0.5),
    ):
        np.testing.assert_allclose(augment(pictures, how), expected, atol=1e-5)


def test_brightness_is_one_offset_a_picture_and_tint_one_a_channel() -> None:
    """Each is uniform within its bound either way; brightness moves all channels alike, tint each by its own draw."""
    torch.manual_seed(0)
    pictures = torch.randn(1, 3, 4, 5).expand(1500, 3, 4, 5)
    for how in (Augment(brightness=0.3), Augment(tint=0.3)):
        offsets = augment(pictures, how) - pictures
        np.testing.assert_allclose(offsets, offsets[:, :, :1, :1].expand_as(offsets), atol=1e-5)
        channel = offsets[:, :, 0, 0]  # (N, C)
        assert channel.abs().max() <= 0.3 + 1e-5
        np.testing.assert_allclose(channel.std(dim=0), np.full(3, 0.3 / math.sqrt(3)), rtol=0.06)
        alike = float(torch.corrcoef(channel.T)[0, 1])
        assert alike == pytest.approx(1.0 if how.brightness else 0.0, abs=0.1)


def test_contrast_keeps_each_picture_s_mean() -> None:
    """Spreads grow and shrink by up to the bound, uniformly; means stay."""
    torch.manual_seed(0)
    pictures = torch.randn(1, 3, 4, 5).expand(1500, 3, 4, 5) + 2
    changed = augment(pictures, Augment(contrast=0.4))
    np.testing.assert_allclose(changed.mean(dim=(1, 2, 3)), pictures.mean(dim=(1, 2, 3)), atol=1e-5)
    spread = changed.std(dim=(1, 2, 3)) / pictures.std(dim=(1, 2, 3)) - 1
    assert spread.abs().max() <= 0.4 + 1e-5
    assert spread.std() == pytest.approx(0.4 / math.sqrt(3), rel=0.06)


@pytest.mark.parametrize("side", [4, 5, 8, 12])
def test_a_side_is_the_picture_at_another_resolution(side: int) -> None:
    """The whole of an 8 x 8 picture on side x side pixels: each shows its own place, at most the border repeated."""
    found = augment(ramps(8, 8), Augment(), side=side)
    np.testing.assert_allclose(found, ramps(side, side).clamp(-7 / 8, 7 / 8), atol=1e-5)


def test_a_side_changes_none_of_the_draws() -> None:
    """The same draws cut the same part out at each resolution."""
    how = Augment(crop=0.3, flip=True)
    draws, pictures = draw(how, 50), ramps(32, 32, count=50)
    coarse, fine = (cut_out(augment(pictures, how, draws, side)) for side in (16, None))
    for ours, theirs in zip(coarse, fine, strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-4)


@pytest.mark.parametrize(
    "how",
    [
        Augment(rotate_deg=20, shift_px=2),
        Augment(crop=0.3, flip=True),
        Augment(flip=True, brightness=0.2, contrast=0.2, tint=0.2),
    ],
)
def test_an_example_is_changed_alike_whatever_rows_are_taken_of_its_batch(how: Augment) -> None:
    """Processes that share a batch slice the same draws: together they have the batch that one would have."""
    torch.manual_seed(0)
    pictures, draws = torch.rand(10, 3, 6, 7), draw(how, 10)
    whole = augment(pictures, how, draws)
    for rows in (slice(0, 5), slice(5, 10), slice(7, 8), slice(1, None, 3)):
        np.testing.assert_allclose(augment(pictures[rows], how, draws[:, rows]), whole[rows], atol=1e-6)
    torch.manual_seed(3)
    drawn = draw(how, 10)
    torch.manual_seed(3)
    np.testing.assert_allclose(augment(pictures, how), augment(pictures, how, drawn), atol=0)


def test_words_are_dropped_with_their_probability_and_padding_never() -> None:
    """A share of the tokens becomes the unknown one, 1; the rest and the padding, 0, are as they were."""
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
    """Each token has its own draw in [0, 1), so a share of 0 drops none."""
    tokens, draws = torch.tensor([[5, 6, 7, 0]], dtype=torch.int32), torch.tensor([[0.0, 0.19, 0.2, 0.0]])
    assert drop_words(tokens, 0.2, draws).tolist() == [[1, 1, 7, 0]]
    assert drop_words(tokens, 0.0, draws).tolist() == tokens.tolist()
    assert drop_words(tokens, 0.2, draws).dtype == torch.int32
