"""`phin export`."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from phin.errors import PhinError

from .command import Command


@dataclass(frozen=True, kw_only=True)
class Export(Command):
    """Write the averaged weights of a run, and what is known of them, to one small file that names them.

    What `phin tune` found for them goes to a file beside it.
    """

    source: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="RUN")]
    """The folder of a run, or a .safetensors file."""
    out: Path
    """The file to write, NAME.safetensors."""
    dtype: Literal["fp16", "bf16", "float32"] = "float32"
    """What the weights are rounded to."""

    def run(self) -> dict[str, Any]:
        import torch

        from phin import models, tuning
        from phin.training.checkpoint import save_weights

        if self.out.suffix != ".safetensors":
            raise PhinError(f"{self.out} does not end in .safetensors; name the file so")
        model = models.load(self.source)
        known = {"name": self.out.stem} | {
            key: model.metadata[key]
            for key in ("family", "recipe", "facts", "command")
            if key in model.metadata
        }
        if training := model.metadata.get("training"):
            known["training"] = {"state": training["state"], "versions": training["versions"]}
        dtype = {"fp16": torch.float16, "bf16": torch.bfloat16, "float32": torch.float32}[self.dtype]
        save_weights(self.out, model.net.state_dict(), known, dtype)
        if model.tuned:
            tuning.record(models.load(self.out), model.tuned)
        return {"file": str(self.out), "bytes": self.out.stat().st_size, **known}

    def show(self, facts: dict[str, Any]) -> None:
        print(f"{facts['file']}  ({facts['bytes'] / 1e6:.1f} MB)")
