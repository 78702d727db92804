"""Solvers: one step from a noisier level to a cleaner one, and the loop that drives them.

A solver is a frozen set of hyper-parameters with a method `step`: (z, level t) -> (z, level s). It keeps
nothing between steps; a multistep method hands its past on as an explicit `memory`. So solvers are
re-entrant, and every one works with any denoiser, ladder, scaling and guidance. A new one is a class and an
entry at the foot, where the tests find it and measure whether it has the order that it claims.

Notation: x̂ = denoise(z, t).x, ε̂ = (z - alpha_t x̂) / sigma_t, and c = 1 - SNR(t) / SNR(s), the share of
level t's noise variance that is not in level s.
"""

from collections.abc import Callable
from functools import partial

from .ancestral import DDIM, Ancestral, MultistepConsistency
from .base import Solver, Watch, evaluations, prior, remembers, sample, walk
from .exponential import DPMpp2S, DPMpp3S
from .langevin import AnnealedLangevin, Corrected, Corrector, Langevin, SNRLangevin
from .multistep import DEIS, DPMpp2M, DPMpp3M, UniPC
from .runge_kutta import Euler, Heun
from .sde import Churned, DPMpp2MSDE, EulerMaruyama, ReverseDiffusion

__all__ = [
    "DDIM",
    "DEIS",
    "SOLVERS",
    "Ancestral",
    "AnnealedLangevin",
    "Churned",
    "Corrected",
    "Corrector",
    "DPMpp2M",
    "DPMpp2MSDE",
    "DPMpp2S",
    "DPMpp3M",
    "DPMpp3S",
    "Euler",
    "EulerMaruyama",
    "Heun",
    "Langevin",
    "MultistepConsistency",
    "ReverseDiffusion",
    "SNRLangevin",
    "Solver",
    "UniPC",
    "Watch",
    "evaluations",
    "prior",
    "remembers",
    "sample",
    "walk",
]


def _pc(predictor: Solver = ReverseDiffusion(), snr: float = 0.16, steps: int = 1) -> Solver:
    return Corrected(predictor, SNRLangevin(snr, steps))


def _pc_fixed(predictor: Solver = ReverseDiffusion(), rate: float = 1.0, steps: int = 1) -> Solver:
    return Corrected(predictor, Langevin(rate, steps))


SOLVERS: dict[str, Callable[..., Solver]] = {
    "ddpm": Ancestral,
    "ddpm_large": lambda: Ancestral(frac=1.0),
    "ddim": DDIM,
    "ddim_hat": lambda: Ancestral(frac=1.0),  # sigma-hat of DDIM's table 1: eta = 1, but DDPM's larger noise
    "euler": Euler,
    "heun": Heun,
    "dpmpp_2s": DPMpp2S,
    "dpmpp_3s": DPMpp3S,
    "dpmpp_2m": DPMpp2M,
    "dpmpp_3m": DPMpp3M,
    "dpmpp_2m_sde": DPMpp2MSDE,
    "unipc_2": partial(UniPC, 2),
    "unipc_3": partial(UniPC, 3),
    "deis": DEIS,
    "euler_maruyama": EulerMaruyama,
    "reverse_diffusion": ReverseDiffusion,
    "churn": Churned,
    "pc": _pc,
    "pc_fixed": _pc_fixed,
    "annealed_langevin": AnnealedLangevin,
    "consistency": MultistepConsistency,
}
"""Name -> factory."""
