"""Measures a model of moving digits: whether every frame is read right, and how steadily the digit moves.

Each frame is moved to where MNIST has its digits before it is read. Real videos of the test split stand
beside the model's. Frames are rounded to 8 bits first.
"""

from typing import Any

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from phin.data.moving import Moving
from phin.errors import PhinError
from phin.evaluation.drawing import Drawing
from phin.evaluation.pictures import Plan
from phin.evaluation.table import HEADING, percent, plus_minus
from phin.evaluation.words import INK
from phin.metrics.features import Features
from phin.metrics.figure import figure
from phin.metrics.jackknife import mean
from phin.metrics.moving import centred, velocity
from phin.metrics.reading import Rate
from phin.pictures import Picture, still, tile, to_integers

USUAL = 1000
AT_ONCE = 16
SHOWN = 20  # videos


def evaluate(
    drawing: Drawing, data: Moving, features: Features, plan: Plan
) -> tuple[dict[str, Any], dict[str, Picture]]:
    """The figures of a model, and pictures to show.

    A video is read right if every frame is read as the label asked for; of a model that is told no labels,
    as the first frame. Arguments are as of `modes.evaluate`, and `features`, which read digits.

    Raises:
        PhinError: Features of other pictures, or of other classes; videos that are not finite.
    """
    channels, _, height, width = data.shape
    features.check((channels, height, width))
    if features.class_names != data.class_names:
        raise PhinError(
            f"{features.name} does not read the classes of {data.name}, {', '.join(data.class_names)}: "
            "measure by --features digit-reader, or by a classifier of these"
        )
    n = plan.n or USUAL
    real, cond, _ = data.split("test", n, plan.seed)
    told = {"label": cond["label"]} if drawing.model.facts.classes else {}
    x = drawing.together(n, told, AT_ONCE)
    found = {name: judge(features, part, told.get("label")) for name, part in (("drawn", x), ("real", real))}
    figures = {
        "n": n,
        "videos": found,
        "reference": {"split": "test", "n": n},
        "told": bool(told),
        "features": features.name,
        "videos_per_second": n / drawing.seconds,
        "sampling": drawing.facts,
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
        "frames": Rate.of(right.flatten()).facts,
        "whole": Rate.of(right.all(1)).facts,
        "speed": figure(mean(speed.norm(dim=1)), len(videos), "test"),
        "unsteadiness": figure(mean(unsteady), len(videos), "test"),
    }


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
