"""Which latents of a model tell anything of test pictures."""

from typing import Any

from phin.data import Data
from phin.data.base import Batch, some
from phin.families.autoencoder import Autoencoder
from phin.metrics.activity import LOOKED_AT, activity
from phin.models import Model


def active(model: Model, data: Data) -> dict[str, Any]:
    """Under `active`, how many units of each level of an autoencoder are; of any other model, nothing."""
    if not isinstance(model.net, Autoencoder):
        return {}
    x, cond, total = some(data, "test", LOOKED_AT)
    told = {"label": cond["label"]} if model.facts.classes else {}
    return {"active": activity(model.net, Batch(x, told, total))}
