"""Kills a training at random moments, again and again, and proves that it ends as if left alone, to the bit.

    python tests/kill_resume.py --kills 10 -- phin train mnist --train.steps 200 --out {out}

The command is any that trains under a budget of steps into the folder `{out}` and that goes on when it is
given again. Prints one line, and ends with 0 if the two runs are equal.
"""

import argparse
import json
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from phin.training.checkpoint import read_weights

TIMES = {"seconds", "images_per_second"}  # in the log, the only things that may differ


def left_alone(command: Sequence[str], out: Path) -> None:
    """Runs the command to its end."""
    subprocess.run(
        [part.replace("{out}", str(out)) for part in command], check=True, stdin=subprocess.DEVNULL
    )


def killed(command: Sequence[str], out: Path, kills: int, steps: int, seed: int = 0) -> int:
    """Runs the command to its end, with SIGKILL at so many random moments; returns how many it got."""
    draw = random.Random(seed)
    moments = sorted(draw.sample(range(1, steps), kills))
    done = 0
    while True:
        process = subprocess.Popen(
            [part.replace("{out}", str(out)) for part in command], stdin=subprocess.DEVNULL
        )
        while done < kills and process.poll() is None:
            if logged(out) >= moments[done]:
                time.sleep(draw.random() * 0.05)  # anywhere in a step, a validation, a writing of files
                process.send_signal(signal.SIGKILL)
                process.wait()
                done += 1
                break
            time.sleep(0.002)
        else:
            if process.wait() != 0:
                raise SystemExit(f"the command ended with {process.returncode}")
            return done


def logged(out: Path) -> int:
    """The last step in the log of a run."""
    log = out / "log.jsonl"
    lines = log.read_bytes().splitlines(keepends=True) if log.exists() else []
    return max((json.loads(line)["step"] for line in lines[-2:] if line.endswith(b"\n")), default=0)


def difference(one: Path, other: Path) -> str | None:
    """What differs between two runs, a tensor of the last or best weights or a line of the log; or None."""
    for name in ("last.safetensors", "best.safetensors"):
        ours, theirs = read_weights(one / name)[0], read_weights(other / name)[0]
        if ours.keys() != theirs.keys():
            return f"{name}: {sorted(ours.keys() ^ theirs.keys())}"
        for key in ours:
            if ours[key].numpy(force=True).tobytes() != theirs[key].numpy(force=True).tobytes():
                return f"{name}: {key}"
    for ours, theirs in zip(records(one), records(other), strict=True):
        if ours != theirs:
            return f"log.jsonl: {ours} and {theirs}"
    return None


def records(out: Path) -> list[dict[str, float]]:
    """The log of a run without its times."""
    lines = (out / "log.jsonl").read_text().splitlines()
    return [{name: x for name, x in json.loads(line).items() if name not in TIMES} for line in lines]


def main() -> None:
    options = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    options.add_argument("--kills", type=int, default=10)
    options.add_argument("--seed", type=int, default=0)
    options.add_argument("command", nargs="+")
    given = options.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        alone, harassed = Path(folder) / "alone", Path(folder) / "killed"
        left_alone(given.command, alone)
        done = killed(given.command, harassed, given.kills, logged(alone), given.seed)
        found = difference(alone, harassed)
    print(f"killed {done} times: {found or 'identical'}")
    sys.exit(found is not None or done != given.kills)


if __name__ == "__main__":
    main()
