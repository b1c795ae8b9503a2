"""What README and the docs show a reader is true: code runs, options exist, files are there, figures have a source."""

import json
import re
import sys
from functools import cache
from pathlib import Path

import pytest
import typer

from scripts import benchmark
from understudy import ModelSchedule
from understudy.importance import Importance

ROOT = Path(__file__).parent.parent
README, CARD = ROOT / "README.md", ROOT / "src/understudy/assets/demo/README.md"
PAGES = [README, *sorted((ROOT / "docs").glob("*.md")), CARD]


def blocks(page, language):
    return re.findall(rf"```{language}\n(.*?)```", page.read_text(encoding="utf-8"), flags=re.DOTALL)


def commands():
    """(verb, options) of every `understudy` command line in a shell block, continuation lines joined."""
    for page in PAGES:
        for block in blocks(page, "sh"):
            for line in block.replace("\\\n", " ").splitlines():
                match = re.match(r"(?:.*\s)?understudy ([\w-]+)(.*)", line.split("#")[0])
                if match:
                    yield match[1], set(re.findall(r"(--[\w-]+|-n)\b", match[2]))


def test_there_are_commands_to_check():
    assert len(list(commands())) >= 7


@pytest.mark.parametrize(("verb", "options"), list(commands()))
def test_commands_name_options_that_exist(verb, options):
    from understudy.cli import app

    known = typer.main.get_command(app).commands[verb]
    assert options <= {name for parameter in known.params for name in (*parameter.opts, *parameter.secondary_opts)}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_python_blocks_run(page, capsys):
    for block in blocks(page, "python"):
        exec(compile(block, str(page), "exec"), {})
    assert "Traceback" not in capsys.readouterr().err


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_and_sources_are_there(page):
    text = page.read_text(encoding="utf-8")
    for target in re.findall(r"\]\(([^)#]+)\)", text):
        assert target.startswith("https://") or (page.parent / target).exists(), target
    for source in re.findall(r"`(results/[\w.-]+)`", text):
        assert (ROOT / source).exists(), source


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_nobody_is_told_to_fetch_the_package_of_this_name_from_pypi(page):
    for block in blocks(page, "sh"):
        for line in block.splitlines():
            assert not re.search(r"pip install .*understudy", line.split("#")[0]), line


def test_the_environment_is_ignored_as_a_link_too():
    lines = (ROOT / ".gitignore").read_text(encoding="utf-8").splitlines()
    assert {".venv", ".venv-transformers-4"} <= {*lines}


def test_the_demo_is_announced_as_it_is():
    from understudy.demo import DEMO_SCHEDULES

    count = {5: "five", 6: "six"}[len(DEMO_SCHEDULES) + 2]  # and the planned one, and fewer steps
    assert f"under {count} schedules" in (ROOT / "Makefile").read_text(encoding="utf-8")
    first_command = next(line for block in blocks(README, "sh") for line in block.splitlines() if "demo" in line)
    assert results("demo-cpu.json")["command"] == first_command.split("#")[0].strip()
    assert f"{count} schedules" in first_command


def test_the_picture_of_importance_is_as_its_caption_says():
    source = json.loads((ROOT / "results/study/bundled/importance.json").read_text(encoding="utf-8"))
    text = words(README)
    count, samples = source["data"]["blocks"], source["settings"]["num_samples"]
    assert f"on {count:,} blocks of held-out text and on {samples:,} of the heavy model's own" in text
    importance = Importance.load(ROOT / "results/study/bundled/importance.json")
    kl, times = importance.held_out.kl["L"].mean.tolist(), importance.held_out.times.tolist()
    late = [value for value, t in zip(kl, times, strict=True) if t < 0.3]
    assert min(late) > 0.9 * max(kl)
    assert kl[times.index(max(times))] < 0.1 * max(kl)
    summed = [t * value for value, t in zip(kl, times, strict=True)]
    assert 0.3 < times[summed.index(max(summed))] < 0.7
    (steps,) = source["paths"][0]["per_step"]
    tenths = [sum(steps[k : k + 100]) for k in range(0, 1000, 100)]
    assert tenths == sorted(tenths)


def test_file_map_names_every_module():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    listed = text[text.index("## What is where") : text.index("## What it refuses")]
    for path in sorted((ROOT / "src/understudy").iterdir()):
        if path.name in ("__init__.py", "__main__.py", "__pycache__", "py.typed", "assets"):
            continue
        assert f"`{path.name}/`" in listed or f"`{path.name}`" in listed, path.name


# Figures: what a page says is what the file that it names holds.


@cache
def results(name):
    return json.loads((ROOT / "results" / name).read_text(encoding="utf-8"))


def words(page):
    """The text of a page on one line."""
    return " ".join(page.read_text(encoding="utf-8").split())


def table(page, heading):
    """Rows of the markdown table whose first line contains `heading`, as dictionaries by column title."""
    lines = page.read_text(encoding="utf-8").splitlines()
    first = next(i for i, line in enumerate(lines) if line.startswith("|") and heading in line)
    cells = []
    for line in lines[first:]:
        if not line.startswith("|"):
            break
        cells.append([cell.strip() for cell in line.strip("|").split("|")])
    titles, _, *rows = cells
    return [dict(zip(titles, row, strict=True)) for row in rows]


def schedule_row(entry, reference):
    """A row of the table of results, as it must read."""
    flops, keys = entry["flops"], ModelSchedule.parse(entry["schedule"]).keys
    gap = "{:+.3f} ({:.3f} to {:.3f})".format(entry["nll_difference"], *entry["nll_difference_ci95"])
    return {
        "schedule": f"`{entry['schedule']}`",
        "judge perplexity": "{:.1f} ({:.1f} to {:.1f})".format(entry["gen_ppl"], *entry["gen_ppl_ci95"]),
        "difference": "–" if entry["name"] == reference else gap,
        "entropy": f"{entry['entropy']:.3f} ± {entry['entropy_se']:.3f}",
        "passes a sample": ", ".join(f"{entry['nfe'][key] / entry['num_samples']:.0f} {key}" for key in keys),
        "saved: nominal blocks": f"{flops['nominal_blocks_saved']:.1%}",
        "nominal with head": f"{flops['nominal_saved']:.1%}",
        "executed": f"{flops['executed_saved']:.1%}",
        "by schedule alone": f"{flops['schedule_saved']:.1%}",
    }


def test_table_of_results_is_its_file():
    source = results("bundled-schedules-h100.json")
    shown = table(README, "judge perplexity")
    assert [{**row, "": None} for row in shown] == [
        {"": None, **schedule_row(entry, source["reference"])} for entry in source["schedules"]
    ]


def test_names_in_the_table_of_results_fit_their_schedules():
    for row in table(README, "judge perplexity"):
        keys = [segment.key for segment in ModelSchedule.parse(row["schedule"].strip("`")).segments]
        names = {"H": "heavy only", "L": "light only", "LHL": "sandwich"}
        names |= {"LH": "light first", "HL": "light last", "HLH": "light middle"}
        assert row[""] == names["".join(keys)]


def test_what_is_read_from_the_table_of_results():
    source = results("bundled-schedules-h100.json")
    entries = {entry["schedule"]: entry for entry in source["schedules"]}
    heavy, sandwich, first, last, middle, _ = entries.values()
    assert [*entries] == ["H256", "L32,H192,L32", "L64,H192", "H192,L64", "H96,L64,H96", "L256"]

    def overlap(one, other):
        (low, high), (lower, higher) = (entry["nll_difference_ci95"] for entry in (one, other))
        return low <= higher and lower <= high

    text = words(README)
    assert "No quarter of light steps is free here" in text
    assert not any(entry["within_noise"] for entry in (sandwich, first, last, middle))
    assert "Light steps at the beginning cost less than at the end" in text
    assert first["nll_difference"] < last["nll_difference"]
    assert not overlap(first, last)
    assert "these samples do not tell the sandwich from light first, nor the middle from the end" in text
    assert overlap(sandwich, first)
    assert overlap(middle, last)
    assert "Entropy does not fall" in text
    assert min(entry["entropy"] for entry in entries.values()) == heavy["entropy"]
    num_samples, length, steps = source["num_samples"], source["length"], ModelSchedule.parse("H256").num_steps
    assert f"{num_samples:,} samples of {length} tokens, {steps} steps, the same seeds" in text
    assert f"bundled judge (context {source['context_length']})" in text


def lazy_and_plain():
    source = results("lazy-vs-plain-cpu.json")
    seconds, settings = source["median_seconds"], source["settings"]
    assert source["times_faster_than"]["plain"] == pytest.approx(seconds["plain"] / seconds["lazy"])
    steps = ModelSchedule.parse(settings["schedule"]).num_steps
    return (
        f"{settings['batch_size']} samples of {settings['length']} tokens in {steps} heavy steps take "
        f"{seconds['plain']:.0f} s by the plain sampler as published and {seconds['lazy']:.0f} s by the lazy one: "
        f"{source['times_faster_than']['plain']:.1f} times faster"
    )


def demonstration():
    source = results("demo-cpu.json")
    _, sandwich, *_ = source["schedules"]
    assert (sandwich["name"], sandwich["within_noise"]) == ("sandwich", True)
    rival = next(row for row in source["schedules"] if row["name"] == "fewer steps")
    assert rival["within_noise"], "the caption says that it cannot be told from heavy only either"
    assert rival["flops"]["executed"] <= sandwich["flops"]["executed"]
    assert round(1 / sandwich["flops"]["nominal_blocks_saved"]) == round(1 / sandwich["flops"]["schedule_saved"]) == 6
    assert source["num_samples"] == 10
    steps = ModelSchedule.parse(sandwich["schedule"]).num_steps
    return (
        f"*`{source['command']}` on two CPU cores (`results/demo-cpu.json`): the bundled pair, {steps} steps, "
        f"{source['length']} tokens, the same seeds. The sandwich saves a sixth of the work and cannot be told from "
        "heavy only by ten samples"
    )


def paper_row():
    """What the command showed, in its words."""
    (row,) = results("flops-paper.json")["schedules"]
    light, heavy = row["nfe"]["L"], row["nfe"]["H"]
    names = ("nominal_blocks_saved", "nominal_saved", "executed_saved", "schedule_saved")
    shares = " ".join(f"{row['flops'][name]:.1%}" for name in names)
    return f"{row['schedule']} {light:.0f} L {shares} {heavy:.0f} H"


def placements():
    entries = {
        entry["schedule"]: entry["nll_difference"] for entry in results("bundled-schedules-h100.json")["schedules"]
    }
    return (
        f"the judge's NLL rises by {entries['L64,H192']:.3f} when the light steps come first, "
        f"{entries['L32,H192,L32']:.3f} in a sandwich, {entries['H96,L64,H96']:.3f} in the middle and "
        f"{entries['H192,L64']:.3f} at the end"
    )


def gap_of_the_pair():
    source = results("bundled-gap.json")
    bounds = [source[name]["bound"] for name in ("heavy", "light")]
    assert source["gap"] == pytest.approx(bounds[1] - bounds[0])
    return (
        f"On all {source['num_blocks']:,} held-out blocks, same noise for both, the light model is worse by "
        f"**{source['gap']:.4f} ± {source['gap_se']:.4f} nats per token**, paired by block "
        f"(`results/bundled-gap.json`: {bounds[0]:.4f} against {bounds[1]:.4f})"
    )


STATEMENTS = {
    "demo-cpu.json": (README, demonstration),
    "flops-paper.json": (README, paper_row),
    "lazy-vs-plain-cpu.json": (README, lazy_and_plain),
    "bundled-schedules-h100.json": (ROOT / "docs/log.md", placements),
    "bundled-gap.json": (CARD, gap_of_the_pair),
}


@pytest.mark.parametrize("source", STATEMENTS)
def test_what_a_page_says_is_what_its_source_holds(source):
    page, statement = STATEMENTS[source]
    assert statement() in words(page)


def test_every_source_that_the_readme_names_is_held_against_it():
    named = set(re.findall(r"`results/([\w.-]+)`", README.read_text(encoding="utf-8")))
    assert named <= STATEMENTS.keys(), "say in STATEMENTS what the README reads from it"


def test_the_tables_of_the_performance_page_are_their_files():
    module = benchmark("performance_tables")
    page = (ROOT / "docs" / "performance.md").read_text(encoding="utf-8")
    assert module.speed_table(module.H200) in page
    assert module.speed_table(module.H100) in page
    assert module.parts_table() in page


def test_the_model_card_is_its_file():
    for row in table(CARD, "on held-out text"):
        model = results("bundled-models.json")["models"][row["folder"].strip("`")]
        config, found = model["config"], model["validation"]
        kind = {"mdlm": "masked diffusion (MDLM)", "ar": "left to right (Llama)"}[config["objective"]]
        bound = f"{found['bound']:.3f} ± {found['bound_se']:.3f} nats per token (perplexity {found['perplexity']:.1f})"
        assert row["what"] == kind
        assert row["blocks × width"] == f"{config['blocks']} × {config['hidden_size']}"
        assert row["parameters"] == f"{model['parameters'] / 1e6:.2f} M"
        assert row["tokens seen"] == f"{model['tokens'] / 1e6:.1f} M"
        assert row["on held-out text"].removeprefix("bound ") == bound


def run_command(monkeypatch, capsys, *arguments):
    from understudy import cli

    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setattr(sys, "argv", ["understudy", *arguments])
    with pytest.raises(SystemExit) as leave:
        cli.main()
    assert leave.value.code == 0
    return capsys.readouterr().out


def test_flops_of_the_paper_come_out_as_printed(monkeypatch, capsys):
    (shown,) = (block for block in blocks(README, "text") if block.startswith("$ understudy flops"))
    printed = run_command(monkeypatch, capsys, "flops")
    assert [line.split() for line in shown.splitlines()[1:] if line.strip("─ ")] == [
        line.split() for line in unwrapped(printed).splitlines() if line.strip("─ ")
    ]
    source, now = results("flops-paper.json"), json.loads(run_command(monkeypatch, capsys, "flops", "--json"))
    assert {name: source[name] for name in now} == now


def unwrapped(page):
    """A page whose notes take one line each: lines that begin with much space go on with the one before."""
    return re.sub(r"\n {19}(?=[a-z])", " ", page)
