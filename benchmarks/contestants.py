"""The contestants: Phin and the libraries that it is compared with, each with a network of as many FLOPs.

The networks are U-Nets of each library's own kind for small pictures: three resolutions with two residual
blocks each and attention at the lowest, where it has any. Their widths are such that a forward pass over one
picture of 28 x 28 takes as many FLOPs as Phin's default network, within 5 %; `flops` counts them.
"""

import importlib
import itertools
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext, redirect_stderr
from dataclasses import dataclass
from functools import partial
from io import StringIO
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import phin
from phin.diffusion.denoiser import Denoiser
from phin.diffusion.parameterization import v
from phin.errors import PhinError
from phin.nets.precision import bf16_is_fast
from phin.nets.unet import UNet, UNetConfig
from phin.pictures import to_integers
from phin.sampling import SampleConfig, draw
from phin.training.ema import EMA
from phin.training.optimizer import Optimizer

SIDE = 28
ALIKE = 0.05  # how far FLOPs may differ


@dataclass(frozen=True)
class Library:
    """A library of diffusion models. Times t (B,) are from 0, data, to 1, noise."""

    package: str
    """What pip installs."""
    module: str
    """What is imported."""
    build: Callable[[], nn.Module]
    """Its network of one channel."""
    call: Callable[[nn.Module, Tensor, Tensor], Tensor]
    """(network, z, t) -> its output, shaped like z."""
    draw: Callable[[nn.Module, int, int], Tensor]
    """(network, n, steps) -> n pictures, uint8 (n, 1, 28, 28), by its own sampler in so many calls."""


@dataclass(frozen=True)
class Setting:
    """How a network runs."""

    bfloat16: bool = False
    """Under autocast; weights are float32."""
    channels_last: bool = False
    compiled: bool = False

    def __str__(self) -> str:
        words = ["bfloat16" if self.bfloat16 else "float32"]
        words += ["channels-last"] * self.channels_last + ["compiled"] * self.compiled
        return "+".join(words)

    def applied(self, net: nn.Module) -> Any:
        """The network in this setting, called as before."""
        if self.channels_last:
            net = net.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
        if not self.compiled:
            return net
        # Past its limit of compilations, torch would run the network as it is, under this setting's name.
        dynamo: Any = importlib.import_module("torch._dynamo.config")
        dynamo.fail_on_recompile_limit_hit = True
        return torch.compile(net, dynamic=False)

    def precision(self) -> AbstractContextManager[object]:
        """What its network computes in."""
        return torch.autocast("cpu", torch.bfloat16) if self.bfloat16 else nullcontext()


SETTINGS = {
    str(setting): setting
    for setting in itertools.starmap(Setting, itertools.product((False, True), repeat=3))
}
DEFAULT = Setting(bfloat16=bf16_is_fast(torch.device("cpu")))
"""Phin's own; its channels lie last anyway."""


@dataclass(frozen=True)
class Batch:
    """What all are given."""

    z: Tensor
    t: Tensor
    target: Tensor

    @classmethod
    def of(cls, size: int, side: int = SIDE) -> "Batch":
        """Noise, which takes as long as pictures."""
        torch.manual_seed(0)
        z, target = torch.randn(2, size, 1, side, side)
        return cls(z, torch.linspace(0.01, 0.99, size), target)


class Contestant:
    """A library's network in a setting, and what it is timed at."""

    def __init__(self, library: Library, setting: Setting = DEFAULT) -> None:
        torch.manual_seed(0)
        net = library.build()
        self.library, self.setting, self.net = library, setting, setting.applied(net)
        self.prepare(net)

    def prepare(self, net: nn.Module) -> None:
        """Makes AdamW: torch's, fused, which Phin calls without torch's class and what that imports."""
        if self.library.module == "phin":
            self.adamw = Optimizer(net, (0.9, 0.999), 0.01, muon=False)
            self.move = partial(self.adamw.step, 1e-4)
        else:
            self.adamw = torch.optim.AdamW(net.parameters(), lr=1e-4, fused=True)
            self.move = self.adamw.step

    def train(self, batch: Batch) -> None:
        """A step: forward, mean squared error, backward, and what comes of the gradients."""
        with self.setting.precision():
            output = self.library.call(self.net, batch.z, batch.t)
        F.mse_loss(output.float(), batch.target).backward()
        self.update()

    def update(self) -> None:
        """Moves the weights by their gradients, and forgets these."""
        self.move()
        self.adamw.zero_grad()

    def call(self, batch: Batch) -> Tensor:
        """A call of the network, without gradients."""
        with torch.no_grad(), self.setting.precision():
            return self.library.call(self.net, batch.z, batch.t)

    def draw(self, n: int, steps: int) -> Tensor:
        """Pictures."""
        with torch.no_grad(), self.setting.precision():
            return self.library.draw(self.net, n, steps)


class OwnStep(Contestant):
    """Phin with what `phin train mnist` does of the gradients: clipping, Muon with AdamW, and the average.

    Pictures, noise and loss are those of all.
    """

    config = phin.RECIPES["mnist"].train

    def __init__(self) -> None:
        super().__init__(LIBRARIES["phin"])

    def prepare(self, net: nn.Module) -> None:
        self.optimizer = Optimizer(net, self.config.betas, self.config.weight_decay, self.config.muon)
        self.average, self.steps = EMA(net, self.config.ema, self.config.ema_decay), 0

    def update(self) -> None:
        nn.utils.clip_grad_norm_(self.net.parameters(), self.config.clip)
        self.optimizer.step(self.config.lr)
        self.steps += 1
        self.average.update(self.steps)
        self.optimizer.zero_grad()


def missing(library: Library) -> str | None:
    """Why a library cannot take part, in words; None where it can."""
    try:
        importlib.import_module(library.module)
    except ModuleNotFoundError as error:
        if error.name == library.module:
            return "it is not installed: run `make bench`, or pip install 'phin[bench]'"
        return f"it is installed without {error.name}"
    except Exception as error:  # such as a torchvision that was built for another torch
        return f"it cannot be imported ({type(error).__name__}: {str(error).splitlines()[0]})"
    return None


def flops(library: Library, net: nn.Module, training: bool = False) -> int:
    """Floating-point operations for one picture: a multiply-add is two.

    Those of a forward pass, or of that and the backward pass.
    """
    # imported here: with a torch for CUDA it takes 76 MB, which are not to count as a contestant's
    from torch.utils.flop_counter import FlopCounterMode, sdpa_flop_count

    aten: Any = torch.ops.aten
    # fused attention on a CPU, which the counter does not know, by the shapes that it gets: its two products,
    # and both gradients of each, as if nothing were computed again
    attention = {
        aten._scaled_dot_product_flash_attention_for_cpu: lambda query, key, value, *_, **__: sdpa_flop_count(
            query, key, value
        ),
        aten._scaled_dot_product_flash_attention_for_cpu_backward: lambda _, query, key, value, *__, **___: (
            2 * sdpa_flop_count(query, key, value)
        ),
    }
    z, t = torch.zeros(1, 1, SIDE, SIDE), torch.full((1,), 0.5)
    with FlopCounterMode(display=False, custom_mapping=attention) as counter:
        if training:
            library.call(net, z, t).sum().backward()
            net.zero_grad()
        else:
            with torch.no_grad():
                library.call(net, z, t)
    return counter.get_total_flops()


def alike(counted: Mapping[str, float], ours: str = "phin") -> dict[str, float]:
    """How much more FLOPs each has than ours, as a share of ours.

    Raises:
        PhinError: One differs by more than 5 %, so that speeds would not compare.
    """
    more = {name: count / counted[ours] - 1 for name, count in counted.items()}
    if unlike := [name for name, n in counted.items() if abs(n - counted[ours]) > ALIKE * counted[ours]]:
        name, share = unlike[0], more[unlike[0]]
        raise PhinError(
            f"the network of {name} has {counted[name] / 1e6:.1f} MFLOP, {share:+.1%} of {ours}'s "
            f"{counted[ours] / 1e6:.1f}: change its channels in benchmarks/contestants.py until they are "
            f"within {ALIKE:.0%}"
        )
    return more


def calls(library: Library, net: nn.Module, steps: int) -> int:
    """How often drawing calls the network."""
    counted = 0

    def count(*_: Any) -> None:
        nonlocal counted
        counted += 1

    hook = net.register_forward_pre_hook(count)
    try:
        library.draw(net, 2, steps)
    finally:
        hook.remove()
    return counted


# Phin


def _phin() -> nn.Module:
    return UNet(UNetConfig(), in_channels=1)


def _phin_draw(net: nn.Module, n: int, steps: int) -> Tensor:
    config = SampleConfig(steps=steps, guidance=1.0)
    return to_integers(draw(Denoiser(net, v), config, (1, SIDE, SIDE), {}, 0, range(n)))


# diffusers


def _diffusers() -> nn.Module:
    from diffusers.models.unets.unet_2d import UNet2DModel

    return UNet2DModel(
        sample_size=SIDE,
        in_channels=1,
        out_channels=1,
        block_out_channels=(32, 56, 64),
        norm_num_groups=8,
        down_block_types=("DownBlock2D", "DownBlock2D", "AttnDownBlock2D"),
        up_block_types=("AttnUpBlock2D", "UpBlock2D", "UpBlock2D"),
    )


def _diffusers_draw(net: nn.Module, n: int, steps: int) -> Tensor:
    return scheduled(net, "DPMSolverMultistepScheduler", n, steps)


def scheduled(net: nn.Module, name: str, n: int, steps: int) -> Tensor:
    """What a network of diffusers draws by a scheduler, uint8 (n, 1, 28, 28).

    The loop is that of its pipelines, which cannot have every scheduler: they give a generator to each, and
    some take none. Between the calls a picture stays float32.
    """
    diffusers: Any = importlib.import_module("diffusers")
    scheduler = getattr(diffusers, name)(num_train_timesteps=1000)
    scheduler.set_timesteps(steps)
    z = scheduler.init_noise_sigma * torch.randn(n, 1, SIDE, SIDE)
    for t in scheduler.timesteps:
        output = net(scheduler.scale_model_input(z, t), t).sample.float()
        z = scheduler.step(output, t, z).prev_sample
    return to_integers(z.clamp(-1, 1))


# denoising-diffusion-pytorch


def _lucidrains() -> nn.Module:
    from denoising_diffusion_pytorch import Unet

    return Unet(dim=32, dim_mults=(1, 2, 2), channels=1, attn_heads=3, flash_attn=True)


def _lucidrains_draw(net: nn.Module, n: int, steps: int) -> Tensor:
    from denoising_diffusion_pytorch import GaussianDiffusion

    diffusion = GaussianDiffusion(net, image_size=SIDE, timesteps=1000, sampling_timesteps=steps)
    with redirect_stderr(StringIO()):  # its bar
        pictures = diffusion.sample(n)
    return (pictures.clamp(0, 1) * 255).round().to(torch.uint8)


# azula


class Azula(nn.Module):
    """Its U-Net with an embedding of time."""

    def __init__(self, features: int = 128) -> None:
        from azula.nn.layers import SineEncoding
        from azula.nn.unet import UNet

        super().__init__()
        self.time = nn.Sequential(
            SineEncoding(features), nn.Linear(features, features), nn.SiLU(), nn.Linear(features, features)
        )
        self.unet = UNet(1, 1, hid_channels=(32, 72, 128), hid_blocks=(2, 2, 2), mod_features=features)

    def forward(self, z: Tensor, t: Tensor) -> Tensor:
        return self.unet(z, self.time(t.expand(len(z))))


def _azula_draw(net: nn.Module, n: int, steps: int) -> Tensor:
    from azula.denoise import KarrasDenoiser
    from azula.noise import VPSchedule
    from azula.sample import DDIMSampler

    sampler = DDIMSampler(KarrasDenoiser(net, VPSchedule()), steps=steps, silent=True)
    return to_integers(sampler(sampler.init((n, 1, SIDE, SIDE))).clamp(-1, 1))


# k-diffusion


def _k_diffusion() -> nn.Module:
    from k_diffusion.models.image_v1 import ImageDenoiserModelV1

    return ImageDenoiserModelV1(
        c_in=1, feats_in=128, depths=(2, 2, 2), channels=(40, 64, 128), self_attn_depths=(False, False, True)
    )


def _k_diffusion_draw(net: nn.Module, n: int, steps: int) -> Tensor:
    from k_diffusion.layers import Denoiser as Karras
    from k_diffusion.sampling import get_sigmas_karras, sample_dpmpp_2m

    sigmas = get_sigmas_karras(steps, 0.01, 80)
    start = sigmas[0] * torch.randn(n, 1, SIDE, SIDE)
    return to_integers(
        sample_dpmpp_2m(Karras(net, sigma_data=0.6162), start, sigmas, disable=True).clamp(-1, 1)
    )


LIBRARIES: dict[str, Library] = {
    "phin": Library("phin", "phin", _phin, lambda net, z, t: net(z, 10 - 20 * t), _phin_draw),
    "diffusers": Library(
        "diffusers", "diffusers", _diffusers, lambda net, z, t: net(z, 999 * t).sample, _diffusers_draw
    ),
    "denoising-diffusion-pytorch": Library(
        "denoising-diffusion-pytorch",
        "denoising_diffusion_pytorch",
        _lucidrains,
        lambda net, z, t: net(z, 999 * t),
        _lucidrains_draw,
    ),
    "azula": Library("azula", "azula", Azula, lambda net, z, t: net(z, t), _azula_draw),
    "k-diffusion": Library(
        "k-diffusion",
        "k_diffusion",
        _k_diffusion,
        lambda net, z, t: net(z, 80 ** (2 * t - 1)),
        _k_diffusion_draw,
    ),
}
