"""Fixed image sets: order, splits, values; and the files they are read from."""

import contextlib
import io
import os
import tarfile
import tracemalloc
from collections.abc import Iterator
from dataclasses import dataclass
from hashlib import blake2b, sha256
from itertools import chain, pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

import phin.data
from phin.data import cifar10, folder, idx, mnist
from phin.data.base import Images, Part, Which, by_tenths, from_integers, with_validation
from phin.data.fetch import Files
from phin.errors import PhinError

SPLITS: tuple[Which, ...] = ("train", "valid", "test")


@pytest.fixture(autouse=True)
def no_own_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PHIN_DATA", raising=False)
    monkeypatch.setenv("PHIN_CACHE", str(tmp_path / "cache"))


def numbered(first: int, count: int) -> Part:
    """Images that are all of one value, their number, and labels that follow from it."""
    values = torch.arange(first, first + count, dtype=torch.uint8)
    return Part(values[:, None, None, None].expand(count, 1, 2, 3), values % 7)


def numbers_of(x: torch.Tensor) -> list[int]:
    return torch.round((x[:, 0, 0, 0] + 1) * 127.5).int().tolist()


def images(train: int = 50, valid: int = 8, test: int = 20) -> Images:
    splits = with_validation(numbered(0, train + valid), numbered(train + valid, test), valid)
    return Images("some", splits, tuple("abcdefg"))


@given(
    train=st.integers(1, 60), size=st.integers(1, 40), seed=st.integers(0, 2**63), epoch=st.integers(0, 10**6)
)
def test_every_image_is_seen_once_an_epoch(train: int, size: int, seed: int, epoch: int) -> None:
    data = images(train)
    first = epoch * train // size
    steps = range(first, first + 2 * train // size + 2)
    stream = np.concatenate([numbers_of(data.train(seed, step, size).x) for step in steps])
    start = -(first * size) % train
    assert sorted(stream[start : start + train]) == list(range(train))


def test_epochs_and_seeds_differ_in_order() -> None:
    data = images(50)
    orders = [tuple(numbers_of(data.train(seed, step, 50).x)) for seed in (0, 1) for step in (0, 1)]
    assert len(set(orders)) == 4
    assert all(order != tuple(range(50)) for order in orders)


def test_a_batch_depends_on_its_arguments_alone() -> None:
    data = images()
    first = data.train(3, 11, 16)
    data.train(3, 12, 16)
    again = images().train(3, 11, 16)
    assert torch.equal(first.x, again.x)
    assert torch.equal(first.cond["label"], again.cond["label"])


@given(cuts=st.lists(st.integers(0, 24), max_size=4), step=st.integers(0, 100))
def test_parts_of_a_batch_make_up_the_whole(cuts: list[int], step: int) -> None:
    data, edges = images(), [0, *sorted(cuts), 24]
    whole = data.train(0, step, 24)
    parts = [data.train(0, step, 24, slice(a, b)) for a, b in pairwise(edges)]
    assert torch.equal(torch.cat([part.x for part in parts]), whole.x)
    assert torch.equal(torch.cat([part.cond["label"] for part in parts]), whole.cond["label"])


def test_the_stream_does_not_depend_on_the_batch_size() -> None:
    data = images()
    small = torch.cat([data.train(0, step, 8).x for step in range(6)])
    large = torch.cat([data.train(0, step, 24).x for step in range(2)])
    assert torch.equal(small, large)


def test_labels_stay_with_their_images() -> None:
    data = images()
    for batch in (data.train(0, 5, 20), data.split("valid"), data.split("test", 9, seed=4)):
        assert batch.cond["label"].dtype == torch.int64
        assert [number % 7 for number in numbers_of(batch.x)] == batch.cond["label"].tolist()


def test_validation_is_the_end_of_the_training_images() -> None:
    data = images(50, 8, 20)
    assert numbers_of(data.split("train").x) == list(range(50))
    assert numbers_of(data.split("valid").x) == list(range(50, 58))
    assert numbers_of(data.split("test").x) == list(range(58, 78))


def test_small_sets_are_split_by_tenths() -> None:
    splits = by_tenths(numbered(0, 57))
    assert {which: len(part) for which, part in splits.items()} == {"train": 47, "valid": 5, "test": 5}
    assert {which: len(part) for which, part in by_tenths(numbered(0, 3)).items()} == dict.fromkeys(splits, 1)


def test_a_choice_of_a_split_is_fixed_nested_and_without_repetition() -> None:
    data = images()
    ten, five = numbers_of(data.split("test", 10).x), numbers_of(data.split("test", 5).x)
    assert ten[:5] == five
    assert len(set(ten)) == 10
    assert set(ten) <= set(range(58, 78))
    assert numbers_of(data.split("test", 10, seed=1).x) != ten
    with pytest.raises(PhinError, match="21 test images asked of some, which has 20"):
        data.split("test", 21)


@pytest.mark.parametrize("levels", [17, 256])
def test_integers_come_back_exactly(levels: int) -> None:
    k = torch.arange(levels, dtype=torch.uint8)
    x = from_integers(k, levels)
    assert (x[0], x[-1]) == (-1, 1)
    assert torch.equal(torch.round((x.double() + 1) * (levels - 1) / 2).to(torch.uint8), k)
    assert x.dtype == torch.float32


def test_only_eight_bit_images_say_so() -> None:
    assert images().eight_bit
    assert not phin.data.load("digits").eight_bit


def test_digits_are_those_of_scikit_learn() -> None:
    from sklearn.datasets import load_digits

    data, (values, labels) = phin.data.load("digits"), load_digits(return_X_y=True)
    whole = [data.split(which) for which in SPLITS]
    x = torch.cat([batch.x for batch in whole])
    assert data.shape == (1, 8, 8)
    np.testing.assert_array_equal(np.asarray(x).reshape(-1, 64), values / 8 - 1)
    np.testing.assert_array_equal(torch.cat([batch.cond["label"] for batch in whole]), labels)


# files


def sums(payloads: dict[str, bytes]) -> dict[str, str]:
    return {name: sha256(payload).hexdigest() for name, payload in payloads.items()}


def test_mnist_keeps_its_last_five_thousand_for_validation(monkeypatch: pytest.MonkeyPatch) -> None:
    labels = np.arange(5_003) % 10
    arrays = (
        np.broadcast_to(labels[:, None, None], (5_003, 28, 28)),
        labels,
        np.full((2, 28, 28), 9),
        np.array([9, 9]),
    )
    payloads = {
        name: idx.encode(np.ascontiguousarray(array, np.uint8))
        for name, array in zip(mnist.MNIST_FILES.sums, arrays, strict=True)
    }
    monkeypatch.setattr(Files, "read", lambda self: payloads)
    data = phin.data.load("mnist")
    assert [len(data.split(which).x) for which in SPLITS] == [3, 5_000, 2]
    assert (data.shape, data.classes, data.eight_bit, data.name) == ((1, 28, 28), 10, True, "mnist")
    for which in SPLITS:
        assert numbers_of(data.split(which).x) == data.split(which).cond["label"].tolist()


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "own").mkdir()
    monkeypatch.setenv("PHIN_DATA", str(tmp_path / "own"))
    return tmp_path / "own"


def test_cifar10_is_read_from_its_binary_archive(own: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    pixels = rng.integers(256, size=(6, 2, 3, 32, 32)).astype(np.uint8)
    labels = rng.integers(10, size=(6, 2)).astype(np.uint8)
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        # not in order, as in the published archive
        for name, i in (("test_batch", 5), *((f"data_batch_{i}", i - 1) for i in (4, 1, 3, 2, 5))):
            raw = np.concatenate([labels[i][:, None], pixels[i].reshape(2, -1)], 1).tobytes()
            member = tarfile.TarInfo(f"cifar-10-batches-bin/{name}.bin")
            member.size = len(raw)
            archive.addfile(member, io.BytesIO(raw))
    payload = {cifar10.ARCHIVE: buffer.getvalue()}
    (own / cifar10.ARCHIVE).write_bytes(buffer.getvalue())
    monkeypatch.setattr(cifar10, "FILES", Files("CIFAR-10", "cifar10", sums(payload), flat=True))
    monkeypatch.setattr(cifar10, "VALIDATION", 3)
    data = phin.data.load("cifar10")
    x = torch.cat([data.split(which).x for which in SPLITS])
    y = torch.cat([data.split(which).cond["label"] for which in SPLITS])
    np.testing.assert_array_equal(torch.round((x + 1) * 127.5), pixels.reshape(12, 3, 32, 32))
    np.testing.assert_array_equal(y, labels.ravel())
    assert len(data.split("valid").x) == 3


def test_cifar10_of_another_sum_is_refused(own: Path) -> None:
    (own / cifar10.ARCHIVE).write_bytes(b"cut short")
    with pytest.raises(PhinError, match=r"cifar-10-binary.tar.gz is not the CIFAR-10 file: .*c4a38c50"):
        phin.data.load("cifar10")


def test_jpeg_copies_are_decoded_and_mixed(own: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def archive(labels: np.ndarray) -> bytes:
        files = []
        for label in labels:
            buffer = io.BytesIO()
            Image.new("RGB", (32, 32), (25 * int(label), 100, 200)).save(buffer, "JPEG", quality=75)
            files.append(buffer.getvalue())
        start = files[0].index(b"\xff\xda") + 14  # the header ends with the scan's own, of 12 bytes
        assert {file[:start] for file in files} == {files[0][:start]}
        scans = [file[start:-2] for file in files]
        out = io.BytesIO()
        np.savez(
            out,
            head=np.frombuffer(files[0][:start], np.uint8),
            scans=np.frombuffer(b"".join(scans), np.uint8),
            offsets=np.cumsum([0, *map(len, scans)]).astype(np.uint32),
            labels=labels.astype(np.uint8),
        )
        return out.getvalue()

    payloads = dict(
        zip(
            cifar10.JPEG_FILES.sums,
            (archive(np.repeat(np.arange(10), 4)), archive(np.repeat(np.arange(10), 2))),
            strict=True,
        )
    )
    (own / "cifar10").mkdir()
    for name, payload in payloads.items():
        (own / "cifar10" / name).write_bytes(payload)
    monkeypatch.setattr(cifar10, "JPEG_FILES", Files(cifar10.JPEG_TITLE, "cifar10", sums(payloads)))
    monkeypatch.setattr(cifar10, "VALIDATION", 20)
    data = phin.data.load("cifar10-jpeg")
    for which in SPLITS:
        x, cond, _ = data.split(which)
        assert len(x) == 20
        assert len(cond["label"].unique()) > 4, "a split of sorted images would have few classes"
        red = (x[:, 0].mean((1, 2)) + 1) * 127.5
        assert torch.equal(torch.round(red / 25).long(), cond["label"])
    assert phin.data.DATA["cifar10-jpeg"].title == "CIFAR-10 (JPEG quality 75 copy)"


def test_the_jpeg_copy_is_never_downloaded() -> None:
    with pytest.raises(PhinError, match=r"not for download.*cifar10_train_jpeg.npz"):
        phin.data.load("cifar10-jpeg")


# folders of images


def save(
    path: Path, value: int | tuple[int, ...] = 0, mode: str = "L", size: tuple[int, int] = (6, 4)
) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new(mode, size, value).save(path)


def load(path: Path) -> phin.data.Data:
    return phin.data.load(f"folder:{path}")


def test_folder_without_classes(tmp_path: Path) -> None:
    for i in range(30):
        save(tmp_path / f"{i}.png", i)
    (tmp_path / "notes.txt").write_text("not an image")
    save(tmp_path / ".hidden.png", size=(1, 1))
    data = load(tmp_path)
    splits = [numbers_of(data.split(which).x) for which in SPLITS]
    assert sorted(chain(*splits)) == list(range(30))
    assert [len(split) for split in splits] == [24, 3, 3]
    assert (data.shape, data.classes, data.train(0, 0, 2).cond) == ((1, 4, 6), 0, {})


def test_folder_with_classes_in_colour(tmp_path: Path) -> None:
    for i in range(20):
        save(
            tmp_path / ("cats", "dogs")[i % 2] / "deep" / f"{i}.{('png', 'PNG')[i % 3 == 0]}",
            (i, 1, 2),
            "RGB",
        )
    (tmp_path / "empty").mkdir()
    data = load(tmp_path)
    assert (data.shape, data.class_names) == ((3, 4, 6), ("cats", "dogs"))
    for which in SPLITS:
        x, cond, _ = data.split(which)
        assert [number % 2 for number in numbers_of(x)] == cond["label"].tolist()


@pytest.mark.parametrize("suffix", ["jpg", "jpeg", "webp", "png"])
@pytest.mark.parametrize(("mode", "value"), [("L", 77), ("RGB", (10, 20, 30))])
def test_folder_reads_every_kind(tmp_path: Path, suffix: str, mode: str, value: Any) -> None:
    if suffix == "webp":  # which has no grey
        mode, value = "RGB", np.broadcast_to(value, 3)
    for i in range(3):
        save(tmp_path / f"{i}.{suffix}", tuple(map(int, np.atleast_1d(value))), mode)
    x = load(tmp_path).split("train").x
    assert x.shape == (1, len(mode), 4, 6)
    colour = (x.mean((0, 2, 3)) + 1) * 127.5
    np.testing.assert_allclose(colour, np.atleast_1d(value), atol=4)


def test_palettes_are_colour(tmp_path: Path) -> None:
    for i in range(3):
        Image.new("RGB", (6, 4), (200, 0, 50)).quantize(4).save(tmp_path / f"{i}.png")
    np.testing.assert_allclose((load(tmp_path).split("test").x[0, :, 0, 0] + 1) * 127.5, (200, 0, 50), atol=1)


def test_a_new_image_does_not_move_the_others_between_splits(tmp_path: Path) -> None:
    for i in range(40):
        save(tmp_path / f"{i}.png", i)
    before, after = {}, {}
    for found in (before, after):
        data = load(tmp_path)
        found |= {which: {*numbers_of(data.split(which).x)} - {99} for which in ("train", "valid", "test")}
        save(tmp_path / "new.png", 99)
    assert set.union(*after.values()) == set.union(*before.values()) == set(range(40))
    assert all(len(before[which] - after[which]) <= 1 for which in before)  # one over each border, at most


@pytest.mark.parametrize("images", [0, 2])
def test_too_few_images(tmp_path: Path, images: int) -> None:
    for i in range(images):
        save(tmp_path / f"{i}.png")
    with pytest.raises(PhinError, match=f"{tmp_path} has {images} images .* at least 3"):
        load(tmp_path)


@pytest.mark.parametrize("name", ["folder:", "folder:/nowhere/at/all"])
def test_folder_that_is_none(name: str) -> None:
    with pytest.raises(PhinError, match=f"{name} is not a folder"):
        phin.data.load(name)


@pytest.mark.parametrize("suffix", ["png", "jpg", "webp"])
@pytest.mark.parametrize("keep", [0, 20, -30])
def test_a_broken_image_is_named(tmp_path: Path, suffix: str, keep: int) -> None:
    for i in range(5):
        Image.effect_noise((40, 30), 50).convert("RGB").save(tmp_path / f"{i}.{suffix}")
    broken = tmp_path / f"3.{suffix}"
    broken.write_bytes(broken.read_bytes()[:keep])
    with pytest.raises(PhinError, match=rf"{broken} cannot be read as an image .*; repair or remove it"):
        load(tmp_path)


@pytest.mark.parametrize("odd", [{"size": (6, 5)}, {"mode": "RGB"}])
def test_an_image_unlike_the_others_is_named_with_both_kinds(tmp_path: Path, odd: dict[str, Any]) -> None:
    for i in range(12):
        save(tmp_path / f"{i}.png")
    save(tmp_path / "odd.png", **odd)
    with pytest.raises(PhinError) as error:
        load(tmp_path)
    assert "odd.png" in str(error.value)
    assert "6 x 4 grey" in str(error.value)
    assert ("6 x 5 grey" if "size" in odd else "6 x 4 RGB") in str(error.value)


@pytest.mark.parametrize("mode", ["RGBA", "LA", "I;16"])
def test_modes_that_would_lose_something_are_refused(tmp_path: Path, mode: str) -> None:
    for i in range(3):
        save(tmp_path / f"{i}.png", mode=mode)
    with pytest.raises(PhinError, match=r"\.png has the mode .*; save it as 8-bit grey or RGB"):
        load(tmp_path)


def test_a_folder_that_is_too_large_for_memory_gives_the_same_and_reads_it_when_it_is_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for i in range(150):  # more than the threads read in one go
        save(tmp_path / ("cats", "dogs")[i % 2] / f"Hà Nội {i}.png", i)
    kept = load(tmp_path)
    pixels = 150 * 4 * 6
    monkeypatch.setattr(folder, "IN_MEMORY", pixels)
    assert isinstance(folder.load(str(tmp_path)).splits["train"], Part)  # just small enough
    monkeypatch.setattr(folder, "IN_MEMORY", pixels - 1)
    stored = load(tmp_path)
    assert (stored.shape, stored.class_names, stored.count("train")) == (kept.shape, kept.class_names, 120)

    def same(ours: phin.data.Batch, theirs: phin.data.Batch) -> None:
        torch.testing.assert_close(ours.x, theirs.x, rtol=0, atol=0)
        assert ours.cond["label"].tolist() == theirs.cond["label"].tolist()

    for which in SPLITS:
        same(stored.split(which), kept.split(which))
        read = stored.split(which)
        assert [i % 2 for i in numbers_of(read.x)] == read.cond["label"].tolist()
        same(stored.split(which, 2, seed=3), kept.split(which, 2, seed=3))
    for step in range(3):
        same(stored.train(0, step, 20, slice(1, None, 2)), kept.train(0, step, 20, slice(1, None, 2)))
    for path in tmp_path.glob("*/*.png"):
        save(path, 200)
    assert set(numbers_of(stored.train(0, 5, 20).x)) == {200}
    assert max(numbers_of(kept.train(0, 5, 20).x)) < 150


def test_the_order_is_that_of_the_hashes_of_names_in_whatever_folders(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Hidden pictures are left out, but not what a hidden folder of a class has; links are not followed."""
    monkeypatch.setattr(folder, "IN_MEMORY", 0)
    files = ["b/x.png", "b/deep/deeper/y.JPG", "b/.thumbs/z.png", "a b/Hà Nội.png", "ß/日.png", "b/10.png"]
    for file in (*files, "b/.x.png", ".b/x.png", "empty/deep/.x.png"):
        save(tmp_path / file)
    (tmp_path / "b" / "link").symlink_to(tmp_path / "ß", target_is_directory=True)
    data = folder.load(str(tmp_path))
    assert data.class_names == ("a b", "b", "ß")
    splits = [data.splits[which] for which in ("train", "valid", "test")]
    found = [name for split in splits if isinstance(split, folder.Stored) for name in split.names]
    assert found == sorted(files, key=lambda name: blake2b(os.fsencode(name), digest_size=8).digest())
    labels = [split.labels.tolist() for split in splits if split.labels is not None]
    assert [data.class_names[label] for label in chain(*labels)] == [name.split("/")[0] for name in found]


@dataclass(frozen=True)
class Listed:
    """An entry of a folder that is not there."""

    name: str

    def is_file(self) -> bool:
        return True

    def is_dir(self, follow_symlinks: bool = True) -> bool:
        return False


def test_a_name_of_a_large_folder_takes_its_bytes_and_nine_more(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And little beyond that while the folder is opened; one long name does not make the others longer."""
    letters = "a" * 200

    def names(n: int) -> Iterator[Listed]:
        return (Listed(f"{letters[: 200 if i == 7 else 11]}{i:05}.png") for i in range(n))

    def held(n: int) -> tuple[int, int]:
        """Bytes of the opened folder, and the most that there were at once."""
        monkeypatch.setattr(os, "scandir", lambda path: contextlib.nullcontext(names(n)))
        tracemalloc.start()
        data = folder.load(str(tmp_path))
        found = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert data.count("train") == n - 2 * (n // 10)
        return found

    monkeypatch.setattr(folder, "IN_MEMORY", 0)
    monkeypatch.setattr(folder, "read", lambda file: np.zeros((1, 2, 2), np.uint8))
    held(100)  # what is imported, and kept, on the way
    few, many = held(2_000), held(20_000)
    now, most = ((b - a) / 18_000 for a, b in zip(few, many, strict=True))
    assert now == pytest.approx(20 + 1 + 8, abs=0.1)
    assert most < 3 * now


def test_images_beside_class_folders_are_refused(tmp_path: Path) -> None:
    for name in ("a.png", "b.png", "c.png", "cats/d.png"):
        save(tmp_path / name)
    with pytest.raises(PhinError, match=r"such as a.png, and others in cats/"):
        load(tmp_path)
