"""A run on the disk: how far it is, and the files it leaves in its folder."""

import json
import math
import platform
import re
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from phin import __version__
from phin.errors import PhinError
from phin.training import checkpoint
from phin.training.config import FREE, TrainConfig
from phin.training.log import Meter
from phin.training.optimizer import Optimizer

FORMAT = 1  # of checkpoints


@dataclass
class State:
    """How far a run is: with the tensors, all that a checkpoint holds."""

    step: int = 0
    """Steps taken, skipped ones included."""
    seconds: float = 0.0
    """Time taken by them and by what lay between them, over all sessions."""
    aside: float = 0.0
    """Seconds of that which went into validation, pictures and checkpoints."""
    costs: dict[str, float] = field(default_factory=dict[str, float])
    """Seconds that the last of each took: time to leave for them at the end of a time budget."""
    looked: dict[str, float] = field(default_factory=dict[str, float])
    """The share of the budget at the last of each: what has come due since is still to be done."""
    examples: int = 0
    """Examples seen."""
    skipped: int = 0
    """Steps without effect, because their loss or gradient was not finite."""
    best: float | None = None
    """Lowest validation loss."""
    validation: dict[str, float] = field(default_factory=dict[str, float])
    """The last validation."""
    threads: int = 0
    """Of the CPU, in each process of the last session: rounding depends on them. 0 is unknown."""

    def progress(self, config: TrainConfig) -> float:
        """The share of the budget that is used up; 1 or more at the end."""
        if config.steps is not None:
            return self.step / config.steps
        assert config.minutes is not None
        return self.seconds / max(60 * config.minutes - sum(self.costs.values()), 1e-9)

    @property
    def trained(self) -> float:
        """Seconds that went into steps."""
        return self.seconds - self.aside

    @property
    def images_per_second(self) -> float:
        """Speed of training alone, over all sessions."""
        return self.examples / max(self.trained, 1e-9)


class Result(NamedTuple):
    """What came of a training run."""

    folder: Path
    best: Path
    """Averaged weights at the lowest validation loss."""
    last: Path
    """The checkpoint at the end."""
    step: int
    seconds: float
    """Over all sessions."""
    images_per_second: float
    """Speed of training alone, over all sessions."""
    validation: dict[str, float]
    """The last one."""
    skipped: int
    peak_memory: int | None
    """Bytes this process ever held at once; None where the system does not tell."""


@dataclass
class Run:
    """The files of a run, and the tensors that are kept in them."""

    folder: Path
    description: dict[str, Any]
    config: TrainConfig
    model: nn.Module
    mean: nn.Module
    optimizer: Optimizer
    meter: Meter
    memory: Callable[[], dict[str, Tensor]]
    """What the task has learned besides, by name; asked for anew, for a wrapper may have moved it."""

    def __post_init__(self) -> None:
        self.last, self.best = self.folder / "last.safetensors", self.folder / "best.safetensors"

    def resume(self) -> State:
        """Takes the state from the last checkpoint if there is one."""
        if not self.last.exists():
            return State()
        tensors, metadata = checkpoint.read_weights(self.last)
        training = metadata.pop("training", {})
        if training.get("format") != FORMAT or "meter.sums" not in tensors:
            raise PhinError(f"{self.last} is no checkpoint of this version: choose another folder")
        here = json.loads(json.dumps({**self.description, "train": asdict(self.config)}))
        if difference := _difference({**metadata, "train": training["config"]}, here):
            raise PhinError(f"{self.folder} holds another run ({difference}): choose another folder")
        parts: dict[str, dict[str, Tensor]] = {"model": {}, "ema": {}, "optim": {}, "meter": {}, "task": {}}
        for key, tensor in tensors.items():
            part, name = key.split(".", 1)
            parts[part][name] = tensor
        checkpoint.load_weights(self.model, parts["model"], self.last)
        checkpoint.load_weights(self.mean, parts["ema"], self.last)
        self.meter.sums.copy_(parts["meter"]["sums"])
        for name, tensor in self.memory().items():
            tensor.copy_(parts["task"][name])
        self.optimizer.load(parts["optim"])
        state, before = State(**training["state"]), training["config"]
        budget = replace(self.config, minutes=before["minutes"], steps=before["steps"])
        grown = state.progress(self.config) / max(state.progress(budget), 1e-9)
        state.looked = {name: share * grown for name, share in state.looked.items()}
        return state

    def save(self, state: State) -> None:
        """Writes the checkpoint, unless a weight in it is not finite."""
        tensors = {f"model.{name}": t for name, t in self.model.state_dict().items()}
        tensors |= {f"ema.{name}": t for name, t in self.mean.state_dict().items()}
        if bad := [name for name, t in tensors.items() if t.is_floating_point() and not t.isfinite().all()]:
            raise PhinError(
                f"the weights {bad[0]!r} are not finite at step {state.step}: try a lower lr; {self.kept()}"
            )
        tensors |= {f"optim.{name}": t for name, t in self.optimizer.tensors().items()}
        tensors |= {"meter.sums": self.meter.sums}
        tensors |= {f"task.{name}": t for name, t in self.memory().items()}
        checkpoint.save_weights(self.last, tensors, self._metadata(state))
        checkpoint.write_json(self.folder / "run.json", self._metadata(state))
        if not self.best.exists():  # before the first validation: something to sample from all the same
            self.save_best(state)

    def is_best(self, state: State) -> bool:
        """Whether the last validation is the best so far, which is then noted; without one the latest is."""
        score = next(iter(state.validation.values()), -math.inf)
        if score < (math.inf if state.best is None else state.best):
            state.best = score if state.validation else None
            return True
        return False

    def save_best(self, state: State) -> None:
        """Writes the averaged weights, to sample from."""
        checkpoint.save_weights(self.best, self.mean.state_dict(), self._metadata(state))

    def save_copy(self, state: State) -> None:
        """Writes the averaged weights of now, `copies/NNNNNN.safetensors`."""
        path = self.folder / "copies" / f"{state.step:06}.safetensors"
        path.parent.mkdir(exist_ok=True)
        checkpoint.save_weights(path, self.mean.state_dict(), self._metadata(state))

    def forget(self, step: int) -> None:
        """Removes copies from after a step, at which a run goes on: it may come to others."""
        for path in copies(self.folder):
            if int(path.stem) > step:
                path.unlink(missing_ok=True)

    def save_picture(self, picture: np.ndarray, step: int) -> None:
        """Writes `samples/NNNNNN.png`."""
        from PIL import Image

        path = self.folder / "samples" / f"{step:06}.png"
        with checkpoint.atomic(path) as temporary:
            path.parent.mkdir(exist_ok=True)
            Image.fromarray(picture.squeeze()).save(temporary, "png")

    def kept(self) -> str:
        """Where to go back to."""
        return f"{self.last} is intact" if self.last.exists() else "no checkpoint had been written"

    def result(self, state: State) -> Result:
        """What is told at the end."""
        return Result(
            self.folder,
            self.best,
            self.last,
            state.step,
            state.seconds,
            state.images_per_second,
            state.validation,
            state.skipped,
            peak_memory(),
        )

    def _metadata(self, state: State) -> dict[str, Any]:
        versions = {"python": platform.python_version(), "torch": str(torch.__version__), "phin": __version__}
        done = {"format": FORMAT, "state": asdict(state), "config": asdict(self.config), "versions": versions}
        return {**self.description, "training": done}


def _difference(old: Any, new: Any, path: str = "") -> str | None:
    """The first field in which two recipes differ, with both values, or None."""
    if not (isinstance(old, dict) and isinstance(new, dict)):
        return None if old == new else f"{path} is {json.dumps(old)} there and {json.dumps(new)} here"
    fields = {
        key: f"{path}.{key}" if path else key for key in [*new, *(key for key in old if key not in new)]
    }
    return next(
        (
            difference
            for key, name in fields.items()
            if not name.endswith(FREE) and (difference := _difference(old.get(key), new.get(key), name))
        ),
        None,
    )


def copies(folder: Path) -> list[Path]:
    """The files of `Run.save_copy`, by their steps; whatever else lies there is not ours."""
    ours = (path for path in folder.glob("copies/*.safetensors") if path.stem.isdecimal())
    return sorted(ours, key=lambda path: int(path.stem))


def peak_memory() -> int | None:
    """Bytes this process ever held at once; None where the system does not tell."""
    status = Path("/proc/self/status")  # of Linux, whose getrusage begins with what the parent held
    if status.exists() and (peak := re.search(r"^VmHWM:\s*(\d+) kB", status.read_text(), re.MULTILINE)):
        return 1024 * int(peak[1])
    try:
        import resource
    except ImportError:  # Windows
        return None
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
