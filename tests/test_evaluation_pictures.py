"""Pictures are squares whose brightness is their class, and features are brightness: all is known."""

import importlib.util
import json
import math
import os
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
import together
import torch
from PIL import Image
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from phin import data as datasets
from phin import models
from phin.cli import main
from phin.data.base import Batch, Images, Part, from_integers
from phin.diffusion.denoiser import Denoiser
from phin.diffusion.noise import Noise, seeded
from phin.diffusion.parameterization import x as predicts_x
from phin.errors import PhinError
from phin.evaluation import PicturePlan, Reference, evaluate, pictures, rows, summary
from phin.evaluation.costs import costs, operations
from phin.evaluation.drawing import Drawing
from phin.evaluation.reconstructed import root_mean
from phin.families.base import OneShot
from phin.families.elbo import Path as Path_
from phin.families.latent import KLAutoencoder
from phin.families.likelihood import Laplace
from phin.metrics.density_coverage import coverage
from phin.metrics.features import Features, Seen
from phin.metrics.frechet import frechet_distance, moments
from phin.metrics.memorisation import nearest
from phin.metrics.neighbours import Cloud
from phin.metrics.precision_recall import precision, recall
from phin.models import Model
from phin.nets.classifier import NoisyClassifier
from phin.pictures import to_integers
from phin.recipes import Facts, describe, train
from phin.recipes.features import FEATURES
from phin.sampling import Guide, draw
from phin.training.checkpoint import save_weights

PLAN = PicturePlan(n=200, kept=100, compared=50)
LOW = 25
JUST_LESS = 199  # than are measured


def squares(n: int, seed: int) -> Part:
    """Squares of brightness 25 k + noise below 9, for class k, on black."""
    rng = np.random.default_rng(seed)
    labels = torch.from_numpy(rng.integers(0, 10, n))
    images = torch.zeros(n, 1, 28, 28, dtype=torch.uint8)
    noise = torch.from_numpy(rng.integers(0, 9, (n, 1, 20, 20)))
    images[:, :, 4:24, 4:24] = (LOW * labels[:, None, None, None] + noise).to(torch.uint8)
    return Part(images, labels)


SPLITS = {which: squares(n, n) for which, n in (("train", 301), ("valid", 260), ("test", 240))}


class Brightness(Features):
    """Looks at brightness."""

    name = "brightness"
    dims = 2
    class_names = tiny.DIGITS

    def check(self, shape: tuple[int, ...]) -> None:
        pass

    def __call__(self, pictures: Tensor) -> Seen:
        inner = pictures[:, 0, 4:24, 4:24].double() / LOW
        mean = inner.mean((1, 2))
        logits = -(mean[:, None] - 0.16 - torch.arange(10)).abs()
        return Seen(torch.stack([mean, inner[:, 0, 0]], 1).float(), logits.float())


class Squares(OneShot):
    """Draws test pictures of the labels that it is asked for, shifted by so many classes."""

    def __init__(self, which: str = "valid", shift: int = 0) -> None:
        super().__init__()
        self.part, self.shift = SPLITS[which], shift  # pyright: ignore[reportArgumentType]
        self.anything = nn.Parameter(torch.zeros(3))

    def generate(self, count: int, noise: Noise, label: Tensor | None = None) -> Tensor:
        chance = noise(torch.empty(count, 400)).argmax(1)
        x = from_integers(self.part.images)
        if label is None:
            return x[chance % len(x)]
        assert self.part.labels is not None
        of = [(self.part.labels == k).nonzero()[:, 0] for k in range(10)]
        rows = [of[(int(k) + self.shift) % 10] for k in label]
        return torch.stack([x[row[int(i) % len(row)]] for row, i in zip(rows, chance, strict=True)])


class Faulty(OneShot):
    """Draws what it is told to, whatever it is asked for."""

    def __init__(self, draw: Callable[[int], Tensor]) -> None:
        super().__init__()
        self.draw, self.anything = draw, nn.Parameter(torch.zeros(()))

    def generate(self, count: int, noise: Noise, label: Tensor | None = None) -> Tensor:
        return self.draw(count)


@pytest.fixture(autouse=True)
def mnist(monkeypatch: pytest.MonkeyPatch) -> Images:
    """The data set `mnist`, in squares."""
    data = Images("mnist", SPLITS, tiny.DIGITS)  # pyright: ignore[reportArgumentType]
    entry = replace(datasets.DATA["mnist"], load=lambda: data)
    monkeypatch.setitem(datasets.DATA, "mnist", entry)  # pyright: ignore[reportArgumentType]
    return data


def model(net: nn.Module | None = None, labelled: bool = True) -> Model:
    facts = replace(tiny.FACTS[tiny.READER], classes=10)
    recipe = replace(tiny.LABELLED, data="mnist")
    return Model(net or Squares(), recipe, facts if labelled else facts.unconditional(), {}, Path("squares"))


def of(net: nn.Module, plan: PicturePlan = PLAN, labelled: bool = True, **more: Any) -> dict[str, Any]:
    return evaluate(model(net, labelled), plan=plan, features=Brightness(), **more)


def test_what_is_drawn_is_measured_beside_training_pictures(mnist: Images) -> None:
    found = of(Squares())
    json.dumps(found, allow_nan=False)
    assert (found["n"], found["features"], found["dims"]) == (200, "brightness", 2)
    assert found["parameters"] == 3
    drawn = torch.stack(models_samples(mnist))
    test, train = (mnist.split(which, 200).x for which in ("test", "train"))
    eye = Brightness()
    a, b, c = (moments(eye(to_integers(x)).features) for x in (drawn, test, train))
    frechet = found["measures"]["frechet"]
    assert frechet["value"] == pytest.approx(frechet_distance(a, b), rel=1e-6)
    assert frechet["floor"]["value"] == pytest.approx(frechet_distance(c, b), rel=1e-6)
    assert frechet["over_floor"]["value"] == pytest.approx(frechet["value"] / frechet["floor"]["value"])
    assert frechet["interval"][0] < frechet["value"] < frechet["interval"][1]
    for name, measure in found["measures"].items():
        kept = 200 if name in ("frechet", "inception") else 100
        assert measure["n"] == kept
        assert measure["reference"] == {"split": "test", "n": kept}
    eyes = [eye(to_integers(x[:100])).features for x in (drawn, test, train)]
    for name, measure in (("precision", precision), ("recall", recall), ("coverage", coverage)):
        assert found["measures"][name]["value"] == pytest.approx(measure(eyes[0], eyes[1]).value)
        assert found["measures"][name]["floor"]["value"] == pytest.approx(measure(eyes[2], eyes[1]).value)
    assert found["measures"]["inception"]["value"] == pytest.approx(
        found["measures"]["inception"]["floor"]["value"], rel=0.05
    )


def models_samples(mnist: Images) -> list[Tensor]:
    label = mnist.split("train", 200).cond["label"]
    return models.samples(model(), labels=label.tolist(), batch=64)


def test_labels_are_asked_for_and_read(mnist: Images) -> None:
    label = of(Squares())["label"]
    assert (label["right"], label["n"], label["rate"], label["real_rate"]) == (200, 200, 1, 1)
    assert of(Squares(shift=1))["label"]["right"] == 0
    assert "label" not in of(Squares(), labelled=False)


def test_more_pictures_than_there_are_real_ones_have_a_floor_of_fewer(mnist: Images) -> None:
    """By the test split, and by all that training could see, of which there are 301 and 260."""
    eye, test, train, valid = Brightness(), *(mnist.split(w).x for w in ("test", "train", "valid"))  # pyright: ignore
    by = {"test": (test, train), "train": (torch.cat([train, valid]), test)}
    for split, (real, others) in by.items():
        plan = replace(PLAN, n=700, reference=split)  # pyright: ignore
        reference = Reference(mnist, eye, plan)
        assert reference.label is not None
        assert torch.equal(reference.label[len(others) :], reference.label[: 700 - len(others)])
        found = pictures.evaluate(model(), reference).figures
        frechet = found["measures"]["frechet"]
        assert (frechet["n"], frechet["reference"]) == (700, {"split": split, "n": len(real)})
        assert (frechet["floor"]["n"], frechet["over_floor"]) == (len(others), None)
        a, b = (moments(eye(to_integers(x)).features) for x in (others, real))
        assert frechet["floor"]["value"] == pytest.approx(frechet_distance(a, b), rel=1e-6)
        drawn = torch.stack(models.samples(model(), labels=reference.label.tolist()))
        c = moments(eye(to_integers(drawn)).features)
        assert frechet["value"] == pytest.approx(frechet_distance(c, b), rel=1e-6)
        # Of 100 each, as all that goes by the first.
        assert found["measures"]["recall"]["over_floor"]["value"] > 0
        assert (found["label"]["right"], found["label"]["reference"]["n"]) == (700, len(real))
        assert found["memorisation"]["train"] == {"test": 301, "train": 561}[split]
        assert found["memorisation"]["pixels"]["nearer"]["reference"] == {"split": "test", "n": 50}
        said = {"test": "240 of the test split; real: 301 training", "train": "could see; real: 240 test"}
        assert said[split] in summary(found | {"parameters": 1})
        assert "(n = " in rows(found)[2][2]


class Slow(Brightness):
    """Brightness, which is kept; and how many pictures were looked at."""

    identity = "brightness by sight"

    def __init__(self) -> None:
        self.looked = 0

    def __call__(self, pictures: Tensor) -> Seen:
        self.looked += len(pictures)
        return super().__call__(pictures)


def test_what_a_slow_network_makes_of_real_pictures_is_kept(
    mnist: Images, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PHIN_CACHE", str(tmp_path))
    counts, known = list[int](), Reference(mnist, Brightness(), PLAN)

    def look(identity: str = Slow.identity, **plan: Any) -> None:
        eye = Slow()
        eye.identity = identity
        found = Reference(mnist, eye, replace(PLAN, **plan))
        counts.append(eye.looked)
        if not plan:
            assert found.floor == known.floor
            assert torch.equal(found.near_features, known.near_features)
            assert found.test.rate == known.test.rate

    look()
    look()
    look(n=100)  # other test pictures, and the same of all training pictures
    look(seed=1)
    look("another")
    assert counts == [200 + 301, 0, 100, 200 + 301, 200 + 301]
    for path in (tmp_path / "features").iterdir():
        path.write_bytes(path.read_bytes()[:-5])
    look()
    assert counts[-1] == 200 + 301
    monkeypatch.setenv("PHIN_CACHE", "/proc/phin")
    look()  # where nothing can be kept, it goes on
    assert counts[-1] == 200 + 301


class Brighten(KLAutoencoder):
    """Gives pictures back five levels brighter, and of its latents one tells the brightness."""

    def __init__(self) -> None:
        nn.Module.__init__(self)
        self.likelihood, self.anything = Laplace(1.0), nn.Parameter(torch.zeros(()))

    def forward(self, x: Tensor, noise: Noise, label: Tensor | None = None) -> tuple[Tensor, Path_]:
        z = x[:, :, ::14, ::14].flatten(1)
        return x + 10 / 255, Path_(z, (z,), z.sum(1), (z,))


def test_an_autoencoder_for_latents_is_measured_by_what_it_gives_back(tmp_path: Path) -> None:
    found = of(Brighten(), PicturePlan(n=150), out=tmp_path)
    made = found["reconstructed"]
    assert (made["rmse"]["value"], made["rmse"]["error"]) == pytest.approx((5, 0), abs=1e-6)
    assert made["frechet"]["value"] == pytest.approx(2 * (5 / LOW) ** 2, rel=1e-4)  # two means, both shifted
    assert (made["label"]["right"], made["label"]["real_rate"]) == (150, 1)
    for one in made.values():
        assert (one["n"], one["reference"]) == (150, {"split": "test", "n": 150})
    assert found["active"]["levels"] == [{"active": 1, "units": 4}]
    assert "measures" not in found
    assert found["parameters"] == 1
    assert "no picture, and not measured" in summary(found)
    assert "z_1 1 of 4" in summary(found)
    assert [row[1] for row in rows(found)[1:3]] == ["0.08 ± " + rows(found)[1][1].split()[2], "5 ± 0"]
    assert np.asarray(Image.open(tmp_path / "samples.png")).shape == (2 * 30 + 2, 10 * 30 + 2)
    with pytest.raises(PhinError, match="compared = 20 is for models that draw pictures from nothing"):
        of(Brighten(), PicturePlan(n=150, compared=20))


def test_the_error_of_a_root_mean_square_is_its_spread() -> None:
    squares = torch.from_numpy(np.random.default_rng(0).exponential(4, (300, 400)))
    found = [root_mean(row) for row in squares]
    assert np.mean([one.value for one in found]) == pytest.approx(2, rel=0.01)
    spread = np.std([one.value for one in found])
    assert np.sqrt(np.mean([one.error**2 for one in found])) == pytest.approx(spread, rel=0.2)


def test_models_are_told_apart() -> None:
    """The floor is nobody's; a part of the classes shows as recall; copies show as copies."""
    good, copies = of(Squares()), of(Squares("train"))
    few = of(Faulty(lambda n: from_integers(SPLITS["valid"].images[SPLITS["valid"].labels < 3][:n])), PLAN)  # pyright: ignore
    for name, measure in good["measures"].items():
        assert measure["floor"] == few["measures"][name]["floor"]
    assert few["measures"]["frechet"]["value"] > 20 * good["measures"]["frechet"]["value"]
    assert few["measures"]["recall"]["value"] < 0.5 < good["measures"]["recall"]["value"]
    assert few["measures"]["coverage"]["value"] < 0.5
    for view in ("pixels", "features"):
        assert copies["memorisation"][view]["nearer"]["value"] > 0.95
        assert copies["memorisation"][view]["median"] == 0
        assert abs(good["memorisation"][view]["nearer"]["value"] - 0.5) < 0.25
    assert copies["memorisation"]["train"] == 301
    assert "memorisation" not in of(Squares(), replace(PLAN, compared=0))


def test_pixels_are_compared_in_grey_levels() -> None:
    shifted = SPLITS["train"].images.int()
    shifted[:, :, 0, 0] = 28  # one pixel of 784: a root mean square of one level
    found = of(Faulty(lambda n: from_integers(shifted[:n].to(torch.uint8))), labelled=False)
    assert found["memorisation"]["pixels"]["median"] == pytest.approx(1, rel=1e-6)


def test_a_diffusion_model_is_measured_and_its_choices_noted() -> None:
    class Net(Squares):
        def forward(self, z: Tensor, log_snr: Tensor, label: Tensor) -> Tensor:
            torch.manual_seed(0)
            return self.generate(len(z), torch.randn_like, label.clamp(min=0))

    found = evaluate(
        model(Denoiser(Net(), predicts_x)), plan=PLAN, features=Brightness(), steps=2, guidance=1.0
    )
    assert found["sampling"] | {"steps": 2, "guidance": 1.0, "seed": 0} == found["sampling"]
    assert found["label"]["rate"] == 1
    assert of(Squares())["sampling"] == {"seed": 0}
    with pytest.raises(PhinError, match="leave steps out"):
        of(Squares(), steps=3)


def test_what_samples_depend_on_is_noted_as_a_whole(tmp_path: Path) -> None:
    found = models.load(tiny.write(tiny.LABELLED, tmp_path / "model.safetensors"))
    noisy = NoisyClassifier(tiny.NOISY.net, 1, 10)
    drawing = Drawing(found, 3, guide=Guide(noisy, 0.5, "noisy"), choices={"steps": 2})
    noted = {"classifier": "noisy", "classifier_scale": 0.5, "seed": 3, "steps": 2}
    assert drawing.facts == asdict(tiny.SAMPLE) | noted


def test_samples_are_the_same_however_many_are_drawn_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    class Numbers(OneShot):
        def __init__(self) -> None:
            super().__init__()
            self.anything, self.counts = nn.Parameter(torch.zeros(())), list[int]()

        def generate(self, count: int, noise: Noise, label: Tensor) -> Tensor:
            self.counts.append(count)
            return noise(torch.empty(count, 1, 2, 2)) + 100 * label.view(-1, 1, 1, 1)

    net, label, told, totals = Numbers(), torch.arange(1100), list[int](), list[int]()

    def bar(total: int, doing: str) -> Any:
        totals.append(total)
        return nullcontext(told.append)

    drawing = Drawing(model(net), 3, bar=bar)
    batches = [*drawing.batches(1100, {"label": label}, 64)]
    assert [places for places, _ in batches] == [range(500), range(500, 1000), range(1000, 1100)]
    assert [len(x) for _, x in batches] == [500, 500, 100]
    assert max(net.counts) == 64
    assert (totals, told) == ([1100], net.counts)
    expected = seeded(3, range(1100))(torch.empty(1100, 1, 2, 2)) + 100 * label.view(-1, 1, 1, 1)
    torch.testing.assert_close(torch.cat([x for _, x in batches]), expected)
    torch.testing.assert_close(drawing.together(1100, {"label": label}, 7), expected)
    assert drawing.seconds > 0
    monkeypatch.setattr("phin.evaluation.drawing.process", lambda: (1, 3))  # what the second of three draws
    parts = [*drawing.batches(1100, {"label": label}, 64)]
    assert [places for places, _ in parts] == [range(1, 1100, 3)]
    torch.testing.assert_close(parts[0][1], expected[1::3])


@pytest.mark.parametrize(
    ("net", "choices", "message"),
    [
        (Squares(), {"guidance": 2.0}, "leave guidance out"),
        (Denoiser(Squares(), predicts_x), {"solver": "nonsense"}, "unknown solver 'nonsense'"),
        (Denoiser(Squares(), predicts_x), {"levels": 3}, "no option 'levels'"),
        (KLAutoencoder.__new__(KLAutoencoder), {"steps": 2}, "leave steps out"),
    ],
)
def test_bad_choices_are_refused_before_anything_is_done(
    net: nn.Module, choices: dict[str, Any], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(datasets, "load", lambda name: pytest.fail("data were read"))
    with pytest.raises(PhinError, match=message):
        of(net, out=tmp_path / "out", **choices)
    assert not (tmp_path / "out").exists()


def test_pictures_are_looked_at_many_at_once() -> None:
    looked: list[int] = []

    class Counted(Brightness):
        def __call__(self, pictures: Tensor) -> Seen:
            looked.append(len(pictures))
            return super().__call__(pictures)

    evaluate(model(Squares()), plan=PLAN, features=Counted())
    assert looked == [200, 301, 200]  # test and training pictures, and what is drawn


@pytest.mark.parametrize("split", ["test", "train"])
def test_real_pictures_are_held_some_at_a_time(
    mnist: Images, split: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And all is found as if they were all there, but near ones, which are sought among the first."""
    monkeypatch.setenv("PHIN_CACHE", str(tmp_path))
    plan = replace(PLAN, n=240, reference=split)
    whole = Reference(mnist, Brightness(), plan)
    monkeypatch.setattr(pictures, "HELD", 70)
    monkeypatch.setattr(pictures, "READ", 32)
    for eye in (Brightness(), Slow(), Slow()):  # of the last, what it makes of each part is kept
        parts = Reference(mnist, eye, plan)
        assert (len(parts.pictures), len(parts.near), len(parts.near_features)) == (70, 70, 70)
        assert torch.equal(parts.pictures, whole.pictures[:70])
        assert torch.equal(parts.near, whole.near[:70])
        assert torch.equal(parts.near_features, whole.near_features[:70])
        assert parts.digest == whole.digest
        for ours, theirs in ((parts.test, whole.test), (parts.train, whole.train)):
            assert (ours.n, ours.rate) == (theirs.n, theirs.rate)
            assert torch.equal(ours.features, theirs.features)
        for name, floor in whole.floor.items():
            assert parts.floor[name].value == pytest.approx(floor.value, rel=1e-9)
            assert parts.floor[name].error == pytest.approx(floor.error, rel=1e-6)
        assert parts.label is not None
        assert whole.label is not None
        assert torch.equal(parts.label, whole.label)
    assert eye.looked == 0  # pyright: ignore
    sizes, read = list[int](), mnist.split

    def noted(self: Images, *given: Any) -> Batch:
        sizes.append(given[3].stop - given[3].start)
        return read(*given)

    monkeypatch.setattr(Images, "split", noted)
    Reference(mnist, Brightness(), plan)
    assert max(sizes) == 32


def test_what_one_reference_knows_is_found_once(mnist: Images, monkeypatch: pytest.MonkeyPatch) -> None:
    sought: list[int] = []
    monkeypatch.setattr(pictures, "nearest", lambda x, train: sought.append(len(x)) or nearest(x, train))
    found: list[tuple[int, int]] = []
    radii = Cloud._squared_radii

    def counted(cloud: Cloud, k: int) -> Tensor:
        found.append((len(cloud), k))
        return radii(cloud, k)

    monkeypatch.setattr(Cloud, "_squared_radii", counted)
    reference = Reference(mnist, Brightness(), replace(PLAN, kept=90, compared=30))
    # Of training pictures, for recall; of test pictures, for precision, and for density and coverage.
    assert sorted(found) == [(90, 3), (90, 3), (90, 5)]
    one, other = (pictures.evaluate(model(Squares(which)), reference).figures for which in ("valid", "train"))
    assert sorted(found[3:]) == [(90, 3), (90, 3)]  # each model's own, for recall
    assert sought == [30] * 6  # test pictures in pixels and features, then each model's
    assert one["reference_seconds"] == other["reference_seconds"] == reference.seconds > 0
    for key in ("pixels", "features"):
        tests = [figures["memorisation"][key]["test_median"] for figures in (one, other)]
        assert tests[0] == tests[1] > 0
        assert one["memorisation"][key]["median"] > other["memorisation"][key]["median"]


def test_the_words_beside_the_table_say_what_is_known_of_the_training() -> None:
    """Of a distilled model, whose steps need its teacher, operations are not."""
    found = of(Squares())
    assert "training" not in summary(found).splitlines()[-1]
    assert ", 3 minutes of training, " in summary(found | {"training_minutes": 3.0})
    took = found | {"seconds": 2.5, "reference_seconds": 7.25}
    assert summary(took).endswith(", measured in 2.5 s, real ones in 7.25 s")
    both = found | {"training_minutes": 3.0, "training_flops": 2e12}
    assert ", 3 minutes and 2e+12 operations of training, " in summary(both)


def test_pictures_and_figures_are_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    told: list[int] = []
    found = of(
        Squares("train"), out=tmp_path / "new" / "folder", bar=lambda total, doing: nullcontext(told.append)
    )
    assert sum(told) == 200
    folder = tmp_path / "new" / "folder"
    assert json.loads((folder / "evaluation.json").read_text(encoding="utf-8")) == found
    sheet = np.asarray(Image.open(folder / "samples.png"))
    assert sheet.shape == (10 * 30 + 2, 10 * 30 + 2)
    pairs = np.asarray(Image.open(folder / "nearest.png"))
    assert pairs.shape == (4 * 30 + 2, 10 * 30 + 2)
    np.testing.assert_array_equal(pairs[2:30], pairs[32:60])  # copies, and what they are copies of
    table = rows(found)
    assert {len(row) for row in table} == {5}
    assert [row[0] for row in table[1:]] == [
        "read as the label asked for",
        *(f"{title} (brightness)" for title in ("FID", "KID", "Inception Score")),
        *(f"{title} (brightness)" for title in ("precision", "recall", "density", "coverage")),
        *(f"nearer to training data than test data, in {view}" for view in ("pixels", "features")),
    ]
    assert "200 pictures against 200 of the test split" in summary(found)


def test_a_training_measures_what_it_draws(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(FEATURES, "digit-reader", Brightness)
    recipe = replace(tiny.LABELLED, data="mnist", measure=60, sample=replace(tiny.SAMPLE, steps=1))
    found = train(recipe, tmp_path / "run").validation
    assert found["frechet"] > 10 * found["frechet_floor"] > 0
    assert 0 <= found["read"] < 1
    assert next(iter(found)) == "loss"
    more = replace(recipe, measure=0, train=replace(recipe.train, steps=3))
    assert "frechet" not in train(more, tmp_path / "run").validation
    told = train(replace(recipe, drop=1.0), tmp_path / "all").validation
    assert "read" not in told
    few = replace(recipe, measure=3)  # of two features, 3 pictures without a tenth of them
    for wrong, message in (
        (replace(recipe, features="nobody"), "unknown model 'nobody'"),
        (few, "measure = 3 pictures are too few for the 2 features of brightness, .*: give 4 or more"),
    ):
        with pytest.raises(PhinError, match=message):
            train(wrong, tmp_path / "wrong")
        assert not (tmp_path / "wrong").exists()


# Costs


def test_operations_of_training_are_counted(tmp_path: Path) -> None:
    recipe = replace(tiny.READER, data="mnist", train=replace(tiny.BRIEF, steps=7, batch=9))
    run = train(recipe, tmp_path / "run")
    made = models.load(run.last)
    data = datasets.load("mnist")
    known = costs(made, data)
    net = recipe.model(Facts.of(data))
    with FlopCounterMode(display=False) as counter:
        net(torch.zeros(1, 1, 28, 28))
    forward = counter.get_total_flops()
    first = 2 * 25 * 8 * 14 * 14  # no gradient is needed of the picture
    assert forward == first + 2 * 9 * 8 * 8 * 7 * 7 + 2 * 8 * 10
    assert operations(made, data) == 3 * forward - first
    assert known["training_flops"] == 63 * operations(made, data)
    seconds = made.metadata["training"]["state"]["seconds"]  # when it was saved, which takes some more
    assert 0 < seconds <= run.seconds
    assert known["training_minutes"] == seconds / 60
    found = evaluate(made)  # as of every kind of model
    assert found == found | known
    assert all(f"{number}" in summary(found) for number in ("parameters", "minutes and", "operations"))
    assert known["parameters"] == sum(p.numel() for p in net.parameters())
    before = torch.random.get_rng_state()
    operations(made, data)
    assert torch.equal(before, torch.random.get_rng_state())
    assert costs(replace(made, metadata={}), data).keys() == {"parameters"}


# Several processes


def share(out: str) -> None:
    """In each of two processes: the figures, written down."""
    import torch.distributed as dist

    datasets.DATA = {  # pyright: ignore[reportAttributeAccessIssue]
        "mnist": replace(datasets.DATA["mnist"], load=lambda: Images("mnist", SPLITS, tiny.DIGITS))  # pyright: ignore
    }
    pictures.HELD = JUST_LESS
    dist.init_process_group("gloo")
    found = of(Squares())
    Path(out, f"{dist.get_rank()}.json").write_text(json.dumps(found))
    dist.destroy_process_group()


def train_and_measure(out: Path) -> None:
    """A training too slow to move, measured twice: what was found, and which pictures this process drew."""
    drawn: list[list[list[int]]] = []

    def noted(*given: Any, indices: Sequence[int], **known: Any) -> Tensor:
        drawn.append([[*pair] for pair in zip(indices, given[-1]["label"].tolist(), strict=True)])
        return draw(*given, indices=indices, **known)

    brief = replace(tiny.BRIEF, lr=1e-12, validate_every=0.5)
    recipe = replace(tiny.LABELLED, data="mnist", measure=61, train=brief)
    with pytest.MonkeyPatch.context() as patch:
        data = Images("mnist", SPLITS, tiny.DIGITS)  # pyright: ignore[reportArgumentType]
        entry = replace(datasets.DATA["mnist"], load=lambda: data)
        patch.setitem(datasets.DATA, "mnist", entry)  # pyright: ignore[reportArgumentType]
        patch.setitem(FEATURES, "digit-reader", Brightness)
        patch.setattr("phin.training.denoising.draw", noted)
        found = train(recipe, out / "run").validation
    rank = os.environ.get("RANK", "alone")
    (out / f"{rank}.json").write_text(json.dumps({"found": found, "drawn": drawn}))


def test_two_processes_measure_a_training_as_one_does(tmp_path: Path) -> None:
    """Each draws its part, of the same labels, and both know what was found."""
    program = "import sys, test_evaluation_pictures as here; here.train_and_measure(here.Path(sys.argv[1]))"
    together.two(program, str(tmp_path))
    (tmp_path / "alone").mkdir()
    train_and_measure(tmp_path / "alone")
    alone = json.loads((tmp_path / "alone" / "alone.json").read_text())
    assert [[k for k, _ in part] for part in alone["drawn"]] == 2 * [[*range(61)]]
    for rank in range(2):
        found = json.loads((tmp_path / f"{rank}.json").read_text())
        assert found["drawn"] == [part[rank::2] for part in alone["drawn"]]
        assert found["found"] == pytest.approx(alone["found"], rel=1e-5)


def test_two_processes_find_what_one_finds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where one test picture would be left after those that are held at once, too."""
    program = "import sys, test_evaluation_pictures as here; here.share(sys.argv[1])"
    together.two(program, str(tmp_path))
    monkeypatch.setattr(pictures, "HELD", JUST_LESS)
    alone = of(Squares())
    for rank in "01":
        found = json.loads((tmp_path / f"{rank}.json").read_text())
        assert found["label"] == alone["label"]
        for view in ("pixels", "features"):
            assert found["memorisation"][view]["nearer"] == alone["memorisation"][view]["nearer"]
        for name, measure in alone["measures"].items():
            for key in ("value", "error"):
                assert found["measures"][name][key] == pytest.approx(measure[key], rel=1e-6, abs=1e-9), name


# Bad input


def refusals() -> list[tuple[Callable[[], object], str]]:
    blank, nothing = torch.full((1, 28, 28), -1.0), torch.full((1, 28, 28), math.nan)
    return [
        (lambda: PicturePlan(n=19), "n = 19 is too few"),
        (lambda: PicturePlan(kept=0), "kept = 0 is too few"),
        (
            lambda: of(Faulty(lambda n: blank.expand(n, -1, -1, -1))),
            "all 200 pictures that squares drew look the same",
        ),
        (
            lambda: of(Faulty(lambda n: nothing.expand(n, -1, -1, -1))),
            "sample 0 that squares drew .* not finite",
        ),
        (
            lambda: evaluate(model(), features="digit-reader", plan=PicturePlan(n=140)),
            "140 test pictures are too few",
        ),
        (lambda: evaluate(model(), features="nobody"), "unknown model 'nobody'"),
        (
            lambda: evaluate(model(), features=Path("none.pth")),
            "Inception-v3 needs torch-fidelity|none.pth cannot",
        ),
        (
            lambda: evaluate(model(), plan=PLAN, features=Brightness(), out=Path("/proc/x")),
            "/proc/x cannot be written",
        ),
    ]


@pytest.mark.parametrize("number", range(8))
def test_what_cannot_be_measured_is_refused(number: int) -> None:
    call, message = refusals()[number]
    with pytest.raises(PhinError, match=message):
        call()


def test_another_size_is_refused(mnist: Images) -> None:
    reference = Reference(mnist, Brightness(), PLAN)
    small = replace(model(), facts=replace(model().facts, shape=(1, 8, 8)))
    with pytest.raises(PhinError, match="draws 1 x 8 x 8, and mnist has pictures of 1 x 28 x 28"):
        pictures.evaluate(small, reference)
    wide = Images("wide", {w: Part(p.images[:, :, :, :14]) for w, p in SPLITS.items()})  # pyright: ignore
    with pytest.raises(PhinError, match="the digit reader takes pictures of 1 x 28 x 28, not of 1 x 28 x 14"):
        Reference(wide, pictures.chosen("digit-reader", "wide"), PLAN)
    with pytest.raises(PhinError, match="moons has no pictures to measure, but examples of 2"):
        Reference(datasets.load("moons"), Brightness(), PLAN)


def test_a_bad_model_is_one_line_and_code_2(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PHIN_CACHE", str(tmp_path / "cache"))
    labelled = str(tiny.write(tiny.LABELLED, tmp_path / "labelled.safetensors"))
    reader = tiny.write(tiny.READER, tmp_path / "reader.safetensors")
    read = models.load(reader)
    broken = {name: torch.full_like(t, math.nan) for name, t in read.net.state_dict().items()}
    save_weights(tmp_path / "broken.safetensors", broken, read.metadata)
    recipe, facts = replace(tiny.LABELLED, data="mnist"), model().facts
    own = str(tmp_path / "own.safetensors")
    save_weights(own, recipe.model(facts).state_dict(), describe("own", recipe, facts))
    (tmp_path / "wrong.pth").write_bytes(b"no weights")
    (tmp_path / "file").touch()
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    for words, message in (
        (f"{own} -n 100 --features digit-reader", "100 test pictures are too few for the 128 features"),
        (f"{own} -n 5", "n = 5 is too few"),
        (f"{own} --n-unseen 5", "--n-unseen 5 is for models of another kind than"),
        (f"{own} --compared 5", "compared = 5 is too few"),
        (f"{reader} -n 50", "--n 50 is for models of another kind than"),
        (f"{reader} --features inception", "--features inception is for models of another kind"),
        (f"{reader} --steps 3", "--steps 3 is for models of another kind"),
        (f"{own} -n 50 --features {tmp_path}/broken.safetensors", "feature 0 of picture 0 is nan"),
        (f"{labelled} --features {reader}", "takes pictures of 1 x 28 x 28, not of 1 x 8 x 8"),
        (f"{labelled}", "Inception-v3 needs torch-fidelity"),
        (f"{own} --features {own}", "is no classifier of clean pictures"),
        (f"{own} -n 50 --out {tmp_path}/file/in", "file/in cannot be written to"),
        (f"{own} -n 50 --features {reader} --out {tmp_path}/file", "cannot be written to"),
    ):
        assert main(["evaluate", *words.split()]) == 2, words
        said = capsys.readouterr()
        assert message in said.err, words
        assert len(said.err.strip().splitlines()) == 1
        assert not said.out
