import io

import numpy as np
import pytest
import torch
from PIL import Image

from phin.pictures import gif, png, scatter, tile, to_bytes


def test_bytes_come_back_from_tensors() -> None:
    every = np.arange(256, dtype=np.uint8).reshape(16, 16)
    x = torch.from_numpy(2 * every.astype(np.float32) / 255 - 1)
    np.testing.assert_array_equal(to_bytes(x[None]), every)
    np.testing.assert_array_equal(to_bytes(torch.stack([x, -x, x])[None])[0, ..., 1], 255 - every)
    np.testing.assert_array_equal(to_bytes(torch.tensor([[[-9.0, -1.0, 1.0, 9.0]]])), [[0, 0, 255, 255]])


def test_tiles_lie_in_rows_whatever_their_widths() -> None:
    pictures = [np.full((1, width), width, np.uint8) for width in (3, 1, 2, 4)]
    sheet = tile(pictures, columns=2, gap=1, paper=9)
    expected = [
        [9, 9, 9, 9, 9, 9, 9, 9, 9],
        [9, 3, 3, 3, 9, 1, 9, 9, 9],
        [9, 9, 9, 9, 9, 9, 9, 9, 9],
        [9, 2, 2, 9, 9, 4, 4, 4, 4],
        [9, 9, 9, 9, 9, 9, 9, 9, 9],
    ]
    np.testing.assert_array_equal(sheet, [[*row, 9] for row in expected])


def test_tiles_may_be_coloured_and_fewer_than_columns() -> None:
    red = np.zeros((2, 2, 3), np.uint8)
    red[..., 0] = 255
    sheet = tile([red, red], columns=5, gap=1)
    assert sheet.shape == (4, 7, 3)
    np.testing.assert_array_equal(sheet[1:3, 4:6], red)


@pytest.mark.parametrize("shape", [(5, 7), (5, 7, 3)])
def test_png_keeps_every_pixel(shape: tuple[int, ...]) -> None:
    picture = np.random.default_rng(0).integers(256, size=shape, dtype=np.uint8)
    np.testing.assert_array_equal(np.asarray(Image.open(io.BytesIO(png(picture)))), picture)


def test_gif_shows_the_frames_in_turn_and_rests_on_the_last() -> None:
    frames = [np.full((4, 4), grey, np.uint8) for grey in (0, 100, 200)]
    with Image.open(io.BytesIO(gif(frames, seconds=0.2, rest=1.0))) as film:
        seen = []
        for k in range(film.n_frames):  # pyright: ignore[reportAttributeAccessIssue]
            film.seek(k)
            seen.append((film.convert("L").getpixel((0, 0)), film.info["duration"]))
        assert seen == [(0, 200), (100, 200), (200, 1000)]
        assert film.info["loop"] == 0


def test_a_cloud_of_points_has_its_axes_the_usual_way() -> None:
    picture = scatter(torch.tensor([[2.0, 1.0], [2.0, 1.0], [99.0, 0.0]]), side=10, reach=2.5)
    assert np.argwhere(picture).tolist() == [[3, 9]]  # to the right, above the middle
    assert not scatter(torch.tensor([[99.0, 0.0]])).any()
