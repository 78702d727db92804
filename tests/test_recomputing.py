"""Blocks that are computed again: the same training in less memory."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from phin.cli import main
from phin.families.latent import KLConfig
from phin.nets.ddpm_unet import DDPMUNet, DDPMUNetConfig
from phin.nets.unet import UNet, UNetConfig
from phin.recipes import KLAutoencoderRecipe, Recipe, train
from phin.training.checkpoint import read_weights
from phin.training.recomputing import blocks, recomputing

STEPS = replace(tiny.BRIEF, steps=4)
RECIPES: dict[str, Recipe] = {
    "pictures": replace(tiny.LABELLED, train=STEPS, net=replace(tiny.LABELLED.net, dropout=0.3)),
    "sequences": replace(
        tiny.LABELLED, data="sines", train=STEPS, sample=replace(tiny.SAMPLE, guidance=1.0, threshold="none")
    ),
    "ddpm": replace(
        tiny.LABELLED,
        train=STEPS,
        drop=1.0,
        density="discrete(linear)",
        net=DDPMUNetConfig(channels=(8, 16), blocks=1, attention=(False, True), groups=4, dropout=0.3),
    ),
    "noisy classifier": replace(tiny.NOISY, train=STEPS),
    "autoencoder": KLAutoencoderRecipe(data="digits", net=KLConfig(channels=(8, 16), patch=1), train=STEPS),
}
NETS: dict[str, nn.Module] = {
    "unet": UNet(UNetConfig(channels=(16, 32), heads=2, dropout=0.2), in_channels=1),
    "ddpm": DDPMUNet(DDPMUNetConfig(channels=(8, 16), blocks=2, attention=(False, True), groups=4), 1),
}


@pytest.mark.parametrize("name", RECIPES)
def test_a_training_ends_with_the_same_weights(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe, found, again = RECIPES[name], list[dict[str, Tensor]](), list[object]()

    def counted(*args: Any, **kwargs: Any) -> Any:
        again.append(args[0])
        return checkpoint(*args, **kwargs)

    monkeypatch.setattr("phin.training.recomputing.checkpoint", counted)
    for recompute in (False, True):
        trained = replace(recipe, train=replace(recipe.train, recompute=recompute))
        run = train(trained, tmp_path / str(recompute))
        found.append(read_weights(run.last)[0])
        assert bool(again) == recompute
    assert found[0].keys() == found[1].keys()
    assert all(torch.equal(found[0][key], found[1][key]) for key in found[0])


def held(net: nn.Module) -> int:
    """Numbers that the backward pass of a network is given by the forward one, its weights aside."""
    kept: dict[int, int] = {}
    own = {p.untyped_storage().data_ptr() for p in net.parameters()}

    def pack(x: Tensor) -> Tensor:
        place = x.untyped_storage()
        if place.data_ptr() not in own:
            kept[place.data_ptr()] = place.nbytes()
        return x

    torch.manual_seed(0)
    z = torch.randn(8, 1, 16, 16)
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x):
        output = net(z, torch.zeros(8))
    size = sum(kept.values())
    output.square().mean().backward()
    return size


@pytest.mark.parametrize("name", NETS)
def test_what_is_inside_of_blocks_is_not_kept(name: str) -> None:
    net = NETS[name]
    tiny.randomise(net)
    found, plain = blocks(net), held(net)
    gradients = [p.grad for p in net.parameters()]
    net.zero_grad()
    with recomputing(found):
        less = held(net)
    for parameter, gradient in zip(net.parameters(), gradients, strict=True):
        assert gradient is not None
        assert parameter.grad is not None
        assert torch.equal(parameter.grad, gradient)
    net.zero_grad()
    assert less < 0.5 * plain
    assert all("forward" not in vars(block) for block in found)
    assert held(net) == plain  # as before


def test_it_can_be_asked_for_and_given_up_when_a_run_goes_on(tmp_path: Path) -> None:
    out = tmp_path / "run"
    recipe = RECIPES["pictures"]
    train(replace(recipe, train=replace(STEPS, steps=2, recompute=True)), out)
    run = train(replace(recipe, train=replace(STEPS, steps=4)), out)
    assert read_weights(run.last)[1]["training"]["state"]["step"] == 4


@pytest.mark.parametrize("words", ["mnist-gan --data digits", "moons"])
def test_where_there_are_no_blocks_it_is_refused(
    words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    assert main(["train", *words.split(), "--recompute", "--steps", "1", "--out", str(out)]) == 2
    assert "recompute = True: this kind of model has no blocks" in capsys.readouterr().err
    assert not out.exists()
