"""The training loss, and the times at which it is taken."""

import abc
from collections.abc import Callable

import torch
from torch import Tensor, nn

from .denoiser import Denoise
from .level import Level
from .noise import Noise
from .weights import Weight, simple


def stratified(uniform: Tensor) -> Tensor:
    """Times t_i = (i + u_i) / n, one in each of n equal strata of [0, 1).

    Uniform, with far less variance than n free draws.

    Args:
        uniform: u (n,), uniform on [0, 1): n draws, or one draw repeated for VDM's low-discrepancy times
            (arXiv:2107.00630, appendix I.1).
    """
    t = (torch.arange(len(uniform), dtype=uniform.dtype, device=uniform.device) + uniform) / len(uniform)
    return _below_1(t)


def antithetic(uniform: Tensor) -> Tensor:
    """Times in pairs t and 1 - t, from the first half of the draws u (n,), uniform on [0, 1)."""
    half = uniform[: (len(uniform) + 1) // 2]
    return _below_1(torch.cat([half, 1 - half])[: len(uniform)])


def _below_1(t: Tensor) -> Tensor:
    """Times in [0, 1), of which some may have been rounded up to 1."""
    return t.clamp(max=1 - torch.finfo(t.dtype).eps / 2)


def denoising_loss(
    denoise: Denoise, x: Tensor, level: Level, weight: Weight = simple, noise: Noise = torch.randn_like
) -> Tensor:
    """The weighted squared error of the noise, mean over dimensions, for each example: (B,).

        w(log_snr) (alpha / sigma)² mean |x - x̂(z)|²,    z = alpha x + sigma eps.

    Times the number of dimensions, with the right weight, it is a term of the bound in nats; see
    `weights.likelihood`.

    Args:
        denoise: The denoiser, condition bound.
        x: Clean data (B, ...).
        level: Levels (B,), or one for all.
        weight: Multiplier of the noise's squared error, by log-SNR.
        noise: Draws eps.

    References:
        Denoising Diffusion Probabilistic Models (Ho et al., 2020), arXiv:2006.11239, eq. 14.
    """
    level = level.over(x)
    z = level.alpha * x + level.sigma * noise(x)
    error = (x - denoise(z, level).x).square()
    return (weight(level.log_snr) * torch.exp(level.log_snr) * error).flatten(1).mean(1)


class Times(nn.Module, abc.ABC):
    """A density of the times at which a loss is taken, which may learn from the losses."""

    @abc.abstractmethod
    def forward(self, uniform: Tensor) -> tuple[Tensor, Tensor]:
        """Times t in [0, 1) for draws u (B,), uniform on [0, 1), e.g. stratified; and their weights, (B,).

        A weight is 1 / density(t): the mean of weight * loss is that of the loss at uniform times.
        """

    def learn(self, t: Tensor, loss: Tensor) -> None:
        """Takes in losses (B,), unweighted and in the order of the batch, at the times t (B,)."""


class Uniform(Times):
    """Times as they are drawn."""

    def forward(self, uniform: Tensor) -> tuple[Tensor, Tensor]:
        return uniform, torch.ones_like(uniform)


class Importance(Times):
    """Times drawn where losses are large: the least variance for a mean that stays what it is.

    The density is constant on n equal bins of time, on bin i

        n p_i,    p_i = (1 - share) q_i + share / n,    q_i ∝ sqrt(mean of the bin's last losses, squared),

    and uniform until every bin has its number of losses. For a chain of n steps the bins are its steps, and
    the weight of step i is 1 / (n p_i). All its state is in two buffers.

    Args:
        bins: n.
        length: How many losses of each bin are remembered.
        share: How much of a uniform density is mixed in, so that no weight exceeds 1 / share.

    Raises:
        ValueError: bins < 1, length < 1 or a share outside (0, 1].

    References:
        Improved DDPM (Nichol and Dhariwal, 2021), arXiv:2102.09672, eq. 18 and section 3.3.
    """

    losses: Tensor
    count: Tensor

    def __init__(self, bins: int = 1000, length: int = 10, share: float = 0.001) -> None:
        super().__init__()
        if not (bins >= 1 and length >= 1 and 0 < share <= 1):
            raise ValueError(
                f"importance needs bins >= 1, length >= 1 and 0 < share <= 1, not {bins}, {length}, {share}"
            )
        self.bins, self.length, self.share = bins, length, share
        self.register_buffer("losses", torch.zeros(bins, length))
        self.register_buffer("count", torch.zeros(bins, dtype=torch.long))

    def probabilities(self) -> Tensor:
        """p (n,), float64 on the CPU: the same in every process."""
        if (self.count < self.length).any():
            return torch.full((self.bins,), 1 / self.bins, dtype=torch.float64)
        root = self.losses.cpu().double().square().mean(1).sqrt()
        if not root.any():  # nothing is left to learn: no time is better than another
            return torch.full((self.bins,), 1 / self.bins, dtype=torch.float64)
        return (1 - self.share) * root / root.sum() + self.share / self.bins

    def forward(self, uniform: Tensor) -> tuple[Tensor, Tensor]:
        """By the inverse of the distribution, so that stratified draws give stratified times."""
        p = self.probabilities()
        upto, u = p.cumsum(0), uniform.cpu().double()
        i = torch.searchsorted(upto, u, right=True).clamp(max=self.bins - 1)
        within = 1 - (upto[i] - u) / p[i]
        return (i + within.clamp(0, 1 - 1e-9)) / self.bins, 1 / (self.bins * p[i])

    def learn(self, t: Tensor, loss: Tensor) -> None:
        i = (t * self.bins).long().to(self.count.device)
        same = i[:, None] == i
        earlier, later = same.tril(-1).sum(1), same.triu(1).sum(1)
        place = (self.count[i] + earlier) % self.length
        kept = later < self.length  # the last ones of a bin that the batch has hit too often
        self.losses[i[kept], place[kept]] = loss.detach().to(self.losses)[kept]
        self.count += torch.bincount(i, minlength=self.bins)


TIMES: dict[str, Callable[..., Times]] = {"uniform": Uniform, "importance": Importance}
"""Name -> factory."""
