"""Measures a model: of numbers, of any pictures, image to image, of sequences or videos; or a classifier."""

from collections.abc import Callable
from dataclasses import fields
from functools import partial
from pathlib import Path
from typing import Any

from phin import data as datasets
from phin import models
from phin.data.base import Data
from phin.data.moving import Moving
from phin.data.numbers import Numbers
from phin.data.sequences import Sequences
from phin.data.stacked import Stacked
from phin.data.words import Words
from phin.errors import PhinError
from phin.evaluation import (
    classifiers,
    costs,
    modes,
    pictures,
    reconstructed,
    restored,
    sequences,
    strings,
    videos,
    words,
)
from phin.evaluation.drawing import Bar, Drawing, silent
from phin.evaluation.latents import active
from phin.evaluation.pictures import Plan as PicturePlan
from phin.evaluation.pictures import Reference as Reference
from phin.evaluation.plan import PromptPlan as PromptPlan
from phin.evaluation.strings import Plan as Plan
from phin.evaluation.words import Plan as WordPlan
from phin.families.latent import KLAutoencoder
from phin.metrics import activity
from phin.metrics.features import Features
from phin.metrics.processes import process
from phin.models import Model, Watch
from phin.nets.classifier import Classifier, NoisyClassifier
from phin.pictures import Picture, png
from phin.recipes.features import READING
from phin.sampling import Guide
from phin.training.checkpoint import atomic, open_folder, read_weights, save_weights, write_json


def evaluate(
    model: Model,
    reader: Model | None = None,
    plan: PromptPlan | PicturePlan | None = None,
    watch: Watch | None = None,
    guide: Guide | None = None,
    features: Features | str | Path | None = None,
    out: Path | None = None,
    bar: Bar = silent,
    **choices: Any,
) -> dict[str, Any]:
    """The figures of a model, JSON-able.

    Args:
        model: A classifier, or a model of numbers or of pictures.
        reader: What reads numbers; by default the one that comes with phin.
        plan: On how much: of the `kind` of the model.
        watch: Sees every state of every batch that is sampled.
        guide: As of `samples`.
        features: What looks at pictures; by default what their data set has (`pictures.chosen`).
        out: A folder for `evaluation.json` and, of pictures, `samples.png` and `nearest.png`.
        bar: Shows how far a drawing is.
        choices: As of `samples`: steps, solver, guidance, grid, threshold.

    Raises:
        PhinError: A model of neither kind, data that cannot be had, a folder that cannot be written to; and
            as `samples`, before anything is done.
    """
    main, wanted = process()[0] == 0, kind(model)
    if wanted is None:
        _leave_out(model, reader=reader and reader.path, plan=plan, guide=guide, features=features, **choices)
        way = partial(_classified, model)
    else:
        if issubclass(wanted, PromptPlan):
            _leave_out(model, features=features)
            reader = reader or models.load("mnist-classifier")
            _check_reads_digits(reader)
        else:
            _leave_out(model, reader=reader and reader.path)
        plan = plan or wanted()
        if not isinstance(plan, wanted):
            raise TypeError(
                f"{plan} is of another kind of model; give a {wanted.__module__}.{wanted.__name__}"
            )
        drawing = Drawing(model, plan.seed, watch, guide, bar, choices)
        way = partial(_drawn, drawing, plan, reader, features)
    data = datasets.load(model.recipe.data)
    measure = way(data)
    if out is not None and main:
        open_folder(out)
    found, shows = measure()
    found |= active(model, data) | costs.costs(model, data)
    if out is not None and main:
        for name, picture in shows.items():
            with atomic(out / f"{name}.png") as temporary:
                temporary.write_bytes(png(picture))
        write_json(out / "evaluation.json", found)
    return found


def kind(model: Model) -> type[Plan] | type[WordPlan] | type[PicturePlan] | None:
    """What plan a model is measured by, as it is asked for samples; None is a classifier, which has none.

    Raises:
        PhinError: A model that is prompted, and yet no diffusion model.
    """
    if isinstance(model.net, Classifier | NoisyClassifier):
        return None
    if model.facts.vocabulary or model.facts.alphabet:
        models.drawing(model)
    return Plan if model.facts.vocabulary else WordPlan if model.facts.alphabet else PicturePlan


def _leave_out(model: Model, **others: object) -> None:
    """Raises a PhinError if anything is given that says nothing of a model."""
    for name, value in others.items():
        if value is not None:
            raise PhinError(f"{name} {value} is for models of another kind than {model.path}: leave it out")


Found = tuple[dict[str, Any], dict[str, Picture]]
"""Figures, and pictures to show by their names."""


Measuring = Callable[[], Found]
"""What does the work, of which all that could be wrong with the question is known to be right."""


def _classified(model: Model, data: Data) -> Measuring:
    net = model.net
    if isinstance(net, Classifier):
        return lambda: (classifiers.clean(net, data), {})
    assert isinstance(net, NoisyClassifier)
    return lambda: (classifiers.by_level(net, data), {})


def _drawn(
    drawing: Drawing,
    plan: PromptPlan | PicturePlan,
    reader: Model | None,
    features: Features | str | Path | None,
    data: Data,
) -> Measuring:
    if isinstance(plan, PromptPlan):
        assert reader is not None
        return lambda: (_prompted(drawing, plan, reader, data), {})
    model = drawing.model
    if isinstance(data, Sequences):
        _only_n(plan, model)
        if features is not None:
            raise PhinError(
                f"features {features} look at pictures, and {model.path} draws none: leave them out"
            )
        return lambda: (sequences.evaluate(drawing, data, plan), {})
    if isinstance(data, Moving):
        _only_n(plan, model)
        return lambda: videos.evaluate(drawing, data, pictures.chosen(features, "mnist"), plan)
    if len(data.shape) != 3:
        raise PhinError(f"{model.path} draws {data.name}, which nothing here reads: give a model of pictures")
    if isinstance(data, Numbers):
        raise PhinError(
            f"{model.path} cannot be asked for a number, and so nothing here knows what it should draw: give "
            "a model of numbers that is told them"
        )
    if isinstance(model.net, KLAutoencoder):
        _only_n(plan, model)
        return lambda: reconstructed.evaluate(model, data, pictures.chosen(features, data.name), plan)
    if isinstance(data, Stacked) and features is None:
        _only_n(plan, model)
        return lambda: (modes.evaluate(drawing, data, pictures.chosen(None, "mnist"), plan), {})
    if (way := models.degradation(model)) is not None:
        _only_n(plan, model)
        known = features is not None or data.name in READING
        return lambda: restored.evaluate(
            drawing, data, way, pictures.chosen(features, data.name) if known else None, plan
        )

    def measured() -> Found:
        reference = Reference(data, pictures.chosen(features, data.name), plan)
        asked = drawing.watch, drawing.guide, drawing.bar
        return pictures.evaluate(model, reference, *asked, **drawing.choices)

    return measured


def _only_n(plan: PicturePlan, model: Model) -> None:
    """Raises a PhinError if the plan says more than how many samples to draw, and from which seed."""
    for field in fields(plan):
        value = getattr(plan, field.name)
        if field.name not in ("n", "seed") and value != field.default:
            raise PhinError(
                f"{field.name} = {value} is for models that draw pictures from nothing, and not for "
                f"{model.path}: leave it out"
            )


def _check_reads_digits(reader: Model) -> None:
    """Raises a PhinError if it does not."""
    if not isinstance(reader.net, Classifier) or reader.net.head.out_features != 10:
        raise PhinError(f"{reader.path} is no classifier of clean digits; give one, such as mnist-classifier")


def _prompted(drawing: Drawing, plan: PromptPlan, reader: Model, data: Data) -> dict[str, Any]:
    read = reader.net
    assert isinstance(read, Classifier)
    if isinstance(plan, WordPlan):
        assert isinstance(data, Words)
        found = words.evaluate(drawing, data, read, plan)
    else:
        assert isinstance(data, Numbers)
        assert isinstance(plan, Plan)
        found = strings.evaluate(drawing, data, read, plan)
    return {**found, "reader": reader.metadata["name"]}


def record(model: Model, figures: dict[str, Any]) -> None:
    """Writes figures into the model's own file, in place of those it had.

    Raises:
        PhinError: The file cannot be written.
    """
    tensors, metadata = read_weights(model.path)
    save_weights(model.path, tensors, {**metadata, "figures": figures})


def rows(figures: dict[str, Any]) -> list[list[str]]:
    """The figures as a table for people; the first row is its heading."""
    if "measures" in figures:
        return pictures.rows(figures)
    if "modes" in figures:
        return modes.rows(figures)
    if "languages" in figures:
        return words.rows(figures)
    if "statistics" in figures:
        return sequences.rows(figures)
    if "videos" in figures:
        return videos.rows(figures)
    if "reconstructed" in figures:
        return reconstructed.rows(figures)
    if "restored" in figures:
        return restored.rows(figures)
    return strings.rows(figures) if "digits" in figures else classifiers.rows(figures)


def summary(figures: dict[str, Any]) -> str:
    """What is to be said beside the table: what the figures are of, and what the model costs."""
    words = pictures.summary if "measures" in figures else reconstructed.summary
    of = [words(figures)] if "measures" in figures or "reconstructed" in figures else []
    latents = [activity.in_words(figures["active"])] if "active" in figures else []
    return "\n".join([*of, *latents, costs.in_words(figures)])
