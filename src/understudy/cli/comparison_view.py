"""A comparison on a terminal: bars while it runs, tables, and samples coloured by who wrote them."""

from collections.abc import Generator, Iterable
from typing import TYPE_CHECKING, Any, TypeVar

from rich import box
from rich.columns import Columns
from rich.console import Console, JustifyMethod
from rich.panel import Panel
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from understudy.cli.decoding_options import told_decoding
from understudy.cli.written_text import legend, written_text
from understudy.driving import run_to_end

if TYPE_CHECKING:
    from understudy.evaluation import Comparison, ComparisonProgress, ScheduleEvaluation
    from understudy.report.comparison_table import TextTable

T = TypeVar("T")
WIDE = 100  # characters from which two samples stand side by side
MAX_WIDTH = 1000  # characters that a table is measured in


def drive(run: "Generator[ComparisonProgress, None, T]", *, is_shown: bool = True) -> T:
    """Run a comparison to its end under one bar per schedule, on standard error; a total that is known is exact."""
    columns = (
        TextColumn("{task.description:<14}"),
        BarColumn(bar_width=24),
        MofNCompleteColumn(),
        TextColumn("passes, {task.fields[samples]} samples {task.fields[stage]}"),
        TimeRemainingColumn(),
    )
    console = Console(stderr=True)
    # Without a terminal, rich would still leave an empty line where the bars were.
    with Progress(*columns, console=console, disable=not (is_shown and console.is_terminal)) as bars:
        known: dict[str, TaskID] = {}
        return run_to_end(run, lambda record: _update(bars, known, record))


def _update(bars: Progress, known: dict[str, TaskID], record: "ComparisonProgress") -> None:
    fields: dict[str, Any] = {"samples": f"{record.samples_done}/{record.num_samples}", "stage": record.stage}
    if record.name not in known:
        # Not started, so that the time of others does not count.
        known[record.name] = bars.add_task(record.name, total=record.num_passes, start=False, **fields)
    elif record.stage == "sampling" and bars.tasks[bars.task_ids.index(known[record.name])].start_time is None:
        bars.start_task(known[record.name])
    bars.update(known[record.name], completed=record.passes_done, **fields)


def show_tables(console: Console, comparison: "Comparison") -> None:
    """Print quality, cost, what can be read from them, and the rule of decoding where it is another than usual."""
    from understudy.report.comparison_table import cost_table, diversity_table, quality_table, summarise

    for table in (quality_table(comparison), diversity_table(comparison), cost_table(comparison)):
        _show_table(console, table)
    console.print(Text(summarise(comparison)))
    for name, line in told_decoding(comparison.settings).items():
        console.print(Text.assemble((f"{name} ", "dim"), line))


def _show_table(console: Console, table: "TextTable") -> None:
    """Print a table; where it is too wide, in two parts, each with the names of its rows."""
    everything = list(range(len(table.columns)))
    middle = (len(everything) + 1) // 2
    parts, breaking = [everything], " " if console.width >= WIDE else "\n"
    if not _fits(console, _grid(table, everything, breaking)):
        breaking = "\n"
        if not _fits(console, _grid(table, everything, breaking)):
            parts = [everything[:middle], [0, *everything[middle:]]]
    console.print(Text(table.title, style="italic"))
    for columns in parts:
        console.print(_grid(table, columns, breaking))
    console.print(Text(table.note, style="dim italic"), "", sep="\n")


def _fits(console: Console, grid: Table) -> bool:
    return console.measure(grid, options=console.options.update_width(MAX_WIDTH)).maximum <= console.width


def _grid(table: "TextTable", columns: list[int], breaking: str) -> Table:
    """Some columns of a table, the names of its rows among them; `breaking` stands for the line ends of cells."""
    grid = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False)
    for index in columns:
        side: JustifyMethod = "left" if index == 0 else "right"
        name = table.columns[index].replace("\n", breaking)
        grid.add_column(name, justify=side, no_wrap=index == 0, overflow="fold")
    for row in table.rows:
        grid.add_row(*(Text(row[index].replace("\n", breaking)) for index in columns))
    return grid


def show_samples(
    console: Console, comparison: "Comparison", tokenizer: Any, *, names: Iterable[str], count: int
) -> None:
    """Print the first `count` samples of the named schedules, side by side where the terminal is wide enough."""
    from understudy.report.authorship import model_colours

    colours = model_colours(comparison.models)
    console.print(legend(colours), "")
    chosen = [entry for entry in comparison.entries if entry.name in set(names)]
    is_wide = console.width >= WIDE
    width = console.width // len(chosen) - 1 if is_wide and chosen else console.width
    for index in range(min(count, comparison.reference.scores.num_samples)):
        panels = [_panel(entry, index, colours, tokenizer, width) for entry in chosen]
        console.print(Columns(panels) if is_wide else "", *([] if is_wide else panels), "", sep="\n")


def _panel(entry: "ScheduleEvaluation", index: int, colours: dict[str, str], tokenizer: Any, width: int) -> Panel:
    keys = entry.result.written_by()[index].tolist()
    text = written_text(tokenizer, entry.result.tokens[index].tolist(), keys, colours)
    title = Text(f"{entry.label}, {entry.result.schedule}, sample {index}")
    return Panel(text, title=title, title_align="left", width=width)
