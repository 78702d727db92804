"""Measures a classifier on the test split; one of noisy pictures, at several levels."""

from typing import Any

import torch

from phin.data import Data
from phin.evaluation.table import HEADING, percent
from phin.metrics import noisy
from phin.metrics.reading import Rate
from phin.nets.classifier import Classifier, NoisyClassifier


@torch.no_grad()
def clean(net: Classifier, data: Data) -> dict[str, Any]:
    """How many test pictures it reads right."""
    x, cond, _ = data.split("test")
    device = net.head.weight.device
    right = sum(
        int((net(part.to(device)).argmax(1).cpu() == labels).sum())
        for part, labels in zip(x.split(512), cond["label"].split(512), strict=True)
    )
    return {"test": {**Rate(right, len(x)).facts, "reference": {"split": "test", "n": len(x)}}}


def by_level(net: NoisyClassifier, data: Data) -> dict[str, Any]:
    """How many test pictures it reads right at each level of noise."""
    x, cond, _ = data.split("test")
    rates = noisy.rates(net, x, cond["label"])
    split = {"reference": {"split": "test", "n": len(x)}}
    levels = [{"log_snr": log_snr, **rate.facts, **split} for log_snr, rate in rates.items()]
    return {"test_by_log_snr": levels}


def rows(figures: dict[str, Any]) -> list[list[str]]:
    """The figures as a table for people; the first row is its heading."""
    found = [("test pictures read right", figures["test"])] if "test" in figures else []
    found += [
        (f"test pictures at log-SNR {level['log_snr']:g} read right", level)
        for level in figures.get("test_by_log_snr", ())
    ]
    lines = [[title, percent(one["rate"], one["error"]), "", "", f"{one['n']:,}"] for title, one in found]
    return [HEADING, *lines]
