"""Measures a model: of numbers, of any pictures, image to image, of sequences or videos; or a classifier."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from phin import data as datasets
from phin.data.moving import Moving
from phin.data.numbers import Numbers
from phin.data.sequences import Sequences
from phin.data.stacked import Stacked
from phin.data.words import Words
from phin.errors import PhinError
from phin.evaluation import classifiers, modes, pictures, restored, sequences, strings, videos, words
from phin.evaluation.pictures import Plan as PicturePlan
from phin.evaluation.pictures import Reference as Reference
from phin.evaluation.strings import Plan as Plan
from phin.evaluation.words import Plan as WordPlan
from phin.metrics.features import Features
from phin.metrics.processes import process
from phin.models import Model, Watch, degradation
from phin.nets.classifier import Classifier, NoisyClassifier
from phin.pictures import png
from phin.recipes.features import READING
from phin.sampling import Guide
from phin.training.checkpoint import atomic, open_folder, read_weights, save_weights, write_json


def evaluate(
    model: Model,
    reader: Model | None = None,
    plan: Plan | PicturePlan | WordPlan | None = None,
    watch: Watch | None = None,
    guide: Guide | None = None,
    features: Features | str | Path | None = None,
    out: Path | None = None,
    drawn: Callable[[int], None] = lambda pictures: None,
    **choices: Any,
) -> dict[str, Any]:
    """The figures of a model, JSON-able.

    Args:
        model: A classifier, or a model of numbers or of pictures.
        reader: What reads numbers; by default the one that comes with phin.
        plan: On how much: `Plan` of numbers, `WordPlan` of numbers in words, `PicturePlan` of pictures.
        watch: Sees every state of every batch that is sampled.
        guide: As of `samples`.
        features: What looks at pictures; by default what their data set has (`pictures.chosen`).
        out: A folder for `evaluation.json` and, of pictures, `samples.png` and `nearest.png`.
        drawn: Told how many more pictures have been drawn, of a model of pictures.
        choices: As of `samples`: steps, solver, guidance, grid, threshold.

    Raises:
        PhinError: A model of neither kind, data that cannot be had, a folder that cannot be written to; and
            as `samples`.
    """
    main = process()[0] == 0
    if out is not None and main:
        open_folder(out)
    data, shows = datasets.load(model.recipe.data), {}
    kind = Plan if isinstance(data, Numbers) else WordPlan if model.facts.alphabet else PicturePlan
    plan = plan or kind()
    if isinstance(model.net, Classifier):
        found = classifiers.clean(model.net, data)
    elif isinstance(model.net, NoisyClassifier):
        found = classifiers.by_level(model.net, data)
    elif not isinstance(plan, kind):
        raise TypeError(f"{plan} is of another kind of model; give a {kind.__module__}.{kind.__name__}")
    elif isinstance(data, Numbers) and isinstance(plan, Plan):
        found = strings.evaluate(model, data, reader, plan, watch, guide, **choices)
    elif isinstance(data, Words) and isinstance(plan, WordPlan):
        found = words.evaluate(model, data, reader, plan, watch, guide, **choices)
    elif isinstance(data, Sequences) and isinstance(plan, PicturePlan):
        found = sequences.evaluate(model, data, plan, watch, guide, drawn, **choices)
    elif isinstance(data, Moving) and isinstance(plan, PicturePlan):
        sight = seeing(features, "mnist")
        found, shows = videos.evaluate(model, data, sight, plan, watch, guide, drawn, **choices)
    elif len(data.shape) != 3:
        raise PhinError(f"{model.path} draws {data.name}, which nothing here reads: give a model of pictures")
    elif isinstance(data, Stacked) and isinstance(plan, PicturePlan) and features is None:
        found = modes.evaluate(model, data, plan, watch, guide, drawn, **choices)
    elif (way := degradation(model)) is not None and isinstance(plan, PicturePlan):
        sight = seeing(features, data.name) if features is not None or data.name in READING else None
        found, shows = restored.evaluate(model, data, way, sight, plan, watch, guide, drawn, **choices)
    else:
        assert isinstance(plan, PicturePlan)
        reference = Reference(data, seeing(features, data.name), plan)
        found, shows = pictures.evaluate(model, reference, watch, guide, drawn, **choices)
    if out is not None and main:
        for name, picture in shows.items():
            with atomic(out / f"{name}.png") as temporary:
                temporary.write_bytes(png(picture))
        write_json(out / "evaluation.json", found)
    return found


def seeing(features: Features | str | Path | None, data: str) -> Features:
    """What looks at pictures: as it is, or as `pictures.chosen`."""
    return features if isinstance(features, Features) else pictures.chosen(features, data)


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
    if "restored" in figures:
        return restored.rows(figures)
    return strings.rows(figures) if "digits" in figures else classifiers.rows(figures)


def summary(figures: dict[str, Any]) -> str:
    """What is to be said beside the table; nothing of classifiers."""
    if "measures" in figures:
        return pictures.summary(figures)
    return f"{figures['cells_per_second']:,.0f} cells were drawn a second" if "digits" in figures else ""
