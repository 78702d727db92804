"""Which latents of an autoencoder tell anything: of a level whose posterior has collapsed, none do."""

import math
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

from phin.data.base import Batch
from phin.diffusion.noise import seeded
from phin.families.autoencoder import Autoencoder
from phin.families.elbo import active

LOOKED_AT = 1_000  # images, at most
ROWS = 250  # at once
SURE = 4.0  # standard deviations: of a thousand dead units, one in thirty times seems alive


@torch.no_grad()
def activity(net: Autoencoder, data: Batch) -> dict[str, Any]:
    """How many units of each level, from z_1 up, are active (`families.elbo.active`), JSON-able.

    Beside a level that was drawn before, that is a matter of a covariance of two draws, which of n images is
    off by their variance over sqrt(n): it has to be more than chance, or some dead units would seem alive.

    Args:
        net: An autoencoder, in evaluation mode.
        data: Images and what they are conditioned on, of which the first `LOOKED_AT` are looked at.
    """
    device, n = net.device, min(LOOKED_AT, len(data.x))
    halves: tuple[list[tuple[Tensor, ...]], ...] = ([], [])
    for rows in torch.arange(n).split(ROWS):
        noise = seeded(0, rows.tolist(), "activity")
        cond = {name: value[rows].to(device) for name, value in data.cond.items()}
        for half in halves:
            half.append(net(data.x[rows].to(device), noise, **cond)[1].means)
    means = [[torch.cat(parts) for parts in zip(*half, strict=True)] for half in halves]
    told = [active(*level) & _beyond_chance(*level) for level in zip(*means, strict=True)]
    return {"n": n, "levels": [{"active": int(units.sum()), "units": len(units)} for units in told]}


def _beyond_chance(means: Float[Tensor, "n units"], again: Float[Tensor, "n units"]) -> Bool[Tensor, "units"]:
    """Of which units the correlation of two draws is beyond `SURE` times 1 / sqrt(n), which is chance's."""
    off, other = means - means.mean(0), again - again.mean(0)
    return F.cosine_similarity(off, other, dim=0) > SURE / math.sqrt(len(means))


def in_words(found: dict[str, Any]) -> str:
    """How many units of each level are active, and which levels have collapsed."""
    levels = [
        f"z_{t} {level['active']:,} of {level['units']:,}" for t, level in enumerate(found["levels"], 1)
    ]
    gone = collapsed(found)
    return f"active units, by {found['n']:,} images: {', '.join(levels)}{gone and f'; {gone}'}"


def collapsed(found: dict[str, Any]) -> str:
    """Which levels have no active unit, in words; nothing if all have."""
    gone = [f"z_{t}" for t, level in enumerate(found["levels"], 1) if not level["active"]]
    if not gone:
        return ""
    return f"{' and '.join(gone)} {'have' if len(gone) > 1 else 'has'} collapsed, telling nothing of an image"
