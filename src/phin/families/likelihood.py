"""What an autoencoder's decoder says of a picture: log p(x | raw) in nats, from the network's raw output.

An image of 8 bits has the values v_k = 2 k / 255 - 1. A discretised likelihood gives each a probability: that
of a bin of width 2 / 255 around it, the bins at -1 and 1 being open, so that the 256 of a pixel sum to 1.
The others are densities, of which the logarithm is a squared error (Gaussian) or an absolute one (Laplace) up
to a scale, and the Bernoulli's cross-entropy, which is a probability of black and white pictures only.

No scale reaches zero: a density would have no bound there, and training no end. A new one is a class and an
entry at the foot.

References:
    Auto-Encoding Variational Bayes (Kingma and Welling, 2013), arXiv:1312.6114, appendix C.
    PixelCNN++ (Salimans et al., 2017), arXiv:1701.05517, section 2.1 (mixtures of discretised logistics).
    The continuous Bernoulli (Loaiza-Ganem and Cunningham, 2019), arXiv:1907.06845 (what is wrong with the
    cross-entropy of grey pictures).
"""

import abc
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from phin.diffusion.decoder import integers, log_bins
from phin.diffusion.noise import Noise
from phin.errors import PhinError

BIN = 2 / 255  # between two values of an 8-bit image in [-1, 1]
LEAST = -7.0  # of a discretised likelihood's log-scale: 1 / 9 of a bin, which is one value for certain
HALF = math.log(BIN / 2)  # of a density's: finer than half a bin, 8-bit data do not tell


class Likelihood(abc.ABC):
    """p(x | raw), each number of x being independent of the others given raw.

    Raw is (B, numbers C, *sides) for x of (B, C, *sides): a network's output, to be read by this class alone.
    """

    eight_bit: ClassVar[bool]
    """Whether it is a probability of 8-bit images."""

    @property
    @abc.abstractmethod
    def numbers(self) -> int:
        """How many numbers of raw belong to each of x."""

    @abc.abstractmethod
    def log_prob(self, raw: Tensor, x: Tensor) -> Tensor:
        """log p(x | raw), nats (B,).

        Raises:
            ValueError: A discretised one, where x is not made of 8-bit values.
        """

    @abc.abstractmethod
    def mean(self, raw: Tensor) -> Tensor:
        """E[x | raw], of the shape of x; of a discretised one, to within a bin."""

    @abc.abstractmethod
    def draw(self, raw: Tensor, noise: Noise) -> Tensor:
        """x ~ p(x | raw)."""

    def parts(self, raw: Tensor) -> Tensor:
        """Raw as (numbers, B, C, *sides)."""
        return raw.unflatten(1, (self.numbers, -1)).movedim(1, 0)


@dataclass(frozen=True)
class Bernoulli(Likelihood):
    """log p = sum_i y_i log p_i + (1 - y_i) log (1 - p_i), with y = (x + 1) / 2 and p = sigmoid(raw).

    Grey values count as shares of black and white pictures.
    """

    eight_bit = False

    @property
    def numbers(self) -> int:
        return 1

    def log_prob(self, raw: Tensor, x: Tensor) -> Tensor:
        return -F.binary_cross_entropy_with_logits(raw, (x + 1) / 2, reduction="none").flatten(1).sum(1)

    def mean(self, raw: Tensor) -> Tensor:
        return 2 * torch.sigmoid(raw) - 1

    def draw(self, raw: Tensor, noise: Noise) -> Tensor:
        return (_logit(noise(raw)) < raw).to(raw) * 2 - 1


@dataclass(frozen=True)
class Gaussian(Likelihood):
    """N(mean, std²): of a fixed std, minus the squared error over 2 std², and a constant.

    Args:
        std: The standard deviation; None learns one for each number of x, no less than 1 / 255.
    """

    std: float | None = None
    eight_bit = False

    def __post_init__(self) -> None:
        _check_positive(std=self.std)

    @property
    def numbers(self) -> int:
        return 2 if self.std is None else 1

    def log_prob(self, raw: Tensor, x: Tensor) -> Tensor:
        mean, log_std = _located(self.parts(raw), self.std)
        square = ((x - mean) * torch.exp(-log_std)).square()
        return -(0.5 * square + log_std + 0.5 * math.log(2 * math.pi)).flatten(1).sum(1)

    def mean(self, raw: Tensor) -> Tensor:
        return self.parts(raw)[0]

    def draw(self, raw: Tensor, noise: Noise) -> Tensor:
        mean, log_std = _located(self.parts(raw), self.std)
        return mean + torch.exp(log_std) * noise(mean)


@dataclass(frozen=True)
class Laplace(Likelihood):
    """exp(-|x - mean| / scale) / (2 scale): of a fixed scale, minus the absolute error, and a constant.

    Args:
        scale: None learns one for each number of x, no less than 1 / 255.
    """

    scale: float | None = None
    eight_bit = False

    def __post_init__(self) -> None:
        _check_positive(scale=self.scale)

    @property
    def numbers(self) -> int:
        return 2 if self.scale is None else 1

    def log_prob(self, raw: Tensor, x: Tensor) -> Tensor:
        mean, log_scale = _located(self.parts(raw), self.scale)
        off = (x - mean).abs() * torch.exp(-log_scale)
        return -(off + log_scale + math.log(2)).flatten(1).sum(1)

    def mean(self, raw: Tensor) -> Tensor:
        return self.parts(raw)[0]

    def draw(self, raw: Tensor, noise: Noise) -> Tensor:
        mean, log_scale = _located(self.parts(raw), self.scale)
        n = noise(mean)
        exponential = -math.log(2) - torch.special.log_ndtr(-n.abs())  # of -log of a uniform variable
        return mean + torch.exp(log_scale) * exponential * n.sign()


@dataclass(frozen=True)
class DiscretizedGaussian(Likelihood):
    """The probability of x's bin under N(mean, std²), in float64; std is no less than e^-7."""

    eight_bit = True

    @property
    def numbers(self) -> int:
        return 2

    def log_prob(self, raw: Tensor, x: Tensor) -> Tensor:
        mean, log_std = _located(self.parts(raw), None, LEAST)
        return log_bins(integers(x), mean, torch.exp(log_std)).flatten(1).sum(1)

    def mean(self, raw: Tensor) -> Tensor:
        mean, log_std = _located(self.parts(raw), None, LEAST)

        def integral(t: Tensor) -> Tensor:
            return t * torch.special.ndtr(t) + torch.exp(-t * t / 2) / math.sqrt(2 * math.pi)

        return _kept_within(mean, torch.exp(log_std), integral)

    def draw(self, raw: Tensor, noise: Noise) -> Tensor:
        mean, log_std = _located(self.parts(raw), None, LEAST)
        return _rounded(mean + torch.exp(log_std) * noise(mean))


@dataclass(frozen=True)
class DiscretizedLogistic(Likelihood):
    """The probability of x's bin under a mixture of logistic distributions; scales are no less than e^-7.

        P(k) = sum_j pi_j (sigmoid(a_j) - sigmoid(b_j)),
        a_j, b_j = (v_k ± 1 / 255 - mean_j) / scale_j,
        sigmoid(b_j) = 0 at k = 0, and sigmoid(a_j) = 1 at k = 255.

    The difference is sigmoid(a) sigmoid(-b) (1 - e^(b - a)), a product that does not cancel; at the ends only
    one of its first two factors is left.

    Args:
        mixed: How many logistics are mixed.
    """

    mixed: int = 1
    eight_bit = True

    def __post_init__(self) -> None:
        if not 1 <= self.mixed <= 100:
            raise PhinError(f"mixed = {self.mixed}: a mixture has 1 to 100 parts")

    @property
    def numbers(self) -> int:
        return 2 if self.mixed == 1 else 3 * self.mixed

    def _mixture(self, raw: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """log pi, means and log-scales, each (mixed, B, C, *sides)."""
        parts = self.parts(raw)
        mean, log_scale = _located(parts[: 2 * self.mixed].unflatten(0, (2, -1)), None, LEAST)
        logits = parts[2 * self.mixed :] if self.mixed > 1 else torch.zeros_like(mean)
        return logits.log_softmax(0), mean, log_scale

    def log_prob(self, raw: Tensor, x: Tensor) -> Tensor:
        k = integers(x).to(raw)
        log_pi, mean, log_scale = self._mixture(raw)
        fine = torch.exp(-log_scale)
        # Edges made of integers are the neighbour's to the last bit, so the bins leave nothing out.
        above, below = ((2 * k + side) / 255 - 1 for side in (1, -1))
        upper = torch.where(k == 255, math.inf, (above - mean) * fine)
        lower = torch.where(k == 0, -math.inf, (below - mean) * fine)
        ends = (k == 0) | (k == 255)
        within = torch.where(ends, 0, torch.log(-torch.expm1(-BIN * fine)))
        log_p = F.logsigmoid(upper) + F.logsigmoid(-lower) + within
        return (log_pi + log_p).logsumexp(0).flatten(1).sum(1)

    def mean(self, raw: Tensor) -> Tensor:
        log_pi, mean, log_scale = self._mixture(raw)
        return (log_pi.exp() * _kept_within(mean, torch.exp(log_scale), F.softplus)).sum(0)

    def draw(self, raw: Tensor, noise: Noise) -> Tensor:
        log_pi, mean, log_scale = self._mixture(raw)
        cumulative = log_pi.exp().cumsum(0)[:-1]
        chosen = (cumulative < torch.special.ndtr(noise(mean[0]))).sum(0, keepdim=True)
        mean, log_scale = (part.gather(0, chosen)[0] for part in (mean, log_scale))
        return _rounded(mean + torch.exp(log_scale) * _logit(noise(mean)))


def _located(parts: Tensor, scale: float | None, least: float = HALF) -> tuple[Tensor, Tensor]:
    """A location, and the logarithm of a scale that is given or is learned and bounded below."""
    if scale is not None:
        return parts[0], torch.full_like(parts[0], math.log(scale))
    return parts[0], least + F.softplus(parts[1] - least)


def _kept_within(mean: Tensor, scale: Tensor, integral: Callable[[Tensor], Tensor]) -> Tensor:
    """E[clip(X, -1, 1)] = -1 + ∫ P(X > u) du over [-1, 1], from the integral of the standard P(X < t)."""
    return -1 + scale * (integral((mean + 1) / scale) - integral((mean - 1) / scale))


def _rounded(x: Tensor) -> Tensor:
    """The nearest 8-bit value."""
    return ((x + 1) / BIN).round().clamp(0, 255) * BIN - 1


def _logit(n: Tensor) -> Tensor:
    """A standard logistic number from a standard normal one."""
    return torch.special.log_ndtr(n) - torch.special.log_ndtr(-n)


def _check_positive(**scale: float | None) -> None:
    for name, value in scale.items():
        if value is not None and not 0 < value < math.inf:
            raise PhinError(f"{name} = {value}: a scale must be positive and finite, such as 0.1")


LIKELIHOODS: dict[str, Callable[..., Likelihood]] = {
    "discretized_logistic": DiscretizedLogistic,
    "discretized_gaussian": DiscretizedGaussian,
    "bernoulli": Bernoulli,
    "gaussian": Gaussian,
    "laplace": Laplace,
}
"""Name -> factory."""
