"""Several processes that share a comparison give what one gives."""

import json
import os
import subprocess
import sys

import pytest
import torch

from driving import finish
from stage import make_judge, make_pair, make_tokenizer, save_stage
from understudy.errors import SettingError
from understudy.evaluation import ComparisonTask, Processes, Scoring
from understudy.evaluation.running import sample_cells, summarise_cells
from understudy.evaluation.tasks import ComparisonProgress

TOKENIZER = make_tokenizer()


@pytest.mark.parametrize("protocol", ["ids", "published"])
def test_parts_of_a_comparison_are_the_whole(protocol):
    options = {"num_samples": 3, "length": 12, "seeds": (0, 1), "scoring": Scoring(protocol)}
    task = ComparisonTask.create(make_pair(TOKENIZER), ["H8", "L2,H4,L2"], make_judge(TOKENIZER), **options)
    _, whole = finish(sample_cells(task))
    bounds = Processes(None, 0, 4).bounds(task.num_samples)
    assert bounds == [(0, 1), (1, 3), (3, 4), (4, 6)]
    parts = [finish(sample_cells(task.part(*stretch)))[1] for stretch in bounds]
    for index, cell in enumerate(whole):
        assert torch.equal(cell.tokens, torch.cat([part[index].tokens for part in parts]))
        sums = [value for part in parts for value in part[index].nll_sums]
        assert cell.nll_sums.tolist() == pytest.approx(sums, rel=1e-5)
        assert cell.counts.tolist() == [count for part in parts for count in part[index].counts]
    records, comparison = finish(summarise_cells(task, whole))
    assert all(isinstance(record, ComparisonProgress) for record in records)
    assert comparison.reference.scores.num_samples == 6


def test_more_processes_than_samples():
    with pytest.raises(SettingError, match="8 processes share 3 samples"):
        Processes(None, 0, 8).bounds(3)


@pytest.mark.slow
@pytest.mark.parametrize(
    "rule",
    [
        ("--seed", 0, "--seed", 1, "--temperature", 0.7, "--temperature", 1),
        ("--seed", 3, "--seed", 4, "--decoding", "low_confidence", "--threshold", 0.005),
    ],
)
def test_two_processes_report_what_one_does(tmp_path, rule):
    stage = save_stage(tmp_path / "stage", TOKENIZER)
    models = ("--heavy", stage["heavy"], "--light", stage["light"], "--judge", stage["judge"], "--device", "cpu")
    options = ("--schedule", "H8", "--schedule", "L2,H4,L2", "--length", 14, "-n", 5)
    arguments = ["evaluate", *models, *options, *rule, "--per-sample", "--json"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "ACCELERATE_USE_CPU": "true"}
    launches = {
        1: [sys.executable, "-m"],
        2: [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", "-m"],
    }
    documents = {}
    for count, launch in launches.items():
        command = [*launch, "understudy", *map(str, arguments)]
        outcome = subprocess.run(command, capture_output=True, text=True, check=False, env=environment, cwd=tmp_path)
        assert outcome.returncode == 0, outcome.stderr
        assert outcome.stdout.count("\n") == 1
        documents[count] = json.loads(outcome.stdout)
        assert documents[count]["environment"]["processes"] == count
    for one, two in zip(documents[1]["schedules"], documents[2]["schedules"], strict=True):
        assert one["nll_sums"] == pytest.approx(two["nll_sums"], rel=1e-5)
        assert one["gen_ppl"] == pytest.approx(two["gen_ppl"], rel=1e-5)
        assert one["gen_ppl_ci95"] == pytest.approx(two["gen_ppl_ci95"], rel=1e-5)
        for name in ("counts", "entropies", "repetitions", "distinct_2", "nfe", "num_samples", "seeds"):
            assert one[name] == two[name], name
        assert one["flops"] == pytest.approx(two["flops"], rel=1e-12)
