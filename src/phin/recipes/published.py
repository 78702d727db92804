"""DDPM's networks as the library `diffusers` publishes them, such as google/ddpm-cifar10-32.

A folder has `config.json`, which says what the network is, and its weights. The weights alone would not tell:
networks of the same shapes may see time, or norm, in other ways. So each field is compared with DDPM's.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import replace
from operator import index
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from phin.errors import PhinError
from phin.nets.ddpm_unet import DDPMUNetConfig
from phin.recipes.base import Facts
from phin.recipes.description import describe
from phin.recipes.diffusion import CIFAR10_DDPM

WEIGHTS = "diffusion_pytorch_model.safetensors"
PICKLE = "diffusion_pytorch_model.bin"


def read(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The tensors of a published model by the names that Phin has for them, and their description.

    It is sampled as the recipe `cifar10-ddpm` is.

    Args:
        path: The file of weights, in a folder with its `config.json`.

    Raises:
        PhinError: No such files, or damaged ones; a network that is not DDPM's.
    """
    file = path.with_name("config.json")
    try:
        published = json.loads(file.read_text(encoding="utf-8"))
        tensors = load_file(path)
    except (OSError, ValueError, SafetensorError) as error:
        raise PhinError(
            f"{path} and {file.name} beside it cannot be read ({error}); get both again"
        ) from None
    try:
        net, shape = network(published)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise PhinError(f"{file} is not understood ({error!r}); get it again") from None
    facts = Facts(shape, 0, 0, (), True)
    data = CIFAR10_DDPM.data if shape == (3, 32, 32) else "folder:PATH"
    return weights(tensors), describe(path.parent.name, replace(CIFAR10_DDPM, net=net, data=data), facts)


def network(published: Mapping[str, Any]) -> tuple[DDPMUNetConfig, tuple[int, ...]]:
    """The network that a `config.json` describes, and the shape (C, H, W) of its pictures.

    Raises:
        PhinError: It is not DDPM's. The first field that differs is named.
    """
    said = {**_UNSAID, **published}
    attention = tuple(str(kind).startswith("Attn") for kind in said.get("down_block_types", ()))
    wanted = {
        **_DDPM,
        "down_block_types": [f"{'Attn' * here}DownBlock2D" for here in attention],
        "up_block_types": [f"{'Attn' * here}UpBlock2D" for here in attention[::-1]],
        "out_channels": said.get("in_channels"),
    }
    for name, value in wanted.items():
        if said.get(name, value) != value:
            raise PhinError(f"this network is not DDPM's: its {name} is {said[name]!r} and not {value!r}")
    side = said["sample_size"]
    height, width = map(index, side if isinstance(side, list) else (side, side))
    net = DDPMUNetConfig(
        channels=tuple(said["block_out_channels"]),
        blocks=said["layers_per_block"],
        attention=attention,
        groups=said["norm_num_groups"],
        dropout=said["dropout"],
    )
    return net, (index(said["in_channels"]), height, width)


def weights(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The weights of a published network by the names that they have in a `Denoiser` of a `DDPMUNet`."""

    def renamed(name: str) -> str:
        for theirs, ours in _NAMES:
            name = re.sub(theirs, ours, name)
        return f"net.{name}"

    return {renamed(name): tensor for name, tensor in tensors.items()}


# What the library takes where a configuration does not say.
_UNSAID: dict[str, Any] = {
    "attention_head_dim": 8,
    "downsample_padding": 1,
    "dropout": 0.0,
    "flip_sin_to_cos": True,
    "freq_shift": 0,
    "in_channels": 3,
    "layers_per_block": 2,
    "norm_eps": 1e-5,
    "norm_num_groups": 32,
    "out_channels": 3,
    "time_embedding_type": "positional",
}
_DDPM: dict[str, Any] = {
    "_class_name": "UNet2DModel",
    "act_fn": "silu",
    "add_attention": True,
    "attention_head_dim": None,
    "attn_norm_num_groups": None,
    "center_input_sample": False,
    "class_embed_type": None,
    "downsample_padding": 0,
    "downsample_type": "conv",
    "flip_sin_to_cos": False,
    "freq_shift": 1,
    "mid_block_scale_factor": 1,
    "mid_block_type": "UNetMidBlock2D",
    "norm_eps": 1e-6,
    "num_class_embeds": None,
    "resnet_time_scale_shift": "default",
    "time_embedding_dim": None,
    "time_embedding_type": "positional",
    "upsample_type": "conv",
}
# One after the other; of the parts of an attention, the older names come second.
_NAMES = (
    (r"^conv_in\.", "stem."),
    (r"^time_embedding\.linear_1\.", "time.mlp.0."),
    (r"^time_embedding\.linear_2\.", "time.mlp.2."),
    (r"^down_blocks\.(\d+)\.downsamplers\.0\.conv\.", r"down.\1."),
    (r"^up_blocks\.(\d+)\.upsamplers\.0\.conv\.", r"up.\1."),
    (r"^down_blocks\.", "falling."),
    (r"^mid_block\.", "middle."),
    (r"^up_blocks\.", "rising."),
    (r"\.resnets\.(\d+)\.", r".\1."),
    (r"\.attentions\.(\d+)\.", r".\1.attention."),
    (r"\.group_norm\.", ".norm."),
    (r"\.(to_q|query)\.", ".query."),
    (r"\.(to_k|key)\.", ".key."),
    (r"\.(to_v|value)\.", ".value."),
    (r"\.(to_out\.0|proj_attn)\.", ".out."),
    (r"\.norm1\.", ".norm."),
    (r"\.conv1\.", ".first."),
    (r"\.time_emb_proj\.", ".time."),
    (r"\.norm2\.", ".renorm."),
    (r"\.conv2\.", ".second."),
    (r"\.conv_shortcut\.", ".shortcut."),
    (r"^conv_norm_out\.", "head.0."),
    (r"^conv_out\.", "head.2."),
)
