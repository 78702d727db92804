"""Families of models under one measure: trained alike, measured by the same pictures, shown on one page."""

import json
import logging
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from phin import models
from phin.comparison.entrants import Entrant, enter
from phin.comparison.measures import Measures, Plan, untuned
from phin.comparison.page import Shown, report_page, shown
from phin.data import Data
from phin.errors import PhinError
from phin.evaluation import pictures
from phin.evaluation.costs import costs
from phin.evaluation.drawing import Bar, silent
from phin.evaluation.subject import Subject
from phin.machine import machine
from phin.metrics.features import Features
from phin.models import Model
from phin.recipes import DiffusionRecipe, train
from phin.recipes.description import FAMILIES
from phin.training.checkpoint import atomic, open_folder, read_metadata, write_json
from phin.training.run import Result, State

__all__ = ["Plan", "compare"]

log = logging.getLogger(__name__)


def compare(
    recipes: Sequence[str],
    minutes: float | None = None,
    epochs: int | None = None,
    data: str | None = None,
    out: Path = Path("runs/compare"),
    plan: Plan = Plan(),
    features: Features | str | None = None,
    seed: int = 0,
    command: str | None = None,
    bar: Bar = silent,
) -> dict[str, Any]:
    """Trains recipes, measures their models, and writes `report.html` and `report.json`.

    Each has a run of its own in the folder, with its figures beside it. The same call again goes on where it
    stopped: what is trained is not trained again, and what is measured of these very weights is not measured
    again.

    Args:
        recipes: As of `enter`, and so are the next three.
        minutes: Time for each.
        epochs: Epochs for each that has none of its own.
        data: Data set in place of the recipes' own.
        out: The folder.
        plan: On how much the models are measured.
        features: What looks at pictures, as of `evaluation.evaluate`.
        seed: Of the trainings.
        command: What a shell was told, for the page.
        bar: Shows how far a drawing is.

    Returns:
        What `report.json` holds.

    Raises:
        PhinError: Whatever can be wrong with the arguments, before anything is trained; and as `train`.
    """
    taking, images = enter(recipes, minutes, epochs, data, seed)
    for entrant in taking:
        _check(entrant, plan)
    eyes = pictures.chosen(features, images.name)
    measures = Measures(images, eyes, plan, bar)
    open_folder(out)
    runs = [train(entrant.recipe, out / entrant.name, entrant.name, command) for entrant in taking]
    rows: list[dict[str, Any]] = []
    pages: list[Shown] = []
    for entrant, run in zip(taking, runs, strict=True):
        model = untuned(models.load(run.folder))
        rows.append(_row(entrant, run, model, measures))
        pages.append(shown(model, images, plan.seed))
    found = {
        "command": command,
        "data": images.name,
        "minutes": minutes,
        "features": {"name": eyes.name, "dims": eyes.dims},
        "plan": asdict(plan),
        "seed": seed,
        "models": rows,
        "machine": machine(),
        "report": str(out / "report.html"),
    }
    found = json.loads(json.dumps(found))
    write_json(out / "report.json", found)
    with atomic(out / "report.html") as temporary:
        temporary.write_text(report_page(found, images, pages), encoding="utf-8")
    return found


def _check(entrant: Entrant, plan: Plan) -> None:
    """Raises a PhinError if it cannot be trained on these data, or cannot draw in the steps of the plan."""
    recipe = entrant.recipe
    try:
        recipe.task(recipe.load())
        if isinstance(recipe, DiffusionRecipe):
            for steps in plan.ladder:
                replace(recipe.sample, steps=steps)
    except PhinError as error:
        raise PhinError(f"{entrant.source}: {error}") from error


def _row(entrant: Entrant, run: Result, model: Model, measures: Measures) -> dict[str, Any]:
    """All that is said of a model, JSON-able."""
    subject = Subject(model, run.folder / "figures.json")
    quality = measures.quality(subject)
    return {
        "name": entrant.name,
        "title": entrant.title,
        "recipe": entrant.source,
        "epochs": entrant.epochs,
        "family": next(name for name, kind in FAMILIES.items() if isinstance(entrant.recipe, kind)),
        "folder": str(run.folder),
        "weights": subject.weights,
        "parameters": quality["parameters"],
        "training": _training(entrant, run, model, quality, measures.reference.data),
        "quality": quality,
        "likelihood": measures.likelihood(subject),
        "by_calls": measures.by_calls(subject),
        "by_time": measures.by_time(run.folder),
    }


def _training(
    entrant: Entrant, run: Result, model: Model, quality: dict[str, Any], data: Data
) -> dict[str, Any]:
    """What a training took, to its end; the weights that are measured may be from before that."""
    state = State(**read_metadata(run.last)["training"]["state"])
    kept = model.metadata["training"]["state"]
    each = quality["training_flops"] / kept["examples"]
    count = data.count("train")
    known = {
        "minutes": state.seconds / 60,
        "steps": state.step,
        "epochs": state.examples / count if count else None,
        "kept_at_step": kept["step"],
        "milliseconds_a_step": 1000 * state.trained / state.step,
        "images_per_second": state.images_per_second,
        "flops_an_image": each,
        "flops": each * state.examples,
        "skipped": state.skipped,
    }
    recipe = entrant.recipe
    if isinstance(recipe, DiffusionRecipe) and recipe.autoencoder:
        before = costs(models.load(recipe.autoencoder), data)
        known |= {f"autoencoder_{name}": before[f"training_{name}"] for name in ("minutes", "flops")}
    return known
