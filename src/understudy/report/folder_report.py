"""A report on a folder of results: one self-contained page, the same as Markdown, and its pictures."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

from understudy import __version__
from understudy.denoisers.model_set import bundled_paths
from understudy.errors import DataError, ScheduleError, SettingError, one_line
from understudy.report.blocks import Chapter, Report, Section
from understudy.report.canvas import can_draw
from understudy.report.collection import Collection, Source, collect
from understudy.report.cost_frontier import cost_frontiers
from understudy.report.evaluation_sections import comparison_section, cost_section, scores_section
from understudy.report.importance_section import importance_section
from understudy.report.other_sections import pass_time_section, sample_section
from understudy.report.plan_section import plan_section
from understudy.report.report_markdown import render_markdown
from understudy.report.report_page import render_report_page
from understudy.report.search_section import search_section
from understudy.tokenizer_files import load_tokenizer
from understudy.whole_files import check_folder, make_folder, write_together

T = TypeVar("T")
_UNSHOWABLE = (LookupError, TypeError, ValueError, ArithmeticError, AttributeError, StopIteration, ScheduleError)

PURPOSES = {
    "Importance": "Where in time the models differ: loss and KL on held-out text, and path KL, the divergence that a "
    "denoising step adds when another model makes it. Steps of little path KL can be handed over.",
    "Plans": "The schedule of least predicted path KL within a budget. A prediction, not a measurement: an evaluation "
    "or a search says what it does to the text.",
    "Searches": "Every schedule of coarse segments, sampled under the same noise and ranked: the check on predictions.",
    "Schedules compared": "Schedules sampled under the same noise and scored by a judge, so that differences are "
    "paired. Perplexity alone rewards dull text: read it beside entropy.",
    "Quality against cost": "Schedules and numbers of steps in one picture, by the FLOPs that were executed. Only what "
    "shares judge, protocol, length, temperature and models is set side by side.",
    "Scored samples": "Files of samples, each scored for itself.",
    "Pass times": "What a pass of each model takes on one machine: what turns FLOPs saved into time saved.",
    "Samples": "Text as it was sampled, marked by the model that wrote it.",
}


def write_report(
    folder: str | Path,
    output: str | Path | None = None,
    *,
    title: str | None = None,
    tokenizer: str | Path | None = None,
) -> list[Path]:
    """Report on the files of a folder (`collect`), and give the paths written: page, Markdown, pictures.

    output: of the page; the same name with .md, and the folder NAME-files, go beside it; report.html in the folder
    unless given. An earlier report there is no result and does not count. title: of the page. tokenizer: folder or hub
    id of what reads the ids of samples, to colour their texts; the bundled one unless given.
    Without matplotlib (`can_draw`) there are no pictures. All is made before the first file is written; SettingError
    where `output` does not end in .html, DataError where a file of the folder is damaged or the disk refuses.
    """
    usual = report_paths(Path(folder) / "report.html")
    page, markdown, pictures = usual if output is None else report_paths(output)
    found = collect(folder, leave_out=(page, markdown, pictures, *usual))
    check_folder(page.parent)
    report = make_report(found, title=title, tokenizer=tokenizer)
    contents = {pictures / f"{picture.name}.png": picture.png for picture in report.pictures}
    contents |= {
        markdown: render_markdown(report, pictures.name).encode("utf-8", "backslashreplace"),
        page: render_report_page(report).encode("utf-8", "backslashreplace"),
    }
    for parent in dict.fromkeys(path.parent for path in contents):
        make_folder(parent)
    write_together(contents)
    return [page, markdown, *(path for path in contents if path not in (page, markdown))]


def report_paths(output: str | Path) -> tuple[Path, Path, Path]:
    """Page, Markdown and folder of pictures. SettingError where the page's name does not end in .html."""
    page = Path(output)
    if page.suffix != ".html":
        raise SettingError(f"the report is to be {str(output)!r}; name a file that ends in .html")
    return page, page.with_suffix(".md"), page.with_name(f"{page.stem}-files")


def make_report(found: Collection, *, title: str | None = None, tokenizer: str | Path | None = None) -> Report:
    """Turn files into chapters. DataError where one of them holds figures that cannot be shown."""
    chapters = tuple(
        Chapter(name, PURPOSES[name], sections) for name, sections in _sections(found, tokenizer).items() if sections
    )
    name = found.folder.resolve().name
    count = f"{found.num_files} file{'' if found.num_files == 1 else 's'}"
    pictures = "" if can_draw() else " Pictures are left out: they need matplotlib (pip install 'understudy[plot]')."
    lead = (
        f"Made from {count} in {name} by understudy {__version__}. Intervals are at 95 %, ± is one standard error; "
        f"within noise means not told apart by these samples, which does not mean equal.{pictures}"
    )
    return Report(title or f"Understudy: {name}", lead, found.models, chapters, found.unread)


def _sections(found: Collection, tokenizer: str | Path | None) -> dict[str, tuple[Section, ...]]:
    return {
        "Importance": _each(found.importances, "importance", importance_section),
        "Plans": _each(found.plans, "plan", plan_section),
        "Searches": _each(found.searches, "search", search_section),
        "Schedules compared": _each(found.comparisons, "evaluation", comparison_section),
        "Quality against cost": tuple(
            cost_section(frontier, f"cost-{number}")
            for number, frontier in enumerate(cost_frontiers(found.comparisons), 1)
        ),
        "Scored samples": (scores_section(found.scores),) if found.scores else (),
        "Pass times": _each(found.costs, "costs", lambda source, _: pass_time_section(source)),
        "Samples": tuple(_samples(found, tokenizer)),
    }


def _each(sources: tuple[Source[T], ...], stem: str, build: Callable[[Source[T], str], Section]) -> tuple[Section, ...]:
    """A section for each file. Figures that no table or picture can show are a damaged file, which is named."""
    sections = []
    for number, source in enumerate(sources, 1):
        try:
            sections.append(build(source, f"{stem}-{number}"))
        except _UNSHOWABLE as error:
            raise DataError(
                f"{source.name!r} is damaged ({one_line(error)}); write it anew, or move it away"
            ) from error
    return tuple(sections)


def _samples(found: Collection, tokenizer: str | Path | None) -> Iterator[Section]:
    if found.samples:
        reader = load_tokenizer(bundled_paths()["heavy"] if tokenizer is None else tokenizer)
        yield sample_section(found.samples, found.models, reader)
