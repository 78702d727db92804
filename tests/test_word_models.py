"""Models that are prompted in words, from the command line; and how they are measured."""

import json
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
import torch
from PIL import Image
from test_prompt import WORDS
from tiny import writing
from torch import Tensor

import phin
from phin import data as datasets
from phin import models
from phin.cli import main
from phin.cli.parsing import gathered
from phin.data.base import Batch
from phin.data.number_words import LANGUAGES
from phin.data.numbers import Handwriting, held_out
from phin.data.words import BLANK, Words, cells, random_numbers
from phin.errors import PhinError
from phin.evaluation import WordPlan, evaluate
from phin.evaluation.words import read_cells
from phin.models import Model
from phin.nets.classifier import Classifier, ClassifierConfig
from phin.recipes import describe, train
from phin.training.checkpoint import save_weights


@pytest.fixture(scope="module")
def data() -> Words:
    """Of squares, whose values say which digit they are."""
    return Words({which: Handwriting(writing(110, 70)) for which in ("train", "valid", "test")})


@pytest.fixture(autouse=True)
def known(data: Words, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    entry = replace(datasets.DATA["words"], load=lambda: data)
    monkeypatch.setitem(datasets.DATA, "words", entry)  # pyright: ignore[reportArgumentType]
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def file(data: Words, tmp_path: Path) -> Path:
    torch.manual_seed(0)
    net = WORDS.model(WORDS.facts(data))
    tiny.randomise(net)
    path = tmp_path / "words.safetensors"
    save_weights(path, net.state_dict(), describe("tiny", WORDS, WORDS.facts(data)))
    return path


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Callable[..., Any]:
    def run(*words: object, code: int = 0) -> Any:
        capsys.readouterr()
        assert main([*map(str, words), "--json"]) == code
        return json.loads(capsys.readouterr().out)

    return run


# drawing


def test_prompts_of_all_kinds_are_drawn_into_files_with_safe_names(
    run: Callable[..., Any], file: Path
) -> None:
    prompts = ["42", "Forty-Two", "bốn mươi  hai", "сорок два"]
    facts = run("sample", "--model", file, *(word for p in prompts for word in ("--prompt", p)), "--out", "o")
    said = ["42", "forty-two", "bốn mươi hai", "сорок два"]
    names = ["0000_42.png", "0001_forty-two.png", "0002_bốn_mươi_hai.png", "0003_сорок_два.png"]
    assert [picture["content"] for picture in facts["pictures"]] == said
    assert sorted(path.name for path in Path("o").iterdir()) == names
    drawn = phin.sample(phin.load(file), prompts=said)
    for name, picture in zip(names, drawn, strict=True):
        with Image.open(Path("o", name)) as image:
            np.testing.assert_allclose(np.asarray(image).astype(int), picture, atol=1)
    assert picture.shape == (28, 140)


def test_a_file_of_prompts_has_one_in_a_line(run: Callable[..., Any], file: Path) -> None:
    Path("prompts.txt").write_text("сорок два\n\n  one hundred one \n7\n", encoding="utf-8")
    facts = run("sample", "--model", file, "--prompts-file", "prompts.txt", "--prompt", "40213")
    said = ["40213", "сорок два", "one hundred one", "7"]
    assert [picture["content"] for picture in facts["pictures"]] == said


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--prompt", "forty_two"], "'_' (U+005F, LOW LINE), which is in no number's name"),
        (["--prompt", "one " * 30], "has 119 characters, and at most 56 are read"),
        (["--prompt", " "], "a prompt is empty"),
        ([], "nothing to draw: give prompts, numbers of 0 to 99,999, such as forty-two"),
        (["--label", "3"], "a model of words takes no labels: give it prompts (--prompt)"),
    ],
)
def test_bad_prompts_are_refused_before_anything_is_written(
    run: Callable[..., Any], file: Path, options: list[str], message: str
) -> None:
    said = run("sample", "--model", file, *options, "--out", "o", code=2)
    assert message in said["error"]
    assert not Path("o").exists()


def test_an_option_may_be_given_more_than_once() -> None:
    said = "--prompt a --out o --prompt b c --prompt=d -n 4 --label -1 2 --steps 3 --label 3".split()
    assert gathered(said, "--prompt", "--label") == (
        "--prompt a b c d --out o -n 4 --label -1 2 3 --steps 3".split()
    )
    for plain in ("--out o --steps 3".split(), "--prompt --out o".split(), []):
        assert gathered(plain, "--prompt", "--label") == plain


def test_a_sample_is_its_prompt_s_and_its_place_s(file: Path) -> None:
    model = phin.load(file)
    together = torch.stack(models.samples(model, ["42", "сорок два", "7"], seed=4))
    alone = torch.stack(models.samples(model, ["42", "сорок два", "7"], seed=4, batch=1))
    torch.testing.assert_close(together, alone, rtol=0, atol=1e-2)
    other = models.samples(model, ["42", "сорок три", "7"], seed=4)
    torch.testing.assert_close(other[2], together[2], rtol=0, atol=1e-2)
    assert (other[1] - together[1]).abs().max() > 0.05


def test_pictures_are_edited_under_a_prompt_or_none(run: Callable[..., Any], file: Path) -> None:
    run("sample", "--model", file, "--prompt", "42", "--out", "o")
    edit = ["edit", "vary", "--model", file, "--image", "o/0000_42.png", "-n", 1, "--steps", 3]
    run(*edit, "--prompt", "сорок два", "--out", "told")
    run(*edit, "--out", "untold")
    told, untold = (np.asarray(Image.open(f"{out}/0000.png")).astype(int) for out in ("told", "untold"))
    assert (told != untold).any()


def test_an_interrupted_run_with_lessons_ends_as_the_uninterrupted_one(
    data: Words, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = replace(WORDS, train=replace(tiny.BRIEF, steps=4, validate_every=1.0))
    whole, drawn = train(recipe, tmp_path / "whole"), Words.train

    def interrupting(self: Words, seed: int, step: int, *rest: Any) -> Batch:
        if step == 2:
            signal.raise_signal(signal.SIGINT)
        return drawn(self, seed, step, *rest)

    with monkeypatch.context() as patch:
        patch.setattr(Words, "train", interrupting)
        with pytest.raises(KeyboardInterrupt):
            train(recipe, tmp_path / "parts")
    parts = train(recipe, tmp_path / "parts")
    one, other = (phin.load(result.last).net.state_dict() for result in (whole, parts))
    assert all(torch.equal(weight, other[name]) for name, weight in one.items())
    assert parts.validation == whole.validation
    assert 0 <= whole.validation["spelled"] <= 1


# measuring


class Squares(Classifier):
    """Reads the squares of the test's data without a mistake."""

    def __init__(self) -> None:
        super().__init__(ClassifierConfig((8,), (0,)), 1, 10)

    def forward(self, x: Tensor) -> Tensor:
        value = torch.round((x.flatten(1).amax(1) + 1) * 127.5).long()
        return torch.nn.functional.one_hot(value % 10, 10).float()


def test_blank_cells_have_less_ink_than_any_digit(data: Words) -> None:
    numbers = [0, 7, 42, 405, 99_999]
    pictures = data.pictures(numbers, "test", 0)
    assert torch.equal(read_cells(Squares(), pictures), cells(numbers))
    pale = pictures + 0.01 * torch.rand(pictures.shape)  # about one level of 256
    assert torch.equal(read_cells(Squares(), pale) == BLANK, cells(numbers) == BLANK)


def test_the_shipped_reader_reads_real_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    real, numbers = datasets.load("words"), random_numbers(200, 0)
    assert isinstance(real, Words)
    reader = phin.load("mnist-classifier").net
    assert isinstance(reader, Classifier)
    found, asked = read_cells(reader, real.pictures(numbers, "test", 0)), cells(numbers)
    assert torch.equal(found == BLANK, asked == BLANK)
    assert (found == asked)[asked != BLANK].float().mean() > 0.98


def test_figures_are_counted_by_language(data: Words, file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A model that misses the first digit in Vietnamese, and goes on after the last one in Russian."""
    asked = {"": random_numbers(80, 0, held_out=False), "unseen_": random_numbers(40, 0, held_out=True)}
    every = {number for numbers in asked.values() for number in numbers}
    value = {say(number): (name, number) for name, say in LANGUAGES.items() for number in every}

    def drawn(model: Model, prompts: list[str], **others: Any) -> list[Tensor]:
        pictures = []
        for prompt in prompts:
            language, number = value[prompt]
            if language == "vietnamese":
                number = int(str((int(str(number)[0]) + 1) % 9 + 1) + str(number)[1:])
            if language == "russian" and 0 < number < 10_000:
                number = 10 * number + 7
            pictures.append(data.pictures([number], "train", 0)[0])
        return pictures

    monkeypatch.setattr(models, "drawn", lambda *asked, **others: enumerate(drawn(*asked, **others)))
    model = phin.load(file)
    reader = replace(model, net=Squares())
    figures = evaluate(model, reader, WordPlan(n=80, n_unseen=40))
    found = figures["languages"]
    assert list(found) == ["words", *LANGUAGES]
    for part, numbers in asked.items():
        n = len(numbers)
        assert all(held_out(str(number)) == bool(part) for number in numbers)
        for k, name in enumerate(LANGUAGES):
            own = numbers[k::4]
            lengths = [len(str(number)) for number in own]
            digits, blanks, whole = (found[name][f"{part}{kind}"] for kind in ("digits", "blanks", "numbers"))
            assert (digits["n"], blanks["n"], whole["n"]) == (sum(lengths), 5 * n // 4 - sum(lengths), n // 4)
            short = sum(0 < number < 10_000 for number in own)
            assert digits["right"] == digits["n"] - (len(own) if name == "vietnamese" else 0)
            assert blanks["right"] == blanks["n"] - (short if name == "russian" else 0)
            missed = {"vietnamese": len(own), "russian": short}.get(name, 0)
            assert whole["right"] == len(own) - missed
            assert whole["real_rate"] == 1
        for kind in ("digits", "blanks", "numbers"):
            together = [found[name][f"{part}{kind}"] for name in ("english", "vietnamese", "russian")]
            for count in ("right", "n"):
                assert found["words"][f"{part}{kind}"][count] == sum(each[count] for each in together)


def test_pictures_that_are_not_finite_are_not_read(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A cell that has NaN in one pixel could be read as well as any."""

    def drawn(model: Model, prompts: list[str], **others: Any) -> Any:
        pictures = torch.zeros(len(prompts), 1, 28, 140)
        pictures[7, 0, 20, 100] = torch.nan
        return enumerate(pictures)

    monkeypatch.setattr(models, "drawn", drawn)
    model = phin.load(file)
    with pytest.raises(PhinError, match=r"sample 7 that .* drew has values that are not finite"):
        evaluate(model, replace(model, net=Squares()), WordPlan(n=20, n_unseen=0))


def test_a_model_is_measured_from_the_command_line(run: Callable[..., Any], file: Path, capsys: Any) -> None:
    reader = tiny.write(tiny.READER, file.with_name("reader.safetensors"))
    options = ["evaluate", "--model", file, "--reader", reader, "-n", 20, "--n-unseen", 20, "--steps", 2]
    facts = run(*options, "--record")
    assert facts["languages"]["russian"]["numbers"]["n"] == 5
    assert facts["sampling"]["steps"] == 2
    assert phin.load(file).metadata["figures"]["languages"] == facts["languages"]
    assert main([*map(str, options)]) == 0
    assert "vietnamese: whole numbers read right, never trained on" in capsys.readouterr().out
    assert "n = 3 is too few" in run("evaluate", "--model", file, "-n", 3, code=2)["error"]
    said = run("evaluate", "--model", file, "--reader", file, code=2)["error"]
    assert "is no classifier of clean digits" in said


def test_likelihood_is_of_words_as_of_others(run: Callable[..., Any], file: Path) -> None:
    for condition in ("data", "none"):
        facts = run("nll", "--model", file, "-n", 2, "--condition", condition, "--times", 1)
        assert (facts["dims"], facts["condition"]) == (28 * 140, condition)
