"""The variants of diffusion in the plane: one network, a minute each, a picture of each set.

    python experiments/playground.py --minutes 1

Each variant learns each set of points, and draws from what it learned with as many calls of the network a
point. The table has the energy distance of its points from held-out ones, which is 0 for the distribution
itself (the last row has points of that), and its ratio to DDPM's. DDIM draws from DDPM's model.
"""

import sys
from dataclasses import dataclass, replace
from functools import cache
from typing import Any, ClassVar, NamedTuple

import torch
from experiment import Experiment, Figure, Subject, main, number
from poster import Row, poster

import phin
from phin import data as datasets
from phin.errors import PhinError
from phin.metrics.energy import energy_distance
from phin.models import Model
from phin.nets.mlp import MLPConfig
from phin.recipes import DiffusionRecipe
from phin.report import markdown
from phin.sampling import SampleConfig
from phin.training.checkpoint import atomic


class Variant(NamedTuple):
    """What is trained, and how it is sampled."""

    run: str
    """Name of the training; two variants may share one."""
    recipe: dict[str, Any]
    """What it changes of the recipe of points."""
    solver: str
    grid: str
    calls: int = 1
    """Of the network, a step of the solver."""


_DDPM = {"parameterization": "eps", "density": "discrete(linear)", "weight": "simple"}
_LEARNED = {"objective": "hybrid(decoder=gaussian)", "learn_variance": True}
_VDM = {
    "parameterization": "eps",
    "density": "learned(log_snr_max=10.0, log_snr_min=-10.0)",
    "objective": "continuous_bound(decoder=gaussian)",
}
_FLOW = {"parameterization": "flow", "density": "flow", "weight": "flow"}
_EDM = {"parameterization": "edm(1.0)", "density": "lognormal", "weight": "edm(1.0)"}

# At the end of the cosine chain noise is all there is to see, and what is made of it is thousands wide.
# Pictures are kept in range there; points start where the chain is at log-SNR -9.
_COSINE = "cosine(log_snr_max=9, log_snr_min=-9)"

VARIANTS = {
    "DDPM": Variant("ddpm", _DDPM, "ddpm", "discrete(linear)"),
    "improved DDPM": Variant(
        "improved-ddpm", {**_DDPM, **_LEARNED, "density": "discrete(cosine)"}, "ddpm", _COSINE
    ),
    "DDIM": Variant("ddpm", _DDPM, "ddim", "discrete(linear)"),
    "VP SDE": Variant("vp", {**_DDPM, "density": "linear"}, "euler_maruyama", "linear"),
    "VE SDE": Variant("ve", {**_DDPM, "density": "geometric"}, "reverse_diffusion", "geometric"),
    "sub-VP SDE": Variant("subvp", {**_DDPM, "density": "linear_subvp"}, "euler_maruyama", "linear_subvp"),
    "VDM": Variant("vdm", _VDM, "ddpm", _COSINE),
    "flow matching": Variant("flow-matching", _FLOW, "euler", "flow"),
    "EDM": Variant("edm", _EDM, "heun", "karras", calls=2),
}
REAL = "points of the set"


@dataclass(frozen=True)
class Playground(Experiment):
    """Nine variants of diffusion on points of the plane."""

    minutes: float = 1.0
    """Time to train each model."""
    sets: tuple[str, ...] = ("swiss-roll", "eight-gaussians", "checkerboard")
    """Sets of points."""
    n: int = 10_000
    """Points to draw, and held-out points to compare them with."""
    calls: int = 100
    """Of the network, for a point that is drawn."""
    width: int = 128
    """Of the network: features of each layer."""
    depth: int = 4
    """Of the network: residual blocks."""
    batch: int = 256
    """Points a step of training."""
    lr: float = 3e-3
    """Highest learning rate."""

    name: ClassVar[str] = "playground"

    def check(self) -> None:
        super().check()
        for data in self.sets:
            floor(data, self.n, self.seed)
        for variant in VARIANTS.values():
            SampleConfig(**self.sampling(variant))

    def run(self) -> str:
        columns = [self.column(data) for data in self.sets]
        heading = ["", *(cell for data in self.sets for cell in (f"{data}, 1e-3", "ratio", "steps"))]
        rows = [[title, *(c for column in columns for c in column[title])] for title in (*VARIANTS, REAL)]
        note = (
            f"Energy distance of {self.n:,} points from as many held-out ones, ± one standard error, and its "
            f"ratio to DDPM's; training steps in {self.trained}. At most {self.calls} calls of the network a "
            f"point; seed {self.seed}."
        )
        return f"{markdown(heading, rows)}\n\n{note}"

    def column(self, data: str) -> dict[str, list[str]]:
        """What is to be said of each variant on a set, whose picture is drawn if there was anything new."""
        subjects: dict[str, Subject] = {}
        for variant in VARIANTS.values():
            if variant.run not in subjects:
                recipe = replace(self.points(data), **variant.recipe)
                subjects[variant.run] = self.train(f"{data}-{variant.run}", recipe)
        found: dict[str, Figure] = {}
        for title, variant in VARIANTS.items():
            how = {"n": self.n, "seed": self.seed, **self.sampling(variant)}
            found[title] = subjects[variant.run].measure(distance, **how)
        picture = self.folder / f"{data}.png"
        if not picture.exists() or any(subject.news for subject in subjects.values()):
            rows = [
                Row(title, subjects[variant.run].model, self.sampling(variant), found[title])
                for title, variant in VARIANTS.items()
            ]
            image = poster(data.replace("-", " "), f"one network, {self.trained} each", rows, self.seed)
            with atomic(picture) as path:
                image.save(path, "png", optimize=True)
        steps = {title: f"{subjects[variant.run].steps:,}" for title, variant in VARIANTS.items()}
        first = found["DDPM"]["value"]
        return {
            title: [number(thousandths(one), 2), f"{one['value'] / first:.2f}", steps.get(title, "")]
            for title, one in {**found, REAL: floor(data, self.n, self.seed)}.items()
        }

    def points(self, data: str) -> DiffusionRecipe:
        """The recipe of points, for a set, with this experiment's network and pace."""
        recipe = phin.RECIPES["swiss-roll"]
        assert isinstance(recipe, DiffusionRecipe)
        train = replace(recipe.train, batch=self.batch, lr=self.lr)
        return replace(recipe, data=data, net=MLPConfig(self.width, self.depth), train=train)

    def sampling(self, variant: Variant) -> dict[str, Any]:
        """How it is sampled: a ladder of N levels has N - 1 steps and a last call."""
        steps = 1 + (self.calls - 1) // variant.calls
        return {"solver": variant.solver, "grid": variant.grid, "steps": steps}


def thousandths(figure: Figure) -> Figure:
    """The same figure in thousandths."""
    return {"value": 1000 * figure["value"], "error": 1000 * figure["error"]}


@cache
def floor(data: str, n: int, seed: int) -> Figure:
    """The energy distance of a set's own points from held-out ones.

    Raises:
        PhinError: There is no such set in the plane, or n is too small.
    """
    real = datasets.load(data)
    if real.shape != (2,):
        raise PhinError(f"{data} has no points in the plane: give sets such as swiss-roll")
    return vars(energy_distance(*(real.split(which, n, seed).x for which in ("train", "test"))))


def distance(model: Model, n: int, seed: int, **choices: Any) -> dict[str, float]:
    """The energy distance of a model's points from held-out ones."""
    drawn = torch.stack(phin.samples(model, n=n, seed=seed, batch=n, **choices))
    return vars(energy_distance(drawn, datasets.load(model.recipe.data).split("test", n, seed).x))


if __name__ == "__main__":
    sys.exit(main(Playground))
