"""What came of a comparison, for the eye: a table for the terminal, and a page that shows everything."""

import math
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch

from phin import models, report
from phin.comparison.walks import walk
from phin.data import DATA, Data
from phin.evaluation.table import percent
from phin.machine import in_words
from phin.metrics.activity import collapsed
from phin.metrics.measures import MEASURES
from phin.models import Model
from phin.pictures import Picture, tile, to_bytes
from phin.training.log import curve, records

if TYPE_CHECKING:
    from matplotlib.axes import Axes

ROWS = 6  # of samples
COLOURS = 5  # after which lines are dashed
TOLD_APART = 2.0  # standard errors of a difference
HALF = (5.0, 3.6)  # size of a plot beside another, inches
SPAN = 4  # of losses from which on they are drawn on a logarithmic axis
NONE = "\N{EN DASH}"


@dataclass(frozen=True)
class Shown:
    """Pictures of a model."""

    samples: np.ndarray
    walks: np.ndarray


def shown(model: Model, data: Data, seed: int) -> Shown:
    """Samples of each label in turn, and walks between samples; without labels if the model knows none."""
    classes = model.facts.classes
    columns = _columns(data)
    wanted = [k % classes for k in range(ROWS * columns)] if classes else None
    drawn = models.samples(model, labels=wanted, n=None if wanted else ROWS * columns, seed=seed)
    labels = sorted({classes // 4, 3 * classes // 4}) if classes else [None]
    steps = [x for label in labels for x in walk(model, label, 9, seed)]
    return Shown(tile([*map(to_bytes, drawn)], columns), tile([*map(to_bytes, steps)], 9))


def real(data: Data) -> Picture:
    """Test pictures, of each label in turn."""
    columns = _columns(data)
    count = data.count("test")
    x, cond, _ = data.split("test", None if count is None else min(count, 100 * columns))
    chosen = torch.arange(ROWS * columns) % len(x)
    if data.classes == columns and len(labels := cond["label"].unique()) == columns:
        each = [(cond["label"] == label).nonzero()[:, 0] for label in labels]
        chosen = torch.stack([rows[k % len(rows)] for k in range(ROWS) for rows in each])
    return tile([*to_bytes(x[chosen])], columns)


def _columns(data: Data) -> int:
    return data.classes if 0 < data.classes <= 20 else 10


# The figures


@dataclass(frozen=True)
class Cell:
    """A figure."""

    value: float
    text: str
    under: str = ""
    """What else is said of it."""
    error: float = 0.0
    spread: str = ""
    """The error in words."""
    interval: str = ""
    """Of 95 %, in words."""
    of: str = ""
    """Of how many it is, and by what it was measured."""


@dataclass(frozen=True)
class Line:
    """One figure of every model, and of real pictures."""

    title: str
    note: str
    cells: tuple[Cell | None, ...]
    real: Cell | None = None
    better: Literal["low", "high"] | None = None
    same: "Line | None" = None
    """The line whose best are its own, for it is the same but for a factor, whose error all cells share."""

    @property
    def best(self) -> set[int]:
        """Which is the best, and which are not told apart from it; none if that is true of all."""
        if self.same is not None:
            return self.same.best
        there = {i: cell for i, cell in enumerate(self.cells) if cell is not None}
        if self.better is None or len(there) < 2:
            return set()
        first = (min if self.better == "low" else max)(there.values(), key=lambda cell: cell.value)
        found = {
            i
            for i, cell in there.items()
            if abs(cell.value - first.value) <= TOLD_APART * math.hypot(cell.error, first.error)
        }
        return found if len(found) < len(there) else set()


BETTER: dict[str, Literal["low", "high"]] = {
    "frechet": "low",
    "kernel": "low",
    "inception": "high",
    "precision": "high",
    "recall": "high",
    "coverage": "high",
}


def groups(found: dict[str, Any]) -> dict[str, list[Line]]:
    """All figures, by what they are of."""
    made, eyes = found["models"], found["features"]["name"]
    quality = [model["quality"] for model in made]
    pictures: list[Line] = []
    for name, measure in MEASURES.items():
        each = [one["measures"][name] if "measures" in one else None for one in quality]
        if (some := next(filter(None, each), None)) is None:
            continue
        floor, n = some["floor"], some["n"]
        title = f"{measure.title} ({eyes})"
        cells = tuple(map(_estimate, each))
        fewer = f", real ones {floor['n']:,}" if floor.get("n", n) != n else ""
        line = Line(title, f"n = {n:,}{fewer}", cells, _estimate(floor), BETTER.get(name))
        pictures.append(line)
        if name == "frechet":
            ratios = tuple(_estimate(one and one["over_floor"]) for one in each)
            note, real = "which is real pictures' own", Cell(1, "1")
            pictures.append(Line("times the floor", note, ratios, real, "low", line))
    if any("label" in one for one in quality):
        known = next(one["label"] for one in quality if "label" in one)
        cells = tuple(_share(one["label"]) if "label" in one else None for one in quality)
        theirs = {key[5:]: value for key, value in known.items() if key.startswith("real_")}
        pictures.append(
            Line("read as the label asked for", f"n = {known['n']:,}", cells, _share(theirs), "high")
        )
    sought = [one.get("memorisation") for one in quality]
    for view in ("pixels", "features") if any(sought) else ():
        cells = tuple(_estimate(one and one[view]["nearer"]) for one in sought)
        n = next(one["n"] for one in sought if one)
        pictures.append(
            Line(
                f"nearer to training data, in {view}",
                f"1/2 is right, 1 is copying; n = {n:,}",
                cells,
                Cell(0.5, "0.5"),
            )
        )
    likely = [_bits(model["likelihood"]) for model in made]
    n = max((model["likelihood"].get("images", 0) for model in made), default=0)
    note = f"upper bounds, on {n:,} test images" if n else ""
    training = [model["training"] for model in made]
    latent = any("autoencoder_minutes" in one for one in training)
    both = "below, of the autoencoder before, up to the weights that are used" if latent else ""
    return {
        "What it draws": pictures,
        "How likely it holds test images": [Line("bits a dimension", note, tuple(likely), None, "low")],
        "What it took": [
            Line("minutes of training", both, tuple(_taken(one, "minutes", plain) for one in training)),
            _counts("steps", "", [one["steps"] for one in training], plain),
            _counts("epochs", "times that it saw the data", [one["epochs"] for one in training], plain),
            _counts("milliseconds a step", "", [one["milliseconds_a_step"] for one in training], plain),
            _counts("images a second", "in training", [one["images_per_second"] for one in training], plain),
            _counts("operations an image", "in training", [one["flops_an_image"] for one in training], si),
            Line("operations of training", both, tuple(_taken(one, "flops", si) for one in training)),
        ],
        "What it is": [
            _counts("parameters", "", [model["parameters"] for model in made], si),
            _counts("network calls a picture", "as measured above", [_calls(model) for model in made], plain),
            _counts(
                "pictures a second",
                "drawn",
                [one.get("pictures_per_second") for one in quality],
                plain,
                "high",
            ),
            *(
                [Line("active units of its latents", "by level", tuple(map(_active, quality)))]
                if any("active" in one for one in quality)
                else []
            ),
        ],
    }


def _estimate(one: dict[str, Any] | None) -> Cell | None:
    if one is None:
        return None
    return _cell_of(one, f"{one['value']:.3g}", f"± {one['error']:.2g}", "{:.3g}")


def _cell_of(one: dict[str, Any], text: str, spread: str, form: str, scale: float = 1.0) -> Cell:
    """A figure with its interval, and of how many it is, as far as that is known."""
    low, high = (form.format(scale * end) for end in one["interval"])
    by = one.get("reference")
    of = f"n = {one['n']:,} against {by['n']:,} ({by['split']})" if by else ""
    value = one["value"] if "value" in one else one["rate"]
    return Cell(value, text, "", one["error"], spread, f"[{low}, {high}]", of)


def _share(label: dict[str, Any]) -> Cell:
    text, _, error = percent(label["rate"], label["error"]).partition(" ± ")
    return _cell_of(label, text, f"± {error}", "{:.2f}", 100)


def _active(quality: dict[str, Any]) -> Cell | None:
    """Of all levels together, and each."""
    if "active" not in quality:
        return None
    levels = quality["active"]["levels"]
    on, units = (sum(level[name] for level in levels) for name in ("active", "units"))
    each = [f"z_{t}: {level['active']:,}" for t, level in enumerate(levels, 1)]
    return Cell(on / units, f"{on:,} of {units:,}", "\n".join(each) if len(each) > 1 else "")


def _bits(likelihood: dict[str, Any]) -> Cell | None:
    """By how many bits, and by which method."""
    if "none" in likelihood:
        return None
    rate = likelihood["bits_per_dim"]
    cell = _cell_of(rate, f"{rate['value']:.3f}", f"± {rate['error']:.2g}", "{:.3f}")
    return replace(cell, under=likelihood["method"])


def _taken(training: dict[str, Any], what: str, form: Callable[[float], str]) -> Cell:
    """By a training, and below by that of its autoencoder."""
    own, before = training[what], training.get(f"autoencoder_{what}")
    return Cell(own, form(own), "" if before is None else f"+ {form(before)}")


def _counts(
    title: str,
    note: str,
    values: Sequence[float | None],
    form: Callable[[float], str],
    better: Literal["low", "high"] | None = None,
) -> Line:
    cells = tuple(None if value is None else Cell(value, form(value)) for value in values)
    return Line(title, note, cells, None, better)


def plain(value: float) -> str:
    """Three digits, or all of a large number."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def si(value: float) -> str:
    """Three digits, with the letter of a power of a thousand."""
    value = float(f"{value:.3g}")  # 999,999 are 1 M, not 1000 k
    power = min(int(math.log10(value)) // 3, 6) if value >= 1000 else 0
    return f"{value / 1000**power:.3g} {'kMGTPE'[power - 1]}" if power else f"{value:.3g}"


def _calls(model: dict[str, Any]) -> int:
    """Of the model's own way to draw."""
    steps = model["quality"]["sampling"].get("steps")
    return next(point["calls"] for point in model["by_calls"] if point.get("steps") == steps)


def rows(found: dict[str, Any]) -> list[list[str]]:
    """The main figures as a table for the terminal; the first row is its heading."""
    chosen = {
        "FID": "What it draws",
        "times the floor": "What it draws",
        "recall": "What it draws",
        "read as": "What it draws",
        "bits": "How likely it holds test images",
        "minutes": "What it took",
        "milliseconds": "What it took",
        "pictures": "What it is",
    }
    every = groups(found)
    lines = [
        line
        for beginning, group in chosen.items()
        for line in every[group]
        if line.title.startswith(beginning)
    ]
    table = [["", *(line.title for line in lines)]]
    for i, model in enumerate(found["models"]):
        table.append([model["title"], *(_plain(line.cells[i]) for line in lines)])
    table.append(["real pictures", *(_plain(line.real) if line.real else "" for line in lines)])
    return table


def _plain(cell: Cell | None) -> str:
    return NONE if cell is None else " ".join(filter(None, (cell.text, cell.spread, cell.under)))


# The page


def report_page(found: dict[str, Any], data: Data, pages: Sequence[Shown]) -> str:
    """The whole page."""
    made = found["models"]
    name = DATA[data.name].title if data.name in DATA else data.name
    budgets = {model["epochs"] for model in made}
    budget = "epochs of its own" if len(budgets) > 1 else f"{budgets.pop()} epochs"
    if found["minutes"]:
        budget = f"{found['minutes']:g} minutes"
    lead = (
        f"{len(made)} models of {name}, each trained for {budget} on the same machine, and then asked for "
        f"{made[0]['quality']['n']:,} pictures of the same labels. {nearest(found)}"
    )
    return report.page("Every family under one measure", "Phin compare", lead, _sections(found, data, pages))


def nearest(found: dict[str, Any]) -> str:
    """Whose pictures are nearest to the data, how far they are, and who cannot be told from it, in words."""
    made, drawn = found["models"], groups(found)["What it draws"]
    if not drawn:
        return "Nothing that any of them drew could be measured."
    line = drawn[0]
    there = {i: cell for i, cell in enumerate(line.cells) if cell is not None}
    best = min(there, key=lambda i: there[i].value)
    over = made[best]["quality"]["measures"]["frechet"]["over_floor"]
    far = (
        f", {over['value']:.3g} times as far from test pictures as real training pictures are" if over else ""
    )
    ties = " and ".join(made[i]["title"] for i in sorted(line.best - {best}))
    return f"Nearest to the data is {made[best]['title']}{far}{ties and f'; {ties} cannot be told from it'}."


def _sections(found: dict[str, Any], data: Data, pages: Sequence[Shown]) -> Iterator[str]:
    made = found["models"]
    every = groups(found)
    n, features = made[0]["quality"]["n"], found["features"]
    yield tiles(found, every)
    yield report.section(
        "Side by side",
        "The first that came, none chosen. Each column is a label, the same for all.",
        report.gallery(
            [
                report.figure(real(data), "real test pictures"),
                *(report.figure(one.samples, m["title"]) for m, one in zip(made, pages, strict=True)),
            ]
        ),
    )
    yield report.section(
        "Near, sharp and varied",
        "Left, the Frechet distance from test pictures; the dotted line is that of real training pictures. "
        "Right, the share of drawn pictures that lie among real ones (precision), and of real ones among "
        "drawn ones (recall): a model that has lost modes is low, one that draws no pictures of the kind is "
        "far left. Bars are standard errors.",
        f'<div class="pair">{_distances(made)}{_precision_recall(made)}</div>',
    )
    yield report.section(
        "All figures",
        f"{n:,} pictures of each model against test pictures, rounded to 8 bits, in the features of the "
        f"{features['name']} ({features['dims']:,} of them). The column real pictures is what as many "
        "training pictures get: the floor of a distance, and of a share what can be had. Below a figure is "
        "its interval of 95 %, for another sample and not for another training; a pointer on it shows one "
        "standard error. In colour is the best, with what two standard errors do not tell from it.",
        _table(found, every),
        *_reasons(made),
    )
    few = made[0]["by_calls"][0]["n"]
    if any(model["by_time"] for model in made):
        yield report.section(
            "Quality against time",
            f"The averaged weights at every fifth of the training, measured afterwards by {few:,} pictures, "
            "so that no model lost time by it. Only the last stage is annealed. Fewer pictures have a larger "
            "floor, the dotted line: compare within a plot.",
            f'<div class="pair">{_over_time(made, "frechet")}{_over_time(made, "label")}</div>',
        )
    yield report.section(
        "Quality against network calls",
        f"What drawing costs: {few:,} pictures in ever more steps, each by its own solver. Guidance takes "
        "two calls a step; the picture of an autoencoder or a generator takes one. Left by calls, right by "
        "time on this machine.",
        f'<div class="pair">{_over_calls(made, "calls")}{_over_calls(made, "milliseconds")}</div>',
    )
    yield report.section(
        "Ways between samples",
        "All that is random in two samples of a label, mixed along a great circle: the noise of a diffusion "
        "model at every step, the latents of an autoencoder at every level, the input of a generator.",
        report.gallery(report.figure(one.walks, m["title"], 1.1) for m, one in zip(made, pages, strict=True)),
    )
    yield report.section(
        "How they learned",
        "The loss on training batches, and, with markers, the first number of each validation. Losses of "
        "different recipes are different things, and do not compare; those of one recipe do.",
        f'<div class="pair">{"".join(_losses(made))}</div>',
    )
    commands = [found["command"] or "phin compare", *(f"phin sample --model {m['folder']}" for m in made)]
    yield report.section(
        "Again",
        "The first command made this page, and goes on where it stopped; the others draw more.",
        report.code("\n".join(commands)),
        report.facts(in_words(found["machine"])),
    )


def tiles(found: dict[str, Any], every: dict[str, list[Line]]) -> str:
    """Who is first, in what, and who cannot be told from it."""
    drawn, likely, what = (
        every[name] for name in ("What it draws", "How likely it holds test images", "What it is")
    )
    read = next((line for line in drawn if line.title.startswith("read")), None)
    asked = {
        "nearest to the data": (drawn[1] if drawn else None, "\N{MULTIPLICATION SIGN} the floor"),
        "read best": (read, ""),
        "likeliest": (likely[0], "bits/dim"),
        "drawn fastest": (next(line for line in what if line.title.startswith("pictures")), "a second"),
    }
    made: list[str] = []
    for words, (line, unit) in asked.items():
        there = [(cell, i) for i, cell in enumerate(line.cells) if cell is not None] if line else []
        if line and len(there) > 1:
            first = min if line.better == "low" else max
            cell, i = first(there, key=lambda pair: pair[0].value)
            names = [f"{_dot(k)}{escape(found['models'][k]['title'])}" for k in (i, *sorted(line.best - {i}))]
            body = f"{words}<b>{escape(cell.text)} <small>{unit}</small></b>{' '.join(names)}"
            made.append(f'<div class="tile">{body}</div>')
    return f'<div class="tiles first">{"".join(made)}</div>' if made else ""


def _table(found: dict[str, Any], every: dict[str, list[Line]]) -> str:
    made = found["models"]
    heads = "".join(f"<th>{_dot(i)}{escape(model['title'])}</th>" for i, model in enumerate(made))
    body = [f"<tr><th></th>{heads}<th>real pictures</th></tr>"]
    for group, lines in every.items():
        body.append(f'<tr class="group"><td colspan="{len(made) + 2}">{escape(group)}</td></tr>')
        for line in lines:
            cells = [_cell(cell, i in line.best) for i, cell in enumerate(line.cells)]
            real = _cell(line.real) if line.real else "<td></td>"
            name = f"<td>{escape(line.title)}{_small(line.note)}</td>"
            body.append(f"<tr>{name}{''.join(cells)}{real}</tr>")
    return f'<div class="scroll"><table class="versus">{"".join(body)}</table></div>'


def _cell(cell: Cell | None, best: bool = False) -> str:
    if cell is None:
        return f"<td>{NONE}</td>"
    more = "; ".join(filter(None, (cell.spread, cell.of)))
    title = f' title="{escape(more)}"' if more else ""
    under = _small("\n".join(filter(None, (cell.interval, cell.under))))
    return f"<td{' class=best' if best else ''}{title}>{escape(cell.text)}{under}</td>"


def _small(text: str) -> str:
    return f"<small>{escape(text)}</small>" if text else ""


def _reasons(made: Sequence[dict[str, Any]]) -> Iterator[str]:
    """Why there are no figures, which latents are of no use, and of which steps nothing came."""
    for model in made:
        unmeasured = [
            ("no figures of what it draws", model["quality"]),
            *((f"none in {one.get('steps', 1)} steps", one) for one in model["by_calls"]),
            *((f"none after {one['step']:,} steps of training", one) for one in model["by_time"]),
        ]
        for what, one in unmeasured:
            if reason := one.get("none"):
                yield f'<p class="why">{escape(model["title"])}: {what}, for {escape(reason)}.</p>'
        if gone := collapsed(model["quality"].get("active", {"n": 0, "levels": []})):
            yield f'<p class="why">{escape(model["title"])}: {escape(gone)}.</p>'
        if reason := model["likelihood"].get("none"):
            why = re.split("[:;] ", reason)[0].replace(f"{model['folder']}/best.safetensors", "it")
            yield f'<p class="why">{escape(model["title"])}: no bits a dimension, for {escape(why)}.</p>'
        if skipped := model["training"]["skipped"]:
            words = f"{skipped:,} steps were skipped, for their loss or gradient was not finite."
            yield f'<p class="why">{escape(model["title"])}: {words}</p>'


# The plots


def _style(i: int) -> dict[str, Any]:
    return {"color": report.SERIES[i % COLOURS], "ls": "-" if i < COLOURS else (0, (3, 1.5)), "lw": 1.6}


def _dot(i: int) -> str:
    """The colour of a model; a ring where its lines are dashed."""
    return f'<i class="{"dot" if i < COLOURS else "ring"}" style="color:var(--s{i % COLOURS + 1})"></i>'


def _logarithmic(axis: Any, scale: Any, subs: tuple[int, ...] = (1, 2, 5)) -> None:
    """A logarithmic axis with plain numbers."""
    from matplotlib.ticker import LogLocator, NullLocator

    scale("log")
    axis.set_major_locator(LogLocator(subs=subs))
    axis.set_major_formatter("{x:g}")
    axis.set_minor_locator(NullLocator())


def _floor(axes: "Axes", points: Iterable[dict[str, Any]]) -> None:
    """That of the first point that was measured."""
    if one := next((point["frechet"]["floor"] for point in points if "frechet" in point), None):
        axes.axhline(one["value"], color=report.QUIET, ls=":", lw=1.2, label="real pictures")


def _measures(made: Sequence[dict[str, Any]]) -> dict[int, dict[str, Any]]:
    """Of the models whose pictures could be measured, by their places."""
    found = enumerate(model["quality"] for model in made)
    return {i: one["measures"] for i, one in found if "measures" in one}


def _distances(made: Sequence[dict[str, Any]]) -> str:
    found = {i: one["frechet"] for i, one in _measures(made).items()}

    def draw(axes: "Axes") -> None:
        _logarithmic(axes.xaxis, axes.set_xscale)
        for i, one in found.items():
            axes.axvline(one["floor"]["value"], color=report.QUIET, ls=":", lw=1.2)
            value, error = one["value"], one["error"]
            axes.errorbar(
                value, i, xerr=min(error, 0.95 * value), fmt="o", ms=6, color=_style(i)["color"], lw=1.6
            )
        axes.set_yticks(range(len(made)), [model["title"] for model in made])
        axes.set_ylim(len(made) - 0.5, -0.5)

    return report.plot([draw], "Frechet distance", "", size=HALF)


def _precision_recall(made: Sequence[dict[str, Any]]) -> str:
    def draw(axes: "Axes") -> None:
        found = _measures(made)
        pairs = {i: [one[name] for name in ("precision", "recall")] for i, one in found.items()}
        pairs |= {len(made): [one["floor"] for one in pair] for pair in [*pairs.values()][:1]}
        for i, (across, up) in pairs.items():
            true = i == len(made)
            axes.errorbar(
                across["value"],
                up["value"],
                xerr=across["error"],
                yerr=up["error"],
                fmt="*" if true else "o",
                ms=10 if true else 6,
                color=report.QUIET if true else _style(i)["color"],
                mfc="none" if COLOURS <= i < len(made) else None,
                lw=1.2,
                label="real pictures" if true else made[i]["title"],
            )
        axes.set_xlim(-0.03, 1.03)
        axes.set_ylim(-0.03, 1.03)

    return report.plot([draw], "precision", "recall", size=HALF)


def _over_time(made: Sequence[dict[str, Any]], key: str) -> str:
    """The distance, or what is read right, in per cent."""
    if key == "label" and not any("label" in point for model in made for point in model["by_time"]):
        return ""

    def draw(axes: "Axes") -> None:
        for i, model in enumerate(made):
            points = [point for point in model["by_time"] if key in point]
            minutes = [point["seconds"] / 60 for point in points]
            if key == "frechet":
                values, errors = ([point["frechet"][part] for point in points] for part in ("value", "error"))
            else:
                values, errors = (
                    [100 * point["label"][part] for point in points] for part in ("rate", "error")
                )
            axes.errorbar(
                minutes, values, errors, marker="o", ms=4, elinewidth=0.8, label=model["title"], **_style(i)
            )
        axes.set_xlim(left=0)
        if key == "frechet":
            _floor(axes, (point for model in made for point in model["by_time"]))
            _logarithmic(axes.yaxis, axes.set_yscale)

    up = "Frechet distance" if key == "frechet" else "read as asked, %"
    return report.plot([draw], "minutes of training", up, size=HALF)


def _over_calls(made: Sequence[dict[str, Any]], across: Literal["calls", "milliseconds"]) -> str:
    def place(point: dict[str, Any]) -> float:
        return point["calls"] if across == "calls" else 1000 / point["pictures_per_second"]

    def draw(axes: "Axes") -> None:
        _logarithmic(axes.xaxis, axes.set_xscale)
        _logarithmic(axes.yaxis, axes.set_yscale)
        for i, model in enumerate(made):
            points = [point for point in model["by_calls"] if "frechet" in point]
            values, errors = ([point["frechet"][part] for point in points] for part in ("value", "error"))
            marker = "o" if len(points) > 1 else "D"
            axes.errorbar(
                [*map(place, points)],
                values,
                errors,
                marker=marker,
                ms=5,
                elinewidth=0.8,
                label=model["title"],
                **_style(i),
            )
        _floor(axes, (point for model in made for point in model["by_calls"]))

    title = "network calls a picture" if across == "calls" else "milliseconds a picture"
    return report.plot([draw], title, "Frechet distance", size=HALF)


def _losses(made: Sequence[dict[str, Any]]) -> Iterator[str]:
    """A plot for each recipe, with all of its runs."""
    for recipe in dict.fromkeys(model["recipe"] for model in made):
        runs = [(i, model) for i, model in enumerate(made) if model["recipe"] == recipe]
        yield report.plot([partial(_learned, runs)], "training step", "loss", [recipe], size=HALF)


def _learned(runs: Sequence[tuple[int, dict[str, Any]]], axes: "Axes") -> None:
    """The losses of a recipe's runs; of several players, each one's."""
    lowest, highest = math.inf, -math.inf
    for i, model in runs:
        log = records(Path(model["folder"]))
        keys = [key for record in log for key in record]
        score = next((key for key in keys if key.startswith("validation/")), None)
        players = [key for key in dict.fromkeys(keys) if key.startswith("loss/") and key[5:].isalpha()]
        name = f"{model['training']['epochs']:.3g} epochs, " if len(runs) > 1 else ""
        for k, key in enumerate(players or ["loss"]):
            x, y = curve(log, key)
            label = f"{name}{key.removeprefix('loss/') if players else 'training'}"
            axes.plot(x, y, color=_style(i)["color"], lw=0.9, alpha=0.9 if k else 0.55, label=label)
            lowest, highest = min([lowest, *y]), max([highest, *y])
        if score is not None:
            x, y = curve(log, score)
            words = f"{name}held-out {score.removeprefix('validation/')}"
            axes.plot(x, y, color=_style(i)["color"], lw=1.6, marker="o", ms=4, label=words)
            lowest, highest = min([lowest, *y]), max([highest, *y])
    if 0 < SPAN * lowest < highest:
        _logarithmic(axes.yaxis, axes.set_yscale)
