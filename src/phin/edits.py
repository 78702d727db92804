"""Edits of given pictures by a trained model: variations, repairs, ways between two, reconstructions."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from phin.data import folder
from phin.data.base import from_integers
from phin.diffusion import editing, ode
from phin.diffusion.denoiser import Denoise
from phin.diffusion.noise import Noise, seeded
from phin.diffusion.solvers import SOLVERS, sample
from phin.diffusion.solvers import Watch as Look
from phin.errors import PhinError
from phin.families.latent import space
from phin.models import Model, Watch, conditions, configured, degradation, denoiser, does_without
from phin.nets.precision import autocast
from phin.registry import build
from phin.sampling import guided

BATCH = 64


class Editor:
    """A model made ready for pictures of one size, under one condition, or one for each.

    Pictures are (C, H, W) in [-1, 1]. The k-th of several has the same noise under the same seed, however
    many they are. Of a model in latents, what is edited is the means of the pictures' latents.

    Args:
        model: A diffusion model of pictures, from `models.load`.
        paths: The files of the pictures.
        prompts: What numbers they show, of a model of numbers: one for all, or one for each. By default the
            model is told nothing.
        labels: What classes they show, of a model of labelled pictures, in the same way.
        choices: Fields of `SampleConfig` that replace the model's own.

    Raises:
        PhinError: On a model that draws no pictures; on files that are none, or of another size or kind than
            the model's; on a prompt or label that it does not know, or a wrong choice.
    """

    def __init__(
        self,
        model: Model,
        paths: Sequence[Path],
        prompts: Sequence[str] | None = None,
        labels: Sequence[int] | None = None,
        **choices: Any,
    ) -> None:
        self.denoiser = denoiser(model)
        config = configured(replace(model, tuned=()), choices)  # tuned are whole walks from noise
        assert config is not None
        self.config, self.home = config, space(self.denoiser)
        self.levels, self.solver = self.config.levels(), build(self.config.solver, SOLVERS, "solver")
        if degradation(model) is not None:
            raise PhinError(
                f"{model.path} draws what is missing of a picture that it is given, as by `phin sample "
                "--image FILE`: to edit, give a model that draws from nothing, such as mnist"
            )
        if len(model.facts.shape) != 3:
            raise PhinError(f"{model.path} draws {model.recipe.data}, and no pictures to edit")
        read = [(path, folder.read(path)) for path in paths]
        for path, picture in read:
            _check_size(model, path, picture.shape)
            if picture.shape != read[0][1].shape:
                sizes = [folder.describe(each.shape) for each in (picture, read[0][1])]
                raise PhinError(
                    f"{path} is {sizes[0]} and {paths[0]} is {sizes[1]}; give pictures of one size"
                )
        self.device = next(self.denoiser.parameters()).device
        self.pictures = [from_integers(torch.tensor(picture)) for _, picture in read]
        with torch.no_grad():
            self.points = list(self.home.encode(torch.stack(self.pictures).to(self.device)).mean)
        self.kind, self.rows = self._conditions(model, prompts, labels)
        self.unsolved = 0
        """Pictures so far that the ODE did not bring to its end, and that are as far as it came."""

    def _conditions(
        self, model: Model, prompts: Sequence[str] | None, labels: Sequence[int] | None
    ) -> tuple[str, list[Tensor]]:
        """The condition's name and its value for each picture."""
        n, cells = len(self.pictures), self.pictures[0].shape[-1] // model.facts.shape[-1]
        told = model.facts.alphabet or model.facts.vocabulary
        if told and not prompts and not does_without(model):
            raise PhinError(
                f"{model.path} was never trained without texts: say what the picture shows, by --prompt"
            )
        if model.facts.alphabet and not prompts:
            conditions(model, ["0"], labels, None)
            return "prompt", [torch.full((model.facts.alphabet.longest,), -1)] * n
        if model.facts.vocabulary and not prompts:
            conditions(model, ["0"], labels, None)  # which refuses labels
            return "text", [torch.full((cells,), -1)] * n
        kind, rows = conditions(model, prompts, labels or ([-1] if model.facts.classes else None), None)
        if kind == "text" and any(len(row) != cells for row in rows):
            said = ", ".join(prompts or ())
            raise PhinError(f"the picture has room for {cells} digits, which {said} does not have")
        if len(rows) not in (1, n):
            raise PhinError(f"{len(rows)} prompts or labels for {n} pictures: give one, or one for each")
        return kind, rows * n if len(rows) == 1 else rows

    def denoise(self, which: Sequence[int]) -> Denoise:
        """The denoiser of pictures `which`, guided and kept in range as the configuration says."""
        if not self.kind:
            return guided(self.denoiser, {}, self.config)
        cond = torch.stack([self.rows[k] for k in which]).to(self.device)
        return guided(self.denoiser, {self.kind: cond[:, 0] if self.kind == "label" else cond}, self.config)

    def vary(
        self, strength: float, n: int, seed: int = 0, watch: Watch | None = None
    ) -> Float[Tensor, "n c h w"]:
        """Variations of the first picture: `editing.vary`."""

        def draw(x: Tensor, noise: Noise, look: Look | None) -> Tensor:
            denoise = self.denoise([0] * len(x))
            return editing.vary(denoise, self.solver, self.levels, x, strength, noise, look)

        return self._several(draw, n, seed, watch)

    def inpaint(
        self,
        known: Bool[Tensor, "h w"],
        resamplings: int,
        jump: int,
        n: int,
        seed: int = 0,
        watch: Watch | None = None,
    ) -> Float[Tensor, "n c h w"]:
        """The first picture with all that is not known painted anew: `editing.inpaint`.

        A latent is known if all pixels of its patch are; what is known of the picture is put back in the end.
        """
        height, width = self.points[0].shape[-2:]
        whole = known.unflatten(1, (width, -1)).unflatten(0, (height, -1)).all(3).all(1)
        whole = whole.to(self.device)

        def draw(x: Tensor, noise: Noise, look: Look | None) -> Tensor:
            denoise = self.denoise([0] * len(x))
            return editing.inpaint(
                denoise, self.solver, self.levels, x, whole, resamplings, jump, noise, look
            )

        return torch.where(known, self.pictures[0], self._several(draw, n, seed, watch))

    def _several(
        self, draw: Callable[[Tensor, Noise, Look | None], Tensor], n: int, seed: int, watch: Watch | None
    ) -> Tensor:
        """n edits of the first picture, in batches."""
        if n < 1:
            raise PhinError(f"n = {n}: at least 1 picture must be asked for")
        parts: list[Tensor] = []
        for start in range(0, n, BATCH):
            part = range(start, min(start + BATCH, n))
            x = self.points[0].expand(len(part), *self.points[0].shape)
            with torch.no_grad(), autocast(x.device), _mendable():
                parts.append(draw(x, seeded(seed, part), watch and partial(watch, part)))
        return self._pictures(torch.cat(parts))

    def _pictures(self, z: Tensor) -> Float[Tensor, "n c h w"]:
        with torch.no_grad():
            return self.home.decode(z).cpu()

    def mix(self, steps: int, strength: float, seed: int = 0) -> Float[Tensor, "n c h w"]:
        """From the first picture to the second by the stochastic encoder: `editing.interpolate`."""
        weights, nearest = self._weights(steps)
        a, b = self.points
        with torch.no_grad(), autocast(a.device), _mendable():
            noise = seeded(seed, range(1))
            mixed = editing.interpolate(
                self.denoise(nearest), self.solver, self.levels, a[None], b[None], weights, strength, noise
            )[:, 0]
        return self._pictures(mixed)

    def slerp(self, steps: int, rtol: float | None) -> Float[Tensor, "n c h w"]:
        """From the first picture to the second along the great circle of their latents: `editing.slerp`."""
        weights, nearest = self._weights(steps)
        a, b = self.encode(rtol).split(1)
        return self.decode(editing.slerp(a, b, weights)[:, 0], nearest, rtol)

    def _weights(self, steps: int) -> tuple[Tensor, list[int]]:
        """Weights of the second picture, and which picture is the nearer: its condition is used."""
        if len(self.pictures) != 2:
            raise PhinError(f"{len(self.pictures)} pictures: give two, to go from one to the other")
        if steps < 2:
            raise PhinError(f"{steps} pictures: at least 2, the ends, must be asked for")
        weights = torch.linspace(0, 1, steps)
        return weights, [int(w > 0.5) for w in weights]

    def encode(self, rtol: float | None) -> Float[Tensor, "n d *sides"]:
        """The noise that pictures come from: by the ODE to a tolerance, or by the solver up the ladder."""
        x, which = torch.stack(self.points), list(range(len(self.points)))
        with torch.no_grad(), _mendable():
            if rtol is not None:
                select = self._select(which)
                return self._solved(
                    ode.encode(select(torch.arange(len(x))), x, self.levels, rtol, rtol, select=select)
                )
            with autocast(x.device):
                return ode.invert(self.denoise(which), self.solver, self.levels, x)

    def decode(
        self, z: Float[Tensor, "n d *sides"], which: Sequence[int], rtol: float | None
    ) -> Float[Tensor, "n c h w"]:
        """The pictures of latents, under the conditions of the pictures `which`."""
        with torch.no_grad(), _mendable():
            if rtol is not None:
                select = self._select(which)
                drawn = self._solved(
                    ode.decode(select(torch.arange(len(z))), z, self.levels, rtol, rtol, select=select)
                )
            else:
                with autocast(z.device):
                    drawn = sample(self.denoise(which), self.solver, self.levels, z)
        return self._pictures(drawn)

    def _solved(self, solution: ode.Solution) -> Tensor:
        self.unsolved += int((~solution.converged).sum())
        return solution.y

    def _select(self, which: Sequence[int]) -> ode.Select:
        return lambda rows: self.denoise([which[k] for k in rows.tolist()])


def given(path: Path, hidden: Path | None = None, keep: str | None = None) -> Float[Tensor, "c h w"]:
    """A picture to begin from, in [-1, 1], with NaN where it is not known.

    Args:
        path: Its file.
        hidden: A picture of the same size: white where it is hidden, black where it is known.
        keep: The half that is known, a name of `HALVES`, in place of that.

    Raises:
        PhinError: Files that are no pictures, or of different sizes.
    """
    picture = from_integers(torch.tensor(folder.read(path)))
    _, height, width = picture.shape
    if hidden is not None:
        return picture.where(mask(hidden, height, width), torch.nan)
    return picture if keep is None else picture.where(half(keep, height, width), torch.nan)


def mask(path: Path, height: int, width: int) -> Bool[Tensor, "h w"]:
    """What of a picture is to be kept, by a picture that is black there, and white where it is painted anew.

    Raises:
        PhinError: It is no picture, or of another size.
    """
    picture = folder.read(path)
    if picture.shape[1:] != (height, width):
        size = folder.describe(picture.shape)
        raise PhinError(f"the mask {path} is {size} and the picture {width} x {height}; make them alike")
    return torch.tensor(picture).float().mean(0) < 127.5


def half(side: str, height: int, width: int) -> Bool[Tensor, "h w"]:
    """One half of a picture, to be kept: a name of `HALVES`."""
    down, right = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    return HALVES[side](down / height, right / width)


HALVES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "left": lambda down, right: right < 0.5,
    "right": lambda down, right: right >= 0.5,
    "top": lambda down, right: down < 0.5,
    "bottom": lambda down, right: down >= 0.5,
}
"""Name -> whether a point is in that half, by how far down and to the right it is, from 0 to 1."""


def _check_size(model: Model, path: Path, shape: tuple[int, ...]) -> None:
    """Raises a PhinError unless the model draws pictures of this shape."""
    channels, height, width = model.facts.shape
    cells = shape[2] // width if model.facts.vocabulary else 1
    if shape != (channels, height, max(cells, 1) * width):
        wanted = f"n times {width}" if model.facts.vocabulary else str(width)
        kind = "grey" if channels == 1 else "RGB"
        raise PhinError(
            f"{path} is {folder.describe(shape)} and {model.path} draws {wanted} x {height} {kind}; "
            "scale or convert it"
        )


@contextmanager
def _mendable() -> Iterator[None]:
    """What diffusion finds wrong with an argument is the user's to mend."""
    try:
        yield
    except ValueError as error:
        raise PhinError(str(error)) from error
