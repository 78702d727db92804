"""The 8 x 8 digits that come with scikit-learn: nothing to fetch.

References:
    Methods of combining multiple classifiers and their applications to handwritten digit recognition
    (Kaynak, 1995), MSc thesis.
"""

import numpy as np
import torch

from phin.data.base import Entry, Images, Part, by_tenths
from phin.errors import PhinError


def load() -> Images:
    """1,797 images with values 0 .. 16.

    Raises:
        PhinError: scikit-learn is not installed.
    """
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise PhinError(
            "the data set 'digits' comes with scikit-learn, which is missing; pip install scikit-learn"
        ) from error
    values, labels = load_digits(return_X_y=True)
    images = torch.from_numpy(np.asarray(values).astype(np.uint8).reshape(-1, 1, 8, 8))
    part = Part(images, torch.from_numpy(np.asarray(labels).astype(np.uint8)))
    return Images("digits", by_tenths(part), tuple("0123456789"), levels=17)


DIGITS = Entry(
    title="Optical recognition of handwritten digits (test part)",
    shape=(1, 8, 8),
    examples=1_797,
    classes=10,
    licence="CC BY 4.0",
    source="comes with scikit-learn (Alpaydin, Kaynak, 1998)",
    load=load,
)
