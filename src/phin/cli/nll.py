"""`phin nll`."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from phin.errors import PhinError

from .command import Command
from .files import write
from .options import Flag
from .processes import first, join
from .terminal import bar, show_table


@dataclass(frozen=True, kw_only=True)
class Nll(Command):
    """Measure how likely a trained model holds images to be: bits/dim, beside those of PNG and WebP."""

    model: str = "numbers"
    """A diffusion model or an autoencoder of 8-bit images: one of those with phin, a run's folder, a file."""
    data: str | None = None
    """Images: mnist, folder:PATH, ...; the model's own by default."""
    split: Literal["train", "valid", "test"] = "test"
    """Which of them."""
    n: Annotated[int | None, tyro.conf.arg(aliases=("-n",))] = None
    """How many (of numbers: cells); by default 1000, or all if there are fewer."""
    method: Literal["chain", "discrete", "continuous", "ode", "elbo", "iwae"] | None = None
    """DDPM's bound, VDM's of T steps or in continuous time, or the ODE; by default the last for a model of
    dequantized images, the first for one of a chain, else the third. Of an autoencoder, the evidence lower
    bound, its default, or the importance-weighted one."""
    steps: int | None = None
    """T of chain and discrete: 1000, or a discrete schedule's own."""
    levels: str | None = None
    """Schedule of the levels, such as cosine(log_snr_max=13); its ends matter. The model's own by default."""
    decoder: str | None = None
    """From the cleanest level to 8 bits: categorical (VDM's) or discretized_gaussian(1) (DDPM's)."""
    frac: float | None = None
    """Reverse variance of a chain, from 0, small, its default, to 1, large, if the model did not learn it."""
    times: int | None = None
    """Estimates an image: by default 8 stratified times of a bound, 8 draws for elbo, 1 dequantization for
    the ODE, and 1 set of particles for iwae."""
    dequantize: Literal["uniform"] = "uniform"
    """How the ODE, which has a density, is given 8-bit images: with uniform noise, a step of theirs wide."""
    trace: Literal["hutchinson", "exact"] | None = None
    """The ODE's trace: estimated by probes, the default, or exact, one backward pass for each dimension."""
    probes: int | None = None
    """Probes of the estimated trace; 1 by default."""
    particles: int | None = None
    """Draws of an autoencoder's latents whose weights are averaged, for iwae; 64 by default."""
    rtol: float | None = None
    """Tolerance of the ODE; 1e-5 by default."""
    condition: Literal["data", "none"] | None = None
    """Measure every image given its label or text, or without; by default as the model was trained."""
    seed: int = 0
    """Of the choice of images, and of all that is random."""
    curve: Path | None = None
    """A PNG file to draw the bound in, level by level: a bound only, and as many calls again."""
    record: Flag = False
    """Write the figures into the model's file, too."""

    def run(self) -> dict[str, Any]:
        from phin import models, nll
        from phin.training.checkpoint import open_folder

        if self.curve is not None:
            if self.curve.suffix.lower() != ".png":
                raise PhinError(f"--curve {self.curve} is no PNG file: give a name that ends in .png")
            open_folder(self.curve.parent)
        model = models.load(self.model)
        join()
        options = self.given("steps", "times", "frac", "trace", "probes", "particles", "rtol", "seed")
        with bar((self.n or 1000) * (1 if self.curve is None else 2), "measuring") as advance:
            facts = nll.nll(
                model,
                self.method,
                self.data,
                self.split,
                self.n,
                self.condition,
                self.levels,
                self.decoder,
                curve=self.curve is not None,
                watch=advance,
                **options,
            )
        if self.record and first():
            nll.record(model, facts)
        if self.curve is not None and first():
            facts["picture"] = write(self.curve, nll.picture(facts))
        return {"model": str(model.path), **facts}

    def show(self, facts: dict[str, Any]) -> None:
        from phin.nll import rows, summary

        show_table(rows(facts))
        print(f"\n{summary(facts)}")
        if "picture" in facts:
            print(f"The curve is {facts['picture']}")
