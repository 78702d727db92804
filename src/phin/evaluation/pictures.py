"""Measures a model that draws pictures, of any family: beside real pictures, in the features of a network.

The reference is the test split. What training pictures would be rated, as many as were drawn, stands beside
every figure: it is the floor of a distance, and of a share what can be had. Pictures are rounded to 8 bits
first, as files would be.
"""

import time
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Float64, Num, UInt8
from torch import Tensor

from phin import models
from phin.data import Data
from phin.errors import PhinError
from phin.evaluation.costs import costs
from phin.evaluation.drawing import Bar, Drawing, silent
from phin.evaluation.plan import enough
from phin.evaluation.table import HEADING, percent, plus_minus
from phin.metrics.features import Features, Inception, Reader, Seen
from phin.metrics.measures import MEASURES, figures, measured
from phin.metrics.memorisation import copying, nearest
from phin.metrics.processes import process, whole
from phin.metrics.summary import BATCH, Summary, summarised
from phin.models import Model, Watch
from phin.nets.classifier import Classifier
from phin.pictures import Picture, tile, to_integers
from phin.recipes.features import FEATURES, features_of
from phin.sampling import Guide

SHOWN = 100  # pictures in the grid
PAIRS = 10  # most similar ones that are shown
LOOKED_THROUGH = 60_000  # training pictures, at most, for near ones


@dataclass(frozen=True)
class Plan:
    """On how much a model is measured."""

    n: int | None = None
    """Pictures to draw: 10,000, or as many as there are to train on."""
    kept: int = 5_000
    """Of which the first ones are measured by what takes time with the square of their number: KID,
    precision, recall, density and coverage."""
    compared: int = 1_000
    """And the first of which the nearest training pictures are sought; 0 leaves that out."""
    seed: int = 0
    """Of the choice of real pictures, and of the sampler's noise."""

    def __post_init__(self) -> None:
        enough(self, "compared", n=20, kept=20, compared=20)


class Evaluation(NamedTuple):
    """What is found."""

    figures: dict[str, Any]
    """JSON-able."""
    shows: dict[str, Picture]
    """Pictures by name: `samples`; and, if it was sought, `nearest`: pairs of samples above the training
    pictures that are most like them, in pixels, then in features."""


def chosen(source: Features | str | Path | None, data: str) -> Features:
    """What measures pictures: as it is, by name, from a file; or that which a data set has.

    Args:
        source: The features; or a name in `FEATURES`, a file of Inception's weights (.pth), or a classifier
            that `load` finds.
        data: Name of the data set.

    Raises:
        PhinError: There is none, or it cannot be had.
    """
    if source is None:
        return features_of(data)
    if isinstance(source, Features):
        return source
    if (name := str(source)) in FEATURES:
        return FEATURES[name]()
    if (path := Path(source)).suffix == ".pth":
        return Inception(path)
    model = models.load(source)
    if not isinstance(model.net, Classifier):
        raise PhinError(
            f"{model.path} is no classifier of clean pictures; give one, such as mnist-classifier, or one of "
            f"{', '.join(FEATURES)}"
        )
    return Reader(model.net, f"reader {source}", model.facts.shape, model.facts.class_names)


class View(NamedTuple):
    """Pictures as points, where they are compared with training pictures."""

    train: Num[Tensor, "m dims"]
    """The training pictures."""
    test: Float64[Tensor, "n"]
    """How far the first test pictures are from the nearest of them."""
    unit: float
    """What distances are told in."""


class Reference:
    """Real pictures, which the same number of any model's are measured by.

    Args:
        data: What the models learned.
        features: What looks at pictures.
        plan: On how much.

    Raises:
        PhinError: Pictures that the features do not take, or too few of them.
    """

    def __init__(self, data: Data, features: Features, plan: Plan = Plan()) -> None:
        if len(data.shape) != 3:
            raise PhinError(f"{data.name} has no pictures to measure, but examples of {_size(data.shape)}")
        features.check(data.shape)
        self.data, self.features, self.plan = data, features, plan
        counts = {which: data.count(which) for which in ("train", "test")}
        most = counts["train"] or max(10_000, plan.n or 0)
        self.n = min(10_000, most) if plan.n is None else plan.n
        if self.n > most:
            raise PhinError(
                f"n = {self.n:,}: {data.name} has {most:,} training pictures, and the floor takes as many as "
                "are drawn; give at most so many"
            )
        m = self.n if counts["test"] is None else min(self.n, counts["test"])
        x, cond, _ = data.split("test", m, plan.seed)
        self.pictures = _integers(x)
        # Of how many samples the nearest training pictures are sought: their features are wanted, too.
        self.compared = min(plan.compared, self.n, plan.kept)
        self.test = _shared(features, self.pictures, plan.kept, cond.get("label"))
        self.test.check("test pictures", features)
        seen = max(self.n, LOOKED_THROUGH) if plan.compared else self.n
        x, cond, _ = data.split("train", min(most, seen), plan.seed)
        # Of what is to be drawn: those of the floor, so that chance treats both alike.
        self.label = cond.get("label")
        self.near = _integers(x)
        self.train, self.near_features = self._trained()
        self.train.check("training pictures", features)
        self.floor = measured(self.train, self.test)

    @cached_property
    def views(self) -> dict[str, View]:
        """In pixels, in which distances are told in levels of 255, and in features."""
        m, levels = min(self.compared, len(self.test.features)), self.near[0].numel() ** 0.5
        pixels, near = (pictures.flatten(1) for pictures in (self.pictures[:m], self.near))
        return {
            "pixels": View(near, nearest(pixels, near).distance, levels),
            "features": View(
                self.near_features, nearest(self.test.features[:m], self.near_features).distance, 1.0
            ),
        }

    def _trained(self) -> tuple[Summary, Float[Tensor, "m dims"]]:
        """The summary of the first training pictures, and the features of all."""
        rank, processes = process()
        summary, features, places = Summary(self.plan.kept), [], range(rank, len(self.near), processes)
        for start in range(0, len(places), BATCH):
            rows = places[start : start + BATCH]
            seen = self.features(self.near[rows.start : rows.stop : processes])
            features.append(seen.features.cpu())
            first = [place for place in rows if place < self.n]
            if first:
                summary.add(first, Seen(*(part[: len(first)] for part in seen)))
        return summary.gathered(), whole(torch.cat(features))


def evaluate(
    model: Model,
    reference: Reference,
    watch: Watch | None = None,
    guide: Guide | None = None,
    bar: Bar = silent,
    **choices: Any,
) -> Evaluation:
    """The figures of a model.

    Labels to draw are those of the training pictures of the floor: they come as often, and have nothing to do
    with the test pictures (of whose own labels, pictures would be nearer to these than real ones). Several
    processes, if they have been joined, draw a part each, and all of them know the result.

    Args:
        model: A model of pictures.
        reference: Pictures of its data.
        watch: Sees every state of every batch that is denoised.
        guide: As of `samples`.
        bar: Shows how far the drawing is.
        choices: As of `samples`: steps, solver, guidance, grid, threshold.

    Raises:
        PhinError: Another model's reference, pictures that are not finite or all alike; and as `samples`.
    """
    drawing = Drawing(model, reference.plan.seed, watch, guide, bar, choices)
    data, features = reference.data, reference.features
    if model.facts.shape != data.shape:
        raise PhinError(
            f"{model.path} draws {_size(model.facts.shape)}, and {data.name} has pictures of "
            f"{_size(data.shape)}: measure it beside data of its own size"
        )
    label = reference.label if model.facts.classes else None
    read = label is not None and features.class_names == model.facts.class_names
    begun = time.perf_counter()
    summary, first = _drawn(drawing, reference, label, read)
    seconds = drawing.seconds
    summary.check("pictures that it drew", features)
    found: dict[str, Any] = {
        "n": reference.n,
        "features": features.name,
        "dims": features.dims,
        "measures": figures(
            measured(summary, reference.test), reference.floor, summary, reference.test, "test"
        ),
    }
    if read:
        found["label"] = summary.rate.beside(reference.test.rate)
    side = min(10, len(first))
    shows = {"samples": tile(_arrays(first[: SHOWN // 10 * side]), side)}
    if reference.compared:
        found["memorisation"], shows["nearest"] = _memorisation(summary, first, reference)
    found |= {
        "pictures_per_second": reference.n / seconds,
        "seconds": time.perf_counter() - begun - seconds,
        **costs(model, data),
        "sampling": drawing.facts,
    }
    return Evaluation(found, shows)


def _drawn(
    drawing: Drawing, reference: Reference, label: Tensor | None, read: bool
) -> tuple[Summary, UInt8[Tensor, "first c h w"]]:
    """The summary of pictures of these labels, and the first of them."""
    summary, first = Summary(reference.plan.kept), list[Tensor]()
    for places, x in drawing.batches(reference.n, {} if label is None else {"label": label}):
        pictures = to_integers(x)
        wanted = label[torch.as_tensor(places)] if read and label is not None else None
        summary.add(places, reference.features(pictures), wanted)
        first.append(pictures[: sum(place < max(reference.compared, SHOWN) for place in places)])
    return summary.gathered(), whole(torch.cat(first))


def _integers(x: Float[Tensor, "n c h w"]) -> UInt8[Tensor, "n c h w"]:
    """In parts, for the sake of memory."""
    return torch.cat([to_integers(part) for part in x.split(4096)])


def _shared(features: Features, pictures: Tensor, kept: int, labels: Tensor | None) -> Summary:
    """The summary of pictures, of which every process looks at a part."""
    rank, processes = process()
    own = None if labels is None else labels[rank::processes]
    places = range(rank, len(pictures), processes)
    return summarised(features, pictures[rank::processes], kept, own, places).gathered()


def _memorisation(
    summary: Summary, first: UInt8[Tensor, "n c h w"], reference: Reference
) -> tuple[dict[str, Any], Picture]:
    """Whether samples are nearer to training pictures than test pictures are; and the nearest pairs."""
    n, samples = reference.compared, {"pixels": first, "features": summary.features}
    m = len(reference.views["pixels"].test)
    found: dict[str, Any] = {"n": n, "train": len(reference.near), "reference": {"split": "test", "n": m}}
    rows: list[Picture] = []
    for name, (train, test, unit) in reference.views.items():
        made = nearest(samples[name][:n].flatten(1), train)
        found[name] = {
            "nearer": copying(made.distance, test).facts,
            "median": float(made.distance.median()) / unit,
            "test_median": float(test.median()) / unit,
        }
        most = made.distance.argsort()[:PAIRS]
        rows += [*_arrays(first[most]), *_arrays(reference.near[made.index[most]])]
    return found, tile(rows, len(rows) // 4)


def _arrays(pictures: UInt8[Tensor, "n c h w"]) -> list[Picture]:
    last = pictures.movedim(1, -1).numpy()
    return [*(last[..., 0] if last.shape[-1] == 1 else last)]


def _size(shape: tuple[int, ...]) -> str:
    return " x ".join(map(str, shape))


def rows(figures: dict[str, Any]) -> list[list[str]]:
    """The figures as a table for people; the first row is its heading."""
    lines = [HEADING]
    if label := figures.get("label"):
        real = percent(label["real_rate"], label["real_error"])
        made = percent(label["rate"], label["error"])
        lines.append(["read as the label asked for", made, real, percent(label["share"]), f"{label['n']:,}"])
    for name, measure in MEASURES.items():
        found = figures["measures"][name]
        made, floor = (plus_minus(one) for one in (found, found["floor"]))
        ratio = "" if found["over_floor"] is None else f"{found['over_floor']:.3g}"
        lines.append([f"{measure.title} ({figures['features']})", made, floor, ratio, f"{found['n']:,}"])
    for name in ("pixels", "features") if "memorisation" in figures else ():
        found = figures["memorisation"][name]
        title = f"nearer to training data than test data, in {name}"
        lines.append([title, plus_minus(found["nearer"]), "0.5", "", f"{figures['memorisation']['n']:,}"])
    return lines


def summary(figures: dict[str, Any]) -> str:
    """What the figures depend on, and what the model cost, in words."""
    reference = figures["measures"]["frechet"]["reference"]
    lines = [
        f"{figures['n']:,} pictures against {reference['n']:,} of the {reference['split']} split; real: as "
        f"many training pictures; features: {figures['features']}, {figures['dims']:,}",
        "± is the standard error, by the jackknife over ten groups",
    ]
    trained = [
        *([f"{figures['training_minutes']:.3g} minutes"] if "training_minutes" in figures else []),
        *([f"{figures['training_flops']:.2g} operations"] if "training_flops" in figures else []),
    ]
    cost = [
        f"{figures['parameters']:,} parameters",
        *([f"{' and '.join(trained)} of training"] if trained else []),
        f"{figures['pictures_per_second']:,.3g} pictures a second",
        f"measured in {figures['seconds']:.3g} s",
    ]
    return "\n".join([*lines, ", ".join(cost)])
