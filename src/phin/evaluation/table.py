"""Figures in words."""

from collections.abc import Mapping
from typing import Any

HEADING = ["", "generated", "real", "generated / real", "n"]


def plus_minus(estimate: Mapping[str, Any], digits: int = 3) -> str:
    """A number and its standard error."""
    return f"{estimate['value']:.{digits}g} ± {estimate['error']:.2g}"


def percent(share: float | None, error: float | None = None) -> str:
    """A share, and its standard error if there is one; nothing of nothing."""
    if share is None:
        return ""
    return f"{100 * share:.2f} %" + ("" if error is None else f" ± {100 * error:.2f}")
