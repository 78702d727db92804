"""Samplers that `phin tune` found for a model: a JSON file beside its weights, with their SHA-256 sum."""

import json
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from torch import nn

from phin.errors import PhinError
from phin.sampling import SampleConfig
from phin.training.checkpoint import digest, write_json


@dataclass(frozen=True)
class Tuned:
    """A sampler of so many steps, for one guidance and one threshold."""

    sampling: SampleConfig
    distance: float
    """Of its pictures from those that the ODE leads to: the root mean square over pixels, which are in
    [-1, 1]; the mean over pictures that had no part in the search."""
    before: float
    """The same of the model's own sampler, in as many steps, at the same guidance."""

    @property
    def asked(self) -> tuple[int, float, str]:
        """What it was sought for."""
        return self.sampling.steps, self.sampling.guidance, self.sampling.threshold


def probe(path: Path) -> None:
    """Sees to it, before a search, that what it finds can be kept in a file. Makes its folder.

    Raises:
        PhinError: It cannot.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=path.parent).close()
    except OSError as error:
        raise PhinError(
            f"{path} cannot be written ({error.strerror}): copy the model to another folder, or, of one that "
            "comes with phin, set PHIN_CACHE to one"
        ) from error


def read(path: Path, net: nn.Module) -> tuple[Tuned, ...]:
    """What a file says was found for a network, the newest first; nothing if it is of other weights.

    Raises:
        PhinError: The file is damaged.
    """
    if not path.is_file():
        return ()
    try:
        kept = json.loads(path.read_text(encoding="utf-8"))
        found = [
            Tuned(SampleConfig(**row["sampling"]), row["distance"], row["before"]) for row in kept["tuned"]
        ]
        return tuple(found) if kept["weights"] == digest(net) else ()
    except (OSError, ValueError, TypeError, LookupError, AttributeError, PhinError) as error:
        raise PhinError(f"{path} is damaged ({error}): remove it, and tune anew") from error


def write(path: Path, net: nn.Module, found: Sequence[Tuned]) -> None:
    """Keeps samplers of a network in a file, in place of those of it that were sought for the same.

    Raises:
        PhinError: The file is damaged, or cannot be written.
    """
    new = {one.asked for one in found}
    old = [one for one in read(path, net) if one.asked not in new]
    write_json(path, {"weights": digest(net), "tuned": [asdict(one) for one in (*found, *old)]})
