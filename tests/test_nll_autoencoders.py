"""Bits a dimension of autoencoders: against quadrature, and against themselves."""

import json
import math
from dataclasses import replace
from pathlib import Path
from statistics import NormalDist
from typing import Any

import numpy as np
import pytest
import tiny
import torch
from latents import SMALL
from torch import Tensor, nn

from phin import cli, models, nll
from phin import data as datasets
from phin.data.base import Batch, Images, Part, from_integers
from phin.diffusion.bound import to_bits
from phin.diffusion.noise import seeded
from phin.errors import PhinError
from phin.families.autoencoder import Autoencoder, Chain
from phin.families.elbo import importance_weighted
from phin.families.likelihood import DiscretizedLogistic
from phin.metrics import activity
from phin.metrics.elbo import BOUNDS
from phin.metrics.likelihood import Options, measure
from phin.nets.resnet import LabelEmbedding, Modulated
from phin.recipes import Facts, HVAERecipe, Recipe, VAERecipe

FACTS = Facts((1, 8, 12), 10, 0, tiny.DIGITS, True)
RECIPES: dict[str, Recipe] = {
    "vae": VAERecipe(data="digits", net=SMALL["vae"], train=tiny.BRIEF),  # pyright: ignore
    "chain": HVAERecipe(data="digits", net=SMALL["chain"], train=tiny.BRIEF),  # pyright: ignore
    "ladder": HVAERecipe(data="digits", net=SMALL["ladder"], train=tiny.BRIEF),  # pyright: ignore
}
EACH = pytest.mark.parametrize("kind", RECIPES)


# --- a model of one pixel, whose likelihood is an integral over one latent


class Encode(nn.Module):
    """x (n, 1, 1, 1) -> mean and log-variance of z: not quite the posterior."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([0.8 * x.flatten(1) - 0.1, torch.full((len(x), 1), -1.2)], 1)


class Decode(nn.Module):
    """z (n, 1) -> mean and log-scale of the pixel."""

    def __init__(self) -> None:
        super().__init__()
        self.slope = nn.Parameter(torch.tensor(0.9))

    def forward(self, z: Tensor) -> Tensor:
        return torch.stack([self.slope * z, torch.full_like(z, -1.5)], 1)[..., None]


PIXEL = Chain([Modulated(Encode())], [Modulated(Decode())], 1, LabelEmbedding(0, 4), DiscretizedLogistic())


def exactly(x: Tensor) -> Tensor:
    """log p(x) of the pixel, by quadrature over z."""
    nodes, weights = np.polynomial.hermite_e.hermegauss(120)
    z = torch.from_numpy(nodes).float()[:, None]
    raw = Decode()(z).double()
    each = [DiscretizedLogistic().log_prob(raw, value.expand(120, 1, 1, 1).double()) for value in x]
    return torch.stack(each).add(torch.from_numpy(weights / weights.sum()).log()).logsumexp(1)


@torch.no_grad()
def test_the_bounds_are_below_the_evidence_and_reach_it() -> None:
    x = from_integers(torch.arange(5, 250, 16).to(torch.uint8)).view(-1, 1, 1, 1)
    batch, truth = Batch(x, {}, len(x)), exactly(x)
    bits = float(-truth.mean() / math.log(2))
    one = measure(PIXEL, batch, BOUNDS["elbo"](Options(times=200)))
    assert one.total.value > bits + 0.05
    assert one.terms.keys() == {"reconstruction", "KL"}
    assert one.calls == 200
    few, many = (
        measure(PIXEL, batch, BOUNDS["iwae"](Options(times=10, particles=k))).total.value for k in (4, 300)
    )
    assert one.total.value > few + 0.01
    assert few > many + 0.01
    assert many == pytest.approx(bits, abs=5e-3)
    # p(x) is estimated without bias
    method = BOUNDS["iwae"](Options(times=1, particles=4000))
    terms = method(PIXEL.given(), x[:5], range(5)).terms
    assert torch.cat(list(terms.values()), 1).sum(1).tolist() == pytest.approx(
        (-truth[:5]).tolist(), abs=0.05
    )


@torch.no_grad()
def test_the_gain_of_weights_is_beside_the_bound_at_the_same_draws() -> None:
    x = from_integers(torch.tensor([3, 90, 255]).to(torch.uint8)).view(-1, 1, 1, 1)
    found = BOUNDS["iwae"](Options(times=2, particles=5, seed=7))(PIXEL.given(), x, [4, 5, 6])
    noise = seeded(7, [4, 5, 6], "nll noise")
    log_weight = torch.stack([PIXEL.elbo(x, noise).log_weight for _ in range(10)], 1).view(3, 2, 5).double()
    total = found.terms["evidence bound"] + found.terms["importance weights"]
    torch.testing.assert_close(total, -importance_weighted(log_weight))
    torch.testing.assert_close(found.terms["evidence bound"], -log_weight.mean(2))
    assert (found.terms["importance weights"] <= 0).all()
    assert found.calls.tolist() == [10, 10, 10]


class Told(nn.Module):
    """The mean and log-variance of one latent: so many times what is seen."""

    def __init__(self, slope: float) -> None:
        super().__init__()
        self.slope = nn.Parameter(torch.tensor(slope))

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([self.slope * x.flatten(1), torch.full((len(x), 1), -1.2)], 1)


@pytest.mark.parametrize(
    ("slopes", "active"), [((0.9, 0.8), [1, 1]), ((0.9, 0.0), [1, 0]), ((0.0, 0.8), [0, 0])]
)
def test_a_level_that_tells_nothing_of_the_image_has_collapsed(
    slopes: tuple[float, float], active: list[int]
) -> None:
    """In the last, the upper level follows the lower one's every draw: its means vary, but not with x."""
    encode = [Modulated(Told(slope)) for slope in slopes]
    decode = [Modulated(Told(0.5)), Modulated(Decode())]
    net = Chain(encode, decode, 1, LabelEmbedding(0, 4), DiscretizedLogistic())
    x = from_integers(torch.arange(2000).remainder(256).to(torch.uint8)).view(-1, 1, 1, 1)
    found = activity.activity(net, Batch(x, {}, 2000))
    assert found == {"n": 1000, "levels": [{"active": k, "units": 1} for k in active]}
    said = activity.in_words(found)
    assert f"z_1 {active[0]} of 1, z_2 {active[1]} of 1" in said
    gone = {(1, 1): "", (1, 0): "z_2 has", (0, 0): "z_1 and z_2 have"}[active[0], active[1]]
    assert said.endswith(f"{gone} collapsed, telling nothing of an image" if gone else "z_2 1 of 1")


class Blind(nn.Module):
    """Means of 0, whatever is seen, or what is seen itself; and variances of 1."""

    def __init__(self, follows: bool) -> None:
        super().__init__()
        self.follows, self.anything = follows, nn.Parameter(torch.zeros(()))

    def forward(self, z: Tensor) -> Tensor:
        mean = z if self.follows else torch.zeros(len(z), 400)
        return torch.cat([mean, torch.zeros_like(mean)], 1)


def test_units_that_follow_noise_alone_are_dead() -> None:
    """Of 1,000 images, a covariance of two draws of variance 1 is above 0.01 by chance for 3 units in 8."""
    encode, decode = [Modulated(Blind(False)), Modulated(Blind(True))], [Modulated(Blind(True)) for _ in "pq"]
    net = Chain(encode, decode, 400, LabelEmbedding(0, 4), DiscretizedLogistic())
    found = activity.activity(net, Batch(torch.zeros(1000, 1, 1, 1), {}, 1000))
    assert [level["active"] for level in found["levels"]] == [0, 0]
    assert "z_1 and z_2 have collapsed" in activity.in_words(found)
    few = activity.activity(net, Batch(torch.zeros(99, 1, 1, 1), {}, 99))
    assert "collapsed" not in activity.in_words(few)  # which could not tell


def test_a_level_beside_no_other_is_alive_by_the_variance_of_its_means_however_few_images() -> None:
    net = Chain([Modulated(Told(0.9))], [Modulated(Decode())], 1, LabelEmbedding(0, 4), DiscretizedLogistic())
    x = from_integers(torch.arange(0, 256, 32).to(torch.uint8)).view(-1, 1, 1, 1)
    assert activity.activity(net, Batch(x, {}, 8)) == {"n": 8, "levels": [{"active": 1, "units": 1}]}


# --- the command


@pytest.fixture
def pictures(monkeypatch: pytest.MonkeyPatch) -> Images:
    """The data set `digits`, 8-bit and of 8 x 12."""
    k = np.random.default_rng(0).integers(0, 256, (30, 1, 8, 12), dtype=np.uint8)
    part = Part(torch.from_numpy(k), torch.arange(30) % 10)
    images = Images("digits", {"train": part, "valid": part, "test": part}, tiny.DIGITS)
    entry = replace(datasets.DATA["digits"], load=lambda: images)
    monkeypatch.setitem(datasets.DATA, "digits", entry)  # pyright: ignore[reportArgumentType]
    return images


def file_of(recipe: Recipe, path: Path, monkeypatch: pytest.MonkeyPatch, facts: Facts = FACTS) -> Path:
    monkeypatch.setitem(tiny.FACTS, recipe, facts)
    return tiny.write(recipe, path)


@pytest.fixture(params=RECIPES)
def file(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pictures: Images
) -> Path:
    return file_of(RECIPES[request.param], tmp_path / f"{request.param}.safetensors", monkeypatch)


def run(capsys: pytest.CaptureFixture[str], *argv: str) -> dict[str, Any]:
    code = cli.main(["nll", *argv, "--json"])
    return {"code": code, **json.loads(capsys.readouterr().out)}


@torch.no_grad()
def test_the_figure_is_the_mean_over_images_and_draws(file: Path, pictures: Images) -> None:
    model = models.load(file)
    assert isinstance(model.net, Autoencoder)
    facts = nll.nll(model, n=7, batch=3)
    assert facts["method"] == "elbo"
    x, cond, _ = pictures.split("test", 7)  # the images that a diffusion model is measured on
    noise = seeded(0, range(7), "nll noise")
    draws = [model.net.elbo(x, noise, cond["label"]) for _ in range(8)]
    nats = torch.stack([draw.total for draw in draws], 1).mean(1).double()
    assert facts["bits_per_dim"]["value"] == pytest.approx(float(to_bits(nats, 96).mean()), rel=1e-5)
    assert facts["bits_per_dim"]["error"] == pytest.approx(float(to_bits(nats, 96).std()) / 7**0.5, rel=1e-4)
    low, high = facts["bits_per_dim"]["interval"]
    assert (low + high) / 2 == pytest.approx(facts["bits_per_dim"]["value"])
    assert (high - low) / 2 == pytest.approx(NormalDist().inv_cdf(0.975) * facts["bits_per_dim"]["error"])
    assert facts["bits_per_dim"]["value"] == pytest.approx(sum(t["value"] for t in facts["terms"].values()))
    levels = draws[0].kl.shape[1]
    names = ["KL"] if levels == 1 else [f"KL of z_{t}" for t in range(1, levels + 1)]
    assert list(facts["terms"]) == ["reconstruction", *names]
    lowest = torch.stack([draw.kl[:, 0] for draw in draws]).mean()
    assert facts["terms"][names[0]]["value"] == pytest.approx(float(to_bits(lowest, 96)), rel=1e-4)
    assert (facts["images"], facts["dims"], facts["calls"]) == (7, 96, 8)


def test_the_command_tells_all_that_its_figure_depends_on(
    file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for method, known in (("elbo", {"times": 3}), ("iwae", {"times": 3, "particles": 5})):
        given = [word for name, value in known.items() for word in (f"--{name}", str(value))]
        argv = ["--model", str(file), "-n", "4", "--method", method, *given]
        facts = run(capsys, *argv)
        expected = {"code": 0, "data": "digits", "condition": "data", "likelihood": "discretized_logistic(5)"}
        assert facts | expected | known == facts
        assert {"png", "webp", "png_tall", "webp_tall"} == set(facts["lossless"])
        assert "levels" not in facts
        units = models.load(file).net(torch.zeros(2, 1, 8, 12), torch.randn_like)[1].means
        assert [level["units"] for level in facts["active"]["levels"]] == [m.shape[1] for m in units]
        assert activity.in_words(facts["active"]) in nll.summary(facts)
        assert facts["active"]["n"] == 30  # all test images, of four of which nothing could be told
        said = nll.summary(facts) + str(nll.rows(facts))
        for text in (f"{facts['bits_per_dim']['value']:.4f}", "96 dimensions", "3 ", "WebP, lossless"):
            assert text in said
        assert cli.main(["nll", *argv]) == 0
        assert f"{facts['bits_per_dim']['value']:.4f}" in capsys.readouterr().out


def test_labels_are_the_datas_or_none(file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = models.load(file)
    given, without = nll.nll(model, n=5), nll.nll(model, n=5, condition="none")
    assert (given["condition"], without["condition"]) == ("data", "none")
    assert given["bits_per_dim"] != without["bits_per_dim"]
    for drop, usual, other in ((1.0, "none", "data"), (0.0, "data", "none")):
        asked = replace(model, recipe=replace(model.recipe, drop=drop))  # pyright: ignore
        assert nll.nll(asked, n=2)["condition"] == usual
        with pytest.raises(PhinError, match=f"measure it by --condition {usual}"):
            nll.nll(asked, n=2, condition=other)  # pyright: ignore


def test_figures_are_recorded_beside_others(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for method in (["elbo"], ["iwae", "--particles", "2"]):
        run(capsys, "--model", str(file), "-n", "3", "--record", "--method", *method)
    found = models.load(file).metadata["likelihood"]
    assert set(found) == {"elbo", "iwae"}


def test_what_has_no_likelihood_of_8_bits_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pictures: Images
) -> None:
    for likelihood in ("bernoulli", "gaussian(0.1)", "laplace"):
        recipe = replace(RECIPES["vae"], likelihood=likelihood)  # pyright: ignore
        model = models.load(file_of(recipe, tmp_path / "density.safetensors", monkeypatch))
        with pytest.raises(
            PhinError, match=r"has the likelihood .*, which is no probability of 8-bit images"
        ):
            nll.nll(model, n=2)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (["--method", "chain"], "method chain is not for autoencoders; they have elbo, iwae"),
        (["--levels", "cosine"], "levels cosine is for diffusion models"),
        (["--decoder", "categorical"], "decoder categorical is for diffusion models"),
        (["--curve", "c.png"], "it has no terms by level"),
        (["--particles", "0"], "particles = 0: at least 1"),
        (["--times", "0"], "times = 0: at least 1"),
    ],
)
def test_what_makes_no_sense_is_refused(
    wrong: list[str],
    message: str,
    file: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert cli.main(["nll", "--model", str(file), "-n", "2", *wrong]) == 2
    said = capsys.readouterr().err
    assert message in said
    assert said.count("\n") == 1


def test_a_diffusion_model_has_none_of_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pictures: Images
) -> None:
    facts = replace(FACTS, shape=(1, 8, 12))
    model = models.load(file_of(tiny.LABELLED, tmp_path / "diffusion.safetensors", monkeypatch, facts))
    with pytest.raises(PhinError, match="method elbo is not for diffusion models; they have chain, discrete"):
        nll.nll(model, "elbo", n=2)
    with pytest.raises(PhinError, match=r"unknown method 'elba'; there are chain, .*, iwae"):
        nll.nll(model, "elba", n=2)


# --- sampling by command


def test_samples_by_command(file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    argv = ["sample", "--model", str(file), "--label", "3", "-n", "2", "--out", str(tmp_path / "o")]
    assert cli.main([*argv, "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert [Path(picture["file"]).name for picture in facts["pictures"]] == ["0000_3.png", "0001_3.png"]
    assert facts["sampling"] == {"seed": 0}
    for wrong, message in ((["--steps", "5"], "leave steps out"), (["--gif"], "leave --gif out")):
        assert cli.main([*argv, *wrong]) == 2
        assert message in capsys.readouterr().err
