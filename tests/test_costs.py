"""Time as a cost: the laws its sums obey, its file, and the two commands that write and read it."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from driving import finish
from laws import exact_pair
from stage import make_tokenizer, save_stage
from understudy import ModelSchedule, cli, costs
from understudy.costs import CostTable, PassTime, measure_costs
from understudy.errors import DataError, SettingError
from understudy.flops import TransformerShape
from understudy.noise import Cosine, LogLinear

ROOT = Path(__file__).parent.parent
SHAPES = {"H": TransformerShape(768, 12, 50258), "L": TransformerShape(768, 4, 50258)}
PASSES = {"H": {1: 3.0, 32: 16.5}, "L": {1: 1.25, 32: 5.5}}  # milliseconds
PLACE = {"processor": "an abacus", "cuda_device": None, "device": "cpu"}


def timed(batch_size, milliseconds):
    return PassTime(batch_size, milliseconds, 0.9 * milliseconds, 1.5 * milliseconds, 7)


def make_table(passes=None, *, length=64, steps=32, shapes=SHAPES):
    times = {
        key: {size: timed(size, ms) for size, ms in by_size.items()} for key, by_size in (passes or PASSES).items()
    }
    return CostTable(length, steps, times, shapes, PLACE)


schedules = st.lists(st.tuples(st.sampled_from("HL"), st.integers(1, 30)), min_size=1, max_size=6).map(
    lambda parts: ModelSchedule.parse(",".join(f"{key}{count}" for key, count in parts))
)


# The laws of a sum.


@given(schedules, st.sampled_from([1, 32]), st.integers(1, 64))
def test_time_is_the_share_of_each_models_time_alone(schedule, batch_size, length):
    # Log-linear noise on an even grid: every step is needed with the same probability 1 − (1 − 1/N)^F.
    steps = schedule.num_steps
    passes = steps * (1 - (1 - 1 / steps) ** length)
    each = {key: PASSES[key][batch_size] / batch_size for key in "HL"}
    expected = sum(count / steps * passes * each[key] for key, count in schedule.counts.items())
    given_time = make_table().sample_milliseconds(schedule, LogLinear(), batch_size, length)
    assert given_time == pytest.approx(expected)


@given(schedules, st.randoms(use_true_random=False))
def test_time_is_blind_to_order_under_log_linear_noise(schedule, random):
    steps = list(schedule.steps())
    random.shuffle(steps)
    shuffled = ModelSchedule.from_keys(steps)
    times = [make_table().sample_milliseconds(entry, LogLinear(), 32) for entry in (schedule, shuffled)]
    assert times[0] == pytest.approx(times[1])


@given(schedules)
def test_time_is_additive_over_segments(schedule):
    # Passing the clock from segment to segment: each alone, the others taking no time, adds up to the whole.
    table, noise = make_table(), Cosine()
    parts, free = 0.0, 1e-300
    for index, segment in enumerate(schedule.segments):
        keys = ["ABCDEF"[i] for i, other in enumerate(schedule.segments) for _ in range(other.count)]
        times = {key: {32: free} for key in "ABCDEF"} | {"ABCDEF"[index]: {32: PASSES[segment.key][32]}}
        parts += make_table(times, shapes={}).sample_milliseconds(ModelSchedule.from_keys(keys), noise, 32)
    assert table.sample_milliseconds(schedule, noise, 32) == pytest.approx(parts)


def test_cosine_noise_makes_the_order_count():
    # Its reveals crowd where time falls fastest, so a step's place decides whether it is needed.
    table = make_table()
    first, last = (
        table.sample_milliseconds(ModelSchedule.parse(text), Cosine(), 32) for text in ("L16,H16", "H16,L16")
    )
    assert first != pytest.approx(last, rel=0.01)


@given(schedules)
def test_saving_is_against_the_costliest_model_alone(schedule):
    table = make_table()
    saved = table.sample_saved(schedule, LogLinear(), 32)
    light = schedule.counts.get("L", 0) / schedule.num_steps
    assert table.costliest(32) == "H"
    assert saved == pytest.approx(light * (1 - 5.5 / 16.5))


def test_costliest_model_depends_on_the_batch():
    table = make_table({"A": {1: 2.0, 8: 3.0}, "B": {1: 1.0, 8: 6.0}}, shapes={})
    assert (table.costliest(1), table.costliest(8)) == ("A", "B")
    assert table.sample_saved(ModelSchedule.parse("A4"), LogLinear(), 8) == pytest.approx(0.5)
    assert table.sample_saved(ModelSchedule.parse("B4"), LogLinear(), 8) == 0


def test_default_batch_is_one_that_all_models_know():
    assert make_table().batch_sizes == [1, 32]
    assert make_table({"H": {8: 1.0, 64: 4.0}, "L": {1: 1.0, 8: 1.0}}).batch_sizes == [8]


@pytest.mark.parametrize(
    ("key", "size", "message"), [("M", 1, "no model M, only H, L"), ("H", 8, "H at batch size 1, 32, not at 8")]
)
def test_what_was_not_measured_is_not_guessed(key, size, message):
    with pytest.raises(SettingError, match=message):
        make_table().pass_time(key, size)


@pytest.mark.parametrize("free", [0, 65])
def test_free_positions_lie_within_the_length(free):
    with pytest.raises(SettingError, match=f"{free} positions .* 1 to its length, 64"):
        make_table().sample_milliseconds(ModelSchedule.parse("H4"), LogLinear(), 1, free)


# The file.


def test_table_comes_back_from_its_file(tmp_path):
    table = make_table(shapes={"H": SHAPES["H"]})
    table.save(tmp_path / "costs.json")
    assert CostTable.load(tmp_path / "costs.json") == table


def spoil(change):
    """The text of a table's file after a change to its content."""
    content = json.loads(json.dumps(make_table().to_dict()))
    change(content)
    return json.dumps(content)


DAMAGED = {
    "cut short": ('{"format": "understudy-costs-1", "len', "damaged"),
    "empty": ("", "damaged"),
    "a list": ("[]", "no JSON object"),
    "something else": ('{"format": "other"}', r"is no cost table \(understudy-costs-1\)"),
    "no models": (spoil(lambda c: c.pop("models")), "no entry 'models'"),
    "models in a list": (spoil(lambda c: c.update(models=[1])), "damaged cost table"),
    "no model at all": (spoil(lambda c: c.update(models={})), "no pass time"),
    "a model without passes": (spoil(lambda c: c["models"]["H"].update(passes=[])), "no pass time"),
    "a word for a time": (
        spoil(lambda c: c["models"]["H"]["passes"][0].update(milliseconds="1")),
        "milliseconds .* '1'",
    ),
    "no time at all": (spoil(lambda c: c["models"]["H"]["passes"][0].update(milliseconds=0)), "milliseconds .* is 0"),
    "not a number": (spoil(lambda c: c["models"]["H"]["passes"][0].update(milliseconds=float("nan"))), "is nan"),
    "half a batch": (spoil(lambda c: c["models"]["H"]["passes"][0].update(batch_size=0.5)), "batch_size .* is 0.5"),
    "an unknown entry": (spoil(lambda c: c["models"]["H"]["passes"][0].update(colour=1)), "damaged cost table.*colour"),
    "a flat model": (spoil(lambda c: c["models"]["H"]["shape"].update(width=0)), "width of a shape is 0"),
    "no length": (spoil(lambda c: c.update(length="long")), "length is 'long'"),
}


@pytest.mark.parametrize("damage", DAMAGED)
def test_damaged_file_is_one_line_that_says_how_to_mend_it(call, tmp_path, damage):
    text, message = DAMAGED[damage]
    (tmp_path / "costs.json").write_text(text, encoding="utf-8")
    with pytest.raises(DataError, match=message):
        CostTable.load(tmp_path / "costs.json")
    status, out, err = call("flops", "--cost-table", "costs.json")
    assert (status, out, err.count("\n")) == (2, "", 1)
    assert "understudy bench --output costs.json" in err


# The commands.


@pytest.fixture
def call(monkeypatch, capsys, tmp_path):
    """Run the command in this process, in an empty folder: (status, standard output, standard error)."""
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setenv("TRANSFORMERS_VERBOSITY", "error")
    monkeypatch.chdir(tmp_path)

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["understudy", *map(str, arguments)])
        with pytest.raises(SystemExit) as leave:
            cli.main()
        return leave.value.code, *capsys.readouterr()

    return run


@pytest.fixture
def quick(monkeypatch):
    """Windows so short that a table of tiny models takes no time."""
    monkeypatch.setattr(costs, "WINDOW_SECONDS", 1e-4)
    monkeypatch.setattr(costs, "REPEATS", 3)


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    folders = save_stage(tmp_path_factory.mktemp("stage"), make_tokenizer())
    return ("--heavy", folders["heavy"], "--light", folders["light"])


def test_bench_prints_one_document_and_flops_counts_in_it(call, quick, pair):
    arguments = ("--batch-size", 1, "--batch-size", 4, "--steps", 8, "--length", 16)
    status, out, err = call("bench", *pair, *arguments, "--output", "costs.json", "--json")
    assert (status, err, out.count("\n")) == (0, "", 1)
    document = json.loads(out)
    assert document == json.loads(Path("costs.json").read_text(encoding="utf-8"))
    assert (document["format"], document["length"], document["steps"]) == ("understudy-costs-1", 16, 8)
    assert document["environment"]["device"] == "cpu"
    for key, blocks in {"H": 3, "L": 1}.items():
        assert document["models"][key]["shape"] == {"width": 16, "blocks": blocks, "vocab_size": 275}
        assert [entry["batch_size"] for entry in document["models"][key]["passes"]] == [1, 4]
        for entry in document["models"][key]["passes"]:
            assert 0 < entry["fastest"] <= entry["milliseconds"] <= entry["slowest"]

    status, out, err = call("flops", "--cost-table", "costs.json", "--schedule", "L2,H4,L2", "--json")
    assert (status, err, out.count("\n")) == (0, "", 1)
    counted = json.loads(out)
    assert (counted["length"], counted["vocab_size"]) == (16, 275)
    assert counted["models"] == {key: document["models"][key]["shape"] for key in "HL"}
    assert (counted["cost_table"]["batch_size"], counted["cost_table"]["steps"]) == (4, 8)
    (row,) = counted["schedules"]
    each = {key: document["models"][key]["passes"][1]["milliseconds"] / 4 for key in "HL"}
    passes = 8 * (1 - (7 / 8) ** 16)
    assert row["time"]["milliseconds"] == pytest.approx(passes * (each["H"] + each["L"]) / 2)
    assert row["time"]["saved"] == pytest.approx(1 - (each["H"] + each["L"]) / 2 / max(each.values()))
    assert sum(row["nfe"].values()) == pytest.approx(passes)


def test_bench_table_on_a_page(call, quick, pair):
    status, out, err = call("bench", *pair, "--batch-size", 2, "--steps", 4, "--length", 8, "--output", "costs.json")
    assert (status, err) == (0, "")
    assert "at length 8, 4 steps" in out
    assert "`understudy flops --cost-table costs.json`" in out


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--batch-size", 0), "batch size is 0"),
        (("--length", 0), "length is 0"),
        (("--length", 33), "33"),
        (("--steps", 0), "0"),
        (("--output", "gone/costs.json"), "there is no folder"),
    ],
)
def test_wrong_bench_is_one_line(call, quick, pair, options, message):
    status, out, err = call("bench", *pair, *options)
    assert (status, out, err.count("\n")) == (2, "", 1)
    assert message in err


def test_measuring_makes_the_passes_of_the_sampler(quick):
    figures, table = finish(measure_costs(exact_pair(), length=3, steps=4, batch_sizes=[2, 1, 2]))
    assert [(key, entry.batch_size) for key, entry in figures] == [("H", 2), ("H", 1), ("L", 2), ("L", 1)]
    assert {key: dict(times) for key, times in table.times.items()} == {
        key: {entry.batch_size: entry for name, entry in figures if name == key} for key in "HL"
    }
    assert table.shapes == {}  # a closed form has no blocks
    with pytest.raises(SettingError, match="no batch size"):
        finish(measure_costs(exact_pair(), length=3, steps=4, batch_sizes=[]))


def test_flops_shows_time_beside_every_share(call, monkeypatch):
    make_table(length=1024, steps=1000).save(Path("costs.json"))
    document = json.loads(call("flops", "--cost-table", "costs.json", "--json")[1])
    # What it says of FLOPs is what it says without the table.
    assert document["schedules"][0]["flops"] == json.loads(call("flops", "--json")[1])["schedules"][0]["flops"]
    assert document["schedules"][0]["time"]["saved"] == pytest.approx(0.25 * (1 - 5.5 / 16.5))
    assert document["cost_table"]["reference"] == "H"
    _, out, _ = call("flops", "--cost-table", "costs.json", "--batch-size", 1)
    assert f"{0.25 * (1 - 1.25 / 3):.1%}" in out
    assert "batches of 1 on an abacus" in " ".join(out.split())
    assert "timed at" not in out
    assert max(map(len, out.splitlines())) <= 80
    monkeypatch.setenv("COLUMNS", "160")
    _, out, _ = call("flops", "--cost-table", "costs.json", "--schedule", "L32,H192,L32")
    assert "ms a sample" in out
    assert "saved: time" in out
    assert "timed at 1000 steps, where a pass reveals another number of tokens" in out


def test_shapes_that_the_table_lacks_are_asked_for(call):
    make_table(shapes={"H": SHAPES["H"]}).save(Path("costs.json"))
    status, _, err = call("flops", "--cost-table", "costs.json")
    assert status == 2
    assert "does not know the shape of L; add --model L=BLOCKSxWIDTH" in err
    status, out, _ = call("flops", "--cost-table", "costs.json", "--model", "L=4x768", "--json")
    assert status == 0
    assert json.loads(out)["models"]["L"] == {"width": 768, "blocks": 4, "vocab_size": 50258}


MISFITS = {
    "other length": ("--length 128", "--length is 128, but the cost table was measured at length 64"),
    "other vocabulary": ("--vocab-size 300", "--vocab-size is 300, but the cost table's models have 50258"),
    "other shape": ("--model L=2x768", "--model gives L as 2x768, but the cost table measured 4x768"),
    "model not measured": ("--model M=2x768", "--model names M, but the cost table holds H, L only"),
    "schedule of another model": ("--schedule H2,M2", "names M, but the cost table holds H, L only; measure M too"),
    "other batch": ("--batch-size 8", "has H at batch size 1, 32, not at 8"),
    "missing file": ("--cost-table gone.json", "there is no file 'gone.json'; write one by `understudy bench"),
}


@pytest.mark.parametrize("name", MISFITS)
def test_what_does_not_fit_the_table_is_one_line(call, name):
    options, message = MISFITS[name]
    make_table().save(Path("costs.json"))
    status, out, err = call("flops", "--cost-table", "costs.json", *options.split())
    assert (status, out, err.count("\n")) == (2, "", 1)
    assert message in err


def test_a_file_of_another_kind_is_not_to_be_overwritten(call):
    Path("precious.json").write_text('{"format": "understudy-plan-1"}')
    status, _, err = call("flops", "--cost-table", "precious.json")
    assert status == 2
    assert "'precious.json' is no cost table" in err
    assert "write one by `understudy bench --output costs.json`" in err


def test_batch_size_belongs_to_a_table(call):
    status, _, err = call("flops", "--batch-size", 8)
    assert status == 2
    assert "give --cost-table FILE.json too" in err


def test_no_common_batch_size(call):
    make_table({"H": {8: 1.0}, "L": {1: 1.0}}).save(Path("costs.json"))
    status, _, err = call("flops", "--cost-table", "costs.json")
    assert status == 2
    assert "no batch size at which every model was measured" in err


# The benchmark that a figure in the README may come from.


@pytest.mark.slow
def test_sampling_benchmark_ends_in_one_document(tmp_path):
    output = tmp_path / "sampling.json"
    arguments = [sys.executable, "benchmarks/sampling.py", "--small", "--device", "cpu", "--cell", "16x1"]
    arguments += ["--plain-steps", "2", "--output", str(output)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    ended = subprocess.run(arguments, cwd=ROOT, env=environment, capture_output=True, text=True, check=True)
    document = json.loads(ended.stdout.splitlines()[-1])
    assert document == json.loads(output.read_text(encoding="utf-8"))
    assert document.keys() >= {"what", "command", "commit", "environment", "settings", "cells"}
    (cell,) = document["cells"]
    assert (cell["steps"], cell["batch_size"]) == (16, 1)
    lazy, plain = {"heavy_only", "sandwich", "light_only"}, {"plain", "plain_cached"}
    assert cell["variants"].keys() == lazy | plain | {f"{name}_light" for name in plain}
    for entry in cell["variants"].values():
        assert entry["median_seconds_per_sample"] > 0
    assert cell["comparison"]["heavy_only_times_faster_than"].keys() == plain
    saved = cell["comparison"]["sandwich_saved_executed_flops"]
    assert 0 < saved < 1
    ratio = cell["comparison"]["sandwich_saved_time"] / saved
    assert cell["comparison"]["sandwich_saved_time_over_saved_flops"] == pytest.approx(ratio)
