from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from phin.data.augment import Augmentation, augment, mirror

STILL = Augmentation(shift=0, rotate=0, scale=0, stretch=0, shear=0)
HEIGHT, WIDTH = 48, 64


def ellipse(n: int) -> Tensor:
    """A smooth blob, wider than high, in the middle."""
    y, x = torch.arange(HEIGHT)[:, None] - (HEIGHT - 1) / 2, torch.arange(WIDTH) - (WIDTH - 1) / 2
    return torch.exp(-0.5 * (x**2 / 25 + y**2 / 9)).expand(n, 1, HEIGHT, WIDTH)


def shape(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Area (B,), centroid (B, 2) and covariance (B, 2, 2) of each picture's light, in pixels, as (x, y)."""
    rows, columns = torch.meshgrid(torch.arange(HEIGHT), torch.arange(WIDTH), indexing="ij")
    places = torch.stack([columns, rows], -1).double()
    light = x[:, 0].double()
    area = light.sum((1, 2))
    centroid = torch.einsum("bhw,hwi->bi", light, places) / area[:, None]
    apart = places - centroid[:, None, None]
    return area, centroid, torch.einsum("bhw,bhwi,bhwj->bij", light, apart, apart) / area[:, None, None]


def views(n: int = 200, seed: int = 0, **amounts: float | bool) -> Tensor:
    return augment(ellipse(n), np.random.default_rng(seed), replace(STILL, **amounts))


def spread(values: Tensor, amount: float) -> None:
    """The values fill [-amount, amount] evenly."""
    assert values.abs().max() <= amount * 1.03
    assert values.std().item() == pytest.approx(amount / 3**0.5, rel=0.15)
    assert abs(values.mean().item()) < 0.15 * amount


def test_no_amounts_leave_a_picture_alone():
    x = torch.rand(3, 2, 9, 14)
    torch.testing.assert_close(augment(x, np.random.default_rng(0), STILL), x, atol=1e-5, rtol=0)


def test_shift_moves_by_up_to_its_pixels_along_each_axis():
    area, centroid, covariance = shape(views(shift=3))
    before, middle, still = shape(ellipse(1))
    for axis in range(2):
        spread(centroid[:, axis] - middle[0, axis], 3)
    assert abs(np.corrcoef(centroid.T.numpy())[0, 1]) < 0.2
    torch.testing.assert_close(area, before.expand(200), rtol=0.01, atol=0)
    # bilinear interpolation blurs a little
    torch.testing.assert_close(covariance, still.expand(200, 2, 2), rtol=0.03, atol=0.3)


def test_rotation_turns_without_bending_although_the_picture_is_not_square():
    area, _, covariance = shape(views(rotate=40))
    values, vectors = torch.linalg.eigh(covariance)
    torch.testing.assert_close(values, torch.tensor([9.0, 25.0]).double().expand(200, 2), rtol=0.03, atol=0.3)
    torch.testing.assert_close(area, shape(ellipse(1))[0].expand(200), rtol=0.01, atol=0)
    spread(torch.rad2deg(torch.atan(vectors[:, 1, 1] / vectors[:, 0, 1])), 40)


def test_scale_multiplies_both_axes_alike():
    area, _, covariance = shape(views(scale=0.2))
    spread(torch.log(covariance[:, 0, 0] / 25) / 2, 0.2)
    aspect = covariance[:, 1, 1] / covariance[:, 0, 0]
    torch.testing.assert_close(aspect, torch.full((200,), 9 / 25).double(), rtol=0.05, atol=0)
    torch.testing.assert_close(area, shape(ellipse(1))[0] * covariance[:, 0, 0] / 25, rtol=0.03, atol=0)


def test_stretch_changes_the_aspect_and_keeps_the_area():
    area, _, covariance = shape(views(stretch=0.3))
    spread(torch.log(covariance[:, 0, 0] / covariance[:, 1, 1] * 9 / 25) / 2, 0.3)
    torch.testing.assert_close(area, shape(ellipse(1))[0].expand(200), rtol=0.01, atol=0)


def test_shear_leans_the_vertical_and_keeps_the_heights():
    area, _, covariance = shape(views(shear=0.3))
    spread(covariance[:, 0, 1] / covariance[:, 1, 1], 0.3)
    torch.testing.assert_close(covariance[:, 1, 1], torch.full((200,), 9.0).double(), rtol=0.03, atol=0.2)
    torch.testing.assert_close(area, shape(ellipse(1))[0].expand(200), rtol=0.01, atol=0)


def test_flip_mirrors_every_second_image_and_nothing_else():
    x = torch.rand(100, 3, 8, 8)
    flipped = augment(x, np.random.default_rng(0), replace(STILL, flip=True))
    mirrored = (flipped - x.flip(-1)).abs().amax((1, 2, 3)) < 1e-5
    assert ((flipped - x).abs().amax((1, 2, 3)) < 1e-5).equal(~mirrored)
    assert 35 <= mirrored.sum() <= 65


def test_mirroring_exchanges_left_and_right_where_the_draw_is_below_one_half():
    x = torch.rand(4, 3, 5, 6)
    mirrored = mirror(x, np.array([0.0, 0.5, 0.49, 0.99]))
    assert mirrored[1::2].equal(x[1::2])
    for row, column in np.ndindex(5, 6):
        assert mirrored[::2, :, row, column].equal(x[::2, :, row, 5 - column])


def test_a_view_depends_on_the_generator_and_its_own_picture_only():
    x = torch.rand(6, 1, 28, 28)
    seen = augment(x, np.random.default_rng(1))
    assert augment(x, np.random.default_rng(1)).equal(seen)
    assert not augment(x, np.random.default_rng(2)).equal(seen)
    others = torch.cat([x[:3], torch.rand(3, 1, 28, 28)])
    assert augment(others, np.random.default_rng(1))[:3].equal(seen[:3])


def test_what_lies_beyond_the_border_is_the_border():
    x = torch.full((50, 1, 28, 28), -1.0)
    torch.testing.assert_close(augment(x, np.random.default_rng(0)), x)
