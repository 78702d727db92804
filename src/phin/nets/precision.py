"""When to compute in bfloat16.

Weights and everything around a network stay float32, its convolutions need not.
"""

from contextlib import AbstractContextManager

import torch


def bf16_is_fast(device: torch.device) -> bool:
    """Whether the device multiplies in bfloat16 faster than in float32.

    CPUs with AVX-512 BF16 or AMX, GPUs since Ampere.
    """
    if device.type == "cpu":
        capabilities = getattr(torch.cpu, "get_capabilities", dict)()  # torch 2.9 cannot tell
        return bool(capabilities.get("avx512_bf16") or capabilities.get("amx_bf16"))
    return device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)


def autocast(device: torch.device) -> AbstractContextManager[object]:
    """Within it, networks on the device compute in bfloat16 where that is fast, else in float32."""
    return torch.autocast(device.type, torch.bfloat16, enabled=bf16_is_fast(device))


def allow_tf32(device: torch.device) -> None:
    """Lets a GPU multiply what stays float32 in TF32 (10 bits), and try which convolution is fastest."""
    if device.type == "cuda":
        torch.set_float32_matmul_precision("high")
        torch.backends.cudnn.benchmark = True
