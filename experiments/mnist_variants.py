"""The founding papers side by side: one network, one data set, equal minutes, the same measures.

    python experiments/mnist_variants.py --minutes 10

Each recipe is trained on MNIST and measured by its bits a dimension: by the bound that fits it, DDPM's for a
chain and else VDM's in continuous time, and by the probability-flow ODE. For that the last one is meant: it
learns images with noise as wide as a grey level. Then each draws, as its recipe says but in as many steps as
the others. DDIM draws from DDPM's model.
"""

import sys
from dataclasses import dataclass, replace
from typing import Any, ClassVar

from experiment import Comparison, Subject, main

VARIANTS: dict[str, tuple[str, dict[str, Any]]] = {
    "DDPM": ("mnist-ddpm", {}),
    "improved DDPM": ("mnist-improved-ddpm", {}),
    "DDIM": ("mnist-ddpm", {"solver": "ddim"}),
    "VP SDE": ("mnist-score-vp", {}),
    "VE SDE": ("mnist-score-ve", {}),
    "sub-VP SDE": ("mnist-score-subvp", {}),
    "VDM": ("mnist-vdm", {}),
    "dequantized": ("mnist-dequantized", {}),
}
"""Title -> (recipe, what its sampling changes)."""


@dataclass(frozen=True)
class Variants(Comparison):
    """The founding papers' models of MNIST."""

    name: ClassVar[str] = "mnist_variants"

    def run(self) -> str:
        subjects: dict[str, Subject] = {}
        rows: dict[str, tuple[Subject, dict[str, Any]]] = {}
        for title, (name, sampling) in VARIANTS.items():
            if name not in subjects:
                recipe = replace(self.recipe(name), drop=0.1)  # all are told the labels, VDM's as well
                subjects[name] = self.train(name, recipe)
            rows[title] = subjects[name], {"steps": self.steps, **sampling}
        return self.compare(rows)


if __name__ == "__main__":
    sys.exit(main(Variants))
