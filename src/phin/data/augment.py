"""Random views of pictures: affine ones, for networks that classify; mirrored ones, for any."""

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor


@dataclass(frozen=True)
class Augmentation:
    """How far a random view may stray: image by image, uniformly from -amount to amount."""

    shift: float = 2.5
    """Translation along each axis, in pixels."""
    rotate: float = 8.0
    """Rotation, in degrees."""
    scale: float = 0.08
    """Logarithm of the magnification."""
    stretch: float = 0.08
    """Logarithm of the aspect ratio; the area stays."""
    shear: float = 0.15
    """Horizontal shear, in pixels per pixel of height."""
    flip: bool = False
    """Mirror every second image, left and right. Never for digits or text."""


def augment(
    x: Float[Tensor, "batch channels height width"],
    rng: np.random.Generator,
    amount: Augmentation = Augmentation(),
) -> Float[Tensor, "batch channels height width"]:
    """Views of `x`: affine maps about the centre, bilinear, the border goes on outside, the rest is clipped.

    The view of an image depends only on the generator's state and on the image's place in the batch.
    """
    count, _, height, width = x.shape
    unit = torch.from_numpy(rng.uniform(-1, 1, (count, 7))).float()
    shift_x, shift_y, angle, scale, stretch, shear, mirror = unit.unbind(1)
    angle = torch.deg2rad(amount.rotate * angle)
    shrink = torch.exp(-amount.scale * scale)  # grid_sample wants the inverse map: where a pixel comes from
    aspect = torch.exp(amount.stretch * stretch / 2)
    lean = amount.shear * shear
    flip = torch.where(mirror < 0, -1.0, 1.0) if amount.flip else torch.ones(count)
    cos, sin = angle.cos(), angle.sin()
    across, down = shrink * aspect * flip, shrink / aspect
    # In pixels: diag(across, down) @ rotation @ [[1, lean], [0, 1]]. The grid's units are half the sides.
    ratio = height / width
    rows = [
        [across * cos, across * (lean * cos - sin) * ratio, amount.shift * shift_x * 2 / width],
        [down * sin / ratio, down * (lean * sin + cos), amount.shift * shift_y * 2 / height],
    ]
    theta = torch.stack([torch.stack(row, 1) for row in rows], 1).to(x.device)
    grid = F.affine_grid(theta, list(x.shape), align_corners=False)
    return F.grid_sample(x, grid, padding_mode="border", align_corners=False)


def mirror(
    x: Float[Tensor, "batch channels height width"], draws: Float[np.ndarray, " batch"]
) -> Float[Tensor, "batch channels height width"]:
    """Exchanges left and right in each picture whose draw from [0, 1) is below 1/2."""
    chosen = torch.from_numpy(draws < 0.5)[:, None, None, None]
    return torch.where(chosen, x.flip(-1), x)
