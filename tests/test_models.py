from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import SupportsIndex

import numpy as np
import pytest
import tiny
import torch

from phin import data
from phin.diffusion.denoiser import Denoiser
from phin.diffusion.level import Level
from phin.diffusion.noise import seeded
from phin.diffusion.solvers import prior
from phin.errors import PhinError
from phin.models import Model, guide, load, sample, samples, stream
from phin.nets.classifier import NoisyClassifier
from phin.recipes import DiffusionRecipe, VAERecipe, describe
from phin.sampling import draw
from phin.training.checkpoint import read_weights, save_weights


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("models")


@pytest.fixture(scope="module")
def numbers(folder: Path) -> Model:
    return load(tiny.write(tiny.NUMBERS, folder / "numbers.safetensors"))


@pytest.fixture(scope="module")
def labelled(folder: Path) -> Model:
    return load(tiny.write(tiny.LABELLED, folder / "labelled.safetensors"))


@pytest.fixture(scope="module")
def noisy(folder: Path) -> Model:
    return load(tiny.write(tiny.NOISY, folder / "noisy.safetensors"))


@pytest.fixture(scope="module")
def points(folder: Path) -> Model:
    return load(tiny.write(tiny.POINTS, folder / "points.safetensors"))


def same(a: list[torch.Tensor], b: list[torch.Tensor]) -> bool:
    return len(a) == len(b) and all(torch.allclose(x, y, atol=1e-5) for x, y in zip(a, b, strict=True))


def test_a_file_gives_back_the_model_it_was_made_of(numbers: Model) -> None:
    assert (numbers.recipe, numbers.facts) == (tiny.NUMBERS, tiny.FACTS[tiny.NUMBERS])
    stored, metadata = read_weights(numbers.path)
    assert numbers.metadata == metadata
    for name, weight in numbers.net.state_dict().items():
        torch.testing.assert_close(weight, stored[name], rtol=0, atol=0)
    assert not numbers.net.training


def test_of_a_run_the_best_averaged_weights_are_taken(numbers: Model, tmp_path: Path) -> None:
    description = describe("tiny", tiny.NUMBERS, tiny.FACTS[tiny.NUMBERS])
    mean = {name: weight + 1 for name, weight in numbers.net.state_dict().items()}
    parts = {"model": numbers.net.state_dict(), "ema": mean}
    last = {f"{part}.{name}": weight for part, state in parts.items() for name, weight in state.items()}
    save_weights(tmp_path / "last.safetensors", last, description)
    for name, weight in load(tmp_path).net.state_dict().items():
        torch.testing.assert_close(weight, mean[name], rtol=0, atol=0)
    save_weights(tmp_path / "best.safetensors", numbers.net.state_dict(), description)
    assert load(tmp_path).path.name == "best.safetensors"


def test_a_name_is_that_of_a_shipped_model_before_that_of_a_folder(
    numbers: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("phin.recipes.trained.SHIPPED", numbers.path.parent)
    monkeypatch.chdir(tmp_path)
    Path("numbers").mkdir()
    assert load("numbers").path == numbers.path
    with pytest.raises(PhinError, match="the folder numbers has no weights"):
        load("./numbers")
    with pytest.raises(PhinError, match=r"unknown model 'nimbers'; give .*numbers.* a run's folder or a"):
        load("nimbers")
    with pytest.raises(PhinError, match=r"there is no file nimbers\.safetensors"):
        load("nimbers.safetensors")


def test_files_that_are_no_such_model_are_refused(numbers: Model, tmp_path: Path) -> None:
    whole = numbers.path.read_bytes()
    cut, bent = tmp_path / "cut.safetensors", tmp_path / "bent.safetensors"
    cut.write_bytes(whole[: len(whole) // 2])
    bent.write_bytes(whole[:-9] + bytes([whole[-9] ^ 1]) + whole[-8:])
    other = tmp_path / "other.safetensors"
    wider = replace(tiny.NUMBERS, net=replace(tiny.NET, channels=(8, 32)))
    description = describe("tiny", wider, tiny.FACTS[tiny.NUMBERS])
    save_weights(other, read_weights(numbers.path)[0], description)
    future = tmp_path / "future.safetensors"
    save_weights(future, {}, {**description, "family": "flow"})
    for file, message in (
        (cut, "cut short"),
        (bent, "damaged"),
        (other, "another model"),
        (future, "'flow'"),
    ):
        with pytest.raises(PhinError, match=message):
            load(file)


def test_samples_come_in_the_order_asked_for(numbers: Model, labelled: Model) -> None:
    prompts = ["40213", "7", "42", "99999", "0"]
    pictures = samples(numbers, prompts)
    assert [x.shape for x in pictures] == [(1, 28, 28 * len(prompt)) for prompt in prompts]
    assert same(samples(numbers, prompts, batch=1), pictures)
    assert same(samples(numbers, prompts[:3]), pictures[:3])
    assert same(samples(labelled, labels=[3, -1, 5], batch=1), samples(labelled, labels=[3, -1, 5]))


def test_a_stream_gives_each_picture_as_soon_as_it_is_drawn(numbers: Model) -> None:
    """The same pictures, the shortest first; and at no time has more been drawn than was asked for."""
    asked, seen = ["407", "1", "22", "305", "9"], set[int]()

    def watch(batch: Sequence[int], z: torch.Tensor, level: Level) -> None:
        seen.update(batch)

    order: list[int] = []
    for (k, picture), drawn in zip(
        stream(numbers, prompts=asked, batch=3, watch=watch),
        [{1, 4}, {1, 4}, {1, 4, 2}, {1, 4, 2, 0}, {1, 4, 2, 0, 3}],
        strict=True,
    ):
        assert seen == drawn
        assert (picture == sample(numbers, prompts=asked, batch=3)[k]).all()
        order.append(k)
    assert order == [1, 4, 2, 0, 3]
    with pytest.raises(PhinError, match="12x"):  # before it is begun
        stream(numbers, prompts=["12x"])


def test_samples_depend_on_seed_place_and_prompt_alone(numbers: Model) -> None:
    first, second = samples(numbers, ["42"], n=2)
    assert not torch.allclose(first, second)
    alone = samples(numbers, ["42"])  # as the others: a batch of another size is rounded otherwise
    assert not same(samples(numbers, ["42"], seed=1), alone)
    assert not same(samples(numbers, ["43"]), alone)
    assert same(samples(numbers, ["43", "42"])[1:], [second])


def test_each_prompt_is_drawn_n_times(labelled: Model, numbers: Model) -> None:
    assert same(samples(numbers, ["1", "22"], n=2), samples(numbers, ["1", "1", "22", "22"]))
    assert same(samples(labelled, labels=[3, -1], n=2), samples(labelled, labels=[3, 3, -1, -1]))
    assert same(samples(labelled, n=12), samples(labelled, labels=[*range(10), 0, 1]))
    assert len(samples(labelled)) == 10


def test_guidance_is_null_plus_scale_times_the_difference(labelled: Model) -> None:
    def drawn(label: int, guidance: float) -> torch.Tensor:
        return samples(labelled, labels=[label], steps=1, guidance=guidance, threshold="none")[0]

    null, plain = drawn(3, 0), drawn(3, 1)
    assert torch.allclose(null, drawn(-1, 1), atol=1e-5)
    assert not torch.allclose(null, plain, atol=1e-2)
    assert torch.allclose(drawn(3, 2.5), null + 2.5 * (plain - null), atol=1e-4)
    assert torch.allclose(null, drawn(7, 0), atol=1e-5)


def test_a_classifier_guides_by_its_gradient(
    labelled: Model, noisy: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One step is x̂ at the noisiest level, so that the formula can be held to it; and clipping comes last."""
    monkeypatch.setattr("phin.nets.precision.bf16_is_fast", lambda device: False)
    assert isinstance(noisy.net, NoisyClassifier)

    def drawn(label: int, scale: float, threshold: str = "none", guidance: float = 0.0) -> torch.Tensor:
        given = guide(labelled, noisy, scale)
        chosen = {"steps": 1, "guidance": guidance, "threshold": threshold}
        return samples(labelled, labels=[label], guide=given, **chosen)[0]

    base = samples(labelled, labels=[3], steps=1, guidance=0, threshold="none")[0]
    levels = replace(tiny.SAMPLE, steps=1).levels()
    level, z = levels.at(0), prior(levels.at(0), torch.empty(1, 1, 8, 8), seeded(0, [0])).requires_grad_()
    (slope,) = torch.autograd.grad(noisy.net(z, level).log_softmax(1)[0, 3], z)
    moved = level.sigma**2 / level.alpha * slope[0]
    assert moved.abs().max() > 0.1
    torch.testing.assert_close(drawn(3, 2.5), base + 2.5 * moved, rtol=1e-4, atol=1e-4)
    assert torch.equal(drawn(3, 0), base)
    assert torch.allclose(drawn(-1, 2.5), base, atol=1e-5)  # no label, nothing to guide to
    conditional = samples(labelled, labels=[3], steps=1, guidance=2.0, threshold="none")[0]
    torch.testing.assert_close(drawn(3, 2.5, guidance=2.0), conditional + 2.5 * moved, rtol=1e-4, atol=1e-4)
    wide = samples(labelled, labels=[3], steps=1, guidance=50, threshold="none")[0]
    assert wide.abs().max() > 2
    clipped = drawn(3, 50, "clip", guidance=50)
    torch.testing.assert_close(clipped, (wide + 50 * moved).clamp(-1, 1), rtol=0, atol=2e-3)


def test_a_classifier_must_fit_the_model(
    labelled: Model, numbers: Model, points: Model, noisy: Model, folder: Path
) -> None:
    reader = load(tiny.write(tiny.READER, folder / "plain.safetensors"))
    larger = replace(noisy, facts=replace(noisy.facts, shape=(1, 28, 28)))
    renamed = replace(noisy, facts=replace(noisy.facts, class_names=tuple("abcdefghij")))
    for model, classifier, message in (
        (labelled, reader, "no classifier of noisy pictures .* `phin train mnist-noisy-classifier`"),
        (labelled, labelled, "no classifier of noisy pictures"),
        (numbers, noisy, "has no labels to guide to: it was trained on numbers"),
        (points, noisy, "has no labels to guide to: it was trained on moons"),
        (noisy, noisy, "does not draw"),
        (labelled, larger, r"digits \(10 classes, 1 x 28 x 28\) and does not fit .* 1 x 8 x 8"),
        (labelled, renamed, "does not fit"),
    ):
        with pytest.raises(PhinError, match=message):
            guide(model, classifier)
    for scale in (float("nan"), float("inf")):
        with pytest.raises(PhinError, match=f"classifier scale = {scale}"):
            guide(labelled, noisy, scale)


def test_choices_replace_the_models_own(labelled: Model) -> None:
    config = replace(tiny.SAMPLE, solver="ddim(eta=0.5)", steps=5, guidance=1.0, grid="karras(0.01, 20)")
    assert isinstance(labelled.net, Denoiser)
    expected = draw(labelled.net, config, (1, 8, 8), {"label": torch.tensor([4])}, 9, [0])[0]
    chosen = {"solver": "ddim(eta=0.5)", "steps": 5, "guidance": 1.0, "grid": "karras(0.01, 20)"}
    assert same(samples(labelled, labels=[4], seed=9, **chosen), [expected])


def test_a_watch_sees_every_state_of_every_sample(numbers: Model) -> None:
    seen: dict[int, list[tuple[torch.Size, float]]] = {}

    def watch(batch: Sequence[int], z: torch.Tensor, level: Level) -> None:
        for k, state in zip(batch, z, strict=True):
            seen.setdefault(k, []).append((state.shape, level.log_snr.item()))

    samples(numbers, ["1", "22", "3"], steps=4, batch=1, watch=watch)
    assert sorted(seen) == [0, 1, 2]
    for k, length in enumerate((1, 2, 1)):
        shapes, log_snrs = zip(*seen[k], strict=True)
        assert set(shapes) == {(1, 28, 28 * length)}
        assert len(log_snrs) == 4
        assert list(log_snrs) == sorted(log_snrs)


def test_pictures_are_bytes_and_points_are_points(numbers: Model, points: Model) -> None:
    (picture,) = sample(numbers, prompts=["40213"])
    assert (picture.dtype, picture.shape) == (np.uint8, (28, 140))
    drawn = sample(points, n=7)
    assert [(point.dtype, point.shape) for point in drawn] == [(np.float32, (2,))] * 7


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"prompts": ["12a"]}, "'12a'"),
        ({"prompts": [""]}, "''"),
        ({"prompts": ["123456"]}, "'123456'"),
        ({"prompts": ["٣"]}, "'٣'"),
        ({"prompts": []}, "nothing to draw"),
        ({}, "nothing to draw"),
        ({"prompts": ["1"], "labels": [1]}, "takes no labels"),
        ({"prompts": ["1"], "n": 0}, "n = 0"),
        ({"prompts": ["1"], "steps": 0}, "steps = 0"),
        ({"prompts": ["1"], "solver": "runge"}, "unknown solver 'runge'"),
        ({"prompts": ["1"], "grid": "discrete(linear, T=5)", "steps": 6}, "steps = 6"),
        ({"prompts": ["1"], "threshold": "hard"}, "unknown threshold 'hard'"),
        ({"prompts": ["1"], "guidance": float("nan")}, "guidance = nan"),
        ({"prompts": ["1"], "step": 3}, "no option 'step'"),
    ],
)
def test_wrong_wishes_are_named(numbers: Model, wrong: dict[str, object], message: str) -> None:
    with pytest.raises(PhinError, match=message):
        samples(numbers, **wrong)  # pyright: ignore[reportArgumentType]


def test_models_refuse_what_they_do_not_know(labelled: Model, points: Model, folder: Path) -> None:
    with pytest.raises(PhinError, match="takes no prompts"):
        samples(labelled, prompts=["1"])
    with pytest.raises(PhinError, match="no label 10"):
        samples(labelled, labels=[10])
    with pytest.raises(PhinError, match="takes no labels"):
        samples(points, labels=[1])
    reader = load(tiny.write(tiny.READER, folder / "reader.safetensors"))
    with pytest.raises(PhinError, match="does not draw"):
        samples(reader)


def test_what_was_never_trained_without_its_condition_is_not_asked_to_draw_so(folder: Path) -> None:
    facts, sampling = tiny.FACTS[tiny.LABELLED], replace(tiny.SAMPLE, guidance=1.0)

    def made(recipe: DiffusionRecipe | VAERecipe) -> Model:
        save_weights(path, recipe.model(facts).state_dict(), describe("tiny", recipe, facts))
        return load(path)

    path = folder / "told.safetensors"
    told = made(replace(tiny.LABELLED, drop=0.0, sample=sampling))
    assert len(samples(told, labels=[3])) == 1
    with pytest.raises(PhinError, match=r"cannot draw without one \(-1\): give labels, 0 to 9$"):
        samples(told, labels=[3, -1])
    for guidance in (0.0, 1.5):
        with pytest.raises(PhinError, match=f"guidance = {guidance:g}: .* which guidance needs: give 1$"):
            samples(told, labels=[3], guidance=guidance)
    with pytest.raises(PhinError, match=r"sample.guidance 2 needs .* at drop 0: give sample.guidance 1"):
        replace(tiny.LABELLED, drop=0.0).task(data.load("digits"))
    vae = VAERecipe(data="digits", likelihood="gaussian(0.1)", drop=0.0)
    with pytest.raises(PhinError, match=r"cannot draw without one"):
        samples(made(vae), labels=[-1])
    assert len(samples(made(replace(vae, drop=0.1)), labels=[-1])) == 1


@pytest.mark.parametrize("labels", [np.array([3, 7]), torch.tensor([3, 7]), (3, 7)])
def test_labels_may_be_an_array(labelled: Model, labels: Iterable[SupportsIndex]) -> None:
    found = samples(labelled, labels=labels, steps=1)
    assert same(found, samples(labelled, labels=[3, 7], steps=1))


def test_labels_and_prompts_of_a_wrong_kind_are_named(labelled: Model, numbers: Model) -> None:
    with pytest.raises(PhinError, match=r"label .*1\.5.* is no whole number"):
        samples(labelled, labels=torch.tensor([1.5]))
    with pytest.raises(PhinError, match="nothing to draw: give labels"):
        samples(labelled, labels=[])
    with pytest.raises(PhinError, match=r"prompts are a list of texts, not '40213'"):
        samples(numbers, prompts="40213")
