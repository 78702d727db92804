"""`phin train`."""

import re
import shlex
from collections.abc import Sequence
from dataclasses import dataclass, fields, make_dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from phin.errors import PhinError

from .command import Command
from .options import Flag
from .parsing import parse

if TYPE_CHECKING:
    from phin.recipes import Recipe
    from phin.training.config import TrainConfig


@dataclass(frozen=True, kw_only=True)
class Train(Command):
    """Train a recipe: phin train RECIPE [OPTIONS]."""

    recipe: "Recipe"
    name: str
    out: Path | None
    command: str

    again = "the same command goes on where it stopped"

    @classmethod
    def parse(cls, argv: Sequence[str], prog: str) -> "Train":
        """The command `PROG RECIPE OPTIONS`: options are the recipe's fields, their defaults its values."""
        from phin.recipes import RECIPES, named

        listed = ", ".join(RECIPES)
        if not argv or argv[0].startswith("-"):
            if {"-h", "--help"}.intersection(argv):
                print("usage: phin train RECIPE [OPTIONS]\n\nphin train RECIPE --help lists its options.")
                print(f"Recipes: {listed}")
                raise SystemExit
            raise PhinError(f"name a recipe first, as in `phin train mnist`; there are {listed}")
        name, preset = argv[0], named(argv[0])
        options = [re.sub(r"^--train\.", "--", word) for word in argv[1:]]
        preset = replace(preset, train=budgeted(preset.train, options))
        kind = _options(preset)
        own = {field.name: getattr(preset, field.name) for field in fields(preset)}
        chosen = parse(kind, options, f"{prog} {name}", kind(**own))
        recipe = replace(preset, **{field: getattr(chosen, field) for field in own})
        command = shlex.join([*prog.split(), *argv])
        return cls(recipe=recipe, name=name, out=chosen.out, command=command, json=chosen.json)

    def run(self) -> dict[str, Any]:
        return trained(self.recipe, self.out, self.name, self.command)

    def show(self, facts: dict[str, Any]) -> None:
        show_run(facts)


def trained(recipe: "Recipe", out: Path | None, name: str, command: str) -> dict[str, Any]:
    """Trains a recipe; what came of it."""
    from phin.recipes import train

    facts = train(recipe, out, name, command)._asdict()
    return {key: str(value) if isinstance(value, Path) else value for key, value in facts.items()}


def show_run(facts: dict[str, Any]) -> None:
    """Prints what came of a training."""
    scores = ", ".join(f"{name} {value:.4g}" for name, value in facts["validation"].items())
    print(f"{facts['best']}  ({scores})" if scores else facts["best"])


def budgeted(train: "TrainConfig", options: Sequence[str]) -> "TrainConfig":
    """A training whose budget, of minutes or of steps, gives way to the one that is among the options."""
    budgets = {word[2:] for option in options if (word := option.split("=")[0]) in ("--minutes", "--steps")}
    if len(budgets) != 1:
        return train
    budget = {"minutes": None, "steps": None, budgets.pop(): 1}
    return replace(train, **budget)


def _options(preset: "Recipe") -> type[Any]:
    """The options of `phin train`: a recipe's fields, those of its training without a prefix; and more."""
    from phin.training.config import TrainConfig

    own = [
        ("train", Annotated[TrainConfig, tyro.conf.arg(name="")], preset.train),
        (
            "out",
            Annotated[Path | None, tyro.conf.arg(help="Folder of the run; runs/RECIPE by default.")],
            None,
        ),
        ("json", Annotated[Flag, tyro.conf.arg(help="Print one JSON object on standard output.")], False),
    ]
    return make_dataclass(
        "Options", own, bases=(type(preset),), frozen=True, namespace={"__doc__": preset.__doc__}
    )
