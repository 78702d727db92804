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


def test_matrices_and_kernels_decay_and_gains_and_biases_do_not() -> None:
    """Decoupled: with no gradient a step takes lr weight_decay of a weight, 0.1 0.5 = 1/20."""
    model = nn.ModuleDict({"inner": nn.Linear(32, 32), "norm": nn.LayerNorm(32), "head": nn.Linear(32, 2)})
    for p in model.parameters():
        nn.init.ones_(p)
        p.grad = torch.zeros_like(p)
    Optimizer(model, (0.9, 0.99), 0.5).step(lr=0.1)
    found = {name: p.unique().tolist() for name, p in model.named_parameters()}
    expected = {"inner.weight": 0.95, "inner.bias": 1, "norm.weight": 1, "norm.bias": 1}
    expected |= {"head.weight": 0.95, "head.bias": 1}
    assert found == {name: [pytest.approx(value)] for name, value in expected.items()}


@pytest.mark.parametrize("decay", [0.0, 0.1])
@pytest.mark.parametrize("shape", [(32, 48), (48, 32)])
def test_steps_are_those_of_torchs_classes(shape: tuple[int, int], decay: float) -> None:
    """Of its AdamW, fused, and of its Muon with the step size of AdamW, in four iterations: bit for bit."""
    torch.manual_seed(0)
    model = nn.ParameterDict({"inner": torch.randn(shape), "head": torch.randn(4, 9), "gain": torch.randn(5)})
    inner, head, gain = (nn.Parameter(model[name].detach().clone()) for name in ("inner", "head", "gain"))
    groups = [{"params": [head], "weight_decay": decay}, {"params": [gain], "weight_decay": 0.0}]
    adamw = torch.optim.AdamW(groups, betas=(0.8, 0.95), fused=True)
    muon = torch.optim.Muon([inner], weight_decay=decay, adjust_lr_fn="match_rms_adamw", ns_steps=4)
    ours = Optimizer(model, (0.8, 0.95), decay)
    for lr in (0.1, 0.03, 0.01):
        for name, theirs in {"inner": inner, "head": head, "gain": gain}.items():
            model[name].grad = torch.randn_like(theirs)
            theirs.grad = model[name].grad.clone()
        ours.step(lr)
        for theirs in (adamw, muon):
            for group in theirs.param_groups:
                group["lr"] = lr
            theirs.step()
    for name, theirs in {"inner": inner, "head": head, "gain": gain}.items():
        assert torch.equal(model[name], theirs)


def test_what_has_no_gradient_stays() -> None:
    model = network()
    weight = model.get_parameter("1.weight")
    weight.grad = torch.ones_like(weight)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    Optimizer(model, (0.9, 0.99), 0.5).step(lr=0.1)
    assert [name for name, p in model.named_parameters() if not torch.equal(p, before[name])] == ["1.weight"]


@pytest.mark.parametrize(("side", "kernels"), [(31, set[str]()), (32, {"weight"})])
def test_the_smallest_matrix_of_muon(side: int, kernels: set[str]) -> None:
    assert set(Optimizer(nn.Linear(32, side), (0.9, 0.99), 0.0).kernels) == kernels


def test_a_network_may_be_all_matrices() -> None:
    linear = nn.Linear(32, 32, bias=False)
    before = linear.weight.detach().clone()
    linear.weight.grad = torch.eye(32)
    optimizer = Optimizer(linear, (0.9, 0.99), 0.0)
    optimizer.step(0.1)
    assert not torch.equal(linear.weight, before)
    assert set(optimizer.tensors()) == {"weight.momentum_buffer"}


def test_a_loaded_state_has_the_memory_format_of_its_weight() -> None:
    def stepped() -> tuple[nn.Conv2d, Optimizer]:
        conv = nn.Conv2d(8, 8, 3).to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
        optimizer = Optimizer(conv, (0.9, 0.99), 0.0, muon=False)
        conv.weight.grad = torch.randn_like(conv.weight)
        optimizer.step(0.1)
        return conv, optimizer

    (_, first), (_, second) = stepped(), stepped()
    stored = {name: tensor.contiguous() for name, tensor in first.tensors().items()}
    second.load(stored)
    for name, tensor in second.tensors().items():
        assert torch.equal(tensor, stored[name])
        assert tensor.ndim < 4 or tensor.is_contiguous(memory_format=torch.channels_last)


def test_a_state_finds_its_weight_by_name_whatever_the_order() -> None:
    """And without the state of either part the next step is another."""
    sizes = {"a": (40, 40), "b": (4, 4), "c": (40, 40), "d": (4, 4)}

    def made(order: str) -> tuple[nn.ModuleDict, Optimizer]:
        model = nn.ModuleDict({name: nn.Linear(*sizes[name]) for name in order})
        return model, Optimizer(model, (0.9, 0.99), 0.01)

    def move(model: nn.Module, optimizer: Optimizer, phase: float) -> None:
        for name, p in model.named_parameters():
            p.grad = torch.sin(7 * p.detach() + phase + ord(name[0]))
        optimizer.step(1e-2)

    model, optimizer = made("abcd")
    for phase in (0.0, 1.0):
        move(model, optimizer, phase)
    state = {name: tensor.clone() for name, tensor in optimizer.tensors().items()}
    weights = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    move(model, optimizer, 2.0)
    for left_out in ((), ("momentum_buffer",), ("step", "exp_avg", "exp_avg_sq")):
        other, second = made("dbca")
        other.load_state_dict(weights)
        second.load({name: t for name, t in state.items() if name.rpartition(".")[2] not in left_out})
        move(other, second, 2.0)
        same = [torch.equal(p, model.get_parameter(name)) for name, p in other.named_parameters()]
        assert all(same) == (not left_out)
