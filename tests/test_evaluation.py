"""A generator draws squares whose brightness is the digit, and a reader reads brightness: all is known."""

import base64
import io
import json
import logging
import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
import together
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

import phin
from phin import data as datasets
from phin import demo as demos
from phin import models, tuning
from phin.cli import main
from phin.data.base import Part, from_integers
from phin.data.numbers import NUMBERS, Handwriting, Numbers, held_out, random_strings
from phin.demo import demo
from phin.diffusion.denoiser import Denoiser
from phin.diffusion.level import Level
from phin.diffusion.parameterization import x as predicts_x
from phin.errors import PhinError
from phin.evaluation import PicturePlan, Plan, evaluate, record, rows
from phin.evaluation.drawing import Drawing
from phin.families.latent import KLConfig
from phin.metrics.features import Features, Seen
from phin.metrics.frechet import frechet_distance, moments
from phin.metrics.summary import fewest
from phin.models import Model
from phin.nets.classifier import Classifier, ClassifierConfig, NoisyClassifier
from phin.recipes import KLAutoencoderRecipe
from phin.recipes import train as train_of
from phin.recipes.features import FEATURES
from phin.training.measuring import Measuring

PLAN = Plan(n=200, n_unseen=50, n_frechet=300)


def brightness(digit: Tensor) -> Tensor:
    return (2 * digit - 9) / 10  # -0.9, -0.7, ... 0.9


def bars(n: int, seed: int) -> Part:
    """Digits as squares whose brightness is the class, with a little noise, black around."""
    labels = torch.arange(n) % 10
    noise = torch.from_numpy(np.random.default_rng(seed).uniform(-0.02, 0.02, (n, 1, 1)))
    grey = ((brightness(labels)[:, None, None] + noise + 1) * 127.5).round().to(torch.uint8)
    images = torch.zeros(n, 1, 28, 28, dtype=torch.uint8)
    images[:, 0, 4:24, 4:24] = grey
    return Part(images, labels)


class Bars(nn.Module):
    """The network of a perfect generator, but for the digits that it takes for others."""

    def __init__(self, mistaken: dict[int, int]) -> None:
        super().__init__()
        self.mistaken = mistaken
        self.anything = nn.Parameter(torch.zeros(()))

    def forward(self, z: Tensor, log_snr: Tensor, text: Tensor) -> Tensor:
        for digit, other in self.mistaken.items():
            text = text.masked_fill(text == digit, other)
        cells = torch.full((*text.shape, 28, 28), -1.0)
        shade = brightness(text.clamp(min=0)) + 0.02 * torch.rand(text.shape)
        cells[..., 4:24, 4:24] = shade[..., None, None]
        return cells.movedim(2, 1).flatten(2)[:, None]


class Reader(Classifier):
    """Reads the brightness of the middle."""

    def __init__(self) -> None:
        super().__init__(tiny.READER.net, 1, 10)  # pyright: ignore[reportArgumentType]

    def features(self, x: Tensor) -> Tensor:
        middle = x[:, 0, 10:18, 10:18].mean((1, 2))
        return torch.stack([middle, middle**2], 1)

    def forward(self, x: Tensor) -> Tensor:
        return -(self.features(x)[:, :1] - brightness(torch.arange(10))).abs()


class Looks(Features):
    """What the reader sees."""

    name, dims, class_names = "brightness", 2, tiny.DIGITS

    def check(self, shape: tuple[int, ...]) -> None:
        pass

    def __call__(self, pictures: Tensor) -> Seen:
        x = from_integers(pictures)
        return Seen(Reader().features(x), Reader()(x))


class Labels(Bars):
    """The same, by label."""

    def __init__(self) -> None:
        super().__init__({})

    def forward(self, z: Tensor, log_snr: Tensor, label: Tensor) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        return super().forward(z, log_snr, label[:, None])


class Brighter(NoisyClassifier):
    """Not a probability but a slope: the brighter, the likelier, whatever the label."""

    def __init__(self) -> None:
        super().__init__(tiny.NOISY.net, 1, 10)

    def given(self, label: Tensor) -> Callable[[Tensor, Level], Tensor]:
        return lambda z, level: 100 * level.alpha / level.sigma**2 * z.sum((1, 2, 3))


@pytest.fixture(autouse=True)
def bar_code(monkeypatch: pytest.MonkeyPatch) -> None:
    """The data set `numbers`, written in bars."""
    parts = {which: Handwriting(bars(200, seed)) for seed, which in enumerate(("train", "valid", "test"))}
    entry = replace(NUMBERS, load=lambda: Numbers(parts), files=None)  # pyright: ignore[reportArgumentType]
    monkeypatch.setitem(datasets.DATA, "numbers", entry)  # pyright: ignore[reportArgumentType]


def generator(mistaken: dict[int, int]) -> Model:
    net = Denoiser(Bars(mistaken), predicts_x)
    return Model(net, tiny.NUMBERS, tiny.FACTS[tiny.NUMBERS], {"name": "bars"}, Path("bars"))


READER = Model(Reader(), tiny.READER, tiny.FACTS[tiny.READER], {"name": "reader"}, Path("reader"))


def test_a_perfect_generator_is_as_good_as_real_pictures() -> None:
    figures = evaluate(generator({}), READER, PLAN, guidance=1.0)
    json.dumps(figures, allow_nan=False)
    asked = random_strings(200, 0)
    assert figures["digits"]["n"] == sum(map(len, asked))
    assert figures["strings"]["n"] == 200
    assert figures["unseen_strings"]["n"] == 50
    for kind in ("digits", "strings", "unseen_digits", "unseen_strings"):
        assert figures[kind]["rate"] == figures[kind]["real_rate"] == figures[kind]["share"] == 1
    assert 300 <= figures["frechet_cells"] <= 304
    assert figures["sampling"] | {"steps": 3, "guidance": 1.0, "seed": 0} == figures["sampling"]


def test_mistakes_are_counted_and_move_the_distance() -> None:
    asked, unseen = random_strings(200, 0), random_strings(50, 0, True)
    assert all(map(held_out, unseen))
    right = evaluate(generator({}), READER, PLAN, guidance=1.0)
    wrong = evaluate(generator({3: 9}), READER, PLAN, guidance=1.0)
    threes = sum(string.count("3") for string in asked)
    assert wrong["digits"]["right"] == wrong["digits"]["n"] - threes
    assert wrong["strings"]["right"] == sum("3" not in string for string in asked)
    assert wrong["unseen_digits"]["right"] == sum(len(s) - s.count("3") for s in unseen)
    assert wrong["unseen_strings"]["right"] == sum("3" not in string for string in unseen)
    assert wrong["floor"] == right["floor"]
    assert wrong["frechet"]["value"] > 10 * right["frechet"]["value"]


def test_a_watch_sees_as_many_states_as_are_announced() -> None:
    seen = []
    evaluate(generator({}), READER, PLAN, lambda batch, z, level: seen.extend(batch), steps=4)
    assert len(seen) == PLAN.states(4)


def test_a_training_of_numbers_is_measured_cell_by_cell(tmp_path: Path) -> None:
    """A perfect generator of the held-out strings; one that takes 3 for 9; and a whole training."""
    data = datasets.load("numbers")
    measure = Measuring(Looks(), data, 150)
    held = data.split("valid", 150)
    asked: list[int] = []

    def painted(mistaken: dict[int, int]) -> Callable[..., Tensor]:
        def draw(cond: dict[str, Tensor], numbers: Sequence[int]) -> Tensor:
            asked.extend(numbers)
            assert torch.equal(cond["text"], held.cond["text"][list(numbers)])
            return Bars(mistaken)(torch.zeros(()), torch.zeros(()), cond["text"])

        return draw

    right, wrong = measure(painted({})), measure(painted({3: 9}))
    assert asked == 2 * [*range(50)]
    assert right["read"] == 1
    assert wrong["read"] == pytest.approx(1 - (held.cond["text"] == 3).double().mean().item())
    assert wrong["frechet"] > 10 * right["frechet"]
    train = data.split("train", 150).x
    cells = [torch.cat(x.split(28, -1)) for x in (train, held.x)]
    floor = frechet_distance(*(moments(Reader().features(x)) for x in cells))
    assert right["frechet_floor"] == pytest.approx(floor, rel=1e-4)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(FEATURES, "digit-reader", Looks)
        found = train_of(replace(tiny.NUMBERS, measure=60), tmp_path).validation
    assert found.keys() >= {"frechet", "frechet_floor", "read"}


class Faint(Bars):
    """The same, with a little of the noise in it, and no chance of its own."""

    def forward(self, z: Tensor, log_snr: Tensor, text: Tensor) -> Tensor:
        cells = torch.full((*text.shape, 28, 28), -1.0)
        cells[..., 4:24, 4:24] = brightness(text.clamp(min=0))[..., None, None]
        return cells.movedim(2, 1).flatten(2)[:, None] + 0.01 * z


ASKED = ["7", "40213", "42", "8", "2026", "901", "3"]


def ask(out: str) -> None:
    """In each of two processes: all samples, and which of them it drew, written down."""
    import torch.distributed as dist

    dist.init_process_group("gloo")
    drawn: list[int] = []
    model = replace(generator({}), net=Denoiser(Faint({}), predicts_x))
    drawing = Drawing(model, 5, watch=lambda numbers, z, level: drawn.extend(numbers))
    save_file(
        {str(k): x.contiguous() for k, x in enumerate(drawing.prompted(ASKED))},
        Path(out, f"{dist.get_rank()}.safetensors"),
    )
    Path(out, f"{dist.get_rank()}.json").write_text(json.dumps(sorted(set(drawn))))
    dist.destroy_process_group()


def test_two_processes_draw_what_one_draws_of_prompts(tmp_path: Path) -> None:
    together.two("import sys, test_evaluation as here; here.ask(sys.argv[1])", str(tmp_path))
    model = replace(generator({}), net=Denoiser(Faint({}), predicts_x))
    alone = Drawing(model, 5).prompted(ASKED)
    assert [x.shape[-1] for x in alone] == [28 * len(prompt) for prompt in ASKED]
    for x, expected in zip(alone, models.samples(model, ASKED, seed=5), strict=True):
        assert torch.equal(x, expected)
    for rank in range(2):
        assert json.loads((tmp_path / f"{rank}.json").read_text()) == [*range(rank, len(ASKED), 2)]
        found = load_file(tmp_path / f"{rank}.safetensors")
        for k, x in enumerate(alone):
            torch.testing.assert_close(found[str(k)], x)


def test_a_classifier_is_measured_on_the_test_split(monkeypatch: pytest.MonkeyPatch) -> None:
    images = bars(1000, 0)
    images.labels[:30] = (images.labels[:30] + 1) % 10  # pyright: ignore[reportOptionalSubscript]
    data = datasets.Images("mnist", {"train": images, "valid": images, "test": images}, tiny.DIGITS)
    entry = replace(datasets.DATA["mnist"], load=lambda: data)
    monkeypatch.setitem(datasets.DATA, "mnist", entry)  # pyright: ignore[reportArgumentType]
    assert evaluate(READER)["test"] | {"right": 970, "n": 1000, "rate": 0.97} == evaluate(READER)["test"]


def test_a_guide_reaches_the_sampler_and_is_noted(monkeypatch: pytest.MonkeyPatch) -> None:
    """Labels are drawn as grey; a classifier whose log p rises with brightness makes 1 of 0, ... 9 of 9."""
    images = bars(400, 0)
    data = datasets.Images("mnist", {"train": images, "valid": images, "test": images}, tiny.DIGITS)
    entry = replace(datasets.DATA["mnist"], load=lambda: data)
    monkeypatch.setitem(datasets.DATA, "mnist", entry)  # pyright: ignore[reportArgumentType]
    facts = replace(tiny.FACTS[tiny.READER], classes=10)
    recipe = replace(tiny.LABELLED, data="mnist")
    model = Model(Denoiser(Labels(), predicts_x), recipe, facts, {"name": "labels"}, Path("labels"))
    options: Any = {"plan": PicturePlan(n=200, compared=0), "guidance": 1.0}
    options["features"] = Looks()
    plain = evaluate(model, **options)
    assert plain["label"]["rate"] == 1
    assert "classifier" not in plain["sampling"]
    brighter = models.guide(model, replace(READER, net=Brighter(), path=Path("brighter")), 0.002)
    figures = evaluate(model, guide=brighter, **options)
    assert figures["label"]["right"] == (data.split("train", 200).cond["label"] == 9).sum()
    assert figures["sampling"] | {"classifier": "brighter", "classifier_scale": 0.002} == figures["sampling"]


@pytest.mark.parametrize("field", ["n", "n_unseen", "n_frechet"])
def test_too_little_is_refused(field: str) -> None:
    with pytest.raises(PhinError, match=f"{field} = 1 is too few"):
        Plan(**{field: 1})


@pytest.mark.parametrize("plan", [Plan(n=10, n_unseen=0), Plan(n=200, n_unseen=0, n_frechet=50)])
def test_fewer_cells_than_features_are_refused_before_any_is_drawn(plan: Plan) -> None:
    reader = replace(READER, net=Classifier(ClassifierConfig(channels=(64,), blocks=(0,)), 1, 10))
    model = generator({})
    model.net.forward = pytest.fail  # pyright: ignore[reportAttributeAccessIssue]
    message = f"cells are too few for the 64 features .* give n and n_frechet of {fewest(64)} or more"
    with pytest.raises(PhinError, match=message):
        evaluate(model, reader, plan)


def test_what_cannot_be_read_is_refused() -> None:
    points = replace(READER, recipe=tiny.POINTS, net=tiny.POINTS.model(tiny.FACTS[tiny.POINTS]))
    with pytest.raises(PhinError, match="draws moons, which nothing here reads"):
        evaluate(points)
    with pytest.raises(PhinError, match="bars is no classifier"):
        evaluate(generator({}), generator({}))


@pytest.mark.parametrize(
    ("model", "given", "message"),
    [
        (READER, {"plan": PicturePlan(n=20)}, r"plan Plan\(n=20.*\) is"),
        (READER, {"reader": READER}, "reader reader is"),
        (READER, {"features": "inception"}, "features inception is"),
        (READER, {"steps": 3}, "steps 3 is"),
        (generator({}), {"features": "inception"}, "features inception is"),
        (replace(generator({}), facts=tiny.FACTS[tiny.LABELLED]), {"reader": READER}, "reader reader is"),
    ],
)
def test_what_says_nothing_of_a_model_is_refused(model: Model, given: dict[str, Any], message: str) -> None:
    """In Python as on the command line: nothing that is asked for is left out without a word."""
    with pytest.raises(PhinError, match=f"{message}.* for models of another kind than"):
        evaluate(model, **given)


def test_numbers_that_nobody_can_ask_for_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """As those of a model that is told nothing, and of an autoencoder; from the command line, too."""
    told_nothing = replace(tiny.NUMBERS, drop=1.0)
    tiny.FACTS[told_nothing] = tiny.FACTS[tiny.NUMBERS].unconditional()
    latent = KLAutoencoderRecipe(data="numbers", net=KLConfig(channels=(8, 16), latents=3, patch=1))
    tiny.FACTS[latent] = tiny.FACTS[told_nothing]
    for recipe in (told_nothing, latent):
        path = tiny.write(recipe, tmp_path / "model.safetensors")
        assert main(["evaluate", "--model", str(path), "-n", "20"]) == 2
        said = capsys.readouterr().err
        assert "cannot be asked for a number" in said
        assert said.count("\n") == 1
    autoencoder = models.load(path)
    prompted = replace(autoencoder, facts=tiny.FACTS[tiny.NUMBERS])
    with pytest.raises(PhinError, match=r"is an? autoencoder and does not draw by denoising"):
        evaluate(prompted)


def test_pictures_that_are_not_finite_are_not_read() -> None:
    class Broken(Bars):
        def forward(self, z: Tensor, log_snr: Tensor, text: Tensor) -> Tensor:
            return super().forward(z, log_snr, text) * torch.nan

    broken = replace(generator({}), net=Denoiser(Broken({}), predicts_x))
    with pytest.raises(PhinError, match=r"sample \d+ that bars drew has values that are not finite"):
        evaluate(broken, READER, PLAN)


def test_figures_are_recorded_in_the_models_file(tmp_path: Path) -> None:
    model = models.load(tiny.write(tiny.READER, tmp_path / "reader.safetensors"))
    record(model, {"test": {"rate": 0.5}})
    record(model, {"test": {"rate": 0.6}})
    again = models.load(model.path)
    assert again.metadata == {**model.metadata, "figures": {"test": {"rate": 0.6}}}
    for name, weight in again.net.state_dict().items():
        torch.testing.assert_close(weight, model.net.state_dict()[name], rtol=0, atol=0)


def test_the_table_has_a_line_for_every_figure() -> None:
    table = rows(evaluate(generator({3: 9}), READER, PLAN))
    assert {len(row) for row in table} == {5}
    assert [row[0] for row in table[1:]][-1] == "Frechet distance of cells"
    assert len(table) == 6


def test_the_demo_trains_measures_and_reports_and_does_not_repeat_itself(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    reader = tiny.write(tiny.READER, tmp_path / "reader.safetensors")
    recipe = replace(tiny.NUMBERS, train=replace(tiny.BRIEF, picture_every=0.5, log_every=0.5))
    arguments: Any = (recipe, tmp_path / "demo", "phin demo <3", str(reader), Plan(20, 10, 50))
    with caplog.at_level(logging.INFO, "phin"):
        facts = demo(*arguments)
    assert "measuring: 30 pictures are drawn and read" in caplog.messages
    page = Path(facts["report"]).read_text(encoding="utf-8")
    assert "phin demo &lt;3" in page
    assert page.count("<svg") == 2
    assert not re.findall(r"""(?:src|href)=["'](?!data:|#)|url\((?!#)|@import""", page), (
        "the page must stand alone"
    )
    pictures = re.findall(r"data:image/png;base64,([^\"]+)", page)
    widths = [Image.open(io.BytesIO(base64.b64decode(picture))).width for picture in pictures]
    assert widths[:4] == [28, 56, 112, 140]
    assert widths[4:8] == [140] * 4  # three levels, and the picture
    digits = facts["figures"]["digits"]
    assert f"{digits['n']:,}" in page

    def again(*_: object) -> dict[str, Any]:
        pytest.fail("it was measured already")

    monkeypatch.setattr(demos, "evaluate", again)
    Path(facts["report"]).unlink()
    assert demo(*arguments)["figures"] == facts["figures"]
    assert Path(facts["report"]).exists()


def test_the_demo_measures_other_weights_anew(tmp_path: Path) -> None:
    reader = tiny.write(tiny.READER, tmp_path / "reader.safetensors")
    out, plan = tmp_path / "demo", Plan(20, 10, 50)
    demo(tiny.NUMBERS, out, reader=str(reader), plan=plan)
    noted = json.loads((out / "figures.json").read_text(encoding="utf-8"))
    longer = replace(tiny.NUMBERS, train=replace(tiny.BRIEF, steps=5))
    demo(longer, out, reader=str(reader), plan=plan)
    trained = json.loads((out / "figures.json").read_text(encoding="utf-8"))
    assert trained["of"] != noted["of"]
    for damaged in ("{", "[]", '{"figures": {}}'):
        (out / "figures.json").write_text(damaged, encoding="utf-8")
        demo(longer, out, reader=str(reader), plan=plan)
        assert json.loads((out / "figures.json").read_text(encoding="utf-8"))["of"] == trained["of"]
    sampling = replace(tiny.SAMPLE, guidance=1.0)
    tuning.record(phin.load(out), [tuning.Tuned(sampling, 1.0, 2.0)])
    demo(longer, out, reader=str(reader), plan=plan)
    tuned = json.loads((out / "figures.json").read_text(encoding="utf-8"))
    assert tuned["figures"]["sampling"]["guidance"] == 1
    assert trained["figures"]["sampling"]["guidance"] == 2


def test_the_demo_asks_for_its_reader_before_it_trains(tmp_path: Path) -> None:
    with pytest.raises(PhinError, match="there is no file"):
        demo(tiny.NUMBERS, tmp_path / "demo", reader=str(tmp_path / "none.safetensors"))
    assert not (tmp_path / "demo").exists()
