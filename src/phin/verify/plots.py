"""Plots that explain the laws: each shows what the theory says as a line, and what was measured as points."""

import math
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from phin import report
from phin.diffusion import ode
from phin.diffusion.bound import chain_terms
from phin.diffusion.decoder import gaussian
from phin.diffusion.guidance import classifier_free
from phin.diffusion.level import Level, flow, vp
from phin.diffusion.parameterization import PARAMETERIZATIONS
from phin.diffusion.schedules import SCHEDULES, Cosine, Discrete, Flow, Geometric, Linear
from phin.diffusion.solvers import Ancestral, DPMpp3M, sample
from phin.oracle import Gaussian

from .bounds import UNIT, average, fixed
from .guidance import NARROW, WIDE, tilted
from .instruments import LINE, at, dice, noise, normal, number
from .likelihood import exact_density, marginal
from .solvers import SOLVER_OF, distance, draws, quantile

if TYPE_CHECKING:
    from matplotlib.axes import Axes

INK, QUIET, SERIES = report.INK, report.QUIET, report.SERIES
EARTH, SEA = SERIES[0], SERIES[1]
DASHES = ("-", "--", ":")


def histogram(axes: "Axes", values: Tensor, low: float, high: float, bins: int, label: str) -> None:
    """A density, from draws."""
    counts, edges = np.histogram(values.numpy(), bins, (low, high))
    density = counts / len(values) / np.diff(edges)
    axes.stairs(density, edges, fill=True, color=SEA, alpha=0.35, lw=0, label=label)


def curve(axes: "Axes", x: Tensor, y: Tensor, label: str, color: str = EARTH, style: str = "-") -> None:
    """A line."""
    axes.plot(x.numpy(), y.numpy(), color=color, lw=1.6, ls=style, label=label)


def process() -> str:
    """Density over time, the ODE's paths and the SDE's."""
    schedule = Cosine(log_snr_max=7.0, log_snr_min=-7.0)
    t = torch.linspace(0, 1, 181, dtype=torch.float64)
    x = torch.linspace(-2.6, 2.6, 261, dtype=torch.float64)[:, None]
    density = torch.stack([LINE.log_prob(x, schedule(one)).exp() for one in t], 1)
    shade = (density / density.amax(0)).sqrt().numpy()
    p = torch.tensor([0.03, 0.12, 0.3, 0.47, 0.6, 0.7, 0.78, 0.86, 0.97], dtype=torch.float64)
    flows = torch.stack([quantile(p, schedule(one)) for one in t])
    levels = schedule.levels(181)
    states: list[Tensor] = []
    generator = dice(4)
    start = LINE.marginal(levels.at(0)).sample(6, generator)
    sample(
        LINE.denoise,
        Ancestral(),
        levels,
        start,
        lambda like: noise(like, generator),
        lambda z, level: states.append(z[:, 0]),
    )
    walks = torch.stack(states[::-1])

    def panel(axes: "Axes", lines: Tensor, color: str, label: str) -> None:
        picture = np.zeros((*shade.shape, 4))
        picture[..., :3] = (0.72, 0.53, 0.25)
        picture[..., 3] = 0.55 * shade
        axes.imshow(
            picture, extent=(0, 1, -2.6, 2.6), aspect="auto", origin="lower", interpolation="bilinear"
        )
        for i, line in enumerate(lines.T):
            axes.plot(t.numpy(), line.numpy(), color=color, lw=1.1, label=label if not i else None)

    return report.plot(
        [
            partial(panel, lines=flows, color=INK, label="ODE: points keep their quantile"),
            partial(panel, lines=walks, color=SEA, label="SDE: walks in the same density"),
        ],
        "time (0 data, 1 noise)",
        "z",
        size=(7.5, 3.4),
    )


def walks() -> str:
    """Undamped and damped, with the exact spread."""
    generator, T = dice(2), 100
    eps = torch.randn(T, 40, generator=generator, dtype=torch.float64)
    start = LINE.sample(40, generator)[:, 0]
    free, damped = [start], [start]
    for e in eps:
        free.append(free[-1] + e)
        damped.append(math.sqrt(0.94) * damped[-1] + math.sqrt(0.06) * e)
    steps = torch.arange(T + 1, dtype=torch.float64)
    survives = 0.94**steps
    variance = LINE.cov[0, 0]

    def panel(axes: "Axes", paths: Tensor, mean: Tensor, spread: Tensor) -> None:
        for path in paths.T:
            axes.plot(steps.numpy(), path.numpy(), color=SEA, lw=0.6, alpha=0.5)
        for sign in (-2, 2):
            label = "mean ± 2 standard deviations, exact" if sign > 0 else "_"
            curve(axes, steps, mean + sign * spread.sqrt(), label)

    spreads = variance + steps, survives * variance + 1 - survives
    return report.plot(
        [
            partial(panel, paths=torch.stack(free), mean=LINE.mean[0] + 0 * steps, spread=spreads[0]),
            partial(panel, paths=torch.stack(damped), mean=survives.sqrt() * LINE.mean[0], spread=spreads[1]),
        ],
        "step",
        "x",
        ["x ← x + ε: no end", "x ← √(1−β) x + √β ε: ends at N(0, 1)"],
    )


def marginals() -> str:
    """Simulated and exact, at four steps of a chain."""
    chain, generator = CHAINS_100, dice(3)
    x = LINE.sample(20_000, generator)
    at_step = {0: x[:, 0]}
    for step, beta in enumerate(chain.betas, 1):
        x = (1 - beta).sqrt() * x + beta.sqrt() * noise(x, generator)
        at_step[step] = x[:, 0]
    grid = torch.linspace(-3, 3, 301, dtype=torch.float64)

    def panel(axes: "Axes", step: int) -> None:
        level = chain(number(step / 100))
        histogram(axes, at_step[step], -3, 3, 60, "20,000 points, step by step")
        curve(axes, grid, LINE.log_prob(grid[:, None], level).exp(), "exact")
        axes.set_yticks([])

    steps = (2, 20, 50, 98)
    return report.plot(
        [partial(panel, step=step) for step in steps],
        "x",
        "density",
        [f"t = {step} of 100" for step in steps],
        (7.5, 2.6),
    )


CHAINS_100 = Discrete(Cosine(), 100)


def posterior() -> str:
    """q(x_s | x_t, x_0): draws with x_t near a value, and the exact Gaussian."""
    generator, x0 = dice(5), 0.8
    grid = torch.linspace(-1.6, 2.0, 361, dtype=torch.float64)

    def panel(axes: "Axes", s: Level, t: Level, seen: float) -> None:
        n = 600_000
        z = s.alpha * x0 + s.sigma * torch.randn(n, generator=generator, dtype=torch.float64)
        factor = t.alpha / s.alpha
        fresh = (t.sigma**2 - factor**2 * s.sigma**2).sqrt()
        later = factor * z + fresh * torch.randn(n, generator=generator, dtype=torch.float64)
        chosen = z[(later - seen).abs() < 0.02]
        histogram(axes, chosen, -1.6, 2.0, 60, "simulated pairs with x_t near the line")
        prior = Gaussian((s.alpha * x0).reshape(1), (s.sigma**2).reshape(1, 1))
        gain = factor * s.sigma**2 / t.sigma**2
        mean, variance = s.alpha * x0 + gain * (seen - t.alpha * x0), s.sigma**2 * (1 - gain * factor)
        exact = Gaussian(mean.reshape(1), variance.reshape(1, 1))
        curve(axes, grid, prior.log_prob(grid[:, None]).exp(), "q(x_s | x_0)", QUIET, "--")
        curve(axes, grid, exact.log_prob(grid[:, None]).exp(), "q(x_s | x_t, x_0), equation 7")
        axes.axvline(seen, color=INK, lw=0.8, ls=":")
        axes.set_yticks([])

    seen = -0.6
    trio = [(2.0, 0.5), (0.5, -0.5), (-0.5, -3.0)]
    return report.plot(
        [partial(panel, s=at(a), t=at(b), seen=seen) for a, b in trio],
        "x_s",
        "density",
        [f"log-SNR {a:g} from {b:g}" for a, b in trio],
        (7.5, 2.6),
    )


def terms() -> str:
    """KL of every step of two chains, small and large variance, and conditioned Gaussians."""
    nodes, w = normal(6, 2)

    def panel(axes: "Axes", chain: Discrete) -> None:
        shown = torch.unique(torch.logspace(math.log10(2), math.log10(chain.T), 40).round().long())
        for frac, color, name in [(0.0, EARTH, "small variance"), (1.0, SEA, "large variance")]:
            kl = chain_terms(HALF.denoise, nodes[:, :1], chain, shown, gaussian(), frac, fixed(nodes[:, 1:]))
            axes.plot(shown.numpy(), (kl @ w).numpy(), "o", ms=3.2, color=color, label=f"{name}, by the code")
            curve(axes, shown.double(), expected_kl(chain, shown, frac), f"{name}, by hand", color)
        axes.set_xscale("log")
        axes.set_yscale("log")

    chains = {"linear β, T = 1000": Discrete(Linear(), 1000), "cosine, T = 1000": Discrete(Cosine(), 1000)}
    return report.plot(
        [partial(panel, chain=chain) for chain in chains.values()], "step t", "nats", [*chains], (7.5, 3.5), 2
    )


HALF = Gaussian(torch.zeros(1).double(), torch.ones(1, 1).double() * 0.25)


def expected_kl(chain: Discrete, steps: Tensor, frac: float) -> Tensor:
    """E KL(q(x_{t-1} | x_t, x) ‖ p) of the exact denoiser on N(0, ¼), x ~ N(0, 1) as the nodes are."""
    survives = chain.alpha_bar[steps - 1]
    before = chain.alpha_bar[steps - 2]
    beta = 1 - survives / before
    small = (1 - before) / (1 - survives) * beta
    variance = small ** (1 - frac) * beta**frac
    share = 0.25 * survives / (0.25 * survives + 1 - survives)  # x̂ = share z / alpha
    error = (1 - share) ** 2 + share**2 * (1 - survives) / survives
    square = (before.sqrt() * beta / (1 - survives)) ** 2 * error
    return 0.5 * (small / variance - 1 - (small / variance).log() + square / variance)


def limits() -> str:
    """How the bound comes down to the entropy."""
    steps = [4, 8, 16, 32, 64, 128, 256, 512, 1024]
    schedules = {
        "cosine": Cosine(log_snr_max=6.0, log_snr_min=-8.0),
        "flow": Flow(6.0, -8.0),
        "geometric": Geometric(0.05, 54.6),
    }

    def draw(axes: "Axes") -> None:
        for color, (name, schedule) in zip(SERIES, schedules.items(), strict=False):
            found = [average(UNIT.denoise, UNIT, schedule, T).total - UNIT.entropy for T in steps]
            axes.plot(steps, torch.stack(found).numpy(), "o", color=color, ms=4, label=f"E[L_T] − H, {name}")
            axes.plot(
                steps,
                [closed_gap(schedule, T) for T in steps],
                color=color,
                lw=1.2,
                label="closed form" if not axes.get_lines()[1:] else "_",
            )
        axes.plot(steps, [8 / T for T in steps], color=QUIET, lw=1, ls=":", label="∝ 1 / T")
        axes.set_xscale("log", base=2)
        axes.set_yscale("log")
        axes.set_xticks(steps, [str(T) for T in steps])

    return report.plot([draw], "T", "nats")


def closed_gap(schedule: "Cosine | Flow | Geometric", T: int) -> float:
    """Divergence of the true reverse variance from the small one, summed over the steps, for N(0, 1)."""
    a = schedule.levels(T + 1).log_snr
    ratio = torch.sigmoid(-a[:-1]) / torch.sigmoid(-a[1:])  # of noise shares: true over small variance
    return float(0.5 * (ratio - 1 - ratio.log()).sum())


def solver_orders() -> str:
    """Errors over steps, on the geometric schedule's ladder."""
    parts = (2, 4, 8, 16)
    steps = [12 * n for n in parts]
    ladders = [at_levels(n) for n in parts]

    def panel(axes: "Axes", stochastic: bool) -> None:
        names = [n for n, s in SOLVER_OF.items() if draws(s) is stochastic and s.order > 0]
        for i, name in enumerate(names):
            errors = [distance(SOLVER_OF[name], ladder).item() for ladder in ladders]
            label = f"{name}, {SOLVER_OF[name].order}"
            style: dict[str, Any] = {"color": SERIES[i % 6], "ls": DASHES[i // 6], "marker": "o"}
            axes.plot(steps, errors, ms=3.5, lw=1.4, label=label, **style)
        axes.set_xscale("log")
        axes.set_yscale("log")
        axes.set_xticks(steps, [str(n) for n in steps])
        axes.minorticks_off()

    sides = [
        report.plot([partial(panel, stochastic=kind)], "steps", up, size=(3.7, 4.6))
        for kind, up in [
            (False, "distance from the ODE's exact map"),
            (True, "distance of mean and covariance"),
        ]
    ]
    return f'<div class="pair">{"".join(sides)}</div>'


def at_levels(parts: int) -> Level:
    """A ladder from log-SNR −4 to 4, VP, of 12 times as many steps: levels (n, 1, 1, 1)."""
    levels = vp(torch.linspace(-4, 4, 12 * parts + 1, dtype=torch.float64))
    return Level(*(field[:, None, None, None] for field in levels))


def guided() -> str:
    """What guidance samples, and what the tilted data would be."""
    levels = flow(torch.linspace(-9, 8, 80, dtype=torch.float64))
    p = (torch.arange(4000, dtype=torch.float64) + 0.5) / 4000
    z = torch.special.ndtri(p)[:, None] * levels.sigma[0]
    grid = torch.linspace(-2, 3.2, 261, dtype=torch.float64)

    def panel(axes: "Axes", scale: float) -> None:
        x = sample(classifier_free(NARROW.denoise, WIDE.denoise, scale), DPMpp3M(), levels, z)
        histogram(axes, x[:, 0], -2, 3.2, 65, "guided samples")
        curve(axes, grid, WIDE.log_prob(grid[:, None]).exp(), "p(x)", QUIET, ":")
        curve(axes, grid, NARROW.log_prob(grid[:, None]).exp(), "p(x | y)", QUIET, "--")
        curve(axes, grid, tilted(scale).log_prob(grid[:, None]).exp(), "p(x) p(y | x)^w")
        axes.set_ylim(0, 2.2)
        axes.set_yticks([])

    scales = (0.0, 1.0, 2.0, 4.0)
    return report.plot(
        [partial(panel, scale=s) for s in scales],
        "x",
        "density",
        [f"scale {s:g}" for s in scales],
        (7.5, 2.6),
    )


def ode_likelihood() -> str:
    """Density by the ODE and exactly; the error for three tolerances."""
    schedule = Cosine(log_snr_max=8.0)
    grid = torch.linspace(-2.4, 2.4, 401, dtype=torch.float64)[:, None]
    x = torch.linspace(-2.4, 2.4, 61, dtype=torch.float64)[:, None]
    truth = exact_density(LINE, x, schedule)
    tolerances = (1e-3, 1e-5, 1e-8)
    found = {
        rtol: ode.log_prob(
            LINE.denoise, x, schedule, rtol=rtol, atol=rtol / 100, terminal=marginal(LINE)
        ).nats
        for rtol in tolerances
    }

    def densities(axes: "Axes") -> None:
        curve(axes, grid[:, 0], exact_density(LINE, grid, schedule).exp(), "exact")
        axes.plot(x[:, 0].numpy(), found[1e-5].exp().numpy(), "o", color=SEA, ms=3, label="by the ODE")

    def errors(axes: "Axes") -> None:
        for color, rtol in zip(SERIES[2:], tolerances, strict=False):
            axes.plot(
                x[:, 0].numpy(),
                (found[rtol] - truth).abs().numpy(),
                ".-",
                color=color,
                lw=0.8,
                ms=3,
                label=f"|error|, rtol {rtol:g}",
            )
        axes.set_yscale("log")

    left = report.plot([densities], "x", "density", size=(3.7, 3.0))
    right = report.plot([errors], "x", "nats", size=(3.7, 3.0))
    return f'<div class="pair">{left}{right}</div>'


def schedules() -> str:
    """Log-SNR over time, of every schedule."""

    def draw(axes: "Axes") -> None:
        t = torch.linspace(0, 1, 401, dtype=torch.float64)
        for i, (name, make) in enumerate(SCHEDULES.items()):
            schedule = make().requires_grad_(False)
            axes.plot(
                t.numpy(),
                schedule.log_snr(t).numpy(),
                color=SERIES[i % 6],
                ls=DASHES[i // 6],
                lw=1.5,
                label=name,
            )

    return report.plot([draw], "time", "log-SNR")


def parameterizations() -> str:
    """How an error of the network counts in x̂."""

    def draw(axes: "Axes") -> None:
        level = vp(torch.linspace(-8, 8, 201, dtype=torch.float64))
        for color, (name, make) in zip(SERIES, PARAMETERIZATIONS.items(), strict=False):
            axes.plot(level.log_snr.numpy(), make()(level)[1].abs().numpy(), color=color, lw=1.5, label=name)
        axes.set_yscale("log")

    return report.plot([draw], "log-SNR", "|out|", size=(7.5, 2.8))


PLOTS: dict[str, tuple[str, str, Callable[[], str]]] = {
    "process": (
        "One process, two ways back",
        "Shade: the exact density of a mixture of three Gaussians as it turns into noise. The ODE's "
        "solutions and the SDE's walks are different paths through the same densities.",
        process,
    ),
    "walks": (
        "Why the walk is damped",
        "Adding noise without shrinking what was there spreads without end. With the factor √(1 − β) the "
        "variance tends to 1, whatever the data.",
        walks,
    ),
    "marginals": (
        "Forward marginals",
        "Twenty thousand points of the mixture go through a chain of 100 steps one by one. The line is the "
        "marginal that the schedule gives at once.",
        marginals,
    ),
    "posterior": (
        "The posterior of a step",
        "Pairs of neighbouring levels are simulated from one x_0, and those are kept that come by x_t "
        "(dotted). What is left is the Gaussian that every ancestral step draws from.",
        posterior,
    ),
    "terms": (
        "Every term of the bound",
        "The KL of each step for the exact denoiser of N(0, ¼) on N(0, 1), in nats. "
        "Points: the code, by quadrature. Lines: worked out by hand from the paper's betas.",
        terms,
    ),
    "limits": (
        "T → ∞",
        "The bound of the exact denoiser less the entropy of the data: above 0, and falling as 1 / T.",
        limits,
    ),
    "orders": (
        "The order of every solver",
        "Errors against the exact answer for a Gaussian, where no Monte Carlo hides them. The number after "
        "the name is the order that the solver claims.",
        solver_orders,
    ),
    "guided": (
        "What guidance samples",
        "At scale 1 the samples are the class. Above it they are not the data tilted by p(y | x)^w, although "
        "at every single level the guided score is that of such a tilt.",
        guided,
    ),
    "likelihood": (
        "Likelihood by the ODE",
        "The density that the adaptive solver integrates to, point by point, and its error.",
        ode_likelihood,
    ),
    "schedules": (
        "Every schedule",
        "Log-SNR over time, 0 being data; the ends are stated, and finite.",
        schedules,
    ),
    "parameterizations": (
        "Every parameterization",
        "How much an error of the network's output moves x̂, by level.",
        parameterizations,
    ),
}
"""Name -> heading, text, and what draws it."""
