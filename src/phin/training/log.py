"""Where the numbers of a run go: `log.jsonl`, one JSON object a line, and the trackers of Accelerate."""

import json
import math
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, TextIO

import numpy as np
import torch
from torch import Tensor

from phin.errors import PhinError
from phin.training.checkpoint import atomic

if TYPE_CHECKING:
    from accelerate import Accelerator

EDGES = (-6.0, -2.0, 2.0, 6.0)  # of the bins of log-SNR in which losses are reported
LEVELS = ("< -6", "-6..-2", "-2..2", "2..6", "> 6")


class Meter:
    """Sums losses by noise level, and gradient norms, on the device; they are read when they are logged.

    Where the parts of a model lower losses of their own, these are summed up, too, and norms are by part.
    The sums are those of all processes, in each of them: a checkpoint of one has them all.
    """

    def __init__(self, device: torch.device, parts: tuple[str, ...] = ("",)) -> None:
        self._parts, self._with_losses = parts, parts if len(parts) > 1 else ()
        rows = len(LEVELS) + len(self._with_losses) + len(parts)
        self.sums = torch.zeros(rows, 2, device=device)  # and counts; the last rows are the gradients'
        self._edges = torch.tensor(EDGES, device=device)
        self._has_levels = False

    def counted(
        self,
        loss: Tensor,
        log_snr: Tensor | None,
        weight: Tensor | None = None,
        by_part: Tensor | None = None,
    ) -> Tensor:
        """The losses of a batch (B,), summed up by noise level (B,): a vector that adds up over processes.

        With weights (B,), means are weighted. The losses by part (B, parts) follow, where there are several.
        """
        self._has_levels = log_snr is not None
        loss = loss.detach().float()
        level = torch.zeros_like(loss) if log_snr is None else log_snr.detach().float().contiguous()
        weight = torch.ones_like(loss) if weight is None else weight.to(loss)
        once = torch.stack([weight * loss, weight], 1)
        sums = torch.zeros_like(self.sums[: -len(self._parts)])
        sums.index_add_(0, torch.bucketize(level, self._edges), once)
        if by_part is not None:
            total = weight @ by_part.detach().float()
            sums[len(LEVELS) :] = torch.stack([total, weight.sum().expand_as(total)], 1)
        return sums.flatten()

    def add(self, counted: Tensor, *norms: float) -> None:
        """Takes in what was counted of a batch, over all processes, and the norm of each part's gradient."""
        self.sums[: -len(norms)] += counted.view(-1, 2)
        self.sums[-len(norms) :] += torch.tensor([[norm, 1.0] for norm in norms], device=self.sums.device)

    def read(self) -> dict[str, float]:
        """Means since the last reading; the sums begin anew."""
        sums: list[list[float]] = self.sums.tolist()
        self.sums.zero_()
        levels, others = sums[: len(LEVELS)], iter(sums[len(LEVELS) :])
        means = {"loss": _mean(*map(sum, zip(*levels, strict=True)))}
        means |= {f"loss/{part}": _mean(*next(others)) for part in self._with_losses}
        means |= {f"gradient_norm/{part}".rstrip("/"): _mean(*next(others)) for part in self._parts}
        if self._has_levels:
            means |= {f"loss/{name}": _mean(*level) for name, level in zip(LEVELS, levels, strict=True)}
        return {name: mean for name, mean in means.items() if math.isfinite(mean)}


class Log:
    """The log of a run that goes on after a step: what was logged beyond its checkpoint is dropped."""

    def __init__(self, accelerator: "Accelerator", folder: Path, step: int) -> None:
        self._accelerator, self._step, self._path = accelerator, step, folder / "log.jsonl"
        self._lines: TextIO | None = None

    def __enter__(self) -> "Log":
        if self._accelerator.is_main_process:
            self._guarded(self._truncate)
            purge = {"tensorboard": {"purge_step": self._step + 1}}
            self._guarded(self._accelerator.init_trackers, "phin", init_kwargs=purge)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._lines is not None:
            self._guarded(self._lines.close)
            for tracker in self._accelerator.trackers:
                self._guarded(tracker.finish)

    def write(self, step: int, facts: dict[str, float]) -> None:
        """Logs numbers, on the main process. Raises PhinError where they cannot be written."""
        if self._lines is not None:
            self._guarded(self._lines.write, json.dumps({"step": step, **facts}) + "\n")
            self._guarded(self._accelerator.log, facts, step)

    def picture(self, step: int, picture: np.ndarray) -> None:
        """Shows a picture, uint8 (H, W) or (H, W, C), in TensorBoard."""
        for tracker in self._accelerator.trackers:
            if tracker.name == "tensorboard":
                image = picture if picture.ndim == 3 else picture[..., None]
                self._guarded(tracker.log_images, {"samples": image[None]}, step, dataformats="NHWC")

    def _truncate(self) -> None:
        lines = self._path.read_bytes().splitlines(keepends=True) if self._path.exists() else []
        with atomic(self._path) as temporary:
            temporary.write_bytes(b"".join(line for line in lines if _step(line) <= self._step))
        self._lines = self._path.open("a", encoding="utf-8", buffering=1)

    def _guarded(self, action: Any, *arguments: Any, **options: Any) -> None:
        try:
            action(*arguments, **options)
        except OSError as error:
            raise PhinError(
                f"the log in {self._path.parent} could not be written ({error.strerror}): free some space; "
                "the same command goes on from the last checkpoint"
            ) from error


def _step(line: bytes) -> float:
    try:
        return json.loads(line)["step"]
    except ValueError:
        return math.inf  # a line that was cut when the process was killed


def records(folder: Path) -> list[dict[str, float]]:
    """What a run has logged."""
    return [json.loads(line) for line in (folder / "log.jsonl").read_text(encoding="utf-8").splitlines()]


def curve(log: list[dict[str, float]], key: str) -> tuple[list[float], list[float]]:
    """A quantity by training step."""
    lines = [line for line in log if key in line]
    return [line["step"] for line in lines], [line[key] for line in lines]


def _mean(total: float, count: float) -> float:
    return total / count if count else math.nan
