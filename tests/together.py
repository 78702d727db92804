"""Two processes that know of each other, as `torchrun` would start them."""

import os
import socket
import subprocess
import sys
from pathlib import Path


def two(program: str, *arguments: str) -> None:
    """Runs a program in both, and asserts that both end well."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    meeting = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "GLOO_SOCKET_IFNAME": "lo"}
    forced = os.environ | {"ACCELERATE_USE_CPU": "true", "WORLD_SIZE": "2", **meeting}
    forced["PYTHONPATH"] = os.pathsep.join([str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")])
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", program, *arguments], env=forced | {"RANK": rank, "LOCAL_RANK": rank}
        )
        for rank in "01"
    ]
    assert [process.wait() for process in processes] == [0, 0]
