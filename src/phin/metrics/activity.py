"""Which latents of an autoencoder tell anything: of a level whose posterior has collapsed, none do."""

from typing import Any

import torch
from torch import Tensor

from phin.data.base import Batch
from phin.diffusion.noise import seeded
from phin.families.autoencoder import Autoencoder
from phin.families.elbo import active

LOOKED_AT = 1_000  # images, at most
ROWS = 250  # at once
ENOUGH = 100  # images to say that a level has collapsed: of fewer, a live unit of a hierarchy may seem dead


@torch.no_grad()
def activity(net: Autoencoder, data: Batch) -> dict[str, Any]:
    """How many units of each level, from z_1 up, are active (`families.elbo.active`), JSON-able.

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
    told = [active(*level) for level in zip(*means, strict=True)]
    return {"n": n, "levels": [{"active": int(units.sum()), "units": len(units)} for units in told]}


def in_words(found: dict[str, Any]) -> str:
    """How many units of each level are active, and which levels have collapsed."""
    levels = [
        f"z_{t} {level['active']:,} of {level['units']:,}" for t, level in enumerate(found["levels"], 1)
    ]
    gone = collapsed(found)
    return f"active units, by {found['n']:,} images: {', '.join(levels)}{gone and f'; {gone}'}"


def collapsed(found: dict[str, Any]) -> str:
    """Which levels have no active unit, in words; nothing if all have, or too few images can tell."""
    gone = [f"z_{t}" for t, level in enumerate(found["levels"], 1) if not level["active"]]
    if not gone or found["n"] < ENOUGH:
        return ""
    return f"{' and '.join(gone)} {'have' if len(gone) > 1 else 'has'} collapsed, telling nothing of an image"
