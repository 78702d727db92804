"""Networks whose features measure pictures: classifiers of ours, and the Inception-v3 of the literature.

A distance between pictures is one between features, and says no more than they see. So whatever is measured
is named by them, as in "FID (digit reader)"; only `Inception` gives numbers to set beside published ones.
"""

import abc
import importlib
import importlib.util
import io
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn

from phin.data.base import from_integers
from phin.data.fetch import Files
from phin.errors import PhinError
from phin.nets.classifier import Classifier
from phin.nets.device import preferred


class Seen(NamedTuple):
    """What a network makes of pictures."""

    features: Float[Tensor, "batch dims"]
    logits: Float[Tensor, "batch classes"]


class Features(abc.ABC):
    """A network whose features measure pictures."""

    name: str
    """What measurements by it are called: "FID (NAME)"."""
    dims: int
    """How many features a picture has."""
    class_names: tuple[str, ...] = ()
    """What its logits stand for, where data may have the same classes."""
    identity: str = ""
    """What tells it from any other, if it is so slow that what it makes of real pictures is kept."""

    @abc.abstractmethod
    def check(self, shape: tuple[int, ...]) -> None:
        """Refuses pictures (C, H, W) that it does not take.

        Raises:
            PhinError: They are of another size, or have other channels.
        """

    @abc.abstractmethod
    def __call__(self, pictures: UInt8[Tensor, "batch channels height width"]) -> Seen:
        """What it makes of 8-bit pictures."""


class Reader(Features):
    """A classifier of ours: what its last layer decides on tells apart what it was trained to tell apart.

    Args:
        net: The classifier.
        name: What measurements by it are called.
        shape: The pictures that it was trained on.
        class_names: What its logits stand for.
    """

    def __init__(
        self, net: Classifier, name: str, shape: tuple[int, ...], class_names: tuple[str, ...]
    ) -> None:
        self.net, self.name, self.shape, self.class_names = net, name, shape, class_names
        self.dims = net.head.in_features

    def check(self, shape: tuple[int, ...]) -> None:
        """Refuses other pictures than those it was trained on, though it might take them."""
        if shape != self.shape:
            sizes = [" x ".join(map(str, sides)) for sides in (self.shape, shape)]
            raise PhinError(
                f"the {self.name} takes pictures of {sizes[0]}, not of {sizes[1]}: measure these by "
                "--features inception, or by a classifier of their kind"
            )

    @torch.no_grad()
    def __call__(self, pictures: UInt8[Tensor, "batch channels height width"]) -> Seen:
        """In float32, whatever the precision around it."""
        weight = self.net.head.weight
        with torch.autocast(weight.device.type, enabled=False):
            features = self.net.features(from_integers(pictures).to(weight.device))
            return Seen(features, self.net.head(features))


WEIGHTS = "weights-inception-2015-12-05-6726825d.pth"
SUM = "6726825d0af5f729cebd5821db510b11b1cfad8faad88a03f1befd49fb9129b2"
FILES = Files(
    title="Inception-v3 (2015-12-05)",
    folder="inception",
    sums={WEIGHTS: SUM},
    mirrors=("https://github.com/toshas/torch-fidelity/releases/download/v0.2.0/",),
    advice=", or give the file as --features FILE.pth; or measure by a classifier of yours, --features RUN",
)


class Inception(Features):
    """The network of 2015 by which Inception Scores, FIDs and KIDs are measured, as torch-fidelity has it.

    It takes any size, which it resizes to 299 x 299 as the original did, and grey pictures, whose channel is
    given to it three times. Features are the 2,048 of the last pooling; logits are those of the 1,008 outputs
    without their biases, which is how Inception Scores are computed.

    Args:
        weights: The file of the weights. If not given, it is sought in $PHIN_DATA, in the cache, and fetched.

    Raises:
        PhinError: torch-fidelity is not installed; the weights cannot be had, or are others.

    References:
        Rethinking the Inception architecture for computer vision (Szegedy et al., 2015), arXiv:1512.00567.
        High-fidelity performance metrics for generative models in PyTorch (Obukhov et al., 2020).
    """

    name = "Inception-v3"
    dims = 2048
    identity = SUM

    def __init__(self, weights: Path | None = None) -> None:
        with _torch_fidelity() as module:
            payload = FILES.read()[WEIGHTS] if weights is None else _verified(weights)
            # The file is a pickle, which torch-fidelity reads; no others than these very bytes get there.
            net: nn.Module = module.FeatureExtractorInceptionV3(
                "inception", ["2048", "logits_unbiased"], feature_extractor_weights_path=io.BytesIO(payload)
            )
        self.net = net.to(preferred())

    def check(self, shape: tuple[int, ...]) -> None:
        """Refuses what is neither grey nor RGB."""
        if len(shape) != 3 or shape[0] not in (1, 3):
            sides = " x ".join(map(str, shape))
            raise PhinError(f"{self.name} takes grey pictures and RGB, 1 or 3 x H x W, not {sides}")

    @torch.no_grad()
    def __call__(self, pictures: UInt8[Tensor, "batch channels height width"]) -> Seen:
        """In float32, whatever the precision around it."""
        device = next(self.net.parameters()).device
        with torch.autocast(device.type, enabled=False):
            return Seen(*self.net(pictures.expand(-1, 3, -1, -1).to(device)))


def _verified(path: Path) -> bytes:
    """The bytes of the weights.

    Raises:
        PhinError: There is no such file, or it is another.
    """
    try:
        payload = path.read_bytes()
    except OSError as error:
        raise PhinError(
            f"{path} cannot be read ({error.strerror or error}); name the file {WEIGHTS}"
        ) from error
    if (found := sha256(payload).hexdigest()) != SUM:
        raise PhinError(
            f"{path} is not the Inception-v3 that FIDs are measured by: its SHA-256 is {found}, not {SUM}; "
            f"get {FILES.mirrors[0]}{WEIGHTS}"
        )
    return payload


@contextmanager
def _torch_fidelity() -> Iterator[Any]:
    """The module of torch-fidelity that has the network.

    The package itself is not run: it would import torchvision, of which the network has no need, and which
    fails where its build is not that of torch.
    """
    package = "torch_fidelity"
    there = sys.modules.get(package)
    if there is None:
        if (spec := importlib.util.find_spec(package)) is None or not spec.submodule_search_locations:
            raise PhinError(
                "Inception-v3 needs torch-fidelity: pip install 'phin[inception]'; or measure by a "
                "classifier of yours, --features RUN"
            )
        sys.modules[package] = bare = ModuleType(package)
        bare.__path__ = list(spec.submodule_search_locations)
    try:
        yield importlib.import_module(f"{package}.feature_extractor_inceptionv3")
    finally:
        if there is None:  # who imports the package later shall have the whole of it
            for name in [name for name in sys.modules if name.split(".")[0] == package]:
                del sys.modules[name]
