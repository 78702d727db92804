"""Edits, against the exact conditionals and flows of Gaussians.

For a Gaussian, all that is drawn enters the result affinely; automatic differentiation with respect to the
noises gives the exact law of what an edit returns, without Monte Carlo.
"""

import math
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

from phin.diffusion.denoiser import Denoise
from phin.diffusion.editing import (
    diffuse,
    inpaint,
    interpolate,
    renoise,
    slerp,
    strength_at,
    tail,
    vary,
)
from phin.diffusion.level import SCALINGS, Level, Scaling
from phin.diffusion.noise import Noise, seeded
from phin.diffusion.ode import decode, encode
from phin.diffusion.schedules import Cosine, Flow
from phin.diffusion.solvers import DDIM, Ancestral, DPMpp2M, Heun, Solver, prior, sample
from phin.oracle import Gaussian

GAUSSIAN = Gaussian(torch.tensor([0.3, -0.5]).double(), torch.tensor([[0.8, 0.5], [0.5, 0.6]]).double())
LADDER = Flow(8.0, -8.0).levels(20)
X = torch.tensor([[1.2, 5.0]]).double()
FIRST = torch.tensor([True, False])
EACH_SCALING = pytest.mark.parametrize("scaling", SCALINGS.values(), ids=SCALINGS)


@dataclass(frozen=True)
class Posterior:
    """Steps that are exact draws from p(z_s | z_t) of the Gaussian."""

    @property
    def order(self) -> int:
        return 1

    def step(
        self, denoise: Denoise, z: Tensor, t: Level, s: Level, noise: Noise, memory: None
    ) -> tuple[Tensor, None]:
        a, eye = t.alpha / s.alpha, torch.eye(2).double()
        clean = s.alpha**2 * GAUSSIAN.cov + s.sigma**2 * eye
        noisy = a**2 * clean + (t.sigma**2 - a**2 * s.sigma**2) * eye
        gain = a * clean @ torch.linalg.inv(noisy)
        left = clean - a * gain @ clean
        mean = s.alpha * GAUSSIAN.mean + (z - t.alpha * GAUSSIAN.mean) @ gain.T
        return mean + noise(z) @ torch.linalg.cholesky((left + left.T) / 2).T, None


class Silence:
    """Noises that are all 0, and remembered, for the result to be differentiated by."""

    def __init__(self) -> None:
        self.drawn: list[Tensor] = []

    def __call__(self, like: Tensor) -> Tensor:
        self.drawn.append(torch.zeros_like(like, requires_grad=True))
        return self.drawn[-1]

    def variance(self, value: Tensor) -> float:
        """Of a number that is affine in them."""
        gradients = torch.autograd.grad(value, self.drawn, allow_unused=True, retain_graph=True)
        return sum(float(g.square().sum()) for g in gradients if g is not None)


# --- levels


@EACH_SCALING
def test_to_diffuse_at_once_is_to_diffuse_in_two_steps(scaling: Scaling) -> None:
    s, t = (scaling(torch.tensor(v).double()) for v in (2.0, -1.5))
    once, twice = Silence(), Silence()
    z = diffuse(X, t, once)
    detour = renoise(diffuse(X, s, twice), s, t, twice)
    torch.testing.assert_close(detour, z)
    assert abs(twice.variance(detour[0, 0]) / once.variance(z[0, 0]) - 1) < 1e-12


def test_strength_is_a_share_of_the_ladder_or_a_log_snr() -> None:
    assert torch.equal(tail(LADDER, 0.25).log_snr, LADDER.log_snr[15:])
    assert torch.equal(tail(LADDER, 1.0).sigma, LADDER.sigma)
    assert not len(tail(LADDER, 0.0).alpha)
    for k in (0, 7, 19):
        log_snr = float(LADDER.log_snr[k])
        assert torch.equal(tail(LADDER, strength_at(LADDER, log_snr)).log_snr, LADDER.log_snr[k:])
        assert torch.equal(tail(LADDER, strength_at(LADDER, log_snr + 1e-9)).log_snr, LADDER.log_snr[k + 1 :])
    for strength in (-0.1, 1.1, math.nan):
        with pytest.raises(ValueError, match=f"strength = {strength} must be in"):
            vary(GAUSSIAN.denoise, DDIM(), LADDER, X, strength)


# --- variations


def test_at_strength_0_it_is_x_and_at_1_a_plain_sample() -> None:
    x = torch.randn(4, 2).double()
    assert torch.equal(vary(GAUSSIAN.denoise, Ancestral(), LADDER, x, 0.0), x)
    noise = seeded(0, range(4))
    plain = sample(GAUSSIAN.denoise, Ancestral(), LADDER, prior(LADDER.at(0), x, noise), noise)
    full = vary(GAUSSIAN.denoise, Ancestral(), LADDER, x, 1.0, seeded(0, range(4)))
    assert torch.equal(full, plain)


@EACH_SCALING
def test_a_variation_is_the_flow_of_the_diffused_x(scaling: Scaling) -> None:
    """With a deterministic solver on a fine ladder."""
    ladder = Flow(8.0, -8.0, scaling=scaling).levels(600)
    x, last = torch.randn(5, 2).double(), ladder.at(-1)
    for strength in (0.3, 0.8):
        top = tail(ladder, strength).at(0)
        z = diffuse(x, top, seeded(0, range(5)))
        exact = GAUSSIAN.denoise(GAUSSIAN.flow(z, top, last), last).x
        varied = vary(GAUSSIAN.denoise, Heun(), ladder, x, strength, seeded(0, range(5)))
        torch.testing.assert_close(varied, exact, rtol=0, atol=1e-3)


def test_the_law_of_a_variation_goes_from_x_to_that_of_the_data() -> None:
    """By exact draws E[x' | x] = mean + C (C + e^-l)^-1 (x - mean); the more noise, the less of x."""
    off = []
    for strength in (0.2, 0.5, 0.8, 1.0):
        noise = Silence()
        varied = vary(GAUSSIAN.denoise, Posterior(), LADDER, X, strength, noise)
        top = tail(LADDER, strength).at(0)
        gain = GAUSSIAN.cov @ torch.linalg.inv(GAUSSIAN.cov + torch.exp(-top.log_snr) * torch.eye(2).double())
        share = 0.0 if strength == 1 else 1.0
        mean = GAUSSIAN.mean + share * (X - GAUSSIAN.mean) @ gain.T
        torch.testing.assert_close(varied, mean, rtol=0, atol=2e-3)
        off.append(float((varied - X).detach().norm()))
    assert off == sorted(off)


# --- interpolation


def test_both_are_diffused_with_one_noise_and_mixed() -> None:
    """What the walk starts from has the level's noise, no less; the ends are variations of a and of b."""
    a, b = torch.randn(2, 3, 2).double()
    weights = torch.tensor([0.0, 0.3, 1.0])
    states: list[Tensor] = []

    def between(noise: Noise) -> Tensor:
        return interpolate(
            GAUSSIAN.denoise,
            Ancestral(),
            LADDER,
            a,
            b,
            weights,
            0.5,
            noise,
            lambda z, level: states.append(z),
        )

    drawn = between(seeded(0, range(3)))
    top = tail(LADDER, 0.5).at(0)
    z_a, z_b = (diffuse(x, top, seeded(0, range(3))) for x in (a, b))
    mixed = torch.stack([(1 - w) * z_a + w * z_b for w in weights.double()])
    torch.testing.assert_close(states[0].view(3, 3, 2), mixed)
    for k, x in ((0, a), (2, b)):
        alone = vary(GAUSSIAN.denoise, Ancestral(), LADDER, x, 0.5, seeded(0, range(3)))
        torch.testing.assert_close(drawn[k], alone)
    # The noise on the way is shared, too.
    torch.testing.assert_close(drawn[1], 0.7 * drawn[0] + 0.3 * drawn[2], rtol=1e-6, atol=1e-6)


def test_slerp_keeps_the_length_and_shares_the_angle() -> None:
    a, b = torch.randn(2, 5, 3, 4).double()
    b = b * (a.flatten(1).norm(dim=1) / b.flatten(1).norm(dim=1))[:, None, None]
    weights = torch.tensor([0.0, 0.25, 0.5, 1.0]).double()
    path = slerp(a, b, weights)

    def angle(p: Tensor, q: Tensor) -> Tensor:
        return torch.cosine_similarity(p.flatten(1), q.flatten(1)).clamp(-1, 1).acos()

    torch.testing.assert_close(path[0], a)
    torch.testing.assert_close(path[3], b)
    for point, w in zip(path, weights, strict=True):
        torch.testing.assert_close(point.flatten(1).norm(dim=1), a.flatten(1).norm(dim=1))
        torch.testing.assert_close(angle(a, point), w * angle(a, b), rtol=0, atol=1e-7)
    torch.testing.assert_close(slerp(a, a, weights)[2], a)
    nearly = a + 1e-9 * b
    torch.testing.assert_close(slerp(a, nearly, weights)[2], (a + nearly) / 2, rtol=0, atol=1e-12)
    assert slerp(a, -a, weights).isfinite().all()
    torch.testing.assert_close(slerp(a, 0 * a, torch.tensor([0.0, 1.0])), torch.stack([a, 0 * a]))
    longer = slerp(a, 3 * b, weights)
    torch.testing.assert_close(longer, path * (1 + 2 * weights)[:, None, None, None])
    assert slerp(a.float(), b.float(), weights).dtype == torch.float32


def test_slerp_keeps_the_gaussian_law_and_a_straight_line_does_not() -> None:
    """Of latents in 1,000 dimensions: the variance stays 1 to 1 / sqrt(1000), all coordinates alike."""
    n, d = 400, 1000
    a, b = torch.randn(2, n, d).double()
    for w in (0.2, 0.5, 0.9):
        (z,) = slerp(a, b, torch.tensor([w]))
        assert abs(z.var() - 1) < 4.5 * (2 / (n * d)) ** 0.5 + 2 / d
        assert abs(z.mean()) < 4.5 / (n * d) ** 0.5
        assert abs((z**4).mean() - 3) < 4.5 * (96 / (n * d)) ** 0.5 + 0.02
        straight = (1 - w) * a + w * b
        assert abs(straight.var() - (w**2 + (1 - w) ** 2)) < 0.02


def test_slerp_of_latents_joins_the_data() -> None:
    """DDIM's interpolation: its ends are the data, and what is between is likely."""
    a, b = GAUSSIAN.sample(2)[:, None]
    za, zb = (encode(GAUSSIAN.denoise, x, LADDER, 1e-8, 1e-8).y for x in (a, b))
    path = slerp(za, zb, torch.linspace(0, 1, 5))
    x = decode(GAUSSIAN.denoise, path[:, 0], LADDER, 1e-8, 1e-8).y
    torch.testing.assert_close(x[0], a[0], rtol=0, atol=1e-6)
    torch.testing.assert_close(x[-1], b[0], rtol=0, atol=1e-6)
    assert (GAUSSIAN.log_prob(x) > torch.minimum(GAUSSIAN.log_prob(a), GAUSSIAN.log_prob(b)) - 1e-3).all()


# --- inpainting


def conditional() -> tuple[float, float]:
    """Mean and variance of the second coordinate, given the first of `X`."""
    (a, c), (_, b) = GAUSSIAN.cov.tolist()
    return float(GAUSSIAN.mean[1] + c / a * (X[0, 0] - GAUSSIAN.mean[0])), b - c * c / a


def errors(solver: Solver, resamplings: int, jump: int = 1, ladder: Level = LADDER) -> tuple[float, float]:
    """How far the inpainted coordinate's mean is from the conditional's, and its variance, relatively."""
    noise = Silence()
    painted = inpaint(GAUSSIAN.denoise, solver, ladder, X, FIRST, resamplings, jump, noise)
    assert painted[0, 0] == X[0, 0]
    mean, variance = conditional()
    return float(painted[0, 1].detach()) - mean, noise.variance(painted[0, 1]) / variance - 1


def test_resampling_tends_to_the_exact_conditional() -> None:
    """By exact draws down the ladder: the errors of mean and variance fall as 1 / resamplings."""
    off = torch.tensor([errors(Posterior(), n) for n in (1, 4, 16, 64)]).abs()
    assert (off[1:] < off[:-1] / 2.5).all()
    assert (off[-1] < 0.01).all()


def test_a_single_walk_is_biased_however_fine_the_ladder() -> None:
    """What was drawn early knew nothing of the known: the mean lags behind, the variance is too large."""
    spread = math.sqrt(conditional()[1])
    for steps in (20, 80, 320):
        mean, variance = errors(Posterior(), 1, ladder=Flow(8.0, -8.0).levels(steps))
        assert mean < -0.35 * spread
        assert variance > 0.2


def test_ddpms_steps_inpaint_too() -> None:
    """Its mean; its variance is that of DDPM's own steps, which is right on a fine ladder only."""
    assert abs(errors(Ancestral(), 64)[0]) < 0.01
    assert abs(errors(Ancestral(), 8, jump=5, ladder=Flow(8.0, -8.0).levels(80))[0]) < 0.05


@pytest.mark.parametrize("jump", [3, 5, 100])
def test_stretches_of_several_steps(jump: int) -> None:
    """They help, whether or not they divide the ladder, and a single stretch of all of it, too."""
    once, often = errors(Posterior(), 1, jump), errors(Posterior(), 8, jump)
    assert once == errors(Posterior(), 1)
    assert abs(often[0]) < (0.6 if jump < 20 else 1.01) * abs(once[0])


def test_steps_and_calls_of_inpainting() -> None:
    """What is known stands in place at every level, with its noise; the path goes up and down."""
    seen: list[tuple[Tensor, Level]] = []
    known = torch.tensor([[True, False], [False, False], [True, True]])
    x = torch.randn(3, 2).double()
    painted = inpaint(
        GAUSSIAN.denoise,
        DPMpp2M(),
        Cosine().levels(6),
        x,
        known,
        2,
        2,
        torch.ones_like,
        lambda z, level: seen.append((z, level)),
    )
    rungs = Cosine().levels(6).log_snr.tolist()
    order = [0, 1, 2, 1, 2, 3, 4, 3, 4, 5, 5]
    assert [float(level.log_snr) for _, level in seen] == [rungs[k] for k in order]
    for z, level in seen:
        torch.testing.assert_close(z[known], (level.alpha * x + level.sigma)[known])
    assert torch.equal(painted[known], x[known])
    assert (painted[~known] != x[~known]).all()
    for wrong in ((0, 1), (1, 0)):
        with pytest.raises(ValueError, match="must be at least 1"):
            inpaint(GAUSSIAN.denoise, DDIM(), LADDER, X, FIRST, *wrong)


def test_data_that_are_not_finite_are_refused() -> None:
    for wrong, message in ((math.nan, "x has the value nan in example 1"), (math.inf, "the value inf in")):
        x = torch.cat([X[:1], torch.full_like(X[:1], wrong)])
        for edit in (
            lambda x: vary(GAUSSIAN.denoise, DDIM(), LADDER, x, 0.5),
            lambda x: inpaint(GAUSSIAN.denoise, DDIM(), LADDER, x, FIRST),
            lambda x: interpolate(
                GAUSSIAN.denoise, DDIM(), LADDER, x, torch.zeros_like(x), torch.tensor([0.5]), 0.5
            ),
        ):
            with pytest.raises(ValueError, match=message):
                edit(x)
