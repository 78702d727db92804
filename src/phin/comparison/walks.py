"""Walks from one sample to another, along a great circle of the noise that they are made of."""

import torch
from jaxtyping import Float
from torch import Tensor

from phin import models
from phin.diffusion.editing import slerp
from phin.diffusion.noise import Noise, seeded
from phin.models import Model
from phin.sampling import draw, generate


def between(seed: int, weights: Float[Tensor, "n"]) -> Noise:
    """Noise of n samples on the way from sample 0 to sample 1 of a seed: whatever is drawn is `slerp`'s.

    Every family's randomness comes from such noise alone, be it the latents of each level, or what a
    stochastic solver adds at each step; so one walk is the same thing for all.
    """
    ends = seeded(seed, (0, 1), "walk")

    def noise(like: Tensor) -> Tensor:
        a, b = ends(torch.empty(2, *like.shape[1:])).split(1)
        return slerp(a, b, weights)[:, 0].to(like)

    return noise


def walk(model: Model, label: int | None, n: int = 9, seed: int = 0) -> Float[Tensor, "n c h w"]:
    """n samples from one to another, both of a label, or of none.

    Args:
        model: A model of any family that draws pictures.
        label: What all of them are to show, of a model of labelled data.
        n: How many, both ends included.
        seed: The same seed leads from the same noise to the same noise, whatever the model.
    """
    cond = {} if label is None else {"label": torch.full((n,), label)}
    noise, config = between(seed, torch.linspace(0, 1, n)), models.configured(model, {})
    if config is None:
        assert isinstance(model.net, models.OneShot)
        return generate(model.net, cond, seed, range(n), noise).cpu()
    denoiser, _ = models.drawing(model)
    return draw(denoiser, config, model.facts.shape, cond, seed, range(n), noise=noise).cpu()
