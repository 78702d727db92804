"""`phin data`."""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro

from .command import Command
from .options import Flag
from .terminal import bar, show_table


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
        print("phin data resize PATH makes pictures of any size alike")


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


@dataclass(frozen=True, kw_only=True)
class DataResize(Command):
    """Copy a folder of pictures of any size, all scaled and cut to the same square: a data set."""

    path: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="PATH")]
    """The folder, with one sub-folder a class or none."""
    side: int
    """Pixels of a side; most networks want a multiple of 4."""
    out: Path
    """The new folder, of PNG files."""
    grey: Flag = False
    """Drop colours. If all pictures are grey they stay so."""

    def run(self) -> dict[str, Any]:
        from phin.data import folder, resize

        total = len(folder.find(folder.folder(self.path))[0])
        with bar(total, "resizing") as advance:
            found = resize.resize(self.path, self.out, self.side, self.grey, advance)
        return {"folder": str(self.out), "side": self.side, **found._asdict()}

    def show(self, facts: dict[str, Any]) -> None:
        side, kind = facts["side"], "grey" if facts["grey"] else "RGB"
        print(f"{facts['folder']}: {facts['pictures']:,} pictures of {side} x {side}, {kind}")
        if facts["classes"]:
            print(f"labels: {', '.join(f'{label} {name}' for label, name in enumerate(facts['classes']))}")
        if facts["enlarged"]:
            print(f"{facts['enlarged']:,} of them were smaller, and are blurred; a smaller --side keeps all")
        print(f"\nphin train images --data folder:{facts['folder']}")
