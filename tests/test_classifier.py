import numpy as np
import pytest
import tiny
import torch
from sklearn.datasets import load_digits
from torch.nn import functional as F

from phin.diffusion.level import SCALINGS, vp
from phin.errors import PhinError
from phin.nets.classifier import Classifier, ClassifierConfig, NoisyClassifier


def test_the_default_fits_its_file():
    parameters = sum(p.numel() for p in Classifier(ClassifierConfig(), 1, 10).parameters())
    assert 2 * parameters < 2_000_000 - 20_000  # two bytes each, and a header
    assert ClassifierConfig().channels[-1] == 128


@pytest.mark.parametrize(("channels", "height", "width"), [(1, 28, 28), (3, 32, 32), (1, 8, 8), (2, 9, 31)])
def test_every_pixel_of_any_size_counts_and_pictures_do_not_mix(channels: int, height: int, width: int):
    net = Classifier(ClassifierConfig(), channels, 7)
    x = torch.randn(3, channels, height, width, requires_grad=True)
    logits = net(x)
    assert logits.shape == (3, 7)
    torch.testing.assert_close(logits, net.head(net.features(x)))
    (gradient,) = torch.autograd.grad(logits[1].square().sum(), x)
    assert (gradient[1] != 0).all()
    assert not gradient[[0, 2]].any()


def test_evaluation_is_no_other_mode_than_training():
    net, x = Classifier(ClassifierConfig(), 1, 10), torch.randn(4, 1, 28, 28)
    assert net.train()(x).equal(net.eval()(x))


def test_it_learns_digits_of_eight_pixels():
    pixels, labels = load_digits(return_X_y=True)
    x, y = torch.from_numpy(pixels).float().view(-1, 1, 8, 8) / 8 - 1, torch.from_numpy(labels)
    net, rng = Classifier(ClassifierConfig((16, 32), (1, 1)), 1, 10), np.random.default_rng(0)
    steps = 150
    optimizer = torch.optim.AdamW(net.parameters(), lr=1e-2)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 1e-2, steps)
    for _ in range(steps):
        rows = rng.integers(0, 1400, 128)
        optimizer.zero_grad()
        F.cross_entropy(net(x[rows]), y[rows]).backward()
        optimizer.step()
        schedule.step()
    assert (net(x[1400:]).argmax(1) == y[1400:]).float().mean() > 0.93


def test_stages_without_blocks_are_an_error():
    with pytest.raises(PhinError, match="2 channels and 3 blocks"):
        Classifier(ClassifierConfig((8, 16), (1, 1, 1)), 1, 10)


# --- of noisy pictures


@pytest.fixture
def noisy() -> NoisyClassifier:
    net = NoisyClassifier(ClassifierConfig((8, 16), (1, 2)), 1, 5)
    tiny.randomise(net)
    return net


def test_a_noisy_classifier_starts_as_a_plain_one(noisy: NoisyClassifier):
    torch.nn.init.zeros_(noisy.modulation.weight)
    torch.nn.init.zeros_(noisy.modulation.bias)
    x = torch.randn(3, 1, 8, 8)
    torch.testing.assert_close(noisy(x, vp(torch.tensor(1.0))), noisy.plain(x))
    assert not NoisyClassifier(ClassifierConfig((8,), (1,)), 1, 5).modulation.weight.any()


def test_what_it_says_depends_on_the_noise_and_not_on_its_units(noisy: NoisyClassifier):
    """The same x and eps at one log-SNR are the same question under every scaling; each picture has its own
    level; levels in float64 do not promote."""
    x, eps = torch.randn(2, 6, 1, 8, 8)
    log_snr = torch.linspace(-6, 6, 6)
    answers = {}
    for name, scaling in SCALINGS.items():
        level = scaling(log_snr).view(4)
        answers[name] = noisy(level.alpha * x + level.sigma * eps, level)
        torch.testing.assert_close(answers[name], answers["vp"], rtol=0, atol=2e-5)
    level = vp(log_snr.double()).view(4)
    z = (level.alpha * x + level.sigma * eps).float()
    for i in range(6):
        alone = noisy(z[i : i + 1], vp(log_snr.double()).at(i))
        assert alone.dtype == torch.float32
        torch.testing.assert_close(alone[0], answers["vp"][i], rtol=0, atol=2e-5)
    assert (noisy(z, vp(torch.tensor(2.0))) - noisy(z, vp(torch.tensor(-2.0)))).abs().amax(1).min() > 1e-2


def test_every_block_is_told_the_level(noisy: NoisyClassifier):
    level = vp(torch.tensor([1.0, -1.0])).view(4)
    noisy(torch.randn(2, 1, 8, 8), level).square().sum().backward()
    assert noisy.modulation.weight.grad is not None
    assert noisy.modulation.weight.grad.abs().amin(1).all()
    assert noisy.modulation.out_features == 2 * (8 + 16 + 16)


def test_given_labels_it_is_their_log_probability(noisy: NoisyClassifier):
    """Over all classes it adds up to 1; a label of -1 says nothing, and has no gradient."""
    z, level = torch.randn(4, 1, 8, 8), vp(torch.tensor(0.5, dtype=torch.float64))
    each = torch.stack([noisy.given(torch.full((4,), k))(z, level) for k in range(5)])
    torch.testing.assert_close(each.exp().sum(0), torch.ones(4))
    torch.testing.assert_close(each.T, noisy(z, level).log_softmax(1))
    some = z.clone().requires_grad_()
    found = noisy.given(torch.tensor([3, -1, 0, -1]))(some, level)
    torch.testing.assert_close(found, torch.stack([each[3, 0], z.new_zeros(()), each[0, 2], z.new_zeros(())]))
    (gradient,) = torch.autograd.grad(found.sum(), some)
    assert [bool(row.any()) for row in gradient] == [True, False, True, False]


def test_a_level_must_be_told_to_somebody():
    with pytest.raises(PhinError, match=r"blocks = \(0, 0\)"):
        NoisyClassifier(ClassifierConfig((8, 16), (0, 0)), 1, 5)
