"""A page that explains itself: one HTML file, with everything inside, in the reader's own light or dark.

A page is made of pieces of HTML, which the functions here return and `page` puts together. `markdown` and
`picture` are for what stands elsewhere.
"""

import base64
import io
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike

from phin.pictures import Picture, png

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

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


def markdown(heading: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table in Markdown."""
    lines = [heading, ["---"] * len(heading), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


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
    from matplotlib.ticker import EngFormatter, LogLocator, NullLocator

    def draw(axes: "Axes") -> None:
        for color, (name, (x, y)) in zip(SERIES, lines.items(), strict=False):
            marker = "o" if name in points else None
            axes.plot(np.asarray(x), np.asarray(y), color=color, lw=1.6, marker=marker, ms=4, label=name)
        axes.set_yscale("log")
        axes.xaxis.set_major_formatter(EngFormatter(sep=""))
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.yaxis.set_major_formatter("{x:g}")
        axes.yaxis.set_minor_locator(NullLocator())
        axes.set_xlim(left=0)

    return plot([draw], across, up)


def plot(
    draws: Sequence[Callable[["Axes"], None]],
    across: str,
    up: str,
    titles: Iterable[str] = (),
    size: tuple[float, float] = (7.5, 3.4),
    rows: int = 1,
) -> str:
    """Panels as inline SVG whose colours follow the page: `INK`, `QUIET` and `SERIES` stand for its own.

    Args:
        draws: What draws each panel, with a label for what belongs in the legend.
        across: What x is.
        up: What y is.
        titles: Of the panels.
        size: Width and height of the whole, inches.
        rows: Of panels.
    """
    file = io.StringIO()
    with _canvas(draws, across, up, titles, size, rows, INK, QUIET) as canvas:
        canvas.savefig(file, format="svg", transparent=True, metadata={"Date": None})
    svg = file.getvalue()
    svg = svg[svg.index("<svg") :].replace(INK, "currentColor").replace(QUIET, "var(--quiet)")
    for i, color in enumerate(SERIES, 1):
        svg = svg.replace(color, f"var(--s{i})")
    return re.sub(r"font: ([\d.]+px) [^;\"]*", r"font-size: \1", svg)


def picture(
    draws: Sequence[Callable[["Axes"], None]],
    across: str,
    up: str,
    titles: Iterable[str] = (),
    size: tuple[float, float] = (7.5, 4.2),
) -> bytes:
    """The same as a PNG file that stands alone, on the light page: panels draw in the colours of `light`."""
    colours, file = light(), io.BytesIO()
    with _canvas(draws, across, up, titles, size, 1, colours["ink"], colours["quiet"]) as canvas:
        canvas.savefig(file, format="png", dpi=160, facecolor=colours["paper"], metadata={"Software": None})
    return file.getvalue()


def light() -> dict[str, str]:
    """The colours of the light page by their names: paper, ink, quiet, s1 to s6, ..."""
    return dict(re.findall(r"--(\w+): (#\w+)", STYLE.read_text(encoding="utf-8").split("@media")[0]))


@contextmanager
def _canvas(
    draws: Sequence[Callable[["Axes"], None]],
    across: str,
    up: str,
    titles: Iterable[str],
    size: tuple[float, float],
    rows: int,
    ink: str,
    quiet: str,
) -> Iterator["Figure"]:
    """Panels with their furniture, under a style of matplotlib's that holds while they are saved."""
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    style: dict[Any, Any] = {
        "svg.fonttype": "none",
        "svg.hashsalt": "phin",
        "font.size": 9,
        "text.color": ink,
        "mathtext.default": "regular",
    }
    with rc_context(style):
        canvas = Figure(figsize=size, layout="constrained")
        panels = canvas.subplots(rows, len(draws) // rows, sharey=len(draws) > 1, squeeze=False).flatten()
        for axes, draw in zip(panels, draws, strict=True):
            axes.set_facecolor("none")
            draw(axes)
            axes.tick_params(which="both", colors=quiet, length=0)
            axes.grid(axis="y", color=quiet, alpha=0.25, lw=0.6)
            axes.spines[:].set_visible(False)
            axes.margins(x=0.01)
        for axes, title in zip(panels, titles, strict=False):
            axes.set_title(title, fontsize=9, loc="left")
        canvas.supxlabel(across, color=quiet, fontsize=9)
        canvas.supylabel(up, color=quiet, fontsize=9)
        named = {
            label: line
            for axes in panels
            for line, label in zip(*axes.get_legend_handles_labels(), strict=True)
        }
        if named:
            place = {"loc": "outside upper left", "frameon": False, "handlelength": 1.4}
            for columns in range(len(named), 0, -1):  # the most that the width has room for
                legend = canvas.legend(named.values(), named.keys(), ncols=columns, **place)
                if columns == 1 or legend.get_window_extent().width <= canvas.bbox.width:
                    break
                legend.remove()
        yield canvas
