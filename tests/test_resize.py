"""Folders of pictures of any size, made alike."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import phin
from phin.cli import main
from phin.data.resize import Resized, resize


def pixels(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        return np.asarray(image)


def stripes(*values: int, width: int = 1, height: int = 8) -> Image.Image:
    """Upright stripes, 8 pixels wide each."""
    row = np.repeat(np.array(values, np.uint8), 8 * width)
    return Image.fromarray(np.tile(row, (8 * height, 1)))


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    folder = tmp_path / "photos"
    folder.mkdir()
    return folder


def test_the_middle_of_the_longer_side_is_kept(photos: Path, tmp_path: Path) -> None:
    """Of stripes 0 0 1 2 3 3, four of which make a square, those in the middle; and so from top to bottom."""
    wide = stripes(0, 0, 60, 120, 240, 240, height=4)
    wide.save(photos / "wide.png")
    wide.transpose(Image.Transpose.ROTATE_270).save(photos / "high.png")
    assert resize(str(photos), tmp_path / "out", 8) == Resized(2, 0, True, ())
    columns = np.repeat([0, 60, 120, 240], 2)
    found = pixels(tmp_path / "out" / "wide.png").astype(int)
    assert found.shape == (8, 8)
    assert np.abs(found - columns).max() < 40  # the filter smooths edges
    assert np.abs(found[:, [0, 7]] - [0, 240]).max() < 10
    np.testing.assert_array_equal(pixels(tmp_path / "out" / "high.png"), np.rot90(found, -1))


def test_what_is_of_that_size_already_stays_as_it_is(photos: Path, tmp_path: Path) -> None:
    values = np.random.default_rng(0).integers(0, 256, (12, 12, 3), np.uint8)
    Image.fromarray(values).save(photos / "a.png")
    resize(str(photos), tmp_path / "out", 12)
    np.testing.assert_array_equal(pixels(tmp_path / "out" / "a.png"), values)


def test_classes_kinds_and_names_are_kept_and_all_is_one_data_set(photos: Path, tmp_path: Path) -> None:
    """Grey, colour, transparent, a palette, and two names that differ in their ends alone."""
    for name in ("cats/deep", "dogs"):
        (photos / name).mkdir(parents=True)
    Image.new("L", (20, 9), 50).save(photos / "cats" / "a.png")
    Image.new("RGB", (9, 9), (0, 200, 0)).save(photos / "cats" / "a.webp", lossless=True)
    Image.new("RGBA", (9, 30), (0, 0, 0, 0)).save(photos / "cats" / "deep" / "b.png")
    Image.new("RGB", (16, 16), (255, 0, 0)).quantize(2).save(photos / "dogs" / "c.png")
    found = resize(str(photos), tmp_path / "out", 12)
    assert found == Resized(4, 3, False, ("cats", "dogs"))
    files = {str(path.relative_to(tmp_path / "out")) for path in (tmp_path / "out").rglob("*.png")}
    assert files == {"cats/a.png", "cats/a.png.png", "cats/deep/b.png", "dogs/c.png"}
    assert (pixels(tmp_path / "out" / "cats" / "deep" / "b.png") == 255).all()
    for name, colour in (("a.png", (50, 50, 50)), ("a.png.png", (0, 200, 0))):  # in the order of their names
        assert tuple(pixels(tmp_path / "out" / "cats" / name)[5, 5]) == colour
    data = phin.data.load(f"folder:{tmp_path / 'out'}")
    assert (data.shape, data.class_names) == ((3, 12, 12), ("cats", "dogs"))


def test_no_picture_takes_the_place_of_another(photos: Path, tmp_path: Path) -> None:
    for value, name in enumerate(("a.jpg.png", "a.png", "a.jpg", "a.png.png")):
        Image.new("L", (8, 8), 60 * value).save(photos / name)
    (tmp_path / "link").symlink_to(tmp_path / "out")
    (tmp_path / "out").mkdir()
    assert resize(str(photos), tmp_path / "link", 4).pictures == 4
    found = sorted(int(pixels(path).mean().round()) for path in (tmp_path / "out").iterdir())
    np.testing.assert_allclose(found, [0, 60, 120, 180], atol=1)


def test_pictures_are_turned_as_the_camera_was_held(photos: Path, tmp_path: Path) -> None:
    picture = stripes(0, 0, 255, 255, height=4)
    tags = Image.Exif()
    tags[0x0112] = 6  # to be turned by a quarter, clockwise
    picture.save(photos / "a.png", exif=tags)
    resize(str(photos), tmp_path / "out", 32)
    np.testing.assert_array_equal(pixels(tmp_path / "out" / "a.png"), np.rot90(np.asarray(picture), -1))


def test_colours_are_dropped_if_asked(photos: Path, tmp_path: Path) -> None:
    Image.new("RGB", (8, 8), (0, 200, 0)).save(photos / "a.png")
    assert resize(str(photos), tmp_path / "out", 4, grey=True).grey
    assert pixels(tmp_path / "out" / "a.png").shape == (4, 4)


def _broken(photos: Path) -> None:
    file = photos / "2.png"
    file.write_bytes(file.read_bytes()[:45])


def _deep(photos: Path) -> None:
    Image.fromarray(np.full((8, 8), 60_000, np.uint16)).save(photos / "2.png")


def _no_picture(photos: Path) -> None:
    (photos / "2.png").write_text("none")


def _empty(photos: Path) -> None:
    for path in photos.iterdir():
        path.unlink()


def _nothing(photos: Path) -> None:
    pass


@pytest.mark.parametrize(
    ("spoil", "words", "message"),
    [
        (_broken, "photos --side 4 --out new/out", "2.png cannot be read as an image"),
        (_no_picture, "photos --side 4 --out new/out", "2.png cannot be read as an image"),
        (_deep, "photos --side 4 --out new/out", "2.png has the mode I;16, not of 8 bits"),
        (_empty, "photos --side 4 --out new/out", "photos has no images (.jpeg, .jpg, .png, .webp)"),
        (_nothing, "photos --side 0 --out new/out", "side = 0: give at least 1 pixel"),
        (_nothing, "nowhere --side 4 --out new/out", "folder:nowhere is not a folder"),
        (_nothing, "photos --side 4 --out photos/new", "photos/new is in photos"),
        (_nothing, "photos --side 4 --out photos", "photos is there already"),
        (_nothing, "photos --side 4 --out photos/1.png", "photos/1.png is there already"),
        (_nothing, "photos --side 4", "--out"),
    ],
)
def test_bad_input_is_one_line_and_leaves_nothing(
    spoil: Callable[[Path], None],
    words: str,
    message: str,
    photos: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    for i in range(3):
        Image.new("L", (8, 8), i).save(photos / f"{i}.png")
    spoil(photos)
    monkeypatch.chdir(photos.parent)
    before = {*Path().rglob("*")}
    assert main(["data", "resize", *words.split()]) == 2
    said = capsys.readouterr().err
    assert said.startswith("phin: error: ")
    assert message in said
    assert said.count("\n") == 1
    assert {*Path().rglob("*")} - {Path("new")} == before  # nor what was made before the last one failed


def test_the_command_says_what_comes_next(
    photos: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("b", "a"):
        (photos / name).mkdir()
        Image.new("RGB", (8, 5), 9).save(photos / name / "1.png")
    monkeypatch.chdir(photos.parent)
    Path("new").mkdir()  # and empty
    assert main("data resize photos --side 8 --out new".split()) == 0
    said: Any = capsys.readouterr().out
    for words in (
        "new: 2 pictures of 8 x 8, RGB",
        "labels: 0 a, 1 b",
        "2 of them were smaller",
        "folder:new",
    ):
        assert words in said
    assert sorted(os.listdir(photos.parent)) == ["new", "photos"]
