"""Several processes that do one command together, as `torchrun` or `accelerate launch` start them."""

import os


def join() -> None:
    """Joins the processes that were started together, if they were."""
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        from accelerate import PartialState

        PartialState(cpu=True)


def first() -> bool:
    """Whether this process speaks for all."""
    return os.environ.get("RANK", "0") == "0"
