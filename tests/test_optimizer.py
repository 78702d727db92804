"""The optimizer: who trains what, and that Muon's steps reach the kernels."""

import pytest
import torch
from torch import nn

from phin.training.optimizer import Optimizer, as_matrix


def network() -> nn.Sequential:
    return nn.Sequential(nn.Embedding(40, 40), nn.Linear(40, 64), nn.Conv2d(32, 48, 3), nn.Linear(64, 4))


def test_only_the_matrices_inside_are_left_to_muon() -> None:
    optimizer = Optimizer(network(), (0.9, 0.99), 0.0)
    assert set(optimizer.kernels) == {"1.weight", "2.weight"}
    assert set(optimizer.plain) == {"0.weight", "1.bias", "2.bias", "3.weight", "3.bias"}
    assert not Optimizer(network(), (0.9, 0.99), 0.0, muon=False).kernels


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_a_step_is_orthogonal_of_the_gradient_in_either_memory_format(
    memory_format: torch.memory_format,
) -> None:
    """With A = U S V' the gradient, the kernel moves by -lr 0.2 sqrt(its longer side) U V', nearly."""
    conv = nn.Conv2d(32, 48, 3)
    conv.weight.data = conv.weight.data.contiguous(memory_format=memory_format)
    before = conv.weight.detach().clone()
    torch.manual_seed(0)
    conv.weight.grad = torch.randn(48, 32, 3, 3)  # whatever its own format
    Optimizer(conv, (0.9, 0.99), 0.0).step(lr=0.1)
    u, _, v = torch.linalg.svd(conv.weight.grad.flatten(1), full_matrices=False)
    moved = (conv.weight.detach() - before).flatten(1) / (-0.1 * 0.2 * (32 * 9) ** 0.5)
    angle = (moved * (u @ v)).sum() / (moved.norm() * (u @ v).norm())
    assert angle > 0.95  # Newton-Schulz in bfloat16 comes near, not nearer
    assert moved.norm() / (u @ v).norm() == pytest.approx(1, abs=0.2)


def test_a_kernel_is_viewed_and_not_copied() -> None:
    for weight in (torch.randn(8, 6, 3, 3), torch.randn(8, 6, 3, 3).to(memory_format=torch.channels_last)):
        assert as_matrix(weight, weight).data_ptr() == weight.data_ptr()
        assert as_matrix(weight, weight).shape == (8, 54)


def test_the_state_goes_through_names() -> None:
    torch.manual_seed(0)
    one, other = network(), network()
    other.load_state_dict(one.state_dict())
    first = Optimizer(one, (0.9, 0.99), 0.01)

    def move(model: nn.Sequential, optimizer: Optimizer) -> None:
        for p in model.parameters():
            p.grad = torch.sin(p.detach() * 7)
        optimizer.step(1e-2)
        optimizer.zero_grad()

    move(one, first)
    second = Optimizer(other, (0.9, 0.99), 0.01)
    other.load_state_dict(one.state_dict())
    second.load({name: tensor.clone() for name, tensor in first.tensors().items()})
    move(one, first)
    move(other, second)
    for a, b in zip(one.parameters(), other.parameters(), strict=True):
        assert torch.equal(a, b)
