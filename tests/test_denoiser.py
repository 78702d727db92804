"""The denoiser hands the network what it should, and reads its output as the parameterization says."""

import pytest
import torch
from torch import Tensor, nn

from phin.diffusion.denoiser import Denoiser
from phin.diffusion.level import SCALINGS, Level, vp
from phin.diffusion.parameterization import PARAMETERIZATIONS, edm, v


class Net(nn.Module):
    """Some function of all its inputs, picture by picture, which remembers what it saw."""

    def __init__(self, channels: int = 1) -> None:
        super().__init__()
        self.channels = channels
        self.seen: list[tuple[Tensor, Tensor]] = []

    def forward(
        self, z: Tensor, log_snr: Tensor, label: Tensor | None = None, text: Tensor | None = None
    ) -> Tensor:
        self.seen.append((z, log_snr))
        shift = log_snr / 10
        if label is not None:
            shift = shift + label
        if text is not None:
            shift = shift + text.sum(1)
        out = torch.tanh(z + shift.reshape(-1, *[1] * (z.ndim - 1)))
        return torch.cat([out * (i + 1) for i in range(self.channels)], 1)


LOG_SNR = torch.tensor([-6.0, -1.0, 0.5, 3.0, 8.0], dtype=torch.float64)


def pictures(channels: int = 2) -> tuple[Tensor, Tensor]:
    x, eps = torch.randn(2, len(LOG_SNR), channels, 3, 4, dtype=torch.float64)
    return x, eps


@pytest.mark.parametrize("scaling", SCALINGS)
@pytest.mark.parametrize("sigma_data", [0.5, 1.0])
def test_the_network_sees_unit_variance_and_log_snr_whatever_the_scaling(
    scaling: str, sigma_data: float
) -> None:
    net = Net()
    denoiser = Denoiser(net, v, sigma_data=sigma_data)
    x, eps = pictures()
    level = SCALINGS[scaling](LOG_SNR).view(4)
    denoiser(level.alpha * x + level.sigma * eps, level)
    z, log_snr = net.seen[-1]
    assert torch.equal(log_snr, LOG_SNR)
    r = torch.exp(LOG_SNR / 2).view(-1, 1, 1, 1)  # alpha / sigma: all that is left of the level
    torch.testing.assert_close(z, (r * x + eps) / (1 + (r * sigma_data) ** 2).sqrt())


@pytest.mark.parametrize("name", PARAMETERIZATIONS)
@pytest.mark.parametrize("scaling", SCALINGS)
def test_the_output_is_read_by_the_parameterization(name: str, scaling: str) -> None:
    net, param = Net(), PARAMETERIZATIONS[name]()
    x, eps = pictures()
    level = SCALINGS[scaling](LOG_SNR).view(4)
    z = level.alpha * x + level.sigma * eps
    prediction = Denoiser(net, param)(z, level)
    skip, out = param(level)
    torch.testing.assert_close(prediction.x, skip * z + out * net(*net.seen[-1]))
    assert prediction.frac is None


def test_one_level_for_all_pictures_or_one_each() -> None:
    net = Net()
    denoiser = Denoiser(net, edm(0.5), sigma_data=0.5)
    z, _ = pictures()
    ladder = vp(LOG_SNR)
    each = denoiser(z, ladder).x
    assert torch.equal(denoiser(z, ladder.view(4)).x, each)
    for i in range(len(LOG_SNR)):
        one = denoiser(z, ladder.at(i)).x
        assert torch.equal(net.seen[-1][1], LOG_SNR[i].expand(len(z)))
        torch.testing.assert_close(one[i], each[i])


def test_a_float64_level_leaves_float32_pictures_float32() -> None:
    net = Net()
    z = pictures()[0].float()
    prediction = Denoiser(net, v)(z, vp(LOG_SNR).at(2))
    assert prediction.x.dtype == torch.float32
    assert {seen.dtype for seen in net.seen[-1]} == {torch.float32}


def test_learned_variance_is_the_second_half_of_the_channels() -> None:
    net = Net(channels=2)  # gives F and 2 F
    z, _ = pictures()
    level = vp(LOG_SNR).view(4)
    prediction = Denoiser(net, v, learn_var=True)(z, level)
    first, second = net(*net.seen[-1]).chunk(2, 1)
    skip, out = v(level)
    torch.testing.assert_close(prediction.x, skip * z + out * first)
    assert prediction.frac is not None
    torch.testing.assert_close(
        prediction.frac, (second + 1) / 2
    )  # -1 is the smallest variance, 1 the largest


def test_a_condition_is_bound_and_an_unknown_one_refused() -> None:
    net = Net()
    denoiser = Denoiser(net, v)
    z, _ = pictures()
    level = vp(LOG_SNR).view(4)
    label = torch.arange(len(z))
    bound = denoiser.given(label=label)
    assert torch.equal(bound(z, level).x, denoiser(z, level, label=label).x)
    assert not torch.equal(bound(z, level).x, denoiser(z, level).x)
    with pytest.raises(ValueError, match=r"'class_label'.*label, text"):
        denoiser.given(class_label=label)
    for name in ("z", "log_snr"):
        with pytest.raises(ValueError, match=name):
            denoiser.given(**{name: label})


@pytest.mark.parametrize("learn_var", [False, True])
@pytest.mark.parametrize("single", [False, True])
def test_beside_is_two_calls_in_one(learn_var: bool, single: bool) -> None:
    net = Net(channels=2 if learn_var else 1)
    denoiser = Denoiser(net, v, learn_var)
    z, _ = pictures()
    level: Level = vp(LOG_SNR).at(1) if single else vp(LOG_SNR).view(4)
    some = denoiser.given(label=torch.arange(len(z)), text=torch.ones(len(z), 3))
    other = denoiser.given(text=torch.zeros(len(z), 3), label=torch.full((len(z),), -1))
    expected = some(z, level), other(z, level)
    calls = len(net.seen)
    both = some.beside(other, z, level)
    assert len(net.seen) == calls + 1
    for prediction, wanted in zip(both, expected, strict=True):
        torch.testing.assert_close(prediction.x, wanted.x)
        assert (prediction.frac is None) == (not learn_var)
        if prediction.frac is not None and wanted.frac is not None:
            torch.testing.assert_close(prediction.frac, wanted.frac)


def test_batched_levels_of_float64_leave_float32_pictures_float32() -> None:
    net = Net()
    z = pictures()[0].float()
    prediction = Denoiser(net, v)(z, vp(LOG_SNR))
    assert prediction.x.dtype == torch.float32
    torch.testing.assert_close(prediction.x.double(), Denoiser(net, v)(z.double(), vp(LOG_SNR)).x)


def test_a_network_of_less_precision_does_not_lower_that_of_z() -> None:
    """x̂ = skip z + out F is computed in z's precision, F being what the network gave; a single level, of no
    dimensions, would leave it in F's."""

    class Half(Net):
        def forward(
            self, z: Tensor, log_snr: Tensor, label: Tensor | None = None, text: Tensor | None = None
        ) -> Tensor:
            return super().forward(z, log_snr).bfloat16()

    net, level = Half(), vp(LOG_SNR).at(2)
    z, _ = pictures()
    prediction = Denoiser(net, v)(z, level)
    skip, out = v(level)
    expected = skip * z + out * net(*net.seen[-1]).double()
    torch.testing.assert_close(prediction.x, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(("channels", "learn_var"), [(1, True), (2, False), (3, True)])
def test_a_wrong_number_of_channels_is_refused(channels: int, learn_var: bool) -> None:
    z, _ = pictures(1)
    with pytest.raises(ValueError, match=f"gave {channels} channels in place of {1 + learn_var}"):
        Denoiser(Net(channels), v, learn_var)(z, vp(LOG_SNR).at(0))


@pytest.mark.parametrize("sigma_data", [0.0, -1.0, float("nan"), float("inf")])
def test_a_standard_deviation_is_positive(sigma_data: float) -> None:
    for make in (lambda: Denoiser(Net(), v, sigma_data=sigma_data), lambda: edm(sigma_data)):
        with pytest.raises(ValueError, match=f"sigma_data = {sigma_data}"):
            make()
