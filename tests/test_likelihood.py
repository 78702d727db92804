"""Bits a dimension: of an exact denoiser against the entropy, of tiny random models against themselves."""

import json
import math
import re
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
import together
import torch
from coins import EXACT, SHARE, SIDES, TwoValues, bernoulli
from torch import Tensor, nn

from phin import cli, models, nll
from phin import data as datasets
from phin.data.base import Batch, Images, Part, from_integers
from phin.data.numbers import Handwriting, Numbers
from phin.diffusion import ode
from phin.diffusion.decoder import discretized_gaussian
from phin.diffusion.denoiser import Denoiser
from phin.diffusion.dequantization import dequantized
from phin.diffusion.noise import uniform
from phin.diffusion.parameterization import x as predicts_x
from phin.diffusion.schedules import Cosine, Discrete, Geometric, Learned, Schedule
from phin.errors import PhinError
from phin.metrics.likelihood import METHODS, Likelihood, Options, lossless, measure, rate
from phin.recipes import DiffusionRecipe, Facts

EACH = pytest.mark.parametrize("method", METHODS)
WIDE = Geometric(sigma_min=1e-3, sigma_max=100.0)


def surprise(batch: Batch) -> float:
    """The exact -log2 p(x) a dimension."""
    light = (batch.x > 0).double().mean()
    return float(-(light * math.log2(SHARE) + (1 - light) * math.log2(1 - SHARE)))


def found(method: str, batch: Batch, schedule: Schedule = WIDE, size: int = 64, **options: Any) -> Likelihood:
    return measure(EXACT, batch, METHODS[method](schedule, Options(**options)), size)


@pytest.mark.parametrize("method", ["chain", "discrete", "continuous"])
def test_the_bound_of_the_exact_denoiser_is_the_surprise(method: str) -> None:
    """Within its error."""
    batch = bernoulli(400)
    ours = found(method, batch, times=8)
    assert ours.dims == 6
    assert ours.images == 400
    assert abs(ours.total.value - surprise(batch)) < 2 * ours.total.error
    assert ours.total.error < 0.06
    assert ours.total.value == pytest.approx(sum(term.value for term in ours.terms.values()))
    assert ours.nats == pytest.approx(ours.total.value * 6 * math.log(2))


def test_few_steps_cost_more() -> None:
    batch = bernoulli(200)
    for method in ("chain", "discrete"):
        bits = [found(method, batch, steps=T, times=20).total.value for T in (10, 40, 400)]
        assert bits[0] > bits[1] + 0.1 > bits[2] + 0.1


def test_as_many_times_as_steps_take_every_step_once() -> None:
    """T - 1 stratified times are the whole chain: what is left is the noise."""
    chain = Discrete(WIDE, 12)
    method = METHODS["chain"](chain, Options(times=11))
    seen: list[float] = []

    class Watched(TwoValues):
        def forward(self, z: Tensor, log_snr: Tensor) -> Tensor:
            seen.extend(log_snr.tolist())
            return super().forward(z, log_snr)

    measure(Denoiser(Watched(), predicts_x), bernoulli(1), method)
    steps = [chain.table.float().tolist().index(level) for level in seen]
    assert sorted(steps) == sorted([*range(1, 12), *[0] * 11])


@EACH
def test_neither_the_batch_nor_the_images_beside_change_an_image(method: str) -> None:
    batch = bernoulli(7)
    options = {"times": 2, "seed": 3, "steps": 50 if method in ("chain", "discrete") else None, "rtol": 0.1}
    whole = found(method, batch, Cosine(), **options)
    part = found(method, batch, Cosine(), 3, **options)
    assert part.total.value == pytest.approx(whole.total.value, rel=1e-5)
    assert part.calls == whole.calls
    few = METHODS[method](Cosine(), Options(**options))
    three, seven = (few(EXACT.given(), x, range(len(x))) for x in (batch.x[:3], batch.x))
    for name, term in three.terms.items():
        torch.testing.assert_close(term, seven.terms[name][:3], rtol=1e-5, atol=1e-5)
    other = METHODS[method](Cosine(), Options(**{**options, "seed": 4}))(EXACT.given(), batch.x[:3], range(3))
    totals = [torch.stack(list(each.terms.values())).sum(0) for each in (other, three)]
    assert not torch.allclose(*totals, rtol=1e-3)


@pytest.mark.parametrize(("method", "calls"), [("chain", 6), ("discrete", 3), ("continuous", 3)])
def test_calls_are_counted(method: str, calls: int) -> None:
    """One a time, and one for the decoder, if it asks."""
    assert found(method, bernoulli(5), Cosine(), times=3).calls == calls
    assert found(method, bernoulli(5), Cosine(), times=3, decoder=discretized_gaussian()).calls == 6


def test_the_standard_error_is_that_of_the_mean() -> None:
    """Over 60 sets of images, the mean strays as far as it says."""
    method = METHODS["continuous"](Cosine(), Options(times=2))
    each = method(EXACT.given(), bernoulli(60 * 30).x, range(60 * 30))
    bits = torch.stack(list(each.terms.values())).sum(0).mean(1) / (6 * math.log(2))
    sets = bits.view(60, 30)
    said = rate(sets[0] * 6 * math.log(2), 6)
    assert said.value == pytest.approx(float(sets[0].mean()))
    assert said.error == pytest.approx(float(sets[0].std()) / 30**0.5)
    errors = torch.tensor([rate(row * 6 * math.log(2), 6).error for row in sets])
    assert float(sets.mean(1).std() / errors.square().mean().sqrt()) == pytest.approx(1, abs=0.3)


def shared(out: str) -> None:
    """In each of two processes: what a bound says, and which images this one looked at, written down."""
    import torch.distributed as dist

    dist.init_process_group("gloo")
    seen: list[int] = []
    method = METHODS["continuous"](WIDE, Options(times=2))

    def noted(denoise: Any, x: Tensor, indices: Any) -> Any:
        seen.extend(indices)
        return method(denoise, x, indices)

    found = measure(EXACT, bernoulli(7), noted, 2)
    said = {"seen": seen, "total": asdict(found.total), "terms": found.terms["diffusion"].value}
    assert found.draws is not None
    drawn = {"times": found.draws.times.tolist(), "calls": found.calls, "converged": found.converged}
    Path(out, f"{dist.get_rank()}.json").write_text(json.dumps(said | drawn))
    with pytest.raises(ValueError, match="1 images are too few for 2 processes"):
        measure(EXACT, bernoulli(1), method)
    dist.destroy_process_group()


def test_two_processes_find_the_likelihood_that_one_finds(tmp_path: Path) -> None:
    """Each looks at every second image, and both know all."""
    together.two("import sys, test_likelihood as here; here.shared(sys.argv[1])", str(tmp_path))
    alone = found("continuous", bernoulli(7), times=2)
    assert alone.draws is not None
    for rank in range(2):
        said = json.loads((tmp_path / f"{rank}.json").read_text())
        assert said["seen"] == [*range(rank, 7, 2)]
        for part in ("value", "error"):
            assert said["total"][part] == pytest.approx(getattr(alone.total, part), rel=1e-5)
        assert said["terms"] == pytest.approx(alone.terms["diffusion"].value, rel=1e-5)
        assert said["times"] == alone.draws.times.tolist()
        assert (said["calls"], said["converged"]) == (alone.calls, 7)


# --- the ODE and dequantization


class Normal(nn.Module):
    """E[x | z] of standard normal data."""

    def __init__(self) -> None:
        super().__init__()
        self.anything = nn.Parameter(torch.zeros(()))

    def forward(self, z: Tensor, log_snr: Tensor) -> Tensor:
        return z * torch.sigmoid(log_snr).sqrt().view(-1, 1, 1, 1)


def test_the_ode_gives_the_density_of_the_bin() -> None:
    """Of a model N(0, 1), whose bins at 2 / 255 are so narrow that their probability is density times width:
    so log2(127.5) is added, and with the sign it has."""
    x = from_integers(torch.randint(256, (40, *SIDES)).to(torch.uint8))
    model = Denoiser(Normal(), predicts_x)
    ours = measure(model, Batch(x, {}, 40), METHODS["ode"](WIDE, Options()))
    bins = torch.distributions.Normal(0.0, 1.0)
    p = bins.cdf(x.double() + 1 / 255) - bins.cdf(x.double() - 1 / 255)
    exact = float(-p.log2().mean())
    assert ours.total.value == pytest.approx(exact, abs=2e-3)
    assert ours.total.value >= exact - 1e-4
    assert ours.terms["dequantization"].value == pytest.approx(math.log2(127.5))
    assert ours.terms["density"].value == pytest.approx(
        0.5 * math.log2(2 * math.pi) + float(x.double().square().mean()) / (2 * math.log(2)), abs=2e-3
    )
    assert ours.converged == 40


class Coupled(nn.Module):
    """A network whose pixels depend on each other, so that its trace depends on the probes."""

    def __init__(self) -> None:
        super().__init__()
        self.mix = nn.Linear(6, 6)

    def forward(self, z: Tensor, log_snr: Tensor) -> Tensor:
        return torch.tanh(self.mix(z.flatten(1))).view_as(z)


def test_probes_belong_to_the_image() -> None:
    """The density is that of `ode.log_prob`; every image, and each of its dequantizations, has its own."""
    x, given = bernoulli(3).x, Denoiser(Coupled(), predicts_x).given()
    method = METHODS["ode"](Cosine(), Options(times=2, probes=3, seed=5, rtol=1e-3))
    ours = method(given, x, range(3))
    drawn = uniform(5, "dequantization", range(3), (2, *SIDES)).flatten(0, 1)
    inside = dequantized(x.repeat_interleave(2, 0), drawn)
    theirs = ode.log_prob(given, inside, Cosine(), ode.Hutchinson(3), 1e-3, 1e-3, seed=5)
    torch.testing.assert_close(ours.terms["density"].flatten(), -theirs.nats)
    assert ours.calls.tolist() == theirs.solution.evaluations.view(3, 2).sum(1).tolist()
    last = method(given, x[2:], [2])
    torch.testing.assert_close(last.terms["density"], ours.terms["density"][2:], rtol=1e-5, atol=1e-5)


def test_a_trace_may_be_exact() -> None:
    x, given = bernoulli(3).x, Denoiser(Coupled(), predicts_x).given()
    exact = METHODS["ode"](Cosine(), Options(trace="exact", rtol=1e-3))
    found = exact(given, x, range(3)).terms["density"]
    inside = dequantized(x, uniform(0, "dequantization", range(3), (1, *SIDES))[:, 0])
    reference = ode.log_prob(given, inside, Cosine(), ode.Exact(), 1e-3, 1e-3)
    torch.testing.assert_close(found[:, 0], -reference.nats)
    assert exact.facts == {"dequantization": "uniform", "times": 1, "trace": "exact", "rtol": 1e-3}


# --- lossless coders


def test_lossless_coders() -> None:
    """Noise needs 8 bits, a blank next to none; headers count for files of their own."""
    noise = np.random.default_rng(0).integers(0, 256, (40, 28, 28), dtype=np.uint8)
    blank = np.zeros((40, 28, 28), np.uint8)
    for kind in ("png_tall", "webp_tall"):
        assert 8 <= lossless(noise)[kind] < 8.3
        assert lossless(blank)[kind] < 0.05
    assert lossless(blank)["png"] > 0.5
    colour = np.repeat(noise[..., None], 3, -1)
    assert lossless(colour)["webp_tall"] < 3  # a third of the dimensions tell all
    many = np.zeros((700, 28, 28), np.uint8)  # more than a WebP file's side holds
    assert lossless(many)["webp_tall"] < 0.01


# --- the command


@pytest.fixture
def pictures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Images:
    """The data set `digits`, 8-bit and of 8 x 8."""
    k = np.random.default_rng(0).integers(0, 256, (30, 1, 8, 8), dtype=np.uint8)
    part = Part(torch.from_numpy(k), torch.arange(30) % 10)
    images = Images("digits", {"train": part, "valid": part, "test": part}, tiny.DIGITS)
    entry = replace(datasets.DATA["digits"], load=lambda: images)
    monkeypatch.setitem(datasets.DATA, "digits", entry)  # pyright: ignore[reportArgumentType]
    return images


def model_of(recipe: DiffusionRecipe, facts: Facts, path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setitem(tiny.FACTS, recipe, facts)
    return tiny.write(recipe, path)


@pytest.fixture
def labelled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pictures: Images) -> Path:
    facts = Facts((1, 8, 8), 10, 0, tiny.DIGITS, True)
    return model_of(tiny.LABELLED, facts, tmp_path / "labelled.safetensors", monkeypatch)


def run(capsys: pytest.CaptureFixture[str], *argv: str) -> dict[str, Any]:
    code = cli.main(["nll", *argv, "--json"])
    return {"code": code, **json.loads(capsys.readouterr().out)}


@EACH
def test_the_command_tells_all_that_its_figure_depends_on(
    method: str, labelled: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    argv = ["--model", str(labelled), "-n", "6", "--method", method, "--times", "2"]
    facts = run(capsys, *argv, *(("--rtol", "0.5") if method == "ode" else ()))
    assert facts["code"] == 0
    expected = {
        "data": "digits",
        "split": "test",
        "images": 6,
        "dims": 64,
        "condition": "data",
        "method": method,
    }
    assert facts | expected == facts
    assert facts["levels"] == "cosine"
    assert facts["log_snr"] == pytest.approx([10, -10], abs=1e-6)
    assert facts["bits_per_dim"]["value"] == pytest.approx(sum(t["value"] for t in facts["terms"].values()))
    assert facts["calls"] >= 2
    assert facts["times"] == 2
    assert {"png", "webp", "png_tall", "webp_tall"} == set(facts["lossless"])
    known = {
        "chain": {"steps": 1000, "decoder": "discretized_gaussian", "frac": 0.0},
        "discrete": {"steps": 1000, "decoder": "categorical"},
        "continuous": {"steps": None, "decoder": "categorical"},
        "ode": {
            "dequantization": "uniform",
            "trace": "hutchinson",
            "probes": 1,
            "rtol": 0.5,
            "converged": 6,
        },
    }[method]
    assert facts | known == facts
    said = nll.summary(facts) + str(nll.rows(facts))
    shown = f"{facts['bits_per_dim']['value']:.4f}"
    for text in (shown, "64 dimensions", "6 images", "log-SNR from 10 to -10", "WebP, lossless"):
        assert text in said


@pytest.mark.parametrize(
    ("method", "option"),
    [
        ("continuous", {"steps": 1000}),
        ("continuous", {"probes": 1}),
        ("continuous", {"frac": 0.0}),
        ("discrete", {"rtol": 1e-3}),
        ("chain", {"particles": 5}),
        ("ode", {"steps": 10}),
        ("ode", {"decoder": "categorical"}),
    ],
)
def test_what_a_method_does_not_use_is_refused(
    method: str, option: dict[str, Any], labelled: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ((name, value),) = option.items()
    assert cli.main(["nll", "--model", str(labelled), "--method", method, f"--{name}", str(value)]) == 2
    assert f"method {method}: {name} makes no difference to it" in capsys.readouterr().err


def test_learned_levels_are_the_models_own(labelled: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for levels, message in (
        ("learned(9.0, -3.0)", "what is learned is the model's own"),
        ("discrete(learned(9, -3), 10)", "what is learned is the model's own"),
        ("learned", "this model did not learn any"),
        ("discrete(learned)", "this model did not learn any"),
    ):
        assert cli.main(["nll", "--model", str(labelled), "--levels", levels]) == 2
        assert message in capsys.readouterr().err
    model = models.load(labelled)
    net = models.denoiser(model)
    net.schedule = Learned(9.0, -3.0)
    found = nll.nll(replace(model, net=net), "chain", levels="discrete(learned, 20)", n=2, times=1)
    assert found["log_snr"] == pytest.approx(Discrete(net.schedule, 20).table[[0, -1]].tolist())


def test_the_command_shows_a_table(labelled: Path, capsys: pytest.CaptureFixture[str]) -> None:
    argv = ["--model", str(labelled), "-n", "3", "--times", "1"]
    facts = run(capsys, *argv)
    assert cli.main(["nll", *argv]) == 0
    said = capsys.readouterr().out
    assert re.search(
        rf"at most +{facts['bits_per_dim']['value']:.4f} +{facts['bits_per_dim']['error']:.4f}", said
    )
    assert nll.summary(facts) in said


def test_conditions_are_the_datas_or_none(labelled: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """-log p(x | y) is not -log p(x), and -1 is what stands for none."""
    model = models.load(labelled)
    with_label = nll.nll(model, n=8, times=2)
    without = nll.nll(model, n=8, times=2, condition="none")
    assert with_label["condition"] == "data"
    assert without["condition"] == "none"
    assert with_label["bits_per_dim"] != without["bits_per_dim"]
    x, cond, _ = datasets.load("digits").split("test", 8)
    method = METHODS["continuous"](Cosine(), Options(times=2))
    net = models.drawing(model)[0]
    for facts, label in ((with_label, cond["label"]), (without, torch.full((8,), -1))):
        ours = measure(net, Batch(x, {"label": label}, 8), method)
        assert facts["bits_per_dim"]["value"] == pytest.approx(ours.total.value)


@pytest.mark.parametrize(("drop", "usual", "other"), [(1.0, "none", "data"), (0.0, "data", "none")])
def test_a_model_is_asked_as_it_was_trained(
    drop: float, usual: nll.Condition, other: nll.Condition, labelled: Path
) -> None:
    model = models.load(labelled)
    assert isinstance(model.recipe, DiffusionRecipe)
    model = replace(model, recipe=replace(model.recipe, drop=drop))
    assert nll.nll(model, n=2, times=1)["condition"] == usual
    with pytest.raises(PhinError, match=f"measure it by --condition {usual}"):
        nll.nll(model, n=2, times=1, condition=other)


def test_what_the_ode_did_not_solve_is_no_bound(labelled: Path) -> None:
    facts = nll.nll(models.load(labelled), "ode", n=3, rtol=0.5)
    assert nll.rows(facts)[1][0] == "-log2 p(x), at most"
    assert nll.rows({**facts, "converged": 1})[1][0] == "no bound: 2 of 3 images not solved"


def test_figures_are_recorded_beside_others(labelled: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = models.load(labelled)
    for method in ("chain", "continuous"):
        run(capsys, "--model", str(labelled), "-n", "4", "--times", "1", "--method", method, "--record")
    after = models.load(labelled)
    assert set(after.metadata["likelihood"]) == {"chain", "continuous"}
    assert after.metadata["likelihood"]["chain"]["images"] == 4
    assert {k: v for k, v in after.metadata.items() if k != "likelihood"} == before.metadata
    for name, tensor in before.net.state_dict().items():
        assert torch.equal(after.net.state_dict()[name], tensor)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--steps", "1"], "steps = 1: a bound needs at least T = 2 steps"),
        (["--probes", "0"], "probes = 0: at least 1"),
        (["--method", "ode", "--trace", "exact", "--probes", "2"], "probes = 2: an exact trace needs none"),
        (["--times", "0"], "times = 0: at least 1"),
        (["--frac", "1.5"], "frac = 1.5"),
        (["-n", "31"], "31 test images asked of digits, which has 30"),
        (["-n", "0"], "0 test images asked"),
        (["--levels", "nonsense"], "unknown schedule 'nonsense'"),
        (["--decoder", "gaussian"], "is a density|gives a density"),
        (["--decoder", "categorical(bins=128)"], "knows only the 128 values"),
        (["--method", "continuous", "--levels", "discrete(cosine)"], "no schedule in continuous time"),
        (
            ["--method", "chain", "--levels", "discrete(cosine, T=50)", "--steps", "60"],
            "the chain has T = 50",
        ),
        (["--method", "nonsense"], "nonsense"),
        (["--data", "moons"], "moons is not of 8-bit images"),
    ],
)
def test_mistakes(
    options: list[str], message: str, labelled: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    facts = run(capsys, "--model", str(labelled), "-n", "4", *options)
    assert facts["code"] == 2
    assert re.search(message, facts["error"]), facts["error"]


def test_what_has_no_likelihood_is_refused(
    tmp_path: Path, labelled: Path, pictures: Images, monkeypatch: pytest.MonkeyPatch
) -> None:
    reader = models.load(tiny.write(tiny.READER, tmp_path / "reader.safetensors"))
    with pytest.raises(PhinError, match="is a classifier"):
        nll.nll(reader)
    points = models.load(tiny.write(tiny.POINTS, tmp_path / "points.safetensors"))
    with pytest.raises(PhinError, match="a model of moons, is not of 8-bit images"):
        nll.nll(points)
    model = models.load(labelled)
    other = replace(model, facts=replace(model.facts, shape=(3, 8, 8)))
    with pytest.raises(PhinError, match="images of 3 x 8 x 8, and digits has images of 1 x 8 x 8"):
        nll.nll(other)
    other = replace(model, facts=replace(model.facts, class_names=tuple("abcdefghij")))
    with pytest.raises(PhinError, match="--condition none"):
        nll.nll(other, n=2)
    assert nll.nll(other, n=2, times=1, condition="none")["condition"] == "none"
    x = pictures.split("test", 4).x
    x[1, 0, 3, 3] = math.nan
    monkeypatch.setattr(Images, "split", lambda *_: Batch(x, {"label": torch.zeros(4).long()}, 4))
    for method in METHODS:
        with pytest.raises(PhinError, match="x has the value nan"):
            nll.nll(model, method, n=4, times=1)


def test_a_model_of_a_chain_is_measured_on_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pictures: Images
) -> None:
    """By default, with its own T."""
    recipe = replace(tiny.LABELLED, density="discrete(linear, T=40)")
    facts = Facts((1, 8, 8), 10, 0, tiny.DIGITS, True)
    model = models.load(model_of(recipe, facts, tmp_path / "chain.safetensors", monkeypatch))
    told = nll.nll(model, n=3, times=1)
    assert (told["method"], told["steps"]) == ("chain", 40)
    chain = Discrete(T=40)
    assert told["log_snr"] == pytest.approx([float(chain.table[0]), float(chain.table[-1])])


def test_a_learned_schedule_is_the_models_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pictures: Images, labelled: Path
) -> None:
    recipe = replace(tiny.LABELLED, density="learned", objective="continuous_bound")
    facts = Facts((1, 8, 8), 10, 0, tiny.DIGITS, True)
    model = models.load(model_of(recipe, facts, tmp_path / "learned.safetensors", monkeypatch))
    schedule = models.drawing(model)[0].schedule
    assert isinstance(schedule, Learned)
    with torch.no_grad():
        schedule.ends.copy_(torch.tensor([7.0, -3.0]))
    assert nll.nll(model, n=2, times=1)["log_snr"] == pytest.approx([7, -3], abs=1e-6)
    with pytest.raises(PhinError, match="levels learned are learned, and this model did not learn any"):
        nll.nll(models.load(labelled), n=2, levels="learned")


def test_a_model_of_numbers_without_their_text(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Strings of three, each with its digits, or with -1 for each of them."""
    k = np.random.default_rng(0).integers(0, 256, (20, 1, 28, 28), dtype=np.uint8)
    writing = Handwriting(Part(torch.from_numpy(k), torch.arange(20) % 10))
    data = Numbers({"train": writing, "valid": writing, "test": writing})
    entry = replace(datasets.DATA["numbers"], load=lambda: data, files=None)
    monkeypatch.setitem(datasets.DATA, "numbers", entry)  # pyright: ignore[reportArgumentType]
    model = models.load(tiny.write(tiny.NUMBERS, tmp_path / "numbers.safetensors"))
    x, cond, _ = data.split("test", 6)
    method = METHODS["continuous"](Cosine(), Options(times=1))
    asked: dict[nll.Condition, Tensor] = {"data": cond["text"], "none": torch.full((2, 3), -1)}
    for condition, text in asked.items():
        told = nll.nll(model, n=6, times=1, condition=condition)
        ours = measure(models.drawing(model)[0], Batch(x, {"text": text}, 2), method)
        assert (told["images"], told["dims"]) == (2, 3 * 784)
        assert told["bits_per_dim"]["value"] == pytest.approx(ours.total.value)
