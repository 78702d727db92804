"""The picture of the playground: what variants of diffusion do to points of the plane, and the way back.

Every variant has a row, seen through one window, in the units of its own process. From the left: the forward
process at three moments of its time; walks of samples back, from noise (dark) to data (bright); the score
that was learned, at one log-SNR for all and in units of the spread there; and the samples, with their energy
distance from held-out points.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from experiment import Figure, number
from torch import Tensor

import phin
from phin import data as datasets
from phin.diffusion.denoiser import Denoiser
from phin.diffusion.level import SCALINGS, Level
from phin.diffusion.noise import normal
from phin.diffusion.schedules import SCHEDULES
from phin.models import Model
from phin.recipes import DiffusionRecipe
from phin.registry import build

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from PIL.Image import Image

COFFEE, CLAY, COPPER, MILK = "#1a110c", "#6b4229", "#cf8b52", "#f6e7cf"
WINDOW = 2.6
"""Half its side."""
POINTS, WALKS = 4000, 80
TIMES = (0.1, 0.3, 0.6)
LOG_SNR = 3.5
"""Of the scores."""
HEADINGS = ("forward  →", "", "", "←  walks back", "score", "samples")


class Row(NamedTuple):
    """A variant."""

    title: str
    model: Model
    sampling: dict[str, Any]
    distance: Figure


def poster(title: str, subtitle: str, rows: Sequence[Row], seed: int) -> "Image":
    """The picture."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from PIL import Image

    panel, head, left, edge = 1.72, 0.95, 0.45, 0.15  # inches
    width, height = left + 6 * panel + edge, head + len(rows) * panel + edge
    figure = Figure(figsize=(width, height), facecolor=COFFEE, dpi=120)
    axes = figure.subplots(len(rows), 6, squeeze=False, gridspec_kw={"wspace": 0.04, "hspace": 0.04})
    ends = {"left": left / width, "right": 1 - edge / width}
    figure.subplots_adjust(**ends, bottom=edge / height, top=1 - head / height)
    line = {"y": 1 - 0.38 / height, "va": "center"}
    figure.text(ends["left"], s=title, color=MILK, fontsize=22, **line)
    figure.text(ends["right"], s=subtitle, color=COPPER, fontsize=11, ha="right", **line)
    for ax, heading in zip(axes[0], HEADINGS, strict=True):
        ax.set_title(heading, color=COPPER, fontsize=11, loc="left", pad=5)
    for row, panels in zip(rows, axes, strict=True):
        draw(row, panels, seed)
        panels[0].set_ylabel(row.title, color=MILK, fontsize=11.5)
    for ax in axes.flat:
        ax.set(xlim=(-WINDOW, WINDOW), ylim=(-WINDOW, WINDOW), xticks=[], yticks=[], facecolor=COFFEE)
        ax.set_aspect("equal")
        ax.spines[:].set_visible(False)
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return Image.fromarray(np.asarray(canvas.buffer_rgba())[..., :3]).quantize(96)  # all of it is brown


def draw(row: Row, axes: "Sequence[Axes]", seed: int) -> None:
    """The panels of a variant."""
    net, recipe = row.model.net, row.model.recipe
    assert isinstance(net, Denoiser)
    assert isinstance(recipe, DiffusionRecipe)
    schedule = net.schedule or build(recipe.density, SCHEDULES, "schedule", SCALINGS)
    x = datasets.load(recipe.data).split("test", POINTS, seed).x

    def noisy(level: Level) -> Tensor:
        purpose = f"poster {float(level.log_snr)}"
        return level.alpha * x + level.sigma * normal(seed, purpose, range(POINTS), (2,))

    states: list[Tensor] = []

    def watch(numbers: Sequence[int], z: Tensor, level: Level) -> None:
        states.append(z[:WALKS])

    with torch.no_grad():
        for ax, t in zip(axes, TIMES, strict=False):
            level = schedule(torch.tensor(t, dtype=torch.float64))
            cloud(ax, noisy(level))
            note(ax, f"log-SNR {float(level.log_snr):.1f}")
        found = phin.samples(row.model, n=POINTS, seed=seed, batch=POINTS, watch=watch, **row.sampling)
        drawn = torch.stack(found)
        walks(axes[3], torch.stack([*states, drawn[:WALKS]]))
        level = schedule.scaling(torch.tensor(LOG_SNR, dtype=torch.float64))
        field(axes[4], net, level, noisy(level))
    cloud(axes[5], drawn)
    note(axes[5], number(row.distance, 4))


def cloud(ax: "Axes", points: Tensor, strength: float = 1.0) -> None:
    """Points that glow where they are many."""
    for size, alpha in ((20, 0.022), (1.1, 0.5)):
        ax.scatter(*points.T.numpy(), s=size, color=MILK, alpha=strength * alpha, linewidths=0)


def walks(ax: "Axes", states: Tensor) -> None:
    """Lines through states (T, n, 2), from faint to bright, and where they end."""
    from matplotlib.collections import LineCollection
    from matplotlib.colors import LinearSegmentedColormap

    warm = LinearSegmentedColormap.from_list(
        "warm", [(0, CLAY + "30"), (0.6, COPPER + "60"), (1, MILK + "a0")]
    )
    lines = torch.stack([states[:-1], states[1:]], 2)  # (T - 1, n, 2, 2)
    age = torch.linspace(0, 1, len(lines))[:, None].expand(lines.shape[:2])
    shown = LineCollection(list(lines.flatten(0, 1).numpy()), cmap=warm, linewidths=0.5)
    shown.set_array(age.flatten().numpy())
    ax.add_collection(shown)
    ax.scatter(*states[-1].T.numpy(), s=3.5, color=MILK, linewidths=0, zorder=3)


def field(ax: "Axes", net: Denoiser, level: Level, points: Tensor) -> None:
    """Stream lines of the score (alpha x̂ - z) / sigma², brighter where it is longer, over noisy points."""
    side = torch.linspace(-1.1 * WINDOW, 1.1 * WINDOW, 60)
    y, x = torch.meshgrid(side, side, indexing="ij")
    spread = torch.hypot(level.alpha, level.sigma)
    z = spread * torch.stack([x, y], -1).view(-1, 2)
    score = ((level.alpha * net(z, level).x - z) / level.sigma**2).view(60, 60, 2).numpy()
    cloud(ax, points / spread, 0.3)
    ax.streamplot(
        *(side.numpy(), side.numpy(), score[..., 0], score[..., 1]),
        color=np.log(np.hypot(score[..., 0], score[..., 1])),
        cmap="copper",
        density=1.1,
        linewidth=0.7,
        arrowsize=0.55,
    )


def note(ax: "Axes", text: str) -> None:
    """A few words at the foot of a panel."""
    back = {"facecolor": COFFEE, "edgecolor": "none", "alpha": 0.75, "pad": 1.2}
    ax.text(0.03, 0.035, text, transform=ax.transAxes, color=COPPER, fontsize=7.5, bbox=back, zorder=4)
