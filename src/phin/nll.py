"""The likelihood of 8-bit images under a trained model, in bits a dimension, with all that it depends on."""

import math
import time
from collections.abc import Callable
from typing import Any, Literal

import torch

from phin import data as datasets
from phin import models
from phin.data.base import Batch, Data, Which
from phin.diffusion.decoder import DECODERS
from phin.diffusion.denoiser import Denoiser
from phin.diffusion.level import SCALINGS
from phin.diffusion.schedules import SCHEDULES, Discrete, Schedule
from phin.errors import PhinError
from phin.metrics.likelihood import METHODS, Options, Rate, lossless, measure
from phin.models import Model
from phin.pictures import to_bytes
from phin.recipes import DiffusionRecipe, Facts
from phin.registry import build
from phin.training.checkpoint import read_weights, save_weights

Condition = Literal["data", "none"]


def nll(
    model: Model,
    method: str | None = None,
    data: str | None = None,
    split: Which = "test",
    n: int | None = None,
    condition: Condition | None = None,
    levels: str | None = None,
    decoder: str | None = None,
    batch: int = 64,
    watch: Callable[[int], None] = lambda images: None,
    **options: Any,
) -> dict[str, Any]:
    """Bits a dimension of images under a model, by its terms; and those that lossless coders need. JSON-able.

    Args:
        model: A diffusion model of 8-bit images.
        method: In `METHODS`; by default `chain` for a model of a discrete chain, else `continuous`.
        data: Name of the images, or folder:PATH; the model's own by default.
        split: Which of them.
        n: How many; by default 1000, or all if there are fewer.
        condition: "data" measures each image given its own label or text, "none" without; by default "data",
            but for a model that was trained without them.
        levels: Schedule; the model's own by default.
        decoder: In `DECODERS`; the method's own by default.
        batch: Images at once.
        watch: Told how many more images have been measured.
        options: Fields of `metrics.likelihood.Options` that replace its defaults: steps, times, frac, probes,
            rtol, seed.

    Raises:
        PhinError: A model or data without an 8-bit likelihood, data that do not fit the model, or an option
            that makes no sense.
    """
    net, recipe = models.drawing(model)[0], model.recipe
    assert isinstance(recipe, DiffusionRecipe)
    images = datasets.load(data or model.recipe.data)
    condition = condition or ("none" if recipe.drop == 1 else "data")
    _check(model, images, condition)
    levels = levels or recipe.density
    schedule = _schedule(net, levels)
    method = method or ("chain" if isinstance(schedule, Discrete) else "continuous")
    if method not in METHODS:
        raise PhinError(f"unknown method {method!r}; there are {', '.join(METHODS)}")
    if decoder is not None:
        if decoder.split("(")[0].strip() == "gaussian":
            raise PhinError(f"decoder {decoder} gives a density, and 8-bit images need a probability")
        options["decoder"] = build(decoder, DECODERS, "decoder")
    try:
        chosen = Options(**options)
        way = METHODS[method](schedule, chosen)
        sample = _some(model, images, split, n, chosen.seed, condition)
        begun = time.perf_counter()
        found = measure(net, sample, way, batch, watch)
        seconds = time.perf_counter() - begun
    except ValueError as error:
        raise PhinError(f"method {method}: {error}") from error
    ends = schedule.log_snr(torch.tensor([0.0, 1.0], dtype=torch.float64)).tolist()
    return {
        "data": images.name,
        "split": split,
        "images": found.images,
        "dims": found.dims,
        "condition": condition if sample.cond else "none",
        "method": method,
        "bits_per_dim": _rate(found.total),
        "terms": {name: _rate(rate) for name, rate in found.terms.items()},
        "nats": found.nats,
        "calls": found.calls,
        "converged": found.converged,
        "levels": levels,
        "log_snr": ends,
        **way.facts,
        **({"decoder": decoder} if decoder else {}),
        "seed": chosen.seed,
        "seconds": round(seconds, 3),
        "lossless": lossless(to_bytes(sample.x)),
    }


def record(model: Model, facts: dict[str, Any]) -> None:
    """Writes what `nll` found into the model's own file, beside what other methods have found.

    Raises:
        PhinError: The file cannot be written.
    """
    tensors, metadata = read_weights(model.path)
    found = {**metadata.get("likelihood", {}), facts["method"]: facts}
    save_weights(model.path, tensors, {**metadata, "likelihood": found})


def rows(facts: dict[str, Any]) -> list[list[str]]:
    """The figures as a table for people; the first row is its heading."""
    lines = [["bits/dim", "", "standard error"], ["-log2 p(x), at most", *_cells(facts["bits_per_dim"])]]
    titles = {"dequantization": "width of a step, log2(127.5)"}
    lines += [[f"  {titles.get(name, name)}", *_cells(rate)] for name, rate in facts["terms"].items()]
    coders = {
        "webp_tall": "WebP, lossless",
        "png_tall": "PNG",
        "webp": "WebP, a file for each (headers count)",
        "png": "PNG, a file for each (headers count)",
    }
    return lines + [[title, f"{facts['lossless'][key]:.4f}", ""] for key, title in coders.items()]


def summary(facts: dict[str, Any]) -> str:
    """What the figures depend on, in words."""
    given = {"data": "given their labels or texts", "none": "without conditions"}[facts["condition"]]
    clean, noisy = facts["log_snr"]
    how = {
        "chain": "DDPM's bound, {steps} steps, decoder {decoder}, {times} times an image",
        "discrete": "VDM's bound, {steps} steps, decoder {decoder}, {times} times an image",
        "continuous": "VDM's bound in continuous time, decoder {decoder}, {times} times an image",
        "ode": "probability-flow ODE, rtol {rtol:g}, {probes} probes, {converged} converged; uniform "
        "dequantization, {times} an image, which bounds the likelihood of 8 bits",
    }[facts["method"]]
    lines = [
        f"{facts['images']:,} images of {facts['data']} ({facts['split']}), "
        f"{facts['dims']:,} dimensions, {given}",
        f"{how.format(**facts)}; {facts['calls']:,.0f} network calls an image",
        f"levels {facts['levels']}, log-SNR from {clean:.4g} to {noisy:.4g}",
    ]
    return "\n".join(lines)


def _rate(rate: Rate) -> dict[str, float | None]:
    return {"value": rate.value, "error": None if math.isnan(rate.error) else rate.error}


def _cells(rate: dict[str, float | None]) -> list[str]:
    return ["" if value is None else f"{value:.4f}" for value in (rate["value"], rate["error"])]


def _schedule(net: Denoiser, levels: str) -> Schedule:
    """The schedule of that description; one that is learned is the model's own."""
    schedule = build(levels, SCHEDULES, "schedule", SCALINGS)
    if not any(True for _ in schedule.parameters()):
        return schedule
    if net.schedule is None:
        raise PhinError(f"levels {levels} are learned, and this model did not learn any; give others")
    return net.schedule


def _check(model: Model, images: Data, condition: Condition) -> None:
    """Refuses what has no likelihood in bits.

    Raises:
        PhinError: It says why.
    """
    ours, theirs = model.facts, Facts.of(images)
    for name, facts in ((f"{model.path}, a model of {model.recipe.data},", ours), (images.name, theirs)):
        if not facts.eight_bit:
            raise PhinError(
                f"{name} is not of 8-bit images and has no likelihood in bits; take what is, such as mnist"
            )
    if ours.shape != theirs.shape:
        sizes = [" x ".join(map(str, facts.shape)) for facts in (ours, theirs)]
        raise PhinError(
            f"{model.path} is a model of images of {sizes[0]}, and {images.name} has images of {sizes[1]}; "
            f"measure it on its own kind, such as --data {model.recipe.data}"
        )
    wanted = (ours.classes, ours.vocabulary, ours.class_names)
    assert isinstance(model.recipe, DiffusionRecipe)
    if any(wanted) and model.recipe.drop == {"data": 1, "none": 0}[condition]:
        way, other = ("with", "none") if condition == "data" else ("without", "data")
        raise PhinError(
            f"{model.path} was never trained {way} the condition of its images "
            f"(drop = {model.recipe.drop:g}); measure it by --condition {other}"
        )
    if (
        condition == "data"
        and any(wanted)
        and wanted != (theirs.classes, theirs.vocabulary, theirs.class_names)
    ):
        raise PhinError(
            f"{images.name} does not have the conditions that {model.path} takes; "
            "measure without any, by --condition none"
        )


def _some(model: Model, images: Data, split: Which, n: int | None, seed: int, condition: Condition) -> Batch:
    """The images that are measured, with their conditions: -1 where those shall not be given."""
    count = images.count(split)
    x, cond, total = images.split(split, min(1000, count or 1000) if n is None else n, seed)
    if model.facts.vocabulary and condition == "none":
        cond = {"text": torch.full((len(x), x.shape[-1] // model.facts.shape[-1]), -1)}
    elif model.facts.classes and condition == "none":
        cond = {"label": torch.full((len(x),), -1)}
    elif not (model.facts.vocabulary or model.facts.classes):
        cond = {}
    return Batch(x, cond, total)
