"""Endless sets of sequences whose statistics are known: sums of sines, and walks on a circle."""

import math
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from phin.data.base import Entry
from phin.data.points import Draw, Points

LENGTH = 64
WAVES = (1, 2, 3, 5, 8, 13)
"""How many waves of each sine there are in a sequence."""
START = 2.0
"""Concentration of the first angle, about 0."""
TURN = 2 * math.pi / 32
"""Mean of a step, in radians."""
STEADY = 20.0
"""Concentration of a step."""


@dataclass(frozen=True)
class Sequences(Points):
    """Sequences (C, L) drawn as needed; unlabelled."""

    circular: bool = False
    """Whether the two channels are the cosine and the sine of an angle."""


def powers() -> Float[np.ndarray, "waves"]:
    """The mean power of each sine, E[a²] / 2: in proportion to 1 / k for k waves, and 1 together."""
    shares = 1 / np.array(WAVES)
    return shares / shares.sum()


def sines(rng: np.random.Generator, n: int) -> Float[np.ndarray, "n 1 length"]:
    """x_j = sum_k a_k sin(2 pi k j / L + phi_k), of which a_k and phi_k are random and independent.

    Phases are uniform. An amplitude is uniform between c/2 and 3c/2, so that E[a²] = 13/12 c². There is power
    at the frequencies k alone, and the variance is 1.
    """
    phase = 2 * math.pi * rng.random((n, len(WAVES), 1))
    amplitude = np.sqrt(24 / 13 * powers())[:, None] * rng.uniform(0.5, 1.5, (n, len(WAVES), 1))
    angle = 2 * math.pi / LENGTH * np.outer(WAVES, np.arange(LENGTH))
    return (amplitude * np.sin(angle + phase)).sum(1, keepdims=True)


def angles(rng: np.random.Generator, n: int) -> Float[np.ndarray, "n 2 length"]:
    """(cos theta_j, sin theta_j) of a walk on the circle, theta_{j + 1} = theta_j + a step of its own.

    theta_0 has the law VM(0, START) of von Mises, a step VM(TURN, STEADY). With A_p = I_p / I_0, ratios of
    modified Bessel functions,

        E[e^(i p theta_j)] = A_p(START) (A_p(STEADY) e^(i p TURN))^j.

    References:
        Directional Statistics (Mardia and Jupp, 2000), section 3.5.4 (the moments of von Mises' law) and
            3.4.1 (those of a sum are products).
    """
    first, steps = rng.vonmises(0, START, (n, 1)), rng.vonmises(TURN, STEADY, (n, LENGTH - 1))
    angle = np.cumsum(np.concatenate([first, steps], 1), 1)
    return np.stack([np.cos(angle), np.sin(angle)], 1)


def entry(name: str, title: str, draw: Draw, channels: int, circular: bool = False) -> Entry:
    """The registry's line of a set of sequences."""
    return Entry(
        title=title,
        shape=(channels, LENGTH),
        examples=None,
        classes=0,
        licence="none needed",
        source="drawn as needed",
        load=lambda: Sequences(name, draw, (channels, LENGTH), circular=circular),
    )


SINES = entry("sines", "Sums of sines with a known spectrum", sines, channels=1)
ANGLES = entry("angles", "Walks on a circle with von Mises steps", angles, channels=2, circular=True)
