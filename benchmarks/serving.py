"""How long one waits for a picture of a warm model, and what memory the model takes.

    python benchmarks/serving.py numbers:10 numbers-fast:2 numbers-fast:1

Each MODEL:STEPS answers a prompt of five digits, and then 64 such prompts at once; all of them take turns.
Memory is what a process holds that has answered, less what it held when it had imported torch and convolved
something once: that is the model, and all of Phin.
"""

import argparse
import gc
import json
import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from command import positive, printed
from timing import interleaved, rates, spread

import phin
from phin.cli.terminal import exit_code
from phin.machine import in_words, machine
from phin.models import choose
from phin.report import markdown

PROMPTS = [f"{number:05}" for number in range(12345, 12345 + 64 * 1234, 1234)]
ANSWERS = 20  # of a process whose memory is looked at


def waits(asked: Sequence[tuple[str, int]], rounds: int) -> dict[tuple[str, int], tuple[str, str]]:
    """Milliseconds for one picture, and pictures a second of many: medians and quartiles."""
    actions: dict[str, Callable[[], object]] = {}
    for name, steps in asked:
        model = phin.load(name)
        choose(model, {"steps": steps})
        for n in (1, len(PROMPTS)):
            actions[f"{name} {steps} {n}"] = lambda model=model, steps=steps, n=n: phin.sample(
                model, prompts=PROMPTS[:n], steps=steps
            )
    seconds = interleaved(actions, rounds)
    found: dict[tuple[str, int], tuple[str, str]] = {}
    for name, steps in asked:
        one, many = (seconds[f"{name} {steps} {n}"] for n in (1, len(PROMPTS)))
        wait = spread([1000 * second for second in one])
        found[name, steps] = f"{wait:.1f}", f"{rates(len(PROMPTS), many):.0f}"
    return found


def resident() -> float:
    """Megabytes that this process holds."""
    gc.collect()
    status = Path("/proc/self/status").read_text()
    return int(re.findall(r"VmRSS:\s*(\d+) kB", status)[0]) / 1e3


def alone(name: str, steps: int) -> None:
    """Prints the megabytes that a model takes when it has answered once, and often, as JSON."""
    for dtype in (torch.bfloat16, torch.float32):
        torch.conv2d(torch.ones(1, 64, 28, 140, dtype=dtype), torch.ones(64, 64, 3, 3, dtype=dtype))
    before, model = resident(), phin.load(name)
    taken: list[float] = []
    for prompts in (PROMPTS[:1], PROMPTS[:ANSWERS]):
        for prompt in prompts:
            phin.sample(model, prompts=[prompt], steps=steps)
        taken.append(resident() - before)
    print(json.dumps(taken))


def memory(name: str, steps: int, threads: int) -> str:
    """What `alone` finds in a process of its own."""
    once, often = printed(__file__, f"{name}:{steps}", "--alone", "--threads", threads)
    return f"{once:.0f}, {often:.0f}"


def pair(text: str) -> tuple[str, int]:
    """MODEL:STEPS."""
    name, _, steps = text.rpartition(":")
    if not name or not steps.isdigit() or not int(steps):
        raise argparse.ArgumentTypeError(f"{text!r} is not MODEL:STEPS, such as numbers:10")
    return name, int(steps)


def parsed(argv: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("models", nargs="+", type=pair, metavar="MODEL:STEPS", help="models of numbers")
    parser.add_argument("--rounds", type=int, default=50, help="timed turns")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--alone", action="store_true", help=argparse.SUPPRESS)
    return parser.parse_args(argv)


def run(args: argparse.Namespace) -> None:
    """Times the models, weighs them, and prints the table."""
    positive(args, "rounds", "threads")
    torch.set_num_threads(args.threads)
    if args.alone:
        alone(*args.models[0])
        return
    found = waits(args.models, args.rounds)
    rows = [
        [name, str(steps), *cells, memory(name, steps, args.threads)]
        for (name, steps), cells in found.items()
    ]
    print("\n".join([*in_words(machine()).values(), f"{args.threads} threads, {args.rounds} rounds", ""]))
    heading = ["", "steps", "ms for one", f"pictures/s, {len(PROMPTS)} at once"]
    print(markdown([*heading, f"MB after one answer, after {ANSWERS}"], rows))


def main(argv: Sequence[str] | None = None) -> int:
    """Exit codes as of `exit_code`."""
    args = parsed(argv)
    return exit_code(lambda: run(args))


if __name__ == "__main__":
    sys.exit(main())
