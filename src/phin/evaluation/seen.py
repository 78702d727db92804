"""What slow networks make of real pictures, kept in the cache folder, so that each set is looked at once."""

import logging
from hashlib import sha256
from pathlib import Path

import torch
from jaxtyping import UInt8
from torch import Tensor

from phin.data.fetch import cache_folder
from phin.errors import PhinError
from phin.metrics.features import Features, Seen
from phin.metrics.processes import gathered, process
from phin.training.checkpoint import read_weights, save_weights

log = logging.getLogger(__name__)


def place(features: Features, pictures: UInt8[Tensor, "n c h w"]) -> Path:
    """The file of what a network makes of pictures: told by its weights, and by every byte of theirs.

    So it is another for other data, another split or choice of it, and another number of them.
    """
    size = "x".join(map(str, pictures.shape))
    found = sha256(f"{features.identity} {size} ".encode())
    found.update(pictures.contiguous().numpy().data)
    return cache_folder() / "features" / f"{features.name}-{size}-{found.hexdigest()[:16]}.safetensors"


def read(features: Features, pictures: UInt8[Tensor, "n c h w"]) -> Seen | None:
    """What is known of the pictures; None if nothing is kept of this network, or not by every process."""
    if not features.identity:
        return None
    path, found = place(features, pictures), None
    if path.exists():
        try:
            tensors, _ = read_weights(path)
            found = Seen(tensors["features"], tensors["logits"])
        except PhinError as error:
            log.warning("%s; the pictures are looked at anew", error)
    everywhere = all(bool(part) for part in gathered(torch.tensor([found is not None])))
    return found if everywhere else None


def write(features: Features, pictures: UInt8[Tensor, "n c h w"], seen: Seen) -> None:
    """Keeps what a network made of all pictures; what cannot be written is merely not kept."""
    if not features.identity or process()[0]:
        return
    path = place(features, pictures)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        save_weights(path, seen._asdict(), {"features": features.name, "pictures": len(pictures)})
    except (OSError, PhinError) as error:
        log.warning("%s; the next time, the pictures have to be looked at again", error)
    else:
        log.info("what %s makes of %s pictures is kept in %s", features.name, f"{len(pictures):,}", path)
