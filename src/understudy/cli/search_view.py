"""A search on a terminal: one bar while it runs, then ranks, segments, intervals and what can be read from them."""

from collections.abc import Generator, Mapping
from typing import TYPE_CHECKING

from rich import box
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from understudy.cli.progress import print_plainly
from understudy.cli.written_text import model_style
from understudy.driving import run_to_end

if TYPE_CHECKING:
    from understudy.schedule import ModelSchedule
    from understudy.search import SearchEntry, SearchProgress, SearchResult

MAX_ROWS = 40
"""Ranked schedules on the terminal; the file holds all of them."""
MAX_RUNS = 8
"""Runs of steps of a schedule that does not follow the segments; of longer ones the table gives the first few."""
WIDE = 90  # characters from which a schedule has twelve on a line, and eight below


def drive_search(run: "Generator[SearchProgress, None, SearchResult]") -> "SearchResult":
    """Run a search to its end under one bar on standard error; its total is exact, and falls as halving drops.

    Where standard error is no terminal, a line tells of each schedule that has been measured.
    """
    columns = (
        TextColumn("{task.description}"),
        BarColumn(bar_width=24),
        MofNCompleteColumn(),
        TextColumn("passes, {task.fields[place]}"),
        TimeRemainingColumn(),
    )
    console = Console(stderr=True)
    with Progress(*columns, console=console, disable=not console.is_terminal) as bars:
        task = bars.add_task("search", total=None, place="")

        def show(record: "SearchProgress") -> None:
            bars.update(task, completed=record.passes_done, total=record.num_passes, place=_place(record))
            if not console.is_terminal and record.stage == "measured":
                print_plainly(console, _line(record))

        return run_to_end(run, show)


def _line(record: "SearchProgress") -> str:
    assert record.unit is not None
    unit, share = record.unit, record.passes_done / max(1, record.num_passes)
    return (
        f"{unit.schedule}: samples {unit.first} to {unit.end - 1} measured; {record.passes_done:,} of "
        f"{record.num_passes:,} passes ({share:.0%})"
    )


def _place(record: "SearchProgress") -> str:
    rounds = f"round {record.round}/{record.num_rounds}, " if record.num_rounds > 1 else ""
    samples = "" if record.unit is None else f", samples {record.unit.first} to {record.unit.end - 1}"
    return f"{rounds}{record.num_left} schedules{samples}"


def show_search(console: Console, result: "SearchResult") -> None:
    """Print the ranking, ties between rules, and what can be read from it."""
    from understudy.report.search_reading import summarise_search

    with_prediction = any(entry.predicted_path_kl is not None for entry in result.entries)
    table = _table(result, with_prediction)
    width = 12 if console.width >= WIDE else 8
    ranked = result.ranked[:MAX_ROWS]
    for entry, following in zip(ranked, [*ranked[1:], None], strict=True):
        is_last = following is None or following.rank_range != entry.rank_range
        table.add_row(*_row(entry, result, with_prediction, width), end_section=is_last)
    for entry in result.beside:
        table.add_row(*_row(entry, result, with_prediction, width))
    console.print(table)
    if len(result.ranked) > MAX_ROWS:
        console.print(f"{len(result.ranked) - MAX_ROWS} more schedules are in the file.", highlight=False)
    console.print(Text(summarise_search(result)))


def _table(result: "SearchResult", with_prediction: bool) -> Table:
    notes = [
        f"Differences are to {result.reference}, in nats per token, and of entropy in nats; paired by seed, with 95 % "
        "bootstrap intervals over samples. Schedules between two rules are tied: none is told from the first of them, "
        "and the one behind them is; others further down may not be."
    ]
    notes += ["★: the planner's choice."] if result.planner is not None else []
    notes += ["out: dropped by halving, on fewer samples."] if any(entry.dropped for entry in result.ranked) else []
    table = Table(
        title=f"{len(result.ranked)} schedules of one cost, judged by {result.judge['name']}",
        caption=" ".join(notes),
        title_justify="left",
        caption_justify="left",
        box=box.SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
        pad_edge=False,
    )
    table.add_column("rank", justify="right", no_wrap=True)
    table.add_column("segments", overflow="fold")
    table.add_column("difference\n[95 %]", justify="right", no_wrap=True)
    table.add_column("judge\nppl", justify="right", no_wrap=True)
    table.add_column("entropy\nchange", justify="right", no_wrap=True)
    if with_prediction:
        table.add_column("path KL,\npredicted", justify="right", no_wrap=True)
    table.add_column("samples", justify="right", no_wrap=True)
    return table


def _row(entry: "SearchEntry", result: "SearchResult", with_prediction: bool, width: int) -> list[Text | str]:
    from understudy.report.search_reading import shown_ranks

    paired = entry.nll_difference
    is_reference = str(entry.schedule) == result.reference
    figures = f"{paired.difference:+z.3f} [{paired.low:+z.3f}, {paired.high:+z.3f}]"
    cells: list[Text | str] = [
        shown_ranks(entry),
        _segments(entry, result, width),
        Text("reference" if is_reference else figures),
        f"{entry.gen_ppl:.1f}",
        f"{entry.entropy_difference.difference:+z.3f}",
    ]
    if with_prediction:
        known = entry.predicted_path_kl is not None
        cells.append(f"{entry.predicted_path_kl:.3g} ± {entry.predicted_se:.2g}" if known else "–")
    return [*cells, f"{entry.num_samples}" + ("" if entry.dropped is None else " out")]


def _segments(entry: "SearchEntry", result: "SearchResult", width: int) -> Text:
    """Its letters in the colours of the models, or its notation where it does not follow the segments."""
    from understudy.report.authorship import model_colours

    colours = model_colours(result.models)
    text = Text()
    if entry.segments is not None:
        for letter in entry.segments:
            text.append(letter, style=model_style(letter, colours))
    else:
        _append_notation(text, entry.schedule, colours, width)
    is_planner = result.planner is not None and result.planner.schedule == str(entry.schedule)
    return text.append(" ★" if is_planner else "")


def _append_notation(text: Text, schedule: "ModelSchedule", colours: "Mapping[str, str]", width: int) -> None:
    """Add a schedule, broken after commas into lines of at most `width` characters where a run allows it."""
    runs = schedule.segments if len(schedule.segments) <= MAX_RUNS else schedule.segments[: MAX_RUNS // 2]
    used = 0
    for index, run in enumerate(runs):
        separator = "" if index == len(schedule.segments) - 1 else ","
        length = len(str(run)) + len(separator)
        if index and used + length > width:
            text.append("\n")
            used = 0
        text.append(str(run), style=model_style(run.key, colours)).append(separator)
        used += length
    if len(runs) < len(schedule.segments):
        text.append(f"\n… {len(schedule.segments)} runs")
