"""The demo: a model of numbers is trained from scratch, draws, is measured, and a page shows it all."""

import contextlib
import json
import logging
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

from phin import models, report
from phin.data.numbers import random_strings
from phin.diffusion.level import Level
from phin.evaluation import Plan, evaluate, rows
from phin.evaluation.subject import FORMAT
from phin.machine import in_words, machine
from phin.metrics import reading
from phin.models import Model, Watch
from phin.nets.classifier import Classifier
from phin.pictures import to_bytes
from phin.recipes import DiffusionRecipe, train
from phin.training.checkpoint import atomic, digest, open_folder, write_json
from phin.training.log import LEVELS, curve, records
from phin.training.run import Result, peak_memory

log = logging.getLogger(__name__)

PROMPTS = ("7", "42", "2026", "40213")


def demo(
    recipe: DiffusionRecipe,
    out: Path,
    command: str = "phin demo",
    reader: str = "mnist-classifier",
    plan: Plan = Plan(),
    watch: Watch | None = None,
) -> dict[str, Any]:
    """Trains, measures, and writes `report.html`; of a demo that is finished, only the page is made anew.

    Args:
        recipe: A diffusion model of numbers.
        out: The folder of the run.
        command: What makes the same again, for the page.
        reader: The model that reads the pictures.
        plan: On how much the model is measured.
        watch: Sees every state of every batch that is drawn for the measurement.

    Raises:
        PhinError: As `load`, `train` and `evaluate`.
    """
    read = models.load(reader)  # before ten minutes of training, not after
    open_folder(out)
    result = train(recipe, out, "numbers", command)
    model = models.load(out)
    measured = _measured(model, read, plan, out / "figures.json", watch)
    path = out / "report.html"
    with atomic(path) as temporary:
        temporary.write_text(_page(model, read, result, measured, command), encoding="utf-8")
    draw = f"phin sample --model {out} --prompt 40213"
    return {"report": str(path), "model": str(model.path), "figures": measured["figures"], "command": draw}


def _measured(model: Model, reader: Model, plan: Plan, path: Path, watch: Watch | None) -> dict[str, Any]:
    """The figures of these very weights: those noted in a file, or new ones, noted there."""
    of = {
        "format": FORMAT,
        "weights": digest(model.net),
        "reader": digest(reader.net),
        "plan": asdict(plan),
        "sampling": asdict(models.choose(model, {})),  # which `phin tune` may have found
    }
    if path.exists():
        with contextlib.suppress(ValueError, TypeError, LookupError):
            noted = json.loads(path.read_text(encoding="utf-8"))
            if noted["of"] == of:
                return noted
    log.info("measuring: %d pictures are drawn and read", plan.n + plan.n_unseen)
    figures = evaluate(model, reader, plan, watch)
    measured = {"of": of, "figures": figures, "peak_memory": peak_memory(), "machine": machine()}
    write_json(path, measured)
    return measured


def _page(model: Model, reader: Model, result: Result, measured: dict[str, Any], command: str) -> str:
    figures = measured["figures"]
    digits, minutes = figures["digits"], result.seconds / 60
    lead = (
        f"A diffusion model, trained from random weights on MNIST for {minutes:.3g} minutes, that draws the "
        f"number it is asked for. A classifier reads {100 * digits['rate']:.1f}\N{NO-BREAK SPACE}% of its "
        f"digits as what they should be, and {100 * digits['real_rate']:.1f}\N{NO-BREAK SPACE}% of real ones."
    )
    return report.page(
        "Type a number, get its picture",
        "Phin demo",
        lead,
        _sections(model, reader, result, measured, command),
    )


def _sections(
    model: Model, reader: Model, result: Result, measured: dict[str, Any], command: str
) -> Iterator[str]:
    figures, sampling = measured["figures"], measured["figures"]["sampling"]
    how = f"{sampling['steps']} steps of {sampling['solver']}, guidance {sampling['guidance']:g}"
    yield report.gallery(_drawn(model, reader, PROMPTS, 2.0))
    yield report.section(
        "From noise to a number",
        f"What the sampler sees, level by level: {how}. All cells are denoised together.",
        report.gallery(_strip(model, PROMPTS[-1])),
    )
    yield report.section(
        "More of them",
        "Random numbers, the first that came, and what was asked for; and where it differs, what was read.",
        report.gallery(_drawn(model, reader, random_strings(40, 1), 1.0)),
    )
    heading, *lines = rows(figures)
    yield report.section(
        "How good it is",
        f"{figures['digits']['n']:,} digits in random numbers of one to five, each length alike; {how}. "
        "Beside them are pictures of the same numbers, made of MNIST's test images, read by the same reader. "
        "The Frechet distance compares cells in the reader's features; that of real ones is of training "
        "images from test images, the least to be hoped for. ± is the standard error.",
        report.table(heading, lines),
    )
    yield report.section(
        "How it learned",
        "The loss on training batches, that of the averaged weights on held-out pictures, and that of a "
        "guess which knows no more than each pixel's mean and variance.",
        _losses(result.folder),
    )
    yield report.section(
        "Which noise is hard",
        "The training loss by noise level. The level is written as log-SNR: high is nearly clean.",
        _levels(result.folder),
    )
    yield report.section(
        "Samples through training", "The same noise, at ever later steps.", _progress(result.folder)
    )
    memory = measured["peak_memory"]
    yield report.section(
        "The run",
        "What made this model, and what draws more with it.",
        report.code(f"{command}\nphin sample --model {result.folder} --prompt 40213 -n 4"),
        report.facts(
            {
                "training": f"{result.step:,} steps in {result.seconds / 60:.1f} minutes, "
                f"{result.images_per_second:,.0f} pictures a second",
                "sampling": f"{figures['cells_per_second']:,.0f} cells a second",
                "network": f"{sum(p.numel() for p in model.net.parameters()):,} weights",
                "peak memory": f"{memory / 1e9:.2f} GB" if memory else "unknown",
                "seed": str(model.recipe.train.seed),
                **in_words(measured["machine"]),
            }
        ),
    )


def _drawn(model: Model, reader: Model, strings: tuple[str, ...] | list[str], scale: float) -> list[str]:
    """Pictures of strings, with what was asked for and what is read."""
    assert isinstance(reader.net, Classifier)
    pictures = [to_bytes(x) for x in models.samples(model, strings)]
    found = reading.read(reader.net, pictures)
    return [
        report.figure(picture, asked if asked == seen else f"{asked}, read as {seen}", scale)
        for picture, asked, seen in zip(pictures, strings, found, strict=True)
    ]


def _strip(model: Model, string: str) -> list[str]:
    """Every state on the way to one picture."""
    states: list[tuple[str, Any]] = []

    def watch(batch: Any, z: Any, level: Level) -> None:
        states.append((f"log-SNR {level.log_snr.item():.1f}", to_bytes(z[0])))

    (x,) = models.samples(model, [string], watch=watch)
    return [report.figure(picture, caption) for caption, picture in [*states, ("the picture", to_bytes(x))]]


def _losses(folder: Path) -> str:
    log = records(folder)
    names = {"training": "loss", "held-out": "validation/loss", "best guess by pixel": "validation/baseline"}
    return report.chart(
        {name: curve(log, key) for name, key in names.items()},
        "training step",
        "loss",
        ("held-out", "best guess by pixel"),
    )


def _levels(folder: Path) -> str:
    log = records(folder)
    return report.chart({name: curve(log, f"loss/{name}") for name in LEVELS}, "training step", "loss")


def _progress(folder: Path) -> str:
    """Three of the pictures that were made while training: the first, the middle one and the last."""
    import numpy as np
    from PIL import Image

    paths = sorted((folder / "samples").glob("*.png"))
    chosen = sorted({paths[i] for i in (0, len(paths) // 2, -1)}) if paths else []
    return report.gallery(
        report.figure(np.asarray(Image.open(path)), f"step {int(path.stem):,}") for path in chosen
    )
