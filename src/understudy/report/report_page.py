"""A report as one self-contained page: no script, nothing fetched, light and dark, narrow and wide."""

from html import escape

from understudy.report.authorship import visible
from understudy.report.blocks import Block, Chapter, Origin, Picture, Prose, Report, SampleCards, Section
from understudy.report.page_style import card_html, legend_html, model_styles, page_html, picture_html, table_html

MAX_UNREAD = 30
STYLE = """
nav { background: var(--card); border-radius: 6px; padding: .6rem 1rem; margin: 1.2rem 0; }
nav ul { margin: .3rem 0 .6rem; padding-left: 1.2rem; }
nav li { margin: .3rem 0; max-width: 90ch; }
nav p { margin: .5rem 0 0; font-weight: 600; }
h2 { font-size: 1.3rem; margin-top: 3rem; border-bottom: 2px solid var(--line); padding-bottom: .3rem; }
section > h3 { font-size: 1.05rem; margin: 2rem 0 .3rem; overflow-wrap: anywhere; }
.reading { border-left: 4px solid var(--link); padding-left: .8rem; }
p { max-width: 80ch; }
.note { max-width: 100ch; }
figure { margin: 0; }
figcaption { color: var(--soft); font-size: .85rem; margin: .4rem 0 .8rem; }
section > h4 { font-size: .95rem; margin: 1.3rem 0 .2rem; }
details { margin: .8rem 0; font-size: .85rem; }
summary { cursor: pointer; color: var(--link); }
pre { background: var(--card); border-radius: 6px; padding: .6rem .8rem; margin: .5rem 0; white-space: pre-wrap;
  overflow-wrap: anywhere; font-size: .85rem; }
dl { display: grid; grid-template-columns: minmax(6rem, auto) 1fr; gap: .15rem 1rem; margin: .5rem 0; max-width: 90ch; }
dt { color: var(--soft); }
dd { margin: 0; overflow-wrap: anywhere; }
@media (max-width: 40rem) { dl { grid-template-columns: 1fr; } dd { margin-bottom: .3rem; } }
@media print { nav { break-after: page; } figure, table, article { break-inside: avoid; } }
"""


def render_report_page(report: Report) -> str:
    """Give the page as HTML: what the numbers say, then each chapter, then what was not read."""
    chapters = "".join(_chapter(chapter, number) for number, chapter in enumerate(report.chapters, 1))
    body = (
        f"<main>\n<h1>{escape(report.title)}</h1>\n<p>{escape(report.lead)}</p>\n"
        f"{_contents(report)}{chapters}</main>\n{_footer(report)}"
    )
    return page_html(report.title, body, extra_style=STYLE + model_styles(report.models))


def _contents(report: Report) -> str:
    """Links to all sections, each with the first thing that its numbers say."""
    parts = []
    for number, chapter in enumerate(report.chapters, 1):
        items = "".join(
            f'<li><a href="#{_anchor(number, index)}">{escape(section.title)}</a>: {escape(section.reading[0])}</li>\n'
            for index, section in enumerate(chapter.sections, 1)
        )
        parts.append(f"<p>{escape(chapter.title)}</p>\n<ul>\n{items}</ul>\n")
    return f'<nav aria-label="Contents">\n{"".join(parts)}</nav>\n'


def _anchor(chapter: int, section: int) -> str:
    return f"part-{chapter}-{section}"


def _chapter(chapter: Chapter, number: int) -> str:
    sections = "".join(_section(section, _anchor(number, index)) for index, section in enumerate(chapter.sections, 1))
    return f'<h2>{escape(chapter.title)}</h2>\n<p class="note">{escape(chapter.purpose)}</p>\n{sections}'


def _section(section: Section, anchor: str) -> str:
    reading = escape(" ".join(section.reading))
    return (
        f'<section id="{anchor}" aria-labelledby="{anchor}-title">\n'
        f'<h3 id="{anchor}-title">{escape(section.title)}</h3>\n'
        f'<p class="note">{escape(section.facts)}</p>\n<p class="reading">{reading}</p>\n'
        f"{''.join(_block(block) for block in section.blocks)}</section>\n"
    )


def _block(block: Block) -> str:
    if isinstance(block, Prose):
        return f"<p>{escape(block.text)}</p>\n"
    if isinstance(block, Picture):
        caption = f"<figcaption>{escape(block.caption)}</figcaption>"
        return f"<figure>\n{picture_html(block.png, block.alt)}{caption}\n</figure>\n"
    if isinstance(block, Origin):
        return _origin(block)
    if isinstance(block, SampleCards):
        cards = "".join(card_html(card.title, card.detail, card.runs, level=4) for card in block.cards)
        legend = legend_html(block.models, has_given=block.has_given) if block.models else ""
        return f'{legend}<div class="samples">\n{cards}</div>\n'
    return f"<h4>{escape(block.title)}</h4>\n{table_html(block)}"


def _origin(origin: Origin) -> str:
    command = "" if origin.command is None else f"<pre>{escape(visible(origin.command))}</pre>\n"
    hardware = origin.facts.get("hardware")
    where = "" if hardware is None else f'<p class="note">Made on {escape(hardware)}.</p>\n'
    told = {} if origin.command is not None else {"command": "not in the file"}
    told |= origin.facts
    facts = "".join(f"<dt>{escape(name)}</dt><dd>{escape(text)}</dd>\n" for name, text in told.items())
    return (
        f"{command}{where}<details>\n<summary>Settings and versions of {escape(origin.file)}</summary>\n"
        f"<dl>\n{facts}</dl>\n</details>\n"
    )


def _footer(report: Report) -> str:
    if not report.unread:
        return '<footer class="note"><p>Every file in the folder was read.</p></footer>\n'
    items = "".join(f"<li>{escape(name)} ({escape(why)})</li>\n" for name, why in report.unread[:MAX_UNREAD])
    hidden = len(report.unread) - MAX_UNREAD
    more = f"<li>and {hidden} more</li>\n" if hidden > 0 else ""
    return f'<footer class="note">\n<h2>Not read</h2>\n<ul>\n{items}{more}</ul>\n</footer>\n'
