"""A class-conditional diffusion model of MNIST, trained by hand: no trainer, no configuration, one file.

Run it with `python examples/mnist_in_100_lines.py --minutes 5`, then look at mnist.png: a row for each digit.
"""

import argparse
import copy
import math
import time

import torch
from PIL import Image

from phin import data
from phin.diffusion.denoiser import Denoiser
from phin.diffusion.guidance import classifier_free, clip
from phin.diffusion.losses import denoising_loss, stratified
from phin.diffusion.noise import seeded
from phin.diffusion.parameterization import v
from phin.diffusion.schedules import Cosine
from phin.diffusion.solvers import DPMpp2M, prior, sample
from phin.diffusion.weights import snr_plus_one
from phin.nets.precision import autocast
from phin.nets.unet import UNet, UNetConfig
from phin.pictures import tile, to_bytes

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--data", default="mnist", help="labelled images: mnist, fashion-mnist, digits, ...")
parser.add_argument("--minutes", type=float, default=5.0, help="time to train")
parser.add_argument("--steps", type=int, help="steps to train, in place of a time")
parser.add_argument("--batch", type=int, default=128)
parser.add_argument("--channels", type=int, nargs="+", default=(64, 128), help="at each resolution")
parser.add_argument("--guidance", type=float, default=1.5, help="null + guidance (conditional - null)")
parser.add_argument("--sampling-steps", type=int, default=20)
parser.add_argument("--out", default="mnist.png")
args = parser.parse_args()
torch.manual_seed(0)
device = torch.device("cuda" if torch.cuda.is_available() else "cpu")

# The data: x in [-1, 1] of shape (B, C, H, W), and a label for each.
images = data.load(args.data)

# The denoiser: a network that predicts v, read as x̂ = E[x | z, label]. Label -1 means "any".
config = UNetConfig(channels=tuple(args.channels), attention=tuple(i > 0 for i in range(len(args.channels))))
net = UNet(config, in_channels=images.shape[0], classes=images.classes).to(device)
denoiser = Denoiser(net, v)
mean = copy.deepcopy(denoiser).requires_grad_(False)  # of the weights, the late ones above all: to be sampled
optimizer = torch.optim.AdamW(denoiser.parameters(), betas=(0.9, 0.99))

# The noise levels: log-SNR from +10 to -10 along a cosine.
schedule = Cosine()

begun, progress, step = time.monotonic(), 0.0, 0
while progress < 1:
    optimizer.param_groups[0]["lr"] = 1e-3 * min(1, (step + 1) / 100) * (1 + math.cos(math.pi * progress)) / 2

    # A batch, one label in ten left out; a level for each picture; noise; the error; a step.
    x, cond, _ = images.train(seed=0, step=step, size=args.batch)
    x = x.to(device)
    label = cond["label"].masked_fill(torch.rand(len(x)) < 0.1, -1).to(device)
    level = schedule(stratified(torch.rand(len(x), device=device))).view(x.ndim)
    with autocast(device):
        loss = denoising_loss(denoiser.given(label=label), x, level, snr_plus_one).mean()
    optimizer.zero_grad()
    loss.backward()
    torch.nn.utils.clip_grad_norm_(denoiser.parameters(), 1.0)
    optimizer.step()
    step += 1
    for average, now in zip(mean.parameters(), denoiser.parameters(), strict=True):
        average.lerp_(now.detach(), 20 / (step + 19))

    seconds = time.monotonic() - begun
    progress = step / args.steps if args.steps else seconds / (60 * args.minutes)
    if step % 100 == 0 or progress >= 1:
        speed = step * args.batch / seconds
        print(f"{progress:4.0%}  step {step:5}  loss {loss.item():.4f}  {speed:.0f} images/s", flush=True)

# Ten pictures of each class: from noise, down a ladder of levels, to x̂ at its foot.
label = torch.arange(images.classes, device=device).repeat_interleave(10)
conditional, null = mean.given(label=label), mean.given(label=torch.full_like(label, -1))
guided = clip(classifier_free(conditional, null, args.guidance))
levels = schedule.levels(args.sampling_steps)
noise = seeded(0, range(len(label)))  # picture k has numbers of its own
start = prior(levels.at(0), torch.empty(len(label), *images.shape, device=device), noise)
with torch.no_grad(), autocast(device):
    x = sample(guided, DPMpp2M(), levels, start, noise)

Image.fromarray(tile(list(to_bytes(x)), columns=10)).save(args.out)
print(f"wrote {args.out}")
