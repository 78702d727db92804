"""Videos of a moving digit: where it is in each frame, how steadily it moves, and what it is."""

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from phin.data.moving import SIDE, moved

MIDDLE = 14.0
"""Where MNIST has the centre of a digit's ink, along both axes, in pixels from the first one's edge."""


def centres(videos: UInt8[Tensor, "n frames h w"]) -> Float[Tensor, "n frames 2"]:
    """The centre of the ink of each frame, down and to the right, from the first pixel's edge.

    Of a frame without any, the middle.
    """
    ink = videos.double()
    down, right = (torch.arange(side).double() + 0.5 for side in videos.shape[2:])
    total = ink.sum((2, 3))[..., None]
    centre = torch.stack([ink.sum(3) @ down, ink.sum(2) @ right], -1) / total.clamp(min=1)
    return torch.where(total > 0, centre, torch.tensor(videos.shape[2:]).double() / 2)


def velocity(videos: UInt8[Tensor, "n frames h w"]) -> tuple[Float[Tensor, "n 2"], Float[Tensor, "n"]]:
    """The mean velocity of the ink's centre, pixels a frame, and how far it is from constant.

    With v_t the way from frame t to the next: mean v_t, and sqrt(mean |v_t - mean v|²). The latter is 0 of a
    digit that moves as a whole, by a constant velocity, and stays in the picture.
    """
    steps = centres(videos).diff(dim=1)
    mean = steps.mean(1)
    return mean, (steps - mean[:, None]).square().sum(2).mean(1).sqrt()


def centred(videos: UInt8[Tensor, "n frames 28 28"]) -> UInt8[Tensor, "m 28 28"]:
    """All frames, moved by whole pixels such that the ink's centre is where MNIST has it."""
    shifts = (MIDDLE - centres(videos).flatten(0, 1)).round().long().clamp(1 - SIDE, SIDE - 1)
    return torch.from_numpy(moved(videos.flatten(0, 1).numpy(), shifts[:, None].numpy())[:, 0])
