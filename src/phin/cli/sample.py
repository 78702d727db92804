"""`phin sample`."""

import io
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from phin.errors import PhinError

from .command import Command
from .files import write, write_all
from .guiding import guided
from .options import Classifier, ClassifierScale, Flag, Guidance, Levels, ModelName, Solver, Threshold
from .terminal import progress

if TYPE_CHECKING:
    from torch import Tensor

    from phin.recipes import Facts


@dataclass(frozen=True, kw_only=True)
class Sample(Command):
    """Draw with a trained model: one PNG a picture, named by number and content, such as 0000_40213.png."""

    model: ModelName = "numbers"
    prompt: tuple[str, ...] = ()
    """Numbers to draw, of one to five digits; in digits or in words, of a model of words."""
    prompts_file: Path | None = None
    """A text file with more of them, one a line."""
    label: tuple[int, ...] | None = None
    """Classes to draw, of a model of labelled pictures; by default each in turn."""
    n: Annotated[int | None, tyro.conf.arg(aliases=("-n",))] = None
    """How many of each, 1 by default; or how many in all, where nothing is asked for in particular."""
    out: Path = Path("samples")
    """Folder of the files; made if need be."""
    seed: int = 0
    """The same seed gives the same pictures."""
    steps: int | None = None
    """Evaluations of the model a picture. This and the next four are the model's own by default."""
    solver: Solver = None
    guidance: Guidance = None
    levels: Levels = None
    threshold: Threshold = None
    classifier: Classifier = None
    classifier_scale: ClassifierScale = None
    grid: Flag = False
    """Also write all pictures in one, grid.png."""
    gif: Flag = False
    """Also write a GIF of each picture's denoising."""

    def run(self) -> dict[str, Any]:
        import time

        from phin import models
        from phin.diffusion.denoiser import Denoiser
        from phin.families.latent import PIXELS, space
        from phin.training.checkpoint import open_folder

        prompts = self._prompts()
        model = models.load(self.model)
        kind, rows = models.conditions(model, prompts, self.label, self.n)
        choices = self.given("steps", "solver", "guidance", "threshold", grid="levels")
        config = models.configured(model, choices)
        if self.gif and config is None:
            raise PhinError(
                f"{model.path} draws in one pass, and there is no denoising to show: leave --gif out"
            )
        guide = guided(model, self.classifier, self.classifier_scale)
        open_folder(self.out)
        states: list[list[Tensor]] = [[] for _ in rows]
        begun = time.perf_counter()
        with progress(len(rows) * config.steps if config else 0) as advance:

            def watch(batch: Sequence[int], z: "Tensor", level: Any) -> None:
                advance(batch, z, level)
                if self.gif:
                    for k, state in zip(batch, z / level.alpha.hypot(level.sigma), strict=True):
                        states[k].append(state)

            flat = len(model.facts.shape) == 1  # points, and not pictures
            batch = 4096 if flat else 64
            drawn = models.samples(
                model, prompts, self.label, self.n, self.seed, batch, watch, guide, **choices
            )
        facts = {
            "model": str(model.path),
            "sampling": {
                **(asdict(config) if config else {}),
                "seed": self.seed,
                **(guide.facts if guide else {}),
            },
            "seconds": round(time.perf_counter() - begun, 3),
        }
        if flat:
            return facts | self._write_points(drawn, states)
        home = space(model.net) if isinstance(model.net, Denoiser) else PIXELS
        shown = [[home.decode(state[None])[0] for state in film] for film in states]
        return facts | self._write_pictures(drawn, shown, [_caption(model.facts, kind, row) for row in rows])

    def _prompts(self) -> list[str] | None:
        """Those of the command line and those of the file; None where neither is given."""
        prompts = list(self.prompt)
        if self.prompts_file is not None:
            try:
                lines = self.prompts_file.read_text(encoding="utf-8").splitlines()
            except (OSError, UnicodeDecodeError) as error:
                raise PhinError(
                    f"{self.prompts_file} cannot be read ({error}); give a text file of numbers"
                ) from error
            prompts += [line.strip() for line in lines if line.strip()]
            if not prompts:
                raise PhinError(
                    f"{self.prompts_file} has no prompts; write numbers such as 40213 into it, one a line"
                )
        return prompts or None

    def _write_pictures(
        self, drawn: "Sequence[Tensor]", states: "Sequence[Sequence[Tensor]]", names: Sequence[str]
    ) -> dict[str, Any]:
        from phin.pictures import gif, png, tile, to_bytes

        pictures = [to_bytes(x) for x in drawn]
        files = []
        for k, (picture, name) in enumerate(zip(pictures, names, strict=True)):
            path = self.out / ("_".join([f"{k:04}", *re.findall(r"[\w-]+", name)]) + ".png")
            payloads = {"file": (path, png(picture))}
            if self.gif:
                film = gif([*map(to_bytes, states[k]), picture])
                payloads["gif"] = (path.with_suffix(".gif"), film)
            files.append({**write_all(payloads), **({"content": name} if name else {})})
        facts: dict[str, Any] = {"pictures": files}
        if self.grid:
            facts["grid"] = write(
                self.out / "grid.png", png(tile(pictures, min(self.n or len(pictures), 10)))
            )
        return facts

    def _write_points(
        self, drawn: "Sequence[Tensor]", states: "Sequence[Sequence[Tensor]]"
    ) -> dict[str, Any]:
        """One array of all points; grid and GIF show their density."""
        import numpy as np
        import torch

        from phin.pictures import gif, png, scatter

        points, file = torch.stack(list(drawn)), io.BytesIO()
        np.save(file, points.numpy(), allow_pickle=False)
        facts: dict[str, Any] = {"points": write(self.out / "points.npy", file.getvalue()), "n": len(points)}
        if self.grid:
            facts["grid"] = write(self.out / "grid.png", png(scatter(points)))
        if self.gif:
            clouds = [torch.stack(cloud) for cloud in zip(*states, strict=True)]
            facts["gif"] = write(
                self.out / "points.gif", gif([scatter(cloud) for cloud in [*clouds, points]])
            )
        return facts

    def show(self, facts: dict[str, Any]) -> None:
        for entry in [*facts.get("pictures", ()), facts]:
            for kind in ("file", "gif", "points", "grid"):
                if kind in entry:
                    print(entry[kind])


def _caption(facts: "Facts", kind: str, row: "Tensor") -> str:
    """What a sample shows, for its file's name."""
    if facts.alphabet and kind == "prompt":
        return facts.alphabet.text(row)
    if kind == "text":
        return "".join(map(str, row.tolist()))
    return {"": "", "label": "any" if row[0] < 0 else str(int(row[0]))}[kind]
