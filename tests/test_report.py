import json
import re
import sys
from dataclasses import replace
from itertools import pairwise
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from driving import finish
from pages import Page
from stage import VOCAB, make_judge, make_pair, make_tokenizer
from understudy import report, whole_files
from understudy.errors import DataError, SettingError
from understudy.evaluation import compare_schedules
from understudy.metrics import PairedDifference
from understudy.report.authorship import Run, model_colours, visible, written_runs
from understudy.report.comparison_table import cost_table, quality_table, summarise
from understudy.saved_samples import check_texts, read_samples
from understudy.whole_files import check_folder

TOKENIZER = make_tokenizer()
SCHEDULES = {"heavy <only>": "H100%", "sandwich": "L25%,H50%,L25%", "light only": "L100%"}


@pytest.fixture(scope="module")
def comparison():
    run = compare_schedules(
        make_pair(TOKENIZER), SCHEDULES, make_judge(TOKENIZER), num_samples=3, length=14, steps=8, seed=1
    )
    return finish(run)[1]


@pytest.mark.parametrize(("count", "is_believed"), [(2, False), (7, False), (8, True), (100, True)])
def test_what_few_samples_resolve_is_not_said(comparison, count, is_believed):
    entries = tuple(
        replace(
            entry, scores=replace(entry.scores, num_samples=count), nll_difference=PairedDifference(0.1, 0.098, 0.102)
        )
        for entry in comparison.entries
    )
    text = summarise(SimpleNamespace(**{"entries": entries, "reference": entries[0], "temperatures": (1.0,)}))
    assert ("samples resolve differences of about ±0.002 nats per token" in text) == is_believed
    assert (f"{count} samples are too few" in text) != is_believed
    assert "±0.00 " not in text


def whole(ids):
    return TOKENIZER.decode(ids, skip_special_tokens=False)


@settings(max_examples=60)
@given(st.lists(st.tuples(st.integers(0, VOCAB - 1), st.sampled_from(["H", "L", ""])), min_size=1, max_size=30))
def test_runs_join_to_the_whole_text_even_of_random_bytes(pairs):
    ids, keys = [token for token, _ in pairs], [key for _, key in pairs]
    runs = written_runs(TOKENIZER, ids, keys)
    assert "".join(run.text for run in runs) == whole(ids)
    assert all(first.key != second.key for first, second in pairwise(runs))


def test_a_character_written_by_two_models_belongs_to_the_one_that_finished_it():
    pieces = TOKENIZER("犬").input_ids
    assert len(pieces) > 1  # otherwise this tests nothing
    ids = [*TOKENIZER("cat").input_ids, *pieces, *TOKENIZER(" the").input_ids]
    start = len(TOKENIZER("cat").input_ids)
    keys = ["H"] * (start + 1) + ["L"] * (len(pieces) - 1) + ["H"] * (len(ids) - start - len(pieces))
    assert written_runs(TOKENIZER, ids, keys) == [Run("cat", "H"), Run("犬", "L"), Run(" the", "H")]


def test_control_characters_do_not_reach_the_terminal():
    assert visible("a\x1b[31m\tb\n\u202ec") == "a·[31m\tb\n·c"


def test_colours_follow_cost_not_letters():
    assert model_colours(["Z", "A"]) == dict(zip("ZA", model_colours(["H", "L"]).values(), strict=True))


def test_tables_name_every_schedule_and_every_figure(comparison):
    for table in (quality_table(comparison), cost_table(comparison)):
        assert [row[0] for row in table.rows] == list(SCHEDULES)
        assert all(len(row) == len(table.columns) for row in table.rows)
    assert quality_table(comparison).rows[0][2] == "reference"
    saved = [row[3:7] for row in cost_table(comparison).rows]
    assert saved[0][0] == saved[0][1] == saved[0][3] == "0.0%"
    assert saved[2][0] == "66.7%"  # one block of three
    assert "3 samples are too few for an interval to be believed" in summarise(comparison)


def run_of(schedule, executed, num_samples=8, **facts):
    """One schedule as tables see it, whose samples took so many FLOPs each."""
    flops = SimpleNamespace(executed=executed * num_samples)
    return SimpleNamespace(
        name=schedule, result=SimpleNamespace(flops=flops), scores=SimpleNamespace(num_samples=num_samples), **facts
    )


@pytest.mark.parametrize(
    ("executed", "words"),
    [
        (130.0, "costs 1.3 times the FLOPs of H16"),
        (103.0, "costs 1.03 times the FLOPs of H16"),
        (83.0, "saves 17% of the FLOPs of H16"),
        (100.2, "at the FLOPs of H16"),
    ],
)
@pytest.mark.parametrize("low", [-0.1, 0.05])
def test_the_verdict_quotes_flops_of_the_reference(executed, words, low):
    paired = PairedDifference(0.1, low, 0.3)
    first = run_of("H16", 100.0, nll_difference=PairedDifference(0, 0, 0), within_noise=True)
    other = run_of("L8,H24", executed, nll_difference=paired, within_noise=low < 0)
    text = summarise(SimpleNamespace(entries=(first, other), reference=first, temperatures=(1.0,)))
    assert text.startswith(f"L8,H24 ({words}) {'cannot be told from H16' if low < 0 else 'is more surprising'}")
    assert "8 samples resolve differences of about" in text
    assert "and so few settle large ones at best" in text


def test_costs_have_the_names_of_the_readme(comparison):
    names = " ".join(cost_table(comparison).columns).replace("\n", " ")
    assert "saved: nominal, blocks nominal, with head executed by the schedule alone" in names
    executed = [entry.result.flops.executed / 3 for entry in comparison.entries]
    assert [row[2] for row in cost_table(comparison).rows] == [f"{flops:.3g}".replace("e+", "e") for flops in executed]
    stored = comparison.to_dict()["schedules"]
    assert [row["executed_flops_per_sample"] for row in stored] == executed


def test_within_noise_is_said_where_the_interval_holds_nothing_else(comparison):
    for entry, row in zip(comparison.entries[1:], quality_table(comparison).rows[1:], strict=True):
        assert row[2].endswith("within noise") == entry.within_noise


def test_everything_is_written_and_reads_back(comparison, tmp_path):
    pytest.importorskip("matplotlib")
    folder = tmp_path / "made" / "here"
    paths = report.write_comparison(comparison, folder, tokenizer=TOKENIZER, command="understudy demo")
    assert sorted(path.name for path in folder.iterdir()) == sorted(path.name for path in paths)
    record = json.loads((folder / "comparison.json").read_text(encoding="utf-8"))
    assert record["command"] == "understudy demo"
    assert {"versions", "platform", "cpu_count", "torch_threads"} <= set(record["environment"])
    assert "torch" in record["environment"]["versions"]
    assert len(record["schedules"][0]["nll_sums"]) == 3
    assert (folder / "comparison.png").read_bytes().startswith(b"\x89PNG")
    saved = read_samples(folder / "samples-0-heavy-only.jsonl")
    np.testing.assert_array_equal(saved.tokens, comparison.reference.result.tokens)
    check_texts(saved, TOKENIZER)


def test_the_page_parses_fetches_nothing_and_holds_every_sample(comparison, tmp_path):
    report.write_comparison(comparison, tmp_path, tokenizer=TOKENIZER)
    text = (tmp_path / "samples.html").read_text(encoding="utf-8")
    page = Page(text)
    assert not re.search(r"https?:|//[a-z]|<script|@import", re.sub(r"base64,[^\"]*", "", text))
    assert all(value.startswith("data:image/png;base64,") for name, value in page.attributes if name == "src")
    assert "heavy <only> " in page.texts
    cards = [entry.result.tokens[i].tolist() for i in range(3) for entry in comparison.entries]
    assert page.cards == [visible(whole(ids)).replace("\r", "\n") for ids in cards]


def test_no_matplotlib_no_picture(comparison, tmp_path, monkeypatch):
    for name in [name for name in sys.modules if name.partition(".")[0] == "matplotlib"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(SettingError, match=r"pip install 'understudy\[plot\]'"):
        report.draw_comparison(comparison, tmp_path / "picture.png")
    assert not report.can_draw()
    paths = report.write_comparison(comparison, tmp_path, tokenizer=TOKENIZER)
    assert "comparison.png" not in {path.name for path in paths}
    assert "<img" not in (tmp_path / "samples.html").read_text(encoding="utf-8")


def test_drawing_touches_no_global_state(comparison, tmp_path):
    pytest.importorskip("matplotlib")
    report.draw_comparison(comparison, tmp_path / "picture.png")
    assert "matplotlib.pyplot" not in sys.modules


def test_a_disk_that_refuses_leaves_nothing_half_written(comparison, tmp_path, monkeypatch):
    def refuse(source, target):
        raise OSError(28, "No space left on device", str(target))

    monkeypatch.setattr(whole_files.os, "replace", refuse)
    with pytest.raises(DataError, match="No space left"):
        report.write_comparison(comparison, tmp_path, tokenizer=TOKENIZER)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_cannot_be_is_noticed_before_the_work(tmp_path):
    (tmp_path / "file").write_text("")
    check_folder(tmp_path / "new" / "folder")
    with pytest.raises(DataError, match="is no folder that may be written"):
        check_folder(tmp_path / "file" / "folder")
