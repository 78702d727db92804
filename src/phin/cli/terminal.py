"""What a terminal shows: tables of results on standard output, a bar and the log on standard error."""

import contextlib
import logging
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING

from phin.errors import PhinError

if TYPE_CHECKING:
    from phin.models import Watch


def show_table(lines: Sequence[Sequence[str]]) -> None:
    """Prints a table, whose first line is its heading, as wide as the terminal or else as it needs."""
    from rich.console import Console
    from rich.table import Table

    table = Table(*lines[0], box=None, pad_edge=False)
    for line in lines[1:]:
        table.add_row(*line)
    console = Console(width=None if sys.stdout.isatty() else 200, highlight=False)
    with console.capture() as shown:  # rich would end the process if nobody reads it
        console.print(table)
    print(shown.get(), end="")


@contextlib.contextmanager
def bar(total: int, doing: str) -> Iterator[Callable[[int], None]]:
    """Yields what advances a bar on standard error, if that is a terminal; `total` in all fill it."""
    if not sys.stderr.isatty():
        yield lambda n: None
        return
    from rich.console import Console
    from rich.progress import Progress

    shown = Progress(console=Console(stderr=True), transient=True)
    task = shown.add_task(doing, total=total)

    def advance(n: int) -> None:
        shown.start()  # not earlier: a training before it has a bar of its own
        shown.advance(task, n)

    try:
        yield advance
    finally:
        shown.stop()


@contextlib.contextmanager
def progress(total: int) -> Iterator["Watch"]:
    """Yields a watch with a bar; `total` states fill it."""
    with bar(total, "drawing") as advance:
        yield lambda batch, z, level: advance(len(batch))


@contextlib.contextmanager
def messages() -> Iterator[None]:
    """Phin's log, where data come from for instance, on standard error."""
    log, handler = logging.getLogger("phin"), logging.StreamHandler()
    log.addHandler(handler)
    log.setLevel(logging.INFO)
    try:
        yield
    finally:
        log.removeHandler(handler)


def exit_code(work: Callable[[], object], again: str = "") -> int:
    """Does the work of a script, and says in a line what ended it, if anything did.

    Args:
        work: The work.
        again: What is to be said after an interruption.

    Returns:
        0; 2 after a mistake that the user can mend; 130 after an interruption.
    """
    try:
        work()
    except PhinError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(f"interrupted{again and f'; {again}'}", file=sys.stderr)
        return 130
    return 0
