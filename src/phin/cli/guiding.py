"""The classifier that guides what is drawn, from its options."""

from typing import TYPE_CHECKING

from phin.errors import PhinError

if TYPE_CHECKING:
    from phin.models import Model
    from phin.sampling import Guide


def guided(model: "Model", classifier: str | None, scale: float | None) -> "Guide | None":
    """The guidance of this model by a classifier, 1 its default scale, if one was asked for.

    Raises:
        PhinError: The classifier cannot be had or does not fit the model; or there is but its scale.
    """
    from phin import models

    if classifier is None:
        if scale is not None:
            raise PhinError(f"--classifier-scale {scale:g} is of no classifier; give one, too")
        return None
    return models.guide(model, models.load(classifier), 1.0 if scale is None else scale)
