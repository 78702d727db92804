"""The adaptive ODE and what it computes, against closed forms: flows, quantiles, densities, determinants."""

import math
import re
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from phin.diffusion.denoiser import Denoise, Denoiser, Prediction
from phin.diffusion.guidance import classifier_free
from phin.diffusion.level import SCALINGS, Level, Scaling, vp
from phin.diffusion.noise import stream
from phin.diffusion.ode import (
    FOURTH,
    LAWS,
    NODES,
    STAGES,
    Exact,
    Hutchinson,
    LogProb,
    decode,
    dormand_prince,
    encode,
    flow,
    integrate,
    invert,
    log_prob,
    standard,
)
from phin.diffusion.parameterization import PARAMETERIZATIONS
from phin.diffusion.schedules import Cosine, Discrete, Flow, Linear, Schedule
from phin.diffusion.solvers import SOLVERS, sample
from phin.oracle import Gaussian, Mixture

GAUSSIAN = Gaussian(torch.tensor([0.3, -0.5]).double(), torch.tensor([[0.8, 0.5], [0.5, 0.6]]).double())
MIXTURE = Mixture.of(
    [0.5, 0.3, 0.2],
    torch.tensor([[0.3, -0.5], [1.0, 0.8], [-0.9, 0.4]]).double(),
    torch.tensor(
        [[[0.8, 0.5], [0.5, 0.6]], [[0.1, -0.05], [-0.05, 0.2]], [[0.3, 0.0], [0.0, 0.05]]]
    ).double(),
)
LINE = Mixture.of(
    [0.6, 0.4], torch.tensor([[-1.0], [0.8]]).double(), torch.tensor([[[0.05]], [[0.3]]]).double()
)
WIDE = Gaussian(
    torch.tensor([0.3, -0.5, 0.1, 0.7]).double(),
    torch.tensor(
        [[1.0, 0.5, 0.2, 0.0], [0.5, 0.8, 0.3, -0.2], [0.2, 0.3, 0.5, 0.1], [0.0, -0.2, 0.1, 0.4]]
    ).double(),
)
EACH_SCALING = pytest.mark.parametrize("scaling", SCALINGS.values(), ids=SCALINGS)


def level(scaling: Scaling, log_snr: float) -> Level:
    return scaling(torch.tensor(log_snr, dtype=torch.float64))


def slope_of(errors: list[float], steps: list[int]) -> float:
    return math.log(errors[0] / errors[-1]) / math.log(steps[-1] / steps[0])


# --- Dormand-Prince


def trees(a: Tensor, c: Tensor) -> list[tuple[int, Tensor, float]]:
    """The rooted trees up to order 5: (order, elementary weight of each stage, what b must sum it to)."""
    d, e = a @ c, a @ c**2
    return [
        (1, c**0, 1),
        (2, c, 1 / 2),
        (3, c**2, 1 / 3),
        (3, d, 1 / 6),
        (4, c**3, 1 / 4),
        (4, c * d, 1 / 8),
        (4, e, 1 / 12),
        (4, a @ d, 1 / 24),
        (5, c**4, 1 / 5),
        (5, c**2 * d, 1 / 10),
        (5, c * e, 1 / 15),
        (5, c * (a @ d), 1 / 30),
        (5, d**2, 1 / 20),
        (5, a @ c**3, 1 / 20),
        (5, a @ (c * d), 1 / 40),
        (5, a @ e, 1 / 60),
        (5, a @ a @ d, 1 / 120),
    ]


def test_the_tableau_satisfies_the_order_conditions() -> None:
    """All 17 up to order 5, and the 8 up to order 4 for the embedded method, which has no order 5: else there
    were no error to be told."""
    a = torch.tensor([[*row, *[0.0] * (7 - len(row))] for row in STAGES], dtype=torch.float64)
    c, fourth = torch.tensor(NODES, dtype=torch.float64), torch.tensor(FOURTH, dtype=torch.float64)
    torch.testing.assert_close(a.sum(1), c, rtol=0, atol=1e-14)
    assert all(abs(a[-1] @ weight - total) < 1e-14 for _, weight, total in trees(a, c))
    assert all(abs(fourth @ weight - total) < 1e-14 for order, weight, total in trees(a, c) if order < 5)
    assert max(abs(fourth @ weight - total) for order, weight, total in trees(a, c) if order == 5) > 1e-4


def curve(t: Tensor) -> Tensor:
    """y = r (cos w, sin w) with w = t + t² / 2 and r = 1 / (1 + t²), which solves the ODE below."""
    w = t + t**2 / 2
    return torch.stack([torch.cos(w), torch.sin(w)], -1) / (1 + t[:, None] ** 2)


def bent(t: Tensor, y: Tensor, rows: Tensor) -> Tensor:
    """y' = (1 + t) y turned by a right angle - 2 t |y| y."""
    turned = torch.stack([-y[:, 1], y[:, 0]], -1)
    return (1 + t)[:, None] * turned - (2 * t * y.norm(dim=1))[:, None] * y


def test_order_5_in_fixed_steps_and_an_error_estimate_of_order_5() -> None:
    """On y' = y cos t, y = e^(sin t)."""

    def field(t: Tensor, y: Tensor, rows: Tensor) -> Tensor:
        return y * torch.cos(t)[:, None]

    steps, errors, estimates, row = [20, 40, 80], [], [], torch.zeros(1, dtype=torch.int64)
    for n in steps:
        t, y, h = torch.zeros(1).double(), torch.ones(1, 1).double(), torch.full((1,), 3.0 / n).double()
        slope, total = field(t, y, row), 0.0
        for _ in range(n):
            y, off, slope = dormand_prince(field, t, y, h, slope, row)
            t, total = t + h, total + float(off.norm())
            torch.testing.assert_close(slope, field(t, y, row))  # first same as last
        errors.append(float((y - torch.exp(torch.sin(t))).norm()))
        estimates.append(total)
    assert abs(slope_of(errors, steps) - 5) < 0.15
    assert abs(slope_of(estimates, steps) - 4) < 0.15  # n steps of h^5


@pytest.mark.parametrize(("a", "b"), [(0.0, 1.5), (1.5, -0.5)])
def test_the_error_follows_the_tolerance(a: float, b: float) -> None:
    start, end = (curve(torch.tensor([t]).double()) for t in (a, b))
    for tolerance in (1e-3, 1e-5, 1e-7, 1e-9, 1e-11):
        solution = integrate(bent, start, a, b, tolerance, tolerance)
        assert solution.converged.all()
        assert solution.reached.item() == b
        assert solution.error.item() <= 1
        assert (solution.y - end).abs().max() < 20 * tolerance
    assert solution.steps.item() < 1500


def test_a_tolerance_is_used_up() -> None:
    """No more steps than are needed: halving the digits takes about 10^(1/5) of them less a digit."""
    start = curve(torch.zeros(1).double())
    few, many = (int(integrate(bent, start, 0.0, 2.0, tol, tol).steps) for tol in (1e-4, 1e-9))
    assert few < 16
    assert many < 16 * 10**1.1


def test_an_example_that_needs_no_step() -> None:
    y = torch.randn(3, 2).double()
    solution = integrate(bent, y, 0.7, 0.7)
    assert torch.equal(solution.y, y)
    assert solution.converged.all()
    assert not solution.evaluations.any()


def test_an_example_is_the_same_alone_and_beside_a_stiff_one_and_leaves_when_done() -> None:
    """To the last bit: state, error, number of steps. Each is evaluated as often as is said."""
    seen: list[Tensor] = []

    def field(t: Tensor, y: Tensor, rows: Tensor) -> Tensor:
        seen.append(rows)
        rate = torch.tensor([1.0, 300.0, 3.0]).double()[rows]
        return -rate[:, None] * (y - torch.cos(t)[:, None])

    def only(t: Tensor, y: Tensor, rows: Tensor) -> Tensor:
        return -3.0 * (y - torch.cos(t)[:, None])

    y = torch.tensor([[1.0, 0.3], [2.0, -1.0], [0.5, 0.1]]).double()
    together = integrate(field, y, 0.0, 3.0, 1e-7, 1e-7)
    counts = torch.cat(seen).bincount(minlength=3)
    assert torch.equal(counts, together.evaluations)
    assert together.steps[1] > 5 * together.steps[2]
    alone = integrate(only, y[2:], 0.0, 3.0, 1e-7, 1e-7)
    for all_of_them, one in zip(together, alone, strict=True):
        assert torch.equal(all_of_them[2:], one)


def test_the_exact_flow_of_an_example_does_not_depend_on_its_neighbours() -> None:
    """Nor the likelihood: a point between two narrow parts, or far away, needs many more steps."""
    data = Mixture.of([0.5, 0.5], torch.tensor([[-1.0], [1.0]]).double(), 0.01 * torch.ones(2, 1, 1).double())
    x = torch.tensor([[0.3], [1e-3], [-1.02], [9.0]]).double()
    ladder = Cosine(log_snr_max=8.0)
    moved = flow(data.denoise, x, *ends(ladder), 1e-6, 1e-6)
    likely = log_prob(data.denoise, x, ladder, terminal=data.log_prob)
    assert moved.steps.unique().numel() > 2
    for k in range(4):
        one = flow(data.denoise, x[k : k + 1], *ends(ladder), 1e-6, 1e-6)
        assert all(torch.equal(a[k : k + 1], b) for a, b in zip(moved, one, strict=True))
        lone = log_prob(data.denoise, x[k : k + 1], ladder, terminal=data.log_prob)
        assert torch.equal(likely.nats[k : k + 1], lone.nats)


def ends(schedule: Schedule) -> tuple[Level, Level]:
    """The cleanest level, and the noisiest."""
    levels = schedule.levels(2)
    return levels.at(-1), levels.at(0)


# --- what does not converge


def test_an_explosion_is_marked_with_where_and_how_far_off() -> None:
    """y' = y², from 1, is infinite at t = 1; from 0.25, at 4."""
    y = torch.tensor([[1.0], [0.25]]).double()
    solution = integrate(lambda t, y, rows: y**2, y, 0.0, 2.0, 1e-6, 1e-6)
    assert solution.converged.tolist() == [False, True]
    assert abs(solution.reached[0] - 1) < 1e-6
    assert not solution.error[0] <= 1
    assert solution.reached[1] == 2
    assert abs(solution.y[1] - 0.5) < 1e-5
    said = solution.complaint()
    assert "1 of 2 examples did not converge: example 0 came to log-SNR 1 in" in said
    assert "example 64 came to" in solution.complaint([64, 65])
    assert not solution._replace(converged=torch.ones(2, dtype=torch.bool)).complaint()


def test_too_few_steps_are_marked_and_what_is_there_is_right() -> None:
    solution = integrate(bent, curve(torch.zeros(1).double()), 0.0, 2.0, 1e-9, 1e-9, max_steps=7)
    assert not solution.converged
    assert solution.steps == 7
    assert 0 < solution.reached < 2
    torch.testing.assert_close(solution.y, curve(solution.reached), rtol=0, atol=1e-7)


def test_a_denoiser_that_fails_is_told_of_with_its_level() -> None:
    """One that gives nan below log-SNR 2, for the one example that is positive."""

    def denoise(z: Tensor, level: Level) -> Prediction:
        x = MIXTURE.denoise(z, level).x
        return Prediction(torch.where((level.log_snr < 2) & (z[:, :1] > 0), math.nan, x))

    x = torch.tensor([[-1.0, 0.3], [1.0, 0.3]]).double()
    with pytest.warns(
        RuntimeWarning, match=r"1 of 2 examples .* example 1 came to log-SNR 2 in .* nan times"
    ):
        solution = flow(denoise, x, *ends(Cosine()))
    assert solution.converged.tolist() == [True, False]
    assert abs(solution.reached[1] - 2) < 1e-6
    with pytest.warns(RuntimeWarning, match="1 of 2 examples .* example 65 came to"):
        likely = log_prob(denoise, x, Cosine(), terminal=MIXTURE.log_prob, indices=[64, 65])
    assert likely.solution.converged.tolist() == [True, False]
    at = level(vp, 10.0)
    exact = MIXTURE.log_prob(x * at.alpha, at) + 2 * at.alpha.log()
    torch.testing.assert_close(likely.nats, exact, rtol=0, atol=1e-4)  # the exact terminal density, wherever


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda x: Hutchinson(0), "probes = 0: at least 1"),
        (lambda x: integrate(bent, x, 0.0, 1.0, rtol=0.0), "rtol = 0.0"),
        (lambda x: integrate(bent, x, 0.0, 1.0, atol=-1.0), "atol = -1.0"),
        (lambda x: integrate(bent, x, 0.0, 1.0, max_steps=0), "max_steps = 0"),
        (
            lambda x: encode(GAUSSIAN.denoise, x / 0, Cosine().levels(2)),
            "x has the value inf in example 0",
        ),
        (lambda x: log_prob(GAUSSIAN.denoise, x * math.nan, Cosine()), "x has the value nan in example 0"),
        (
            lambda x: invert(GAUSSIAN.denoise, SOLVERS["ddim"](), Cosine().levels(5), x * math.nan),
            "x has the value nan",
        ),
        (lambda x: log_prob(GAUSSIAN.denoise, x, Cosine(), indices=[1, 2]), "2 indices were given for 3"),
        (lambda x: invert(GAUSSIAN.denoise, SOLVERS["ddpm"](), Cosine().levels(5), x), "draws noise"),
    ],
)
def test_bad_input_is_named(call: Callable[[Tensor], object], message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        call(torch.ones(3, 2).double())


# --- the flow


@EACH_SCALING
def test_the_flow_of_a_gaussian(scaling: Scaling) -> None:
    """Between any two levels, in either direction, to the tolerance; from and to the units of the scaling."""
    z = torch.randn(20, 2).double()
    for a, b in ((9.0, -9.0), (-9.0, 9.0), (1.0, -30.0), (20.0, 0.5)):
        t, s = level(scaling, a), level(scaling, b)
        start, size = z * torch.hypot(t.alpha, t.sigma), torch.hypot(s.alpha, s.sigma)
        exact = GAUSSIAN.flow(start, t, s) / size
        for tolerance in (1e-5, 1e-8):
            moved = flow(GAUSSIAN.denoise, start, t, s, tolerance, tolerance)
            torch.testing.assert_close(moved.y / size, exact, rtol=0, atol=50 * tolerance)


def test_the_flow_of_a_mixture_keeps_each_points_quantile() -> None:
    """In one dimension trajectories cannot cross: a denoiser that is not linear."""
    clean, noisy = ends(Cosine())

    def quantile(z: Tensor, at: Level) -> Tensor:
        parts = [
            torch.special.ndtr((z[:, 0] - part.mean) / part.cov[0].sqrt()) for part in LINE.marginal(at).parts
        ]
        return LINE.weights @ torch.stack(parts)

    x = torch.linspace(-1.8, 2.2, 30).double()[:, None]
    z = flow(LINE.denoise, clean.alpha * x, clean, noisy, 1e-9, 1e-9).y
    torch.testing.assert_close(quantile(z, noisy), quantile(clean.alpha * x, clean), rtol=0, atol=1e-8)


@EACH_SCALING
def test_what_is_encoded_is_decoded(scaling: Scaling) -> None:
    levels = Linear(scaling=scaling).levels(10)
    x = MIXTURE.sample(50)
    z = encode(MIXTURE.denoise, x, levels, 1e-8, 1e-8)
    torch.testing.assert_close(decode(MIXTURE.denoise, z.y, levels, 1e-8, 1e-8).y, x, rtol=0, atol=1e-5)
    assert (z.reached == levels.log_snr[0]).all()
    exact = GAUSSIAN.flow(levels.at(-1).alpha * x, levels.at(-1), levels.at(0))
    torch.testing.assert_close(encode(GAUSSIAN.denoise, x, levels, 1e-8, 1e-8).y, exact, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(
    ("name", "order", "scaling"),
    [("ddim", 1, vp), ("ddim", 1, SCALINGS["ve"]), ("heun", 2, vp), ("dpmpp_2m", 2, SCALINGS["flow"])],
)
def test_inversion_by_a_solvers_own_steps_has_its_order(name: str, order: int, scaling: Scaling) -> None:
    """It tends to the ODE's latent, and `sample` comes back from there."""
    x, steps = MIXTURE.sample(30), [30, 60, 120]
    back, off = [], []
    for n in steps:
        levels = Flow(5.0, -5.0, scaling=scaling).levels(n + 1)
        z = invert(MIXTURE.denoise, SOLVERS[name](), levels, x)
        exact = encode(MIXTURE.denoise, x, levels, 1e-7, 1e-7).y
        off.append(float((z - exact).square().mean().sqrt()))
        last = levels.at(-1)
        stay = MIXTURE.denoise(last.alpha * x, last).x
        back.append(
            float((sample(MIXTURE.denoise, SOLVERS[name](), levels, z) - stay).square().mean().sqrt())
        )
    assert abs(slope_of(off, steps) - order) < 0.3
    assert slope_of(back, steps) > order - 0.3
    assert back[-1] < 0.1


# --- the likelihood


@pytest.mark.parametrize(("rtol", "atol", "error"), [(1e-5, 1e-6, 1e-4), (1e-8, 1e-8, 1e-6)])
@pytest.mark.parametrize("data", [GAUSSIAN, MIXTURE, LINE], ids=["gaussian", "mixture", "line"])
def test_the_likelihood_is_the_exact_density(
    data: Gaussian | Mixture, rtol: float, atol: float, error: float
) -> None:
    """With the exact terminal marginal. e^-25 of noise is left, which the density does not feel."""
    x = data.sample(400)
    found = log_prob(data.denoise, x, Flow(25.0, -10.0), Exact(), rtol, atol, terminal=data.log_prob)
    assert found.solution.converged.all()
    assert (found.nats - data.log_prob(x)).abs().max() < error
    assert not found.std_error.any()


@EACH_SCALING
@pytest.mark.parametrize(
    "make",
    [
        lambda *ends, scaling: Cosine(0.008, *ends, scaling=scaling),
        Flow,
        lambda *ends, scaling: Discrete(Flow(*ends, scaling=scaling)),
    ],
)
def test_the_likelihood_depends_on_neither_scaling_nor_the_schedules_interior(
    make: Callable[..., Schedule], scaling: Scaling
) -> None:
    """It is the density of the noisy data that the cleanest level holds, in units of the data."""
    x = MIXTURE.sample(5)
    schedule = make(6.0, -9.0, scaling=scaling)
    clean, _ = ends(schedule)
    exact = MIXTURE.log_prob(clean.alpha * x, clean) + 2 * clean.alpha.log()
    found = log_prob(MIXTURE.denoise, x, schedule, rtol=1e-8, atol=1e-8, terminal=MIXTURE.log_prob)
    assert (found.nats - exact).abs().max() < 1e-6


@EACH_SCALING
def test_the_prior_is_the_terminal_density_unless_another_is_given(scaling: Scaling) -> None:
    """The density that N(0, alpha² + sigma²) has, pushed through the Gaussian's affine flow."""
    schedule = Flow(8.0, -2.0, scaling=scaling)  # far from noise, so that the prior is wrong
    x = GAUSSIAN.sample(20)
    clean, noisy = ends(schedule)
    z = GAUSSIAN.flow(clean.alpha * x, clean, noisy)
    spread = [at.alpha**2 * GAUSSIAN.axes[0] + at.sigma**2 for at in (noisy, clean)]
    stretch = (spread[0] / spread[1]).log().sum() / 2 + 2 * clean.alpha.log()
    variance = noisy.alpha**2 + noisy.sigma**2
    exact = torch.distributions.Normal(0.0, variance.sqrt()).log_prob(z).sum(1) + stretch
    found = log_prob(GAUSSIAN.denoise, x, schedule, rtol=1e-8, atol=1e-8)
    assert (found.nats - exact).abs().max() < 1e-6
    size = torch.hypot(noisy.alpha, noisy.sigma)
    torch.testing.assert_close(found.solution.y / size, z / size, rtol=0, atol=1e-6)
    torch.testing.assert_close(standard(z, noisy), exact - stretch)
    assert (found.nats - GAUSSIAN.log_prob(x)).abs().max() > 0.1


def test_a_point_whose_denoiser_does_not_depend_on_z() -> None:
    """All of it is noise: N(x; point, sigma² / alpha²). What does not depend on z has the Jacobian 0."""
    point = torch.tensor([0.7, -1.2]).double()
    schedule = Flow(4.0, -9.0)
    clean, _ = ends(schedule)
    noise = clean.sigma / clean.alpha
    x = point + noise * torch.randn(10, 2).double()

    def terminal(z: Tensor, level: Level) -> Tensor:
        return torch.distributions.Normal(level.alpha * point, level.sigma).log_prob(z).sum(1)

    found = log_prob(
        lambda z, level: Prediction(point.expand_as(z)), x, schedule, rtol=1e-8, atol=1e-8, terminal=terminal
    )
    exact = torch.distributions.Normal(point, noise).log_prob(x).sum(1)
    assert (found.nats - exact).abs().max() < 1e-6


def as_images(data: Gaussian | Mixture) -> Denoise:
    """The denoiser of four numbers for pictures (B, 1, 2, 2)."""
    return lambda z, level: Prediction(
        data.denoise(z.flatten(1), Level(*(f.flatten(1) for f in level))).x.view_as(z)
    )


@pytest.mark.parametrize("trace", [Exact(), Hutchinson(3)], ids=["exact", "hutchinson"])
def test_images_are_points_of_another_shape(trace: Exact | Hutchinson) -> None:
    x = WIDE.sample(7)
    flat = log_prob(WIDE.denoise, x, Cosine(), trace)
    images = log_prob(as_images(WIDE), x.view(7, 1, 2, 2), Cosine(), trace)
    torch.testing.assert_close(images.nats, flat.nats, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(images.solution.y.flatten(1), flat.solution.y, rtol=1e-9, atol=1e-9)


# --- Hutchinson


def log_jacobian(data: Gaussian, clean: Level, noisy: Level) -> Tensor:
    """M = log(dz_1 / dz_0) of the Gaussian's flow. Its Jacobians commute, so that one probe gives v^T M v."""
    values, axes = data.axes
    ratio = (noisy.alpha**2 * values + noisy.sigma**2) / (clean.alpha**2 * values + clean.sigma**2)
    return axes @ torch.diag(ratio.log() / 2) @ axes.T


def estimates(found: LogProb, x: Tensor, data: Gaussian, schedule: Schedule) -> Tensor:
    """What was estimated for tr M: what is not the estimate taken away."""
    clean, noisy = ends(schedule)
    z = data.flow(clean.alpha * x, clean, noisy)
    return found.nats - data.log_prob(z, noisy) - x.shape[1] * clean.alpha.log()


@pytest.mark.parametrize("law", LAWS)
def test_hutchinsons_probes_are_kept_along_the_ode(law: str) -> None:
    """So that its estimate is v^T M v for the examples' own v, and its standard error theirs."""
    schedule, probes = Flow(5.0, -5.0), 4
    x = WIDE.sample(6)
    found = log_prob(
        WIDE.denoise, x, schedule, Hutchinson(probes, LAWS[law]), 1e-8, 1e-8, WIDE.log_prob, seed=3
    )
    v = torch.stack([torch.as_tensor(LAWS[law](stream(3, "probe", k), (probes, 4))) for k in range(6)])
    each = torch.einsum("bpi,ij,bpj->bp", v, log_jacobian(WIDE, *ends(schedule)), v)
    torch.testing.assert_close(estimates(found, x, WIDE, schedule), each.mean(1), rtol=0, atol=1e-6)
    torch.testing.assert_close(found.std_error, each.std(1) / probes**0.5, rtol=0, atol=1e-6)


@pytest.mark.parametrize("law", LAWS)
def test_hutchinson_is_unbiased_and_its_error_as_stated(law: str) -> None:
    """Its mean is the exact trace; its variance 2 |M|², less twice the squared diagonal for signs."""
    schedule, n, probes = Flow(5.0, -5.0), 3000, 5
    x = WIDE.mean.expand(n, 4)
    found = log_prob(WIDE.denoise, x, schedule, Hutchinson(probes, LAWS[law]), 1e-4, 1e-4, WIDE.log_prob)
    got, m = estimates(found, x, WIDE, schedule), log_jacobian(WIDE, *ends(schedule))
    variance = 2 * m.square().sum() - (2 * m.diag().square().sum() if law == "rademacher" else 0)
    assert (got.mean() - m.trace()).abs() < 4.5 * (variance / probes / n).sqrt()
    assert abs(got.var() * probes / variance - 1) < 0.15
    assert abs(found.std_error.square().mean() * probes / variance - 1) < 0.1


def test_probes_go_by_the_examples_number() -> None:
    """Whatever the batch and its order; another seed draws others. A single probe has no standard error."""
    x = WIDE.sample(5)

    def likely(rows: list[int], seed: int = 0) -> LogProb:
        return log_prob(WIDE.denoise, x[rows], Cosine(), Hutchinson(2), seed=seed, indices=rows)

    every = likely([0, 1, 2, 3, 4])
    for rows in ([4, 2, 0], [3]):
        torch.testing.assert_close(likely(rows).nats, every.nats[rows], rtol=1e-9, atol=1e-9)
    assert (likely([0, 1, 2, 3, 4], seed=1).nats - every.nats).abs().min() > 1e-3
    assert log_prob(WIDE.denoise, x, Cosine(), Hutchinson(1)).std_error.isnan().all()


# --- networks


class Net(nn.Module):
    """A small network with a label, which writes down how it is called."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(3, 2)
        self.gain = nn.Buffer(torch.tensor([1.0, 5.0, 20.0])[:, None])
        self.mix = nn.Linear(2, 2)
        self.calls: list[tuple[torch.dtype, bool, int]] = []

    def forward(self, z: Tensor, log_snr: Tensor, label: Tensor) -> Tensor:
        self.calls.append((z.dtype, torch.is_autocast_enabled("cpu"), len(z)))
        assert len(z) == len(log_snr) == len(label)
        return torch.tanh(
            self.gain[label] * self.mix(z) + self.embed(label) + 0.1 * torch.sin(log_snr)[:, None]
        )


def test_a_float32_network_is_called_in_float32_and_without_autocast() -> None:
    net = Net()
    denoise = Denoiser(net, PARAMETERIZATIONS["v"]()).given(label=torch.tensor([0, 1]))
    x = torch.randn(2, 2)
    plain = log_prob(denoise, x, Cosine())
    with torch.autocast("cpu", torch.bfloat16), torch.inference_mode():
        cast = log_prob(denoise, x, Cosine())
        moved = flow(denoise, x, *ends(Cosine()))
    assert torch.equal(cast.nats, plain.nats)
    assert moved.y.dtype == cast.solution.y.dtype == torch.float32
    assert cast.nats.dtype == torch.float64
    assert {call[:2] for call in net.calls} == {(torch.float32, False)}
    assert all(parameter.grad is None for parameter in net.parameters())
    fine = Denoiser(net.double(), PARAMETERIZATIONS["v"]()).given(label=torch.tensor([0, 1]))
    exact = log_prob(fine, x.double(), Cosine(), rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(plain.nats, exact.nats, rtol=0, atol=1e-4)


def test_conditions_follow_the_examples_as_others_leave() -> None:
    net = Net().double()
    denoiser = Denoiser(net, PARAMETERIZATIONS["v"]())
    label = torch.tensor([0, 1, 2, 1])
    x = torch.tensor([[0.1, 0.2], [30.0, -1.0], [-0.4, 1.0], [1.0, -400.0]]).double()
    found = log_prob(denoiser.given(label=label), x, Cosine())
    assert {size for _, _, size in net.calls} >= {4, 1}
    assert sum(size for _, _, size in net.calls) == found.solution.evaluations.sum()

    def guided(rows: Tensor) -> Denoise:
        here = label[rows]
        return classifier_free(denoiser.given(label=here), denoiser.given(label=(here + 1) % 3), 2.0)

    both = flow(guided(torch.arange(4)), x, *ends(Cosine()), select=guided)
    for k in range(4):
        one = x[k : k + 1]
        alone = log_prob(denoiser.given(label=label[k : k + 1]), one, Cosine())
        torch.testing.assert_close(found.nats[k : k + 1], alone.nats, rtol=1e-9, atol=1e-9)
        lone = flow(guided(torch.tensor([k])), one, *ends(Cosine()))
        torch.testing.assert_close(both.y[k : k + 1], lone.y, rtol=1e-9, atol=1e-9)
