"""A search on a terminal: one bar while it runs, then ranks, segments, intervals and what can be read from them."""

from collections.abc import Callable, Generator, Mapping, Sequence
from typing import TYPE_CHECKING, TypeAlias

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
"""Runs of steps of a schedule; of longer ones the table gives the first few."""
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

    columns = _columns(result, 12 if console.width >= WIDE else 8)
    dropped: list[str] = []
    table = _table(result, columns, dropped)
    for name in LEAST_FIRST:
        if console.measure(table, options=console.options.update_width(MAX_WIDTH)).maximum <= console.width:
            break
        if columns.pop(name, None) is not None:
            dropped += [name] if name != STRIP else []
            table = _table(result, columns, dropped)
    console.print(table)
    if len(result.ranked) > MAX_ROWS:
        console.print(f"{len(result.ranked) - MAX_ROWS} more schedules are in the file.", highlight=False)
    console.print(Text(summarise_search(result)))


Cell: TypeAlias = Callable[["SearchEntry"], Text | str]
STRIP, RANK, SCHEDULE = "segments", "rank", "schedule"
PPL, ENTROPY, SAMPLES, PREDICTED = "judge\nppl", "entropy\nchange", "samples", "path KL,\npredicted"
LEAST_FIRST = (STRIP, PPL, SAMPLES, PREDICTED, ENTROPY)
"""Columns that go where there is no room for all. What stays: rank, schedule and difference."""
MAX_WIDTH = 1000  # characters that a table is measured in


def _columns(result: "SearchResult", width: int) -> dict[str, Cell]:
    """What each column says of an entry."""
    from understudy.report.authorship import model_colours
    from understudy.report.search_reading import shown_ranks

    colours = model_colours(result.models)
    columns: dict[str, Cell] = {
        RANK: shown_ranks,
        SCHEDULE: lambda entry: _schedule(entry, result, colours, width),
        STRIP: lambda entry: _strip(entry, colours),
        "difference\n[95 %]": lambda entry: _difference(entry, result),
        PPL: lambda entry: short_number(entry.gen_ppl),
        ENTROPY: lambda entry: f"{entry.entropy_difference.difference:+z.3f}",
        PREDICTED: _predicted,
        SAMPLES: lambda entry: f"{entry.num_samples}" + ("" if entry.dropped is None else " out"),
    }
    if all(entry.predicted_path_kl is None for entry in result.entries):
        del columns[PREDICTED]
    return columns


def _table(result: "SearchResult", columns: "Mapping[str, Cell]", left_out: "Sequence[str]") -> Table:
    ties = (
        "Ranks are the order of the estimates: so few samples tell nothing apart."
        if result.has_few_samples
        else "Schedules between two rules are tied: none is told from the first of them, and the one behind them is; "
        "others further down may not be."
    )
    notes = [
        f"Differences are to {result.reference}, in nats per token, and of entropy in nats; paired by seed, with 95 % "
        f"bootstrap intervals over samples. {ties}"
    ]
    if left_out:
        names = ", ".join(name.replace("\n", " ").replace(",", "") for name in left_out)
        notes += [f"No room here for: {names}; the file has all."]
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
    for name in columns:
        table.add_column(name, justify="left" if name in (SCHEDULE, STRIP) else "right", no_wrap=True)
    ranked = result.ranked[:MAX_ROWS]
    for entry, following in zip(ranked, [*ranked[1:], None], strict=True):
        is_last = following is None or following.rank_range != entry.rank_range
        table.add_row(*(cell(entry) for cell in columns.values()), end_section=is_last)
    for entry in result.beside:
        table.add_row(*(cell(entry) for cell in columns.values()))
    return table


def _difference(entry: "SearchEntry", result: "SearchResult") -> Text:
    paired = entry.nll_difference
    if str(entry.schedule) == result.reference:
        return Text("reference")
    return Text(f"{paired.difference:+z.3f} [{paired.low:+z.3f}, {paired.high:+z.3f}]")


def _predicted(entry: "SearchEntry") -> str:
    value, error = entry.predicted_path_kl, entry.predicted_se
    return "–" if value is None or error is None else f"{short_number(value)} ± {short_number(error, digits=1)}"


def short_number(value: float, *, digits: int = 3) -> str:
    """So many digits, and up to 9999 all those before the point."""
    return f"{value:.0f}" if 10 ** (digits - 1) <= abs(value) < 9999.5 else f"{value:.{digits}g}"


def _strip(entry: "SearchEntry", colours: "Mapping[str, str]") -> Text:
    """A letter for each segment, in the colours of the models; nothing where it does not follow the segments."""
    text = Text()
    for letter in entry.segments or "":
        text.append(letter, style=model_style(letter, colours))
    return text


def _schedule(entry: "SearchEntry", result: "SearchResult", colours: "Mapping[str, str]", width: int) -> Text:
    """Its notation in the colours of the models, and a star where it is the planner's choice."""
    text = Text()
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
