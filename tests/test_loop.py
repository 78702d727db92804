"""The training loop, step by step, and its several processes."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import kill_resume
import pytest
import torch
import toy
from torch import Tensor, nn
from toy import DESCRIPTION, Toy, configure

from phin.errors import PhinError
from phin.training.checkpoint import read_metadata, read_weights
from phin.training.ema import power
from phin.training.loop import Losses, fit
from phin.training.optimizer import Optimizer


def train_by_two(folder: Path, **options: Any) -> tuple[list[int], str]:
    """Their exit codes, and what the second one, which shows no progress, said."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = str(free.getsockname()[1])
    meeting = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "WORLD_SIZE": "2"}  # as torchrun says
    meeting |= {"ACCELERATE_USE_CPU": "true", "GLOO_SOCKET_IFNAME": "lo"}
    processes = [
        subprocess.Popen(
            [sys.executable, toy.__file__, str(folder), json.dumps(options)],
            env=os.environ | meeting | {"RANK": rank, "LOCAL_RANK": rank},
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in "01"
    ]
    said = [process.communicate()[1] for process in processes]
    return [process.returncode for process in processes], said[1]


def test_a_process_without_examples_is_refused(tmp_path: Path) -> None:
    codes, said = train_by_two(tmp_path, steps=3, batch=1)
    assert codes == [2, 2]
    assert "batch = 1 has steps of 1 examples, too few for 2 processes" in said

    class Fewer(Toy):
        def fewest(self, batch: int) -> int:
            return batch // 5

    config = configure(steps=3, batch=4)
    with pytest.raises(PhinError, match="batch = 4 has steps of 0 examples, too few for 1 processes"):
        fit(Fewer(config), config, tmp_path, DESCRIPTION)


def test_several_processes_that_go_on_log_what_the_uninterrupted_ones_do(tmp_path: Path) -> None:
    """The record that spans the interruption has the losses of all processes from before it, each once."""
    options: dict[str, Any] = {"steps": 8, "log_every": 0.5, "random": False, "picture_every": 0.0}
    assert train_by_two(tmp_path / "alone", **options)[0] == [0, 0]
    assert train_by_two(tmp_path / "stopped", stop=1, **options)[0] == [130, 130]
    assert train_by_two(tmp_path / "stopped", **options)[0] == [0, 0]
    alone, stopped = (kill_resume.records(tmp_path / name) for name in ("alone", "stopped"))
    assert sum("loss" in record for record in alone) == 2
    for ours, theirs in zip(alone, stopped, strict=True):
        assert theirs == pytest.approx(ours, rel=1e-5)


def test_several_processes_use_all_of_a_time_budget(tmp_path: Path) -> None:
    """Seconds are counted by the readings of the clock: the main process's are the ones that count."""
    assert train_by_two(tmp_path, minutes=2, counting=True, picture_every=0.0)[0] == [0, 0]
    state = read_metadata(tmp_path / "last.safetensors")["training"]["state"]
    assert 90 <= state["seconds"] <= 130


class Watched(Toy):
    """A toy that notes torch's seed and its weights before each step, some of whose losses are NaN."""

    def __init__(self, spoilt: tuple[int, ...] = (), **options: Any) -> None:
        self.configuration = configure(**options)
        super().__init__(self.configuration, random=False)
        self.spoilt = spoilt
        self.seeds: list[int] = []
        self.weights: list[dict[str, Tensor]] = []

    def forward(self, step: int, rows: slice) -> Losses:
        self.seeds.append(torch.initial_seed())
        self.weights.append({name: t.detach().clone() for name, t in self.model.state_dict().items()})
        losses = super().forward(step, rows)
        return losses._replace(loss=losses.loss * torch.nan) if step in self.spoilt else losses

    def fit(self, folder: Path) -> Path:
        return fit(self, self.configuration, folder, DESCRIPTION).last


def test_every_step_draws_from_a_seed_of_its_own(tmp_path: Path) -> None:
    task = Watched(steps=6)
    task.fit(tmp_path)
    assert len(set(task.seeds)) == 6


def test_gradients_are_no_longer_than_the_clip(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lengths: list[float] = []
    step = Optimizer.step

    def watched(self: Optimizer, lr: float) -> None:
        gradients = [p.grad for p in (*self.plain.values(), *self.kernels.values()) if p.grad is not None]
        lengths.append(nn.utils.get_total_norm(gradients).item())
        step(self, lr)

    monkeypatch.setattr(Optimizer, "step", watched)
    Watched(steps=6, clip=0.01).fit(tmp_path)
    assert lengths == pytest.approx([0.01] * 6, rel=1e-3)
    logged = [record["gradient_norm"] for record in kill_resume.records(tmp_path) if "lr" in record]
    assert min(logged) > 0.1  # as they were


def test_the_learning_rate_of_a_step_is_that_of_its_middle(tmp_path: Path) -> None:
    task = Watched(steps=10, warmup=0.2)
    task.fit(tmp_path)
    logged = [record["lr"] for record in kill_resume.records(tmp_path) if "lr" in record]
    expected = [task.configuration.learning_rate((step + 0.5) / 10) for step in range(10)]
    assert logged == pytest.approx(expected)


def test_the_average_is_over_the_steps_that_had_an_effect(tmp_path: Path) -> None:
    """Update i of t weighs (i^(gamma + 1) - (i - 1)^(gamma + 1)) / t^(gamma + 1); skipped steps are none."""
    task = Watched((0, 3, 4), steps=12, ema=0.1)
    tensors, _ = read_weights(task.fit(tmp_path))
    after = [*task.weights[1:], dict(task.model.state_dict())]
    updates = [weights for step, weights in enumerate(after) if step not in (0, 3, 4)]
    shares = (torch.linspace(0, 1, len(updates) + 1).double() ** (power(0.1) + 1)).diff()
    for name in task.model.state_dict():
        mean = sum(share * weights[name].double() for share, weights in zip(shares, updates, strict=True))
        torch.testing.assert_close(tensors[f"ema.{name}"].double(), mean, rtol=1e-4, atol=1e-6)


def test_the_average_has_the_decay_that_was_asked_for(tmp_path: Path) -> None:
    """mean <- decay mean + (1 - decay) weights, from the first weights on; skipped steps are none."""
    task = Watched((3,), steps=6, ema_decay=0.7)
    tensors, _ = read_weights(task.fit(tmp_path))
    after = [*task.weights[1:], dict(task.model.state_dict())]
    for name, first in task.weights[0].items():
        mean = first.double()
        for step, weights in enumerate(after):
            mean = mean if step == 3 else 0.7 * mean + 0.3 * weights[name].double()
        torch.testing.assert_close(tensors[f"ema.{name}"].double(), mean, rtol=1e-4, atol=1e-6)


def test_of_equally_good_weights_the_first_are_kept(tmp_path: Path) -> None:
    class Constant(Toy):
        def validate(self, model: nn.Module) -> dict[str, float]:
            return {"error": 0.5}

    config = configure(steps=10, validate_every=0.2)
    best = fit(Constant(config), config, tmp_path, DESCRIPTION).best
    assert read_metadata(best)["training"]["state"]["step"] == 2
