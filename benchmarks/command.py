"""What the command lines of the benchmarks share: numbers that are checked, and processes of their own."""

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from phin.errors import PhinError


def positive(args: argparse.Namespace, *names: str) -> None:
    """Sees to it that these options are at least 1.

    Raises:
        PhinError: One is not.
    """
    for name in names:
        if (value := getattr(args, name)) < 1:
            raise PhinError(f"{name} = {value}: at least 1 is needed")


def printed(script: str, *words: object) -> Any:
    """What a script prints last, JSON, in a process of its own.

    Raises:
        PhinError: It fails.
    """
    command = [script, *map(str, words)]
    done = subprocess.run([sys.executable, *command], capture_output=True, text=True)
    if done.returncode:
        why = reason(done.returncode, done.stderr)
        raise PhinError(f"`{Path(script).name} {' '.join(command[1:])}` failed: {why}")
    return json.loads(done.stdout.splitlines()[-1])


def reason(code: int, errors: str) -> str:
    """Why a process failed: the last line that it told, or else its exit code."""
    lines = errors.strip().splitlines()
    return lines[-1].removeprefix("error: ") if lines else f"exit code {code}"
