"""What is measured: samples of a model, which all processes draw together."""

from collections.abc import Callable, Mapping
from dataclasses import asdict
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from phin import models
from phin.errors import PhinError
from phin.metrics.processes import process, whole
from phin.models import Model, Watch
from phin.sampling import Guide


def drawn(
    model: Model,
    n: int,
    cond: Mapping[str, Tensor],
    at_once: int,
    seed: int,
    watch: Watch | None,
    guide: Guide | None,
    told: Callable[[int], None],
    choices: Mapping[str, Any],
) -> Float[Tensor, "n c *sides"]:
    """Samples 0 to n - 1, known to all processes, each of which draws every so many.

    Args:
        model: Any that samples.
        n: How many.
        cond: The condition of each, n rows; none is an unconditional model.
        at_once: How many are drawn at once.
        seed: Of the sampler's noise.
        watch: Sees every state of every batch that is denoised.
        guide: As of `samples`.
        told: Told how many more samples have been drawn.
        choices: As of `samples`.

    Raises:
        PhinError: As `samples`; and samples that are not finite.
    """
    draw = models.drawer(model, seed, watch, guide, choices)
    rank, processes = process()
    places, parts = range(rank, n, processes), list[Tensor]()
    for part in (places[start : start + at_once] for start in range(0, len(places), at_once)):
        own = {name: value[torch.as_tensor(part)] for name, value in cond.items()}
        parts.append(draw(model.facts.shape, own, part).cpu())
        told(len(part))
    samples = whole(torch.cat(parts))
    if not bool(samples.isfinite().all()):
        bad = int((~samples.isfinite()).flatten(1).any(1).nonzero()[0])
        raise PhinError(
            f"sample {bad} that {model.path} drew has values that are not finite; draw with other choices, "
            "such as more steps or less guidance, or train it anew with a lower lr"
        )
    return samples


def sampling(model: Model, choices: dict[str, Any]) -> dict[str, Any]:
    """How a diffusion model is sampled; nothing of other families."""
    if isinstance(model.net, models.OneShot):
        return {}
    return asdict(models.choose(model, choices))
