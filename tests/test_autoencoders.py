"""Variational autoencoders, of one level and of several: what they draw, encode and decode."""

from dataclasses import replace

import pytest
import torch
from latents import EACH, SMALL, model_of, pictures
from torch import Tensor, nn

from phin.diffusion.noise import Noise, seeded
from phin.errors import PhinError
from phin.families.autoencoder import Chain
from phin.families.elbo import Normal
from phin.families.hvae import ChainConfig, Ladder
from phin.families.likelihood import DiscretizedLogistic, Gaussian
from phin.nets.resnet import LabelEmbedding, Modulated


@EACH
@pytest.mark.parametrize("drawn", [False, True])
@torch.no_grad()
def test_a_sample_depends_on_its_number_seed_and_label_alone(kind: str, drawn: bool) -> None:
    model, label = model_of(kind, drawn=drawn), torch.tensor([0, 1, 2, 3, -1])
    together = model.generate(5, seeded(0, range(5)), label)
    assert together.shape == (5, 1, 8, 12)
    assert together.abs().max() <= 1
    alone = [model.generate(1, seeded(0, [k]), label[[k]]) for k in range(5)]
    difference = (torch.cat(alone) - together).abs()
    assert (difference > 1e-4).double().mean() < 0.02  # a draw at the border of two bins may round either way
    assert not torch.allclose(model.generate(5, seeded(1, range(5)), label), together, atol=1e-2)
    others = model.generate(5, seeded(0, range(5)), label.roll(1))
    assert not torch.isclose(others, together, atol=1e-4).flatten(1).all(1).any()
    torch.testing.assert_close(
        model.generate(2, seeded(0, [3, 4])), model.generate(2, seeded(0, [3, 4]), torch.tensor([-1, -1]))
    )


@EACH
@torch.no_grad()
def test_the_bound_of_a_picture_depends_on_it_and_its_label_alone(kind: str) -> None:
    model, x, label = model_of(kind), pictures(4), torch.tensor([2, 0, 3, -1])
    together = model.elbo(x, seeded(0, range(4)), label)
    for k in range(4):
        alone = model.elbo(x[[k]], seeded(0, [k]), label[[k]])
        for ours, theirs in ((alone.total, together.total), (alone.log_weight, together.log_weight)):
            torch.testing.assert_close(ours, theirs[[k]], rtol=1e-4, atol=1e-3)
    assert not torch.isclose(model.elbo(x, seeded(0, range(4)), label.roll(1)).total, together.total).any()
    assert not torch.isclose(model.elbo(x, seeded(1, range(4)), label).total, together.total).any()
    given = model.given(label=label)(x, seeded(0, range(4)))
    torch.testing.assert_close(given.total, together.total)


@EACH
def test_every_weight_is_learned(kind: str) -> None:
    model = model_of(kind)
    model.elbo(pictures(4), torch.randn_like, torch.arange(4)).total.sum().backward()
    silent = [name for name, p in model.named_parameters() if p.grad is None or not p.grad.any()]
    assert not silent


@EACH
@torch.no_grad()
def test_the_parts_of_the_bound(kind: str) -> None:
    """Levels from z_1 up with the sizes that they were given; the reconstruction is the likelihood's mean."""
    model, x = model_of(kind), pictures(6)
    raw, path = model(x, seeded(0, range(6)))
    found = model.elbo(x, seeded(0, range(6)))
    sizes = {
        "vae": [(5, 5)],
        "chain": [(2, 2 * 24), (3, 3 * 6), (5, 5)],
        "ladder": [(2, 2 * 24), (2, 2 * 24), (3, 3 * 6), (5, 5)],
    }[kind]
    assert [(kl.shape[1], means.shape[1]) for kl, means in zip(path.kl, path.means, strict=True)] == sizes
    torch.testing.assert_close(found.reconstruction, -model.likelihood.log_prob(raw, x))
    torch.testing.assert_close(found.total, found.reconstruction + found.kl.sum(1))
    torch.testing.assert_close(model.reconstruct(x, seeded(0, range(6))), model.likelihood.mean(raw))
    if kind != "chain":
        assert all((kl >= 0).all() for kl in path.kl)


@EACH
@torch.no_grad()
def test_the_mean_of_the_draws_is_the_divergence(kind: str) -> None:
    """The two estimates of what the latents cost agree over 4,000 draws, within 4.5 standard errors."""
    model, x = model_of(kind), pictures(1).expand(4000, -1, -1, -1)
    found = model.elbo(x, torch.randn_like, torch.ones(4000).long())
    gap = (found.path.ratio - found.kl.sum(1)).double()
    assert float(gap.mean().abs()) < 4.5 * float(gap.std()) / 4000**0.5
    assert float(gap.std()) > 0.1


@torch.no_grad()
def test_a_ladders_samples_are_from_the_prior_of_its_bound() -> None:
    """Where the posterior is made the prior, encoding and imagining are one."""
    model = model_of("ladder")
    assert isinstance(model, Ladder)
    label = torch.tensor([1, 3])
    prior = torch.cat(list(model.prior(model.label(label, 2))), 1)
    model.posterior.forward = lambda input: prior  # pyright: ignore
    for step in model.steps:
        for parameter in step.posterior.parameters():  # pyright: ignore
            nn.init.zeros_(parameter)
    raw, path = model(pictures(2), seeded(0, range(2)), label)
    torch.testing.assert_close(model.imagine(2, seeded(0, range(2)), label), raw, rtol=1e-3, atol=1e-3)
    assert max(float(kl.max()) for kl in path.kl) < 1e-6


@torch.no_grad()
def test_an_autoencoders_samples_are_from_the_prior_of_its_bound() -> None:
    """The same of the one level of a chain: each label has a prior of its own."""
    model, label = model_of("vae"), torch.tensor([1, 3, -1])
    assert isinstance(model, Chain)
    prior = model.prior(model.label(label, 3))
    assert (prior.mean.diff(dim=0).abs() > 0.01).any(1).all()
    model.encode[0].forward = lambda x, told: torch.cat(list(prior), 1)  # pyright: ignore
    raw, path = model(pictures(3), seeded(0, range(3)), label)
    torch.testing.assert_close(model.imagine(3, seeded(0, range(3)), label), raw, rtol=1e-3, atol=1e-3)
    assert float(path.kl[0].max()) < 1e-6


@EACH
@torch.no_grad()
def test_the_first_prior_is_standard_and_a_ladder_begins_by_costing_little(kind: str) -> None:
    model = SMALL[kind].build((1, 8, 12), DiscretizedLogistic(), 4)
    prior = model.prior(model.label(torch.arange(4), 4))  # pyright: ignore
    for part in prior:
        torch.testing.assert_close(part, torch.zeros_like(part), rtol=0, atol=1e-4)
    assert SMALL[kind].build((1, 8, 12), DiscretizedLogistic()).prior.head is None  # pyright: ignore
    if kind == "ladder":
        *maps, _ = model.elbo(pictures(2), torch.randn_like, torch.arange(2)).path.kl
        assert max(float(kl.abs().max()) for kl in maps) == 0


@torch.no_grad()
def test_a_chain_begins_as_a_diffusion() -> None:
    """Where a level is as large as the one below: q(z_2 | z_1) N(z_1) = p(z_1 | z_2) N(z_2), for all z."""
    model = ChainConfig(channels=(8, 12), latents=(2, 8, 5)).build((1, 8, 12), DiscretizedLogistic())
    told = model.label(None, 6)
    z_1, z_2 = torch.randn(6, 4, 6, 2), torch.randn(6, 2, 3, 8)
    q, p = Normal.of(model.encode[1](z_1, told)), Normal.of(model.decode[0](z_2, told))
    up = q.log_prob(z_2).sum(1) + Normal.standard(z_1).log_prob(z_1).sum(1)
    down = p.log_prob(z_1).sum(1) + Normal.standard(z_2).log_prob(z_2).sum(1)
    torch.testing.assert_close(up, down, rtol=0, atol=0.05)  # of 130 nats; variances are bounded below
    assert q.mean.std() > 0.5
    torch.testing.assert_close(q.log_var.exp(), torch.full_like(q.mean, 0.5), rtol=1e-3, atol=0)
    top, q = Normal.of(model.decode[1](torch.randn(6, 5), told)), Normal.of(model.encode[2](z_2, told))
    torch.testing.assert_close(top.log_var.exp(), torch.full_like(z_2, 1 - 0.5 * 5 / 48), rtol=1e-3, atol=0)
    assert q.mean.std() > 0.5


class Map(nn.Module):
    """z -> (slope z + shift, log-variance), of numbers in a vector."""

    def __init__(self, slope: float, log_var: float | None, shift: float = 0.0) -> None:
        super().__init__()
        self.slope, self.log_var, self.shift = slope, log_var, shift

    def forward(self, z: Tensor) -> Tensor:
        mean = self.slope * z + self.shift
        return mean if self.log_var is None else torch.cat([mean, torch.full_like(mean, self.log_var)], -1)


def linear_chain() -> Chain:
    """z_2 - z_1 - x of linear Gaussians: p(z_1 | z_2) = N(0.8 z_2 + 0.3, e^-1), x = 2 z_1."""
    encode = [Modulated(Map(0.4, -2.0)), Modulated(Map(0.7, -1.0))]
    decode = [Modulated(Map(0.8, -1.0, 0.3)), Modulated(Map(2.0, None))]
    return Chain(encode, decode, 1, LabelEmbedding(0, 4), Gaussian(0.5))


def test_a_chain_draws_from_the_top_down() -> None:
    noise = iter([torch.tensor([[1.0]]), torch.tensor([[-2.0]])])
    drawn = linear_chain().imagine(1, lambda like: next(noise))
    z_1 = 0.8 * 1.0 + 0.3 - 2 * torch.tensor(-0.5).exp()
    torch.testing.assert_close(drawn, 2 * z_1.view(1, 1), rtol=2e-3, atol=0)


def test_a_chain_encodes_from_the_bottom_up_each_level_from_the_one_below() -> None:
    noise = iter([torch.tensor([[1.0]]), torch.tensor([[-2.0]])])
    x = torch.tensor([[0.5]])
    raw, path = linear_chain()(x, lambda like: next(noise))
    z_1 = 0.4 * 0.5 + torch.tensor(-1.0).exp()
    torch.testing.assert_close(raw, (2 * z_1).view(1, 1), rtol=2e-3, atol=0)
    torch.testing.assert_close(path.means[1], (0.7 * z_1).view(1, 1), rtol=2e-3, atol=0)
    z_2 = 0.7 * z_1 - 2 * torch.tensor(-0.5).exp()
    q = Normal(torch.zeros(1, 1), torch.full((1, 1), -2.0)).entropy()
    p = Normal((0.8 * z_2 + 0.3).view(1, 1), torch.full((1, 1), -1.0)).log_prob(z_1.view(1, 1))
    torch.testing.assert_close(path.kl[0], -q - p, rtol=2e-3, atol=0)


@EACH
@pytest.mark.parametrize("shape", [(3, 8, 8), (2, 12), (1, 4, 4, 8)], ids=str)
@torch.no_grad()
def test_any_number_of_channels_and_sides(kind: str, shape: tuple[int, ...]) -> None:
    model = model_of(kind, shape, classes=0)
    assert model.generate(2, torch.randn_like).shape == (2, *shape)
    assert model.elbo(pictures(2, shape), torch.randn_like).total.isfinite().all()


@EACH
def test_a_side_that_the_resolutions_do_not_divide_is_refused(kind: str) -> None:
    with pytest.raises(PhinError, match=r"side 10 of \(8, 10\) is not a multiple of 4, which is net.patch"):
        SMALL[kind].build((1, 8, 10), Gaussian())


@EACH
@torch.no_grad()
def test_under_autocast_what_is_exponentiated_stays_exact(kind: str) -> None:
    """Networks may be in bfloat16, the latents and the likelihood not."""
    model, x = model_of(kind), pictures(2)
    drawn: list[torch.dtype] = []

    def noise(like: Tensor) -> Tensor:
        drawn.append(like.dtype)
        return torch.randn_like(like)

    with torch.autocast("cpu", torch.bfloat16):
        raw, path = model(x, noise)
        model.generate(2, noise)
        found = model.elbo(x, noise)
    assert {raw.dtype, path.ratio.dtype, found.total.dtype, *drawn} == {torch.float32}
    assert found.total.isfinite().all()


@pytest.mark.parametrize(
    ("config", "wrong", "message"),
    [
        ("vae", {"channels": ()}, r"channels = \(\)"),
        ("vae", {"blocks": 0}, "blocks = 0"),
        ("vae", {"latents": 0}, "latents = 0"),
        ("chain", {"latents": (2, 3)}, r"latents = \(2, 3\): give at least 1 for each of the 2 resolutions"),
        ("chain", {"patch": 0}, "patch = 0"),
        ("ladder", {"rungs": (1,)}, r"rungs = \(1,\): give each of the 2 resolutions at least 1"),
        ("ladder", {"rungs": (1, 0)}, "at least 1"),
    ],
)
def test_sizes_that_make_no_network_are_refused(config: str, wrong: dict[str, object], message: str) -> None:
    with pytest.raises(PhinError, match=message):
        replace(SMALL[config], **wrong)  # pyright: ignore[reportArgumentType]


def test_noise_is_drawn_level_by_level() -> None:
    """A chain draws z_1 first, a ladder the vector: both draw each level once, and x's pixels last."""
    shapes: dict[str, list[tuple[int, ...]]] = {}

    def noise_of(kind: str) -> Noise:
        def noise(like: Tensor) -> Tensor:
            shapes.setdefault(kind, []).append(tuple(like.shape[1:]))
            return torch.randn_like(like)

        return noise

    for kind in SMALL:
        model_of(kind)(pictures(2), noise_of(kind))
    assert shapes == {
        "vae": [(5,)],
        "chain": [(4, 6, 2), (2, 3, 3), (5,)],
        "ladder": [(5,), (2, 3, 3), (4, 6, 2), (4, 6, 2)],
    }
