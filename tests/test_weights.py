"""Weights: each is the squared error that its paper says it is, and the likelihood's makes the schedule not
matter."""

import inspect
import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from phin.diffusion.denoiser import Prediction
from phin.diffusion.level import SCALINGS, Level
from phin.diffusion.losses import denoising_loss
from phin.diffusion.parameterization import PARAMETERIZATIONS, Parameterization, edm
from phin.diffusion.schedules import SCHEDULES, Discrete, Flow, Schedule
from phin.diffusion.weights import (
    WEIGHTS,
    Weight,
    flow,
    likelihood,
    min_snr,
    p2,
    sigmoid,
    simple,
    snr_plus_one,
    truncated_snr,
)
from phin.diffusion.weights import edm as edm_weight
from phin.oracle import Gaussian

CONTINUOUS = [name for name, make in SCHEDULES.items() if not isinstance(make(), Discrete)]
LOG_SNR = torch.linspace(-12, 12, 49, dtype=torch.float64)


def made(name: str, schedule: Schedule) -> Weight:
    """A registry entry; those that depend on a schedule take it."""
    factory = WEIGHTS[name]
    return factory(schedule) if "schedule" in inspect.signature(factory).parameters else factory()


@pytest.mark.parametrize("name", WEIGHTS)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_every_weight_is_a_positive_function_of_the_log_snr(name: str, dtype: torch.dtype) -> None:
    schedule = Flow()
    log_snr = schedule.log_snr(torch.linspace(0, 1, 101, dtype=torch.float64)).to(dtype)
    weight = made(name, schedule)(log_snr)
    assert weight.shape == log_snr.shape
    assert weight.dtype == dtype
    assert weight.isfinite().all()
    assert (weight > 0).all()
    exact = made(name, schedule)(log_snr.double())
    torch.testing.assert_close(weight.double(), exact, rtol=1e-3, atol=0)


@pytest.mark.parametrize("name", CONTINUOUS)
def test_the_likelihood_weight_is_positive_on_every_schedule(name: str) -> None:
    schedule = SCHEDULES[name]()
    for dtype in (torch.float32, torch.float64):
        weight = likelihood(schedule)(schedule.log_snr(torch.linspace(0.01, 0.99, 101, dtype=dtype)))
        assert weight.isfinite().all()
        assert (weight > 0).all()


@pytest.mark.parametrize(
    "make",
    [
        lambda: min_snr(0.0),
        lambda: min_snr(-1.0),
        lambda: p2(1.0, 0.0),
        lambda: p2(math.inf),
        lambda: sigmoid(math.nan),
        lambda: edm_weight(0.0),
        lambda: edm_weight(math.inf),
        lambda: likelihood(Discrete()),
    ],
)
def test_a_weight_that_is_none_is_refused(make: Callable[[], Weight]) -> None:
    with pytest.raises(ValueError, match=r"must be|needs|no slope"):
        make()


def losses(scaling: str, weight: Weight) -> tuple[Tensor, Tensor, Tensor, Tensor, Level]:
    """Of a denoiser that answers anything: its loss, the data, its answer, the noisy data and the levels."""
    level = SCALINGS[scaling](LOG_SNR).view(2)
    x, eps, answer = torch.randn(3, len(LOG_SNR), 5, dtype=torch.float64)
    loss = denoising_loss(lambda z, level: Prediction(answer), x, level, weight, noise=lambda like: eps)
    return loss, x, answer, level.alpha * x + level.sigma * eps, level


SQUARED_ERROR_OF: list[tuple[Weight, Parameterization]] = [
    (simple, PARAMETERIZATIONS["eps"]()),
    (lambda log_snr: torch.exp(-log_snr), PARAMETERIZATIONS["x"]()),
    (snr_plus_one, PARAMETERIZATIONS["v"]()),
    (edm_weight(0.5), edm(0.5)),
    (edm_weight(1.7), edm(1.7)),
    (flow, PARAMETERIZATIONS["flow"]()),
]


@pytest.mark.parametrize("scaling", SCALINGS)
@pytest.mark.parametrize(
    ("weight", "param"), SQUARED_ERROR_OF, ids=["eps", "x", "v", "edm(0.5)", "edm(1.7)", "flow"]
)
def test_the_weight_makes_it_the_squared_error_of_the_output(
    scaling: str, weight: Weight, param: Parameterization
) -> None:
    loss, x, answer, z, level = losses(scaling, weight)
    skip, out = param(level)
    error = (x - skip * z) / out - (answer - skip * z) / out
    torch.testing.assert_close(loss, error.square().mean(1), rtol=1e-9, atol=0)


@pytest.mark.parametrize("scaling", SCALINGS)
@pytest.mark.parametrize(
    ("weight", "of_x"),
    [
        (simple, lambda snr: snr),
        (snr_plus_one, lambda snr: snr + 1),
        (truncated_snr, lambda snr: snr.clamp(min=1)),
        (min_snr(), lambda snr: snr.clamp(max=5)),
        (min_snr(2.0), lambda snr: snr.clamp(max=2)),
        (p2(), lambda snr: snr / (1 + snr)),
        (p2(0.5, 3.0), lambda snr: snr / (3 + snr) ** 0.5),
        (edm_weight(), lambda snr: snr + 1 / 0.5**2),
        (sigmoid(), lambda snr: snr / (1 + snr * torch.tensor(-2.0).double().exp())),
    ],
    ids=[
        "simple",
        "snr_plus_one",
        "truncated_snr",
        "min_snr(5)",
        "min_snr(2)",
        "p2",
        "p2(0.5, 3)",
        "edm",
        "sigmoid",
    ],
)
def test_the_weight_of_the_error_of_x(scaling: str, weight: Weight, of_x: Callable[[Tensor], Tensor]) -> None:
    """As the papers write them: functions of the SNR that multiply |x - x̂|²."""
    loss, x, answer, _, level = losses(scaling, weight)
    snr = (level.alpha / level.sigma).square()
    expected = (of_x(snr) * (x - answer).square()).mean(1)
    torch.testing.assert_close(loss, expected, rtol=1e-9, atol=0)


@pytest.mark.parametrize("name", CONTINUOUS)
def test_the_likelihood_weight_is_the_speed_of_the_log_snr(name: str) -> None:
    schedule = SCHEDULES[name]()
    t, h = torch.linspace(0.01, 0.99, 50, dtype=torch.float64), 1e-6
    speed = (schedule.log_snr(t - h) - schedule.log_snr(t + h)) / (2 * h)
    torch.testing.assert_close(likelihood(schedule)(schedule.log_snr(t)), speed, rtol=1e-6, atol=0)


@pytest.mark.parametrize("name", CONTINUOUS)
def test_under_the_likelihood_weight_only_the_ends_of_the_schedule_matter(name: str) -> None:
    """Half the expected loss of the exact denoiser is the information that z(0) has on x beyond z(1), in
    nats.

    For a Gaussian with eigenvalues c it is 1/2 sum log (1 + c SNR(0)) / (1 + c SNR(1)), whatever lies between
    (Kingma et al., 2021, section 5.1; Guo, Shamai and Verdú, 2005). The expectation over x and eps is exact:
    the squared error is quadratic in them, so the mean over the points ±sqrt(n) along each of their n axes is
    its mean. The one over t is by Gauss-Legendre quadrature, between cuts where the integrand is smooth.
    """
    data = Gaussian(torch.tensor([0.4, -0.2]).double(), torch.tensor([[0.5, 0.3], [0.3, 0.4]]).double())
    schedule = SCHEDULES[name]()
    ends = schedule.log_snr(torch.tensor([0.0, 1.0], dtype=torch.float64))
    information = 0.5 * torch.log1p(data.axes[0][:, None] * ends.exp())
    expected = (information[:, 0] - information[:, 1]).sum()

    cuts = schedule.inverse(torch.linspace(ends[0].item(), ends[1].item(), 41, dtype=torch.float64))
    nodes, node_weights = legendre(8)
    low, width = cuts[:-1, None], cuts.diff()[:, None]
    t, share = (low + width * nodes).flatten(), (width * node_weights).flatten()

    points = (
        2 * torch.cat([torch.eye(4), -torch.eye(4)]).double()
    )  # sqrt(n) = 2 for n = 2 dimensions of x, 2 of eps
    root = torch.linalg.cholesky(data.cov)
    x, eps = data.mean + points[:, :2] @ root.T, points[:, 2:]
    level = schedule(t.repeat_interleave(len(points))).view(2)
    loss = denoising_loss(
        data.denoise, x.repeat(len(t), 1), level, likelihood(schedule), lambda like: eps.repeat(len(t), 1)
    )
    per_time = loss.view(len(t), len(points)).mean(1)
    torch.testing.assert_close(
        0.5 * 2 * (share * per_time).sum(), expected, rtol=1e-9, atol=0
    )  # 2: sum over dimensions


def legendre(n: int) -> tuple[Tensor, Tensor]:
    """Gauss-Legendre nodes and weights on [0, 1], by Golub and Welsch."""
    k = torch.arange(1, n, dtype=torch.float64)
    off = k / (4 * k**2 - 1).sqrt()
    nodes, vectors = torch.linalg.eigh(torch.diag(off, 1) + torch.diag(off, -1))
    return (nodes + 1) / 2, vectors[0] ** 2
