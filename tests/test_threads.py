"""As many threads as the processors that a process may use, unless it was told another number."""

import json
import math
import os
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
import tiny
import torch
import toy

import phin
from phin.nets import threads

VERSION_2 = "0::{}\n"
VERSION_1 = "11:memory:{0}\n5:cpuset:{0}\n4:cpu,cpuacct:{0}\n1:name=systemd:{0}\n0::{0}\n"


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """What takes the place of /."""
    monkeypatch.setattr(threads, "ROOT", tmp_path / "root")
    (tmp_path / "root").mkdir()
    return tmp_path / "root"


def write(root: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text, encoding="utf-8")


def grouped(root: Path, quota: float) -> None:
    """A container of version 2 with so many processors' worth of time."""
    limit = {"sys/fs/cgroup/cpu.max": f"{int(100_000 * quota)} 100000\n"}
    write(root, {"proc/self/cgroup": VERSION_2.format("/"), **limit})


def version_1(folder: str, quota: int, period: int) -> dict[str, str]:
    folder = f"sys/fs/cgroup/cpu/{folder}"
    return {f"{folder}cpu.cfs_quota_us": f"{quota}\n", f"{folder}cpu.cfs_period_us": f"{period}\n"}


@pytest.mark.parametrize(
    ("place", "files", "processors"),
    [
        (VERSION_2.format("/"), {"sys/fs/cgroup/cpu.max": "250000 100000\n"}, 2.5),
        (VERSION_2.format("/"), {"sys/fs/cgroup/cpu.max": "max 100000\n"}, math.inf),
        (VERSION_2.format("/"), {}, math.inf),  # the root group has no such file
        (
            VERSION_2.format("/users/me/job"),  # the group between is the one that limits
            {
                "sys/fs/cgroup/users/me/job/cpu.max": "800000 100000\n",
                "sys/fs/cgroup/users/me/cpu.max": "150000 50000\n",
                "sys/fs/cgroup/users/cpu.max": "max 100000\n",
                "sys/fs/cgroup/others/cpu.max": "100000 100000\n",
            },
            3,
        ),
        (VERSION_1.format("/"), version_1("", 70_000, 20_000), 3.5),
        (VERSION_1.format("/"), version_1("", -1, 100_000), math.inf),
        (VERSION_1.format("/docker/0a1b"), version_1("", 400_000, 100_000), 4),  # as a container sees it
        (
            VERSION_1.format("/slurm/job"),
            version_1("slurm/job/", -1, 100_000) | version_1("slurm/", 600_000, 100_000),
            6,
        ),
        (None, {"sys/fs/cgroup/cpu.max": "100000 100000\n"}, math.inf),  # no Linux
    ],
)
def test_the_quota_is_the_least_of_all_groups_that_a_process_is_in(
    root: Path, place: str | None, files: dict[str, str], processors: float
) -> None:
    write(root, files | ({} if place is None else {"proc/self/cgroup": place}))
    assert threads.quota() == processors


def test_the_affinity_is_that_of_the_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: {2, 3, 7}, raising=False)
    assert threads.affinity() == 3
    monkeypatch.delattr(os, "sched_getaffinity")
    assert threads.affinity() == os.cpu_count()


class Machine:
    """Of 64 processors in 32 cores, which torch takes unless it may not run on as many."""

    def __init__(self, affinity: int = 64, torchs: int | None = None) -> None:
        self.affinity, self.threads = affinity, min(32, affinity) if torchs is None else torchs

    def take(self, number: int) -> None:
        self.threads = number

    def place(self, monkeypatch: pytest.MonkeyPatch, **environment: str) -> None:
        for name in (*threads.SAID, "LOCAL_WORLD_SIZE"):
            monkeypatch.delenv(name, raising=False)
        for name, value in environment.items():
            monkeypatch.setenv(name, value)
        monkeypatch.setattr(os, "cpu_count", lambda: 64)
        monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(self.affinity)), raising=False)
        monkeypatch.setattr(psutil, "cpu_count", lambda logical=True: 64 if logical else 32)
        monkeypatch.setattr(torch, "get_num_threads", lambda: self.threads)
        monkeypatch.setattr(torch, "set_num_threads", self.take)
        threads.settle.cache_clear()


@pytest.fixture(autouse=True)
def anew() -> Iterator[None]:
    """Each test settles for itself, and leaves one thread, as it was."""
    yield
    torch.set_num_threads(1)
    threads.settle.cache_clear()


@pytest.mark.parametrize(
    ("machine", "quota", "environment", "taken"),
    [
        (Machine(), None, {}, 32),
        (Machine(), 48, {}, 32),  # the least of the three
        (Machine(), 3.5, {}, 4),
        (Machine(), 0.2, {}, 1),
        (Machine(affinity=6), None, {}, 6),
        (Machine(affinity=6, torchs=32), None, {}, 6),  # a torch that does not look at it
        (Machine(affinity=6, torchs=3), 2, {}, 2),  # a torch that takes the cores of six processors
        (Machine(affinity=6), 12, {}, 6),
        (Machine(torchs=64), 8, {}, 8),  # a torch that takes processors
        (Machine(), 8, {"LOCAL_WORLD_SIZE": "2"}, 4),
        (Machine(), 7, {"LOCAL_WORLD_SIZE": "4"}, 1),
        (Machine(), None, {"LOCAL_WORLD_SIZE": "4"}, 8),
        (Machine(), 2, {"LOCAL_WORLD_SIZE": "4"}, 1),
        (Machine(torchs=16), 4, {}, 16),  # torch.set_num_threads(16) was called
        (Machine(), 4, {"OMP_NUM_THREADS": "32"}, 32),
        (Machine(), 4, {"MKL_NUM_THREADS": "32"}, 32),
    ],
)
def test_what_was_not_said_is_what_the_process_may_use(
    root: Path,
    monkeypatch: pytest.MonkeyPatch,
    machine: Machine,
    quota: float | None,
    environment: dict[str, str],
    taken: int,
) -> None:
    if quota is not None:
        grouped(root, quota)
    machine = Machine(machine.affinity, machine.threads)
    machine.place(monkeypatch, **environment)
    threads.settle()
    assert machine.threads == taken
    if "LOCAL_WORLD_SIZE" in environment:  # Accelerate, which would take the machine's cores, is told
        assert os.environ["OMP_NUM_THREADS"] == str(taken)
        monkeypatch.delenv("OMP_NUM_THREADS")


def test_what_is_said_afterwards_stays(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    grouped(root, 4)
    machine = Machine()
    machine.place(monkeypatch)
    threads.settle()
    assert machine.threads == 4
    torch.set_num_threads(64)
    threads.settle()
    assert machine.threads == 64


def test_loading_and_training_settle_it_and_a_run_says_with_how_many(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """With torch's own threads: as if three were all of the machine's, of which two may be used."""
    grouped(root, 2)
    for name in threads.SAID:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(threads, "whole", lambda: {3})
    monkeypatch.setattr(threads, "affinity", lambda: 8)
    run = tmp_path / "run"

    def anew(number: int) -> None:
        torch.set_num_threads(number)
        threads.settle.cache_clear()

    anew(3)
    phin.load(tiny.write(tiny.NUMBERS, tmp_path / "tiny.safetensors"))
    assert torch.get_num_threads() == 2
    anew(3)
    toy.train(run, steps=1)
    assert torch.get_num_threads() == 2
    assert capsys.readouterr().err.startswith(f"{run} begins on cpu, with 2 threads\n")
    state = json.loads((run / "run.json").read_text(encoding="utf-8"))["training"]["state"]
    assert state["threads"] == 2
    toy.train(run, steps=2)
    line = f"{run} goes on from step 1 (50% of the budget) on cpu, with 2 threads\n"
    assert capsys.readouterr().err.startswith(line)
    anew(1)
    toy.train(run, steps=3)
    line = (
        f"{run} goes on from step 2 (67% of the budget) on cpu, with 1 thread, and not 2: rounding differs\n"
    )
    assert capsys.readouterr().err.startswith(line)
