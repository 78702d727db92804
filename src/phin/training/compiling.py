"""Networks that `torch.compile` has compiled, where that pays.

On a GPU the kernels of a network are fused, and launched as one graph (CUDA graphs); how much that gains
depends on the network, the batch and the GPU, so it is measured in the first steps. On a CPU nearly all the
time goes into convolutions, which are the same in a compiled network.
"""

import importlib
import importlib.util
import os
import shutil
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from statistics import median
from typing import Any, Literal

import torch
from torch import nn

from phin.errors import PhinError

Choice = Literal["auto", "yes", "no"]

TRIAL = 40  # steps of a measurement
WORTH = 300.0  # seconds of training that are left, at least, where compiling is tried


class Compiling:
    """The networks of a training, as they are or compiled; within it, as the choice says.

    `auto` compiles on CUDA where enough training is left, and goes back to the network as it is if that was
    faster, or cannot be compiled. Compiled or not, the numbers are the same but for rounding.

    Args:
        nets: The networks, called alike in every step.
        choice: Whether to compile them.
        device: Where they run.
        say: Told what was decided.
        clock: Seconds.

    Raises:
        PhinError: They are to be compiled and there is nothing to do it with, or nothing to compile.
    """

    def __init__(
        self,
        nets: Sequence[nn.Module],
        choice: Choice,
        device: torch.device,
        say: Callable[[str], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.nets, self.device, self.say, self.clock = nets, device, say, clock
        self.compiled = choice == "yes"
        self.trying = choice == "auto" and device.type == "cuda" and bool(nets) and not lacking(device)
        self.config = ExitStack()
        self.moments: list[float] = []
        self.plain = 0.0
        if self.compiled and not nets:
            raise PhinError("compile = yes: this kind of model is not compiled in training; give auto or no")
        if self.compiled and (tool := lacking(device)):
            raise PhinError(f"compile = yes needs {tool}: install it, or give auto or no")

    def __enter__(self) -> "Compiling":
        if self.compiled:
            self.compile()
            self.say("the network is compiled: the first steps take longer")
        return self

    def __exit__(self, *_: object) -> None:
        self.undo()

    def compile(self) -> None:
        """Compiles the networks, when they are called next."""
        if self.trying:  # what nobody has asked for must not end a training: what fails stays plain
            self.config.enter_context(_dynamo().patch(suppress_errors=True))
        mode = "reduce-overhead" if self.device.type == "cuda" else "default"
        for net in self.nets:
            net.compile(mode=mode, dynamic=False)
        self.compiled = True

    def undo(self) -> None:
        """Makes the networks what they were."""
        for net in self.nets:
            vars(net).pop("_compiled_call_impl", None)
        self.config.close()
        self.compiled = False

    def step(self, left: float) -> None:
        """A step begins, with so many seconds of training left."""
        if self.compiled and self.device.type == "cuda":
            torch.compiler.cudagraph_mark_step_begin()
        if not self.trying:
            return
        self.moments.append(self.clock())
        if len(self.moments) <= (2 if self.compiled else 1) * TRIAL:  # compiled, the first ones do not count
            return
        lengths = [after - before for before, after in zip(self.moments, self.moments[1:], strict=False)]
        each = median(lengths[-TRIAL:])
        if self.compiled:
            self.trying = False
            gain, cost = self.plain / each, sum(lengths[:TRIAL]) - TRIAL * each
            kept = "is compiled" if gain > 1 else "stays as it is"
            if gain <= 1:
                self.undo()
            self.say(f"the network {kept}: compiled, it is {gain:.2f} times as fast, after {cost:.0f} s")
        elif left < WORTH:
            self.trying = False
            self.say(f"the network stays as it is: {left:.0f} s are too few for compiling it")
        else:
            self.plain, self.moments = each, self.moments[-1:]
            self.compile()


def _dynamo() -> Any:
    """What torch.compile goes by: an import of seconds, for those who compile."""
    return importlib.import_module("torch._dynamo.config")


def lacking(device: torch.device) -> str | None:
    """What compiling for a device needs and this machine does not have, in words."""
    if device.type == "cuda":
        return None if importlib.util.find_spec("triton") else "Triton"
    # The one that torch takes, and no other that might be there.
    name = os.environ.get("CXX") or {"win32": "cl", "darwin": "clang++"}.get(sys.platform, "g++")
    if shutil.which(name):
        return None
    return f"a C++ compiler ({name}, by the variable CXX if it has another name)"
