"""Generative adversarial networks: the game in closed form, gradients, optima and stability; the networks."""

import copy
import math
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.parametrize import is_parametrized

from phin.diffusion.noise import normal, seeded
from phin.errors import PhinError
from phin.families.gan import Discriminator, GANConfig, Generator, Players, play

SMALL = GANConfig(channels=(6, 8), latent=5, label=3)
NORMED = GANConfig(channels=(6, 8), latent=5, label=3, spectral_norm=True)
SHAPE = (2, 8, 12)


class Line(nn.Module):
    """slope x + height, of points of one dimension."""

    def __init__(self, slope: float, height: float) -> None:
        super().__init__()
        self.slope = nn.Parameter(torch.tensor(slope, dtype=torch.float64))
        self.height = nn.Parameter(torch.tensor(height, dtype=torch.float64))

    def forward(self, x: Tensor) -> Tensor:
        return (self.slope * x + self.height).squeeze(1)


class Widened(Line):
    """The same, as points."""

    def forward(self, x: Tensor) -> Tensor:
        return self.slope * x + self.height


def moved(parameter: nn.Parameter) -> Tensor:
    """Its gradient."""
    assert parameter.grad is not None
    return parameter.grad


def columns(*values: list[float]) -> list[Tensor]:
    return [torch.tensor(value, dtype=torch.float64)[:, None] for value in values]


def test_both_losses_and_all_gradients_on_a_line_are_those_of_the_paper() -> None:
    """G(z) = a z + b and D(x) = w x + c: Goodfellow et al.'s value and non-saturating loss, by hand."""
    a, b, w, c, gamma = 0.7, -0.3, 1.3, 0.2, 3.0
    x, z = columns([0.5, -1.0, 2.0], [1.0, 0.3, -2.0])
    game = play(players := Players(Widened(a, b), Line(w, c)), x, z, penalty=gamma)
    fake = a * z + b
    real_odds, fake_odds = w * x + c, w * fake + c
    caught = torch.sigmoid(fake_odds)
    fooled, missed = torch.sigmoid(-fake_odds), torch.sigmoid(-real_odds)
    torch.testing.assert_close(game.generator, -torch.log(caught)[:, 0])
    value = torch.log(torch.sigmoid(real_odds)) + torch.log(1 - caught)
    torch.testing.assert_close(game.discriminator, -value[:, 0] + gamma / 2 * w**2)
    game.both.mean().backward()
    expected = {
        "generator.slope": -(fooled * w * z).mean(),
        "generator.height": -(fooled * w).mean(),
        "discriminator.slope": (caught * fake - missed * x).mean() + gamma * w,
        "discriminator.height": (caught - missed).mean(),
    }
    for name, parameter in players.named_parameters():
        torch.testing.assert_close(moved(parameter), expected[name])


class Bowl(nn.Module):
    """x' A x / 2, whose slope is A x."""

    def __init__(self, matrix: Tensor) -> None:
        super().__init__()
        self.matrix = nn.Parameter(matrix)

    def forward(self, x: Tensor) -> Tensor:
        return (x @ self.matrix * x).sum(1) / 2


def test_the_penalty_is_the_squared_slope_at_the_data_and_moves_the_discriminator_alone() -> None:
    """R1's gradient with respect to A is gamma A x x' of each example, wherever the samples are."""
    root = torch.randn(3, 3).double()
    matrix = root + root.T
    x, z = torch.randn(5, 3).double(), torch.randn(5, 1).double()
    with_it, without = (Players(nn.Linear(1, 3).double(), Bowl(matrix.clone())) for _ in range(2))
    with_it.generator.load_state_dict(without.generator.state_dict())
    games = play(with_it, x, z, penalty=0.8), play(without, x, z)
    slope = x @ matrix
    torch.testing.assert_close(games[0].discriminator - games[1].discriminator, 0.4 * slope.square().sum(1))
    for game in games:
        game.both.mean().backward()
    ours, plain = (dict(players.named_parameters()) for players in (with_it, without))
    difference = moved(ours["discriminator.matrix"]) - moved(plain["discriminator.matrix"])
    outer = torch.einsum("bi,bj->ij", slope, x) / len(x)
    torch.testing.assert_close((difference + difference.T) / 2, 0.8 * (outer + outer.T) / 2)
    for name in ("generator.weight", "generator.bias"):
        torch.testing.assert_close(moved(ours[name]), moved(plain[name]), rtol=0, atol=0)


@pytest.mark.parametrize("config", [SMALL, NORMED])
def test_one_backward_pass_is_one_of_each_player_with_an_optimizer_of_its_own(config: GANConfig) -> None:
    """The standard code, with two optimizers and Adam, from the same state: the same weights after a step."""
    ours = Players(Generator(config, SHAPE, 4), Discriminator(config, SHAPE, 4)).double()
    theirs = copy.deepcopy(ours)
    x, z = torch.randn(6, *SHAPE).double(), torch.randn(6, 5).double()
    label = torch.tensor([0, 1, 2, 3, 0, 1])
    optimizer = torch.optim.Adam(ours.parameters(), 1e-2, (0.5, 0.9))
    play(ours, x, z, label, 2.0).both.mean().backward()
    optimizer.step()

    generator, judge = theirs.generator, theirs.discriminator
    for_generator, for_judge = (
        torch.optim.Adam(p.parameters(), 1e-2, (0.5, 0.9)) for p in (generator, judge)
    )
    x.requires_grad_()
    real = judge(x, label)
    judge.eval()
    (slope,) = torch.autograd.grad(real.sum(), x, create_graph=True)
    with torch.no_grad():
        fake = generator(z, label)
    steep = slope.square().sum((1, 2, 3))
    judged = -F.logsigmoid(real) - torch.log1p(-torch.sigmoid(judge(fake, label))) + steep
    judged.mean().backward()
    gradients = [p.grad.clone() for p in judge.parameters() if p.grad is not None]
    (-F.logsigmoid(judge(generator(z, label), label))).mean().backward()
    for parameter, gradient in zip(judge.parameters(), gradients, strict=True):
        parameter.grad = gradient  # what the generator's pass left there is not the discriminator's
    for_generator.step()
    for_judge.step()
    for (name, one), other in zip(ours.named_parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(one, other, msg=lambda text, name=name: f"{name}: {text}")
    for one, other in zip(ours.buffers(), theirs.buffers(), strict=True):
        torch.testing.assert_close(one, other)


class Table(nn.Module):
    """Log odds of their own for each of some places."""

    def __init__(self, odds: Tensor) -> None:
        super().__init__()
        self.odds = nn.Parameter(odds)

    def forward(self, x: Tensor) -> Tensor:
        return self.odds[x.long().squeeze(1)]


class Constant(nn.Module):
    """Always the same samples."""

    def __init__(self, samples: Tensor) -> None:
        super().__init__()
        self.samples = nn.Parameter(samples)

    def forward(self, z: Tensor) -> Tensor:
        return self.samples


def test_the_best_discriminator_is_the_odds_of_data_against_samples() -> None:
    """Proposition 1, theorem 1: D* = p / (p + q), where the loss is 2 log 2 - 2 JSD(p, q), and no lower."""
    p, q = torch.tensor([1, 4, 3, 2]), torch.tensor([5, 1, 2, 2])
    x, fake = (torch.repeat_interleave(torch.arange(4), count).double()[:, None] for count in (p, q))

    def loss(odds: Tensor) -> Tensor:
        players = Players(Constant(fake), table := Table(odds))
        found = play(players, x, fake).discriminator.mean()
        found.backward()
        slopes.append(moved(table.odds))
        return found.detach()

    slopes: list[Tensor] = []
    p, q = p.double() / 10, q.double() / 10
    best = loss(torch.log(p / q))
    torch.testing.assert_close(slopes[0], torch.zeros(4).double(), atol=1e-12, rtol=0)
    mixed = (p + q) / 2
    divergence = (p * (p / mixed).log() + q * (q / mixed).log()).sum() / 2
    torch.testing.assert_close(best, 2 * math.log(2) - 2 * divergence)
    for _ in range(5):
        assert loss(torch.log(p / q) + 0.1 * torch.randn(4).double()) > best


def test_the_best_line_between_two_gaussians_is_the_odds_of_one_against_the_other() -> None:
    """log N(x; 0, 1) - log N(x; m, 1) = m^2 / 2 - m x; data and samples are the Gaussians' quantiles."""
    m, n = 1.5, 100_000
    x = torch.special.ndtri((torch.arange(n).double() + 0.5) / n)[:, None]
    players = Players(Widened(1.0, m), Line(-m, m * m / 2))
    play(players, x, x).discriminator.mean().backward()
    for parameter in players.discriminator.parameters():
        assert moved(parameter).abs() < 2e-5


class Point(nn.Module):
    """The generator of the Dirac-GAN: one point."""

    def __init__(self, at: float) -> None:
        super().__init__()
        self.at = nn.Parameter(torch.tensor(at, dtype=torch.float64))

    def forward(self, z: Tensor) -> Tensor:
        return self.at.expand(len(z), 1)


class Slope(nn.Module):
    """Its discriminator: a line through 0, where the data are."""

    def __init__(self, slope: float) -> None:
        super().__init__()
        self.slope = nn.Parameter(torch.tensor(slope, dtype=torch.float64))

    def forward(self, x: Tensor) -> Tensor:
        return (self.slope * x).squeeze(1)


def dirac(start: tuple[float, float], h: float, gamma: float, steps: int) -> Tensor:
    """The path (steps + 1, 2) of simultaneous gradient steps of size h."""
    players, zero = Players(Point(start[0]), Slope(start[1])), torch.zeros(1, 1).double()
    path = [torch.tensor(start).double()]
    for _ in range(steps):
        players.zero_grad()
        play(players, zero, zero, penalty=gamma).both.mean().backward()
        with torch.no_grad():
            for parameter in players.parameters():
                parameter -= h * moved(parameter)
        path.append(torch.stack([p.detach().clone() for p in players.parameters()]))
    return torch.stack(path)


def test_the_dirac_gan_leaves_its_end_without_the_penalty() -> None:
    """A step's eigenvalues are 1 ± i h / 2, so it grows by sqrt(1 + h² / 4); from afar it comes
    to a circle, whose radius is about sqrt(2 h).
    """
    h = 0.5
    near = dirac((1e-4, 0.0), h, 0.0, 50).norm(dim=1)
    torch.testing.assert_close(near[1:] / near[:-1], torch.full((50,), math.sqrt(1 + h * h / 4)).double())
    far = dirac((1.0, 1.0), h, 0.0, 150).norm(dim=1)
    assert far[-50:].min() > 0.9
    circle = dirac((3.0, 0.0), 0.1, 0.0, 3000).norm(dim=1)
    assert circle[-1].item() == pytest.approx(math.sqrt(2 * 0.1), rel=0.03)


@pytest.mark.parametrize("gamma", [0.3, 1.0, 3.0])
def test_the_dirac_gan_arrives_with_the_penalty_at_the_rate_of_the_theory(gamma: float) -> None:
    """The flow's eigenvalues are -gamma / 2 ± sqrt(gamma² / 4 - 1 / 4); those of a step, 1 + h of them."""
    h = 0.5
    roots = [-gamma / 2 + sign * complex(gamma**2 / 4 - 0.25) ** 0.5 for sign in (1, -1)]
    fastest = max(abs(1 + h * root) for root in roots)
    path = dirac((1.0, 1.0), h, gamma, 150).norm(dim=1)
    assert path[-1] < 1e-2 * path[0]
    eye = torch.eye(2).tolist()
    step = torch.stack([dirac((1e-6 * at, 1e-6 * slope), h, gamma, 1)[1] for at, slope in eye], 1) / 1e-6
    assert torch.linalg.eigvals(step).abs().max().item() == pytest.approx(fastest, rel=1e-5)


def layers(judge: Discriminator) -> list[nn.Conv2d | nn.Linear | nn.Embedding]:
    return [layer for layer in judge.modules() if isinstance(layer, nn.Conv2d | nn.Linear | nn.Embedding)]


def test_spectral_normalisation_makes_the_largest_singular_value_one_in_every_layer() -> None:
    judge = Discriminator(NORMED, SHAPE, 4)
    assert len(layers(judge)) == 4
    assert all(map(is_parametrized, layers(judge)))
    assert not any(map(is_parametrized, layers(Discriminator(SMALL, SHAPE, 4))))
    with torch.no_grad():
        for name, weight in judge.named_parameters():
            weight *= 7 if name.endswith("original") else 1
        for _ in range(300):
            judge(torch.randn(1, *SHAPE), torch.tensor([0]))
    judge.eval()
    for layer in layers(judge):
        largest = torch.linalg.svdvals(layer.weight.flatten(1))[0]
        assert largest.item() == pytest.approx(1, abs=1e-4)


def test_a_step_of_the_game_is_one_step_of_the_power_iteration() -> None:
    ours, theirs = (Players(Generator(NORMED, SHAPE), Discriminator(NORMED, SHAPE)) for _ in range(2))
    theirs.load_state_dict(ours.state_dict())
    x, z = torch.randn(3, *SHAPE), torch.randn(3, 5)
    play(ours, x, z)
    theirs.discriminator(x)
    for one, other in zip(ours.buffers(), theirs.buffers(), strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=0)
    assert ours.discriminator.training


def test_the_projection_is_the_product_of_the_features_with_the_labels_vector() -> None:
    """D(x, y) - D(x, y') = <e(y) - e(y'), phi(x)>, with phi what the linear layer sees."""
    judge = Discriminator(SMALL, SHAPE, 4)
    x = torch.randn(5, *SHAPE)
    seen: list[Tensor] = []
    judge.head.register_forward_pre_hook(lambda _layer, given: seen.append(given[0]))
    one, other = (judge(x, torch.full((5,), label)) for label in (3, 1))
    assert judge.embed is not None
    apart = judge.embed.weight[3] - judge.embed.weight[1]
    torch.testing.assert_close(one - other, seen[0] @ apart)
    torch.testing.assert_close(
        one, seen[0] @ (judge.head.weight[0] + judge.embed.weight[3]) + judge.head.bias
    )


@pytest.mark.parametrize("mode", [nn.Module.train, nn.Module.eval])
def test_a_sample_is_its_own_noises_and_labels_alone(mode: Callable[[nn.Module], nn.Module]) -> None:
    generator = Generator(SMALL, SHAPE, 4)
    mode(generator)
    label = torch.tensor([2, -1, 0, 3, -1, 1])
    whole = generator.generate(6, seeded(5, range(6)), label)
    for k in (0, 1, 4):
        torch.testing.assert_close(generator.generate(1, seeded(5, [k]), label[k : k + 1])[0], whole[k])
    others = generator.generate(6, seeded(5, range(6)), torch.tensor([2, 0, 1, 3, -1, 2]))
    same = [torch.allclose(one, other) for one, other in zip(whole, others, strict=True)]
    assert [same[k] for k in (0, 2, 3, 4, 5)] == [True, False, True, True, False]
    assert not torch.allclose(generator.generate(6, seeded(6, range(6)), label), whole)
    assert whole.abs().max() <= 1


def test_any_label_is_each_equally_often() -> None:
    class Told(Generator):
        def forward(self, z: Tensor, label: Tensor | None = None) -> Tensor:
            assert label is not None
            self.told, self.z = label, z
            return torch.zeros(len(z), *SHAPE)

    generator, n = Told(SMALL, SHAPE, 4), 4000
    generator.generate(n, seeded(0, range(n)))
    counts = torch.bincount(generator.told, minlength=4)
    assert (counts - n / 4).abs().max() < 4.5 * math.sqrt(n * 3 / 16)
    unlabelled = generator.z
    correlation = torch.corrcoef(torch.cat([unlabelled, generator.told[:, None]], 1).T)[-1, :-1]
    assert correlation.abs().max() < 4.5 / math.sqrt(n)
    generator.generate(n, seeded(0, range(n)), torch.zeros(n, dtype=torch.long))
    assert torch.equal(generator.z, unlabelled)
    assert generator.told.eq(0).all()


@pytest.mark.parametrize(
    ("channels", "shape", "classes"),
    [
        ((4,), (1, 28, 28), 10),
        ((4, 6), (3, 32, 32), 0),
        ((4, 5, 6), (2, 8, 16), 3),
        ((4, 6), (1, 28, 140), 0),
    ],
)
def test_any_channels_and_sides_that_the_strides_divide(
    channels: tuple[int, ...], shape: tuple[int, ...], classes: int
) -> None:
    config = GANConfig(channels=channels)
    label = torch.arange(2) if classes else None
    made = Generator(config, shape, classes)(torch.randn(2, config.latent), label)
    assert made.shape == (2, *shape)
    assert Discriminator(config, shape, classes)(made, label).shape == (2,)


@pytest.mark.parametrize(
    ("shape", "said"), [((1, 30, 28), "30 x 28"), ((2,), "vectors"), ((3, 8, 8, 8), "8 x 8 x 8")]
)
def test_other_sides_are_refused(shape: tuple[int, ...], said: str) -> None:
    for kind in (Generator, Discriminator):
        with pytest.raises(PhinError, match=f"multiples of 4, not {said}"):
            kind(SMALL, shape)


def test_a_new_generator_draws_grey_and_lets_gradients_through() -> None:
    """DCGAN's first weights: with larger ones tanh is at its ends, and the generator would not learn."""
    generator = Generator(GANConfig(), (1, 28, 28), 10)
    z = normal(0, "noise", range(64), (generator.latent,))
    made = generator(z, torch.arange(64) % 10)
    assert made.abs().mean() < 0.5
    assert (1 - made.square()).mean() > 0.6
