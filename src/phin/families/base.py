"""What all families share that draw in one pass of their network."""

import abc

import torch
from torch import Tensor, nn

from phin.diffusion.noise import Noise


class OneShot(nn.Module, abc.ABC):
    """A generative model without levels: noise goes in, and what comes out is the sample.

    It sees the data in their own range; images are in [-1, 1].
    """

    @abc.abstractmethod
    def generate(self, count: int, noise: Noise, label: Tensor | None = None) -> Tensor:
        """Samples (B, C, *sides) in the range of the data.

        Args:
            count: B.
            noise: Draws all that is random, a row a sample, so that sample k does not depend on the batch.
            label: (B,) of a model of labelled data; -1, or None, is any.
        """

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        return next(self.parameters()).device
