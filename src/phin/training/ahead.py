"""Batches that are made while the device computes."""

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

Made = TypeVar("Made")


class Ahead(Generic[Made]):
    """A function of (step, rows) that is called for the next step, in a thread, before anybody asks for that.

    Its tensors are in pinned memory, from which a GPU fetches them by itself. The function must be pure; so
    the results are the same, in whatever order they are asked for.

    Args:
        make: (step, rows) -> tensors, in tuples and dicts.
    """

    def __init__(self, make: Callable[[int, slice], Made]) -> None:
        self.make = make
        self.thread = ThreadPoolExecutor(1, "ahead")
        self.waiting: tuple[int, slice, Future[Made]] | None = None

    def __call__(self, step: int, rows: slice) -> Made:
        """What the function gives; whatever it raises is raised here."""
        if self.waiting is None or self.waiting[:2] != (step, rows):
            self._begin(step, rows)
        assert self.waiting is not None
        made = self.waiting[2].result()
        self._begin(step + 1, rows)
        return made

    def _begin(self, step: int, rows: slice) -> None:
        self.waiting = step, rows, self.thread.submit(self._pinned, step, rows)

    def _pinned(self, step: int, rows: slice) -> Made:
        made: Any = self.make(step, rows)
        if not torch.cuda.is_available():
            return made
        return pytree.tree_map_only(Tensor, Tensor.pin_memory, made)
