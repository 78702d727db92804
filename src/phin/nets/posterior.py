"""A denoiser that knows that pixels are whole numbers: Bayes' rule in place of a regression."""

from collections.abc import Iterator
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn


class PosteriorMean(torch.autograd.Function):
    """sum_k p_k v_k with p = softmax(logits - precision (y - v)² / 2), over the last axis.

    Written out because all its cost is in going through memory, K probabilities for each pixel: here, few
    times, and a few examples at a time. With e = v - mean, whose average under p vanishes,

        d mean / d logit_k = p_k e_k,    d mean / dy = precision E e²,
        d mean / d precision = (y - mean) E e² - E e³ / 2.
    """

    generate_vmap_rule = True

    @staticmethod
    def forward(logits: Tensor, y: Tensor, precision: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """The mean, and p; y and precision are of the mean's shape."""
        line = torch.stack([torch.ones_like(values), -values])

        def part(logits: Tensor, y: Tensor, precision: Tensor) -> Tensor:
            root = (precision / 2).sqrt()
            off = torch.stack([root * y, root], -1) @ line
            return torch.addcmul(logits, off, off, value=-1).softmax(-1)

        p = torch.cat([part(*rows) for rows in _parts(logits, y, precision)])
        return p @ values, p

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, ...], output: tuple[Tensor, Tensor]) -> None:
        """Keeps what `backward` needs."""
        ctx.mark_non_differentiable(output[1])
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(*inputs[1:], *output)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor | None) -> tuple[Tensor | None, ...]:
        """The chain rule."""
        gradient, _ = gradients
        if gradient is None:
            return None, None, None, None
        y, precision, values, mean, p = ctx.saved_tensors
        whole = ctx.needs_input_grad[1] or ctx.needs_input_grad[2]

        def part(p: Tensor, mean: Tensor, gradient: Tensor) -> tuple[Tensor, Tensor, Tensor]:
            e = values - mean[..., None]
            weighed = p * e
            if not whole:
                return weighed * gradient[..., None], mean, mean
            square = weighed * e
            return weighed * gradient[..., None], square.sum(-1), torch.linalg.vecdot(square, e)

        parts = [part(*rows) for rows in _parts(p, mean, gradient)]
        by_logits, second, third = (torch.cat(column) for column in zip(*parts, strict=True))
        if not whole:
            return by_logits, None, None, None
        by_precision = gradient * ((y - mean) * second - third / 2)
        return by_logits, gradient * precision * second, by_precision, None


def _parts(*tensors: Tensor) -> Iterator[tuple[Tensor, ...]]:
    """The tensors in parts of some examples each, such that what is made of a part stays in the cache."""
    rows = max(1, _CACHED // max(1, tensors[0][0].numel()))
    return zip(*(tensor.split(rows) for tensor in tensors), strict=True)


_CACHED = 2**20  # numbers


class Posterior(nn.Module):
    """x̂ = E[x | z] for data on a grid of values, by Bayes' rule in each pixel.

    The network inside says what it expects of a pixel from all that surrounds it, as logits of the values
    v_1 .. v_n between -1 and 1; what the pixel's own observation z = alpha x + sigma eps says is known
    exactly, and needs no learning:

        p(x = v_k | z) ~ exp(logit_k - (SNR / 2) (z / alpha - v_k)²),    x̂ = sum_k p(x = v_k | z) v_k.

    At a high SNR x̂ falls on the grid by itself; a regression would have to round, to a precision that few
    networks have, and every miss counts in a likelihood. It predicts x: use it with the parameterization `x`.

    Args:
        net: `net(z, log_snr, **cond)` with `values` channels for each channel of z.
        values: How many values, equally spaced in [-1, 1].
    """

    grid: Tensor

    def __init__(self, net: nn.Module, values: int = 256) -> None:
        super().__init__()
        self.net = net
        self.values = values
        self.register_buffer("grid", torch.linspace(-1, 1, values), persistent=False)

    def forward(
        self,
        z: Float[Tensor, "b c *sides"],
        log_snr: Float[Tensor, "b"],
        label: Tensor | None = None,
        text: Tensor | None = None,
        prompt: Tensor | None = None,
        image: Tensor | None = None,
    ) -> Float[Tensor, "b c *sides"]:
        """x̂; z is in units in which alpha² + sigma² = 1."""
        told = {"label": label, "text": text, "prompt": prompt, "image": image}
        cond = {name: value for name, value in told.items() if value is not None}
        logits = self.net(z, log_snr, **cond).unflatten(1, (z.shape[1], self.values)).movedim(2, -1)
        with torch.autocast(z.device.type, enabled=False):
            logits = logits.to(torch.promote_types(z.dtype, torch.float32))
            wide = log_snr.to(logits).view(-1, *[1] * (z.ndim - 1))
            y = z.to(logits) / torch.sigmoid(wide).sqrt()
            return PosteriorMean.apply(logits, y, wide.exp().expand_as(y), self.grid.to(logits))[0]
