"""From the words of a command line to a dataclass, by tyro; what is wrong with them, in one line."""

import contextlib
import io
import re
from collections.abc import Sequence
from itertools import groupby, pairwise
from typing import Any, TypeVar

import tyro

from phin.errors import PhinError

T = TypeVar("T")


def parse(kind: type[T], argv: Sequence[str], prog: str, default: T | None = None) -> T:
    """The dataclass `kind` from command line options.

    Raises:
        PhinError: An option that there is not, or a value it cannot have.
        SystemExit: Help was asked for, and printed.
    """
    if "--out=" in argv or ("--out", "") in pairwise(argv):
        raise PhinError("--out is empty; name a place, or write . for this folder")
    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said):
            start: dict[str, Any] = {} if default is None else {"default": default}
            return tyro.cli(kind, prog=prog, args=argv, config=(tyro.conf.AvoidSubcommands,), **start)
    except SystemExit as stop:
        if not stop.code:
            raise
        raise PhinError(f"{unboxed(said.getvalue())} (`{prog} --help` lists the options)") from None


def gathered(argv: Sequence[str], *options: str) -> list[str]:
    """The words with all values of an option that is given more than once behind its first, in their order.

    Of `--prompt A --prompt B`, tyro would drop the A.
    """
    words: list[str] = []
    values: dict[str, list[str]] = {}
    taking = None
    for word in argv:
        name, given, value = word.partition("=")
        if name in options:
            if name not in values:
                values[name] = []
                words.append(name)
            values[name] += [value] if given else []
            taking = None if given else name
        elif taking and not re.match(r"-[^\d]", word):
            values[taking].append(word)
        else:
            words.append(word)
            taking = None
    return [each for word in words for each in (word, *values.get(word, ()))]


def unboxed(box: str) -> str:
    """The one line that matters of the box that tyro draws around an error."""
    _, *lines = [line.strip("│╭╮╰╯ ") for line in box.splitlines()]  # less the title
    parts = [list(part) for rule, part in groupby(lines, lambda line: not line.strip("─-")) if not rule]
    message = unparsed(" ".join(parts[0]).removesuffix("."))
    if len(parts) > 2 and parts[1][0] == "Perhaps you meant:":
        message += f"; is it {parts[1][1].split()[0]}?"
    return message


def unparsed(message: str) -> str:
    """What tyro says of a value: of an option's, what it is to be; of a configuration, what that said."""
    found = re.fullmatch(r"Error parsing (-\S+): (.*?)\[?('.*')\]?(?: into .*)?", message)
    if found is None:
        return re.sub(r"^Error parsing ([A-Z]\w*: )?", "", message)
    option, reason, value = found.groups()
    kinds = {"INT": "a whole number", "int()": "a whole number", "FLOAT": "a number", "float": "a number"}
    kind = next((kind for word, kind in kinds.items() if word in reason), None)
    return f"{option} takes {kind}, not {value}" if kind else f"{option} cannot be {value}"
