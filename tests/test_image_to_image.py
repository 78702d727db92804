"""Image to image: what is given is what should be, models see it, and what they make of it is measured."""

import math
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
import torch
from jaxtyping import UInt8
from PIL import Image
from torch import Tensor, nn

import phin
from phin import data as datasets
from phin.cli import main
from phin.data.base import Images, Part, from_integers
from phin.data.degraded import Average, Degraded, Hide, condition
from phin.diffusion.denoiser import Denoise
from phin.diffusion.level import vp
from phin.diffusion.noise import Noise
from phin.errors import PhinError
from phin.evaluation import PicturePlan, evaluate, rows
from phin.families.base import OneShot
from phin.metrics.features import Features, Seen
from phin.metrics.frechet import frechet_distance, moments
from phin.models import Model
from phin.nets.unet import UNet
from phin.pictures import png, to_integers
from phin.recipes import DiffusionRecipe, Facts, describe
from phin.sampling import SampleConfig
from phin.training.checkpoint import save_weights
from phin.training.denoising import Denoising
from phin.training.measuring import Measuring

SIDE = 8
RECIPE = DiffusionRecipe(
    data="digits",
    net=tiny.NET,
    degrade="average(2)",
    labels=False,
    train=tiny.BRIEF,
    sample=SampleConfig(steps=3, guidance=1.0),
)
LABELLED = replace(RECIPE, degrade="hide", labels=True)


def pictures(channels: int = 1, n: int = 40) -> Images:
    """Random pictures of 8 x 12 pixels; the label of each is the sum of its values, mod 10."""
    rng = np.random.default_rng(0)
    found = torch.from_numpy(rng.integers(256, size=(n, channels, SIDE, 12), dtype=np.uint8))
    part = Part(found, found.flatten(1).sum(1, dtype=torch.int64) % 10)
    return Images("digits", dict.fromkeys(("train", "valid", "test"), part), tiny.DIGITS)


def test_an_average_is_the_mean_of_each_block() -> None:
    x = torch.randn(3, 2, 8, 12).double()
    blocks = np.stack(
        [
            [x[..., 4 * i : 4 * i + 4, 4 * j : 4 * j + 4].mean((2, 3)).numpy() for j in range(3)]
            for i in range(2)
        ]
    )
    seen = Average(4).see(x)
    for i in range(8):
        for j in range(12):
            np.testing.assert_allclose(seen[..., i, j], blocks[i // 4, j // 4], atol=1e-12)
    torch.testing.assert_close(Average(4).see(seen), seen)
    small = torch.from_numpy(blocks).permute(2, 3, 0, 1)
    torch.testing.assert_close(Average(4).enlarge(small), seen)
    assert Average(4).size((2, 8, 12)) == (2, 2, 3) == tuple(small.shape[1:])
    x[0, 0, 0, 0] = torch.nan  # what is not known as a whole is not known
    assert Average(4).see(x).isnan().sum() == 16


def test_boxes_are_whole_inside_and_as_likely_at_every_place() -> None:
    n, sides = 20_000, (8, 12)
    hidden = Hide(0.25, 0.75).hidden(np.random.default_rng(0).random((n, 4)), sides)
    for axis, side in ((2, 8), (1, 12)):
        along = hidden.any(axis)
        length, first = along.sum(1), along.int().argmax(1)
        assert (along.int().diff(dim=1).abs().sum(1) + along[:, 0].int() + along[:, -1].int() == 2).all()
        counts = torch.bincount(length)[side // 4 :]
        assert len(counts) == side // 2 + 1
        assert ((counts - n / len(counts)).abs() < 5 * math.sqrt(n / len(counts))).all()
        for taken in length.unique().tolist():
            free = side - taken + 1
            at = torch.bincount(first[length == taken], minlength=free)
            assert len(at) == free
            assert ((at - at.sum() / free).abs() < 5 * (at.sum() / free).sqrt()).all()
    height, width = hidden.any(2).sum(1), hidden.any(1).sum(1)
    assert torch.equal(hidden.sum((1, 2)), height * width)
    assert abs(float(torch.corrcoef(torch.stack([height, width]).double())[0, 1])) < 5 / math.sqrt(n)
    assert Hide(1, 1).hidden(np.zeros((1, 4)), sides).all()


def test_what_is_not_known_is_not_given() -> None:
    given = torch.rand(2, 3, 4, 4)
    given[0, :, 1:3] = torch.nan
    told = condition(given)
    assert told.shape == (2, 4, 4, 4)
    known = ~given.isnan()
    assert torch.equal(told[:, :-1][known], given[known])
    assert (told[:, :-1][~known] == -1).all()
    assert torch.equal(told[:, -1], 2.0 * known[:, 0] - 1)
    assert (condition(torch.full((1, 1, 2, 2), torch.nan)) == -1).all()  # the null condition of guidance


@pytest.mark.parametrize(("way", "channels"), [(Average(4), 1), (Hide(), 3)])
def test_a_degraded_set_gives_the_pictures_and_what_is_left_of_them(
    way: Average | Hide, channels: int
) -> None:
    whole = pictures(channels)
    data = Degraded(whole, way)
    for batch, own in (
        (data.train(3, 1, 30), whole.train(3, 1, 30)),
        (data.split("test"), whole.split("test")),
    ):
        assert torch.equal(batch.x, own.x)
        assert torch.equal(batch.cond["label"], own.cond["label"])
        image, known = batch.cond["image"][:, :-1], batch.cond["image"][:, -1:] > 0
        expected = way.see(own.x).where(known, torch.tensor(-1.0))
        torch.testing.assert_close(image, expected, rtol=0, atol=0)
        assert known.all() == (not way.hides)
    assert (data.shape, data.classes, data.name) == (whole.shape, 10, "digits")
    alone = Degraded(whole, way, labels=False)
    assert alone.train(3, 1, 30).cond.keys() == {"image"}
    assert (alone.classes, alone.class_names) == (0, ())
    parts = [data.train(3, 1, 30, slice(start, None, 2)).cond["image"] for start in (0, 1)]
    assert torch.equal(torch.stack(parts, 1).flatten(0, 1), data.train(3, 1, 30).cond["image"])
    assert torch.equal(data.split("test", 5).cond["image"], data.split("test", 9).cond["image"][:5])
    if way.hides:
        masks = [batch.cond["image"][:, -1] for batch in (data.train(3, 1, 30), data.train(3, 2, 30))]
        assert not torch.equal(*masks)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"degrade": "average(3)"}, r"side 8 of \(8, 8\) is not a multiple of 3"),
        ({"degrade": "average(1)"}, "2 pixels a side or more, such as 4, not 1"),
        ({"degrade": "average(-4)"}, "not -4"),
        ({"degrade": "hide(0)"}, r"not hide\(0, 1.0\)"),
        ({"degrade": "hide(0.5, 0.2)"}, "the least first"),
        ({"degrade": "hide(1, 1)"}, r"hide\(1, 1\) hides all of every picture of 8 x 8"),
        ({"degrade": "hide(0.95)"}, "let the least share be smaller"),  # 7.6 pixels of 8, which is 8
        ({"degrade": "blur"}, "unknown degradation 'blur'; there are average, hide"),
        ({"data": "moons"}, "moons has none such"),
        ({"data": "sines"}, "sines has none such"),
        ({"drop": 1.0}, "drop 1 tells nothing"),
        ({"drop": 0.5, "labels": True}, "drop 0.5 beside degrade leaves out twice as many labels"),
        ({"degrade": None}, "for a model that is told nothing, give drop 1"),
        ({"autoencoder": "runs/a", "sample": SampleConfig(threshold="none")}, "of pixels, not of latents"),
    ],
)
def test_what_makes_no_sense_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(PhinError, match=message):
        replace(RECIPE, **changes).load()


def test_a_network_sees_the_image_and_does_without() -> None:
    net = UNet(tiny.NET, 1, image_channels=2, classes=3)
    tiny.randomise(net)
    z, log_snr, image = torch.randn(4, 1, 8, 8), torch.randn(4), torch.randn(4, 2, 8, 8)
    seen = net(z, log_snr, image=image)
    assert torch.equal(net(z, log_snr), net(z, log_snr, image=torch.full_like(image, -1)))
    assert not torch.allclose(net(z, log_snr), seen)
    changed = image.clone()
    changed[2, 1, 3, 3] += 1
    moved = (net(z, log_snr, image=changed) - seen).abs().amax((1, 2, 3)) > 1e-6
    assert moved.tolist() == [False, False, True, False]
    plain = UNet(tiny.NET, 1, classes=3)
    weights = net.state_dict()
    first = weights["stem.inner.weight"].unflatten(1, (4, 3))  # patches of 2 x 2, of z and the image
    weights["stem.inner.weight"] = first[:, :, :1].flatten(1, 2)
    plain.load_state_dict(weights)
    torch.testing.assert_close(plain(z, log_snr), net(z, log_snr, image=torch.zeros_like(image)))
    with pytest.raises(PhinError, match="an image of 2 channels, not of 1"):
        net(z, log_snr, image=image[:, :1])
    with pytest.raises(PhinError, match="an image of no channels, not of 2"):
        plain(z, log_snr, image=image)


def told(task: Denoising, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Tensor, dict[str, Tensor]]]:
    """Pictures and conditions as the network is given them, step by step."""
    seen: list[Any] = []

    def terms(model: nn.Module, denoise: Denoise, x: Tensor, t: Tensor, eps: Tensor) -> Any:
        seen[:] = [x, denoise.cond]  # pyright: ignore[reportFunctionMemberAccess]
        raise InterruptedError

    monkeypatch.setattr(task, "_terms", terms)
    for step in range(20):
        with pytest.raises(InterruptedError):
            task(step, slice(None))
        yield seen[0], seen[1]


def test_an_image_may_be_told_alone_and_nothing_may_be(monkeypatch: pytest.MonkeyPatch) -> None:
    task = replace(LABELLED, drop=0.2, train=replace(tiny.BRIEF, batch=200)).task(
        Degraded(pictures(), Hide())
    )
    assert isinstance(task, Denoising)
    images, labels = [], []
    for _, cond in told(task, monkeypatch):
        images.append((cond["image"] == -1).flatten(1).all(1))
        labels.append(cond["label"] == -1)
    image, label = torch.cat(images), torch.cat(labels)
    n = len(image)
    # Some images are hidden as a whole: a box of full height (1 of 7) and width (1 of 10).
    assert float(image.double().mean()) == pytest.approx(0.2 + 0.8 / 70, abs=5 * math.sqrt(0.16 / n))
    assert float(label.double().mean()) == pytest.approx(0.4, abs=5 * math.sqrt(0.24 / n))
    assert float((image & ~label).double().mean()) < 0.02


def test_an_image_is_mirrored_with_its_picture(monkeypatch: pytest.MonkeyPatch) -> None:
    data = Degraded(pictures(), Hide())
    task = replace(LABELLED, flip=True, drop=0.0, train=replace(tiny.BRIEF, batch=40)).task(data)
    assert isinstance(task, Denoising)
    mirrored = 0
    for step, (x, cond) in enumerate(told(task, monkeypatch)):
        known = cond["image"][:, -1:] > 0
        assert torch.equal(cond["image"][:, :-1][known], x[known])
        own = data.train(0, step, 40).x
        mirrored += int((own != x).flatten(1).any(1).sum())
    assert abs(mirrored - 400) < 5 * math.sqrt(200)


def test_with_the_image_more_is_learned_than_without(tmp_path: Path) -> None:
    brief = replace(tiny.BRIEF, steps=60, batch=32, lr=2e-2, validate_every=1.0, picture_every=1.0)
    run = phin.train(replace(RECIPE, train=brief), tmp_path / "run")
    alone = phin.train(replace(RECIPE, degrade=None, labels=True, drop=1.0, train=brief), tmp_path / "alone")
    assert run.validation["loss"] < 0.9 * alone.validation["loss"]
    with Image.open(next((tmp_path / "run" / "samples").iterdir())) as sheet:
        assert sheet.size == (10 * (8 + 2) + 2, 3 * (8 + 2) + 2)
    model = phin.load(run.folder)
    x, cond, _ = RECIPE.load().split("test", 16)
    assert model.recipe == replace(RECIPE, train=brief)
    drawn = torch.stack(phin.samples(model, images=list(x)))
    off = (Average(2).see(drawn) - cond["image"][:, :1]).abs().mean()
    other = (Average(2).see(drawn.roll(1, 0)) - cond["image"][:, :1]).abs().mean()
    assert off < 0.7 * other


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Models of random weights: `average`, without labels, and `hide`, with."""
    folder, found = tmp_path_factory.mktemp("files"), {}
    for name, recipe in (("average", RECIPE), ("hide", LABELLED)):
        torch.manual_seed(0)
        facts = Facts((1, 8, 8), 10 if recipe.labels else 0, 0, tiny.DIGITS if recipe.labels else (), False)
        net = recipe.model(facts)
        tiny.randomise(net)
        save_weights(folder / f"{name}.safetensors", net.state_dict(), describe("tiny", recipe, facts))
        found[name] = folder / f"{name}.safetensors"
    return found


def test_a_small_picture_is_as_good_as_the_whole(files: dict[str, Path]) -> None:
    model = phin.load(files["average"])
    small = torch.rand(2, 1, 4, 4) * 2 - 1
    whole = Average(2).enlarge(small) + 0.1 * torch.tensor([1.0, -1.0]).repeat(4)  # of the same means
    drawn = phin.samples(model, images=list(small), n=2, seed=3)
    again = phin.samples(model, images=list(whole), n=2, seed=3)
    assert len(drawn) == 4
    torch.testing.assert_close(torch.stack(drawn), torch.stack(again), atol=1e-4, rtol=0)
    one = phin.samples(model, images=[small[1]], seed=3)
    assert not torch.allclose(one[0], drawn[0], atol=1e-3)  # same noise, another image


def test_images_and_labels_and_guidance_go_together(files: dict[str, Path]) -> None:
    model = phin.load(files["hide"])
    image = torch.rand(1, 8, 8) * 2 - 1
    image[:, 2:5, 3:] = torch.nan
    net = model.net
    x, level = torch.randn(1, 1, 8, 8), vp(torch.tensor(0.0).double())
    cond = {"label": torch.tensor([7]), "image": condition(image[None])}
    null = {name: torch.full_like(value, -1) for name, value in cond.items()}
    config = SampleConfig(steps=1, guidance=2.0, threshold="none")
    from phin.sampling import guided

    guided_x = guided(net, cond, config)(x, level).x  # pyright: ignore[reportArgumentType]
    with_, without = (net(x, level, **one).x for one in (cond, null))
    torch.testing.assert_close(guided_x, 2 * with_ - without, atol=1e-4, rtol=1e-4)
    any_, seven = (phin.samples(model, images=[image], labels=labels)[0] for labels in (None, [7]))
    assert torch.equal(any_, phin.samples(model, images=[image], labels=[-1])[0])
    assert not torch.equal(any_, seven)
    assert len(phin.samples(model, images=[image, image], labels=[7], n=3)) == 6
    with pytest.raises(PhinError, match="3 labels for 2 images"):
        phin.samples(model, images=[image, image], labels=[1, 2, 3])
    with pytest.raises(PhinError, match="no label 10"):
        phin.samples(model, images=[image], labels=[10])


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    for name, size in {"small": (4, 4), "whole": (8, 8), "odd": (5, 4), "rgb": (4, 4, 3)}.items():
        Path(f"{name}.png").write_bytes(png(rng.integers(256, size=size, dtype=np.uint8)))
    mask = np.zeros((8, 8), np.uint8)
    mask[:, 4:] = 255
    Path("mask.png").write_bytes(png(mask))
    return tmp_path


def test_pictures_are_enlarged_and_painted_from_files(files: dict[str, Path], folder: Path) -> None:
    argv = ["sample", "--model", str(files["average"]), "--image", "small.png", "--image", "whole.png"]
    assert main([*argv, "-n", "2", "--grid", "--out", "o"]) == 0
    names = ["0000_small.png", "0001_small.png", "0002_whole.png", "0003_whole.png", "grid.png"]
    assert sorted(path.name for path in Path("o").iterdir()) == names
    with Image.open("small.png") as image:
        given = from_integers(torch.tensor(np.asarray(image)))[None]
    drawn = phin.sample(phin.load(files["average"]), images=[given], n=2)
    with Image.open("o/0001_small.png") as image:
        np.testing.assert_allclose(np.asarray(image).astype(int), drawn[1], atol=1)
    argv = ["sample", "--model", str(files["hide"]), "--image", "whole.png", "--label", "3"]
    assert main([*argv, "--keep", "left", "--out", "kept"]) == 0
    assert main([*argv, "--mask", "mask.png", "--out", "masked"]) == 0
    assert Path("kept/0000_whole.png").read_bytes() == Path("masked/0000_whole.png").read_bytes()


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        ("AVERAGE", "draws nothing from nothing: give an image, 4 x 4 grey or 8 x 8 grey (--image FILE)"),
        ("AVERAGE --image odd.png", "odd.png is 4 x 5 grey, and"),
        ("AVERAGE --image rgb.png", "rgb.png is 4 x 4 RGB, and"),
        ("AVERAGE --image none.png", "none.png cannot be read"),
        ("AVERAGE --image whole.png --keep left", "known as a whole: hide nothing of whole.png"),
        ("AVERAGE --image small.png --label 3", "takes no labels"),
        ("AVERAGE --image small.png --mask mask.png", "the mask mask.png is 8 x 8 grey"),
        ("AVERAGE --keep left", "give some by --image FILE, too"),
        ("AVERAGE --image small.png -n 0", "n = 0"),
        ("HIDE --image small.png --keep left", "small.png is 4 x 4 grey, and"),
        ("HIDE --image whole.png", "of whole.png nothing is: say what to keep"),
        ("HIDE --image whole.png --keep left --mask mask.png", "by one of the two"),
        ("HIDE --image whole.png --keep inside", "--keep"),
        ("HIDE --image whole.png whole.png --keep left --label 1 2 3", "3 labels for 2 images"),
        ("numbers --prompt 7 --image whole.png", "draws numbers from nothing, and takes no image"),
    ],
)
def test_bad_input_is_named_and_nothing_is_written(
    argv: str, message: str, files: dict[str, Path], folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = sorted(folder.rglob("*"))
    words = [str(files[word.lower()]) if word.isupper() else word for word in argv.split()]
    assert main(["sample", "--model", *words]) == 2
    said = capsys.readouterr().err
    assert said.startswith("phin: error: ")
    assert said.count("\n") == 1
    assert message in said
    assert sorted(folder.rglob("*")) == before


def test_there_is_no_likelihood_of_what_is_given(files: dict[str, Path], capsys: Any) -> None:
    assert main(["nll", "--model", str(files["average"])]) == 2
    assert "measure a model that begins from nothing" in capsys.readouterr().err


class Sums(Features):
    """Reads the label of `pictures` off them."""

    name, dims, class_names = "sums", 1, tiny.DIGITS

    def check(self, shape: tuple[int, ...]) -> None:
        assert shape == (1, SIDE, 12)

    def __call__(self, pictures: UInt8[Tensor, "n 1 h w"]) -> Seen:
        digit = pictures.flatten(1).sum(1, dtype=torch.int64) % 10
        return Seen(digit[:, None].float(), nn.functional.one_hot(digit, 10).float())


Make = Callable[[Tensor, Tensor], Tensor]


class Restorer(OneShot):
    """Makes something of an image, which it knows by what is given of it."""

    def __init__(self, way: Average | Hide, make: Make) -> None:
        super().__init__()
        self.anything = nn.Parameter(torch.zeros(()))
        self.way, self.make = way, make

    def generate(self, count: int, noise: Noise, image: Tensor) -> Tensor:
        whole = pictures().split("test").x
        given, known = image[:, :-1], image[:, -1:] > 0
        off = ((self.way.see(whole)[None] - given[:, None]).abs() * known[:, None]).flatten(2).sum(2)
        return self.make(whole[off.argmin(1)], given)


def figures_of(
    monkeypatch: pytest.MonkeyPatch,
    way: Average | Hide,
    make: Callable[[Tensor, Tensor], Tensor],
    **more: Any,
) -> dict[str, Any]:
    entry = replace(datasets.DATA["digits"], load=pictures)
    monkeypatch.setitem(datasets.DATA, "digits", entry)  # pyright: ignore[reportArgumentType]
    degrade = "average(4)" if isinstance(way, Average) else "hide(0.25, 0.5)"
    facts = Facts((1, SIDE, 12), 0, 0, (), True)
    model = Model(Restorer(way, make), replace(RECIPE, degrade=degrade), facts, {}, Path("model"))
    return evaluate(model, **{"plan": PicturePlan(n=40), "features": Sums(), **more})


def test_a_box_that_leaves_one_row_now_and_then_is_allowed() -> None:
    assert Hide(0.9).size((1, 8, 8)) == (1, 8, 8)
    assert Hide(0.95).size((1, 8, 28)) == (1, 8, 28)  # 27 of 28 pixels, now and then


def test_which_test_pictures_and_boxes_goes_by_the_seed(monkeypatch: pytest.MonkeyPatch) -> None:
    """If nobody says how many, too."""
    given: list[Tensor] = []

    def make(whole: Tensor, image: Tensor) -> Tensor:
        given.append(image)
        return whole

    figures = figures_of(monkeypatch, Hide(0.25, 0.5), make, plan=PicturePlan(seed=5))
    expected = Degraded(pictures(), Hide(0.25, 0.5)).split("test", 40, 5).cond["image"][:, :-1]
    assert torch.equal(torch.cat(given), expected)
    assert not torch.equal(
        expected, Degraded(pictures(), Hide(0.25, 0.5)).split("test").cond["image"][:, :-1]
    )
    assert (figures["n"], figures["sampling"]) == (40, {"seed": 5})


@pytest.mark.parametrize("way", [Average(4), Hide(0.25, 0.5)])
def test_the_pictures_themselves_have_no_fault(
    way: Average | Hide, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    seen: list[int] = []
    more: dict[str, Any] = {"out": tmp_path / "out", "bar": lambda total, doing: nullcontext(seen.append)}
    figures = figures_of(monkeypatch, way, lambda whole, given: whole, **more)
    assert sum(seen) == 40
    for name in ("drawn", "real"):
        found = figures["restored"][name]
        assert found["off_given"]["value"] < 1e-5
        assert found["off_real"]["value"] < 1e-5
        assert found["label"]["right"] == 40
    assert figures["restored"]["given"]["off_real"]["value"] > 10
    assert figures["restored"]["given"]["label"]["right"] < 20
    assert len(rows(figures)) == 5
    with Image.open(tmp_path / "out" / "samples.png") as sheet:
        assert sheet.size == (10 * (12 + 2) + 2, 3 * (SIDE + 2) + 2)
        first = np.asarray(sheet)[2 : 2 + SIDE, 2:14]
    image = Degraded(pictures(), way).split("test", 40).cond["image"][0]
    given = image[0].masked_fill(image[1] < 0, 0.0)  # hidden pixels are grey
    np.testing.assert_allclose(first, 127.5 * (given.numpy() + 1), atol=1)


def test_faults_are_as_large_as_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    """Brighter by 6 of 255 where it can be: then means are off by so much, and labels by what is added."""
    darker = 2 * 6 / 255

    def bright(whole: Tensor, given: Tensor) -> Tensor:
        return torch.where(whole + darker <= 1, whole + darker, whole)

    whole = pictures().split("test", 40).x
    changed = to_integers(bright(whole, whole))
    figures = figures_of(monkeypatch, Average(4), bright)
    off = (changed.double() - to_integers(whole).double()).mean((1, 2, 3))
    found = figures["restored"]["drawn"]
    assert found["off_real"]["value"] == pytest.approx(float(off.mean()), abs=1e-4)
    assert found["off_real"]["error"] == pytest.approx(float(off.std()) / math.sqrt(40), abs=1e-4)
    assert found["off_given"]["value"] == pytest.approx(float(off.mean()), abs=1e-4)
    label = changed.flatten(1).sum(1, dtype=torch.int64) % 10
    asked = to_integers(whole).flatten(1).sum(1, dtype=torch.int64) % 10
    assert found["label"]["right"] == int((label == asked).sum()) < 40
    # Right means, wrong pictures: what is given itself keeps to what is given.
    found = figures_of(monkeypatch, Average(4), lambda whole, given: given)["restored"]
    assert found["drawn"]["off_given"]["value"] < 0.5
    assert found["drawn"]["off_real"]["value"] > 10
    # Of what is hidden, nothing counts.
    other = lambda whole, given: torch.where(given == -1, torch.zeros(()), whole)  # noqa: E731
    found = figures_of(monkeypatch, Hide(0.25, 0.5), other)["restored"]["drawn"]
    assert found["off_real"]["value"] > 5


# While a model is trained


class Pixels(Features):
    """Looks at two pixels."""

    name, dims = "two pixels", 2

    def check(self, shape: tuple[int, ...]) -> None:
        assert shape == (1, SIDE, 12)

    def __call__(self, pictures: Tensor) -> Seen:
        return Seen(pictures[:, 0, 0, :2].float(), torch.zeros(len(pictures), 10))


@pytest.mark.parametrize("recipe", [RECIPE, LABELLED])
def test_a_training_is_measured_by_what_is_drawn_of_held_out_pictures(
    recipe: DiffusionRecipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each is given its own, and a model that paints what was left of it is measured by that."""
    degradation = recipe.degradation
    assert degradation is not None
    data = Degraded(pictures(), degradation, recipe.labels)
    held = data.split("valid", 40)
    task = recipe.task(data)
    assert isinstance(task, Denoising)
    task.measure = Measuring(Pixels(), data, 40)
    told: list[dict[str, Tensor]] = []

    def copied(model: Any, config: Any, shape: Any, cond: dict[str, Tensor], **_: Any) -> Tensor:
        told.append(cond)
        return cond["image"][:, :1]

    monkeypatch.setattr("phin.training.denoising.draw", copied)
    found = task.measured(task.model)
    for name, value in held.cond.items():
        torch.testing.assert_close(torch.cat([cond[name] for cond in told]), value)
    assert found["frechet"] == pytest.approx(
        frechet_distance(
            *(
                moments(Pixels()(to_integers(x)).features)
                for x in (held.cond["image"][:, :1], pictures().split("valid", 40).x)
            )
        )
    )
