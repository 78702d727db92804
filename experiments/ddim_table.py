"""The table of the DDIM paper on MNIST: steps by eta, and sigma-hat.

    python experiments/ddim_table.py --minutes 60
    python experiments/ddim_table.py --model runs/mnist-ddpm

One model of a chain of 1,000 steps, sampled in some of them. Eta 0 is DDIM and eta 1 is DDPM; sigma-hat is
DDPM with the large variance.

References:
    Denoising Diffusion Implicit Models (Song et al., 2021), arXiv:2010.02502, table 1 (CIFAR-10).
"""

import sys
from dataclasses import dataclass, replace
from itertools import product
from typing import Any, ClassVar

from experiment import Digits, main, number

import phin
from phin.report import markdown


@dataclass(frozen=True)
class DDIMTable(Digits):
    """Frechet distances by steps and eta."""

    minutes: float = 60.0
    """Time to train the model."""
    model: str | None = None
    """A run of `phin train mnist-ddpm` to measure, in place of training one."""
    n: int = 1000
    """Pictures to draw for each entry, and test pictures to compare them with."""
    ladders: tuple[int, ...] = (10, 20, 50, 100, 1000)
    """Steps of sampling, in place of `steps`."""
    etas: tuple[float, ...] = (0.0, 0.2, 0.5, 1.0)
    """From DDIM's 0 to DDPM's 1."""

    name: ClassVar[str] = "ddim_table"

    @property
    def solvers(self) -> dict[str, str]:
        """What the rows are sampled by."""
        return {f"eta = {eta:g}": f"ddim(eta={eta:g})" for eta in self.etas} | {"sigma-hat": "ddim_hat"}

    def check(self) -> None:
        if self.model is not None:
            phin.load(self.model)
        super().check()
        for solver, steps in product(self.solvers.values(), self.ladders):
            replace(self.recipe("mnist-ddpm").sample, solver=solver, steps=steps)

    def run(self) -> str:
        subject = self.given(self.model, "mnist-ddpm", self.recipe("mnist-ddpm"))
        rows: list[list[str]] = []
        found: dict[str, Any] = {}
        for title, solver in self.solvers.items():
            row = [title]
            for steps in self.ladders:
                found = self.drawn(subject, solver=solver, steps=steps)
                row.append(number(found["frechet"]))
            rows.append(row)
        note = (
            f"Frechet distance of {self.n:,} pictures from as many test pictures, in the features of the "
            f"digit reader, ± one standard error; that of as many training pictures is "
            f"{number(found['frechet']['floor'])}. Model: {self.model or self.trained}, told the labels; "
            f"seed {self.seed}."
        )
        return f"{markdown(['steps', *(f'{steps:,}' for steps in self.ladders)], rows)}\n\n{note}"


if __name__ == "__main__":
    sys.exit(main(DDIMTable))
