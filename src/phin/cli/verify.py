"""`phin verify`."""

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .command import Command
from .files import write
from .terminal import bar


@dataclass(frozen=True, kw_only=True)
class Verify(Command):
    """Check the laws of diffusion, each measured in two ways on data that are known exactly."""

    only: str = ""
    """Only the laws with this text in their name, equation, paper or chapter."""
    out: Path | None = None
    """An HTML file to write: the laws, and plots that explain them."""

    def run(self) -> dict[str, Any]:
        from phin.verify import page, run

        laws = run.chosen(self.only)
        with bar(len(laws), "measuring") as advance:
            findings, seconds = run.check(laws, lambda: advance(1))
        facts = run.facts(findings, seconds)
        if self.out is not None:
            facts["report"] = write(self.out, page.report_page(findings, seconds).encode())
        return facts

    def show(self, facts: dict[str, Any]) -> None:
        from rich.console import Console

        from phin.verify.page import rich_table

        console = Console(width=None if sys.stdout.isatty() else 100, highlight=False)
        console.print(rich_table(facts["laws"]))
        cases = sum(law["cases"] for law in facts["laws"])
        fail = f"[bold red]{facts['failed']} fail" if facts["failed"] else "none fails"
        console.print(f"\n{facts['held']} laws hold, {fail}; {cases:,} cases in {facts['seconds']:.0f} s")
        if "report" in facts:
            print(f"The report is {facts['report']}")

    def code(self, facts: dict[str, Any]) -> int:
        return 1 if facts["failed"] else 0
