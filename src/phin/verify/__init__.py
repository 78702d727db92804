"""The laws of diffusion, each measured in two independent ways: `phin verify`."""

from types import ModuleType

from . import (
    bounds,
    forward,
    ground,
    guidance,
    latents,
    likelihood,
    losses,
    parameterizations,
    schedules,
    solvers,
)
from .law import Case, Law, Measured, Unit, laws_of

__all__ = ["CHAPTERS", "Case", "Law", "Measured", "Unit", "laws"]

CHAPTERS: dict[str, ModuleType] = {
    "ground": ground,
    "forward": forward,
    "schedules": schedules,
    "parameterizations": parameterizations,
    "losses": losses,
    "bounds": bounds,
    "likelihood": likelihood,
    "solvers": solvers,
    "guidance": guidance,
    "latents": latents,
}
"""Name -> module, whose laws these are; its docstring says what they are about."""


def laws() -> dict[str, list[Law]]:
    """All laws, by chapter."""
    return {name: list(laws_of(module)) for name, module in CHAPTERS.items()}
