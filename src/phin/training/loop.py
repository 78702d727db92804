"""The training loop: one for every kind of model, to be read from top to bottom in `fit`.

A *task* says what is learned: it draws its own batches and gives their losses. The loop does the rest: the
budget of time or steps, to which warm-up, decay and averaging are fitted; the average of the weights that is
sampled; pictures and numbers that show whether training is on track; checkpoints from which the same command
goes on.

A step is a function of (seed, step) and of what is in the checkpoint, nothing else, so that on a CPU, under a
budget of steps, with as many threads, a run that was interrupted ends as the uninterrupted one, bit for bit.
"""

import abc
import math
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any, NamedTuple, cast

import numpy as np
import torch
from torch import Tensor, nn

from phin.diffusion.noise import stream
from phin.errors import PhinError
from phin.nets.device import preferred
from phin.nets.precision import allow_tf32, bf16_is_fast
from phin.training import checkpoint
from phin.training.compiling import Compiling
from phin.training.config import TrainConfig
from phin.training.display import Display, counted
from phin.training.ema import EMA
from phin.training.log import LEVELS, Log, Meter
from phin.training.optimizer import Optimizer
from phin.training.recomputing import blocks, recomputing
from phin.training.run import Result, Run, State

if TYPE_CHECKING:
    from accelerate import Accelerator

PATIENCE = 10  # steps in a row that may be skipped
ASIDE = 1 / 8  # of a time budget: looking on may take so much of the time so far
FEW = 100  # steps: a time budget that ends with fewer was too short


class Losses(NamedTuple):
    """What a task says of a batch (of this process's part of it)."""

    loss: Tensor
    """(B,): of each example; the loop takes the mean."""
    log_snr: Tensor | None = None
    """(B,): the noise level of each example, to show the loss by it; None where there is none."""
    weight: Tensor | None = None
    """(B,): how much each example counts in the mean; None is 1. With it, `Task.learn` is told the losses."""
    by_part: Tensor | None = None
    """(B, parts): of several `Task.parts` the loss of each, to be shown; `loss` is their sum."""


class Task(nn.Module, abc.ABC):
    """What is trained: `model`, set by the subclass, is trained, averaged and saved.

    The rest is constant, but for the task's own buffers, which `learn` may change and checkpoints keep.
    """

    model: nn.Module
    progress: float = 0.0
    """The share of the budget that is used up; the loop tells it before every step."""

    @property
    def device(self) -> torch.device:
        """Where the model is, and where batches have to be."""
        return next(self.model.parameters()).device

    @abc.abstractmethod
    def forward(self, step: int, rows: slice) -> Losses:
        """The losses of rows `rows` of the batch of a step.

        The batch, its noise and its times must be a pure function of (seed, step), and each row of them one
        of its place in the batch, so that a resumed run, and one on several devices, is the same run. `rows`
        is strided: process r of n takes rows r, r + n, ... What draws from torch's global generator, such as
        dropout, need not care: the loop seeds it every step.
        """

    @property
    def product(self) -> nn.Module:
        """What is averaged, looked at and kept: the model, or that part of it which outlives the training."""
        return self.model

    def parts(self) -> dict[str, nn.Module]:
        """The parts of the model that lower losses of their own, by name; one without a name is the whole.

        The gradient of each is clipped by itself, so that no part slows down another.
        """
        return {"": self.model}

    def networks(self) -> tuple[nn.Module, ...]:
        """What may be compiled: called alike in every step, and differentiated once."""
        return ()

    def learn(self, step: int, loss: Tensor) -> None:
        """Takes in the losses (B,) of the whole batch of a step, unweighted; the same in every process."""

    def memory(self) -> dict[str, Tensor]:
        """The task's own buffers, by name."""
        return {name: t for name, t in self.named_buffers() if not name.startswith("model.")}

    def lap(self, progress: float) -> float:
        """How far along its curve the learning rate is at a share of the budget; a stage may have its own."""
        return progress

    def fewest(self, batch: int) -> int:
        """The fewest examples that a step with this batch has."""
        return batch

    def validate(self, model: nn.Module) -> dict[str, float]:
        """Numbers on held-out data, from the averaged product in evaluation mode; called without gradients.

        The first entry decides which weights are best; lower is better. An entry `baseline` is what the first
        would be without having learned anything. Examples, noise and times must be the same every time.
        """
        return {}

    def picture(self, model: nn.Module) -> np.ndarray | None:
        """A picture of what the averaged product does, uint8 (H, W) or (H, W, 3), or None."""
        return None


class _Parallel(nn.Module):
    """What Accelerate puts under autocast and spreads over processes; the task itself stays as it is."""

    def __init__(self, task: Task) -> None:
        super().__init__()
        self.task = task

    def forward(self, step: int, rows: slice) -> Losses:
        return self.task(step, rows)


def fit(
    task: Task,
    config: TrainConfig,
    out: Path,
    description: dict[str, Any],
    *,
    clock: Callable[[], float] = time.monotonic,
) -> Result:
    """Trains `task.model`, leaving what comes of it in a folder; goes on where the same run was stopped.

    The folder gets `best.safetensors` (averaged weights at the lowest validation loss: the ones to sample),
    `last.safetensors` (everything, to go on from), `run.json`, `log.jsonl`, `tensorboard/` and `samples/`;
    and `copies/` of the averaged weights, if they are asked for.
    Several processes (`torchrun`, `accelerate launch`) share every batch and the folder.

    Args:
        task: What to train.
        config: How.
        out: The folder; made if need be.
        description: What the model is, JSON-able, in every file. A folder of another description is refused.
        clock: Seconds.

    Returns:
        What came of it.

    Raises:
        PhinError: The folder cannot be written to, is another run's or has a damaged checkpoint; a process
            would be without examples; the disk is full; ten steps in a row had a loss or gradient that is not
            finite. The last checkpoint is intact.
        KeyboardInterrupt: On SIGINT or SIGTERM, once the step is finished and saved.
    """
    accelerator = _accelerator(config, out)
    main, rank, processes = accelerator.is_main_process, accelerator.process_index, accelerator.num_processes
    display = Display(silent=not main)
    compiling = Compiling(task.networks(), config.compile, accelerator.device, display.say)
    again = blocks(task.model) if config.recompute else []
    if (fewest := task.fewest(config.batch)) < processes:
        raise PhinError(
            f"batch = {config.batch} has steps of {fewest} examples, too few for {processes} processes: "
            "take a larger batch, or fewer processes"
        )
    if main:
        checkpoint.open_folder(out)
        checkpoint.sweep(out)
    accelerator.wait_for_everyone()

    task.to(accelerator.device)
    allow_tf32(accelerator.device)
    optimizer = Optimizer(task.model, config.betas, config.weight_decay, config.muon)
    ema = EMA(task.product, config.ema, config.ema_decay)
    parts = task.parts()
    meter = Meter(accelerator.device, tuple(parts))
    run = Run(out, description, config, task.model, ema.model, optimizer, meter, task.memory)
    state = run.resume()
    if main:
        run.forget(state.step)

    progress = state.progress(config)
    shares = {"validation": config.validate_every, "picture": config.picture_every, "copy": config.copy_every}

    def due(name: str) -> bool:
        return _due(shares[name], state.looked.get(name, 0.0), progress)

    def finished() -> bool:
        return progress >= 1 and not any(map(due, shares))

    if finished():
        display.say(f"{out} is finished after {counted(state.step)}, {state.seconds / 60:.1f} minutes")
        return run.result(state)
    threads = torch.get_num_threads()
    place = f"on {accelerator.device.type}, with {counted(threads, 'thread')}"
    place += f" in each of {processes} processes" if processes > 1 else ""
    place += f", and not {state.threads}: rounding differs" if state.threads not in (0, threads) else ""
    state.threads = threads
    if state.step:
        display.say(f"{out} goes on from step {state.step:,} ({progress:.0%} of the budget) {place}")
    else:
        display.say(f"{out} begins {place}")

    start, saved = clock() - state.seconds, clock()
    examples, trained = state.examples, state.trained
    in_a_row, lr, stop = 0, 0.0, False
    facts: dict[str, float] = {}

    def total(part: Tensor) -> Tensor:
        return cast(Tensor, accelerator.reduce(part))

    @contextmanager
    def aside(name: str) -> Iterator[None]:
        begun = clock()
        state.seconds = begun - start
        with torch.no_grad(), accelerator.autocast():
            yield
        cost = clock() - begun
        state.seconds += cost
        state.aside += cost
        state.looked[name] = progress
        if progress < 1:  # what the end takes must not make a finished run look unfinished
            state.costs[name] = cost

    def affordable(name: str) -> bool:
        """Whether there is time for it. The first shows its cost, and the last has its time reserved."""
        if config.steps or progress >= 1 or name not in state.costs:
            return True
        return state.aside + state.costs[name] <= ASIDE * state.seconds

    def agreed_on(asked: bool) -> bool:
        """What the main process says."""
        return total(torch.tensor(float(asked and main), device=accelerator.device)).item() > 0

    def stopping() -> bool:
        nonlocal stop
        stop = stop or (processes == 1 and interrupted.is_set())  # several agree on it in a step
        return stop

    def look() -> None:
        """What lies between steps. Whatever is put off, or left undone by an interruption, remains due.

        All processes validate, as a task may share what there is to draw; the rest is the main one's.
        """
        nonlocal saved
        if due("validation") and agreed_on(affordable("validation")) and not stopping():
            with aside("validation"):
                state.validation = task.validate(ema.model)
                if run.is_best(state) and main:
                    run.save_best(state)
            log.write(state.step, {f"validation/{name}": x for name, x in state.validation.items()})
            display.say(_report(state, progress, facts))
        if not main:
            return
        if due("picture") and affordable("picture") and not stopping():
            with aside("picture"):
                picture = task.picture(ema.model)
                if picture is not None:
                    run.save_picture(picture, state.step)
                    log.picture(state.step, picture)
        if due("copy") and not stopping():
            with aside("copy"):
                run.save_copy(state)
        if stopping() or progress >= 1 or clock() - saved >= 60 * config.save_minutes:
            with aside("checkpoint"):
                run.save(state)
            saved = clock()

    # The task is where it belongs: to place it again, Accelerate imports what takes a second.
    parallel = accelerator.prepare(_Parallel(task), device_placement=[False])
    log = Log(accelerator, out, state.step)
    with (
        log,
        display,
        _interruption(display) as interrupted,
        recomputing(again),
        compiling,
    ):
        if state.step:
            look()
        while progress < 1 and not stop:
            torch.manual_seed(stream(config.seed, "network", state.step * processes + rank).integers(2**63))
            compiling.step(state.seconds * (1 / progress - 1) if progress else math.inf)
            task.progress = progress
            losses: Losses = parallel(state.step, slice(rank, None, processes))
            count = torch.full((), len(losses.loss), dtype=torch.float32, device=accelerator.device)
            weighted = losses.loss if losses.weight is None else losses.weight * losses.loss
            loss = weighted.sum() / total(count)  # this process's part of the mean over the batch
            accelerator.backward(loss * processes)  # DDP takes the mean of the gradients over processes
            norms = [nn.utils.clip_grad_norm_(part.parameters(), config.clip) for part in parts.values()]

            # What processes agree on travels together: the one thing in a step that the host waits for.
            state.seconds = clock() - start
            ours = torch.tensor([state.progress(config), interrupted.is_set()], device=accelerator.device)
            told = meter.counted(losses.loss, losses.log_snr, losses.weight, losses.by_part)
            alike = [norm / processes for norm in norms]
            agreed = total(torch.cat([torch.stack([loss.detach(), count, *alike]), ours * main, told]))
            mean, size, *lengths, clocked, interruptions = agreed[: -len(told)].tolist()
            stop = interruptions > 0

            if all(map(math.isfinite, (mean, *lengths))):
                share = (state.step + 0.5) / config.steps if config.steps else min(clocked, 1.0)
                lr = config.learning_rate(task.lap(share))
                optimizer.step(lr)
                ema.update(state.step + 1 - state.skipped)
                meter.add(agreed[-len(told) :], *lengths)
                if losses.weight is not None:
                    whole = torch.zeros(int(size), device=accelerator.device)
                    whole[rank::processes] = losses.loss.detach().to(whole)
                    task.learn(state.step, total(whole))
                in_a_row = 0
            else:
                state.skipped += 1
                in_a_row += 1
            optimizer.zero_grad()
            state.step += 1
            state.examples += int(size)
            if in_a_row == PATIENCE:
                raise PhinError(
                    f"loss or gradient was not finite in {PATIENCE} steps in a row up to {state.step} (loss "
                    f"{mean}, norm {', '.join(map(str, lengths))}): try an lr below {config.lr} or "
                    f"precision float32; {run.kept()}"
                )

            before, progress = progress, state.step / config.steps if config.steps else clocked
            if _due(config.log_every, before, progress):
                speed = (state.examples - examples) / max(state.trained - trained, 1e-9)
                examples, trained = state.examples, state.trained
                facts = {"progress": progress, "seconds": state.seconds, "images_per_second": speed}
                facts |= {"lr": lr, "skipped": state.skipped} | meter.read()
                log.write(state.step, facts)
            look()
            display.move(state, progress, facts)
        accelerator.wait_for_everyone()
        if stop and not finished():
            display.say(f"stopped after step {state.step:,}: the same command goes on from {run.last}")
            raise KeyboardInterrupt
    taken = f"{state.seconds / 60:.1f} minutes, {state.images_per_second:,.0f} images/s"
    display.say(f"done: {counted(state.step)}, {taken}; see {run.best}")
    if config.minutes and state.step < FEW:
        display.say(f"so few steps teach little: give it more than {config.minutes:g} minutes")
    return run.result(state)


def _accelerator(config: TrainConfig, out: Path) -> "Accelerator":
    from accelerate import Accelerator, PartialState
    from accelerate.state import AcceleratorState
    from accelerate.tracking import get_available_trackers
    from accelerate.utils import ProjectConfiguration

    available = [str(tracker) for tracker in get_available_trackers()]
    if missing := [tracker for tracker in config.trackers if tracker not in available]:
        raise PhinError(
            f"tracker {missing[0]!r} is unknown or not installed; there is {', '.join(available) or 'none'}"
        )
    cpu = preferred().type == "cpu"
    device = cast(torch.device, PartialState(cpu=cpu).device)
    half = config.precision == "bf16" or (config.precision == "auto" and bf16_is_fast(device))
    AcceleratorState._reset_state()  # a second run in this process may have another precision
    return Accelerator(
        cpu=cpu,
        mixed_precision="bf16" if half else "no",
        log_with=list(config.trackers) or None,
        project_config=ProjectConfiguration(str(out), str(out / "tensorboard")),
    )


@contextmanager
def _interruption(display: Display) -> Iterator[threading.Event]:
    """Set by SIGINT or SIGTERM, so that the step can be finished and saved; a second one acts at once."""
    asked = threading.Event()
    signals = (signal.SIGINT, signal.SIGTERM) if threading.current_thread() is threading.main_thread() else ()
    previous = {number: signal.getsignal(number) for number in signals}

    def ask(number: int, frame: FrameType | None) -> None:
        if asked.is_set():
            raise KeyboardInterrupt
        asked.set()
        display.interject("stopping after this step, once it is saved")

    for number in signals:
        signal.signal(number, ask)
    try:
        yield asked
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def _due(every: float, before: float, progress: float) -> bool:
    """Whether a multiple of `every` was passed; the end is one, and 0 is never."""
    if every <= 0 or before >= 1:
        return False
    return progress >= 1 or int(progress / every + 1e-9) > int(before / every + 1e-9)


def _report(state: State, progress: float, facts: dict[str, float]) -> str:
    """One line: is training on track?"""
    words = [f"step {state.step:,} ({min(progress, 1):.0%})"]
    words += [f"training loss {facts['loss']:.4g}"] if "loss" in facts else []
    found = [f"{name} {value:.4g}" for name, value in state.validation.items() if name != "baseline"]
    words += [f"held-out {', '.join(found)}"] if found else []
    if baseline := state.validation.get("baseline"):
        first = next(iter(state.validation.values()))
        words.append(f"{first / baseline:.1%} of the baseline's {baseline:.4g}")
    if by_level := [f"{level}: {facts[key]:.3g}" for level in LEVELS if (key := f"loss/{level}") in facts]:
        words.append("loss by log-SNR " + "  ".join(by_level))
    words += [f"{state.skipped} steps skipped"] if state.skipped else []
    return "  |  ".join(words)
