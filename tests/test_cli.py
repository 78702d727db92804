import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
import torch
from PIL import Image

import phin
from phin import cli, models
from phin.cli import COMMANDS, main
from phin.cli.parsing import unboxed
from phin.cli.train import Train
from phin.recipes import RECIPES
from phin.training.checkpoint import read_metadata

ROOT = Path(__file__).parents[1]
BRIEF = ["--batch", "10", "--picture-every", "0", "--precision", "float32", "--trackers"]
SMALL = ["--net.width", "8", "--net.depth", "1"]


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Files of models with random weights, and others that are none."""
    folder = tmp_path_factory.mktemp("files")
    recipes = {
        "numbers": tiny.NUMBERS,
        "labelled": tiny.LABELLED,
        "points": tiny.POINTS,
        "reader": tiny.READER,
        "noisy": tiny.NOISY,
    }
    paths = {name: tiny.write(recipe, folder / f"{name}.safetensors") for name, recipe in recipes.items()}
    whole = paths["numbers"].read_bytes()
    broken = {
        "cut": whole[: len(whole) // 2],
        "bent": whole[:-1] + bytes([whole[-1] ^ 1]),
        "text": b"weights\n",
    }
    for name, payload in broken.items():
        paths[name] = folder / f"{name}.safetensors"
        paths[name].write_bytes(payload)
    return {name: str(path) for name, path in paths.items()}


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Callable[..., Any]:
    """Runs a command with --json, which must succeed; what it says."""

    def run(*argv: object) -> Any:
        assert main([*map(str, argv), "--json"]) == 0
        return json.loads(capsys.readouterr().out)

    return run


@pytest.fixture
def fails(capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """Runs a command that must fail as a user's mistake does and leave nothing; its one line."""

    def fails(*argv: object, code: int = 2) -> str:
        before = sorted(Path().rglob("*"))
        assert main([*map(str, argv), "--json"]) == code
        said = capsys.readouterr()
        assert said.err.startswith("phin: error: "), said.err
        assert said.err.count("\n") == 1, said.err
        assert json.loads(said.out)["error"]
        assert sorted(Path().rglob("*")) == before, "something was written"
        return said.err

    return fails


def pixels(path: str | Path) -> np.ndarray:
    with Image.open(path) as image:
        return np.asarray(image)


def test_sample_writes_the_pictures_that_python_gives(run: Callable[..., Any], files: dict[str, str]) -> None:
    facts = run(
        "sample", "--model", files["numbers"], "--prompt", "40213", "7", "-n", 2, "--seed", 3, "--out", "o"
    )
    names = ["0000_40213.png", "0001_40213.png", "0002_7.png", "0003_7.png"]
    assert [Path(picture["file"]).name for picture in facts["pictures"]] == names
    assert sorted(path.name for path in Path("o").iterdir()) == names
    drawn = phin.sample(phin.load(files["numbers"]), prompts=["40213", "7"], n=2, seed=3)
    for name, picture in zip(names, drawn, strict=True):
        np.testing.assert_allclose(pixels(Path("o", name)).astype(int), picture, atol=1)
    assert facts["sampling"] == {**vars(tiny.SAMPLE), "seed": 3}


def test_sample_takes_prompts_from_a_file_too(run: Callable[..., Any], files: dict[str, str]) -> None:
    Path("prompts.txt").write_text("12\n\n 007 \n", encoding="utf-8")
    facts = run("sample", "--model", files["numbers"], "--prompt", "3", "--prompts-file", "prompts.txt")
    assert [picture["content"] for picture in facts["pictures"]] == ["3", "12", "007"]
    assert Path("samples/0002_007.png").exists()


def test_sample_options_reach_the_sampler(run: Callable[..., Any], files: dict[str, str]) -> None:
    choices = {"steps": 4, "solver": "ddim(eta=0.5)", "guidance": 0.5, "grid": "karras", "threshold": "none"}
    names = {"grid": "levels"}
    options = [word for name, value in choices.items() for word in (f"--{names.get(name, name)}", value)]
    facts = run("sample", "--model", files["labelled"], "--label", 7, *options, "--out", "o")
    assert facts["sampling"] == {**choices, "seed": 0}
    (picture,) = phin.sample(phin.load(files["labelled"]), labels=[7], **choices)
    np.testing.assert_allclose(pixels("o/0000_7.png").astype(int), picture, atol=1)


def test_a_classifier_guides(run: Callable[..., Any], files: dict[str, str]) -> None:
    labels = ["sample", "--model", files["labelled"], "--label", 7, 2, "--guidance", 0]
    facts = run(*labels, "--classifier", files["noisy"], "--classifier-scale", 3, "--out", "o")
    noted = {"classifier": files["noisy"], "classifier_scale": 3.0}
    assert facts["sampling"] == {**vars(tiny.SAMPLE), "guidance": 0.0, "seed": 0, **noted}
    model = phin.load(files["labelled"])
    guide = models.guide(model, phin.load(files["noisy"]), 3)
    for k, picture in enumerate(phin.sample(model, labels=[7, 2], guidance=0, guide=guide)):
        np.testing.assert_allclose(pixels(facts["pictures"][k]["file"]).astype(int), picture, atol=1)
    assert run(*labels, "--classifier", files["noisy"], "--out", "one")["sampling"]["classifier_scale"] == 1
    plain = run(*labels, "--out", "plain")
    assert "classifier" not in plain["sampling"]
    assert (pixels("plain/0000_7.png") != pixels("o/0000_7.png")).any()


def test_a_noisy_classifier_is_trained_and_measured_by_level(run: Callable[..., Any], capsys: Any) -> None:
    small = ["--data", "digits", "--net.channels", 8, 8, "--net.blocks", 1, 1]
    facts = run("train", "mnist-noisy-classifier", *small, *BRIEF, "--steps", 2, "--out", "run")
    assert {"loss", "error/8", "error/-4"} <= facts["validation"].keys()
    figures = run("evaluate", "--model", "run")["test_by_log_snr"]
    assert [found["log_snr"] for found in figures] == [8, 4, 2, 0, -2, -4]
    assert all(found["rate"] == found["right"] / found["n"] for found in figures)
    assert main(["evaluate", "--model", "run"]) == 0
    assert "test pictures at log-SNR -4 read right" in capsys.readouterr().out


def test_labels_have_their_names_and_a_grid(run: Callable[..., Any], files: dict[str, str]) -> None:
    facts = run("sample", "--model", files["labelled"], "--label", 3, -1, "-n", 2, "--grid", "--out", "o")
    names = [Path(picture["file"]).name for picture in facts["pictures"]]
    assert names == ["0000_3.png", "0001_3.png", "0002_any.png", "0003_any.png"]
    grid = pixels(facts["grid"])
    assert grid.shape == (2 * 8 + 6, 2 * 8 + 6)
    np.testing.assert_array_equal(grid[2:10, 12:20], pixels("o/0001_3.png"))


def test_a_gif_shows_the_denoising(run: Callable[..., Any], files: dict[str, str]) -> None:
    facts = run("sample", "--model", files["numbers"], "--prompt", "12", "--steps", 4, "--gif", "--out", "o")
    (picture,) = facts["pictures"]
    assert picture["gif"] == "o/0000_12.gif"
    with Image.open(picture["gif"]) as film:
        assert film.n_frames == 5  # pyright: ignore[reportAttributeAccessIssue]
        film.seek(4)
        np.testing.assert_allclose(np.asarray(film.convert("L")).astype(int), pixels(picture["file"]), atol=1)


def test_points_come_as_one_array(run: Callable[..., Any], files: dict[str, str]) -> None:
    facts = run("sample", "--model", files["points"], "-n", 50, "--grid", "--gif", "--out", "o")
    points = np.load(facts["points"], allow_pickle=False)
    expected = phin.sample(phin.load(files["points"]), n=50)
    np.testing.assert_allclose(points, expected, atol=1e-5)
    assert Path(facts["grid"]).exists()
    assert Path(facts["gif"]).exists()


def test_what_is_printed_without_json(files: dict[str, str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["sample", "--model", files["numbers"], "--prompt", "7", "--out", "o"]) == 0
    assert capsys.readouterr().out == "o/0000_7.png\n"
    for argv, words in (
        (["recipes"], ["numbers", "10 min", "swiss-roll"]),
        (["data", "list"], ["fashion-mnist", "70,000", "endless"]),
        (["--version"], [phin.__version__]),
        ([], list(COMMANDS)),
        (["--help"], list(COMMANDS)),
        (["train", "--help"], list(RECIPES)),
    ):
        assert main(argv) == 0
        said = capsys.readouterr()
        assert not said.err
        assert all(word in said.out for word in words)


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_help_and_json(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    words = name.split() + (["numbers"] if name == "train" else [])
    assert main([*words, "--help"]) == 0
    assert "--json" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        ("paint", "unknown command 'paint'; there are demo, train"),
        ("data", "`phin data` needs one of list, get"),
        ("data find", "`phin data` needs one of list, get"),
        ("data get", "NAME"),
        ("data get minst", "no data set 'minst'; choose one of mnist"),
        ("train", "name a recipe"),
        ("train --minutes 3", "name a recipe"),
        ("train nimbers", "unknown recipe 'nimbers'; there are numbers"),
        ("train moons --net.channel 3", "--net.channel"),
        ("train moons --net.widht 3", "is it --net.width?"),
        ("train moons --steps x", "--steps"),
        ("train moons --steps 0", "steps must be positive, not 0"),
        ("train moons --minutes -1", "minutes must be positive, not -1"),
        ("train moons --minutes nan", "minutes must be positive, not nan"),
        ("train moons --steps 1 --minutes 1", "minutes or steps, one of the two"),
        ("train moons --minutes inf", "minutes must be finite, not inf"),
        ("train moons --lr inf --steps 1", "lr must be finite"),
        ("train moons --steps ten", "error: --steps takes a whole number, not 'ten' ("),
        ("train moons --lr x --steps 1", "error: --lr takes a number, not 'x' ("),
        ("train mnist --net.channels --steps 1", "error: net: channels = (): each resolution needs"),
        ("train mnist --net.channels a b --steps 1", "error: --net.channels cannot be 'a', 'b' ("),
        ("train mnist --net.channels -8 8 --steps 1", "channels = (-8, 8)"),
        ("train mnist --net.patch 0 --steps 1", "patch = 0"),
        ("train mnist --net.blocks 0 --steps 1", "blocks = 0"),
        ("train mnist --net.heads 0 --steps 1", "heads = 0"),
        ("train mnist --net.dropout 2 --steps 1", "dropout is a share"),
        ("train moons --net.width 0 --steps 1", "width = 0"),
        ("train moons --net.depth -1 --steps 1", "depth = -1"),
        ("train mnist-classifier --net.channels 0 8 8 --steps 1", "channels = (0, 8, 8)"),
        ("train mnist-classifier --net.blocks 1 1 -1 --steps 1", "blocks = (1, 1, -1)"),
        ("train moons --data digits --steps 1", "an MLP needs vectors, and digits has pictures"),
        ("train moons --sample.steps 0", "steps = 0"),
        ("train moons --sample.solver runge", "unknown solver 'runge'; there are ddpm"),
        ("train moons --weight heavy", "error: unknown weight 'heavy'"),
        ("train moons --drop 2", "drop is a share"),
        ("train moons --data sun", "no data set 'sun'"),
        ("train moons --trackers papyrus --steps 1", "'papyrus'"),
        ("train images --steps 1", "folder:PATH is not a folder"),
        ("train mnist-classifier --steps 1 --data moons", "no labels"),
        ("sample --model NUMBERS", "nothing to draw"),
        ("sample --model NUMBERS --prompt 12a4", "'12a4' is not a string of 1 to 5 digits"),
        ("sample --model NUMBERS --prompt=", "'' is not a string"),
        ("sample --model NUMBERS --prompt 123456", "'123456' is not a string"),
        ("sample --model NUMBERS --prompt 1 --prompts-file none.txt", "none.txt cannot be read"),
        ("sample --model NUMBERS --prompt 1 --steps 0", "steps = 0"),
        ("sample --model NUMBERS --prompt 1 --steps ten", "--steps"),
        ("sample --model NUMBERS --prompt 1 --steps 1001 --levels discrete", "steps = 1001"),
        ("sample --model NUMBERS --prompt 1 --solver euler2", "unknown solver 'euler2'"),
        ("sample --model NUMBERS --prompt 1 --solver=", "solver '' is not understood: write a name"),
        ("sample --model NUMBERS --prompt 1 --solver ddim(eta=a)", "'a' is no number and none of ddpm"),
        ("sample --model NUMBERS --prompt 1 -n 1.5", "-n/--n takes a whole number, not '1.5'"),
        ("sample --model NUMBERS --prompt 1 --seed -1", "seed must not be negative"),
        ("sample --model NUMBERS --prompt 1 --out=", "--out is empty"),
        ("sample --model NUMBERS --prompt 1 --guidance inf", "guidance = inf"),
        ("sample --model NUMBERS --prompt 1 --guidance 1e30", "guidance = 1e+30: give a number from -1000"),
        ("sample --model NUMBERS --prompt 1 --flavour mild", "--flavour"),
        (
            "sample --model NUMBERS --prompt 1 --label 3",
            "a model of numbers takes no labels: give it prompts",
        ),
        ("sample --model NUMBERS --prompt 1 -n 0", "n = 0"),
        ("sample --model LABELLED --label 10", "no label 10"),
        ("sample --model LABELLED --prompt 10", "takes no prompts"),
        ("sample --model READER", "does not draw"),
        ("train mnist-noisy-classifier --steps 1 --data moons", "no labels"),
        ("train mnist-noisy-classifier --density cosines", "unknown schedule 'cosines'"),
        ("train mnist-noisy-classifier --steps 1 --data digits --net.blocks 0 0 0", "blocks = (0, 0, 0)"),
        ("sample --model LABELLED --classifier READER", "`phin train mnist-noisy-classifier`"),
        ("sample --model LABELLED --classifier LABELLED", "is no classifier of noisy pictures"),
        ("sample --model LABELLED --classifier nobody", "unknown model 'nobody'"),
        ("sample --model LABELLED --classifier NOISY --classifier-scale nan", "classifier scale = nan"),
        ("sample --model LABELLED --classifier NOISY --classifier-scale much", "--classifier-scale"),
        ("sample --model LABELLED --classifier-scale 2", "--classifier-scale 2 is of no classifier"),
        ("sample --model NUMBERS --prompt 1 --classifier NOISY", "has no labels to guide to"),
        ("sample --model POINTS --classifier NOISY", "has no labels to guide to"),
        ("sample --model NOISY", "does not draw"),
        ("evaluate --model LABELLED --reader NOISY", "is no classifier of clean pictures"),
        ("evaluate --model NUMBERS --reader READER --classifier NOISY", "has no labels to guide to"),
        ("evaluate --model READER --classifier NOISY", "does not draw"),
        ("sample --model nombres --prompt 1", "unknown model 'nombres'"),
        ("sample --model none.safetensors --prompt 1", "there is no file none.safetensors"),
        ("sample --model CUT --prompt 1", "cut short"),
        ("sample --model BENT --prompt 1", "damaged"),
        ("sample --model TEXT --prompt 1", "no safetensors file"),
        ("evaluate --model NUMBERS --reader LABELLED", "is no classifier"),
        ("evaluate --model NUMBERS --reader READER -n 1", "n = 1 is too few"),
        ("evaluate --model NUMBERS --reader READER --steps 0", "steps = 0"),
        ("evaluate --model POINTS --reader READER", "draws moons, which nothing here reads"),
        ("export NUMBERS --out weights.bin", "does not end in .safetensors"),
        ("export NUMBERS --out no/where.safetensors", "there is no folder no; make it first"),
        ("export NUMBERS", "--out"),
        ("export nowhere --out a.safetensors", "unknown model 'nowhere'"),
        ("demo --minutes 0", "minutes must be positive"),
        ("demo --reader nobody", "unknown model 'nobody'"),
        ("demo --minutes soon", "--minutes"),
    ],
)
def test_bad_input_is_named_and_nothing_is_written(
    argv: str, message: str, fails: Callable[..., str], files: dict[str, str]
) -> None:
    assert message in fails(
        *[files.get(word.lower(), word) if word.isupper() else word for word in argv.split()]
    )


def test_prompts_files_that_are_none(fails: Callable[..., str], files: dict[str, str]) -> None:
    Path("empty.txt").touch()
    Path("bytes.txt").write_bytes(b"\xff\xfe\x00")
    for name, message in (
        ("empty.txt", "has no prompts"),
        ("bytes.txt", "cannot be read"),
        (".", "cannot be read"),
    ):
        assert message in fails("sample", "--model", files["numbers"], "--prompts-file", name)


def test_folders_of_bad_pictures(fails: Callable[..., str]) -> None:
    def folder(name: str, *pictures: Image.Image | bytes) -> str:
        Path(name).mkdir()
        for k, picture in enumerate(pictures):
            path = Path(name, f"{k}.png")
            path.write_bytes(picture) if isinstance(picture, bytes) else picture.save(path)
        return f"folder:{name}"

    grey, colour = Image.new("L", (8, 8)), Image.new("RGB", (8, 8))
    large, clear = Image.new("L", (16, 8)), Image.new("RGBA", (8, 8))
    for data, message in (
        (folder("empty"), "empty has 0 images"),
        (folder("broken", grey, grey, b"\x89PNG\r\n", grey), "2.png cannot be read as an image"),
        (folder("sizes", grey, grey, large, grey), "make all images alike"),
        (folder("modes", grey, grey, colour, grey), "make all images alike"),
        (folder("clear", clear, clear, clear), "has the mode RGBA"),
        (
            folder("odd", *[Image.new("L", (30, 30))] * 4),
            "side 30 of (30, 30) is not a multiple of 4, which is net.patch",
        ),
    ):
        assert message in fails("train", "images", "--data", data, "--steps", 1)


def test_damaged_data_are_named(fails: Callable[..., str], monkeypatch: pytest.MonkeyPatch) -> None:
    Path("mine").mkdir()
    Path("mine/train-images-idx3-ubyte").write_bytes(b"not MNIST")
    monkeypatch.setenv("PHIN_DATA", "mine")
    monkeypatch.setenv("PHIN_CACHE", "cache")
    assert "mine/train-images-idx3-ubyte is not the MNIST file" in fails("data", "get", "mnist")
    monkeypatch.setenv("PHIN_DATA", "yours")
    assert "PHIN_DATA=yours is not a folder" in fails("train", "mnist", "--steps", 1)


def test_folders_that_cannot_be_written_to(fails: Callable[..., str], files: dict[str, str]) -> None:
    Path("file").touch()
    assert "cannot be written to" in fails(
        "sample", "--model", files["numbers"], "--prompt", 1, "--out", "file"
    )
    assert "cannot be written to" in fails("train", "moons", "--steps", 1, "--out", "file/run")
    assert "cannot be written to" in fails(
        "demo", "--minutes", 1, "--out", "file/run", "--reader", files["reader"]
    )


def test_a_full_disk_leaves_no_half_a_picture(
    fails: Callable[..., str], files: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def write_bytes(path: Path, payload: bytes) -> int:
        path.open("wb").close()
        raise OSError(28, "No space left on device", str(path))

    Path("o").mkdir()
    monkeypatch.setattr(Path, "write_bytes", write_bytes)
    said = fails("sample", "--model", files["numbers"], "--prompt", 1, "--out", "o")
    assert "o/0000_1.png could not be written: No space left on device" in said


def test_a_picture_and_its_film_are_both_there_or_neither(
    fails: Callable[..., str], files: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    write_bytes = Path.write_bytes

    def fill(path: Path, payload: bytes) -> int:
        if path.suffix == ".gif":
            raise OSError(28, "No space left on device", str(path))
        return write_bytes(path, payload)

    Path("o").mkdir()
    monkeypatch.setattr(Path, "write_bytes", fill)
    said = fails("sample", "--model", files["numbers"], "--prompt", 1, "--gif", "--out", "o")
    assert "o/0000_1.gif could not be written: No space left on device" in said


def test_a_folder_is_no_name_for_a_file(fails: Callable[..., str], files: dict[str, str]) -> None:
    Path("a.safetensors").mkdir()
    said = fails("export", files["numbers"], "--out", "a.safetensors")
    assert "a.safetensors could not be written: it is a folder; choose another name" in said


def test_of_several_processes_one_speaks(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for rank in ("0", "1"):
        monkeypatch.setenv("RANK", rank)
        for argv in (["recipes"], ["recipes", "--json"]):
            assert main(argv) == 0
            assert bool(capsys.readouterr().out) == (rank == "0")


@pytest.mark.parametrize(
    "argv",
    [["recipes", "--json"], ["data", "list"], ["bogus", "--json"], ["--help"], ["train", "moons", "--help"]],
)
def test_a_reader_that_has_gone_ends_it_quietly(argv: list[str]) -> None:
    gone, end = os.pipe()
    os.close(gone)
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "src"), "PYTHONUNBUFFERED": ""}
    command = [sys.executable, "-m", "phin.cli", *argv]
    ran = subprocess.run(command, env=environment, stdout=end, stderr=subprocess.PIPE, text=True, check=False)
    os.close(end)
    assert ran.returncode == 141
    said = [line for line in ran.stderr.splitlines() if "unknown command 'bogus'" not in line]
    assert not said


def test_train_has_the_recipes_options_and_resumes(run: Callable[..., Any], capsys: Any) -> None:
    argv = ["train", "moons", "--train.lr", "0.002", "--sample.steps", 7, *SMALL, *BRIEF, "--out", "run it"]
    assert run(*argv, "--steps", 2)["step"] == 2
    assert run(*argv, "--steps=3")["step"] == 3
    model = models.load("run it")
    assert model.recipe.train.steps == 3
    assert model.recipe.train.minutes is None
    assert (model.recipe.train.lr, model.recipe.train.trackers) == (0.002, ())
    assert models.drawing(model)[1].steps == 7
    assert "--steps=3" in model.metadata["command"]
    assert "'run it'" in model.metadata["command"]
    assert main([*map(str, argv), "--steps", "3", "--drop", "0.3"]) == 2
    assert "holds another run" in capsys.readouterr().err


def test_minutes_take_the_place_of_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(RECIPES, "moons", tiny.POINTS)  # whose budget is in steps
    for options, budget in (([], (None, 2)), (["--minutes", "2"], (2, None)), (["--steps", "5"], (None, 5))):
        command = cli.read(["train", "moons", *options])
        assert isinstance(command, Train)
        assert (command.recipe.train.minutes, command.recipe.train.steps) == budget


def test_the_help_of_a_group_lists_its_commands(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.read(["edit", "--help"]) is None
    said = capsys.readouterr().out
    assert {line.split()[1] for line in said.splitlines() if line.startswith("  edit ")} == {
        "vary",
        "inpaint",
        "interpolate",
        "reconstruct",
    }
    assert "\n  train" not in said


def test_export_keeps_the_averaged_weights_and_what_is_known(run: Callable[..., Any]) -> None:
    run("train", "moons", *SMALL, *BRIEF, "--steps", 2, "--out", "run")
    whole = models.load("run")
    for dtype, kind in (("float32", torch.float32), ("bf16", torch.bfloat16), ("fp16", torch.float16)):
        facts = run("export", "run", "--out", "small.safetensors", "--dtype", dtype)
        small = models.load("small.safetensors")
        for name, weight in small.net.state_dict().items():
            torch.testing.assert_close(weight, whole.net.state_dict()[name].to(kind).float(), rtol=0, atol=0)
        assert facts["bytes"] == Path("small.safetensors").stat().st_size
    metadata = read_metadata("small.safetensors")
    assert metadata["name"] == "small"
    assert metadata["command"].startswith("phin train moons")
    assert metadata["recipe"]["train"]["seed"] == 0
    assert metadata["training"]["state"]["step"] == 2
    assert set(metadata["training"]["versions"]) >= {"torch", "python"}


def test_an_interruption_says_how_to_go_on(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("phin.recipes.train", interrupted)
    assert main(["train", "moons", "--json"]) == 130
    said = capsys.readouterr()
    assert said.err == "phin: interrupted; the same command goes on where it stopped\n"
    assert "interrupted" in json.loads(said.out)["error"]


def test_errors_are_one_line_on_any_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    ascii_box = (
        " Unrecognized options\n ------\n  Unrecognized options: --net.widht, 3\n  ------\n"
        "  Perhaps you meant:\n      --net.width INT\n  ------\n  For full helptext, run it\n  \n"
    )
    assert unboxed(ascii_box) == "Unrecognized options: --net.widht, 3; is it --net.width?"
    assert main(["train", "moons", "--net.widht", "3"]) == 2
    assert "--net.widht, 3; is it --net.width?" in capsys.readouterr().err


def process(*argv: object) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "phin.cli", *map(str, argv)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "src")}
    return subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def test_a_process_ends_with_the_right_code(files: dict[str, str]) -> None:
    wrong = process("sample", "--model", files["numbers"], "--prompt", "4O213")
    right = process("sample", "--model", files["numbers"], "--prompt", "40213", "--json")
    out, err = wrong.communicate()
    assert (wrong.returncode, out) == (2, "")
    assert err.startswith("phin: error: the prompt '4O213' is not")
    assert err.count("\n") == 1
    out, err = right.communicate()
    assert (right.returncode, err) == (0, "")
    assert json.loads(out)["pictures"][0]["content"] == "40213"


def test_a_training_process_stops_and_goes_on() -> None:
    argv = ["train", "moons", *SMALL, *BRIEF, "--steps", 100_000, "--log-every", 1e-4, "--out", "run"]
    running = process(*argv)
    while not Path("run/log.jsonl").exists() or not Path("run/log.jsonl").stat().st_size:
        assert running.poll() is None, running.communicate()[1]
        time.sleep(0.05)
    running.send_signal(signal.SIGINT)
    _, err = running.communicate()
    assert running.returncode == 130
    assert err.splitlines()[-1] == "phin: interrupted; the same command goes on where it stopped"
    assert Path("run/last.safetensors").exists()


def imported(*argv: object) -> set[str]:
    """The modules that a command imports."""
    program = (
        "import json, sys; from phin.cli import main; code = main(sys.argv[1:]); "
        "print(json.dumps([code, *sys.modules]))"
    )
    ran = subprocess.run(
        [sys.executable, "-c", program, *map(str, argv)],
        env={**os.environ, "PYTHONPATH": str(ROOT / "src")},
        capture_output=True,
        text=True,
        check=True,
    )
    code, *modules = json.loads(ran.stdout.splitlines()[-1])
    assert code == 0
    return set(modules)


def test_sampling_imports_no_more_than_it_needs(files: dict[str, str]) -> None:
    modules = imported("sample", "--model", files["numbers"], "--prompt", "40213")
    heavy = {"accelerate", "matplotlib", "sklearn", "scipy", "tensorboard", "torch._dynamo", "rich.progress"}
    assert heavy.isdisjoint(modules)


def test_training_does_not_import_what_only_compiling_needs() -> None:
    """torch's compiler, and the algebra that it shares with distributed tensors, take a second and 70 MB."""
    modules = imported("train", "moons", *SMALL, *BRIEF, "--out", "run")
    assert "accelerate" in modules
    assert {"torch._dynamo", "torch._inductor", "torch.distributed.tensor", "sympy"}.isdisjoint(modules)
