"""How likely an autoencoder holds images to be: by its evidence lower bound, or by importance weights."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from phin.diffusion.noise import Noise, seeded
from phin.families.elbo import Elbo, importance_weighted
from phin.metrics.likelihood import Estimate, Options

Bound = Callable[[Tensor, Noise], Elbo]
"""(x, noise) -> the bound with one draw of the latents, the labels of x being given."""


class Method(Protocol):
    """A way to measure an autoencoder."""

    @property
    def facts(self) -> dict[str, Any]:
        """What it depends on, JSON-able."""
        ...

    def __call__(self, bound: Bound, x: Tensor, indices: Sequence[int]) -> Estimate:
        """Estimates for images x (n, ...) of these numbers."""
        ...


@dataclass(frozen=True)
class Evidence:
    """The evidence lower bound by its terms: `times` draws of the latents, 8 if None."""

    options: Options

    @property
    def facts(self) -> dict[str, Any]:
        """What it depends on."""
        return {"times": self.options.times or 8}

    def __call__(self, bound: Bound, x: Tensor, indices: Sequence[int]) -> Estimate:
        """What is reconstructed, and what each level costs, from z_1 up."""
        noise = seeded(self.options.seed, indices, "nll noise")
        draws = [bound(x, noise) for _ in range(self.facts["times"])]
        kl = torch.stack([draw.kl for draw in draws], 1)
        names = [f"KL of z_{t}" for t in range(1, kl.shape[2] + 1)] if kl.shape[2] > 1 else ["KL"]
        terms = {"reconstruction": torch.stack([draw.reconstruction for draw in draws], 1)}
        return _estimate(terms | dict(zip(names, kl.unbind(2), strict=True)), len(draws))


@dataclass(frozen=True)
class ImportanceWeighted:
    """Burda et al.'s bound of `particles` draws of the latents, `times` times, 1 if None.

    It is told as the evidence lower bound, at the same draws, and what their weights gain.
    """

    options: Options

    @property
    def facts(self) -> dict[str, Any]:
        """What it depends on."""
        return {"times": self.options.times or 1, "particles": self.options.particles}

    def __call__(self, bound: Bound, x: Tensor, indices: Sequence[int]) -> Estimate:
        """The bound of one draw, and the gain of many."""
        noise = seeded(self.options.seed, indices, "nll noise")
        times, particles = self.options.times or 1, self.options.particles
        draws = [bound(x, noise).log_weight.double() for _ in range(times * particles)]
        log_weight = torch.stack(draws, 1).view(len(x), times, particles)
        single = -log_weight.mean(2)
        gain = -importance_weighted(log_weight) - single
        return _estimate({"evidence bound": single, "importance weights": gain}, len(draws))


def _estimate(terms: dict[str, Tensor], calls: int) -> Estimate:
    """With as many passes of the network over each image."""
    found = {name: term.double().cpu() for name, term in terms.items()}
    n = len(next(iter(found.values())))
    return Estimate(found, torch.full((n,), calls), torch.ones(n, dtype=torch.bool))


BOUNDS: dict[str, Callable[[Options], Method]] = {"elbo": Evidence, "iwae": ImportanceWeighted}
"""Name -> factory."""
