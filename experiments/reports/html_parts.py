"""Parts of stand-alone pages: one HTML file each, without scripts, fonts or links.

Pages follow the reader's light or dark theme.
"""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Iterable, Sequence

import matplotlib.image
import numpy as np
from matplotlib.figure import Figure

from runkit import printable

_STYLE = """
:root { color-scheme: light dark; --paper: #fbfaf7; --ink: #1d2126; --soft: #5d6670; --line:
  #dcd8cf; --card: #ffffff;
  --one: #1f6fb2; --two: #c8741a; --three: #2c7a4b; --four: #8a4fa3;
  --bad: #b3261e; --warn: #8a6100; --good: #2c7a4b; }
@media (prefers-color-scheme: dark) { :root { --paper: #15181c; --ink: #e8e6e1; --soft: #a0a8b0;
  --line: #333a42; --card: #1d2228;
  --one: #6cb4ee; --two: #f0a04b; --three: #7fd3a0; --four: #c79be0;
  --bad: #ff8a80; --warn: #e6c15a; --good: #7fd3a0; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--paper); color: var(--ink); font: 15px/1.5 system-ui, sans-serif;
  }
main { max-width: 1120px; margin: 0 auto; padding: 32px 24px 64px; }
h1 { font-size: 26px; margin: 0 0 4px; } h2 { font-size: 18px; margin: 36px 0 10px; }
p { margin: 4px 0 12px; max-width: 75ch; } .soft { color: var(--soft); }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; } .wide { overflow-x: auto; }
th, td { text-align: left; padding: 5px 18px 5px 0; border-bottom: 1px solid var(--line);
  vertical-align: top; }
th { color: var(--soft); font-weight: 600; } td.number, th.number { text-align: right; }
.tiles { display: flex; flex-wrap: wrap; gap: 12px; margin: 20px 0; }
.tile { background: var(--card); border: 1px solid var(--line); border-radius: 8px; padding: 10px
  18px; min-width: 120px; }
.tile b { display: block; font-size: 24px; } .bad { color: var(--bad); } .warn { color: var(--warn);
  } .good { color: var(--good); }
.cards { display: grid; grid-template-columns: repeat(auto-fill, minmax(165px, 1fr)); gap: 12px; }
.card { background: var(--card); border: 1px solid var(--line); border-radius: 8px; padding: 8px;
  font-size: 12.5px; line-height: 1.35; overflow-wrap: anywhere; }
.card.refused { border-color: var(--bad); } .card img, .none { width: 100%; aspect-ratio: 1;
  object-fit: contain; background: #000; border-radius: 4px; display: block; }
.none { color: #9aa2aa; display: grid; place-items: center; } .card b { display: block; margin: 6px
  0 2px; }
.plots { display: grid; grid-template-columns: repeat(auto-fill, minmax(330px, 1fr)); gap: 20px; }
  svg { width: 100%; height: auto; display: block; }
svg text { fill: var(--soft); font: 11px system-ui, sans-serif; } .one { fill: var(--one); stroke:
  var(--one); } .two { fill: var(--two); stroke: var(--two); }
.three { stroke: var(--three); } .four { stroke: var(--four); }
.key span { display: inline-block; width: 11px; height: 11px; border-radius: 2px; margin: 0 6px 0
  14px; }
"""


SERIES = ("one", "two", "three", "four")  # colours of the series of a histogram, in turn


def page(title: str, subtitle: str, *sections: str) -> str:
    """Returns a page. `title` and `subtitle` are text, sections are HTML."""
    shown = "\n".join(sections)
    return document(
        title,
        f'<main>\n<h1>{text(title)}</h1>\n<p class="soft">{text(subtitle)}</p>\n{shown}\n</main>\n',
        style=_STYLE,
    )


def document(title: str, body: str, *, style: str, head: str = "") -> str:
    """Returns a whole HTML file.

    Args:
      title: its title, as text.
      body: what it shows, as HTML.
      style: its style sheet.
      head: further elements of its head, before the title.
    """
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'{head}<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{text(title)}</title>\n<style>{style}</style>\n</head>\n<body>\n{body}"
        "</body>\n</html>\n"
    )


def text(value: object) -> str:
    """Returns a value as escaped HTML, without characters that control a display."""
    return html.escape(printable.block(value))


def tiles(values: Iterable[tuple[object, str, str]]) -> str:
    """Returns a row of large numbers: value, what it counts, and "good", "bad", "warn" or ""."""
    shown = (
        f'<div class="tile"><b class="{kind}">{text(value)}</b>{text(what)}</div>'
        for value, what, kind in values
    )
    return f'<div class="tiles">{"".join(shown)}</div>'


def table(head: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """Returns a table; a column is aligned right if its heading ends in "#"."""
    numeric = [name.endswith("#") for name in head]

    def line(tag: str, cells: Iterable[object]) -> str:
        inner = (
            f"<{tag}{' class=number' if n else ''}>{text(c)}</{tag}>"
            for n, c in zip(numeric, cells, strict=True)
        )
        return "<tr>" + "".join(inner) + "</tr>"

    body = "\n".join(line("td", row) for row in rows)
    headings = line("th", [name.removesuffix("#") for name in head])
    return f'<div class="wide"><table>\n{headings}\n{body}\n</table></div>'


def picture(pixels: np.ndarray) -> str:
    """Returns a uint8 [rows, columns, 3] picture as a JPEG inside the page."""
    buffer = io.BytesIO()
    matplotlib.image.imsave(buffer, pixels, format="jpeg", pil_kwargs={"quality": 82})
    return (
        f'<img alt="" src="data:image/jpeg;base64,{base64.b64encode(buffer.getvalue()).decode()}">'
    )


def drawing(figure: Figure, alt: str, *, enlarge: bool = True) -> str:
    """Returns a figure as a PNG inside the page; `alt` describes it.

    It is as wide as the text, or at most so wide without `enlarge`.
    """
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", metadata={"Software": None})
    encoded = base64.b64encode(buffer.getvalue()).decode()
    width = "width" if enlarge else "max-width"
    return (
        f'<img alt="{text(alt)}" style="{width}:100%;border-radius:8px" '
        f'src="data:image/png;base64,{encoded}">'
    )


def histogram(
    edges: Sequence[float], series: Sequence[Sequence[float | None]], *, unit: str
) -> str:
    """Returns a histogram: bars for the first series, and a line over them for each further one.

    Args:
      edges: edges of the bins, one more than there are bins.
      series: lists of counts, each drawn relative to its largest; None for a bin whose
        count is not reported.
      unit: unit of the edges.
    """
    width, height, left, bottom = 340, 150, 6, 20
    step = (width - 2 * left) / (len(edges) - 1)
    parts = []
    for number, counts in enumerate(series):
        largest = max((c for c in counts if c), default=0) or 1
        tops = [
            height - bottom - (0 if not c else c / largest) * (height - bottom - 8) for c in counts
        ]
        if number == 0:
            bars = (
                f'<rect x="{left + i * step + 0.5:.1f}" y="{top:.1f}" '
                f'width="{max(step - 1, 0.5):.1f}" height="{height - bottom - top:.1f}"/>'
                for i, top in enumerate(tops)
            )
            parts.append(
                '<g class="one" stroke="none" style="stroke:none" opacity="0.75">'
                + "".join(bars)
                + "</g>"
            )
        else:
            points = " ".join(
                f"{left + i * step:.1f},{top:.1f} {left + (i + 1) * step:.1f},{top:.1f}"
                for i, top in enumerate(tops)
            )
            parts.append(
                f'<polyline class="{SERIES[number % len(SERIES)]}" points="{points}" '
                'style="fill:none" stroke-width="2"/>'
            )
    base = height - bottom
    axis = (
        f'<line x1="{left}" x2="{width - left}" y1="{base}" y2="{base}" '
        'style="stroke:var(--line)"/>'
    )
    ticks = []
    for share, anchor in ((0, "start"), (0.5, "middle"), (1, "end")):
        value = edges[0] + share * (edges[-1] - edges[0])
        ticks.append(
            f'<text x="{left + share * (width - 2 * left):.0f}" y="{height - 5}" '
            f'text-anchor="{anchor}">{value:.4g} {text(unit)}</text>'
        )
    return (
        f'<svg viewBox="0 0 {width} {height}" role="img">'
        + "".join(parts)
        + axis
        + "".join(ticks)
        + "</svg>"
    )
