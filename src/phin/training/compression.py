"""Training of autoencoders for latent diffusion."""

import numpy as np
import torch
from torch import Tensor, nn

from phin.data.base import some
from phin.diffusion.noise import seeded
from phin.families.autoencoder import Autoencoder
from phin.pictures import tile, to_bytes
from phin.training.autoencoding import Autoencoding

PEAK = 2.0  # from black to white


class Compression(Autoencoding):
    """Autoencoding that is judged by its reconstructions: latents cost little, and samples are no end."""

    def validate(self, model: nn.Module) -> dict[str, float]:
        """What training lowers, on held-out pictures in bits a dimension; then the bound and its terms.

        `psnr` is the peak signal-to-noise ratio of reconstructions, decibel, the mean over pictures.
        """
        found = super().validate(model)
        bound = found.pop("loss")
        found.pop("baseline", None)  # which is the bound's
        assert isinstance(model, Autoencoder)
        x, seen = self._reconstructed(model, self.examples)
        square = (seen - x).square().flatten(1).mean(1).clamp(min=1e-10)
        psnr = (10 * torch.log10(PEAK**2 / square)).mean().item()
        return {
            "loss": found["reconstruction"] + self.beta * found["kl"],
            "psnr": psnr,
            "bound": bound,
            **found,
        }

    def picture(self, model: nn.Module) -> np.ndarray:
        """Held-out pictures, each row above its reconstructions."""
        assert isinstance(model, Autoencoder)
        x, seen = (to_bytes(part) for part in self._reconstructed(model, 40))
        columns = 10
        rows = [
            picture
            for start in range(0, len(x), columns)
            for part in (x, seen)
            for picture in part[start : start + columns]
        ]
        return tile(rows, columns)

    def _reconstructed(self, model: Autoencoder, n: int) -> tuple[Tensor, Tensor]:
        """Held-out pictures and their reconstructions, in parts for the sake of memory."""
        x = some(self.data, "valid", n).x
        parts = []
        for rows in torch.arange(len(x)).split(250):
            part = model.reconstruct(x[rows].to(self.device), seeded(0, rows.tolist(), "validation"))
            parts.append(part.float().cpu())
        return x, torch.cat(parts)
