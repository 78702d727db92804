"""How to train: the budget, the optimizer and how often to look."""

import math
from dataclasses import dataclass
from typing import Literal

from phin.errors import PhinError
from phin.training.compiling import Choice
from phin.training.ema import power


@dataclass(frozen=True)
class TrainConfig:
    """How to train. Shares are of the whole budget, so that one setting fits ten minutes and ten days."""

    minutes: float | None = None
    """Time budget, of everything from the first batch to the last file, over all sessions of the run."""
    steps: int | None = None
    """Step budget. Exactly one of the two budgets must be given."""
    batch: int = 128
    """Examples a step (of `numbers`: cells), over all processes."""
    lr: float = 1e-3
    """Highest learning rate, reached at the end of the warm-up."""
    anneal: bool = True
    """Whether the learning rate then falls, along a cosine to 0 at the end; or stays."""
    muon: bool = True
    """Muon for the matrices inside the network, AdamW for all else; or AdamW for everything."""
    warmup: float = 0.02
    """Share of the budget in which the learning rate rises from 0."""
    weight_decay: float = 0.0
    """Of matrices and kernels; gains and biases do not decay."""
    betas: tuple[float, float] = (0.9, 0.99)
    """Decay rates of AdamW's averages of the gradient and of its square."""
    clip: float = 1.0
    """Longer gradients are shortened to this norm."""
    ema: float = 0.05
    """Width of the average of the weights, as a share of the training so far; 0 is no averaging."""
    ema_decay: float | None = None
    """Decay of that average at every step, in place of a width: 0.9999 is DDPM's."""
    seed: int = 0
    """Of everything random. The same seed on the same machine is the same run."""
    precision: Literal["auto", "float32", "bf16"] = "auto"
    """Of the network's arithmetic; weights are float32. `auto` is bf16 where the hardware is fast at it."""
    compile: Choice = "auto"
    """Whether the network goes through torch.compile. `auto` tries it on a GPU, and keeps what is faster."""
    recompute: bool = False
    """Compute the blocks of a network again in the backward pass, in place of keeping what is inside: less
    memory, slower steps, the same weights."""
    log_every: float = 0.005
    """Share of the budget between two records of the log."""
    validate_every: float = 0.1
    """Share of the budget between two validations."""
    picture_every: float = 0.1
    """Share of the budget between two pictures of samples; 0 is none at all."""
    copy_every: float = 0.0
    """Share of the budget between two copies of the averaged weights, to be measured later; 0 is none."""
    save_minutes: float = 2.0
    """At most this much work is lost if the process is killed."""
    trackers: tuple[str, ...] = ("tensorboard",)
    """Trackers of Accelerate that get what `log.jsonl` gets, such as tensorboard or wandb."""

    def __post_init__(self) -> None:
        if (self.minutes is None) == (self.steps is None):
            raise PhinError(
                f"give minutes or steps, one of the two (minutes={self.minutes}, steps={self.steps})"
            )
        power(self.ema)
        if self.ema_decay is not None and not 0 <= self.ema_decay < 1:
            raise PhinError(f"ema_decay must be from 0 to less than 1, as 0.9999, not {self.ema_decay}")
        for name in ("minutes", "steps", "batch", "lr", "clip", "log_every", "validate_every"):
            if (value := getattr(self, name)) is not None and not value > 0:
                raise PhinError(f"{name} must be positive, not {value}")
        for name in ("weight_decay", "picture_every", "copy_every", "save_minutes", "seed"):
            if not (value := getattr(self, name)) >= 0:
                raise PhinError(f"{name} must not be negative, but is {value}")
        for name in ("minutes", "lr", "weight_decay"):
            if getattr(self, name) == math.inf:
                raise PhinError(f"{name} must be finite, not inf")
        if not 0 <= self.warmup < 1:
            raise PhinError(f"warmup is a share of the budget, from 0 to less than 1, not {self.warmup}")
        if not all(0 <= beta < 1 for beta in self.betas):
            raise PhinError(f"betas must be from 0 to less than 1, not {self.betas}")

    def learning_rate(self, progress: float) -> float:
        """The learning rate at a share of the budget: up from 0 along a line, and down to 0 along a cosine.

        Without `anneal` it stays where the line ends.
        """
        if progress < self.warmup:
            return self.lr * progress / self.warmup
        if not self.anneal:
            return self.lr
        fall = min((progress - self.warmup) / (1 - self.warmup), 1.0)
        return self.lr * (1 + math.cos(math.pi * fall)) / 2


# A run may go on with other values of these; with others of anything else it would not be the same run.
FREE = (
    "command",
    "recipe.features",
    "recipe.measure",
    "recipe.sample",
    "train.compile",
    "train.recompute",
    "train.minutes",
    "train.steps",
    "train.log_every",
    "train.validate_every",
    "train.picture_every",
    "train.copy_every",
    "train.save_minutes",
    "train.trackers",
)
