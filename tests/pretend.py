"""A device that there is not: tensors that claim to be on a GPU, and are computed on the CPU all the same.

Whatever would fail on a GPU because two tensors are not on the same device fails here. As there, tensors of
no dimension may come from the CPU, and so may the indices by which a GPU's tensor is indexed.
"""

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode, return_and_correct_aliasing
from torch.utils._pytree import tree_flatten, tree_map_only

GPU = torch.device("lazy", 0)  # one of the few that torch on a CPU can name and guard
_aten = torch.ops.aten
MOVES = {_aten._to_copy.default, _aten.copy_.default}
INDEXED = {_aten.index.Tensor, _aten.index_put_.default, _aten.index_put.default}


class Pretended(Tensor):
    """A tensor that says that it is on the GPU."""

    inner: Tensor

    @staticmethod
    def __new__(cls, inner: Tensor) -> "Pretended":
        made = Tensor._make_wrapper_subclass(
            cls,
            inner.shape,
            strides=inner.stride(),
            storage_offset=inner.storage_offset(),
            dtype=inner.dtype,
            layout=inner.layout,
            device=torch.device("cpu"),
            dispatch_device=True,
            requires_grad=inner.requires_grad,
        )
        made.inner = inner
        return made

    @property
    def device(self) -> torch.device:  # pyright: ignore[reportIncompatibleVariableOverride]
        return GPU

    def new_tensor(self, data: Any) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        return torch.tensor(data, dtype=self.dtype, device=GPU)

    def tolist(self) -> Any:
        return self.inner.tolist()

    def __repr__(self) -> str:  # pyright: ignore[reportIncompatibleMethodOverride]
        return f"Pretended({self.inner!r})"

    __torch_function__ = torch._C._disabled_torch_function_impl  # pyright: ignore

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return dispatched(func, args, kwargs or {})


def dispatched(func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    """The result of an operation, on the device where it would be."""
    if func is torch.ops.prim.device.default:
        return GPU
    every = [leaf for leaf in tree_flatten((args, kwargs))[0] if isinstance(leaf, Tensor)]
    there = [tensor for tensor in every if isinstance(tensor, Pretended)]
    here = [tensor for tensor in every if not isinstance(tensor, Pretended) and tensor.ndim]
    indexed = func in INDEXED and isinstance(args[0], Pretended)
    if there and here and func not in MOVES and not indexed:
        shapes = [tuple(tensor.shape) for tensor in every]
        raise RuntimeError(f"{func} of tensors on the GPU and on the CPU: {shapes}")
    asked = kwargs.get("device")
    if asked is not None:
        kwargs = {**kwargs, "device": torch.device("cpu")}
    gpu = torch.device(asked).type == GPU.type if asked is not None else bool(there)
    if func is _aten.copy_.default:
        gpu = isinstance(args[0], Pretended)
    plain_args, plain_kwargs = tree_map_only(Pretended, lambda tensor: tensor.inner, (args, kwargs))
    found = func(*plain_args, **plain_kwargs)
    if not gpu:
        return found
    wrapped = tree_map_only(Tensor, Pretended, found)
    return return_and_correct_aliasing(func, args, kwargs, wrapped)


class _Made(TorchDispatchMode):
    """Within it, tensors can be made on the GPU, and moved there."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return dispatched(func, args, kwargs or {})


@contextmanager
def pretending() -> Iterator[None]:
    """Within it, there is such a GPU. It computes in float32."""

    def autocast(device: str, *args: Any, **kwargs: Any) -> Any:
        return nullcontext() if device == GPU.type else real(device, *args, **kwargs)

    def tensor(*args: Any, device: torch.device | None = None, **kwargs: Any) -> Tensor:
        return made(*args, **kwargs).to(device)  # which otherwise is made on the device at once, unseen

    real, made = torch.autocast, torch.tensor
    with _Made(), patch.object(torch, "autocast", autocast), patch.object(torch, "tensor", tensor):
        yield


def moved(module: nn.Module) -> None:
    """Moves a module to the GPU."""
    for part in module.modules():
        for name, parameter in part._parameters.items():
            if parameter is not None and parameter.device != GPU:
                part._parameters[name] = nn.Parameter(parameter.detach().to(GPU), parameter.requires_grad)
        for name, buffer in part._buffers.items():
            if buffer is not None:
                part._buffers[name] = buffer.to(GPU)
