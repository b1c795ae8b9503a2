"""A comparison as one self-contained page: no script, nothing fetched, light and dark, narrow and wide."""

from collections.abc import Mapping
from html import escape
from typing import Any

from understudy.evaluation import Comparison, ScheduleEvaluation
from understudy.report.authorship import written_runs
from understudy.report.comparison_table import TextTable, cost_table, diversity_table, quality_table, summarise
from understudy.report.page_style import card_html, legend_html, model_styles, page_html, picture_html, table_html


def render_page(
    comparison: Comparison,
    tokenizer: Any,
    *,
    picture: bytes | None = None,
    environment: Mapping[str, Any] | None = None,
) -> str:
    """Give the page as HTML: summary, tables, picture (PNG) and every sample, its text coloured by who wrote it."""
    title = f"{len(comparison.schedules)} schedules, the same noise"
    image = "" if picture is None else picture_html(picture, "Quality against cost, and who makes which steps")
    body = (
        f"<h1>{escape(title)}</h1>\n<p>{escape(summarise(comparison))}</p>\n"
        f"{image}{_table(quality_table(comparison))}{_table(diversity_table(comparison))}{_table(cost_table(comparison))}"
        f"{_samples(comparison, tokenizer)}{_footer(comparison, environment or {})}"
    )
    return page_html(f"Understudy: {title}", body, extra_style=model_styles(comparison.models))


def _table(table: TextTable) -> str:
    return f"<h2>{escape(table.title)}</h2>\n{table_html(table)}"


def _samples(comparison: Comparison, tokenizer: Any) -> str:
    writers = [entry.result.written_by() for entry in comparison.entries]
    sections = []
    for index in range(comparison.reference.scores.num_samples):
        cards = "".join(
            _card(entry, index, writer[index].tolist(), tokenizer)
            for entry, writer in zip(comparison.entries, writers, strict=True)
        )
        sections.append(f'<h2>Sample {index}</h2>\n<div class="samples">\n{cards}</div>\n')
    return f"<h2>Samples</h2>\n{legend_html(comparison.models)}{''.join(sections)}"


def _card(entry: ScheduleEvaluation, index: int, keys: list[str], tokenizer: Any) -> str:
    runs = written_runs(tokenizer, entry.result.tokens[index].tolist(), keys)
    return card_html(entry.label, str(entry.result.schedule), runs)


def _footer(comparison: Comparison, environment: Mapping[str, Any]) -> str:
    scores = comparison.reference.scores
    context = "" if scores.context_length is None else f", context {scores.context_length} tokens"
    facts = {"Judge": f"{scores.judge}{context}"}
    facts |= {name: str(value) for name, value in {**comparison.settings, **environment}.items()}
    lines = "".join(f"{escape(name)}: {escape(value)}<br>\n" for name, value in facts.items())
    return f'<footer class="note">{lines}</footer>\n'
