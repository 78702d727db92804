"""`phin compare`."""

import shlex
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Annotated, Any

import tyro

from .command import Command
from .terminal import bar, show_table
from .train import Train


@dataclass(frozen=True, kw_only=True)
class Compare(Command):
    """Train recipes alike, measure them by the same pictures, write a report: phin compare RECIPES."""

    recipes: Annotated[tuple[str, ...], tyro.conf.Positional] = ()
    """Recipes of one data set; mnist-vae:30 is trained for 30 epochs."""
    minutes: float | None = None
    """Time to train each. Another time is another training."""
    epochs: int | None = None
    """Epochs to train each, in place of a time."""
    data: str | None = None
    """Data set in place of the recipes' own: mnist, folder:PATH, ..."""
    out: Path = Path("runs/compare")
    """Folder of the runs and the report. What is there is neither trained nor measured again."""
    features: str | None = None
    """What looks at the pictures, as of `phin evaluate`; the reader of the data, or else Inception-v3."""
    n: Annotated[int | None, tyro.conf.arg(aliases=("-n",))] = None
    """Pictures to draw of each: 10,000, or as many as the data have to train on."""
    n_curve: int | None = None
    """Pictures of each point of the curves over time and network calls: 2,000, or the least that the features
    need."""
    n_nll: int | None = None
    """Test images whose likelihood is measured: 1,000, or all if there are fewer."""
    ladder: tuple[int, ...] = (5, 10, 20, 50)
    """Steps that diffusion models draw in, for the curve over network calls."""
    seed: int = 0
    """Of everything random."""

    again = Train.again

    def run(self) -> dict[str, Any]:
        from phin.comparison import Plan, compare

        plan = Plan(self.n, self.n_curve, self.n_nll, self.ladder, self.seed)
        budget = self.minutes, self.epochs, self.data
        return compare(self.recipes, *budget, self.out, plan, self.features, self.seed, self.command, bar)

    @property
    def command(self) -> str:
        """What makes the same again."""
        words = ["phin", "compare", *self.recipes]
        for field in fields(self):
            value = getattr(self, field.name)
            if field.name not in ("recipes", "json") and value != field.default:
                values = value if isinstance(value, tuple) else (value,)
                words += [f"--{field.name.replace('_', '-')}", *map(str, values)]
        return shlex.join(words)

    def show(self, facts: dict[str, Any]) -> None:
        from phin.comparison.page import rows

        show_table(rows(facts))
        print(f"\nThe report is {facts['report']}")
