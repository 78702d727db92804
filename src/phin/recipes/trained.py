"""Trained models: read from the folder of a run, from a file, or by the name of one that comes with phin."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from phin.data.fetch import cache_folder
from phin.errors import PhinError
from phin.nets.device import preferred
from phin.recipes import published, tuned
from phin.recipes.base import Facts, Recipe
from phin.recipes.description import restore
from phin.recipes.tuned import Tuned
from phin.training.checkpoint import load_weights, read_weights


@dataclass(frozen=True)
class Model:
    """A trained model and what is known of it."""

    net: nn.Module
    """In evaluation mode."""
    recipe: Recipe
    facts: Facts
    metadata: dict[str, Any]
    """Everything its file says: the recipe, the seed, the command, measured figures."""
    path: Path
    tuned: tuple[Tuned, ...] = ()
    """Samplers that `phin tune` found for it, the newest first."""

    @property
    def tuned_file(self) -> Path:
        """Where these are kept."""
        return _tuned_file(self.path)


SHIPPED = Path(__file__).parents[1] / "weights"


def shipped() -> list[str]:
    """Names of the models that come with phin."""
    return sorted(file.stem for file in SHIPPED.glob("*.safetensors"))


def load(source: str | Path) -> Model:
    """A trained model, on the machine's accelerator if it has one.

    Args:
        source: The name of a model that comes with phin ("numbers"), the folder of a run ("./numbers" if it
            bears such a name), or a .safetensors file; or the folder of one of DDPM's networks as the library
            `diffusers` publishes them, such as google/ddpm-cifar10-32.

    Raises:
        PhinError: There is no such model, or its file is damaged or not phin's.
    """
    path = _find(source)
    tensors, metadata = published.read(path) if path.name == published.WEIGHTS else read_weights(path)
    if any(
        name.startswith("ema.") for name in tensors
    ):  # a checkpoint: the averaged weights are the ones to use
        tensors = {name.removeprefix("ema."): t for name, t in tensors.items() if name.startswith("ema.")}
    recipe, facts = restore(metadata)
    net = recipe.model(facts)
    load_weights(net, tensors, path)
    found = tuned.read(_tuned_file(path), net)
    return Model(net.to(preferred()).eval(), recipe, facts, metadata, path, found)


def _tuned_file(path: Path) -> Path:
    """Beside the weights; of a model that comes with phin, in the user's cache."""
    folder = cache_folder() / "tuned" if path.parent == SHIPPED else path.parent
    return folder / f"{path.stem}.tuned.json"


def _find(source: str | Path) -> Path:
    if str(source) in shipped():
        return SHIPPED / f"{source}.safetensors"
    path = Path(source)
    if path.is_dir():
        for name in ("best.safetensors", "last.safetensors", published.WEIGHTS):
            if (path / name).is_file():
                return path / name
        if (path / published.PICKLE).is_file():
            raise PhinError(
                f"{path / published.PICKLE} is a pickle, which could run any program, and is not read; "
                f"get {published.WEIGHTS} in its place"
            )
        raise PhinError(f"the folder {path} has no weights (best.safetensors); name the folder of a run")
    if path.suffix == ".safetensors":
        if not path.is_file():
            raise PhinError(f"there is no file {path}")
        return path
    choices = [*shipped(), "a run's folder or a .safetensors file"]
    raise PhinError(f"unknown model {str(source)!r}; give {', '.join(choices)}")
