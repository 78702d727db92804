"""Phin trains, samples and measures diffusion models, on the machine you have."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from phin.errors import PhinError as PhinError
    from phin.models import Model as Model
    from phin.models import load as load
    from phin.models import sample as sample
    from phin.models import samples as samples
    from phin.models import stream as stream
    from phin.recipes import RECIPES as RECIPES
    from phin.recipes import train as train

__version__ = "0.1.0"

# `import phin` takes milliseconds; torch is imported when the first of these is used.
_HOMES = {
    "PhinError": "phin.errors",
    "Model": "phin.models",
    "load": "phin.models",
    "sample": "phin.models",
    "samples": "phin.models",
    "stream": "phin.models",
    "RECIPES": "phin.recipes",
    "train": "phin.recipes",
}
__all__ = ["RECIPES", "Model", "PhinError", "__version__", "load", "sample", "samples", "stream", "train"]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'phin' has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_HOMES[name]), name)
