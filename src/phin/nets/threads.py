"""How many threads a CPU's arithmetic takes: as many as the processors that this process may use.

torch takes the cores of the whole machine. A container is often given less, by a quota of time: its threads
then use up their time early, and all stand still until the next period begins.
"""

import math
import os
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import torch

ROOT = Path("/")
SAID = ("OMP_NUM_THREADS", "MKL_NUM_THREADS")


@cache
def settle() -> None:
    """Takes fewer threads where torch's are more than this process may use; once, so that one may change it.

    Processes of one machine (LOCAL_WORLD_SIZE) share what there is. What was said stays: OMP_NUM_THREADS, as
    launchers set it, too, or any number but those that torch would have taken by itself.
    """
    if any(name in os.environ for name in SAID) or torch.get_num_threads() not in whole():
        return
    processes = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    threads = max(math.ceil(min(torch.get_num_threads(), affinity(), quota())) // processes, 1)
    torch.set_num_threads(threads)
    if processes > 1:  # or Accelerate takes this process's share of the whole machine's cores
        os.environ["OMP_NUM_THREADS"] = str(threads)


def whole() -> set[int]:
    """What torch may take by itself: processors, or cores, of the machine or of the process's affinity."""
    import psutil

    processors = os.cpu_count() or 1
    cores = psutil.cpu_count(logical=False) or processors
    return {processors, cores, affinity(), math.ceil(affinity() * cores / processors)}


def affinity() -> int:
    """The processors that the system may run this process on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def quota() -> float:
    """The processors' worth of time that control groups leave this process; infinite where none limits it.

    The least of its group's and of all those that this one is in.

    References: Linux, Documentation/admin-guide/cgroup-v2.rst (`cpu.max`) and scheduler/sched-bwc.rst
    (`cpu.cfs_quota_us`, `cpu.cfs_period_us`).
    """
    return min((limit for folder in groups() for limit in limits(folder)), default=math.inf)


def groups() -> Iterator[Path]:
    """The folders of the control groups that this process is in, of version 2 or 1, innermost first.

    In a container the path may be that of the host, of which it sees the innermost group alone, as the root.
    """
    for line in read(ROOT / "proc/self/cgroup").splitlines():
        _, controllers, path = line.split(":", 2)
        if not controllers or "cpu" in controllers.split(","):
            top = ROOT / "sys/fs/cgroup" / ("cpu" if controllers else "")
            inside = Path(path.lstrip("/"))
            yield from (top / folder for folder in (inside, *inside.parents))


def limits(folder: Path) -> Iterator[float]:
    """Quota divided by period, if this group has one; without a quota it is `max` in version 2, -1 in 1."""
    told = read(folder / "cpu.max").split()
    told = told or [read(folder / f"cpu.cfs_{name}_us").strip() for name in ("quota", "period")]
    if len(told) == 2 and all(number.isdecimal() for number in told) and int(told[1]):
        yield int(told[0]) / int(told[1])


def read(file: Path) -> str:
    """What the system tells there; nothing where it does not."""
    try:
        return file.read_text(encoding="utf-8")
    except OSError:
        return ""
