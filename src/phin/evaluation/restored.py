"""Measures a model of image to image: whether it draws what was there, and keeps to what it was given.

It is given what is left of test pictures. Its pictures are rounded to 8 bits first.
"""

from typing import Any

import torch
from torch import Tensor

from phin.data import Data
from phin.data.base import from_integers
from phin.data.degraded import Degradation, Degraded
from phin.evaluation.drawing import Drawing
from phin.evaluation.pictures import Plan
from phin.evaluation.table import HEADING, percent, plus_minus
from phin.metrics.features import Features
from phin.metrics.figure import figure
from phin.metrics.jackknife import mean
from phin.metrics.reading import Rate
from phin.pictures import Picture, tile, to_bytes, to_integers

USUAL = 1000
SHOWN = 10  # pictures


def evaluate(
    drawing: Drawing, data: Data, degradation: Degradation, features: Features | None, plan: Plan
) -> tuple[dict[str, Any], dict[str, Picture]]:
    """The figures of a model, and pictures to show: what was given, above what was drawn, above the picture.

    Arguments are as of `modes.evaluate`, but for `data`, whole pictures; `degradation`, what was left of them
    in the training; and `features`, which read labels off pictures, or None.

    Raises:
        PhinError: Features of other pictures, more pictures than there are, or some that are not finite.
    """
    degraded = Degraded(data, degradation)
    n = plan.n or min(USUAL, data.count("test") or USUAL)
    real, cond, _ = degraded.split("test", n, plan.seed)
    label = cond.get("label")
    reader = features if label is not None and features and features.class_names == data.class_names else None
    if reader:
        reader.check(data.shape)
    told = {"image": cond["image"], **({"label": cond["label"]} if drawing.model.facts.classes else {})}
    x = from_integers(to_integers(drawing.together(n, told)))
    given, known = cond["image"][:, :-1], cond["image"][:, -1:] > 0
    found: dict[str, Any] = {
        name: {
            "off_given": figure(mean(_off(degradation.see(part), given, known)), n, "test"),
            "off_real": figure(mean(_off(part, real, torch.ones_like(known))), n, "test"),
        }
        for name, part in (("drawn", x), ("real", real), ("given", given))
    }
    if reader and label is not None:
        for name, part in (("drawn", x), ("real", real), ("given", given)):
            found[name]["label"] = _read(reader, part, label).facts
    figures = {
        "n": n,
        "reference": {"split": "test", "n": n},
        "restored": found,
        "degrade": str(degradation),
        **({"features": features.name} if features else {}),
        "pictures_per_second": n / drawing.seconds,
        "sampling": drawing.facts,
    }
    grey = torch.where(known, given, 0.0)  # what is hidden, lest it be taken for black
    shown = torch.cat([part[:SHOWN] for part in (grey, x, real)])
    return figures, {"samples": tile([*to_bytes(shown)], min(SHOWN, n))}


def _off(x: Tensor, y: Tensor, known: Tensor) -> Tensor:
    """Mean absolute difference of two pictures where it is known, in levels of 255; of those with any."""
    apart = 127.5 * (x - y).abs().mean(1, keepdim=True) * known
    counts = known.sum((1, 2, 3))
    return apart.sum((1, 2, 3))[counts > 0] / counts[counts > 0]


def _read(features: Features, pictures: Tensor, label: Tensor) -> Rate:
    parts = to_integers(pictures).split(512)
    return Rate.of(torch.cat([features(part).logits.argmax(1).cpu() for part in parts]) == label)


def rows(figures: dict[str, Any]) -> list[list[str]]:
    """The figures as a table for people; the first row is its heading."""
    found, n, lines = figures["restored"], f"{figures['n']:,}", [HEADING]
    made, real = found["drawn"], found["real"]
    if "label" in made:
        for title, one in (
            ("read as its label", made),
            ("what was given, read as its label", found["given"]),
        ):
            share = one["label"]["rate"] / real["label"]["rate"] if real["label"]["right"] else None
            rates = [percent(each["label"]["rate"], each["label"]["error"]) for each in (one, real)]
            lines.append([title, *rates, percent(share), n])
    for name, title in (
        ("off_given", "off from what was given, levels of 255"),
        ("off_real", "off from the picture itself, levels of 255"),
    ):
        lines.append([title, *(plus_minus(one[name]) for one in (made, real)), "", n])
    return lines
