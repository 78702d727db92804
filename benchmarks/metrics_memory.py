"""Peak memory and time of measuring a million features, which are never there all at once.

    python benchmarks/metrics_memory.py

Features come in batches, as from a network, and all measures are taken of them: the Frechet distance and the
Inception Score of all, the others of the first 5,000. The peak is that of the whole process; what it holds
before the first batch, which is Python with torch, is told apart.
"""

import argparse
import time

from phin.diffusion.noise import normal
from phin.metrics.features import Seen
from phin.metrics.measures import MEASURES
from phin.metrics.summary import BATCH, Summary
from phin.training.run import peak_memory

CLASSES = 10


def summarise(n: int, dims: int, kept: int, seed: int) -> Summary:
    """The summary of n Gaussian features."""
    summary = Summary(kept)
    for start in range(0, n, BATCH):
        places = range(start, min(start + BATCH, n))
        features = normal(seed, "features", [start], (len(places), dims))[0]
        summary.add(places, Seen(features, features[:, :CLASSES]))
    return summary


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--n", type=int, default=1_000_000)
    parser.add_argument("--dims", type=int, default=128)
    parser.add_argument("--kept", type=int, default=5_000)
    asked = parser.parse_args()
    before, begun = peak_memory() or 0, time.process_time()
    sets = [summarise(asked.n, asked.dims, asked.kept, seed) for seed in (0, 1)]
    for measure in MEASURES.values():
        found = measure.of(*sets)
        print(f"{measure.title}: {found.value:.6f} ± {found.error:.6f}")
    peak = peak_memory() or 0
    seconds, own = time.process_time() - begun, peak - before
    print(f"{asked.n:,} features of {asked.dims} dimensions, twice: {seconds:.0f} s of processor time")
    print(f"peak {peak / 1e6:.0f} MB, of which {own / 1e6:.0f} MB are not Python and torch")


if __name__ == "__main__":
    main()
