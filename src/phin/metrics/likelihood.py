"""How likely a model holds images to be, image by image: bounds and the ODE; and what lossless coders need.

A method gives each image several estimates of the terms of -log p(x), in nats. All that is random belongs to
the image's number, so neither the batch nor its order changes any of them.
"""

import io
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from phin.data.base import Batch
from phin.diffusion import ode
from phin.diffusion.bound import Bound, bound, chain_bound, to_bits
from phin.diffusion.decoder import Decoder, categorical
from phin.diffusion.denoiser import Denoise, Denoiser, Given, Prediction
from phin.diffusion.dequantization import bin_nats, dequantized
from phin.diffusion.level import Level
from phin.diffusion.losses import stratified
from phin.diffusion.noise import Noise, stream, uniform
from phin.diffusion.schedules import Discrete, Schedule
from phin.families.autoencoder import Autoencoder
from phin.metrics import jackknife
from phin.metrics.processes import process, whole


@dataclass(frozen=True)
class Options:
    """How to measure, whatever the method."""

    steps: int | None = None
    """T of a chain or of the bound in discrete time; 1000 if None, or a chain's own."""
    times: int | None = None
    """Estimates an image: stratified times, 8 if None; or dequantizations, 1 if None."""
    decoder: Decoder | None = None
    """log p(x | z) at the cleanest level; the chain's discretised Gaussian or the categorical if None."""
    frac: float = 0.0
    """A chain's fixed reverse variance, 0 small to 1 large."""
    trace: str = "hutchinson"
    """Of the ODE's Jacobian: estimated, or exact at as many backward passes as there are dimensions."""
    probes: int | None = None
    """Of Hutchinson's estimate; 1 if None."""
    particles: int = 64
    """Draws of an autoencoder's latents whose weights are averaged."""
    rtol: float = 1e-5
    """Tolerated error of a step of the ODE, relative and absolute."""
    seed: int = 0
    """Of times, noise, dequantization and probes."""

    def __post_init__(self) -> None:
        if self.steps is not None and self.steps < 2:
            raise ValueError(f"steps = {self.steps}: a bound needs at least T = 2 steps")
        if self.times is not None and self.times < 1:
            raise ValueError(f"times = {self.times}: at least 1 is needed")
        if not 0 <= self.frac <= 1:
            raise ValueError(f"frac = {self.frac}: it lies between 0, the small variance, and 1, the large")
        if self.trace not in ("hutchinson", "exact"):
            raise ValueError(f"unknown trace {self.trace!r}; there are hutchinson and exact")
        if self.probes is not None and self.trace == "exact":
            raise ValueError(f"probes = {self.probes}: an exact trace needs none, leave them out")
        if self.probes is not None and self.probes < 1:
            raise ValueError(f"probes = {self.probes}: at least 1 is needed")
        if self.particles < 1:
            raise ValueError(f"particles = {self.particles}: at least 1 is needed")


class Estimate(NamedTuple):
    """What a method says of some images."""

    terms: dict[str, Tensor]
    """Terms of -log p(x), nats (n, K), K estimates of each."""
    calls: Tensor
    """Passes of the network over each image (n,)."""
    converged: Tensor
    """(n,), bool: false where the ODE's solution is not to be trusted."""
    times: Tensor | None = None
    """Where in [0, 1) the estimates of a bound's diffusion term were taken (n, K)."""


class Method(Protocol):
    """A way to measure."""

    @property
    def facts(self) -> dict[str, Any]:
        """What it depends on, JSON-able."""
        ...

    def __call__(self, denoise: Given, x: Tensor, indices: Sequence[int]) -> Estimate:
        """Estimates for images.

        Args:
            denoise: The denoiser, with the conditions of the images.
            x: Images (n, ...).
            indices: Their numbers.
        """
        ...


Form = Callable[[Denoise, Tensor, Tensor, Noise], Bound]
"""(denoise, x, times, noise) -> a bound with one time an example."""


@dataclass(frozen=True)
class Bounding:
    """A bound, at stratified times with fresh noise for each.

    Image k has the times (j + u) / K, j < K, with u from the golden ratio's sequence: the images' times are
    spread evenly among each other, too.
    """

    form: Form
    schedule: Schedule
    steps: range | None
    """The steps that times in [0, 1) stand for, each of them for an equal share; None in continuous time."""
    times: int
    seed: int
    facts: dict[str, Any]
    edges: Float[Tensor, " parts_1"] | None = None
    """Of parts of [0, 1] that shall have as many times each; all of it is one if None."""

    def __call__(self, denoise: Given, x: Tensor, indices: Sequence[int]) -> Estimate:
        """The bound's terms."""
        k = self.times
        shift = float(stream(self.seed, "nll time").random())
        places = [(shift + i * (math.sqrt(5) - 1) / 2) % 1 for i in indices]
        times = torch.cat([stratified(torch.full((k,), u, dtype=torch.float64)) for u in places])
        if self.edges is not None:
            place = times * (len(self.edges) - 1)
            part = place.long().clamp(max=len(self.edges) - 2)
            times = torch.lerp(self.edges[part], self.edges[part + 1], place - part).clamp(max=1 - 2**-53)
        generators = [stream(self.seed, "nll noise", i) for i in indices]

        def noise(like: Tensor) -> Tensor:
            rows = [g.standard_normal((k, *like.shape[1:]), dtype=np.float32) for g in generators]
            return torch.as_tensor(np.concatenate(rows)).to(like)

        calls = 0

        def counting(z: Tensor, level: Level) -> Prediction:
            nonlocal calls
            calls += len(z)
            return repeated(z, level)

        repeated = denoise.rows(torch.arange(len(x)).repeat_interleave(k))
        found = self.form(counting, x.repeat_interleave(k, 0), times.to(x.device), noise)
        terms = {name: term.view(len(x), k).double().cpu() for name, term in found._asdict().items()}
        counts, fine = torch.full((len(x),), calls / len(x)), torch.ones(len(x), dtype=torch.bool)
        return Estimate(terms, counts, fine, times.view(len(x), k))


@dataclass(frozen=True)
class Flow:
    """The exact likelihood of the probability-flow ODE, of uniformly dequantized images (`dequantization`).

    It bounds that of the 8-bit images: the density's bits a dimension, plus log2(127.5).
    """

    schedule: Schedule
    options: Options

    @property
    def facts(self) -> dict[str, Any]:
        """What it depends on."""
        options = self.options
        drawn = {"dequantization": "uniform", "times": options.times or 1}
        probes = {} if options.trace == "exact" else {"probes": options.probes or 1}
        return {**drawn, "trace": options.trace, **probes, "rtol": options.rtol}

    def __call__(self, denoise: Given, x: Tensor, indices: Sequence[int]) -> Estimate:
        """The density's share, and the bin's."""
        options, k = self.options, self.options.times or 1
        drawn = uniform(options.seed, "dequantization", indices, (k, *x.shape[1:]))
        inside = dequantized(x.repeat_interleave(k, 0), drawn.flatten(0, 1).to(x))
        repeated = denoise.rows(torch.arange(len(x)).repeat_interleave(k))
        numbers = [i * k + j for i in indices for j in range(k)]
        found = ode.log_prob(
            repeated,
            inside,
            self.schedule,
            ode.Exact() if options.trace == "exact" else ode.Hutchinson(options.probes or 1),
            options.rtol,
            options.rtol,
            seed=options.seed,
            indices=numbers,
        )
        bins = torch.full((len(x), k), bin_nats(x[0].numel()), dtype=torch.float64)
        density = -found.nats.view(len(x), k).cpu()
        solution = found.solution
        return Estimate(
            {"density": density, "dequantization": bins},
            solution.evaluations.view(len(x), k).sum(1).cpu(),
            solution.converged.view(len(x), k).all(1).cpu(),
        )


def _chain(schedule: Schedule, options: Options) -> Method:
    if not isinstance(schedule, Discrete):
        schedule = Discrete(schedule, options.steps or 1000)
    elif options.steps not in (None, schedule.T):
        raise ValueError(f"steps = {options.steps}, but the chain has T = {schedule.T}: leave steps out")

    def form(denoise: Denoise, x: Tensor, times: Tensor, noise: Noise) -> Bound:
        return chain_bound(denoise, x, schedule, options.decoder, times, options.frac, noise)

    facts = {"steps": schedule.T, "decoder": "discretized_gaussian", "frac": options.frac}
    return _bounding(form, schedule, range(2, schedule.T + 1), options, facts)


def _vdm(schedule: Schedule, options: Options, steps: int | None) -> Method:
    decoder = options.decoder or categorical()

    def form(denoise: Denoise, x: Tensor, times: Tensor, noise: Noise) -> Bound:
        return bound(denoise, x, schedule, decoder, steps, times, noise)

    rungs = None if steps is None else range(1, steps + 1)
    return _bounding(form, schedule, rungs, options, {"steps": steps, "decoder": "categorical"})


def _bounding(
    form: Form, schedule: Schedule, steps: range | None, options: Options, facts: dict[str, Any]
) -> Method:
    times = options.times or 8
    return Bounding(form, schedule, steps, times, options.seed, {**facts, "times": times})


def _discrete(schedule: Schedule, options: Options) -> Method:
    own = schedule.T if isinstance(schedule, Discrete) else 1000
    return _vdm(schedule, options, options.steps or own)


def _continuous(schedule: Schedule, options: Options) -> Method:
    if isinstance(schedule, Discrete):
        raise ValueError("a discrete chain is no schedule in continuous time: use the one it was made of")
    return _vdm(schedule, options, None)


METHODS: dict[str, Callable[[Schedule, Options], Method]] = {
    "chain": _chain,
    "discrete": _discrete,
    "continuous": _continuous,
    "ode": Flow,
}
"""Name -> factory: DDPM's chain, VDM's T steps, continuous time, and the probability-flow ODE."""


def rate(nats: Float[Tensor, " n"], dims: int) -> jackknife.Estimate:
    """Bits a dimension: the mean over images, and its standard error, with all that is random in it.

    Since times are spread evenly, the error is overstated rather than not; a single image has none (nan).

    Args:
        nats: Of each image.
        dims: Of an image.
    """
    return jackknife.mean(to_bits(nats.double(), dims))


class Draws(NamedTuple):
    """Estimates of a bound's diffusion term, each at one time: the mean over uniform times is the term."""

    times: Float[Tensor, "n k"]
    """In [0, 1)."""
    bits: Float[Tensor, "n k"]
    """A dimension."""


@dataclass(frozen=True)
class Likelihood:
    """What was measured."""

    dims: int
    images: int
    total: jackknife.Estimate
    terms: dict[str, jackknife.Estimate]
    nats: float
    """An image, the mean."""
    calls: float
    """Passes of the network an image, the mean."""
    converged: int
    """Images whose solution of the ODE converged; all, for a bound."""
    draws: Draws | None
    """Of a bound's diffusion term; None for the ODE."""


@torch.no_grad()
def measure(
    model: Denoiser | Autoencoder,
    data: Batch,
    method: Callable[[Any, Tensor, Sequence[int]], Estimate],
    batch: int = 64,
    watch: Callable[[int], None] = lambda images: None,
) -> Likelihood:
    """Bits a dimension of images under a model.

    Several processes, if they have been joined, measure a part of the images each, and all of them know the
    result.

    Args:
        model: A denoiser or an autoencoder, in evaluation mode.
        data: Images of integers, and the conditions that they are measured under.
        method: How, from `METHODS`, or from `metrics.elbo.BOUNDS` for an autoencoder.
        batch: Images at once.
        watch: Told how many images have been measured since it was last told.

    Raises:
        ValueError: As the method: on images that are not of 8 bits, for instance; and fewer images than
            processes.
    """
    device, (rank, processes) = next(model.parameters()).device, process()
    if len(data.x) < processes:
        raise ValueError(f"{len(data.x)} images are too few for {processes} processes: measure more")
    found: list[Estimate] = []
    places = range(rank, len(data.x), processes)
    for start in range(0, len(places), batch):
        rows = places[start : start + batch]
        own = slice(rows.start, rows.stop, processes)
        cond = {name: value[own].to(device) for name, value in data.cond.items()}
        found.append(method(model.given(**cond), data.x[own].to(device), rows))
        watch(len(rows))
    dims = data.x[0].numel()
    terms = {name: whole(torch.cat([part.terms[name] for part in found])) for name in found[0].terms}
    total = torch.stack(list(terms.values())).sum(0)
    times = [part.times for part in found if part.times is not None]
    return Likelihood(
        dims,
        len(total),
        rate(total.mean(1), dims),
        {name: rate(term.mean(1), dims) for name, term in terms.items()},
        float(total.mean()),
        float(whole(torch.cat([part.calls for part in found])).double().mean()),
        int(whole(torch.cat([part.converged for part in found])).sum()),
        Draws(whole(torch.cat(times)), to_bits(terms["diffusion"], dims)) if times else None,
    )


LONGEST = 16_383  # pixels of a side of a WebP file


def lossless(pictures: UInt8[np.ndarray, "n height width *channels"]) -> dict[str, float]:
    """Bits a dimension that PNG and WebP (lossless) need, for each picture a file and for all in tall ones.

    Small files are mostly header, so the tall ones, whose pictures stand one below the other, are the fairer
    measure.
    """
    from PIL import Image

    ways = {"png": {"optimize": True}, "webp": {"lossless": True, "quality": 100, "method": 4}}
    high = max(1, LONGEST // pictures.shape[1])
    tall = [pictures[i : i + high].reshape(-1, *pictures.shape[2:]) for i in range(0, len(pictures), high)]

    def size(picture: np.ndarray, kind: str) -> int:
        file = io.BytesIO()
        Image.fromarray(picture).save(file, kind, **ways[kind])
        return file.tell()

    found: dict[str, float] = {}
    for kind in ways:
        found[kind] = 8 * sum(size(picture, kind) for picture in pictures) / pictures.size
        found[f"{kind}_tall"] = 8 * sum(size(picture, kind) for picture in tall) / pictures.size
    return found
