"""A task that trains in a second, as a class and as a command: `python toy.py FOLDER '{"steps": 100}'`.

With `"counting": true` a second passes whenever the clock is read.
"""

import itertools
import json
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from phin.errors import PhinError
from phin.training.config import TrainConfig
from phin.training.loop import Losses, Result, Task, fit

DESCRIPTION = {"name": "toy", "net": {"channels": 32}}


class Toy(Task):
    """Learns to shift pictures by a pixel; has all that a resumed run could get wrong."""

    def __init__(self, config: TrainConfig, random: bool = True, stop: int | None = None) -> None:
        super().__init__()
        self.stop = stop
        torch.manual_seed(config.seed)
        chance = [nn.BatchNorm2d(32), nn.Dropout(0.1)] if random else []
        ends = nn.Conv2d(2, 32, 3, padding=1), nn.Conv2d(32, 2, 3, padding=1)
        self.model = nn.Sequential(ends[0], *chance, nn.SiLU(), nn.Conv2d(32, 32, 1), nn.SiLU(), ends[1])
        self.config = config

    def forward(self, step: int, rows: slice) -> Losses:
        if step == self.stop:
            signal.raise_signal(signal.SIGINT)
        loss = shift_error(self.model, pictures(self.config.seed, step, self.config.batch)[rows])
        return Losses(loss, torch.linspace(-9, 9, self.config.batch)[rows])

    def validate(self, model: nn.Module) -> dict[str, float]:
        x = pictures(1000, 0, 32)
        return {"error": shift_error(model, x).mean().item(), "baseline": x.square().mean().item()}

    def picture(self, model: nn.Module) -> np.ndarray:
        return model(pictures(1000, 0, 1))[0, 0].mul(50).add(128).clamp(0, 255).byte().numpy()


def pictures(seed: int, step: int, size: int) -> Tensor:
    draw = np.random.Generator(np.random.Philox(key=[seed, step]))
    return torch.from_numpy(draw.standard_normal((size, 2, 6, 6), dtype=np.float32))


def shift_error(model: nn.Module, x: Tensor) -> Tensor:
    return (model(x).float() - x.roll(1, -1)).square().mean((1, 2, 3))


def configure(**options: Any) -> TrainConfig:
    return TrainConfig(**{"batch": 9, "lr": 4e-3, "precision": "float32", "trackers": (), **options})


def train(
    folder: Path,
    random: bool = True,
    stop: int | None = None,
    clock: Callable[[], float] = time.monotonic,
    **options: Any,
) -> Result:
    """Trains a toy.

    Args:
        folder: Of the run.
        random: Whether the network draws.
        stop: The step at which it is interrupted.
        clock: Seconds.
        options: Of the configuration.
    """
    config = configure(**options)
    return fit(Toy(config, random, stop), config, folder, DESCRIPTION, clock=clock)


if __name__ == "__main__":
    torch.set_num_threads(1)
    try:
        told = json.loads(sys.argv[2])
        clock = itertools.count().__next__ if told.pop("counting", False) else time.monotonic
        train(Path(sys.argv[1]), clock=clock, **told)
    except PhinError as error:
        print(error, file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        sys.exit(130)
