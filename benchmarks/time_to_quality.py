"""The wall clock from an empty process until a model of MNIST draws well, Phin's recipe and peers'.

    python benchmarks/peers.py --json peers.json            # which finds the best settings of the peers
    python benchmarks/time_to_quality.py --peers-json peers.json  # all: hours, and it can be interrupted
    python benchmarks/time_to_quality.py --only phin-unlabelled  # a part at a time; peers need its time
    python benchmarks/time_to_quality.py --peers-json peers.json --only diffusers
    python benchmarks/time_to_quality.py --only             # the table and the curve of what is there

Quality is the Frechet distance of n pictures from MNIST's test digits, in the features of the digit reader
that comes with Phin, and the floor is that of as many training digits. The marks are 100, 30 and 10 times the
floor, and a mark is reached where the line between two measurements, in logarithms, crosses it. The clock
begins with the process: imports, data and compilation count, measuring does not.

- phin trains its recipe `mnist` as it comes, within its ten minutes (`--minutes`), and draws as that says:
  told labels, and guided.
- phin-unlabelled is the same, told nothing, and so without guidance: as the peers.
- diffusers: examples/unconditional_image_generation/train_unconditional.py with its defaults and the README's
  options: batch 16, learning rate 1e-4 with 500 steps of warm-up and a cosine, AdamW with betas 0.95 and
  0.999 and decay 1e-6, gradients clipped at 1, EMA of power 3/4 up to 0.9999; it predicts the noise of DDPM's
  1,000 linear steps. Scaled to the data: one channel, the network of `contestants.py`, no mirroring, and a
  cosine that ends with the time that there is. It draws by DPM-Solver++.
- denoising-diffusion-pytorch: the README's Trainer: batch 32 twice a step, learning rate 8e-5, Adam with
  betas 0.9 and 0.99, gradients clipped at 1, EMA of 0.995 every ten steps; it predicts v of a sigmoid
  schedule. Scaled to the data: one channel, the network of `contestants.py`, no mirroring. It draws by DDIM.

The data of all are in memory. Each peer trains until it reaches the last mark, or for six times as long as
phin-unlabelled took, in the setting that was fastest at training in `--peers-json`, and draws in the one that
was fastest at calls; the table names both, and who is not installed. What is measured goes to `--out`; the
same command goes on.
"""

import abc
import argparse
import copy
import json
import math
import subprocess
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import torch
import torch.nn.functional as F
from command import positive
from contestants import DEFAULT, LIBRARIES, SETTINGS, Setting, missing
from torch import Tensor, nn

import phin
from phin import data as datasets
from phin.cli.terminal import exit_code
from phin.errors import PhinError
from phin.evaluation import PicturePlan, Reference, pictures
from phin.machine import in_words, machine
from phin.metrics.frechet import frechet_estimate
from phin.metrics.summary import Summary
from phin.recipes import DiffusionRecipe
from phin.report import light, markdown, picture
from phin.training.checkpoint import (
    atomic,
    load_weights,
    open_folder,
    read_weights,
    save_weights,
    write_json,
)
from phin.training.optimizer import Optimizer
from phin.training.run import copies

OURS, EQUAL = "phin", "phin-unlabelled"  # as it comes, told labels; and without, as all others
MARKS = (100.0, 30.0, 10.0)  # times the floor
PATIENCE = 6.0  # times our time, at the equal task
FIRST = 10.0  # seconds until the first measurement
AT_ONCE = 250  # pictures drawn


def crossing(seconds: Sequence[float], distances: Sequence[float], mark: float) -> float | None:
    """When a curve first falls to a mark: along a line in the logarithms of both; None is never.

    A curve that begins below the mark is there at its first point.
    """
    for i, distance in enumerate(distances):
        if distance > mark:
            continue
        if i == 0:
            return seconds[0]
        x0, x1 = math.log(seconds[i - 1]), math.log(seconds[i])
        y0, y1 = math.log(distances[i - 1]), math.log(distance)
        return math.exp(x0 + (x1 - x0) * (y0 - math.log(mark)) / (y0 - y1))
    return None


def after(seconds: float, spacing: float) -> float:
    """When to measure next: FIRST seconds, and then each time `spacing` times as late as the last."""
    if seconds < FIRST:
        return FIRST
    return FIRST * spacing ** (math.floor(math.log(seconds / FIRST, spacing) + 1e-9) + 1)


# The peers


class Peer(abc.ABC):
    """A peer's own training recipe: a step, an average of the weights, and all that goes on after a stop.

    Args:
        setting: How it trains.
        drawing: How the average draws.
    """

    name: str
    betas: tuple[float, float]
    weight_decay = 0.0
    examples: int
    """Of a step."""

    def __init__(self, setting: Setting, drawing: Setting) -> None:
        torch.manual_seed(0)
        self.net = LIBRARIES[self.name].build()
        self.mean = copy.deepcopy(self.net).eval().requires_grad_(False)
        self.fast, self.setting = setting.applied(self.net), setting
        self.fast_mean, self.drawing = drawing.applied(self.mean), drawing
        self.optimizer = Optimizer(self.net, self.betas, self.weight_decay, muon=False)

    def step(self, number: int, x: Tensor, progress: float) -> None:
        """A step on pictures in [-1, 1]; progress is the share of the time it has."""
        torch.manual_seed(number)
        self.differentiate(x)
        nn.utils.clip_grad_norm_(self.net.parameters(), 1.0)
        self.optimizer.step(self.rate(number, progress))
        self.optimizer.zero_grad()
        if (decay := self.decay(number + 1)) is not None:
            with torch.no_grad():
                for mean, now in zip(self.mean.parameters(), self.net.parameters(), strict=True):
                    mean.lerp_(now, 1 - decay)

    def differentiate(self, x: Tensor) -> None:
        """The gradients of the mean loss of a step's pictures."""
        for part in x.chunk(self.parts):
            with self.setting.precision():
                loss = self.loss(part)
            (loss / self.parts).backward()

    def rehearse(self, x: Tensor) -> None:
        """Compiles what a step needs, if anything, so that going on does not count that a second time."""
        self.differentiate(x)
        self.optimizer.zero_grad()

    parts: int = 1
    """Batches of a step, whose gradients are added up."""

    @abc.abstractmethod
    def loss(self, x: Tensor) -> Tensor:
        """The mean loss of a batch, at random times."""

    @abc.abstractmethod
    def rate(self, number: int, progress: float) -> float:
        """The learning rate of a step."""

    @abc.abstractmethod
    def decay(self, done: int) -> float | None:
        """The decay of the average after so many steps; None leaves it."""

    def tensors(self) -> dict[str, Tensor]:
        """All that it has learned, by name."""
        parts = {
            "net": self.net.state_dict(),
            "mean": self.mean.state_dict(),
            "optim": self.optimizer.tensors(),
        }
        return {f"{part}.{name}": t for part, named in parts.items() for name, t in named.items()}

    def load(self, tensors: dict[str, Tensor], path: Path) -> None:
        """Takes over what `tensors` gave."""

        def part(name: str) -> dict[str, Tensor]:
            begin = f"{name}."
            return {key.removeprefix(begin): t for key, t in tensors.items() if key.startswith(begin)}

        load_weights(self.net, part("net"), path)
        load_weights(self.mean, part("mean"), path)
        self.optimizer.load(part("optim"))

    def draw(self, n: int, steps: int) -> Tensor:
        """Pictures of the average, uint8."""
        with torch.no_grad(), self.drawing.precision():
            return LIBRARIES[self.name].draw(self.fast_mean, n, steps)


class Diffusers(Peer):
    """train_unconditional.py of diffusers' examples."""

    name, betas, weight_decay, examples = "diffusers", (0.95, 0.999), 1e-6, 16

    def __init__(self, setting: Setting, drawing: Setting) -> None:
        from diffusers.schedulers.scheduling_ddpm import DDPMScheduler

        super().__init__(setting, drawing)
        self.chain: Any = DDPMScheduler(num_train_timesteps=1000)  # whose times are of another type on paper

    def loss(self, x: Tensor) -> Tensor:
        noise, t = torch.randn_like(x), torch.randint(0, 1000, (len(x),))
        return F.mse_loss(self.fast(self.chain.add_noise(x, noise, t), t).sample, noise)

    def rate(self, number: int, progress: float) -> float:
        return 1e-4 * min((number + 1) / 500, (1 + math.cos(math.pi * min(progress, 1))) / 2)

    def decay(self, done: int) -> float | None:
        # EMAModel: 1 - (1 + step)^(-3/4), whose step is one less than those done.
        return min(1 - done**-0.75, 0.9999)


class Lucidrains(Peer):
    """The Trainer of denoising-diffusion-pytorch's README."""

    name, betas, examples, parts = "denoising-diffusion-pytorch", (0.9, 0.99), 64, 2

    def __init__(self, setting: Setting, drawing: Setting) -> None:
        from denoising_diffusion_pytorch import GaussianDiffusion

        super().__init__(setting, drawing)
        self.diffusion = GaussianDiffusion(self.fast, image_size=28, timesteps=1000)

    def loss(self, x: Tensor) -> Tensor:
        return self.diffusion((x + 1) / 2)

    def rate(self, number: int, progress: float) -> float:
        return 8e-5

    def decay(self, done: int) -> float | None:
        # ema_pytorch, every ten steps from the first: a copy until 101, then 1 - (1 + t)^(-2/3) up to 0.995.
        if done % 10 != 1:
            return None
        return 0.0 if done <= 101 else min(1 - (done - 100) ** (-2 / 3), 0.995)


PEERS: dict[str, type[Peer]] = {kind.name: kind for kind in (Diffusers, Lucidrains)}


# The clock and the curve


class Curve:
    """What is measured of a contestant, kept in a file."""

    def __init__(self, path: Path, what: dict[str, Any], floor: float | None = None) -> None:
        self.path = path
        self.found = {**what, "floor": floor, "startup": None, "points": [], "finished": False}
        if path.exists():
            self.found = json.loads(path.read_text(encoding="utf-8"))
            if other := [name for name, value in what.items() if self.found.get(name) != value]:
                name = other[0]
                raise PhinError(
                    f"{path} was measured with {name} {self.found.get(name)}, not {what[name]}: give that, "
                    "or another --out"
                )

    def write(self) -> None:
        """Onto the disk."""
        write_json(self.path, self.found)

    def add(self, seconds: float, images: int, distance: float) -> None:
        """A measurement."""
        self.found["points"].append({"seconds": seconds, "images": images, "frechet": distance})
        self.write()

    def reached(self, mark: float) -> float | None:
        """When the mark, times the floor, was reached."""
        points = self.found["points"]
        return crossing(
            [point["seconds"] for point in points],
            [point["frechet"] for point in points],
            mark * self.found["floor"],
        )


def begun() -> float:
    """When this process began, in seconds of the epoch."""
    return psutil.Process().create_time()


class Benchmark:
    """A contestant under the measure of all.

    Args:
        args: The command line.

    Raises:
        PhinError: Pictures cannot be measured by these features, or by so many.
    """

    def __init__(self, args: argparse.Namespace) -> None:
        self.args, self.out = args, args.out
        self.data, looked = datasets.load("mnist"), time.time()
        plan = PicturePlan(args.n, kept=20, compared=0)
        self.reference = Reference(self.data, pictures.chosen(args.features, "mnist"), plan)
        self.begun = begun() + time.time() - looked
        """When the clock began: with the process, but for the time that the reference took."""

    def curve(self, name: str, **settings: Any) -> Curve:
        """The curve of a contestant, with what there is of it."""
        what = {"name": name, "n": self.args.n, "features": self.reference.features.name, **settings}
        return Curve(self.out / f"{name}.json", what, self.reference.floor["frechet"].value)

    def ours(self, name: str) -> None:
        """Trains Phin's recipe, then measures copies of its averaged weights that it left on its way."""
        recipe = phin.RECIPES["mnist"]
        assert isinstance(recipe, DiffusionRecipe)
        if name == EQUAL:
            recipe = replace(recipe, drop=1.0, sample=replace(recipe.sample, guidance=1.0))
        folder, minutes = self.out / name, self.args.minutes
        curve = self.curve(name, minutes=minutes)
        # When the clock began of the process that wrote the first copy, had it trained all that came before.
        stamp, last = folder / "begun.json", folder / "last.safetensors"
        if not copies(folder):
            open_folder(folder)
            before = read_weights(last)[1]["training"]["state"]["seconds"] if last.exists() else 0.0
            write_json(stamp, self.begun - before)
        config = replace(recipe.train, minutes=minutes, copy_every=0.02, picture_every=0.0, trackers=())
        command = "python benchmarks/time_to_quality.py"
        phin.train(replace(recipe, train=config), folder, "mnist", command)
        states = {path: read_weights(path)[1]["training"]["state"] for path in copies(folder)}
        path, first = next(iter(states.items()))
        end = [*states][-1]  # of the whole training, when the rate has fallen
        startup = path.stat().st_mtime - json.loads(stamp.read_text()) - first["seconds"]

        curve.found |= {"startup": startup, "setting": str(DEFAULT), "drawing": str(DEFAULT)}
        done = max((point["seconds"] for point in curve.found["points"]), default=0.0)
        for path, state in states.items():
            seconds = startup + state["seconds"] - state["aside"]
            due = seconds >= after(done, self.args.spacing) or (path is end and seconds > done)
            if not due or curve.reached(MARKS[-1]):
                continue
            found = pictures.evaluate(phin.load(path), self.reference).figures
            curve.add(seconds, state["examples"], found["measures"]["frechet"]["value"])
            done = seconds
            self.say(name, curve)
        curve.found["finished"] = True
        curve.write()

    def peer(self, name: str, setting: Setting, drawing: Setting, limit: float) -> None:
        """Trains a peer's recipe and measures it on the way, for at most so many seconds."""
        peer, path = PEERS[name](setting, drawing), self.out / f"{name}.safetensors"
        step, seconds = 0, time.time() - self.begun
        startup = seconds
        if path.exists():
            tensors, metadata = read_weights(path)
            peer.load(tensors, path)
            step, seconds = metadata["step"], metadata["seconds"]
            peer.rehearse(self.data.train(0, step, peer.examples).x)
        how = {"setting": str(setting), "drawing": str(drawing)}
        curve = self.curve(name, **how, limit=limit, steps=self.args.steps)
        if curve.found["startup"] is None:
            curve.found["startup"] = startup
        while True:
            measured = curve.found["points"][-1]["seconds"] if curve.found["points"] else 0.0
            if step and seconds > measured:
                curve.add(seconds, step * peer.examples, self.distance(peer))
                self.say(name, curve)
            if seconds >= limit or curve.reached(MARKS[-1]):
                break
            started, due = time.perf_counter() - seconds, min(after(seconds, self.args.spacing), limit)
            while (seconds := time.perf_counter() - started) < due:
                peer.step(step, self.data.train(0, step, peer.examples).x, seconds / limit)
                step += 1
            save_weights(path, peer.tensors(), {"step": step, "seconds": seconds})
        curve.found["finished"] = True
        curve.write()

    def distance(self, peer: Peer) -> float:
        """The Frechet distance of what a peer draws."""
        torch.manual_seed(0)
        summary = Summary(20)
        for first in range(0, self.args.n, AT_ONCE):
            places = range(first, min(first + AT_ONCE, self.args.n))
            summary.add(places, self.reference.features(peer.draw(len(places), self.args.steps)))
        return frechet_estimate(summary.moments, self.reference.test.moments).value

    def say(self, name: str, curve: Curve) -> None:
        """Tells of the last measurement."""
        last, floor = curve.found["points"][-1], curve.found["floor"]
        words = f"{name}: {last['seconds']:.0f} s, {last['images']:,} images"
        print(
            f"{words}: {last['frechet']:.3g}, {last['frechet'] / floor:.3g} times the floor", file=sys.stderr
        )


def limit(out: Path) -> float:
    """The seconds that a peer may take.

    Raises:
        PhinError: Phin's are not known yet.
    """
    path = out / f"{EQUAL}.json"
    if not path.exists() or not (ours := Curve(path, {})).found["finished"]:
        raise PhinError(
            f"peers train for six times as long as {EQUAL} took: measure it first, by --only {EQUAL}"
        )
    return PATIENCE * (ours.reached(MARKS[-1]) or ours.found["points"][-1]["seconds"])


def settings(path: Path | None, names: Iterable[str], measure: str) -> dict[str, Setting]:
    """The setting of each peer: the fastest at a measure, training or calls, as `peers.py` found.

    Raises:
        PhinError: There is no file, or it is not what `peers.py` writes, or lacks a peer that can take part.
    """
    if path is None:
        if able := [name for name in names if not missing(LIBRARIES[name])]:
            raise PhinError(
                f"{able[0]} runs in its best settings: find them by peers.py --json peers.json, and give "
                "--peers-json peers.json"
            )
        return {}
    try:
        rows = json.loads(path.read_text(encoding="utf-8"))[measure]["rows"].values()
        speed = {
            (row["library"], SETTINGS[row["setting"]]): float(row["images_per_second"]["median"])
            for row in rows
            if row["library"] in LIBRARIES  # a row of another step is no library's
        }
    except (OSError, ValueError, TypeError, LookupError, AttributeError) as error:
        raise PhinError(
            f"{path} has no speeds of {measure} ({error!r}): make it by peers.py --json {path}"
        ) from error
    found = dict(sorted(speed, key=speed.__getitem__))  # of each peer the last counts, which is the fastest
    for name in names:
        if name not in found and not missing(LIBRARIES[name]):
            raise PhinError(f"{path} has no row of {name}: measure it by peers.py --peers {name}")
    return found


def curves(out: Path) -> dict[str, Curve]:
    """Those that are there, Phin's first."""
    paths = {name: out / f"{name}.json" for name in (OURS, EQUAL, *PEERS)}
    return {name: Curve(path, {}) for name, path in paths.items() if path.exists()}


def skipped(found: Iterable[str]) -> dict[str, str]:
    """Why a peer that is not there cannot take part."""
    reasons = {name: missing(LIBRARIES[name]) for name in PEERS if name not in found}
    return {name: why for name, why in reasons.items() if why}


def tabled(found: dict[str, Curve]) -> str:
    """Times to the marks, and how many times those of Phin the peers' are, in Markdown."""
    marks = [f"{mark:g} times the floor" for mark in MARKS]
    rows, ratios = list[list[str]](), list[list[str]]()
    for name, curve in found.items():
        points = curve.found["points"]
        taken = [shown(*took(curve, mark), "{:.0f} s") for mark in MARKS]
        least = f"{min((p['frechet'] for p in points), default=math.nan) / curve.found['floor']:.3g}"
        startup = "" if (begin := curve.found["startup"]) is None else f"{begin:.1f} s"
        how = [curve.found.get(part, "") for part in ("setting", "drawing")]
        rows.append([name, "labels" if name == OURS else "nothing", *taken, least, startup, *how])
        for ours in (OURS, EQUAL):
            if name in PEERS and ours in found:
                cells = [longer(took(curve, mark), found[ours].reached(mark)) for mark in MARKS]
                ratios.append([name, ours, *cells])
    heading = ["", "told", *marks, "least, times the floor", "start-up", "trains in", "draws in"]
    sizes = ", ".join(sorted({f"n = {c.found['n']:,}, floor {c.found['floor']:.4f}" for c in found.values()}))
    note = (
        f"Frechet distance, digit reader, {sizes}. {OURS} is told labels, and guided by them; {EQUAL} is "
        "told nothing, as peers are."
    )
    times = [markdown(["", "takes so many times as long as", *marks], ratios)] if ratios else []
    absent = skipped(found)
    why = [f"{name} is skipped: {reason}" for name, reason in absent.items()]
    why += [f"{name} is not measured: --only {name}" for name in PEERS if name not in {*found, *absent}]
    return "\n\n".join([markdown(heading, rows), *times, note, *why])


def took(curve: Curve, mark: float) -> tuple[float | None, bool]:
    """When a mark was reached, and whether it was: if not, the time of the last measurement, if any."""
    taken, points = curve.reached(mark), curve.found["points"]
    return taken or (points[-1]["seconds"] if points else None), taken is not None


def longer(theirs: tuple[float | None, bool], ours: float | None) -> str:
    """How many times ours a peer's time is; nothing where ours is unknown."""
    seconds, reached = theirs
    return shown(seconds and ours and seconds / ours, reached, "{:.1f}")


def shown(value: float | None, reached: bool, form: str) -> str:
    """A figure, at least so much if the mark was not reached."""
    return "" if value is None else ("" if reached else "over ") + form.format(value)


def drawn(found: dict[str, Curve]) -> bytes:
    """The curves, as a PNG file."""
    colours = light()

    def draw(axes: Any) -> None:
        for i, (name, curve) in enumerate(found.items(), 1):
            points = curve.found["points"]
            times = [point["frechet"] / curve.found["floor"] for point in points]
            seconds = [point["seconds"] for point in points]
            axes.plot(seconds, times, color=colours[f"s{i}"], lw=1.6, marker="o", ms=3, label=name)
        for mark in MARKS:
            axes.axhline(mark, color=colours["quiet"], lw=0.8, ls=":")
        axes.set_xscale("log")
        axes.set_yscale("log")

    return picture([draw], "seconds from an empty process", "Frechet distance, times its floor")


def parsed(argv: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    names = (OURS, EQUAL, *PEERS)
    parser.add_argument("--only", nargs="*", choices=names, default=names, help="contestants to train; all")
    parser.add_argument("--out", type=Path, default=Path("runs/time_to_quality"))
    parser.add_argument("--minutes", type=float, default=10.0, help="Phin's budget; its recipe's")
    parser.add_argument(
        "--n", type=int, default=5000, help="pictures of a measurement, with a floor of its own"
    )
    parser.add_argument("--steps", type=int, default=25, help="network calls of a peer's picture")
    parser.add_argument("--spacing", type=float, default=1.3, help="each measurement so many times as late")
    parser.add_argument("--features", help="what reads pictures; the digit reader")
    parser.add_argument(
        "--peers-json", type=Path, help="what peers.py --json wrote: the best settings of the peers"
    )
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    return parser.parse_args(argv)


def train(
    args: argparse.Namespace,
    training: Mapping[str, Setting],
    drawing: Mapping[str, Setting],
    argv: Sequence[str],
) -> None:
    """Trains and measures who is asked for: one here; of several, each in an empty process of its own."""
    if len(args.only) > 1:
        for name in args.only:
            done = subprocess.run([sys.executable, __file__, *argv, "--only", name])
            if done.returncode:
                sys.exit(done.returncode)  # it has told why
        return
    for name in args.only:
        if name not in PEERS:
            Benchmark(args).ours(name)
        elif why := missing(LIBRARIES[name]):
            print(f"{name} is skipped: {why}", file=sys.stderr)
        else:
            seconds = limit(args.out)
            Benchmark(args).peer(name, training[name], drawing[name], seconds)


def run(args: argparse.Namespace, argv: Sequence[str]) -> None:
    """Trains and measures who is asked for; then prints what there is, and leaves it."""
    positive(args, "n", "steps", "threads")
    torch.set_num_threads(args.threads)
    if args.spacing <= 1:
        raise PhinError(f"spacing = {args.spacing}: measurements come later and later, so give more than 1")
    peers = [name for name in args.only if name in PEERS]
    training, drawing = (settings(args.peers_json, peers, measure) for measure in ("training", "calls"))
    open_folder(args.out)
    train(args, training, drawing, argv)
    if found := curves(args.out):
        text = "\n\n".join([*in_words(machine()).values(), tabled(found)])
        with atomic(args.out / "table.md") as path:
            path.write_text(text + "\n", encoding="utf-8")
        with atomic(args.out / "quality.png") as path:
            path.write_bytes(drawn(found))
        print(text)


def main(argv: Sequence[str] | None = None) -> int:
    """Exit codes as of `exit_code`."""
    args = parsed(argv)
    return exit_code(lambda: run(args, sys.argv[1:] if argv is None else argv), "the same command goes on")


if __name__ == "__main__":
    sys.exit(main())
