"""Who takes part in a comparison: recipes, each with its budget."""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace

from phin import data as datasets
from phin.data import Data, Numbers
from phin.data.words import Words
from phin.errors import PhinError
from phin.recipes import DiffusionRecipe, GANRecipe, HVAERecipe, Recipe, VAERecipe, named

DRAWING = (DiffusionRecipe, VAERecipe, HVAERecipe, GANRecipe)
"""Recipes of models whose samples are their end."""
COPIES = 0.2  # of the budget, from one measured stage of a training to the next


@dataclass(frozen=True)
class Entrant:
    """A recipe, trained for so long. Another budget is another training, in a run of its own."""

    source: str
    """Name of the recipe."""
    recipe: Recipe
    """With its budget."""
    epochs: int | None
    """How often it sees the training data, if that is its budget; or else it is a time."""
    replaced: bool = False
    """Whether its data are others than the recipe's own."""

    @property
    def name(self) -> str:
        """Of its run."""
        train = self.recipe.train
        budget = f"{train.minutes:g}-minutes" if self.epochs is None else f"{self.epochs}-epochs"
        data = f"-of-{re.sub(r'[^a-z0-9.]+', '-', self.recipe.data.lower())}" if self.replaced else ""
        return f"{self.source}{data}-{budget}" + (f"-seed-{train.seed}" if train.seed else "")

    @property
    def title(self) -> str:
        """For people, who know of the time, which all have in common."""
        if self.epochs is None:
            return self.source
        return f"{self.source}, {self.epochs} epoch{'' if self.epochs == 1 else 's'}"


def enter(
    words: Sequence[str],
    minutes: float | None = None,
    epochs: int | None = None,
    data: str | None = None,
    seed: int = 0,
) -> tuple[list[Entrant], Data]:
    """Who takes part, and the data that all of them learn.

    Args:
        words: Names of recipes; `mnist-vae:30` is trained for 30 epochs, whatever the others are.
        minutes: Time for each.
        epochs: Epochs for each that has none of its own.
        data: Data set in place of the recipes' own.
        seed: Of everything random in their trainings.

    Raises:
        PhinError: No recipe or an unknown one, one that draws no pictures, or twice the same; no budget, or
            two; different data, or data that cannot be had or have no epochs.
    """
    if not words:
        raise PhinError("name the recipes to compare, as in `phin compare mnist mnist-vae --minutes 10`")
    if minutes is not None and epochs is not None:
        raise PhinError(f"give minutes or epochs, one of the two (minutes={minutes}, epochs={epochs})")
    asked = [_asked(word, minutes, epochs) for word in words]
    recipes = [replace(recipe, data=data) if data else recipe for _, recipe, _ in asked]
    found = {recipe.data: source for (source, _, _), recipe in zip(asked, recipes, strict=True)}
    if len(found) > 1:
        (one, first), (other, second), *_ = found.items()
        raise PhinError(
            f"{first} is a recipe of {one} and {second} of {other}: compare recipes of the same data, or "
            f"give --data {one}"
        )
    (name,) = found
    images = datasets.load(name)
    if isinstance(images, Numbers | Words) or len(images.shape) != 3:
        raise PhinError(
            f"{name} is no set of single pictures, which a comparison is of: take one such as mnist, and "
            "measure a model of numbers by `phin evaluate`"
        )
    made: list[Entrant] = []
    for (source, own, rounds), recipe in zip(asked, recipes, strict=True):
        steps = None if rounds is None else _steps(rounds, recipe, images)
        train = replace(
            recipe.train,
            minutes=None if steps else minutes,
            steps=steps,
            seed=seed,
            picture_every=0.0,  # they would take more of the time from one model than from another
            copy_every=COPIES,
            trackers=(),
        )
        entrant = Entrant(source, replace(recipe, train=train), rounds, own.data != recipe.data)
        if entrant.name in (other.name for other in made):
            raise PhinError(f"{entrant.title} is named twice: name it once, or with other epochs")
        made.append(entrant)
    return made, images


def _asked(word: str, minutes: float | None, epochs: int | None) -> tuple[str, Recipe, int | None]:
    """A recipe by its name, and its epochs if these are its budget."""
    source, colon, own = word.partition(":")
    recipe = named(source)
    if not isinstance(recipe, DRAWING):
        raise PhinError(
            f"{source} draws no pictures to compare: take recipes of models that do, such as mnist, "
            "mnist-vae and mnist-gan"
        )
    if isinstance(recipe, DiffusionRecipe) and recipe.degrade:
        raise PhinError(
            f"{source} draws from a picture that it is given, and nothing else here does: measure it by "
            "`phin evaluate`"
        )
    if colon:
        if not own.isdecimal():
            raise PhinError(f"{word}: behind the colon are epochs, a whole number as in {source}:30")
        if minutes is not None:
            raise PhinError(
                f"{word} has epochs for its budget: leave out --minutes {minutes:g}, or the epochs"
            )
        epochs = int(own)
    if epochs is None and minutes is None:
        raise PhinError(
            f"{source} has no budget: give all of them --minutes 10 or --epochs 10, or this one {source}:10"
        )
    if epochs is not None and epochs < 1:
        raise PhinError(f"{source}: {epochs} epochs are too few, give at least 1")
    return source, recipe, epochs


def _steps(epochs: int, recipe: Recipe, data: Data) -> int:
    """Of a training that sees every example so often, or a few of the first once more."""
    count = data.count("train")
    if count is None:
        raise PhinError(f"{data.name} has no epochs, for its pictures are made as needed: give --minutes")
    return math.ceil(epochs * count / recipe.train.batch)
