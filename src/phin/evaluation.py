"""Measures a trained model: what a reader makes of its pictures, beside what it makes of real ones.

A generator of digits (of numbers, or of MNIST by label) is asked for random strings, and a classifier reads
its pictures and real evaluation pictures of the same strings. The Frechet distance of their cells guards
against accuracy that is bought with diversity. A classifier is measured on the test split; one of noisy
pictures, at several levels.
"""

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import accumulate
from typing import Any, NamedTuple

import torch
from torch import Tensor

from phin import data as datasets
from phin import models
from phin.data.numbers import SIDE, Numbers, held_out, random_strings
from phin.errors import PhinError
from phin.metrics import noisy, reading
from phin.models import Model, Watch
from phin.nets.classifier import Classifier, NoisyClassifier
from phin.sampling import Guide
from phin.training.checkpoint import read_weights, save_weights


@dataclass(frozen=True)
class Plan:
    """On how much a model is measured."""

    n: int = 1000
    """Random strings of one to five digits; of a model of single digits, as many labels."""
    n_unseen: int = 500
    """Further strings, none of which was ever trained on; 0 leaves them out."""
    n_frechet: int = 2000
    """Cells for the Frechet distance: those of the first pictures that have as many."""
    seed: int = 0
    """Of the strings, of the real pictures, and of the sampler's noise."""

    def __post_init__(self) -> None:
        for name, least in (("n", 10), ("n_unseen", 10), ("n_frechet", 50)):
            value = getattr(self, name)
            if value < least and (name, value) != ("n_unseen", 0):
                raise PhinError(f"{name} = {value} is too few to measure by: give at least {least}")

    def states(self, steps: int) -> int:
        """How many states of samples there are to see, in so many steps."""
        return (self.n + self.n_unseen) * steps


def evaluate(
    model: Model,
    reader: Model | None = None,
    plan: Plan = Plan(),
    watch: Watch | None = None,
    guide: Guide | None = None,
    **choices: Any,
) -> dict[str, Any]:
    """The figures of a model, JSON-able.

    Args:
        model: A classifier, or a diffusion model of numbers or of labelled digits.
        reader: What reads the pictures of a diffusion model; by default the one that comes with phin.
        plan: On how much.
        watch: Sees every state of every batch that is sampled.
        guide: As of `samples`.
        choices: As of `samples`: steps, solver, guidance, grid, threshold.

    Raises:
        PhinError: A model of neither kind, data that cannot be had; and as `samples`.
    """
    data = datasets.load(model.recipe.data)
    if isinstance(model.net, Classifier):
        return _classifier(model.net, data)
    if isinstance(model.net, NoisyClassifier):
        return _noisy_classifier(model.net, data)
    sampling = models.choose(models.drawing(model)[1], choices)
    reader = reader or models.load("mnist-classifier")
    read = reader.net
    if not isinstance(read, Classifier):
        raise PhinError(
            f"{reader.path} is no classifier of clean pictures; give one, such as mnist-classifier"
        )

    def ask(n: int, unseen: bool | None) -> tuple[Questions, list[Tensor], float]:
        questions = _questions(model, data, n, plan.seed, unseen)
        begun = time.perf_counter()
        drawn = models.samples(model, **questions.wanted, seed=plan.seed, watch=watch, guide=guide, **choices)
        return questions, drawn, time.perf_counter() - begun

    def judge(questions: Questions, drawn: Sequence[Tensor], n: int) -> dict[str, Any]:
        asked, _, real, train = questions
        return reading.evaluate(read, asked[:n], drawn[:n], real[:n], train[:n], held_out).to_dict()

    questions, drawn, seconds = ask(plan.n, None)
    whole = judge(questions, drawn, plan.n)
    cells = list(accumulate(map(len, questions.asked)))
    some = judge(questions, drawn, 1 + sum(count < plan.n_frechet for count in cells))
    facts = {"digits": whole["digits"], "strings": whole["strings"]}
    if isinstance(data, Numbers) and plan.n_unseen:
        unseen = judge(*ask(plan.n_unseen, True)[:2], plan.n_unseen)
        facts |= {"unseen_digits": unseen["digits"], "unseen_strings": unseen["strings"]}
    return facts | {
        "frechet": some["frechet"],
        "floor": some["floor"],
        "frechet_over_floor": some["frechet_over_floor"],
        "frechet_cells": some["cells"],
        "pictures_per_second": plan.n / seconds,
        "cells_per_second": cells[-1] / seconds,
        "sampling": {**asdict(sampling), "seed": plan.seed, **(guide.facts if guide else {})},
        "reader": reader.metadata["name"],
    }


def record(model: Model, figures: dict[str, Any]) -> None:
    """Writes figures into the model's own file, in place of those it had.

    Raises:
        PhinError: The file cannot be written.
    """
    tensors, metadata = read_weights(model.path)
    save_weights(model.path, tensors, {**metadata, "figures": figures})


class Questions(NamedTuple):
    """What a model is asked to draw, and real pictures of the same."""

    asked: list[str]
    wanted: dict[str, Any]
    """The strings, as arguments of `samples`."""
    real: Sequence[Tensor]
    """From the test split."""
    train: Sequence[Tensor]
    """From the training split."""


def _questions(model: Model, data: datasets.Data, n: int, seed: int, unseen: bool | None) -> Questions:
    if isinstance(data, Numbers):
        asked = random_strings(n, seed, unseen)
        real, train = (data.pictures(asked, which, seed) for which in ("test", "train"))
        return Questions(asked, {"prompts": asked}, real, train)
    if data.shape != (1, SIDE, SIDE) or data.class_names != tuple("0123456789"):
        raise PhinError(
            f"{model.path} draws {data.name}, which nothing here reads: give a model of numbers or of mnist"
        )
    (real, cond, _), train = data.split("test", n, seed), data.split("train", n, seed)
    labels = cond["label"].tolist()
    return Questions([str(label) for label in labels], {"labels": labels}, list(real), list(train.x))


@torch.no_grad()
def _classifier(net: Classifier, data: datasets.Data) -> dict[str, Any]:
    x, cond, _ = data.split("test")
    right = sum(
        int((net(part).argmax(1) == labels).sum())
        for part, labels in zip(x.split(512), cond["label"].split(512), strict=True)
    )
    return {"test": _counted(reading.Rate(right, len(x)))}


def _noisy_classifier(net: NoisyClassifier, data: datasets.Data) -> dict[str, Any]:
    x, cond, _ = data.split("test")
    rates = noisy.rates(net, x, cond["label"])
    return {"test_by_log_snr": [{"log_snr": log_snr, **_counted(rate)} for log_snr, rate in rates.items()]}


def _counted(rate: reading.Rate) -> dict[str, Any]:
    return {"right": rate.right, "n": rate.n, "rate": rate.value, "error": rate.error}


def rows(figures: dict[str, Any]) -> list[list[str]]:
    """The figures as a table for people; the first row is its heading."""
    titles = {
        "digits": "digits read right",
        "strings": "whole numbers read right",
        "unseen_digits": "digits of numbers never trained on",
        "unseen_strings": "whole numbers never trained on",
        "test": "test pictures read right",
    }
    lines = [["", "generated", "real", "generated / real", "n"]]
    for key, title in titles.items():
        if found := figures.get(key):
            real = _percent(found["real_rate"], found["real_error"]) if "real_rate" in found else ""
            lines.append(
                [
                    title,
                    _percent(found["rate"], found["error"]),
                    real,
                    _percent(found.get("share")),
                    f"{found['n']:,}",
                ]
            )
    for found in figures.get("test_by_log_snr", ()):
        title = f"test pictures at log-SNR {found['log_snr']:g} read right"
        lines.append([title, _percent(found["rate"], found["error"]), "", "", f"{found['n']:,}"])
    if "frechet" in figures:
        made, floor = (f"{d['value']:.3f} ± {d['error']:.3f}" for d in (figures["frechet"], figures["floor"]))
        ratio = figures["frechet_over_floor"]
        lines.append(
            [
                "Frechet distance of cells",
                made,
                floor,
                f"{ratio:.1f}" if ratio else "",
                f"{figures['frechet_cells']:,}",
            ]
        )
    return lines


def _percent(share: float | None, error: float | None = None) -> str:
    if share is None:
        return ""
    return f"{100 * share:.2f} %" + ("" if error is None else f" ± {100 * error:.2f}")
