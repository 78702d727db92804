"""Measures a model that draws pictures, of any family: beside real pictures, in the features of a network.

The reference is the test split, or what training could see. What real pictures of the other would be rated,
as many as were drawn or all there are, stands beside every figure: it is the floor of a distance, and of a
share what can be had. Pictures are rounded to 8 bits first, as files would be.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from hashlib import sha256
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
from jaxtyping import Float, Float64, Int64, Num, UInt8
from torch import Tensor

from phin.data import Data
from phin.data.base import Which
from phin.errors import PhinError
from phin.evaluation import seen
from phin.evaluation.drawing import Bar, Drawing, silent
from phin.evaluation.plan import enough
from phin.evaluation.table import HEADING, percent, plus_minus
from phin.metrics.features import Features, Seen
from phin.metrics.figure import figure
from phin.metrics.measures import MEASURES, SHARE, figures, measured
from phin.metrics.memorisation import copying, nearest
from phin.metrics.processes import process, whole
from phin.metrics.summary import BATCH, Summary
from phin.metrics.summary import enough as enough_pictures
from phin.models import Model, Watch
from phin.pictures import Picture, tile, to_integers
from phin.recipes.features import features_of, named
from phin.sampling import Guide

SHOWN = 100  # pictures in the grid
PAIRS = 10  # most similar ones that are shown
TRAINED: dict[str, tuple[Which, ...]] = {"test": ("train",), "train": ("train", "valid")}
"""What training pictures are, by the reference: other than it, or all that training could see."""
READ = 4_096  # pictures that are read at once
HELD = 60_000  # pictures in memory at once, and training pictures that near ones are sought among


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
    reference: Literal["test", "train"] = "test"
    """What pictures are measured by: the test split, or all that training could see, as of published FIDs,
    which is the training and the validation split."""

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
    """What measures pictures: as it is, as of `named`; or that which a data set has.

    Args:
        source: The features, or where they are.
        data: Name of the data set.

    Raises:
        PhinError: There is none, or it cannot be had.
    """
    if source is None:
        return features_of(data)
    if isinstance(source, Features):
        return source
    return named(str(source))


class View(NamedTuple):
    """Pictures as points, where they are compared with training pictures."""

    train: Num[Tensor, "m dims"]
    """The training pictures."""
    test: Float64[Tensor, "n"]
    """How far the first test pictures are from the nearest of them."""
    unit: float
    """What distances are told in."""


def sizes(data: Data, features: Features, plan: Plan) -> tuple[int, int, int]:
    """How many pictures are drawn, and how many test and training pictures they are measured beside.

    It is known before any picture is looked at.

    Raises:
        PhinError: Pictures that the features do not take, or too few of them.
    """
    if len(data.shape) != 3:
        raise PhinError(f"{data.name} has no pictures to measure, but examples of {_size(data.shape)}")
    features.check(data.shape)
    trained = TRAINED[plan.reference]
    n = _most(data, trained, 10_000) if plan.n is None else plan.n
    found = _most(data, ["test"], n), _most(data, trained, n)
    for what, count in zip(("test", "training"), found, strict=True):
        enough_pictures(count, f"{what} pictures", features)
    return n, *found


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
        begun = time.perf_counter()
        self.data, self.features, self.plan = data, features, plan
        self.n, tests, trainings = sizes(data, features, plan)
        trained = TRAINED[plan.reference]
        # Of how many samples the nearest training pictures are sought: their features are wanted, too.
        self.compared = min(plan.compared, self.n, plan.kept)
        test = _looked(data, ["test"], tests, tests, features, plan)
        self.pictures, self.test, self.digest = test.pictures, test.summary, test.digest
        self.test.check("test pictures", features)
        near = _most(data, trained, max(self.n, HELD)) if plan.compared else trainings
        train = _looked(data, trained, near, trainings, features, plan)
        self.near, self.near_features, self.train = train.pictures, train.features, train.summary
        self.train.check("training pictures", features)
        sides = (self.test, test.label), (self.train, train.label)
        (self.real, _), (self.others, told) = sides if plan.reference == "test" else sides[::-1]
        # Of what is to be drawn: those of the floor, so that chance treats both alike.
        self.label = None if told is None else told[torch.arange(self.n) % self.others.n]
        self.floor = measured(self.others, self.real)
        self.seconds = time.perf_counter() - begun
        """What it took to look at real pictures, and to measure the floor."""

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


def evaluate(
    model: Model,
    reference: Reference,
    watch: Watch | None = None,
    guide: Guide | None = None,
    bar: Bar = silent,
    **choices: Any,
) -> Evaluation:
    """The figures of a model.

    Labels to draw are those of the pictures of the floor, from the first again where these are fewer: they
    come as often, and have nothing to do with the reference (of whose own labels, pictures would be nearer to
    it than real ones). Several
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
    data, features, split = reference.data, reference.features, reference.plan.reference
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
    summary.check(f"pictures that {model.path} drew", features)
    found: dict[str, Any] = {
        "n": reference.n,
        "features": features.name,
        "dims": features.dims,
        "measures": figures(summary, reference.others, reference.real, reference.floor, split),
    }
    if read:
        found["label"] = summary.rate.beside(reference.real.rate, split)
    side = min(10, len(first))
    shows = {"samples": tile(_arrays(first[: SHOWN // 10 * side]), side)}
    if reference.compared:
        found["memorisation"], shows["nearest"] = _memorisation(summary, first, reference)
    found |= {
        "pictures_per_second": reference.n / seconds,
        "seconds": time.perf_counter() - begun - seconds,
        "reference_seconds": reference.seconds,
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
        count = sum(place < max(reference.compared, SHOWN) for place in places)
        first.append(pictures[:count].clone())  # a view would hold the whole batch
    return summary.gathered(), whole(torch.cat(first))


def _most(data: Data, splits: Sequence[Which], n: int) -> int:
    """n, or as many pictures as there are in these splits together."""
    counts = [data.count(which) for which in splits]
    known = [count for count in counts if count is not None]
    return min(n, sum(known)) if len(known) == len(counts) else n


class Looked(NamedTuple):
    """What is known of real pictures that have been looked at."""

    pictures: UInt8[Tensor, "first c h w"]
    """The first `HELD` of them."""
    features: Float[Tensor, "first dims"]
    """Of these."""
    label: Int64[Tensor, "n"] | None
    """Of all, if there are labels."""
    summary: Summary
    """Of as many as were to be summed up."""
    digest: str
    """SHA-256 of all of them."""


def _looked(
    data: Data, splits: Sequence[Which], n: int, summed: int, features: Features, plan: Plan
) -> Looked:
    """Looks at n pictures, `HELD` at a time, which are then forgotten but for the first; sums up some."""
    first: tuple[Tensor, Tensor] | None = None
    labels, summary, found = list[Tensor](), Summary(plan.kept), sha256()
    starts = range(0, max(n - process()[1], 0) + 1, HELD)  # so that each process has some of the last ones
    for start, stop in pairwise([*starts, n]):
        pictures, label = _some(data, splits, n, plan.seed, range(start, stop))
        found.update(pictures.contiguous().numpy().data)
        known = _features(features, pictures, label, start, summed, summary)
        first = first or (pictures[:HELD], known[:HELD])
        labels += [] if label is None else [label]
    assert first is not None
    return Looked(*first, torch.cat(labels) if labels else None, summary.gathered(), found.hexdigest())


def _some(
    data: Data, splits: Sequence[Which], n: int, seed: int, rows: range
) -> tuple[UInt8[Tensor, "rows c h w"], Int64[Tensor, "rows"] | None]:
    """Some of n pictures, and their labels if any: of the first split all it has, and then of the next."""
    parts, labels, begin = list[Tensor](), list[Tensor](), 0
    for which in splits:
        count = _most(data, [which], n - begin)
        own = range(count)[max(rows.start - begin, 0) : max(rows.stop - begin, 0)]
        for start in own[::READ]:
            x, cond, _ = data.split(which, count, seed, slice(start, min(start + READ, own.stop)))
            parts.append(to_integers(x))
            labels += [cond["label"]] if "label" in cond else []
        begin += count
    return torch.cat(parts), torch.cat(labels) if labels else None


def _features(
    features: Features,
    pictures: UInt8[Tensor, "m c h w"],
    label: Tensor | None,
    begin: int,
    summed: int,
    summary: Summary,
) -> Float[Tensor, "m dims"]:
    """The features of pictures, of which each process looks at a part; adds some to the summary.

    Args:
        features: What looks at them.
        pictures: The pictures.
        label: Of each, if there are labels.
        begin: The number of the first of them among all.
        summed: Those before this number are summed up.
        summary: Takes them in.
    """
    rank, processes = process()
    known, every = seen.read(features, pictures), list[Seen]()
    places = range(rank, len(pictures), processes)
    for start in range(0, len(places), BATCH):
        rows = places[start : start + BATCH]
        own = slice(rows.start, rows.stop, processes)
        if known is None:
            found = Seen(*(part.cpu() for part in features(pictures[own])))
        else:
            found = Seen(*(part[own] for part in known))
        every.append(found)
        if wanted := sum(begin + place < summed for place in rows):
            labels = None if label is None else label[own][:wanted]
            numbers = range(begin + rows.start, begin + rows.stop, processes)[:wanted]
            summary.add(numbers, Seen(*(part[:wanted] for part in found)), labels)
    if known is None:
        known = Seen(*(whole(torch.cat(parts)) for parts in zip(*every, strict=True)))
        seen.write(features, pictures, known)
    return known.features


def _memorisation(
    summary: Summary, first: UInt8[Tensor, "n c h w"], reference: Reference
) -> tuple[dict[str, Any], Picture]:
    """Whether samples are nearer to training pictures than test pictures are; and the nearest pairs."""
    n, samples = reference.compared, {"pixels": first, "features": summary.features}
    m = len(reference.views["pixels"].test)
    found: dict[str, Any] = {"n": n, "train": len(reference.near)}
    rows: list[Picture] = []
    for name, (train, test, unit) in reference.views.items():
        made = nearest(samples[name][:n].flatten(1), train)
        found[name] = {
            "nearer": figure(copying(made.distance, test), n, "test", m, SHARE),
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
        if (k := found["floor"]["n"]) != found["n"]:
            floor += f" (n = {k:,})"
        ratio = "" if found["over_floor"] is None else plus_minus(found["over_floor"])
        lines.append([f"{measure.title} ({figures['features']})", made, floor, ratio, f"{found['n']:,}"])
    for name in ("pixels", "features") if "memorisation" in figures else ():
        found = figures["memorisation"][name]
        title = f"nearer to training data than test data, in {name}"
        lines.append([title, plus_minus(found["nearer"]), "0.5", "", f"{figures['memorisation']['n']:,}"])
    return lines


def summary(figures: dict[str, Any]) -> str:
    """What the figures depend on, in words."""
    frechet = figures["measures"]["frechet"]
    floor, reference = frechet["floor"]["n"], frechet["reference"]
    of, other = {
        "test": ("of the test split", "training"),
        "train": ("that training could see", "test"),
    }[reference["split"]]
    return (
        f"{figures['n']:,} pictures against {reference['n']:,} {of}; real: {floor:,} {other} pictures; "
        f"features: {figures['features']}, {figures['dims']:,}\n"
        "± is the standard error, by the jackknife over ten groups"
    )
