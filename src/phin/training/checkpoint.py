"""Files of weights: safetensors with a description inside, written so that a crash cannot spoil them.

A file of Phin holds named tensors and, in its header, a JSON text `phin` (what the weights are) and the
SHA-256 sum `sha256` of everything, since safetensors itself would not notice a damaged weight. A new file is
written beside the old one, flushed to the disk and put in its place by one rename: whenever the process is
killed, one complete file is there. Nothing is ever pickled.
"""

import contextlib
import hashlib
import json
import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from phin.errors import PhinError

TEMPORARY = ".partial-"  # the beginning of the names of files that are being written


@contextlib.contextmanager
def atomic(path: Path) -> Iterator[Path]:
    """Yields a path in the same folder; what was written there replaces `path` at once, or not at all.

    Raises:
        PhinError: It could not be written, as on a full disk; what was at `path` is untouched.
    """
    temporary = path.with_name(f"{TEMPORARY}{os.getpid()}-{path.name}")
    try:
        yield temporary
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())
        temporary.chmod(0o666 & ~_umask())  # safetensors makes its files private
        os.replace(temporary, path)
    except (OSError, SafetensorError) as error:
        if not path.parent.is_dir():
            reason, mend = f"there is no folder {path.parent}", "make it first"
        elif path.is_dir():
            reason, mend = "it is a folder", "choose another name"
        else:
            reason = (error.strerror if isinstance(error, OSError) else None) or _reason(error)
            reason += "; the previous file is intact" if path.exists() else ""
            mend = "free some space or choose another folder"
        raise PhinError(f"{path} could not be written: {reason}; {mend}") from error
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


def _reason(error: Exception) -> str:
    """What safetensors says of the system's error, without the name of its own temporary file."""
    return re.sub(r" \(os error \d+\).*", "", str(error).split("I/O error: ")[-1])


def _umask() -> int:
    """The process's mask of permissions, which can only be read by setting it."""
    mask = os.umask(0)
    os.umask(mask)
    return mask


def write_json(path: Path, value: Any) -> None:
    """Writes `value` as JSON for people to read, atomically. Raises PhinError where that fails."""
    with atomic(path) as temporary:
        temporary.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def open_folder(folder: Path) -> None:
    """Makes a folder and proves that it can be written to.

    Raises:
        PhinError: It cannot be made or written to.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe = folder / f"{TEMPORARY}{os.getpid()}-probe"
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise PhinError(f"{folder} cannot be written to ({error.strerror}): choose another folder") from error


def sweep(run: Path) -> None:
    """Removes what killed processes left half-written in the folder of a run, which nobody else writes to."""
    for leftover in run.glob(f"**/{TEMPORARY}*"):
        leftover.unlink(missing_ok=True)


def save_weights(
    path: Path | str,
    tensors: Mapping[str, Tensor],
    metadata: Mapping[str, Any],
    dtype: torch.dtype | None = None,
) -> None:
    """Writes tensors and a JSON-able description of them to one safetensors file, atomically.

    Args:
        path: The file, ending in `.safetensors` by custom.
        tensors: By name, for instance a `state_dict()`.
        metadata: What they are.
        dtype: Floating-point tensors are rounded to it; `torch.float16` or `torch.bfloat16` halve the file.

    Raises:
        PhinError: The file could not be written; a previous one is intact.
    """
    plain = {
        name: t.detach().to("cpu", dtype if dtype and t.is_floating_point() else t.dtype).contiguous()
        for name, t in tensors.items()
    }
    text = json.dumps(metadata, ensure_ascii=False)
    with atomic(Path(path)) as temporary:
        save_file(plain, temporary, {"phin": text, "sha256": _sum(text, plain)})


def read_metadata(path: Path | str) -> dict[str, Any]:
    """The description in a file of weights, without reading the weights.

    Raises:
        PhinError: No such file, cut short, damaged, or not written by Phin.
    """
    with _opened(Path(path)) as (_, text, _):
        return json.loads(text)


def read_weights(path: Path | str) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The tensors in a file of weights, by name, and their description.

    Raises:
        PhinError: No such file, cut short, damaged anywhere, or not written by Phin.
    """
    with _opened(Path(path)) as (file, text, digest):
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a mapping)
        if _sum(text, tensors) != digest:
            raise PhinError(
                f"{path} is damaged: its contents do not match its SHA-256 sum; make or get it again"
            )
        return tensors, json.loads(text)


def load_weights(module: nn.Module, tensors: Mapping[str, Tensor], path: Path | str) -> None:
    """Copies tensors into the parameters and buffers of `module` that have their names, in its own precision.

    Raises:
        PhinError: They are another model's: a name is missing or unknown, or a shape differs.
    """
    own = module.state_dict()
    for name in [*own, *tensors]:
        if name not in tensors:
            raise PhinError(f"{path} holds another model: it has no {name!r}")
        if name not in own:
            raise PhinError(f"{path} holds another model: its {name!r} has no place in this one")
        if own[name].shape != tensors[name].shape:
            theirs, ours = tuple(tensors[name].shape), tuple(own[name].shape)
            raise PhinError(f"{path} holds another model: its {name!r} has shape {theirs}, this one's {ours}")
    with torch.no_grad():
        for name, tensor in own.items():
            tensor.copy_(tensors[name])


def digest(net: nn.Module) -> str:
    """The SHA-256 sum of a network's weights."""
    found = hashlib.sha256()
    for name, tensor in sorted(net.state_dict().items()):
        found.update(name.encode() + tensor.cpu().contiguous().numpy().tobytes())
    return found.hexdigest()


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[tuple[Any, str, str]]:
    """The open file, its JSON text and its sum."""
    if not path.is_file():
        raise PhinError(f"{path} is not there" if not path.exists() else f"{path} is not a file")
    try:
        with safe_open(path, "pt") as file:
            header = file.metadata() or {}
            if "phin" not in header or "sha256" not in header:
                raise PhinError(
                    f"{path} was not written by Phin: its header has no description; give a file that was, "
                    "such as a run's best.safetensors"
                )
            yield file, header["phin"], header["sha256"]
    except (SafetensorError, OSError, json.JSONDecodeError) as error:
        raise PhinError(
            f"{path} is cut short, damaged or no safetensors file ({error}); make or get it again"
        ) from error


def _sum(text: str, tensors: Mapping[str, Tensor]) -> str:
    """SHA-256 of a description and of tensors, whatever order they are in."""
    digest = hashlib.sha256(text.encode())
    for name, t in sorted(tensors.items()):
        digest.update(f"{name} {t.dtype} {tuple(t.shape)}".encode())
        digest.update(t.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
