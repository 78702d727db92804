"""`phin sample`."""

import io
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

from phin.errors import PhinError

from .command import Command
from .files import write, write_all
from .guiding import guided
from .options import Classifier, ClassifierScale, Flag, Guidance, Levels, ModelName, Solver, Threshold
from .terminal import progress

if TYPE_CHECKING:
    from torch import Tensor

    from phin.models import Model
    from phin.pictures import Picture
    from phin.recipes import Facts


@dataclass(frozen=True, kw_only=True)
class Sample(Command):
    """Draw with a trained model: one PNG a picture, named by number and content, such as 0000_40213.png.

    A video is a GIF; sequences are plotted, and written to sequences.npy; points are in points.npy.
    """

    model: ModelName = "numbers"
    prompt: tuple[str, ...] = ()
    """Numbers to draw, of one to five digits; in digits or in words, of a model of words."""
    prompts_file: Path | None = None
    """A text file with more of them, one a line."""
    label: tuple[int, ...] | None = None
    """Classes to draw, of a model of labelled pictures; by default each in turn."""
    image: tuple[Path, ...] = ()
    """Pictures to begin from, of a model of image to image, such as that of mnist-superres."""
    mask: Path | None = None
    """Of one that inpaints: a picture, white where they are to be painted anew, black where they are kept."""
    keep: Literal["left", "right", "top", "bottom"] | None = None
    """Keep this half of them, in place of a mask."""
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
    """Also write all pictures in one, grid.png; all videos, grid.gif."""
    gif: Flag = False
    """Also write a GIF of each picture's denoising; of a video's, its frames side by side."""

    def run(self) -> dict[str, Any]:
        import time

        from phin import models
        from phin.diffusion.denoiser import Denoiser
        from phin.families.latent import PIXELS, space
        from phin.training.checkpoint import open_folder

        prompts = self._prompts()
        model = models.load(self.model)
        images = self._images(model)
        kind, rows = models.conditions(model, prompts, self.label, self.n, len(images))
        choices = self.given("steps", "solver", "guidance", "threshold", grid="levels")
        guide = guided(model, self.classifier, self.classifier_scale)
        config = models.configured(model, choices, guide)
        if self.gif and config is None:
            raise PhinError(
                f"{model.path} draws in one pass, and there is no denoising to show: leave --gif out"
            )
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
            batch = {1: 4096, 2: 512}.get(len(model.facts.shape), 64)
            drawn = models.samples(
                model, prompts, self.label, self.n, self.seed, batch, watch, guide, images, **choices
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
        names = [_caption(model.facts, kind, row) for row in rows]
        if images:
            names = [path.stem for path in self.image for _ in range(self.n or 1)]
        if len(model.facts.shape) == 2:
            facts |= {"sequences": self._write_array("sequences", drawn)}
        return facts | self._write_pictures(drawn, shown, names)

    def _images(self, model: "Model") -> "list[Tensor]":
        """What is known of the pictures to begin from."""
        from phin import models
        from phin.edits import given

        if self.mask is not None and self.keep is not None:
            raise PhinError("say what to keep by one of the two, --keep left or --mask FILE")
        if not self.image and (self.mask or self.keep):
            raise PhinError("--mask and --keep are of pictures to begin from; give some by --image FILE, too")
        return models.given(model, [(str(path), given(path, self.mask, self.keep)) for path in self.image])

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
        from phin.pictures import frames, gif, png, still, tile

        def payload(shown: "Sequence[Picture]") -> tuple[str, bytes]:
            """The kind of a file, and what is in it."""
            return (".png", png(shown[0])) if len(shown) == 1 else (".gif", gif(shown, rest=0.5))

        looks = [frames(x) for x in drawn]
        files = []
        for k, (shown, name) in enumerate(zip(looks, names, strict=True)):
            path = self.out / "_".join([f"{k:04}", *re.findall(r"[\w-]+", name)])
            suffix, content = payload(shown)
            payloads = {"file": (path.with_name(path.name + suffix), content)}
            if self.gif:
                film = gif([*map(still, states[k]), still(drawn[k])])
                of = ".gif" if suffix == ".png" else "_denoising.gif"
                payloads["gif"] = (path.with_name(path.name + of), film)
            files.append({**write_all(payloads), **({"content": name} if name else {})})
        facts: dict[str, Any] = {"pictures": files}
        if self.grid:
            columns = min(self.n or len(looks), 3 if drawn[0].ndim == 2 else 10)  # plots are wide
            suffix, content = payload([tile(shown, columns) for shown in zip(*looks, strict=True)])
            facts["grid"] = write(self.out / f"grid{suffix}", content)
        return facts

    def _write_points(
        self, drawn: "Sequence[Tensor]", states: "Sequence[Sequence[Tensor]]"
    ) -> dict[str, Any]:
        """One array of all points; grid and GIF show their density."""
        import torch

        from phin.pictures import gif, png, scatter

        points = torch.stack(list(drawn))
        facts: dict[str, Any] = {"points": self._write_array("points", drawn), "n": len(points)}
        if self.grid:
            facts["grid"] = write(self.out / "grid.png", png(scatter(points)))
        if self.gif:
            clouds = [torch.stack(cloud) for cloud in zip(*states, strict=True)]
            facts["gif"] = write(
                self.out / "points.gif", gif([scatter(cloud) for cloud in [*clouds, points]])
            )
        return facts

    def _write_array(self, name: str, drawn: "Sequence[Tensor]") -> str:
        import numpy as np
        import torch

        file = io.BytesIO()
        np.save(file, torch.stack(list(drawn)).numpy(), allow_pickle=False)
        return write(self.out / f"{name}.npy", file.getvalue())

    def show(self, facts: dict[str, Any]) -> None:
        for entry in [*facts.get("pictures", ()), facts]:
            for kind in ("file", "gif", "points", "sequences", "grid"):
                if kind in entry:
                    print(entry[kind])


def _caption(facts: "Facts", kind: str, row: "Tensor") -> str:
    """What a sample shows, for its file's name."""
    if facts.alphabet and kind == "prompt":
        return facts.alphabet.text(row)
    if kind == "text":
        return "".join(map(str, row.tolist()))
    return {"": "", "label": "any" if row[0] < 0 else str(int(row[0]))}[kind]
