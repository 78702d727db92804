"""Decoders: log p(x | z) at the cleanest level, where a bound on the likelihood ends.

An image of 8 bits has the values v_k = 2 k / 255 - 1, and a decoder of images gives each a probability: the
256 of a pixel sum to 1. Continuous data have a density. A new one is a function and an entry at the foot.
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from .denoiser import Denoise
from .level import Level

Decoder = Callable[[Denoise, Tensor, Tensor, Level], Tensor]
"""(denoise, x (B, ...), z (B, ...), the level of z) -> log p(x | z) in nats, (B,)."""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false
_log_probability: Callable[[Tensor], Tensor] = torch.special.log_ndtr  # log Φ; torch leaves it untyped


def discretized_gaussian(frac: float = 0.0, bins: int = 256, small: float = 0.5) -> Decoder:
    """DDPM's last step: N(x̂(z), std²), integrated over the bin of x; the bins at -1 and 1 are open.

        log p(x | z) = sum_i log(Φ((x_i + d - x̂_i) / std) - Φ((x_i - d - x̂_i) / std)),    d = 1 / (bins - 1),
        std² = small^(1-f) sigma² / (alpha² + sigma²).

    f = 1 is DDPM's large variance, beta_1. The small one would be 0 in this step, and DDPM takes that of the
    step before instead, beta-tilde_2 = small beta_1 with small = 1 - SNR(2) / SNR(1): about a half for
    DDPM's chain and the cosine's, of 1000 steps; `bound.chain_bound` gives the chain's own. A denoiser that
    learned its variance overrides f.

    Args:
        frac: f, from 0 (small variance) to 1 (large).
        bins: How many values a pixel can have, v_k = 2 k / (bins - 1) - 1.
        small: The small variance, as a share of the large one.

    Returns:
        The decoder, in float64; one network call. It raises ValueError where x is not made of such values.

    References:
        Denoising Diffusion Probabilistic Models (Ho et al., 2020), arXiv:2006.11239, eq. 13.
        Improved DDPM (Nichol and Dhariwal, 2021), arXiv:2102.09672, eq. 15 and their code, for small and f.

    Raises:
        ValueError: If frac is outside [0, 1], small outside (0, 1], or bins below 2.
    """
    _check_bins(bins)
    if not 0 <= frac <= 1:
        raise ValueError(f"frac = {frac}: it lies between 0, the small variance, and 1, the large")
    if not 0 < small <= 1:
        raise ValueError(
            f"small = {small}: the small variance is a share of the large one, above 0 and up to 1"
        )

    def log_prob(denoise: Denoise, x: Tensor, z: Tensor, level: Level) -> Tensor:
        k = integers(x, bins)
        mean, learned = denoise(z, level)
        f = frac if learned is None else learned.double()
        std = (torch.sigmoid(-level.log_snr.double()) * small ** (1 - f)).sqrt()
        log_p = log_bins(k, mean.double(), std, bins)
        return log_p.flatten(1).sum(1)

    return log_prob


def categorical(bins: int = 256) -> Decoder:
    """VDM's decoder: p(x_i = v_k | z) ∝ q(z_i | x_i = v_k), every value being equally likely beforehand.

        log p(x | z) = sum_i log softmax_k(-SNR (z_i / alpha - v_k)² / 2) at the k of x_i.

    It makes no network call. Values more than 20 standard deviations of the noise from the one next to z are
    left out of the sum: they weigh less than e^-180, and where a bound ends few are left.

    Args:
        bins: How many values a pixel can have, v_k = 2 k / (bins - 1) - 1.

    Returns:
        The decoder. It raises ValueError where x is not made of such values.

    References:
        Variational Diffusion Models (Kingma et al., 2021), arXiv:2107.00630, section 3.3.

    Raises:
        ValueError: If bins is below 2.
    """
    _check_bins(bins)

    def log_prob(denoise: Denoise, x: Tensor, z: Tensor, level: Level) -> Tensor:
        snr, clean = torch.exp(level.log_snr)[..., None].to(z.device), (z / level.alpha)[..., None]

        def log_weight(k: Tensor) -> Tensor:
            return -0.5 * snr * (clean - (2 * k.to(x.dtype) / (bins - 1) - 1)).square()

        wanted = log_weight(integers(x, bins)[..., None]).squeeze(-1)
        reach = math.ceil(10 * (bins - 1) * math.exp(-0.5 * float(level.log_snr.detach().min())))
        if 2 * reach + 1 < bins:
            nearest = ((clean + 1) * ((bins - 1) / 2)).round().clamp(0, bins - 1)
            k = nearest + torch.arange(-reach, reach + 1, device=x.device)
        else:
            k = torch.arange(bins, device=x.device)
        weights = log_weight(k).masked_fill((k < 0) | (k > bins - 1), -math.inf)
        return (wanted - weights.logsumexp(-1)).flatten(1).sum(1)

    return log_prob


def gaussian(variance: float = 1.0) -> Decoder:
    """A density, for continuous data: N(x; x̂(z), 1 / (1 / variance + SNR)).

    With the exact x̂ it is the exact posterior of Gaussian data of this variance in each dimension; 1 is
    DDPM's large variance.

    Args:
        variance: That of the data.

    Returns:
        The decoder; one network call.

    Raises:
        ValueError: If the variance is not above 0.
    """
    if not 0 < variance < math.inf:
        raise ValueError(f"variance = {variance} must be above 0, and finite")

    def log_prob(denoise: Denoise, x: Tensor, z: Tensor, level: Level) -> Tensor:
        precision = 1 / variance + torch.exp(level.log_snr)
        square = precision * (x - denoise(z, level).x).square()
        return -0.5 * (square + math.log(2 * math.pi) - torch.log(precision)).flatten(1).sum(1)

    return log_prob


def log_bins(k: Tensor, mean: Tensor, std: Tensor, bins: int = 256) -> Tensor:
    """The logarithm of the probability of bin k under N(mean, std²), for each number, in float64.

    The bin of v_k = 2 k / (bins - 1) - 1 is as wide as the values are apart; those at -1 and 1 are open.
    """
    k, mean, std = k.double(), mean.double(), std.double()
    # Edges made of integers are the neighbour's to the last bit, so the bins leave nothing out.
    lower, upper = (((2 * k + side) / (bins - 1) - 1 - mean) / std for side in (-1.0, 1.0))
    # Φ(upper) - Φ(lower) does not cancel on the side where both are small: mirror it there.
    mirrored = lower + upper > 0
    above = _log_probability(torch.where(mirrored, -lower, upper))
    below = _log_probability(torch.where(mirrored, -upper, lower))
    # Beyond 1e17 deviations the two are one number, next to which this logarithm is nothing.
    within = above + torch.log(-torch.expm1(below - above).clamp(max=-torch.finfo(above.dtype).tiny))
    log_p = torch.where(k == 0, _log_probability(upper), within)
    return torch.where(k == bins - 1, _log_probability(-lower), log_p)


def integers(x: Tensor, bins: int = 256) -> Tensor:
    """The k (int64) of each value of x = 2 k / (bins - 1) - 1.

    Raises:
        ValueError: x has a value that is none of them, by more than an eighth of a step.
    """
    steps = (x + 1) * ((bins - 1) / 2)
    k = steps.round().clamp(0, bins - 1)
    right = (steps - k).abs() <= 0.125  # NaN is not
    if not right.all():
        wrong = float(x[~right].flatten()[0])
        raise ValueError(
            f"x has the value {wrong:g}, and this decoder knows only the {bins} values 2 k / {bins - 1} - 1 "
            f"with k = 0..{bins - 1}: give images of integers, scaled to [-1, 1]"
        )
    return k.long()


def _check_bins(bins: int) -> None:
    if bins < 2:
        raise ValueError(f"bins = {bins}: a pixel has at least 2 values")


DECODERS: dict[str, Callable[..., Decoder]] = {
    "discretized_gaussian": discretized_gaussian,
    "categorical": categorical,
    "gaussian": gaussian,
}
"""Name -> factory."""
