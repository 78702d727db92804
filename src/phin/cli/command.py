"""What every command is: a dataclass whose fields are its options."""

import abc
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from phin.errors import PhinError

from .options import Flag
from .parsing import gathered, parse


@dataclass(frozen=True, kw_only=True)
class Command(abc.ABC):
    """What can be asked of phin."""

    json: Flag = False
    """Print one JSON object on standard output, and nothing else there."""

    again: ClassVar[str] = "start the same command again"
    """What to do after an interruption."""

    def __post_init__(self) -> None:
        if (seed := getattr(self, "seed", 0)) < 0:
            raise PhinError(f"seed must not be negative, but is {seed}")

    @classmethod
    def parse(cls, argv: Sequence[str], prog: str) -> "Command":
        """The command that was asked for by `PROG ARGV`.

        Raises:
            PhinError: An option that there is not, or a value it cannot have.
            SystemExit: Help was asked for, and printed.
        """
        return parse(cls, gathered(argv, "--prompt", "--label", "--image"), prog)

    @abc.abstractmethod
    def run(self) -> dict[str, Any]:
        """Does it; what came of it, JSON-able.

        Raises:
            PhinError: The user can mend it.
        """

    @abc.abstractmethod
    def show(self, facts: dict[str, Any]) -> None:
        """Prints what came of it."""

    def given(self, *names: str, **renamed: str) -> dict[str, Any]:
        """Those of these options that were given, by their names, or by another as in `grid="levels"`."""
        options = {name: name for name in names} | renamed
        return {key: value for key, name in options.items() if (value := getattr(self, name)) is not None}

    def code(self, facts: dict[str, Any]) -> int:
        """The exit code."""
        return 0
