"""What a network predicts, each against Bayes' rule or the formula of its paper."""

from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn

from phin.diffusion.denoiser import Denoiser
from phin.diffusion.level import Level
from phin.diffusion.level import flow as flow_scaling
from phin.diffusion.parameterization import PARAMETERIZATIONS, Parameterization, edm, eps, flow, score, v, x

from .instruments import GAUSSIAN, LINE, around, derivative, dice, each_scaling, line, normal, number
from .law import Case, law


def output(param: Parameterization, data: Tensor, z: Tensor, level: Level) -> Tensor:
    """What a network must put out, F = (x̂ − skip z) / out."""
    skip, out = param(level)
    return (data - skip * z) / out


def average(target: Callable[[Tensor, Tensor, Level], Tensor], z: Tensor, level: Level) -> Tensor:
    """E[target(x, eps) | z] on the line by Bayes' rule: (n, 1)."""
    data, w = line(-9, 9, 2401)
    noise = (z[:, None] - level.alpha * data) / level.sigma
    log_joint = LINE.log_prob(data) - 0.5 * noise[..., 0] ** 2
    p = torch.softmax(log_joint + w.log(), 1)
    return (p[..., None] * target(data, noise, level)).sum(1)


def by_bayes(param: Parameterization, target: Callable[[Tensor, Tensor, Level], Tensor]) -> Iterator[Case]:
    """The output that the exact denoiser asks for, against the posterior mean of what the network is said
    to predict.
    """
    for name, level in each_scaling(-3.0, 0.0, 3.0):
        z, _ = around(level, 2.0, 9)
        yield Case(name, output(param, LINE.denoise(z, level).x, z, level), average(target, z, level))


@law("Predicting the data", "F = E[x | z]", "DDPM, arXiv:2006.11239, section 3.2", 1e-8)
def predict_x() -> Iterator[Case]:
    """The output that the exact denoiser asks for, against Bayes' rule by quadrature."""
    yield from by_bayes(x, lambda data, noise, level: data)


@law("Predicting the noise", "F = E[ε | z]", "DDPM, arXiv:2006.11239, eq. 11 and 14", 1e-8)
def predict_eps() -> Iterator[Case]:
    """The output that the exact denoiser asks for, against Bayes' rule by quadrature."""
    yield from by_bayes(eps, lambda data, noise, level: noise)


@law(
    "Predicting v",
    "F = E[α ε − σ x | z] / √(α² + σ²)",
    "Salimans and Ho 2022, arXiv:2202.00512, appendix D",
    1e-8,
)
def predict_v() -> Iterator[Case]:
    """The output that the exact denoiser asks for, against Bayes' rule by quadrature."""
    yield from by_bayes(
        v,
        lambda data, noise, level: (
            (level.alpha * noise - level.sigma * data) / level.alpha.hypot(level.sigma)
        ),
    )


@law("Predicting the score", "F = √(α² + σ²) ∇ log p(z)", "Song et al. 2021, arXiv:2011.13456, eq. 7", 1e-9)
def predict_score() -> Iterator[Case]:
    """The output that the exact denoiser asks for, against automatic differentiation of the log density."""
    for name, level in each_scaling(-3.0, 0.0, 3.0):
        z, _ = around(level, 2.0, 9)
        gradient = derivative(lambda z, level=level: LINE.log_prob(z, level), z)
        found = output(score, LINE.denoise(z, level).x, z, level)
        yield Case(name, found, level.alpha.hypot(level.sigma) * gradient)


@law(
    "Predicting the velocity",
    "F = E[ε − x | z]",
    "Flow matching, arXiv:2210.02747, eq. 23 with σ_min = 0",
    1e-8,
)
def predict_flow() -> Iterator[Case]:
    """The output that the exact denoiser asks for, against Bayes' rule by quadrature."""
    yield from by_bayes(flow, lambda data, noise, level: noise - data)


@law(
    "The velocity moves z",
    "dz / dt = E[ε − x | z] on straight paths",
    "Flow matching, arXiv:2210.02747, eq. 1-2 and theorem 1",
    1e-7,
)
def velocity_moves() -> Iterator[Case]:
    """What a network of this kind must put out, against the exact flow of a Gaussian, by differences."""
    step = 1e-5
    for t in (0.2, 0.5, 0.9):
        before, here, after = (
            flow_scaling(2 * (torch.log1p(-one) - one.log())) for one in number(t - step, t, t + step)
        )
        z = GAUSSIAN.marginal(here).sample(20, dice())
        moved = GAUSSIAN.flow(z, here, after) - GAUSSIAN.flow(z, here, before)
        yield Case(f"t = {t}", output(flow, GAUSSIAN.denoise(z, here).x, z, here), moved / (2 * step))


@law(
    "EDM's preconditioning",
    "c_skip = σ_d² / (σ² + σ_d²),  c_out = σ σ_d / √(σ² + σ_d²)",
    "EDM, arXiv:2206.00364, table 1",
    1e-12,
)
def edm_table() -> Iterator[Case]:
    """Coefficients at EDM's own (VE) levels, against the table."""
    for std in (0.5, 1.0):
        for name, level in each_scaling(-3.0, 0.0, 3.0):
            if name.startswith("ve"):
                square = level.sigma**2 + std**2
                expected = torch.stack([std**2 / square, level.sigma * std / square.sqrt()])
                yield Case(f"σ_d = {std}, {name}", torch.stack(edm(std)(level)), expected)


@law(
    "EDM's output has unit variance",
    "Var[(x − c_skip z) / c_out] = 1 for data of deviation σ_d",
    "EDM, arXiv:2206.00364, eq. 118-123 (appendix B.6)",
    1e-10,
)
def edm_variance() -> Iterator[Case]:
    """The training target over data and noise, by Gauss-Hermite quadrature."""
    nodes, w = normal(6, 2)
    for std in (0.5, 1.3):
        for name, level in each_scaling(-4.0, 0.0, 4.0):
            data, noise = std * nodes[:, :1], nodes[:, 1:]
            target = output(edm(std), data, level.alpha * data + level.sigma * noise, level)
            yield Case(f"σ_d = {std}, {name}", w @ target[:, 0] ** 2, 1.0)


@law(
    "EDM amplifies errors least",
    "c_skip = argmin c_out,  c_out² = Var[x − c_skip z]",
    "EDM, arXiv:2206.00364, eq. 124-131 (appendix B.6)",
    1e-6,
)
def edm_least() -> Iterator[Case]:
    """The coefficient, against the least-squares line of x on z found by Newton's method."""
    for std in (0.5, 1.3):
        for name, level in each_scaling(-4.0, 0.0, 4.0):

            def spread(skip: Tensor, std: float = std, level: Level = level) -> Tensor:
                return (1 - skip * level.alpha) ** 2 * std**2 + (skip * level.sigma) ** 2

            start = number(0.5)
            first = derivative(spread, start)
            second = derivative(lambda skip, f=spread: derivative(f, skip), start)
            found = torch.stack(edm(std)(level))
            best = start - first / second
            yield Case(f"σ_d = {std}, {name}", found, torch.stack([best, spread(best).sqrt()]).detach())


@law(
    "A prediction is a prediction",
    "x̂ = skip z + out F, whatever F is",
    "Salimans and Ho 2022, arXiv:2202.00512, section 4; EDM, arXiv:2206.00364, eq. 7",
    1e-9,
)
def denoiser() -> Iterator[Case]:
    """A `Denoiser` whose network is right in each parameterization, against the exact denoiser."""

    class Net(nn.Module):
        """Undoes the scaling of its input and puts out what it should."""

        def __init__(self, param: Parameterization, level: Level, std: float) -> None:
            super().__init__()
            self.param, self.level, self.std = param, level, std

        def forward(self, z: Tensor, log_snr: Tensor) -> Tensor:
            level = self.level
            z = z * (level.sigma**2 + (level.alpha * self.std) ** 2).sqrt()
            return output(self.param, LINE.denoise(z, level).x, z, level)

    for kind, make in PARAMETERIZATIONS.items():
        for name, level in each_scaling(-2.0, 2.0):
            for std in (0.5, 1.0):
                z, _ = around(level, 2.0, 9)
                model = Denoiser(Net(make(), level, std), make(), sigma_data=std)
                yield Case(f"{kind}, {name}, σ_d = {std}", model(z, level).x, LINE.denoise(z, level).x)


@law(
    "The network's input has unit variance",
    "c_in = 1 / √(σ² + α² σ_d²)",
    "EDM, arXiv:2206.00364, eq. 114-117 (appendix B.6)",
    1e-10,
)
def unit_input() -> Iterator[Case]:
    """What a network sees of data of that deviation, by Gauss-Hermite quadrature over data and noise."""

    class Net(nn.Module):
        """Puts out what it sees."""

        def forward(self, z: Tensor, log_snr: Tensor) -> Tensor:
            return z

    nodes, w = normal(6, 2)
    for std in (0.5, 1.0):
        for name, level in each_scaling(-4.0, 0.0, 4.0):
            z = level.alpha * std * nodes[:, :1] + level.sigma * nodes[:, 1:]
            seen = Denoiser(Net(), x, sigma_data=std)(z, level).x
            yield Case(f"σ_d = {std}, {name}", w @ seen[:, 0] ** 2, 1.0)
