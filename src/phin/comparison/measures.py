"""What is measured of each model of a comparison: by the same pictures, in the same way."""

from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path
from typing import Any

from phin import models
from phin.data import Data
from phin.diffusion.denoiser import Denoiser
from phin.errors import PhinError
from phin.evaluation import PicturePlan, Reference, pictures
from phin.evaluation.costs import costs
from phin.evaluation.drawing import Bar, Drawing, silent
from phin.evaluation.latents import active
from phin.evaluation.pictures import sizes
from phin.evaluation.subject import Subject
from phin.metrics.features import Features, Reader
from phin.metrics.summary import fewest
from phin.models import Model
from phin.nll import nll
from phin.training.checkpoint import digest
from phin.training.run import copies

CURVE = 2_000  # pictures of each point, or as many as the features need; or as the data have to train on
LIKELY = 1_000  # test images, or all if there are fewer


@dataclass(frozen=True)
class Plan:
    """On how much the models are measured."""

    n: int | None = None
    """Pictures to draw: 10,000, or as many as there are to train on."""
    n_curve: int | None = None
    """Pictures for each point of the curves over time and network calls: 2,000, more if the features need
    more, or as many as there are."""
    n_nll: int | None = None
    """Test images whose likelihood is measured: 1,000, or all if there are fewer."""
    ladder: tuple[int, ...] = (5, 10, 20, 50)
    """Steps of the curve over network calls, of diffusion models."""
    seed: int = 0
    """Of the choice of real pictures, and of all noise."""

    def __post_init__(self) -> None:
        if wrong := [steps for steps in self.ladder if steps < 1]:
            raise PhinError(f"{wrong[0]} steps are too few to draw by: give at least 1")
        if self.n_nll is not None and self.n_nll < 2:
            raise PhinError(f"n_nll = {self.n_nll}: at least 2 images are needed, for an error")


class Measures:
    """The measures of all models of the same data.

    Args:
        data: What all of them learned.
        features: What looks at their pictures.
        plan: On how much.
        bar: Shows how far a drawing is.

    Raises:
        PhinError: As `Reference`.
    """

    def __init__(self, data: Data, features: Features, plan: Plan = Plan(), bar: Bar = silent) -> None:
        train, test = data.count("train"), data.count("test")
        few = max(CURVE, fewest(features.dims))
        few = min(few, train or few) if plan.n_curve is None else plan.n_curve
        self.plan, self.bar = plan, bar
        self.images = min(LIKELY, test or LIKELY) if plan.n_nll is None else plan.n_nll
        if test is not None and self.images > test:
            raise PhinError(
                f"n_nll = {self.images:,}: {data.name} has {test:,} test images, give at most as many"
            )
        whole = PicturePlan(plan.n, seed=plan.seed)
        sizes(data, features, whole)
        try:
            # Of a curve, what takes the square of n is left out: it is measured on as few as there may be.
            curve = PicturePlan(few, kept=20, compared=0, seed=plan.seed)
            sizes(data, features, curve)
        except PhinError as error:
            raise PhinError(f"n_curve = {few:,}, for the points of the curves: {error}") from error
        self.reference, self.fewer = (Reference(data, features, each) for each in (whole, curve))

    def quality(self, subject: Subject) -> dict[str, Any]:
        """All that `phin evaluate` finds, drawn as the model is by itself; or why not, under `none`."""

        def quality(model: Model, n: int, seed: int, reference: str) -> dict[str, Any]:
            known = {"n": n, **costs(model, self.reference.data), **active(model, self.reference.data)}
            try:
                return pictures.evaluate(model, self.reference, bar=self._bar(model)).figures | known
            except PhinError as reason:  # all else has been seen to, so that it can only be what it draws
                return {"none": str(reason), **known, "sampling": Drawing(model, seed).facts}

        return subject.measure(quality, **_asked(self.reference))

    def likelihood(self, subject: Subject) -> dict[str, Any]:
        """Bits a dimension as `phin nll` measures them; or why there are none, under `none`."""

        def likelihood(model: Model, n: int, seed: int) -> dict[str, Any]:
            with self._bar(model)(n, "measuring") as done:
                return nll(model, n=n, seed=seed, watch=done)

        try:
            return subject.measure(likelihood, n=self.images, seed=self.plan.seed)
        except PhinError as reason:  # what is asked for is fixed, so that it can only be the kind of model
            return {"none": str(reason)}

    def point(self, subject: Subject, **choices: Any) -> dict[str, Any]:
        """A point of a curve: the Frechet distance, what is read right, and how fast it was drawn.

        Or why there is none, under `none`: a model that draws but one picture must not end a comparison.
        """

        def point(model: Model, n: int, seed: int, reference: str, **choices: Any) -> dict[str, Any]:
            known = {"n": n, "calls": calls(model, choices)}
            try:
                found = pictures.evaluate(model, self.fewer, bar=self._bar(model), **choices).figures
            except PhinError as reason:
                return {"none": str(reason), **known}
            kept = {name: found[name] for name in ("label", "pictures_per_second") if name in found}
            return {**kept, **known, "frechet": found["measures"]["frechet"]}

        return subject.measure(point, **_asked(self.fewer), **choices)

    def _bar(self, model: Model) -> Bar:
        """That says of whom."""
        return lambda total, doing: self.bar(total, f"{doing} {model.metadata['name']}")

    def by_calls(self, subject: Subject) -> list[dict[str, Any]]:
        """Quality by network calls: along the ladder, and in the model's own steps; of others, one point."""
        config = models.configured(subject.model, {})
        if config is None:
            return [self.point(subject)]
        steps = sorted({*self.plan.ladder, config.steps})
        return [{"steps": some, **self.point(subject, steps=some)} for some in steps]

    def by_time(self, folder: Path) -> list[dict[str, Any]]:
        """Quality of the averaged weights over time: of the copies that a training has left."""
        points: list[dict[str, Any]] = []
        for path in copies(folder):
            model = untuned(models.load(path))
            state = model.metadata["training"]["state"]
            point = self.point(Subject(model, path.with_suffix(".json")))
            points.append({name: state[name] for name in ("step", "seconds", "examples")} | point)
        return points


def untuned(model: Model) -> Model:
    """As its recipe draws: what `phin tune` found of some would be no figure of the family."""
    return replace(model, tuned=())


def calls(model: Model, choices: dict[str, Any]) -> int:
    """Passes of the network that a picture takes, counted; guidance may make two an evaluation."""
    if not isinstance(model.net, Denoiser):
        return 1
    passed: list[int] = []
    hook = model.net.net.register_forward_pre_hook(lambda net, given: passed.append(len(given[0])))
    try:
        models.samples(model, labels=[0] if model.facts.classes else None, **choices)
    finally:
        hook.remove()
    return sum(passed)


def _asked(reference: Reference) -> dict[str, Any]:
    """What figures by a reference depend on: its pictures, and what looks at them."""
    found = reference.digest
    if isinstance(reference.features, Reader):
        found = sha256(f"{found} {digest(reference.features.net)}".encode()).hexdigest()
    by = f"{reference.features.name} {found[:16]}"
    return {"n": reference.n, "seed": reference.plan.seed, "reference": by}
