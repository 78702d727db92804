"""Pictures a second at equal quality: Phin beside peers, each model by its fastest sampler that will do.

    python benchmarks/time_to_quality.py    # which trains the models
    python benchmarks/equal_quality.py

Every model draws by several of its library's samplers, in more and more steps. The least Frechet distance of
a peer (digit reader, n pictures against MNIST's test digits) is its own best, and a sampler will do whose
distance is at most five per cent above that. Of those the one of the fewest steps is timed, the peer's and
that of Phin's model, which was told as little, `phin-unlabelled`: 64 pictures at a time, in turns. Distances
are kept, and measured once.
"""

import argparse
import importlib
import json
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from command import positive
from contestants import LIBRARIES, SETTINGS, missing
from time_to_quality import AT_ONCE, EQUAL, PEERS, Curve, Peer
from timing import interleaved, rates, ratios
from torch import Tensor

import phin
from phin import data as datasets
from phin.cli.terminal import exit_code
from phin.errors import PhinError
from phin.evaluation import PicturePlan, Reference, pictures
from phin.machine import in_words, machine
from phin.metrics.frechet import frechet_estimate
from phin.metrics.summary import Summary
from phin.models import samples
from phin.pictures import to_integers
from phin.report import markdown
from phin.training.checkpoint import read_weights, write_json

CLOSE = 1.05
"""Times a peer's own best."""
BATCH = 64
OURS = {"dpmpp_2m": (2, 3, 4, 5, 6, 8, 10), "unipc_2": (3, 4, 5, 6, 8)}
"""Phin's samplers, and their steps."""
THEIRS: dict[str, dict[str, tuple[int, ...]]] = {
    "diffusers": {
        "DDIMScheduler": (10, 20, 50),
        "DPMSolverMultistepScheduler": (5, 10, 20, 50),
        "UniPCMultistepScheduler": (5, 10, 20, 50),
    },
    "denoising-diffusion-pytorch": {"DDIM": (10, 20, 50, 100)},
}
"""Those of peers."""


class Sampler(NamedTuple):
    """A way to draw from a model."""

    name: str
    steps: int
    draw: Callable[[int], Tensor]
    """n -> pictures, uint8."""


def ours(out: Path) -> list[Sampler]:
    """Phin's."""
    model = phin.load(out / EQUAL)

    def draw(solver: str, steps: int, n: int) -> Tensor:
        return to_integers(torch.stack(samples(model, n=n, batch=AT_ONCE, solver=solver, steps=steps)))

    return [
        Sampler(solver, steps, partial(draw, solver, steps))
        for solver, ladder in OURS.items()
        for steps in ladder
    ]


def theirs(name: str, out: Path) -> list[Sampler]:
    """A peer's."""
    curve = Curve(out / f"{name}.json", {})
    peer, path = PEERS[name](SETTINGS[curve.found["setting"]]), out / f"{name}.safetensors"
    peer.load(read_weights(path)[0], path)
    return [
        Sampler(sampler, steps, partial(drawn, peer, sampler, steps))
        for sampler, ladder in THEIRS[name].items()
        for steps in ladder
    ]


def drawn(peer: Peer, sampler: str, steps: int, n: int) -> Tensor:
    """Pictures of a peer's average, by a scheduler of diffusers or by the library's own sampler."""
    if peer.name != "diffusers":
        return peer.draw(n, steps)
    diffusers: Any = importlib.import_module("diffusers")
    scheduler = getattr(diffusers, sampler)(num_train_timesteps=1000)
    pipeline = diffusers.DDIMPipeline if sampler.startswith("DDIM") else diffusers.DDPMPipeline
    with torch.no_grad(), peer.setting.precision():
        made = pipeline(peer.mean, scheduler)
        made.set_progress_bar_config(disable=True)
        found = made(batch_size=n, num_inference_steps=steps, output_type="np").images
    return torch.from_numpy(found * 255).round().to(torch.uint8).movedim(-1, 1)


class Distances:
    """The Frechet distances of samplers, kept in a file.

    Raises:
        PhinError: The file is of another number of pictures, or other features.
    """

    def __init__(self, path: Path, n: int, features: str | None) -> None:
        plan = PicturePlan(n, kept=20, compared=0)
        self.reference = Reference(datasets.load("mnist"), pictures.chosen(features, "mnist"), plan)
        self.path, self.n = path, n
        self.found: dict[str, Any] = {"n": n, "features": self.reference.features.name, "distances": {}}
        if path.exists():
            kept = json.loads(path.read_text(encoding="utf-8"))
            if {**kept, "distances": {}} != self.found:
                raise PhinError(
                    f"{path} is of n = {kept['n']} and {kept['features']}: give these, or remove it"
                )
            self.found = kept

    def of(self, model: str, sampler: Sampler) -> float:
        """The distance of a sampler of a model."""
        key = f"{model} {sampler.name} {sampler.steps}"
        if key not in self.found["distances"]:
            torch.manual_seed(0)
            summary = Summary(20)
            for first in range(0, self.n, AT_ONCE):
                places = range(first, min(first + AT_ONCE, self.n))
                summary.add(places, self.reference.features(sampler.draw(len(places))))
            distance = frechet_estimate(summary.moments, self.reference.test.moments).value
            self.found["distances"][key] = distance
            write_json(self.path, self.found)
            print(f"{key}: {distance:.4g}", file=sys.stderr)
        return self.found["distances"][key]


def compared(name: str, out: Path, distances: Distances, rounds: int) -> list[str]:
    """A row of the table: a peer beside Phin."""
    peer, own = theirs(name, out), ours(out)
    best = min(distances.of(name, sampler) for sampler in peer)
    chosen: dict[str, Sampler] = {}
    for model, samplers in ((name, peer), (EQUAL, own)):
        good = [sampler for sampler in samplers if distances.of(model, sampler) <= CLOSE * best]
        if good:  # a step is a call, of whatever sampler
            chosen[model] = min(good, key=lambda sampler: sampler.steps)
    seconds = interleaved(
        {model: partial(sampler.draw, BATCH) for model, sampler in chosen.items()}, rounds, warm_up=1
    )
    cells = [f"{name}: {best:.4g}"]
    for model in (name, EQUAL):
        if model in chosen:
            how = f"{chosen[model].name}, {chosen[model].steps} steps"
            cells += [
                f"{how}: {distances.of(model, chosen[model]):.4g}",
                f"{rates(BATCH, seconds[model]):.1f}",
            ]
        else:
            cells += [f"none comes within {CLOSE:g} times that", ""]
    return [*cells, f"{ratios(seconds[name], seconds[EQUAL]):.1f}" if EQUAL in chosen else ""]


def parsed(argv: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, default=Path("runs/time_to_quality"), help="where the models are")
    parser.add_argument("--n", type=int, default=2000, help="pictures of a distance")
    parser.add_argument("--rounds", type=int, default=10, help="timed turns")
    parser.add_argument("--features", help="what reads pictures; the digit reader")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    return parser.parse_args(argv)


def run(args: argparse.Namespace) -> None:
    """Compares who is there, and prints the table."""
    positive(args, "n", "rounds", "threads")
    torch.set_num_threads(args.threads)
    there = [name for name in PEERS if (args.out / f"{name}.safetensors").exists()]
    if not (args.out / EQUAL).is_dir() or not there:
        raise PhinError(f"{args.out} has no models to compare: train them by time_to_quality.py")
    for name in [*there]:
        if why := missing(LIBRARIES[name]):
            there.remove(name)
            print(f"{name} is skipped: {why}", file=sys.stderr)
    distances = Distances(args.out / "equal_quality.json", args.n, args.features)
    rows = [compared(name, args.out, distances, args.rounds) for name in there]
    heading = [
        "own best",
        "the peer's fastest",
        "pictures/s",
        "Phin's fastest",
        "pictures/s",
        "times as fast",
    ]
    print("\n".join([*in_words(machine()).values(), f"{args.threads} threads, {args.rounds} rounds", ""]))
    print(markdown(heading, rows))
    print(f"\nFrechet distance, {distances.found['features']}, n = {args.n:,}.")


def main(argv: Sequence[str] | None = None) -> int:
    """Exit codes as of `exit_code`."""
    args = parsed(argv)
    return exit_code(lambda: run(args), "the same command goes on")


if __name__ == "__main__":
    sys.exit(main())
