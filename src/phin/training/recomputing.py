"""Blocks of networks that are computed twice in a training step, so that what is inside them is not kept.

Most of the memory of training is what the backward pass needs of the forward one. A block that keeps no more
than its inputs, and is computed again when its turn comes, takes a fraction of it.

References:
    Training deep nets with sublinear memory cost (Chen et al., 2016), arXiv:1604.06174.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial

from torch import nn
from torch.utils.checkpoint import checkpoint

from phin.errors import PhinError
from phin.nets import classifier, ddpm_unet, unet

BLOCKS = (unet.Block, unet.SelfAttention, ddpm_unet.Block, classifier.Block)
"""What is computed again as a whole."""


def blocks(model: nn.Module) -> Sequence[nn.Module]:
    """The blocks of a model.

    Raises:
        PhinError: It has none.
    """
    found = [part for part in model.modules() if isinstance(part, BLOCKS)]
    if not found:
        raise PhinError(
            "recompute = True: this kind of model has no blocks to compute again; leave it out, and take a "
            "smaller batch if memory is short"
        )
    return found


@contextmanager
def recomputing(blocks: Sequence[nn.Module]) -> Iterator[None]:
    """Within it, blocks keep no more than their inputs. Results and gradients are the same, bit for bit."""
    for block in blocks:
        block.forward = partial(checkpoint, block.forward, use_reentrant=False)
    try:
        yield
    finally:
        for block in blocks:
            del block.forward  # the instance's own: that of its class is left
