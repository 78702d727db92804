"""The best sampler for so few calls of the network, found without training: its guidance, solver and levels.

Guidance says which pictures are drawn, and only real ones can tell which scale is best: where a reader knows
the data, that whose pictures are nearest to held-out ones, by the Frechet distance of their features.

What is left is to draw them in few steps. From one and the same noise the probability-flow ODE leads to one
picture: that of a long ladder. A short one ends elsewhere, and how far away depends on the solver and on
where its levels lie. Both are searched for, so as to end as near as possible. That takes a few pictures of
the model's own.

References:
    Learning to Discretize Denoising Diffusion ODEs (Tong et al., 2025), arXiv:2405.15506, which places levels
        by this distance, too, but by gradients.
"""

import logging
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import product
from typing import Any

import torch
from torch import Tensor

from phin import data as datasets
from phin import models
from phin.data.base import Data
from phin.data.numbers import LONGEST, Numbers
from phin.data.words import Words
from phin.diffusion.noise import stream
from phin.errors import PhinError
from phin.metrics.features import Features
from phin.metrics.frechet import frechet_estimate
from phin.metrics.summary import Summary, summarised
from phin.models import Model
from phin.pictures import to_integers
from phin.recipes import DiffusionRecipe, tuned
from phin.recipes.features import FEATURES, READING
from phin.recipes.tuned import Tuned as Tuned

UNIPC = ("unipc_2", "unipc_3(starter=False)")
DPMPP_3M = ("dpmpp_3m(starter=False)",)
DEIS = ("deis(starter=False)",)
"""What iPNDM is for levels that are equally far apart, with the weights that other levels need."""
FAMILIES = (UNIPC, DPMPP_3M, DEIS)
"""Deterministic solvers of one evaluation a step: their starts would cost up to four more. Of each family the
one that is best on the model's own levels is a finalist, whose levels are searched for."""
EXACT = {"solver": "dpmpp_3m", "steps": 200}
"""The long ladder, on the model's own grid."""
FIRST, LAST = 1.0, 0.25  # how far a level is moved at a time, in log-SNR: at first, and at the end
APART = 0.05  # least distance of neighbours
GUIDANCES = (1.0, 1.25, 1.5, 2.0, 3.0)
"""Those that are tried, beside the model's own."""
JUDGED = {"solver": "dpmpp_2m", "steps": 20}
"""How their pictures are drawn: near enough to where the ODE leads."""
CELLS = 1000
"""Pictures of each, or cells of pictures of numbers."""

log = logging.getLogger(__name__)


def tune(
    model: Model,
    steps: Sequence[int] = (4, 5, 6, 8, 10),
    n: int = 32,
    seed: int = 0,
    families: Sequence[Sequence[str]] = FAMILIES,
    **choices: Any,
) -> list[Tuned]:
    """The best samplers of a model for so many steps.

    Args:
        model: A diffusion model that draws from nothing.
        steps: Evaluations of the denoiser a picture; of each a sampler is sought.
        n: Pictures to search with; as many others say how good it is.
        seed: Of their noise.
        families: Solvers; of each family the levels of one are searched for.
        choices: As of `samples`: guidance, which is not sought then, and threshold.

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
    if models.degradation(model) is not None:
        raise PhinError(
            f"{model.path} begins from pictures, and tuning has none to give it: choose its steps, solver "
            "and levels by hand, or tune a model that draws from nothing, such as numbers"
        )
    model = replace(model, tuned=())  # what was found before is no part of the search
    config = models.choose(model, choices)
    replace(config, **EXACT)  # which refuses chains that are too short
    if "guidance" not in choices and (found := judged(model, seed, **choices)):
        config = replace(config, guidance=min(found, key=found.__getitem__))
    choices = {**choices, "guidance": config.guidance}
    search, proof = (Paths(model, n, seed, which, choices) for which in range(2))
    best: list[Tuned] = []
    for count in steps:
        own = replace(config, steps=count).levels().log_snr
        ladders: dict[str, Tensor] = {}
        for family in families:
            solver = min(family, key=lambda solver: search.distance(solver, own))
            log.info("placing the levels of %s steps of %s", count, solver)
            ladders[solver] = placed(lambda ladder, solver=solver: search.distance(solver, ladder), own)
        solver = min(ladders, key=lambda solver: search.distance(solver, ladders[solver]))
        after, before = proof.distance(solver, ladders[solver]), proof.distance(config.solver, own)
        sampling = replace(config, steps=count, solver=solver, grid=knots(ladders[solver]))
        best.append(Tuned(sampling, after, before))
    return best


def judged(model: Model, seed: int = 0, **choices: Any) -> dict[float, float]:
    """How far what a model draws is from held-out pictures, by its guidance.

    Args:
        model: A diffusion model.
        seed: Of its noise, and of what is asked for.
        choices: As of `samples`: threshold.

    Returns:
        Guidance -> Frechet distance, between features of `CELLS` pictures of the same labels or numbers.
        Nothing of a model that is told nothing or does not know what it is not to be told, or whose data have
        no reader here; the log says why.
    """
    facts, recipe = model.facts, model.recipe
    assert isinstance(recipe, DiffusionRecipe)
    prompted = bool(facts.vocabulary or facts.alphabet)
    reader = "digit-reader" if prompted else READING.get(recipe.data) if facts.classes else None
    if reader is None or not recipe.drop:
        return {}
    own = models.choose(model, choices).guidance
    try:
        features, data = FEATURES[reader](), datasets.load(recipe.data)
    except PhinError as error:
        log.info("no guidance is sought, and that of the model is taken, %g: %s", own, error)
        return {}
    asked, pictures = held_out(data, seed)
    real, found = seen(features, pictures).moments, dict[float, float]()
    for scale in sorted({*GUIDANCES, own}):
        drawn = models.samples(model, **asked, **choices, **JUDGED, seed=seed, guidance=scale)
        found[scale] = frechet_estimate(seen(features, drawn).moments, real).value
        log.info("guidance %g: Frechet distance %.3f (%s)", scale, found[scale], features.name)
    return found


def held_out(data: Data, seed: int) -> tuple[dict[str, Any], list[Tensor]]:
    """What to ask a model for, as of `samples`, and held-out pictures of the same.

    Numbers have five digits, so that all of their cells are full.
    """
    if isinstance(data, Numbers | Words):
        asked = stream(seed, "tuning").integers(10 ** (LONGEST - 1), 10**LONGEST, CELLS // LONGEST).tolist()
        prompts = [str(number) for number in asked]
        numbers = isinstance(data, Numbers)
        real = data.pictures(prompts, "valid", seed) if numbers else data.pictures(asked, "valid", seed)
        return {"prompts": prompts}, list(real)
    held = data.split("valid", CELLS, seed)
    return {"labels": held.cond["label"].tolist()}, list(held.x)


def seen(features: Features, pictures: Sequence[Tensor]) -> Summary:
    """What a reader makes of pictures (C, H, W) of one size, cell by cell where they are k cells wide."""
    x = torch.stack([*pictures])
    return summarised(features, to_integers(torch.cat(x.split(x.shape[-2], -1))))


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
            ladder = bool(low <= moved[i] <= high and (moved[max(i - 1, 0) : i + 2].diff() >= APART).all())
            if ladder and (length := distance(moved)) < least:
                best, least = moved, length
        by = by if least < before else by / 2
    return best


def knots(log_snr: Tensor) -> str:
    """The grid that has these levels (N,), rising, on a ladder of N steps, to a thousandth."""
    return f"knots({', '.join(f'{level:.3f}' for level in log_snr.flip(0).tolist())})"


def record(model: Model, found: Sequence[Tuned]) -> None:
    """Keeps samplers beside the model's weights, in place of those that were sought for the same.

    Raises:
        PhinError: The file of those that it has is damaged, or cannot be written.
    """
    tuned.write(model.tuned_file, model.net, found)
