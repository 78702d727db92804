"""Uniform dequantization: what makes a density a likelihood of 8-bit images.

Images have the 256 values v_k = 2 k / 255 - 1, and a density can put a spike on each: of the images as they
are, it would be as large as you like. With noise u, uniform over the bin of a value, which is 2 / 255 wide,
it cannot. The bin has the probability P(x) = ∫ p(x + u) du, and by Jensen's inequality

    -log P(x) <= E_u[-log p(x + u)] + D log(127.5),

with equality for a density that is flat in every bin. The difference is KL(uniform || p in the bin): nothing
makes a model that was trained on x alone fill the bins, so train it on x + u.

References:
    A note on the evaluation of generative models (Theis et al., 2016), arXiv:1511.01844, section 3.1.
"""

import math

from torch import Tensor

from .decoder import integers


def dequantized(x: Tensor, uniform: Tensor, bins: int = 256) -> Tensor:
    """x + u, spread over the bins of the values of x, which are 2 / (bins - 1) wide and centred.

    Args:
        x: Images of values 2 k / (bins - 1) - 1.
        uniform: Uniform on [0, 1), of the shape of x.
        bins: How many values there are.

    Raises:
        ValueError: x has another value.
    """
    integers(x, bins)
    return x + (uniform - 0.5) * (2 / (bins - 1))


def bin_nats(dims: int, bins: int = 256) -> float:
    """D log((bins - 1) / 2): -log of a bin's volume, which turns a density's nats into a probability's."""
    return dims * math.log((bins - 1) / 2)
