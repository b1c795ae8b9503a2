"""A comparison as one self-contained page: no script, nothing fetched, light and dark, narrow and wide."""

import base64
from collections.abc import Mapping
from html import escape
from typing import Any

from understudy.evaluation import Comparison, ScheduleEvaluation
from understudy.report.authorship import model_colours, visible, written_runs
from understudy.report.comparison_table import TextTable, cost_table, diversity_table, quality_table, summarise

_STYLE = """
:root { color-scheme: light dark; --ink: #22262b; --soft: #5a626c; --paper: #ffffff; --card: #f5f6f8; --line: #d9dde2; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e4e7eb; --soft: #a3abb5; --paper: #15181c; --card: #1e2227; --line: #373d45; }
}
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 1.5rem clamp(1rem, 3vw, 2.5rem) 4rem; max-width: 96rem; color: var(--ink);
  background: var(--paper); font: 16px/1.55 system-ui, sans-serif; }
h1 { font-size: 1.5rem; line-height: 1.25; margin: 0 0 .75rem; }
h2 { font-size: 1.1rem; margin: 2rem 0 .5rem; }
h3 { font-size: .95rem; margin: 0 0 .4rem; }
p { max-width: 70ch; margin: .5rem 0; }
.note { color: var(--soft); font-size: .85rem; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; font-size: .9rem; font-variant-numeric: tabular-nums; }
th, td { text-align: left; padding: .35rem 1.2rem .35rem 0; border-bottom: 1px solid var(--line); vertical-align: top; }
thead th { color: var(--soft); font-weight: 600; }
td { white-space: nowrap; }
img { display: block; width: 100%; min-width: 40rem; max-width: 75rem; height: auto;
  background: #fff; border-radius: 6px; margin-top: 1rem; }
.samples { display: grid; gap: .8rem; grid-template-columns: repeat(auto-fit, minmax(min(100%, 16rem), 1fr)); }
article { background: var(--card); border-radius: 6px; padding: .8rem .9rem; min-width: 0; }
article h3 small { color: var(--soft); font-weight: 400; }
article p { white-space: pre-wrap; overflow-wrap: anywhere; margin: 0; font-size: .92rem; line-height: 1.7; }
.legend span { margin-right: .8rem; }
span[class^="by-"] { padding: .08em 0; border-bottom-width: 2px; border-bottom-style: solid;
  -webkit-box-decoration-break: clone; box-decoration-break: clone; }
footer { margin-top: 2.5rem; border-top: 1px solid var(--line); padding-top: .8rem; overflow-wrap: anywhere; }
"""


def render_page(
    comparison: Comparison,
    tokenizer: Any,
    *,
    picture: bytes | None = None,
    environment: Mapping[str, Any] | None = None,
) -> str:
    """Give the page as HTML: summary, tables, picture (PNG) and every sample, its text coloured by who wrote it."""
    title = f"{len(comparison.schedules)} schedules, the same noise"
    image = "" if picture is None else _picture(picture)
    body = (
        f"<h1>{escape(title)}</h1>\n<p>{escape(summarise(comparison))}</p>\n"
        f"{image}{_table(quality_table(comparison))}{_table(diversity_table(comparison))}{_table(cost_table(comparison))}"
        f"{_samples(comparison, tokenizer)}{_footer(comparison, environment or {})}"
    )
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>Understudy: {escape(title)}</title>\n<style>{_STYLE}{_model_styles(comparison)}</style>\n</head>\n"
        f"<body>\n{body}</body>\n</html>\n"
    )


def _model_styles(comparison: Comparison) -> str:
    """One class per model: a line under its text and a tint behind, so that reading needs no coloured letters."""
    return "".join(
        f".by-{key} {{ border-color: {colour}; background: color-mix(in srgb, {colour} 17%, transparent); }}\n"
        for key, colour in model_colours(comparison.models).items()
    )


def _picture(png: bytes) -> str:
    data = base64.b64encode(png).decode("ascii")
    return f'<div class="scroll"><img alt="Quality against cost" src="data:image/png;base64,{data}"></div>\n'


def _table(table: TextTable) -> str:
    head = "".join(f'<th scope="col">{_one_line(name)}</th>' for name in table.columns)
    rows = "".join(
        f'<tr><th scope="row">{escape(name)}</th>{"".join(f"<td>{_one_line(cell)}</td>" for cell in cells)}</tr>\n'
        for name, *cells in table.rows
    )
    return (
        f'<h2>{escape(table.title)}</h2>\n<div class="scroll"><table>\n<thead><tr>{head}</tr></thead>\n'
        f'<tbody>\n{rows}</tbody>\n</table></div>\n<p class="note">{escape(table.note)}</p>\n'
    )


def _one_line(cell: str) -> str:
    return escape(cell.replace("\n", " "))


def _samples(comparison: Comparison, tokenizer: Any) -> str:
    legend = "".join(f'<span class="by-{key}">written by {key}</span>' for key in comparison.models)
    writers = [entry.result.written_by() for entry in comparison.entries]
    sections = []
    for index in range(comparison.reference.scores.num_samples):
        cards = "".join(
            _card(entry, index, writer[index].tolist(), tokenizer)
            for entry, writer in zip(comparison.entries, writers, strict=True)
        )
        sections.append(f'<h2>Sample {index}</h2>\n<div class="samples">\n{cards}</div>\n')
    return f'<h2>Samples</h2>\n<p class="legend">{legend}</p>\n{"".join(sections)}'


def _card(entry: ScheduleEvaluation, index: int, keys: list[str], tokenizer: Any) -> str:
    runs = written_runs(tokenizer, entry.result.tokens[index].tolist(), keys)
    text = "".join(
        f'<span class="by-{run.key}">{escape(visible(run.text))}</span>' if run.key else escape(visible(run.text))
        for run in runs
    )
    schedule = escape(str(entry.result.schedule))
    return f"<article><h3>{escape(entry.label)} <small>{schedule}</small></h3><p>{text}</p></article>\n"


def _footer(comparison: Comparison, environment: Mapping[str, Any]) -> str:
    scores = comparison.reference.scores
    context = "" if scores.context_length is None else f", context {scores.context_length} tokens"
    facts = {"Judge": f"{scores.judge}{context}"}
    facts |= {name: str(value) for name, value in {**comparison.settings, **environment}.items()}
    lines = "".join(f"{escape(name)}: {escape(value)}<br>\n" for name, value in facts.items())
    return f'<footer class="note">{lines}</footer>\n'
