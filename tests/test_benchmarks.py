"""What the benchmarks conclude is right: turns, medians, ratios, equal FLOPs, marks, and who takes part."""

import copy
import importlib
import json
import math
import os
import re
import subprocess
import sys
import types
import unittest.mock
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any, ClassVar

import pytest
import tiny
import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel

import phin
from phin.errors import PhinError
from phin.metrics.features import Seen
from phin.metrics.summary import Summary
from phin.recipes import describe
from phin.recipes.distillation import student
from phin.report import picture
from phin.training.checkpoint import save_weights
from phin.training.loop import Losses, Task, fit

ROOT = Path(__file__).parents[1]


@pytest.fixture(autouse=True)
def placed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))


def benchmark(name: str) -> Any:
    return importlib.import_module(name)


# Turns, medians and ratios


class Machine:
    """A clock that actions advance, and that is slower at times."""

    def __init__(self) -> None:
        self.now, self.done = 0.0, list[str]()

    def clock(self) -> float:
        return self.now

    def action(self, name: str, cost: float, slowness: Callable[[int], float]) -> Callable[[], None]:
        def act() -> None:
            self.now += cost * slowness(len(self.done) // 3)
            self.done.append(name)

        return act


def test_all_take_turns_and_each_is_first_as_often_as_the_others() -> None:
    machine = Machine()
    actions = {name: machine.action(name, 1.0, lambda turn: 1.0) for name in "abc"}
    seconds = benchmark("timing").interleaved(actions, rounds=6, warm_up=3, clock=machine.clock)
    rounds = [machine.done[i : i + 3] for i in range(0, 27, 3)]
    assert len(machine.done) == 27
    assert all(sorted(turn) == ["a", "b", "c"] for turn in rounds)
    assert sorted(turn[0] for turn in rounds[3:]) == ["a", "a", "b", "b", "c", "c"]
    assert {name: len(taken) for name, taken in seconds.items()} == dict.fromkeys("abc", 6)


def test_a_ratio_of_turns_does_not_see_that_the_machine_was_slow() -> None:
    """Rounds are up to nine times as slow as others; medians of either alone would say so, ratios do not."""
    machine, timing = Machine(), benchmark("timing")

    def slowness(turn: int) -> float:
        return float((1, 9, 2, 7, 3)[turn % 5])

    costs = {"ours": 1.0, "theirs": 2.5, "others": 0.5}
    actions = {name: machine.action(name, cost, slowness) for name, cost in costs.items()}
    seconds = timing.interleaved(actions, rounds=10, warm_up=0, clock=machine.clock)
    assert timing.ratios(seconds["theirs"], seconds["ours"]) == pytest.approx((2.5, 2.5, 2.5))
    assert timing.ratios(seconds["others"], seconds["ours"]).median == pytest.approx(
        0.5
    )  # slower than others
    assert timing.rates(64, seconds["ours"]) == pytest.approx((64 / 3, 64 / 7, 32))  # quartiles, low first


def test_a_ratio_is_the_median_of_ratios_and_not_the_ratio_of_medians() -> None:
    ratios = benchmark("timing").ratios([10, 2, 3, 4, 50], [1, 2, 1, 2, 25])
    assert ratios == (2, 2, 3)
    assert f"{ratios:.1f}" == "2.0 [2.0, 3.0]"


def test_a_ratio_needs_as_many_turns_of_both() -> None:
    with pytest.raises(ValueError, match="shorter"):
        benchmark("timing").ratios([1, 2, 3], [1, 2])


def test_the_exponent_of_a_power_law() -> None:
    sizes = [4, 8, 31, 64]
    assert benchmark("timing").exponent(sizes, [3e-4 * n**1.7 for n in sizes]) == pytest.approx(1.7)


def test_one_size_has_no_exponent() -> None:
    growth = benchmark("scaling").Growth("", "side", {"calls": {8: 0.5}, "training": {8: 1.0, 16: 4.0}})
    assert "| exponent |  | 2.00 |" in growth.table()
    assert picture([growth.draw], "side", "seconds").startswith(b"\x89PNG")


# Equal FLOPs


class Convolution(nn.Module):
    """Of known FLOPs: 2 · 9 · width · places there, and as many back."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.there = nn.Conv2d(1, width, 3, padding=1, bias=False)
        self.back = nn.Conv2d(width, 1, 3, padding=1, bias=False)

    def forward(self, z: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        return self.back(torch.tanh(self.there(z)))


def library(width: int) -> Any:
    contestants = benchmark("contestants")

    def draw(net: nn.Module, n: int, steps: int) -> torch.Tensor:
        z = torch.zeros(n, 1, 28, 28)
        for _ in range(steps - (width == 13)):  # one of them leaves out a call
            z = net(z, torch.zeros(n))
        return z.to(torch.uint8)

    return contestants.Library(
        "small", "torch", lambda: Convolution(width), lambda net, z, t: net(z, t), draw
    )


def test_flops_are_those_of_the_convolutions() -> None:
    contestants, small = benchmark("contestants"), library(6)
    forward = 2 * 2 * 9 * 6 * 28**2
    assert contestants.flops(small, small.build()) == forward
    # Backward: the gradients of both kernels, and of what the second convolution got, but not of z.
    assert contestants.flops(small, small.build(), training=True) == forward * 5 // 2


def test_attention_has_the_flops_of_its_products() -> None:
    """Fused attention is two products of (places x width) matrices, 4 · places² · width in all."""

    class Attention(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.gain = nn.Parameter(torch.ones(()))

        def forward(self, z: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
            x = self.gain * z.view(len(z), 1, 49, 16)
            return nn.functional.scaled_dot_product_attention(x, x, x).view_as(z)

    small = replace(library(1), build=Attention)
    contestants = benchmark("contestants")
    assert contestants.flops(small, small.build()) == 4 * 49**2 * 16
    assert contestants.flops(small, small.build(), training=True) == 3 * 4 * 49**2 * 16
    with sdpa_kernel(SDPBackend.MATH):  # which the counter knows by itself
        assert contestants.flops(small, small.build(), training=True) == 3 * 4 * 49**2 * 16


def test_networks_are_alike_within_five_percent() -> None:
    alike = benchmark("contestants").alike
    assert alike({"phin": 100, "a": 105, "b": 95}) == pytest.approx({"phin": 0, "a": 0.05, "b": -0.05})
    for other in (106, 94):
        with pytest.raises(PhinError, match=f"network of a .*[{'+' if other > 100 else '-'}]6.0% of phin's"):
            alike({"phin": 100, "a": other})


@pytest.mark.filterwarnings("ignore")  # of their own
@pytest.mark.parametrize("name", ["diffusers", "denoising-diffusion-pytorch", "azula", "k-diffusion"])
def test_each_peer_that_is_installed_has_our_flops_and_draws_in_so_many_calls(name: str) -> None:
    contestants = benchmark("contestants")
    ours, theirs = (contestants.LIBRARIES[one] for one in ("phin", name))
    if why := contestants.missing(theirs):
        pytest.skip(f"{name}: {why}")
    net = theirs.build()
    contestants.alike({"phin": contestants.flops(ours, ours.build()), name: contestants.flops(theirs, net)})
    assert contestants.calls(theirs, net, 3) == 3
    assert contestants.calls(ours, ours.build(), 3) == 3
    drawn = theirs.draw(net, 2, 3)
    assert (drawn.dtype, drawn.shape) == (torch.uint8, (2, 1, 28, 28))


def test_the_ceiling_has_the_flops_of_all_3_x_3_convolutions(monkeypatch: pytest.MonkeyPatch) -> None:
    contestants, peers = benchmark("contestants"), benchmark("peers")
    monkeypatch.setattr(peers, "MATRIX", (8, 8, 8))
    small = library(6)
    small = replace(small, build=lambda: nn.Sequential(nn.Conv2d(1, 6, 3, padding=1), nn.Conv2d(6, 6, 1)))
    small = replace(small, call=lambda net, z, t: net(z))
    ceiling = peers.Ceiling(small, contestants.Batch.of(5))
    assert ceiling.flops() == 5 * 2 * 9 * 6 * 28**2  # the 1 x 1 is no 3 x 3
    limits = ceiling.actions()
    kinds = ("bfloat16", "float32")
    assert [limits[f"convolutions forward and backward, {kind}"][0] for kind in kinds] == [
        3 * ceiling.flops()
    ] * 2
    for _, action in limits.values():
        action()


# Who takes part


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Phin and one peer are small; the others are not installed."""
    contestants = benchmark("contestants")
    absent = {name: replace(library(8), module=f"absent_{name[0]}") for name in ("azula", "k-diffusion")}
    here = {"phin": library(8), "diffusers": library(8), **absent}
    monkeypatch.setattr(contestants, "LIBRARIES", here)
    monkeypatch.setattr(benchmark("peers"), "LIBRARIES", here)
    monkeypatch.setattr(benchmark("peers"), "MATRIX", (8, 8, 8))
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


QUICK = "--rounds 2 --trials 1 --batch 2 --steps 2 --measures training calls drawing"


def test_absent_peers_are_named_and_skipped_and_never_counted(
    small: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "peers.json"
    words = f"{QUICK} --peers diffusers azula k-diffusion --settings float32 bfloat16 --json {file}"
    assert benchmark("peers").main(words.split()) == 0
    told = capsys.readouterr().out
    for name in ("azula", "k-diffusion"):
        assert f"{name} is skipped: it is not installed" in told
    found = json.loads(file.read_text(encoding="utf-8"))
    assert set(found["skipped"]) == {"azula", "k-diffusion"}
    for measure in ("training", "calls", "drawing"):
        rows = found[measure]["rows"].values()
        own = ["phin, its own step"] if measure == "training" else []
        assert [row["library"] for row in rows] == ["phin", *own, "diffusers"]
        ours, *_, theirs = rows
        assert ours["phin_is_faster"] == {"median": 1, "low": 1, "high": 1}
        ratio = sum(a / b for a, b in zip(theirs["seconds"], ours["seconds"], strict=True)) / 2
        assert theirs["phin_is_faster"]["median"] == pytest.approx(ratio)  # of two, the median is the mean
        conv = found[measure]["ceiling"]
        kind = "forward and backward" if measure == "training" else "forward"
        top = max(conv[f"convolutions {kind}, {number}"]["median"] for number in ("bfloat16", "float32"))
        work = found["networks"]["diffusers"]["training" if measure == "training" else "forward"]
        work *= 2 if measure == "drawing" else 1  # steps
        speed = theirs["images_per_second"]["median"]
        assert theirs["share_of_ceiling"] == pytest.approx(work * speed / top)


def test_a_peer_runs_in_its_fastest_setting(small: None, monkeypatch: pytest.MonkeyPatch) -> None:
    peers, contestants = benchmark("peers"), benchmark("contestants")
    fast = contestants.SETTINGS["bfloat16+channels-last"]
    tried: list[str] = []

    def turns(actions: dict[str, Any], rounds: int, **_: Any) -> dict[str, list[float]]:
        tried.extend(actions)
        return {name: [1.0 if name == str(fast) else 2.0] * rounds for name in actions}

    monkeypatch.setattr(peers, "interleaved", turns)
    plain = [setting for setting in contestants.SETTINGS.values() if not setting.compiled]
    race = peers.Race(["diffusers"], plain, False, contestants.Batch.of(2), 2, 1, 2, {})
    (_, ours), (name, theirs) = race.entrants("calls")
    assert (name, theirs.setting, ours.setting) == ("diffusers", fast, contestants.DEFAULT)
    assert sorted(tried) == sorted(map(str, plain))
    assert race.entrants("drawing")[1][1] is theirs  # which is not tried anew
    assert len(tried) == len(plain)


@pytest.fixture
def eager(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """torch.compile compiles, counts what it has compiled, and leaves the kernels as they are."""
    dynamo = importlib.import_module("torch._dynamo")
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="eager"))
    with dynamo.config.patch(recompile_limit=2, fail_on_recompile_limit_hit=False):
        yield
    dynamo.reset()


COMPILED = ("float32+compiled", "bfloat16+compiled")


def test_a_setting_that_torch_gives_up_compiling_is_left_out_and_named(
    small: None, eager: None, capsys: pytest.CaptureFixture[str]
) -> None:
    """Two compilations are the limit, and others have had one."""
    peers, contestants = benchmark("peers"), benchmark("contestants")
    settings = [contestants.SETTINGS[name] for name in COMPILED]
    race = peers.Race(["diffusers"], settings, False, contestants.Batch.of(2), 2, 1, 2, {})
    contestants.Contestant(library(8), contestants.SETTINGS["float32+channels-last+compiled"]).train(
        race.batch
    )
    assert [str(one.setting) for one in race.rank("training")["diffusers"]] == ["float32+compiled"]
    assert list(race.tried["training"]["diffusers"]) == ["float32+compiled"]
    assert race.failed == {"training": {"diffusers, bfloat16+compiled": unittest.mock.ANY}}
    assert "Limit" in race.failed["training"]["diffusers, bfloat16+compiled"]
    # The one that is left cannot draw either, so that the peer has no row, and no wrong one.
    assert [name for name, _ in race.entrants("calls")] == ["phin"]
    assert set(race.failed["calls"]) == {f"diffusers, {name}" for name in COMPILED}


def test_what_one_measure_compiles_leaves_the_next_its_limit(
    small: None, eager: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Each measure compiles the forward pass twice, and twice is the limit."""
    file = tmp_path / "peers.json"
    words = f"{QUICK} --peers diffusers --settings {' '.join(COMPILED)} --json {file}".split()
    assert benchmark("peers").main(words) == 0
    found = json.loads(file.read_text(encoding="utf-8"))
    assert found["failed"] == {}
    for measure in ("training", "calls"):
        assert set(found["tried"][measure]["diffusers"]) == set(COMPILED)
    assert len(found["drawing"]["rows"]) == 2
    assert "left out" not in capsys.readouterr().out


class Fitted(Task):
    """The step of all contestants, for `fit` to take."""

    def __init__(self, model: nn.Module, batch: Any) -> None:
        super().__init__()
        self.model, self.batch = model, batch
        self.averaged: dict[str, torch.Tensor] = {}

    def forward(self, step: int, rows: slice) -> Losses:
        error = self.model(self.batch.z).float() - self.batch.target
        return Losses(error.square().mean((1, 2, 3)))

    def validate(self, model: nn.Module) -> dict[str, float]:
        self.averaged = {name: value.clone() for name, value in model.state_dict().items()}
        return {"loss": 0.0}


def test_phins_own_step_is_that_of_its_training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Three steps of `fit` end with the same weights and average; gradients are long, and clipped."""
    contestants = benchmark("contestants")

    def build() -> nn.Module:
        layers = [nn.Conv2d(1, 32, 3, padding=1), nn.Conv2d(32, 32, 3, padding=1), nn.Conv2d(32, 1, 1)]
        return nn.Sequential(*layers)

    conv = contestants.Library("small", "torch", build, lambda net, z, t: net(z), lambda *_: None)
    monkeypatch.setitem(contestants.LIBRARIES, "phin", conv)
    batch = replace(contestants.Batch.of(4, side=8), target=torch.full((4, 1, 8, 8), 30.0))
    own = contestants.OwnStep()
    task = Fitted(copy.deepcopy(own.net), batch)
    config = replace(phin.RECIPES["mnist"].train, minutes=None, steps=3, warmup=0.0, anneal=False, batch=4)
    config = replace(config, validate_every=1.0, picture_every=0.0, trackers=())
    fit(task, config, tmp_path / "run", {"family": "none"})
    for _ in range(3):
        own.train(batch)
    assert list(own.optimizer.kernels) == ["1.weight"]  # which Muon moves
    for name, weight in own.net.state_dict().items():
        torch.testing.assert_close(weight, task.model.state_dict()[name], rtol=1e-5, atol=1e-7)
        torch.testing.assert_close(
            own.average.model.state_dict()[name], task.averaged[name], rtol=1e-5, atol=1e-7
        )
        assert not torch.equal(weight, task.averaged[name])


def test_memory_is_that_of_the_setting_that_takes_least(monkeypatch: pytest.MonkeyPatch) -> None:
    peers, contestants = benchmark("peers"), benchmark("contestants")
    peaks = {
        ("phin", "bfloat16"): 300,
        ("diffusers", "float32"): 500,
        ("diffusers", "bfloat16"): 450,
        ("diffusers", "bfloat16+channels-last"): 480,
        ("diffusers", "float32+compiled"): 900,
    }

    def weighed(script: str, alone: str, name: str, setting: str, *_: Any) -> dict[str, int]:
        if (name, setting) not in peaks:
            raise PhinError(f"{setting} failed")
        return {"peak": peaks[name, setting], "before": 200}

    monkeypatch.setattr(peers.command, "printed", weighed)
    args, failed = peers.parsed([]), dict[str, str]()
    fast = contestants.SETTINGS["bfloat16"]
    tried = [contestants.SETTINGS[setting] for name, setting in peaks if name == "diffusers"]
    tried.append(contestants.SETTINGS["bfloat16+compiled"])
    found = peers.memory(args, {"phin": [fast], "diffusers": tried}, failed)
    row = found["diffusers"]
    assert (row["setting"], row["peak"], row["own"]) == ("bfloat16", 450, 250)
    assert row["phins_by_it"] == {"peak": pytest.approx(300 / 450), "own": pytest.approx(100 / 250)}
    assert set(row["tried"]) == {setting for name, setting in peaks if name == "diffusers"}
    assert failed == {"diffusers, bfloat16+compiled": "bfloat16+compiled failed"}
    with pytest.raises(PhinError, match="bfloat16\\+channels-last failed"):
        peers.memory(args, {"phin": [contestants.SETTINGS["bfloat16+channels-last"]]}, failed)


def test_every_setting_has_a_row_if_that_is_asked_for(
    small: None, capsys: pytest.CaptureFixture[str]
) -> None:
    words = f"{QUICK} --each --peers diffusers --settings float32 bfloat16 --json".split()
    assert benchmark("peers").main(words) == 0
    rows = json.loads(capsys.readouterr().out)["training"][
        "rows"
    ]  # without a file, it is all that is printed
    settings = ("float32", "bfloat16")
    own = f"phin, its own step, {benchmark('contestants').DEFAULT}"
    every = {f"{name}, {setting}" for name in ("phin", "diffusers") for setting in settings}
    assert set(rows) == {*every, own}
    assert "phin_is_faster_in_this_setting" not in rows[own]  # it is another step
    row = rows["diffusers, float32"]
    pairs = zip(row["seconds"], rows["phin, float32"]["seconds"], strict=True)
    same = sum(theirs / ours for theirs, ours in pairs) / 2
    assert row["phin_is_faster_in_this_setting"]["median"] == pytest.approx(same)


def test_a_package_that_lacks_another_is_not_said_to_be_absent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    contestants = benchmark("contestants")
    (tmp_path / "lacking.py").write_text("import absent_thing\n")
    (tmp_path / "broken.py").write_text("raise RuntimeError('operator torchvision::nms does not exist')\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    small = library(1)
    assert contestants.missing(small) is None
    assert contestants.missing(replace(small, module="lacking")) == "it is installed without absent_thing"
    assert "torchvision::nms" in contestants.missing(replace(small, module="broken"))


# Mistakes


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ("--compile", "needs a C++ compiler (no-such-compiler"),
        ("--settings float32+compiled", "needs a C++ compiler"),
        ("--rounds 0", "rounds = 0: at least 1"),
        ("--batch -3", "batch = -3: at least 1"),
        ("--threads 0", "threads = 0: at least 1"),
        ("--json absent/peers.json", "make it first"),
        ("--json .", ". is a folder: give the name of a file"),
    ],
)
def test_mistakes_are_told_in_one_line(
    words: str,
    told: str,
    small: None,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("CXX", "no-such-compiler")
    monkeypatch.chdir(tmp_path)
    assert benchmark("peers").main(words.split()) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.startswith("error: ")
    assert said.err.count("\n") == 1
    assert told in said.err


@pytest.mark.parametrize(
    ("name", "words", "told"),
    [
        ("scaling", "--threads -1", "threads = -1: at least 1"),
        ("scaling", "--rounds 0", "rounds = 0: at least 1"),
        ("scaling", "--steps-of-training 0", "steps_of_training = 0: at least 1"),
        ("scaling", "--sizes 1000 99", "sizes has 99: at least 100"),
        ("serving", "numbers:10 --rounds 0", "rounds = 0: at least 1"),
        ("serving", "numbers:10 --threads 0", "threads = 0: at least 1"),
        ("serving", "nowhere:10", "unknown model 'nowhere'"),
        ("time_to_quality", "--threads 0", "threads = 0: at least 1"),
        ("time_to_quality", "--n 0", "n = 0: at least 1"),
        ("time_to_quality", "--steps 0", "steps = 0: at least 1"),
        ("time_to_quality", "--peers-json absent.json", "absent.json has no speeds of training"),
        ("time_to_quality", "--peers-json cut.json", "cut.json has no speeds of training"),
        ("time_to_quality", "--peers-json calls.json", "calls.json has no speeds of training"),
        ("time_to_quality", "--peers-json list.json", "list.json has no speeds of training"),
        ("time_to_quality", "--peers-json setting.json", "setting.json has no speeds of training"),
        ("time_to_quality", "--peers-json none.json", "none.json has no row of diffusers"),
        ("time_to_quality", "--peers-json training.json", "training.json has no speeds of calls"),
        ("time_to_quality", "", "diffusers runs in its best settings: find them by peers.py --json"),
        ("time_to_quality", "--only diffusers", "diffusers runs in its best settings"),
        ("equal_quality", "--n 0", "n = 0: at least 1"),
        ("equal_quality", "--most-steps 9", "most_steps = 9: some peers have no sampler of fewer than 10"),
    ],
)
def test_other_mistakes_are_told_before_anything_begins(
    name: str,
    words: str,
    told: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    module = benchmark(name)
    row = {"library": "diffusers", "setting": "float16", "images_per_second": {"median": 1.0}}
    for file, text in (
        ("cut", "{"),
        ("calls", '{"calls": {"rows": {}}}'),
        ("list", '{"training": []}'),
        ("setting", json.dumps({"training": {"rows": {"a": row}}})),
        ("none", '{"training": {"rows": {}}}'),
        (
            "training",
            json.dumps(
                {
                    "training": {
                        "rows": {
                            name: row | {"library": name, "setting": "float32"}
                            for name in ("diffusers", "denoising-diffusion-pytorch")
                        }
                    }
                }
            ),
        ),
    ):
        (tmp_path / f"{file}.json").write_text(text, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(benchmark("time_to_quality"), "missing", lambda library: None)
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: pytest.fail("begun"))
    monkeypatch.setattr(benchmark("scaling"), "QUESTIONS", {"side": lambda args: pytest.fail("begun")})
    words = f"{words} --only side" if name == "scaling" else words
    output = [] if name == "serving" else ["--out", "out"]
    assert module.main([*words.split(), *output]) == 2
    said = capsys.readouterr()
    assert (said.out, said.err.count("\n")) == ("", 1)
    assert said.err.startswith(f"error: {told}")
    assert not (tmp_path / "out").exists()


def test_a_process_of_its_own_prints_json_last_or_its_last_words_are_told(tmp_path: Path) -> None:
    printed, script = benchmark("command").printed, tmp_path / "script.py"
    script.write_text("import sys; print('so'); print(f'[{len(sys.argv)}, {sys.argv[2]}]')", encoding="utf-8")
    assert printed(str(script), "--size", 7) == [3, 7]
    for program, why in (
        ("import sys; print('first', file=sys.stderr); sys.exit('error: no space')", "no space"),
        ("raise SystemExit(3)", "exit code 3"),
        ("1 / 0", "ZeroDivisionError: division by zero"),
    ):
        script.write_text(program, encoding="utf-8")
        with pytest.raises(PhinError, match=re.escape(f"`script.py --size 7` failed: {why}") + "$"):
            printed(str(script), "--size", 7)


@pytest.mark.skipif(sys.platform == "win32", reason="a shell script")
@pytest.mark.parametrize(
    ("name", "words", "told"),
    [
        ("peers", "--measures memory --peers diffusers", "`peers.py --alone phin"),
        ("scaling", "--only data --sizes 100 --folder folder --out out", "`scaling.py --alone folder"),
        ("scaling", "--only processes --out out", "`-m phin.cli train mnist"),
    ],
)
def test_a_process_that_fails_is_told_in_one_line(
    name: str,
    words: str,
    told: str,
    small: None,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    python = tmp_path / "python"
    python.write_text("#!/bin/sh\necho of no use >&2\necho killed by the cat >&2\nexit 3\n", encoding="utf-8")
    python.chmod(0o700)
    monkeypatch.setattr(sys, "executable", str(python))
    monkeypatch.chdir(tmp_path)
    assert benchmark(name).main(words.split()) == 2
    line = capsys.readouterr().err.splitlines()[-1]
    assert line.startswith(f"error: {told}")
    assert line.endswith(": killed by the cat")


class Priced:
    """A contestant whose steps, calls and drawn pictures cost a known power of what they are of."""

    def __init__(self, clock: Machine, channels: int = 1) -> None:
        self.machine, self.channels = clock, channels

    def train(self, batch: Any) -> None:
        self.machine.now += 3 * self.call(batch)

    def call(self, batch: Any) -> float:
        cost = self.channels**2 * batch.z.numel() / 1e4
        self.machine.now += cost
        return cost

    def draw(self, n: int, steps: int) -> None:
        self.machine.now += n * steps * self.channels**2


def test_the_exponents_are_those_of_what_each_question_asks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    scaling, timing, machine = benchmark("scaling"), benchmark("timing"), Machine()
    monkeypatch.setattr(scaling, "network", lambda width=1: Priced(machine, width))
    monkeypatch.setattr(scaling, "interleaved", partial(timing.interleaved, clock=machine.clock))
    words = f"--only side batch width steps --rounds 2 --threads 1 --out {tmp_path}"
    assert scaling.main(words.split()) == 0
    told = [line.split(" | ")[1:] for line in capsys.readouterr().out.splitlines() if "exponent" in line]
    assert told == [["2.00", "2.00 |"], ["1.00", "1.00 |"], ["2.00", "2.00 |"], ["1.00 |"]]
    for name, sizes in {"side": scaling.SIDES, "width": scaling.WIDTHS, "steps": scaling.STEPS}.items():
        costs = json.loads((tmp_path / f"{name}.json").read_text(encoding="utf-8"))["costs"]
        assert {size for by_size in costs.values() for size in by_size} == set(map(str, sizes))
        assert (tmp_path / f"{name}.png").read_bytes().startswith(b"\x89PNG")
    steps = json.loads((tmp_path / "steps.json").read_text(encoding="utf-8"))["costs"]["drawing"]
    assert steps == {str(size): pytest.approx(size) for size in scaling.STEPS}  # of one picture


@pytest.mark.skipif(sys.platform == "win32", reason="a shell script")
def test_growth_is_measured_of_networks_processes_and_folders(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every question, to its end, of small sizes; `processes` with a recipe that needs no files."""
    scaling, told = benchmark("scaling"), tmp_path / "told"
    sizes = {"SIDES": (8, 16), "BATCHES": (1, 2), "WIDTHS": (4, 8), "STEPS": (2, 3)}
    for name, some in sizes.items():
        monkeypatch.setattr(scaling, name, some)
    python = tmp_path / "python"
    swap = 'for word; do shift; [ "$word" = mnist ] && word=swiss-roll; set -- "$@" "$word"; done'
    tell = f'[ "$1" = -m ] && echo "${{WORLD_SIZE:-1}} ${{RANK:-0}}" >> "{told}"'
    python.write_text(f'#!/bin/sh\n{swap}\n{tell}\nexec "{sys.executable}" "$@"\n', encoding="utf-8")
    python.chmod(0o700)
    monkeypatch.setattr(sys, "executable", str(python))
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "lo")
    words = "--rounds 1 --threads 1 --steps-of-training 1 --sizes 100 200"
    words += f" --folder {tmp_path / 'pictures'} --out {tmp_path / 'out'}"
    assert scaling.main(words.split()) == 0
    ranks = sorted(told.read_text(encoding="utf-8").splitlines())
    assert ranks == ["1 0", "2 0", "2 1"]  # one process, and then two that are told of each other
    found = {
        name: json.loads((tmp_path / "out" / f"{name}.json").read_text(encoding="utf-8"))["costs"]
        for name in scaling.QUESTIONS
    }
    expected = [*sizes.values(), (1, 2), (100, 200)]
    for costs, some in zip(found.values(), expected, strict=True):
        for by_size in costs.values():
            assert [*by_size] == [str(size) for size in some]
            assert min(by_size.values()) > 0
    assert [*found["data"]] == ["opening, s", "a training picture, s", "peak memory, MB"]
    assert min(found["data"]["peak memory, MB"].values()) > 100  # torch alone takes more
    assert len([*(tmp_path / "pictures" / "200").glob("*.png")]) == 200


def test_a_warm_model_is_timed_and_weighed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """One row for each number of steps, of one prompt and of many, and of a process of its own."""
    serving, asked = benchmark("serving"), list[tuple[int, int]]()
    model = tiny.write(tiny.NUMBERS, tmp_path / "tiny.safetensors")
    monkeypatch.setattr(phin, "sample", lambda model, prompts, steps: asked.append((len(prompts), steps)))
    monkeypatch.setattr(serving, "printed", lambda *words: [30.4, 41.6])
    assert serving.main(f"{model}:3 {model}:2 --rounds 4".split()) == 0
    assert sorted(set(asked)) == [(1, 2), (1, 3), (64, 2), (64, 3)]
    assert {asked.count(each) for each in asked} == {6}  # two of them to warm up
    rows = [line.split(" | ") for line in capsys.readouterr().out.splitlines() if "tiny" in line]
    assert [(row[1], row[-1]) for row in rows] == [("3", "30, 42 |"), ("2", "30, 42 |")]
    with pytest.raises(SystemExit) as refused:
        serving.main(["numbers"])
    assert refused.value.code == 2


def test_what_a_model_takes_is_told_by_a_process_of_its_own(tmp_path: Path) -> None:
    """Torch is not counted: a model of some kilobytes, with Phin, takes far less than that."""
    model = tiny.write(tiny.NUMBERS, tmp_path / "tiny.safetensors")
    once, often = benchmark("command").printed(
        str(ROOT / "benchmarks" / "serving.py"), f"{model}:2", "--alone"
    )
    assert 0 < once < often + 20 < 120


def test_without_a_compiler_compiling_is_left_out_unless_it_is_asked_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    settings = benchmark("peers").settings
    monkeypatch.setenv("CXX", "no-such-compiler")
    assert not any(setting.compiled for setting in settings(None, None))
    monkeypatch.setenv("CXX", sys.executable)  # any program that is there
    assert any(setting.compiled for setting in settings(None, None))
    assert len(settings(None, True)) == len(settings(None, None)) == 8
    assert len(settings(None, False)) == 4


def test_peers_that_are_not_compiled_for_lack_of_a_compiler_are_said_to_be(
    small: None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("CXX", "no-such-compiler")
    words = "--rounds 1 --trials 1 --batch 1 --measures calls --peers diffusers".split()
    for more, said in ([], True), (["--no-compile"], False), (["--settings", "float32"], False):
        assert benchmark("peers").main([*words, *more]) == 0
        why = "torch.compile is skipped: it needs a C++ compiler (no-such-compiler, by"
        assert (why in capsys.readouterr().out) == said


def test_samplers_of_unlike_calls_do_not_compare(
    small: None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    peers = benchmark("peers")
    odd = replace(library(13), build=lambda: Convolution(8))
    monkeypatch.setitem(peers.LIBRARIES, "diffusers", odd)
    assert peers.main([*QUICK.split(), "--peers", "diffusers"]) == 2
    assert "diffusers calls its network 1 times in 2 steps" in capsys.readouterr().err


def test_another_peer_is_unknown() -> None:
    done = subprocess.run(
        [sys.executable, ROOT / "benchmarks" / "peers.py", "--peers", "jax"], capture_output=True, text=True
    )
    assert done.returncode == 2
    assert "invalid choice: 'jax'" in done.stderr


# Time to quality


def test_a_mark_is_where_the_curve_crosses_it() -> None:
    """A power law is a line in logarithms, and is crossed exactly, wherever it is measured."""
    crossing = benchmark("time_to_quality").crossing
    seconds = [10, 13, 30, 100]
    curve = [500 * s**-1.5 for s in seconds]
    for mark in (curve[1], 5.0, 0.7):
        assert crossing(seconds, curve, mark) == pytest.approx((500 / mark) ** (1 / 1.5))
    assert crossing(seconds, curve, 100) == 10  # it was there before it was first measured
    assert crossing(seconds, curve, 0.49) is None
    assert crossing([1, 10, 100, 1000], [100, 1, 100, 0.1], 10) == pytest.approx(10**0.5)  # the first time


def test_measurements_come_later_and_later() -> None:
    after = benchmark("time_to_quality").after
    times = [after(0, 1.5)]
    while times[-1] < 100:
        times.append(after(times[-1], 1.5))
    assert times == pytest.approx([10 * 1.5**k for k in range(len(times))])
    assert after(14.9, 1.5) == pytest.approx(15)
    assert after(15.1, 1.5) == pytest.approx(22.5)


def test_a_peers_average_is_its_own_librarys() -> None:
    """Against diffusers' EMAModel as its training script makes one."""
    from diffusers.training_utils import EMAModel

    quality = benchmark("time_to_quality")
    theirs = EMAModel([], decay=0.9999, use_ema_warmup=True, inv_gamma=1.0, power=0.75)
    ours = quality.Diffusers(*[benchmark("contestants").Setting()] * 2)
    for done in (1, 2, 10, 1000, 10**6):
        assert ours.decay(done) == pytest.approx(theirs.get_decay(done))
    rates = [ours.rate(number, 0.0) for number in (0, 249, 499, 10_000)]
    assert rates == pytest.approx([2e-7, 5e-5, 1e-4, 1e-4])
    assert ours.rate(10_000, 0.5) == pytest.approx(5e-5)
    assert ours.rate(10_000, 1.0) == pytest.approx(0, abs=1e-12)


def test_the_other_peers_steps_are_its_librarys_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two halves of a batch in [0, 1], as of its Trainer; and the defaults of ema_pytorch, told as there."""
    quality, contestants = benchmark("time_to_quality"), benchmark("contestants")
    given: list[torch.Tensor] = []

    class Diffusion:
        def __init__(self, net: nn.Module, image_size: int, timesteps: int) -> None:
            assert (image_size, timesteps) == (28, 1000)
            self.net = net

        def __call__(self, x: torch.Tensor) -> torch.Tensor:
            given.append(x)
            return self.net(x, torch.zeros(len(x))).square().mean()

    stand_in = types.ModuleType("denoising_diffusion_pytorch")
    monkeypatch.setattr(stand_in, "GaussianDiffusion", Diffusion, raising=False)
    monkeypatch.setitem(sys.modules, "denoising_diffusion_pytorch", stand_in)
    monkeypatch.setitem(contestants.LIBRARIES, "denoising-diffusion-pytorch", library(4))
    monkeypatch.setattr(quality, "LIBRARIES", contestants.LIBRARIES)
    peer = quality.Lucidrains(*[contestants.Setting()] * 2)
    x = torch.rand(64, 1, 28, 28) * 2 - 1
    before = {name: p.clone() for name, p in peer.net.named_parameters()}
    peer.differentiate(x)
    assert [len(part) for part in given] == [32, 32]
    torch.testing.assert_close(torch.cat(given), (x + 1) / 2)
    whole = torch.autograd.grad(Diffusion(peer.net, 28, 1000)((x + 1) / 2), [*peer.net.parameters()])
    for parameter, gradient in zip(peer.net.parameters(), whole, strict=True):
        torch.testing.assert_close(parameter.grad, gradient)
    peer.step(0, x, 0.0)
    moved = max(float((p - before[name]).abs().max().detach()) for name, p in peer.net.named_parameters())
    assert moved == pytest.approx(8e-5, rel=1e-2)  # Adam's first step is as long as the rate

    for done in range(1, 500):
        step = done - 1  # that ema_pytorch has counted
        epoch = max(step + 1 - 100 - 1, 0)
        copied = step <= 100
        expected = 0.0 if copied else min(1 - (1 + epoch / 1.0) ** (-2 / 3), 0.995)
        assert peer.decay(done) == (pytest.approx(expected) if step % 10 == 0 else None), done


@pytest.mark.filterwarnings("ignore")  # of their own
def test_a_rehearsal_leaves_a_peer_as_it_was(unet: Callable[[], nn.Module]) -> None:
    quality, x = benchmark("time_to_quality"), torch.randn(16, 1, 28, 28)
    peers = [quality.Diffusers(*[benchmark("contestants").Setting()] * 2) for _ in range(2)]
    peers[0].rehearse(x)
    for peer in peers:
        peer.step(3, x, 0.1)
    for one, other in zip(*(peer.tensors().values() for peer in peers), strict=True):
        assert torch.equal(one, other)


def curve_of(
    path: Path, name: str, points: list[tuple[float, float]], floor: float = 0.05, **settings: str
) -> Any:
    what = {"name": name, "n": 20, **settings}
    curve = benchmark("time_to_quality").Curve(path / f"{name}.json", what, floor)
    curve.found["startup"] = 2.5
    for seconds, distance in points:
        curve.add(seconds, 0, distance)
    curve.found["finished"] = True
    curve.write()
    return curve


def test_the_table_says_how_many_times_as_long_a_peer_takes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The floor is 0.05, so that the marks are 5, 1.5 and 0.5."""
    quality = benchmark("time_to_quality")
    monkeypatch.setattr(quality, "missing", lambda library: "it is not installed")
    curve_of(tmp_path, "phin", [(5, 5.0), (10, 1.5), (20, 0.5)])
    curve_of(tmp_path, "phin-unlabelled", [(10, 5.0), (20, 1.5), (40, 0.6)])
    how = {"setting": "bfloat16+compiled", "drawing": "float32+channels-last"}
    curve_of(tmp_path, "diffusers", [(10, 50.0), (100, 5.0), (240, 2.0)], 0.05, **how)
    table = quality.tabled(quality.curves(tmp_path))
    assert "| phin | labels | 5 s | 10 s | 20 s | 10 | 2.5 s |" in table
    assert "| phin-unlabelled | nothing | 10 s | 20 s | over 40 s | 12 | 2.5 s |" in table
    times = "100 s | over 240 s | over 240 s"
    assert f"| diffusers | nothing | {times} | 40 | 2.5 s | {' | '.join(how.values())} |" in table
    assert "| diffusers | phin | 20.0 | over 24.0 | over 12.0 |" in table
    assert "| diffusers | phin-unlabelled | 10.0 | over 12.0 |  |" in table  # it did not come to the last
    # Who is not there is named, and why; who has been measured is not.
    assert "\n\ndenoising-diffusion-pytorch is skipped: it is not installed" in table
    assert table.count("is skipped") == 1
    monkeypatch.setattr(quality, "missing", lambda library: None)
    told = "\n\ndenoising-diffusion-pytorch is not measured: --only denoising-diffusion-pytorch"
    assert told in quality.tabled(quality.curves(tmp_path))
    assert "n = 20, floor 0.0500" in table
    assert quality.drawn(quality.curves(tmp_path)).startswith(b"\x89PNG")


def test_peers_wait_for_phins_time_without_labels(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    quality = benchmark("time_to_quality")
    curve_of(tmp_path, "phin", [(10, 0.4)])  # which is told labels
    monkeypatch.setattr(quality, "missing", lambda library: None)
    file = speeds(
        tmp_path, {"training": [("diffusers", "float32", 1)], "calls": [("diffusers", "float32", 1)]}
    )
    assert quality.main(f"--only diffusers --out {tmp_path} --peers-json {file}".split()) == 2
    assert "measure it first, by --only phin-unlabelled" in capsys.readouterr().err


def test_a_contestant_that_fails_ends_the_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It has told why, in a process of its own, and its exit code is that of all."""
    asked: list[str] = []

    def fail(words: list[str]) -> Any:
        asked.append(words[-1])
        return subprocess.CompletedProcess(words, 3)

    monkeypatch.setattr(subprocess, "run", fail)
    with pytest.raises(SystemExit) as ended:
        benchmark("time_to_quality").main(f"--out {tmp_path} --only phin phin-unlabelled".split())
    assert (ended.value.code, asked) == (3, ["phin"])


def test_a_curve_is_of_one_setting(tmp_path: Path) -> None:
    curve_of(tmp_path, "phin", [(10, 5.0)])
    with pytest.raises(PhinError, match="was measured with n 20, not 50"):
        benchmark("time_to_quality").Curve(tmp_path / "phin.json", {"n": 50})


def speeds(folder: Path, measured: dict[str, list[tuple[str, str, float]]]) -> Path:
    """What `peers.py --json` writes: of each measure, peers in settings, and their images a second."""
    found = {
        measure: {
            "rows": {
                f"{name}, {setting}": {
                    "library": name,
                    "setting": setting,
                    "images_per_second": {"median": speed},
                }
                for name, setting, speed in rows
            }
        }
        for measure, rows in measured.items()
    }
    path = folder / "peers.json"
    path.write_text(json.dumps(found), encoding="utf-8")
    return path


def test_a_peer_has_the_setting_that_was_fastest_at_what_it_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    quality = benchmark("time_to_quality")
    training = [
        ("phin, its own step", "of no peer", 99.0),
        ("diffusers", "float32", 50),
        ("azula", "bfloat16", 90),
        ("diffusers", "bfloat16+channels-last", 70),
        ("azula", "float32", 80),
        ("diffusers", "bfloat16", 60),
    ]
    calls = [("diffusers", "bfloat16", 7.0), ("diffusers", "float32+compiled", 8), ("azula", "float32", 6)]
    path, names = speeds(tmp_path, {"training": training, "calls": calls}), ["diffusers", "azula"]
    for measure, expected in (
        ("training", ["bfloat16+channels-last", "bfloat16"]),
        ("calls", ["float32+compiled", "float32"]),
    ):
        found = quality.settings(path, names, measure)
        assert [str(found[name]) for name in names] == expected
    other = "denoising-diffusion-pytorch"
    monkeypatch.setattr(quality, "missing", lambda library: "it is not installed")
    assert other not in quality.settings(path, [other], "training")  # which is skipped
    assert quality.settings(None, [other], "training") == {}
    monkeypatch.setattr(quality, "missing", lambda library: None)
    with pytest.raises(PhinError, match=f"no row of {other}: measure it by peers.py --peers {other}"):
        quality.settings(path, [other], "training")
    with pytest.raises(PhinError, match=f"{other} runs in its best settings"):
        quality.settings(None, [other], "training")


@pytest.fixture
def unet(monkeypatch: pytest.MonkeyPatch) -> Callable[[], nn.Module]:
    """The network of diffusers, small and with weights that do something."""
    from diffusers.models.unets.unet_2d import UNet2DModel

    def build() -> nn.Module:
        net = UNet2DModel(
            sample_size=28,
            in_channels=1,
            out_channels=1,
            block_out_channels=(8,),
            layers_per_block=1,
            norm_num_groups=4,
            down_block_types=("DownBlock2D",),
            up_block_types=("UpBlock2D",),
        )
        tiny.randomise(net)
        return net

    libraries = benchmark("contestants").LIBRARIES
    monkeypatch.setitem(libraries, "diffusers", replace(libraries["diffusers"], build=build))
    return build


@pytest.mark.filterwarnings("ignore")  # of their own
def test_what_a_peer_draws_is_in_the_setting_of_drawing(
    unet: Callable[[], nn.Module], eager: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its average is compiled, has its channels last, and is the one that training moves."""
    quality, contestants = benchmark("time_to_quality"), benchmark("contestants")
    plain, fast = contestants.SETTINGS["float32"], contestants.SETTINGS["float32+channels-last+compiled"]
    counters = importlib.import_module("torch._dynamo.utils").counters
    peer, same = quality.Diffusers(plain, fast), quality.Diffusers(plain, plain)
    same.load(peer.tensors(), Path("same"))

    def drawn(one: Any) -> torch.Tensor:
        torch.manual_seed(0)
        return one.draw(2, 3)

    counters.clear()
    expected = drawn(same)
    assert counters["stats"]["unique_graphs"] == 0
    first = drawn(peer)
    assert counters["stats"]["unique_graphs"] > 0
    kernel = peer.mean.conv_in.weight
    assert kernel.is_contiguous(memory_format=torch.channels_last) or kernel.shape[1] == 1
    assert peer.mean.conv_out.weight.is_contiguous(memory_format=torch.channels_last)
    assert not peer.net.conv_out.weight.is_contiguous(memory_format=torch.channels_last)
    assert (first.int() - expected.int()).abs().max() <= 1  # but for rounding
    for one in (peer, same):
        one.step(0, torch.randn(2, 1, 28, 28, generator=torch.Generator().manual_seed(0)), 0.0)
        with torch.no_grad():
            one.mean.conv_out.bias.add_(3.0)
    moved = drawn(peer)
    assert (moved.int() - drawn(same).int()).abs().max() <= 1
    assert not torch.equal(moved, first)


@pytest.mark.parametrize("before", [0.0, 3.0])
@pytest.mark.parametrize("name", ["phin", "phin-unlabelled"])
def test_phin_is_measured_with_labels_and_without_and_by_its_own_clock(
    name: str, before: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It begins at 990, the reference takes 50 s that do not count, and the first copy is there at 1052.

    The last copy is measured, too, however soon it comes after the one before: there the rate has fallen.
    An earlier process may have trained some seconds, and left no copy: the first is there as much sooner.
    """
    quality, now, trained = benchmark("time_to_quality"), [1000.0], []

    class Reference:
        features = type("Features", (), {"name": "none"})
        floor = MappingProxyType({"frechet": type("Floor", (), {"value": 0.05})})

        def __init__(self, *_: Any) -> None:
            now[0] += 50

    def train(recipe: Any, folder: Path, *_: Any) -> None:
        trained.append(recipe)
        (folder / "copies").mkdir()
        early = (5, 8.0, 0.0, 1052.0), (9, 30.0, 6.0, 1080.0)
        for step, seconds, aside, written in (*early, (10, 30.3, 6.0, 1081.0), (11, 30.5, 6.0, 1082.0)):
            path = folder / "copies" / f"{step:06}.safetensors"
            state = {"seconds": seconds, "aside": aside, "examples": 64 * step}
            save_weights(path, {"step": torch.tensor(step)}, {"training": {"state": state}})
            os.utime(path, (written - before, written - before))

    def evaluate(path: Path, reference: Any) -> Any:
        figures = {"measures": {"frechet": {"value": 60 / int(path.stem)}}}
        return type("Evaluation", (), {"figures": figures})

    monkeypatch.setattr(quality, "time", type("Time", (), {"time": staticmethod(lambda: now[0])}))
    monkeypatch.setattr(quality, "begun", lambda: 990.0)
    monkeypatch.setattr(quality.datasets, "load", lambda name: None)
    monkeypatch.setattr(quality, "Reference", Reference)
    monkeypatch.setattr(quality.phin, "train", train)
    monkeypatch.setattr(quality.phin, "load", lambda path: path)
    monkeypatch.setattr(quality.pictures, "evaluate", evaluate)
    if before:
        (tmp_path / name).mkdir()
        last = {"training": {"state": {"seconds": before}}}
        save_weights(tmp_path / name / "last.safetensors", {"step": torch.tensor(1)}, last)
    assert quality.main(f"--only {name} --minutes 3 --n 20 --out {tmp_path}".split()) == 0

    found = json.loads((tmp_path / f"{name}.json").read_text(encoding="utf-8"))
    assert found["finished"]
    assert found["setting"] == found["drawing"] == str(benchmark("contestants").DEFAULT)
    assert found["startup"] == pytest.approx(1052 - 1040 - 8)
    assert found["points"] == [
        {"seconds": pytest.approx(4 + 8), "images": 320, "frechet": 12},
        {"seconds": pytest.approx(4 + 30 - 6), "images": 576, "frechet": pytest.approx(60 / 9)},
        {"seconds": pytest.approx(4 + 30.5 - 6), "images": 704, "frechet": pytest.approx(60 / 11)},
    ]
    own = quality.phin.RECIPES["mnist"]
    (recipe,) = trained
    assert (recipe.train.minutes, recipe.train.copy_every) == (3, 0.02)
    assert replace(recipe, train=own.train, drop=own.drop, sample=own.sample) == own
    if name == "phin":
        assert (recipe.drop, recipe.sample) == (own.drop, own.sample)
    else:
        assert (recipe.drop, recipe.sample) == (1, replace(own.sample, guidance=1))


class Toy:
    """A peer whose one weight is the number of its steps, and that is interrupted at one of them."""

    examples = 4
    interrupted = math.inf
    rehearsed: ClassVar[list[int]] = []

    def __init__(self, setting: Any, drawing: Any) -> None:
        assert (str(setting), str(drawing)) == ("bfloat16", "float32+channels-last")
        self.weight = torch.zeros(1)

    def step(self, number: int, x: torch.Tensor, progress: float) -> None:
        assert (number, x.shape) == (int(self.weight), (4, 1, 28, 28))
        self.weight += 1
        if self.weight == Toy.interrupted:
            raise KeyboardInterrupt

    def rehearse(self, x: torch.Tensor) -> None:
        Toy.rehearsed.append(int(self.weight))

    def tensors(self) -> dict[str, torch.Tensor]:
        return {"weight": self.weight}

    def load(self, tensors: dict[str, torch.Tensor], path: Path) -> None:
        self.weight.copy_(tensors["weight"])


def test_a_peer_trains_for_six_times_our_time_and_goes_on_where_it_was_stopped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A step takes a second of a clock of our own, and measuring an hour, which does not count."""
    quality = benchmark("time_to_quality")
    curve_of(tmp_path, "phin-unlabelled", [(5, 5.0), (10, 0.4)])  # the last mark, 0.5, is reached after 9.4 s
    reached = math.exp(math.log(5) + math.log(2) * math.log(10) / math.log(12.5))
    now = [0.0]

    class Time:
        @staticmethod
        def perf_counter() -> float:
            now[0] += 1
            return now[0]

        @staticmethod
        def time() -> float:
            return 3.0

    class Data:
        def train(self, seed: int, step: int, size: int) -> Any:
            return type("Batch", (), {"x": torch.zeros(size, 1, 28, 28)})

    class Reference:
        def __init__(self, *_: Any) -> None:
            pass

        features = type("Features", (), {"name": "none"})
        floor = MappingProxyType({"frechet": type("Floor", (), {"value": 0.05})})

    def distance(self: Any, peer: Any) -> float:
        now[0] += 3600
        return 100 / float(peer.weight)

    monkeypatch.setattr(quality, "time", Time)
    monkeypatch.setattr(quality, "begun", lambda: 0.0)
    monkeypatch.setattr(quality.datasets, "load", lambda name: Data())
    monkeypatch.setattr(quality, "Reference", Reference)
    monkeypatch.setattr(quality, "missing", lambda library: None)
    monkeypatch.setattr(quality.Benchmark, "distance", distance)
    monkeypatch.setitem(quality.PEERS, "diffusers", Toy)
    how = {"training": "bfloat16", "calls": "float32+channels-last"}
    file = speeds(tmp_path, {measure: [("diffusers", setting, 1.0)] for measure, setting in how.items()})
    words = f"--only diffusers --out {tmp_path} --spacing 1.5 --n 20 --peers-json {file}".split()
    monkeypatch.setattr(Toy, "interrupted", 30)
    monkeypatch.setattr(Toy, "rehearsed", [])
    assert quality.main(words) == 130
    stopped = json.loads((tmp_path / "diffusers.json").read_text(encoding="utf-8"))
    assert not stopped["finished"]
    assert Toy.rehearsed == []
    monkeypatch.setattr(Toy, "interrupted", math.inf)
    assert quality.main(words) == 0
    found = json.loads((tmp_path / "diffusers.json").read_text(encoding="utf-8"))
    assert found["finished"]
    assert Toy.rehearsed == [stopped["points"][-1]["images"] // 4]  # once, from where it goes on
    assert found["points"][: len(stopped["points"])] == stopped["points"]
    assert found["limit"] == pytest.approx(6 * reached)
    seconds = [point["seconds"] for point in found["points"]]
    due = [10 * 1.5**k for k in range(5)] + [6 * reached]
    assert len(seconds) == len(due)
    assert all(at <= second < at + 2 for at, second in zip(due, seconds, strict=True))
    for point in found["points"]:  # three seconds went into the start
        assert point["images"] / 4 == pytest.approx(point["seconds"] - 3, abs=len(due) + 1)
        assert point["frechet"] == pytest.approx(400 / point["images"])


# Equal quality


@pytest.mark.parametrize(
    ("ours", "expected"),
    [
        ({"b": {2: 3.0, 3: 2.1, 5: 1.0}}, ["b, 3 steps, float32: 2.1 ± 0.1", "64 of 3 steps"]),
        ({"b": {5: 1.0}, "c": {4: 2.0}}, ["c, 4 steps, float32: 2 ± 0.1", "64 of 4 steps"]),
        ({"b": {2: 2.2}}, ["none comes within 1.05 times that", ""]),
    ],
)
def test_at_equal_quality_the_fewest_steps_that_will_do_are_timed(
    ours: dict[str, dict[int, float]], expected: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The peer's own best is 2, in 50 steps; 2.05 in 20 will do."""
    equal, setting = benchmark("equal_quality"), benchmark("contestants").Setting()
    known = {"peer": {"a": {10: 2.5, 20: 2.05, 50: 2.0}}, "phin-unlabelled": ours}
    samplers = {
        model: [
            equal.Sampler(name, steps, setting, lambda places, steps=steps: f"{len(places)} of {steps} steps")
            for name, ladder in found.items()
            for steps in ladder
        ]
        for model, found in known.items()
    }

    class Distances:
        def of(self, model: str, sampler: Any) -> Any:
            return equal.Estimate(known[model][sampler.name][sampler.steps], 0.1)

    def turns(actions: dict[str, Any], rounds: int, warm_up: int) -> dict[str, list[float]]:
        assert warm_up > 0  # the first of so many compiles
        drawn.extend(action() for action in actions.values())
        return {"peer": [8.0, 8.0], "phin-unlabelled": [2.0, 2.0]}

    drawn: list[str] = []
    monkeypatch.setattr(equal, "interleaved", turns)
    own = "phin-unlabelled"
    row = equal.compared("peer", samplers["peer"], own, samplers[own], Distances(), 2)
    assert row[:2] == ["peer, a, 50 steps, float32: 2 ± 0.1", "a, 20 steps, float32: 2.05 ± 0.1"]
    assert row[2] == "8.0 [8.0, 8.0]"
    assert row[3] == expected[0]
    assert drawn == [f"{equal.BATCH} of 20 steps", *filter(None, expected[1:])]
    assert row[5] == ("4.0 [4.0, 4.0]" if expected[1] else "")


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Distances of 40 pictures, four at a time, whose features are their pixels; they remember these."""
    equal = benchmark("equal_quality")

    class Reference:
        def __init__(self, *_: Any) -> None:
            self.seen: list[torch.Tensor] = []
            self.test = Summary(20)
            noise = torch.randn(40, 3, generator=torch.Generator().manual_seed(1))
            self.test.add(range(40), Seen(noise, torch.zeros(40, 10)))

        def features(self, pictures: torch.Tensor) -> Seen:
            self.seen.extend(pictures)
            return Seen(pictures.flatten(1)[:, 30:33].float(), torch.zeros(len(pictures), 10))

        features.name = "pixels"  # pyright: ignore[reportFunctionMemberAccess]

    monkeypatch.setattr(equal, "AT_ONCE", 4)
    monkeypatch.setattr(equal, "Reference", Reference)
    monkeypatch.setattr(equal.datasets, "load", lambda name: None)
    return lambda path: equal.Distances(path, 40, None)


@pytest.mark.filterwarnings("ignore")  # of their own
def test_a_distance_is_of_as_many_pictures_as_it_says(
    measured: Any, unet: Callable[[], nn.Module], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not of the first few over and over, whoever draws them; and who draws them again draws the same."""
    equal, quality, contestants = (
        benchmark(name) for name in ("equal_quality", "time_to_quality", "contestants")
    )
    own = tiny.write(tiny.LABELLED, tmp_path / "phin.safetensors")
    monkeypatch.setattr(equal, "OURS", {"dpmpp_2m": (2,)})
    monkeypatch.setattr(equal, "THEIRS", {"diffusers": {"DDIMScheduler": (2,)}})
    setting = contestants.Setting()
    peer = quality.Diffusers(setting, setting)
    save_weights(tmp_path / "diffusers.safetensors", peer.tensors(), {})
    everyone = {"phin": equal.ours(own), "diffusers": equal.theirs("diffusers", tmp_path, setting)}
    for name, (sampler,) in everyone.items():
        found = []
        for k in range(2):
            distances = measured(tmp_path / f"{name}{k}.json")
            found.append(distances.of(name, sampler))
            pictures = torch.stack(distances.reference.seen)
            assert pictures.dtype == torch.uint8
            assert len(pictures) == len(pictures.flatten(1).unique(dim=0)) == 40
        assert found[0] == found[1]
        kept = measured(tmp_path / f"{name}0.json")
        assert kept.of(name, sampler) == found[0]
        assert kept.reference.seen == []  # it was measured once
        kept.of(name, sampler._replace(setting=replace(setting, compiled=True)))
        assert len(kept.reference.seen) == 40  # another setting is measured anew
        assert len(sampler.weights) > 20
        kept.of(name, sampler._replace(weights=sampler.weights[::-1]))
        assert len(kept.reference.seen) == 80  # and so are other weights


def test_a_distilled_model_draws_in_its_own_steps(tmp_path: Path) -> None:
    teacher, path = tiny.write(tiny.LABELLED, tmp_path / "teacher.safetensors"), tmp_path / "fast.safetensors"
    recipe = student(str(teacher), train=tiny.BRIEF)
    known = describe("tiny-fast", recipe, tiny.FACTS[tiny.LABELLED])
    save_weights(path, phin.load(teacher).net.state_dict(), known)
    samplers = benchmark("equal_quality").ours(path)
    assert [(sampler.name, sampler.steps) for sampler in samplers] == [("consistency", 1), ("consistency", 2)]
    drawn = torch.stack([sampler.draw(range(3)) for sampler in samplers])
    assert drawn.dtype == torch.uint8
    assert not torch.equal(*drawn)


@pytest.mark.filterwarnings("ignore")  # of their own
@pytest.mark.parametrize("kind", ["DDIM", "DDPM"])
def test_diffusers_draws_as_its_own_pipelines_do(kind: str, unet: Callable[[], nn.Module]) -> None:
    import diffusers

    net = unet().eval()
    pipeline = getattr(diffusers, f"{kind}Pipeline")(net, getattr(diffusers, f"{kind}Scheduler")())
    pipeline.set_progress_bar_config(disable=True)
    torch.manual_seed(0)
    expected = pipeline(batch_size=2, num_inference_steps=5, output_type="np").images
    torch.manual_seed(0)
    with torch.no_grad():
        found = benchmark("contestants").scheduled(net, f"{kind}Scheduler", 2, 5)
    assert expected.std() > 0.1  # it is no blank
    assert abs(found.movedim(1, -1).numpy() - 255 * expected).max() <= 0.51


@pytest.mark.filterwarnings("ignore")  # of their own
def test_a_step_of_each_of_a_peers_samplers_is_a_call(unet: Callable[[], nn.Module]) -> None:
    """Of diffusers' all; the thousand ancestral steps, which its training script takes, are in ten here."""
    equal, quality, contestants = (
        benchmark(name) for name in ("equal_quality", "time_to_quality", "contestants")
    )
    counted = [0]

    def count(*_: Any) -> None:
        counted[0] += 1

    peer = quality.Diffusers(contestants.Setting(), contestants.Setting())
    peer.mean.register_forward_pre_hook(count)
    for sampler, ladder in equal.THEIRS["diffusers"].items():
        for steps in {min(10, step) for step in ladder}:
            counted[0] = 0
            equal.drawn(peer, sampler, steps, range(1))
            assert (sampler, counted[0]) == (sampler, steps)
    assert {max(ladder) for ladder in equal.THEIRS["diffusers"].values()} == {1000, 250, 50}


def test_samplers_of_too_many_steps_are_left_out_and_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    equal, quality, contestants = (
        benchmark(name) for name in ("equal_quality", "time_to_quality", "contestants")
    )
    model = tmp_path / equal.EQUAL
    model.mkdir()
    (tmp_path / "diffusers.safetensors").touch()
    file = speeds(tmp_path, {"calls": [("diffusers", "bfloat16", 1.0)]})
    reason = {contestants.LIBRARIES["denoising-diffusion-pytorch"]: "it is not installed"}
    monkeypatch.setattr(quality, "missing", reason.get)
    seen: list[list[int]] = []

    def compared(name: str, peer: list[Any], who: str, own: list[Any], *_: Any) -> list[str]:
        assert who == str(model)
        seen.extend([sampler.steps for sampler in samplers] for samplers in (peer, own))
        return [name, *[""] * 5]

    def theirs(name: str, out: Path, drawing: Any) -> list[Any]:
        return [equal.Sampler("DDPM", steps, drawing, print) for steps in (10, 100, 1000)]

    class Distances:
        found = MappingProxyType({"features": "pixels"})

        def __init__(self, *_: Any) -> None:
            pass

    monkeypatch.setattr(equal, "Distances", Distances)
    monkeypatch.setattr(equal, "compared", compared)
    monkeypatch.setattr(equal, "theirs", theirs)
    monkeypatch.setattr(equal, "ours", lambda path: theirs("phin", path, contestants.Setting()))
    words = ["--out", str(tmp_path), "--peers-json", str(file)]
    assert equal.main([*words, "--most-steps", "100"]) == 0
    assert seen == [[10, 100]] * 2
    told = capsys.readouterr().out
    assert "Left out for their steps: diffusers, DDPM, 1000 steps, bfloat16." in told
    assert "denoising-diffusion-pytorch is skipped: it is not installed" in told
    assert "not trained" not in told
    assert f"n = 5,000. Phin's model is {model}." in told
    model = model.rename(tmp_path / "another")
    words += ["--model", str(model)]
    monkeypatch.setattr(quality, "missing", lambda library: None)
    assert equal.main(words) == 0
    assert seen[2:] == [[10, 100, 1000]] * 2
    told = capsys.readouterr().out
    assert "Left out" not in told
    name = "denoising-diffusion-pytorch"
    assert f"{name} is not trained: run time_to_quality.py --only {name}" in told
    assert equal.main([*words[:2], *words[4:]]) == 2
    assert "diffusers runs in its best settings" in capsys.readouterr().err


def test_models_to_compare_must_be_there(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    equal, told = benchmark("equal_quality"), "has no model to compare: train it by time_to_quality.py"
    words, model = ["--out", str(tmp_path)], tmp_path / equal.EQUAL
    assert equal.main(words) == 2
    assert f"{model} {told}" in capsys.readouterr().err
    model.mkdir()  # and still no peer's
    assert equal.main(words) == 2
    assert f"{tmp_path} {told}" in capsys.readouterr().err
