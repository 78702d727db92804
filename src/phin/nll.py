"""The likelihood of 8-bit images under a trained model, in bits a dimension, with all that it depends on."""

import re
import time
from collections.abc import Callable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np
import torch

from phin import data as datasets
from phin import models, report
from phin.data.base import Batch, Data, Which
from phin.diffusion.decoder import DECODERS, Decoder
from phin.diffusion.denoiser import Denoiser
from phin.diffusion.level import SCALINGS
from phin.diffusion.schedules import SCHEDULES, Discrete, Schedule
from phin.errors import PhinError
from phin.families.autoencoder import Autoencoder
from phin.families.gan import Generator
from phin.metrics import activity
from phin.metrics.curve import Part
from phin.metrics.curve import curve as levels_of
from phin.metrics.elbo import BOUNDS
from phin.metrics.figure import ANY, figure, known
from phin.metrics.likelihood import METHODS, Bounding, Likelihood, Options, lossless, measure
from phin.models import Model
from phin.pictures import to_bytes
from phin.recipes import AutoencoderRecipe, DiffusionRecipe, Facts
from phin.registry import build
from phin.training.checkpoint import read_weights, save_weights

if TYPE_CHECKING:
    from matplotlib.axes import Axes

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
    curve: bool = False,
    watch: Callable[[int], None] = lambda images: None,
    **options: Any,
) -> dict[str, Any]:
    """Bits a dimension of images under a model, by its terms; and those that lossless coders need. JSON-able.

    Args:
        model: A diffusion model of 8-bit images, or an autoencoder.
        method: Of a diffusion model in `METHODS`, by default `ode` for one of dequantized images, `chain` for
            one of a chain, else `continuous`; of an autoencoder in `BOUNDS`, by default `elbo`.
        data: Name of the images, or folder:PATH; the model's own by default.
        split: Which of them.
        n: How many; by default 1000, or all if there are fewer.
        condition: "data" measures each image given its own label or text, "none" without; by default "data",
            but for a model that was trained without them.
        levels: Schedule; the model's own by default.
        decoder: In `DECODERS`; the method's own by default.
        batch: Images at once.
        curve: Whether to tell a bound's diffusion term by its levels, too.
        watch: Told how many more images have been measured.
        options: Fields of `metrics.likelihood.Options` that replace its defaults: steps, times, frac, trace,
            probes, particles, rtol, seed. One that the method does not use is refused.

    Raises:
        PhinError: A model or data without an 8-bit likelihood, data that do not fit the model, or an option
            that makes no sense.
    """
    if isinstance(model.net, Generator):
        raise PhinError(
            f"{model.path} is a GAN, which draws, and gives no image a likelihood: give a diffusion model or "
            "an autoencoder, or measure what it draws by `phin evaluate`"
        )
    if models.degradation(model) is not None:
        raise PhinError(
            f"{model.path} draws what is missing of a picture, and pictures as such have no likelihood under "
            "it: measure a model that begins from nothing, such as mnist"
        )
    plan = (_of_latents if isinstance(model.net, Autoencoder) else _of_levels)(model, method, levels, decoder)
    images = datasets.load(data or model.recipe.data)
    condition = condition or ("none" if plan.drop == 1 else "data")
    _check(model, plan.drop, images, condition)
    method, net = plan.method, plan.net
    try:
        chosen = Options(decoder=plan.decoder, **options)
        way = plan.way(chosen)
        given = {name for name, value in {**options, "decoder": decoder}.items() if value is not None}
        if unused := [name for name in sorted(given - {"seed"}) if way.facts.get(name) is None]:
            raise ValueError(f"{unused[0]} makes no difference to it: leave it out, or take another method")
        bounding = way if isinstance(way, Bounding) else None
        if curve and bounding is None:
            raise ValueError("it has no terms by level; for a curve take chain, discrete or continuous")
        sample = _some(model, images, split, n, chosen.seed, condition)
        begun = time.perf_counter()
        found = measure(net, sample, way, batch, watch)
        by_level = None
        if curve and bounding is not None and isinstance(net, Denoiser):
            by_level = _curve(net, sample, bounding, found, batch, watch)
        seconds = time.perf_counter() - begun
        active = None
        if isinstance(net, Autoencoder):  # for which a few images would not do
            active = activity.activity(net, _some(model, images, split, None, chosen.seed, condition))
    except ValueError as error:
        raise PhinError(f"method {method}: {error}") from error
    return {
        "data": images.name,
        "split": split,
        "images": found.images,
        "dims": found.dims,
        "condition": condition if sample.cond else "none",
        "method": method,
        "bits_per_dim": figure(found.total, found.images, split, ends=ANY),
        "terms": {name: known(rate) for name, rate in found.terms.items()},
        "nats": found.nats,
        "calls": found.calls,
        "converged": found.converged,
        **plan.facts,
        **way.facts,
        **({"decoder": decoder} if decoder else {}),
        **({"curve": by_level} if by_level else {}),
        **({"active": active} if active else {}),
        "seed": chosen.seed,
        "seconds": round(seconds, 3),
        "lossless": lossless(to_bytes(sample.x)),
    }


class Plan(NamedTuple):
    """How a model of some family is measured."""

    method: str
    net: Denoiser | Autoencoder
    way: Callable[[Options], Any]
    """Makes the method."""
    drop: float
    """The share of examples that the model was trained on without their condition."""
    facts: dict[str, Any]
    """What the figure depends on, besides the method's own; JSON-able."""
    decoder: Decoder | None = None


def _of_levels(model: Model, method: str | None, levels: str | None, decoder: str | None) -> Plan:
    """Of a diffusion model: by its levels."""
    net, recipe = models.denoiser(model), model.recipe
    assert isinstance(recipe, DiffusionRecipe)
    if levels is not None and re.search(r"\blearned\s*\(\s*[^)\s]", levels):
        raise PhinError(
            f"levels {levels}: what is learned is the model's own; say learned, or discrete(learned)"
        )
    levels = levels or recipe.density
    schedule = _schedule(net, levels)
    bound = "chain" if isinstance(schedule, Discrete) else "continuous"
    method = _known(method or ("ode" if recipe.dequantize else bound), METHODS, "diffusion models")
    if decoder is not None and decoder.split("(")[0].strip() == "gaussian":
        raise PhinError(f"decoder {decoder} gives a density, and 8-bit images need a probability")
    ends = schedule.log_snr(torch.tensor([0.0, 1.0], dtype=torch.float64)).tolist()
    return Plan(
        method,
        net,
        partial(METHODS[method], schedule),
        recipe.drop,
        {"levels": levels, "log_snr": ends},
        None if decoder is None else build(decoder, DECODERS, "decoder"),
    )


def _of_latents(model: Model, method: str | None, levels: str | None, decoder: str | None) -> Plan:
    """Of an autoencoder: by its latents."""
    net, recipe = model.net, model.recipe
    assert isinstance(net, Autoencoder)
    assert isinstance(recipe, AutoencoderRecipe)
    for name, given in (("levels", levels), ("decoder", decoder)):
        if given is not None:
            raise PhinError(f"{name} {given} is for diffusion models, and {model.path} is none: leave it out")
    method = _known(method or "elbo", BOUNDS, "autoencoders")
    if not net.likelihood.eight_bit:
        raise PhinError(
            f"{model.path} has the likelihood {recipe.likelihood}, which is no probability of 8-bit images: "
            "measure a model that was trained with discretized_logistic or discretized_gaussian"
        )
    return Plan(method, net, BOUNDS[method], recipe.drop, {"likelihood": recipe.likelihood})


def _known(method: str, registry: Mapping[str, object], kind: str) -> str:
    if method in registry:
        return method
    if method in (*METHODS, *BOUNDS):
        raise PhinError(f"method {method} is not for {kind}; they have {', '.join(registry)}")
    raise PhinError(f"unknown method {method!r}; there are {', '.join([*METHODS, *BOUNDS])}")


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
    lost = facts["images"] - facts["converged"]
    total = f"no bound: {lost} of {facts['images']} images not solved" if lost else "-log2 p(x), at most"
    lines = [["bits/dim", "", "standard error"], [total, *_cells(facts["bits_per_dim"])]]
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
    how = {
        "chain": "DDPM's bound, {steps} steps, decoder {decoder}, {times} times an image",
        "discrete": "VDM's bound, {steps} steps, decoder {decoder}, {times} times an image",
        "continuous": "VDM's bound in continuous time, decoder {decoder}, {times} times an image",
        "ode": "probability-flow ODE, rtol {rtol:g}, {trace}, {converged} converged; uniform "
        "dequantization, {times} an image, which bounds the likelihood of 8 bits",
        "elbo": "evidence lower bound, {times} draws of the latents an image, likelihood {likelihood}",
        "iwae": "importance-weighted bound, {particles} draws of the latents an image, {times} times, "
        "likelihood {likelihood}",
    }[facts["method"]]
    trace = {"trace": f"{facts['probes']} probes" if "probes" in facts else "exact trace"}
    lines = [
        f"{facts['images']:,} images of {facts['data']} ({facts['split']}), "
        f"{facts['dims']:,} dimensions, {given}",
        f"{how.format(**facts | trace)}; {facts['calls']:,.0f} network calls an image",
    ]
    if "levels" in facts:
        clean, noisy = facts["log_snr"]
        lines.append(f"levels {facts['levels']}, log-SNR from {clean:.4g} to {noisy:.4g}")
    if "active" in facts:
        lines.append(activity.in_words(facts["active"]))
    return "\n".join(lines)


def picture(facts: dict[str, Any]) -> bytes:
    """The curve of a bound, with a band of two standard errors, as a PNG file."""
    curve, colour = facts["curve"], report.light()["s1"]
    points, by_step = curve["points"], "steps" in curve["points"][0]
    value = np.array([point["value"] for point in points])
    error = np.array([0.0 if point["error"] is None else point["error"] for point in points])

    def draw(axes: "Axes") -> None:
        if by_step:
            edges = np.array([point["steps"][0] for point in points] + [points[-1]["steps"][1] + 1]) - 0.5
            for axis, scale in ((axes.xaxis, axes.set_xscale), (axes.yaxis, axes.set_yscale)):
                scale("log")
                axis.set_major_formatter("{x:g}")
            lowest = 0.3 * value[value > 0].min()
        else:
            edges = np.array([point["log_snr"][0] for point in points] + [points[-1]["log_snr"][1]])
            axes.invert_xaxis()
            lowest = 0.0
        low, high = np.maximum(value - 2 * error, lowest), np.maximum(value + 2 * error, lowest)
        axes.stairs(
            high, edges, baseline=low, fill=True, color=colour, alpha=0.25, lw=0, label="± 2 standard errors"
        )
        axes.stairs(value, edges, baseline=None, color=colour, lw=1.6, label="mean over images")
        axes.set_ylim(bottom=lowest)

    rates = {"all": facts["bits_per_dim"], **facts["terms"]}
    title = ",  ".join(f"{name} {rate['value']:.4f}" for name, rate in rates.items())
    across = "step, from data to noise" if by_step else "log-SNR, from data to noise"
    return report.picture(
        [draw], across, curve["unit"], [f"{facts['data']}, {facts['method']}, bits/dim: {title}"]
    )


def _curve(
    net: Denoiser, sample: Batch, way: Bounding, found: Likelihood, batch: int, watch: Callable[[int], None]
) -> dict[str, Any]:
    """A bound's diffusion term by its levels, JSON-able; of DDPM's chain, the decoder is step 1."""
    parts = levels_of(net, sample, way, batch=batch, watch=watch)
    if way.steps is None:
        points = [
            {"log_snr": [part.first, part.last], **known(part.rate), "draws": part.draws} for part in parts
        ]
        return {"unit": "bits/dim for each nat of log-SNR", "points": points}
    if way.steps[0] == 2:
        parts.insert(0, Part(1, 1, found.terms["reconstruction"], found.images * way.times))
    T = way.steps[-1]
    points = [
        {
            "steps": [int(part.first), int(part.last)],
            "log_snr": way.schedule.log_snr(torch.tensor([part.first, part.last]).double() / T).tolist(),
            **known(part.rate),
            "draws": part.draws,
        }
        for part in parts
    ]
    return {"unit": "bits/dim for each step", "points": points}


def _cells(rate: dict[str, Any]) -> list[str]:
    return ["" if value is None else f"{value:.4f}" for value in (rate["value"], rate["error"])]


def _schedule(net: Denoiser, levels: str) -> Schedule:
    """The schedule of that description; one that is learned is the model's own, or a chain of that."""
    schedule = build(levels, SCHEDULES, "schedule", SCALINGS)
    if not any(True for _ in schedule.parameters()):
        return schedule
    if net.schedule is None:
        raise PhinError(f"levels {levels} are learned, and this model did not learn any; give others")
    return Discrete(net.schedule, schedule.T) if isinstance(schedule, Discrete) else net.schedule


def _check(model: Model, drop: float, images: Data, condition: Condition) -> None:
    """Refuses what has no likelihood in bits.

    Raises:
        PhinError: It says why.
    """
    ours, theirs = model.facts, Facts.of(images)
    if ours.latents:
        raise PhinError(
            f"{model.path} lives in latents, and their likelihood is not that of images; measure a model of "
            "pixels, such as mnist"
        )
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
    wanted = (ours.classes, ours.vocabulary, ours.class_names, ours.alphabet)
    if any(wanted) and drop == {"data": 1, "none": 0}[condition]:
        way, other = ("with", "none") if condition == "data" else ("without", "data")
        raise PhinError(
            f"{model.path} was never trained {way} the condition of its images "
            f"(drop = {drop:g}); measure it by --condition {other}"
        )
    if (
        condition == "data"
        and any(wanted)
        and wanted != (theirs.classes, theirs.vocabulary, theirs.class_names, theirs.alphabet)
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
    elif model.facts.alphabet and condition == "none":
        cond = {"prompt": torch.full((len(x), 1), -1)}
    elif not (model.facts.vocabulary or model.facts.classes or model.facts.alphabet):
        cond = {}
    return Batch(x, cond, total)
