"""What the length of a chain does, and what its schedule: one network, the same measures.

    python experiments/chains.py --minutes 10

First, chains of T steps of the cosine schedule, trained by DDPM's loss: the shorter the chain, the more each
step has to guess at once, and the more noise is left to the decoder. Then, schedules in continuous time with
equal ends. Under DDPM's loss each spends its times on other levels. The bound depends on them by the ends
alone: trained by it, they differ in the noise of their gradients, which the learned one makes small.
"""

import sys
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal

from experiment import Comparison, Subject, main

Name = Literal["linear", "cosine", "geometric", "learned"]
SCHEDULES: dict[Name, str] = {
    "linear": "linear(log_snr_max=13.3)",  # to -10.05
    "cosine": "cosine(log_snr_max=13.3, log_snr_min=-10)",
    "geometric": "geometric(sigma_min=0.0013, sigma_max=148)",  # from 13.29 to -9.99
    "learned": "learned(log_snr_max=13.3, log_snr_min=-10.0)",
}


@dataclass(frozen=True)
class Chains(Comparison):
    """Lengths of chains, and schedules."""

    lengths: tuple[int, ...] = (10, 100, 1000)
    """T of each chain."""
    schedules: tuple[Name, ...] = tuple(SCHEDULES)
    """Schedules in continuous time."""
    steps: int = 100
    """Of sampling; of a chain, as many as it has."""

    name: ClassVar[str] = "chains"

    def run(self) -> str:
        base = self.recipe("mnist-ddpm")
        subjects: dict[str, tuple[Subject, dict[str, Any]]] = {}
        for length in self.lengths:
            chain = f"discrete(cosine, T={length})"
            subject = self.train(f"chain-{length}", replace(base, density=chain))
            subjects[f"chain, T = {length:,}"] = subject, {"grid": chain, "steps": min(length, self.steps)}
        for objective, words in (("simple", "DDPM's loss"), ("continuous_bound", "the bound")):
            for name in self.schedules:
                if name == "learned" and objective == "simple":
                    continue  # it would flee to where errors are small
                recipe = replace(base, density=SCHEDULES[name], objective=objective)
                grid = SCHEDULES["cosine" if name == "learned" else name]
                subject = self.train(f"{name}-{objective}", recipe)
                subjects[f"{name}, {words}"] = subject, {"grid": grid, "steps": self.steps}
        return self.compare(subjects)


if __name__ == "__main__":
    sys.exit(main(Chains))
