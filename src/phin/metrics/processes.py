"""One measurement by several processes: each sees a part of the pictures, and all know the whole."""

from functools import cache
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor


def process() -> tuple[int, int]:
    """The number of this process, and how many there are; (0, 1) unless they have been joined."""
    joined = dist.is_available() and dist.is_initialized()
    return (dist.get_rank(), dist.get_world_size()) if joined else (0, 1)


def whole(part: Tensor) -> Tensor:
    """All rows, of which each process has every so many."""
    parts = gathered(part)
    rows = part.new_empty(sum(map(len, parts)), *part.shape[1:])
    for rank, own in enumerate(parts):
        rows[rank :: len(parts)] = own
    return rows


def gathered(part: Tensor) -> list[Tensor]:
    """The part of every process, in their order; they may have different numbers of rows."""
    if process()[1] == 1:
        return [part]
    group = _for_cpu(dist.group.WORLD)
    rows = [torch.zeros((), dtype=torch.int64) for _ in range(process()[1])]
    dist.all_gather(rows, torch.tensor(len(part)), group)
    padded = part.new_zeros(int(max(rows)), *part.shape[1:])
    padded[: len(part)] = part
    parts = [torch.empty_like(padded) for _ in rows]
    dist.all_gather(parts, padded, group)
    return [found[:count] for found, count in zip(parts, map(int, rows), strict=True)]


@cache
def _for_cpu(joined: Any) -> Any:
    """The same processes, joined for tensors on the CPU, which NCCL, for GPUs, does not take."""
    return joined if "gloo" in dist.get_backend(joined) else dist.new_group(backend="gloo")
