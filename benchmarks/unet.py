"""Training and sampling speed of phin's U-Net against a `diffusers` `UNet2DModel` of equal FLOPs.

    python benchmarks/unet.py

All contestants take turns, one step each, so that whatever else the machine does meets all of them alike.
`diffusers` runs as it comes, in float32; phin under bfloat16 autocast, its precision policy, and in float32.
FLOPs are those of one forward pass over one 28 x 28 picture as counted by `torch.utils.flop_counter` (a
multiply-add is two); training images/s are of forward, mean squared error, backward and a fused AdamW step.
"""

import argparse
import itertools
import statistics
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from diffusers.models.unets.unet_2d import UNet2DModel
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from phin.nets.unet import UNet, UNetConfig

SIDE = 28


@dataclass
class Contestant:
    """A network, how to call it on noisy pictures, and the seconds of its steps and calls."""

    name: str
    net: nn.Module
    call: Callable[[Tensor], Tensor]
    bfloat16: bool

    def __post_init__(self) -> None:
        self.optimizer = torch.optim.AdamW(self.net.parameters(), lr=1e-4, fused=True)
        self.training: list[float] = []
        self.sampling: list[float] = []

    def precision(self) -> AbstractContextManager[object]:
        return torch.autocast("cpu", torch.bfloat16) if self.bfloat16 else nullcontext()

    def train(self, z: Tensor, target: Tensor) -> None:
        with self.precision():
            output = self.call(z)
        F.mse_loss(output, target).backward()
        self.optimizer.step()
        self.optimizer.zero_grad()

    def sample(self, z: Tensor) -> None:
        with torch.no_grad(), self.precision():
            self.call(z)

    def megaflops(self) -> float:
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            self.call(torch.zeros(1, 1, SIDE, SIDE))
        return counter.get_total_flops() / 1e6

    def parameters(self) -> int:
        return sum(p.numel() for p in self.net.parameters())


def phin_unet(name: str, bfloat16: bool, length: int = 0) -> Contestant:
    """Unconditional, or conditioned on texts of `length` characters."""
    net = UNet(UNetConfig(), in_channels=1, vocabulary=10 if length else 0)

    def call(z: Tensor) -> Tensor:
        text = torch.arange(len(z) * length).view(len(z), length) % 10 if length else None
        return net(z, torch.linspace(-10, 10, len(z)), text=text)

    return Contestant(name, net, call, bfloat16)


def diffusers_unet(name: str, bfloat16: bool = False) -> Contestant:
    """Three resolutions, two blocks each, attention at the lowest: its usual shape for small pictures."""
    net = UNet2DModel(
        sample_size=SIDE,
        in_channels=1,
        out_channels=1,
        block_out_channels=(32, 56, 64),
        norm_num_groups=8,
        down_block_types=("DownBlock2D", "DownBlock2D", "AttnDownBlock2D"),
        up_block_types=("AttnUpBlock2D", "UpBlock2D", "UpBlock2D"),
    )
    return Contestant(name, net, lambda z: net(z, torch.linspace(0, 999, len(z))).sample, bfloat16)


def timed(action: Callable[[], None]) -> float:
    start = time.perf_counter()
    action()
    return time.perf_counter() - start


def compare(seconds: list[float], theirs: list[float], batch: int, width: int) -> str:
    """Pictures a second, and how many times theirs: by medians, and (for a busy machine) by the fastest."""
    median = statistics.median(seconds)
    ratio, best = statistics.median(theirs) / median, min(theirs) / min(seconds)
    return f"{batch / median:{width}.0f}{ratio:7.2f}{f'({best:.2f})':>8}"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--batch", type=int, default=128, help="pictures of 28 x 28 a step")
    parser.add_argument("--rounds", type=int, default=20, help="timed steps, and calls, of each contestant")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)

    theirs = diffusers_unet("diffusers, float32")
    ours = phin_unet("phin, bfloat16", bfloat16=True)
    contestants = [
        theirs,
        ours,
        phin_unet("phin, float32", bfloat16=False),
        phin_unet("phin with text, bfloat16", bfloat16=True, length=1),
        diffusers_unet("diffusers, bfloat16", bfloat16=True),
    ]
    z, target = torch.randn(2, args.batch, 1, SIDE, SIDE)
    for _, one in itertools.product(range(2), contestants):  # warm up
        one.train(z, target)
        one.sample(z)
    for _, one in itertools.product(range(args.rounds), contestants):
        one.training.append(timed(lambda one=one: one.train(z, target)))
        one.sampling.append(timed(lambda one=one: one.sample(z)))

    difference = ours.megaflops() / theirs.megaflops() - 1
    print(f"batch {args.batch}, n = {args.rounds} rounds, {args.threads} threads, torch {torch.__version__}")
    print(f"FLOPs of phin against diffusers' {difference:+.1%}; ratios of medians to diffusers, float32\n")
    print(f"{'':26}{'MFLOP':>7}{'params':>11}{'train img/s':>13}{'ratio':>7}{'(best)':>8}", end="")
    print(f"{'calls/s':>9}{'ratio':>7}{'(best)':>8}")
    for one in contestants:
        print(f"{one.name:26}{one.megaflops():7.1f}{one.parameters():11,}", end="")
        print(compare(one.training, theirs.training, args.batch, 13), end="")
        print(compare(one.sampling, theirs.sampling, args.batch, 9))


if __name__ == "__main__":
    main()
