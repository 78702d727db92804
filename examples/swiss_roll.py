"""Diffusion in one picture: a swiss roll of milk dissolves in a cup, and a network learns to gather it again.

Run it with `python examples/swiss_roll.py`: half a minute of training, then look at swiss_roll.png.

Top row: the forward process, from data to noise. Middle row, from right to left: samples of the model on
their way back. Bottom row: the score as the model has learned it, the direction in which the milk is denser.
"""

import argparse
import math
import time

import torch
from matplotlib.figure import Figure
from torch import Tensor, nn

from phin import data
from phin.diffusion.denoiser import Denoise, Denoiser
from phin.diffusion.level import Level
from phin.diffusion.losses import denoising_loss, stratified
from phin.diffusion.parameterization import v
from phin.diffusion.schedules import Cosine
from phin.diffusion.solvers import DPMpp2M, prior, sample
from phin.diffusion.weights import snr_plus_one

COFFEE, MILK = "#1a110c", "#f6e7cf"


class MLP(nn.Module):
    """Any module that takes (z, log_snr) will do. This one sees both as waves too, so that it learns fast."""

    def __init__(self, width: int = 128) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            *(nn.Linear(2 + 12 + 8, width), nn.SiLU()),
            *(nn.Linear(width, width), nn.SiLU(), nn.Linear(width, width), nn.SiLU()),
            nn.Linear(width, 2),
        )

    def forward(self, z: Tensor, log_snr: Tensor) -> Tensor:
        place = (z[:, :, None] * torch.tensor([1.0, 2.0, 4.0])).flatten(1)
        level = log_snr[:, None] * torch.tensor([0.1, 0.2, 0.4, 0.8])
        return self.layers(torch.cat([z, place.sin(), place.cos(), level.sin(), level.cos()], dim=1))


def train(schedule: Cosine, steps: int | None, seconds: float) -> Denoiser:
    roll = data.load("swiss-roll")
    denoiser = Denoiser(MLP(), v)
    optimizer = torch.optim.AdamW(denoiser.parameters(), betas=(0.9, 0.99))
    begun, progress, step = time.monotonic(), 0.0, 0
    while progress < 1:
        optimizer.param_groups[0]["lr"] = 3e-3 * (1 + math.cos(math.pi * progress)) / 2  # anneal to the end
        x = roll.train(seed=0, step=step, size=512).x
        level = schedule(stratified(torch.rand(len(x)))).view(x.ndim)
        loss = denoising_loss(denoiser.given(), x, level, snr_plus_one).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        step += 1
        progress = step / steps if steps else (time.monotonic() - begun) / seconds
        if step % 500 == 0 or progress >= 1:
            print(f"step {step:5}  loss {loss.item():.4f}", flush=True)
    return denoiser.requires_grad_(False)


def draw(denoise: Denoise, schedule: Cosine, out: str) -> None:
    x = data.load("swiss-roll").split("test", 6000).x
    ladder = schedule.levels(61)
    states: list[tuple[Tensor, Level]] = []
    sample(
        denoise, DPMpp2M(), ladder, prior(ladder.at(0), x), watch=lambda z, level: states.append((z, level))
    )

    shown = [int((ladder.log_snr - log_snr).abs().argmin()) for log_snr in (8, 4.5, 3, 1.5, -3)]
    figure = Figure(figsize=(12.5, 7.9), facecolor=COFFEE)
    axes = figure.subplots(3, len(shown), gridspec_kw={"hspace": 0.04, "wspace": 0.04})
    figure.subplots_adjust(left=0.04, right=0.995, bottom=0.01, top=0.94)
    for column, step in enumerate(shown):
        back, level = states[step]
        forward = level.alpha * x + level.sigma * torch.randn_like(x)
        axes[0, column].set_title(f"log-SNR {level.log_snr:+.1f}", color=MILK, fontsize=12)
        for row, points in enumerate((forward, back)):
            axes[row, column].scatter(*points.T, s=1.6, color=MILK, alpha=0.5, linewidths=0)
        field(axes[2, column], denoise, level, forward)
    for ax in axes.flat:
        ax.set(xlim=(-2.7, 2.7), ylim=(-2.7, 2.7), xticks=[], yticks=[], facecolor=COFFEE, aspect="equal")
        ax.spines[:].set_visible(False)
    for row, name in enumerate(("forward  →", "←  back, by the model", "the model's score")):
        axes[row, 0].set_ylabel(name, color=MILK, fontsize=12)
    figure.savefig(out, dpi=110)


def field(ax, denoise: Denoise, level: Level, points: Tensor) -> None:  # pyright: ignore[reportMissingParameterType]
    """Stream lines of ∇ log p(z) = (alpha x̂ - z) / sigma², brighter where it is stronger."""
    side = torch.linspace(-3.2, 3.2, 70)
    y, x = torch.meshgrid(side, side, indexing="ij")
    z = torch.stack([x, y], -1).view(-1, 2)
    score = ((level.alpha * denoise(z, level).x - z) / level.sigma**2).view(70, 70, 2)
    strength = score.norm(dim=-1).log().numpy()
    ax.scatter(*points.T, s=1.6, color=MILK, alpha=0.16, linewidths=0)
    u, w = score.numpy()[..., 0], score.numpy()[..., 1]
    ax.streamplot(
        *(side.numpy(), side.numpy(), u, w),
        color=strength,
        cmap="copper",
        density=1.3,
        linewidth=0.8,
        arrowsize=0.6,
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seconds", type=float, default=30.0, help="time to train")
    parser.add_argument("--steps", type=int, help="steps to train, in place of a time")
    parser.add_argument("--out", default="swiss_roll.png", help="where to put the picture")
    args = parser.parse_args()
    torch.manual_seed(0)
    schedule = Cosine(log_snr_max=8.0)
    denoiser = train(schedule, args.steps, args.seconds)
    draw(denoiser.given(), schedule, args.out)
    print(f"wrote {args.out}")
