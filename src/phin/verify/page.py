"""What came of the laws, for the eye: a table for the terminal, and a page with plots."""

import math
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from html import escape
from itertools import groupby
from typing import TYPE_CHECKING, Any

from phin import report

from . import CHAPTERS, Unit
from .plots import PLOTS
from .run import Finding

if TYPE_CHECKING:
    from rich.table import Table


def rich_table(laws: Sequence[dict[str, Any]]) -> "Table":
    """The facts of laws for a terminal of 100 columns: verdict, law and paper, numbers."""
    from rich.markup import escape as plain
    from rich.table import Table

    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column("")
    table.add_column("law, equation, paper", ratio=1)
    for name in ("expected", "measured", "error", "tolerance"):
        table.add_column(name, justify="right", no_wrap=True)
    for chapter, lines in groupby(laws, lambda law: law["chapter"]):
        table.add_row("", f"\n[bold cyan]{chapter}[/]")
        for law in lines:
            mark = "[green]✓[/]" if law["holds"] else "[bold red]✗[/]"
            words = f"{plain(law['name'])}\n[dim]{plain(law['equation'])}\n{plain(law['paper'])}[/]"
            if not law["holds"]:
                words += f"\n[red]in the case of {plain(law['case'])}[/]"
            table.add_row(mark, words, *numbers(law))
    return table


def numbers(law: dict[str, Any]) -> tuple[str, str, str, str]:
    """Expected, measured, error and tolerance, in words."""
    expected, measured, error = (
        "∞" if law[name] is None else f"{law[name]:{form}}"
        for name, form in (("expected", ".6g"), ("measured", ".6g"), ("error", ".1e"))
    )
    if law["unit"] == Unit.DEVIATIONS.value:
        error = "∞" if law["error"] is None else f"{law['error']:.1f} s.e."
        return expected, measured, error, f"{law['tolerance']:g} s.e."
    return expected, measured, error, f"{law['tolerance']:.0e}"


def report_page(findings: Sequence[Finding], seconds: float) -> str:
    """The whole page."""
    from .run import facts

    found = facts(findings, seconds)
    cases = sum(law["cases"] for law in found["laws"])
    verdict = "All hold." if not found["failed"] else f"{found['failed']} of them fail."
    lead = (
        f"{len(findings)} equations of the literature, each measured in two independent ways on data whose "
        f"diffusion is known exactly, in {cases:,} cases and {seconds:.0f} seconds. {verdict}"
    )
    return report.page("Theory and code agree", "Phin verify", lead, sections(found))


def sections(found: dict[str, Any]) -> Iterator[str]:
    """The summary, the plots, and the laws by chapter."""
    laws = found["laws"]
    counts = Counter(law["chapter"] for law in laws)
    failed = Counter(law["chapter"] for law in laws if not law["holds"])
    yield '<div class="tiles">'
    for chapter in CHAPTERS:
        if counts[chapter]:
            words = "fail" if failed[chapter] else "hold"
            number = failed[chapter] or counts[chapter]
            label = f"<b>{number}</b> {chapter}<span>{words}</span>"
            yield f'<a class="tile {words}" href="#{chapter}">{label}</a>'
    yield "</div>"
    for heading, text, draw in PLOTS.values():
        yield report.section(heading, text, draw())
    yield report.section(
        "The laws",
        "One equation is one law; schedules, scalings and solvers are its cases, of which the worst is told. "
        "An error is relative to the largest number of its case, absolute (a), or in standard errors (s.e.). "
        "The bar shows it from 1e-17 to 1, the tick what is tolerated.",
    )
    for chapter, module in CHAPTERS.items():
        lines = [law for law in laws if law["chapter"] == chapter]
        if lines:
            yield f'<h3 id="{chapter}">{chapter}</h3>\n<p>{escape(str(module.__doc__).splitlines()[0])}</p>'
            yield law_table(lines)
    yield report.section(
        "Run it again",
        "One law is a text of its name, equation or paper away.",
        report.code("phin verify\nphin verify --only DDIM --out report.html"),
    )


def law_table(laws: Iterable[dict[str, Any]]) -> str:
    """The laws of a chapter."""
    heading = "".join(f"<th>{name}</th>" for name in ("", "law", "expected", "measured", "error"))
    rows = "".join(map(law_row, laws))
    return f'<div class="scroll"><table class="laws"><tr>{heading}</tr>{rows}</table></div>'


def law_row(law: dict[str, Any]) -> str:
    """One law: its words, its numbers, and where its error lies."""
    expected, measured, error, tolerance = numbers(law)
    mark, kind = ("✓", "hold") if law["holds"] else ("✗", "fail")
    unit = " a" if law["unit"] == Unit.ABSOLUTE.value else ""
    case = escape(law["case"]) + (f", worst of {law['cases']}" if law["cases"] > 1 else "")
    words = (
        f"<b>{typeset(law['name'])}</b><div class='equation'>{typeset(law['equation'])}</div>"
        f"<details><summary>{escape(law['paper'])}</summary>{escape(law['how'])} "
        f"<i>Shown: {case}.</i></details>"
    )
    bar = (
        f'<div class="error"><i style="width:{place(law, law["error"]):.0f}%"></i>'
        f'<u style="left:{place(law, law["tolerance"]):.0f}%"></u></div><small>of {tolerance}</small>'
    )
    return (
        f'<tr class="{kind}"><td class="mark">{mark}</td><td>{words}</td>'
        f"<td>{expected}</td><td>{measured}</td><td>{error}{unit}{bar}</td></tr>"
    )


def typeset(text: str) -> str:
    """An equation in HTML: x_t, x_{t−1}, e^λ and e^{−λ} with their indices and exponents."""
    text = re.sub(r"\^(?:\{([^}]*)\}|([−\w∞]+))", lambda m: f"<sup>{m[1] or m[2]}</sup>", escape(text))
    return re.sub(r"_(?:\{([^}]*)\}|([^\W_]+|[∞∅]))", lambda m: f"<sub>{m[1] or m[2]}</sub>", text)


def place(law: dict[str, Any], value: float | None) -> float:
    """Where a value lies on the bar, in per cent: by its digits, or by standard errors up to 6."""
    if value is None:
        return 100.0
    if law["unit"] == Unit.DEVIATIONS.value:
        return min(100 * value / 6, 100.0)
    return min(max(100 * (17 + math.log10(max(value, 1e-17))) / 17, 1.0), 100.0)
