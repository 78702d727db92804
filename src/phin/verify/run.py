"""Checks laws, and tells what came of them."""

import math
import time
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import torch

from phin.errors import PhinError

from . import CHAPTERS, Law, Measured, laws_of


class Finding(NamedTuple):
    """A law, and what was measured."""

    chapter: str
    law: Law
    measured: Measured

    @property
    def holds(self) -> bool:
        """The verdict."""
        return self.law.holds(self.measured)


def chosen(only: str = "") -> list[tuple[str, Law]]:
    """The laws, with their chapters, that have a text in their name, equation, paper or chapter.

    Raises:
        PhinError: There is none.
    """
    everything = [(name, law) for name, module in CHAPTERS.items() for law in laws_of(module)]
    wanted = only.casefold()
    found = [
        (chapter, law)
        for chapter, law in everything
        if wanted in "\n".join([chapter, law.name, law.equation, law.reference]).casefold()
    ]
    if not found:
        raise PhinError(
            f"no law has {only!r} in its name, equation, paper or chapter; chapters are {', '.join(CHAPTERS)}"
        )
    return found


def check(
    laws: Iterable[tuple[str, Law]], advance: Callable[[], None] = lambda: None
) -> tuple[list[Finding], float]:
    """Measures laws one by one on one thread: what came of each, and the seconds that all took."""
    threads, begun = torch.get_num_threads(), time.perf_counter()
    torch.set_num_threads(1)  # the arrays are small, and sums are added up in one order
    findings = []
    try:
        for chapter, law in laws:
            findings.append(Finding(chapter, law, law.measure()))
            advance()
    finally:
        torch.set_num_threads(threads)
    return findings, time.perf_counter() - begun


def facts(findings: Iterable[Finding], seconds: float) -> dict[str, Any]:
    """What came of the laws, JSON-able; a number that is not finite is None."""
    lines = [
        {
            "chapter": chapter,
            "name": law.name,
            "equation": law.equation,
            "paper": law.reference,
            "how": law.how,
            "expected": _finite(measured.expected),
            "measured": _finite(measured.measured),
            "error": _finite(measured.error),
            "tolerance": law.tolerance,
            "unit": law.unit.value,
            "holds": law.holds(measured),
            "case": measured.case,
            "cases": measured.cases,
            "seconds": round(measured.seconds, 3),
        }
        for chapter, law, measured in findings
    ]
    held = sum(line["holds"] for line in lines)
    return {"laws": lines, "held": held, "failed": len(lines) - held, "seconds": round(seconds, 1)}


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
