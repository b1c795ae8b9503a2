"""Several temperatures and seeds: every cell is there, pooling is a union, and dullness wins nothing."""

import json
from dataclasses import replace

import numpy as np
import pytest

from driving import finish
from stage import make_judge, make_pair, make_tokenizer
from understudy import evaluation, metrics, report
from understudy.errors import SettingError
from understudy.evaluation.frontier import interpolate
from understudy.report.comparison_table import cost_table, diversity_table, quality_table, summarise

TOKENIZER = make_tokenizer()
SCHEDULES = {"heavy": "H8", "sandwich": "L2,H4,L2"}
TEMPERATURES = (0.5, 1.0, 1.5)


def compare(**options):
    pair, judge = make_pair(TOKENIZER), make_judge(TOKENIZER)
    return finish(evaluation.compare_schedules(pair, SCHEDULES, judge, length=14, **options))


@pytest.fixture(scope="module")
def grid():
    return compare(num_samples=4, temperatures=TEMPERATURES, seeds=(3, 5))


def test_every_schedule_is_there_at_every_temperature(grid):
    records, comparison = grid
    cells = [(entry.temperature, entry.name) for entry in comparison.entries]
    assert cells == [(heat, name) for heat in TEMPERATURES for name in SCHEDULES]
    assert comparison.temperatures == TEMPERATURES
    labels = [entry.label for entry in comparison.entries]
    assert labels[:3] == ["heavy at T=0.5", "sandwich at T=0.5", "heavy at T=1"]
    assert [record.name for record in records[:6]] == labels
    assert {record.name for record in records if record.stage == "done"} == set(labels)
    for entry in comparison.entries:
        own = [record for record in records if record.name == entry.label]
        assert (own[-1].samples_done, own[-1].passes_done) == (8, sum(entry.result.nfe.values()))
        assert own[-1].num_passes == own[-1].passes_done


def test_each_temperature_has_its_own_reference(grid):
    _, comparison = grid
    for heavy, sandwich in zip(comparison.entries[::2], comparison.entries[1::2], strict=True):
        assert heavy.nll_difference == metrics.PairedDifference(0.0, 0.0, 0.0)
        means = [sum(entry.scores.nll_sums) / sum(entry.scores.counts) for entry in (heavy, sandwich)]
        assert sandwich.nll_difference.difference == pytest.approx(means[1] - means[0])


def test_several_seeds_are_the_union_of_their_runs(grid):
    _, together = grid
    apart = [compare(num_samples=4, temperature=0.5, seed=seed)[1] for seed in (3, 5)]
    for index, name in enumerate(SCHEDULES):
        pooled, parts = together.entries[index], [comparison.entries[index] for comparison in apart]
        assert pooled.result.tokens.tolist() == [row for part in parts for row in part.result.tokens.tolist()]
        assert pooled.scores.counts == parts[0].scores.counts + parts[1].scores.counts
        np.testing.assert_allclose(
            pooled.scores.nll_sums, parts[0].scores.nll_sums + parts[1].scores.nll_sums, rtol=1e-5
        )
        assert pooled.result.nfe == {key: sum(part.result.nfe[key] for part in parts) for key in pooled.result.nfe}
        assert pooled.result.flops.executed == sum(part.result.flops.executed for part in parts)
        for own, part in zip(pooled.by_seed, parts, strict=True):
            assert (own.seed, own.num_samples) == (part.by_seed[0].seed, 4)
            assert own.gen_ppl == pytest.approx(part.scores.gen_ppl, rel=1e-5)
            assert own.entropy == pytest.approx(part.scores.entropy)
            assert own.nll_difference.difference == pytest.approx(part.nll_difference.difference, abs=1e-5), name


def test_a_single_temperature_keeps_names_as_they_are():
    _, comparison = compare(num_samples=3)
    assert [entry.label for entry in comparison.entries] == list(SCHEDULES)
    assert {entry.frontier_difference for entry in comparison.entries} == {None}
    assert (comparison.settings["temperatures"], comparison.settings["seeds"]) == ([1.0], [0])


@pytest.mark.parametrize("several", [{"temperatures": (1.0, 1.0)}, {"seeds": (0, 1, 0)}, {"seeds": ()}])
def test_values_are_given_once(several):
    with pytest.raises(SettingError, match="give each once"):
        compare(num_samples=2, **several)


def scores_on(line, temperatures, rng, n=60, dull=0.0):
    """Scores of samples whose NLL is `line` of their entropy, as a schedule of these temperatures would have."""
    judge, made = make_judge(TOKENIZER), []
    base = evaluation.score_tokens(judge, rng.integers(3, 20, (n, 6)))
    noise = rng.normal(0, 0.02, n)
    for heat in temperatures:
        entropies = 2 + heat + noise - dull
        sums = 10 * (line(entropies) + rng.normal(0, 0.001, n))
        made.append(
            replace(
                base,
                nll_sums=tuple(sums),
                counts=(10,) * n,
                entropies=tuple(entropies),
                entropy=float(entropies.mean()),
            )
        )
    return made


def test_a_dull_schedule_gains_nothing_on_the_reference_s_own_line():
    rng = np.random.default_rng(0)
    reference = scores_on(lambda entropy: 2 * entropy, (0.5, 1.0, 1.5), rng)
    (dull,) = scores_on(lambda entropy: 2 * entropy, (1.0,), rng, dull=0.3)
    # At equal temperature it looks 0.6 nats better; at equal entropy it is on the line.
    equal_heat = sum(dull.nll_sums) / sum(dull.counts) - sum(reference[1].nll_sums) / sum(reference[1].counts)
    assert equal_heat == pytest.approx(-0.6, abs=0.02)
    paired = evaluation.frontier_difference(reference, dull)
    assert paired.difference == pytest.approx(0, abs=0.003)
    assert paired.low < paired.difference < paired.high
    (worse,) = scores_on(lambda entropy: 2 * entropy + 0.1, (1.0,), rng, dull=0.3)
    found = evaluation.frontier_difference(reference, worse)
    assert found.difference == pytest.approx(0.1, abs=0.003)
    assert not found.within_noise
    assert found.high - found.low < 0.01


def test_no_frontier_beyond_what_the_reference_reaches():
    rng = np.random.default_rng(1)
    reference = scores_on(lambda entropy: entropy, (0.5, 1.0), rng)
    (beyond,) = scores_on(lambda entropy: entropy, (2.0,), rng)
    assert evaluation.frontier_difference(reference, beyond) is None
    assert evaluation.frontier_difference(reference[:1], reference[0]) is None


def test_interpolation_by_hand():
    x, y = np.array([[3.0], [1.0], [2.0]]), np.array([[9.0], [1.0], [4.0]])
    for at, expected in {1.0: 1, 1.5: 2.5, 2.0: 4, 2.5: 6.5, 3.0: 9, 4.0: 14, 0.0: -2}.items():
        assert interpolate(x, y, np.array([at]))[0] == pytest.approx(expected)
    assert interpolate(np.ones((2, 1)), np.array([[3.0], [5.0]]), np.ones(1))[0] == 3  # one entropy twice


def test_the_report_shows_every_cell_once(grid, tmp_path):
    _, comparison = grid
    for table in (quality_table(comparison), diversity_table(comparison)):
        assert [row[0] for row in table.rows] == [entry.label for entry in comparison.entries]
        assert all(len(row) == len(table.columns) for row in table.rows)
    assert [row[0] for row in cost_table(comparison).rows] == list(SCHEDULES)
    assert "at equal\nentropy" in quality_table(comparison).columns
    assert "qual entropy" in summarise(comparison) or "no entropy" in summarise(comparison)
    pytest.importorskip("matplotlib")
    report.write_comparison(comparison, tmp_path, tokenizer=TOKENIZER)
    assert len(list(tmp_path.glob("samples-*.jsonl"))) == 6
    document = json.loads((tmp_path / "comparison.json").read_text(encoding="utf-8"))
    assert [(row["temperature"], row["seeds"]) for row in document["schedules"][::2]] == [
        (heat, [3, 5]) for heat in TEMPERATURES
    ]


def test_what_comes_out_is_json(grid):
    _, comparison = grid
    document = json.loads(json.dumps(comparison.to_dict(per_sample=True), allow_nan=False))
    row = document["schedules"][1]
    assert len(row["by_seed"]) == 2
    assert set(row["by_seed"][0]) == {
        "seed", "num_samples", "gen_ppl", "entropy", "nll_difference", "nll_difference_ci95"
    }  # fmt: skip
    assert len(row["repetitions"]) == 8
