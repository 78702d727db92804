"""The experiments run from end to end, tiny: their tables say what was measured, and it is measured once."""

import importlib
import json
import os
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
from torch.nn import functional as F

import phin
from phin import data as datasets
from phin import models, tuning
from phin.data import digits
from phin.data.base import Images, Part, Split, Which
from phin.diffusion.level import SCALINGS
from phin.diffusion.schedules import SCHEDULES
from phin.diffusion.solvers import SOLVERS
from phin.errors import PhinError
from phin.evaluation import PicturePlan, Reference, costs, pictures
from phin.metrics.energy import energy_distance
from phin.nets.classifier import ClassifierConfig
from phin.nll import nll
from phin.pictures import to_integers
from phin.recipes import describe
from phin.registry import build
from phin.training.checkpoint import save_weights

ROOT = Path(__file__).parents[1]
SMALL = "--train-steps 1 --channels 8 16 --blocks 1"


def enlarged(part: Split) -> Part:
    """Digits of 8 x 8 with 17 values as digits of 28 x 28 with 8 bits."""
    grey = (part.images.float() * (255 / 16)).round().to(torch.uint8)
    large = grey.repeat_interleave(3, 2).repeat_interleave(3, 3)
    return Part(F.pad(large, (2, 2, 2, 2)), part.labels)


@pytest.fixture(scope="module")
def mnist() -> Images:
    """What takes the place of MNIST: the digits of scikit-learn."""
    splits: dict[Which, Part] = {which: enlarged(part) for which, part in digits.load().splits.items()}
    return Images("mnist", splits, tiny.DIGITS)


@pytest.fixture(autouse=True)
def placed(mnist: Images, monkeypatch: pytest.MonkeyPatch) -> None:
    entry = replace(datasets.DATA["mnist"], load=lambda: mnist, files=None)
    monkeypatch.setitem(datasets.DATA, "mnist", entry)  # pyright: ignore[reportArgumentType]
    monkeypatch.setattr(costs, "costs", lambda model, data: {})  # which would take half of the time here
    monkeypatch.syspath_prepend(str(ROOT / "experiments"))


@pytest.fixture(scope="module")
def reader(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A reader of few features, so that few pictures will do; of large ones, so that tables show digits."""
    recipe = replace(tiny.READER, net=ClassifierConfig(channels=(8, 4), blocks=(0, 0)))
    facts = tiny.FACTS[tiny.READER]
    torch.manual_seed(0)
    net = recipe.model(facts)
    for parameter in net.parameters():
        torch.nn.init.normal_(parameter, std=3)
    path = tmp_path_factory.mktemp("reader") / "reader.safetensors"
    save_weights(path, net.state_dict(), describe("reader", recipe, facts))
    return path


def run(name: str, kind: str, options: str) -> dict[str, list[str]]:
    """The table of an experiment: the cells after the first of each row."""
    words = options.split()
    module = importlib.import_module(name)
    assert module.main(getattr(module, kind), words) == 0
    text = Path(words[words.index("--out") + 1], name, "table.md").read_text(encoding="utf-8")
    rows = [re.split(r" *\| *", line)[1:-1] for line in text.splitlines() if line.startswith("|")]
    assert len({len(row) for row in rows}) == 1
    return {title: cells for title, *cells in rows}


def number(cell: str) -> float:
    """Less its error."""
    return float(cell.split(" ± ")[0].rstrip(" %"))


def test_the_playground_measures_what_each_variant_draws(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from PIL import Image

    monkeypatch.setattr(importlib.import_module("poster"), "POINTS", 60)
    options = f"--train-steps 2 --sets moons --n 100 --calls 5 --width 8 --depth 1 --out {tmp_path}"
    table = run("playground", "Playground", options)
    folder = tmp_path / "playground"

    def distance(run: str, **choices: Any) -> float:
        drawn = torch.stack(phin.samples(phin.load(folder / f"moons-{run}"), n=100, **choices))
        return energy_distance(drawn, datasets.load("moons").split("test", 100).x).value

    expected = {
        "DDPM": distance("ddpm", solver="ddpm", grid="discrete(linear)", steps=5),
        "DDIM": distance("ddpm", solver="ddim", grid="discrete(linear)", steps=5),
        "EDM": distance("edm", solver="heun", grid="karras", steps=3),  # 5 calls
    }
    for title, value in expected.items():
        assert number(table[title][0]) == pytest.approx(1000 * value, abs=0.006)  # thousandths
        assert number(table[title][1]) == pytest.approx(value / expected["DDPM"], abs=0.006)
    assert {table[title][2] for title in importlib.import_module("playground").VARIANTS} == {"2"}
    assert abs(number(table["points of the set"][0])) < 100
    with Image.open(folder / "moons.png") as picture:
        assert len(set(picture.convert("L").tobytes())) > 50

    # The same again finds all of it there: nothing is trained, measured or drawn.
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*.*") if path.name != "table.md"}
    capsys.readouterr()
    assert run("playground", "Playground", options) == table
    assert "measuring" not in capsys.readouterr().err
    after = {path: path.stat().st_mtime_ns for path in folder.rglob("*.*") if path.name != "table.md"}
    assert after == before


def evaluated(folder: Path, mnist: Images, reader: Path, n: int, **choices: Any) -> dict[str, Any]:
    """What `phin evaluate` says of a run."""
    reference = Reference(mnist, pictures.chosen(reader, "mnist"), PicturePlan(n, 20, 20))
    return pictures.evaluate(phin.load(folder), reference, **choices).figures


def test_variants_are_measured_as_phin_measures_them(tmp_path: Path, mnist: Images, reader: Path) -> None:
    sizes = f"{SMALL} --n 20 --steps 2 --n-bound 2 --n-ode 2 --rtol 20"
    table = run("mnist_variants", "Variants", f"{sizes} --features {reader} --out {tmp_path}")
    folder = tmp_path / "mnist_variants"
    variants = importlib.import_module("mnist_variants").VARIANTS
    assert list(table) == ["", "---", *variants, "real digits"]
    for title, (name, choices) in variants.items():
        bound, flow, right, frechet, steps = table[title]
        assert steps == "1"
        assert (bound == "") == (title == "dequantized")
        if title in ("DDPM", "DDIM", "sub-VP SDE"):
            model = phin.load(folder / name)
            for cell, how in ((bound, {}), (flow, {"method": "ode", "rtol": 20})):
                found = nll(model, n=2, **how)["bits_per_dim"]
                assert cell == f"{found['value']:.3f} ± {found['error']:.3f}"
            drawn = evaluated(folder / name, mnist, reader, 20, steps=2, guidance=1.0, **choices)
            assert number(frechet) == pytest.approx(drawn["measures"]["frechet"]["value"], abs=6e-4, rel=1e-3)
            assert number(right) == pytest.approx(100 * drawn["label"]["rate"], abs=0.06)
    assert table["DDPM"][:2] == table["DDIM"][:2]
    assert table["DDPM"][3] != table["DDIM"][3]


def test_chains_are_sampled_step_by_step_and_schedules_have_equal_ends(tmp_path: Path, reader: Path) -> None:
    sizes = f"{SMALL} --n 20 --steps 3 --n-bound 2 --n-ode 1 --rtol 20 --features {reader}"
    some = "--lengths 2 4 --schedules cosine learned"
    table = run("chains", "Chains", f"{sizes} {some} --out {tmp_path}")
    chains = ["chain, T = 2", "chain, T = 4"]
    schedules = ["cosine, DDPM's loss", "cosine, the bound", "learned, the bound"]
    assert list(table)[2:] == [*chains, *schedules, "real digits"]
    walked = []
    for length in (2, 4):
        rows = json.loads((tmp_path / f"chains/chain-{length}.json").read_text(encoding="utf-8"))["rows"]
        chain, _, drawn = (row["asked"] for row in rows)
        assert "method" not in chain  # which is that of the chain
        assert rows[0]["found"]["steps"] == length
        walked.append((drawn["grid"], drawn["steps"]))
    assert walked == [("discrete(cosine, T=2)", 2), ("discrete(cosine, T=4)", 3)]
    ends = {
        name: build(text, SCHEDULES, "schedule", SCALINGS).log_snr(torch.tensor([0.0, 1.0])).tolist()
        for name, text in importlib.import_module("chains").SCHEDULES.items()
    }
    for end in ends.values():
        assert end == pytest.approx([13.3, -10], abs=0.06)


def test_the_table_of_ddim_ends_in_ddpm(
    tmp_path: Path, mnist: Images, reader: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Eta 1 is the ancestral sampler, and sigma-hat that with the large variance; a given model stays."""
    options = f"--n 20 --ladders 2 5 --etas 0 1 --features {reader} --out"
    table = run("ddim_table", "DDIMTable", f"{SMALL} {options} {tmp_path}")
    assert table["steps"] == ["2", "5"]
    trained = tmp_path / "ddim_table" / "mnist-ddpm"
    for title, solver in (("eta = 0", "ddim"), ("eta = 1", "ddpm"), ("sigma-hat", "ddpm_large")):
        for steps, cell in zip((2, 5), table[title], strict=True):
            found = evaluated(trained, mnist, reader, 20, solver=solver, steps=steps)
            assert number(cell) == pytest.approx(found["measures"]["frechet"]["value"], rel=0.01)
    again = tmp_path / "again"
    assert run("ddim_table", "DDIMTable", f"--model {trained} {options} {again}") == table
    assert {path.name for path in (again / "ddim_table").iterdir()} == {"mnist-ddpm.json", "table.md"}
    capsys.readouterr()
    further = run("ddim_table", "DDIMTable", f"{SMALL} {options} {tmp_path} --train-steps 2")
    assert capsys.readouterr().err.count("measuring") == 6  # of other weights
    assert further["eta = 0"] != table["eta = 0"]


def test_few_calls_are_counted_and_judged_by_many(
    tmp_path: Path, mnist: Images, reader: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    module, sought = importlib.import_module("few_calls"), list[Any]()

    def tune(
        model: models.Model, steps: tuple[int, ...], n: int, seed: int, families: Any, guidance: float
    ) -> list[tuning.Tuned]:
        sought.append((steps, n, families, guidance))
        chosen = {"solver": families[0][0], "grid": "linear", "guidance": guidance}
        return [tuning.Tuned(models.choose(model, {"steps": n, **chosen}), 0.0, 0.0) for n in steps]

    monkeypatch.setattr(module, "solvers", lambda: ["ddim", "ddpm", "heun"])
    monkeypatch.setattr(module, "TUNED", {"tuned": ("unipc_2", "ddim")})
    monkeypatch.setattr(tuning, "tune", tune)
    options = f"--calls 3 4 --limit 6 --n 40 --n-tune 5 --features {reader} --out"
    table = run("few_calls", "FewCalls", f"{SMALL} {options} {tmp_path}")
    assert [*table.pop("calls")] == ["3", "4", "close from"]
    assert set(table) - {"---"} == {"ddim", "ddpm", "heun", "tuned"}
    assert table["heun"][1] == ""  # 4 calls: Heun's method makes 3 or 5
    assert sought == [((3, 4), 5, [("unipc_2", "ddim")], 1.0)]

    model = phin.load(tmp_path / "few_calls" / "mnist")
    real = Reference(mnist, pictures.chosen(reader, "mnist"), PicturePlan(40, kept=20, compared=20))

    def distance(**choices: Any) -> float:
        return pictures.evaluate(model, real, guidance=1.0, **choices).figures["measures"]["frechet"]["value"]

    assert number(table["heun"][0]) == pytest.approx(distance(solver="heun", steps=2), abs=1e-3)
    for steps, cell in zip((3, 4), table["tuned"], strict=False):
        expected = distance(solver="unipc_2", steps=steps, grid="linear")
        assert number(cell) == pytest.approx(expected, abs=1e-3)
    found = {
        solver: [distance(solver=solver, steps=steps) for steps in (3, 4)] for solver in ("ddim", "ddpm")
    }
    limit = distance(solver="dpmpp_3m(starter=False)", steps=6)
    for solver, values in found.items():
        assert [number(cell) for cell in table[solver][:2]] == pytest.approx(values, abs=1e-3)
    bounds = sorted(value / limit for value in found["ddpm"])
    monkeypatch.setattr(module, "CLOSE", sum(bounds) / 2)  # which one of the two is within
    table = run("few_calls", "FewCalls", f"{SMALL} {options} {tmp_path}")
    assert table["ddpm"][2] == ("" if found["ddpm"][0] < found["ddpm"][1] else "4")
    monkeypatch.setattr(module, "CLOSE", bounds[0] / 2)
    assert run("few_calls", "FewCalls", f"{SMALL} {options} {tmp_path}")["ddpm"][2] == ""
    assert len(sought) == 1  # what was found is kept
    assert (tmp_path / "few_calls" / "calls.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("distances", "fewest"),
    [([3.0, 2.0, 1.0], 6), ([1.0, 3.0, 1.0], 8), ([1.0, 1.0, 1.5], 4), ([1.0, 1.0, 3.0], None)],
)
def test_few_calls_are_close_if_more_are_too(distances: list[float], fewest: int | None) -> None:
    curve = {calls: {"value": value} for calls, value in zip((4, 6, 8), distances, strict=True)}
    assert importlib.import_module("few_calls").close_from(curve, 2.0) == fewest


def test_few_calls_are_those_of_every_solver_without_noise() -> None:
    """By the table of the architecture: what is of the ODE, and what of chains, SDEs and Langevin's walks."""
    module = importlib.import_module("few_calls")
    assert set(module.solvers()) == {
        *(
            "ddim",
            "euler",
            "heun",
            "dpmpp_2s",
            "dpmpp_3s",
            "dpmpp_2m",
            "dpmpp_3m",
            "unipc_2",
            "unipc_3",
            "deis",
        ),
        *("dpmpp_3m(starter=False)", "unipc_3(starter=False)", "deis(starter=False)"),
        *("dpmpp_2m_sde", "ddpm"),
    }
    noisy = {"ddpm_large", "ddim_hat", "euler_maruyama", "reverse_diffusion", "churn", "consistency"}
    langevin = {"pc", "pc_fixed", "annealed_langevin"}
    assert SOLVERS.keys() - set(module.solvers()) == noisy | langevin
    families = [{text.split("(")[0] for text in family} for family in module.TUNED.values()]
    assert families == [{"unipc_2", "unipc_3"}, {"dpmpp_3m"}, {"deis"}]


def test_the_ablation_tells_variances_and_splits_apart(tmp_path: Path, reader: Path) -> None:
    sizes = f"{SMALL} --n 20 --steps 2 --n-bound 2 --losses L_simple --predictions x --features {reader}"
    words = f"{sizes} --out {tmp_path}".split()
    module = importlib.import_module("ablation")
    assert module.main(module.Ablation, words) == 0
    lines = (tmp_path / "ablation" / "table.md").read_text(encoding="utf-8").splitlines()[2:5]
    rows = {line.split(" | ")[2]: line.split(" | ")[3:6] for line in lines}
    for title, run, frac in (("small", "fixed", 0.0), ("large", "fixed", 1.0), ("learned", "learned", 0.0)):
        model = phin.load(tmp_path / "ablation" / f"L_simple-x-{run}")
        bits = {which: nll(model, "chain", split=which, n=2, frac=frac) for which in ("train", "test")}
        train, test = (bits[which]["bits_per_dim"]["value"] for which in ("train", "test"))
        found = [number(cell) for cell in rows[title]]
        assert found == pytest.approx([train, test, test - train], abs=1e-3)
    assert len({cells[0] for cells in rows.values()}) == 3
    assert models.load(tmp_path / "ablation" / "L_simple-x-learned").recipe.objective == "hybrid"  # pyright: ignore


def test_conditional_distances_see_what_distances_do_not(mnist: Images, reader: Path) -> None:
    """Test digits under wrong names are where they were as a whole, but not one by one."""
    module = importlib.import_module("classifier_guidance")
    test, features = mnist.split("test"), pictures.chosen(reader, "mnist")
    label = test.cond["label"]
    right = module.compared(features, test.x, label, test)
    wrong = module.compared(features, test.x, (label + 1) % 10, test)
    assert right["frechet"]["value"] == pytest.approx(0, abs=1e-6)
    assert right["conditional"]["value"] == pytest.approx(0, abs=1e-6)
    assert wrong["frechet"]["value"] == pytest.approx(0, abs=1e-6)
    assert wrong["conditional"]["value"] > 0.01
    read = features(to_integers(test.x)).logits.argmax(1)
    assert right["digits"]["rate"] == pytest.approx((read == label).float().mean().item())
    assert module.compared(features, test.x, read, test)["digits"]["rate"] == 1


def test_guidance_at_scale_0_is_none(tmp_path: Path, mnist: Images, reader: Path) -> None:
    recipes = {"model": replace(tiny.LABELLED, data="mnist"), "noisy": replace(tiny.NOISY, data="mnist")}
    tiny.FACTS.update(dict.fromkeys(recipes.values(), tiny.FACTS[tiny.READER]))
    files = {name: tiny.write(recipe, tmp_path / f"{name}.safetensors") for name, recipe in recipes.items()}
    model, classifier = files.values()
    options = f"--model {model} --classifier {classifier} --scales 0 2 --n 150 --steps 3 --features {reader}"
    table = run("classifier_guidance", "ClassifierGuidance", f"{options} --out {tmp_path}")
    label = mnist.split("train", 150, 0).cond["label"].tolist()
    features, test = pictures.chosen(reader, "mnist"), mnist.split("test", 150, 0)
    module = importlib.import_module("classifier_guidance")

    def expected(**choices: Any) -> list[float]:
        drawn = torch.stack(phin.samples(phin.load(model), labels=label, steps=3, **choices))
        found = module.compared(features, drawn, torch.tensor(label), test)
        return [found["conditional"]["value"], found["frechet"]["value"]]

    guide = models.guide(phin.load(model), phin.load(classifier), 2.0)
    for title, choices in (
        ("classifier, scale 0", {"guidance": 0.0}),
        ("classifier, scale 2", {"guidance": 0.0, "guide": guide}),
        ("told the label", {"guidance": 1.0}),
    ):
        cells = [number(cell) for cell in table[title][1:]]
        assert cells == pytest.approx(expected(**choices), abs=6e-4, rel=1e-3)
    assert len({cells[2] for cells in table.values()}) == len(table)


def test_figures_are_those_of_the_weights(tmp_path: Path) -> None:
    """What was measured of other weights, or otherwise, is not taken for it; and a damaged file is told."""
    module = importlib.import_module("experiment")
    calls: list[float] = []

    def figure(model: models.Model, scale: float, seed: int = 0) -> dict[str, Any]:
        calls.append(scale)
        return {"value": scale + sum(p.detach().sum().item() for p in model.net.parameters()), "error": None}

    model = phin.load(tiny.write(tiny.POINTS, tmp_path / "model.safetensors"))
    path = tmp_path / "figures.json"
    subject = module.Subject(model, path)
    first = subject.measure(figure, scale=1.0)
    assert subject.news
    again = module.Subject(model, path)
    assert again.measure(figure, scale=1.0) == first
    assert calls == [1.0]
    assert not again.news
    assert again.measure(figure, scale=2.0)["value"] == first["value"] + 1
    assert again.measure(figure, scale=1.0, seed=1) == first
    assert calls == [1.0, 2.0, 1.0]
    assert len(json.loads(path.read_text(encoding="utf-8"))["rows"]) == 3
    with torch.no_grad():
        next(model.net.parameters())[0] += 1
    assert module.Subject(model, path).measure(figure, scale=1.0)["value"] != first["value"]
    kept = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(json.dumps({**kept, "format": 1}), encoding="utf-8")  # of an earlier version
    assert module.Subject(model, path).rows == []
    path.write_text('{"weights": "', encoding="utf-8")
    with pytest.raises(PhinError, match=r"figures\.json is damaged"):
        module.Subject(model, path)


MISTAKES = [
    ("playground Playground --sets", "--sets is empty"),
    ("playground Playground --n 20 --sets moons mnist", "mnist has no points in the plane"),
    ("playground Playground --sets moons --n 2", "2 and 2 points have no energy distance"),
    ("playground Playground --sets moons --n 20 --calls 0", "--calls 0: at least 1"),
    ("playground Playground --sets moons --n 20 --calls 1001", "take fewer"),
    ("mnist_variants Variants --n 3", "n = 3 is too few"),
    ("mnist_variants Variants --n 20 --features nowhere", "'nowhere'"),
    ("mnist_variants Variants --n 20 --features {reader} --n-bound 99999", "99999 "),
    ("mnist_variants Variants --n 20 --features {reader} --n-bound 2 --n-ode 99999", "99999 "),
    ("mnist_variants Variants --n 20 --features {reader} --n-bound 2 --rtol 0", "--rtol 0"),
    ("mnist_variants Variants --train-steps 0", "--train-steps 0: at least 1"),
    ("chains Chains --lengths 10 0", "--lengths 0: at least 1"),
    ("chains Chains --schedules", "--schedules is empty"),
    ("ablation Ablation --predictions x --n 20 --features {reader} --n-bound 99999", "99999 "),
    ("ablation Ablation --n 20 --features {reader} --n-bound 2 --predictions x y", "parameterization 'y'"),
    ("ddim_table DDIMTable --etas", "--etas is empty"),
    ("ddim_table DDIMTable --n 20 --features {reader} --etas 0 -1", "eta = -1"),
    ("ddim_table DDIMTable --n 20 --features {reader} --ladders 10 1001", "take fewer"),
    ("classifier_guidance ClassifierGuidance --scales", "--scales is empty"),
    ("classifier_guidance ClassifierGuidance --n 20 --features {reader}", "have no covariance"),
    ("classifier_guidance ClassifierGuidance --n 150 --features {reader} --scales 0 nan", "--scales nan"),
    ("classifier_guidance ClassifierGuidance --n 150 --features {reader} --model nowhere", "'nowhere'"),
    ("gan_stability GANStability --seeds 0", "--seeds 0: at least 1"),
    ("gan_stability GANStability --n 3 --features {reader}", "n = 3 is too few"),
]


@pytest.mark.parametrize(("words", "told"), MISTAKES)
def test_mistakes_are_told_before_anything_is_trained(
    words: str,
    told: str,
    reader: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(phin, "train", lambda *_: pytest.fail("trained"))
    name, kind, *options = words.format(reader=reader).split()
    module = importlib.import_module(name)
    assert module.main(getattr(module, kind), [*options, "--out", str(tmp_path)]) == 2
    said = capsys.readouterr()
    assert (said.out, said.err.count("\n")) == ("", 1)
    assert re.match(rf"error: .*{re.escape(told)}", said.err)
    assert not [*tmp_path.iterdir()]


def test_a_mistake_is_one_line() -> None:
    command = [sys.executable, str(ROOT / "experiments" / "ddim_table.py"), "--model", "nowhere"]
    path = os.pathsep.join([str(ROOT / "src"), *filter(None, [os.environ.get("PYTHONPATH")])])
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": path})
    assert (done.returncode, done.stdout) == (2, "")
    assert re.fullmatch(r"error: unknown model 'nowhere'.*\n", done.stderr)
