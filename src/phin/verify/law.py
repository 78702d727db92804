"""What a law is, and how it is checked.

A law says that two ways to one number agree: a closed form and a quadrature, an equation of a paper and what
the code does, a formula and automatic differentiation. Both ways are walked, in as many cases as the law
covers (schedules, scalings, solvers, levels), and the worst of them is what is told.
"""

import math
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from enum import Enum
from typing import NamedTuple

import torch
from torch import Tensor


class Unit(Enum):
    """What a difference is measured in."""

    ABSOLUTE = ""
    RELATIVE = "relative"
    """The largest magnitude among the expected numbers of the case."""
    DEVIATIONS = "s.e."
    """Standard errors of a Monte Carlo mean: 4.5 of them are one chance in 150,000."""


class Case(NamedTuple):
    """One instance of a law: what was measured, and what it should be, of shapes that broadcast."""

    name: str
    measured: Tensor | float
    expected: Tensor | float
    deviation: Tensor | float = 1.0
    """The standard error of what was measured, where that is what differences are measured in."""


class Measured(NamedTuple):
    """What came of a law: its worst case."""

    expected: float
    measured: float
    error: float
    """In the law's unit; infinite where nothing finite was measured."""
    case: str
    cases: int
    """How many there were."""
    seconds: float


@dataclass(frozen=True)
class Law:
    """One equation of the theory."""

    name: str
    equation: str
    reference: str
    """Paper, arXiv number and equation."""
    tolerance: float
    """The largest error that passes."""
    unit: Unit
    cases: Callable[[], Iterable[Case]]
    """Measures; its docstring says how."""

    @property
    def how(self) -> str:
        """Which two ways are compared."""
        return " ".join((self.cases.__doc__ or "").split())

    def measure(self) -> Measured:
        """Measures every case, and keeps the worst."""
        begun = time.perf_counter()
        found = [(case.name, *self._worst(case)) for case in self.cases()]
        name, error, measured, expected = max(found, key=lambda one: one[1])
        return Measured(expected, measured, error, name, len(found), time.perf_counter() - begun)

    def _worst(self, case: Case) -> tuple[float, float, float]:
        """Error, measured and expected where they differ most."""
        with torch.no_grad():
            given = [torch.as_tensor(value, dtype=torch.float64) for value in case[1:]]
            measured, expected, deviation = torch.broadcast_tensors(*given)
            scale = {
                Unit.ABSOLUTE: torch.ones_like(expected),
                Unit.RELATIVE: expected.abs().amax().expand(expected.shape),
                Unit.DEVIATIONS: deviation,
            }[self.unit]
            off = (measured - expected).abs()
            errors = torch.where(off == 0, off, off / scale).nan_to_num(nan=math.inf).flatten()
            i = int(errors.argmax())
            return errors[i].item(), measured.flatten()[i].item(), expected.flatten()[i].item()

    def holds(self, measured: Measured) -> bool:
        """The verdict."""
        return measured.error <= self.tolerance


def law(
    name: str, equation: str, reference: str, tolerance: float, unit: Unit = Unit.RELATIVE
) -> Callable[[Callable[[], Iterator[Case]]], Law]:
    """Makes a law of the function that yields its cases."""
    return lambda cases: Law(name, equation, reference, tolerance, unit, cases)


def laws_of(chapter: object) -> tuple[Law, ...]:
    """The laws that a module defines, in their order."""
    return tuple(value for value in vars(chapter).values() if isinstance(value, Law))
