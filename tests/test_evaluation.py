import json

import numpy as np
import pytest
import typer
from typer.testing import CliRunner

from driving import finish
from stage import VOCAB, make_judge, make_pair, make_tokenizer, save_stage
from understudy import evaluation, metrics
from understudy.cli.evaluate import evaluate_command
from understudy.errors import DataError, SettingError, UnderstudyError
from understudy.saved_samples import check_texts, documents, read_samples, retokenize, sample_text

SCORE_KEYS = {"gen_ppl", "gen_ppl_ci95", "entropy", "distinct_1", "distinct_2", "num_samples", "judge"} | {
    "entropy_se", "context_length", "num_tokens", "repetition", "repetition_se", "self_bleu", "ngram_overlap",
    "ngram_overlap_se", "mauve", "mauve_by_seed", "protocol"
}  # fmt: skip
SCHEDULE_KEYS = SCORE_KEYS | {
    "name", "schedule", "nfe", "flops", "seconds", "nll_difference", "nll_difference_ci95", "within_noise",
    "temperature", "seeds", "by_seed", "executed_flops_per_sample", "frontier_difference", "frontier_difference_ci95"
}  # fmt: skip
PER_SAMPLE = {"nll_sums", "counts", "entropies", "repetitions", "overlaps"}


@pytest.fixture(scope="module")
def tokenizer():
    return make_tokenizer()


@pytest.fixture(scope="module")
def judge(tokenizer):
    return make_judge(tokenizer)


@pytest.fixture(scope="module")
def pair(tokenizer):
    return make_pair(tokenizer)


@pytest.fixture(scope="module")
def stage(tokenizer, tmp_path_factory):
    return save_stage(tmp_path_factory.mktemp("stage"), tokenizer)


def write_lines(path, rows):
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return path


def call(*arguments):
    app = typer.Typer()
    app.command()(evaluate_command)
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def test_scores_hold_together(judge):
    tokens = np.random.default_rng(0).integers(3, VOCAB, (6, 20))
    scores = evaluation.score_tokens(judge, tokens)
    assert scores.gen_ppl == metrics.generative_perplexity(scores.nll_sums, scores.counts)
    assert scores.gen_ppl_ci95[0] < scores.gen_ppl < scores.gen_ppl_ci95[1]
    assert scores.entropy == pytest.approx(np.mean(scores.entropies))
    assert scores.counts == (19,) * 6
    assert (scores.num_samples, scores.judge, scores.context_length) == (6, "tiny", 32)
    assert set(scores.to_dict()) == SCORE_KEYS
    assert set(scores.to_dict(per_sample=True)) == SCORE_KEYS | PER_SAMPLE
    json.dumps(scores.to_dict(per_sample=True), allow_nan=False)


def test_one_sample_has_no_interval(judge):
    scores = evaluation.score_tokens(judge, [[3, 4, 5]])
    assert scores.gen_ppl_ci95 is None
    assert scores.entropy_se is None


def test_comparison_yields_exact_progress_and_pairs_with_the_first(pair, judge):
    records, comparison = finish(
        evaluation.compare_schedules(
            pair, {"heavy": "H100%", "sandwich": "L25%,H50%,L25%"}, judge, num_samples=3, length=12, steps=8, seed=5
        )
    )
    assert [record.stage for record in records[:2]] == ["waiting", "waiting"]
    for entry in comparison.entries:
        own = [record for record in records if record.name == entry.name]
        assert [record.passes_done for record in own] == sorted(record.passes_done for record in own)
        assert own[-1].passes_done == own[-1].num_passes == sum(entry.result.nfe.values())
        assert (own[-1].stage, own[-1].samples_done) == ("done", 3)
    heavy, sandwich = comparison.entries
    assert heavy.nll_difference == metrics.PairedDifference(0.0, 0.0, 0.0)
    means = [sum(entry.scores.nll_sums) / sum(entry.scores.counts) for entry in (heavy, sandwich)]
    assert sandwich.nll_difference.difference == pytest.approx(means[1] - means[0])
    assert heavy.relative_cost == 1.0 > sandwich.relative_cost
    assert comparison.models == ("H", "L")
    document = comparison.to_dict()
    assert all(set(row) == SCHEDULE_KEYS for row in document["schedules"])
    json.dumps(document, allow_nan=False)


def test_equal_models_differ_by_exactly_nothing(pair, judge):
    twins = {"H": pair["H"], "L": pair["H"]}
    _, comparison = finish(
        evaluation.compare_schedules(twins, ["H8", "L8", "L2,H4,L2"], judge, num_samples=3, length=10)
    )
    for entry in comparison.entries:
        assert entry.result.tokens.equal(comparison.reference.result.tokens)
        assert entry.nll_difference == metrics.PairedDifference(0.0, 0.0, 0.0)
        assert entry.within_noise


def test_a_prefix_is_context_and_not_scored(pair, judge):
    _, comparison = finish(
        evaluation.compare_schedules(pair, ["H4"], judge, num_samples=2, length=10, prefix=[7, 8, 9, 7])
    )
    scores = comparison.reference.scores
    assert scores.counts == (6, 6)
    assert scores.entropies == tuple(metrics.token_entropy(comparison.reference.result.tokens[:, 4:]))
    assert comparison.settings["prefix"] == [7, 8, 9, 7]


def test_requests_are_checked_before_any_model_runs(pair, judge):
    with pytest.raises(SettingError, match="names X"):
        next(evaluation.compare_schedules(pair, ["H4", "X4"], judge, length=10))
    with pytest.raises(SettingError, match="each once"):
        next(evaluation.compare_schedules(pair, ["H4", "H4"], judge, length=10))


def test_a_judge_that_reads_other_tokens_is_refused(tokenizer, judge):
    class Shifted:
        def get_vocab(self):
            return {token: index + 1 for token, index in tokenizer.get_vocab().items()}

    evaluation.check_vocabulary(tokenizer, judge)
    with pytest.raises(DataError, match="judge tiny reads token"):
        evaluation.check_vocabulary(Shifted(), judge)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", "line 2: not JSON"),
        ("[1]", "line 2: there is no string under 'text'"),
        ('{"text": "a"}', "line 2: 'token_ids' is no list"),
        ('{"text": "a", "token_ids": []}', "line 2: 'token_ids' is no list"),
        ('{"text": "a", "token_ids": [1, -1]}', "line 2: 'token_ids' is no list"),
        ('{"text": "a", "token_ids": [1, true]}', "line 2: 'token_ids' is no list"),
    ],
)
def test_a_bad_line_is_named(tmp_path, line, message):
    path = tmp_path / "samples.jsonl"
    path.write_text('{"text": "a", "token_ids": [1]}\n' + line + "\n")
    with pytest.raises(DataError, match=message) as caught:
        read_samples(path)
    assert "\n" not in str(caught.value)


def test_missing_and_empty_files_are_errors(tmp_path):
    with pytest.raises(DataError, match="No such file"):
        read_samples(tmp_path / "none.jsonl")
    (tmp_path / "empty.jsonl").write_text("\n")
    with pytest.raises(DataError, match="holds no samples"):
        read_samples(tmp_path / "empty.jsonl")


def test_texts_tell_whether_the_judge_reads_the_ids(tmp_path, tokenizer):
    text = "the café, 猫"
    ids = tokenizer(text).input_ids
    saved = read_samples(write_lines(tmp_path / "a.jsonl", [{"text": text, "token_ids": [0, *ids], "seed": 1}]))
    check_texts(saved, tokenizer)
    assert retokenize(saved.texts, tokenizer) == [ids]
    other = read_samples(write_lines(tmp_path / "b.jsonl", [{"text": text, "token_ids": ids[::-1]}]))
    with pytest.raises(DataError, match="sample 0: the judge's tokenizer does not read"):
        check_texts(other, tokenizer)


def test_documents_of_a_sample_stand_apart(tmp_path, tokenizer):
    end, pad = tokenizer.eos_token_id, tokenizer.pad_token_id
    one, other = tokenizer("the cat is").input_ids, tokenizer("a café, 猫").input_ids
    ids = [end, *one, end, end, *other, end, pad]
    assert documents(tokenizer, ids) == [[*range(1, 1 + len(one))], [*range(3 + len(one), 3 + len(one) + len(other))]]
    assert sample_text(tokenizer, ids) == "the cat is\n\na café, 猫"
    assert sample_text(tokenizer, [end, *one, end]) == "the cat is"
    assert sample_text(tokenizer, [end, end]) == ""
    rows = [{"text": sample_text(tokenizer, ids), "token_ids": ids}]
    check_texts(read_samples(write_lines(tmp_path / "a.jsonl", rows)), tokenizer)


def test_evaluate_scores_a_file(tmp_path, tokenizer, stage):
    texts = ["the cat sat", "the dog and the cat", "a café"]
    path = write_lines(tmp_path / "s.jsonl", [{"text": t, "token_ids": tokenizer(t).input_ids} for t in texts])
    outcome = call("--samples", path, "--judge", stage["judge"], "--json")
    assert outcome.exit_code == 0, outcome.output
    document = json.loads(outcome.stdout)
    assert set(document) == SCORE_KEYS | {"environment", "format", "command", "samples", "settings"}
    assert (document["format"], document["samples"]) == ("understudy-evaluation-1", str(path))
    assert document["num_samples"] == 3
    again = call("--samples", path, "--judge", stage["judge"], "--json", "--retokenize")
    anew = json.loads(again.stdout)
    assert (anew["protocol"], anew["num_tokens"]) == ("retokenized", document["num_tokens"])
    assert anew["gen_ppl"] == document["gen_ppl"]
    assert "gen_ppl" in call("--samples", path, "--judge", stage["judge"]).stdout


def test_evaluate_compares_schedules(stage):
    models = ("--heavy", stage["heavy"], "--light", stage["light"], "--judge", stage["judge"])
    options = ("--length", 12, "--num-samples", 3, "--schedule", "H8", "--schedule", "L2,H4,L2")
    outcome = call(*models, *options, "--json")
    assert outcome.exit_code == 0, outcome.output
    document = json.loads(outcome.stdout)
    assert [row["schedule"] for row in document["schedules"]] == ["H8", "L2,H4,L2"]
    assert all(set(row) == SCHEDULE_KEYS for row in document["schedules"])
    assert document["reference"] == "H8"
    shown = call(*models, *options).stdout
    assert "reference" in shown
    assert "judge perplexity" in shown


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "either --samples FILE or one --schedule"),
        (("--samples", "x", "--schedule", "H4"), "either --samples FILE or one --schedule"),
        (("--samples", "x", "--heavy", "y"), "--heavy samples anew"),
        (("--samples", "nowhere.jsonl"), "'nowhere.jsonl' cannot be read"),
        (("--schedule", "H4", "--heavy", "y"), "give --judge"),
        (
            ("--samples", "x", "--temperature", "1", "--prefix-length", "3"),
            "--temperature, --prefix-length samples anew",
        ),
        (("--schedule", "H4", "--prefix-length", "3"), "--prefix-length goes with --prefixes"),
        (("--schedule", "H4", "--prefix", "a", "--prefixes", "b"), "either --prefix TEXT or --prefixes"),
        (("--schedule", "H4", "--mauve"), "give --data DIR"),
        (("--schedule", "H4", "--data", "nowhere"), "'nowhere' holds no manifest.json"),
        (("--samples", "x", "--retokenize", "--protocol", "published"), "give one of them"),
        (("--schedule", "H4", "--output", "nowhere/out.json"), "there is no folder 'nowhere'"),
        (("--schedule", "H4;", "--heavy", "y", "--judge", "z"), "column 3"),
    ],
)
def test_evaluate_refuses_what_makes_no_sense(arguments, message):
    error = call(*arguments).exception
    assert isinstance(error, UnderstudyError)
    assert message in str(error)
