"""The command line, `phin COMMAND`: each command is a dataclass whose fields are its options.

A command gathers facts (`run`), which `--json` prints as they are and `show` puts in words. Importing torch
takes longer than many a command, so every command imports what it needs when it runs.
"""

import abc
import atexit
import contextlib
import gc
import io
import json
import logging
import os
import re
import shlex
import sys
import threading
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, make_dataclass, replace
from itertools import groupby, pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, TypeVar

import tyro

from phin import __version__
from phin.errors import PhinError

if TYPE_CHECKING:
    from torch import Tensor

    from phin.edits import Editor
    from phin.models import Model, Watch
    from phin.recipes import Recipe
    from phin.sampling import Guide

T = TypeVar("T")
Flag = tyro.conf.FlagCreatePairsOff[bool]


@dataclass(frozen=True, kw_only=True)
class Command(abc.ABC):
    """What can be asked of phin."""

    json: Flag = False
    """Print one JSON object on standard output, and nothing else there."""

    again: ClassVar[str] = "start the same command again"
    """What to do after an interruption."""

    def __post_init__(self) -> None:
        if (seed := getattr(self, "seed", 0)) < 0:
            raise PhinError(f"seed must not be negative, but is {seed}")

    @abc.abstractmethod
    def run(self) -> dict[str, Any]:
        """Does it; what came of it, JSON-able.

        Raises:
            PhinError: The user can mend it.
        """

    @abc.abstractmethod
    def show(self, facts: dict[str, Any]) -> None:
        """Prints what came of it."""

    def code(self, facts: dict[str, Any]) -> int:
        """The exit code."""
        return 0


@dataclass(frozen=True, kw_only=True)
class Demo(Command):
    """Get MNIST, train a model of numbers from scratch, draw with it, measure it, and write a report."""

    minutes: float = 10.0
    """How long to train."""
    out: Path = Path("runs/demo")
    """Folder of the run and its report.html. A demo that was interrupted goes on from what is there."""
    seed: int = 0
    """Of everything random."""
    reader: str = "mnist-classifier"
    """The classifier that reads the pictures."""

    again = "the same command goes on where it stopped"

    def run(self) -> dict[str, Any]:
        from phin.demo import demo
        from phin.evaluation import Plan
        from phin.recipes import NUMBERS

        train = replace(NUMBERS.train, minutes=self.minutes, steps=None, seed=self.seed)
        command = (
            f"phin demo --minutes {self.minutes:g} --out {shlex.quote(str(self.out))} --seed {self.seed}"
        )
        recipe, plan = replace(NUMBERS, train=train), Plan(n_unseen=200)
        with progress(plan.states(recipe.sample.steps)) as watch:
            return demo(recipe, self.out, command, self.reader, plan, watch)

    def show(self, facts: dict[str, Any]) -> None:
        show_figures(facts["figures"])
        print(f"\nThe report is {facts['report']}; more pictures: {facts['command']}")


@dataclass(frozen=True, kw_only=True)
class Train(Command):
    """Train a recipe: phin train RECIPE [OPTIONS]."""

    recipe: "Recipe"
    name: str
    out: Path | None
    command: str

    again = Demo.again

    @classmethod
    def parse(cls, argv: Sequence[str]) -> "Train":
        """The command `phin train ARGV`: its options are the recipe's fields, their defaults its values."""
        from phin.recipes import RECIPES, named

        listed = ", ".join(RECIPES)
        if not argv or argv[0].startswith("-"):
            if {"-h", "--help"}.intersection(argv):
                print("usage: phin train RECIPE [OPTIONS]\n\nphin train RECIPE --help lists its options.")
                print(f"Recipes: {listed}")
                raise SystemExit
            raise PhinError(f"name a recipe first, as in `phin train mnist`; there are {listed}")
        name, preset = argv[0], named(argv[0])
        options = [re.sub(r"^--train\.", "--", word) for word in argv[1:]]
        budgets = {
            word[2:] for option in options if (word := option.split("=")[0]) in ("--minutes", "--steps")
        }
        if len(budgets) == 1:  # the one that is given takes the place of the recipe's
            budget = {"minutes": None, "steps": None, budgets.pop(): 1}
            preset = replace(preset, train=replace(preset.train, **budget))
        kind = _options(preset)
        own = {field.name: getattr(preset, field.name) for field in fields(preset)}
        chosen = parse(kind, options, f"phin train {name}", kind(**own))
        recipe = replace(preset, **{field: getattr(chosen, field) for field in own})
        command = shlex.join(["phin", "train", *argv])
        return cls(recipe=recipe, name=name, out=chosen.out, command=command, json=chosen.json)

    def run(self) -> dict[str, Any]:
        from phin.recipes import train

        facts = train(self.recipe, self.out, self.name, self.command)._asdict()
        return {key: str(value) if isinstance(value, Path) else value for key, value in facts.items()}

    def show(self, facts: dict[str, Any]) -> None:
        scores = ", ".join(f"{name} {value:.4g}" for name, value in facts["validation"].items())
        print(f"{facts['best']}  ({scores})" if scores else facts["best"])


def _options(preset: "Recipe") -> type[Any]:
    """The options of `phin train`: a recipe's fields, those of its training without a prefix; and more."""
    from phin.training.config import TrainConfig

    own = [
        ("train", Annotated[TrainConfig, tyro.conf.arg(name="")], preset.train),
        (
            "out",
            Annotated[Path | None, tyro.conf.arg(help="Folder of the run; runs/RECIPE by default.")],
            None,
        ),
        ("json", Annotated[Flag, tyro.conf.arg(help="Print one JSON object on standard output.")], False),
    ]
    return make_dataclass(
        "Options", own, bases=(type(preset),), frozen=True, namespace={"__doc__": preset.__doc__}
    )


@dataclass(frozen=True, kw_only=True)
class Sample(Command):
    """Draw with a trained model: one PNG a picture, named by number and content, such as 0000_40213.png."""

    model: str = "numbers"
    """A model that comes with phin, the folder of a run, or a .safetensors file."""
    prompt: tuple[str, ...] = ()
    """Numbers of one to five digits to draw."""
    prompts_file: Path | None = None
    """A text file with more of them, one a line."""
    label: tuple[int, ...] | None = None
    """Classes to draw, of a model of labelled pictures; by default each in turn."""
    n: Annotated[int | None, tyro.conf.arg(aliases=("-n",))] = None
    """How many of each, 1 by default; or how many in all, where nothing is asked for in particular."""
    out: Path = Path("samples")
    """Folder of the files; made if need be."""
    seed: int = 0
    """The same seed gives the same pictures."""
    steps: int | None = None
    """Evaluations of the model a picture. This and the next four are the model's own by default."""
    solver: str | None = None
    """Solver, with its arguments if need be: dpmpp_2m, ddim(eta=0.5), heun; a wrong name lists them all."""
    guidance: float | None = None
    """Guidance scale: 0 is unconditional, 1 plain conditional, above it sharpens."""
    levels: str | None = None
    """Schedule that places the noise levels: cosine, karras, discrete(linear), ..."""
    threshold: str | None = None
    """What keeps predictions in the range of the data: clip, dynamic or none."""
    classifier: str | None = None
    """A classifier of noisy pictures that guides to the labels, too; with --guidance 0, alone."""
    classifier_scale: float | None = None
    """Scale of the classifier's guidance, 1 by default: 1 is Bayes' rule, above it sharpens."""
    grid: Flag = False
    """Also write all pictures in one, grid.png."""
    gif: Flag = False
    """Also write a GIF of each picture's denoising."""

    def run(self) -> dict[str, Any]:
        import time

        from phin import models
        from phin.training.checkpoint import open_folder

        prompts = self._prompts()
        model = models.load(self.model)
        kind, rows = models.conditions(model, prompts, self.label, self.n)
        choices = given(
            self, steps="steps", solver="solver", guidance="guidance", grid="levels", threshold="threshold"
        )
        config, guide = models.choose(models.drawing(model)[1], choices), guided(self, model)
        open_folder(self.out)
        states: list[list[Tensor]] = [[] for _ in rows]
        begun = time.perf_counter()
        with progress(len(rows) * config.steps) as advance:

            def watch(batch: Sequence[int], z: "Tensor", level: Any) -> None:
                advance(batch, z, level)
                if self.gif:
                    for k, state in zip(batch, z / level.alpha.hypot(level.sigma), strict=True):
                        states[k].append(state)

            flat = len(model.facts.shape) == 1  # points, and not pictures
            batch = 4096 if flat else 64
            drawn = models.samples(
                model, prompts, self.label, self.n, self.seed, batch, watch, guide, **choices
            )
        facts = {
            "model": str(model.path),
            "sampling": {**asdict(config), "seed": self.seed, **(guide.facts if guide else {})},
            "seconds": round(time.perf_counter() - begun, 3),
        }
        if flat:
            return facts | self._write_points(drawn, states)
        return facts | self._write_pictures(drawn, states, [_caption(kind, row) for row in rows])

    def _prompts(self) -> list[str] | None:
        """Those of the command line and those of the file; None where neither is given."""
        prompts = list(self.prompt)
        if self.prompts_file is not None:
            try:
                prompts += self.prompts_file.read_text(encoding="utf-8").split()
            except (OSError, UnicodeDecodeError) as error:
                raise PhinError(
                    f"{self.prompts_file} cannot be read ({error}); give a text file of numbers"
                ) from error
            if not prompts:
                raise PhinError(
                    f"{self.prompts_file} has no prompts; write numbers such as 40213 into it, one a line"
                )
        return prompts or None

    def _write_pictures(
        self, drawn: "Sequence[Tensor]", states: "Sequence[Sequence[Tensor]]", names: Sequence[str]
    ) -> dict[str, Any]:
        from phin.pictures import gif, png, tile, to_bytes

        pictures = [to_bytes(x) for x in drawn]
        files = []
        for k, (picture, name) in enumerate(zip(pictures, names, strict=True)):
            path = self.out / (f"{k:04}_{name}.png" if name else f"{k:04}.png")
            payloads = {"file": (path, png(picture))}
            if self.gif:
                film = gif([*map(to_bytes, states[k]), picture])
                payloads["gif"] = (path.with_suffix(".gif"), film)
            files.append({**write_all(payloads), **({"content": name} if name else {})})
        facts: dict[str, Any] = {"pictures": files}
        if self.grid:
            facts["grid"] = write(
                self.out / "grid.png", png(tile(pictures, min(self.n or len(pictures), 10)))
            )
        return facts

    def _write_points(
        self, drawn: "Sequence[Tensor]", states: "Sequence[Sequence[Tensor]]"
    ) -> dict[str, Any]:
        """One array of all points; grid and GIF show their density."""
        import numpy as np
        import torch

        from phin.pictures import gif, png, scatter

        points, file = torch.stack(list(drawn)), io.BytesIO()
        np.save(file, points.numpy(), allow_pickle=False)
        facts: dict[str, Any] = {"points": write(self.out / "points.npy", file.getvalue()), "n": len(points)}
        if self.grid:
            facts["grid"] = write(self.out / "grid.png", png(scatter(points)))
        if self.gif:
            clouds = [torch.stack(cloud) for cloud in zip(*states, strict=True)]
            facts["gif"] = write(
                self.out / "points.gif", gif([scatter(cloud) for cloud in [*clouds, points]])
            )
        return facts

    def show(self, facts: dict[str, Any]) -> None:
        for entry in [*facts.get("pictures", ()), facts]:
            for kind in ("file", "gif", "points", "grid"):
                if kind in entry:
                    print(entry[kind])


def _caption(kind: str, row: "Tensor") -> str:
    """What a sample shows, for its file's name."""
    if kind == "text":
        return "".join(map(str, row.tolist()))
    return {"": "", "label": "any" if row[0] < 0 else str(int(row[0]))}[kind]


@dataclass(frozen=True, kw_only=True)
class Evaluate(Command):
    """Measure a trained model: how a generator's pictures are read, or how a classifier reads real ones."""

    model: str = "numbers"
    """A model that comes with phin, the folder of a run, or a .safetensors file."""
    reader: str = "mnist-classifier"
    """The classifier that reads the pictures."""
    n: Annotated[int, tyro.conf.arg(aliases=("-n",))] = 1000
    """Random strings of one to five digits; of a model of single digits, as many labels."""
    n_unseen: int = 500
    """Further strings, none of which was ever trained on."""
    n_frechet: int = 2000
    """Cells for the Frechet distance."""
    seed: int = 0
    """Of the strings, of the real pictures, and of the sampler's noise."""
    steps: int | None = None
    """Evaluations of the model a picture. This and the next three are the model's own by default."""
    solver: str | None = None
    """Solver, with its arguments if need be: dpmpp_2m, ddim(eta=0.5), heun; a wrong name lists them all."""
    guidance: float | None = None
    """Guidance scale: 0 is unconditional, 1 plain conditional, above it sharpens."""
    levels: str | None = None
    """Schedule that places the noise levels: cosine, karras, discrete(linear), ..."""
    classifier: str | None = None
    """A classifier of noisy pictures that guides to the labels, too; with --guidance 0, alone."""
    classifier_scale: float | None = None
    """Scale of the classifier's guidance, 1 by default: 1 is Bayes' rule, above it sharpens."""
    record: Flag = False
    """Write the figures into the model's file, too."""

    def run(self) -> dict[str, Any]:
        from phin import evaluation, models
        from phin.diffusion.denoiser import Denoiser

        plan = evaluation.Plan(self.n, self.n_unseen, self.n_frechet, self.seed)
        choices = given(self, steps="steps", solver="solver", guidance="guidance", grid="levels")
        model, reader, total = models.load(self.model), None, 0
        guide = guided(self, model)
        if isinstance(model.net, Denoiser):
            reader = models.load(self.reader)
            total = plan.states(models.choose(models.drawing(model)[1], choices).steps)
        with progress(total) as watch:
            figures = evaluation.evaluate(model, reader, plan, watch, guide, **choices)
        if self.record:
            evaluation.record(model, figures)
        return {"model": str(model.path), **figures}

    def show(self, facts: dict[str, Any]) -> None:
        show_figures(facts)


@dataclass(frozen=True, kw_only=True)
class Nll(Command):
    """Measure how likely a trained model holds images to be: bits/dim, beside those of PNG and WebP."""

    model: str = "numbers"
    """A diffusion model of 8-bit images: one that comes with phin, the folder of a run, or a file."""
    data: str | None = None
    """Images: mnist, folder:PATH, ...; the model's own by default."""
    split: Literal["train", "valid", "test"] = "test"
    """Which of them."""
    n: Annotated[int | None, tyro.conf.arg(aliases=("-n",))] = None
    """How many (of numbers: cells); by default 1000, or all if there are fewer."""
    method: Literal["chain", "discrete", "continuous", "ode"] | None = None
    """DDPM's bound, VDM's of T steps or in continuous time, or the ODE; by default the first for a model of a
    chain, else the third."""
    steps: int | None = None
    """T of chain and discrete: 1000, or a discrete schedule's own."""
    levels: str | None = None
    """Schedule of the levels, such as cosine(log_snr_max=13); its ends matter. The model's own by default."""
    decoder: str | None = None
    """From the cleanest level to 8 bits: categorical (VDM's) or discretized_gaussian(1) (DDPM's)."""
    frac: float = 0.0
    """Reverse variance of a chain, from 0, small, to 1, large, if the model did not learn it."""
    times: int | None = None
    """Estimates an image: 8 stratified times of a bound, or 1 dequantization for the ODE, by default."""
    dequantize: Literal["uniform"] = "uniform"
    """How the ODE, which has a density, is given 8-bit images: with uniform noise, a step of theirs wide."""
    probes: int = 1
    """Probes of the trace, for the ODE."""
    rtol: float = 1e-5
    """Tolerance of the ODE."""
    condition: Literal["data", "none"] | None = None
    """Measure every image given its label or text, or without; by default as the model was trained."""
    seed: int = 0
    """Of the choice of images, and of all that is random."""
    record: Flag = False
    """Write the figures into the model's file, too."""

    def run(self) -> dict[str, Any]:
        from phin import models, nll

        model = models.load(self.model)
        options = given(
            self, steps="steps", times="times", frac="frac", probes="probes", rtol="rtol", seed="seed"
        )
        with bar(self.n or 1000, "measuring") as advance:
            facts = nll.nll(
                model,
                self.method,
                self.data,
                self.split,
                self.n,
                self.condition,
                self.levels,
                self.decoder,
                watch=advance,
                **options,
            )
        if self.record:
            nll.record(model, facts)
        return {"model": str(model.path), **facts}

    def show(self, facts: dict[str, Any]) -> None:
        from phin.nll import rows, summary

        show_table(rows(facts))
        print(f"\n{summary(facts)}")


@dataclass(frozen=True, kw_only=True)
class Export(Command):
    """Write the averaged weights of a run, and what is known of them, to one small file."""

    source: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="RUN")]
    """The folder of a run, or a .safetensors file."""
    out: Path
    """The file to write, NAME.safetensors."""
    dtype: Literal["fp16", "bf16", "float32"] = "float32"
    """What the weights are rounded to."""

    def run(self) -> dict[str, Any]:
        import torch

        from phin import models
        from phin.training.checkpoint import save_weights

        if self.out.suffix != ".safetensors":
            raise PhinError(f"{self.out} does not end in .safetensors; name the file so")
        model = models.load(self.source)
        known = {
            key: model.metadata[key]
            for key in ("name", "family", "recipe", "facts", "command")
            if key in model.metadata
        }
        if training := model.metadata.get("training"):
            known["training"] = {"state": training["state"], "versions": training["versions"]}
        dtype = {"fp16": torch.float16, "bf16": torch.bfloat16, "float32": torch.float32}[self.dtype]
        save_weights(self.out, model.net.state_dict(), known, dtype)
        return {"file": str(self.out), "bytes": self.out.stat().st_size, **known}

    def show(self, facts: dict[str, Any]) -> None:
        print(f"{facts['file']}  ({facts['bytes'] / 1e6:.1f} MB)")


@dataclass(frozen=True, kw_only=True)
class Verify(Command):
    """Check the laws of diffusion, each measured in two ways on data that are known exactly."""

    only: str = ""
    """Only the laws with this text in their name, equation, paper or chapter."""
    out: Path | None = None
    """An HTML file to write: the laws, and plots that explain them."""

    def run(self) -> dict[str, Any]:
        from phin.verify import page, run

        laws = run.chosen(self.only)
        with bar(len(laws), "measuring") as advance:
            findings, seconds = run.check(laws, lambda: advance(1))
        facts = run.facts(findings, seconds)
        if self.out is not None:
            facts["report"] = write(self.out, page.report_page(findings, seconds).encode())
        return facts

    def show(self, facts: dict[str, Any]) -> None:
        from rich.console import Console

        from phin.verify.page import rich_table

        console = Console(width=None if sys.stdout.isatty() else 100, highlight=False)
        console.print(rich_table(facts["laws"]))
        cases = sum(law["cases"] for law in facts["laws"])
        fail = f"[bold red]{facts['failed']} fail" if facts["failed"] else "none fails"
        console.print(f"\n{facts['held']} laws hold, {fail}; {cases:,} cases in {facts['seconds']:.0f} s")
        if "report" in facts:
            print(f"The report is {facts['report']}")

    def code(self, facts: dict[str, Any]) -> int:
        return 1 if facts["failed"] else 0


@dataclass(frozen=True, kw_only=True)
class Edit(Command):
    """What all edits of pictures have in common."""

    model: str = "numbers"
    """A model that comes with phin, the folder of a run, or a .safetensors file."""
    prompt: tuple[str, ...] | None = None
    """The numbers that the pictures show, one for all or one for each; by default the model is not told."""
    label: tuple[int, ...] | None = None
    """The classes that they show, of a model of labelled pictures, in the same way."""
    out: Path = Path("edits")
    """Folder of the files; made if need be."""
    seed: int = 0
    """The same seed gives the same pictures."""
    steps: int = 50
    """Levels of the ladder."""
    solver: str | None = None
    """Solver: dpmpp_2m, ddim(eta=0.5), ... This and the next two are the model's own by default."""
    guidance: float | None = None
    """Guidance scale: 0 is unconditional, 1 plain conditional, above it sharpens."""
    levels: str | None = None
    """Schedule that places the noise levels: cosine, karras, discrete(linear), ..."""
    threshold: str | None = None
    """What keeps predictions in the range of the data: clip, dynamic or none."""

    def editor(self, *images: Path) -> "Editor":
        """The model, made ready for these pictures."""
        from phin import models
        from phin.edits import Editor

        choices = given(
            self, steps="steps", solver="solver", guidance="guidance", grid="levels", threshold="threshold"
        )
        return Editor(models.load(self.model), images, self.prompt, self.label, **choices)

    def write(
        self, editor: "Editor", given: "Sequence[Tensor]", edited: "Sequence[Tensor]", **more: Any
    ) -> dict[str, Any]:
        """Writes the edited pictures, and grid.png, in which those that were given stand before them."""
        from phin.pictures import png, tile, to_bytes
        from phin.training.checkpoint import open_folder

        open_folder(self.out)
        pictures = [to_bytes(x) for x in edited]
        files = [write(self.out / f"{k:04}.png", png(picture)) for k, picture in enumerate(pictures)]
        height, width, *_ = pictures[0].shape
        sheet = tile([*map(to_bytes, given), *pictures], max(1, round(10 * height / width)))
        return {
            "model": self.model,
            "sampling": {**asdict(editor.config), "seed": self.seed},
            **more,
            "pictures": files,
            "grid": write(self.out / "grid.png", png(sheet)),
        }

    def show(self, facts: dict[str, Any]) -> None:
        for file in [*facts["pictures"], facts["grid"]]:
            print(file)


@dataclass(frozen=True, kw_only=True)
class EditVary(Edit):
    """Draw variations of a picture: diffuse it to a level, and denoise it again (SDEdit)."""

    image: Path
    """The picture."""
    strength: float = 0.5
    """How far it is diffused: the share of the ladder that is walked back. At 1 nothing of it is left."""
    n: Annotated[int, tyro.conf.arg(aliases=("-n",))] = 8
    """How many."""

    def run(self) -> dict[str, Any]:
        check_strength(self.strength)
        editor = self.editor(self.image)
        with progress(self.n * max(1, round(self.strength * self.steps))) as watch:
            varied = editor.vary(self.strength, self.n, self.seed, watch)
        return self.write(editor, editor.pictures, list(varied), strength=self.strength)


@dataclass(frozen=True, kw_only=True)
class EditInpaint(Edit):
    """Paint a part of a picture anew, to fit what is kept (RePaint)."""

    image: Path
    """The picture."""
    mask: Path | None = None
    """A picture of the same size: white where it is to be painted anew, black where it is kept."""
    keep: Literal["left", "right", "top", "bottom"] | None = None
    """Keep this half, in place of a mask."""
    resamplings: int = 5
    """How often each stretch of the ladder is walked, that what is painted may fit what is kept."""
    jump: int = 5
    """Steps in a stretch."""
    n: Annotated[int, tyro.conf.arg(aliases=("-n",))] = 4
    """How many."""
    steps: int = 30
    """Levels of the ladder."""
    solver: str | None = "ddpm"
    """Solver; one that draws noise, such as ddpm, paints best."""

    def run(self) -> dict[str, Any]:
        from phin.edits import half, mask

        if (self.mask is None) == (self.keep is None):
            raise PhinError("say what to keep by one of the two, --keep left or --mask FILE")
        editor = self.editor(self.image)
        _, height, width = editor.pictures[0].shape
        if self.mask is not None:
            known = mask(self.mask, height, width)
        else:
            known = half(str(self.keep), height, width)
        with progress(self.n * (1 + self.resamplings * (self.steps - 1))) as watch:
            painted = editor.inpaint(known, self.resamplings, self.jump, self.n, self.seed, watch)
        picture = editor.pictures[0]
        return self.write(editor, [picture, picture.where(known, picture.new_zeros(()))], list(painted))


@dataclass(frozen=True, kw_only=True)
class EditInterpolate(Edit):
    """Go from one picture to another, through their latents (DDIM) or their diffused states (DDPM)."""

    image: tuple[Path, Path]
    """The two pictures."""
    strength: float | None = None
    """Diffuse both so far, the share of the ladder, and mix them; by default their latents are mixed."""
    n: Annotated[int, tyro.conf.arg(aliases=("-n",))] = 9
    """How many pictures, the two ends included."""
    rtol: float | None = 1e-4
    """Tolerance of the ODE between pictures and latents; None takes the solver's own steps."""
    guidance: float | None = 1.0
    """Guidance scale: 0 is unconditional, 1 plain conditional, above it sharpens."""

    def run(self) -> dict[str, Any]:
        if self.strength is not None:
            check_strength(self.strength)
        editor = self.editor(*self.image)
        if self.strength is not None:
            between = editor.mix(self.n, self.strength, self.seed)
        else:
            between = editor.slerp(self.n, self.rtol)
        return self.write(editor, [], list(between), strength=self.strength)


@dataclass(frozen=True, kw_only=True)
class EditReconstruct(Edit):
    """Encode pictures into latents and decode them: how much of them the model's own map preserves."""

    image: tuple[Path, ...]
    """The pictures."""
    rtol: float | None = EditInterpolate.rtol
    """Tolerance of the ODE between pictures and latents; None takes the solver's own steps."""
    guidance: float | None = EditInterpolate.guidance
    """Guidance scale: 0 is unconditional, 1 plain conditional, above it sharpens."""

    def run(self) -> dict[str, Any]:
        import torch

        editor = self.editor(*self.image)
        latents = editor.encode(self.rtol)
        decoded = editor.decode(latents, range(len(latents)), self.rtol)
        off = 127.5 * (decoded - torch.stack(editor.pictures))
        rms = off.flatten(1).square().mean(1).sqrt()
        error = {"rms": [round(value, 3) for value in rms.tolist()], "of": 255}
        return self.write(editor, [*editor.pictures, *latents / 2], list(decoded), error=error)

    def show(self, facts: dict[str, Any]) -> None:
        super().show(facts)
        print(
            f"off by {', '.join(f'{value:g}' for value in facts['error']['rms'])} of 255 (root mean square)"
        )


def check_strength(strength: float) -> None:
    """Raises a PhinError unless it is above 0 and at most 1."""
    if not 0 < strength <= 1:
        raise PhinError(f"strength = {strength}: give a share of the ladder above 0, up to 1")


@dataclass(frozen=True, kw_only=True)
class DataList(Command):
    """List the data sets."""

    def run(self) -> dict[str, Any]:
        from phin.data import listing

        return {"data": [asdict(line) for line in listing()]}

    def show(self, facts: dict[str, Any]) -> None:
        lines = [["name", "one example", "examples", "classes", "licence", "where"]]
        for line in facts["data"]:
            shape = " x ".join(map(str, line["shape"]))
            examples = "endless" if line["examples"] is None else f"{line['examples']:,}"
            where = line["where"] or f"phin data get {line['name']}"
            lines.append([line["name"], shape, examples, str(line["classes"] or ""), line["licence"], where])
        show_table(lines)
        print("\nfolder:PATH is a folder of your own pictures, with one sub-folder a class or none")


@dataclass(frozen=True, kw_only=True)
class DataGet(Command):
    """Fetch and verify the files of a data set."""

    name: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="NAME")]
    """As in `phin data list`."""

    def run(self) -> dict[str, Any]:
        from phin import data

        return {"name": self.name, "where": data.get(self.name)}

    def show(self, facts: dict[str, Any]) -> None:
        print(f"{facts['name']}: {facts['where']}")


@dataclass(frozen=True, kw_only=True)
class Recipes(Command):
    """List what can be trained."""

    def run(self) -> dict[str, Any]:
        from phin.recipes import RECIPES

        return {"recipes": {name: asdict(recipe) for name, recipe in RECIPES.items()}}

    def show(self, facts: dict[str, Any]) -> None:
        lines = [["recipe", "data", "network", "budget"]]
        for name, recipe in facts["recipes"].items():
            net, train = recipe["net"], recipe["train"]
            size = f"channels {net['channels']}" if "channels" in net else f"width {net['width']}"
            budget = f"{train['minutes']:g} min" if train["minutes"] else f"{train['steps']:,} steps"
            lines.append([name, recipe["data"], size, budget])
        show_table(lines)


COMMANDS: dict[str, type[Command]] = {
    "demo": Demo,
    "train": Train,
    "sample": Sample,
    "evaluate": Evaluate,
    "nll": Nll,
    "export": Export,
    "edit vary": EditVary,
    "edit inpaint": EditInpaint,
    "edit interpolate": EditInterpolate,
    "edit reconstruct": EditReconstruct,
    "verify": Verify,
    "data list": DataList,
    "data get": DataGet,
    "recipes": Recipes,
}


def main(argv: Sequence[str] | None = None) -> int:
    """Runs a command.

    Exit codes: 0, 1 if a law does not hold, 2 after a mistake that the user can mend, 130 after an
    interruption, 141 where nobody reads on, as in `phin recipes | head -1`.
    """
    if argv is None:  # in a process of its own, which ends with it
        argv = sys.argv[1:]
        gc.set_threshold(100_000)  # imports make objects by the hundred thousand, and no garbage
        atexit.register(gc.freeze)  # nor is it worth half a second to look for some at the end
        threading.excepthook = in_thread
        warnings.formatwarning = lambda message, *_, **__: f"phin: warning: {message}\n"
    try:
        code = answer(argv)
        sys.stdout.flush()
        return code
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or Python complains when it ends
        return 141


def answer(argv: Sequence[str]) -> int:
    """Runs a command and prints what came of it; its exit code.

    Raises:
        BrokenPipeError: Nobody reads what is printed.
    """
    again = Command.again
    try:
        if (command := read(argv)) is None:
            return 0
        again = command.again
        with messages():
            facts = command.run()
        if command.json:
            print(json.dumps(facts))
        else:
            command.show(facts)
        return command.code(facts)
    except PhinError as error:
        code, text = 2, str(error)
    except BrokenPipeError:
        raise
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        code, text = 2, f"{where}{error.strerror or error}; mend that and {again}"
    except KeyboardInterrupt:
        code, text = 130, f"interrupted; {again}"
    print("phin: error:" if code == 2 else "phin:", " ".join(text.split()), file=sys.stderr)
    if "--json" in argv:
        print(json.dumps({"error": text}))
    return code


def in_thread(error: threading.ExceptHookArgs) -> None:
    """Leaves it to the main thread to tell of a full disk, of which TensorBoard's thread dies too."""
    if not issubclass(error.exc_type, OSError):
        threading.__excepthook__(error)


def read(argv: Sequence[str]) -> Command | None:
    """The command that was asked for; None where help was, which is printed.

    Raises:
        PhinError: There is no such command, or it has no such option.
    """
    if argv and argv[0] in ("-V", "--version"):
        print(f"phin {__version__}")
        return None
    if not argv or argv[0] in ("-h", "--help", "help"):
        print(usage())
        return None
    words = 2 if " ".join(argv[:2]) in COMMANDS else 1
    name, options = " ".join(argv[:words]), argv[words:]
    if name not in COMMANDS:
        known = ", ".join(
            other.removeprefix(f"{name} ") for other in COMMANDS if other.startswith(f"{name} ")
        )
        raise PhinError(
            f"`phin {name}` needs one of {known}"
            if known
            else f"unknown command {name!r}; there are {', '.join(COMMANDS)}"
        )
    try:
        return Train.parse(options) if name == "train" else parse(COMMANDS[name], options, f"phin {name}")
    except SystemExit:
        return None


def usage() -> str:
    """What `phin --help` says."""
    lines = [f"  {name:<10} {str(command.__doc__).splitlines()[0]}" for name, command in COMMANDS.items()]
    return "\n".join(
        [
            "usage: phin COMMAND [OPTIONS]",
            "",
            *lines,
            "",
            "phin COMMAND --help lists its options; phin --version.",
        ]
    )


def parse(kind: type[T], argv: Sequence[str], prog: str, default: T | None = None) -> T:
    """The dataclass `kind` from command line options.

    Raises:
        PhinError: An option that there is not, or a value it cannot have.
        SystemExit: Help was asked for, and printed.
    """
    if "--out=" in argv or ("--out", "") in pairwise(argv):
        raise PhinError("--out is empty; name a place, or write . for this folder")
    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said):
            start: dict[str, Any] = {} if default is None else {"default": default}
            return tyro.cli(kind, prog=prog, args=argv, config=(tyro.conf.AvoidSubcommands,), **start)
    except SystemExit as stop:
        if not stop.code:
            raise
        raise PhinError(f"{unboxed(said.getvalue())} (`{prog} --help` lists the options)") from None


def unboxed(box: str) -> str:
    """The one line that matters of the box that tyro draws around an error."""
    _, *lines = [line.strip("│╭╮╰╯ ") for line in box.splitlines()]  # less the title
    parts = [list(part) for rule, part in groupby(lines, lambda line: not line.strip("─-")) if not rule]
    message = unparsed(" ".join(parts[0]).removesuffix("."))
    if len(parts) > 2 and parts[1][0] == "Perhaps you meant:":
        message += f"; is it {parts[1][1].split()[0]}?"
    return message


def unparsed(message: str) -> str:
    """What tyro says of a value: of an option's, what it is to be; of a configuration, what that said."""
    found = re.fullmatch(r"Error parsing (-\S+): (.*?)\[?('.*')\]?(?: into .*)?", message)
    if found is None:
        return re.sub(r"^Error parsing ([A-Z]\w*: )?", "", message)
    option, reason, value = found.groups()
    kinds = {"INT": "a whole number", "int()": "a whole number", "FLOAT": "a number", "float": "a number"}
    kind = next((kind for word, kind in kinds.items() if word in reason), None)
    return f"{option} takes {kind}, not {value}" if kind else f"{option} cannot be {value}"


def show_figures(figures: dict[str, Any]) -> None:
    """Prints what `evaluate` found."""
    from phin.evaluation import rows

    show_table(rows(figures))
    if "cells_per_second" in figures:
        print(f"\n{figures['cells_per_second']:,.0f} cells were drawn a second")


def show_table(lines: Sequence[Sequence[str]]) -> None:
    """Prints a table, whose first line is its heading, as wide as the terminal or else as it needs."""
    from rich.console import Console
    from rich.table import Table

    table = Table(*lines[0], box=None, pad_edge=False)
    for line in lines[1:]:
        table.add_row(*line)
    console = Console(width=None if sys.stdout.isatty() else 200, highlight=False)
    with console.capture() as shown:  # rich would end the process if nobody reads it
        console.print(table)
    print(shown.get(), end="")


@contextlib.contextmanager
def messages() -> Iterator[None]:
    """Phin's log, where data come from for instance, on standard error."""
    log, handler = logging.getLogger("phin"), logging.StreamHandler()
    log.addHandler(handler)
    log.setLevel(logging.INFO)
    try:
        yield
    finally:
        log.removeHandler(handler)


@contextlib.contextmanager
def bar(total: int, doing: str) -> Iterator[Callable[[int], None]]:
    """Yields what advances a bar on standard error, if that is a terminal; `total` in all fill it."""
    if not sys.stderr.isatty():
        yield lambda n: None
        return
    from rich.console import Console
    from rich.progress import Progress

    shown = Progress(console=Console(stderr=True), transient=True)
    task = shown.add_task(doing, total=total)

    def advance(n: int) -> None:
        shown.start()  # not earlier: a training before it has a bar of its own
        shown.advance(task, n)

    try:
        yield advance
    finally:
        shown.stop()


@contextlib.contextmanager
def progress(total: int) -> Iterator["Watch"]:
    """Yields a watch with a bar; `total` states fill it."""
    with bar(total, "drawing") as advance:
        yield lambda batch, z, level: advance(len(batch))


def given(command: Command, **names: str) -> dict[str, Any]:
    """Those of the command's options that were given: keyword by keyword, from the field that it names."""
    return {name: value for name, field in names.items() if (value := getattr(command, field)) is not None}


def guided(command: Sample | Evaluate, model: "Model") -> "Guide | None":
    """The classifier's guidance that was asked for, if any.

    Raises:
        PhinError: The classifier cannot be had or does not fit the model; or there is but its scale.
    """
    from phin import models

    if command.classifier is None:
        if command.classifier_scale is not None:
            raise PhinError(
                f"--classifier-scale {command.classifier_scale:g} is of no classifier; give one, too"
            )
        return None
    scale = 1.0 if command.classifier_scale is None else command.classifier_scale
    return models.guide(model, models.load(command.classifier), scale)


def write(path: Path, payload: bytes) -> str:
    """Writes a file whole or not at all; its path.

    Raises:
        PhinError: It cannot be written.
    """
    return write_all({"file": (path, payload)})["file"]


def write_all(payloads: Mapping[str, tuple[Path, bytes]]) -> dict[str, str]:
    """Writes files that belong together, all of them or none; their paths, by the same names.

    Raises:
        PhinError: One cannot be written.
    """
    from phin.training.checkpoint import atomic

    with contextlib.ExitStack() as whole:
        for path, payload in payloads.values():
            whole.enter_context(atomic(path)).write_bytes(payload)
    return {name: str(path) for name, (path, _) in payloads.items()}


if __name__ == "__main__":
    sys.exit(main())
