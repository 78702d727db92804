"""What a figure was measured on: the machine, and the versions of what ran there."""

import os
import platform
import re
from importlib.metadata import version
from pathlib import Path

from phin import __version__

VERSIONS = ("phin", "python", "torch", "numpy")


def machine() -> dict[str, str]:
    """This machine and these versions."""
    info = Path("/proc/cpuinfo")
    names = re.findall(r"^model name\s*: (.*)", info.read_text(), re.MULTILINE) if info.exists() else []
    return {
        "processor": names[0] if names else platform.processor() or platform.machine(),
        "cores": str(os.cpu_count()),
        "system": f"{platform.system()} {platform.release()}",
        "phin": __version__,
        "python": platform.python_version(),
        **{name: version(name) for name in ("torch", "numpy")},
    }


def in_words(machine: dict[str, str]) -> dict[str, str]:
    """The machine and the versions, a line of each."""
    return {
        "machine": f"{machine['processor']}, {machine['cores']} cores, {machine['system']}",
        "versions": ", ".join(f"{name} {machine[name]}" for name in VERSIONS),
    }
