"""What is done on a GPU, without one: all is on the same device, and what is for speed decides rightly."""

import copy
import importlib
import signal
import sys
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
from pretend import GPU, moved, pretending
from torch import Tensor, nn

import phin
from phin import data as datasets
from phin import edits, evaluation, models, tuning
from phin.data.base import Images, Part, Which
from phin.errors import PhinError
from phin.nets import device as devices
from phin.nets.unet import UNet
from phin.nll import nll
from phin.pictures import png, to_bytes
from phin.recipes import RECIPES, DiffusionRecipe, Recipe, describe
from phin.recipes.latent import encoded
from phin.training import compiling
from phin.training.ahead import Ahead
from phin.training.checkpoint import read_weights, save_weights
from phin.training.compiling import TRIAL, WORTH, Compiling

STEPS = slice(None)


@pytest.fixture(scope="module")
def mnist() -> Images:
    """What takes the place of MNIST and the like."""
    starts: dict[Which, int] = {"train": 10, "valid": 80, "test": 160}
    splits: dict[Which, Part] = {which: tiny.writing(start, 60) for which, start in starts.items()}
    return Images("mnist", splits, tiny.DIGITS)


@pytest.fixture(autouse=True)
def placed(mnist: Images, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    entry = replace(datasets.DATA["mnist"], load=lambda: mnist, files=None)
    monkeypatch.setitem(datasets.DATA, "mnist", entry)
    monkeypatch.setattr("phin.nets.precision.bf16_is_fast", lambda device: False)
    latent, encoder = RECIPES["mnist-latent"], model_of("mnist-autoencoder", tmp_path).path
    assert isinstance(latent, DiffusionRecipe)
    monkeypatch.setitem(RECIPES, "mnist-latent", replace(latent, autoencoder=str(encoder)))


def small(recipe: Recipe) -> Recipe:
    """A recipe with a network of few channels, of `mnist`."""
    made: dict[str, Any] = {"blocks": 1, "heads": 2, "width": 8, "depth": 1}
    net = recipe.net  # pyright: ignore[reportAttributeAccessIssue]
    known: dict[str, Any] = {name: value for name, value in made.items() if hasattr(net, name)}
    if hasattr(net, "channels"):
        known["channels"] = tuple(8 * 2**i for i in range(len(net.channels)))
    if isinstance(getattr(net, "blocks", None), tuple):
        known["blocks"] = tuple(1 for _ in net.blocks)
    return replace(recipe, net=replace(net, **known), train=tiny.BRIEF)


TRAINED = (
    "mnist",
    "mnist-improved-ddpm",
    "mnist-dequantized",
    "mnist-vdm",
    "mnist-inpaint",
    "mnist-vae",
    "mnist-hvae",
    "mnist-hvae-ladder",
    "mnist-gan",
    "mnist-autoencoder",
    "mnist-latent",
    "mnist-classifier",
    "mnist-noisy-classifier",
    "swiss-roll",
)


@pytest.mark.filterwarnings("ignore:a Frechet distance")  # of 60 pictures
@pytest.mark.parametrize("name", TRAINED)
def test_a_step_on_a_gpu_is_a_step(name: str) -> None:
    """Its losses, its gradients, what is held out and the picture are those of the CPU, to the last digit."""
    recipe = small(RECIPES[name])
    here, there = (seeded(lambda: recipe.task(recipe.load())) for _ in range(2))
    seeded(lambda: tiny.randomise(here.model))
    seeded(lambda: tiny.randomise(there.model))

    def step(task: Any) -> tuple[Tensor, list[Tensor], dict[str, float], Any]:
        loss = task(0, STEPS).loss
        loss.mean().backward()
        gradients = [p.grad.cpu() for p in task.model.parameters() if p.grad is not None]
        with torch.no_grad():
            product = task.product.eval()
            return loss.detach().cpu(), gradients, task.validate(product), task.picture(product)

    loss, gradients, held_out, picture = seeded(lambda: step(here))
    with pretending():
        moved(there)
        assert there.device == GPU
        found = seeded(lambda: step(there))
    torch.testing.assert_close(torch.as_tensor(found[0].tolist()), torch.as_tensor(loss.tolist()))
    for mine, theirs in zip(found[1], gradients, strict=True):
        torch.testing.assert_close(mine, theirs)
    assert found[2] == pytest.approx(held_out)
    assert (found[3] is None) == (picture is None)
    if picture is not None:
        assert (abs(found[3].astype(int) - picture) <= 1).all()


def seeded(make: Callable[[], Any]) -> Any:
    torch.manual_seed(0)
    return make()


def model_of(name: str, folder: Path) -> models.Model:
    """A model of random weights, from a file."""
    recipe = small(RECIPES[name])
    facts = recipe.facts(recipe.load())
    net = seeded(lambda: recipe.model(facts))
    seeded(lambda: tiny.randomise(net))
    path = folder / f"{name}.safetensors"
    save_weights(path, net.state_dict(), describe(name, recipe, facts))
    return phin.load(path)


def numbers_of(found: Any) -> list[float]:
    """All numbers in something, but for times."""
    if isinstance(found, dict):
        return [x for name, part in found.items() if "second" not in name for x in numbers_of(part)]
    if isinstance(found, list | tuple):
        return [x for part in found for x in numbers_of(part)]
    return [float(found)] if isinstance(found, int | float) else []


Use = Callable[[models.Model], Any]
PLAN = evaluation.PicturePlan(n=60, kept=30, compared=20)


def edited(model: models.Model) -> list[Tensor]:
    """What each kind of edit makes of two pictures."""
    x, folder = datasets.load("mnist").split("test", 2).x, model.path.parent
    paths = [folder / f"{k}.png" for k in range(2)]
    for picture, path in zip(x, paths, strict=True):
        path.write_bytes(png(to_bytes(picture)))
    editor = edits.Editor(model, paths, labels=[3, 5], steps=3, threshold="none", guidance=1.5)
    known = torch.arange(28 * 28).view(28, 28) % 3 > 0
    return [
        editor.vary(0.5, 2),
        editor.inpaint(known, 2, 1, 2),
        editor.mix(3, 0.5),
        editor.slerp(3, None),
        editor.slerp(2, 10.0),
    ]


def guided(model: models.Model) -> list[Tensor]:
    """Samples that a classifier guides to."""
    classifier = model_of("mnist-noisy-classifier", model.path.parent)
    if next(model.net.parameters()).device == GPU:
        moved(classifier.net)
    return models.samples(model, labels=[3, 4], steps=3, guide=models.guide(model, classifier, 2.0))


def drawn(**choices: Any) -> Use:
    return lambda model: models.samples(model, labels=[3, 4], **choices)


def likelihood(**choices: Any) -> Use:
    return lambda model: numbers_of(nll(model, **{"n": 3, **choices}))


USES: dict[str, tuple[str, Use]] = {
    "samples": ("mnist", drawn(steps=3)),
    "dynamic threshold": ("mnist", drawn(steps=3, threshold="dynamic")),
    **{
        solver: ("mnist", drawn(steps=4, solver=solver))
        for solver in (
            "ddpm",
            "heun",
            "unipc_3",
            "deis",
            "dpmpp_3m",
            "dpmpp_2m_sde",
            "pc",
            "churn",
            "annealed_langevin",
        )
    },
    "guided": ("mnist", guided),
    "edits": ("mnist", edited),
    "tuned": (
        "mnist",
        lambda model: [
            one.distance for one in tuning.tune(model, (2,), 2, families=[["unipc_2"]], guidance=1.5)
        ],
    ),
    "evaluation": ("mnist", lambda model: numbers_of(evaluation.evaluate(model, plan=PLAN)["measures"])),
    "classifier": ("mnist-classifier", lambda model: numbers_of(evaluation.evaluate(model))),
    "noisy classifier": ("mnist-noisy-classifier", lambda model: numbers_of(evaluation.evaluate(model))),
    "chain": ("mnist-improved-ddpm", likelihood(method="chain", times=2)),
    "discrete": ("mnist-vdm", likelihood(method="discrete", steps=10)),
    "continuous": ("mnist-vdm", likelihood(method="continuous")),
    "ode": ("mnist-dequantized", likelihood(method="ode", rtol=10.0, n=1)),
    "elbo": ("mnist-vae", likelihood(method="elbo")),
    "iwae": ("mnist-hvae", likelihood(method="iwae")),
    "latents": ("mnist-latent", drawn(steps=3)),
    "VAE": ("mnist-vae", drawn()),
    "HVAE": ("mnist-hvae-ladder", drawn()),
    "GAN": ("mnist-gan", drawn()),
}


@pytest.mark.filterwarnings("ignore:a Frechet distance")
@pytest.mark.parametrize("title", USES)
def test_models_are_used_on_a_gpu_as_on_the_cpu(
    title: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What they draw, say and measure is the same, and comes back to the CPU."""
    monkeypatch.setitem(tuning.EXACT, "steps", 5)
    monkeypatch.setattr("phin.metrics.summary.fewest", lambda dims: 2)
    name, use = USES[title]
    model = model_of(name, tmp_path)
    there = replace(model, net=copy.deepcopy(model.net))
    expected = use(model)
    with pretending():
        moved(there.net)
        found = use(there)
    assert len(found) == len(expected) > 0
    for mine, theirs in zip(found, expected, strict=True):
        if isinstance(mine, Tensor):
            assert type(mine) is Tensor
            torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-4)
        else:
            assert mine == pytest.approx(theirs, rel=1e-4, abs=1e-4, nan_ok=True)


def test_a_pretended_gpu_refuses_what_a_gpu_would() -> None:
    """Or else these tests would see nothing."""
    with pretending():
        x, y = torch.ones(3, device=GPU), torch.ones(3)
        assert ((x + y.to(GPU)).device, (x * torch.tensor(2.0)).device) == (GPU, GPU)
        assert (x.cpu() + y).tolist() == [2, 2, 2]
        with pytest.raises(RuntimeError, match="on the GPU and on the CPU"):
            _ = x + y
        with pytest.raises(RuntimeError, match="on the GPU and on the CPU"):
            nn.Linear(3, 1)(x)


@pytest.mark.filterwarnings("ignore:a Frechet distance")
@pytest.mark.parametrize("name", ["mnist", "mnist-gan"])
def test_a_run_on_a_gpu_is_the_run(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """From the first batch, made ahead, over an interruption, to the files: bit for bit."""
    recipe = small(RECIPES[name])
    recipe = replace(recipe, train=replace(recipe.train, steps=4, validate_every=0.5, picture_every=0.5))
    phin.train(recipe, tmp_path / "cpu")
    to = nn.Module.to
    monkeypatch.setattr(
        nn.Module, "to", lambda self, *a, **k: moved(self) or self if a[:1] == (GPU,) else to(self, *a, **k)
    )
    monkeypatch.setattr("accelerate.Accelerator.device", GPU)
    fused = "_get_fused_kernels_supported_devices"  # by AdamW, which asks for each parameter's device
    for module in ("adamw", "adam", "optimizer"):
        monkeypatch.setattr(
            sys.modules[f"torch.optim.{module}"], fused, lambda: ["cpu", GPU.type], raising=False
        )
    with pretending():
        task = recipe.task(recipe.load())
        step = type(task).forward

        def interrupted(self: Any, number: int, rows: slice) -> Any:
            if number == 2:
                signal.raise_signal(signal.SIGINT)
            return step(self, number, rows)

        with monkeypatch.context() as patch:
            patch.setattr(type(task), "forward", interrupted)
            with pytest.raises(KeyboardInterrupt):
                phin.train(recipe, tmp_path / "gpu")
        done = phin.train(recipe, tmp_path / "gpu")
    assert done.step == 4
    for file in ("best", "last"):
        mine, theirs = (read_weights(tmp_path / run / f"{file}.safetensors")[0] for run in ("gpu", "cpu"))
        assert mine.keys() == theirs.keys()
        different = [
            key for key in mine if not key.startswith("meter.") and not torch.equal(mine[key], theirs[key])
        ]
        assert not different


# Which device


def test_models_go_to_the_accelerator_that_there_is(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("ACCELERATE_USE_CPU", "LOCAL_RANK"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: False)
    assert devices.preferred() == torch.device("cpu")
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: True)
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda: torch.device("cuda"))
    monkeypatch.setattr(torch.accelerator, "device_count", lambda: 4)
    assert devices.preferred() == torch.device("cuda", 0)
    monkeypatch.setenv("LOCAL_RANK", "6")  # the third of the second machine
    assert devices.preferred() == torch.device("cuda", 2)
    monkeypatch.setenv("ACCELERATE_USE_CPU", "true")
    assert devices.preferred() == torch.device("cpu")


# Batches ahead


def test_the_next_batch_is_made_before_it_is_asked_for() -> None:
    made, begun = list[int](), threading.Event()

    def make(step: int, rows: slice) -> tuple[Tensor, dict[str, int]]:
        made.append(step)
        if step == 1:
            begun.set()
        return torch.arange(10)[rows] + step, {"step": step}

    ahead, rows = Ahead(make), slice(0, None, 2)
    assert ahead(0, rows)[0].tolist() == [0, 2, 4, 6, 8]
    assert begun.wait(10)  # nobody has asked for step 1
    for step, part in ((1, rows), (5, rows), (6, slice(1, 3)), (6, slice(1, 3)), (0, rows)):
        x, facts = ahead(step, part)
        assert (x.tolist(), facts["step"]) == ((torch.arange(10)[part] + step).tolist(), step)
    ahead.thread.shutdown()
    assert made[:3] == [0, 1, 2]
    assert made.count(1) == 2  # once for step 1, and once behind step 0


def test_what_goes_wrong_ahead_is_raised_when_it_is_asked_for() -> None:
    def make(step: int, rows: slice) -> Tensor:
        if step == 2:
            raise PhinError("no step 2")
        return torch.tensor(step)

    ahead = Ahead(make)
    assert [int(ahead(step, STEPS)) for step in (0, 1)] == [0, 1]
    with pytest.raises(PhinError, match="no step 2"):
        ahead(2, STEPS)
    assert int(ahead(3, STEPS)) == 3


# Compiled networks


class Clock:
    """Tells a time that goes on by so much a step."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


class Net(nn.Module):
    """Notes how it is compiled."""

    modes: list[str]

    def __init__(self) -> None:
        super().__init__()
        self.modes = []

    def compile(self, **choices: Any) -> None:
        assert choices.pop("dynamic") is False
        self.modes.append(choices["mode"])
        vars(self)["_compiled_call_impl"] = lambda: None

    @property
    def compiled(self) -> bool:
        return "_compiled_call_impl" in vars(self)


@pytest.mark.parametrize(
    ("compiled", "left", "kept", "said"),
    [
        (0.5, 9999.0, True, "the network is compiled: compiled, it is 2.00 times as fast, after 90 s"),
        (1.25, 9999.0, False, "the network stays as it is: compiled, it is 0.80 times as fast, after 90 s"),
        (0.5, WORTH - 1, False, "the network stays as it is: 299 s are too few for compiling it"),
    ],
)
def test_on_a_gpu_what_is_faster_is_kept(
    monkeypatch: pytest.MonkeyPatch, compiled: float, left: float, kept: bool, said: str
) -> None:
    """A step takes 1 s; compiling takes 90 s more, in the first 25 compiled steps, for several shapes."""
    marked, heard, clock, net = list[float](), list[str](), Clock(), Net()
    monkeypatch.setattr(compiling, "lacking", lambda device: None)
    monkeypatch.setattr(torch.compiler, "cudagraph_mark_step_begin", lambda: marked.append(clock.now))
    with Compiling([net], "auto", torch.device("cuda"), heard.append, clock) as tried:
        slow = 25
        for _ in range(4 * TRIAL):
            tried.step(left)
            clock.now += compiled if net.compiled else 1.0
            if net.compiled and slow:
                clock.now += 90 / 25
                slow -= 1
        assert net.compiled == kept
        assert heard == [said]
        assert net.modes == (["reduce-overhead"] if left > WORTH else [])
        assert bool(marked) == (left > WORTH)
    assert not net.compiled  # what a training leaves is plain


def test_compiling_is_refused_where_it_cannot_be(monkeypatch: pytest.MonkeyPatch) -> None:
    cpu, net = torch.device("cpu"), Net()
    with Compiling([net], "auto", cpu, pytest.fail) as tried:
        for _ in range(3 * TRIAL):
            tried.step(9999.0)
    assert net.modes == []
    heard: list[str] = []
    with Compiling([net], "yes", cpu, heard.append):
        assert (net.modes, len(heard)) == (["default"], 1)
    assert not net.compiled
    with pytest.raises(PhinError, match="this kind of model is not compiled in training; give auto or no"):
        Compiling([], "yes", cpu, pytest.fail)
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(PhinError, match=r"compile = yes needs a C\+\+ compiler \(no-such-compiler"):
        Compiling([net], "yes", cpu, pytest.fail)
    monkeypatch.delenv("CXX")
    monkeypatch.setattr(compiling.shutil, "which", lambda name: None if name == "g++" else name)
    monkeypatch.setattr(compiling.sys, "platform", "linux")
    with pytest.raises(PhinError, match=r"a C\+\+ compiler \(g\+\+, by"):  # torch takes no clang++ here
        Compiling([net], "yes", cpu, pytest.fail)
    monkeypatch.setenv("CXX", "clang++")
    with Compiling([net], "yes", cpu, heard.append):
        assert len(heard) == 2
    monkeypatch.setattr(compiling.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(PhinError, match="compile = yes needs Triton"):
        Compiling([net], "yes", torch.device("cuda"), pytest.fail)


class Doubled(nn.Module):
    """A network of our own, for torch's are not compiled by themselves."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.sin(2 * x)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of torch's own imports
def test_what_cannot_be_compiled_stays_plain_unless_it_was_to_be_compiled(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The compiler fails, as it will on some machine: `auto` goes on, and `yes` does not."""
    backend = importlib.import_module("torch._inductor.compile_fx")
    asked: list[nn.Module] = []

    def fail(graph: nn.Module, *_: Any, **__: Any) -> None:
        asked.append(graph)
        raise RuntimeError("no such kernel")

    monkeypatch.setattr(backend, "compile_fx", fail)
    monkeypatch.setattr(compiling, "lacking", lambda device: None)
    net, x = Doubled(), torch.ones(1, 3)
    expected = net(x)
    cpu = torch.device("cpu")
    with Compiling([net], "auto", cpu, pytest.fail) as tried:
        tried.trying = True
        tried.compile()
        torch.testing.assert_close(net(x), expected)
        assert len(asked) == 1
    assert not importlib.import_module("torch._dynamo.config").suppress_errors
    torch.compiler.reset()
    with Compiling([net], "yes", cpu, lambda text: None), pytest.raises(Exception, match="no such kernel"):
        net(x)
    torch.testing.assert_close(net(x), expected)


def test_a_training_compiles_its_network_if_that_is_wanted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    compiled: list[tuple[nn.Module, str]] = []
    monkeypatch.setattr(
        UNet, "compile", lambda self, mode, dynamic: compiled.append((self, mode)), raising=False
    )
    monkeypatch.setattr(compiling, "lacking", lambda device: None)
    recipe = small(RECIPES["mnist"])
    for choice, times in (("auto", 0), ("no", 0), ("yes", 1)):
        compiled.clear()
        phin.train(replace(recipe, train=replace(recipe.train, compile=choice)), tmp_path / choice)
        assert [mode for _, mode in compiled] == ["default"] * times
    assert isinstance(compiled[0][0], UNet)
    gan = small(RECIPES["mnist-gan"])
    gan = replace(gan, train=replace(gan.train, compile="yes"))
    with pytest.raises(PhinError, match="this kind of model is not compiled in training"):
        phin.train(gan, tmp_path / "gan")


def test_a_refused_compilation_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", "no-such-compiler")
    recipe = small(RECIPES["mnist"])
    recipe = replace(recipe, train=replace(recipe.train, compile="yes"))
    with pytest.raises(PhinError, match="no-such-compiler"):
        phin.train(recipe, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_an_autoencoder_that_was_loaded_to_a_gpu_encodes_there(
    mnist: Images, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What it is fitted to, what is noted of it and what it encodes are those of the CPU."""
    source = RECIPES["mnist-latent"].autoencoder  # pyright: ignore[reportAttributeAccessIssue]
    here = encoded(mnist, source)

    def load(path: str) -> models.Model:
        model = phin.load(path)
        moved(model.net)
        return model

    with pretending():
        monkeypatch.setattr("phin.recipes.trained.load", load)
        there = encoded(mnist, source)
        assert there.encoder.shift.device == there.encoder.scale.device == GPU  # pyright: ignore
        found = there.split("valid", 5).x
    assert there.encoder.facts == here.encoder.facts  # pyright: ignore[reportAttributeAccessIssue]
    torch.testing.assert_close(torch.as_tensor(found.tolist()), here.split("valid", 5).x)
