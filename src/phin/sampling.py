"""Drawing from a denoiser: the choices of a sampler in one place, and a batch of samples from them."""

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from phin.diffusion.denoiser import Denoise, Denoiser
from phin.diffusion.guidance import classifier_free, clip, dynamic_threshold
from phin.diffusion.level import SCALINGS, Level
from phin.diffusion.noise import seeded
from phin.diffusion.schedules import SCHEDULES
from phin.diffusion.solvers import SOLVERS, Watch, prior
from phin.diffusion.solvers import sample as walk
from phin.errors import PhinError
from phin.nets.precision import autocast
from phin.registry import build


@dataclass(frozen=True)
class SampleConfig:
    """How to sample."""

    solver: str = "dpmpp_2m"
    """Solver, with its arguments if need be: dpmpp_2m, ddim, ddim(eta=0.5), ddpm, ddpm_large, euler, heun."""
    steps: int = 10
    """Denoiser evaluations a picture, the last one included (heun makes two a step)."""
    guidance: float = 1.5
    """null + guidance (cond - null): 0 is unconditional, 1 plain conditional; others cost two calls."""
    grid: str = "cosine(log_snr_max=8, log_snr_min=-9)"
    """Schedule that places the levels, equally spaced in its time."""
    threshold: str = "clip"
    """What keeps x̂ in the range of the data: clip, dynamic or none."""

    def __post_init__(self) -> None:
        if self.steps < 1:
            raise PhinError(f"steps = {self.steps}: at least 1 is needed")
        if not abs(self.guidance) < float("inf"):
            raise PhinError(f"guidance = {self.guidance}: give a finite number, such as 1.5")
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


def guided(denoiser: Denoiser, cond: dict[str, Tensor], config: SampleConfig) -> Denoise:
    """The denoiser under a condition, guided and kept in range as the configuration says."""
    given = denoiser.given(**cond)
    if cond:
        null = denoiser.given(**{name: torch.full_like(value, -1) for name, value in cond.items()})
        return THRESHOLDS[config.threshold](classifier_free(given, null, config.guidance))
    return THRESHOLDS[config.threshold](given)


@torch.no_grad()
def draw(
    denoiser: Denoiser,
    config: SampleConfig,
    shape: tuple[int, ...],
    cond: dict[str, Tensor],
    seed: int,
    indices: Iterable[int],
    watch: Watch | None = None,
) -> Tensor:
    """Samples (B, *shape) in the range of the data; sample i has the noise of picture `indices[i]`.

    Args:
        denoiser: The model, in evaluation mode.
        config: How to sample.
        shape: One sample, (C, *sides).
        cond: The condition, tensors of B rows; empty for an unconditional model.
        seed: Of the noise.
        indices: The pictures' numbers (B,).
        watch: Sees every state.
    """
    indices = list(indices)
    device = next(denoiser.parameters()).device
    levels = config.levels()
    solver = build(config.solver, SOLVERS, "solver")
    noise = seeded(seed, indices)
    cond = {name: value.to(device) for name, value in cond.items()}
    start = prior(levels.at(0), torch.empty(len(indices), *shape, device=device), noise)
    with autocast(device):
        return walk(guided(denoiser, cond, config), solver, levels, start, noise, watch)
