"""What is measured: samples of a model, which all processes draw together, and how they were drawn."""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import asdict
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from phin import models
from phin.errors import PhinError
from phin.metrics.processes import gathered, process, whole
from phin.metrics.summary import BATCH
from phin.models import Model, Watch
from phin.sampling import Guide

AT_ONCE = 64  # samples

Bar = Callable[[int, str], AbstractContextManager[Callable[[int], None]]]
"""(how many, what is done with them) -> what is told how many more are done."""


@contextmanager
def silent(total: int, doing: str) -> Iterator[Callable[[int], None]]:
    """No bar."""
    yield lambda done: None


class Drawing:
    """How samples of a model are drawn, and how long it has taken so far.

    Args:
        model: Any that samples.
        seed: Of the sampler's noise.
        watch: Sees every state of every batch that is denoised.
        guide: As of `samples`.
        bar: Shows how far it is.
        choices: As of `samples`.

    Raises:
        PhinError: On a model that does not sample, or a choice that it does not have.
    """

    def __init__(
        self,
        model: Model,
        seed: int = 0,
        watch: Watch | None = None,
        guide: Guide | None = None,
        bar: Bar = silent,
        choices: Mapping[str, Any] = {},
    ) -> None:
        self.model, self.seed, self.bar, self.choices = model, seed, bar, choices
        self.watch, self.guide = watch, guide
        self._draw = models.drawer(model, seed, watch, guide, choices)
        self._seconds = 0.0

    @property
    def facts(self) -> dict[str, Any]:
        """What samples depend on beside the weights, JSON-able."""
        config = models.configured(self.model, self.choices, self.guide)
        chosen = {} if config is None else asdict(config)
        return {**chosen, "seed": self.seed, **(self.guide.facts if self.guide else {})}

    @property
    def seconds(self) -> float:
        """That the slowest process has drawn for; to be asked for by all of them."""
        return max(float(part) for part in gathered(torch.tensor([self._seconds])))

    def batches(
        self, n: int, cond: Mapping[str, Tensor] = {}, at_once: int = AT_ONCE
    ) -> Iterator[tuple[range, Float[Tensor, "rows c *sides"]]]:
        """Samples 0 to n - 1 and their numbers, up to `BATCH` together; each process has every so many.

        Args:
            n: How many.
            cond: The condition of each, n rows; none is an unconditional model.
            at_once: How many are drawn at once.

        Raises:
            PhinError: Samples that are not finite.
        """
        rank, processes = process()
        places = range(rank, n, processes)
        with self.bar(len(places), "drawing") as told:

            def drawn(part: range) -> Tensor:
                own = {name: value[part.start : part.stop : part.step] for name, value in cond.items()}
                begun = time.perf_counter()
                x = self._draw(self.model.facts.shape, own, part).cpu()
                self._seconds += time.perf_counter() - begun
                self._check(x, part)
                told(len(part))
                return x

            for rows in _parts(places, BATCH):
                yield rows, torch.cat([drawn(part) for part in _parts(rows, at_once)])

    def together(
        self, n: int, cond: Mapping[str, Tensor] = {}, at_once: int = AT_ONCE
    ) -> Float[Tensor, "n c *sides"]:
        """The samples of `batches`, all of them known to all processes."""
        return whole(torch.cat([x for _, x in self.batches(n, cond, at_once)]))

    def prompted(self, prompts: Sequence[str]) -> list[Tensor]:
        """A sample of each prompt, all of them known to all processes; each draws every so many.

        Raises:
            PhinError: As `samples`; and samples that are not finite.
        """
        rank, processes = process()
        begun, done = time.perf_counter(), dict[int, Tensor]()
        with self.bar(len(range(rank, len(prompts), processes)), "drawing") as told:
            how = {"seed": self.seed, "watch": self.watch, "guide": self.guide, **self.choices}
            for number, x in models.drawn(self.model, prompts, share=slice(rank, None, processes), **how):
                self._check(x[None], [number])
                done[number] = x
                told(1)
        self._seconds += time.perf_counter() - begun
        own = [done[number] for number in sorted(done)]
        widths = whole(torch.tensor([x.shape[-1] for x in own]))  # of numbers, a cell for each digit
        widest = int(widths.max())
        alike = whole(torch.stack([F.pad(x, (0, widest - x.shape[-1])) for x in own]))
        return [x[..., :width] for x, width in zip(alike, widths.tolist(), strict=True)]

    def _check(self, x: Tensor, numbers: Sequence[int]) -> None:
        finite = x.isfinite().flatten(1).all(1)
        if not bool(finite.all()):
            raise PhinError(
                f"sample {numbers[int(finite.int().argmin())]} that {self.model.path} drew has values that "
                "are not finite; draw with other choices, such as more steps or less guidance, or train it "
                "anew with a lower lr"
            )


def _parts(places: range, size: int) -> Iterator[range]:
    return (places[start : start + size] for start in range(0, len(places), size))
