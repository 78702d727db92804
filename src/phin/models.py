"""Trained models: loaded by name, from a run's folder or from a file."""

import math
import operator
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from functools import partial
from pathlib import Path
from typing import Any, SupportsIndex

import numpy as np
import torch
from torch import Tensor, nn

from phin.data.numbers import tokens
from phin.diffusion.denoiser import Denoiser
from phin.diffusion.level import Level
from phin.errors import PhinError
from phin.families.base import OneShot
from phin.nets.classifier import NoisyClassifier
from phin.pictures import to_bytes
from phin.recipes import DiffusionRecipe, Facts, Recipe, restore
from phin.sampling import Guide, SampleConfig, draw, generate
from phin.training.checkpoint import load_weights, read_weights


@dataclass(frozen=True)
class Model:
    """A trained model and what is known of it."""

    net: nn.Module
    """In evaluation mode."""
    recipe: Recipe
    facts: Facts
    metadata: dict[str, Any]
    """Everything its file says: the recipe, the seed, the command, measured figures."""
    path: Path


Watch = Callable[[Sequence[int], Tensor, Level], None]
"""Sees every state of every batch: (the numbers of its samples, z, the level of z)."""

SHIPPED = Path(__file__).parent / "weights"


def shipped() -> list[str]:
    """Names of the models that come with phin."""
    return sorted(file.stem for file in SHIPPED.glob("*.safetensors"))


def load(source: str | Path) -> Model:
    """A trained model.

    Args:
        source: The name of a model that comes with phin ("numbers"), the folder of a run ("./numbers" if it
            bears such a name), or a .safetensors file.

    Raises:
        PhinError: There is no such model, or its file is damaged or not phin's.
    """
    path = _find(source)
    tensors, metadata = read_weights(path)
    if any(
        name.startswith("ema.") for name in tensors
    ):  # a checkpoint: the averaged weights are the ones to use
        tensors = {name.removeprefix("ema."): t for name, t in tensors.items() if name.startswith("ema.")}
    recipe, facts = restore(metadata)
    net = recipe.model(facts)
    load_weights(net, tensors, path)
    return Model(net.eval(), recipe, facts, metadata, path)


def _find(source: str | Path) -> Path:
    if str(source) in shipped():
        return SHIPPED / f"{source}.safetensors"
    path = Path(source)
    if path.is_dir():
        for name in ("best.safetensors", "last.safetensors"):
            if (path / name).is_file():
                return path / name
        raise PhinError(f"the folder {path} has no weights (best.safetensors); name the folder of a run")
    if path.suffix == ".safetensors":
        if not path.is_file():
            raise PhinError(f"there is no file {path}")
        return path
    choices = [*shipped(), "a run's folder or a .safetensors file"]
    raise PhinError(f"unknown model {str(source)!r}; give {', '.join(choices)}")


def samples(
    model: Model,
    prompts: Sequence[str] | None = None,
    labels: Iterable[SupportsIndex] | None = None,
    n: int | None = None,
    seed: int = 0,
    batch: int = 64,
    watch: Watch | None = None,
    guide: Guide | None = None,
    **choices: Any,
) -> list[Tensor]:
    """Samples in the range of the data, each (C, *sides), in the order asked for.

    Args:
        model: A diffusion model, from `load`.
        prompts: Numbers to draw, for a model of numbers: one sample each.
        labels: Classes to draw, for a model of labelled data: one sample each.
        n: How many of each prompt or label, 1 by default; or how many in all, where none are given and labels
            are taken in turn, each once by default.
        seed: Sample k has the same noise under the same seed, whatever the batch.
        batch: Cells or pictures at once.
        watch: Sees every state of every batch.
        guide: A classifier that guides to the labels, from `guide`; `guidance=0` makes it the only guidance.
        choices: Fields of `SampleConfig` that replace the model's own, such as steps, solver and guidance.

    Raises:
        PhinError: On a model that does not sample, a prompt or label it does not know, or a wrong choice.
    """
    draw = drawer(model, seed, watch, guide, choices)
    kind, rows = conditions(model, prompts, labels, n)
    shape = model.facts.shape
    done: dict[int, Tensor] = {}
    for length in sorted({len(row) for row in rows}):
        alike = [k for k, row in enumerate(rows) if len(row) == length]
        sides = (*shape[:-1], shape[-1] * length) if kind == "text" else shape
        size = max(1, batch // length)
        for part in (alike[i : i + size] for i in range(0, len(alike), size)):
            cond = torch.stack([rows[k] for k in part])
            given = {"text": {"text": cond}, "label": {"label": cond[:, 0]}, "": {}}[kind]
            done.update(zip(part, draw(sides, given, part).cpu(), strict=True))
    return [done[k] for k in range(len(done))]


def sample(model: Model, **arguments: Any) -> list[np.ndarray]:
    """Pictures, uint8, (H, W) when grey and (H, W, C) else; points as they are. Arguments as of `samples`."""
    drawn = samples(model, **arguments)
    return [to_bytes(x) if x.ndim > 1 else x.numpy() for x in drawn]


Draw = Callable[[tuple[int, ...], dict[str, Tensor], Sequence[int]], Tensor]
"""(the shape of one sample, the condition of each, their numbers) -> samples in the range of the data."""


def drawer(
    model: Model, seed: int, watch: Watch | None, guide: Guide | None, choices: Mapping[str, Any]
) -> Draw:
    """How a model of any family draws a batch. Arguments as of `samples`.

    Raises:
        PhinError: On a model that does not sample, or a choice that it does not have.
    """
    if isinstance(model.net, OneShot):
        net = model.net
        if refused := [*choices, *(["a classifier"] if guide else [])]:
            raise PhinError(
                f"{model.path} draws in one pass of its network, without levels and guidance: "
                f"leave {refused[0]} out"
            )

        def generated(shape: tuple[int, ...], cond: dict[str, Tensor], numbers: Sequence[int]) -> Tensor:
            return generate(net, cond, seed, numbers)

        return generated

    denoiser, own = drawing(model)
    config = choose(own, choices)

    def drawn(shape: tuple[int, ...], cond: dict[str, Tensor], numbers: Sequence[int]) -> Tensor:
        return draw(denoiser, config, shape, cond, seed, numbers, watch and partial(watch, numbers), guide)

    return drawn


def choose(config: SampleConfig, choices: Mapping[str, Any]) -> SampleConfig:
    """The configuration with these choices.

    Raises:
        PhinError: A field that there is not, or a value it cannot have.
    """
    known = [field.name for field in fields(SampleConfig)]
    for name in choices:
        if name not in known:
            raise PhinError(f"sampling has no option {name!r}; it has {', '.join(known)}")
    return replace(config, **choices)


def drawing(model: Model) -> tuple[Denoiser, SampleConfig]:
    """The denoiser of a diffusion model, and how it is sampled when nobody chooses.

    Raises:
        PhinError: On another kind of model.
    """
    if not isinstance(model.net, Denoiser) or not isinstance(model.recipe, DiffusionRecipe):
        raise PhinError(
            f"{model.path} is a {model.metadata['family']} and does not draw by denoising; "
            "load a diffusion model, such as numbers"
        )
    return model.net, model.recipe.sample


def guide(model: Model, classifier: Model, scale: float = 1.0) -> Guide:
    """Guidance of a model of labelled data by a classifier of noisy data, for `samples`.

    Args:
        model: A diffusion model of labelled data.
        classifier: A noisy classifier of the same data.
        scale: 0 is none, 1 is Bayes' rule, above it sharpens; it adds to that of classifier-free guidance.

    Raises:
        PhinError: Models of other kinds, or that do not fit each other; a scale that is not finite.
    """
    drawing(model)
    if not isinstance(classifier.net, NoisyClassifier):
        raise PhinError(
            f"{classifier.path} is no classifier of noisy pictures and cannot guide; "
            "give one, such as a run of `phin train mnist-noisy-classifier`"
        )
    if not model.facts.classes:
        raise PhinError(
            f"{model.path} has no labels to guide to: it was trained on {model.recipe.data}; "
            "leave the classifier out, or give a model of labelled data"
        )
    known, drawn = (
        (facts.shape, facts.classes, facts.class_names) for facts in (classifier.facts, model.facts)
    )
    if known != drawn:
        raise PhinError(
            f"{classifier.path} was trained on {_titled(classifier)} and does not fit {model.path}, "
            f"which draws {_titled(model)}; train a noisy classifier with --data {model.recipe.data}"
        )
    if not math.isfinite(scale):
        raise PhinError(f"classifier scale = {scale}: give a finite number, such as 1")
    return Guide(classifier.net, scale, str(classifier.path))


def _titled(model: Model) -> str:
    shape = " x ".join(map(str, model.facts.shape))
    return f"{model.recipe.data} ({model.facts.classes} classes, {shape})"


def conditions(
    model: Model, prompts: Sequence[str] | None, labels: Iterable[SupportsIndex] | None, n: int | None
) -> tuple[str, list[Tensor]]:
    """What is to be drawn: the condition's name ("text", "label" or "") and its value (L,) for each sample.

    The arguments are those of `samples`.

    Raises:
        PhinError: On a prompt or label that the model does not know, or none where it needs one.
    """
    facts = model.facts
    for name, given, known in (("prompts", prompts, facts.vocabulary), ("labels", labels, facts.classes)):
        if given is not None and not known:
            instead = "prompts" if facts.vocabulary else "labels" if facts.classes else None
            raise PhinError(
                f"a model of {model.recipe.data} takes no {name}"
                + (f": give it {instead} (--{instead[:-1]})" if instead else "")
            )
    if n is not None and n < 1:
        raise PhinError(f"n = {n}: at least 1 sample must be asked for")
    if facts.vocabulary:
        if not prompts:
            raise PhinError("nothing to draw: give prompts, numbers of one to five digits such as 40213")
        if isinstance(prompts, str) or not all(isinstance(prompt, str) for prompt in prompts):
            raise PhinError(f"prompts are a list of texts, not {prompts!r}: give one such as ['40213']")
        return "text", [row for row in map(tokens, prompts) for _ in range(n or 1)]
    if not facts.classes:
        return "", list(torch.zeros(n or 1, 1))
    if labels is None:
        every = [k % facts.classes for k in range(n or facts.classes)]
    else:
        every = [_label(label, facts.classes) for label in labels for _ in range(n or 1)]
    if not every:
        raise PhinError("nothing to draw: give labels, or leave them out to have each in turn")
    return "label", list(torch.tensor(every)[:, None])


def _label(label: SupportsIndex, classes: int) -> int:
    try:
        number = operator.index(label)
    except TypeError:
        raise PhinError(f"the label {label!r} is no whole number") from None
    if not -1 <= number < classes:
        raise PhinError(f"there is no label {number}: labels are 0 to {classes - 1}, or -1 for any")
    return number
