"""Figures of a trained model that are kept beside it, and measured once."""

import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

from phin.errors import PhinError
from phin.models import Model
from phin.training.checkpoint import digest, write_json

log = logging.getLogger(__name__)

FORMAT = 2  # of figures that are kept; those of another are measured anew


class Subject:
    """A trained model and its figures, which are kept in a JSON file and never measured twice.

    Args:
        model: The model.
        path: The file. Figures of other weights, as of an earlier stage of the training, are dropped, and
            those of another format.
        steps: How many it was trained for, if it was trained here.

    Raises:
        PhinError: The file is damaged.
    """

    def __init__(self, model: Model, path: Path, steps: int = 0) -> None:
        self.model, self.path, self.steps, self.weights = model, path, steps, digest(model.net)
        self.rows: list[dict[str, Any]] = []
        self.news = False  # whether anything had to be measured
        if path.exists():
            try:
                kept = json.loads(path.read_text(encoding="utf-8"))
                if (kept["weights"], kept.get("format")) == (self.weights, FORMAT):
                    self.rows = [{"asked": row["asked"], "found": row["found"]} for row in kept["rows"]]
            except (ValueError, TypeError, LookupError) as error:
                raise PhinError(f"{path} is damaged ({error!r}); remove it, to measure anew") from error

    def measure(self, figure: Callable[..., dict[str, Any]], **how: Any) -> dict[str, Any]:
        """`figure(model, **how)`: what the file has, or else what is measured now. All of it is JSON-able."""
        asked = json.loads(json.dumps({"figure": figure.__name__, **how}))
        for row in self.rows:
            if row["asked"] == asked:
                return row["found"]
        choices = ", ".join(f"{name} {value}" for name, value in how.items())
        log.info("measuring %s of %s%s", figure.__name__, self.model.path, f": {choices}" if how else "")
        found = json.loads(json.dumps(figure(self.model, **how)))
        self.rows.append({"asked": asked, "found": found})
        write_json(self.path, {"format": FORMAT, "weights": self.weights, "rows": self.rows})
        self.news = True
        return found
