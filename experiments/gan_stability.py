"""How steadily a GAN trains: the gradients of both players over time, with R1, without, and otherwise.

    python experiments/gan_stability.py --minutes 4

The same networks are trained from several seeds: with R1 (Mescheder et al., 2018, arXiv:1801.04406), without
any regularisation, and with spectral normalisation in its place (Miyato et al., 2018, arXiv:1802.05957). The
table has the norm of each player's gradient in the second half of the training, by its median and its
largest record (a mean over a two-hundredth of the training), and how good the samples are in the end;
gradients.png has the norms over time, samples.png a digit of each class from every run.
"""

import sys
from dataclasses import dataclass, replace
from functools import partial
from statistics import median
from typing import TYPE_CHECKING, ClassVar

from experiment import Experiment, Subject, drawn, main, number, percent, reference

import phin
from phin import report
from phin.pictures import png, tile
from phin.recipes import GANRecipe
from phin.training.checkpoint import atomic
from phin.training.log import curve, records

if TYPE_CHECKING:
    from matplotlib.axes import Axes

PLAYERS = {"generator": "s1", "discriminator": "s2"}
"""And their colours."""

Gradients = dict[str, tuple[list[float], list[float]]]
"""Of each player: steps of the training, and the norm of its gradient there."""


@dataclass(frozen=True)
class GANStability(Experiment):
    """Three regularisations of a GAN of MNIST, from some seeds each."""

    minutes: float = 5.0
    """Time to train each model."""
    seeds: int = 3
    """Trainings of each kind, from `seed` on."""
    channels: tuple[int, ...] = (64, 128)
    """Of the networks' stages."""
    n: int = 2000
    """Pictures to draw, to read, and to compare with as many test pictures."""
    features: str | None = None
    """What reads pictures and compares them with real ones, as of `phin evaluate`; the digit reader."""

    name: ClassVar[str] = "gan_stability"

    def check(self) -> None:
        super().check()
        reference("mnist", self.features, self.n, self.seed)

    def run(self) -> str:
        rows: list[list[str]] = []
        curves: dict[str, list[Gradients]] = {}
        subjects: list[Subject] = []
        for title, recipe in self.kinds.items():
            curves[title] = []
            for seed in range(self.seed, self.seed + self.seeds):
                name = f"{title.replace(' ', '-')}-{seed}"
                subject = replace(self, seed=seed).train(name, recipe)
                found = subject.measure(drawn, features=self.features, n=self.n, seed=self.seed)
                log = records(self.folder / name)
                norms = {player: curve(log, f"gradient_norm/{player}") for player in PLAYERS}
                late = [norm[len(norm) // 2 :] for _, norm in norms.values()]
                cells = [f"{of(norm):.3g}" for norm in late for of in (median, max)]
                right = percent(found["digits"]["rate"], found["digits"]["error"])
                rows.append([title, str(seed), *cells, right, number(found["frechet"]), f"{subject.steps:,}"])
                curves[title].append(norms)
                subjects.append(subject)
        self.show(curves, subjects)
        floor = number(found["frechet"]["floor"])
        heading = ["", "seed", *(f"{player}, {of}" for player in PLAYERS for of in ("median", "largest"))]
        note = (
            f"{self.trained} of training each; norms of gradients are those of the second half. Digits and "
            f"distances are of {self.n:,} pictures, ± one standard error; training pictures are {floor} away."
        )
        return f"{report.markdown([*heading, 'digits right', 'Frechet', 'steps'], rows)}\n\n{note}"

    @property
    def kinds(self) -> dict[str, GANRecipe]:
        """What is compared."""
        recipe = phin.RECIPES["mnist-gan"]
        assert isinstance(recipe, GANRecipe)
        recipe = replace(recipe, net=replace(recipe.net, channels=self.channels))
        normed = replace(recipe.net, spectral_norm=True)
        return {
            "R1": recipe,
            "unregularised": replace(recipe, penalty=0.0),
            "spectral norm": replace(recipe, penalty=0.0, net=normed),
        }

    def show(self, curves: dict[str, list[Gradients]], subjects: list[Subject]) -> None:
        """Draws both pictures."""
        panels = [partial(draw, runs) for runs in curves.values()]
        size = 3.0 * len(panels), 3.4
        shown = report.picture(panels, "training steps", "norm of the gradient", curves, size)
        digits = [picture for subject in subjects for picture in phin.sample(subject.model, seed=self.seed)]
        for name, payload in (("gradients", shown), ("samples", png(tile(digits, columns=10)))):
            with atomic(self.folder / f"{name}.png") as path:
                path.write_bytes(payload)


def draw(runs: list[Gradients], axes: "Axes") -> None:
    """Both players' norms over time, a line a run."""
    colours = report.light()
    axes.set_yscale("log")
    for run in runs:
        for player, colour in PLAYERS.items():
            axes.plot(*run[player], color=colours[colour], lw=0.9, alpha=0.8, label=player)


if __name__ == "__main__":
    sys.exit(main(GANStability))
