"""`phin tune`."""

from dataclasses import asdict, dataclass
from typing import Annotated, Any

import tyro

from .command import Command
from .options import ModelName, Threshold
from .terminal import show_table


@dataclass(frozen=True, kw_only=True)
class Tune(Command):
    """Search for the best guidance, solver and levels in so many steps, and keep them beside the model.

    From then on whoever asks for N steps has the sampler of N steps that was found, its guidance included,
    unless another guidance or threshold, a solver or levels are given.
    """

    model: ModelName = "numbers"
    steps: tuple[int, ...] = (4, 5, 6, 8, 10)
    """Evaluations of the model a picture; for each a sampler is sought."""
    n: Annotated[int, tyro.conf.arg(aliases=("-n",))] = 32
    """Pictures to search with, and as many others to tell how good what was found is."""
    guidance: float | None = None
    """Guidance scale to search for samplers at. None seeks it, too, by the Frechet distance from held-out
    pictures, if a reader knows the data; else it is the model's own."""
    threshold: Threshold = None
    seed: int = 0
    """Of the noise."""

    def run(self) -> dict[str, Any]:
        from phin import models, tuning
        from phin.recipes import tuned

        model = models.load(self.model)
        tuned.probe(model.tuned_file)
        found = tuning.tune(model, self.steps, self.n, self.seed, **self.given("guidance", "threshold"))
        tuning.record(model, found)
        return {
            "model": str(model.path),
            "file": str(model.tuned_file),
            "tuned": [asdict(one) for one in found],
        }

    def show(self, facts: dict[str, Any]) -> None:
        heading = ["steps", "guidance", "solver", "distance from the exact path", "untuned", "levels"]
        rows: list[list[str]] = []
        for one in facts["tuned"]:
            chosen, apart = one["sampling"], [f"{one[name]:.3g}" for name in ("distance", "before")]
            rows.append(
                [str(chosen["steps"]), f"{chosen['guidance']:g}", chosen["solver"], *apart, chosen["grid"]]
            )
        show_table([heading, *rows])
        print(f"\nkept in {facts['file']}")
