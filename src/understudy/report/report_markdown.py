"""A report as Markdown, with its pictures in files beside it."""

import re
from collections.abc import Sequence
from urllib.parse import quote

from understudy.report.authorship import Run, visible
from understudy.report.blocks import Block, Origin, Picture, Prose, Report, SampleCards, Section
from understudy.report.comparison_table import TextTable

MARKS = ("", "b", "i", "ins", "samp")  # elements that Markdown keeps, by model, the costliest first
GIVEN_MARK = "sub"
MAX_UNREAD = 30
_SPECIAL = re.compile(r"([\\`*_{}\[\]<>|~#$&])")


def render_markdown(report: Report, picture_folder: str) -> str:
    """Give the report as Markdown. picture_folder: where its pictures are, relative to it."""
    parts = [f"# {_plain(report.title)}", _plain(report.lead)]
    for chapter in report.chapters:
        parts += [f"## {_plain(chapter.title)}", f"*{_plain(chapter.purpose)}*"]
        for section in chapter.sections:
            parts += _section(section, picture_folder, report.models)
    parts += ["## Not read", _unread(report)] if report.unread else []
    return "\n\n".join(parts) + "\n"


def _section(section: Section, picture_folder: str, models: Sequence[str]) -> list[str]:
    parts = [f"### {_plain(section.title)}", _plain(section.facts), f"**{_plain(' '.join(section.reading))}**"]
    return [*parts, *(_block(block, picture_folder, models) for block in section.blocks)]


def _block(block: Block, picture_folder: str, models: Sequence[str]) -> str:
    if isinstance(block, Prose):
        return _plain(block.text)
    if isinstance(block, Picture):
        link = f"{quote(picture_folder)}/{quote(block.name)}.png"
        return f"![{_plain(block.alt)}]({link})\n\n*{_plain(block.caption)}*"
    if isinstance(block, Origin):
        return _origin(block)
    if isinstance(block, SampleCards):
        return _cards(block, models)
    return _table(block)


def _table(table: TextTable) -> str:
    rows = [table.columns, ("---",) * len(table.columns), *table.rows]
    lines = [f"| {' | '.join(cells if cells[0] == '---' else map(_plain, cells))} |" for cells in rows]
    return "\n".join([f"**{_plain(table.title)}**", "", *lines, *(["", _plain(table.note)] if table.note else [])])


def _origin(origin: Origin) -> str:
    heading = f"How {_plain(origin.file)} was made:"
    facts = [f"- {_plain(name)}: {_plain(text)}" for name, text in origin.facts.items()]
    if origin.command is None:
        return "\n".join([heading, "", "- command: not in the file", *facts])
    # Indented, so that nothing in a command can end the block.
    command = "\n".join(f"    {line}" for line in visible(origin.command).splitlines() or [""])
    return "\n".join([heading, "", command, "", *facts])


def _cards(cards: SampleCards, models: Sequence[str]) -> str:
    marks = {key: MARKS[index % len(MARKS)] for index, key in enumerate(models)}
    legend = ", ".join(f"{_marked(f'written by {key}', marks[key])}" for key in cards.models)
    legend += f", {_marked('given', GIVEN_MARK)}" if cards.has_given else ""
    parts = [f"Texts: {legend}."] if cards.models else []
    for card in cards.cards:
        text = "".join(_run(run, marks, has_given=cards.has_given) for run in card.runs)
        detail = f" ({_plain(card.detail)})" if card.detail else ""
        parts.append(f"**{_plain(card.title)}**{detail}\n\n> {text}")
    return "\n\n".join(parts)


def _run(run: Run, marks: dict[str, str], *, has_given: bool) -> str:
    mark = marks.get(run.key, "") if run.key else GIVEN_MARK if has_given else ""
    return _marked(_plain(run.text), mark)


def _marked(text: str, mark: str) -> str:
    return f"<{mark}>{text}</{mark}>" if mark else text


def _plain(text: str) -> str:
    """Text that Markdown shows as it is, on one line."""
    return _SPECIAL.sub(r"\\\1", re.sub(r"\s*\n\s*", " ", visible(text)))


def _unread(report: Report) -> str:
    lines = [f"- {_plain(name)} ({_plain(why)})" for name, why in report.unread[:MAX_UNREAD]]
    hidden = len(report.unread) - MAX_UNREAD
    return "\n".join([*lines, *([f"- and {hidden} more"] if hidden > 0 else [])])
