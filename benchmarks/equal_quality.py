"""Pictures a second at equal quality: Phin beside peers, each model by its fastest sampler that will do.

    python benchmarks/time_to_quality.py --peers-json peers.json    # which trains the models
    python benchmarks/equal_quality.py --peers-json peers.json

Every model draws by several of its library's samplers, in more and more steps, up to the thousand ancestral
ones of its own script; a peer in the setting that was fastest at calls in `--peers-json`. The least Frechet
distance of a peer (digit reader, n pictures against MNIST's test digits) is its own best, and a sampler will
do whose distance is at most five per cent above that. Of those the one of the fewest steps is timed, the
peer's and that of Phin's model, which was told as little, `phin-unlabelled`: 64 pictures at a time, in turns.
`--model` takes another one of Phin's, such as one that was trained for as long as the peers', or a distilled
one, which has its own sampler.

Distances are kept, and measured once. A thousand calls for each of 5,000 pictures take hours: `--most-steps
100` leaves such samplers out, and the page names them.
"""

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from command import positive
from contestants import DEFAULT, Setting, scheduled
from time_to_quality import AT_ONCE, EQUAL, PEERS, Peer, settings, skipped
from timing import interleaved, rates, ratios
from torch import Tensor

import phin
from phin import data as datasets
from phin.cli.terminal import exit_code
from phin.errors import PhinError
from phin.evaluation import PicturePlan, Reference, pictures
from phin.machine import in_words, machine
from phin.metrics.frechet import Estimate, frechet_estimate
from phin.metrics.summary import Summary
from phin.models import samples
from phin.pictures import to_integers
from phin.recipes import DiffusionRecipe
from phin.report import markdown
from phin.training.checkpoint import digest, read_weights, write_json

CLOSE = 1.05
"""Times a peer's own best."""
BATCH = 64
OURS = {"dpmpp_2m": (2, 3, 4, 5, 6, 8, 10, 15, 25, 50), "unipc_2": (3, 4, 5, 6, 8)}
"""Phin's samplers, and their steps."""
THEIRS: dict[str, dict[str, tuple[int, ...]]] = {
    "diffusers": {
        "DDPMScheduler": (1000,),  # that of the script that trained it
        "DDIMScheduler": (5, 10, 20, 50, 100, 250),
        "DPMSolverMultistepScheduler": (3, 4, 5, 6, 8, 10, 20, 50),
        "UniPCMultistepScheduler": (3, 4, 5, 6, 8, 10, 20, 50),
    },
    "denoising-diffusion-pytorch": {"DDIM": (10, 20, 50, 100, 250), "DDPM": (1000,)},
}
"""Those of peers. denoising-diffusion-pytorch goes by DDPM, its default, in all of its 1,000 steps."""
FEWEST = max(min(map(min, ladders.values())) for ladders in THEIRS.values())
"""Steps that every peer has a sampler of."""


class Sampler(NamedTuple):
    """A way to draw from a model."""

    name: str
    steps: int
    setting: Setting
    draw: Callable[[range], Tensor]
    """Places among all that are drawn -> the pictures there, uint8: others of others."""
    weights: str = ""
    """The digest of the network's."""

    def __str__(self) -> str:
        return f"{self.name}, {self.steps} steps, {self.setting}"


def ours(path: Path) -> list[Sampler]:
    """Phin's; of a distilled model its own."""
    model = phin.load(path)
    recipe = model.recipe
    distilled = recipe.distilled if isinstance(recipe, DiffusionRecipe) else None
    ladders = OURS if distilled is None else {distilled.solver: distilled.supported}
    weights = digest(model.net)

    def draw(solver: str, steps: int, places: range) -> Tensor:
        how = {"seed": places.start, "batch": AT_ONCE, "solver": solver, "steps": steps}
        return to_integers(torch.stack(samples(model, n=len(places), **how)))

    return [
        Sampler(solver, steps, DEFAULT, partial(draw, solver, steps), weights)
        for solver, ladder in ladders.items()
        for steps in ladder
    ]


def theirs(name: str, out: Path, drawing: Setting) -> list[Sampler]:
    """A peer's."""
    peer, path = PEERS[name](Setting(), drawing), out / f"{name}.safetensors"
    peer.load(read_weights(path)[0], path)
    weights = digest(peer.mean)
    return [
        Sampler(sampler, steps, drawing, partial(drawn, peer, sampler, steps), weights)
        for sampler, ladder in THEIRS[name].items()
        for steps in ladder
    ]


def drawn(peer: Peer, sampler: str, steps: int, places: range) -> Tensor:
    """Pictures of a peer's average, by a scheduler of diffusers or by the library's own sampler.

    The first place is the seed, so that what is drawn depends on nothing that was drawn before.
    """
    torch.manual_seed(places.start)
    if peer.name != "diffusers":
        return peer.draw(len(places), steps)
    with torch.no_grad(), peer.drawing.precision():
        return scheduled(peer.fast_mean, sampler, len(places), steps)


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

    def of(self, model: str, sampler: Sampler) -> Estimate:
        """The distance of a sampler of a model, and its standard error."""
        key = f"{model}, {sampler}, {sampler.weights[:12]}"
        if key not in self.found["distances"]:
            summary = Summary(20)
            for first in range(0, self.n, AT_ONCE):
                places = range(first, min(first + AT_ONCE, self.n))
                summary.add(places, self.reference.features(sampler.draw(places)))
            distance = frechet_estimate(summary.moments, self.reference.test.moments)
            self.found["distances"][key] = distance.value, distance.error
            write_json(self.path, self.found)
            print(f"{model}, {sampler}: {told(distance)}", file=sys.stderr)
        return Estimate(*self.found["distances"][key])


def told(distance: Estimate) -> str:
    """A distance with its standard error."""
    return f"{distance.value:.3g} ± {distance.error:.2g}"


def brief(samplers: Sequence[Sampler], most: int) -> list[Sampler]:
    """Those of so many steps at most."""
    return [sampler for sampler in samplers if sampler.steps <= most]


def compared(
    name: str, peer: Sequence[Sampler], model: str, own: Sequence[Sampler], distances: Distances, rounds: int
) -> list[str]:
    """A row of the table: a peer beside a model of Phin's."""
    best = min(peer, key=lambda sampler: distances.of(name, sampler).value)
    least = distances.of(name, best)
    chosen: dict[str, Sampler] = {}
    for who, samplers in ((name, peer), (model, own)):
        good = [sampler for sampler in samplers if distances.of(who, sampler).value <= CLOSE * least.value]
        if good:  # a step is a call, of whatever sampler
            chosen[who] = min(good, key=lambda sampler: sampler.steps)
    turns = {who: partial(sampler.draw, range(BATCH)) for who, sampler in chosen.items()}
    seconds = interleaved(turns, rounds, warm_up=1)  # which compiles what is to be, for so many
    cells = [f"{name}, {best}: {told(least)}"]
    for who in (name, model):
        if who in chosen:
            cells += [
                f"{chosen[who]}: {told(distances.of(who, chosen[who]))}",
                f"{rates(BATCH, seconds[who]):.1f}",
            ]
        else:
            cells += [f"none comes within {CLOSE:g} times that", ""]
    return [*cells, f"{ratios(seconds[name], seconds[model]):.1f}" if model in chosen else ""]


def parsed(argv: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, default=Path("runs/time_to_quality"), help="where the models are")
    parser.add_argument("--model", type=Path, help=f"that of Phin; {EQUAL} in --out")
    parser.add_argument("--n", type=int, default=5000, help="pictures of a distance")
    parser.add_argument("--most-steps", type=int, default=1000, help="of a sampler: fewer take less long")
    parser.add_argument(
        "--peers-json", type=Path, help="what peers.py --json wrote: the best settings of the peers"
    )
    parser.add_argument("--rounds", type=int, default=10, help="timed turns")
    parser.add_argument("--features", help="what reads pictures; the digit reader")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    return parser.parse_args(argv)


def run(args: argparse.Namespace) -> None:
    """Compares who is there, and prints the table."""
    positive(args, "n", "rounds", "threads")
    torch.set_num_threads(args.threads)
    if args.most_steps < FEWEST:
        raise PhinError(f"most_steps = {args.most_steps}: some peers have no sampler of fewer than {FEWEST}")
    there = [name for name in PEERS if (args.out / f"{name}.safetensors").exists()]
    model = args.model or args.out / EQUAL
    if not model.exists() or not there:
        lacking = args.out if model.exists() else model
        raise PhinError(f"{lacking} has no model to compare: train it by time_to_quality.py")
    drawing, absent = settings(args.peers_json, there, "calls"), skipped(())
    distances = Distances(args.out / "equal_quality.json", args.n, args.features)
    own, rows, long = brief(ours(model), args.most_steps), list[list[str]](), list[str]()
    for name in there:
        if name not in absent:
            every = theirs(name, args.out, drawing[name])
            peer = brief(every, args.most_steps)
            long += [f"{name}, {sampler}" for sampler in every if sampler not in peer]
            rows.append(compared(name, peer, str(model), own, distances, args.rounds))
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
    measure = f"Frechet distance ± its standard error, {distances.found['features']}, n = {args.n:,}"
    print(f"\n{measure}. Phin's model is {model}.")
    for name, why in absent.items():
        print(f"{name} is skipped: {why}")
    for name in PEERS:
        if name not in absent and name not in there:
            print(f"{name} is not trained: run time_to_quality.py --only {name}")
    if long:
        print(f"Left out for their steps: {'; '.join(long)}.")


def main(argv: Sequence[str] | None = None) -> int:
    """Exit codes as of `exit_code`."""
    args = parsed(argv)
    return exit_code(lambda: run(args), "the same command goes on")


if __name__ == "__main__":
    sys.exit(main())
