"""The command line, `phin COMMAND`: each command is a dataclass whose fields are its options.

A command gathers facts (`run`), which `--json` prints as they are and `show` puts in words. Importing torch
takes longer than many a command, so every command imports what it needs when it runs.

A new command is a `Command` in a file of its own, and a line in `COMMANDS`.
"""

import atexit
import gc
import json
import os
import sys
import threading
import warnings
from collections.abc import Sequence

from phin import __version__
from phin.errors import PhinError

from .command import Command
from .compare import Compare
from .data import DataGet, DataList, DataResize
from .demo import Demo
from .distill import Distill
from .edit import EditInpaint, EditInterpolate, EditReconstruct, EditVary
from .evaluate import Evaluate
from .export import Export
from .nll import Nll
from .processes import first
from .recipes import Recipes
from .sample import Sample
from .terminal import messages
from .train import Train
from .tune import Tune
from .verify import Verify

__all__ = ["COMMANDS", "answer", "main", "read"]


def main(argv: Sequence[str] | None = None) -> int:
    """Runs a command.

    Exit codes: 0, 1 if a law does not hold, 2 after a mistake that the user can mend, 130 after an
    interruption, 141 where nobody reads on, as in `phin recipes | head -1`.
    """
    if argv is None:  # in a process of its own, which ends with it
        argv = sys.argv[1:]
        gc.set_threshold(100_000)  # imports make objects by the hundred thousand, and no garbage
        atexit.register(gc.freeze)  # nor is it worth half a second to look for some at the end
        threading.excepthook = in_thread
        warnings.formatwarning = lambda message, *_, **__: f"phin: warning: {message}\n"
    try:
        code = answer(argv)
        sys.stdout.flush()
        return code
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or Python complains when it ends
        return 141


def answer(argv: Sequence[str]) -> int:
    """Runs a command and prints what came of it; its exit code.

    Raises:
        BrokenPipeError: Nobody reads what is printed.
    """
    again = Command.again
    try:
        if (command := read(argv)) is None:
            return 0
        again = command.again
        with messages():
            facts = command.run()
        if not first():
            pass
        elif command.json:
            print(json.dumps(facts))
        else:
            command.show(facts)
        return command.code(facts)
    except PhinError as error:
        code, text = 2, str(error)
    except BrokenPipeError:
        raise
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        code, text = 2, f"{where}{error.strerror or error}; mend that and {again}"
    except KeyboardInterrupt:
        code, text = 130, f"interrupted; {again}"
    print("phin: error:" if code == 2 else "phin:", " ".join(text.split()), file=sys.stderr)
    if "--json" in argv and first():
        print(json.dumps({"error": text}))
    return code


def in_thread(error: threading.ExceptHookArgs) -> None:
    """Leaves it to the main thread to tell of a full disk, of which TensorBoard's thread dies too."""
    if not issubclass(error.exc_type, OSError):
        threading.__excepthook__(error)


def read(argv: Sequence[str]) -> Command | None:
    """The command that was asked for; None where help was, which is printed.

    Raises:
        PhinError: There is no such command, or it has no such option.
    """
    if argv and argv[0] in ("-V", "--version"):
        print(f"phin {__version__}")
        return None
    if not argv or argv[0] in ("-h", "--help", "help"):
        print(usage())
        return None
    words = 2 if " ".join(argv[:2]) in COMMANDS else 1
    name, options = " ".join(argv[:words]), argv[words:]
    if name not in COMMANDS:
        known = [other.removeprefix(f"{name} ") for other in COMMANDS if other.startswith(f"{name} ")]
        if known and {"-h", "--help"}.intersection(options):
            print(usage(f"{name} "))
            return None
        raise PhinError(
            f"`phin {name}` needs one of {', '.join(known)}"
            if known
            else f"unknown command {name!r}; there are {', '.join(COMMANDS)}"
        )
    try:
        return COMMANDS[name].parse(options, f"phin {name}")
    except SystemExit:
        return None


def usage(beginning: str = "") -> str:
    """What `phin --help` says; of `phin edit --help`, what it says of the commands that begin so."""
    known = {name: command for name, command in COMMANDS.items() if name.startswith(beginning)}
    width = max(10, *map(len, known))
    lines = [f"  {name:<{width}} {str(command.__doc__).splitlines()[0]}" for name, command in known.items()]
    return "\n".join(
        [
            "usage: phin COMMAND [OPTIONS]",
            "",
            *lines,
            "",
            "phin COMMAND --help lists its options; phin --version.",
        ]
    )


COMMANDS: dict[str, type[Command]] = {
    "demo": Demo,
    "train": Train,
    "distill": Distill,
    "sample": Sample,
    "evaluate": Evaluate,
    "nll": Nll,
    "compare": Compare,
    "tune": Tune,
    "export": Export,
    "edit vary": EditVary,
    "edit inpaint": EditInpaint,
    "edit interpolate": EditInterpolate,
    "edit reconstruct": EditReconstruct,
    "verify": Verify,
    "data list": DataList,
    "data get": DataGet,
    "data resize": DataResize,
    "recipes": Recipes,
}
