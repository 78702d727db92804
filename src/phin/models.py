"""What trained models are asked: to draw, by prompt, by label, and guided."""

import math
import operator
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import fields, replace
from functools import partial
from typing import Any, SupportsIndex

import numpy as np
import torch
from torch import Tensor

from phin.data.degraded import Degradation, condition
from phin.data.folder import describe
from phin.data.numbers import tokens
from phin.diffusion.denoiser import Denoiser
from phin.diffusion.level import Level
from phin.errors import PhinError
from phin.families.base import OneShot
from phin.nets.classifier import NoisyClassifier
from phin.pictures import to_bytes
from phin.recipes import AutoencoderRecipe, DiffusionRecipe
from phin.recipes.trained import Model as Model
from phin.recipes.trained import load as load
from phin.recipes.trained import shipped as shipped
from phin.sampling import Guide, SampleConfig, draw, generate

Watch = Callable[[Sequence[int], Tensor, Level], None]
"""Sees every state of every batch: (the numbers of its samples, z, the level of z)."""


def drawn(
    model: Model,
    prompts: Sequence[str] | None = None,
    labels: Iterable[SupportsIndex] | None = None,
    n: int | None = None,
    seed: int = 0,
    batch: int = 64,
    watch: Watch | None = None,
    guide: Guide | None = None,
    images: Sequence[Tensor] | None = None,
    share: slice = slice(None),
    **choices: Any,
) -> Iterator[tuple[int, Tensor]]:
    """Samples in the range of the data, each (C, *sides), with their numbers, as soon as they are drawn.

    Those of one size are drawn together, the smallest first. What is asked for is checked before, at once.

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
        images: Pictures to begin from, for a model of image to image: one sample each, or n. See `given`.
        share: Which of the samples are drawn: those of one process.
        choices: Fields of `SampleConfig` that replace the model's own, such as steps, solver and guidance.

    Raises:
        PhinError: On a model that does not sample, a prompt, label or image it does not know, or a wrong
            choice.
    """
    draw = drawer(model, seed, watch, guide, choices)
    begun = given(model, [(f"image {k}", image) for k, image in enumerate(images or ())])
    kind, rows = conditions(model, prompts, labels, n, len(begun))
    told = condition(torch.stack(begun)).repeat_interleave(n or 1, 0) if begun else None
    shape = model.facts.shape

    def batches() -> Iterator[tuple[int, Tensor]]:
        for length in sorted({len(row) for row in rows}):
            alike = [k for k in range(len(rows))[share] if len(rows[k]) == length]
            cells = length if kind == "text" else 1
            sides, size = (*shape[:-1], shape[-1] * cells), max(1, batch // cells)
            for part in (alike[i : i + size] for i in range(0, len(alike), size)):
                cond = torch.stack([rows[k] for k in part])
                known = {"": {}, "label": {"label": cond[:, 0]}}.get(kind, {kind: cond})
                known |= {} if told is None else {"image": told[part]}
                yield from zip(part, draw(sides, known, part).cpu(), strict=True)

    return batches()


def samples(model: Model, *asked: Any, **choices: Any) -> list[Tensor]:
    """What `drawn` gives, in the order asked for. Arguments as of `drawn`."""
    done = dict(drawn(model, *asked, **choices))
    return [done[k] for k in range(len(done))]


def sample(model: Model, **arguments: Any) -> list[np.ndarray]:
    """Pictures, uint8, (H, W) when grey and (H, W, C) else. Arguments as of `drawn`.

    Of a video all frames, (T, H, W) or (T, H, W, C). Points and sequences are as they are, (2,) and (C, L).
    """
    return [_shown(x) for x in samples(model, **arguments)]


def stream(model: Model, **arguments: Any) -> Iterator[tuple[int, np.ndarray]]:
    """The pictures of `sample`, each with its number, as soon as it is drawn. Arguments as of `drawn`.

    A small `batch` brings the first ones sooner, and all of them later.
    """
    return ((k, _shown(x)) for k, x in drawn(model, **arguments))


def _shown(x: Tensor) -> np.ndarray:
    if x.ndim <= 2:
        return x.numpy()
    return to_bytes(x if x.ndim == 3 else x.movedim(1, 0))


def degradation(model: Model) -> Degradation | None:
    """What is left of the pictures that a model of image to image begins from; None of any other."""
    return model.recipe.degradation if isinstance(model.recipe, DiffusionRecipe) else None


def given(model: Model, images: Sequence[tuple[str, Tensor]]) -> list[Tensor]:
    """Pictures to begin from, (C, H, W), as a model of image to image is to be given them.

    Args:
        model: Any model.
        images: What to call each picture, and the picture: in [-1, 1], with NaN where nothing is known; as
            small as what the model enlarges, or of the size that it draws, of which it is then given no more
            than it was in its training.

    Raises:
        PhinError: On images for a model that begins from nothing, or none for one that does not; on one of
            another size or kind than it takes, or with something hidden, or nothing, against what it learned.
    """
    if (way := degradation(model)) is None:
        if images:
            raise PhinError(
                f"{model.path} draws {model.recipe.data} from nothing, and takes no image: leave it out, or "
                "give a model of image to image, such as a run of `phin train mnist-superres`"
            )
        return []
    whole, small = model.facts.shape, way.size(model.facts.shape)
    sizes = " or ".join(map(describe, dict.fromkeys((small, whole))))
    if not images:
        raise PhinError(f"{model.path} draws nothing from nothing: give an image, {sizes} (--image FILE)")
    begun: list[Tensor] = []
    for name, image in images:
        if (shape := tuple(image.shape)) not in (whole, small):
            found = describe(shape) if len(shape) == 3 else f"of shape {shape}"
            raise PhinError(f"{name} is {found}, and {model.path} begins from {sizes}: scale or convert it")
        seen = way.see(image) if shape == whole else way.enlarge(image)
        hidden = bool(seen.isnan().any())
        if hidden and not way.hides:
            raise PhinError(f"{model.path} takes pictures that are known as a whole: hide nothing of {name}")
        if way.hides and not hidden:
            raise PhinError(
                f"{model.path} paints what is hidden, and of {name} nothing is: say what to keep (--keep "
                "left, or --mask FILE)"
            )
        begun.append(seen)
    return begun


Draw = Callable[[tuple[int, ...], dict[str, Tensor], Sequence[int]], Tensor]
"""(the shape of one sample, the condition of each, their numbers) -> samples in the range of the data."""


def drawer(
    model: Model, seed: int, watch: Watch | None, guide: Guide | None, choices: Mapping[str, Any]
) -> Draw:
    """How a model of any family draws a batch. Arguments as of `samples`.

    Raises:
        PhinError: On a model that does not sample, or a choice that it does not have.
    """
    config = configured(model, choices, guide)
    if config is None:
        net = model.net
        assert isinstance(net, OneShot)
        if guide is not None:
            raise PhinError(f"{model.path} draws in one pass of its network: leave the classifier out")

        def generated(shape: tuple[int, ...], cond: dict[str, Tensor], numbers: Sequence[int]) -> Tensor:
            return generate(net, cond, seed, numbers)

        return generated

    denoiser, _ = drawing(model)

    def drawn(shape: tuple[int, ...], cond: dict[str, Tensor], numbers: Sequence[int]) -> Tensor:
        return draw(denoiser, config, shape, cond, seed, numbers, watch and partial(watch, numbers), guide)

    return drawn


def configured(model: Model, choices: Mapping[str, Any], guide: Guide | None = None) -> SampleConfig | None:
    """How a model is sampled with these choices; None of one that draws in one pass, where there are none.

    A classifier that guides leads elsewhere: what was tuned without it is not taken then.

    Raises:
        PhinError: On a model that does not sample, or a choice that it does not have.
    """
    if not isinstance(model.net, OneShot):
        config = choose(model if guide is None else replace(model, tuned=()), choices)
        if model.facts.latents and config.threshold != "none":
            raise PhinError(
                f"threshold {config.threshold} keeps pixels in their range, and {model.path} lives in "
                "latents, which have none: give none"
            )
        return config
    if choices:
        raise PhinError(
            f"{model.path} draws in one pass of its network, without levels and guidance: leave "
            f"{next(iter(choices))} out"
        )
    return None


def choose(model: Model, choices: Mapping[str, Any]) -> SampleConfig:
    """How a diffusion model is sampled with these choices.

    Where neither solver nor grid is chosen, all is as `phin tune` found it for so many steps, guidance
    included; but not if another guidance or threshold is chosen than it was found for. A distilled model has
    its own for each number of steps that it was made for.

    Raises:
        PhinError: On another kind of model, a field that there is not, or a value it cannot have.
    """
    config, recipe = drawing(model)[1], model.recipe
    known = [field.name for field in fields(SampleConfig)]
    for name in choices:
        if name not in known:
            raise PhinError(f"sampling has no option {name!r}; it has {', '.join(known)}")
    assert isinstance(recipe, DiffusionRecipe)
    if recipe.distilled is not None:
        return recipe.distilled.chosen(model.path, config, choices)
    if not {"solver", "grid"} & choices.keys():
        asked = {"steps": config.steps, **choices}
        found = (one.sampling for one in model.tuned)
        config = next((s for s in found if all(getattr(s, k) == v for k, v in asked.items())), config)
    config = replace(config, **choices)
    if config.guidance != 1 and recipe.told(model.facts) and not does_without(model):
        raise PhinError(
            f"guidance = {config.guidance:g}: {model.path} was never trained without its condition, which "
            "guidance needs: give 1"
        )
    return config


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


def denoiser(model: Model) -> Denoiser:
    """The denoiser of a diffusion model, for use at any level.

    Raises:
        PhinError: On another kind of model, or a distilled one, which knows no levels but those of its calls.
    """
    net, recipe = drawing(model)[0], model.recipe
    if isinstance(recipe, DiffusionRecipe) and recipe.distilled is not None:
        raise PhinError(
            f"{model.path} is distilled, and knows no noise levels but those of its calls: give its teacher, "
            f"{recipe.distilled.teacher}"
        )
    return net


def guide(model: Model, classifier: Model, scale: float = 1.0) -> Guide:
    """Guidance of a model of labelled data by a classifier of noisy data, for `samples`.

    Args:
        model: A diffusion model of labelled data.
        classifier: A noisy classifier of the same data.
        scale: 0 is none, 1 is Bayes' rule, above it sharpens; it adds to that of classifier-free guidance.

    Raises:
        PhinError: Models of other kinds, or that do not fit each other; a scale that is not finite.
    """
    denoiser(model)
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
    if model.facts.latents:
        raise PhinError(
            f"{model.path} lives in latents, of which {classifier.path} knows nothing: leave the classifier "
            "out"
        )
    if not math.isfinite(scale):
        raise PhinError(f"classifier scale = {scale}: give a finite number, such as 1")
    return Guide(classifier.net, scale, str(classifier.path))


def _titled(model: Model) -> str:
    shape = " x ".join(map(str, model.facts.shape))
    return f"{model.recipe.data} ({model.facts.classes} classes, {shape})"


def conditions(
    model: Model,
    prompts: Sequence[str] | None,
    labels: Iterable[SupportsIndex] | None,
    n: int | None,
    images: int = 0,
) -> tuple[str, list[Tensor]]:
    """What is to be drawn: the condition's name and its value (L,) for each sample.

    Names are "text", of numbers, "prompt", of numbers in words, "label", and "" where nothing is told.

    The arguments are those of `samples`; of images, their number.

    Raises:
        PhinError: On a prompt or label that the model does not know, or none where it needs one.
    """
    facts = model.facts
    prompted = bool(facts.vocabulary or facts.alphabet)
    for name, given, known in (("prompts", prompts, prompted), ("labels", labels, facts.classes)):
        if given is not None and not known:
            instead = "prompts" if prompted else "labels" if facts.classes else None
            raise PhinError(
                f"a model of {model.recipe.data} takes no {name}"
                + (f": give it {instead} (--{instead[:-1]})" if instead else "")
            )
    if n is not None and n < 1:
        raise PhinError(f"n = {n}: at least 1 sample must be asked for")
    if prompted:
        if not prompts:
            such = "0 to 99,999, such as forty-two" if facts.alphabet else "one to five digits such as 40213"
            raise PhinError(f"nothing to draw: give prompts, numbers of {such}")
        if isinstance(prompts, str) or not all(isinstance(prompt, str) for prompt in prompts):
            raise PhinError(f"prompts are a list of texts, not {prompts!r}: give one such as ['40213']")
        kind, read = ("prompt", facts.alphabet.tokens) if facts.alphabet else ("text", tokens)
        return kind, [row for row in map(read, prompts) for _ in range(n or 1)]
    if not facts.classes:
        return "", list(torch.zeros(max(1, images) * (n or 1), 1))
    if images:
        chosen = [-1] if labels is None else list(labels)
        if len(chosen) not in (1, images):
            raise PhinError(f"{len(chosen)} labels for {images} images: give one, or one for each")
        chosen = chosen * images if len(chosen) == 1 else chosen
        every = [_label(label, facts.classes) for label in chosen for _ in range(n or 1)]
    elif labels is None:
        every = [k % facts.classes for k in range(n or facts.classes)]
    else:
        every = [_label(label, facts.classes) for label in labels for _ in range(n or 1)]
    if not every:
        raise PhinError("nothing to draw: give labels, or leave them out to have each in turn")
    if -1 in every and not does_without(model):
        raise PhinError(
            f"{model.path} was trained with labels alone, and cannot draw without one (-1): give labels, "
            f"0 to {facts.classes - 1}"
        )
    return "label", list(torch.tensor(every)[:, None])


def does_without(model: Model) -> bool:
    """Whether it learned to draw without its condition, too, which guidance needs, and the label -1."""
    recipe = model.recipe
    if isinstance(recipe, DiffusionRecipe) and recipe.distilled is not None:
        return recipe.distilled.null
    return not isinstance(recipe, DiffusionRecipe | AutoencoderRecipe) or recipe.drop > 0


def _label(label: SupportsIndex, classes: int) -> int:
    try:
        number = operator.index(label)
    except TypeError:
        raise PhinError(f"the label {label!r} is no whole number") from None
    if not -1 <= number < classes:
        raise PhinError(f"there is no label {number}: labels are 0 to {classes - 1}, or -1 for any")
    return number
