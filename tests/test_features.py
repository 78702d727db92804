"""What looks at pictures, and what is kept of many of them."""

import hashlib
import importlib.util
import io
import math
import subprocess
import sys
import textwrap
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
import together
import torch
from pretend import GPU, pretending
from torch import Tensor

from phin import data as datasets
from phin.data.base import Part, Which, from_integers
from phin.errors import PhinError
from phin.metrics import features as looking
from phin.metrics import processes
from phin.metrics.features import Inception, Reader, Seen
from phin.metrics.frechet import frechet_distance, moments
from phin.metrics.inception_score import certainty
from phin.metrics.jackknife import GROUPS
from phin.metrics.measures import MEASURES
from phin.metrics.neighbours import Cloud
from phin.metrics.processes import gathered
from phin.metrics.reading import Rate
from phin.metrics.summary import Summary, fewest, summarised
from phin.models import load
from phin.nets.classifier import Classifier, ClassifierConfig
from phin.pictures import to_integers
from phin.recipes.features import FEATURES, features_of, measuring, reader
from phin.training.measuring import Measuring


def some_pictures(n: int, channels: int = 1, side: int = 28) -> Tensor:
    return torch.randint(0, 256, (n, channels, side, side), dtype=torch.uint8)


def small_reader() -> Reader:
    net = Classifier(ClassifierConfig((8, 12), (0, 1)), 1, 10)
    tiny.randomise(net)
    return Reader(net, "small reader", (1, 28, 28), tiny.DIGITS)


# Readers


def test_a_reader_sees_the_features_that_its_logits_are_made_of() -> None:
    small, pictures = small_reader(), some_pictures(5)
    with torch.autocast("cpu", torch.bfloat16):  # as a training may have it
        seen = small(pictures)
    assert seen.features.shape == (5, small.dims) == (5, 12)
    assert seen.features.dtype == torch.float32
    with torch.no_grad():
        torch.testing.assert_close(seen.logits, small.net(from_integers(pictures)), rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(seen.logits, small.net.head(seen.features), rtol=1e-5, atol=1e-5)


def test_eight_bits_are_the_nearest() -> None:
    x = torch.tensor([-1.2, -1.0, -1 + 1.1 / 255, 0.0, 1 - 0.9 / 255, 1.0, 3.0])
    assert to_integers(x).tolist() == [0, 0, 1, 128, 255, 255, 255]
    every = torch.arange(256, dtype=torch.uint8)
    assert torch.equal(to_integers(from_integers(every)), every)


@pytest.mark.parametrize("shape", [(1, 32, 32), (3, 28, 28), (1, 28)])
def test_a_reader_refuses_other_sizes_and_channels(shape: tuple[int, ...]) -> None:
    with pytest.raises(
        PhinError, match=f"takes pictures of 1 x 28 x 28, not of {' x '.join(map(str, shape))}"
    ):
        small_reader().check(shape)


def test_the_reader_that_comes_with_phin_is_found_by_its_data() -> None:
    digits = features_of("mnist")
    assert (digits.name, digits.dims, digits.class_names) == ("digit reader", 128, tiny.DIGITS)
    digits.check((1, 28, 28))


def test_a_reader_that_does_not_come_with_phin_tells_how_to_train_it() -> None:
    with pytest.raises(
        PhinError, match="`phin train none-classifier`, and give it as --features runs/none-classifier"
    ):
        reader("none-classifier", "reader of nothing")


# Inception-v3, of which neither the weights nor the package need be here

STUB = '''
import torch
class FeatureExtractorInceptionV3(torch.nn.Module):
    """Takes what the real one takes: 8-bit pictures of three channels, and weights as a file."""
    def __init__(self, name, features_list, feature_extractor_weights_path):
        super().__init__()
        assert features_list == ["2048", "logits_unbiased"]
        self.weight = torch.nn.Parameter(torch.full((1,), float(feature_extractor_weights_path.read())))
    def forward(self, x):
        assert x.dtype == torch.uint8 and x.shape[1] == 3
        grey = self.weight * x.float().mean((2, 3))
        return grey, grey.mean(1, keepdim=True)
'''


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A torch_fidelity that fails to be imported, as where torchvision is that of another torch."""
    folder = tmp_path / "site" / "torch_fidelity"
    folder.mkdir(parents=True)
    (folder / "__init__.py").write_text("raise RuntimeError('operator torchvision::nms does not exist')")
    (folder / "feature_extractor_inceptionv3.py").write_text(STUB)
    monkeypatch.syspath_prepend(str(folder.parent))
    monkeypatch.setenv("PHIN_CACHE", str(tmp_path / "cache"))
    return folder


def test_inception_needs_no_more_of_its_package_than_the_network(
    package: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    weights = tmp_path / "weights.pth"
    weights.write_bytes(b"2.5")
    monkeypatch.setattr(looking, "SUM", hashlib.sha256(b"2.5").hexdigest())
    inception = Inception(weights)
    assert "torch_fidelity" not in sys.modules
    for channels in (1, 3):
        inception.check((channels, 5, 7))
        pictures = some_pictures(4, channels, 6)
        seen = inception(pictures)
        expected = 2.5 * pictures.float().mean((2, 3)).expand(4, 3)
        torch.testing.assert_close(seen.features, expected)
    monkeypatch.setattr(looking, "preferred", lambda: torch.device("meta"))
    assert next(Inception(weights).net.parameters()).is_meta  # it goes where the machine computes
    for shape in ((2, 8, 8), (2,), (1, 3, 8, 8)):
        with pytest.raises(PhinError, match="takes grey pictures and RGB"):
            inception.check(shape)


def test_weights_of_inception_are_these_or_none(package: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.pth"
    other.write_bytes(b"1")
    with pytest.raises(
        PhinError, match=r"other\.pth is not the Inception-v3 that FIDs are measured by: its SHA-256"
    ):
        Inception(other)
    with pytest.raises(PhinError, match=r"none\.pth cannot be read"):
        Inception(tmp_path / "none.pth")
    with pytest.raises(PhinError, match=r"cannot be had here .* put weights-inception.* or give the file as"):
        Inception()


def test_wrong_weights_in_the_users_own_folder_are_named(
    package: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "data" / "inception").mkdir(parents=True)
    (tmp_path / "data" / "inception" / looking.WEIGHTS).write_bytes(b"1")
    monkeypatch.setenv("PHIN_DATA", str(tmp_path / "data"))
    with pytest.raises(PhinError, match=r"is not the Inception-v3 .* file: the SHA-256"):
        Inception()


def test_inception_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(looking.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(PhinError, match=r"pip install 'phin\[inception\]'"):
        Inception()


def test_inception_is_that_of_torch_fidelity(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if importlib.util.find_spec("torch_fidelity") is None:
        pytest.skip("torch-fidelity is not installed")
    with looking._torch_fidelity() as module:
        kind: Any = module.FeatureExtractorInceptionV3
        empty = io.BytesIO()
        torch.save({}, empty)
        empty.seek(0)
        with monkeypatch.context() as patch:
            patch.setattr(kind, "load_state_dict", lambda *_: None)
            net = kind("net", ["2048", "logits_unbiased"], feature_extractor_weights_path=empty)
    torch.save(net.state_dict(), tmp_path / "net.pth")
    monkeypatch.setattr(looking, "SUM", hashlib.sha256((tmp_path / "net.pth").read_bytes()).hexdigest())
    grey = some_pictures(2)
    features, logits = net(grey.repeat(1, 3, 1, 1))
    seen = Inception(tmp_path / "net.pth")(grey)
    assert torch.equal(seen.features, features)
    assert torch.equal(seen.logits, logits)


# Summaries


def seen(n: int, d: int = 4, classes: int = 3) -> Seen:
    f = torch.randn(n, d)
    return Seen(f, f[:, :classes])


def alike(a: Summary, b: Summary) -> None:
    """That two summaries say the same."""
    assert (a.n, a.right) == (b.n, b.right)
    for one, other in zip(a.moments, b.moments, strict=True):
        assert one.n == other.n
        np.testing.assert_allclose(one.mean, other.mean, rtol=1e-9, atol=1e-12)
        np.testing.assert_allclose(one.scatter, other.scatter, rtol=1e-9, atol=1e-9)
    for one, other in zip(a.certainties, b.certainties, strict=True):
        torch.testing.assert_close(one.total, other.total, rtol=1e-12, atol=1e-12)
        assert one.entropy == pytest.approx(other.entropy, rel=1e-12)
    assert torch.equal(a.features, b.features)


def test_a_summary_in_parts_and_out_of_order_is_that_of_the_whole() -> None:
    whole, labels = seen(237), torch.randint(0, 3, (237,))
    once = Summary(50)
    once.add(range(237), whole, labels)
    parts = Summary(50)
    for places in (range(100, 101), range(30, 100), range(150, 237), range(30), range(101, 150)):
        rows = slice(places.start, places.stop)
        parts.add(places, Seen(*(x[rows] for x in whole)), labels[rows])
    alike(once, parts)
    assert torch.equal(once.features, whole.features[:50])
    assert once.rate == Rate(int((whole.logits.argmax(1) == labels).sum()), 237)
    for group in range(10):
        assert once.moments[group].n == len(range(group, 237, 10))
        np.testing.assert_allclose(
            once.moments[group].mean, whole.features[group::10].double().mean(0), rtol=1e-9
        )
        assert certainty(whole.logits[group::10]).entropy == pytest.approx(once.certainties[group].entropy)
    distance = MEASURES["frechet"].of(once, parts)
    assert distance.value == pytest.approx(0, abs=1e-9)
    shifted = Summary(50)
    shifted.add(range(237), Seen(whole.features + 1, whole.logits))
    exact = frechet_distance(moments(whole.features + 1), moments(whole.features))
    assert MEASURES["frechet"].of(shifted, once).value == pytest.approx(exact, rel=1e-9)


def test_pictures_are_summarised_in_batches() -> None:
    small, pictures = small_reader(), some_pictures(1100)
    found = summarised(small, pictures, 20)
    with torch.no_grad():
        features = small.net.features(from_integers(pictures))
    np.testing.assert_allclose(found.moments[3].mean, features[3::10].double().mean(0), rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(found.features, features[:20], rtol=1e-4, atol=1e-6)


def test_what_cannot_be_measured_is_named() -> None:
    small = small_reader()
    bad = seen(5)
    bad.features[3, 2] = math.nan
    with pytest.raises(PhinError, match=r"feature 2 of picture 103 is nan; look for NaN in the weights"):
        Summary().add(range(100, 105), bad)
    few = summarised(small, some_pictures(13))
    with pytest.raises(
        PhinError, match=r"13 samples are too few for the 12 features of small reader.*: give 15 or"
    ):
        few.check("samples", small)
    summarised(small, some_pictures(15)).check("samples", small)
    blank = summarised(small, torch.full((40, 1, 28, 28), 7, dtype=torch.uint8))
    with pytest.raises(PhinError, match="all 40 samples look the same to small reader"):
        blank.check("samples", small)


@pytest.mark.parametrize("dims", [1, 8, 9, 10, 12, 18, 128, 2048])
def test_no_fewer_pictures_than_are_asked_for_have_a_covariance_without_each_group(dims: int) -> None:
    n = fewest(dims)
    left, fewer = (count - len(range(0, count, GROUPS)) for count in (n, n - 1))  # without the largest
    assert left > dims >= fewer
    if dims < 20:
        full, short = (torch.randn(k, dims) - torch.randn(dims) for k in (left, fewer))
        ranks = [int(torch.linalg.matrix_rank(x - x.mean(0))) for x in (full, short)]
        assert ranks[0] == dims > ranks[1]
    for count in (n, n - 1):
        found, features = Summary(n=count, moments=[moments(torch.randn(2, 3))]), small_reader()
        features.dims = dims
        with pytest.raises(PhinError, match=f"give {n:,} or more") if count < n else nullcontext():
            found.check("samples", features)


def test_running_sums_take_no_more_memory_than_a_few_features() -> None:
    """200,000 features of 128 dimensions are 102 MB, and are never there all at once."""
    program = """
        import torch
        from phin.metrics.features import Seen
        from phin.metrics.summary import BATCH, Summary
        from phin.training.run import peak_memory

        torch.set_num_threads(1)
        summary, features = Summary(1000), torch.randn(BATCH, 128)

        def add(batches):
            for k in batches:
                places = range(k * BATCH, (k + 1) * BATCH)
                summary.add(places, Seen(features + k, features[:, :10] + k))

        add(range(10))  # what libraries take once, they have now
        before = peak_memory()
        add(range(10, 200_000 // BATCH))
        print(summary.n, peak_memory() - before)
    """
    command = [sys.executable, "-c", textwrap.dedent(program)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    n, grown = map(int, done.stdout.split())
    assert n == 200_000
    assert grown < 2e7


def test_a_cloud_is_of_all_that_was_added() -> None:
    whole, found = seen(40), Summary(30)
    for places in (range(20), range(20, 40)):
        found.add(places, Seen(*(x[places.start : places.stop] for x in whole)))
        kept = whole.features[: min(places.stop, 30)]
        assert torch.equal(found.cloud.points, Cloud.of(kept).points)
    assert found.cloud is found.cloud


def half(rank: int) -> Summary:
    """What one of two processes has seen of 101 pictures: every other one."""
    torch.manual_seed(3)
    whole, places = seen(101), range(rank, 101, 2)
    part = Summary(31)
    part.add(places, Seen(*(x[rank::2] for x in whole)), torch.arange(101)[rank::2] % 3)
    return part


def as_one() -> None:
    """In each of two processes: what both have gathered is what one sees of everything."""
    import torch.distributed as dist

    dist.init_process_group("gloo")
    rank = dist.get_rank()
    torch.manual_seed(3)
    whole = Summary(31)
    whole.add(range(101), seen(101), torch.arange(101) % 3)
    alike(half(rank).gathered(), whole)
    rows = gathered(torch.full((rank + 1, 2), rank))
    assert [part.tolist() for part in rows] == [[[0, 0]], [[1, 1], [1, 1]]]
    gather = dist.all_gather

    def between_gpus(parts: list[Any], part: Any) -> None:
        assert {tensor.device for tensor in (part, *parts)} == {GPU}
        gather([tensor.inner for tensor in parts], part.inner)

    with pretending(), pytest.MonkeyPatch.context() as patch:  # joined by a backend that takes no CPU's
        patch.setattr(dist, "get_backend", lambda: "nccl")
        patch.setattr(dist, "all_gather", between_gpus)
        patch.setattr(processes, "preferred", lambda: GPU)
        rows = gathered(torch.full((rank + 1, 2), rank))
    assert [part.tolist() for part in rows] == [[[0, 0]], [[1, 1], [1, 1]]]
    assert {part.device for part in rows} == {torch.device("cpu")}
    dist.destroy_process_group()


def test_two_processes_see_what_one_sees() -> None:
    together.two("import test_features; test_features.as_one()")
    alone = half(0)
    alike(alone.gathered(), alone)


# While a model is trained


def test_what_is_drawn_in_a_training_is_looked_at_all_at_once() -> None:
    """Moments of groups, of which each has an outer product of the features, are added up seldom."""
    part = Part(some_pictures(150), torch.arange(150) % 10)
    data = datasets.Images("mnist", dict.fromkeys(("train", "valid", "test"), part), tiny.DIGITS)
    small, looked, drawn = small_reader(), list[int](), list[int]()

    class Counted(Reader):
        def __call__(self, pictures: Tensor) -> Seen:
            looked.append(len(pictures))
            return super().__call__(pictures)

    def draw(cond: dict[str, Tensor], numbers: Any) -> Tensor:
        drawn.append(len(numbers))
        return from_integers(some_pictures(len(numbers)))

    Measuring(Counted(small.net, "small", (1, 28, 28), tiny.DIGITS), data, 150)(draw)
    assert drawn == [64, 64, 22]
    assert looked == [150] * 3  # what is drawn, what is held out, and training pictures


def test_a_training_is_measured_against_what_is_held_out(caplog: pytest.LogCaptureFixture) -> None:
    splits: dict[Which, Part] = {
        which: Part(some_pictures(60), torch.arange(60) % 10) for which in ("train", "valid", "test")
    }
    data = datasets.Images("mnist", splits, tiny.DIGITS)
    small = small_reader()
    measure = Measuring(small, data, 40)
    held, train = data.split("valid", 40), data.split("train", 40)
    asked: list[Tensor] = []

    def copies(cond: dict[str, Tensor], numbers: Any) -> Tensor:
        asked.append(cond["label"])
        return held.x[list(numbers)] + 0.001  # which 8 bits do not show

    found = measure(copies)
    assert torch.equal(torch.cat(asked), held.cond["label"])
    assert found["frechet"] == pytest.approx(0, abs=1e-6)
    features = [small.net.features(x) for x in (train.x, held.x)]
    floor = frechet_distance(*(moments(f.detach()) for f in features))
    assert found["frechet_floor"] == pytest.approx(floor, rel=1e-4)
    read = small.net(held.x).argmax(1) == held.cond["label"]
    assert found["read"] == pytest.approx(read.float().mean().item())
    untold = Measuring(small, data, 40, told=False)(lambda cond, numbers: train.x[list(numbers)])
    assert untold.keys() == {"frechet", "frechet_floor"}
    assert untold["frechet"] == pytest.approx(untold["frechet_floor"], rel=1e-4)
    with pytest.raises(PhinError, match="measure = 61: mnist has 60 held-out pictures"):
        Measuring(small, data, 61)
    caplog.clear()
    for broken, why in ((math.nan, "are not finite"), (0.5, "look the same")):
        assert measure(lambda cond, numbers, x=broken: torch.full((len(numbers), 1, 28, 28), x)) == {}
        assert why in caplog.text
    Measuring(small, data, 15)
    with pytest.raises(
        PhinError, match=r"14 pictures are too few for the 12 features of .*: give 15 or more"
    ):
        Measuring(small, data, 14)
    assert measuring(data, 0, True) is None
    with pytest.raises(PhinError, match="measure must not be negative"):
        measuring(data, -1, True)
    with pytest.raises(PhinError, match="moons has no pictures to measure while it is trained"):
        measuring(datasets.load("moons"), 50, True)


def test_a_training_is_measured_by_the_features_of_its_data_or_those_that_are_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    splits: dict[Which, Part] = {
        which: Part(some_pictures(60), torch.arange(60) % 10) for which in ("train", "valid", "test")
    }
    own = tiny.write(tiny.READER, tmp_path / "reader.safetensors")
    data = datasets.Images("nameless", splits, tiny.DIGITS)
    chosen = measuring(data, 50, True, str(own))
    assert chosen is not None
    pictures, theirs = some_pictures(5), load(own).net
    assert isinstance(theirs, Classifier)
    torch.testing.assert_close(
        chosen.features(pictures).features, theirs.features(from_integers(pictures)).detach()
    )
    monkeypatch.setitem(FEATURES, "inception", small_reader)  # for data without a reader of their own
    for name, source in (("nameless", None), ("mnist", "inception")):
        found = measuring(datasets.Images(name, splits, tiny.DIGITS), 50, True, source)
        assert found is not None
        assert found.features.name == small_reader().name
    for source, message in (
        ("nobody", "unknown model 'nobody'"),
        (str(tiny.write(tiny.LABELLED, tmp_path / "labelled.safetensors")), "is no classifier of clean"),
    ):
        with pytest.raises(PhinError, match=message):
            measuring(data, 50, True, source)


def test_what_features_cannot_name_is_not_counted_as_read() -> None:
    """The logits of a reader of other classes are no digits."""
    splits: dict[Which, Part] = {
        which: Part(some_pictures(60), torch.arange(60) % 10) for which in ("train", "valid", "test")
    }
    data = datasets.Images("mnist", splits, tuple("abcdefghij"))
    held = data.split("valid", 40).x
    found = Measuring(small_reader(), data, 40)(lambda cond, numbers: held[list(numbers)])
    assert found.keys() == {"frechet", "frechet_floor"}
