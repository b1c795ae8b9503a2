"""`understudy report`: every kind of file is shown, damaged ones are named, and the page stands alone."""

import json
import re
import shutil
import sys
from dataclasses import asdict, replace
from itertools import pairwise
from pathlib import Path
from urllib.parse import unquote

import numpy as np
import pytest
import typer
from typer.testing import CliRunner

from driving import finish
from importance_files import hump, make_importance, make_path
from pages import Page
from stage import make_judge, make_pair, make_tokenizer
from understudy import evaluation, report
from understudy.cli.report import report_command
from understudy.costs import CostTable, PassTime
from understudy.errors import DataError, SettingError, UnderstudyError
from understudy.importance import Curve, HeldOutCurves
from understudy.planning import Budget, make_plan
from understudy.report.authorship import visible
from understudy.report.collection import Source, collect
from understudy.report.compared import SavedScores, load_scores
from understudy.report.comparison_table import TextTable, cost_table, diversity_table, quality_table, summarise
from understudy.report.cost_frontier import cost_frontiers, is_told_apart, schedule_shape, summarise_costs
from understudy.report.evaluation_sections import cost_section
from understudy.report.frontier_figure import _labelled, _numbers
from understudy.report.importance_section import importance_section, quarters
from understudy.report.placement_figure import describe_placements, placement_rows
from understudy.report.plan_section import plan_section
from understudy.schedule import ModelSchedule
from understudy.search import SearchSettings, SearchSpace, search_schedules

TOKENIZER = make_tokenizer()
ENVIRONMENT = {"versions": {"python": "3.11", "torch": "2.13"}, "processor": "a <processor>", "cpu_count": 2}
CHAPTERS = [
    "Importance",
    "Plans",
    "Searches",
    "Schedules compared",
    "Quality against cost",
    "Scored samples",
    "Pass times",
    "Samples",
]


def compare(schedules, **options):
    run = evaluation.compare_schedules(make_pair(TOKENIZER), schedules, make_judge(TOKENIZER), length=14, **options)
    return finish(run)[1]


def save_comparison(path, comparison, command="understudy evaluate --schedule <H8>"):
    facts = {"command": command, "paths": {"H": "runs/heavy", "L": "runs/light"}, "environment": ENVIRONMENT}
    evaluation.write_evaluation(path, {**comparison.to_dict(), **facts})


def held_out():
    times, ones = np.array([0.25, 0.5, 0.75]), np.ones(3)
    curve, loss = Curve(0.2 * times, 0.01 * ones), Curve(4 - times, 0.1 * ones)
    curves = {name: {"L": curve} for name in ("gap", "kl", "reverse_kl", "agreement")}
    bound = {"H": (3.5, 0.1), "L": (3.9, 0.1)}
    return HeldOutCurves(times, times, {"H": loss, "L": loss}, bound=bound, num_blocks=5, length=14, **curves)


def save_analysis(folder):
    path = make_path({"L": hump(16)}, noise=0.1, length=14, num_bins=8)
    importance = replace(
        make_importance(path), held_out=held_out(), command="understudy analyze --output importance.json"
    )
    importance.save(folder / "importance.json")
    make_plan(importance, Budget(light_fraction=0.25), command="understudy plan").save(folder / "plan.json")


def save_search(folder):
    space = SearchSpace.light_and_heavy(8, 4, 2)
    settings = SearchSettings(num_samples=3, length=14, batch_size=3, chunk=3)
    run = search_schedules(make_pair(TOKENIZER), space, make_judge(TOKENIZER), settings)
    replace(finish(run)[1], command="understudy search", environment=ENVIRONMENT).save(folder / "search.json")


def save_rest(folder, comparison):
    scores = comparison.reference.scores
    document = {"command": "understudy evaluate --samples", "samples": "samples.jsonl", **scores.to_dict()}
    evaluation.write_evaluation(folder / "scored.json", {**document, "settings": {}, "environment": ENVIRONMENT})
    times = {key: {4: PassTime(4, ms, 0.9 * ms, 1.1 * ms, 7)} for key, ms in {"H": 30.0, "L": 10.0}.items()}
    CostTable(14, 8, times, {}, {**ENVIRONMENT, "device": "cpu"}).save(folder / "costs.json")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """One file of every kind, two of some, and some that are none."""
    folder = tmp_path_factory.mktemp("results") / "my & results"
    (folder / "more" / "deeper").mkdir(parents=True)
    save_analysis(folder)
    save_search(folder)
    placements = compare({"heavy <only>": "H8", "sandwich": "L2,H4,L2", "light": "L8"}, num_samples=4)
    save_comparison(folder / "placements.json", placements)
    save_comparison(folder / "more" / "longer.json", compare(["H16", "L4,H8,L4"], num_samples=4))
    heats = compare(["H8", "L8"], num_samples=3, temperatures=(0.5, 1.0, 1.5))
    save_comparison(folder / "temperatures.json", heats)
    save_rest(folder, placements)
    written = report.write_comparison(placements, folder / "compared", tokenizer=TOKENIZER)
    for path in written:
        if path.name != "samples-1-sandwich.jsonl":
            path.unlink()
    (folder / "notes.txt").write_text("{nothing of ours")
    (folder / "config.json").write_text('{"model_type": "other"}')
    (folder / "journal.jsonl").write_text('{"job": {}}\n{"unit": 1}\n')
    (folder / "future.json").write_text('{"format": "understudy-plan-2"}')
    (folder / ".hidden.json").write_text("not read at all")
    TOKENIZER.save_pretrained(folder.parent / "tokenizer")
    return folder


@pytest.fixture(scope="module")
def written(folder, tmp_path_factory):
    pytest.importorskip("matplotlib")
    output = tmp_path_factory.mktemp("out") / "new" / "page.html"
    return report.write_report(folder, output, tokenizer=folder.parent / "tokenizer")


@pytest.fixture(scope="module")
def page(written):
    return Page(written[0].read_text(encoding="utf-8"))


def test_every_kind_of_file_has_its_chapter_and_section(folder, page):
    assert [text for level, text in page.headings if level == 1] == ["Understudy: my & results"]
    assert [text for level, text in page.headings if level == 2] == [*CHAPTERS, "Not read"]
    sections = [text for level, text in page.headings if level == 3]
    for name in ("importance.json", "plan.json", "search.json", "placements.json", "costs.json", "more/longer.json"):
        assert name in sections
    text = " ".join(page.texts)
    assert "Made from 9 files in my & results" in text
    for command in (
        "understudy analyze",
        "understudy plan",
        "understudy search",
        "understudy evaluate --schedule <H8>",
    ):
        assert command in text
    for fact in ("5 held-out blocks", "64 trajectories", "4 samples each", "judge tiny", "a <processor>", "torch 2.13"):
        assert fact in text, fact


def test_what_is_not_read_is_listed_with_its_reason(folder):
    found = collect(folder)
    assert dict(found.unread) == {
        "config.json": "JSON of another kind",
        "future.json": "format understudy-plan-2",
        "journal.jsonl": "JSON lines of another kind",
        "notes.txt": "not JSON",
        "more/deeper": "a folder in a folder",
    }
    assert found.num_files == 9
    assert found.models == ("H", "L")


def test_the_page_is_well_formed_and_stands_alone(written, page):
    text = written[0].read_text(encoding="utf-8")
    assert not re.search(r"https?:|//[a-z]|<script|@import|<link|url\(", re.sub(r"base64,[^\"]*", "", text))
    assert all(value.startswith("data:image/png;base64,") for name, value in page.attributes if name == "src")
    links = {value for name, value in page.attributes if name == "href"}
    assert links
    assert links <= {f"#{name}" for name in page.ids}
    assert len(set(page.ids)) == len(page.ids)


def test_the_page_can_be_heard_as_well_as_seen(page):
    levels = [level for level, _ in page.headings]
    assert all(second <= first + 1 for first, second in pairwise(levels))
    pictures = [attributes for tag, attributes in page.tags if tag == "img"]
    assert len(pictures) == 8
    assert all(len(attributes["alt"]) > 40 for attributes in pictures)
    assert all(attributes.get("scope") in ("col", "row") for tag, attributes in page.tags if tag == "th")
    tables = [tag for tag, _ in page.tags if tag == "table"]
    scopes = [attributes["scope"] for tag, attributes in page.tags if tag == "th"]
    assert len(tables) > 10
    assert scopes.count("row") > len(tables)
    assert ("lang", "en") in page.attributes


def test_every_figure_stands_beside_its_uncertainty(page):
    text = " ".join(page.texts)
    assert len(re.findall(r"\d \[[+-]?\d", text)) > 15
    assert len(re.findall(r"\d ± \d", text)) > 30
    assert "within noise" in text


def test_samples_are_coloured_by_who_wrote_them(folder, page):
    lines = (folder / "compared" / "samples-1-sandwich.jsonl").read_text(encoding="utf-8").splitlines()
    ids = [json.loads(line)["token_ids"] for line in lines[:2]]
    shown = [TOKENIZER.decode(row, skip_special_tokens=False) for row in ids]
    assert page.cards == [visible(text).replace("\r", "\n") for text in shown]
    assert {("class", "by-H"), ("class", "by-L")} <= set(page.attributes)


def test_samples_of_an_unknown_tokenizer_are_shown_without_colours(folder, tmp_path):
    (tmp_path / "in").mkdir()
    source = folder / "compared" / "samples-1-sandwich.jsonl"
    (tmp_path / "in" / "samples.jsonl").write_bytes(source.read_bytes())
    paths = report.write_report(tmp_path / "in", tmp_path / "report.html")
    page = Page(paths[0].read_text(encoding="utf-8"))
    assert len(page.cards) == 2
    assert ("class", "by-H") not in page.attributes
    assert "Without colours: samples.jsonl" in " ".join(page.texts)


def test_markdown_has_the_same_sections_and_its_pictures(written):
    folder, text = written[1].parent, written[1].read_text(encoding="utf-8")
    assert written[1].name == "page.md"
    assert re.findall(r"^## (.+)$", text, re.M) == [*CHAPTERS, "Not read"]
    links = re.findall(r"!\[.*\]\((\S+)\)$", text, re.M)
    assert [folder / unquote(link) for link in links] == written[2:]
    assert all(path.read_bytes().startswith(b"\x89PNG") for path in written[2:])
    tables = re.findall(r"(?:^\|.*\|$\n?)+", text, re.M)
    for table in tables:
        columns = {len(re.findall(r"(?<!\\)\|", line)) for line in table.splitlines()}
        assert len(columns) == 1
    assert "heavy \\<only\\>" in text
    assert re.search(r"<b>[^<]", text)
    assert "    understudy evaluate --schedule <H8>\n" in text


def test_two_runs_give_the_same_bytes_even_inside_the_folder(folder, written):
    for _ in (1, 2):
        inside = report.write_report(folder, folder / "page.html", tokenizer=folder.parent / "tokenizer")
        assert [path.read_bytes() for path in inside] == [path.read_bytes() for path in written]
    for path in inside:
        path.unlink()
    (folder / "page-files").rmdir()


def test_no_matplotlib_no_pictures(folder, tmp_path, monkeypatch):
    for name in [name for name in sys.modules if name.partition(".")[0] == "matplotlib"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    paths = report.write_report(folder, tmp_path / "page.html", tokenizer=folder.parent / "tokenizer")
    assert [path.name for path in paths] == ["page.html", "page.md"]
    text = paths[0].read_text(encoding="utf-8")
    assert "pip install &#x27;understudy[plot]&#x27;" in text
    assert "<img" not in text


@pytest.mark.parametrize(
    "name", ["importance.json", "plan.json", "search.json", "placements.json", "scored.json", "costs.json"]
)
def test_a_damaged_file_is_named_in_one_line(folder, tmp_path, name):
    text = (folder / name).read_text(encoding="utf-8")
    (tmp_path / name).write_text(text[: len(text) // 2], encoding="utf-8")
    with pytest.raises(DataError, match=rf"^[^\n]*{name}' is damaged \([^\n]*$"):
        collect(tmp_path)
    document = json.loads(text)
    needed = {"importance.json": "paths", "plan.json": "frontier", "scored.json": "entropy", "costs.json": "models"}
    key = needed.get(name, "schedules")
    for content in ({**document, key: "?"}, {other: document[other] for other in document if other != key}):
        (tmp_path / name).write_text(json.dumps(content), encoding="utf-8")
        with pytest.raises(DataError, match=rf"^[^\n]*{name}'[^\n]*$"):
            report.write_report(tmp_path, tmp_path / "page.html")
    assert [path.name for path in tmp_path.iterdir()] == [name]


@pytest.mark.parametrize(
    "content", ['{"text": "a", "token_ids": [1]}\n{"text"', '{"text": "a", "tok', "", "[1", "\xff"]
)
def test_damaged_samples_are_named(tmp_path, content):
    (tmp_path / "samples.jsonl").write_bytes(content.encode("latin-1"))
    with pytest.raises(DataError, match=r"samples\.jsonl"):
        collect(tmp_path)


def test_figures_that_cannot_be_shown_are_a_damaged_file(folder, tmp_path):
    document = json.loads((folder / "importance.json").read_text())
    document["paths"][0]["bin_means"] = [[1.0]]
    (tmp_path / "bad.json").write_text(json.dumps(document))
    with pytest.raises(DataError, match=r"'bad\.json' is damaged"):
        report.write_report(tmp_path, tmp_path / "page.html")
    assert [path.name for path in tmp_path.iterdir()] == ["bad.json"]


def run(*arguments):
    app = typer.Typer()
    app.command()(report_command)
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def test_the_command_says_where_it_wrote(folder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    options = ("--title", "A <title>", "--tokenizer", folder.parent / "tokenizer")
    results = shutil.copytree(folder, tmp_path / "results")
    outcome = run("results", *options, "--json")
    assert outcome.exit_code == 0, outcome.output
    document = json.loads(outcome.stdout)
    assert document["page"] == "results/report.html"
    assert document["files"][:2] == ["results/report.html", "results/report.md"]
    assert all(Path(name).is_file() for name in document["files"])
    page = (results / "report.html").read_bytes()
    assert (1, "A <title>") in Page(page.decode()).headings
    told = run("results", *options, "--output", "other.html")
    assert told.stdout.splitlines()[:3] == ["Written:", "  other.html", "  other.md"]
    # The earlier report is no result, and is not listed as something that was not read either.
    assert Path("other.html").read_bytes() == page


def test_what_makes_no_sense_is_one_line(folder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    (tmp_path / "others").mkdir()
    (tmp_path / "others" / "notes.txt").write_text("")
    cases = {
        ("nowhere",): "'nowhere' is no folder",
        ("empty",): "'empty' holds nothing to report",
        ("others",): "'others' holds nothing to report",
        (folder, "--output", "page.pdf"): "name a file that ends in .html",
        (folder, "--output", "others/notes.txt/page.html"): "is no folder that may be written",
        (folder, "--tokenizer", "empty"): "no usable tokenizer",
    }
    for arguments, message in cases.items():
        error = run(*arguments).exception
        assert isinstance(error, UnderstudyError), arguments
        assert message in str(error)
        assert "\n" not in str(error)
    with pytest.raises(SettingError):
        report.write_report(folder, "page")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["empty", "others"]


def test_a_comparison_reads_back_as_it_was(tmp_path):
    comparison = compare(["H8", "L2,H4,L2"], num_samples=3, temperatures=(0.5, 1.0))
    save_comparison(tmp_path / "a.json", comparison)
    saved = load_scores(tmp_path / "a.json")
    for table in (quality_table, diversity_table, cost_table, summarise):
        assert table(saved) == table(comparison)
    assert [asdict(entry.result.flops) for entry in saved.entries] == [
        asdict(entry.result.flops) for entry in comparison.entries
    ]


def test_a_scored_file_reads_back(folder):
    saved = load_scores(folder / "scored.json")
    assert isinstance(saved, SavedScores)
    assert saved.scores.num_samples == 4
    assert saved.samples == "samples.jsonl"


def test_placements_are_sorted_and_spoken(folder):
    saved = load_scores(folder / "placements.json")
    rows = placement_rows(saved)
    differences = [entry.nll_difference.difference for entry in rows]
    assert differences == sorted(differences)
    spoken = describe_placements(saved)
    assert "heavy <only> 0, the reference" in spoken
    assert all(f"{entry.name} " in spoken for entry in rows)
    alone = replace(saved, entries=saved.entries[:1])
    assert describe_placements(alone).startswith("Bars of judge perplexity")
    heats = load_scores(folder / "temperatures.json")
    assert {entry.temperature for entry in placement_rows(heats)} == {1.0}


def test_rounding_is_told_from_noise():
    # A curve of nearly equal models, of small noise: its steps differ "significantly", by rounding alone.
    for scale, is_rounding in ((1e-12, True), (1.0, False)):
        path = make_path({"L": hump(32)}, num_bins=32, noise=1e-3)
        tiny = replace(
            path, per_step=path.per_step * scale, step_variances=path.step_variances * scale**2,
            bin_means=path.bin_means * scale, covariance=path.covariance * scale**2, halves=(),
        )  # fmt: skip
        importance = make_importance(tiny)
        said = importance_section(Source("importance.json", importance), "i").reading[0]
        assert ("within the rounding of divergences" in said) == is_rounding
        assert ("beyond noise" in said) != is_rounding
        plan = make_plan(importance, Budget(light_steps=8))
        said = " ".join(plan_section(Source("plan.json", plan), "p").reading)
        assert ("less than the rounding of divergences" in said) == is_rounding
        assert ("to within the rounding of divergences" in said) == is_rounding
        if is_rounding:
            assert "beyond noise" not in said


def test_plans_name_savings_as_the_readme_does(folder):
    (source,) = collect(folder).plans
    (table,) = (block for block in plan_section(source, "plan").blocks if isinstance(block, TextTable))
    names = "saved: nominal, blocks; nominal, with head; executed; by the schedule alone"
    assert names in "; ".join(table.columns)


def test_files_of_a_comparison_say_how_they_were_drawn(folder, tmp_path):
    comparison = compare({"mixed": "L2,H4,L2"}, num_samples=3, seeds=[5])
    report.write_comparison(comparison, tmp_path, tokenizer=TOKENIZER, drawn={"models": {"H": "heavy", "L": "light"}})
    report.write_report(tmp_path)
    rows = [json.loads(line) for line in (tmp_path / "samples-0-mixed.jsonl").read_text().splitlines()]
    assert [row["index"] for row in rows] == [0, 1, 2]
    assert all((row["seed"], row["temperature"], row["schedule"]) == (5, 1.0, "L2,H4,L2") for row in rows)
    assert rows[0]["models"] == {"H": "heavy", "L": "light"}
    assert (rows[0]["top_p"], rows[0]["decoding"]) == (1.0, "ancestral")
    text = (tmp_path / "report.md").read_text()
    assert re.search(r"\| samples-0-mixed.jsonl \| L2,H4,L2 \| 3 \| 14 \| H \d+, L \d+ \| 5 \| 1 \|", text)
    assert re.search(r"the 42 tokens that were sampled were written \d+% by H and \d+% by L\.", text)


def with_samples(source, count):
    """A comparison as if it were of so many samples."""
    entries = tuple(replace(entry, scores=replace(entry.scores, num_samples=count)) for entry in source.content.entries)
    return replace(source, content=replace(source.content, entries=entries))


def test_no_frontier_is_drawn_through_few_samples(folder):
    sources = collect(folder).comparisons
    for count in (4, 29):
        (frontier,) = cost_frontiers([with_samples(source, count) for source in sources])
        assert frontier.best == ()
        section = cost_section(frontier, "cost")
        assert section.reading == (
            f"No frontier is drawn: of {count} samples the lowest estimates are luck in good part; take 30 or more.",
        )
        (table,) = (block for block in section.blocks if isinstance(block, TextTable))
        assert {row[6] for row in table.rows} == {"–"}
    # Few samples of one are no argument against many of others.
    mixed = [with_samples(source, 4 if source.name == "placements.json" else 30) for source in sources]
    (frontier,) = cost_frontiers(mixed)
    assert frontier.best
    assert "placements.json" not in {point.file for point in (*frontier.best, frontier.least)}
    assert frontier.cheapest_of_equals.file != "placements.json"


def test_steps_are_written_once_where_points_meet(folder):
    sources = [with_samples(source, 30) for source in collect(folder).comparisons]
    (frontier,) = cost_frontiers(sources)
    (doubled,) = cost_frontiers([*sources, replace(sources[-1], name="again.json")])
    assert len(doubled.points) > len(frontier.points)
    assert len(_labelled(doubled)) == len(_labelled(frontier)) == len({(p.flops, p.gen_ppl) for p in frontier.points})
    (single,) = cost_frontiers([source for source in sources if source.name == "placements.json"])
    assert _numbers(single) == "8 steps each"
    assert _numbers(frontier) == "numbers: steps"


def test_costs_of_several_files_make_one_frontier(folder):
    (frontier,) = cost_frontiers([with_samples(source, 30) for source in collect(folder).comparisons])
    assert frontier.files == ("more/longer.json", "placements.json", "temperatures.json")
    assert frontier.common["temperature"] == "1"
    assert len(frontier.points) == 7
    costs = [point.flops for point in frontier.points]
    assert costs == sorted(costs)
    for point in frontier.best:
        assert not any(other.flops < point.flops and other.gen_ppl <= point.gen_ppl for other in frontier.points)
    assert frontier.best[-1] == frontier.least
    first, _ = summarise_costs(frontier)
    assert f"{len(frontier.best)} of 7 schedules are on the frontier" in first
    assert not is_told_apart(frontier.least, frontier.least)


@pytest.mark.parametrize(
    ("text", "shape"),
    [
        ("H64", "H alone"),
        ("L125,H750,L125", "L12.5%,H75%,L12.5%"),
        ("L8,H48,L8", "L12.5%,H75%,L12.5%"),
        ("H1,L1,H1,L1,H1,L1", "6 runs, 50% H, 50% L"),
    ],
)
def test_shapes_forget_the_number_of_steps(text, shape):
    assert schedule_shape(ModelSchedule.parse(text)) == shape


def test_quarters_add_up_to_the_path_kl_of_the_model_alone():
    path = make_path({"L": hump(30)}, num_bins=7, noise=0.2)
    values, covariance = quarters(path, "L")
    expected, error = path.path_kl(ModelSchedule.single(30, "L"))
    assert values.sum() == pytest.approx(expected)
    assert np.sqrt(covariance.sum()) == pytest.approx(error)
    first = ModelSchedule.parse("L8,H22")
    assert (values[0], np.sqrt(covariance[0, 0])) == pytest.approx(path.path_kl(first))
    single = quarters(replace(path, num_samples=1), "L")[1]
    assert np.isnan(single).all()
