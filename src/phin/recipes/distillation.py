"""Distillation: recipes of models that draw in one or two calls, made of a trained one."""

import abc
import math
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Any, ClassVar

from phin.diffusion.distill import METRICS
from phin.diffusion.level import SCALINGS
from phin.diffusion.schedules import SCHEDULES
from phin.diffusion.solvers import SOLVERS
from phin.errors import PhinError
from phin.registry import build
from phin.sampling import SampleConfig
from phin.training.config import TrainConfig

if TYPE_CHECKING:  # what only training needs is imported when a training starts
    from phin.diffusion.denoiser import Denoiser
    from phin.recipes.base import Facts
    from phin.recipes.diffusion import DiffusionRecipe
    from phin.training.denoising import Denoising
    from phin.training.loop import Task

TRAIN = TrainConfig(minutes=60, batch=64)
"""How a student is trained when nobody chooses."""


@dataclass(frozen=True)
class Distillation(abc.ABC):
    """What a distilled model is made of, in how many calls it draws, and at which levels."""

    teacher: str = "numbers"
    """The model it is made of: the name of one that comes with phin, the folder of a run, or a file."""
    guidance: float = 1.5
    """The guidance that is in its weights, and costs no further calls."""
    calls: int = 2
    """Calls of the network a picture, at most."""
    first: float = -9.0
    """Log-SNR of the first call."""
    middle: float = -1.0
    """Log-SNR half-way: of two calls, that of the second."""
    null: bool = False
    """Whether it learns to draw without its condition, too: of the recipe's `drop` of the examples."""

    solver: ClassVar[str]
    """How it is sampled."""

    def __post_init__(self) -> None:
        if self.calls < 1:
            raise PhinError(f"calls = {self.calls}: at least 1 is needed")
        if not abs(self.guidance) <= 1000:
            raise PhinError(f"guidance = {self.guidance}: give a number from -1000 to 1000, such as 1.5")
        if not -math.inf < self.first < self.middle < math.inf:
            raise PhinError(
                f"middle = {self.middle}: the log-SNR of the second call must be above that of the first, "
                f"{self.first}"
            )

    def rungs(self, calls: int) -> list[float]:
        """The log-SNRs of so many calls, from noise on, equally spaced: half as many are among them."""
        rise = 2 * (self.middle - self.first)
        return [self.first + rise * i / calls for i in range(calls)]

    @property
    def asked(self) -> int:
        """At how many rungs the student or its teacher is asked, at most."""
        return self.calls

    @property
    @abc.abstractmethod
    def supported(self) -> tuple[int, ...]:
        """The numbers of calls in which it can draw."""

    @abc.abstractmethod
    def task(self, denoising: "Denoising", teacher: "Denoiser", sampling: SampleConfig) -> "Task":
        """What the training loop trains.

        Args:
            denoising: The training of the student on the data, were it not distilled.
            teacher: The teacher.
            sampling: How the teacher is sampled, with the guidance that the student learns.
        """

    def sampler(self, calls: int) -> dict[str, Any]:
        """The fields of `SampleConfig` that so many calls need."""
        levels = ", ".join(f"{level:g}" for level in reversed(self.rungs(max(calls, 2))))
        grid = f"knots({levels})"  # of two levels, a ladder of one is the noisier
        return {"steps": calls, "solver": self.solver, "guidance": self.guidance, "grid": grid}

    def chosen(self, path: object, config: SampleConfig, choices: Mapping[str, Any]) -> SampleConfig:
        """How the model is sampled with these choices.

        Raises:
            PhinError: It was not distilled for one of them.
        """
        calls = choices.get("steps", config.steps)
        if calls not in self.supported:
            known = " or ".join(map(str, self.supported))
            raise PhinError(f"{path} is distilled to draw in {known} steps, not in {calls}: give {known}")
        own = self.sampler(calls)
        if choices.get("guidance", self.guidance) != self.guidance:
            raise PhinError(
                f"{path} is distilled at guidance {self.guidance:g}, not at {choices['guidance']:g}: leave "
                f"guidance out, or distill {self.teacher} anew"
            )
        for name in ("solver", "grid"):
            if choices.get(name, own[name]) != own[name]:
                raise PhinError(
                    f"{path} is distilled for {name} {own[name]}, not {choices[name]}: leave it out"
                )
        return replace(config, **{**choices, **own})


@dataclass(frozen=True)
class Consistency(Distillation):
    """Every call says where the path of the ODE ends; between two calls, the picture is noised anew."""

    walk: int = 4
    """Evaluations of the teacher between two levels of the student."""
    walker: str = "dpmpp_2m"
    """The solver by which it walks."""
    metric: str = "pseudo_huber(0.03)"
    """How far answers are apart: pseudo_huber(0.03), charbonnier(0.03), squared."""
    reuse: int = 4
    """How often each walk is learned from."""

    solver: ClassVar[str] = "consistency"

    def __post_init__(self) -> None:
        super().__post_init__()
        build(self.walker, SOLVERS, "solver")
        build(self.metric, METRICS, "metric")
        for name in ("walk", "reuse"):
            if (value := getattr(self, name)) < 1:
                raise PhinError(f"{name} = {value}: at least 1 is needed")

    @property
    def supported(self) -> tuple[int, ...]:
        """Those whose levels it knows: the divisors of its calls."""
        return tuple(n for n in range(1, self.calls + 1) if self.calls % n == 0)

    def task(self, denoising: "Denoising", teacher: "Denoiser", sampling: SampleConfig) -> "Task":
        from phin.training.distilling import ConsistencyDistilling

        solver, metric = build(self.walker, SOLVERS, "solver"), build(self.metric, METRICS, "metric")
        rungs = self.rungs(self.calls)
        return ConsistencyDistilling(
            denoising, teacher, sampling, rungs, self.null, self.walk, solver, metric, self.reuse
        )


@dataclass(frozen=True)
class Tuning(Distillation):
    """Consistency, learned at all levels from pairs of neighbours that draw nearer to each other."""

    density: str = "lognormal(mean=-1.1, std=2.0)"
    """Schedule whose levels, at uniform times from the first call's to the clean end, are learned."""
    metric: str = "pseudo_huber(0.00054)"
    """How far answers are apart: pseudo_huber(0.00054), charbonnier(0.03), squared."""
    q: float = 2.0
    """By how much the gap between two neighbours shrinks from stage to stage."""
    stages: int = 8
    """Equal parts of the budget."""

    solver: ClassVar[str] = "consistency"

    def __post_init__(self) -> None:
        super().__post_init__()
        build(self.density, SCHEDULES, "schedule", SCALINGS)
        build(self.metric, METRICS, "metric")
        if not 1 < self.q < math.inf:
            raise PhinError(f"q = {self.q}: a gap that shrinks needs more than 1, such as 2")
        if self.stages < 1:
            raise PhinError(f"stages = {self.stages}: at least 1 is needed")

    @property
    def supported(self) -> tuple[int, ...]:
        """All up to its calls: it knows every level."""
        return tuple(range(1, self.calls + 1))

    def task(self, denoising: "Denoising", teacher: "Denoiser", sampling: SampleConfig) -> "Task":
        from phin.training.distilling import ConsistencyTuning

        density = build(self.density, SCHEDULES, "schedule", SCALINGS)
        metric, rungs = build(self.metric, METRICS, "metric"), self.rungs(self.calls)
        return ConsistencyTuning(
            denoising, teacher, sampling, rungs, self.null, density, metric, self.q, self.stages
        )


@dataclass(frozen=True)
class Progressive(Distillation):
    """Every step of DDIM lands where two of the teacher land; and again, until there are so few."""

    start: int | None = None
    """Steps of DDIM that the teacher takes: its calls, doubled several times; None is until there are 16."""

    solver: ClassVar[str] = "ddim"

    def __post_init__(self) -> None:
        super().__post_init__()
        times = math.log2(max(self.steps / self.calls, 1))
        if not (times >= 1 and times.is_integer()):
            raise PhinError(
                f"start = {self.start}: {self.calls} calls are halved out of {2 * self.calls}, "
                f"{4 * self.calls}, {8 * self.calls}, ... steps: give one of these"
            )

    @property
    def steps(self) -> int:
        """Steps of DDIM that the teacher takes."""
        if self.start is not None:
            return self.start
        return self.calls * 2 ** max(1, math.ceil(math.log2(16 / self.calls)))

    @property
    def asked(self) -> int:
        return self.steps

    @property
    def stages(self) -> int:
        """How often the steps are halved."""
        return round(math.log2(self.steps / self.calls))

    @property
    def supported(self) -> tuple[int, ...]:
        """Its calls, and no other number: what a step says depends on where it leads."""
        return (self.calls,)

    def task(self, denoising: "Denoising", teacher: "Denoiser", sampling: SampleConfig) -> "Task":
        from phin.training.distilling import ProgressiveDistilling

        rungs, last = self.rungs(self.calls), 2 * self.middle - self.first
        return ProgressiveDistilling(denoising, teacher, sampling, rungs, self.null, last, self.stages)


def student(
    source: str,
    method: str = "consistency",
    guidance: float | None = None,
    train: TrainConfig = TRAIN,
    **options: Any,
) -> "DiffusionRecipe":
    """The recipe of a student of a trained model, for `train`.

    Args:
        source: The teacher: the name of a model that comes with phin, the folder of a run, or a file.
        method: A name of `DISTILLATIONS`.
        guidance: The scale that the student is to have; the teacher's own by default.
        train: How it is trained.
        options: Fields of the method, such as calls and middle.

    Raises:
        PhinError: There is no such model or method, it is no diffusion model, is distilled already, or has no
            conditions to be guided by; an option that the method does not have.
    """
    if method not in DISTILLATIONS:
        raise PhinError(f"unknown method {method!r}; there are {', '.join(DISTILLATIONS)}")
    kind = DISTILLATIONS[method]
    known = [field.name for field in fields(kind)]
    if unknown := options.keys() - set(known):
        raise PhinError(f"method {method} has no {min(unknown)}; it has {', '.join(known)}")
    _, recipe, facts = taught(source)
    scale = recipe.sample.guidance if guidance is None else guidance
    told = recipe.told(facts)
    null = told and recipe.drop > 0
    if scale != 1 and not null:
        if guidance is not None:
            why = (
                "never learned to do without its condition" if told else "is told nothing that could guide it"
            )
            raise PhinError(f"{source} {why}: leave guidance {guidance:g} out")
        scale = 1.0
    first, end = replace(recipe.sample, steps=2).levels().log_snr.tolist()
    distilled = kind(teacher=source, guidance=scale, **{"first": round(first, 3), "null": null, **options})
    if (last := distilled.rungs(distilled.asked)[-1]) >= end:
        raise PhinError(
            f"middle = {distilled.middle:g}: the last call would be at log-SNR {last:g}, and the ladder of "
            f"{source} ends at {end:g}; give a lower one"
        )
    sample = replace(recipe.sample, **distilled.sampler(distilled.calls))
    return replace(recipe, distilled=distilled, train=train, sample=sample, lessons=0)


def taught(source: str) -> "tuple[Denoiser, DiffusionRecipe, Facts]":
    """A teacher, its recipe, and what it knows of its data.

    Raises:
        PhinError: There is none, it is no diffusion model, or is distilled itself.
    """
    from phin.diffusion.denoiser import Denoiser
    from phin.recipes.diffusion import DiffusionRecipe
    from phin.recipes.trained import load  # which knows how all recipes' models are made

    model = load(source)
    if not isinstance(model.net, Denoiser) or not isinstance(model.recipe, DiffusionRecipe):
        raise PhinError(
            f"{source} is a {model.metadata['family']}, and no diffusion model to distill; give one, such as "
            "numbers"
        )
    if model.recipe.distilled is not None:
        raise PhinError(f"{source} is distilled already: give its teacher, {model.recipe.distilled.teacher}")
    return model.net, model.recipe, model.facts


DISTILLATIONS: dict[str, type[Distillation]] = {
    "consistency": Consistency,
    "tuning": Tuning,
    "progressive": Progressive,
}
"""Name -> its recipe."""
