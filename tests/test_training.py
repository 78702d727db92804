import errno
import json
import math
import os
import re
import signal
import socket
import subprocess
import sys
import textwrap
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import kill_resume
import numpy as np
import pytest
import torch
import toy
from PIL import Image
from torch import Tensor, nn
from toy import DESCRIPTION, Toy, configure, train

from phin.errors import PhinError
from phin.training import checkpoint
from phin.training.checkpoint import load_weights, read_metadata, read_weights
from phin.training.config import TrainConfig
from phin.training.log import LEVELS, Meter
from phin.training.loop import Losses, fit
from phin.training.run import copies


class Watched(Toy):
    """A toy that does something before each step."""

    def __init__(self, config: TrainConfig, before: Callable[["Watched", int, slice], Any]) -> None:
        super().__init__(config)
        self.before = before

    def forward(self, step: int, rows: slice) -> Losses:
        self.before(self, step, rows)
        return super().forward(step, rows)


def train_watched(folder: Path, before: Callable[[Watched, int, slice], Any], **options: Any) -> Watched:
    task = Watched(config := configure(**options), before)
    fit(task, config, folder, DESCRIPTION)
    return task


def weights(model: nn.Module) -> Tensor:
    return torch.cat([p.detach().flatten() for p in model.parameters()])


def interrupt_at(step: int) -> Callable[[Watched, int, slice], None]:
    return lambda _task, now, _rows: signal.raise_signal(signal.SIGINT) if now == step else None


def test_a_run_learns_and_leaves_what_it_promises(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    result = train(folder := tmp_path / "a" / "run", steps=80)
    assert result.validation["error"] < 0.4 * result.validation["baseline"]
    assert (result.step, result.skipped) == (80, 0)
    assert result.peak_memory is None or 5e7 < result.peak_memory < 1e11

    task = Toy(configure(steps=80)).eval()
    tensors, metadata = read_weights(result.best)
    load_weights(task.model, tensors, result.best)
    errors = [record["validation/error"] for record in kill_resume.records(folder) if "loss" not in record]
    assert min(errors) == metadata["training"]["state"]["best"]
    assert task.validate(task.model)["error"] == pytest.approx(min(errors), rel=1e-5)
    assert {key: metadata[key] for key in DESCRIPTION} == DESCRIPTION

    tensors, _ = read_weights(result.last)
    means = {name[4:]: tensor for name, tensor in tensors.items() if name.startswith("ema.")}
    load_weights(task.model, means, result.last)
    assert task.validate(task.model) == pytest.approx(result.validation, rel=1e-5)  # of the averaged weights
    drawn = sorted(path.name for path in (folder / "samples").iterdir())
    assert drawn == [f"{step:06}.png" for step in range(8, 81, 8)]
    with Image.open(folder / "samples" / "000080.png") as picture:
        assert np.allclose(np.asarray(picture), task.picture(task.model), rtol=0, atol=1)
    assert json.loads((folder / "run.json").read_text())["training"]["config"]["steps"] == 80

    printed = capsys.readouterr()
    assert printed.out == ""
    assert "of the baseline's" in printed.err


def test_a_run_that_is_interrupted_is_the_uninterrupted_one_to_the_last_bit(tmp_path: Path) -> None:
    train(tmp_path / "alone", steps=40)
    for step in (0, 7, 30, 39):
        with pytest.raises(KeyboardInterrupt):
            train_watched(tmp_path / "stopped", interrupt_at(step), steps=40)
        assert (
            read_metadata(tmp_path / "stopped" / "last.safetensors")["training"]["state"]["step"] == step + 1
        )
    train(tmp_path / "stopped", steps=40)
    assert kill_resume.difference(tmp_path / "alone", tmp_path / "stopped") is None
    assert len(kill_resume.records(tmp_path / "alone")) == 40 + 10


def test_a_run_that_is_killed_is_the_uninterrupted_one_to_the_last_bit(tmp_path: Path) -> None:
    options = {"steps": 60, "save_minutes": 0.0}
    command = [sys.executable, toy.__file__, "{out}", json.dumps(options)]
    train(tmp_path / "alone", **options)
    assert kill_resume.killed(command, tmp_path / "killed", kills=2, steps=60) == 2
    assert kill_resume.difference(tmp_path / "alone", tmp_path / "killed") is None


def test_two_processes_train_as_one(tmp_path: Path) -> None:
    options = {"steps": 12, "random": False, "validate_every": 0.5, "muon": False}  # it amplifies rounding
    train(tmp_path / "one", **options)
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    meeting = {
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "GLOO_SOCKET_IFNAME": "lo",
    }  # as torchrun says
    forced = {"ACCELERATE_USE_CPU": "true", "WORLD_SIZE": "2", **meeting}
    command = [sys.executable, toy.__file__, str(tmp_path / "two"), json.dumps(options)]
    processes = [
        subprocess.Popen(command, env=os.environ | forced | {"RANK": rank, "LOCAL_RANK": rank})
        for rank in "01"
    ]
    assert [process.wait() for process in processes] == [0, 0]
    one, two = (read_weights(tmp_path / name / "last.safetensors") for name in ("one", "two"))
    for name, tensor in one[0].items():
        torch.testing.assert_close(two[0][name], tensor, rtol=1e-3, atol=1e-5)  # 9 examples are 5 and 4
    assert two[1]["training"]["state"]["examples"] == 12 * 9
    for ours, theirs in zip(*(kill_resume.records(tmp_path / name) for name in ("one", "two")), strict=True):
        assert theirs == pytest.approx(ours, rel=1e-3)


def test_one_process_gets_all_rows(tmp_path: Path) -> None:
    rows: list[slice] = []
    train_watched(tmp_path, lambda _task, _step, given: rows.append(given), steps=3)
    assert [list(range(9))[given] for given in rows] == [list(range(9))] * 3


@pytest.mark.parametrize("spoil", ["loss", "gradient"])
def test_a_step_that_is_not_finite_changes_nothing_and_is_counted(tmp_path: Path, spoil: str) -> None:
    history: list[Tensor] = []

    class Spoilt(Toy):
        def forward(self, step: int, rows: slice) -> Losses:
            history.append(weights(self.model))
            loss, log_snr, *_ = super().forward(step, rows)
            if step in (5, 6):
                vanishing = (next(self.model.parameters()).sum() * 0).abs()
                loss = loss + (
                    math.inf if spoil == "loss" else vanishing.sqrt()
                )  # its derivative at 0 is 0/0
            return Losses(loss, log_snr)

    config = configure(steps=20, save_minutes=0.0)
    result = fit(Spoilt(config), config, tmp_path, DESCRIPTION)
    moved = [not torch.equal(one, next_one) for one, next_one in pairwise(history)]
    assert moved == [step not in (5, 6) for step in range(19)]
    assert (result.skipped, result.step) == (2, 20)
    tensors, _ = read_weights(result.last)
    assert all(tensor.isfinite().all() for tensor in tensors.values())
    assert int(tensors["optim.0.weight.step"]) == 18
    assert {record["skipped"] for record in kill_resume.records(tmp_path) if "skipped" in record} == {0, 1, 2}


def test_ten_such_steps_in_a_row_stop_the_run_with_its_checkpoint_intact(tmp_path: Path) -> None:
    class Diverging(Toy):
        def forward(self, step: int, rows: slice) -> Losses:
            loss, log_snr, *_ = super().forward(step, rows)
            return Losses(loss * math.nan if step in range(3, 12) or step >= 15 else loss, log_snr)

    config = configure(steps=100, save_minutes=0.0)
    with pytest.raises(
        PhinError, match=r"not finite in 10 steps in a row up to 25 .*last\.safetensors is intact"
    ):
        fit(Diverging(config), config, tmp_path, DESCRIPTION)
    tensors, metadata = read_weights(tmp_path / "last.safetensors")
    assert all(tensor.isfinite().all() for tensor in tensors.values())
    assert metadata["training"]["state"]["step"] == 24
    assert train(tmp_path, steps=100).step == 100  # goes on, once the cause is gone


def test_weights_that_are_not_finite_never_reach_the_disk(tmp_path: Path) -> None:
    def blow_up(task: Watched, step: int, _rows: slice) -> None:
        if step == 8:
            task.model.get_buffer("1.running_mean").fill_(math.inf)

    with pytest.raises(PhinError, match=r"'model\.1\.running_mean' are not finite at step 9.*is intact"):
        train_watched(tmp_path, blow_up, steps=20, save_minutes=0.0)
    tensors, metadata = read_weights(tmp_path / "last.safetensors")
    assert metadata["training"]["state"]["step"] == 8
    assert all(tensor.isfinite().all() for tensor in tensors.values())


def test_the_learning_rate_rises_along_a_line_and_falls_to_zero() -> None:
    config = configure(steps=1, lr=0.5, warmup=0.1)
    assert [config.learning_rate(p) for p in (0, 0.05, 0.1)] == pytest.approx([0, 0.25, 0.5])
    assert config.learning_rate(0.55) == pytest.approx(0.25)
    assert config.learning_rate(1) == config.learning_rate(1.5) == 0
    falling = [config.learning_rate(p) for p in np.linspace(0.1, 1, 50)]
    assert falling == sorted(falling, reverse=True)
    assert configure(steps=1, warmup=0.0).learning_rate(0) == 4e-3


class Clock:
    """Seconds that pass only when somebody spends them."""

    def __init__(self, now: float) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now


class Slow(Toy):
    """A toy whose steps take 2 seconds and whose validation takes 7."""

    def __init__(
        self, config: TrainConfig, clock: Clock, stop_at: int | None = None, cost: float = 7
    ) -> None:
        super().__init__(config)
        self.clock, self.stop_at, self.cost = clock, stop_at, cost

    def forward(self, step: int, rows: slice) -> Losses:
        self.clock.now += 2
        if step == self.stop_at:
            signal.raise_signal(signal.SIGTERM)
        return super().forward(step, rows)

    def validate(self, model: nn.Module) -> dict[str, float]:
        self.clock.now += self.cost
        return super().validate(model)


def test_a_time_budget_is_kept_over_interruptions_and_ends_annealed(tmp_path: Path) -> None:
    config = configure(minutes=10, log_every=0.001)
    results = {}
    for name, stops in (("alone", [None]), ("stopped", [50, 200, None])):
        for n, stop in enumerate(stops):
            task = Slow(config, clock := Clock(1000.0 * n), stop)
            try:
                results[name] = fit(task, config, tmp_path / name, DESCRIPTION, clock=clock)
            except KeyboardInterrupt:
                assert stop is not None
        log = kill_resume.records(tmp_path / name)
        assert sum("error" in str(record) for record in log) == 10  # validations, the last within the budget
        assert [record["lr"] for record in log if "lr" in record][-1] < 1e-3 * config.lr
        assert 598 <= results[name].seconds <= 602
        assert results[name].images_per_second == pytest.approx(9 / 2)
    assert results["alone"].step == (600 - 70) // 2
    assert abs(results["stopped"].step - results["alone"].step) <= 2
    again = fit(Slow(config, Clock(0), 0), config, tmp_path / "stopped", DESCRIPTION)
    assert again[:8] == results["stopped"][:8]


@pytest.mark.parametrize(("cost", "validations"), [(7, 10), (50, 2)])
def test_looking_on_takes_an_eighth_of_a_time_budget_and_is_never_put_off_under_steps(
    tmp_path: Path, cost: float, validations: int
) -> None:
    for name, budget in (("timed", {"minutes": 10}), ("counted", {"steps": 20})):
        config = configure(**budget)
        result = fit(
            Slow(config, clock := Clock(0), cost=cost), config, tmp_path / name, DESCRIPTION, clock=clock
        )
        steps = [r["step"] for r in kill_resume.records(tmp_path / name) if "validation/error" in r]
        assert len(steps) == (validations if name == "timed" else 10)
        assert steps[-1] == result.step  # the last is never put off
        assert name == "counted" or 598 <= result.seconds <= 602


def test_a_budget_too_short_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = configure(minutes=0.5)
    result = fit(Slow(config, clock := Clock(0)), config, tmp_path, DESCRIPTION, clock=clock)
    said = capsys.readouterr().err
    assert result.step < 15
    assert "so few steps teach little: give it more than 0.5 minutes" in said
    assert max(int(share) for share in re.findall(r"\((\d+)%\)", said)) == 100
    assert re.search(r"training loss \S+  \|  held-out error \S+  \|", said)
    train(tmp_path / "one", steps=1)
    said = capsys.readouterr().err
    assert "done: 1 step, " in said
    assert "teach" not in said


def validated(folder: Path) -> list[float]:
    return [record["step"] for record in kill_resume.records(folder) if "validation/error" in record]


def test_an_interruption_is_answered_at_once_and_what_is_due_waits(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    def interrupt(_task: Watched, step: int, _rows: slice) -> None:
        if step == 7:
            signal.raise_signal(signal.SIGINT)
            assert "stopping after this step" in capfd.readouterr().err

    with pytest.raises(KeyboardInterrupt):
        train_watched(tmp_path, interrupt, steps=40)
    assert validated(tmp_path) == [4]
    train(tmp_path, steps=40)
    assert validated(tmp_path) == list(range(4, 41, 4))


@pytest.mark.parametrize(("at", "left"), [("step", True), ("validate", True), ("picture", False)])
def test_a_run_interrupted_at_its_end_goes_on_if_it_says_so(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], at: str, left: bool
) -> None:
    class Interrupted(Toy):
        def interrupt(self, here: str) -> None:
            if here == at:
                signal.raise_signal(signal.SIGTERM)

        def forward(self, step: int, rows: slice) -> Losses:
            self.interrupt("step")
            return super().forward(step, rows)

        def validate(self, model: nn.Module) -> dict[str, float]:
            self.interrupt("validate")
            return super().validate(model)

        def picture(self, model: nn.Module) -> np.ndarray:
            self.interrupt("picture")
            return super().picture(model)

    config = configure(steps=1)
    if left:
        with pytest.raises(KeyboardInterrupt):
            fit(Interrupted(config), config, tmp_path, DESCRIPTION)
        assert "stopped after step 1: the same command goes on" in capsys.readouterr().err
        assert not (tmp_path / "samples").exists()
    else:
        fit(Interrupted(config), config, tmp_path, DESCRIPTION)
    assert validated(tmp_path) == ([] if at == "step" else [1])
    capsys.readouterr()
    train(tmp_path, steps=1)
    assert ("is finished" in capsys.readouterr().err) != left
    assert validated(tmp_path) == [1]
    assert (tmp_path / "samples" / "000001.png").exists()
    train(tmp_path, steps=1)
    assert "is finished after 1 step," in capsys.readouterr().err


def test_a_second_interruption_acts_at_once_and_keeps_the_last_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train(tmp_path, steps=3)
    save = checkpoint.save_file

    def again(tensors: dict[str, Tensor], path: Path, metadata: dict[str, str]) -> None:
        save(tensors, path, metadata)
        signal.raise_signal(signal.SIGINT)

    def interrupt(_task: Watched, _step: int, _rows: slice) -> None:
        monkeypatch.setattr(checkpoint, "save_file", again)
        signal.raise_signal(signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        train_watched(tmp_path, interrupt, steps=10)
    assert read_metadata(tmp_path / "last.safetensors")["training"]["state"]["step"] == 3
    assert not list(tmp_path.rglob(f"{checkpoint.TEMPORARY}*"))


def test_a_run_may_go_on_with_another_way_of_sampling(tmp_path: Path) -> None:
    config = configure(steps=2)
    for recipe in ({"sample": {"steps": 3}, "drop": 0.1}, {"sample": {"steps": 4}, "drop": 0.1}):
        fit(Toy(config), config, tmp_path, {"recipe": recipe})
    with pytest.raises(PhinError, match=r"recipe\.drop is 0\.1 there and 0\.2 here"):
        fit(Toy(config), config, tmp_path, {"recipe": {"sample": {"steps": 4}, "drop": 0.2}})


def test_another_run_in_the_same_folder_is_refused_by_its_first_difference(tmp_path: Path) -> None:
    train(tmp_path, steps=5)
    before = (tmp_path / "last.safetensors").read_bytes()
    with pytest.raises(PhinError, match=r"holds another run \(train\.lr is 0\.004 there and 0\.02 here\)"):
        train(tmp_path, steps=5, lr=2e-2)
    for wider, complaint in (
        ({"name": "toy", "net": {"channels": 64}}, r"net\.channels is 32 there and 64 here"),
        ({"name": "toy", "net": {"channels": 32, "depth": 2}}, r"net\.depth is null there and 2 here"),
        ({"name": "toy"}, r"net is \{.*\} there and null here"),
    ):
        config = configure(steps=5)
        with pytest.raises(PhinError, match=complaint):
            fit(Toy(config), config, tmp_path, wider)
    assert (tmp_path / "last.safetensors").read_bytes() == before


def test_the_budget_may_grow_and_a_finished_run_is_left_alone(tmp_path: Path) -> None:
    first = train(tmp_path, steps=10)

    def no_more(_task: Watched, _step: int, _rows: slice) -> None:
        pytest.fail("a finished run was trained")

    train_watched(tmp_path, no_more, steps=10, validate_every=0.5)
    again = train(tmp_path, steps=10)
    assert (again.step, again.skipped, again.validation) == (first.step, first.skipped, first.validation)
    assert again.seconds <= first.seconds  # which knows what the last checkpoint took
    assert train(tmp_path, steps=30, picture_every=0.0).step == 30
    assert validated(tmp_path) == [*range(1, 11), *range(12, 31, 3)]


def test_a_damaged_checkpoint_stops_before_training(tmp_path: Path) -> None:
    train(tmp_path, steps=5)
    last = tmp_path / "last.safetensors"
    whole = last.read_bytes()
    last.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(PhinError, match=r"last\.safetensors is cut short"):
        train(tmp_path, steps=10)
    (tmp_path / "best.safetensors").rename(last)
    with pytest.raises(PhinError, match=r"last\.safetensors is no checkpoint"):
        train(tmp_path, steps=10)


def test_a_full_disk_keeps_the_previous_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written: list[Path] = []
    save = checkpoint.save_file

    def fill(tensors: dict[str, Tensor], path: Path, metadata: dict[str, str]) -> None:
        written.append(path)  # last, best, last, ...
        if len(written) > 3:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        save(tensors, path, metadata)

    monkeypatch.setattr(checkpoint, "save_file", fill)
    with pytest.raises(
        PhinError, match=r"could not be written: No space left on device; the previous file is intact"
    ):
        train(tmp_path, steps=20, save_minutes=0.0, validate_every=1)
    assert read_metadata(tmp_path / "last.safetensors")["training"]["state"]["step"] == 2
    assert not list(tmp_path.rglob(f"{checkpoint.TEMPORARY}*"))
    monkeypatch.undo()
    train(tmp_path, steps=20)


def test_an_unwritable_folder_is_refused_before_any_work(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(PhinError, match=r"file.run cannot be written to"):
        train_watched(tmp_path / "file" / "run", lambda *_: pytest.fail("it trained"), steps=5)


def test_tensorboard_gets_each_step_once_though_the_run_was_interrupted(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    options: dict[str, Any] = {"steps": 20, "trackers": ("tensorboard",)}
    with pytest.raises(KeyboardInterrupt):
        train_watched(tmp_path, interrupt_at(8), **options)
    train(tmp_path, **options)
    events = EventAccumulator(str(tmp_path / "tensorboard" / "phin"), {"scalars": 0, "images": 0}).Reload()
    assert [event.step for event in events.Scalars("loss")] == list(range(1, 21))
    logged = [record["loss"] for record in kill_resume.records(tmp_path) if "loss" in record]
    assert [event.value for event in events.Scalars("loss")] == pytest.approx(logged)
    assert [event.step for event in events.Images("samples")] == list(range(2, 21, 2))


def test_losses_are_summed_by_noise_level() -> None:
    meter = Meter(torch.device("cpu"))
    meter.add(meter.counted(torch.tensor([1.0, 2.0, 3.0]), torch.tensor([-7.0, -5.0, 9.0])), 4.0)
    meter.add(meter.counted(torch.tensor([4.0]), torch.tensor([-3.0], dtype=torch.float64)), 6.0)
    assert meter.read() == {
        "loss": 2.5,
        "gradient_norm": 5.0,
        f"loss/{LEVELS[0]}": 1.0,
        f"loss/{LEVELS[1]}": 3.0,
        f"loss/{LEVELS[4]}": 3.0,
    }
    meter.add(meter.counted(torch.tensor([8.0]), None), 1.0)
    assert meter.read() == {"loss": 8.0, "gradient_norm": 1.0}


def test_precision_is_each_runs_own(tmp_path: Path) -> None:
    full = train(tmp_path / "full", steps=30)
    half = train(tmp_path / "half", steps=30, precision="bf16")
    again = train(tmp_path / "again", steps=30)
    assert half.validation != full.validation == again.validation
    assert half.validation["error"] == pytest.approx(full.validation["error"], rel=0.05)


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ({}, "give minutes or steps"),
        ({"steps": 5, "minutes": 1}, "give minutes or steps"),
        ({"steps": 0}, "steps must be positive, not 0"),
        ({"minutes": -1}, "minutes must be positive, not -1"),
        ({"steps": 5, "batch": 0}, "batch must be positive, not 0"),
        ({"steps": 5, "lr": math.nan}, "lr must be positive, not nan"),
        ({"steps": 5, "warmup": 1.0}, "warmup is a share"),
        ({"steps": 5, "ema": 0.4}, "EMA of width 0.4"),
        ({"steps": 5, "ema_decay": 1.0}, "ema_decay must be from 0 to less than 1, .* not 1.0"),
        ({"steps": 5, "ema_decay": math.nan}, "not nan"),
        ({"steps": 5, "betas": (0.9, 1.0)}, "betas must be"),
        ({"steps": 5, "save_minutes": -1}, "save_minutes must not be negative"),
        ({"steps": 5, "seed": -1}, "seed must not be negative"),
        ({"minutes": math.inf}, "minutes must be finite"),
        ({"steps": 5, "lr": math.inf}, "lr must be finite"),
    ],
)
def test_settings_that_cannot_be_are_refused(options: dict[str, Any], complaint: str) -> None:
    with pytest.raises(PhinError, match=complaint):
        TrainConfig(**options)


def test_an_unknown_tracker_is_named(tmp_path: Path) -> None:
    with pytest.raises(PhinError, match="tracker 'abacus' is unknown or not installed"):
        train(tmp_path, steps=5, trackers=("abacus",))


def test_copies_are_the_averaged_weights_of_their_time(tmp_path: Path) -> None:
    train(folder := tmp_path / "run", steps=8, copy_every=0.25, validate_every=1.0, picture_every=0)
    copies = sorted((folder / "copies").iterdir())
    assert [path.name for path in copies] == [f"{step:06}.safetensors" for step in (2, 4, 6, 8)]
    ended, _ = read_weights(folder / "last.safetensors")
    for path, step in zip(copies, (2, 4, 6, 8), strict=True):
        tensors, metadata = read_weights(path)
        assert metadata["training"]["state"]["step"] == step
        there = ended if step == 8 else interrupted(tmp_path / str(step), step)
        assert all(torch.equal(tensor, there[f"ema.{name}"]) for name, tensor in tensors.items())
    train(tmp_path / "none", steps=8)
    assert not (tmp_path / "none" / "copies").exists()


def interrupted(folder: Path, step: int) -> dict[str, Tensor]:
    """What is in the checkpoint of a run of 8 steps that was stopped after some."""
    with pytest.raises(KeyboardInterrupt):
        train(folder, steps=8, stop=step - 1, validate_every=1.0, picture_every=0)
    return read_weights(folder / "last.safetensors")[0]


def test_copies_from_beyond_the_checkpoint_are_dropped(tmp_path: Path) -> None:
    """A run that was killed goes on from its checkpoint, and may come to other steps, by the clock."""
    options: dict[str, Any] = {"steps": 8, "copy_every": 0.25, "picture_every": 0}
    folder, copies = tmp_path / "run", tmp_path / "run" / "copies"
    with pytest.raises(KeyboardInterrupt):
        train(folder, stop=4, **options)
    assert sorted(path.name for path in copies.iterdir()) == ["000002.safetensors", "000004.safetensors"]
    (copies / "000007.safetensors").write_bytes((copies / "000004.safetensors").read_bytes())
    train(folder, **options)
    assert [int(path.stem) for path in sorted(copies.iterdir())] == [2, 4, 6, 8]


def test_copies_go_by_their_steps_and_other_files_are_left_alone(tmp_path: Path) -> None:
    options: dict[str, Any] = {"steps": 8, "copy_every": 0.25, "picture_every": 0}
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path, stop=4, **options)
    folder = tmp_path / "copies"
    for name in ("best", "1000000", "999999"):
        (folder / f"{name}.safetensors").write_bytes(b"")
    steps = [2, 4, 999999, 1000000]
    assert copies(tmp_path) == [folder / f"{step:06}.safetensors" for step in steps]
    train(tmp_path, **options)
    assert copies(tmp_path) == [folder / f"{step:06}.safetensors" for step in (2, 4, 6, 8)]
    assert (folder / "best.safetensors").read_bytes() == b""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="only Linux tells")
def test_peak_memory_is_that_of_the_process_and_not_of_the_one_that_started_it() -> None:
    """The parent holds a gigabyte while it starts the child, which holds 100 MB for a moment."""
    child = """
        from phin.training.run import peak_memory
        before = peak_memory()
        held = b"x" * 100_000_000
        del held
        print(before, peak_memory())
    """
    parent = f"""
        import subprocess, sys, textwrap
        held = b"x" * 1_000_000_000
        subprocess.run([sys.executable, "-c", textwrap.dedent({child!r})], check=True)
    """
    command = [sys.executable, "-c", textwrap.dedent(parent)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    before, after = map(int, done.stdout.split())
    assert 5e7 < before < 9e8
    assert after - before == pytest.approx(1e8, rel=0.05)
