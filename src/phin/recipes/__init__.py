"""Recipes: named, typed configurations of everything that can be trained.

A recipe is a tree of dataclasses with plain values. It is what `phin train NAME` takes its options from, what
a run saves as JSON beside its weights, and what builds the model again. A new one is an entry in the file of
its family.
"""

from pathlib import Path
from typing import TYPE_CHECKING

import torch

from phin.errors import PhinError
from phin.recipes import classifiers, diffusion, gan, hvae, latent, vae
from phin.recipes.autoencoder import AutoencoderRecipe as AutoencoderRecipe
from phin.recipes.base import Facts as Facts
from phin.recipes.base import Recipe as Recipe
from phin.recipes.classifiers import ClassifierRecipe as ClassifierRecipe
from phin.recipes.classifiers import NoisyClassifierRecipe as NoisyClassifierRecipe
from phin.recipes.description import describe as describe
from phin.recipes.description import restore as restore
from phin.recipes.diffusion import NUMBERS as NUMBERS
from phin.recipes.diffusion import DiffusionRecipe as DiffusionRecipe
from phin.recipes.gan import GANRecipe as GANRecipe
from phin.recipes.hvae import HVAERecipe as HVAERecipe
from phin.recipes.latent import KLAutoencoderRecipe as KLAutoencoderRecipe
from phin.recipes.vae import VAERecipe as VAERecipe

if TYPE_CHECKING:  # what only training needs is imported when a training starts
    from phin.training.run import Result

RECIPES: dict[str, Recipe] = {
    **diffusion.recipes,
    **vae.recipes,
    **hvae.recipes,
    **latent.recipes,
    **gan.recipes,
    **classifiers.recipes,
}


def named(name: str) -> Recipe:
    """The recipe of that name.

    Raises:
        PhinError: There is none.
    """
    if name not in RECIPES:
        raise PhinError(f"unknown recipe {name!r}; there are {', '.join(RECIPES)}")
    return RECIPES[name]


def train(
    recipe: Recipe | str, out: Path | str | None = None, name: str | None = None, command: str | None = None
) -> "Result":
    """Trains a recipe, by its name or as changed by `replace`; the same call again goes on where it stopped.

    Args:
        recipe: What to train.
        out: Folder for weights, logs and pictures; runs/NAME by default, so give it to a recipe of one's own.
        name: The run's name; by default the recipe's, or that of its data if it has none.
        command: What a shell was told, noted in the files.

    Raises:
        PhinError: On anything that a user can mend: data that cannot be had, a folder that cannot be written
            to, another recipe's run in the folder, a full disk, a loss that is not finite.
    """
    from phin.training.loop import fit

    if isinstance(recipe, str):
        name, recipe = name or recipe, named(recipe)
    name = name or Path(recipe.data).name
    data = recipe.load()
    torch.manual_seed(recipe.train.seed)  # of the first weights
    task, description = recipe.task(data), describe(name, recipe, recipe.facts(data), command)
    return fit(task, recipe.train, Path(out or Path("runs") / name), description)
