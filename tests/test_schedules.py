"""Schedules: the formulas and tables of their papers, and what every one must be."""

import inspect
import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import truncnorm
from torch import Tensor

from phin.diffusion.level import SCALINGS
from phin.diffusion.schedules import (
    SCHEDULES,
    Cosine,
    Discrete,
    Flow,
    Geometric,
    Karras,
    Knots,
    Learned,
    Linear,
    LinearSubVP,
    LogNormal,
    Schedule,
    Shifted,
    Sigmoid,
)

CONTINUOUS = [name for name, make in SCHEDULES.items() if not isinstance(make(), Discrete)]
ALL = pytest.mark.parametrize("name", SCHEDULES)
ALL_CONTINUOUS = pytest.mark.parametrize("name", CONTINUOUS)


def times(n: int = 2001, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.linspace(0, 1, n, dtype=dtype)


def close(actual: Tensor, expected: Tensor, tolerance: float = 1e-12) -> None:
    torch.testing.assert_close(actual, expected, rtol=tolerance, atol=tolerance)


@ALL_CONTINUOUS
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_log_snr_falls_strictly_and_is_finite(name: str, dtype: torch.dtype) -> None:
    log_snr = SCHEDULES[name]().log_snr(times(dtype=dtype))
    assert log_snr.dtype == dtype
    assert log_snr.isfinite().all()
    assert (log_snr.diff() < 0).all()


@ALL_CONTINUOUS
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_the_ends_are_the_stated_ones(name: str, dtype: torch.dtype) -> None:
    """Any `log_snr_max`, `log_snr_min`, `sigma_min` or `sigma_max` that a schedule takes is where it ends."""
    ends = {"log_snr_max": 7.5, "log_snr_min": -8.5, "sigma_min": 0.03, "sigma_max": 30.0}
    takes = inspect.signature(SCHEDULES[name]).parameters
    stated = {end: value for end, value in ends.items() if end in takes}
    for schedule, given_ends in (
        (SCHEDULES[name](), {end: takes[end].default for end in stated}),
        (SCHEDULES[name](**stated), stated),
    ):
        clean, noisy = schedule.log_snr(torch.tensor([0.0, 1.0], dtype=dtype)).tolist()
        for end, value in given_ends.items():
            log_snr = -2 * math.log(value) if end.startswith("sigma") else value
            there = clean if end in ("log_snr_max", "sigma_min") else noisy
            assert there == pytest.approx(log_snr, abs=1e-9 if dtype == torch.float64 else 2e-3)


@ALL_CONTINUOUS
def test_the_inverse_is_the_inverse(name: str) -> None:
    schedule = SCHEDULES[name]()
    t = times()
    log_snr = schedule.log_snr(t)
    close(schedule.inverse(log_snr), t, 1e-10)
    close(schedule.log_snr(schedule.inverse(log_snr)), log_snr, 1e-8)
    t = times(dtype=torch.float32)
    close(schedule.inverse(schedule.log_snr(t)), t, 2e-6)


@ALL_CONTINUOUS
def test_the_slope_is_the_derivative(name: str) -> None:
    schedule = SCHEDULES[name]()
    t, h = times(401)[2:-2], 1e-6
    difference = (schedule.log_snr(t + h) - schedule.log_snr(t - h)) / (2 * h)
    torch.testing.assert_close(schedule.slope(t), difference, rtol=1e-6, atol=0)
    assert (schedule.slope(times()) < 0).all()
    assert schedule.slope(times()).isfinite().all()
    assert schedule.slope(times(dtype=torch.float32)).dtype == torch.float32


@ALL
def test_forward_is_the_scaling_of_the_log_snr(name: str) -> None:
    schedule = SCHEDULES[name]()
    for dtype in (torch.float32, torch.float64):
        t = torch.rand(3, 5, dtype=dtype)
        level = schedule(t)
        expected = schedule.scaling(schedule.log_snr(t))
        for field, wanted in zip(level, expected, strict=True):
            assert field.shape == t.shape
            assert field.dtype == dtype
            assert torch.equal(field, wanted)


@ALL
@pytest.mark.parametrize("steps", [1, 2, 3, 10, 999])
def test_the_ladder_falls_from_noise_to_data(name: str, steps: int) -> None:
    """In float64 on the CPU, with distinct levels, from the noisiest to the cleanest, whatever the module was
    cast to, unless it is learned: then it has weights, which are cast."""
    schedule = SCHEDULES[name]()
    levels = schedule.levels(steps)
    assert all(field.dtype == torch.float64 and field.device.type == "cpu" for field in levels)
    assert levels.log_snr.shape == (steps,)
    assert (levels.log_snr.diff() > 0).all()
    noisiest, cleanest = schedule.log_snr(torch.tensor([1.0, 0.0], dtype=torch.float64))
    assert levels.log_snr[0] == noisiest
    if steps > 1:
        assert levels.log_snr[-1] == cleanest
    if not list(schedule.parameters()):
        cast = schedule.half().levels(steps)
        assert all(torch.equal(a, b) for a, b in zip(levels, cast, strict=True))


def test_knots_are_the_levels_of_their_ladder() -> None:
    """To the bit, from noise to data; on the line between two of them elsewhere, and back."""
    places = (9.5, 3.1, 2.9, -0.7, -6.3)
    schedule = Knots(*places)
    assert schedule.levels(5).log_snr.tolist() == list(reversed(places))
    line = torch.tensor([9.5, 6.3, 3.1, 3.0, 2.9, 1.1, -0.7, -3.5, -6.3], dtype=torch.float64)
    close(schedule.log_snr(times(9)), line)
    close(schedule.inverse(schedule.log_snr(times())), times())
    beyond = torch.tensor([-0.03125, 1.0625], dtype=torch.float64)  # where the first and the last line go on
    close(schedule.log_snr(beyond), torch.tensor([10.3, -7.7], dtype=torch.float64))
    close(schedule.inverse(schedule.log_snr(beyond)), beyond)
    slopes = torch.tensor([-25.6, -0.8, -22.4], dtype=torch.float64)
    close(schedule.slope(torch.tensor([0.1, 0.3, 0.9], dtype=torch.float64)), slopes)
    close(Knots(7, -9).log_snr(times()), 7 - 16 * times())


@pytest.mark.parametrize("inner", [Cosine(), Linear(scaling=SCALINGS["ve"]), Flow()])
def test_a_shifted_schedule_does_to_an_average_what_the_inner_one_does_to_one(inner: Schedule) -> None:
    """The mean of k copies, each with noise of its own, has sigma / sqrt(k)."""
    k, t = 8, times()
    one, many = inner(t), Shifted(inner, -math.log(k))(t)
    close(many.alpha.square() / (many.sigma.square() / k), one.alpha.square() / one.sigma.square(), 1e-9)


def test_shifted_straight_paths_are_those_of_their_paper() -> None:
    """sigma = r u / (1 + (r - 1) u), u being that of the paths, r = e^(-by / 2)."""
    u, r = Flow()(times()).sigma, 3.0
    close(Shifted(Flow(), -2 * math.log(r))(times()).sigma, r * u / (1 + (r - 1) * u), 1e-9)


def test_a_chain_of_a_shifted_schedule_is_the_shifted_chain() -> None:
    for inner in (Linear(), Cosine()):
        close(Discrete(Shifted(inner, -1.5), 50).table, Discrete(inner, 50).table - 1.5)


@ALL
@pytest.mark.parametrize("steps", [0, -3])
def test_a_ladder_has_at_least_one_step(name: str, steps: int) -> None:
    with pytest.raises(ValueError, match=f"steps = {steps}"):
        SCHEDULES[name]().levels(steps)


@ALL_CONTINUOUS
def test_any_scaling_can_be_had(name: str) -> None:
    make = SCHEDULES[name]
    if "scaling" not in inspect.signature(make).parameters:
        pytest.skip("its scaling is what it is")
    for scaling in SCALINGS.values():
        close(make(scaling=scaling)(times()).log_snr, make().log_snr(times()))
        close(make(scaling=scaling)(times()).alpha, scaling(make().log_snr(times())).alpha)


# --- each against its paper


def uncut(schedule: Linear | LinearSubVP | Cosine | Sigmoid | Flow) -> Tensor:
    """The paper's own time, at our times."""
    return schedule.start + (schedule.end - schedule.start) * times()


def test_linear_is_the_vp_sde() -> None:
    """alpha² = exp(-B), sigma² = 1 - exp(-B), and as an SDE g² = beta (Song et al., eq. 11 and 33)."""
    schedule = Linear()
    u, level = uncut(schedule), schedule(times())
    integral = 0.1 * u + (20 - 0.1) * u**2 / 2
    close(level.alpha, torch.exp(-integral / 2))
    close(level.sigma**2, 1 - torch.exp(-integral))
    speed = schedule.end - schedule.start  # of the paper's time in ours
    close(-(level.sigma**2) * schedule.slope(times()), (0.1 + (20 - 0.1) * u) * speed, 1e-9)
    assert schedule.end == pytest.approx(1)


def test_linear_subvp_is_the_subvp_sde() -> None:
    """alpha = exp(-B / 2), sigma = 1 - exp(-B) (Song et al., eq. 29)."""
    schedule = LinearSubVP()
    u, level = uncut(schedule), schedule(times())
    integral = 0.1 * u + (20 - 0.1) * u**2 / 2
    close(level.alpha, torch.exp(-integral / 2))
    close(level.sigma, 1 - level.alpha**2)
    assert schedule.end == pytest.approx(1)


def test_cosine_is_the_papers() -> None:
    schedule = Cosine()

    def f(u: Tensor | float) -> Tensor:
        return torch.cos((torch.as_tensor(u) + 0.008) / 1.008 * math.pi / 2) ** 2

    close(schedule(times()).alpha ** 2, f(uncut(schedule)) / f(torch.zeros((), dtype=torch.float64)))


@pytest.mark.parametrize(("first", "last", "tau"), [(-3.0, 3.0, 1.0), (0.0, 3.0, 0.7), (-3.0, 3.0, 0.3)])
def test_sigmoid_is_the_papers(first: float, last: float, tau: float) -> None:
    schedule = Sigmoid(first, last, tau)
    u = uncut(schedule)
    low, here, high = (
        torch.sigmoid(torch.as_tensor(v, dtype=torch.float64) / tau)
        for v in (first, first + (last - first) * u, last)
    )
    close(schedule(times()).alpha ** 2, (high - here) / (high - low))


def test_geometric_is_the_papers() -> None:
    level = Geometric(0.01, 50.0)(times())
    close(level.sigma, 0.01 * 5000 ** times())
    assert torch.equal(level.alpha, torch.ones_like(times()))


def test_karras_is_equation_5() -> None:
    n = 18
    i = torch.arange(n, dtype=torch.float64)
    sigmas = (80 ** (1 / 7) + i / (n - 1) * (0.002 ** (1 / 7) - 80 ** (1 / 7))) ** 7
    levels = Karras().levels(n)
    close(levels.sigma, sigmas)
    assert torch.equal(levels.alpha, torch.ones(n, dtype=torch.float64))


def test_log_normal_is_the_distribution_of_log_sigma() -> None:
    """For t uniform log sigma is a normal cut at 4 deviations: its quantile function is that normal's."""
    quantiles = truncnorm(-4, 4, loc=-1.2, scale=1.2).ppf(times().numpy())
    close(LogNormal()(times()).sigma.log(), torch.from_numpy(quantiles), 1e-9)


def test_flow_is_straight() -> None:
    schedule = Flow()
    level, u = schedule(times()), uncut(schedule)
    close(level.alpha, 1 - u)
    close(level.sigma, u)


@pytest.mark.parametrize(
    ("make", "arguments"),
    [
        (Linear, {"beta_min": 0.0}),
        (Linear, {"beta_min": 3.0, "beta_max": 2.0}),
        (Cosine, {"log_snr_max": -11.0}),
        (Sigmoid, {"first": 3.0, "last": 3.0}),
        (Sigmoid, {"tau": 0.0}),
        (Geometric, {"sigma_min": 0.0}),
        (Karras, {"sigma_min": 2.0, "sigma_max": 1.0}),
        (LogNormal, {"std": 0.0}),
        (Flow, {"log_snr_min": 10.0}),
        (Discrete, {"T": 0}),
    ],
)
def test_wrong_arguments_are_named(make: type[Schedule], arguments: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=str(next(iter(arguments.values())))):
        make(**arguments)  # pyright: ignore[reportArgumentType]


# --- chains


def test_the_chain_is_ddpms_table() -> None:
    betas = np.linspace(1e-4, 0.02, 1000)
    alpha_bar = np.cumprod(1 - betas)
    chain = Discrete(Linear(), 1000)
    np.testing.assert_allclose(chain.betas.numpy(), betas, rtol=0, atol=1e-12)
    np.testing.assert_allclose(chain.alpha_bar.numpy(), alpha_bar, rtol=1e-12)
    for dtype in (torch.float64, torch.float32):
        t = (torch.arange(1, 1001, dtype=torch.float64) / 1000).to(dtype)
        level = chain(t)
        np.testing.assert_allclose(
            level.alpha.numpy() ** 2, alpha_bar, rtol=1e-12 if dtype == torch.float64 else 1e-5
        )
        np.testing.assert_allclose(
            level.sigma.numpy() ** 2, 1 - alpha_bar, rtol=1e-11 if dtype == torch.float64 else 1e-5
        )
    ladder = chain.levels(1000)
    np.testing.assert_allclose(ladder.alpha.numpy() ** 2, alpha_bar[::-1], rtol=1e-12)


@given(st.integers(1, 3000))
def test_the_linear_chain_of_any_length(T: int) -> None:
    """DDPM's betas times 1000 / T, clipped at 0.999."""
    betas = np.linspace(1e-4 * 1000 / T, 0.02 * 1000 / T, T).clip(max=0.999)
    chain = Discrete(Linear(), T)
    np.testing.assert_allclose(chain.betas.numpy(), betas, rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(chain.alpha_bar.numpy(), np.cumprod(1 - betas), rtol=1e-10)


@given(st.integers(1, 3000))
def test_the_cosine_chain_of_any_length(T: int) -> None:
    """Improved DDPM's table: beta_i = min(1 - alpha_bar(i / T) / alpha_bar((i - 1) / T), 0.999)."""
    f = np.cos((np.arange(T + 1) / T + 0.008) / 1.008 * np.pi / 2) ** 2
    betas = np.minimum(1 - f[1:] / f[:-1], 0.999)
    chain = Discrete(Cosine(), T)
    np.testing.assert_allclose(chain.betas.numpy(), betas, rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(chain.alpha_bar.numpy(), np.cumprod(1 - betas), rtol=1e-9)


@ALL_CONTINUOUS
def test_any_schedule_makes_a_chain(name: str) -> None:
    """Strictly falling, each time belonging to the step above it, so that a uniform time draws the steps
    uniformly."""
    inner = SCHEDULES[name]()
    T = 37
    chain = Discrete(inner, T)
    assert chain.scaling is inner.scaling
    assert (chain.table.diff() < 0).all()
    grid = torch.arange(1, T + 1, dtype=torch.float64) / T
    assert torch.equal(chain.log_snr(grid), chain.table)
    close(chain.inverse(chain.table), grid)
    within = (torch.arange(10 * T, dtype=torch.float64) + 0.5) / (10 * T)
    assert torch.equal(chain.log_snr(within), chain.table.repeat_interleave(10))
    assert chain.log_snr(torch.zeros(())) == chain.table[0].float()


def test_the_inverse_of_a_chain_is_the_nearest_step() -> None:
    chain = Discrete(Linear(), 50)
    log_snr = torch.linspace(-12, 12, 400, dtype=torch.float64)
    nearest = (log_snr[:, None] - chain.table).abs().argmin(1) + 1
    close(chain.inverse(log_snr), nearest.double() / 50)
    assert Discrete(Linear(), 1).inverse(log_snr).unique().tolist() == [1.0]


@given(st.integers(1, 4000).flatmap(lambda T: st.tuples(st.just(T), st.integers(1, T))))
def test_respaced_steps_are_distinct_and_reach_both_ends(T_and_steps: tuple[int, int]) -> None:
    T, steps = T_and_steps
    chain = Discrete.__new__(Discrete)  # the grid asks for nothing but T
    torch.nn.Module.__init__(chain)
    chain.T = T
    chosen = (chain.grid(steps) * T).round().long()
    torch.testing.assert_close(chain.grid(steps) * T, chosen.double())
    assert len(chosen) == steps
    assert chosen[0] == T
    assert (chosen.diff() < 0).all()
    if steps > 1:
        assert chosen[-1] == 1
        assert chosen.diff().max() - chosen.diff().min() <= 1  # equally spaced, to rounding


def test_every_number_of_steps_of_a_chain() -> None:
    chain = Discrete(Linear(), 23)
    for steps in range(1, 24):
        assert (chain.levels(steps).log_snr.diff() > 0).all()
        assert set(chain.levels(steps).log_snr.tolist()) <= set(chain.table.tolist())
    with pytest.raises(ValueError, match="steps = 24"):
        chain.levels(24)


def test_a_chain_that_does_not_fall_is_refused_by_name() -> None:
    class Bumpy(Flow):
        def chain(self, T: int) -> Tensor:
            log_snr = super().chain(T)
            log_snr[4] = log_snr[3]
            return log_snr

    with pytest.raises(ValueError, match="Bumpy must fall strictly, but step 5 has"):
        Discrete(Bumpy(), 10)


@pytest.mark.parametrize(
    ("bump", "message"),
    [(2.0, "Bumpy must be finite and fall strictly, but it is .* at t = 0.301 after .* at t = 0.3$"),
     (math.nan, "but it is nan at t = 0.301 after .* at t = 0.3$")],
)  # fmt: skip
def test_a_curve_that_rises_anywhere_is_refused_by_name_and_place(bump: float, message: str) -> None:
    class Bumpy(Flow):
        def log_snr(self, t: Tensor) -> Tensor:
            return super().log_snr(t) + torch.where((t > 0.3005) & (t < 0.302), bump, 0.0)

    with pytest.raises(ValueError, match=message):
        Bumpy().check()


def test_ends_of_a_learned_schedule_may_be_whole_numbers() -> None:
    assert Learned(log_snr_max=9, log_snr_min=-3).ends.tolist() == [9.0, -3.0]


def test_a_chain_of_a_learned_schedule_has_its_parameters() -> None:
    inner = Learned()
    assert {id(p) for p in Discrete(inner, 10).parameters()} == {id(p) for p in inner.parameters()}


def test_a_chain_has_no_slope() -> None:
    with pytest.raises(ValueError, match="slope"):
        Discrete().slope(times())


def test_a_chain_is_ddpms_if_nobody_says_otherwise() -> None:
    assert torch.equal(Discrete().table, Linear().chain(1000))
    assert Discrete(T=10).scaling is Linear().scaling


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_steps_of_a_long_chain_are_found_in_either_precision(dtype: torch.dtype) -> None:
    T = 100_000
    chain = Discrete(Flow(), T)
    steps = torch.arange(1, T + 1, dtype=torch.float64)
    assert torch.equal(chain.log_snr((steps / T).to(dtype)), chain.table.to(dtype))
    middles = chain.log_snr(((steps - 0.5) / T).to(dtype))
    assert torch.equal(middles, chain.table.to(dtype))


def test_the_slope_can_be_had_in_inference_mode() -> None:
    with torch.inference_mode():
        slope = Cosine().slope(times(5))
    close(slope, Cosine().slope(times(5)))


@pytest.mark.parametrize("make", [Sigmoid, Flow, Cosine])
def test_a_clean_end_is_as_exact_in_float32(make: type[Sigmoid | Flow | Cosine]) -> None:
    schedule = make(log_snr_max=20.0)
    t = torch.linspace(0, 1, 1001)
    torch.testing.assert_close(schedule.log_snr(t).double(), schedule.log_snr(t.double()), rtol=0, atol=5e-3)


@pytest.mark.parametrize(
    "make",
    [
        lambda: Cosine(s=math.inf),
        lambda: Cosine(s=-0.5),
        lambda: Cosine(log_snr_max=100.0),
        lambda: Flow(log_snr_min=-100.0),
        lambda: LogNormal(deviations=9.0),
        lambda: LogNormal(mean=math.nan),
        lambda: Linear(beta_max=math.inf),
        lambda: LinearSubVP(beta_max=math.inf),
        lambda: Sigmoid(tau=1e-9),
        lambda: Sigmoid(tau=1e-3),
        lambda: Geometric(sigma_max=math.inf),
        lambda: Karras(sigma_max=math.inf),
        lambda: Karras(rho=0.0),
        lambda: Karras(rho=1e20),
        lambda: Karras(rho=math.inf),
        lambda: Karras(rho=math.nan),
        lambda: Linear(scaling=Flow()),
        lambda: Discrete(Geometric(), T=0),
        lambda: Knots(3),
        lambda: Knots(3, 3),
        lambda: Knots(3, math.nan),
        lambda: Knots(math.inf, 3),
        lambda: Knots(3, -math.inf),
        lambda: Knots(7, -2, 1),
        lambda: Shifted(Cosine(), math.nan),
        lambda: Shifted(Cosine(), -math.inf),
        lambda: Shifted(Discrete()),
        lambda: Shifted(Learned()),
    ],
)
def test_a_curve_that_is_none_is_refused(make: Callable[[], Schedule]) -> None:
    with pytest.raises(ValueError, match=r"must|angle|scaling|at least|not shifted"):
        make()
