"""The experiment on how steadily a GAN trains, tiny: the table and the pictures say what the logs do."""

import importlib
import json
import re
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import pytest
import tiny
import torch
import torch.nn.functional as F
from PIL import Image

from phin import data as datasets
from phin.data import digits
from phin.data.base import Images, Part, Split
from phin.nets.classifier import ClassifierConfig

ROOT = Path(__file__).parents[1]


def enlarged(part: Split) -> Part:
    """Digits of 8 x 8 with 17 values as digits of 28 x 28 with 8 bits."""
    grey = (part.images.float() * (255 / 16)).round().to(torch.uint8)
    return Part(F.pad(grey.repeat_interleave(3, 2).repeat_interleave(3, 3), (2, 2, 2, 2)), part.labels)


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Runs it; the experiment's folder, and the rows of its table."""
    mnist = Images(
        "mnist", {which: enlarged(part) for which, part in digits.load().splits.items()}, tiny.DIGITS
    )
    entry = replace(datasets.DATA["mnist"], load=lambda: mnist, files=None)
    monkeypatch.setitem(datasets.DATA, "mnist", entry)  # pyright: ignore[reportArgumentType]
    monkeypatch.syspath_prepend(str(ROOT / "experiments"))
    recipe = replace(tiny.READER, net=ClassifierConfig(channels=(8, 4), blocks=(0, 0)))
    tiny.FACTS[recipe] = tiny.FACTS[tiny.READER]
    reader = tiny.write(recipe, tmp_path / "reader.safetensors")
    options = f"--train-steps 4 --channels 4 6 --seeds 2 --n 20 --features {reader} --out {tmp_path}"

    def run() -> tuple[Path, list[list[str]]]:
        module = importlib.import_module("gan_stability")
        assert module.main(module.GANStability, options.split()) == 0
        folder = tmp_path / "gan_stability"
        lines = (folder / "table.md").read_text(encoding="utf-8").splitlines()
        return folder, [re.split(r" *\| *", line)[1:-1] for line in lines if line.startswith("|")]

    return run


def test_the_table_has_the_gradients_of_both_players_and_is_made_once(run: Any) -> None:
    folder, (heading, _, *rows) = run()
    assert [row[:2] for row in rows] == [
        [title, str(seed)] for title in ("R1", "unregularised", "spectral norm") for seed in (0, 1)
    ]
    assert len({len(row) for row in (heading, *rows)}) == 1
    for row in rows:
        log = folder / f"{row[0].replace(' ', '-')}-{row[1]}" / "log.jsonl"
        records = [json.loads(line) for line in log.read_text().splitlines()]
        late = [record for record in records if "lr" in record][2:]
        norms = [[record[f"gradient_norm/{p}"] for record in late] for p in ("generator", "discriminator")]
        expected = [of(norm) for norm in norms for of in (median, max)]
        assert [float(cell) for cell in row[2:6]] == pytest.approx(expected, rel=0.01)
        assert row[-1] == "4"
    assert len({tuple(row[2:6]) for row in rows}) == 6  # other seeds and kinds are other runs
    for name in ("gradients", "samples"):
        with Image.open(folder / f"{name}.png") as picture:
            assert np.asarray(picture).std() > 0
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*.safetensors")}
    assert run()[1][2:] == rows
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*.safetensors")} == before
