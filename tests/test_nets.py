"""The networks: every parameter learns, conditions act where they should, and the formulas hold."""

from dataclasses import replace
from typing import TypeVar

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from phin.errors import PhinError
from phin.nets.embed import LevelEmbedding, Reading, modulate
from phin.nets.mlp import MLP, MLPConfig
from phin.nets.unet import Convolution, SelfAttention, UNet, UNetConfig, fold, unfold

SMALL = UNetConfig(channels=(16, 32), blocks=1, heads=4)


Net = TypeVar("Net", bound=nn.Module)


def awake(net: Net) -> Net:
    """The network with noise for all parameters, as if trained: nothing is left at zero."""
    for parameter in net.parameters():
        parameter.data += 0.2 * torch.randn_like(parameter) / max(1, parameter[0].numel()) ** 0.5
    return net


def relative(a: Tensor, b: Tensor) -> float:
    return ((a - b).norm() / b.norm()).item()


@pytest.mark.parametrize(
    ("sides", "channels", "config"),
    [
        ((24,), 2, SMALL),
        ((8, 20), 3, SMALL),
        (
            (8, 8),
            5,
            UNetConfig(channels=(12, 20, 36), blocks=2, patch=1, attention=(True, False, True), heads=2),
        ),
        ((4, 12, 8), 1, SMALL),
        ((9, 15), 3, UNetConfig(channels=(16,), blocks=1, patch=3, attention=(True,))),
    ],
)
def test_every_parameter_of_a_unet_gets_a_gradient(
    sides: tuple[int, ...], channels: int, config: UNetConfig
) -> None:
    net = awake(UNet(config, channels, channels + 1, dims=len(sides), classes=3, vocabulary=5))
    z = torch.randn(4, channels, *sides)
    output = net(
        z, torch.randn(4), torch.tensor([0, 1, 2, -1]), torch.tensor([[0, 1], [2, 3], [4, 0], [-1, -1]])
    )
    assert output.shape == (4, channels + 1, *sides)
    output.square().mean().backward()
    for name, parameter in net.named_parameters():
        assert parameter.grad is not None, name
        assert 0 < parameter.grad.abs().max() < torch.inf, name


def test_an_untrained_network_outputs_zero() -> None:
    z, log_snr = torch.randn(2, 1, 8, 8), torch.zeros(2)
    assert not UNet(SMALL, 1)(z, log_snr).any()
    assert not MLP(MLPConfig(width=16), 64)(z.flatten(1), log_snr).any()


def test_fold_is_pixel_unshuffle_with_channels_last() -> None:
    x = torch.randn(2, 4, 6, 3)
    folded = fold(x, 2).unflatten(-1, (2, 2, 3))  # offsets before channels; torch has channels before offsets
    torch.testing.assert_close(
        folded.movedim(-1, -3).flatten(3).movedim(-1, 1), F.pixel_unshuffle(x.movedim(-1, 1), 2)
    )


@pytest.mark.parametrize("sides", [(6,), (6, 9), (3, 6, 9)])
def test_unfold_inverts_fold(sides: tuple[int, ...]) -> None:
    x = torch.randn(2, *sides, 2)
    assert torch.equal(unfold(fold(x, 3), 3), x)


@pytest.mark.parametrize("dims", [1, 2, 3])
def test_folds_and_skips_keep_everything_in_its_place(dims: int) -> None:
    """With only the middle taps of its convolutions, the network maps each patch of 4 pixels on its own."""
    net = awake(UNet(replace(SMALL, attention=(False, False)), 1, dims=dims))
    middle = (..., *[1] * dims)
    for module in net.modules():
        if isinstance(module, nn.Conv1d | nn.Conv2d | nn.Conv3d):
            taps = module.weight.data[middle].clone()
            module.weight.data.zero_()[middle] = taps
    z, log_snr = torch.randn(1, 1, *range(8, 8 + 4 * dims, 4)), torch.zeros(1)
    output = net(z, log_snr)
    for axis in range(2, 2 + dims):
        torch.testing.assert_close(net(z.roll(4, axis), log_snr), output.roll(4, axis))
    changed = z.clone()
    changed[(0, 0, *[slice(4, 8)] * dims)] += 1
    difference = net(changed, log_snr) - output
    assert difference[(0, 0, *[slice(4, 8)] * dims)].abs().min() > 1e-5
    difference[(0, 0, *[slice(4, 8)] * dims)] = 0
    assert difference.abs().max() < 1e-5


@pytest.mark.parametrize("sides", [(2,), (2, 5), (2, 5, 5), (2, 2, 2), (1, 4, 4), (4, 5, 5)])
def test_a_convolution_has_the_same_value_and_gradients_in_bfloat16(sides: tuple[int, ...]) -> None:
    """Small sides, too, whatever the memory held before: a kernel that leaves a part unset shows it."""
    convolution = Convolution(len(sides), 32, 32)
    weight = convolution.inner.weight
    for _ in range(4):
        x, g = torch.randn(8, *sides, 32, requires_grad=True), torch.randn(8, *sides, 32)
        expected = F.conv3d if len(sides) == 3 else F.conv2d if len(sides) == 2 else F.conv1d
        exact = expected(x.movedim(-1, 1), weight, convolution.inner.bias, padding=1).movedim(1, -1)
        wanted = [exact, *torch.autograd.grad(exact, [weight, x], g)]
        held = [torch.full((2**18,), torch.nan) for _ in range(4)]
        del held
        with torch.autocast("cpu", torch.bfloat16):
            y = convolution(x)
        found = [y, *torch.autograd.grad(y, [weight, x], g.to(y.dtype))]
        assert max(map(relative, found, wanted)) < 0.02


def test_the_network_follows_the_noise_level() -> None:
    net, z = awake(UNet(SMALL, 1)), torch.randn(1, 1, 8, 8).expand(41, -1, -1, -1)
    output = net(z, torch.linspace(-20, 20, 41)).flatten(1)
    distance = torch.cdist(output, output) + 1e9 * torch.eye(41)
    assert distance.min() > 1e-3 * output.norm(dim=1).mean()


def test_levels_far_apart_are_told_apart_and_close_ones_are_close() -> None:
    log_snr = torch.linspace(-20, 20, 4001)
    embedding = LevelEmbedding(32)(log_snr)
    steps = (embedding[1:] - embedding[:-1]).norm(dim=1)
    distance = torch.cdist(embedding[::100], embedding[::100]) + 1e9 * torch.eye(41)
    assert steps.max() < distance.min()


@pytest.mark.parametrize("net", [UNet(SMALL, 2, dims=1, classes=4), MLP(MLPConfig(width=32), 16, classes=4)])
def test_a_null_label_is_no_label_and_a_label_matters(net: nn.Module) -> None:
    awake(net)
    z = torch.randn(3, 2, 8) if isinstance(net, UNet) else torch.randn(3, 16)
    log_snr = torch.randn(3)
    without = net(z, log_snr)
    assert torch.equal(net(z, log_snr, label=torch.full((3,), -1)), without)
    outputs = [net(z, log_snr, label=torch.full((3,), label)) for label in range(4)]
    for i, one in enumerate(outputs):
        for other in [without, *outputs[:i]]:
            assert relative(one, other) > 1e-3


def test_a_text_left_out_is_one_null_character() -> None:
    net, z, log_snr = awake(UNet(SMALL, 1, vocabulary=10)), torch.randn(2, 1, 8, 8), torch.zeros(2)
    assert torch.equal(net(z, log_snr), net(z, log_snr, text=torch.full((2, 1), -1)))


def test_conditions_a_network_was_built_without_are_refused() -> None:
    z, log_snr, label = torch.randn(2, 1, 8, 8), torch.zeros(2), torch.zeros(2, dtype=torch.long)
    for net, x in ((UNet(SMALL, 1), z), (MLP(MLPConfig(width=16), 64), z.flatten(1))):
        with pytest.raises(PhinError, match="takes no label"):
            net(x, log_snr, label=label)
    with pytest.raises(PhinError, match="takes no text"):
        UNet(SMALL, 1)(z, log_snr, text=label[:, None])


def test_a_character_acts_on_its_own_cell() -> None:
    """With sharp heads only, and no attention among pixels, a changed character changes the columns beneath
    it and, through the convolutions, their surroundings, but nothing far away.
    """
    net = awake(UNet(replace(SMALL, attention=(False, False)), 1, vocabulary=10))
    assert net.reading is not None
    net.reading.raw_slope.data.fill_(1e3)
    z, log_snr = torch.randn(1, 1, 8, 160), torch.zeros(1)
    change = net(z, log_snr, text=torch.tensor([[1, 2, 3, 4, 5]])) - net(
        z, log_snr, text=torch.tensor([[1, 2, 7, 4, 5]])
    )
    columns = change.abs().amax((0, 1, 2))
    assert columns[64:96].min() > 1e-4
    assert columns[:32].max() == columns[128:].max() == 0


def test_equal_neighbours_have_a_border() -> None:
    """In "77" each column is told where in its cell it lies, and each cell where in the text."""
    told = awake(Reading(10, 32))(torch.tensor([[7, 7]]), 28)[0]
    distance = torch.cdist(told, told) + 1e9 * torch.eye(28)
    assert distance.min() > 0.05


def test_reading_is_attention_with_the_stated_bias() -> None:
    reading, text, columns = awake(Reading(10, 12, heads=3)), torch.tensor([[3, 1, 4, 1]]), 10
    slopes = F.softplus(reading.raw_slope)
    length, size = text.shape[1], 12 // 3
    expected = torch.zeros(columns, 12)
    p = torch.tensor([length * (j + 0.5) / columns for j in range(columns)])
    turns = 2 * torch.pi * p[:, None] * torch.tensor([1, 2, 3])
    ends = torch.stack([p / length, 1 - p / length], 1)
    place = reading.place(torch.cat([turns.sin(), turns.cos(), ends], 1))
    queries = reading.query(F.silu(place))
    keys, values = reading.key_value(reading.character.weight[text[0] + 1]).chunk(2, 1)
    for h in range(3):
        part = slice(h * size, (h + 1) * size)
        for j in range(columns):
            logits = torch.stack(
                [
                    queries[j, part] @ keys[i, part] / size**0.5 - slopes[h] * (p[j] - (i + 0.5)) ** 2
                    for i in range(length)
                ]
            )
            expected[j, part] = logits.softmax(0) @ values[:, part]
    torch.testing.assert_close(reading(text, columns)[0], reading.out(expected) + place)


def test_reading_starts_sharp_and_flat() -> None:
    sharp, *_, flat = Reading(10, 32).bias(length=3, columns=9).softmax(-1)
    assert sharp[4, 1] > 0.99  # the middle of the middle cell
    torch.testing.assert_close(flat, torch.full((9, 3), 1 / 3), atol=0.03, rtol=0)


def test_self_attention_is_softmax_attention() -> None:
    attention, x = awake(SelfAttention(32, heads=4)), torch.randn(2, 3, 5, 32)
    q, k, v = attention.query_key_value(attention.norm(x)).flatten(1, 2).unflatten(-1, (3, 4, 8)).unbind(2)
    read = F.scaled_dot_product_attention(*(t.transpose(1, 2) for t in (q, k, v))).transpose(1, 2)
    torch.testing.assert_close(attention(x), x + attention.out(read.reshape(2, 3, 5, 32)))


def test_modulate_scales_and_shifts_what_is_normed_over_channels() -> None:
    x, scale, shift = 5 * torch.randn(2, 4, 3, 64) + 2, torch.randn(2, 1, 3, 64), torch.randn(2, 1, 3, 64)
    normed = (x - x.mean(-1, keepdim=True)) / (x.var(-1, keepdim=True, correction=0) + 1e-5).sqrt()
    torch.testing.assert_close(modulate(x, torch.cat([scale, shift], -1)), (1 + scale) * normed + shift)


def test_pictures_of_a_batch_do_not_meet() -> None:
    net = awake(UNet(SMALL, 1, classes=3, vocabulary=10))
    z, log_snr = torch.randn(3, 1, 8, 16), torch.tensor([-5.0, 0.0, 5.0])
    label, text = torch.tensor([0, 1, -1]), torch.tensor([[1, 2], [3, 4], [-1, -1]])
    together = net(z, log_snr, label, text)
    for k in range(3):
        alone = net(z[k : k + 1], log_snr[k : k + 1], label[k : k + 1], text[k : k + 1])
        torch.testing.assert_close(alone[0], together[k], atol=1e-5, rtol=1e-5)


def test_a_side_that_does_not_divide_is_named_with_its_factor() -> None:
    net = UNet(UNetConfig(channels=(16, 16, 16), attention=(False,) * 3, patch=2), 1)
    with pytest.raises(PhinError, match=r"side 28 of \(24, 28\) is not a multiple of 8"):
        net(torch.zeros(1, 1, 24, 28), torch.zeros(1))


@pytest.mark.parametrize(
    ("config", "dims", "message"),
    [
        (SMALL, 4, "not 4"),
        (replace(SMALL, attention=(True,)), 2, "1 entries for 2 resolutions"),
        (replace(SMALL, channels=(16, 30)), 2, "channels 30 are not a multiple of heads 4"),
    ],
)
def test_a_configuration_that_makes_no_network_is_refused(
    config: UNetConfig, dims: int, message: str
) -> None:
    with pytest.raises(PhinError, match=message):
        UNet(config, 1, dims=dims)


def test_bfloat16_autocast_is_close_to_float32() -> None:
    net = awake(UNet(SMALL, 1, vocabulary=10))
    z, log_snr, text = (
        torch.randn(4, 1, 16, 32),
        torch.tensor([-10.0, -1.0, 1.0, 10.0]),
        torch.randint(0, 10, (4, 2)),
    )
    exact = net(z, log_snr, text=text)
    with torch.autocast("cpu", torch.bfloat16):
        output = net(z, log_snr, text=text)
    assert output.dtype == torch.float32
    assert relative(output, exact) < 0.03
    output.square().mean().backward()
    assert all(
        p.grad is not None and p.grad.dtype == torch.float32 and p.grad.isfinite().all()
        for p in net.parameters()
    )


@pytest.mark.parametrize("dims", [2, 3])
def test_a_convolution_gets_and_gives_channels_last(dims: int) -> None:
    """Nothing is laid out anew on the way through the network."""
    net = UNet(SMALL, 1, dims=dims)
    layout = torch.channels_last if dims == 2 else torch.channels_last_3d
    seen = 0

    def look(module: nn.Module, inputs: tuple[Tensor], output: Tensor) -> None:
        nonlocal seen
        seen += 1
        assert inputs[0].is_contiguous(memory_format=layout)
        assert output.is_contiguous(memory_format=layout)

    for module in net.modules():
        if isinstance(module, nn.Conv2d | nn.Conv3d):
            module.register_forward_hook(look)
    net(torch.randn(2, 1, *[8] * dims), torch.zeros(2))
    assert seen == 9


def test_dropout_acts_in_training_only() -> None:
    net = awake(UNet(replace(SMALL, dropout=0.5), 1))
    z, log_snr = torch.randn(2, 1, 8, 8), torch.zeros(2)
    assert not torch.equal(net(z, log_snr), net(z, log_snr))
    net.eval()
    assert torch.equal(net(z, log_snr), net(z, log_snr))


@pytest.mark.parametrize(
    "net", [lambda: UNet(SMALL, 1, classes=2, vocabulary=3), lambda: MLP(MLPConfig(width=16), 64, 2)]
)
def test_the_state_restores_the_network(net: type[nn.Module]) -> None:
    one, other = awake(net()), net()
    other.load_state_dict(one.state_dict())
    z = torch.randn(2, 1, 8, 8) if isinstance(one, UNet) else torch.randn(2, 64)
    assert torch.equal(one(z, torch.zeros(2)), other(z, torch.zeros(2)))


def test_the_weights_of_the_numbers_network_fit_eight_megabytes_in_sixteen_bits() -> None:
    net = UNet(UNetConfig(), 1, vocabulary=10)
    assert sum(p.numel() for p in net.parameters()) <= 3_950_000


def test_every_parameter_of_an_mlp_gets_a_gradient() -> None:
    net = awake(MLP(MLPConfig(width=32, depth=2), 5, classes=3))
    net(torch.randn(4, 5), torch.randn(4), torch.tensor([0, 1, 2, -1])).square().mean().backward()
    for name, parameter in net.named_parameters():
        assert parameter.grad is not None, name
        assert 0 < parameter.grad.abs().max() < torch.inf, name


def test_an_mlp_learns_the_exact_denoiser_of_a_gaussian() -> None:
    """x ~ N(mu, s²), z = alpha x + sigma eps: E[eps | z] = sigma (z - alpha mu) / (alpha² s² + sigma²)."""
    net = MLP(MLPConfig(width=32, depth=2), 2)
    optimizer = torch.optim.Adam(net.parameters(), lr=3e-3)
    mean, s = torch.tensor([0.5, -1.0]), 0.3

    def draw(n: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        log_snr = 8 * torch.rand(n) - 4
        alpha, sigma = log_snr.sigmoid().sqrt()[:, None], (-log_snr).sigmoid().sqrt()[:, None]
        eps = torch.randn(n, 2)
        z = alpha * (mean + s * torch.randn(n, 2)) + sigma * eps
        return z, log_snr, eps, sigma * (z - alpha * mean) / (alpha**2 * s**2 + sigma**2)

    for _ in range(300):
        z, log_snr, eps, _ = draw(256)
        optimizer.zero_grad()
        F.mse_loss(net(z, log_snr), eps).backward()
        optimizer.step()
    z, log_snr, _, exact = draw(2000)
    assert F.mse_loss(net(z, log_snr), exact) < 0.02 * exact.square().mean()


def test_fourier_features_are_the_waves_of_the_input() -> None:
    z, log_snr = torch.rand(3, 4, 2, dtype=torch.float64) * 2 - 1, torch.tensor([2.0, 8.0, 40.0]).double()
    told = UNet(replace(SMALL, fourier=(0, 3)), 2).detailed(z, log_snr)
    assert torch.equal(told[..., :2], z)
    waves = [f(2**n * torch.pi * z) for f in (torch.sin, torch.cos) for n in (0, 3)]
    torch.testing.assert_close(told[..., 2:], torch.stack(waves, -1).flatten(-2))


def test_waves_fade_to_their_mean_over_the_noise() -> None:
    """E sin(w (z + std eps)), by Gauss-Hermite quadrature, with the noise of an input of unit variance."""
    z, log_snr = torch.rand(3, 4, 2, dtype=torch.float64) * 2 - 1, torch.tensor([2.0, 8.0, 40.0]).double()
    plain = UNet(replace(SMALL, fourier=(0, 3)), 2)
    nodes, weights = (torch.from_numpy(a) for a in np.polynomial.hermite_e.hermegauss(120))
    std = torch.sigmoid(-log_snr).sqrt().view(-1, 1, 1)
    mean = sum(
        w * plain.detailed(z + std * e, log_snr) for e, w in zip(nodes, weights / weights.sum(), strict=True)
    )
    assert isinstance(mean, Tensor)
    faded = UNet(replace(SMALL, fourier=(0, 3), fade=True), 2).detailed(z, log_snr)
    torch.testing.assert_close(faded, mean, rtol=1e-6, atol=1e-8)
    assert faded[0, ..., 2:].abs().max() < plain.detailed(z, log_snr)[0, ..., 2:].abs().max()


def test_the_periods_of_the_level_embedding() -> None:
    frequencies = LevelEmbedding(8).frequencies
    torch.testing.assert_close(80 * frequencies, torch.logspace(0, 6, 32, base=2))


def test_conditions_out_of_range_are_refused() -> None:
    net = UNet(UNetConfig(channels=(8, 16), blocks=1, heads=2), 1, classes=3, vocabulary=4)
    z, log_snr = torch.randn(2, 1, 8, 8), torch.zeros(2)
    for wrong in (-2, 3):
        with pytest.raises(PhinError, match=f"0 to 2, .* from {min(wrong, 0)} to {max(wrong, 0)}"):
            net(z, log_snr, label=torch.tensor([0, wrong]))
    with pytest.raises(PhinError, match=r"0 to 3, .* from 1 to 4"):
        net(z, log_snr, text=torch.tensor([[1, 4], [2, 3]]))
    with pytest.raises(PhinError, match="at least one character"):
        net(z, log_snr, text=torch.zeros(2, 0, dtype=torch.long))
