"""Training of variational autoencoders: by the evidence lower bound."""

from collections.abc import Mapping
from functools import cached_property

import numpy as np
import torch
from torch import Tensor, nn

from phin.data.base import Data, some
from phin.diffusion.bound import to_bits
from phin.diffusion.decoder import integers
from phin.diffusion.noise import seeded, stream
from phin.families.autoencoder import Autoencoder
from phin.families.elbo import active, importance_weighted
from phin.pictures import tile, to_bytes
from phin.sampling import generate
from phin.training.loop import Losses, Task
from phin.training.measuring import Measuring


class Autoencoding(Task):
    """Raises the evidence lower bound, or a bound that is easier to raise at first.

    The loss is, in bits a dimension and with one draw of the latents,

        -log p(x | z) + b sum over levels and channels of max(free, KL),
        b = beta min(1, progress / kl_warmup).

    With K > 1 particles it is the importance-weighted bound, in which b weighs the latents' part of every
    weight.

    Args:
        model: The autoencoder to train.
        data: What it learns.
        beta: What a nat that the latents tell costs in the end: 1 is the bound.
        kl_warmup: The share of the budget in which that rises from 0, along a line.
        free: Nats that each channel of a level may tell of an example at no cost. Kingma et al. take the
            maximum after the mean over the batch; here, an example's loss depends on no other.
        particles: K.
        drop: The share of examples whose label is left out; 1 is a model without labels.
        batch: Examples a step.
        seed: Of batches, noise and dropping.
        examples: Held-out examples of the validation, at most.
        measure: What measures samples at each validation.

    References:
        beta-VAE (Higgins et al., 2017). Ladder Variational Autoencoders (Sønderby et al., 2016),
        arXiv:1602.02282, section 2.3 (warm-up).
        Improving Variational Inference with Inverse Autoregressive Flow (Kingma et al., 2016),
        arXiv:1606.04934, eq. 15 (free bits).
    """

    model: Autoencoder

    def __init__(
        self,
        model: Autoencoder,
        data: Data,
        beta: float = 1.0,
        kl_warmup: float = 0.0,
        free: float = 0.0,
        particles: int = 1,
        drop: float = 0.1,
        batch: int = 128,
        seed: int = 0,
        examples: int = 1000,
        measure: Measuring | None = None,
    ) -> None:
        super().__init__()
        self.model, self.data = model, data
        self.beta, self.kl_warmup, self.free, self.particles = beta, kl_warmup, free, particles
        self.drop, self.batch, self.seed = drop, batch, seed
        self.examples, self.measure = examples, measure

    @property
    def weight(self) -> float:
        """What a nat of the latents costs now."""
        return self.beta * (min(1.0, self.progress / self.kl_warmup) if self.kl_warmup else 1.0)

    def forward(self, step: int, rows: slice) -> Losses:
        """The loss of each example, in bits a dimension."""
        x, cond, total = self.data.train(self.seed, step, self.batch, rows)
        if 0 < self.drop < 1 and cond:
            dropped = torch.from_numpy(stream(self.seed, "drop", step).random(total) < self.drop)[rows]
            cond = {name: value.masked_fill(dropped, -1) for name, value in cond.items()}
        x, cond, k = x.to(self.device), self._given(cond), self.particles
        places = [step * self.batch + place for place in range(*rows.indices(total))]
        noise = seeded(self.seed, [place * k + i for place in places for i in range(k)], "noise")
        repeated = {name: value.repeat_interleave(k, 0) for name, value in cond.items()}
        elbo = self.model.elbo(x.repeat_interleave(k, 0), noise, **repeated)
        if k > 1:
            log_weight = -elbo.reconstruction - self.weight * elbo.path.ratio
            nats = -importance_weighted(log_weight.view(-1, k))
        else:
            kl = elbo.path.kl
            cost = [level.clamp(min=self.free) for level in kl] if self.free else kl
            nats = elbo.reconstruction + self.weight * torch.cat(cost, 1).sum(1)
        return Losses(to_bits(nats, x[0].numel()))

    def _given(self, cond: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The condition, unless that is always left out."""
        return {} if self.drop == 1 else {name: value.to(self.device) for name, value in cond.items()}

    def validate(self, model: nn.Module) -> dict[str, float]:
        """The bound of held-out examples in bits a dimension, by its terms; and measures of samples, if any.

        The bound is the model's own, whatever is free in training. `active` is the share of latents that tell
        anything; a posterior that has collapsed has few.
        """
        assert isinstance(model, Autoencoder)
        x, cond, _ = some(self.data, "valid", self.examples)
        x, cond = x.to(self.device), self._given(cond)
        draws = []
        for rows in torch.arange(len(x)).split(250):
            noise = seeded(0, rows.tolist(), "validation")
            part = {name: value[rows] for name, value in cond.items()}
            draws.append([model.elbo(x[rows], noise, **part) for _ in range(2)])
        pairs = [elbo for pair in draws for elbo in pair]
        reconstruction = torch.cat([elbo.reconstruction for elbo in pairs]).double().mean()
        kl = torch.cat([elbo.kl for elbo in pairs]).double().mean(0)
        means = [
            [torch.cat(parts) for parts in zip(*(elbo.path.means for elbo in half), strict=True)]
            for half in zip(*draws, strict=True)
        ]
        units = torch.cat([active(*level) for level in zip(*means, strict=True)])
        dims = x[0].numel()
        found = {"loss": to_bits(float(reconstruction + kl.sum()), dims)}
        if model.likelihood.eight_bit:
            found["baseline"] = self._baseline
        found["reconstruction"] = to_bits(float(reconstruction), dims)
        found["kl"] = to_bits(float(kl.sum()), dims)
        if len(kl) > 1:
            found |= {f"kl/{t}": to_bits(float(nats), dims) for t, nats in enumerate(kl, 1)}
        found["active"] = units.double().mean().item()
        if self.measure is not None:
            found |= self.measure(lambda cond, places: generate(model, cond, 0, places))
        return found

    @cached_property
    def _baseline(self) -> float:
        """Bits a dimension of held-out images under how often each pixel has each value in training data."""
        seen, held = (
            integers(some(self.data, which, 8 * self.examples).x).flatten(1) for which in ("train", "valid")
        )
        pixel = torch.arange(seen.shape[1])
        count = torch.zeros(seen.shape[1], 256, dtype=torch.float64)
        count.index_put_((pixel.expand_as(seen), seen), torch.ones((), dtype=torch.float64), accumulate=True)
        share = (count + 1 / 256) / (len(seen) + 1)  # a value never seen is not impossible
        return -share[pixel, held].log2().mean().item()

    def picture(self, model: nn.Module) -> np.ndarray:
        """Two rows of samples, one of each class; below, held-out pictures above their reconstructions."""
        assert isinstance(model, Autoencoder)
        classes = 0 if self.drop == 1 else self.data.classes
        columns = classes if 0 < classes <= 20 else 10
        wanted = {"label": torch.arange(2 * columns) % columns} if classes else {}
        drawn = model.generate(2 * columns, seeded(0, range(2 * columns)), **self._given(wanted))
        x, cond, _ = some(self.data, "valid", columns)
        seen = model.reconstruct(x.to(self.device), seeded(0, range(len(x))), **self._given(cond))
        return tile([*to_bytes(drawn), *to_bytes(x), *to_bytes(seen)], columns)
