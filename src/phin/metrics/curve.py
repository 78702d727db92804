"""A bound by its levels: what each step of a chain costs, or each stretch of log-SNR."""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor

from phin.data.base import Batch
from phin.diffusion.denoiser import Denoiser
from phin.metrics.jackknife import NORMAL, Estimate
from phin.metrics.likelihood import Bounding, Draws, measure


@dataclass(frozen=True)
class Part:
    """Some neighbouring steps of a chain, or a stretch of log-SNR."""

    first: float
    """Step, or log-SNR, of its clean end."""
    last: float
    """Of its noisy end; a single step is both."""
    rate: Estimate
    """Bits a dimension for each of its steps, or for each nat of log-SNR: the mean, and its error."""
    draws: int
    """Estimates that fell into it."""


@torch.no_grad()
def curve(
    denoiser: Denoiser,
    data: Batch,
    method: Bounding,
    points: int = 60,
    batch: int = 64,
    watch: Callable[[int], None] = lambda images: None,
) -> list[Part]:
    """The diffusion term of a bound, level by level; with DDPM's chain it begins at step 2.

    It is measured anew, at times that are spread evenly over the parts instead of over time. In discrete time
    each step is a part of its own if there are no more than `points`; else neighbours share one, evenly on a
    logarithmic scale, since the first steps cost most, and differ most. In continuous time parts are equally
    wide in log-SNR. There are fewer where the images, times their times, are too few to tell errors.

    Args:
        denoiser: As for `measure`.
        data: As for `measure`.
        method: A bound.
        points: How many parts there are, at most.
        batch: Images at once.
        watch: Told how many images have been measured since it was last told.

    Raises:
        ValueError: As `measure`.
    """
    points = max(1, min(points, len(data.x) * method.times // 8))
    ends = _steps(len(method.steps), points) if method.steps else _log_snrs(method, points)
    edges = ends / len(method.steps) if method.steps else method.schedule.inverse(ends)
    edges[0], edges[-1] = 0.0, 1.0
    draws = measure(denoiser, data, replace(method, edges=edges), batch, watch).draws
    assert draws is not None
    if method.steps:
        draws = draws._replace(times=((draws.times * len(method.steps)).floor() + 0.5) / len(method.steps))
    parts: list[Part] = []
    for i, (rate, count) in enumerate(_means(draws, edges)):
        share = float((edges[i + 1] - edges[i]) / (ends[i + 1] - ends[i]).abs())
        first, last = float(ends[i]), float(ends[i + 1])
        if method.steps:
            first, last = method.steps[int(first)], method.steps[int(last) - 1]
        parts.append(Part(first, last, Estimate(rate.value * share, rate.error * share, NORMAL), count))
    return parts


def _steps(n: int, points: int) -> Tensor:
    """Edges of parts of n steps, 0 to n: each step by itself, or on a logarithmic scale."""
    if n <= points:
        return torch.arange(n + 1, dtype=torch.float64)
    return torch.from_numpy(np.unique(np.geomspace(1, n + 1, points + 1).round()) - 1)


def _log_snrs(method: Bounding, points: int) -> Tensor:
    """Edges of equal parts of the log-SNRs, from clean to noisy."""
    first, last = method.schedule.log_snr(torch.tensor([0.0, 1.0], dtype=torch.float64)).tolist()
    return torch.linspace(first, last, points + 1, dtype=torch.float64)


def _means(draws: Draws, edges: Tensor) -> list[tuple[Estimate, int]]:
    """Mean of the estimates between neighbouring edges, its standard error, and their number.

    The estimates of one image are not independent of each other: the error is that of a mean over images,
    which have more or fewer estimates each.
    """
    found: list[tuple[Estimate, int]] = []
    for low, high in pairwise(edges):
        inside = (draws.times >= low) & (draws.times < high)
        count, images = int(inside.sum()), int(inside.any(1).sum())
        mean = draws.bits[inside].mean()
        off = torch.where(inside, draws.bits - mean, 0.0).sum(1)
        error = math.nan
        if images > 1:
            error = float((off.square().sum() * images / (images - 1)).sqrt()) / count
        found.append((Estimate(float(mean), error, NORMAL), count))
    return found
