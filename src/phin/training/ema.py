"""Averages of the weights: what is sampled is an average over the last part of the training.

An exponential average of a fixed rate is too long for the first minutes of a run and too short for its last
hour. The power-function average is as wide as a fixed *share* of the training so far, at every moment, so
that one number serves a run of ten minutes and one of ten days. The exponential average of a fixed rate is
there, too, to repeat a paper.

References: Analyzing and Improving the Training Dynamics of Diffusion Models (Karras et al., 2024),
arXiv:2312.02696, section 3.1 and appendix C.
"""

import copy
import math

import numpy as np
import torch
from torch import Tensor, nn

from phin.errors import PhinError

WIDEST = 1 / math.sqrt(12)  # of the plain mean over all updates, gamma = 0


def power(width: float) -> float:
    """The exponent gamma of the profile whose standard deviation is `width` of the training so far.

    In continuous time the average is `∫ w(s) weights(s) ds` with `w(s) ~ s^gamma` on [0, t]. Its standard
    deviation is `width * t` with

        width = (gamma + 1)^(1/2) (gamma + 2)^(-1) (gamma + 3)^(-1/2).

    Width 0 is no averaging (gamma infinite), the widest is the plain mean, 12^(-1/2) = 0.2887 (gamma = 0).

    Raises:
        PhinError: The width is not in [0, 0.2887].

    References: arXiv:2312.02696, equation 3.
    """
    if not 0 <= width <= WIDEST:
        raise PhinError(
            f"an EMA of width {width} does not exist: choose one from 0 (none) to {WIDEST:.4f} (plain mean)"
        )
    if width < 1e-9:  # less than one update of any training
        return math.inf
    # With u = gamma + 2 this is u^3 + u^2 - u / width^2 + 1 / width^2 = 0; its other roots lie below u = 2.
    return max(float(np.roots([1, 1, -(width**-2), width**-2]).real.max()) - 2, 0.0)


class EMA:
    """A copy of `model` whose weights follow it as a power-function average of all its updates so far.

    After update t = 1, 2, ... the copy is `mean + (1 - (1 - 1/t)^(gamma + 1)) (weights - mean)`, so that
    update i weighs `(i^(gamma + 1) - (i - 1)^(gamma + 1)) / t^(gamma + 1)`: these sum to 1, and the random
    ones of the start leave no trace. With a `decay` the copy is `decay mean + (1 - decay) weights`, so that
    update i weighs `(1 - decay) decay^(t - i)`, and the weights that it began with `decay^t`.

    Args:
        model: What to follow.
        width: Standard deviation of the profile, as a share of the training so far.
        decay: The constant decay of an exponential average, in place of a width.

    References: arXiv:2312.02696, equations 1 and 2; a constant decay, 0.9999: Denoising Diffusion
        Probabilistic Models (Ho et al., 2020), arXiv:2006.11239, appendix B.
    """

    def __init__(self, model: nn.Module, width: float, decay: float | None = None) -> None:
        self.gamma, self.decay = power(width), decay
        self.model = copy.deepcopy(model).eval().requires_grad_(False)
        self._source = model
        self._means: list[Tensor] = [*self.model.parameters()]
        self._weights: list[Tensor] = [*model.parameters()]

    def share(self, t: int) -> float:
        """What the t-th update counts in the average that it makes."""
        if self.decay is not None:
            return 1 - self.decay
        return 1 - (1 - 1 / t) ** (self.gamma + 1)

    @torch.no_grad()
    def update(self, t: int) -> None:
        """Takes in the model as it is after its t-th update, t = 1, 2, ..."""
        torch._foreach_lerp_(self._means, self._weights, self.share(t))  # pyright: ignore[reportPrivateImportUsage]
        for mean, now in zip(self.model.buffers(), self._source.buffers(), strict=True):
            mean.copy_(now)
