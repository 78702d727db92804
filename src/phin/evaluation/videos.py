"""Measures a model of moving digits: whether every frame is read right, and how steadily the digit moves.

Each frame is moved to where MNIST has its digits before it is read. Real videos of the test split stand
beside the model's. Frames are rounded to 8 bits first.
"""

import time
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from phin.data.moving import Moving
from phin.evaluation import drawing
from phin.evaluation.pictures import Plan
from phin.evaluation.table import HEADING, percent, plus_minus
from phin.evaluation.words import INK
from phin.metrics.features import Features
from phin.metrics.jackknife import mean
from phin.metrics.moving import centred, velocity
from phin.metrics.reading import Rate
from phin.models import Model, Watch
from phin.pictures import Picture, still, tile, to_integers
from phin.sampling import Guide

USUAL = 1000
AT_ONCE = 16
SHOWN = 20  # videos


def evaluate(
    model: Model,
    data: Moving,
    features: Features,
    plan: Plan,
    watch: Watch | None = None,
    guide: Guide | None = None,
    drawn: Callable[[int], None] = lambda videos: None,
    **choices: Any,
) -> tuple[dict[str, Any], dict[str, Picture]]:
    """The figures of a model, and pictures to show.

    A video is read right if every frame is read as the label asked for; of a model that is told no labels,
    as the first frame. Arguments are as of `modes.evaluate`, and `features`, which read digits.

    Raises:
        PhinError: Features of other pictures; and as `samples`.
    """
    channels, _, height, width = data.shape
    features.check((channels, height, width))
    n, begun = plan.n or USUAL, time.perf_counter()
    real, cond, _ = data.split("test", n, plan.seed)
    told = {"label": cond["label"]} if model.facts.classes else {}
    x = drawing.drawn(model, n, told, AT_ONCE, plan.seed, watch, guide, drawn, choices)
    seconds = time.perf_counter() - begun
    found = {name: judge(features, part, told.get("label")) for name, part in (("drawn", x), ("real", real))}
    figures = {
        "n": n,
        "videos": found,
        "told": bool(told),
        "features": features.name,
        "videos_per_second": n / seconds,
        "sampling": {**drawing.sampling(model, choices), "seed": plan.seed},
    }
    return figures, {"samples": tile([still(video) for video in x[:SHOWN]], 2)}


def judge(
    features: Features, videos: Float[Tensor, "n 1 frames h w"], label: Int64[Tensor, " n"] | None
) -> dict[str, Any]:
    """What is found in some videos; JSON-able."""
    frames = to_integers(videos)[:, 0]
    digits = torch.cat(
        [features(part[:, None]).logits.argmax(1).cpu() for part in centred(frames).split(512)]
    )
    ink = frames.sum((2, 3), dtype=torch.float64) / 255
    digits = torch.where(ink < INK, -1, digits.view(frames.shape[:2]))
    right = (digits == (digits[:, 0] if label is None else label)[:, None]) & (digits >= 0)
    speed, unsteady = velocity(frames)
    return {
        "frames": _counted(right.flatten()),
        "whole": _counted(right.all(1)),
        "speed": asdict(mean(speed.norm(dim=1))),
        "unsteadiness": asdict(mean(unsteady)),
    }


def _counted(right: Bool[Tensor, " m"]) -> dict[str, Any]:
    rate = Rate(int(right.sum()), len(right))
    return {"right": rate.right, "n": rate.n, "rate": rate.value, "error": rate.error}


def rows(figures: dict[str, Any]) -> list[list[str]]:
    """The figures as a table for people; the first row is its heading."""
    made, real = figures["videos"]["drawn"], figures["videos"]["real"]
    asked = "the label asked for" if figures["told"] else "the first one"
    lines = [HEADING]
    for name, title in (("frames", "frames"), ("whole", "videos whose every frame is")):
        rates = [percent(one[name]["rate"], one[name]["error"]) for one in (made, real)]
        share = percent(made[name]["rate"] / real[name]["rate"] if real[name]["right"] else None)
        lines.append([f"{title} read as {asked}", *rates, share, f"{made[name]['n']:,}"])
    for name, title in (
        ("speed", "speed, pixels a frame"),
        ("unsteadiness", "deviation from a constant velocity, pixels a frame"),
    ):
        lines.append([title, *(plus_minus(one[name]) for one in (made, real)), "", f"{figures['n']:,}"])
    return lines
