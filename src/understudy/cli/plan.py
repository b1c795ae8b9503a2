"""`understudy plan`: the best schedule for a budget, and what it is predicted to do to the text."""

import json
import re
import shlex
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich import box
from rich.console import Console
from rich.table import Table

from understudy.cli.files import check_files
from understudy.cli.flops import SAVINGS, TIMES, fold_schedule, grid_note, read_costs
from understudy.cli.search_view import MAX_WIDTH, short_number
from understudy.errors import SettingError

if TYPE_CHECKING:
    from understudy.planning import Budget, ForcedSteps, Plan, Prediction

SCHEDULE, SHORTEST, MAX_LINES = 16, 8, 4
"""Of the column of schedules: characters that others make room for, fewest in any case, and most lines of one."""
LEAST_FIRST = ("relative\nto plan", "nats a\ntoken", "light\nsteps")

ImportancePath = Annotated[
    Path,
    typer.Option("--importance", metavar="FILE", help="Analysis of `understudy analyze`: where the models differ."),
]
LightSteps = Annotated[
    int | None, typer.Option("--light-steps", help="Budget: steps that the reference does not make, exactly.")
]
LightFraction = Annotated[
    str | None, typer.Option("--light-fraction", metavar="SHARE", help="The same as a share, such as 0.25 or 25%.")
]
SaveFlops = Annotated[
    str | None,
    typer.Option("--save-flops", metavar="SHARE", help="Budget: least share of FLOPs to save, such as 16.7%."),
]
ConventionName = Annotated[
    str,
    typer.Option("--convention", help="How FLOPs are counted: blocks (nominal), head (nominal with head) or executed."),
]
Milliseconds = Annotated[
    float | None, typer.Option("--milliseconds", help="Budget: most milliseconds for a sample; needs --cost-table.")
]
Costs = Annotated[
    Path | None,
    typer.Option("--cost-table", metavar="FILE.json", help="Pass times of `understudy bench`: count milliseconds too."),
]
BatchSize = Annotated[
    int | None, typer.Option("--batch-size", help="Sequences in a pass of the cost table. Default: its largest.")
]
Steps = Annotated[int | None, typer.Option("--steps", help="Denoising steps N. Default: those of the analysis.")]
Condition = Annotated[
    str | None, typer.Option("--condition", metavar="NAME", help="Condition that was analyzed. Default: the first.")
]
MaxSwitches = Annotated[int | None, typer.Option("--max-switches", help="Most changes of model.")]
MinRun = Annotated[int, typer.Option("--min-run", help="Least steps of a segment.")]
Force = Annotated[
    list[str] | None,
    typer.Option(
        "--force",
        metavar="KEY=FROM-TO",
        help="Steps that one model makes: H=0-100 the first hundred, H=90%-100% the last tenth; may be repeated.",
    ),
]
Output = Annotated[Path | None, typer.Option("--output", metavar="FILE.json", help="Write the plan there.")]
Figure = Annotated[Path | None, typer.Option("--figure", metavar="FILE.png", help="Draw frontier, rules and plan.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON document and nothing else.")]


def plan_command(
    importance: ImportancePath,
    light_steps: LightSteps = None,
    light_fraction: LightFraction = None,
    save_flops: SaveFlops = None,
    convention: ConventionName = "blocks",
    milliseconds: Milliseconds = None,
    cost_table: Costs = None,
    batch_size: BatchSize = None,
    steps: Steps = None,
    condition: Condition = None,
    max_switches: MaxSwitches = None,
    min_run: MinRun = 1,
    force: Force = None,
    output: Output = None,
    figure: Figure = None,
    as_json: AsJson = False,
) -> None:
    """Find the schedule of least divergence within a budget, and say what it certifies.

    Give one budget. The schedule is exact: none within budget and limits has less of the (smoothed) path divergence.
    """
    check_files(output, figure)
    budget = _read_budget(light_steps, light_fraction, save_flops, milliseconds, convention)
    if milliseconds is not None and cost_table is None:
        raise SettingError("--milliseconds needs pass times; give --cost-table FILE.json of `understudy bench` too")
    from understudy.importance import Importance
    from understudy.planning import Limits, make_plan

    found = Importance.load(importance)
    count = found.path(condition).num_steps if steps is None else steps
    forced = tuple(_read_range(text, count) for text in force or ())
    plan = make_plan(
        found,
        budget,
        Limits(max_switches=max_switches, min_run=min_run, forced=forced),
        steps=steps,
        condition=condition,
        costs=read_costs(cost_table, batch_size),
        source=str(importance),
        command=shlex.join(["understudy", *sys.argv[1:]]),
    )
    _write(plan, output, figure)
    if as_json:
        typer.echo(json.dumps(plan.to_dict(), ensure_ascii=False))
    else:
        _show(Console(), plan, [path for path in (output, figure) if path is not None])


def _read_budget(
    light_steps: int | None,
    light_fraction: str | None,
    save_flops: str | None,
    milliseconds: float | None,
    convention: str,
) -> "Budget":
    """The one budget that was given."""
    fraction, saved = _read_share("--light-fraction", light_fraction), _read_share("--save-flops", save_flops)
    if sum(value is not None for value in (light_steps, fraction, saved, milliseconds)) != 1:
        raise SettingError("give one budget: --light-steps, --light-fraction, --save-flops or --milliseconds")
    from understudy.planning import Budget

    return Budget(light_steps, fraction, saved, milliseconds, convention)  # type: ignore[arg-type]


def _read_share(option: str, text: str | None) -> float | None:
    """A share in [0, 1], written as such or in percent."""
    if text is None:
        return None
    match = re.fullmatch(r"(\d{1,9}(?:\.\d{1,15})?|\.\d{1,15})(%?)", text.strip(), re.ASCII)
    share = None if match is None else float(match[1]) / (100 if match[2] else 1)
    if share is None or share > 1:
        raise SettingError(f"{option} is {text!r}; it must be a share from 0 to 1 or a percentage, such as 16.7%")
    return share


def _read_range(text: str, num_steps: int) -> "ForcedSteps":
    """Read KEY=FROM-TO: steps from boundary to boundary, so that 0-100 are the first hundred, or percent of all."""
    from understudy.planning import ForcedSteps
    from understudy.schedule import apportion

    number = r"(\d{1,7}(?:\.\d{1,9})?)"
    match = re.fullmatch(rf"([A-Za-z])={number}(%?)-{number}(%?)", text.replace(" ", ""), re.ASCII)
    is_share = match is not None and bool(match[5])
    if match is None or (match[3] and not match[5]) or (not is_share and "." in match[2] + match[4]):
        raise SettingError(f"--force is {text!r}; write KEY=FROM-TO in steps or percent, such as H=0-100 or H=90%-100%")
    bounds = [float(match[2]), float(match[4])]
    if is_share:
        if bounds[1] > 100:
            raise SettingError(f"--force is {text!r}; percentages go from 0% to 100%")
        bounds = [apportion([bound / 100, 1 - bound / 100], num_steps)[0] for bound in bounds]
    if not bounds[0] < bounds[1] <= num_steps:
        raise SettingError(
            f"--force is {text!r}, steps {bounds[0]:g} to {bounds[1]:g} of {num_steps}; it must hold a step and end by "
            f"{num_steps}"
        )
    return ForcedSteps(match[1], int(bounds[0]), int(bounds[1]))


def _write(plan: "Plan", output: Path | None, figure: Path | None) -> None:
    """Write what was asked for, all of it or nothing."""
    from understudy.whole_files import write_together

    contents = {}
    if figure is not None:
        from understudy.report.plan_figure import render_plan

        contents[figure] = render_plan(plan)
    if output is not None:
        contents[output] = (json.dumps(plan.to_dict(), indent=1, ensure_ascii=False) + "\n").encode()
    if contents:
        write_together(contents)


def _show(console: Console, plan: "Plan", written: Sequence[Path]) -> None:
    settings, entry = plan.settings, plan.prediction
    console.print(f"Plan for {settings['steps']} steps, {settings['condition']}, {_describe(plan)}", highlight=False)
    console.print(f"\n  {plan.schedule}\n", highlight=False, soft_wrap=True)
    rest = "" if plan.is_exact else f" (not proven best: none has a divergence below {plan.lower_bound:.4g})"
    console.print(
        f"Predicted path KL {entry.path_kl:.4g} ± {entry.path_kl_se:.2g} nats a sequence, "
        f"{entry.per_token:.3g} a token{rest}{_rounded(plan)}.",
        highlight=False,
    )
    entries = [entry, *plan.named]
    for table in (_divergence_table(entries, plan.rounding, console), _cost_table(entries)):
        if table is not None:
            console.print(table)
    if settings.get("timed_steps") is not None and (note := grid_note(settings["timed_steps"], [settings["steps"]])):
        console.print(f"Milliseconds in {_batches(plan)}{note}.", highlight=False, markup=False)
    console.print(plan.certificate.sentence, highlight=False, markup=False)
    if written:
        console.print("Written:", *(f"  {path}" for path in written), sep="\n", markup=False, highlight=False)


def _describe(plan: "Plan") -> str:
    """The budget in words."""
    budget = plan.settings["budget"]
    if plan.convention == "milliseconds":
        return f"at most {budget['milliseconds']:g} ms a sample in {_batches(plan)}"
    if "saved" in budget:
        return f"at least {budget['saved']:.3%} of {plan.unit} saved"
    return f"{plan.prediction.light_steps} light"


def _batches(plan: "Plan") -> str:
    """What milliseconds hold for."""
    return f"batches of {plan.settings['batch_size']} on {plan.settings['place']}"


def _rounded(plan: "Plan") -> str:
    """What to add where nothing but rounding is predicted."""
    is_rounding = plan.prediction.light_steps and abs(plan.prediction.path_kl) <= plan.rounding
    return f"; below {plan.rounding:.1g} a sequence it is rounding" if is_rounding else ""


def _divergence_table(entries: "Sequence[Prediction]", rounding: float, console: Console) -> Table:
    """Who makes which steps, and what it is predicted to do.

    Schedules are broken into lines; where they would have fewer characters than `SCHEDULE`, the least important columns
    go first.
    """
    own = entries[0].path_kl
    columns: dict[str, Callable[[Prediction], str]] = {
        "light\nsteps": lambda entry: str(entry.light_steps),
        "path KL\n± s.e.": lambda entry: f"{short_number(entry.path_kl)} ± {short_number(entry.path_kl_se, digits=1)}",
        "nats a\ntoken": lambda entry: f"{entry.per_token:.2g}",
        "relative\nto plan": lambda entry: f"{entry.path_kl / own:.2f}" if own > rounding else "–",
    }
    longest = max(len(str(entry.schedule)) for entry in entries)
    for name in ("", *LEAST_FIRST):
        columns.pop(name, None)
        bare = _filled(entries, columns, 0)
        room = console.width - console.measure(bare, options=console.options.update_width(MAX_WIDTH)).maximum
        if room >= min(longest, SCHEDULE):
            break
    return _filled(entries, columns, max(SHORTEST, min(longest, room)))


def _filled(entries: "Sequence[Prediction]", columns: "Mapping[str, Callable[[Prediction], str]]", width: int) -> Table:
    """The table with schedules in lines of at most `width` characters; of 0, without any."""
    table = _grid("schedule" if width else " ", *columns)
    for entry in entries:
        lines = _fold(str(entry.schedule), width) if width else ""
        table.add_row(entry.name, lines, *(cell(entry) for cell in columns.values()))
    return table


def _fold(schedule: str, width: int) -> str:
    """A schedule in lines of at most `width` characters, at most `MAX_LINES` of them and then how many runs it has."""
    lines = fold_schedule(schedule, width).split("\n")
    if len(lines) > MAX_LINES:
        lines = [*lines[: MAX_LINES - 1], f"({schedule.count(',') + 1} runs)"]
    return "\n".join(lines)


def _cost_table(entries: "Sequence[Prediction]") -> Table | None:
    """What is saved, in all conventions; None where neither shapes nor times are known."""
    savings = list(SAVINGS) if entries[0].flops is not None else []
    times = TIMES if entries[0].milliseconds is not None else ()
    if not savings and not times:
        return None
    table = _grid(*(SAVINGS[name] for name in savings), *times)
    for entry in entries:
        cells = [f"{getattr(entry.flops, name):z.1%}" for name in savings]
        if entry.milliseconds is not None and entry.time_saved is not None:
            cells += [f"{entry.milliseconds:.3g}", f"{entry.time_saved:z.1%}"]
        table.add_row(entry.name, *cells)
    return table


def _grid(*columns: str) -> Table:
    """A table of one row for each schedule; the column of names comes first, that of schedules reads from the left."""
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False)
    for name in ("", *columns):
        table.add_column(name, justify="left" if name in ("", "schedule") else "right", no_wrap=True)
    return table
