"""What pictures are measured by, by name: the readers that our recipes train, and Inception-v3."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from phin.data.base import Data
from phin.errors import PhinError
from phin.metrics.features import Features, Inception, Reader
from phin.nets.classifier import Classifier
from phin.recipes.trained import load, shipped

if TYPE_CHECKING:
    from phin.training.measuring import Measuring

READING = {"mnist": "digit-reader", "numbers": "digit-reader", "fashion-mnist": "fashion-reader"}
"""The reader of each data set that has one."""


def features_of(data: str) -> Features:
    """What measures pictures of a data set: its reader, or Inception-v3.

    Raises:
        PhinError: As `reader` and `Inception`.
    """
    return FEATURES[READING.get(data, "inception")]()


def named(source: str) -> Features:
    """Features by a name in `FEATURES`, from a file of Inception's weights (.pth), or a classifier's.

    Raises:
        PhinError: There are none, or they cannot be had.
    """
    if source in FEATURES:
        return FEATURES[source]()
    if (path := Path(source)).suffix == ".pth":
        return Inception(path)
    model = load(source)
    if not isinstance(model.net, Classifier):
        raise PhinError(
            f"{model.path} is no classifier of clean pictures; give one, such as mnist-classifier, or one of "
            f"{', '.join(FEATURES)}"
        )
    return Reader(model.net, f"reader {source}", model.facts.shape, model.facts.class_names)


def reader(recipe: str, name: str) -> Reader:
    """The classifier that comes with Phin, trained by a recipe.

    Raises:
        PhinError: It does not come with this Phin.
    """
    if recipe not in shipped():
        raise PhinError(
            f"the {name} does not come with this version of Phin: train it by `phin train {recipe}`, and "
            f"give it as --features runs/{recipe}"
        )
    model = load(recipe)
    assert isinstance(model.net, Classifier)
    return Reader(model.net, name, model.facts.shape, model.facts.class_names)


def measuring(data: Data, n: int, told: bool, source: str | None = None) -> "Measuring | None":
    """What measures n pictures at each validation of a training; None for 0.

    Args:
        data: What the model learns.
        n: How many.
        told: Whether the model is told the conditions of what it is to draw, if there are any.
        source: What looks at them, as of `named`; None is what the data set has.

    Raises:
        PhinError: Data without pictures; and as `named`, `features_of` and `Measuring`.
    """
    from phin.training.measuring import Measuring

    if n < 0:
        raise PhinError(f"measure must not be negative, but is {n}")
    if not n:
        return None
    if len(data.shape) != 3:
        raise PhinError(
            f"measure = {n}: {data.name} has no pictures to measure while it is trained; give 0, and measure "
            "the trained model by `phin evaluate`"
        )
    return Measuring(named(source) if source else features_of(data.name), data, n, told)


FEATURES: dict[str, Callable[[], Features]] = {
    "digit-reader": lambda: reader("mnist-classifier", "digit reader"),
    "fashion-reader": lambda: reader("fashion-classifier", "Fashion reader"),
    "inception": Inception,
}
