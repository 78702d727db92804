"""`phin edit`: what can be done to pictures that there are."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

from phin.errors import PhinError

from .command import Command
from .files import write
from .options import Guidance, Levels, ModelName, Threshold, Tolerance
from .terminal import progress

if TYPE_CHECKING:
    from torch import Tensor

    from phin.edits import Editor


@dataclass(frozen=True, kw_only=True)
class Edit(Command):
    """What all edits of pictures have in common."""

    model: ModelName = "numbers"
    prompt: tuple[str, ...] | None = None
    """The numbers that the pictures show, one for all or one for each; by default the model is not told."""
    label: tuple[int, ...] | None = None
    """The classes that they show, of a model of labelled pictures, in the same way."""
    out: Path = Path("edits")
    """Folder of the files; made if need be."""
    seed: int = 0
    """The same seed gives the same pictures."""
    steps: int = 50
    """Levels of the ladder."""
    solver: str | None = None
    """Solver: dpmpp_2m, ddim(eta=0.5), ... This and the next three are the model's own by default."""
    guidance: Guidance = None
    levels: Levels = None
    threshold: Threshold = None

    def editor(self, *images: Path) -> "Editor":
        """The model, made ready for these pictures."""
        from phin import models
        from phin.edits import Editor

        choices = self.given("steps", "solver", "guidance", "threshold", grid="levels")
        return Editor(models.load(self.model), images, self.prompt, self.label, **choices)

    def write(
        self, editor: "Editor", given: "Sequence[Tensor]", edited: "Sequence[Tensor]", **more: Any
    ) -> dict[str, Any]:
        """Writes the edited pictures, and grid.png, in which those that were given stand before them."""
        from phin.pictures import png, tile, to_bytes
        from phin.training.checkpoint import open_folder

        open_folder(self.out)
        pictures = [to_bytes(x) for x in edited]
        files = [write(self.out / f"{k:04}.png", png(picture)) for k, picture in enumerate(pictures)]
        height, width, *_ = pictures[0].shape
        sheet = tile([*map(to_bytes, given), *pictures], max(1, round(10 * height / width)))
        return {
            "model": self.model,
            "sampling": {**asdict(editor.config), "seed": self.seed},
            **more,
            **({"unsolved": editor.unsolved} if editor.unsolved else {}),
            "pictures": files,
            "grid": write(self.out / "grid.png", png(sheet)),
        }

    def show(self, facts: dict[str, Any]) -> None:
        for file in [*facts["pictures"], facts["grid"]]:
            print(file)


@dataclass(frozen=True, kw_only=True)
class EditVary(Edit):
    """Draw variations of a picture: diffuse it to a level, and denoise it again (SDEdit)."""

    image: Path
    """The picture."""
    strength: float = 0.5
    """How far it is diffused: the share of the ladder that is walked back. At 1 nothing of it is left."""
    n: Annotated[int, tyro.conf.arg(aliases=("-n",))] = 8
    """How many."""

    def run(self) -> dict[str, Any]:
        check_strength(self.strength)
        editor = self.editor(self.image)
        with progress(self.n * max(1, round(self.strength * self.steps))) as watch:
            varied = editor.vary(self.strength, self.n, self.seed, watch)
        return self.write(editor, editor.pictures, list(varied), strength=self.strength)


@dataclass(frozen=True, kw_only=True)
class EditInpaint(Edit):
    """Paint a part of a picture anew, to fit what is kept (RePaint)."""

    image: Path
    """The picture."""
    mask: Path | None = None
    """A picture of the same size: white where it is to be painted anew, black where it is kept."""
    keep: Literal["left", "right", "top", "bottom"] | None = None
    """Keep this half, in place of a mask."""
    resamplings: int = 5
    """How often each stretch of the ladder is walked, that what is painted may fit what is kept."""
    jump: int = 5
    """Steps in a stretch."""
    n: Annotated[int, tyro.conf.arg(aliases=("-n",))] = 4
    """How many."""
    steps: int = 30
    """Levels of the ladder."""
    solver: str | None = "ddpm"
    """Solver; one that draws noise, such as ddpm, paints best."""

    def run(self) -> dict[str, Any]:
        from phin.edits import half, mask

        if (self.mask is None) == (self.keep is None):
            raise PhinError("say what to keep by one of the two, --keep left or --mask FILE")
        editor = self.editor(self.image)
        _, height, width = editor.pictures[0].shape
        if self.mask is not None:
            known = mask(self.mask, height, width)
        else:
            known = half(str(self.keep), height, width)
        with progress(self.n * (1 + self.resamplings * (self.steps - 1))) as watch:
            painted = editor.inpaint(known, self.resamplings, self.jump, self.n, self.seed, watch)
        picture = editor.pictures[0]
        return self.write(editor, [picture, picture.where(known, picture.new_zeros(()))], list(painted))


@dataclass(frozen=True, kw_only=True)
class EditInterpolate(Edit):
    """Go from one picture to another, through their latents (DDIM) or their diffused states (DDPM)."""

    image: tuple[Path, Path]
    """The two pictures."""
    strength: float | None = None
    """Diffuse both so far, the share of the ladder, and mix them; by default their latents are mixed."""
    n: Annotated[int, tyro.conf.arg(aliases=("-n",))] = 9
    """How many pictures, the two ends included."""
    rtol: Tolerance = 1e-4
    guidance: Guidance = 1.0

    def run(self) -> dict[str, Any]:
        if self.strength is not None:
            check_strength(self.strength)
        editor = self.editor(*self.image)
        if self.strength is not None:
            between = editor.mix(self.n, self.strength, self.seed)
        else:
            between = editor.slerp(self.n, self.rtol)
        return self.write(editor, [], list(between), strength=self.strength)


@dataclass(frozen=True, kw_only=True)
class EditReconstruct(Edit):
    """Encode pictures into latents and decode them: how much of them the model's own map preserves."""

    image: tuple[Path, ...]
    """The pictures."""
    rtol: Tolerance = EditInterpolate.rtol
    guidance: Guidance = EditInterpolate.guidance

    def run(self) -> dict[str, Any]:
        import torch

        editor = self.editor(*self.image)
        latents = editor.encode(self.rtol)
        decoded = editor.decode(latents, range(len(latents)), self.rtol)
        off = 127.5 * (decoded - torch.stack(editor.pictures))
        rms = off.flatten(1).square().mean(1).sqrt()
        error = {"rms": [round(value, 3) for value in rms.tolist()], "of": 255}
        shown = editor.home.decode(latents / 2)
        return self.write(editor, [*editor.pictures, *shown], list(decoded), error=error)

    def show(self, facts: dict[str, Any]) -> None:
        super().show(facts)
        print(
            f"off by {', '.join(f'{value:g}' for value in facts['error']['rms'])} of 255 (root mean square)"
        )


def check_strength(strength: float) -> None:
    """Raises a PhinError unless it is above 0 and at most 1."""
    if not 0 < strength <= 1:
        raise PhinError(f"strength = {strength}: give a share of the ladder above 0, up to 1")
