"""A page that explains itself: one HTML file, with everything inside, in the reader's own light or dark.

A page is made of pieces of HTML, which the functions here return and `page` puts together.
"""

import base64
import io
import re
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from phin.pictures import Picture, png

INK, QUIET = "#010101", "#020202"  # stand-ins in a chart, for colours that follow the page
SERIES = ("#030301", "#030302", "#030303", "#030304", "#030305", "#030306")

STYLE = Path(__file__).with_suffix(".css")


def page(title: str, eyebrow: str, lead: str, body: Iterable[str]) -> str:
    """The whole file."""
    style = STYLE.read_text(encoding="utf-8")
    return (
        f'<!doctype html>\n<html lang="en">\n<meta charset="utf-8">\n<title>{escape(title)}</title>\n'
        f'<meta name="viewport" content="width=device-width, initial-scale=1">\n<style>\n{style}</style>\n'
        f'<p class="eyebrow">{escape(eyebrow)}</p>\n<h1>{escape(title)}</h1>\n'
        f'<p class="lead">{escape(lead)}</p>\n' + "\n".join(body) + "\n</html>\n"
    )


def section(heading: str, text: str, *body: str) -> str:
    """A heading, a paragraph, and what belongs to it."""
    return "\n".join([f"<h2>{escape(heading)}</h2>", f"<p>{escape(text)}</p>", *body])


def figure(picture: Picture, caption: str, scale: float = 1) -> str:
    """A picture, `scale` times as large, and a line beneath it."""
    source = base64.b64encode(png(picture)).decode()
    width, height = (round(scale * side) for side in (picture.shape[1], picture.shape[0]))
    words = escape(caption)
    image = f'<img src="data:image/png;base64,{source}" width="{width}" height="{height}" alt="{words}">'
    return f"<figure>{image}<figcaption>{words}</figcaption></figure>"


def gallery(figures: Iterable[str]) -> str:
    """Figures side by side."""
    return f'<div class="gallery">{"".join(figures)}</div>'


def table(heading: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Numbers: the first column names them, the others are aligned to the right."""
    lines = [_row("th", heading), *(_row("td", row) for row in rows)]
    return f'<div class="scroll"><table>{"".join(lines)}</table></div>'


def facts(pairs: Mapping[str, str]) -> str:
    """Names and what they stand for."""
    return f'<table class="plain">{"".join(_row("td", pair) for pair in pairs.items())}</table>'


def code(text: str) -> str:
    """What to type."""
    return f"<pre>{escape(text)}</pre>"


def _row(tag: str, cells: Iterable[str]) -> str:
    return f"<tr>{''.join(f'<{tag}>{escape(cell)}</{tag}>' for cell in cells)}</tr>"


def chart(
    lines: Mapping[str, tuple[ArrayLike, ArrayLike]], across: str, up: str, points: Iterable[str] = ()
) -> str:
    """Curves (x, y) by name, on a logarithmic scale, as inline SVG whose colours follow the page.

    Args:
        lines: The curves.
        across: What x is.
        up: What y is.
        points: Names of those that are to be drawn with markers: few and far apart.
    """
    from matplotlib import rc_context
    from matplotlib.figure import Figure
    from matplotlib.ticker import EngFormatter, LogLocator, NullLocator

    style: dict[Any, Any] = {
        "svg.fonttype": "none",
        "svg.hashsalt": "phin",
        "font.size": 9,
        "text.color": INK,
    }
    with rc_context(style):
        canvas = Figure(figsize=(7.5, 3.4), layout="constrained")
        axes = canvas.add_subplot()
        for color, (name, (x, y)) in zip(SERIES, lines.items(), strict=False):
            marker = "o" if name in points else None
            axes.plot(np.asarray(x), np.asarray(y), color=color, lw=1.6, marker=marker, ms=4, label=name)
        axes.set_yscale("log")
        axes.set_xlabel(across, color=QUIET)
        axes.set_ylabel(up, color=QUIET)
        axes.xaxis.set_major_formatter(EngFormatter(sep=""))
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.yaxis.set_major_formatter("{x:g}")
        axes.yaxis.set_minor_locator(NullLocator())
        axes.tick_params(colors=QUIET, length=0)
        axes.grid(axis="y", color=QUIET, alpha=0.25, lw=0.6)
        axes.spines[:].set_visible(False)
        axes.set_xlim(left=0)
        axes.margins(x=0.01)
        canvas.legend(loc="outside upper left", ncols=len(lines), frameon=False, handlelength=1.4)
        file = io.StringIO()
        canvas.savefig(file, format="svg", transparent=True, metadata={"Date": None})
    svg = file.getvalue()
    svg = svg[svg.index("<svg") :].replace(INK, "currentColor").replace(QUIET, "var(--quiet)")
    for i, color in enumerate(SERIES, 1):
        svg = svg.replace(color, f"var(--s{i})")
    return re.sub(r"font: ([\d.]+px) [^;\"]*", r"font-size: \1", svg)
