"""Drawing: the choices of a sampler in one place, and a batch of samples from a model."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from phin.diffusion.denoiser import Denoise, Denoiser
from phin.diffusion.guidance import classifier, classifier_free, clip, dynamic_threshold
from phin.diffusion.level import SCALINGS, Level
from phin.diffusion.noise import Noise, seeded
from phin.diffusion.schedules import SCHEDULES
from phin.diffusion.solvers import SOLVERS, Watch, prior, sample
from phin.errors import PhinError
from phin.families.base import OneShot
from phin.families.latent import space
from phin.nets.classifier import NoisyClassifier
from phin.nets.precision import autocast
from phin.registry import build


@dataclass(frozen=True)
class SampleConfig:
    """How to sample."""

    solver: str = "dpmpp_2m"
    """Solver, with its arguments if need be: dpmpp_2m, ddim(eta=0.5), heun; a wrong name lists them all."""
    steps: int = 10
    """Noise levels: with most solvers the denoiser evaluations a picture, the last one included."""
    guidance: float = 1.5
    """null + guidance (cond - null): 0 is unconditional, 1 plain conditional; others cost two calls."""
    grid: str = "cosine(log_snr_max=8, log_snr_min=-9)"
    """Schedule that places the levels, equally spaced in its time."""
    threshold: str = "clip"
    """What keeps x̂ in the range of the data: clip, dynamic or none."""

    def __post_init__(self) -> None:
        if self.steps < 1:
            raise PhinError(f"steps = {self.steps}: at least 1 is needed")
        if not abs(self.guidance) <= 1000:  # beyond, pictures are nothing but what it does to rounding
            raise PhinError(f"guidance = {self.guidance}: give a number from -1000 to 1000, such as 1.5")
        build(self.solver, SOLVERS, "solver")
        self.levels()
        if self.threshold not in THRESHOLDS:
            raise PhinError(f"unknown threshold {self.threshold!r}; there are {', '.join(THRESHOLDS)}")

    def levels(self) -> Level:
        """The ladder of levels, from noise to data.

        Raises:
            PhinError: On more steps than a discrete chain has.
        """
        try:
            return build(self.grid, SCHEDULES, "schedule", SCALINGS).levels(self.steps)
        except PhinError:
            raise
        except ValueError as error:
            raise PhinError(f"{error}; take fewer, or another grid than {self.grid}") from None


THRESHOLDS = {"clip": clip, "dynamic": dynamic_threshold, "none": lambda denoise: denoise}


@dataclass(frozen=True)
class Guide:
    """A classifier that guides, beside or in place of classifier-free guidance."""

    classifier: NoisyClassifier
    scale: float = 1.0
    """x̂ + scale (sigma² / alpha) ∇ log p(label | z): 0 is nothing, 1 is Bayes' rule."""
    source: str = ""
    """Where the classifier is from."""

    @property
    def facts(self) -> dict[str, Any]:
        """What is to be noted of it."""
        return {"classifier": self.source, "classifier_scale": self.scale}


def guided(
    denoiser: Denoiser, cond: dict[str, Tensor], config: SampleConfig, guide: Guide | None = None
) -> Denoise:
    """The denoiser under a condition, guided and kept in range as the configuration says.

    Guidance that is in its weights is not added again.
    """
    denoise: Denoise = denoiser.given(**cond)
    if cond and denoiser.guidance is None:
        null = denoiser.given(**{name: torch.full_like(value, -1) for name, value in cond.items()})
        denoise = classifier_free(denoise, null, config.guidance)
    if guide is not None:
        denoise = classifier(denoise, guide.classifier.given(cond["label"]), guide.scale)
    return THRESHOLDS[config.threshold](denoise)


@torch.no_grad()
def draw(
    denoiser: Denoiser,
    config: SampleConfig,
    shape: tuple[int, ...],
    cond: dict[str, Tensor],
    seed: int,
    indices: Iterable[int],
    watch: Watch | None = None,
    guide: Guide | None = None,
    noise: Noise | None = None,
) -> Tensor:
    """Samples (B, *shape) in the range of the data; sample i has the noise of picture `indices[i]`.

    Where the model lives in latents, the walk is one of theirs, and ends with the decoder.

    Args:
        denoiser: The model, in evaluation mode.
        config: How to sample.
        shape: One sample, (C, *sides).
        cond: The condition, tensors of B rows; empty for an unconditional model.
        seed: Of the noise.
        indices: The pictures' numbers (B,).
        watch: Sees every state, of latents if these are what is diffused.
        guide: A classifier of noisy data that guides to the labels of the condition.
        noise: Draws all that is random, in place of the noise of those pictures.
    """
    indices, home = list(indices), space(denoiser)
    device = next(denoiser.parameters()).device
    levels = config.levels()
    solver = build(config.solver, SOLVERS, "solver")
    noise = noise or seeded(seed, indices)
    cond = {name: value.to(device) for name, value in cond.items()}
    start = prior(levels.at(0), torch.empty(len(indices), *home.shape(shape), device=device), noise)
    with autocast(device):
        drawn = sample(guided(denoiser, cond, config, guide), solver, levels, start, noise, watch)
    return home.decode(drawn)


@torch.no_grad()
def generate(
    net: OneShot, cond: dict[str, Tensor], seed: int, indices: Iterable[int], noise: Noise | None = None
) -> Tensor:
    """Samples (B, C, *sides) of a model that draws in one pass; arguments as of `draw`."""
    indices = list(indices)
    cond = {name: value.to(net.device) for name, value in cond.items()}
    noise = noise or seeded(seed, indices)
    with autocast(net.device):
        return net.generate(len(indices), noise, **cond).float()
