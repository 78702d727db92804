"""Recipes as JSON, in the files of their models, and back."""

from collections.abc import Mapping
from dataclasses import asdict, fields
from types import UnionType
from typing import Any, TypeVar, get_args, get_type_hints

from phin.errors import PhinError
from phin.recipes.base import Facts, Recipe
from phin.recipes.classifiers import ClassifierRecipe, NoisyClassifierRecipe
from phin.recipes.diffusion import DiffusionRecipe
from phin.recipes.gan import GANRecipe
from phin.recipes.hvae import HVAERecipe
from phin.recipes.latent import KLAutoencoderRecipe
from phin.recipes.vae import VAERecipe

T = TypeVar("T")
FAMILIES: dict[str, type[Recipe]] = {
    "diffusion": DiffusionRecipe,
    "vae": VAERecipe,
    "hvae": HVAERecipe,
    "autoencoder": KLAutoencoderRecipe,
    "gan": GANRecipe,
    "classifier": ClassifierRecipe,
    "noisy-classifier": NoisyClassifierRecipe,
}
"""The kinds of models: a file of weights names its own."""


def describe(name: str, recipe: Recipe, facts: Facts, command: str | None = None) -> dict[str, Any]:
    """What a file of weights says of its model, JSON-able: enough to build it again, or to train it again."""
    family = next(family for family, kind in FAMILIES.items() if isinstance(recipe, kind))
    described = {"name": name, "family": family, "recipe": asdict(recipe), "facts": asdict(facts)}
    return described if command is None else {**described, "command": command}


def restore(description: Mapping[str, Any]) -> tuple[Recipe, Facts]:
    """The recipe and the facts of a description: the inverse of `describe`.

    Raises:
        PhinError: On a family or a field that this version does not know.
    """
    family = description.get("family")
    if family not in FAMILIES:
        raise PhinError(
            f"unknown family of models {family!r}; this version of phin knows {', '.join(FAMILIES)}"
        )
    try:
        return _dataclass(FAMILIES[family], description["recipe"]), _dataclass(Facts, description["facts"])
    except (AttributeError, KeyError, TypeError) as error:
        raise PhinError(
            f"the description of this model is not understood ({error!r}); make it again"
        ) from error


def _dataclass(kind: type[T], values: Mapping[str, Any]) -> T:
    """A dataclass of plain values from JSON's dictionaries and lists."""
    hints = get_type_hints(kind)
    if unknown := values.keys() - hints.keys():
        raise PhinError(
            f"{kind.__name__} has no field {min(unknown)!r}; the file is from another version of phin"
        )
    return kind(**{name: _value(hints[name], value) for name, value in values.items()})


def _value(hint: Any, value: Any) -> Any:
    if isinstance(value, dict):  # of two configurations, the one whose fields these are
        kinds: tuple[Any, ...] = get_args(hint) if isinstance(hint, UnionType) else (hint,)
        fitting = (kind for kind in kinds if value.keys() <= {field.name for field in fields(kind)})
        return _dataclass(next(fitting, kinds[0]), value)
    return tuple(value) if isinstance(value, list) else value
