"""Moving digits move as they should, and what is measured of videos is what was put into them."""

import math
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
import torch
from jaxtyping import UInt8
from PIL import Image
from torch import Tensor, nn

import phin
from phin.cli import main
from phin.data import DATA
from phin.data.base import Part, Which, from_integers
from phin.data.moving import FRAMES, SIDE, VELOCITIES, Moving, moved, room
from phin.diffusion.noise import Noise
from phin.errors import PhinError
from phin.evaluation import PicturePlan, evaluate, rows, videos
from phin.families.base import OneShot
from phin.metrics.features import Features, Seen
from phin.metrics.moving import centred, centres, velocity
from phin.models import Model
from phin.pictures import frames, still, to_integers
from phin.recipes import DiffusionRecipe, Facts, describe
from phin.sampling import SampleConfig
from phin.training.checkpoint import save_weights

SPLITS: dict[Which, tuple[int, int]] = {"train": (0, 20), "valid": (20, 30), "test": (30, 50)}
RECIPE = DiffusionRecipe(
    data="moving-digits",
    net=replace(tiny.NET, attention=(False, False)),
    train=tiny.BRIEF,
    sample=SampleConfig(steps=3),
)


def images(low: int, high: int) -> Part:
    """Image i has a frame of 20 x 14 pixels, a little off the middle, of the shade 100 + i."""
    shade = torch.arange(low, high, dtype=torch.uint8) + 100
    pictures = torch.zeros(high - low, 1, SIDE, SIDE, dtype=torch.uint8)
    pictures[:, 0, 3:23, 8:22] = shade[:, None, None]
    pictures[:, 0, 5:21, 10:20] = 0
    return Part(pictures, torch.arange(low, high) % 10)


def moving() -> Moving:
    return Moving({which: images(*ends) for which, ends in SPLITS.items()})


def corners(shown: Tensor) -> Tensor:
    """Where the ink begins (n, frames, 2), down and to the right, of 8-bit videos."""
    return torch.stack([(shown.amax(axis) > 0).int().argmax(2) for axis in (3, 2)], 2)


def test_digits_keep_their_velocity_and_stay_within_the_picture() -> None:
    n = 4000
    batch = moving().split("train", n)
    assert batch.x.shape == (n, 1, FRAMES, SIDE, SIDE)
    shown = to_integers(batch.x)[:, 0]
    image = shown.amax((1, 2, 3)).long() - 100
    assert torch.equal(batch.cond["label"], image % 10)
    assert set(image.tolist()) == set(range(20))
    ink = shown.sum((2, 3), dtype=torch.int64)
    assert torch.equal(ink, ((image + 100) * (20 * 14 - 16 * 10))[:, None].expand(-1, FRAMES))  # all of it
    at = corners(shown)
    steps = at.diff(dim=1)
    assert (steps == steps[:, :1]).all()
    # All eight ways are as likely, and so is every start from which a digit of 20 x 14 can stay inside.
    way = [tuple(step) for step in steps[:, 0].tolist()]
    expected = n / len(VELOCITIES)
    for velocity_ in VELOCITIES.tolist():
        own = torch.tensor([one == tuple(velocity_) for one in way])
        assert abs(int(own.sum()) - expected) < 5 * math.sqrt(expected)
        for axis, side in enumerate((20, 14)):
            first = at[own, 0, axis]
            free = SIDE - side + 1 - (FRAMES - 1) * abs(velocity_[axis])
            low = (FRAMES - 1) * max(0, -velocity_[axis])
            counts = torch.bincount(first - low, minlength=free)
            assert len(counts) == free
            assert ((counts - len(first) / free).abs() < 5 * math.sqrt(len(first) / free)).all()


def test_a_frame_is_the_image_moved_and_nothing_else() -> None:
    picture = np.random.default_rng(0).integers(256, size=(1, SIDE, SIDE), dtype=np.uint8)
    shifts = np.array([[(0, 0), (2, -3), (-27, 27), (5, 0)]])
    found = moved(picture, shifts)[0]
    for frame, (down, right) in zip(found, shifts[0].tolist(), strict=True):
        expected = np.zeros((SIDE, SIDE), np.uint8)
        for y in range(SIDE):
            for x in range(SIDE):
                if 0 <= y - down < SIDE and 0 <= x - right < SIDE:
                    expected[y, x] = picture[0, y - down, x - right]
        np.testing.assert_array_equal(frame, expected)


def test_room_is_what_can_be_moved_without_losing_ink() -> None:
    picture = np.zeros((1, SIDE, SIDE), np.uint8)
    picture[0, 3, 7] = picture[0, 20, 26] = 1
    least, most = room(picture)
    assert (least.tolist(), most.tolist()) == ([[-3, -7]], [[7, 1]])


def test_splits_have_images_of_their_own_and_batches_are_pure() -> None:
    data = moving()
    for which, (low, high) in SPLITS.items():
        shades = to_integers(data.split(which, 200).x).amax((1, 2, 3, 4)).long() - 100
        assert set(shades.tolist()) == set(range(low, high))
    whole = data.train(0, 3, 20)
    parts = [data.train(0, 3, 20, slice(start, None, 2)) for start in (0, 1)]
    assert torch.equal(torch.stack([part.x for part in parts], 1).flatten(0, 1), whole.x)
    assert parts[0].total == 20
    for other in (data.train(0, 4, 20), data.train(1, 3, 20), data.split("train", 20)):
        assert not torch.equal(other.x, whole.x)
    assert torch.equal(data.split("test", 5).x, data.split("test", 9).x[:5])


def test_centre_and_velocity_of_ink_in_closed_form() -> None:
    film = torch.zeros(2, 3, 10, 12, dtype=torch.uint8)
    film[0, 0, 2, 3] = film[0, 1, 4, 3] = film[0, 2, 4, 9] = 9  # (2.5, 3.5), (4.5, 3.5), (4.5, 9.5)
    film[1, :, 5:7, 2], film[1, 1, 6, 2] = 60, 180  # weighed by ink: 6, 6.25, 6
    found = centres(film)
    torch.testing.assert_close(found[0], torch.tensor([[2.5, 3.5], [4.5, 3.5], [4.5, 9.5]]).double())
    torch.testing.assert_close(found[1, :, 0], torch.tensor([6, 6.25, 6]).double())
    mean, unsteady = velocity(film)
    torch.testing.assert_close(mean[0], torch.tensor([1.0, 3.0]).double())
    assert unsteady[0] == pytest.approx(math.sqrt(1 + 9))  # (2, 0) and (0, 6) about (1, 3)
    torch.testing.assert_close(
        centres(torch.zeros_like(film[:1])), torch.full((1, 3, 2), 5.0).double() + torch.tensor([0.0, 1.0])
    )


def test_real_videos_are_perfectly_steady() -> None:
    shown = to_integers(moving().split("test", 200).x)[:, 0]
    mean, unsteady = velocity(shown)
    torch.testing.assert_close(mean, corners(shown).diff(dim=1)[:, 0].double())
    assert unsteady.max() < 1e-6


def test_frames_are_moved_to_where_mnist_has_its_digits() -> None:
    picture = torch.zeros(1, SIDE, SIDE, dtype=torch.uint8)
    picture[0, 4:24, 8:20] = torch.randint(1, 255, (20, 12), dtype=torch.uint8)
    picture = torch.maximum(picture, picture.flip(1, 2))  # its centre is the middle
    shifts = torch.tensor([[(0, 0), (3, -5), (-4, 8)]])
    film = torch.from_numpy(moved(picture.numpy(), shifts.numpy()))
    assert torch.equal(centred(film), picture.expand(3, -1, -1))
    assert not centred(torch.zeros_like(film)).any()


class Shades(Features):
    """Reads the last digit of the shade of what is brightest, if it stands in the middle."""

    name, dims, class_names = "shades", 1, tiny.DIGITS

    def check(self, shape: tuple[int, ...]) -> None:
        assert shape == (1, SIDE, SIDE)

    def __call__(self, pictures: UInt8[Tensor, "n 1 28 28"]) -> Seen:
        assert len(pictures) <= 512
        assert (corners(pictures) == torch.tensor([4, 7])).all() | (pictures.amax((1, 2, 3)) == 0).any()
        shade = pictures.amax((1, 2, 3)).long() % 10
        return Seen(shade[:, None].float(), nn.functional.one_hot(shade, 10).float())


def test_a_video_is_right_if_all_of_its_frames_are() -> None:
    batch = moving().split("test", 10)
    found = videos.judge(Shades(), batch.x, batch.cond["label"])
    assert (found["frames"]["right"], found["whole"]["right"]) == (80, 10)
    assert found["unsteadiness"]["value"] < 1e-6
    wrong = to_integers(batch.x)
    wrong[2, 0, 5] += (wrong[2, 0, 5] > 0).to(torch.uint8)  # another digit in one frame
    wrong[4, 0, :3] = 0  # none in three
    found = videos.judge(Shades(), from_integers(wrong), batch.cond["label"])
    assert (found["frames"]["right"], found["frames"]["n"]) == (76, 80)
    assert (found["whole"]["right"], found["whole"]["n"]) == (8, 10)
    assert found["unsteadiness"]["value"] > 0.05
    found = videos.judge(Shades(), from_integers(wrong), None)  # alike is enough, but for what is blank
    assert (found["frames"]["right"], found["whole"]["right"]) == (80 - 1 - 8, 8)


class Camera(OneShot):
    """Draws real videos of the digit asked for, backwards."""

    def __init__(self) -> None:
        super().__init__()
        self.anything = nn.Parameter(torch.zeros(()))

    def generate(self, count: int, noise: Noise, label: Tensor) -> Tensor:
        x, cond, _ = moving().train(0, 0, 400)
        chosen = [int((cond["label"] == one).nonzero()[0]) for one in label]
        return x[chosen].flip(2)


def test_a_model_of_videos_is_measured(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    entry = replace(DATA["moving-digits"], load=moving, files=None)
    monkeypatch.setitem(DATA, "moving-digits", entry)  # pyright: ignore[reportArgumentType]
    model = Model(Camera(), RECIPE, Facts.of(moving()), {}, Path("model"))
    seen: list[int] = []
    figures = evaluate(
        model,
        plan=PicturePlan(n=40, seed=3),
        features=Shades(),
        out=tmp_path / "out",
        bar=lambda total, doing: nullcontext(seen.append),
    )
    assert sum(seen) == figures["n"] == 40
    assert figures["sampling"] == {"seed": 3}
    for found in figures["videos"].values():
        assert (found["frames"]["right"], found["whole"]["right"]) == (320, 40)
        assert 1 <= found["speed"]["value"] <= math.sqrt(2)
    assert len(rows(figures)) == 5
    with Image.open(tmp_path / "out" / "samples.png") as sheet:
        assert sheet.width == 2 * (8 * (SIDE + 1) + 1) + 6


def test_a_reader_of_other_things_is_refused_before_anything_is_drawn(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    entry = replace(DATA["moving-digits"], load=moving, files=None)
    monkeypatch.setitem(DATA, "moving-digits", entry)  # pyright: ignore[reportArgumentType]
    monkeypatch.setattr(Camera, "generate", lambda *_: pytest.fail("it drew"))
    model, clothes = Model(Camera(), RECIPE, Facts.of(moving()), {}, Path("model")), Shades()
    clothes.class_names = ("shirt", *tiny.DIGITS[1:])
    with pytest.raises(PhinError, match="shades does not read the classes of moving-digits, 0, 1, 2"):
        evaluate(model, plan=PicturePlan(n=40), features=clothes)


def test_a_still_has_the_frames_side_by_side() -> None:
    x = moving().split("test", 1).x[0]
    strip, film = still(x), frames(x)
    assert strip.shape == (SIDE + 2, FRAMES * (SIDE + 1) + 1)
    for t, frame in enumerate(film):
        left = 1 + t * (SIDE + 1)
        np.testing.assert_array_equal(strip[1:-1, left : left + SIDE], frame)
        np.testing.assert_array_equal(frame, to_integers(x[0, t]).numpy())


def test_sampled_videos_are_films(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    torch.manual_seed(0)
    facts = Facts.of(moving())
    net = RECIPE.model(facts)
    tiny.randomise(net)
    path = tmp_path / "model.safetensors"
    save_weights(path, net.state_dict(), describe("tiny", RECIPE, facts))
    out = tmp_path / "out"
    argv = ["sample", "--model", str(path), "--label", "3", "7", "--grid", "--gif", "--out", str(out)]
    assert main(argv) == 0
    assert sorted(file.name for file in out.iterdir()) == [
        *("0000_3.gif", "0000_3_denoising.gif", "0001_7.gif", "0001_7_denoising.gif", "grid.gif")
    ]
    drawn = phin.sample(phin.load(path), labels=[3, 7])
    assert drawn[0].shape == (FRAMES, SIDE, SIDE)
    assert length(out / "grid.gif") == FRAMES
    assert length(out / "0001_7_denoising.gif") == 4
    with Image.open(out / "0001_7.gif") as film:
        for t in range(FRAMES):
            film.seek(t)
            shown: Any = np.asarray(film.convert("L")).astype(int)
            np.testing.assert_allclose(shown, drawn[1][t], atol=1)


def length(path: Path) -> int:
    with Image.open(path) as film:
        return film.n_frames  # pyright: ignore[reportAttributeAccessIssue]
