"""The theory of distillation, on Gaussians and mixtures, whose paths are known."""

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from walks import GAUSSIAN, affine, level, no_noise, stack

from phin.diffusion.denoiser import Denoise, Denoiser, Prediction
from phin.diffusion.distill import (
    METRICS,
    Metric,
    charbonnier,
    consistency_target,
    ladder,
    nearer,
    progressive_target,
    pseudo_huber,
    squared,
    tuning_target,
)
from phin.diffusion.level import SCALINGS, Level, flow, ve, vp
from phin.diffusion.losses import denoising_loss, stratified
from phin.diffusion.noise import normal
from phin.diffusion.parameterization import v
from phin.diffusion.schedules import Cosine, Discrete, Flow, Geometric, Schedule
from phin.diffusion.solvers import DDIM, DPMpp2M, Heun, MultistepConsistency, Solver, prior, sample, walk
from phin.diffusion.weights import snr_plus_one
from phin.metrics.energy import energy_distance
from phin.nets.mlp import MLP, MLPConfig
from phin.oracle import CLEAN, Mixture

END = 8.0  # log-SNR of the clean end


def f(z: Tensor, at: Level) -> Prediction:
    """The consistency function of GAUSSIAN: where the ODE leads, in the units of the data."""
    end = vp(torch.tensor(END).double())
    return Prediction(GAUSSIAN.flow(z, at, end) / end.alpha)


def each(value: float, n: int) -> Tensor:
    return torch.full((n,), value, dtype=torch.float64)


def batch(levels: Level, ndim: int = 2) -> Level:
    """A ladder (N, B) for states (B, ...)."""
    return Level(*(field.view(*field.shape, *[1] * (ndim - 1)) for field in levels))


def target(
    solver: Solver, z: Tensor, t: float, s: float, steps: int, denoise: Denoise = GAUSSIAN.denoise
) -> Tensor:
    """What states at log-SNR t are to say, by a walk of so many steps to s."""
    levels = batch(ladder(Cosine(), each(t, len(z)), each(s, len(z)), steps))
    landed = walk(denoise, solver, levels, z, no_noise)
    return consistency_target(lambda rows: f, landed, levels.at(-1), each(s, len(z)) == END)


def order(error: Callable[[int], float], counts: tuple[int, int]) -> float:
    """- d log error / d log count."""
    few, many = map(error, counts)
    return math.log(few / many) / math.log(counts[1] / counts[0])


# --- consistency


@pytest.mark.parametrize("schedule", [Cosine(), Flow(scaling=flow), Geometric(scaling=ve)])
def test_a_ladder_is_equally_spaced_in_time_and_has_its_ends(schedule: Schedule) -> None:
    t, s = torch.tensor([-7.0, -3.0, 0.5]).double(), torch.tensor([-1.0, 4.0, 7.0]).double()
    levels = ladder(schedule, t, s, 5)
    assert torch.equal(levels.log_snr[0], t)
    assert torch.equal(levels.log_snr[-1], s)
    times = schedule.inverse(levels.log_snr)
    torch.testing.assert_close(times.diff(dim=0), ((times[-1] - times[0]) / 5).expand(5, 3))
    torch.testing.assert_close(levels.alpha / levels.sigma, torch.exp(levels.log_snr / 2))
    torch.testing.assert_close(levels.alpha, schedule.scaling(levels.log_snr).alpha)


def test_a_ladder_on_a_chain_keeps_its_ends() -> None:
    """Though they are between the levels of the chain."""
    levels = ladder(Discrete(), each(-5.03, 1), each(2.01, 1), 4)
    assert levels.log_snr[[0, -1], 0].tolist() == [-5.03, 2.01]
    assert (levels.log_snr.diff(dim=0) > 0).all()
    with pytest.raises(ValueError, match="steps = 0"):
        ladder(Discrete(), each(-5, 1), each(2, 1), 0)


def test_all_points_of_a_path_have_one_end() -> None:
    """The exact function is consistent over any gap, and at the clean end it is z / alpha."""
    z = torch.randn(6, 2).double()
    t = level(vp, -6.0)
    z = t.alpha * GAUSSIAN.mean + z
    for log_snr in (-5.0, 0.0, 3.0, END):
        s = vp(each(log_snr, 6)).view(2)
        on_path = GAUSSIAN.flow(z, t, s)
        said = consistency_target(lambda rows: f, on_path, s, each(log_snr, 6) == END)
        torch.testing.assert_close(said, f(z, t).x)


def test_rows_at_the_end_are_told_and_the_others_ask_the_student() -> None:
    z, end = torch.randn(4, 2).double(), torch.tensor([True, False, True, False])
    s = vp(torch.tensor([END, 1.0, END, -2.0]).double()).view(2)
    asked: list[tuple[list[int], Tensor, Level]] = []

    def student(rows: Tensor) -> Denoise:
        def denoise(z: Tensor, at: Level) -> Prediction:
            asked.append((rows.tolist(), z, at))
            return Prediction(10 * z)

        return denoise

    said = consistency_target(student, z, s, end)
    torch.testing.assert_close(said[end], z[end] / s.alpha[end])
    torch.testing.assert_close(said[~end], 10 * z[~end])
    ((rows, seen, at),) = asked
    assert rows == [1, 3]
    assert torch.equal(seen, z[~end])
    assert torch.equal(at.log_snr.flatten(), torch.tensor([1.0, -2.0]).double())
    consistency_target(student, z, s, torch.ones(4, dtype=torch.bool))
    assert len(asked) == 1  # nobody was left to ask


@pytest.mark.parametrize(("solver", "p"), [(DDIM(), 1), (DPMpp2M(), 2), (Heun(), 2)], ids=repr)
@pytest.mark.parametrize("s", [-1.0, END])
def test_targets_tend_to_the_odes_end_with_the_order_of_the_walk(solver: Solver, p: int, s: float) -> None:
    t = level(vp, -6.0)
    z = t.alpha * GAUSSIAN.mean + torch.randn(8, 2).double()

    def error(steps: int) -> float:
        return (target(solver, z, -6.0, s, steps) - f(z, t).x).abs().max().item()

    assert abs(order(error, (40, 80)) - p) < 0.2
    assert error(80) < 0.05


@pytest.mark.parametrize(("solver", "p"), [(DDIM(), 1), (Heun(), 2)], ids=repr)
def test_loss_and_gradient_vanish_at_the_exact_function_as_steps_shrink(solver: Solver, p: int) -> None:
    """One step of the walk: a difference of order h^(p + 1); so is the gradient, and the loss its square."""
    t = level(vp, -2.0)
    z = t.alpha * GAUSSIAN.mean + GAUSSIAN.marginal(t).sample(64) - t.alpha * GAUSSIAN.mean
    gain = torch.ones((), dtype=torch.float64, requires_grad=True)

    def found(steps: int) -> tuple[float, float]:
        goal = target(solver, z, -2.0, -2.0 + 4 / steps, 1)
        loss = squared(gain * f(z, t).x - goal).mean()
        return loss.item(), torch.autograd.grad(loss, gain)[0].abs().item()

    assert abs(order(lambda n: found(n)[0], (20, 40)) - 2 * (p + 1)) < 0.3
    assert abs(order(lambda n: found(n)[1], (20, 40)) - (p + 1)) < 0.2
    away = torch.autograd.grad(
        squared(1.1 * gain * f(z, t).x - target(solver, z, -2.0, -1.9, 1)).mean(), gain
    )[0]
    assert away > 0.05  # which is not because there were no gradient at all


def test_with_data_in_the_teachers_place_the_target_is_right_on_the_average() -> None:
    """Consistency training: x and eps that give one z_t, at equal distances from the posterior mean."""
    t = level(vp, -2.0)
    z = t.alpha * GAUSSIAN.mean + torch.randn(8, 2).double()
    off = torch.randn(8, 2).double()
    mean = GAUSSIAN.denoise(z, t).x

    def by(x: Tensor) -> Tensor:
        return target(DDIM(), z, -2.0, -1.0, 1, denoise=lambda z, level: Prediction(x))

    taught = target(DDIM(), z, -2.0, -1.0, 1)
    torch.testing.assert_close((by(mean + off) + by(mean - off)) / 2, taught)
    assert (by(mean + off) - taught).abs().max() > 0.01


class Affine(nn.Module):
    """x̂ = gain z + shift, each rung its own."""

    def __init__(self, rungs: Tensor) -> None:
        super().__init__()
        self.rungs = rungs
        self.gain = nn.Parameter(torch.zeros(len(rungs), 2, 2, dtype=torch.float64))
        self.shift = nn.Parameter(torch.zeros(len(rungs), 2, dtype=torch.float64))

    def forward(self, z: Tensor, at: Level) -> Prediction:
        rung = (at.log_snr.view(-1, 1) - self.rungs).abs().argmin(1)
        return Prediction((self.gain[rung] @ z[..., None])[..., 0] + self.shift[rung])


def trained(student: Affine, loss: Callable[[], Tensor], steps: int = 300) -> None:
    optimizer = torch.optim.Adam(student.parameters(), lr=0.1)
    for i in range(steps):
        optimizer.param_groups[0]["lr"] = 0.1 * (1 - i / steps)
        optimizer.zero_grad()
        loss().backward()
        optimizer.step()


@pytest.mark.parametrize("metric", [squared, pseudo_huber(0.1)])
def test_a_linear_student_of_a_gaussian_learns_the_closed_form(metric: Metric) -> None:
    """Two rungs, the upper one taught by the lower one."""
    rungs, n = torch.tensor([-6.0, -1.0]).double(), 200
    student, rung = Affine(rungs), torch.arange(n) % 2
    t, s = vp(rungs[rung]).view(2), torch.tensor([-1.0, END]).double()[rung]
    z = t.alpha * GAUSSIAN.sample(n) + t.sigma * torch.randn(n, 2).double()
    levels = batch(ladder(Cosine(), rungs[rung], s, 100))
    landed = walk(GAUSSIAN.denoise, DPMpp2M(), levels, z, no_noise)

    def loss() -> Tensor:
        with torch.no_grad():
            goal = consistency_target(lambda rows: student, landed, levels.at(-1), rung == 1)
        return metric(student(z, t).x - goal).mean()

    trained(student, loss)
    end = vp(torch.tensor(END).double())
    c, q = GAUSSIAN.axes
    for i, at in enumerate([vp(r) for r in rungs]):
        stretch = ((end.alpha**2 * c + end.sigma**2) / (at.alpha**2 * c + at.sigma**2)).sqrt() / end.alpha
        gain = (q * stretch) @ q.T
        torch.testing.assert_close(student.gain[i], gain, rtol=0, atol=0.01)
        torch.testing.assert_close(
            student.shift[i], GAUSSIAN.mean - at.alpha * gain @ GAUSSIAN.mean, rtol=0, atol=0.01
        )


# --- tuning


def test_the_mapping_function_in_closed_form() -> None:
    """n is 5 without noise, 3 at log 3, 2 at log 7 and 1 in the limit; r is 0 where n reaches q^stage."""
    t = torch.tensor([1e-9, math.log(3), math.log(7), 50.0]).double()
    n = torch.tensor([5.0, 3.0, 2.0, 1.0]).double()
    for stage in (1, 2, 3, 8):
        torch.testing.assert_close(nearer(t, stage), t * (1 - n / 2**stage).clamp(min=0))
        torch.testing.assert_close(nearer(t, stage, q=4), nearer(t, 2 * stage))
    assert (nearer(torch.linspace(0.01, 1.94, 9), 1) == 0).all()  # the first stage is a denoiser's
    assert nearer(torch.tensor(1.95), 1) > 0
    torch.testing.assert_close(nearer(t, 3, k=0, b=2), t * 7 / 8)
    torch.testing.assert_close(nearer(t[1:2] / 2, 2, b=2), t[1:2] / 8)
    for stage, q in ((0, 2.0), (1, 1.0), (1, math.nan)):
        with pytest.raises(ValueError, match="stage >= 1 and q > 1"):
            nearer(t, stage, q)


@pytest.mark.parametrize("scaling", SCALINGS.values(), ids=SCALINGS)
def test_the_target_of_tuning_is_ects_in_every_scaling(scaling: Callable[[Tensor], Level]) -> None:
    """There alpha = 1: f(x + r eps, r), and x where r is 0."""
    x, eps = torch.randn(5, 2).double(), torch.randn(5, 2).double()
    sigma_t, sigma_r = (
        torch.tensor([9.0, 2.0, 2.0, 0.3, 40.0]).double(),
        torch.linspace(0.1, 0.25, 5).double(),
    )
    end = torch.tensor([False, False, True, False, True])
    t, r = (scaling(-2 * sigma.log()).view(2) for sigma in (sigma_t, sigma_r))

    def ect(y: Tensor, sigma: Tensor) -> Tensor:
        return torch.tanh(y) * (3 + sigma)

    def student(z: Tensor, at: Level) -> Prediction:
        return Prediction(ect(z / at.alpha, at.sigma / at.alpha))

    goal = tuning_target(student, x, t.alpha * x + t.sigma * eps, t, r, end)
    expected = ect(x + sigma_r[:, None] * eps, sigma_r[:, None])
    torch.testing.assert_close(goal, torch.where(end[:, None], x, expected))


def test_the_exact_function_stays_where_it_is_when_tuned() -> None:
    """The weighted gradient, on the average over the x and eps that give one z_t, is of the order of t - r.

    At another function it is not.
    """
    t = level(vp, -2.0)
    z = t.alpha * GAUSSIAN.mean + torch.randn(8, 2).double()
    mean, off = GAUSSIAN.denoise(z, t).x, torch.randn(8, 2).double()
    sigma = math.exp(1.0)

    def gradient(steps: int, by: float = 1.0) -> float:
        r = vp(each(-2 * math.log(sigma * (1 - 1 / steps)), 8)).view(2)
        gain = torch.full((), by, dtype=torch.float64, requires_grad=True)

        def student(z: Tensor, at: Level) -> Prediction:
            return Prediction(gain * f(z, at).x if at is t else by * f(z, at).x)

        pairs = [
            student(z, t).x - tuning_target(student, x, z, t, r, torch.zeros(8, dtype=torch.bool))
            for x in (mean + off, mean - off)
        ]
        loss = sum(squared(pair).mean() for pair in pairs) / (sigma / steps)
        assert isinstance(loss, Tensor)
        assert all(pair.abs().max() > 1e-4 for pair in pairs)  # each by itself says something else
        return torch.autograd.grad(loss, gain)[0].abs().item()

    assert abs(order(gradient, (50, 100)) - 1) < 0.1
    assert gradient(400) < 0.02


def test_a_guided_teachers_step_is_that_of_ddim() -> None:
    t, r = (vp(each(log_snr, 6)).view(2) for log_snr in (-2.0, -1.2))
    z = t.alpha * GAUSSIAN.mean + torch.randn(6, 2).double()
    stepped, _ = DDIM().step(GAUSSIAN.denoise, z, t, r, no_noise, None)
    x = GAUSSIAN.denoise(z, t).x
    goal = tuning_target(f, x, z, t, r, torch.zeros(6, dtype=torch.bool))
    torch.testing.assert_close(goal, f(stepped, r).x)


# --- progressive

LADDERS = [(-3.0, -1.0, 1.0), (-9.0, -8.0, -7.0), (1.0, 3.0, math.inf)]


@pytest.mark.parametrize("scaling", [vp, ve, flow])
@pytest.mark.parametrize("log_snrs", LADDERS)
def test_one_step_with_the_target_lands_where_two_of_the_teacher_land(
    log_snrs: tuple[float, float, float], scaling: Callable[[Tensor], Level]
) -> None:
    t, m, s = (scaling(torch.tensor(log_snr).double()) for log_snr in log_snrs)
    z = torch.hypot(t.alpha, t.sigma) * torch.randn(7, 2).double()
    goal = progressive_target(GAUSSIAN.denoise, z, t, m, s)
    middle, _ = DDIM().step(GAUSSIAN.denoise, z, t, m, no_noise, None)
    if s.sigma > 0:
        two, _ = DDIM().step(GAUSSIAN.denoise, middle, m, s, no_noise, None)
        one, _ = DDIM().step(lambda z, at: Prediction(goal), z, t, s, no_noise, None)
        torch.testing.assert_close(one, two)
    else:
        torch.testing.assert_close(goal, GAUSSIAN.denoise(middle, m).x)


def test_the_closed_form_of_two_steps_on_a_gaussian() -> None:
    """Along an axis with variance c a DDIM step multiplies z - alpha m by
    (alpha_t alpha_s c + sigma_t sigma_s) / v_t."""
    t, m, s = (level(vp, log_snr) for log_snr in (-3.0, -1.0, 1.0))
    c, q = GAUSSIAN.axes

    def step(a: Level, b: Level) -> Tensor:
        return (a.alpha * b.alpha * c + a.sigma * b.sigma) / (a.alpha**2 * c + a.sigma**2)

    y = torch.randn(5, 2).double()
    z = t.alpha * GAUSSIAN.mean + y @ q.T
    landed = s.alpha * GAUSSIAN.mean + (step(t, m) * step(m, s) * y) @ q.T
    ratio = s.sigma / t.sigma
    torch.testing.assert_close(
        progressive_target(GAUSSIAN.denoise, z, t, m, s), (landed - ratio * z) / (s.alpha - ratio * t.alpha)
    )


def test_a_students_best_is_two_steps_of_the_teacher() -> None:
    """A linear student of a Gaussian, each row at a rung of its own."""
    rungs, n = torch.tensor([-4.0, 0.0]).double(), 200
    student, rung = Affine(rungs), torch.arange(n) % 2
    t, m, s = (
        vp(torch.tensor(log_snrs).double()[rung]).view(2)
        for log_snrs in ([-4.0, 0.0], [-2.0, 2.0], [0.0, math.inf])
    )
    z = t.alpha * GAUSSIAN.sample(n) + t.sigma * torch.randn(n, 2).double()
    goal = progressive_target(GAUSSIAN.denoise, z, t, m, s)
    trained(student, lambda: squared(student(z, t).x - goal).mean())
    fresh = torch.randn(6, 2).double()
    drawn = sample(student, DDIM(), vp(rungs), fresh)
    exact = sample(GAUSSIAN.denoise, DDIM(), vp(torch.tensor([-4.0, -2.0, 0.0, 2.0]).double()), fresh)
    torch.testing.assert_close(drawn, exact, rtol=0, atol=0.01)


# --- drawing in a few calls


@pytest.mark.parametrize("calls", [1, 2, 5])
def test_with_the_exact_function_every_number_of_calls_has_the_right_law(calls: int) -> None:
    """And with the denoiser it has not: means are less varied."""

    def whole(z: Tensor, at: Level) -> Prediction:
        return Prediction(GAUSSIAN.flow(z, at, CLEAN))

    levels = stack([torch.linspace(-9, 3, calls, dtype=torch.float64)], [vp])
    start = levels.at(0)
    eye = torch.eye(2).double()
    covs: dict[str, Tensor] = {}
    for name, denoise in (("exact", whole), ("denoiser", GAUSSIAN.denoise)):
        moved = affine(
            denoise,
            MultistepConsistency(),
            levels,
            start.alpha * GAUSSIAN.mean.expand(1, 1, 2)[0],
            drive=lambda *walk: [sample(*walk)],
        )
        covs[name] = moved.cov(start.alpha**2 * GAUSSIAN.cov + start.sigma**2 * eye)[0, 0]
        torch.testing.assert_close(moved.value[0, 0], GAUSSIAN.mean)
    torch.testing.assert_close(covs["exact"], GAUSSIAN.cov)
    assert (torch.linalg.eigvalsh(GAUSSIAN.cov - covs["denoiser"]) > 0.01).all()


def eight() -> Mixture:
    """Eight Gaussians on a circle, of about unit variance."""
    angle = torch.arange(8) * (math.pi / 4)
    means = 1.4 * torch.stack([angle.cos(), angle.sin()], 1)
    return Mixture.of([1 / 8] * 8, means, 0.01 * torch.eye(2).expand(8, 2, 2))


def test_a_small_network_draws_eight_gaussians_in_one_call() -> None:
    """Nearly as well as its teacher in thirty-two."""
    data, n, steps = eight(), 256, 300
    generator = torch.Generator().manual_seed(0)
    student = Denoiser(MLP(MLPConfig(width=64, depth=3), 2), v)
    rungs, rung = torch.tensor([-9.0, 0.0]), torch.arange(4096) % 2
    levels = batch(ladder(Cosine(), rungs[rung], torch.tensor([0.0, END])[rung], 6))
    at, below = levels.at(0), levels.at(-1)
    z = at.alpha * data.sample(len(rung), generator)
    z = z + at.sigma * torch.randn(z.shape, generator=generator)
    landed = walk(data.denoise, DPMpp2M(), levels, z, no_noise)
    optimizer = torch.optim.AdamW(student.parameters(), lr=5e-3, fused=True)
    for i in range(steps):
        optimizer.param_groups[0]["lr"] = 5e-3 * (1 + math.cos(math.pi * i / steps)) / 2
        rows = torch.randint(len(rung), (n,), generator=generator)
        here, there = (at._make(field[rows] for field in end) for end in (at, below))
        with torch.no_grad():
            goal = consistency_target(lambda rows: student, landed[rows], there, rung[rows] == 1)
        loss = pseudo_huber()(student(z[rows], here).x - goal).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    truth = data.sample(2000, generator)
    start = normal(0, "start", range(2000), (2,))

    def distance(denoise: Denoise, solver: Solver, levels: Level) -> float:
        with torch.no_grad():
            z = prior(levels.at(0), start, lambda _: start)
            drawn = sample(
                denoise, solver, levels, z, lambda like: torch.randn(like.shape, generator=generator)
            )
        return energy_distance(drawn, truth).value

    teachers = distance(data.denoise, DPMpp2M(), Cosine(log_snr_max=8, log_snr_min=-9).levels(32))
    at_once = distance(data.denoise, DPMpp2M(), vp(torch.tensor([-9.0])))
    one, two = (distance(student, MultistepConsistency(), vp(rungs[:calls])) for calls in (1, 2))
    assert at_once > 0.5
    assert teachers < 0.005
    assert one < 0.03
    assert two < 0.03


def test_a_small_denoiser_is_tuned_to_draw_eight_gaussians_in_one_call() -> None:
    """By pairs from the data alone; before, one or two of its calls were means."""
    data, n = eight(), 256
    generator = torch.Generator().manual_seed(0)
    torch.manual_seed(0)
    net = Denoiser(MLP(MLPConfig(width=64, depth=3), 2), v)
    optimizer = torch.optim.AdamW(net.parameters(), lr=5e-3, fused=True)
    noises, metric = torch.distributions.Normal(-1.1, 2.0), pseudo_huber(0.00054)
    clean, noisy = noises.cdf(torch.tensor([-END / 2, 4.5]))

    def drawn(like: Tensor) -> Tensor:
        return torch.randn(like.shape, generator=generator)

    def denoising(progress: float) -> Tensor:
        levels = Cosine(log_snr_max=END, log_snr_min=-9)(stratified(torch.rand(n, generator=generator)))
        return denoising_loss(net, data.sample(n, generator), levels, snr_plus_one, drawn)

    def tuning(progress: float) -> Tensor:
        x = data.sample(n, generator)
        places = stratified(torch.rand(n, generator=generator))
        sigma = noises.icdf(clean + (noisy - clean) * places).exp()
        near = nearer(sigma, 1 + int(6 * progress))
        end = near < math.exp(-END / 2)
        t, r = (vp(-2 * s.log()).view(2) for s in (sigma, near.masked_fill(end, math.exp(-END / 2))))
        z = t.alpha * x + t.sigma * drawn(x)
        with torch.no_grad():
            goal = tuning_target(net, x, z, t, r, end)
        return metric(net(z, t).x - goal) / (sigma - near.masked_fill(end, 0))

    def train(steps: int, lr: float, loss: Callable[[float], Tensor]) -> None:
        for i in range(steps):
            optimizer.param_groups[0]["lr"] = lr * (1 + math.cos(math.pi * i / steps)) / 2
            optimizer.zero_grad()
            loss(i / steps).mean().backward()
            nn.utils.clip_grad_norm_(net.parameters(), 1.0)
            optimizer.step()

    truth, start = data.sample(2000, generator), normal(0, "start", range(2000), (2,))

    def distance(calls: int) -> float:
        levels = vp(torch.tensor([-9.0, -1.0])[:calls])
        with torch.no_grad():
            z = prior(levels.at(0), start, lambda _: start)
            return energy_distance(sample(net, MultistepConsistency(), levels, z, drawn), truth).value

    train(250, 5e-3, denoising)
    assert distance(1) > 0.5
    assert distance(2) > 0.2
    train(400, 3e-3, tuning)
    assert distance(1) < 0.08
    assert distance(2) < 0.03


# --- metrics


@pytest.mark.parametrize("name", METRICS)
def test_a_metric_is_least_at_zero_and_smooth_there(name: str) -> None:
    metric = METRICS[name]()
    difference = torch.zeros(3, 2, 2, dtype=torch.float64, requires_grad=True)
    found = metric(difference)
    assert found.shape == (3,)
    assert found.abs().max() < 1e-15
    (gradient,) = torch.autograd.grad(found.sum(), difference)
    assert torch.equal(gradient, torch.zeros_like(gradient))
    d = torch.randn(3, 4, dtype=torch.float64)
    assert (metric(2 * d) > metric(d)).all()
    torch.testing.assert_close(metric(d)[1], metric(d[1:2])[0])


def test_metrics_in_closed_form() -> None:
    d = torch.tensor([[3.0, 4.0], [0.0, 0.1]], dtype=torch.float64)
    torch.testing.assert_close(squared(d), torch.tensor([12.5, 0.005]).double())
    torch.testing.assert_close(pseudo_huber(2.0)(d), torch.tensor([12.5 + 4, 0.005 + 4]).double().sqrt() - 2)
    torch.testing.assert_close(
        charbonnier(4.0)(d), torch.tensor([(5 + 32**0.5) / 2 - 4, (4 + 16.01**0.5) / 2 - 4]).double()
    )
    for c in (0.0, -1.0, math.inf, math.nan):
        for make in (pseudo_huber, charbonnier):
            with pytest.raises(ValueError, match="must be positive and finite"):
                make(c)


def test_which_answer_to_many_targets_is_best() -> None:
    """Of squares the mean; of nearly absolute values the median, pixel by pixel, which knows no grey."""
    targets = torch.tensor(
        [[1.0, -1.0], [1.0, -1.0], [-1.0, -1.0], [1.0, 1.0], [-1.0, 1.0]], dtype=torch.float64
    )
    answers = torch.cartesian_prod(*[torch.linspace(-1, 1, 41, dtype=torch.float64)] * 2)

    def best(metric: Metric) -> list[float]:
        sums = torch.stack([metric(answer - targets).mean() for answer in answers])
        return answers[sums.argmin()].tolist()

    assert best(squared) == pytest.approx([0.2, -0.2])
    assert best(charbonnier(0.01)) == pytest.approx([1.0, -1.0])
