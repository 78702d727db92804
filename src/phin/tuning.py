"""The best sampler for so few calls of the network, found without training: its solver and its levels.

From one and the same noise the probability-flow ODE leads to one picture: that of a long ladder. A short one
ends elsewhere, and how far away depends on the solver and on where its levels lie. Both are searched for, so
as to end as near as possible. It takes a few pictures of the model's own; neither real ones, nor anything
that judges them.

References:
    Learning to Discretize Denoising Diffusion ODEs (Tong et al., 2025), arXiv:2405.15506, which places levels
        by this distance, too, but by gradients.
"""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import product
from typing import Any

import torch
from torch import Tensor

from phin import models
from phin.errors import PhinError
from phin.models import Model
from phin.training.checkpoint import read_weights, save_weights

CANDIDATES = (
    "ddim",
    "dpmpp_2m",
    "dpmpp_3m(starter=False)",
    "unipc_2",
    "unipc_3(starter=False)",
    "deis(starter=False)",
)
"""Deterministic solvers of one evaluation a step: the starts of the last ones would cost up to four more."""
EXACT = {"solver": "dpmpp_3m", "steps": 200}
"""The long ladder, on the model's own grid."""
FINALISTS = 2  # solvers whose levels are searched for
FIRST, LAST = 1.0, 0.25  # how far a level is moved at a time, in log-SNR: at first, and at the end
APART = 0.05  # least distance of neighbours

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Tuned:
    """A sampler of so many steps."""

    steps: int
    solver: str
    grid: str
    distance: float
    """Of its pictures from those that the ODE leads to: the root mean square over pixels, which are in
    [-1, 1]; the mean over pictures that had no part in the search."""
    before: float
    """The same of the model's own sampler, in as many steps."""


def tune(
    model: Model,
    steps: Sequence[int] = (4, 5, 6, 8, 10),
    n: int = 32,
    seed: int = 0,
    **choices: Any,
) -> list[Tuned]:
    """The best samplers of a model for so many steps.

    Args:
        model: A diffusion model.
        steps: Evaluations of the denoiser a picture; of each a sampler is sought.
        n: Pictures to search with; as many others say how good it is.
        seed: Of their noise.
        choices: As of `samples`: guidance and threshold; the rest is what is sought.

    Raises:
        PhinError: Another kind of model, steps that leave nothing to place, too few pictures; as `samples`.
    """
    if bad := [count for count in steps if not 2 <= count < EXACT["steps"]]:
        raise PhinError(f"steps = {bad[0]}: there is something to tune from 2 to {EXACT['steps'] - 1}")
    if n < 2:
        raise PhinError(f"n = {n}: at least 2 pictures are needed")
    if bad := [name for name in ("solver", "grid", "steps") if name in choices]:
        raise PhinError(f"{bad[0]} is what is sought: leave it out")
    models.denoiser(model)
    config = models.choose(model, choices)
    search, proof = (Paths(model, n, seed, which, choices) for which in range(2))
    found: list[Tuned] = []
    for count in steps:
        own = replace(config, steps=count).levels().log_snr
        distances = {solver: search.distance(solver, own) for solver in CANDIDATES}
        ladders: dict[str, Tensor] = {}
        for solver in sorted(CANDIDATES, key=distances.__getitem__)[:FINALISTS]:
            log.info("placing the levels of %s steps of %s", count, solver)
            ladders[solver] = placed(lambda ladder, solver=solver: search.distance(solver, ladder), own)
        solver = min(ladders, key=lambda solver: search.distance(solver, ladders[solver]))
        after, before = proof.distance(solver, ladders[solver]), proof.distance(config.solver, own)
        found.append(Tuned(count, solver, knots(ladders[solver]), after, before))
    return found


class Paths:
    """Where the ODE leads from some noises.

    Args:
        model: The model.
        n: How many.
        seed: Of the noises.
        which: There are any number of such sets under one seed.
        choices: As of `tune`.
    """

    def __init__(self, model: Model, n: int, seed: int, which: int, choices: dict[str, Any]) -> None:
        self.model, self.choices = model, choices
        self.asked: dict[str, Any] = {"n": n, "seed": 2 * seed + which}
        if model.facts.vocabulary or model.facts.alphabet:
            self.asked |= {"n": 1, "prompts": [str(k % 10) for k in range(n)]}  # one digit: what costs least
        self.ends = self.drawn(**EXACT)

    def drawn(self, **sampler: Any) -> list[Tensor]:
        """What a sampler makes of the noises."""
        return models.samples(self.model, **self.asked, **self.choices, **sampler)

    def distance(self, solver: str, log_snr: Tensor) -> float:
        """How far from the ends a solver ends: root mean square over pixels, mean over pictures."""
        drawn = self.drawn(solver=solver, grid=knots(log_snr), steps=len(log_snr))
        apart = [(x - end).square().mean().sqrt() for x, end in zip(drawn, self.ends, strict=True)]
        return float(torch.stack(apart).mean())


def placed(distance: Callable[[Tensor], float], log_snr: Tensor) -> Tensor:
    """The levels of a ladder, moved one at a time, by less and less, as long as the distance becomes smaller.

    Args:
        distance: Of a ladder (N,).
        log_snr: The one to begin with (N,), rising.

    Returns:
        A ladder (N,), rising, within the range of the first, of which the distance is no larger.
    """
    low, high = log_snr[0], log_snr[-1]
    best, least, by = log_snr, distance(log_snr), FIRST
    while by >= LAST:
        before = least
        for i, move in product(range(len(best)), (by, -by)):
            moved = best.clone()
            moved[i] += move
            ladder = bool(low <= moved[i] <= high and (moved.diff() >= APART).all())
            if ladder and (length := distance(moved)) < least:
                best, least = moved, length
        by = by if least < before else by / 2
    return best


def knots(log_snr: Tensor) -> str:
    """The grid that has these levels (N,), rising, on a ladder of N steps, to a thousandth."""
    return f"knots({', '.join(f'{level:.3f}' for level in log_snr.flip(0).tolist())})"


def record(model: Model, found: Sequence[Tuned]) -> None:
    """Writes samplers into the model's own file, in place of those of as many steps that it had.

    Raises:
        PhinError: The file cannot be written.
    """
    tensors, metadata = read_weights(model.path)
    new = {str(one.steps): {"solver": one.solver, "grid": one.grid} for one in found}
    save_weights(model.path, tensors, {**metadata, "tuned": {**metadata.get("tuned", {}), **new}})
