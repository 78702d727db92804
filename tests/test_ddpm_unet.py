"""DDPM's U-Net is the one that was published, and the recipe `cifar10-ddpm` trains it as the paper does."""

import json
import signal
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import kill_resume
import numpy as np
import pytest
import tiny
import torch
from diffusers.models.unets.unet_2d import UNet2DModel
from diffusers.schedulers.scheduling_ddpm import DDPMScheduler
from safetensors.torch import load_file, save_file
from torch import nn

import phin
from phin import tuning
from phin.cli import main
from phin.data import Images, Part
from phin.data.base import WHOLE
from phin.diffusion.denoiser import Denoiser
from phin.diffusion.guidance import clip
from phin.diffusion.noise import normal
from phin.diffusion.parameterization import eps
from phin.diffusion.schedules import Cosine, Discrete, Linear
from phin.diffusion.solvers import SOLVERS, sample
from phin.errors import PhinError
from phin.nets.ddpm_unet import DDPMUNet, DDPMUNetConfig, StepEmbedding
from phin.recipes import RECIPES, DiffusionRecipe, Facts, train
from phin.recipes.diffusion import CIFAR10_DDPM as PAPER
from phin.recipes.published import PICKLE, WEIGHTS
from phin.training.denoising import Denoising
from phin.training.ema import EMA
from phin.training.loop import Losses
from phin.training.optimizer import Optimizer

PUBLISHED: dict[str, Any] = {
    "_class_name": "UNet2DModel",
    "_diffusers_version": "0.0.4",
    "act_fn": "silu",
    "attention_head_dim": None,
    "block_out_channels": [128, 256, 256, 256],
    "center_input_sample": False,
    "down_block_types": ["DownBlock2D", "AttnDownBlock2D", "DownBlock2D", "DownBlock2D"],
    "downsample_padding": 0,
    "flip_sin_to_cos": False,
    "freq_shift": 1,
    "in_channels": 3,
    "layers_per_block": 2,
    "mid_block_scale_factor": 1,
    "norm_eps": 1e-06,
    "norm_num_groups": 32,
    "out_channels": 3,
    "sample_size": 32,
    "time_embedding_type": "positional",
    "up_block_types": ["UpBlock2D", "UpBlock2D", "AttnUpBlock2D", "UpBlock2D"],
}
"""The `config.json` of google/ddpm-cifar10-32."""
SMALL = {
    **PUBLISHED,
    "block_out_channels": [8, 12, 16],
    "down_block_types": ["AttnDownBlock2D", "DownBlock2D", "DownBlock2D"],
    "up_block_types": ["UpBlock2D", "UpBlock2D", "AttnUpBlock2D"],
    "in_channels": 1,
    "out_channels": 1,
    "layers_per_block": 1,
    "norm_num_groups": 4,
    "sample_size": [8, 12],
}
TINY = DDPMUNetConfig(channels=(8, 12), blocks=1, attention=(False, True), groups=4)
BRIEF = replace(
    PAPER,
    data="digits",
    net=TINY,
    train=replace(PAPER.train, steps=8, batch=6, trackers=(), precision="float32", ema_decay=0.9),
    sample=replace(PAPER.sample, steps=4),
)


def theirs(config: dict[str, Any]) -> UNet2DModel:
    """A network of the library, no weight of which is what it began with."""
    torch.manual_seed(0)
    net = UNet2DModel(**{name: value for name, value in config.items() if name[0] != "_"}).eval()
    for parameter in net.parameters():
        parameter.data += 0.3 * torch.randn_like(parameter) / max(1, parameter[0].numel()) ** 0.5
    return net


def save(net: UNet2DModel, config: dict[str, Any], folder: Path) -> Path:
    """As it would be published."""
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config))
    save_file(net.state_dict(), folder / WEIGHTS)
    return folder


def loaded(folder: Path) -> tuple[Denoiser, DiffusionRecipe, Facts]:
    model = phin.load(folder)
    assert isinstance(model.net, Denoiser)
    assert isinstance(model.recipe, DiffusionRecipe)
    return model.net, model.recipe, model.facts


@torch.no_grad()
def test_the_published_network_has_the_output_that_it_has_in_diffusers(tmp_path: Path) -> None:
    """The U-Net of google/ddpm-cifar10-32, of 35.7 million parameters, to 1e-5 at every kind of t."""
    net = theirs(PUBLISHED)
    model, recipe, facts = loaded(save(net, PUBLISHED, tmp_path / "ddpm-cifar10-32"))
    assert sum(p.numel() for p in model.parameters()) == 35_746_307
    assert recipe == replace(PAPER, net=DDPMUNetConfig(dropout=0.0))
    assert facts == Facts((3, 32, 32), 0, 0, (), True)
    t = torch.tensor([0, 1, 417, 999])
    z = torch.randn(4, 3, 32, 32)
    expected = net(z, t, return_dict=False)[0]
    assert expected.std() > 0.1
    torch.testing.assert_close(model.net(z, Discrete().table[t].float()), expected, rtol=0, atol=1e-5)


@torch.no_grad()
def test_what_diffusers_saves_is_read_by_either_of_its_names(tmp_path: Path) -> None:
    """Other sizes, side by side with `save_pretrained`; and the names that attention once had."""
    net = theirs(SMALL)
    net.save_pretrained(tmp_path / "new")
    older = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
    tensors = load_file(tmp_path / "new" / WEIGHTS)
    for new, old in older.items():
        tensors = {name.replace(f".{new}.", f".{old}."): tensor for name, tensor in tensors.items()}
    assert "mid_block.attentions.0.proj_attn.bias" in tensors
    folder = save(net, SMALL, tmp_path / "old")
    save_file(tensors, folder / WEIGHTS)
    z, t = torch.randn(3, 1, 8, 12), torch.tensor([3, 500, 998])
    expected = net(z, t, return_dict=False)[0]
    for source in ("new", "old"):
        model, recipe, facts = loaded(tmp_path / source)
        torch.testing.assert_close(model.net(z, Discrete().table[t].float()), expected, rtol=0, atol=1e-5)
        assert recipe.data == "folder:PATH"
        assert facts.shape == (1, 8, 12)


def test_a_published_model_is_sampled_and_exported_as_any_other(tmp_path: Path) -> None:
    folder = save(theirs(SMALL), SMALL, tmp_path / "small")
    pictures = phin.sample(phin.load(folder), n=2, steps=3)
    assert main(["export", str(folder), "--out", str(tmp_path / "own.safetensors")]) == 0
    own = phin.load(tmp_path / "own.safetensors")
    assert own.metadata["name"] == "own"
    for ours, again in zip(pictures, phin.sample(own, n=2, steps=3), strict=True):
        assert ours.shape == (8, 12)
        assert np.array_equal(ours, again)


def test_a_published_model_is_tuned_as_any_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is found stands beside its weights, which are no file of Phin's, and stay as they are."""
    monkeypatch.setitem(tuning.EXACT, "steps", 9)
    monkeypatch.setattr(tuning, "FIRST", 0.0)  # the levels stay where they are
    folder = save(theirs(SMALL), SMALL, tmp_path / "small")
    before = (folder / WEIGHTS).read_bytes()
    assert main(["tune", "--model", str(folder), "--steps", "3", "-n", "2"]) == 0
    model = phin.load(folder)
    (found,) = model.tuned
    assert found.sampling.steps == 3
    assert found.distance <= found.before
    drawn = phin.sample(model, n=2, steps=3)
    expected = phin.sample(model, n=2, steps=3, solver=found.sampling.solver, grid=found.sampling.grid)
    assert all(np.array_equal(a, b) for a, b in zip(drawn, expected, strict=True))
    assert (folder / WEIGHTS).read_bytes() == before


@torch.no_grad()
def test_a_walk_down_the_chain_is_that_of_diffusers() -> None:
    """DDPM's sampler with the larger variance and clipping, all 40 steps, with the same noise in each."""
    chain = Discrete(Linear(beta_min=0.04, beta_max=8.0), T=40)
    scheduler = DDPMScheduler(
        num_train_timesteps=40, beta_start=0.001, beta_end=0.2, variance_type="fixed_large"
    )
    net = theirs(SMALL)
    ours = DDPMUNet(DDPMUNetConfig((8, 12, 16), 1, (True, False, False), 4), 1, chain=chain).eval()
    ours.load_state_dict(
        {name.removeprefix("net."): t for name, t in phin.recipes.published.weights(net.state_dict()).items()}
    )
    start = torch.randn(2, 1, 8, 12)
    generator = torch.Generator().manual_seed(1)
    z = start
    for t in scheduler.timesteps:
        z = scheduler.step(net(z, t, return_dict=False)[0], int(t), z, generator, return_dict=False)[0]
    generator.manual_seed(1)
    walked = sample(
        clip(Denoiser(ours, eps).given()),
        SOLVERS["ddpm_large"](),
        chain.levels(40),
        start,
        lambda z: torch.randn(z.shape, generator=generator),
    )
    assert 0.01 < (walked.abs() < 1).float().mean() < 1  # there is something to clip, and something else
    torch.testing.assert_close(walked, z, rtol=0, atol=2e-4)


@pytest.mark.parametrize("chain", [Discrete(), Discrete(Cosine(), T=50), Discrete(Linear(), T=2)])
def test_time_is_a_whole_number_at_the_levels_of_the_chain(chain: Discrete) -> None:
    """In the precision in which a network is told of them, whatever its own."""
    for dtype in (torch.float32, torch.float64):
        step = StepEmbedding(chain, 8, 8).to(dtype).step(chain.table.to(dtype))
        assert torch.equal(step, torch.arange(chain.T, dtype=dtype))


def test_time_between_levels_is_linear_and_beyond_them_the_last() -> None:
    chain = Discrete(Cosine(), T=50)
    embedding = StepEmbedding(chain, 8, 8).double()
    above, below = chain.table[:-1], chain.table[1:]
    for share in (0.25, 0.5, 0.9):
        step = embedding.step(above + share * (below - above))
        torch.testing.assert_close(step, torch.arange(49) + torch.tensor(share).double(), rtol=0, atol=1e-4)
    ends = chain.table[[0, -1]]
    assert embedding.step(ends + torch.tensor([30.0, -30.0])).tolist() == [0, 49]


def test_the_waves_of_time_are_the_paper_s() -> None:
    """Of t = 0 .. T - 1, sin before cos, with frequencies from 1 to 1 / 10000, both ends included."""
    embedding = StepEmbedding(Discrete(), 6, 4)
    embedding.mlp = nn.Sequential()
    t = torch.tensor([0, 7, 999])
    angle = t[:, None].double() * torch.tensor([1, 0.01, 0.0001], dtype=torch.float64)
    told = embedding(Discrete().table[t].float()).double()
    torch.testing.assert_close(told, torch.cat([angle.sin(), angle.cos()], 1), rtol=0, atol=1e-4)


def test_the_network_begins_as_the_paper_s() -> None:
    """Silent, in every branch; the other weights uniform of variance 2 / (fan in + fan out)."""
    net = DDPMUNet(DDPMUNetConfig((32, 64), 1, (False, True), 8), 3)
    assert not net(torch.randn(2, 3, 8, 8), torch.zeros(2)).any()
    for name, parameter in net.named_parameters():
        kind, last = name.split(".")[-2:]
        if last == "bias" or kind in ("second", "out") or name == "head.2.weight":
            assert not parameter.any(), name
        elif parameter.ndim == 1:
            assert (parameter == 1).all(), name
        elif parameter.numel() > 1000:
            outputs, inputs, field = *parameter.shape[:2], parameter[0, 0].numel()
            bound = (6 / ((inputs + outputs) * field)) ** 0.5
            assert 0.99 * bound < parameter.abs().max() <= bound, name
            assert parameter.std().item() == pytest.approx(bound / 3**0.5, rel=0.05), name


def test_every_parameter_learns_and_dropout_acts_in_training_only() -> None:
    net = DDPMUNet(replace(TINY, dropout=0.5), 2, 3)
    tiny.randomise(net)
    z, log_snr = torch.randn(2, 2, 8, 4), torch.tensor([-3.0, 5.0])
    output = net(z, log_snr)
    assert output.shape == (2, 3, 8, 4)
    output.square().mean().backward()
    for name, parameter in net.named_parameters():
        assert parameter.grad is not None, name
        assert 0 < parameter.grad.abs().max() < torch.inf, name
    assert not torch.equal(net(z, log_snr), output)
    net.eval()
    assert torch.equal(net(z, log_snr), net(z, log_snr))


def test_bfloat16_autocast_is_close_to_float32() -> None:
    net = DDPMUNet(TINY, 2).eval()
    tiny.randomise(net)
    z, log_snr = torch.randn(4, 2, 8, 8), torch.tensor([-10.0, -1.0, 1.0, 9.0])
    exact = net(z, log_snr)
    with torch.autocast("cpu", torch.bfloat16):
        output = net(z, log_snr)
    assert output.dtype == torch.float32
    assert (output - exact).norm() < 0.05 * exact.norm()


def test_the_recipe_is_the_paper_s() -> None:
    """Appendix B of the paper, and its code: warm-up over 5,000 steps, then the same rate for ever."""
    chain, settings = Discrete(), PAPER.train
    assert (PAPER.density, PAPER.parameterization, PAPER.weight) == ("discrete(linear)", "eps", "simple")
    torch.testing.assert_close(chain.betas, torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64))
    assert RECIPES["cifar10-ddpm"] is PAPER
    assert (PAPER.flip, PAPER.drop, PAPER.net) == (True, 1.0, DDPMUNetConfig())
    assert asdict(DDPMUNetConfig())["dropout"] == 0.1
    assert (settings.steps, settings.batch, settings.clip, settings.ema_decay) == (800_000, 128, 1.0, 0.9999)
    for step in (0, 10, 4999, 5000, 400_000, 799_999):
        expected = 2e-4 * min(1, (step + 0.5) / 5000)
        assert settings.learning_rate((step + 0.5) / 800_000) == pytest.approx(expected)


def pictures(n: int = 8) -> Images:
    """Of CIFAR-10's kind."""
    part = Part(torch.randint(0, 256, (n, 3, 32, 32), dtype=torch.uint8), torch.arange(n) % 10)
    return Images("pictures", {"train": part, "valid": part, "test": part}, tiny.DIGITS)


def test_a_step_of_the_whole_recipe_is_a_step_of_adam() -> None:
    """The loss of a network that says nothing is the size of the noise; Adam's first step is the rate."""
    recipe = replace(PAPER, train=replace(PAPER.train, batch=2))
    torch.manual_seed(0)
    task = recipe.task(pictures())
    settings, head = recipe.train, task.model.get_submodule("net.head")
    losses = task(0, WHOLE)
    noise = normal(0, "noise", range(2), (3, 32, 32))
    torch.testing.assert_close(losses.loss, noise.square().mean((1, 2, 3)))

    optimizer = Optimizer(task.model, settings.betas, settings.weight_decay, settings.muon)
    ema = EMA(task.model, settings.ema, settings.ema_decay)
    losses.loss.mean().backward()
    before = {name: p.detach().clone() for name, p in head.named_parameters()}
    optimizer.step(lr := 2e-4)
    ema.update(1)
    for name, p in head.named_parameters():
        if name.startswith("2."):  # the last convolution; while it is silent nothing else can learn
            assert p.grad is not None
            moved = lr * p.grad / (p.grad.abs() + 1e-8)
            torch.testing.assert_close(p, before[name] - moved, rtol=0, atol=1e-8)
            assert 0.99 * lr < moved.abs().max() <= lr
            mean = ema.model.get_parameter(f"net.head.{name}")
            torch.testing.assert_close(mean, before[name] - 1e-4 * moved, rtol=1e-3, atol=1e-12)
        else:
            assert torch.equal(p, before[name])


class Stopped(Denoising):
    """It is interrupted in its fourth step."""

    def forward(self, step: int, rows: slice) -> Losses:
        if step == 3:
            signal.raise_signal(signal.SIGINT)
        return super().forward(step, rows)


def test_a_run_that_is_interrupted_ends_as_the_uninterrupted_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With its dropout, flips and average; weights and the log are the same to the last bit."""
    train(BRIEF, tmp_path / "alone")
    with monkeypatch.context() as patch:
        patch.setattr("phin.training.denoising.Denoising", Stopped)
        with pytest.raises(KeyboardInterrupt):
            train(BRIEF, tmp_path / "stopped")
    assert kill_resume.logged(tmp_path / "stopped") == 4
    train(BRIEF, tmp_path / "stopped")
    assert kill_resume.difference(tmp_path / "alone", tmp_path / "stopped") is None


def test_it_trains_from_the_command_line_and_any_solver_samples_it(tmp_path: Path) -> None:
    """On its own levels or on others, in few steps."""
    run = tmp_path / "run"
    options = "--data digits --steps 1 --batch 4 --net.channels 8 8 --net.attention False True --net.groups 4"
    assert main(f"train cifar10-ddpm {options} --out {run}".split()) == 0
    model = phin.load(run)
    assert model.recipe == replace(
        PAPER,
        data="digits",
        net=DDPMUNetConfig(channels=(8, 8), attention=(False, True), groups=4),
        train=replace(PAPER.train, steps=1, batch=4),
    )
    tiny.randomise(model.net)
    for choices in (
        {"steps": 5},
        {"steps": 4, "solver": "ddim"},
        {"steps": 6, "solver": "dpmpp_2m", "grid": "karras"},
        {"steps": 3, "solver": "heun", "grid": "cosine"},
    ):
        drawn = phin.models.samples(model, n=2, seed=3, **choices)
        again = phin.models.samples(model, n=1, seed=3, **choices)
        assert drawn[0].isfinite().all()
        torch.testing.assert_close(drawn[0], again[0])


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"channels": ()}, r"channels = \(\): each resolution needs at least 4"),
        ({"channels": (8, 2)}, r"channels = \(8, 2\): each resolution needs at least 4"),
        ({"channels": (8, 14)}, "channels 14 are not even, or not a multiple of groups 4"),
        ({"groups": 0}, "groups = 0: at least 1"),
        ({"blocks": 0}, "blocks = 0: at least 1"),
        ({"attention": (True,)}, "1 entries for 2 resolutions"),
        ({"dropout": 1.0}, "not 1.0"),
    ],
)
def test_a_configuration_that_makes_no_network_is_refused(wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(PhinError, match=message):
        replace(TINY, **wrong)


@pytest.mark.parametrize(
    ("changed", "facts", "message"),
    [
        ({}, Facts((1, 28, 27), 0, 0, (), True), r"side 27 of \(28, 27\) is not a multiple of 2"),
        ({}, Facts((2,), 0, 0, (), False), "is for pictures, not for 0 dimensions"),
        ({}, Facts((1, 8, 8, 8), 0, 0, (), True), "not for 3 dimensions"),
        ({"drop": 0.1}, Facts((1, 8, 8), 10, 0, tiny.DIGITS, False), "digits has one: give drop 1"),
        ({"density": "discrete(linear, T=1)"}, Facts((1, 8, 8), 0, 0, (), True), "a chain of 1 step"),
    ],
)
def test_data_of_which_it_makes_no_model_are_refused(
    changed: dict[str, Any], facts: Facts, message: str
) -> None:
    with pytest.raises(PhinError, match=message):
        replace(BRIEF, **changed).model(facts)


def test_time_is_that_of_the_chain_it_is_trained_on() -> None:
    facts = Facts((1, 8, 8), 0, 0, (), True)
    for density, T in (("discrete(cosine, T=30)", 30), ("discrete(linear)", 1000), ("cosine", 1000)):
        net = replace(BRIEF, density=density).model(facts).net
        assert isinstance(net, DDPMUNet)
        assert len(net.time.levels) == T
    assert torch.equal(net.time.levels, Discrete().table.float())


@pytest.mark.parametrize(
    ("said", "message"),
    [
        ({"flip_sin_to_cos": True}, "not DDPM's: its flip_sin_to_cos is True and not False"),
        ({"freq_shift": 0}, "freq_shift is 0 and not 1"),
        ({"downsample_padding": 1}, "downsample_padding is 1 and not 0"),
        ({"norm_eps": 1e-5}, "norm_eps is 1e-05 and not 1e-06"),
        ({"attention_head_dim": 8}, "attention_head_dim is 8 and not None"),
        ({"resnet_time_scale_shift": "scale_shift"}, "resnet_time_scale_shift is 'scale_shift'"),
        ({"num_class_embeds": 10}, "num_class_embeds is 10"),
        ({"out_channels": 2}, "out_channels is 2 and not 1"),
        ({"up_block_types": ["UpBlock2D"] * 3}, "its up_block_types is"),
        ({"down_block_types": ["SkipDownBlock2D"] * 3}, "its down_block_types is"),
        ({"_class_name": "UNet2DConditionModel"}, "_class_name is 'UNet2DConditionModel'"),
        ({"block_out_channels": 8}, "is not understood"),
        ({"sample_size": None}, "is not understood"),
        ({"block_out_channels": [8, 12, 20]}, "holds another model: its .* has shape"),
        ({"layers_per_block": 2}, "holds another model: it has no"),
    ],
)
def test_networks_that_are_not_ddpm_s_are_refused(said: dict[str, Any], message: str, tmp_path: Path) -> None:
    """Although most of these have the same weights."""
    folder = save(theirs(SMALL), {**SMALL, **said}, tmp_path)
    with pytest.raises(PhinError, match=message):
        phin.load(folder)


def test_what_a_configuration_does_not_say_is_what_the_library_takes(tmp_path: Path) -> None:
    """Its defaults are not DDPM's: a folder that keeps silent of them holds another network."""
    for name in ("attention_head_dim", "downsample_padding", "flip_sin_to_cos", "freq_shift", "norm_eps"):
        folder = save(theirs(SMALL), {key: value for key, value in SMALL.items() if key != name}, tmp_path)
        with pytest.raises(PhinError, match=f"its {name} is"):
            phin.load(folder)


def damaged(damage: Callable[[Path], object], folder: Path) -> Path:
    damage(save(theirs(SMALL), SMALL, folder))
    return folder


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda folder: (folder / "config.json").unlink(), "config.json beside it cannot be read"),
        (lambda folder: (folder / "config.json").write_text("{"), "cannot be read"),
        (lambda folder: (folder / "config.json").write_text("[1]"), "config.json is not understood"),
        (lambda folder: (folder / WEIGHTS).write_bytes(b"cut"), "cannot be read"),
        (lambda folder: (folder / WEIGHTS).rename(folder / PICKLE), "is a pickle, .* get diffusion_pytorch"),
    ],
)
def test_a_damaged_folder_is_one_clear_line(
    damage: Callable[[Path], object], message: str, tmp_path: Path
) -> None:
    with pytest.raises(PhinError, match=message):
        phin.load(damaged(damage, tmp_path / "folder"))
