"""The data that laws are measured on, and the instruments: quadratures, derivatives, statistics.

None of them uses the theory that is put to the test.
"""

from collections.abc import Callable

import numpy as np
import torch
from torch import Generator, Tensor

from phin.diffusion.denoiser import Prediction
from phin.diffusion.level import SCALINGS, Level
from phin.diffusion.schedules import SCHEDULES, Discrete, Schedule
from phin.oracle import Gaussian, Mixture


def number(*values: float) -> Tensor:
    """Exact numbers: () of one, (n,) of several."""
    exact = torch.tensor(values, dtype=torch.float64)
    return exact if len(values) > 1 else exact[0]


GAUSSIAN = Gaussian(number(0.3, -0.5), number(0.8, 0.5, 0.5, 0.6).reshape(2, 2))
"""In the plane, correlated."""
STANDARD = Gaussian(torch.zeros(2).double(), torch.eye(2).double())
"""N(0, I)."""
LINE = Mixture.of([0.5, 0.3, 0.2], number(-1.2, 0.4, 1.5)[:, None], number(0.09, 0.25, 0.04)[:, None, None])
"""Three bumps on the line."""
PLANE = Mixture.of(
    [0.5, 0.3, 0.2],
    number(0.9, -0.5, -1.0, 0.8, -0.9, -0.9).reshape(3, 2),
    number(0.2, 0.1, 0.1, 0.1, 0.1, 0.0, 0.0, 0.2, 0.05, 0.0, 0.0, 0.05).reshape(3, 2, 2),
)
"""Three classes in the plane."""
ATOMS = Mixture.atoms([0.4, 0.1, 0.3, 0.2], number(-1.0, -0.5, 0.25, 1.0)[:, None])
"""Four values on the line."""

CONTINUOUS: dict[str, Schedule] = {
    name: schedule.requires_grad_(False)
    for name, make in SCHEDULES.items()
    if not isinstance(schedule := make(), Discrete)
}
"""Every schedule with a slope."""


def at(log_snr: float, scaling: str = "vp") -> Level:
    """One level."""
    return SCALINGS[scaling](number(log_snr))


def each_scaling(*log_snrs: float) -> list[tuple[str, Level]]:
    """These levels under every scaling, by name."""
    return [(f"{name}, λ = {value:g}", at(value, name)) for name in SCALINGS for value in log_snrs]


def line(low: float, high: float, n: int = 1001) -> tuple[Tensor, Tensor]:
    """Nodes (n, 1) and weights (n,) of the trapezoidal rule.

    For a smooth function that has died away at both ends its error is exponentially small.
    """
    x = torch.linspace(low, high, n, dtype=torch.float64)
    return x[:, None], torch.full((n,), (high - low) / (n - 1), dtype=torch.float64)


def around(level: Level, reach: float = 9.0, n: int = 1201) -> tuple[Tensor, Tensor]:
    """As `line`, wide enough for z at the level, of data within about ±2."""
    width = 3.5 * level.alpha.item() + reach * level.sigma.item()
    return line(-width, width, n)


def plane(reach: float = 8.0, n: int = 201) -> tuple[Tensor, Tensor]:
    """Nodes (n², 2) and weights (n²,) of the trapezoidal rule on a square."""
    x, w = line(-reach, reach, n)
    return torch.cartesian_prod(x[:, 0], x[:, 0]), torch.outer(w, w).flatten()


def normal(n: int = 40, dims: int = 1) -> tuple[Tensor, Tensor]:
    """Nodes (n^dims, dims) and weights of Gauss-Hermite quadrature for eps ~ N(0, I)."""
    nodes, weights = (torch.from_numpy(a) for a in np.polynomial.hermite_e.hermegauss(n))
    weights = weights / weights.sum()
    x = torch.cartesian_prod(*[nodes] * dims).reshape(-1, dims)
    return x, torch.cartesian_prod(*[weights] * dims).reshape(-1, dims).prod(1)


def legendre(low: float, high: float, n: int = 64) -> tuple[Tensor, Tensor]:
    """Nodes (n,) and weights of Gauss-Legendre quadrature on an interval."""
    nodes, weights = (torch.from_numpy(a) for a in np.polynomial.legendre.leggauss(n))
    return low + (high - low) * (nodes + 1) / 2, weights * (high - low) / 2


def derivative(f: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """f' by automatic differentiation, for an f that treats each number of x alone; differentiable again."""
    with torch.enable_grad():
        x = x if x.requires_grad else x.detach().clone().requires_grad_()
        y = f(x).sum()  # of a constant it has no graph
        return torch.autograd.grad(y, x, create_graph=True)[0] if y.requires_grad else torch.zeros_like(x)


def jacobian(f: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """df_i / dx_j (B, D, D) by automatic differentiation, for an f (B, D) -> (B, D) row by row."""
    with torch.enable_grad():
        x = x if x.requires_grad else x.detach().clone().requires_grad_()
        y = f(x)
        rows = [torch.autograd.grad(y[:, i].sum(), x, create_graph=True)[0] for i in range(y.shape[1])]
        return torch.stack(rows, 1)


def divergence(f: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """Trace of the Jacobian: (B,)."""
    return jacobian(f, x).diagonal(dim1=1, dim2=2).sum(1)


def slope(x: Tensor, y: Tensor) -> Tensor:
    """The slope of y (n, ...) over x (n,), by least squares."""
    x = x - x.mean()
    return torch.tensordot(x, y - y.mean(0), 1) / (x @ x)


def mean_of(draws: Tensor) -> tuple[Tensor, Tensor]:
    """The mean of independent draws (n, ...), and its standard error."""
    return draws.mean(0), draws.std(0) / len(draws) ** 0.5


def dice(seed: int = 0) -> Generator:
    """A random generator of its own, so that a law finds the same whatever ran before it."""
    return torch.Generator().manual_seed(seed)


def noise(like: Tensor, generator: Generator) -> Tensor:
    """Standard normal noise of the shape of `like`."""
    return torch.randn(like.shape, dtype=like.dtype, generator=generator)


def no_noise(like: Tensor) -> Tensor:
    """The mean of a stochastic step."""
    return torch.zeros_like(like)


def wrong(z: Tensor, level: Level) -> Prediction:
    """A denoiser that is not right."""
    return Prediction(torch.tanh(z / (level.alpha + level.sigma)) + 0.2)
