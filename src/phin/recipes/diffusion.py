"""Diffusion models."""

import re
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from phin.data.base import Data
from phin.data.degraded import DEGRADATIONS, Degradation, Degraded
from phin.data.encoded import Encoded, pixels
from phin.data.words import Words
from phin.diffusion.decoder import DECODERS
from phin.diffusion.denoiser import Denoiser
from phin.diffusion.level import SCALINGS
from phin.diffusion.losses import TIMES
from phin.diffusion.objectives import OBJECTIVES, ChainBound, ContinuousBound, Hybrid, Objective
from phin.diffusion.parameterization import PARAMETERIZATIONS, edm
from phin.diffusion.schedules import SCHEDULES, Discrete
from phin.diffusion.weights import WEIGHTS
from phin.errors import PhinError
from phin.families.latent import LatentDenoiser, Latents
from phin.families.likelihood import LIKELIHOODS
from phin.nets.ddpm_unet import DDPMUNet, DDPMUNetConfig
from phin.nets.mlp import MLP, MLPConfig
from phin.nets.posterior import Posterior
from phin.nets.unet import UNet, UNetConfig
from phin.recipes.base import Facts, Recipe, finite
from phin.recipes.distillation import Consistency, Progressive, Tuning, taught
from phin.recipes.latent import encoded
from phin.registry import build
from phin.sampling import SampleConfig
from phin.training.config import TrainConfig

if TYPE_CHECKING:  # what only training needs is imported when a training starts
    from phin.training.loop import Task

IN_LATENTS = "--sample.threshold none --net.patch 1 --net.channels 128 --net.attention True"
"""Options by which a recipe of pixels fits latents of any size: one resolution, their own."""


@dataclass(frozen=True)
class DiffusionRecipe(Recipe):
    """A diffusion model."""

    data: str = "mnist"
    """Data set, such as mnist, numbers or folder:PATH; `phin data list` shows all."""
    net: UNetConfig | MLPConfig | DDPMUNetConfig = UNetConfig()
    """The network."""
    autoencoder: str | None = None
    """Run of an autoencoder, such as runs/mnist-autoencoder, in whose latents the model is to live; or None,
    in pixels."""
    parameterization: str = "v"
    """What the network predicts: x, eps, v, score, flow, edm(0.5), mean."""
    density: str = "cosine"
    """Schedule whose levels, at uniform times, the model is trained at; discrete(linear) is DDPM's chain."""
    weight: str = "snr_plus_one"
    """How the noise's squared error counts by level: simple, snr_plus_one, min_snr(5), sigmoid(2), ..."""
    objective: str = "simple"
    """What is lowered: simple, that error; on a chain, bound (the likelihood's) or hybrid(0.001) of both;
    continuous_bound, VDM's, by which a learned density is learned."""
    lessons: int = 0
    """Of data with prompts in words: further prompts for each picture, by which the network learns to read,
    too (`Lessons`)."""
    times: str = "uniform"
    """How times are drawn: uniform, or importance(1000), more often where losses are large."""
    learn_variance: bool = False
    """Whether the reverse variance is learned, too, by objective hybrid or bound."""
    degrade: str | None = None
    """Image to image: what is given of each picture. average(4), its means over 4 x 4 pixels, for
    super-resolution; hide, all but a random box, for inpainting; or None, nothing."""
    labels: bool = True
    """Image to image: whether the model is told the labels, too, of data that have any."""
    drop: float = 0.1
    """Share of examples trained without their condition, for classifier-free guidance; 1 makes a model of
    the data as a whole, which takes no condition."""
    flip: bool = False
    """Mirror every second training picture, left and right. Never for digits or text."""
    dequantize: bool = False
    """Train on images of 8 bits with uniform noise as wide as their steps: for likelihoods by the ODE."""
    measure: int = 0
    """Pictures that each validation draws and measures; 0 is none."""
    features: str | None = None
    """What looks at those: digit-reader, fashion-reader, inception, a file of Inception's weights (.pth), or
    the run of a classifier; None is what the data set has."""
    distilled: Consistency | Tuning | Progressive | None = None
    """What it is distilled from, and how; None is trained on the data alone (`phin distill`)."""
    train: TrainConfig = TrainConfig(minutes=10, batch=64, lr=3e-3)
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
        exact = (by_chain or continuous) and not re.search(r"\bgaussian\b", self.objective)
        if self.dequantize and (exact or self._values):
            what = f"objective {self.objective}" if exact else f"net.values = {self._values}"
            raise PhinError(
                f"{what} needs the very values of 8-bit images, and dequantize spreads them: take objective "
                "simple and net.values 0, or do not dequantize"
            )

        if self.lessons < 0:
            raise PhinError(f"lessons must not be negative, but is {self.lessons}")
        if self.autoencoder:
            self._check_latent()
        if self.degradation is not None and self.drop == 1:
            raise PhinError(f"degrade {self.degrade} is what the model is told, and drop 1 tells nothing")
        if self.degradation is not None and self.labels and self.drop >= 0.5:
            raise PhinError(
                f"drop {self.drop} beside degrade leaves out twice as many labels, which is all: give less, "
                "or no labels"
            )
        if self.degradation is None and not self.labels:
            raise PhinError(
                "labels are left out beside degrade; for a model that is told nothing, give drop 1"
            )

    def _check_latent(self) -> None:
        """What is of pixels alone."""
        if self.sample.threshold != "none":
            raise PhinError(
                f"sample.threshold {self.sample.threshold} keeps pixels in their range, and latents have "
                f"none: give none, as in {IN_LATENTS}"
            )
        if self.flip:
            raise PhinError("flip mirrors pictures, and a mirrored latent is not that of one: leave it out")
        if self._values:
            raise PhinError(
                f"net.values = {self._values} is for 8-bit images, not for latents: give 0, and, to an "
                "objective that is a bound, a density to end in, as in continuous_bound(decoder=gaussian)"
            )
        if self.degrade:
            raise PhinError(f"degrade {self.degrade} is of pixels, not of latents: leave one of the two out")

    @property
    def degradation(self) -> Degradation | None:
        """What is left of the pictures that the model begins from; None where it begins from nothing."""
        return build(self.degrade, DEGRADATIONS, "degradation") if self.degrade else None

    def load(self) -> Data:
        """The data set, with what is given of its pictures, or in the latents of the autoencoder if any."""
        data = super().load()
        if self.degradation is not None:
            return Degraded(data, self.degradation, self.labels)
        return encoded(data, self.autoencoder) if self.autoencoder else data

    def facts(self, data: Data) -> Facts:
        """What the model has to know of its data."""
        return Facts.of(data).unconditional() if self.drop == 1 else Facts.of(data)

    def told(self, facts: Facts) -> bool:
        """Whether the model is told anything of what it is to draw."""
        return bool(facts.classes or facts.vocabulary or facts.alphabet or self.degrade)

    @property
    def _values(self) -> int:
        return self.net.values if isinstance(self.net, UNetConfig) else 0

    def _objective(self) -> Objective:
        return build(self.objective, OBJECTIVES, "objective", parts=DECODERS)

    def model(self, facts: Facts) -> Denoiser:
        """The untrained model."""
        space = _space(facts)
        channels, *sides = facts.shape if space is None else space.shape(facts.shape)
        values = self._values
        if values and (self.parameterization != "x" or self.learn_variance or not facts.eight_bit):
            raise PhinError(
                f"net.values = {values} is for 8-bit images, parameterization x and a fixed variance: "
                "give 256 and those, or 0"
            )
        outputs = channels * (values or 1 + self.learn_variance)
        density = build(self.density, SCHEDULES, "schedule", SCALINGS)
        if isinstance(self.net, MLPConfig):
            if sides:
                raise PhinError(f"an MLP needs vectors, and {self.data} has pictures: take a U-Net's recipe")
            net = MLP(self.net, channels, facts.classes, outputs)
        elif isinstance(self.net, DDPMUNetConfig):
            if self.told(facts):
                raise PhinError(
                    f"DDPM's U-Net takes no condition, and {self.data} has one: give drop 1 or another net"
                )
            net = DDPMUNet(self.net, channels, outputs, density if isinstance(density, Discrete) else None)
            net.check(sides)
        elif sides:
            net = UNet(
                self.net,
                channels,
                outputs,
                dims=len(sides),
                classes=facts.classes,
                vocabulary=facts.vocabulary,
                characters=len(facts.alphabet.characters) if facts.alphabet else 0,
                image_channels=channels + 1 if self.degrade else 0,
            )
            try:
                net.check(sides)
            except PhinError as error:
                raise error if space is None else PhinError(f"latents: {error}: {IN_LATENTS}") from None
        else:
            raise PhinError(
                f"a U-Net needs pictures, and {self.data} has vectors of {channels} numbers: take an MLP"
            )
        param = build(self.parameterization, PARAMETERIZATIONS, "parameterization", SCALINGS, SCHEDULES)
        sigma_data = param.sigma_data if isinstance(param, edm) else 1.0
        schedule = density if any(True for _ in density.parameters()) else None
        net = Posterior(net, values) if values else net
        arguments = net, param, self.learn_variance, sigma_data, schedule
        model = Denoiser(*arguments) if space is None else LatentDenoiser(space, *arguments)
        model.guidance = self.distilled.guidance if self.distilled else None
        return model

    def task(self, data: Data) -> "Task":
        """What the training loop trains: the untrained model, on the data."""
        from phin.recipes.features import measuring
        from phin.training.denoising import Denoising
        from phin.training.lessons import Lessons

        facts = self.facts(data)
        if self.told(facts) and not self.drop and self.sample.guidance != 1 and not self.distilled:
            raise PhinError(
                f"sample.guidance {self.sample.guidance:g} needs a model that can do without its condition, "
                "which none learns at drop 0: give sample.guidance 1, or drop 0.1"
            )
        model = self.model(facts)
        if isinstance(model, LatentDenoiser):
            assert isinstance(data, Encoded)
            assert isinstance(data.encoder, Latents)
            model.space.load_state_dict(data.encoder.state_dict())
        density = build(self.density, SCHEDULES, "schedule", SCALINGS)
        weight = build(self.weight, WEIGHTS, "weight", SCALINGS, SCHEDULES)
        objective = self._objective()
        likely = isinstance(objective, ChainBound | Hybrid | ContinuousBound)
        if likely and objective.decoder is None and not data.eight_bit:
            raise PhinError(
                f"objective {self.objective} ends in the probability of 8-bit images, and {self.data} has "
                f"none: give it a density to end in, as in {self.objective.split('(')[0]}(decoder=gaussian)"
            )
        text = bool(data.vocabulary) or isinstance(pixels(data), Words)
        if self.flip and (len(data.shape) != 3 or text):
            has = "text in its pictures" if text else "no pictures"
            raise PhinError(f"flip mirrors pictures, left and right, and {self.data} has {has}: leave it out")
        if self.dequantize and not data.eight_bit:
            raise PhinError(
                f"dequantize spreads the values of 8-bit images, and {self.data} has none: leave it out"
            )
        denoising = Denoising(
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
            flip=self.flip,
            measure=measuring(pixels(data), self.measure, told=self.drop < 1, source=self.features),
            dequantize=self.dequantize,
        )
        if self.distilled:
            teacher, recipe, known = taught(self.distilled.teacher)
            if (recipe.net, known) != (self.net, facts):
                raise PhinError(
                    f"{self.distilled.teacher} is another network than this, or of other data than "
                    f"{self.data}: make the recipe of a student by `phin distill`"
                )
            model.load_state_dict(teacher.state_dict())
            sampling = replace(recipe.sample, guidance=self.distilled.guidance)
            return self.distilled.task(denoising, teacher, sampling)
        if not self.lessons:
            return denoising
        words = pixels(data)
        if not isinstance(words, Words):
            raise PhinError(f"lessons are of prompts in words, and {self.data} has none: give 0")
        return Lessons(denoising, words, self.lessons)


def _space(facts: Facts) -> Latents | None:
    """The latents that a model lives in, untrained; None is pixels."""
    if facts.latents is None:
        return None
    likelihood = build(facts.latents.likelihood, LIKELIHOODS, "likelihood")
    return Latents(facts.latents.net.build(facts.shape, likelihood), facts.latents)


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
_DDIM = replace(_DDPM, sample=replace(_DDPM.sample, solver="ddim"))  # the same model, drawn so
# Denoising score matching with the weight sigma²: a network that predicts eps is -sigma times a score.
_SCORE = replace(_DDPM, density="linear", sample=SampleConfig(steps=20, guidance=1.0, grid="linear"))

# Straight paths and their velocity. The weight, of the noise's error, makes it the velocity's squared error.
_FLOW = DiffusionRecipe(
    data="mnist",
    parameterization="flow",
    density="flow",
    weight="flow",
    sample=SampleConfig(solver="euler", steps=50, guidance=1.0, grid="flow"),
)
_VDM = DiffusionRecipe(
    data="mnist",
    net=UNetConfig(fourier=(5, 6, 7), values=256),
    parameterization="x",
    density="learned",
    objective="continuous_bound",
    drop=1.0,
    train=TrainConfig(minutes=60, batch=64, lr=3e-3),
    sample=SampleConfig(steps=50, guidance=1.0, grid="cosine"),
)
_CIFAR10 = DiffusionRecipe(
    data="cifar10",
    net=UNetConfig(channels=(96, 192, 192), attention=(False, True, True)),
    flip=True,
    train=TrainConfig(minutes=90, batch=64),
    sample=SampleConfig(steps=20),
)


def _of_cifar10(recipe: DiffusionRecipe) -> DiffusionRecipe:
    """A recipe of MNIST with the size, the budget and the mirrored pictures of `cifar10-small`."""
    assert isinstance(recipe.net, UNetConfig)
    net = replace(recipe.net, channels=(96, 192, 192), attention=(False, True, True))
    return replace(recipe, data="cifar10", net=net, flip=True, train=_CIFAR10.train)


# Latents of 7 x 7 have no lower resolution; what a pixel's network does there, this one does at its own.
_LATENT = DiffusionRecipe(
    data="mnist",
    net=UNetConfig(channels=(128,), blocks=5, patch=1, attention=(True,)),
    autoencoder="runs/mnist-autoencoder",
    sample=SampleConfig(threshold="none"),
)

# What is known of a picture says more than its label, and needs no guidance.
_SUPERRES = DiffusionRecipe(
    data="mnist", degrade="average(4)", labels=False, sample=SampleConfig(guidance=1.0)
)

_SEQUENCES = DiffusionRecipe(
    data="sines",
    net=UNetConfig(channels=(64, 128)),
    train=TrainConfig(minutes=3, lr=2e-3),
    sample=SampleConfig(steps=20, threshold="none"),
)

NUMBERS = DiffusionRecipe(data="numbers", train=TrainConfig(minutes=10, batch=64, lr=2e-3))

# Appendix B of arXiv:2006.11239; warm-up, clipping and the larger reverse variance are of its published code.
CIFAR10_DDPM = replace(
    _DDPM,
    data="cifar10",
    net=DDPMUNetConfig(),
    drop=1.0,
    flip=True,
    train=TrainConfig(
        steps=800_000,
        batch=128,
        lr=2e-4,
        anneal=False,
        muon=False,
        warmup=5_000 / 800_000,
        betas=(0.9, 0.999),
        ema_decay=0.9999,
        picture_every=0,  # a picture is 1,000 evaluations
    ),
    sample=replace(_DDPM.sample, solver="ddpm_large", steps=1000),
)

recipes: dict[str, Recipe] = {
    "numbers": NUMBERS,
    "mnist": DiffusionRecipe(data="mnist"),
    "mnist-ddpm": _DDPM,
    "mnist-ddim": _DDIM,
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
    # For the likelihood by the ODE. Uniform in log-SNR, the plain error is the likelihood's. At the clean end
    # noise is a fortieth of a grey level: at half of one, a pixel that is always black would cost 0.72 bits.
    # Waves show the network where in its bin a value is. Unless they fade, they make the ODE's field rough.
    "mnist-dequantized": DiffusionRecipe(
        data="mnist",
        net=UNetConfig(fourier=(5, 6, 7, 8, 9, 10), fade=True),
        density="geometric(sigma_min=2e-4, sigma_max=50, scaling=vp)",
        weight="simple",
        dequantize=True,
        drop=1.0,
        train=TrainConfig(minutes=60, batch=64, lr=3e-3),
        sample=SampleConfig(steps=50, guidance=1.0, grid="cosine"),
    ),
    "mnist-vdm": _VDM,
    "mnist-flow": _FLOW,
    "fashion-mnist": DiffusionRecipe(data="fashion-mnist"),
    "fashion-mnist-ddpm": replace(_DDPM, data="fashion-mnist"),
    "fashion-mnist-ddim": replace(_DDIM, data="fashion-mnist"),
    "fashion-mnist-score-vp": replace(_SCORE, data="fashion-mnist"),
    "fashion-mnist-vdm": replace(_VDM, data="fashion-mnist"),
    "fashion-mnist-flow": replace(_FLOW, data="fashion-mnist"),
    "cifar10-small": _CIFAR10,
    "cifar10-ddpm": CIFAR10_DDPM,
    "cifar10-ddim": replace(CIFAR10_DDPM, sample=replace(CIFAR10_DDPM.sample, solver="ddim", steps=100)),
    "cifar10-score-vp": _of_cifar10(_SCORE),
    "cifar10-vdm": _of_cifar10(_VDM),
    "cifar10-flow": _of_cifar10(_FLOW),
    "mnist-latent": _LATENT,
    "fashion-mnist-latent": replace(
        _LATENT, data="fashion-mnist", autoencoder="runs/fashion-mnist-autoencoder"
    ),
    "cifar10-latent": replace(
        _LATENT,
        data="cifar10",
        net=UNetConfig(channels=(128, 256), patch=1, attention=(True, True)),
        autoencoder="runs/cifar10-autoencoder",
        train=TrainConfig(minutes=60),
    ),
    "words": DiffusionRecipe(
        data="words",
        net=UNetConfig(channels=(64, 128)),
        lessons=4,
        train=TrainConfig(minutes=75, batch=32, lr=4e-3),
    ),
    "digits": DiffusionRecipe(
        data="digits", net=UNetConfig(channels=(64, 128)), train=TrainConfig(minutes=2)
    ),
    "images": DiffusionRecipe(data="folder:PATH", train=TrainConfig(minutes=60, batch=64, lr=2e-3)),
    "swiss-roll": _POINTS,
    "eight-gaussians": replace(_POINTS, data="eight-gaussians"),
    "checkerboard": replace(_POINTS, data="checkerboard"),
    "moons": replace(_POINTS, data="moons"),
    "sines": _SEQUENCES,
    "angles": replace(_SEQUENCES, data="angles"),
    "moving-digits": DiffusionRecipe(
        data="moving-digits",
        net=UNetConfig(
            channels=(64, 128)
        ),  # a patch has 2 x 2 x 2 numbers: with 24 channels none was learned
        density="shifted(cosine, -2)",  # eight frames show the same digit: log 8 more noise hides it
        train=TrainConfig(minutes=20, batch=32, lr=2e-3),
        sample=SampleConfig(
            steps=20, guidance=3.0, grid="shifted(cosine(log_snr_max=10, log_snr_min=-8), -2)"
        ),
    ),
    "mnist-superres": _SUPERRES,
    "mnist-inpaint": replace(_SUPERRES, degrade="hide"),
}
