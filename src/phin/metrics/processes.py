"""One measurement by several processes: each sees a part of the pictures, and all know the whole."""

import torch
import torch.distributed as dist
from torch import Tensor

from phin.nets.device import preferred


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
    # NCCL, which joins GPUs, takes no tensors of the CPU.
    device = preferred() if dist.get_backend() == "nccl" else torch.device("cpu")
    rows = [torch.zeros((), dtype=torch.int64, device=device) for _ in range(process()[1])]
    dist.all_gather(rows, torch.tensor(len(part), device=device))
    padded = part.new_zeros(int(max(rows)), *part.shape[1:], device=device)
    padded[: len(part)] = part.to(device)
    parts = [torch.empty_like(padded) for _ in rows]
    dist.all_gather(parts, padded)
    return [found[:count].to(part.device) for found, count in zip(parts, map(int, rows), strict=True)]
