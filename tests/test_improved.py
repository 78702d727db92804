"""Improved DDPM: the learned variance, the hybrid objective, importance sampling, from theory to a run."""

import math
import os
import signal
import socket
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import kill_resume
import pytest
import tiny
import torch
from numpy.polynomial.hermite_e import hermegauss
from scipy.optimize import minimize_scalar
from torch import Tensor, nn
from torch.distributions import Normal, kl_divergence

import phin
from phin.diffusion.bound import chain_bound, to_bits
from phin.diffusion.decoder import gaussian
from phin.diffusion.denoiser import Denoise, Denoiser, Prediction
from phin.diffusion.level import SCALINGS, Level
from phin.diffusion.losses import denoising_loss
from phin.diffusion.objectives import OBJECTIVES, ChainBound, Hybrid, Objective, Simple
from phin.diffusion.parameterization import eps
from phin.diffusion.schedules import SCHEDULES, Cosine, Discrete
from phin.diffusion.solvers import Ancestral
from phin.diffusion.weights import min_snr, simple
from phin.errors import PhinError
from phin.oracle import Gaussian
from phin.recipes import RECIPES, DiffusionRecipe, train
from phin.registry import build
from phin.training.denoising import Denoising
from phin.training.log import Meter
from phin.training.loop import Losses

CHAIN = Discrete(Cosine(), T=12)
"""Of few steps, so that each has room for a variance."""
LEARNING = DiffusionRecipe(
    data="moons",
    net=tiny.POINTS.net,
    parameterization="eps",
    density="discrete(cosine, T=8)",
    weight="simple",
    objective="hybrid(decoder=gaussian)",
    times="importance(8, length=2)",
    learn_variance=True,
    train=replace(tiny.BRIEF, steps=24, batch=9),
    sample=tiny.POINTS.sample,
)


def middle(i: int, chain: Discrete = CHAIN) -> Tensor:
    """A time at which step i of the chain is drawn."""
    return torch.tensor([(i - 0.5) / chain.T], dtype=torch.float64)


def with_frac(denoise: Denoise, frac: Tensor | float) -> Denoise:
    """The denoiser, had it learned this variance."""
    return lambda z, level: denoise(z, level)._replace(frac=torch.as_tensor(frac).to(z).expand_as(z))


@pytest.mark.parametrize("scaling", SCALINGS)
@pytest.mark.parametrize("i", [2, 3, 7, 11, 12])
def test_the_bound_is_lowest_at_the_true_variance_of_the_reverse_step(scaling: str, i: int) -> None:
    """For Gaussian data, Var[z_s | z_t] = v_s - cov² / v_t, cov = (alpha_t / alpha_s) v_s. The mean over x
    and eps is a quadrature, exact for a term that is quadratic in both."""
    chain = Discrete(Cosine(scaling=SCALINGS[scaling]), T=12)
    data = Gaussian(torch.tensor([0.4]).double(), torch.tensor([[0.3]]).double())
    nodes, weights = map(torch.from_numpy, hermegauss(4))
    x = (0.4 + math.sqrt(0.3) * nodes).repeat_interleave(4)[:, None]
    eps, share = nodes.repeat(4)[:, None], torch.outer(weights, weights).flatten() / (2 * math.pi)

    def expected(frac: float) -> float:
        exact = with_frac(data.denoise, frac)
        terms = ChainBound()(exact, x, chain, middle(i, chain).expand(16), simple, lambda _: eps)
        assert torch.allclose(terms.log_snr, chain.table[i - 1].expand(16))
        return float(share @ terms.loss)

    found: Any = minimize_scalar(expected, bounds=(0, 1), method="bounded", options={"xatol": 1e-9})
    best = float(found.x)

    t, s = (chain(torch.tensor((i - back) / 12).double()) for back in (0, 1))
    v_t, v_s = (at.alpha**2 * 0.3 + at.sigma**2 for at in (t, s))
    true = v_s - (t.alpha / s.alpha * v_s) ** 2 / v_t
    ends = [
        Ancestral().step(
            with_frac(data.denoise, best), torch.zeros(1, 1).double(), t, s, lambda z, u=u: z + u, None
        )[0]
        for u in (0.0, 1.0)
    ]
    torch.testing.assert_close((ends[1] - ends[0]).square().squeeze(), true, rtol=1e-6, atol=0)
    assert 0.01 < best < 0.99


@pytest.mark.parametrize("i", range(1, 13))
def test_the_hybrid_is_the_simple_loss_and_a_thousandth_of_the_bound_in_bits(i: int) -> None:
    """The bound's part against the divergence of two Gaussians: q(z_s | z_t, x) by Bayes' rule, and the step
    that the sampler takes, whose mean and standard deviation are read off it."""
    x = torch.linspace(-0.9, 1, 6).double().reshape(2, 3)
    noise = torch.randn(2, 3).double()
    frac = torch.rand(2, 3).double()

    def denoise(z: Tensor, level: Level) -> Prediction:
        return Prediction(0.5 * z, frac)

    weight = min_snr(0.5)
    terms = Hybrid(0.001, gaussian())(denoise, x, CHAIN, middle(i).expand(2), weight, lambda _: noise)
    t = CHAIN(torch.tensor([i / 12]).double()).view(2)
    assert terms.simple is not None
    assert terms.bound is not None
    torch.testing.assert_close(terms.simple, denoising_loss(denoise, x, t, weight, lambda _: noise))
    torch.testing.assert_close(terms.loss, terms.simple + 0.001 * terms.bound)
    z = t.alpha * x + t.sigma * noise
    if i == 1:
        nats = -gaussian()(denoise, x, z, t)
    else:
        s = CHAIN(torch.tensor((i - 1) / 12).double())
        r = t.alpha / s.alpha
        q_var = t.sigma**2 - r**2 * s.sigma**2  # of z_t given z_s
        precision = r**2 / q_var + 1 / s.sigma**2
        posterior = Normal((r * z / q_var + s.alpha * x / s.sigma**2) / precision, precision**-0.5)
        mean, above = (
            Ancestral().step(denoise, z, t, s, lambda z, u=u: z * 0 + u, None)[0] for u in (0.0, 1.0)
        )
        nats = kl_divergence(posterior, Normal(mean, above - mean)).sum(1)
    torch.testing.assert_close(terms.bound, 12 * to_bits(nats, 3))


def test_the_bound_over_all_steps_is_the_chain_s() -> None:
    """The mean over uniform times of the objective is the bound that is measured, less its constant."""
    data = Gaussian(torch.zeros(2).double(), 0.5 * torch.eye(2).double())
    exact, noise = with_frac(data.denoise, 0.4), torch.randn(5, 2).double()
    x = data.sample(5)
    t = (torch.arange(60).double() + 0.5) / 60  # five in each of twelve steps
    mean = sum(ChainBound(gaussian())(exact, x, CHAIN, u.expand(5), simple, lambda _: noise).loss for u in t)
    whole = chain_bound(exact, x, CHAIN, gaussian(), noise=lambda _: noise)
    torch.testing.assert_close(mean / 60, to_bits(whole.diffusion + whole.reconstruction, 2))


class Halves(nn.Module):
    """A network whose two halves share nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.mean, self.variance = nn.Conv2d(1, 1, 1), nn.Conv2d(1, 1, 1)

    def forward(self, z: Tensor, log_snr: Tensor) -> Tensor:
        return torch.cat([self.mean(z), self.variance(z)], 1)


def gradients(loss: Tensor, module: nn.Module) -> list[Tensor]:
    parts = torch.autograd.grad(loss.sum(), [*module.parameters()], retain_graph=True, allow_unused=True)
    return [torch.zeros(1) if part is None else part for part in parts]


@pytest.mark.parametrize("i", [1, 2, 12])
def test_in_the_hybrid_the_bound_trains_the_variance_and_nothing_else(i: int) -> None:
    torch.manual_seed(1)
    net = Halves()
    denoiser = Denoiser(net, eps, learn_var=True)
    x = torch.randint(256, (4, 1, 3, 3)) * 2 / 255 - 1
    noise = torch.randn_like(x)

    def terms(objective: Objective) -> tuple[Tensor, Tensor, Tensor]:
        found = objective(denoiser.given(), x, CHAIN, middle(i).expand(4), simple, lambda _: noise)
        assert found.bound is not None
        return found.loss, found.bound, found.loss if found.simple is None else found.simple

    loss, bound, mse = terms(Hybrid())
    assert all(part.abs().max() == 0 for part in gradients(bound, net.mean))
    assert all(part.abs().max() > 0 for part in gradients(bound, net.variance))
    assert all(part.abs().max() == 0 for part in gradients(mse, net.variance))
    for ours, theirs in zip(gradients(loss, net.mean), gradients(mse, net.mean), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=0)
    for ours, theirs in zip(gradients(loss, net.variance), gradients(bound, net.variance), strict=True):
        torch.testing.assert_close(ours, 0.001 * theirs)

    _, whole, _ = terms(ChainBound())
    torch.testing.assert_close(whole, bound)
    assert loss.dtype == whole.dtype == torch.float32
    assert all(part.abs().max() > 0 for half in (net.mean, net.variance) for part in gradients(whole, half))


def test_objectives_of_a_chain_want_one() -> None:
    x = torch.zeros(1, 1)
    for name in ("hybrid", "bound"):
        with pytest.raises(ValueError, match="Cosine has none"):
            OBJECTIVES[name]()(
                lambda z, level: Prediction(z), x, Cosine(), torch.zeros(1), simple, torch.randn_like
            )
    assert isinstance(OBJECTIVES["simple"](), Simple)


# ---- Training


@pytest.mark.parametrize("objective", ["hybrid(decoder=gaussian)", "bound(decoder=gaussian)"])
def test_training_lowers_the_bound_below_that_of_fixed_variances(objective: str, tmp_path: Path) -> None:
    """With the same mean, a variance that was learned beats the smallest and the largest."""
    recipe = replace(
        LEARNING,
        parameterization="v",
        objective=objective,
        net=replace(tiny.POINTS.net, width=32, depth=2),
        train=replace(tiny.BRIEF, steps=120, batch=256, lr=1e-2, validate_every=0.05),
    )
    result = train(recipe, tmp_path / "run")
    bounds = [
        line["validation/bound"] for line in kill_resume.records(tmp_path / "run") if "loss" not in line
    ]
    assert result.validation["bound"] < bounds[0] - 0.1  # bits/dim
    if "hybrid" in objective:
        parts = result.validation
        assert parts["loss"] == pytest.approx(parts["simple"] + 0.001 * parts["bound"], rel=1e-5)

    net = phin.load(tmp_path / "run").net
    assert isinstance(net, Denoiser)
    chain, x = Discrete(Cosine(), T=8), phin.data.load("moons").split("test", 2000).x

    def measured(denoise: Denoise) -> float:
        torch.manual_seed(3)
        with torch.no_grad():
            return float(to_bits(chain_bound(denoise, x, chain, gaussian()).diffusion.mean(), 2))

    learned = measured(net.given())
    assert learned < min(measured(with_frac(net.given(), frac)) for frac in (0.0, 0.5, 1.0)) - 0.01


def test_an_interrupted_run_with_importance_is_the_uninterrupted_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train(LEARNING, tmp_path / "alone")
    forward = Denoising.forward
    for stop in (1, 17):  # before every bin has its losses, and after

        def stopped(self: Denoising, step: int, rows: slice, stop: int = stop) -> Losses:
            if step == stop:
                signal.raise_signal(signal.SIGINT)
            return forward(self, step, rows)

        monkeypatch.setattr(Denoising, "forward", stopped)
        with pytest.raises(KeyboardInterrupt):
            train(LEARNING, tmp_path / "stopped")
        monkeypatch.undo()
    train(LEARNING, tmp_path / "stopped")
    assert kill_resume.difference(tmp_path / "alone", tmp_path / "stopped") is None

    last, _ = phin.training.checkpoint.read_weights(tmp_path / "alone" / "last.safetensors")
    assert last["task.times.count"].sum() == 24 * 9
    uniform = train(replace(LEARNING, times="uniform"), tmp_path / "uniform")
    other, _ = phin.training.checkpoint.read_weights(uniform.last)
    assert not torch.equal(last["model.net.head.weight"], other["model.net.head.weight"])
    assert not [name for name in other if name.startswith("task.")]


def test_two_processes_remember_what_one_does(tmp_path: Path) -> None:
    recipe = replace(LEARNING, train=replace(LEARNING.train, steps=8, muon=False))
    one = train(recipe, tmp_path / "one")
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    meeting = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "GLOO_SOCKET_IFNAME": "lo"}
    program = (
        "import sys, test_improved as here; from dataclasses import replace\n"
        "recipe = replace(here.LEARNING, train=replace(here.LEARNING.train, steps=8, muon=False))\n"
        "here.train(recipe, sys.argv[1])"
    )
    forced = os.environ | {"ACCELERATE_USE_CPU": "true", "WORLD_SIZE": "2", **meeting}
    forced["PYTHONPATH"] = str(Path(__file__).parent)
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", program, str(tmp_path / "two")],
            env=forced | {"RANK": rank, "LOCAL_RANK": rank},
        )
        for rank in "01"
    ]
    assert [process.wait() for process in processes] == [0, 0]
    ours, theirs = (
        phin.training.checkpoint.read_weights(folder / "last.safetensors")[0]
        for folder in (one.folder, tmp_path / "two")
    )
    assert torch.equal(ours["task.times.count"], theirs["task.times.count"])
    torch.testing.assert_close(ours["task.times.losses"], theirs["task.times.losses"], rtol=1e-3, atol=1e-5)


def test_weights_are_multipliers_of_the_losses(tmp_path: Path) -> None:
    """Trained with weights or with the products, a model is the same; not so without them."""
    weight = torch.linspace(0.1, 3, 9)

    class Weighted(Denoising):
        def forward(self, step: int, rows: slice) -> Losses:
            return super().forward(step, rows)._replace(weight=weight[rows])

    class Multiplied(Denoising):
        def forward(self, step: int, rows: slice) -> Losses:
            plain = super().forward(step, rows)
            return Losses(weight[rows] * plain.loss, plain.log_snr)

    ends: list[Tensor] = []
    for kind in (Weighted, Multiplied, Denoising):
        torch.manual_seed(0)
        task = replace(LEARNING, times="uniform").task(phin.data.load("moons"))
        task.__class__ = kind
        config = replace(LEARNING.train, steps=3)
        phin.training.loop.fit(task, config, tmp_path / kind.__name__, {"name": "weighted"})
        ends.append(torch.cat([part.detach().flatten() for part in task.model.parameters()]))
    assert torch.equal(ends[0], ends[1])
    assert not torch.allclose(ends[0], ends[2])


def test_what_is_learned_from_are_the_plain_losses_of_every_step(tmp_path: Path) -> None:
    """At every step the task is told the plain losses, in the order of the batch."""
    given: list[Losses] = []
    told: list[Tensor] = []

    class Told(Denoising):
        def forward(self, step: int, rows: slice) -> Losses:
            given.append(super().forward(step, rows))
            return given[-1]

        def learn(self, step: int, loss: Tensor) -> None:
            told.append(loss.clone())
            super().learn(step, loss)

    task = LEARNING.task(phin.data.load("moons"))
    assert isinstance(task, Denoising)
    task.__class__ = Told
    phin.training.loop.fit(task, LEARNING.train, tmp_path, {"name": "told"})
    assert len(given) == len(told) == 24
    for losses, loss in zip(given, told, strict=True):
        assert torch.equal(losses.loss, loss)
    assert given[-1].weight is not None
    assert given[-1].weight.std() > 0.1  # by then it has learned
    whole, *parts = (task(24, slice(k, None, n)) for k, n in ((0, 1), (0, 2), (1, 2)))
    for k, part in enumerate(parts):
        assert whole.weight is not None
        torch.testing.assert_close(part.loss, whole.loss[k::2])
        torch.testing.assert_close(part.weight, whole.weight[k::2])

    meter = Meter(torch.device("cpu"))
    counted = meter.counted(torch.tensor([1.0, 4.0]), torch.tensor([0.0, 8.0]), torch.tensor([3.0, 0.5]))
    meter.add(counted, 1.0)
    assert meter.read()["loss"] == pytest.approx((3 + 2) / 3.5)


def test_a_learned_variance_overrides_the_sampler_s(tmp_path: Path) -> None:
    """On strided levels, too; and with it the sampler is neither of the fixed ones."""

    def drawn(recipe: DiffusionRecipe, **choices: object) -> Tensor:
        file = tiny.write(recipe, tmp_path / "model.safetensors")
        return torch.stack(
            [torch.as_tensor(x) for x in phin.sample(phin.load(file), n=4, steps=5, **choices)]
        )

    assert LEARNING.density == "discrete(cosine, T=8)"
    tiny.FACTS[LEARNING] = tiny.FACTS[tiny.POINTS]
    grid = "discrete(cosine)"
    small, large = (drawn(LEARNING, solver=solver, grid=grid) for solver in ("ddpm", "ddpm_large"))
    assert torch.equal(small, large)
    fixed = [drawn(tiny.POINTS, solver=solver, grid=grid) for solver in ("ddpm", "ddpm_large")]
    assert not torch.equal(*fixed)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"density": "cosine"}, "density cosine is none: take a density such as discrete"),
        ({"density": "discrete(cosine, T=1)"}, "at least 2 steps"),
        ({"objective": "simple"}, "objective simple does not train the variance"),
        ({"learn_variance": False}, "is for a learned variance"),
        ({"objective": "hybrids"}, "unknown objective 'hybrids'; there are simple, hybrid, bound"),
        ({"times": "importance(0)"}, "bins >= 1"),
        ({"times": "often"}, "unknown times 'often'"),
    ],
)
def test_objectives_that_do_not_fit_are_refused(wrong: dict[str, object], message: str) -> None:
    with pytest.raises(PhinError, match=message):
        replace(LEARNING, **wrong)  # pyright: ignore[reportArgumentType]


def test_points_have_no_probability_of_8_bit_values() -> None:
    with pytest.raises(PhinError, match=r"moons has none: .*hybrid\(decoder=gaussian\)"):
        replace(LEARNING, objective="hybrid").task(phin.data.load("moons"))


def test_edm_scales_its_input_for_the_data_that_it_was_told_of() -> None:
    facts = tiny.FACTS[tiny.POINTS]
    for parameterization, sigma_data in (("edm(0.3)", 0.3), ("edm", 0.5), ("v", 1.0)):
        model = replace(tiny.POINTS, parameterization=parameterization).model(facts)
        seen: list[Tensor] = []

        def see(_net: nn.Module, inputs: tuple[Tensor, ...], seen: list[Tensor] = seen) -> None:
            seen.append(inputs[0])

        model.net.register_forward_pre_hook(see)
        level = Level(*(torch.tensor(value).double() for value in (0.8, 0.1, 2 * math.log(8))))
        data = Gaussian(torch.zeros(2).double(), sigma_data**2 * torch.eye(2).double())
        variance = data.marginal(level).cov[0, 0]
        model(torch.full((1, 2), float(variance.sqrt())), level)
        torch.testing.assert_close(seen[0], torch.ones(1, 2))


def test_the_founding_papers_recipes_are_what_they_say() -> None:
    """Each of them trains eps with L_simple's weight under its own process."""
    processes = {
        "mnist-ddpm": "discrete(linear)",
        "mnist-ddim": "discrete(linear)",
        "mnist-improved-ddpm": "discrete(cosine)",
        "mnist-score-vp": "linear",
        "mnist-score-ve": "geometric",
        "mnist-score-subvp": "linear_subvp",
    }
    for name, density in processes.items():
        recipe = RECIPES[name]
        assert isinstance(recipe, DiffusionRecipe)
        assert (recipe.parameterization, recipe.weight, recipe.density) == ("eps", "simple", density)
        assert recipe.train == RECIPES["mnist"].train
        assert recipe.learn_variance == (recipe.objective == "hybrid") == (name == "mnist-improved-ddpm")
        ladder, trained = (
            recipe.sample.levels(),
            build(density, SCHEDULES, "schedule"),
        )
        ends = trained.levels(2).log_snr
        assert ends[0] - 1e-6 <= ladder.log_snr[0]  # sampled where it was trained
        assert ladder.log_snr[-1] <= ends[1] + 1e-6
