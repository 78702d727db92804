"""Number strings: what is drawn, where, and what never is."""

import math
from hashlib import blake2b
from itertools import pairwise

import numpy as np
import pytest
import tiny
import torch
from hypothesis import given
from hypothesis import strategies as st

from phin.data import mnist, numbers
from phin.data.base import Part, Which
from phin.data.numbers import Handwriting, Numbers, compose, held_out, random_strings, tokens
from phin.errors import PhinError

SPLITS: tuple[Which, ...] = ("train", "valid", "test")


@pytest.fixture(scope="module")
def data() -> Numbers:
    return Numbers(tiny.handwriting())


def bytes_of(x: torch.Tensor) -> np.ndarray:
    return torch.round((x + 1) * 127.5).to(torch.uint8).numpy()


def cells(x: torch.Tensor) -> np.ndarray:
    """(n, L, 28, 28) bytes of (n, 1, 28, 28 L)."""
    n, _, _, width = x.shape
    return bytes_of(x).reshape(n, 28, width // 28, 28).transpose(0, 2, 1, 3)


def strings(text: torch.Tensor) -> list[str]:
    return ["".join(map(str, row)) for row in text.tolist()]


# which strings


def test_the_held_out_strings_never_change() -> None:
    """The choice is part of the published results: these were held out from the first model on."""
    chosen = [string for number in range(10_000) if held_out(string := f"{number:04d}")]
    digest = blake2b(" ".join(chosen).encode(), digest_size=8).hexdigest()
    assert (len(chosen), chosen[:4], digest) == (989, ["0004", "0019", "0021", "0034"], "069cda15e2b2900e")


def test_one_string_in_ten_is_held_out_and_none_that_is_short() -> None:
    for length in (1, 2):
        assert not any(held_out(f"{number:0{length}d}") for number in range(10**length))
    for length in (3, 4, 5):
        count, n = sum(held_out(f"{number:0{length}d}") for number in range(10**length)), 10**length
        assert abs(count - n / 10) < 3 * math.sqrt(n * 0.09)


def test_held_out_strings_are_never_trained_on_and_all_others_are(data: Numbers) -> None:
    seen: set[str] = set()
    for step in range(400):
        seen.update(strings(data.train(1, step, 300).cond["text"]))
    seen.update(strings(data.split("train", 3_000).cond["text"]))
    assert not any(map(held_out, seen))
    for length in (1, 2):
        assert len({string for string in seen if len(string) == length}) == 10**length
    trained = [string for number in range(1_000) if not held_out(string := f"{number:03d}")]
    assert len(seen & set(trained)) > 0.99 * len(trained)


def test_evaluation_pictures_are_of_all_strings(data: Numbers) -> None:
    for which in ("valid", "test"):
        assert (
            0.05
            < np.mean([held_out(string) for string in strings(data.split(which, 3_000).cond["text"])])
            < 0.15
        )


def test_random_strings_have_uniform_lengths_and_digits() -> None:
    drawn = random_strings(5_000, 0)
    lengths = np.bincount([len(string) for string in drawn], minlength=6)
    assert lengths[0] == 0
    assert np.all(abs(lengths[1:] - 1_000) < 4 * math.sqrt(5_000 * 0.16))
    digits = np.bincount([int(digit) for string in drawn for digit in string])
    assert np.all(abs(digits - digits.sum() / 10) < 4 * math.sqrt(digits.sum() * 0.09))
    assert {string[0] for string in drawn if len(string) == 5} == set("0123456789"), "leading zeros are legal"


def test_random_strings_can_be_all_held_out_or_none() -> None:
    unseen, seen = random_strings(300, 0, held_out=True), random_strings(300, 0, held_out=False)
    assert all(map(held_out, unseen))
    assert {len(string) for string in unseen} == {3, 4, 5}
    assert not any(map(held_out, seen))
    assert {len(string) for string in seen} == {1, 2, 3, 4, 5}


def test_random_strings_depend_on_their_arguments_alone() -> None:
    assert random_strings(50, 3)[:20] == random_strings(20, 3)
    assert random_strings(20, 3) != random_strings(20, 4)


# prompts


def test_tokens_are_the_digits() -> None:
    assert torch.equal(tokens("40213"), torch.tensor([4, 0, 2, 1, 3]))
    assert torch.equal(tokens("007"), torch.tensor([0, 0, 7]))
    assert tokens("7").dtype == torch.int64


@pytest.mark.parametrize(
    "prompt", ["", "123456", "12a", "-1", "1.5", " 1", "1\n", "４２", "²", "٣", "0x1", "1" * 500]
)
def test_other_prompts_are_refused_with_the_value_and_the_fix(prompt: str) -> None:
    with pytest.raises(PhinError) as error:
        tokens(prompt)
    message = str(error.value)
    assert repr(prompt[:40])[:-1] in message
    assert "1 to 5 digits" in message
    assert "\n" not in message
    assert len(message) < 150


@given(st.text(max_size=7))
def test_a_prompt_is_digits_or_refused(prompt: str) -> None:
    if 1 <= len(prompt) <= 5 and set(prompt) <= set("0123456789"):
        assert strings(tokens(prompt)[None]) == [prompt]
    else:
        with pytest.raises(PhinError):
            tokens(prompt)


# pictures


@given(st.integers(1, 5), st.integers(1, 4), st.integers(0, 2**32 - 1))
def test_digits_are_moved_and_clipped_within_their_cells(length: int, n: int, seed: int) -> None:
    """Against the definition, pixel by pixel."""
    rng = np.random.default_rng(seed)
    digits = rng.integers(1, 256, size=(n, length, 28, 28)).astype(np.uint8)
    shifts = rng.integers(-2, 3, size=(n, length, 2))
    expected = np.zeros((n, 1, 28, 28 * length), np.uint8)
    for k, i, row, column in np.ndindex(n, length, 28, 28):
        down, right = row + shifts[k, i, 0], column + shifts[k, i, 1]
        if 0 <= down < 28 and 0 <= right < 28:
            expected[k, 0, down, 28 * i + right] = digits[k, i, row, column]
    np.testing.assert_array_equal(compose(digits, shifts), expected)


@pytest.mark.parametrize("step", range(10))
def test_every_cell_shows_the_digit_of_its_place(data: Numbers, step: int) -> None:
    x, cond, _ = data.train(0, step, 500)
    shown = cells(x).max((2, 3))
    np.testing.assert_array_equal(shown % 10, cond["text"])
    inked = cells(x) > 0
    np.testing.assert_array_equal(
        inked.sum((2, 3)), 400, "each cell holds its digit, whole, and nothing else"
    )


def test_every_offset_is_as_likely_as_every_other(data: Numbers) -> None:
    corners = []
    for step in range(50):
        inked = cells(data.train(0, step, 500).x) > 0
        corners.append(np.stack([inked.any(3).argmax(2).ravel(), inked.any(2).argmax(2).ravel()]) - 4)
    down, right = np.concatenate(corners, 1)
    counts = np.bincount(5 * (down + 2) + right + 2, minlength=25)
    assert counts.size == 25
    assert np.all(abs(counts - counts.sum() / 25) < 4.5 * math.sqrt(counts.sum() / 25))


def test_each_image_of_a_class_is_as_likely_as_every_other() -> None:
    """Also when classes are of unequal size."""
    values = torch.arange(1, 201)
    labels = torch.where(values <= 150, 0, values % 10)
    images = values.to(torch.uint8)[:, None, None, None].expand(200, 1, 28, 28)
    uneven = Numbers({"train": Handwriting(Part(images, labels))})
    pictures = torch.stack(uneven.pictures(["00000"] * 4_000, "train", 0))
    counts = np.bincount(cells(pictures).max((2, 3)).ravel(), minlength=201)
    zeros = values[labels == 0].numpy()
    mean = 20_000 / len(zeros)
    assert counts[zeros].sum() == 20_000
    assert np.all(abs(counts[zeros] - mean) < 5 * math.sqrt(mean))


def test_splits_share_no_image(data: Numbers) -> None:
    shown = {
        which: set(
            np.unique(np.concatenate([cells(data.split(which, 3_000, seed).x).ravel() for seed in range(2)]))
        )
        for which in SPLITS
    }
    shown["train"] |= {value for step in range(30) for value in np.unique(cells(data.train(0, step, 500).x))}
    assert shown["train"] == {0, *range(10, 80)}
    assert shown["valid"] == {0, *range(80, 160)}
    assert shown["test"] == {0, *range(160, 250)}


def test_validation_digits_are_the_last_five_thousand_of_training(monkeypatch: pytest.MonkeyPatch) -> None:
    labels = torch.arange(5_030, dtype=torch.uint8) % 10
    images = torch.full((5_030, 1, 28, 28), 1, dtype=torch.uint8)
    images[30:] = 2
    test = Part(torch.full((20, 1, 28, 28), 3, dtype=torch.uint8), labels[:20])
    monkeypatch.setattr(mnist, "parts", lambda files: (Part(images, labels), test))
    data = numbers.load()
    for which, value in zip(SPLITS, (1, 2, 3), strict=True):
        assert set(np.unique(bytes_of(data.split(which, 300).x))) <= {0, value}
    assert [len(data.handwriting[which].images) for which in SPLITS] == [30, 5_000, 20]


# streams


def test_every_five_steps_have_each_length_once(data: Numbers) -> None:
    lengths = [data.train(0, step, 60).cond["text"].shape[1] for step in range(100)]
    assert all(sorted(lengths[i : i + 5]) == [1, 2, 3, 4, 5] for i in range(0, 100, 5))
    assert len({tuple(lengths[i : i + 5]) for i in range(0, 100, 5)}) > 10
    for step, length in enumerate(lengths[:5]):
        assert data.train(0, step, 64).x.shape == (64 // length, 1, 28, 28 * length)


@pytest.mark.parametrize("step", range(5))
def test_a_batch_depends_on_its_arguments_alone(data: Numbers, step: int) -> None:
    whole, again = data.train(5, step, 120), data.train(5, step, 120)
    other, later = data.train(6, step, 120), data.train(5, step + 5, 120)
    assert torch.equal(whole.x, again.x)
    assert torch.equal(whole.cond["text"], again.cond["text"])
    assert other.x.shape != whole.x.shape or not torch.equal(other.x, whole.x)
    assert later.x.shape != whole.x.shape or not torch.equal(later.x, whole.x)
    longer = data.train(5, step, 600)
    assert torch.equal(longer.x[: len(whole.x)], whole.x), "a picture depends on its place, not on the batch"


@given(cuts=st.lists(st.integers(0, 24), max_size=3), step=st.integers(0, 50))
def test_parts_of_a_batch_make_up_the_whole(data: Numbers, cuts: list[int], step: int) -> None:
    edges = [0, *sorted(cuts), 120]
    whole = data.train(0, step, 120)
    parts = [data.train(0, step, 120, slice(a, b)) for a, b in pairwise(edges)]
    assert torch.equal(torch.cat([part.x for part in parts]), whole.x)
    assert torch.equal(torch.cat([part.cond["text"] for part in parts]), whole.cond["text"])


def test_pictures_of_given_strings(data: Numbers) -> None:
    asked = ["7", "42", "40213", "007", "42"]
    pictures = data.pictures(asked, "test", 0)
    assert [tuple(picture.shape) for picture in pictures] == [(1, 28, 28 * len(string)) for string in asked]
    for string, picture in zip(asked, pictures, strict=True):
        assert strings(torch.from_numpy(cells(picture[None]).max((2, 3)) % 10)) == [string]
    assert not torch.equal(pictures[1], pictures[4]), "each picture is drawn anew"
    others = data.pictures(["9", "42", "1"], "test", 0)
    assert torch.equal(others[1], pictures[1]), "a picture depends on its string and place alone"
    assert not torch.equal(data.pictures(asked, "test", 1)[2], pictures[2])
    assert data.pictures([], "test", 0) == []
    with pytest.raises(PhinError, match="'12a'"):
        data.pictures(["1", "12a"], "test", 0)


def test_a_choice_of_a_split_is_fixed_and_nested(data: Numbers) -> None:
    small, large = data.split("valid", 30), data.split("valid", 90)
    assert len(small.x) == 10
    assert torch.equal(small.x, large.x[:10])
    assert torch.equal(small.cond["text"], large.cond["text"][:10])
    assert not torch.equal(small.x, data.split("valid", 30, seed=1).x)


def test_a_batch_without_room_is_refused(data: Numbers) -> None:
    with pytest.raises(PhinError, match="a batch of 4 cells"):
        data.train(0, 0, 4)


def test_it_says_what_it_is(data: Numbers) -> None:
    assert (data.shape, data.classes, data.vocabulary, data.eight_bit) == ((1, 28, 28), 0, 10, True)


@pytest.mark.parametrize("shift", [-3, 3])
def test_a_shift_beyond_the_border_is_refused(shift: int) -> None:
    digits, shifts = np.zeros((1, 2, 28, 28), np.uint8), np.zeros((1, 2, 2), np.int64)
    shifts[0, 1, 0] = shift
    with pytest.raises(PhinError, match="a shift of 3 pixels is too far"):
        compose(digits, shifts)


def test_a_batch_has_its_fewest_pictures_when_strings_are_longest(data: Numbers) -> None:
    for size in (5, 64, 99):
        assert data.fewest(size) == min(data.train(0, step, size).total for step in range(5))
