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

from collections.abc import Mapping

import torch
from torch import Tensor, nn

SMALLEST = 32  # side of a matrix that is worth Muon's work
MOMENTS = ("step", "exp_avg", "exp_avg_sq", "momentum_buffer")


class Optimizer:
    """Muon and AdamW, each on its share of a model's parameters.

    Args:
        model: What to train; parameters that need no gradient are left alone.
        betas: AdamW's.
        weight_decay: Of matrices and kernels.
        muon: Whether to use Muon at all.
    """

    def __init__(
        self, model: nn.Module, betas: tuple[float, float], weight_decay: float, muon: bool = True
    ) -> None:
        embedded = {id(m.weight) for m in model.modules() if isinstance(m, nn.Embedding)}
        self.plain: dict[str, nn.Parameter] = {}
        self.kernels: dict[str, nn.Parameter] = {}
        for name, p in model.named_parameters():
            if p.requires_grad:
                inner = p.ndim > 1 and min(len(p), p[0].numel()) >= SMALLEST and id(p) not in embedded
                (self.kernels if muon and inner else self.plain)[name] = p
        # torch's Muon takes matrices only: these share their memory with the kernels.
        self.matrices = {name: nn.Parameter(as_matrix(p.detach(), p)) for name, p in self.kernels.items()}
        decayed = [p for p in self.plain.values() if p.ndim > 1]
        others = [p for p in self.plain.values() if p.ndim <= 1]
        groups = [{"params": decayed, "weight_decay": weight_decay}, {"params": others, "weight_decay": 0.0}]
        self.parts: list[torch.optim.Optimizer] = []
        if self.plain:
            self.parts.append(torch.optim.AdamW([g for g in groups if g["params"]], betas=betas, fused=True))
        if self.matrices:
            self.parts.append(
                torch.optim.Muon(
                    self.matrices.values(),
                    weight_decay=weight_decay,
                    adjust_lr_fn="match_rms_adamw",
                    ns_steps=4,
                )
            )

    def step(self, lr: float) -> None:
        """Moves the parameters by their gradients at this learning rate."""
        for name, matrix in self.matrices.items():
            kernel = self.kernels[name]
            matrix.grad = None if kernel.grad is None else as_matrix(kernel.grad, kernel)
        for part in self.parts:
            for group in part.param_groups:
                group["lr"] = lr
            part.step()

    def zero_grad(self) -> None:
        """Forgets the gradients."""
        for p in (*self.plain.values(), *self.kernels.values()):
            p.grad = None

    def tensors(self) -> dict[str, Tensor]:
        """Its state, by name: `parameter.moment`."""
        return {
            f"{name}.{key}": state[key]
            for name, p, state in self._states()
            for key in MOMENTS
            if key in state
        }

    def load(self, tensors: Mapping[str, Tensor]) -> None:
        """Takes over a state that `tensors` gave."""
        for name, p, state in self._states():
            for key in MOMENTS:
                if (value := tensors.get(f"{name}.{key}")) is not None:
                    like = p if value.ndim else value  # the parameter's memory format, too
                    state[key] = torch.empty_like(like, device=p.device).copy_(value)

    def _states(self) -> list[tuple[str, Tensor, dict[str, Tensor]]]:
        named = zip(self.parts, filter(None, (self.plain, self.matrices)), strict=True)
        return [(name, p, part.state[p]) for part, parameters in named for name, p in parameters.items()]


def as_matrix(weight: Tensor, like: Tensor) -> Tensor:
    """A weight (outputs, inputs, *kernel), or its gradient, as a matrix (outputs, all else).

    The columns are in the order of `like`'s memory, so that `like` itself is viewed and never copied.
    """
    if weight.ndim <= 2:
        return weight
    return (weight if like.is_contiguous() else weight.movedim(1, -1)).flatten(1)
