import errno
import os
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from phin.errors import PhinError
from phin.training import checkpoint
from phin.training.checkpoint import (
    load_weights,
    open_folder,
    read_metadata,
    read_weights,
    save_weights,
    sweep,
)

METADATA = {"name": "toy", "channels": [4, 8], "loss": 0.25, "note": "Cà phê"}


@pytest.fixture
def tensors() -> dict[str, Tensor]:
    return {
        "weight": torch.randn(2, 3, 2, 2).to(memory_format=torch.channels_last),
        "half": torch.randn(5).bfloat16(),
        "count": torch.tensor(7),
        "empty": torch.zeros(0, 3),
    }


@pytest.fixture
def file(tmp_path: Path, tensors: dict[str, Tensor]) -> Path:
    save_weights(path := tmp_path / "weights.safetensors", tensors, METADATA)
    return path


def test_what_was_written_is_read(file: Path, tensors: dict[str, Tensor]) -> None:
    found, metadata = read_weights(file)
    assert metadata == METADATA == read_metadata(str(file))
    assert found.keys() == tensors.keys()
    for name, tensor in tensors.items():
        assert found[name].dtype == tensor.dtype
        assert torch.equal(found[name], tensor)


def test_weights_are_rounded_and_counts_are_not(tmp_path: Path, tensors: dict[str, Tensor]) -> None:
    save_weights(path := tmp_path / "half.safetensors", tensors, {}, torch.float16)
    found, _ = read_weights(path)
    assert torch.equal(found["weight"], tensors["weight"].half())
    assert found["count"].dtype == torch.int64


def test_a_file_cut_anywhere_is_refused(file: Path) -> None:
    whole = file.read_bytes()
    for length in [*range(12), *range(12, len(whole), 7), len(whole) - 1]:
        file.write_bytes(whole[:length])
        with pytest.raises(PhinError, match=r"weights\.safetensors is cut short, damaged or no safetensors"):
            read_weights(file)


def test_a_file_with_any_byte_changed_is_refused(file: Path) -> None:
    whole = file.read_bytes()
    for place in range(len(whole)):
        damaged = bytearray(whole)
        damaged[place] ^= 1 << place % 8
        file.write_bytes(damaged)
        with pytest.raises(PhinError, match=r"weights\.safetensors"):
            read_weights(file)


def test_files_of_others_are_refused(tmp_path: Path) -> None:
    save_file({"weight": torch.zeros(3)}, tmp_path / "foreign.safetensors", {"format": "pt"})
    with pytest.raises(
        PhinError, match=r"foreign\.safetensors was not written by Phin.*give a file that was"
    ):
        read_weights(tmp_path / "foreign.safetensors")
    (tmp_path / "notes.txt").write_text("buy coffee and a filter, then read the paper")
    with pytest.raises(PhinError, match=r"notes\.txt is cut short, damaged or no safetensors file"):
        read_metadata(tmp_path / "notes.txt")
    with pytest.raises(PhinError, match=r"nothing\.safetensors is not there"):
        read_metadata(tmp_path / "nothing.safetensors")
    with pytest.raises(PhinError, match="is not a file"):
        read_weights(tmp_path)


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"weight": None}, "it has no 'weight'"),
        ({"scale": torch.ones(1)}, "its 'scale' has no place in this one"),
        ({"weight": torch.zeros(3, 5)}, r"its 'weight' has shape \(3, 5\), this one's \(3, 4\)"),
    ],
)
def test_another_model_is_refused_and_nothing_is_loaded(
    change: dict[str, Tensor | None], complaint: str
) -> None:
    model = nn.Linear(4, 3)
    before = {name: t.clone() for name, t in model.state_dict().items()}
    theirs = {name: t + 1 for name, t in before.items()} | change
    with pytest.raises(PhinError, match=rf"a\.safetensors holds another model: {complaint}"):
        load_weights(model, {name: t for name, t in theirs.items() if t is not None}, "a.safetensors")
    assert all(torch.equal(t, before[name]) for name, t in model.state_dict().items())


def test_weights_are_loaded_in_the_precision_of_the_model() -> None:
    model = nn.Linear(4, 3)
    load_weights(
        model, {"weight": torch.full((3, 4), 0.1).half(), "bias": torch.ones(3).half()}, "a.safetensors"
    )
    assert model.weight.dtype == torch.float32
    assert torch.equal(model.weight, torch.full((3, 4), 0.1).half().float())


def test_a_write_that_stops_midway_leaves_the_previous_file(file: Path) -> None:
    resource = pytest.importorskip("resource")
    before, limit = file.read_bytes(), resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, limit[1]))  # a disk that takes no more than that
    try:
        with pytest.raises(PhinError, match=r"could not be written: File too large.*previous file is intact"):
            save_weights(file, {"weight": torch.randn(30_000)}, {})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)
    assert file.read_bytes() == before
    assert list(file.parent.iterdir()) == [file]


def test_a_full_disk_is_named(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    before = file.read_bytes()
    monkeypatch.setattr(checkpoint.os, "fsync", full)
    with pytest.raises(
        PhinError, match=r"weights\.safetensors could not be written: No space left on device"
    ):
        save_weights(file, {}, {})
    assert file.read_bytes() == before
    assert list(file.parent.iterdir()) == [file]


def test_a_crash_while_writing_leaves_the_previous_file(file: Path) -> None:
    def crash() -> None:
        with checkpoint.atomic(file) as temporary:
            temporary.write_bytes(before[:10])
            raise ZeroDivisionError

    before = file.read_bytes()
    with pytest.raises(ZeroDivisionError):
        crash()
    assert file.read_bytes() == before
    assert list(file.parent.iterdir()) == [file]


def test_what_a_killed_process_left_is_swept_away_and_by_nobody_else(file: Path) -> None:
    """A folder that is only written to may be one that a training writes to, too."""
    (samples := file.parent / "samples").mkdir()
    left = [folder / f"{checkpoint.TEMPORARY}123-weights.safetensors" for folder in (file.parent, samples)]
    for path in left:
        path.write_bytes(b"half a fi")
    open_folder(file.parent)
    assert all(path.exists() for path in left)
    sweep(file.parent)
    assert {path.name for path in file.parent.rglob("*")} == {"samples", "weights.safetensors"}


def test_a_folder_that_cannot_be_made_is_refused(file: Path) -> None:
    with pytest.raises(PhinError, match=r"weights\.safetensors.run cannot be written to \(Not a directory\)"):
        open_folder(file / "run")


def test_the_sum_is_of_the_contents_whatever_their_order(tmp_path: Path) -> None:
    a, b = torch.arange(3.0), torch.zeros(2)
    sums = []
    for n, tensors in enumerate(({"a": a, "b": b}, {"b": b, "a": a}, {"a": b, "b": a})):
        save_weights(tmp_path / str(n), tensors, {})
        with safe_open(tmp_path / str(n), "pt") as file:
            sums.append(file.metadata()["sha256"])
    assert sums[0] == sums[1] != sums[2]


def test_files_are_as_public_as_any_other(tmp_path: Path) -> None:
    (tmp_path / "plain").touch()
    save_weights(tmp_path / "w.safetensors", {"a": torch.ones(1)}, {})
    assert (tmp_path / "w.safetensors").stat().st_mode == (tmp_path / "plain").stat().st_mode
