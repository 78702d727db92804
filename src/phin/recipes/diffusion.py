"""Diffusion models."""

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from phin.data.base import Data
from phin.diffusion.decoder import DECODERS
from phin.diffusion.denoiser import Denoiser
from phin.diffusion.level import SCALINGS
from phin.diffusion.losses import TIMES
from phin.diffusion.objectives import OBJECTIVES, ChainBound, ContinuousBound, Hybrid, Objective
from phin.diffusion.parameterization import PARAMETERIZATIONS, edm
from phin.diffusion.schedules import SCHEDULES, Discrete
from phin.diffusion.weights import WEIGHTS
from phin.errors import PhinError
from phin.nets.mlp import MLP, MLPConfig
from phin.nets.posterior import Posterior
from phin.nets.unet import UNet, UNetConfig
from phin.recipes.base import Facts, Recipe, finite
from phin.registry import build
from phin.sampling import SampleConfig
from phin.training.config import TrainConfig

if TYPE_CHECKING:  # what only training needs is imported when a training starts
    from phin.training.loop import Task


@dataclass(frozen=True)
class DiffusionRecipe(Recipe):
    """A diffusion model."""

    data: str = "mnist"
    """Data set, such as mnist, numbers or folder:PATH; `phin data list` shows all."""
    net: UNetConfig | MLPConfig = UNetConfig()
    """The network."""
    parameterization: str = "v"
    """What the network predicts: x, eps, v, score, flow, edm(0.5), mean."""
    density: str = "cosine"
    """Schedule whose levels, at uniform times, the model is trained at; discrete(linear) is DDPM's chain."""
    weight: str = "snr_plus_one"
    """How the noise's squared error counts by level: simple, snr_plus_one, min_snr(5), sigmoid(2), ..."""
    objective: str = "simple"
    """What is lowered: simple, that error; on a chain, bound (the likelihood's) or hybrid(0.001) of both;
    continuous_bound, VDM's, by which a learned density is learned."""
    times: str = "uniform"
    """How times are drawn: uniform, or importance(1000), more often where losses are large."""
    learn_variance: bool = False
    """Whether the reverse variance is learned, too, by objective hybrid or bound."""
    drop: float = 0.1
    """Share of examples trained without their condition, for classifier-free guidance; 1 makes a model of
    the data as a whole, which takes no condition."""
    train: TrainConfig = TrainConfig(minutes=10)
    sample: SampleConfig = SampleConfig()

    def __post_init__(self) -> None:
        build(self.parameterization, PARAMETERIZATIONS, "parameterization", SCALINGS, SCHEDULES)
        density = build(self.density, SCHEDULES, "schedule", SCALINGS)
        weight = build(self.weight, WEIGHTS, "weight", SCALINGS, SCHEDULES)
        if not finite(density, weight):
            raise PhinError(
                f"weight {self.weight} at density {self.density} is infinite or 0 at some level, in float32; "
                "take another weight, or less distant ends"
            )
        build(self.times, TIMES, "times")
        objective = self._objective()
        by_chain = isinstance(objective, ChainBound | Hybrid)
        if by_chain and not (isinstance(density, Discrete) and density.T >= 2):
            raise PhinError(
                f"objective {self.objective} is of a chain of at least 2 steps, and density {self.density} "
                "is none: take a density such as discrete(cosine)"
            )
        continuous = isinstance(objective, ContinuousBound)
        if continuous and isinstance(density, Discrete):
            raise PhinError(
                f"objective {self.objective} is of continuous time, and density {self.density} is a chain: "
                "take the density that it was made of, or objective bound"
            )
        if not continuous and any(True for _ in density.parameters()):
            raise PhinError(
                f"density {self.density} is learned by objective continuous_bound, and by {self.objective} "
                "it would flee to where errors are small: take that objective, or another density"
            )
        if self.learn_variance and not by_chain:
            raise PhinError(
                f"objective {self.objective} does not train the variance: take hybrid or bound, or do not "
                "learn it"
            )
        if isinstance(objective, Hybrid) and not self.learn_variance:
            raise PhinError(
                f"objective {self.objective} is for a learned variance: give learn_variance, or take simple"
            )
        if not 0 <= self.drop <= 1:
            raise PhinError(f"drop is a share, from 0 to 1, not {self.drop}")

    def facts(self, data: Data) -> Facts:
        """What the model has to know of its data."""
        return Facts.of(data).unconditional() if self.drop == 1 else Facts.of(data)

    def _objective(self) -> Objective:
        return build(self.objective, OBJECTIVES, "objective", parts=DECODERS)

    def model(self, facts: Facts) -> Denoiser:
        """The untrained model."""
        channels, *sides = facts.shape
        values = self.net.values if isinstance(self.net, UNetConfig) else 0
        if values and (self.parameterization != "x" or self.learn_variance or not facts.eight_bit):
            raise PhinError(
                f"net.values = {values} is for 8-bit images, parameterization x and a fixed variance: "
                "give 256 and those, or 0"
            )
        outputs = channels * (values or 1 + self.learn_variance)
        if isinstance(self.net, MLPConfig):
            if sides:
                raise PhinError(f"an MLP needs vectors, and {self.data} has pictures: take a U-Net's recipe")
            net = MLP(self.net, channels, facts.classes, outputs)
        elif sides:
            net = UNet(
                self.net,
                channels,
                outputs,
                dims=len(sides),
                classes=facts.classes,
                vocabulary=facts.vocabulary,
            )
            net.check(sides)
        else:
            raise PhinError(
                f"a U-Net needs pictures, and {self.data} has vectors of {channels} numbers: take an MLP"
            )
        param = build(self.parameterization, PARAMETERIZATIONS, "parameterization", SCALINGS, SCHEDULES)
        sigma_data = param.sigma_data if isinstance(param, edm) else 1.0
        density = build(self.density, SCHEDULES, "schedule", SCALINGS)
        schedule = density if any(True for _ in density.parameters()) else None
        net = Posterior(net, values) if values else net
        return Denoiser(net, param, self.learn_variance, sigma_data, schedule)

    def task(self, data: Data) -> "Task":
        """What the training loop trains: the untrained model, on the data."""
        from phin.training.denoising import Denoising

        model = self.model(self.facts(data))
        density = build(self.density, SCHEDULES, "schedule", SCALINGS)
        weight = build(self.weight, WEIGHTS, "weight", SCALINGS, SCHEDULES)
        objective = self._objective()
        likely = isinstance(objective, ChainBound | Hybrid | ContinuousBound)
        if likely and objective.decoder is None and not data.eight_bit:
            raise PhinError(
                f"objective {self.objective} ends in the probability of 8-bit images, and {self.data} has "
                f"none: give it a density to end in, as in {self.objective.split('(')[0]}(decoder=gaussian)"
            )
        return Denoising(
            model,
            data,
            density,
            weight,
            self.drop,
            self.train.batch,
            self.train.seed,
            preview=self.sample,
            objective=objective,
            times=build(self.times, TIMES, "times"),
        )


_POINTS = DiffusionRecipe(
    data="swiss-roll",
    net=MLPConfig(),
    train=TrainConfig(minutes=1, batch=1024),
    sample=SampleConfig(steps=50, threshold="none"),
)

_DDPM = DiffusionRecipe(
    data="mnist",
    parameterization="eps",
    density="discrete(linear)",
    weight="simple",
    sample=SampleConfig(solver="ddpm", steps=50, guidance=1.0, grid="discrete(linear)"),
)
# Denoising score matching with the weight sigma²: a network that predicts eps is -sigma times a score.
_SCORE = replace(_DDPM, density="linear", sample=SampleConfig(steps=20, guidance=1.0, grid="linear"))

NUMBERS = DiffusionRecipe(data="numbers", train=TrainConfig(minutes=10, batch=64, lr=2e-3))

recipes: dict[str, Recipe] = {
    "numbers": NUMBERS,
    "mnist": DiffusionRecipe(data="mnist"),
    "mnist-ddpm": _DDPM,
    "mnist-improved-ddpm": replace(
        _DDPM,
        density="discrete(cosine)",
        objective="hybrid",
        learn_variance=True,
        sample=replace(_DDPM.sample, grid="discrete(cosine)"),
    ),
    "mnist-score-vp": _SCORE,
    "mnist-score-ve": replace(
        _SCORE,
        density="geometric",
        sample=replace(_SCORE.sample, grid="karras(sigma_min=0.01, sigma_max=50)"),
    ),
    "mnist-score-subvp": replace(
        _SCORE, density="linear_subvp", sample=replace(_SCORE.sample, grid="linear_subvp")
    ),
    "mnist-vdm": DiffusionRecipe(
        data="mnist",
        net=UNetConfig(fourier=(5, 6, 7), values=256),
        parameterization="x",
        density="learned",
        objective="continuous_bound",
        drop=1.0,
        train=TrainConfig(minutes=60, batch=64, lr=3e-3),
        sample=SampleConfig(steps=50, guidance=1.0, grid="cosine"),
    ),
    "fashion-mnist": DiffusionRecipe(data="fashion-mnist"),
    "cifar10": DiffusionRecipe(data="cifar10", train=TrainConfig(minutes=60)),
    "digits": DiffusionRecipe(
        data="digits", net=UNetConfig(channels=(64, 128)), train=TrainConfig(minutes=2)
    ),
    "images": DiffusionRecipe(data="folder:PATH", train=TrainConfig(minutes=60)),
    "swiss-roll": _POINTS,
    "eight-gaussians": replace(_POINTS, data="eight-gaussians"),
    "checkerboard": replace(_POINTS, data="checkerboard"),
    "moons": replace(_POINTS, data="moons"),
}
