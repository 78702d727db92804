"""Files that are written whole or not at all."""

import contextlib
from collections.abc import Mapping
from pathlib import Path


def write(path: Path, payload: bytes) -> str:
    """Writes a file whole or not at all; its path.

    Raises:
        PhinError: It cannot be written.
    """
    return write_all({"file": (path, payload)})["file"]


def write_all(payloads: Mapping[str, tuple[Path, bytes]]) -> dict[str, str]:
    """Writes files that belong together, each of them whole, and none if one cannot be filled; their paths.

    Raises:
        PhinError: One cannot be written.
    """
    from phin.training.checkpoint import atomic

    with contextlib.ExitStack() as whole:
        for path, payload in payloads.values():
            whole.enter_context(atomic(path)).write_bytes(payload)
    return {name: str(path) for name, (path, _) in payloads.items()}
