"""Figures in words."""

HEADING = ["", "generated", "real", "generated / real", "n"]


def percent(share: float | None, error: float | None = None) -> str:
    """A share, and its standard error if there is one; nothing of nothing."""
    if share is None:
        return ""
    return f"{100 * share:.2f} %" + ("" if error is None else f" ± {100 * error:.2f}")
