"""The reading of prompts, the U-Net that is told them, and the lessons beside its training."""

import math
from dataclasses import replace
from pathlib import Path

import pytest
import tiny
import torch
import torch.nn.functional as F
from tiny import writing
from torch import nn

import phin
from phin import data as datasets
from phin.data.numbers import Handwriting
from phin.data.words import ALPHABET, Words
from phin.errors import PhinError
from phin.nets.prompt import PromptConfig, PromptReading, attend, rotated
from phin.nets.unet import UNet
from phin.recipes import DiffusionRecipe, Facts, train
from phin.training.denoising import Denoising
from phin.training.lessons import Lessons
from phin.training.loop import Task

SMALL = PromptConfig(width=16, layers=2, heads=2)
NET = replace(tiny.NET, prompt=SMALL)
WORDS = DiffusionRecipe(data="words", net=NET, lessons=3, train=tiny.BRIEF, sample=tiny.SAMPLE)


@pytest.fixture(scope="module")
def data() -> Words:
    return Words({which: Handwriting(writing(10, 70)) for which in ("train", "valid", "test")})


@pytest.fixture(autouse=True)
def known(data: Words, monkeypatch: pytest.MonkeyPatch) -> None:
    entry = replace(datasets.DATA["words"], load=lambda: data)
    monkeypatch.setitem(datasets.DATA, "words", entry)  # pyright: ignore[reportArgumentType]


def reading() -> PromptReading:
    torch.manual_seed(0)
    net = PromptReading(SMALL, len(ALPHABET.characters), 12).double()
    tiny.randomise(net)
    return net


def prompts(*texts: str) -> torch.Tensor:
    return torch.stack([ALPHABET.tokens(text) for text in texts])


def test_rotary_products_depend_on_distance_alone() -> None:
    """Turned by m and n, q and k have the product of q and k turned by n - m: exp(i rate (n - m))."""
    q, k = torch.randn(2, 8, dtype=torch.float64)
    turned_q, turned_k = (rotated(x.expand(9, 8)) for x in (q, k))
    rates = 10_000 ** (-torch.arange(4, dtype=torch.float64) / 4)
    for m in range(9):
        for n in range(9):
            pairs = torch.complex(k[:4], k[4:]) * torch.complex(q[:4], q[4:]).conj()
            expected = (pairs * torch.exp(1j * rates * (n - m))).real.sum()
            torch.testing.assert_close(turned_q[m] @ turned_k[n], expected, rtol=1e-5, atol=1e-5)


def test_attention_is_a_mean_over_the_characters_that_are_there() -> None:
    q, k, v = (torch.randn(2, 3, n, 4, dtype=torch.float64) for n in (5, 6, 6))
    blank = torch.tensor([[False] * 6, [False] * 4 + [True] * 2])
    found = attend(q, k, v, blank)
    for row, there in enumerate((6, 4)):
        logits = torch.einsum("hnd,hld->hnl", q[row], k[row, :, :there]) / math.sqrt(4)
        expected = torch.einsum("hnl,hld->hnd", logits.softmax(-1), v[row, :, :there])
        torch.testing.assert_close(found[row], expected)


def test_what_is_after_the_end_of_a_prompt_has_no_effect() -> None:
    net, prompt = reading(), prompts("bốn mươi hai")
    whole = net(net.encode(prompt), 10)
    for length in (12, 20):
        torch.testing.assert_close(net(net.encode(prompt[:, :length]), 10), whole)
    other = net(net.encode(prompts("bốn mươi ba")), 10)
    assert (other - whole).abs().max() > 1e-3


def test_the_order_of_characters_counts_and_their_place_does() -> None:
    net = reading()
    found = [net(net.encode(prompts(text)), 5) for text in ("12", "21", "112")]
    for a, b in ((0, 1), (0, 2), (1, 2)):
        assert (found[a] - found[b]).abs().max() > 1e-2
    # Without the waves of the count, nothing tells the one of five from the fifth of five that are alike.
    nn.init.zeros_(net.count.weight)
    nn.init.zeros_(net.count.bias)
    same = [net(net.encode(prompts(text)), 5) for text in ("1", "11111")]
    torch.testing.assert_close(*same)


def test_columns_read_at_their_middle_whatever_the_resolution() -> None:
    net = reading()
    said = net.encode(prompts("42", "сорок два"))
    torch.testing.assert_close(net(said, 5), net(said, 15)[:, 1::3], rtol=1e-6, atol=1e-6)
    assert net(said, 5).diff(dim=1).abs().amax(-1).min() > 1e-3


def test_a_prompt_that_is_not_given_is_one_of_minus_ones() -> None:
    torch.manual_seed(0)
    net = UNet(NET, 1, characters=len(ALPHABET.characters))
    tiny.randomise(net)
    z, log_snr = torch.randn(2, 1, 28, 140), torch.tensor([0.0, 1.0])
    plain = net(z, log_snr)
    torch.testing.assert_close(net(z, log_snr, prompt=torch.full((2, 56), -1)).shape, plain.shape)
    torch.testing.assert_close(net(z, log_snr, prompt=torch.full((2, 1), -1)), plain)
    told = net(z, log_snr, prompt=prompts("42", "43"))
    assert (told - plain).abs().max() > 1e-3
    assert (net(z, log_snr, prompt=prompts("42", "44"))[1] - told[1]).abs().max() > 1e-3
    torch.testing.assert_close(net(z, log_snr, prompt=prompts("42", "44"))[0], told[0])
    for wrong in (torch.zeros(2, 0, dtype=torch.long), torch.full((2, 3), 1 + len(ALPHABET.characters))):
        with pytest.raises(PhinError, match=r"at least one character|conditions of 0 to"):
            net(z, log_snr, prompt=wrong)
    with pytest.raises(PhinError, match="takes no prompt"):
        UNet(tiny.NET, 1)(z, log_snr, prompt=prompts("42", "43"))


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"layers": 0}, "layers = 0"),
        ({"heads": 0}, "heads = 0"),
        ({"width": 20, "heads": 4}, "width 20 is not a multiple of twice the heads, 8"),
    ],
)
def test_networks_that_cannot_be_are_refused(wrong: dict[str, int], message: str) -> None:
    with pytest.raises(PhinError, match=message):
        PromptConfig(**wrong)


def lessons_of(recipe: DiffusionRecipe, data: Words) -> Lessons:
    torch.manual_seed(0)
    task = recipe.task(data)
    assert isinstance(task, Lessons)
    for part in task.model.parameters():
        nn.init.normal_(part, std=0.2)
    return task


def test_lessons_add_the_cross_entropy_of_each_picture_s_own_prompts(data: Words) -> None:
    task = lessons_of(replace(WORDS, lessons=2), data)
    found = task(5, slice(None)).loss
    plain = task.denoising(5, slice(None)).loss
    said, shown = data.lessons(0, 5, 20)
    net = task.denoising.model.net
    assert isinstance(net, UNet)
    assert net.prompt is not None
    logits = task.model["head"](F.silu(net.prompt(net.prompt.encode(said), 5)))
    nats = -logits.log_softmax(-1).gather(-1, shown[..., None])[..., 0].mean(1)
    torch.testing.assert_close(found - plain, nats.view(10, 2).mean(1), rtol=1e-4, atol=1e-5)
    for rank in range(3):
        part = task(5, slice(rank, None, 3)).loss
        torch.testing.assert_close(part, found[rank::3], rtol=1e-4, atol=1e-5)


def test_what_lessons_need_is_not_kept(data: Words, tmp_path: Path) -> None:
    task = lessons_of(WORDS, data)
    assert task.product is task.denoising.model
    plain = replace(WORDS, lessons=0).task(data)
    assert isinstance(plain, Denoising)
    assert task.product.state_dict().keys() == plain.model.state_dict().keys()
    assert {*task.memory()} == {*plain.memory()}
    folder = train(WORDS, tmp_path / "run").folder
    assert phin.load(folder).net.state_dict().keys() == plain.model.state_dict().keys()


def test_reading_is_learned_from_lessons(data: Words) -> None:
    """Of numbers that are held out, too. Chance is one cell in five, that of a blank, and little more."""
    torch.manual_seed(0)
    net, head = PromptReading(PromptConfig(32, 1, 4), len(ALPHABET.characters), 16), nn.Linear(16, 11)
    optimizer = torch.optim.Adam([*net.parameters(), *head.parameters()], 1e-2)
    for step in range(70):
        said, shown = data.lessons(0, step, 128)
        loss = F.cross_entropy(head(net(net.encode(said), 5)).movedim(-1, 1), shown)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    said, shown = data.examination(300)
    spelled = head(net(net.encode(said), 5)).argmax(-1) == shown
    assert spelled.float().mean() > 0.4


def test_lessons_are_for_prompts(data: Words) -> None:
    for recipe, message in (
        (replace(tiny.LABELLED, lessons=1), "lessons are of prompts in words, and digits has none: give 0"),
        (replace(WORDS, drop=1.0), "lessons are for a U-Net that reads prompts: give lessons 0"),
    ):
        with pytest.raises(PhinError, match=message):
            recipe.task(recipe.load())
    with pytest.raises(PhinError, match="lessons must not be negative, but is -1"):
        replace(WORDS, lessons=-1)


def test_facts_keep_the_alphabet(data: Words) -> None:
    facts = WORDS.facts(data)
    assert facts == Facts((1, 28, 140), 0, 0, (), True, alphabet=ALPHABET)
    assert replace(WORDS, drop=1.0).facts(data).alphabet is None


def test_a_model_of_the_data_as_a_whole_takes_no_prompts(data: Words, tmp_path: Path) -> None:
    recipe = replace(WORDS, drop=1.0, lessons=0)
    model = phin.load(train(recipe, tmp_path / "run").folder)
    assert phin.sample(model, n=2)[0].shape == (28, 140)
    with pytest.raises(PhinError, match="a model of words takes no prompts"):
        phin.sample(model, prompts=["42"])


def test_the_task_is_one_of_the_loop(data: Words) -> None:
    task: Task = lessons_of(WORDS, data)
    assert task.fewest(7) == 7
    picture = task.picture(task.product)
    assert picture is not None
    assert picture.shape == (4 * 30 + 2, 5 * 142 + 2)
