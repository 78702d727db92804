"""Measures a model that draws pictures, of any family: beside real pictures, in the features of a network.

The reference is the test split. What training pictures would be rated, as many as were drawn, stands beside
every figure: it is the floor of a distance, and of a share what can be had. Pictures are rounded to 8 bits
first, as files would be.
"""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from phin import models
from phin.data import Data
from phin.errors import PhinError
from phin.evaluation.costs import costs
from phin.evaluation.drawing import sampling
from phin.evaluation.plan import enough
from phin.evaluation.table import HEADING, percent, plus_minus
from phin.metrics.features import Features, Inception, Reader, Seen
from phin.metrics.jackknife import Estimate
from phin.metrics.measures import MEASURES, figures, measured
from phin.metrics.memorisation import copying, nearest
from phin.metrics.processes import gathered, process, whole
from phin.metrics.summary import BATCH, Summary, summarised
from phin.models import Model, Watch
from phin.nets.classifier import Classifier
from phin.pictures import Picture, tile, to_integers
from phin.recipes.features import FEATURES, features_of
from phin.sampling import Guide

SHOWN = 100  # pictures in the grid
PAIRS = 10  # most similar ones that are shown
AT_ONCE = 64  # pictures drawn
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


def chosen(source: str | Path | None, data: str) -> Features:
    """What measures pictures: by name, from a file; or that which a data set has.

    Args:
        source: A name in `FEATURES`, a file of Inception's weights (.pth), or a classifier that `load` finds.
        data: Name of the data set.

    Raises:
        PhinError: There is none, or it cannot be had.
    """
    if source is None:
        return features_of(data)
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
    drawn: Callable[[int], None] = lambda pictures: None,
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
        drawn: Told how many more pictures have been drawn.
        choices: As of `samples`: steps, solver, guidance, grid, threshold.

    Raises:
        PhinError: Another model's reference, pictures that are not finite or all alike; and as `samples`.
    """
    data, features, plan = reference.data, reference.features, reference.plan
    if model.facts.shape != data.shape:
        raise PhinError(
            f"{model.path} draws {_size(model.facts.shape)}, and {data.name} has pictures of "
            f"{_size(data.shape)}: measure it beside data of its own size"
        )
    label = reference.label if model.facts.classes else None
    read = label is not None and features.class_names == model.facts.class_names
    sampled = sampling(model, choices)
    begun = time.perf_counter()
    summary, first, seconds = _drawn(model, reference, label, read, watch, guide, drawn, choices)
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
        found["label"] = _read(summary, reference.test)
    side = min(10, len(first))
    shows = {"samples": tile(_arrays(first[: SHOWN // 10 * side]), side)}
    if plan.compared:
        found["memorisation"], shows["nearest"] = _memorisation(summary, first, reference)
    found |= {
        "pictures_per_second": reference.n / seconds,
        "seconds": time.perf_counter() - begun - seconds,
        **costs(model, data),
        "sampling": {**sampled, "seed": plan.seed, **(guide.facts if guide else {})},
    }
    return Evaluation(found, shows)


def _drawn(
    model: Model,
    reference: Reference,
    label: Tensor | None,
    read: bool,
    watch: Watch | None,
    guide: Guide | None,
    told: Callable[[int], None],
    choices: dict[str, Any],
) -> tuple[Summary, UInt8[Tensor, "first c h w"], float]:
    """The pictures' summary, the first of them, and the seconds that it took to draw them all."""
    plan, (rank, processes) = reference.plan, process()
    draw = models.drawer(model, plan.seed, watch, guide, choices)
    summary, first, kept, seconds = Summary(plan.kept), [], max(plan.compared, SHOWN), 0.0
    for places in _batches(range(rank, reference.n, processes)):
        wanted = None if label is None else label[torch.as_tensor(places)]
        begun = time.perf_counter()
        x = draw(model.facts.shape, {} if wanted is None else {"label": wanted}, places).cpu()
        seconds += time.perf_counter() - begun
        if not bool(x.isfinite().all()):
            bad = places[int((~x.isfinite()).flatten(1).any(1).nonzero()[0])]
            raise PhinError(
                f"picture {bad} that {model.path} drew has values that are not finite; draw with other "
                "choices, such as more steps or less guidance, or train it anew with a lower lr"
            )
        pictures = to_integers(x)
        summary.add(places, reference.features(pictures), wanted if read else None)
        first.append(pictures[: len([place for place in places if place < kept])])
        told(len(places))
    return (
        summary.gathered(),
        whole(torch.cat(first)),
        max(float(part) for part in gathered(torch.tensor([seconds]))),
    )


def _batches(places: range) -> Iterator[range]:
    return (places[start : start + AT_ONCE] for start in range(0, len(places), AT_ONCE))


def _integers(x: Float[Tensor, "n c h w"]) -> UInt8[Tensor, "n c h w"]:
    """In parts, for the sake of memory."""
    return torch.cat([to_integers(part) for part in x.split(4096)])


def _shared(features: Features, pictures: Tensor, kept: int, labels: Tensor | None) -> Summary:
    """The summary of pictures, of which every process looks at a part."""
    rank, processes = process()
    own = None if labels is None else labels[rank::processes]
    places = range(rank, len(pictures), processes)
    return summarised(features, pictures[rank::processes], kept, own, places).gathered()


def _read(summary: Summary, real: Summary) -> dict[str, Any]:
    made, seen = summary.rate, real.rate
    return {
        "right": made.right,
        "n": made.n,
        "rate": made.value,
        "error": made.error,
        "real_rate": seen.value,
        "real_error": seen.error,
        "share": made.value / seen.value if seen.right else None,
    }


def _memorisation(
    summary: Summary, first: UInt8[Tensor, "n c h w"], reference: Reference
) -> tuple[dict[str, Any], Picture]:
    """Whether samples are nearer to training pictures than test pictures are; and the nearest pairs."""
    n = min(reference.plan.compared, len(first), len(summary.features))
    m = min(n, len(reference.test.features))
    levels = first[0].numel() ** 0.5
    views = {
        "pixels": (first, reference.pictures, reference.near, levels),
        "features": (summary.features, reference.test.features, reference.near_features, 1.0),
    }
    found: dict[str, Any] = {"n": n, "train": len(reference.near), "reference": {"split": "test", "n": m}}
    rows: list[Picture] = []
    for name, (samples, test, train, unit) in views.items():
        made, real = (nearest(x.flatten(1), train.flatten(1)) for x in (samples[:n], test[:m]))
        found[name] = {
            "nearer": _estimate(copying(made.distance, real.distance)),
            "median": float(made.distance.median()) / unit,
            "test_median": float(real.distance.median()) / unit,
        }
        most = made.distance.argsort()[:PAIRS]
        rows += [*_arrays(first[:n][most]), *_arrays(reference.near[made.index[most]])]
    return found, tile(rows, len(rows) // 4)


def _arrays(pictures: UInt8[Tensor, "n c h w"]) -> list[Picture]:
    last = pictures.movedim(1, -1).numpy()
    return [*(last[..., 0] if last.shape[-1] == 1 else last)]


def _estimate(estimate: Estimate) -> dict[str, Any]:
    return {"value": estimate.value, "error": estimate.error, "interval": list(estimate.interval)}


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
    cost = [f"{figures['parameters']:,} parameters"]
    if "training_minutes" in figures:
        minutes, flops = figures["training_minutes"], figures["training_flops"]
        cost += [f"{minutes:.3g} minutes and {flops:.2g} operations of training"]
    cost += [
        f"{figures['pictures_per_second']:,.3g} pictures a second",
        f"measured in {figures['seconds']:.3g} s",
    ]
    return "\n".join([*lines, ", ".join(cost)])
