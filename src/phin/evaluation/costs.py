"""What a model cost."""

from dataclasses import replace
from functools import lru_cache
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from phin.data import Data, Images
from phin.data.encoded import Encoded
from phin.families.latent import LatentDenoiser
from phin.models import Model
from phin.recipes import DiffusionRecipe, Facts, Recipe

STEPS = 16  # to count over: not every step of every training does the same
ROWS = 2  # of each: operations are proportional to examples
EXAMPLES = 256  # of a fixed set: which ones, makes no difference


def costs(model: Model, data: Data) -> dict[str, Any]:
    """Its parameters; and of its training the minutes, and the floating-point operations that torch counts.

    The training is that up to the weights it has: a run whose best weights are earlier ones goes on longer.
    Operations are those of forward and backward passes through convolutions and products of matrices, a
    multiplication with its addition counted as two; what `recompute` does a second time is not counted. What
    is not known of a training is left out; of a distilled model's, which needs its teacher, the operations.
    """
    known: dict[str, Any] = {"parameters": sum(p.numel() for p in model.net.parameters())}
    if state := model.metadata.get("training", {}).get("state"):
        known["training_minutes"] = state["seconds"] / 60
        if not (isinstance(model.recipe, DiffusionRecipe) and model.recipe.distilled):
            known["training_flops"] = operations(model, data) * state["examples"]
    return known


def in_words(figures: dict[str, Any]) -> str:
    """What figures tell of costs: of the model, of its training, and of drawing and measuring."""
    trained = [
        *([f"{figures['training_minutes']:.3g} minutes"] if "training_minutes" in figures else []),
        *([f"{figures['training_flops']:.2g} operations"] if "training_flops" in figures else []),
    ]
    speeds = [
        f"{figures[key]:,.3g} {key.removesuffix('_per_second')} a second"
        for key in figures
        if key.endswith("_per_second")
    ]
    known = [
        f"{figures['parameters']:,} parameters",
        *([f"{' and '.join(trained)} of training"] if trained else []),
        *speeds,
        *([f"measured in {figures['seconds']:.3g} s"] if "seconds" in figures else []),
        *([f"real ones in {figures['reference_seconds']:.3g} s"] if "reference_seconds" in figures else []),
    ]
    return ", ".join(known)


def operations(model: Model, data: Data) -> float:
    """Floating-point operations that an example takes in training, on average."""
    return _operations(model.recipe, model.facts, data)


@lru_cache(maxsize=8)
def _operations(recipe: Recipe, facts: Facts, data: Data) -> float:
    """Of a recipe on its data: counted once, for no weights change it, nor do those of an autoencoder."""
    if getattr(recipe, "measure", 0):  # which asks for held-out pictures, more than are left of some sets
        recipe = replace(recipe, measure=0)
    if isinstance(data, Images):
        data = replace(data, splits={which: part[:EXAMPLES] for which, part in data.splits.items()})
    with torch.random.fork_rng(devices=[]), torch.enable_grad():
        if facts.latents:
            net = recipe.model(facts)
            assert isinstance(net, LatentDenoiser)
            data = Encoded(data, net.space)
            data.train(0, 0, recipe.train.batch)  # what is encoded once is not counted
        with FlopCounterMode(display=False) as counter:
            task, examples = recipe.task(data), 0
            for step in range(STEPS):
                losses = task(step, slice(0, ROWS)).loss
                losses.sum().backward()
                examples += len(losses)
    return counter.get_total_flops() / examples
