"""Where the time goes: every operation is told once, by what it is or by whom it serves."""

import importlib
import json
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from phin.recipes import RECIPES
from phin.training.optimizer import Optimizer

ROOT = Path(__file__).parents[1]


@pytest.fixture
def where(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    return importlib.import_module("where")


@pytest.fixture(autouse=True)
def threads() -> Iterator[None]:
    yield
    torch.set_num_threads(1)


def leaf(*shape: int) -> Tensor:
    return torch.randn(shape, requires_grad=True)


def there_and_back(compute: Callable[[], Tensor]) -> None:
    with torch.autocast("cpu", torch.bfloat16):
        y = compute()
    y.backward(torch.ones_like(y))


def attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return F.scaled_dot_product_attention(q, k, v)


WORK: dict[str, Callable[[], object]] = {
    "CONVOLUTIONS": lambda: [
        there_and_back(lambda: F.conv2d(leaf(2, 8, 9, 9), leaf(8, 8, 3, 3), padding=1)),
        there_and_back(lambda: F.conv1d(leaf(2, 8, 9), leaf(8, 8, 3))),
        there_and_back(lambda: F.conv_transpose2d(leaf(2, 8, 9, 9), leaf(8, 8, 4, 4), stride=2)),
    ],
    "PRODUCTS": lambda: [
        there_and_back(lambda: F.linear(leaf(3, 5, 8), leaf(16, 8))),
        there_and_back(lambda: leaf(7, 8) @ leaf(8, 9)),
    ],
    "ARITHMETIC": lambda: [
        there_and_back(lambda: F.silu(torch.addcmul(leaf(3, 8), F.layer_norm(leaf(3, 8), (8,)), leaf(3, 8)))),
        there_and_back(lambda: F.leaky_relu(F.group_norm(leaf(3, 8, 4), 2) * leaf(8, 4) + leaf(8, 1))),
        there_and_back(
            lambda: torch.tanh(F.batch_norm(leaf(3, 8), None, None, training=True)).square().mean()
        ),
    ],
    "ATTENTION": lambda: [
        there_and_back(lambda: (leaf(2, 4, 9, 8) @ leaf(2, 4, 8, 9)).softmax(-1) @ leaf(2, 4, 9, 8)),
        there_and_back(lambda: torch.einsum("whd,blhd->bhwl", leaf(6, 4, 8), leaf(2, 5, 4, 8))),
        there_and_back(lambda: attention(leaf(2, 4, 9, 8), leaf(2, 4, 9, 8), leaf(2, 4, 9, 8))),
    ],
    "COPIES": lambda: [
        there_and_back(lambda: leaf(4, 8).to(torch.bfloat16)),
        there_and_back(lambda: torch.cat([leaf(4, 8).t().contiguous(), leaf(1, 4).clone()])),
        there_and_back(lambda: F.pad(leaf(4, 8), (1, 1))),
    ],
}


@pytest.mark.parametrize("part", WORK)
def test_each_part_is_hit_by_what_it_names_there_and_back_and_the_others_are_not(
    where: Any, part: str
) -> None:
    watch = where.Watch()
    watch.begin()
    WORK[part]()
    watch.end()
    found = watch.found().by_part
    others = {"CONVOLUTIONS", "PRODUCTS", "ARITHMETIC", "ATTENTION", "OPTIMIZER", "DATA"} - {part}
    assert found[getattr(where, part)] > 0
    told = {other: found[getattr(where, other)] for other in others}
    assert told == dict.fromkeys(told, 0)


@pytest.mark.parametrize(
    ("name", "plain"),
    [
        ("aten::addmm", "addmm"),
        ("autograd::engine::evaluate_function: AddmmBackward0", "addmm"),
        ("aten::mkldnn_convolution", "mkldnnconvolution"),
        ("aten::convolution_backward", "convolution"),
        ("aten::_softmax_backward_data", "softmaxdata"),
        ("RsubBackward1", "rsub"),
        ("aten::_to_copy", "tocopy"),
        ("CopyBackwards", "copy"),
    ],
)
def test_an_operation_has_one_name_there_and_back(where: Any, name: str, plain: str) -> None:
    assert where.operation(name) == plain


def test_no_operation_is_in_two_parts(where: Any) -> None:
    names = " ".join(where.OPERATIONS.values()).split()
    assert len({*names}) == len(names) == len(where.PART)


def test_all_time_is_told_once_and_what_is_within_a_mark_is_the_marks(where: Any) -> None:
    """Nested marks go with the outer one; what nobody names goes with whoever asked for it."""
    model = nn.Linear(64, 64)
    model.weight.grad = torch.randn(64, 64)
    optimizer, watch = Optimizer(model, (0.9, 0.99), 0.0), where.Watch()
    outer = where.within(where.DATA, where.within(where.OPTIMIZER, lambda: torch.ones(64, 64) @ model.weight))
    watch.begin()
    where.within(where.OPTIMIZER, optimizer.step)(1e-3)
    outer()
    watch.end()
    events = watch.profiler.events()
    assert sum(event.name == "aten::mm" for event in events) > 4  # of Muon
    named = {event.name: where.part_of(event) for event in events}
    assert {*named.values()} == {where.OPTIMIZER, where.DATA}
    assert named["aten::ones"] == where.DATA
    found = watch.found()
    assert sum(found.by_part.values()) == pytest.approx(found.seconds)
    assert sum(found.shares.values()) == pytest.approx(1)
    whole = sum(event.time_range.elapsed_us() for event in events if event.cpu_parent is None) / 1e6
    assert found.by_part[where.OPTIMIZER] + found.by_part[where.DATA] == pytest.approx(whole)
    assert found.by_part[where.REST] == pytest.approx(found.seconds - whole)


def measured(where: Any, folder: Path, words: str) -> dict[str, Any]:
    file = folder / "where.json"
    assert where.main([*words.split(), "--json", str(file)]) == 0
    return json.loads(file.read_text(encoding="utf-8"))


SMALL = "tiny --steps 3 --warm-up 2 --batch 6 --n 2 --rounds 1 --threads 1"


def test_the_steps_are_those_of_the_loop_and_the_calls_those_of_the_sampler(
    where: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    seen: list[Counter[str]] = []
    divided = where.divided

    def counting(events: Any, seconds: float) -> Any:
        events = [*events]
        seen.append(Counter(event.name for event in events))
        return divided(events, seconds)

    monkeypatch.setattr(where, "divided", counting)
    monkeypatch.setitem(RECIPES, "tiny", tiny.LABELLED)
    net = tiny.LABELLED.model(tiny.FACTS[tiny.LABELLED])
    found = measured(where, tmp_path, SMALL)
    steps, draws = seen
    assert steps[where.WITHIN + where.OPTIMIZER] == 3 * 4  # clipped, moved, averaged, forgotten
    assert steps[where.WITHIN + where.DATA] == 3 * 2  # the batch and its noise
    kernels = sum(isinstance(module, nn.Conv2d) for module in net.modules())
    assert steps["aten::convolution"] == 3 * kernels
    assert draws["aten::convolution"] == tiny.SAMPLE.steps * kernels  # all at once, guided
    for name in ("training", "calls"):
        shares = found[name]["shares"]
        assert list(shares) == list(where.PARTS)
        assert sum(shares.values()) == pytest.approx(1)
        assert min(shares.values()) >= 0
        assert {part for part in shares if not shares[part]} == (
            set() if name == "training" else {where.OPTIMIZER}
        )
    assert (found["threads"], found["asked"]["batch"]) == (1, 6)
    lines = capsys.readouterr().out.splitlines()
    assert lines[-10:-9] == ["| --- | --- | --- |"]
    cells = [line.split(" | ")[1] for line in lines[-9:-1]]
    assert cells == [f"{share:.1%}" for share in found["training"]["shares"].values()]


def test_a_network_of_points_convolves_and_attends_to_nothing(
    where: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(RECIPES, "tiny", tiny.POINTS)
    found = measured(where, tmp_path, f"{SMALL} --no-calls")
    assert "calls" not in found
    shares = found["training"]["shares"]
    assert (shares[where.CONVOLUTIONS], shares[where.ATTENTION]) == (0, 0)
    assert shares[where.PRODUCTS] > 0


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ("mnist --steps 0", "steps = 0: at least 1"),
        ("mnist --threads 0", "threads = 0: at least 1"),
        ("nothing", "unknown recipe 'nothing'"),
        (
            "mnist --json absent/where.json",
            "absent/where.json could not be written: there is no folder absent",
        ),
    ],
)
def test_mistakes_are_told_before_anything_begins(
    where: Any,
    words: str,
    told: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert where.main(words.split()) == 2
    said = capsys.readouterr()
    assert (said.out, said.err.count("\n")) == ("", 1)
    assert said.err.startswith(f"error: {told}")
