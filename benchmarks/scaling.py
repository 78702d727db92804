"""How the cost of training and drawing grows: with side, batch, width, steps, processes and data.

    python benchmarks/scaling.py                       # all of it
    python benchmarks/scaling.py --only side batch
    python benchmarks/scaling.py --only data --sizes 1000 10000 100000 1000000

The network is Phin's default, the pictures are grey and, but for `side`, 28 x 28. All sizes of a question
take turns, and the costs are medians; but `processes` and `data` train once at each size. An exponent b is
that of the power law cost = a size^b that fits best. `processes` trains the recipe `mnist` in one process and
in two, which share the threads; `data` trains from a folder of so many PNG files, which is made where it is
not there (a million take 4 GB of disk), and tells the peak memory of a process that does nothing else. The
tables and the pictures go to `--out`.
"""

import argparse
import json
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from math import isnan
from pathlib import Path
from typing import Any

import numpy as np
import torch
from command import positive, printed, reason
from contestants import LIBRARIES, Batch, Contestant
from timing import exponent, interleaved, spread

import phin
from phin.cli.terminal import exit_code
from phin.diffusion.noise import stream
from phin.errors import PhinError
from phin.machine import in_words, machine
from phin.nets.unet import UNet, UNetConfig
from phin.report import light, markdown, picture
from phin.training.checkpoint import atomic, open_folder, write_json
from phin.training.run import peak_memory

SIDES = (16, 28, 40, 64, 96)
BATCHES = (4, 8, 16, 32, 64, 128)
WIDTHS = (32, 48, 64, 96, 128, 192)  # channels of the first resolution; the second has twice as many
STEPS = (2, 5, 10, 20, 50, 100)


@dataclass(frozen=True)
class Growth:
    """Costs by size: seconds, but where a name says otherwise."""

    title: str
    across: str
    """What the sizes are."""
    costs: Mapping[str, Mapping[int, float]]
    """By what costs, and by size."""

    @property
    def sizes(self) -> list[int]:
        """All, in their order."""
        return sorted({size for by_size in self.costs.values() for size in by_size})

    def exponents(self) -> dict[str, float]:
        """Of the power laws that fit."""
        return {name: exponent([*by_size], [*by_size.values()]) for name, by_size in self.costs.items()}

    def table(self) -> str:
        """In Markdown; the last row has the exponents."""
        rows = [
            [
                f"{size:,}",
                *(f"{by_size[size]:.4g}" if size in by_size else "" for by_size in self.costs.values()),
            ]
            for size in self.sizes
        ]
        rows.append(["exponent", *("" if isnan(b) else f"{b:.2f}" for b in self.exponents().values())])
        return markdown([self.across, *self.costs], rows)

    def draw(self, axes: Any) -> None:
        """Costs by size, both logarithmic."""
        from matplotlib.ticker import LogLocator

        colours = light()
        for i, ((name, by_size), b) in enumerate(
            zip(self.costs.items(), self.exponents().values(), strict=True), 1
        ):
            label = name if isnan(b) else f"{name}: {self.across}^{b:.2f}"
            axes.plot(
                [*by_size], [*by_size.values()], color=colours[f"s{i}"], lw=1.6, marker="o", ms=4, label=label
            )
        axes.set_xscale("log")
        axes.set_yscale("log")
        costs = [cost for by_size in self.costs.values() for cost in by_size.values()]
        near = max(costs) < 100 * min(costs)  # powers of ten alone would be too few
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if near else (1,)))
        axes.yaxis.set_major_formatter("{x:g}")
        axes.set_xticks(self.sizes, [f"{size:,}" for size in self.sizes])
        axes.minorticks_off()


def network(width: int = UNetConfig().channels[0]) -> Contestant:
    """Phin's default network, but for its width."""
    config = UNetConfig(channels=(width, 2 * width))
    return Contestant(replace(LIBRARIES["phin"], build=lambda: UNet(config, in_channels=1)))


def medians(
    actions: Mapping[int, Callable[[], object]], rounds: int, share: Callable[[int], float]
) -> dict[int, float]:
    """Median seconds by size, each divided by its share."""
    named = interleaved({str(size): action for size, action in actions.items()}, rounds, warm_up=1)
    return {size: spread(named[str(size)]).median / share(size) for size in actions}


def of_network(
    title: str,
    across: str,
    cases: Mapping[int, tuple[Contestant, Batch]],
    rounds: int,
    share: Callable[[int], float],
) -> Growth:
    """Of a training step and of a call."""
    costs = {
        "training": medians(
            {size: lambda one=one, b=b: one.train(b) for size, (one, b) in cases.items()}, rounds, share
        ),
        "calls": medians(
            {size: lambda one=one, b=b: one.call(b) for size, (one, b) in cases.items()}, rounds, share
        ),
    }
    return Growth(title, across, costs)


def side(args: argparse.Namespace) -> Growth:
    """Seconds a picture: convolutions take its pixels, attention their square."""
    one = network()
    cases = {size: (one, Batch.of(8, size)) for size in SIDES}
    return of_network("seconds a picture, by its side", "side", cases, args.rounds, lambda size: 8)


def batch(args: argparse.Namespace) -> Growth:
    """Seconds a step, which are a picture's many times over, once there are enough of them."""
    one = network()
    cases = {size: (one, Batch.of(size)) for size in BATCHES}
    return of_network("seconds a step, by its batch", "batch", cases, args.rounds, lambda size: 1)


def width(args: argparse.Namespace) -> Growth:
    """Seconds a picture: convolutions take the square of their channels."""
    cases = {size: (network(size), Batch.of(16)) for size in WIDTHS}
    return of_network(
        "seconds a picture, by the network's channels", "channels", cases, args.rounds, lambda size: 16
    )


def steps(args: argparse.Namespace) -> Growth:
    """Seconds a drawn picture, to 8 bits: what does not grow is what a picture costs beside calls."""
    one = network()
    actions = {size: lambda size=size: one.draw(16, size) for size in STEPS}
    costs = medians(actions, max(args.rounds // 4, 1), lambda size: 16)
    return Growth("seconds a drawn picture, by its steps", "steps", {"drawing": costs})


def processes(args: argparse.Namespace) -> Growth:
    """Seconds a training picture, of all processes together, which share the threads."""
    counts = (1, 2)
    costs = {count: trained(count, args) for count in counts}
    return Growth("seconds a training picture, by processes", "processes", {"training": costs})


def trained(count: int, args: argparse.Namespace) -> float:
    """Seconds a picture of `phin train mnist` in so many processes, after the loop's own clock."""
    with (
        tempfile.TemporaryDirectory() as folder,
        tempfile.TemporaryFile("w+") as errors,
        socket.create_server(("127.0.0.1", 0)) as free,
    ):
        out, port = Path(folder) / "run", free.getsockname()[1]
        free.close()
        words = [sys.executable, "-m", "phin.cli", "train", "mnist", "--steps", str(args.steps_of_training)]
        words += ["--out", str(out), "--picture-every", "0", "--validate-every", "1"]
        shared = os.environ | {
            "ACCELERATE_USE_CPU": "true",
            "OMP_NUM_THREADS": str(max(args.threads // count, 1)),
        }
        if count > 1:
            shared |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": str(count)}
        ranks = [{"RANK": str(rank), "LOCAL_RANK": str(rank)} if count > 1 else {} for rank in range(count)]
        told = {"stdout": subprocess.DEVNULL, "stderr": errors}
        running = [subprocess.Popen(words, env=shared | rank, **told) for rank in ranks]
        ended = [process.wait() for process in running]
        if any(ended):
            errors.seek(0)
            why = reason(max(ended, key=abs), errors.read())
            raise PhinError(f"`{' '.join(words[1:])}` failed in {count} processes: {why}")
        state = json.loads((out / "run.json").read_text(encoding="utf-8"))["training"]["state"]
    return (state["seconds"] - state["aside"]) / state["examples"]


def data(args: argparse.Namespace) -> Growth:
    """Seconds to open a folder of pictures and to train on one, and the memory that it takes."""
    found: dict[str, dict[int, float]] = {
        "opening, s": {},
        "a training picture, s": {},
        "peak memory, MB": {},
    }
    for size in args.sizes:
        folder = args.folder / str(size)
        made(folder, size)
        words = ["--alone", folder, "--threads", args.threads, "--steps-of-training", args.steps_of_training]
        for costs, value in zip(found.values(), printed(__file__, *words), strict=True):
            costs[size] = value
    return Growth("a folder of pictures, by how many there are", "pictures", found)


def made(folder: Path, size: int) -> None:
    """A folder of so many grey PNG files of 28 x 28, unless it is there."""
    from PIL import Image

    done = folder / ".made"
    if done.exists():
        return
    open_folder(folder)
    for start in range(0, size, 1000):
        coarse = stream(0, "pictures", start).integers(256, size=(1000, 7, 7), dtype=np.uint8)
        for number, pixels in enumerate(coarse[: size - start], start):
            Image.fromarray(pixels.repeat(4, 0).repeat(4, 1)).save(folder / f"{number:07}.png")
    done.touch()


def alone(args: argparse.Namespace) -> None:
    """Opens a folder and trains on it, and prints what that took, as JSON."""
    recipe, begun = phin.RECIPES["images"], time.perf_counter()
    recipe = replace(recipe, data=f"folder:{args.alone}")
    recipe.load()
    opened = time.perf_counter() - begun
    steps = args.steps_of_training
    config = replace(
        recipe.train, minutes=None, steps=steps, batch=64, picture_every=0.0, validate_every=1.0, trackers=()
    )
    with tempfile.TemporaryDirectory() as out:
        run = phin.train(replace(recipe, train=config), Path(out) / "run")
    print(json.dumps([opened, 1 / run.images_per_second, (peak_memory() or 0) / 1e6]))


QUESTIONS: dict[str, Callable[[argparse.Namespace], Growth]] = {
    "side": side,
    "batch": batch,
    "width": width,
    "steps": steps,
    "processes": processes,
    "data": data,
}


def parsed(argv: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", nargs="+", choices=QUESTIONS, default=[*QUESTIONS], help="questions; all")
    parser.add_argument("--rounds", type=int, default=8, help="timed turns of each size")
    parser.add_argument(
        "--sizes", type=int, nargs="+", default=[1_000, 10_000, 100_000, 1_000_000], help="of data"
    )
    parser.add_argument("--steps-of-training", type=int, default=40, help="of `processes` and `data`")
    parser.add_argument(
        "--folder", type=Path, default=Path("runs/scaling/pictures"), help="where `data` has its files"
    )
    parser.add_argument("--out", type=Path, default=Path("runs/scaling"))
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--alone", help=argparse.SUPPRESS)  # a process that measures its own memory
    return parser.parse_args(argv)


def run(args: argparse.Namespace) -> None:
    """Answers the questions, prints the tables and leaves them."""
    positive(args, "rounds", "steps_of_training", "threads")
    if min(args.sizes) < 100:
        raise PhinError(f"sizes has {min(args.sizes)}: at least 100 is needed")
    torch.set_num_threads(args.threads)
    if args.alone:
        alone(args)
        return
    open_folder(args.out)
    print("\n".join([*in_words(machine()).values(), f"{args.threads} threads, {args.rounds} rounds"]))
    for name in args.only:
        growth = QUESTIONS[name](args)
        write_json(
            args.out / f"{name}.json",
            {"machine": machine(), "threads": args.threads, "costs": growth.costs},
        )
        with atomic(args.out / f"{name}.png") as path:
            path.write_bytes(picture([growth.draw], growth.across, growth.title))
        print(f"\n{growth.title}\n\n{growth.table()}", flush=True)


def main(argv: Sequence[str] | None = None) -> int:
    """Exit codes as of `exit_code`."""
    args = parsed(argv)
    return exit_code(lambda: run(args))


if __name__ == "__main__":
    sys.exit(main())
