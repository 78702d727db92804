"""Speed and memory of Phin beside other libraries of diffusion models, at equal FLOPs, in one run.

    make bench
    .venv-bench/bin/python benchmarks/peers.py --json peers.json

All have a network of as many FLOPs a picture (within 5 %), the same pictures, batch and threads, and take
turns, round by round. Measured are

- training: forward, mean squared error, backward and a fused AdamW step, the same for all; and a row of
  Phin's own step, which clips gradients, moves by Muon and AdamW, and averages the weights, as `phin train`;
- calls of the network, without gradients;
- drawing: whole pictures, in equally many calls of the network, by each library's own sampler, to 8 bits;
- the peak memory of training, of a process of its own.

Phin's network runs in the precision that its users have. Each peer runs in its best setting, which is found
by trying all: float32 or bfloat16 autocast, channels last or not, torch.compile or not. Drawing has the
setting that is best for calls, and memory the one that takes least. A compiled setting that torch cannot
compile, or gives up compiling, is left out and named. A ratio is the median, over rounds, of their seconds
by ours, with its quartiles.

The ceiling is what the machine can do, measured in the same rounds: the 3 x 3 convolutions of Phin's network
alone, and a matrix product. Shares are of the convolutions in the better precision: forward for calls and
drawing, forward and backward for training.

    python benchmarks/peers.py --each --peers diffusers --settings float32 bfloat16 --measures training calls

shows every setting as a row of its own, Phin's as well.
"""

import argparse
import json
import os
import statistics
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import command
import torch
import torch.nn.functional as F
from contestants import (
    DEFAULT,
    LIBRARIES,
    SETTINGS,
    Batch,
    Contestant,
    Library,
    OwnStep,
    Setting,
    alike,
    calls,
    flops,
    missing,
)
from timing import Spread, interleaved, rates, ratios
from torch import Tensor, nn

from phin.cli.terminal import exit_code
from phin.errors import PhinError
from phin.machine import in_words, machine
from phin.report import markdown
from phin.training.checkpoint import write_json
from phin.training.compiling import lacking
from phin.training.run import peak_memory

OURS, OWN = "phin", "phin, its own step"
MEASURES = ("training", "calls", "drawing", "memory")
PRINTED = Path("-")
"""In place of a file: what is measured is printed."""
MATRIX = (4096, 1024, 1024)  # of the product: rows, inner, columns


ACTIONS: dict[str, Callable[[Contestant, Batch, int], object]] = {
    "training": lambda one, batch, steps: one.train(batch),
    "calls": lambda one, batch, steps: one.call(batch),
    "drawing": lambda one, batch, steps: one.draw(len(batch.z), steps),
}
"""What is timed, by measure."""


class Ceiling:
    """What nothing on this machine can be faster than: a network's 3 x 3 convolutions and no more.

    Args:
        library: Whose network.
        batch: What it is called with.
    """

    def __init__(self, library: Library, batch: Batch) -> None:
        net = library.build()
        self.shapes: list[tuple[torch.Size, torch.Size]] = []  # of each call: input and kernel

        def note(layer: nn.Module, x: tuple[Tensor, ...], _: Tensor) -> None:
            assert isinstance(layer, nn.Conv2d)
            self.shapes.append((x[0].shape, layer.weight.shape))

        hooks = [
            layer.register_forward_hook(note)
            for layer in net.modules()
            if isinstance(layer, nn.Conv2d) and layer.kernel_size == (3, 3) and layer.stride == (1, 1)
        ]
        with torch.no_grad():
            library.call(net, batch.z, batch.t)
        for hook in hooks:
            hook.remove()

    def flops(self) -> int:
        """Of a pass over the batch: 2 · 9 · inputs · outputs · places, of each convolution."""
        return sum(2 * kernel.numel() * x[0] * x[2] * x[3] for x, kernel in self.shapes)

    def actions(self) -> dict[str, tuple[int, Callable[[], object]]]:
        """What is timed, and its FLOPs, by name."""
        found: dict[str, tuple[int, Callable[[], object]]] = {}
        for kind in (torch.bfloat16, torch.float32):
            name = str(kind).removeprefix("torch.")
            parts = [self._tensors(x, kernel, kind) for x, kernel in dict.fromkeys(self.shapes)]
            by_shape = dict(zip(dict.fromkeys(self.shapes), parts, strict=True))
            found[f"convolutions forward, {name}"] = (
                self.flops(),
                lambda by_shape=by_shape: self._forward(by_shape),
            )
            found[f"convolutions forward and backward, {name}"] = (
                3 * self.flops(),
                lambda by_shape=by_shape: self._both(by_shape),
            )
            rows, inner, columns = MATRIX
            a, b = torch.randn(rows, inner).to(kind), torch.randn(inner, columns).to(kind)
            found[f"matrix product, {name}"] = (2 * rows * inner * columns, lambda a=a, b=b: a @ b)
        return found

    def _tensors(self, x: torch.Size, kernel: torch.Size, kind: torch.dtype) -> tuple[Tensor, ...]:
        """Input, kernel and gradient of the output."""
        sizes = x, kernel, (x[0], kernel[0], *x[2:])
        return tuple(torch.randn(size).to(kind).to(memory_format=torch.channels_last) for size in sizes)

    def _forward(self, by_shape: dict[Any, tuple[Tensor, ...]]) -> None:
        with torch.no_grad():
            for shape in self.shapes:
                x, kernel, _ = by_shape[shape]
                F.conv2d(x, kernel, padding=1)

    def _both(self, by_shape: dict[Any, tuple[Tensor, ...]]) -> None:
        for shape in self.shapes:
            x, kernel, gradient = by_shape[shape]
            with torch.no_grad():
                F.conv2d(x, kernel, padding=1)
            torch.ops.aten.convolution_backward(
                gradient, x, kernel, None, [1, 1], [1, 1], [1, 1], False, [0, 0], 1, [True, True, False]
            )


def settings(asked: Sequence[str] | None, compiled: bool | None) -> list[Setting]:
    """The settings to try.

    Args:
        asked: Their names; all if none.
        compiled: Whether torch.compile is to be among them; by default, where there is a compiler.

    Raises:
        PhinError: Compiled ones are asked for, and there is no compiler.
    """
    wanted = [SETTINGS[name] for name in asked or SETTINGS]
    demanded = compiled or (asked is not None and any(setting.compiled for setting in wanted))
    tool = lacking(torch.device("cpu"))
    if demanded and tool:
        raise PhinError(f"torch.compile needs {tool}: install it, or leave compiled settings out")
    return [setting for setting in wanted if not setting.compiled or (compiled is not False and not tool)]


def fastest(seconds: Mapping[str, Sequence[float]]) -> list[str]:
    """All, the fastest first, by the medians."""
    return sorted(seconds, key=lambda name: statistics.median(seconds[name]))


def reason(error: Exception) -> str:
    """An error's kind and first line."""
    return ": ".join([type(error).__name__, *str(error).strip().splitlines()[:1]])


def say(words: str) -> None:
    """Tells how far it is."""
    print(words, file=sys.stderr, flush=True)


@dataclass
class Race:
    """Phin and its peers, who take turns."""

    peers: Sequence[str]
    settings: Sequence[Setting]
    """Those that each peer is tried in."""
    each: bool
    """Whether every setting takes part, and not only the best of each peer."""
    batch: Batch
    rounds: int
    trials: int
    steps: int
    """Network calls of a drawn picture."""
    networks: Mapping[str, Mapping[str, float]]
    """FLOPs of each, forward and in training."""
    tried: dict[str, dict[str, dict[str, Any]]] = field(default_factory=dict)
    """Images a second, by measure, peer and setting."""
    failed: dict[str, dict[str, str]] = field(default_factory=dict)
    """Why a compiled setting is left out, by measure, and by peer and setting."""
    ranked: dict[str, dict[str, list[Contestant]]] = field(default_factory=dict)
    """Each peer in all settings, the fastest first, by measure."""

    def action(self, measure: str, one: Contestant) -> Callable[[], object]:
        """What is timed."""
        return partial(ACTIONS[measure], one, self.batch, self.steps)

    def runs(self, measure: str, name: str, one: Contestant) -> bool:
        """Whether a contestant can be timed; torch.compile may fail at it, and then it is noted why."""
        if not one.setting.compiled:
            return True
        try:
            self.action(measure, one)()
        except Exception as error:  # uncompiled it runs, so that it is the compiler's, whatever it is
            self.failed.setdefault(measure, {})[f"{name}, {one.setting}"] = reason(error)
            return False
        return True

    def rank(self, measure: str) -> dict[str, list[Contestant]]:
        """Each peer in all settings, the fastest first, by trying them, one peer after the other."""
        if measure not in self.ranked:
            self.tried[measure], self.ranked[measure] = {}, {}
            for name in self.peers:
                say(f"{measure}: trying {len(self.settings)} settings of {name}")
                made = [Contestant(LIBRARIES[name], setting) for setting in self.settings]
                candidates = {str(one.setting): one for one in made if self.runs(measure, name, one)}
                actions = {setting: self.action(measure, one) for setting, one in candidates.items()}
                seconds = interleaved(actions, self.trials)
                self.tried[measure][name] = {
                    setting: rates(len(self.batch.z), taken)._asdict() for setting, taken in seconds.items()
                }
                self.ranked[measure][name] = [candidates[setting] for setting in fastest(seconds)]
        return self.ranked[measure]

    def entrants(self, measure: str) -> list[tuple[str, Contestant]]:
        """Phin, and each peer at its best; or all settings of all. Phin in its own precision comes first."""
        ours: list[tuple[str, Contestant]] = [(OURS, Contestant(LIBRARIES[OURS]))]
        if measure == "training":
            ours.append((OWN, OwnStep()))
        if self.each:
            others = [
                (name, Contestant(LIBRARIES[name], setting))
                for name in (OURS, *self.peers)
                for setting in self.settings
                if (name, setting) != (OURS, DEFAULT)
            ]
            return [*ours, *(other for other in others if self.runs(measure, *other))]
        # A drawing is calls of the network, so that its best setting is theirs.
        ranked = self.rank("calls" if measure == "drawing" else measure)
        able = {name: (one for one in ones if self.runs(measure, name, one)) for name, ones in ranked.items()}
        firsts = [(name, next(ones, None)) for name, ones in able.items()]
        return [*ours, *((name, one) for name, one in firsts if one is not None)]

    def run(self, measure: str) -> dict[str, Any]:
        """A measure of all, with the ceiling, in the same rounds: JSON-able."""
        if any(setting.compiled for setting in self.settings):
            torch.compiler.reset()  # what other measures had compiled counts against the limit
        entrants = {f"{name}, {one.setting}": (name, one) for name, one in self.entrants(measure)}
        limits = Ceiling(LIBRARIES[OURS], self.batch).actions()
        actions = {title: self.action(measure, one) for title, (_, one) in entrants.items()}
        say(f"{measure}: {self.rounds} rounds of {'; '.join(actions)}")
        seconds = interleaved(actions | {name: action for name, (_, action) in limits.items()}, self.rounds)

        speeds = {name: rates(work, seconds[name]) for name, (work, _) in limits.items()}
        kind = "forward and backward" if measure == "training" else "forward"
        top = max(speed.median for name, speed in speeds.items() if name.startswith(f"convolutions {kind},"))
        rows: dict[str, dict[str, Any]] = {}
        for title, (name, one) in entrants.items():
            net = self.networks[OURS if name == OWN else name]
            work = net["training" if measure == "training" else "forward"]
            work *= self.steps if measure == "drawing" else 1
            speed, ours = rates(len(self.batch.z), seconds[title]), seconds[next(iter(entrants))]
            rows[title] = {
                "library": name,
                "setting": str(one.setting),
                "images_per_second": speed._asdict(),
                "share_of_ceiling": work * speed.median / top,
                "phin_is_faster": ratios(seconds[title], ours)._asdict(),
                "seconds": seconds[title],
            }
            if self.each and name != OWN and (same := seconds.get(f"{OURS}, {one.setting}")):
                rows[title]["phin_is_faster_in_this_setting"] = ratios(seconds[title], same)._asdict()
        return {"rows": rows, "ceiling": {name: speed._asdict() for name, speed in speeds.items()}}


def alone(args: argparse.Namespace) -> None:
    """Trains one contestant for some steps, and prints what memory it took, as JSON."""
    name, setting = args.alone
    one = OwnStep() if name == OWN else Contestant(LIBRARIES[name], SETTINGS[setting])
    batch, before = Batch.of(args.batch), peak_memory() or 0
    for _ in range(3):
        one.train(batch)
    print(json.dumps({"peak": peak_memory() or 0, "before": before}))


def memory(
    args: argparse.Namespace, tried: Mapping[str, Sequence[Setting]], failed: dict[str, str]
) -> dict[str, Any]:
    """The peak memory of training of each, in the setting that takes least, by name.

    Args:
        args: The command line.
        tried: The settings of each.
        failed: Gets the reason of each compiled setting that fails.
    """
    found: dict[str, Any] = {}
    for name, settings in tried.items():
        weighed: dict[str, dict[str, int]] = {}
        for setting in map(str, settings):
            say(f"memory: {name}, {setting}")
            words = ["--alone", name, setting, "--batch", args.batch, "--threads", args.threads]
            try:
                weighed[setting] = command.printed(__file__, *words)
            except PhinError as error:
                if not SETTINGS[setting].compiled:
                    raise
                failed[f"{name}, {setting}"] = str(error)
        if weighed:
            least = min(weighed, key=lambda setting: weighed[setting]["peak"])
            found[name] = {"setting": least, **weighed[least], "tried": weighed}
    for row in found.values():
        row["own"] = row["peak"] - row["before"]
    for row in found.values():
        row["phins_by_it"] = {part: found[OURS][part] / row[part] for part in ("peak", "own")}
    return found


# What is printed

TITLES = {"training": "training, images/s", "calls": "network calls/s", "drawing": "pictures/s"}


def printed(found: dict[str, Any]) -> Iterator[str]:
    """The tables, in Markdown."""
    yield "\n".join(f"{name}: {words}" for name, words in in_words(found["machine"]).items())
    yield (
        f"batch {found['batch']}, {found['threads']} threads, {found['steps']} steps a picture; medians "
        f"of {found['rounds']} rounds, with quartiles\n"
        f"settings of the peers: {', '.join(found['settings'])}"
    )
    yield from (f"{name} is skipped: {why}" for name, why in found["skipped"].items())
    for measure, failed in found["failed"].items():
        yield from (f"{measure}: {title} is left out: {why}" for title, why in failed.items())
    rows = [
        [name, f"{net['forward'] / 1e6:.1f}", f"{net['more']:+.1%}", f"{net['parameters']:,}"]
        for name, net in found["networks"].items()
    ]
    yield markdown(["network", "MFLOP a picture", "than phin's", "parameters"], rows)
    for measure, title in TITLES.items():
        if measure in found:
            yield from _speeds(found[measure], title)
    if "memory" in found:
        rows = [
            [
                name,
                row["setting"],
                f"{row['peak'] / 1e6:.0f}",
                f"{row['phins_by_it']['peak']:.2f}",
                f"{row['own'] / 1e6:.0f}",
                f"{row['phins_by_it']['own']:.2f}",
            ]
            for name, row in found["memory"].items()
        ]
        heading = [
            "",
            "setting",
            "peak of training, MB",
            "phin's by it",
            "less Python, torch and weights, MB",
        ]
        yield markdown([*heading, "phin's by it"], rows)


def _speeds(part: dict[str, Any], title: str) -> Iterator[str]:
    heading = ["", "setting", title, "of the ceiling", "phin is so many times as fast"]
    rows = [
        [
            row["library"],
            row["setting"],
            f"{Spread(**row['images_per_second']):.1f}",
            f"{row['share_of_ceiling']:.0%}",
            f"{Spread(**row['phin_is_faster']):.2f}",
        ]
        for row in part["rows"].values()
    ]
    same = [row.get("phin_is_faster_in_this_setting") for row in part["rows"].values()]
    if any(same):
        heading.append("in this setting")
        for row, ratio in zip(rows, same, strict=True):
            row.append(f"{Spread(**ratio):.2f}" if ratio else "")
    yield markdown(heading, rows)
    limits = [
        [name, f"{Spread(*(value / 1e9 for value in speed.values())):.0f}"]
        for name, speed in part["ceiling"].items()
    ]
    yield markdown(["the ceiling, in the same rounds", "GFLOP/s"], limits)


def networks(names: Sequence[str]) -> dict[str, dict[str, float]]:
    """FLOPs and parameters of the networks.

    Raises:
        PhinError: They are not alike.
    """
    found: dict[str, dict[str, float]] = {}
    for name in names:
        net = LIBRARIES[name].build()
        found[name] = {
            "forward": flops(LIBRARIES[name], net),
            "training": flops(LIBRARIES[name], net, training=True),
            "parameters": sum(p.numel() for p in net.parameters()),
        }
    for name, more in alike({name: net["forward"] for name, net in found.items()}).items():
        found[name]["more"] = more
    return found


def measured(args: argparse.Namespace) -> dict[str, Any]:
    """All that is asked for, JSON-able.

    Raises:
        PhinError: Networks of unlike FLOPs, samplers of unlike calls, or compiling without a compiler.
    """
    tried = settings(args.settings, args.compile)
    reasons = {name: missing(LIBRARIES[name]) for name in args.peers}
    present = [name for name, why in reasons.items() if why is None]
    race = Race(
        present,
        tried,
        args.each,
        Batch.of(args.batch),
        args.rounds,
        args.trials,
        args.steps,
        networks([OURS, *present]),
    )
    for name in (OURS, *present) if "drawing" in args.measures else ():
        if (made := calls(LIBRARIES[name], LIBRARIES[name].build(), args.steps)) != args.steps:
            raise PhinError(
                f"{name} calls its network {made} times in {args.steps} steps, so that drawing does not "
                "compare: take other --steps, or leave drawing out of --measures"
            )
    skipped = {name: why for name, why in reasons.items() if why}
    if not args.settings and args.compile is None and (tool := lacking(torch.device("cpu"))):
        skipped["torch.compile"] = f"it needs {tool}"
    found: dict[str, Any] = {
        "machine": machine(),
        **{name: getattr(args, name) for name in ("batch", "rounds", "threads", "steps")},
        "skipped": skipped,
        "settings": [str(setting) for setting in tried],
        "networks": race.networks,
        "tried": race.tried,
        "failed": race.failed,
    }
    found |= {measure: race.run(measure) for measure in ACTIONS if measure in args.measures}
    if "memory" in args.measures:
        weighed = {OURS: [DEFAULT], OWN: [DEFAULT], **dict.fromkeys(present, tried)}
        found["memory"] = memory(args, weighed, race.failed.setdefault("memory", {}))
    return found


def parsed(argv: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    peers = [name for name in LIBRARIES if name != OURS]
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--json", nargs="?", const=PRINTED, type=Path, help="file for all; without a name, print it as JSON"
    )
    parser.add_argument("--peers", nargs="+", choices=peers, default=peers, help="libraries beside phin")
    parser.add_argument("--measures", nargs="+", choices=MEASURES, default=MEASURES, help="what is measured")
    parser.add_argument("--settings", nargs="+", choices=SETTINGS, help="to try for each peer; all")
    parser.add_argument(
        "--compile",
        action=argparse.BooleanOptionalAction,
        help="try torch.compile, too: by default, where there is a C++ compiler",
    )
    parser.add_argument(
        "--each", action="store_true", help="a row for every setting, not for the best of each peer"
    )
    parser.add_argument("--batch", type=int, default=64, help="pictures of 28 x 28 a step")
    parser.add_argument("--rounds", type=int, default=20, help="timed turns of each")
    parser.add_argument("--trials", type=int, default=3, help="timed turns of each setting, to find the best")
    parser.add_argument("--steps", type=int, default=10, help="network calls a drawn picture")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--alone", nargs=2, help=argparse.SUPPRESS)  # a process that measures its own memory
    return parser.parse_args(argv)


def run(args: argparse.Namespace) -> None:
    """Measures what is asked for, and prints it."""
    command.positive(args, "batch", "rounds", "trials", "steps", "threads")
    torch.set_num_threads(args.threads)
    if args.alone:
        alone(args)
        return
    if args.json not in (None, PRINTED):
        writable(args.json)
    found = measured(args)
    print(json.dumps(found) if args.json == PRINTED else "\n\n".join(printed(found)))
    if args.json not in (None, PRINTED):
        write_json(args.json, found)


def writable(path: Path) -> None:
    """Sees to it, before hours of measuring, that there can be such a file.

    Raises:
        PhinError: There cannot.
    """
    folder = path.absolute().parent
    if not folder.is_dir():
        raise PhinError(f"there is no folder {folder}: make it first")
    if path.is_dir():
        raise PhinError(f"{path} is a folder: give the name of a file")
    if not os.access(path if path.exists() else folder, os.W_OK):
        raise PhinError(f"{path} cannot be written: give another --json")


def main(argv: Sequence[str] | None = None) -> int:
    """Exit codes as of `exit_code`."""
    args = parsed(argv)
    return exit_code(lambda: run(args))


if __name__ == "__main__":
    sys.exit(main())
