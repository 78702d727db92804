"""Which device models run on."""

import os

import torch

from phin.nets.threads import settle

TRUE = ("1", "true", "yes", "y", "on", "t")  # as Accelerate reads its variables


def preferred() -> torch.device:
    """The machine's accelerator, if it has one and ACCELERATE_USE_CPU does not forbid it; else the CPU.

    Of several, each of the processes that `accelerate launch` or `torchrun` starts has its own. Whatever
    loads or trains a model asks this first: so the threads of the CPU are settled here, too.
    """
    settle()
    forbidden = os.environ.get("ACCELERATE_USE_CPU", "").lower() in TRUE
    if forbidden or not torch.accelerator.is_available():
        return torch.device("cpu")
    kind = torch.accelerator.current_accelerator()
    assert kind is not None
    place = int(os.environ.get("LOCAL_RANK", "0")) % torch.accelerator.device_count()
    return torch.device(kind.type, place)
