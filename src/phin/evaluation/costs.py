"""What a model cost."""

from dataclasses import replace
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from phin.data import Data, Images
from phin.data.encoded import Encoded
from phin.families.latent import LatentDenoiser
from phin.models import Model

STEPS = 16  # to count over: not every step of every training does the same
ROWS = 2  # of each: operations are proportional to examples
EXAMPLES = 256  # of a fixed set: which ones, makes no difference


def costs(model: Model, data: Data) -> dict[str, Any]:
    """Its parameters; and of its training the minutes, and the floating-point operations that torch counts.

    Operations are those of forward and backward passes through convolutions and products of matrices, a
    multiplication with its addition counted as two. What is not known of a training is left out.
    """
    known: dict[str, Any] = {"parameters": sum(p.numel() for p in model.net.parameters())}
    if state := model.metadata.get("training", {}).get("state"):
        known["training_minutes"] = state["seconds"] / 60
        known["training_flops"] = operations(model, data) * state["examples"]
    return known


def operations(model: Model, data: Data) -> float:
    """Floating-point operations that an example takes in training, on average."""
    if isinstance(data, Images):
        data = replace(data, splits={which: part[:EXAMPLES] for which, part in data.splits.items()})
    if isinstance(model.net, LatentDenoiser):
        data = Encoded(data, model.net.space)
        data.train(0, 0, model.recipe.train.batch)  # what is encoded once is not counted
    with torch.random.fork_rng(devices=[]), torch.enable_grad(), FlopCounterMode(display=False) as counter:
        task, examples = model.recipe.task(data), 0
        for step in range(STEPS):
            losses = task(step, slice(0, ROWS)).loss
            losses.sum().backward()
            examples += len(losses)
    return counter.get_total_flops() / examples
