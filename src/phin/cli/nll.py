"""`phin nll`."""

from dataclasses import dataclass
from typing import Annotated, Any, Literal

import tyro

from .command import Command
from .options import Flag
from .terminal import bar, show_table


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
        options = self.given("steps", "times", "frac", "probes", "rtol", "seed")
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
