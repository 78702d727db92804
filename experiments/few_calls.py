"""How few calls of the network will do? The Frechet distance of every solver, and of levels searched for.

    python experiments/few_calls.py --model mnist

One model draws the same pictures, from the same noise, in so many calls: by every solver of Phin's that adds
no noise, by those of `phin tune`, which begin as in their papers, without the further calls of a better
start, and by two that add noise. The last rows have levels that are searched for, as by `phin tune`, from
the model alone: of UniPC, of DPM-Solver++(3M) and of DEIS. DEIS stands for iPNDM, whose weights are its own
for levels that are equally far apart; those searched for are not. What as many calls lead to as anybody
would spend is the limit; a solver has come close when its distance is at most 1.05 times that.

It is about 4 million calls of the network, half of them for the limit, and without `--model` half an hour of
training before. It goes on where it was interrupted, figure by figure.
"""

import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import chain
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from experiment import Digits, Figure, Subject, main, number
from torch import Tensor

from phin import report, tuning
from phin.diffusion.denoiser import Prediction
from phin.diffusion.schedules import Cosine
from phin.diffusion.solvers import SOLVERS, Solver, evaluations, sample
from phin.models import Model, choose
from phin.registry import build
from phin.training.checkpoint import atomic

if TYPE_CHECKING:
    from matplotlib.axes import Axes

CLOSE = 1.05
"""Times the limit."""
NOISY = ("dpmpp_2m_sde", "ddpm")
"""Solvers that add noise."""
TUNED = {
    "UniPC, tuned": tuning.UNIPC,
    "DPM-Solver++(3M), tuned": tuning.DPMPP_3M,
    "DEIS (iPNDM), tuned": tuning.DEIS,
}
"""Title -> the family of solvers whose levels are searched for."""

Curve = dict[int, Figure]
"""Calls -> distance."""


def close_from(curve: Curve, limit: float) -> int | None:
    """The fewest calls of which, and of all more, the distance is at most a limit; None if there are none."""
    fewest = None
    for calls in sorted(curve, reverse=True):
        if curve[calls]["value"] > limit:
            break
        fewest = calls
    return fewest


def deterministic(solver: Solver) -> bool:
    """Whether a solver adds no noise."""
    drawn: list[Tensor] = []

    def noise(like: Tensor) -> Tensor:
        drawn.append(like)
        return torch.zeros_like(like)

    start = torch.ones(1, 1, dtype=torch.float64)
    sample(lambda z, level: Prediction(z), solver, Cosine().levels(4), start, noise)
    return not drawn


def solvers() -> list[str]:
    """Those that are compared on the model's own levels."""
    exact = [name for name, make in SOLVERS.items() if deterministic(make())]
    return [*dict.fromkeys([*exact, *chain(*tuning.FAMILIES), *NOISY])]


@dataclass(frozen=True)
class FewCalls(Digits):
    """Frechet distances by solver and calls."""

    minutes: float = 30.0
    """Time to train the model."""
    model: str | None = None
    """A run of `phin train mnist` to measure, in place of training one."""
    n: int = 2000
    """Pictures to draw by each, and to compare with as many test pictures."""
    calls: tuple[int, ...] = (4, 5, 6, 8, 10)
    """Of the network a picture, in place of `steps`; the table has them all."""
    limit: int = 1000
    """Calls of DPM-Solver++(3M) by which all of them are judged."""
    guidance: float = 1.0
    """1 is none: the conditional model as it is."""
    n_tune: int = 32
    """Pictures that `phin tune` searches with."""

    name: ClassVar[str] = "few_calls"

    def run(self) -> str:
        subject = self.given(self.model, "mnist", self.recipe("mnist"))
        (exact,) = tuning.DPMPP_3M
        best = self.drawn(subject, solver=exact, steps=self.limit, guidance=self.guidance)["frechet"]
        curves = {solver: self.curve(subject, solver) for solver in solvers()}
        curves |= {title: self.tuned(subject, family) for title, family in TUNED.items()}
        columns = sorted({calls for curve in curves.values() for calls in curve})
        rows = [
            [
                solver,
                *(number(curve[calls]) if calls in curve else "" for calls in columns),
                str(close_from(curve, CLOSE * best["value"]) or ""),
            ]
            for solver, curve in curves.items()
        ]
        self.show(curves, best)
        note = (
            f"Frechet distance of {self.n:,} pictures from as many test pictures, in the features of the "
            f"digit reader, ± one standard error, most of which all entries share: noise and labels are the "
            f"same. {self.limit:,} calls of DPM-Solver++(3M): {number(best)}; as many training pictures: "
            f"{number(best['floor'])}. The last column: calls from which on it is at most {CLOSE:g} times "
            f"the former. Model: {self.model or self.trained}, told the labels, "
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

    def tuned(self, subject: Subject, family: Sequence[str]) -> Curve:
        """The same of the samplers that a search finds in a family."""
        asked = {"steps": self.calls, "n": self.n_tune, "seed": self.seed, "guidance": self.guidance}
        found = subject.measure(tuned, family=family, **asked)["tuned"]
        samplers = [one["sampling"] for one in found]
        return {sampling["steps"]: self.drawn(subject, **sampling)["frechet"] for sampling in samplers}

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
                    "ls": ("-", "--", ":")[i // 6 % 3],
                    "lw": 1.2,
                }
                if solver in TUNED:
                    dashes = ("-", "--", ":")[[*TUNED].index(solver)]
                    style |= {"color": colours["ink"], "lw": 2.2, "ls": dashes}
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


def tuned(
    model: Model, family: Sequence[str], steps: Sequence[int], n: int, seed: int, guidance: float
) -> dict[str, Any]:
    """What a search in a family of solvers finds."""
    return {"tuned": [asdict(one) for one in tuning.tune(model, steps, n, seed, [family], guidance=guidance)]}


if __name__ == "__main__":
    sys.exit(main(FewCalls))
