"""Measures an autoencoder for latent diffusion: what is left of test pictures that were encoded and decoded.

A perfect model of its latents would draw no better than it decodes. What it draws from its own prior says
nothing: its latents are to be near zero and smooth, and not to be normal.
"""

import math
from typing import Any

import torch
from torch import Tensor

from phin.data import Data
from phin.diffusion.noise import seeded
from phin.errors import PhinError
from phin.evaluation.pictures import Plan
from phin.evaluation.table import HEADING, percent, plus_minus
from phin.families.latent import KLAutoencoder
from phin.metrics.features import Features
from phin.metrics.figure import figure
from phin.metrics.frechet import frechet_estimate
from phin.metrics.jackknife import GROUPS, Estimate, jackknife
from phin.metrics.processes import process, whole
from phin.metrics.summary import BATCH, Summary, enough
from phin.models import Model
from phin.nets.precision import autocast
from phin.pictures import Picture, tile, to_bytes, to_integers

USUAL = 10_000
SHOWN = 10  # pictures


@torch.no_grad()
def evaluate(
    model: Model, data: Data, features: Features, plan: Plan
) -> tuple[dict[str, Any], dict[str, Picture]]:
    """The figures of an autoencoder, and pictures to show: those that were given above what is left of them.

    Several processes, if they have been joined, take a part each, and all of them know the result.

    Args:
        model: The autoencoder.
        data: What it learned.
        features: What looks at pictures.
        plan: On how many.

    Raises:
        PhinError: Pictures that the features do not take, or too few of them; some that are not finite.
    """
    net = model.net
    assert isinstance(net, KLAutoencoder)
    features.check(data.shape)
    count = data.count("test")
    n = plan.n or min(USUAL, count or USUAL)
    enough(n if count is None else min(n, count), "test pictures", features)
    x, cond, _ = data.split("test", n, plan.seed)
    label = cond.get("label") if features.class_names == data.class_names else None
    rank, processes = process()
    places = range(rank, n, processes)
    made, real, squares = Summary(), Summary(), list[Tensor]()
    first = torch.empty(0, *data.shape)
    for start in range(0, len(places), BATCH):
        rows = places[start : start + BATCH]
        own = slice(rows.start, rows.stop, processes)
        with autocast(net.device):
            drawn = net.reconstruct(x[own].to(net.device), seeded(plan.seed, rows)).float().cpu()
        if not bool(drawn.isfinite().all()):
            raise PhinError(
                f"what {model.path} decodes of test pictures is not finite; train it anew with a lower lr"
            )
        told = None if label is None else label[own]
        before, after = to_integers(x[own]), to_integers(drawn)
        real.add(rows, features(before), told)
        made.add(rows, features(after), told)
        squares.append((after.double() - before.double()).square().flatten(1).mean(1))
        first = torch.cat([first, drawn])[:SHOWN]
    made, real = made.gathered(), real.gathered()
    found: dict[str, Any] = {
        "frechet": figure(frechet_estimate(made.moments, real.moments), n, "test"),
        "rmse": figure(root_mean(whole(torch.cat(squares))), n, "test"),
    }
    if label is not None:
        found["label"] = made.rate.beside(real.rate)
    shown = torch.cat([x[rank::processes][:SHOWN], first])
    return (
        {"n": n, "reconstructed": found, "features": features.name, "dims": features.dims, "seed": plan.seed},
        {"samples": tile([*to_bytes(shown)], len(first))},
    )


def root_mean(squares: Tensor) -> Estimate:
    """The root of the mean of n squares, with the error of the `jackknife` over every tenth of them."""
    group = torch.arange(len(squares)) % GROUPS
    without = [math.sqrt(float(squares[group != i].mean())) for i in range(GROUPS)]
    return jackknife(math.sqrt(float(squares.mean())), without)


def rows(figures: dict[str, Any]) -> list[list[str]]:
    """The figures as a table for people; the first row is its heading."""
    found, n = figures["reconstructed"], f"{figures['n']:,}"
    lines = [
        ["", "reconstructed", *HEADING[2:3], "reconstructed / real", "n"],
        [f"reconstruction FID ({figures['features']})", plus_minus(found["frechet"]), "0", "", n],
        ["root mean squared error, levels of 255", plus_minus(found["rmse"]), "0", "", n],
    ]
    if label := found.get("label"):
        rates = [percent(label[f"{of}rate"], label[f"{of}error"]) for of in ("", "real_")]
        lines.append(["read as its label", *rates, percent(label["share"]), n])
    return lines


def summary(figures: dict[str, Any]) -> str:
    """What the figures are of, in words."""
    return (
        f"{figures['n']:,} pictures of the test split, encoded and decoded, against themselves; features: "
        f"{figures['features']}, {figures['dims']:,}\n"
        "A perfect model of its latents draws no better; what its prior draws is no picture, and not measured"
    )
