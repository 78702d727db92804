"""Where the time goes: in training steps and in calls of a recipe, by what the processor does.

    python benchmarks/where.py                                # mnist, on as many threads as Phin takes
    python benchmarks/where.py mnist-vae --threads 1 --json where.json

The steps are those of Phin's own loop, the calls those of its sampler, both after some that are not looked
at. torch's profiler tells what each operation takes, less what it leaves to others; what it leaves to none of
the table's goes with the operation that asked for it. A share is of the time on the clock, so that they add
up to 1; the profiler itself, some microseconds an operation, is among them.
"""

import argparse
import os
import re
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from functools import wraps
from pathlib import Path
from typing import Any, NamedTuple
from unittest import mock

import torch
from command import positive
from torch import nn
from torch.autograd.profiler_util import FunctionEvent
from torch.profiler import ProfilerActivity, profile, record_function

import phin
from phin import sampling
from phin.cli.terminal import exit_code
from phin.data.base import Data
from phin.errors import PhinError
from phin.machine import in_words, machine
from phin.models import Model, samples
from phin.nets.threads import settle
from phin.recipes import Recipe, describe, named
from phin.report import markdown
from phin.training.checkpoint import write_json
from phin.training.display import counted
from phin.training.ema import EMA
from phin.training.loop import Task, fit
from phin.training.optimizer import Optimizer

CONVOLUTIONS = "convolutions and their gradients"
PRODUCTS = "matrix products"
ARITHMETIC = "normalisation, activation, arithmetic by element"
ATTENTION = "attention: softmax, products by picture and head"
OPTIMIZER = "optimizer: Muon, AdamW, clipping, averaging"
COPIES = "copies and casts"
DATA = "data and noise"
REST = "the rest: Python, indices, bookkeeping"
PARTS: tuple[str, ...] = (CONVOLUTIONS, PRODUCTS, ARITHMETIC, ATTENTION, OPTIMIZER, COPIES, DATA, REST)

OPERATIONS = {
    CONVOLUTIONS: "conv1d conv2d conv3d convolution convolution_overrideable mkldnn_convolution "
    "thnn_conv2d slow_conv2d_forward slow_conv3d_forward conv_transpose1d conv_transpose2d conv_transpose3d",
    PRODUCTS: "linear mkldnn_linear addmm mm addmv mv dot",
    ARITHMETIC: "layer_norm native_layer_norm group_norm native_group_norm batch_norm native_batch_norm "
    "rms_norm silu gelu relu leaky_relu threshold sigmoid tanh softplus dropout native_dropout add sub rsub "
    "mul div neg addcmul addcdiv pow square sqrt rsqrt exp expm1 log log1p sin cos clamp where lerp sum mean "
    "var abs maximum minimum logaddexp logsumexp log_softmax masked_fill upsample_nearest2d avg_pool2d",
    ATTENTION: "bmm baddbmm softmax softmax_data scaled_dot_product_attention "
    "scaled_dot_product_flash_attention_for_cpu",
    COPIES: "copy copies clone contiguous to to_copy cat stack pad constant_pad_nd fill zero zeros ones full",
}
PART = {name.replace("_", ""): part for part, names in OPERATIONS.items() for name in names.split()}
WITHIN = "within: "


class Profile(NamedTuple):
    """What was looked at, in all."""

    seconds: float
    """On the clock."""
    by_part: dict[str, float]
    """Seconds; they add up to the clock's."""

    @property
    def shares(self) -> dict[str, float]:
        """Of the clock."""
        return {part: seconds / self.seconds for part, seconds in self.by_part.items()}


class Watch:
    """Looks on between `begin` and `end`, in one thread, which runs a network's gradients, too."""

    def __init__(self) -> None:
        self.profiler = profile(activities=[ProfilerActivity.CPU], acc_events=True)
        self.seconds = 0.0

    def begin(self) -> None:
        """From here on."""
        self.profiler.start()
        self.seconds = -time.perf_counter()

    def end(self) -> None:
        """Up to here."""
        self.seconds += time.perf_counter()
        self.profiler.stop()

    def found(self) -> Profile:
        """Where the time went."""
        return divided(self.profiler.events() or [], self.seconds)


def divided(events: Iterable[FunctionEvent], seconds: float) -> Profile:
    """The clock's seconds, each operation's own among the parts, and what is left to the rest."""
    by_part = dict.fromkeys(PARTS, 0.0)
    for event in events:
        by_part[part_of(event)] += event.self_cpu_time_total / 1e6
    by_part[REST] += seconds - sum(by_part.values())
    return Profile(seconds, by_part)


def part_of(event: FunctionEvent) -> str:
    """That of the `within` which it is in; else its own, or that of the nearest which asked for it."""
    asking = [event]
    while (parent := asking[-1].cpu_parent) is not None:
        asking.append(parent)
    names = [one.name for one in asking]
    if inside := [name for name in names if name.startswith(WITHIN)]:
        return inside[-1].removeprefix(WITHIN)
    return next((PART[stem] for name in names if (stem := operation(name)) in PART), REST)


def operation(name: str) -> str:
    """The plain name, the same forward and backward: `aten::addmm` and `AddmmBackward0` are addmm."""
    plain = re.split(r"::|: ", name)[-1].lower().replace("_", "")
    return re.sub(r"backwards?\d*", "", plain)


def within(part: str, function: Callable[..., Any]) -> Callable[..., Any]:
    """The function, all of whose time is that part's."""

    @wraps(function)
    def watched(*arguments: Any, **options: Any) -> Any:
        with record_function(WITHIN + part):
            return function(*arguments, **options)

    return watched


@contextmanager
def marked(data: Data, task: Task) -> Iterator[None]:
    """The optimizer, the batches and the noise are told apart from whoever asks for them."""
    kinds = [kind.__module__ for kind in type(task).__mro__ if kind.__module__.startswith("phin.")]
    modules = [sys.modules[name] for name in dict.fromkeys(kinds)] + [sampling]
    places: list[tuple[Any, str, str]] = [
        (Optimizer, "step", OPTIMIZER),
        (Optimizer, "zero_grad", OPTIMIZER),
        (EMA, "update", OPTIMIZER),
        (nn.utils, "clip_grad_norm_", OPTIMIZER),
        (type(data), "train", DATA),
    ]
    drawing = ("normal", "uniform", "augment", "mirror", "dequantized")
    places += [(module, name, DATA) for module in modules for name in drawing if hasattr(module, name)]
    with ExitStack() as stack:
        for owner, name, part in places:
            stack.enter_context(mock.patch.object(owner, name, within(part, getattr(owner, name))))
        for module in (module for module in modules if hasattr(module, "seeded")):
            noise = module.seeded
            marked_noise = wraps(noise)(lambda *given, noise=noise: within(DATA, noise(*given)))
            stack.enter_context(mock.patch.object(module, "seeded", marked_noise))
        yield


def training(task: Task, recipe: Recipe, data: Data, out: Path, warm_up: int, steps: int) -> Profile:
    """So many steps of Phin's loop, from the beginning of one to the beginning of another."""
    watch = Watch()

    def look(module: nn.Module, given: tuple[Any, ...]) -> None:
        if given[0] == warm_up:
            watch.begin()
        elif given[0] == warm_up + steps:
            watch.end()

    task.register_forward_pre_hook(look)
    fit(task, recipe.train, out, describe("where", recipe, recipe.facts(data)))
    return watch.found()


def calls(model: Model, n: int, rounds: int) -> Profile:
    """Drawing n pictures, so many times, as the model's own choices are."""
    prompted = bool(model.facts.vocabulary or model.facts.alphabet)
    asked: dict[str, Any] = {"prompts": ["40213"] * n} if prompted else {"n": n}
    watch = Watch()
    samples(model, **asked)
    watch.begin()
    for _ in range(rounds):
        samples(model, **asked)
    watch.end()
    return watch.found()


def measured(args: argparse.Namespace) -> dict[str, Any]:
    """What is looked at, and how often: seconds of each time, and shares by part."""
    recipe = named(args.recipe)
    config = replace(recipe.train, minutes=None, steps=args.warm_up + args.steps + 1, batch=args.batch)
    config = replace(config, picture_every=0.0, validate_every=1.0, log_every=1.0, trackers=(), compile="no")
    recipe = replace(recipe, train=config)
    data = recipe.load()
    torch.manual_seed(config.seed)
    task = recipe.task(data)
    found: dict[str, Profile] = {}
    counts = {"training": args.steps, "calls": args.rounds}
    with tempfile.TemporaryDirectory() as folder, marked(data, task):
        found["training"] = training(task, recipe, data, Path(folder) / "run", args.warm_up, args.steps)
        if not args.no_calls:
            found["calls"] = calls(phin.load(Path(folder) / "run"), args.n, args.rounds)
    return {
        name: {"seconds": one.seconds / counts[name], "shares": one.shares} for name, one in found.items()
    }


def table(found: Mapping[str, Any], args: argparse.Namespace) -> str:
    """Shares of each part, and the seconds that they are shares of."""
    titles = {"training": f"a training step of {args.batch}", "calls": f"drawing {args.n}"}
    rows = [[part, *(f"{one['shares'][part]:.1%}" for one in found.values())] for part in PARTS]
    rows.append(["milliseconds", *(f"{1000 * one['seconds']:.0f}" for one in found.values())])
    return markdown(["", *(titles[name] for name in found)], rows)


def parsed(argv: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("recipe", nargs="?", default="mnist")
    parser.add_argument("--steps", type=int, default=10, help="of training that are looked at")
    parser.add_argument("--warm-up", type=int, default=3, help="steps before that")
    parser.add_argument("--batch", type=int, default=64, help="of training; that of mnist")
    parser.add_argument("--n", type=int, default=16, help="samples drawn at once")
    parser.add_argument("--rounds", type=int, default=3, help="how often they are drawn")
    parser.add_argument("--no-calls", action="store_true", help="of a recipe that draws nothing by itself")
    parser.add_argument("--threads", type=int, help="as many as Phin takes by itself, if not given")
    parser.add_argument("--json", type=Path, help="a file for the same figures")
    return parser.parse_args(argv)


def run(args: argparse.Namespace) -> None:
    """Looks where the time goes, prints the table and leaves the figures."""
    positive(args, "steps", "warm_up", "batch", "n", "rounds")
    settle()
    if args.threads is not None:
        positive(args, "threads")
        torch.set_num_threads(args.threads)
    if args.json and not args.json.absolute().parent.is_dir():
        raise PhinError(f"{args.json} could not be written: there is no folder {args.json.parent}; make it")
    with mock.patch.dict(os.environ, ACCELERATE_USE_CPU="1"):
        found = measured(args)
    threads = torch.get_num_threads()
    print("\n".join([*in_words(machine()).values(), f"{args.recipe}, {counted(threads, 'thread')}", ""]))
    print(table(found, args))
    if args.json:
        write_json(args.json, {"machine": machine(), "threads": threads, "asked": asked(args), **found})


def asked(args: argparse.Namespace) -> dict[str, Any]:
    """What was looked at."""
    return {name: getattr(args, name) for name in ("recipe", "steps", "batch", "n", "rounds")}


def main(argv: Sequence[str] | None = None) -> int:
    """Exit codes as of `exit_code`."""
    args = parsed(argv)
    return exit_code(lambda: run(args))


if __name__ == "__main__":
    sys.exit(main())
