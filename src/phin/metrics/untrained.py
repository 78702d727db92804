"""How far samples are from data where nobody has trained a reader: the features of a network of chance.

References:
    Reliable fidelity and diversity metrics for generative models (Naeem et al., 2020), arXiv:2002.09797,
        section 3.3 and appendix B (of a network with random weights, for data unlike photographs).
    On the evaluation of conditional GANs (DeVries et al., 2019), arXiv:1907.08175, section 3 (the Frechet
        joint distance).
"""

import math

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64
from torch import Tensor, nn

from phin.diffusion.noise import normal
from phin.metrics.frechet import Moments, moments


class Untrained(nn.Module):
    """Features of pictures: strided convolutions with the same random weights at every time and place.

    What a trained network finds important is unknown to it; but whatever it sees to differ, differs.
    Distances compare among themselves only.

    Args:
        channels: C of the pictures.
        width: Features.
    """

    def __init__(self, channels: int, width: int = 64) -> None:
        super().__init__()
        before = channels
        for number, after in enumerate((16, 32, 64)):
            self.register_buffer(f"kernel{number}", _random(number, (after, before, 3, 3)))
            before = after
        self.register_buffer("last", _random(3, (width, before * 16)))

    @torch.no_grad()
    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b width"]:
        """(B, width)."""
        with torch.autocast(x.device.type, enabled=False):
            x = x.float()
            for number in range(3):
                x = F.relu(F.conv2d(x, self.get_buffer(f"kernel{number}"), stride=2, padding=1))
            return F.adaptive_avg_pool2d(x, 4).flatten(1) @ self.get_buffer("last").T


def _random(index: int, shape: tuple[int, ...]) -> Tensor:
    """A layer's weights, for which a relu keeps the size of what comes in (He et al., 2015)."""
    return math.sqrt(2 / math.prod(shape[1:])) * normal(0, "untrained", [index], shape)[0]


def joint_moments(
    features: Float[Tensor, "n d"], label: Int64[Tensor, "n"] | None, classes: int, scale: float
) -> Moments:
    """Moments of features with their labels beside them, as vectors of `classes` with `scale` in one place.

    Of two such, the Frechet distance is that of pictures *of their labels*: features of the right
    distribution under the wrong labels are far away.

    Args:
        features: Of pictures.
        label: What each shows, or is asked to show; None leaves labels out.
        classes: Number of labels.
        scale: Weight of labels against features.
    """
    if label is None:
        return moments(features)
    return moments(torch.cat([features, scale * F.one_hot(label, classes).to(features)], 1))
