"""Pass times and samples, as sections of a report."""

from collections.abc import Sequence
from typing import Any

from understudy.costs import CostTable
from understudy.errors import ScheduleError
from understudy.report.blocks import Block, SampleCard, SampleCards, Section
from understudy.report.collection import Source
from understudy.report.comparison_table import TextTable
from understudy.report.origins import listed, origin_of
from understudy.report.sample_files import SampleFile, cut_runs
from understudy.report.search_reading import short_schedule
from understudy.report.wording import counted
from understudy.schedule import ModelSchedule

MAX_FILES, MAX_SAMPLES, MAX_CHARACTERS = 8, 2, 1200  # files that are shown, samples of each, characters of each
MAX_TITLE = 60  # characters of a schedule


def pass_time_section(source: Source[CostTable]) -> Section:
    """Milliseconds of a pass by model and batch size."""
    costs = source.content
    keys, sizes = list(costs.times), costs.batch_sizes or sorted({size for row in costs.times.values() for size in row})
    rows = []
    for size in sizes:
        entries = [costs.times[key].get(size) for key in keys]
        shown = ["–" if e is None else f"{e.milliseconds:.3g} [{e.fastest:.3g}, {e.slowest:.3g}]" for e in entries]
        ratios = [
            "–" if first is None or other is None else f"{other.milliseconds / first.milliseconds:.2f}"
            for first, other in ((entries[0], other) for other in entries[1:])
        ]
        rows.append((str(size), *shown, *ratios))
    table = TextTable(
        "Milliseconds of a pass",
        ("batch", *(f"{key} [fastest, slowest]" for key in keys), *(f"{key} / {keys[0]}" for key in keys[1:])),
        tuple(rows),
        "Median of the windows measured, with the fastest and the slowest of them.",
    )
    facts = f"{costs.length} tokens, {costs.steps} steps, on {costs.place}"
    origin = origin_of(source.name, None, {"length": costs.length, "steps": costs.steps}, costs.environment)
    return Section(source.name, facts, _time_reading(costs), (table, origin))


def _time_reading(costs: CostTable) -> tuple[str, ...]:
    sizes, (first, *others) = costs.batch_sizes, list(costs.times)
    if not others or not sizes:
        return ("There are no two models at one batch size to compare.",)
    size, said = sizes[-1], []
    for key in others:
        ours, theirs = costs.pass_time(key, size), costs.pass_time(first, size)
        is_apart = ours.slowest < theirs.fastest or theirs.slowest < ours.fastest
        verdict = "no window of one overlaps those of the other" if is_apart else "windows overlap: within noise"
        share = ours.milliseconds / theirs.milliseconds
        said.append(f"At batch size {size} a pass of {key} takes {share:.0%} of the time of one of {first}; {verdict}.")
    return tuple(said)


def sample_section(sources: Sequence[Source[SampleFile]], models: Sequence[str], tokenizer: Any) -> Section:
    """A few samples of each file, coloured by who wrote them where the tokenizer reads their ids as their texts.

    models: of the whole report, the costliest first.
    """
    shown = sources[:MAX_FILES]
    cuts = {source.name: source.content.can_be_cut(tokenizer) for source in shown}
    cards = [
        _card(source, index, tokenizer if cuts[source.name] else None)
        for index in range(MAX_SAMPLES)
        for source in shown
        if index < source.content.num_samples
    ]
    used = {run.key for card in cards for run in card.runs}
    has_given = "" in used and any(cuts[source.name] and source.content.saved.has_given for source in shown)
    blocks: list[Block] = [SampleCards(tuple(key for key in models if key in used), has_given, tuple(cards))]
    blocks.append(_table(sources))
    blocks += [_origin(source) for source in shown]
    hidden = f", of {MAX_FILES} of {len(sources)} files" if len(sources) > MAX_FILES else ""
    facts = f"The first {MAX_SAMPLES} samples of each file{hidden}; texts are cut at {MAX_CHARACTERS} characters"
    return Section("Texts", facts, _reading(shown, cuts), tuple(blocks))


def _card(source: Source[SampleFile], index: int, tokenizer: Any) -> SampleCard:
    runs = cut_runs(source.content.runs(index, tokenizer), MAX_CHARACTERS)
    schedule = source.content.settings.get("schedule")
    return SampleCard(
        f"{source.name}, sample {index}", "" if schedule is None else str(schedule)[:MAX_TITLE], tuple(runs)
    )


def _reading(shown: Sequence[Source[SampleFile]], cuts: dict[str, bool]) -> tuple[str, ...]:
    said = []
    first = next((source for source in shown if len(source.content.tokens_by_model) > 1), None)
    if first is not None:
        said.append(f"In {first.name}, {_shares(first.content)}.")
    plain = [name for name, can_be_cut in cuts.items() if not can_be_cut]
    if plain:
        said.append(
            f"Without colours: {counted(plain, 3)}. The file does not say who wrote what, or the tokenizer does not "
            "read its ids as its texts (--tokenizer names another)."
        )
    return tuple(said) or ("Every sample shown was written by one model alone.",)


def _shares(samples: SampleFile) -> str:
    counts = samples.tokens_by_model
    total = sum(counts.values())
    shares = " and ".join(f"{count / total:.0%} by {key}" for key, count in counts.items())
    return f"the {total} tokens that were sampled were written {shares}"


def _table(sources: Sequence[Source[SampleFile]]) -> TextTable:
    rows = []
    for source in sources:
        samples, settings = source.content, source.content.settings
        lengths = sorted({len(row) for row in samples.saved.tokens})
        length = str(lengths[0]) if len(lengths) == 1 else f"{lengths[0]} to {lengths[-1]}"
        writers = ", ".join(f"{key} {count}" for key, count in samples.tokens_by_model.items()) or "not in the file"
        seed, heat = (listed(settings.get(name, "–")) for name in ("seed", "temperature"))
        rows.append((source.name, _notation(settings), str(samples.num_samples), length, writers, seed, heat))
    columns = ("file", "schedule", "samples", "tokens", "tokens by model", "seed", "temperature")
    return TextTable("Sample files", columns, tuple(rows), "A dash: the file does not say.")


def _notation(settings: Any) -> str:
    text = settings.get("schedule")
    try:
        return "–" if text is None else short_schedule(ModelSchedule.parse(str(text)))
    except ScheduleError:  # samples of another tool may call anything so
        return str(text)[:MAX_TITLE]


def _origin(source: Source[SampleFile]) -> Block:
    return origin_of(source.name, None, source.content.settings, {}, samples=source.content.num_samples)
