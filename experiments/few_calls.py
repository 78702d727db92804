"""How few calls of the network will do? The Frechet distance of every solver, and of what `phin tune` finds.

    python experiments/few_calls.py --model runs/mnist

One model draws the same pictures, from the same noise, with more and more calls. What as many calls lead to
as anybody would spend is the limit; a solver has come close when it is within five per cent of that. Below
the deterministic solvers stand two that add noise, and Heun's, which calls the network twice a step. The last
row has the solver and the levels that `phin tune` finds for so many steps, from the model alone.
"""

import sys
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from experiment import Digits, Figure, Subject, main, number

from phin import report, tuning
from phin.diffusion.solvers import SOLVERS, evaluations
from phin.models import Model, choose
from phin.registry import build
from phin.training.checkpoint import atomic

if TYPE_CHECKING:
    from matplotlib.axes import Axes

CLOSE = 1.05
"""Times the limit."""
OTHERS = ("dpmpp_2m_sde", "ddpm", "heun")
TUNED = "tuned"

Curve = dict[int, Figure]
"""Calls -> distance."""


@dataclass(frozen=True)
class FewCalls(Digits):
    """Frechet distances by solver and calls."""

    minutes: float = 60.0
    """Time to train the model."""
    model: str | None = None
    """A run of `phin train mnist` to measure, in place of training one."""
    calls: tuple[int, ...] = (4, 5, 6, 8, 10, 20)
    """Of the network a picture, in place of `steps`; the table has them all."""
    limit: int = 1000
    """Calls of DDIM by which all of them are judged."""
    guidance: float = 1.0
    """1 is none: the conditional model as it is."""
    n_tune: int = 32
    """Pictures that `phin tune` searches with."""

    name: ClassVar[str] = "few_calls"

    def run(self) -> str:
        subject = self.given(self.model, "mnist", self.recipe("mnist"))
        best = self.drawn(subject, solver="ddim", steps=self.limit, guidance=self.guidance)["frechet"]
        solvers = (*tuning.CANDIDATES, *OTHERS)
        curves = {solver: self.curve(subject, solver) for solver in solvers} | {TUNED: self.tuned(subject)}
        columns = sorted({calls for curve in curves.values() for calls in curve})
        rows = [
            [
                solver,
                *(number(curve[calls]) if calls in curve else "" for calls in columns),
                next((str(calls) for calls in curve if curve[calls]["value"] <= CLOSE * best["value"]), ""),
            ]
            for solver, curve in curves.items()
        ]
        self.show(curves, best)
        note = (
            f"Frechet distance of {self.n:,} pictures from as many test pictures, in the features of the "
            f"digit reader, ± one standard error, most of which all entries share: noise and labels are the "
            f"same. {self.limit:,} calls of DDIM: {number(best)}; as many training pictures: "
            f"{number(best['floor'])}. The last column: calls from which on it is within "
            f"{100 * (CLOSE - 1):.0f} % of the former. Model: {self.model or self.trained}, told the labels, "
            f"guidance {self.guidance:g}; seed {self.seed}."
        )
        return f"{report.markdown(['calls', *map(str, columns), 'close from'], rows)}\n\n{note}"

    def curve(self, subject: Subject, solver: str) -> Curve:
        """The distances of a solver, by as many calls of those asked for as it can make."""
        found: Curve = {}
        for calls in self.calls:
            choices = {"solver": solver, "guidance": self.guidance}
            costs = {cost(subject.model, steps=steps, **choices): steps for steps in range(1, calls + 1)}
            most = max(count for count in costs if count <= calls)
            found[most] = self.drawn(subject, steps=costs[most], **choices)["frechet"]
        return found

    def tuned(self, subject: Subject) -> Curve:
        """The same of the samplers that a search finds."""
        asked = {"steps": self.calls, "n": self.n_tune, "seed": self.seed, "guidance": self.guidance}
        return {
            one["steps"]: self.drawn(
                subject,
                solver=one["solver"],
                grid=one["grid"],
                steps=one["steps"],
                guidance=self.guidance,
            )["frechet"]
            for one in subject.measure(tuned, **asked)["tuned"]
        }

    def show(self, curves: dict[str, Curve], best: Figure) -> None:
        """Draws the picture."""
        colours = report.light()

        def draw(axes: "Axes") -> None:
            from matplotlib.ticker import FixedLocator, NullLocator

            axes.set_xscale("log")
            axes.set_yscale("log")
            axes.axhline(best["value"], color=colours["quiet"], lw=1, ls=":", label=f"{self.limit:,} calls")
            for i, (solver, curve) in enumerate(curves.items()):
                style: dict[str, Any] = {
                    "color": colours[f"s{i % 6 + 1}"],
                    "ls": "-" if i < 6 else "--",
                    "lw": 1.2,
                }
                if solver == TUNED:
                    style = {"color": colours["ink"], "lw": 2.2}
                distances = [one["value"] for one in curve.values()]
                axes.plot([*curve], distances, marker="o", ms=3, label=solver, **style)
            axes.xaxis.set_major_locator(FixedLocator([*self.calls]))
            axes.xaxis.set_major_formatter("{x:g}")
            axes.xaxis.set_minor_locator(NullLocator())

        payload = report.picture([draw], "network calls a picture", "Frechet distance")
        with atomic(self.folder / "calls.png") as path:
            path.write_bytes(payload)


def cost(model: Model, **choices: Any) -> int:
    """Calls of the denoiser a picture."""
    config = choose(model, choices)
    return evaluations(build(config.solver, SOLVERS, "solver"), config.levels())


def tuned(model: Model, steps: tuple[int, ...], n: int, seed: int, guidance: float) -> dict[str, Any]:
    """What `phin tune` finds."""
    return {"tuned": [asdict(one) for one in tuning.tune(model, steps, n, seed, guidance=guidance)]}


if __name__ == "__main__":
    sys.exit(main(FewCalls))
