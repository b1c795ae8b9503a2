"""What all pages share: one style sheet, light and dark, narrow and wide; nothing fetched, no script."""

import base64
import struct
from collections.abc import Iterable, Sequence
from html import escape

from understudy.report.authorship import Run, model_colours, visible
from understudy.report.comparison_table import TextTable

STYLE = """
:root { color-scheme: light dark; --ink: #22262b; --soft: #5a626c; --paper: #ffffff; --card: #f5f6f8; --line: #d9dde2;
  --link: #1c5fae; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e4e7eb; --soft: #a3abb5; --paper: #15181c; --card: #1e2227; --line: #373d45; --link: #7fb4f5; }
}
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 1.5rem clamp(1rem, 3vw, 2.5rem) 4rem; max-width: 80rem; color: var(--ink);
  background: var(--paper); font: 16px/1.55 system-ui, sans-serif; overflow-wrap: break-word; }
a { color: var(--link); }
h1 { font-size: 1.5rem; line-height: 1.25; margin: 0 0 .75rem; }
h2 { font-size: 1.1rem; margin: 2rem 0 .5rem; }
h3 { font-size: .95rem; margin: 0 0 .4rem; }
p { max-width: 70ch; margin: .5rem 0; }
.note { color: var(--soft); font-size: .85rem; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; font-size: .9rem; font-variant-numeric: tabular-nums; }
th, td { text-align: left; padding: .35rem 1.2rem .35rem 0; border-bottom: 1px solid var(--line); vertical-align: top; }
thead th { color: var(--soft); font-weight: 600; vertical-align: bottom; }
tbody th { font-weight: 600; }
td { white-space: nowrap; }
img { display: block; height: auto; background: #fff; border-radius: 6px; margin-top: 1rem; }
.samples { display: grid; gap: .8rem; grid-template-columns: repeat(auto-fit, minmax(min(100%, 16rem), 1fr)); }
article { background: var(--card); border-radius: 6px; padding: .8rem .9rem; min-width: 0; }
article h3, article h4 { font-size: .95rem; margin: 0 0 .4rem; overflow-wrap: anywhere; }
article small { color: var(--soft); font-weight: 400; }
article p { white-space: pre-wrap; overflow-wrap: anywhere; margin: 0; font-size: .92rem; line-height: 1.7; }
.legend span { margin-right: .8rem; }
span[class^="by-"] { padding: .08em 0; border-bottom-width: 2px;
  -webkit-box-decoration-break: clone; box-decoration-break: clone; }
footer { margin-top: 2.5rem; border-top: 1px solid var(--line); padding-top: .8rem; overflow-wrap: anywhere; }
"""
LINES = ("solid", "dashed", "dotted", "double")  # under text, by model, for eyes that see no colours
PIXELS_PER_INCH, DOTS_PER_INCH = 100, 160  # of the page; of the pictures
NARROWEST = 40  # rem; a picture does not shrink below it, it scrolls


def page_html(title: str, body: str, *, extra_style: str = "") -> str:
    """Give a whole page around a body that is HTML already."""
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(title)}</title>\n<style>{STYLE}{extra_style}</style>\n</head>\n"
        f"<body>\n{body}</body>\n</html>\n"
    )


def model_styles(models: Sequence[str]) -> str:
    """One class per model: a line under its text and a tint behind, so that reading needs no coloured letters."""
    return "".join(
        f".by-{key} {{ border-bottom-style: {LINES[index % len(LINES)]}; border-color: {colour}; "
        f"background: color-mix(in srgb, {colour} 17%, transparent); }}\n"
        for index, (key, colour) in enumerate(model_colours(models).items())
    )


def legend_html(models: Sequence[str], *, has_given: bool = False) -> str:
    """Say which line and tint are which model's."""
    legend = "".join(f'<span class="by-{key}">written by {key}</span>' for key in models)
    return f'<p class="legend">{legend}{"<span>given</span>" if has_given else ""}</p>\n'


def card_html(title: str, detail: str, runs: Iterable[Run], *, level: int = 3) -> str:
    """One sample under its heading, its text marked by who wrote it."""
    text = "".join(
        f'<span class="by-{run.key}">{escape(visible(run.text))}</span>' if run.key else escape(visible(run.text))
        for run in runs
    )
    heading = f"<h{level}>{escape(title)} <small>{escape(detail)}</small></h{level}>"
    return f"<article>{heading}<p>{text}</p></article>\n"


def picture_html(png: bytes, alt: str) -> str:
    """A picture inside the page, at its own size where there is room; where there is little it can be scrolled."""
    width, height = (size * PIXELS_PER_INCH // DOTS_PER_INCH for size in struct.unpack(">II", png[16:24]))
    data = base64.b64encode(png).decode("ascii")
    style = f"width: 100%; max-width: {width}px; min-width: min({width}px, {NARROWEST}rem)"
    image = (
        f'<img alt="{escape(alt)}" width="{width}" height="{height}" style="{style}" '
        f'src="data:image/png;base64,{data}">'
    )
    return f"{_scroll('picture')}{image}</div>\n"


def table_html(table: TextTable) -> str:
    """A table with its note; its title is for those who hear the page, the heading is left to the caller."""
    head = "".join(f'<th scope="col">{_one_line(name)}</th>' for name in table.columns)
    rows = "".join(
        f'<tr><th scope="row">{escape(name)}</th>{"".join(f"<td>{_one_line(cell)}</td>" for cell in cells)}</tr>\n'
        for name, *cells in table.rows
    )
    note = f'<p class="note">{escape(table.note)}</p>\n' if table.note else ""
    return (
        f"{_scroll(f'table: {table.title}')}<table>\n<thead><tr>{head}</tr></thead>\n"
        f"<tbody>\n{rows}</tbody>\n</table></div>\n{note}"
    )


def _scroll(label: str) -> str:
    """A box that scrolls sideways, by the keyboard too."""
    return f'<div class="scroll" role="region" tabindex="0" aria-label="{escape(label)}">'


def _one_line(cell: str) -> str:
    return escape(cell.replace("\n", " "))
