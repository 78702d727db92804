"""What a person sees of a training run, on standard error: a moving line on a terminal, else plain lines."""

import contextlib
import os
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn

from phin.training.run import State


class Display:
    """Shows progress and prints messages; `silent` for all processes but the main one."""

    def __init__(self, silent: bool = False) -> None:
        self._console = Console(stderr=True, quiet=silent, highlight=False, soft_wrap=True)
        self._line = Progress(
            BarColumn(bar_width=24),
            TextColumn("{task.percentage:3.0f} %  {task.description}"),
            console=self._console,
            transient=True,
            auto_refresh=False,
            disable=not self._console.is_terminal,
        )
        self._task = self._line.add_task("", total=1.0)
        self._drawn = -1.0

    def __enter__(self) -> "Display":
        self._line.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._line.stop()

    def say(self, text: str) -> None:
        """Prints one line."""
        self._console.print(text, markup=False)

    def interject(self, text: str) -> None:
        """Prints one line at once, though a signal may have come while the console was printing another."""
        if not self._console.quiet:
            with contextlib.suppress(OSError):
                os.write(2, f"\n{text}\n".encode())  # not behind the ^C of a terminal or the moving line

    def move(self, state: State, progress: float, facts: dict[str, float]) -> None:
        """Redraws the moving line, ten times a second at the most; `facts` are the last that were logged."""
        if self._line.disable or state.seconds - self._drawn < 0.1:
            return
        self._drawn = state.seconds
        words = [f"step {state.step:,}", f"{_clock(state.seconds * (1 / max(progress, 1e-9) - 1))} left"]
        words += [f"{facts['images_per_second']:,.0f} images/s"] if "images_per_second" in facts else []
        words += [f"training loss {facts['loss']:.4g}"] if "loss" in facts else []
        words += [f"held-out {name} {value:.4g}" for name, value in list(state.validation.items())[:1]]
        self._line.update(
            self._task, completed=min(progress, 1.0), description="  ".join(words), refresh=True
        )


def counted(n: int, what: str = "step") -> str:
    """A number of steps, or of something else."""
    return f"{n:,} {what}{'' if n == 1 else 's'}"


def _clock(seconds: float) -> str:
    minutes, rest = divmod(max(round(seconds), 0), 60)
    return f"{minutes // 60}:{minutes % 60:02}:{rest:02}" if minutes >= 60 else f"{minutes}:{rest:02}"
