"""`phin recipes`."""

from dataclasses import asdict, dataclass
from typing import Any

from .command import Command
from .terminal import show_table


@dataclass(frozen=True, kw_only=True)
class Recipes(Command):
    """List what can be trained."""

    def run(self) -> dict[str, Any]:
        from phin.recipes import RECIPES

        return {"recipes": {name: asdict(recipe) for name, recipe in RECIPES.items()}}

    def show(self, facts: dict[str, Any]) -> None:
        lines = [["recipe", "data", "network", "budget"]]
        for name, recipe in facts["recipes"].items():
            net, train = recipe["net"], recipe["train"]
            size = f"channels {net['channels']}" if "channels" in net else f"width {net['width']}"
            budget = f"{train['minutes']:g} min" if train["minutes"] else f"{train['steps']:,} steps"
            lines.append([name, recipe["data"], size, budget])
        show_table(lines)
