"""Pictures of numbers and their prompts in words: what is drawn, what is said, and what never is."""

import unicodedata

import numpy as np
import pytest
import tiny
import torch
from hypothesis import given
from hypothesis import strategies as st

import phin.data
from phin.data.base import Which
from phin.data.number_words import LANGUAGES, MOST
from phin.data.numbers import held_out
from phin.data.words import ALPHABET, BLANK, Words, cells, random_numbers
from phin.errors import PhinError

SPLITS: tuple[Which, ...] = ("train", "valid", "test")
SAID = {say(number): number for say in LANGUAGES.values() for number in range(MOST + 1)}


@pytest.fixture(scope="module")
def data() -> Words:
    return Words(tiny.handwriting())


def values(x: torch.Tensor) -> np.ndarray:
    """The greatest byte in each cell (n, 5): that of its square, and 0 of a blank one."""
    n = len(x)
    return torch.round((x + 1) * 127.5).to(torch.uint8).numpy().reshape(n, 28, 5, 28).max((1, 3))


def digits(x: torch.Tensor) -> list[str]:
    """What the cells of pictures show, from left to right."""
    return ["".join(str(value % 10) if value else " " for value in row) for row in values(x)]


def numbers(prompts: torch.Tensor) -> list[int]:
    return [SAID[ALPHABET.text(prompt)] for prompt in prompts]


def test_a_picture_shows_the_number_that_its_prompt_names(data: Words) -> None:
    for batch in (data.train(0, 0, 300), *(data.split(which, 100) for which in SPLITS)):
        asked = numbers(batch.cond["prompt"])
        assert digits(batch.x) == [f"{number:<5}" for number in asked]
        assert batch.total == len(batch.x) == len(batch.cond["prompt"])


def test_handwriting_is_of_the_split(data: Words) -> None:
    for which, (least, most) in zip(SPLITS, ((10, 79), (80, 159), (160, 249)), strict=True):
        for x in (data.split(which, 200).x, data.pictures(range(100, 200), which, 0)):
            found = values(x)
            assert found[found > 0].min() >= least
            assert found.max() <= most
    assert values(data.train(0, 0, 200).x).max() <= 79


def test_every_language_has_a_quarter_and_every_length_a_fifth(data: Words) -> None:
    n = 4000
    prompts = data.train(5, 0, n).cond["prompt"]
    texts = [ALPHABET.text(prompt) for prompt in prompts]
    languages = [
        next(name for name, say in LANGUAGES.items() if say(number) == text)
        for number, text in zip(numbers(prompts), texts, strict=True)
    ]
    for name in LANGUAGES:
        assert abs(languages.count(name) / n - 0.25) < 4.5 * (0.25 * 0.75 / n) ** 0.5
    lengths = [len(str(number)) for number in numbers(prompts)]
    for length in range(1, 6):
        assert abs(lengths.count(length) / n - 0.2) < 4.5 * (0.2 * 0.8 / n) ** 0.5


def test_one_number_in_ten_is_never_trained_on(data: Words) -> None:
    longer = range(100, MOST + 1)
    share = sum(held_out(str(number)) for number in longer) / len(longer)
    assert abs(share - 0.1) < 4.5 * (0.1 * 0.9 / len(longer)) ** 0.5
    for step in range(5):
        seen = [*numbers(data.train(0, step, 400).cond["prompt"]), *numbers(data.lessons(0, step, 400)[0])]
        assert not any(held_out(str(number)) for number in seen)
    assert not any(held_out(str(number)) for number in numbers(data.split("train", 1000).cond["prompt"]))
    assert not any(held_out(str(number)) for number in random_numbers(1000, 0, held_out=False))
    assert all(held_out(str(number)) for number in random_numbers(1000, 0, held_out=True))
    assert all(held_out(str(number)) for number in numbers(data.examination(500)[0]))
    tested = [held_out(str(number)) for number in numbers(data.split("test", 4000).cond["prompt"])]
    assert abs(sum(tested) / 4000 - 0.06) < 4.5 * (0.06 * 0.94 / 4000) ** 0.5  # of three lengths in five


def test_lessons_are_prompts_and_what_stands_in_the_cells(data: Words) -> None:
    prompts, shown = data.lessons(3, 7, 50)
    assert torch.equal(shown, cells(numbers(prompts)))
    assert ["".join(" " if digit == BLANK else str(digit) for digit in row) for row in shown.tolist()] == [
        f"{number:<5}" for number in numbers(prompts)
    ]
    few, own = data.lessons(3, 7, 50, [4, 40])
    assert torch.equal(few, prompts[[4, 40]])
    assert torch.equal(own, shown[[4, 40]])


def test_a_batch_is_a_function_of_seed_step_and_place(data: Words) -> None:
    x, cond, total = data.train(1, 2, 23)
    for rows in (slice(0, None, 3), slice(1, None, 3), slice(5, 9)):
        part = data.train(1, 2, 23, rows)
        assert part.total == total == 23
        assert torch.equal(part.x, x[rows])
        assert torch.equal(part.cond["prompt"], cond["prompt"][rows])
    for other in (data.train(2, 2, 23), data.train(1, 3, 23)):
        assert not torch.equal(other.x, x)
    for which in SPLITS:
        assert torch.equal(data.split(which, 9).x, data.split(which, 30).x[:9])
        assert not torch.equal(data.split(which, 9, seed=1).x, data.split(which, 9).x)
    assert random_numbers(10, 4) == random_numbers(30, 4)[:10] != random_numbers(10, 5)


def test_real_pictures_depend_on_number_place_and_seed(data: Words) -> None:
    first = data.pictures([42, 7, 99_999], "test", 0)
    assert digits(first) == ["42   ", "7    ", "99999"]
    assert torch.equal(data.pictures([1, 7], "test", 0)[1], first[1])
    assert not torch.equal(data.pictures([7], "test", 1)[0], data.pictures([7], "test", 0)[0])


def test_the_alphabet_is_what_all_names_are_made_of() -> None:
    assert set(ALPHABET.characters) == set("".join(SAID))
    assert len(set(ALPHABET.characters)) == len(ALPHABET.characters)
    assert max(map(len, SAID)) <= ALPHABET.longest


@given(st.sampled_from(sorted(SAID)))
def test_a_prompt_is_read_however_it_is_typed(name: str) -> None:
    tokens = ALPHABET.tokens(name)
    assert ALPHABET.text(tokens) == name
    assert len(tokens) == ALPHABET.longest
    assert (tokens[: len(name)] > 0).all()
    assert not tokens[len(name) :].any()
    for typed in (name.upper(), name.title(), unicodedata.normalize("NFD", name), f"  {name} \n"):
        assert torch.equal(ALPHABET.tokens(typed), tokens)
    assert torch.equal(ALPHABET.tokens(name.replace(" ", "  ")), tokens)


@pytest.mark.parametrize(
    ("prompt", "message"),
    [
        ("", "a prompt is empty"),
        (" \t\n", "a prompt is empty"),
        (
            "forty‑two",
            r"has the character '‑' \(U\+2011, NON-BREAKING HYPHEN\), which is in no number's name",
        ),
        ("сорок дваё", r"has the character 'ё' \(U\+0451, CYRILLIC SMALL LETTER IO\)"),
        ("../../42", r"has the character '\.' \(U\+002E, FULL STOP\)"),
        ("4\x002", r"\(U\+0000, no name\)"),
        ("one " * 20, "has 79 characters, and at most 56 are read"),
    ],
)
def test_bad_prompts_are_refused_in_one_line(prompt: str, message: str) -> None:
    with pytest.raises(PhinError, match=message) as error:
        ALPHABET.tokens(prompt)
    assert "\n" not in str(error.value)


def test_the_data_set_is_listed() -> None:
    entry = phin.data.DATA["words"]
    assert (entry.shape, entry.classes, entry.files) == ((1, 28, 140), 0, phin.data.DATA["numbers"].files)
