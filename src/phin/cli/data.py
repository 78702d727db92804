"""`phin data`."""

from dataclasses import asdict, dataclass
from typing import Annotated, Any

import tyro

from .command import Command
from .terminal import show_table


@dataclass(frozen=True, kw_only=True)
class DataList(Command):
    """List the data sets."""

    def run(self) -> dict[str, Any]:
        from phin.data import listing

        return {"data": [asdict(line) for line in listing()]}

    def show(self, facts: dict[str, Any]) -> None:
        lines = [["name", "one example", "examples", "classes", "licence", "where"]]
        for line in facts["data"]:
            shape = " x ".join(map(str, line["shape"]))
            examples = "endless" if line["examples"] is None else f"{line['examples']:,}"
            where = line["where"] or f"phin data get {line['name']}"
            lines.append([line["name"], shape, examples, str(line["classes"] or ""), line["licence"], where])
        show_table(lines)
        print("\nfolder:PATH is a folder of your own pictures, with one sub-folder a class or none")


@dataclass(frozen=True, kw_only=True)
class DataGet(Command):
    """Fetch and verify the files of a data set."""

    name: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="NAME")]
    """As in `phin data list`."""

    def run(self) -> dict[str, Any]:
        from phin import data

        return {"name": self.name, "where": data.get(self.name)}

    def show(self, facts: dict[str, Any]) -> None:
        print(f"{facts['name']}: {facts['where']}")
