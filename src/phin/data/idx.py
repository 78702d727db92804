"""The IDX format, in which MNIST and Fashion-MNIST come: a big-endian header and the bytes of one array."""

import math
import struct

import numpy as np
from numpy.typing import NDArray

from phin.errors import PhinError

UNSIGNED_BYTE = 0x08


def decode(payload: bytes, name: str) -> NDArray[np.uint8]:
    """The array in an IDX file of unsigned bytes.

    Args:
        payload: The whole file, uncompressed.
        name: What an error calls it.

    Raises:
        PhinError: Another format or type, or not as many bytes as its header announces.
    """
    if len(payload) < 4 or payload[:3] != bytes((0, 0, UNSIGNED_BYTE)):
        raise PhinError(
            f"{name} begins with {payload[:4].hex(' ')}, so it is not an IDX file of bytes; replace it"
        )
    start = 4 + 4 * payload[3]
    if len(payload) < start:
        raise PhinError(f"{name} ends inside its header; replace it")
    sides = struct.unpack(f">{payload[3]}I", payload[4:start])
    if len(payload) - start != math.prod(sides):
        raise PhinError(f"{name} has {len(payload) - start:,} bytes for an array of {sides}; replace it")
    return np.frombuffer(payload, np.uint8, offset=start).reshape(sides).copy()


def encode(array: NDArray[np.uint8]) -> bytes:
    """The IDX file of an array, in its canonical form."""
    return struct.pack(f">BBBB{array.ndim}I", 0, 0, UNSIGNED_BYTE, array.ndim, *array.shape) + array.tobytes()
