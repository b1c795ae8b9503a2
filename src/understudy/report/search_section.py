"""What a search says, as a section of a report."""

from understudy.metrics import FEW_SAMPLES
from understudy.report.blocks import Section
from understudy.report.collection import Source
from understudy.report.comparison_table import TextTable
from understudy.report.origins import judged_by, origin_of, picture
from understudy.report.search_figure import render_search
from understudy.report.search_reading import short_schedule, shown_ranks, summarise_search
from understudy.report.wording import sentences, with_bounds, with_error
from understudy.search import SearchEntry, SearchResult

MAX_ROWS = 15  # ranked schedules in the table; the file holds all of them


def search_section(source: Source[SearchResult], name: str) -> Section:
    """The picture, the first schedules in order, and how predictions did. name: of the picture."""
    result = source.content
    caption = f"Each schedule's NLL less that of {result.reference}, under the same noise."
    alt = f"{len(result.ranked)} schedules of one cost by measured quality. {summarise_search(result)}"
    blocks = picture(name, lambda: render_search(result), alt, caption)
    facts = {"space": result.space, "analysis": result.importance or ""}
    origin = origin_of(source.name, result.command, result.settings, result.environment, **facts)
    reading = sentences(summarise_search(result))
    return Section(source.name, _facts(result), reading, (*blocks, _table(result), origin))


def _facts(result: SearchResult) -> str:
    space, judge = result.space, result.judge
    parts = [f"{len(result.ranked)} schedules: {space['num_segments']} segments of {space['steps']} steps"]
    parts += [f"{result.rounds[-1]} samples each"] if len(result.rounds) == 1 else []
    parts += [f"rounds of {', '.join(map(str, result.rounds))} samples"] if len(result.rounds) > 1 else []
    return "; ".join([*parts, judged_by(judge["name"], judge.get("context_length"))])


def _table(result: SearchResult) -> TextTable:
    has_prediction = any(entry.predicted_path_kl is not None for entry in result.entries)
    shown = [*result.ranked[:MAX_ROWS], *result.beside]
    hidden = len(result.ranked) - MAX_ROWS
    columns = ["rank", "schedule", "difference [95 %]", "judge perplexity [95 %]", "entropy change [95 %]"]
    columns += ["path KL, predicted"] if has_prediction else []
    ranks = (
        "Ranks: the order of the estimates, which so few samples do not tell apart."
        if result.has_few_samples
        else "A range of ranks is a tie: none in it is told from its first, and the one behind it is; others further "
        "down may not be."
    )
    note = (
        f"Differences are to {result.reference}, in nats a token, and of entropy in nats; 95 % bootstrap over samples, "
        f"paired. {ranks} – : of another cost, so not ranked."
    )
    note += f" {hidden} more schedules are in the file." if hidden > 0 else ""
    rows = tuple(_row(entry, result, has_prediction) for entry in shown)
    return TextTable("Schedules in order", (*columns, "samples"), rows, note)


def _row(entry: SearchEntry, result: SearchResult, has_prediction: bool) -> tuple[str, ...]:
    is_reference = str(entry.schedule) == result.reference
    paired, dullness = entry.nll_difference, entry.entropy_difference
    is_open = paired.within_noise and entry.num_samples >= FEW_SAMPLES
    difference = with_bounds(paired.difference, (paired.low, paired.high))
    cells = [shown_ranks(entry), short_schedule(entry.schedule)]
    cells += ["reference" if is_reference else difference + (" within noise" if is_open else "")]
    cells += [with_bounds(entry.gen_ppl, entry.gen_ppl_ci95, ".1f")]
    change = with_bounds(dullness.difference, (dullness.low, dullness.high))
    cells += [f"{entry.entropy:.3f} itself" if is_reference else change]
    if has_prediction:
        known = entry.predicted_path_kl
        cells += ["–" if known is None else with_error(known, entry.predicted_se)]
    return (*cells, str(entry.num_samples))
