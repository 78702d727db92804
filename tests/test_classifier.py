import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from torch.nn import functional as F

from phin.errors import PhinError
from phin.nets.classifier import Classifier, ClassifierConfig


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
