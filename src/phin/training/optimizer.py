"""The optimizer: Muon for the matrices inside a network, AdamW for all else.

A step of Muon replaces a matrix's momentum by the nearest orthogonal matrix, so that all its directions are
learned at the same pace. Convolution kernels are matrices too, (outputs, inputs x kernel). Embeddings,
gains, biases, and layers with few inputs or outputs, are left to AdamW. Both take the same learning rate:
Muon's steps are scaled to the size of AdamW's.

References:
    Muon: an optimizer for hidden layers (Jordan et al., 2024). Muon is scalable for LLM training (Liu et
        al., 2025),
    arXiv:2502.16982, section 2.2 (the scale).
    Decoupled Weight Decay Regularization (Loshchilov and Hutter, 2019), arXiv:1711.05101.
"""

import math
from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.optim.adamw import adamw

SMALLEST = 32  # side of a matrix that is worth Muon's work
MOMENTUM = 0.95
ITERATIONS = 4
QUINTIC = (3.4445, -4.7750, 2.0315)
"""Coefficients of Newton-Schulz: steep at 0, so that few iterations do, which end within 0.68 and 1.21."""


class Optimizer:
    """Muon and AdamW, each on its share of a model's parameters.

    torch's classes of optimizers import its compiler, which takes every training a second and 70 MB or more.
    AdamW is torch's function; Muon, which has none, is here.

    Args:
        model: What to train; parameters that need no gradient are left alone.
        betas: AdamW's.
        weight_decay: Of matrices and kernels.
        muon: Whether to use Muon at all.
    """

    def __init__(
        self, model: nn.Module, betas: tuple[float, float], weight_decay: float, muon: bool = True
    ) -> None:
        self.betas, self.weight_decay = betas, weight_decay
        embedded = {id(m.weight) for m in model.modules() if isinstance(m, nn.Embedding)}
        self.plain: dict[str, nn.Parameter] = {}
        self.kernels: dict[str, nn.Parameter] = {}
        for name, p in model.named_parameters():
            if p.requires_grad:
                inner = p.ndim > 1 and min(len(p), p[0].numel()) >= SMALLEST and id(p) not in embedded
                (self.kernels if muon and inner else self.plain)[name] = p
        self.moments = {
            name: {
                "step": torch.zeros((), device=p.device),
                "exp_avg": torch.zeros_like(p),
                "exp_avg_sq": torch.zeros_like(p),
            }
            for name, p in self.plain.items()
        } | {name: {"momentum_buffer": torch.zeros_like(as_matrix(p, p))} for name, p in self.kernels.items()}

    @torch.no_grad()
    def step(self, lr: float) -> None:
        """Moves the parameters by their gradients at this learning rate."""
        for decayed in (True, False):
            moved = [name for name, p in self.plain.items() if p.grad is not None and (p.ndim > 1) == decayed]
            adamw(
                [self.plain[name] for name in moved],
                [grad for name in moved if (grad := self.plain[name].grad) is not None],
                [self.moments[name]["exp_avg"] for name in moved],
                [self.moments[name]["exp_avg_sq"] for name in moved],
                [],
                [self.moments[name]["step"] for name in moved],
                fused=True,
                amsgrad=False,
                beta1=self.betas[0],
                beta2=self.betas[1],
                lr=lr,
                weight_decay=self.weight_decay if decayed else 0.0,
                eps=1e-8,
                maximize=False,
            )
        for name, kernel in self.kernels.items():
            if kernel.grad is not None:
                matrix, grad = as_matrix(kernel, kernel), as_matrix(kernel.grad, kernel)
                momentum = self.moments[name]["momentum_buffer"].lerp_(grad, 1 - MOMENTUM)
                update = orthogonal(grad.lerp(momentum, MOMENTUM))
                if self.weight_decay:
                    matrix.mul_(1 - lr * self.weight_decay)
                matrix.add_(update, alpha=-lr * 0.2 * math.sqrt(max(matrix.shape)))

    def zero_grad(self) -> None:
        """Forgets the gradients."""
        for p in (*self.plain.values(), *self.kernels.values()):
            p.grad = None

    def tensors(self) -> dict[str, Tensor]:
        """Its state, by name: `parameter.moment`."""
        return {
            f"{name}.{key}": moment for name, known in self.moments.items() for key, moment in known.items()
        }

    def load(self, tensors: Mapping[str, Tensor]) -> None:
        """Takes over a state that `tensors` gave."""
        for name, moment in self.tensors().items():
            if (value := tensors.get(name)) is not None:
                moment.copy_(value)


def orthogonal(matrix: Tensor) -> Tensor:
    """Nearly U V' of a matrix U S V', by iterations of Newton-Schulz in bfloat16.

    Each is X -> a X + (b A + c A^2) X with A = X X', which takes a singular value s to a s + b s^3 + c s^5.
    """
    a, b, c = QUINTIC
    wide = matrix.bfloat16()
    wide = wide.T if len(matrix) > matrix.shape[1] else wide
    wide = wide / wide.norm().clamp(min=1e-7)  # singular values are 1 at most, then
    for _ in range(ITERATIONS):
        gram = wide @ wide.T
        wide = torch.addmm(wide, torch.addmm(gram, gram, gram, beta=b, alpha=c), wide, beta=a)
    return wide.T if len(matrix) > matrix.shape[1] else wide


def as_matrix(weight: Tensor, like: Tensor) -> Tensor:
    """A weight (outputs, inputs, *kernel), or its gradient, as a matrix (outputs, all else).

    The columns are in the order of `like`'s memory, so that `like` itself is viewed and never copied.
    """
    if weight.ndim <= 2:
        return weight
    return (weight if like.is_contiguous() else weight.movedim(1, -1)).flatten(1)
