"""Augmentation, measured in pixels and degrees on pictures that are not square."""

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from training.augment import augment, draw
from training.recipe import Augment

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
    pictures, generator = torch.rand(3, 2, 5, 7), torch.get_rng_state()
    assert torch.equal(augment(pictures, Augment()), pictures)
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


def ramp(side: int = 40) -> Tensor:
    """A picture whose two channels are its own coordinates, from -1 to 1: float32 (1, 2, side, side)."""
    line = (torch.arange(side) + 0.5) / side * 2 - 1
    return torch.stack([line.expand(side, side), line.view(-1, 1).expand(side, side)])[None]


def extent(picture: Tensor) -> tuple[float, float]:
    """How much of a ramp a picture shows, across and down, as shares of 1: the slope between its borders."""
    side = picture.shape[-1]
    across = float(picture[0, side // 2, -1] - picture[0, side // 2, 0]) / (2 * (side - 1) / side)
    down = float(picture[1, -1, side // 2] - picture[1, 0, side // 2]) / (2 * (side - 1) / side)
    return across, down


def test_a_part_has_at_least_the_share_of_the_area_and_lies_inside() -> None:
    """Areas run from `crop` to the whole, sides up to 4:3, and nothing from beyond the border is seen."""
    torch.manual_seed(0)
    parts = augment(ramp().expand(500, 2, 40, 40).clone(), Augment(crop=0.3))
    sizes = [extent(part) for part in parts]
    areas = [across * down for across, down in sizes]
    assert min(areas) > 0.27  # a clamped side makes the area a little smaller than drawn
    assert min(areas) < 0.4
    assert max(areas) > 0.9
    assert all(0.74 < across / down < 1.35 for across, down in sizes)
    assert float(parts.abs().max()) <= 1
    assert len({round(float(part[0, 20, 20]), 2) for part in parts}) > 20


def test_flip_mirrors_every_other_picture_exactly() -> None:
    """Half of the pictures come out mirrored left to right, the others as they were."""
    torch.manual_seed(0)
    pictures = torch.rand(1, 3, 8, 11).expand(200, 3, 8, 11).clone()
    found = augment(pictures, Augment(flip=True))
    mirrored = [torch.allclose(one, pictures[0].flip(2), atol=1e-4) for one in found]
    plain = [torch.allclose(one, pictures[0], atol=1e-4) for one in found]
    assert all(a != b for a, b in zip(mirrored, plain, strict=True))
    assert 70 <= sum(mirrored) <= 130


@pytest.mark.parametrize(
    ("how", "changed"),
    [(Augment(brightness=0.5), "mean"), (Augment(contrast=0.5), "spread"), (Augment(tint=0.5), "channels")],
)
def test_colours_change_within_their_bounds(how: Augment, changed: str) -> None:
    """Brightness moves the mean of all channels alike, contrast the spread around it, tint each channel's mean."""
    torch.manual_seed(0)
    picture = torch.randn(1, 3, 6, 6)
    found = augment(picture.expand(300, 3, 6, 6).clone(), how)
    means, spreads = found.mean(dim=(2, 3)) - picture.mean(dim=(2, 3)), found.std(dim=(1, 2, 3)) / picture.std()
    if changed == "spread":
        assert 0.5 - 1e-4 <= float(spreads.min()) < 0.55
        assert 1.45 < float(spreads.max()) <= 1.5 + 1e-4
        return
    assert 0.45 < float(means.abs().max()) <= 0.5 + 1e-4
    alike = float((means - means[:, :1]).abs().max()) < 1e-4
    assert alike == (changed == "mean")


def test_pictures_come_out_at_the_side_that_is_asked_for() -> None:
    """Progressive resolution: the same content at another size, so a ramp stays one."""
    found = augment(ramp(40), Augment(), side=20)
    assert found.shape == (1, 2, 20, 20)
    np.testing.assert_allclose(found, ramp(20), atol=1e-5)


def test_processes_that_share_a_batch_change_each_picture_alike() -> None:
    """Draws are made for the whole batch: the rows of one process get what they would get in the whole."""
    how = Augment(rotate_deg=20, crop=0.4, flip=True, brightness=0.2, contrast=0.2, tint=0.1)
    pictures = torch.rand(7, 3, 9, 9)
    torch.manual_seed(1)
    draws = draw(how, 7)
    torch.testing.assert_close(augment(pictures[1::2], how, draws[:, 1::2]), augment(pictures, how, draws)[1::2])
