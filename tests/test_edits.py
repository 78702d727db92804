"""`phin edit`, and what is below it, with models of random weights."""

import json
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
import torch
from PIL import Image

from phin import models
from phin.cli import main
from phin.diffusion import ode
from phin.diffusion.editing import slerp
from phin.edits import Editor, half, mask
from phin.pictures import to_bytes
from phin.recipes import describe
from phin.training.checkpoint import save_weights


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Models with random weights, and pictures for them: digits 8 pixels square, and two cells of numbers."""
    folder = tmp_path_factory.mktemp("files")
    recipes = {
        "numbers": tiny.NUMBERS,
        "labelled": tiny.LABELLED,
        "points": tiny.POINTS,
        "reader": tiny.READER,
    }
    paths = {name: tiny.write(recipe, folder / f"{name}.safetensors") for name, recipe in recipes.items()}
    generator = np.random.default_rng(0)
    for name, shape in (
        ("one", (8, 8)),
        ("two", (8, 8)),
        ("wide", (28, 56)),
        ("cell", (28, 28)),
        ("rgb", (8, 8, 3)),
    ):
        paths[name] = folder / f"{name}.png"
        Image.fromarray(generator.integers(0, 256, shape, dtype=np.uint8)).save(paths[name])
    paths["mask"] = folder / "mask.png"
    Image.fromarray(np.tile(np.array([0, 255, 255, 255], np.uint8), (8, 2))).save(paths["mask"])
    restoring = replace(tiny.LABELLED, degrade="average(2)", labels=False)
    told = replace(tiny.NUMBERS, drop=0.0, sample=replace(tiny.SAMPLE, guidance=1.0))
    for name, recipe, facts in (
        ("restoring", restoring, restoring.facts(restoring.load())),
        ("told", told, tiny.FACTS[tiny.NUMBERS]),
    ):
        paths[name] = folder / f"{name}.safetensors"
        save_weights(paths[name], recipe.model(facts).state_dict(), describe(name, recipe, facts))
    paths["text"] = folder / "text.png"
    paths["text"].write_text("no picture")
    return {name: str(path) for name, path in paths.items()}


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str], files: dict[str, str]) -> Callable[[str], Any]:
    """Runs `phin edit ...`, which must succeed, names in capitals being files; what it says."""

    def run(argv: str) -> Any:
        words = [files.get(word.lower(), word) if word.isupper() else word for word in argv.split()]
        assert main(["edit", *words, "--json"]) == 0
        return json.loads(capsys.readouterr().out)

    return run


def pixels(path: str | Path) -> np.ndarray:
    with Image.open(path) as image:
        return np.asarray(image)


def test_a_weak_variation_is_close_and_a_full_one_a_sample(
    run: Callable[[str], Any], files: dict[str, str]
) -> None:
    facts = run("vary --model LABELLED --image ONE --label 3 --strength 1 --steps 6 -n 2 --seed 5 --out o")
    drawn = models.samples(models.load(files["labelled"]), None, [3], 2, 5, steps=6)
    for path, picture in zip(facts["pictures"], drawn, strict=True):
        np.testing.assert_allclose(pixels(path).astype(int), to_bytes(picture), atol=1)
    assert facts["strength"] == 1
    assert facts["sampling"]["steps"] == 6
    grid = pixels(facts["grid"])
    np.testing.assert_array_equal(grid[2:10, 2:10], pixels(files["one"]))
    np.testing.assert_array_equal(grid[2:10, 22:30], pixels(facts["pictures"][1]))


def test_the_number_of_variations_does_not_change_them(files: dict[str, str]) -> None:
    editor = Editor(models.load(files["labelled"]), [Path(files["one"])], None, [3], steps=5, solver="ddpm")
    torch.testing.assert_close(editor.vary(0.6, 1, 2), editor.vary(0.6, 3, 2)[:1], rtol=1e-4, atol=1e-4)
    assert (editor.vary(0.6, 1, 2) - editor.vary(0.6, 1, 3)).abs().max() > 0.01


def test_inpainting_keeps_what_is_to_be_kept(run: Callable[[str], Any], files: dict[str, str]) -> None:
    original = pixels(files["one"])
    for options, kept in (
        ("--keep left", np.s_[:, :4]),
        ("--keep right", np.s_[:, 4:]),
        ("--keep top", np.s_[:4]),
        ("--keep bottom", np.s_[4:]),
        ("--mask MASK", np.s_[:, ::4]),
    ):
        facts = run(f"inpaint --model LABELLED --image ONE {options} --steps 3 --resamplings 2 -n 2 --out o")
        same = np.zeros((8, 8), bool)
        same[kept] = True
        for path in facts["pictures"]:
            np.testing.assert_array_equal(pixels(path)[same], original[same])
            assert (pixels(path)[~same] != original[~same]).mean() > 0.8
        grid = pixels(facts["grid"])
        assert (grid[2:10, 12:20][~same] == 128).all()  # what is to be painted, in grey


def test_masks_and_halves() -> None:
    Image.fromarray(np.array([[0, 127, 128, 255]], np.uint8)).save("mask.png")
    assert mask(Path("mask.png"), 1, 4).tolist() == [[True, True, False, False]]
    for side, other in (("left", "right"), ("top", "bottom")):
        assert torch.equal(half(side, 3, 5), ~half(other, 3, 5))
    assert half("left", 2, 4).tolist() == [[True, True, False, False]] * 2
    assert half("top", 2, 2).tolist() == [[True, True], [False, False]]


@pytest.mark.parametrize(
    "how", ["--rtol 1e-4 --levels flow(4,-4)", "--rtol None --solver heun", "--strength 0.01"]
)
def test_interpolation_begins_and_ends_with_the_pictures(
    how: str, run: Callable[[str], Any], files: dict[str, str]
) -> None:
    """To the accuracy of the map; at a strength of no level at all, it is what cross-fading is."""
    facts = run(f"interpolate --model LABELLED --image ONE TWO -n 3 {how} --threshold none --out o")
    ends = [pixels(files[name]).astype(int) for name in ("one", "two")]
    tolerance = 12 if "heun" in how else 1
    for k, end in ((0, ends[0]), (2, ends[1])):
        np.testing.assert_allclose(pixels(facts["pictures"][k]).astype(int), end, atol=tolerance)
    if "strength" in how:
        np.testing.assert_allclose(pixels(facts["pictures"][1]).astype(int), sum(ends) / 2, atol=1)


def test_reconstruction_by_the_ode_is_exact_and_by_long_steps_it_is_not(run: Callable[[str], Any]) -> None:
    options = "--model LABELLED --image ONE TWO --label 3 4 --levels flow(4,-4) --threshold none --out o"
    exact = run(f"reconstruct {options} --rtol 1e-4")
    rough = run(f"reconstruct {options} --rtol None --solver ddim --steps 4")
    assert max(exact["error"]["rms"]) < 0.5 < min(rough["error"]["rms"])
    assert len(exact["pictures"]) == 2
    assert "unsolved" not in exact


def test_what_the_ode_did_not_solve_is_marked(
    run: Callable[[str], Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("encode", "decode"):
        monkeypatch.setattr(ode, name, partial(getattr(ode, name), max_steps=1))
    with pytest.warns(RuntimeWarning, match="2 of 2 examples did not converge"):
        facts = run("reconstruct --model LABELLED --image ONE TWO --label 3 4 --rtol 1e-4 --out o")
    assert facts["unsolved"] == 4  # on the way up, and on the way down


def test_each_picture_has_its_condition(files: dict[str, str]) -> None:
    """Which is the nearer one's on the way."""
    model, paths = models.load(files["labelled"]), [Path(files[name]) for name in ("one", "two")]
    options = {"guidance": 1.0, "threshold": "none", "solver": "ddim", "steps": 5, "grid": "flow(4,-4)"}
    editor = Editor(model, paths, None, [3, 4], **options)
    latents = editor.encode(None)
    for k, label in enumerate((3, 4)):
        alone, untold = (Editor(model, paths[k : k + 1], None, given, **options) for given in ([label], None))
        torch.testing.assert_close(latents[k : k + 1], alone.encode(None), rtol=1e-4, atol=1e-4)
        assert (untold.encode(None) - alone.encode(None)).abs().max() > 0.01
    path = editor.slerp(4, None)
    nearest = editor.decode(
        slerp(latents[:1], latents[1:], torch.linspace(0, 1, 4))[:, 0], [0, 0, 1, 1], None
    )
    torch.testing.assert_close(path, nearest, rtol=1e-4, atol=1e-4)
    by_ode = [each.encode(1e-2) for each in (editor, Editor(model, paths, None, [3], **options))]
    torch.testing.assert_close(by_ode[0][0], by_ode[1][0], rtol=1e-3, atol=1e-3)
    assert (by_ode[0][1] - by_ode[1][1]).abs().max() > 0.01


def test_numbers_with_and_without_a_prompt(run: Callable[[str], Any]) -> None:
    told = run("vary --model NUMBERS --image WIDE --prompt 12 --steps 3 -n 1 --out told")
    untold = run("vary --model NUMBERS --image WIDE --steps 3 -n 1 --out untold")
    assert pixels(told["pictures"][0]).shape == (28, 56)
    assert (pixels(told["pictures"][0]) != pixels(untold["pictures"][0])).any()


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        ("paint", "`phin edit` needs one of vary, inpaint, interpolate, reconstruct"),
        ("vary --model LABELLED", "--image"),
        ("vary --model LABELLED --image none.png", "none.png cannot be read as an image"),
        ("vary --model LABELLED --image TEXT", "text.png cannot be read as an image"),
        ("vary --model LABELLED --image CELL", "cell.png is 28 x 28 grey and"),
        ("vary --model LABELLED --image RGB", "rgb.png is 8 x 8 RGB and"),
        ("vary --model NUMBERS --image ONE", "draws n times 28 x 28 grey"),
        ("vary --model NUMBERS --image WIDE --prompt 123", "room for 2 digits, which 123 does not have"),
        ("vary --model NUMBERS --image WIDE --label 1", "takes no labels"),
        ("vary --model LABELLED --image ONE --prompt 12", "takes no prompts"),
        ("vary --model LABELLED --image ONE --label 10", "there is no label 10"),
        ("vary --model LABELLED --image ONE --label 1 2", "2 prompts or labels for 1 pictures"),
        ("vary --model LABELLED --image ONE --strength 0", "strength = 0.0: give a share"),
        ("vary --model LABELLED --image ONE --strength 1.5", "strength = 1.5: give a share"),
        ("vary --model LABELLED --image ONE --strength nan", "strength = nan: give a share"),
        ("vary --model LABELLED --image ONE --solver ddim(eta=1.5)", "eta = 1.5"),
        ("vary --model LABELLED --image ONE --steps 0", "steps = 0"),
        ("vary --model LABELLED --image ONE -n 0", "n = 0"),
        ("vary --model POINTS --image ONE", "draws moons, and no pictures"),
        ("vary --model READER --image ONE", "does not draw"),
        ("vary --model TOLD --image WIDE", "was never trained without texts"),
        ("vary --model RESTORING --image ONE", "draws what is missing of a picture that it is given"),
        ("inpaint --model LABELLED --image ONE", "--keep left or --mask FILE"),
        ("inpaint --model LABELLED --image ONE --keep left --mask MASK", "--keep left or --mask FILE"),
        ("inpaint --model LABELLED --image ONE --keep middle", "middle"),
        (
            "inpaint --model LABELLED --image ONE --mask CELL",
            "cell.png is 28 x 28 grey and the picture 8 x 8",
        ),
        ("inpaint --model LABELLED --image ONE --keep left --resamplings 0", "resamplings = 0"),
        ("interpolate --model LABELLED --image ONE", "--image"),
        ("interpolate --model NUMBERS --image CELL WIDE", "give pictures of one size"),
        ("interpolate --model LABELLED --image ONE TWO -n 1", "at least 2"),
        ("interpolate --model LABELLED --image ONE TWO --strength 2", "strength = 2.0"),
        ("interpolate --model LABELLED --image ONE TWO --rtol 0", "rtol = 0.0"),
        ("reconstruct --model LABELLED --image ONE --rtol None --solver ddpm", "draws noise"),
    ],
)
def test_bad_input_is_named_and_nothing_is_written(
    argv: str, message: str, files: dict[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    words = [files.get(word.lower(), word) if word.isupper() else word for word in argv.split()]
    assert main(["edit", *words]) == 2
    said = capsys.readouterr()
    assert said.err.startswith("phin: error: ")
    assert said.err.count("\n") == 1
    assert message in said.err
    assert not list(Path().rglob("*"))
