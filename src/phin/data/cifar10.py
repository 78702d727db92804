"""CIFAR-10: 50,000 and 10,000 colour images of 32 x 32 in ten classes; and a copy that went through JPEG.

References:
    Learning multiple layers of features from tiny images (Krizhevsky, 2009), technical report.
"""

import io
import tarfile

import numpy as np
import torch

from phin.data.base import Entry, Images, Part, with_validation
from phin.data.fetch import Files
from phin.diffusion.noise import stream

VALIDATION = 5_000
CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
ARCHIVE = "cifar-10-binary.tar.gz"
JPEG_TITLE = "CIFAR-10 (JPEG quality 75 copy)"

FILES = Files(
    title="CIFAR-10",
    folder="cifar10",
    sums={ARCHIVE: "c4a38c50a1bc5f3a1c5537f2155ab9d68f9f25eb1ed8d9ddda3db29a59bca1dd"},
    flat=True,
    mirrors=(
        "https://www.cs.toronto.edu/~kriz/",
        "https://storage.googleapis.com/s4tf-hosted-binaries/datasets/CIFAR10/",
    ),
)

JPEG_FILES = Files(
    title=JPEG_TITLE,
    folder="cifar10",
    sums={
        "cifar10_train_jpeg.npz": "364c702ee129d34e5d3148ba4f89d546a827fc3e03985e623f5eca76e50fe6f3",
        "cifar10_test_jpeg.npz": "b2d601c44a567894a093b8bf66708148ce000a13ea5ed0e0653a9dd4f29334af",
    },
    flat=True,
)


def records(payload: bytes) -> Part:
    """The images of a file of the binary version: records of a label and 3 x 32 x 32 bytes, by channel."""
    table = torch.from_numpy(np.frombuffer(payload, np.uint8).reshape(-1, 1 + 3 * 32 * 32).copy())
    return Part(table[:, 1:].reshape(-1, 3, 32, 32), table[:, 0])


def load_original() -> Images:
    """The original pixels, from the archive of the binary version (the other versions are pickles)."""
    with tarfile.open(fileobj=io.BytesIO(FILES.read()[ARCHIVE]), mode="r:gz") as archive:
        members = {
            member.name: file.read()
            for member in archive
            if member.isfile() and (file := archive.extractfile(member))
        }
    train = records(b"".join(members[f"cifar-10-batches-bin/data_batch_{i}.bin"] for i in range(1, 6)))
    test = records(members["cifar-10-batches-bin/test_batch.bin"])
    return Images("cifar10", with_validation(train, test, VALIDATION), CLASSES)


def jpeg_part(payload: bytes) -> Part:
    """The images of an `.npz` of JPEG files; `head + scans[offsets[i] : offsets[i + 1]] + FF D9` is file i.

    They are stored class by class, so they are put into a fixed random order: any stretch may be a split.
    """
    from PIL import Image

    with np.load(io.BytesIO(payload), allow_pickle=False) as arrays:
        head, scans = arrays["head"].tobytes(), arrays["scans"].tobytes()
        offsets, labels = arrays["offsets"], arrays["labels"]
    images = np.empty((len(labels), 3, 32, 32), np.uint8)
    order = stream(0, "cifar10-jpeg").permutation(len(labels))
    for place, i in enumerate(order):
        file = io.BytesIO(head + scans[offsets[i] : offsets[i + 1]] + b"\xff\xd9")
        images[place] = np.asarray(Image.open(file)).transpose(2, 0, 1)
    return Part(torch.from_numpy(images), torch.from_numpy(labels[order]))


def load_jpeg() -> Images:
    """The JPEG copy: results on it are not results on CIFAR-10."""
    train, test = map(jpeg_part, JPEG_FILES.read().values())
    return Images("cifar10-jpeg", with_validation(train, test, VALIDATION), CLASSES)


CIFAR10 = Entry(
    title="CIFAR-10",
    shape=(3, 32, 32),
    examples=60_000,
    classes=10,
    licence="none stated; cite the report",
    source="Krizhevsky, 2009",
    load=load_original,
    files=FILES,
)
CIFAR10_JPEG = Entry(
    title=JPEG_TITLE,
    shape=(3, 32, 32),
    examples=60_000,
    classes=10,
    licence="none stated; cite the report",
    source="lossy copies of Krizhevsky, 2009; only from $PHIN_DATA; not comparable with CIFAR-10",
    load=load_jpeg,
    files=JPEG_FILES,
)
