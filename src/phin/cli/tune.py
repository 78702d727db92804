"""`phin tune`."""

from dataclasses import asdict, dataclass
from typing import Annotated, Any

import tyro

from .command import Command
from .options import Guidance, ModelName, Threshold
from .terminal import show_table


@dataclass(frozen=True, kw_only=True)
class Tune(Command):
    """Search for the best solver and levels in so many steps, and note them in the model's file.

    From then on `--steps N` takes the sampler of N steps that was found, unless solver or levels are given.
    """

    model: ModelName = "numbers"
    steps: tuple[int, ...] = (4, 5, 6, 8, 10)
    """Evaluations of the model a picture; for each a sampler is sought."""
    n: Annotated[int, tyro.conf.arg(aliases=("-n",))] = 32
    """Pictures to search with, and as many others to tell how good what was found is."""
    guidance: Guidance = None
    threshold: Threshold = None
    seed: int = 0
    """Of the noise."""

    def run(self) -> dict[str, Any]:
        from phin import models, tuning

        model = models.load(self.model)
        found = tuning.tune(model, self.steps, self.n, self.seed, **self.given("guidance", "threshold"))
        tuning.record(model, found)
        return {"model": str(model.path), "tuned": [asdict(one) for one in found]}

    def show(self, facts: dict[str, Any]) -> None:
        heading = ["steps", "solver", "distance from the exact path", "untuned", "levels"]
        rows = [
            [str(one["steps"]), one["solver"], f"{one['distance']:.3g}", f"{one['before']:.3g}", one["grid"]]
            for one in facts["tuned"]
        ]
        show_table([heading, *rows])
        print(f"\nnoted in {facts['model']}")
