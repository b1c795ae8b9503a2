"""Samples beside the training text: overlap and MAUVE, through the same doors that a user takes."""

import importlib.machinery
import importlib.util
import json
import sys
import types

import numpy as np
import pytest
import torch
import typer
from typer.testing import CliRunner

from driving import finish
from prepared_text import DOCUMENTS, Texts
from stage import make_judge, make_llama, make_pair, make_tokenizer, save_stage
from understudy import evaluation, metrics
from understudy.cli.evaluate import evaluate_command
from understudy.data import PrepareSettings, TokenBlocks, prepare, train_bpe
from understudy.errors import DataError, SettingError
from understudy.evaluation import ReferenceText, Scoring, read_evaluation, write_evaluation

TOKENIZER = make_tokenizer()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data") / "blocks"
    settings = PrepareSettings(block_length=24, validation_fraction=0.3, shard_blocks=17)
    finish(prepare([Texts(DOCUMENTS)], folder, tokenizer=TOKENIZER, settings=settings))
    return folder


@pytest.fixture
def stub(monkeypatch):
    """In place of mauve-text, which is large: records what it was asked and gives the seed's share."""
    module = types.ModuleType("mauve")
    module.__spec__ = importlib.machinery.ModuleSpec("mauve", None)
    module.calls = []

    def compute_mauve(*, p_features, q_features, seed, verbose):
        assert not verbose
        module.calls.append((p_features, q_features, seed))
        return types.SimpleNamespace(mauve=1 / (seed + 1))

    module.compute_mauve = compute_mauve
    monkeypatch.setitem(sys.modules, "mauve", module)
    return module


def test_overlap_of_a_file_with_its_own_training_text(folder):
    blocks = TokenBlocks.open(folder, "train")
    scoring = Scoring(references=ReferenceText.open(folder))
    rows = [blocks[np.array([5])][0], np.arange(100, 124)]
    scores = evaluation.score_tokens(make_judge(TOKENIZER), rows, scoring=scoring)
    assert scores.overlaps == (1.0, 0.0)
    assert (scores.ngram_overlap, scores.mauve) == (0.5, None)


def test_overlap_in_a_comparison_is_that_of_each_schedule_alone(folder, monkeypatch):
    monkeypatch.setattr("understudy.evaluation.references._CHUNK_TOKENS", 240)
    references = ReferenceText.open(folder)
    assert references.num_chunks == -(-len(references.training) // 10) > 2
    assert sum(map(len, references.training_chunks())) == len(references.training)
    judge = make_judge(TOKENIZER)
    run = evaluation.compare_schedules(
        make_pair(TOKENIZER),
        ["H8", "L8"],
        judge,
        num_samples=3,
        length=20,
        prefix=references.training[np.array([0])][0][:12],  # given, so that it counts for nothing
        scoring=Scoring(references=references),
    )
    records, comparison = finish(run)
    assert {"looking up"} < {record.stage for record in records}
    for entry in comparison.entries:
        written = entry.result.tokens[:, 12:]
        expected = metrics.ngram_overlap(written, references.training_chunks())
        assert entry.scores.overlaps == tuple(expected)


def test_another_tokenizer_is_refused_before_anything_runs(folder):
    other = train_bpe(["another text, other pairs of letters; zebra quiz. " * 3], 275)
    scoring = Scoring(references=ReferenceText.open(folder))
    with pytest.raises(DataError, match="another tokenizer than the samples"):
        evaluation.score_tokens(make_judge(other), [[3, 4]], scoring=scoring)
    with pytest.raises(DataError, match="another tokenizer than the samples"):
        next(evaluation.compare_schedules(make_pair(TOKENIZER), ["H4"], make_judge(other), length=9, scoring=scoring))


def test_features_are_the_last_hidden_state_at_the_last_token():
    model = make_llama(vocab=23, context=8)
    rows = [[1, 2, 3], [4, 5], [6, 7, 8], list(range(12))]
    found = metrics.last_token_features(model, rows, batch_size=2)
    for row, feature in zip(rows, found, strict=True):
        states = model.model(torch.tensor([row[:8]])).last_hidden_state  # a text is cut at the end of the context
        np.testing.assert_allclose(feature, states[0, -1].numpy(), rtol=1e-4, atol=1e-6)


def test_mauve_compares_as_many_held_out_blocks_of_equal_length(folder, stub):
    references, judge = ReferenceText.open(folder), make_judge(TOKENIZER)
    run = evaluation.compare_schedules(
        make_pair(TOKENIZER),
        ["H4", "L4"],
        judge,
        num_samples=21,
        length=20,
        scoring=Scoring(references=references, mauve=True),
    )
    _, comparison = finish(run)
    for entry in comparison.entries:
        assert entry.scores.mauve_by_seed == tuple(1 / (seed + 1) for seed in range(5))
        assert entry.scores.mauve == pytest.approx(np.mean(entry.scores.mauve_by_seed))
    samples, held_out, _ = stub.calls[0]
    np.testing.assert_array_equal(
        samples, metrics.last_token_features(judge.model, comparison.entries[0].result.tokens)
    )
    np.testing.assert_array_equal(held_out, metrics.last_token_features(judge.model, references.held_out(21, 20)))
    assert len(samples) == len(held_out) == 21
    assert [call[2] for call in stub.calls] == [0, 1, 2, 3, 4] * 2


def test_mauve_that_cannot_be_is_refused_before_anything_runs(folder, stub):
    scoring = Scoring(references=ReferenceText.open(folder), mauve=True)
    pair, judge = make_pair(TOKENIZER), make_judge(TOKENIZER)
    with pytest.raises(SettingError, match="give the folder"):
        Scoring(mauve=True)
    with pytest.raises(SettingError, match="MAUVE of 4 samples"):
        next(evaluation.compare_schedules(pair, ["H4"], judge, num_samples=4, length=20, scoring=scoring))
    with pytest.raises(SettingError, match="samples have 30 tokens, blocks 24"):
        next(evaluation.compare_schedules(pair, ["H4"], judge, num_samples=30, length=30, scoring=scoring))
    with pytest.raises(DataError, match="both must be"):
        metrics.mauve(np.ones((30, 4)), np.ones((30, 5)))


@pytest.mark.parametrize(
    ("option", "package", "extra"), [("self_bleu", "sacrebleu", "eval"), ("mauve", "mauve", "mauve")]
)
def test_a_missing_package_is_said_at_once(monkeypatch, option, package, extra):
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(
        "understudy.evaluation.scores.find_spec", lambda name: None if name == package else find_spec(name)
    )
    with pytest.raises(SettingError, match=rf"pip install 'understudy\[{extra}\]'"):
        Scoring(**{option: True})


def test_real_mauve_tells_equal_from_different():
    pytest.importorskip("mauve")
    rng = np.random.default_rng(0)
    first, same, other = (rng.normal(mean, 1, (100, 8)) for mean in (0, 0, 3))
    assert metrics.mauve(first, same, seeds=(0,))[0] > 0.8
    assert metrics.mauve(first, other, seeds=(0,))[0] < 0.1


# The file that `understudy evaluate --output` writes.


def call(*arguments):
    app = typer.Typer()
    app.command()(evaluate_command)
    outcome = CliRunner().invoke(app, [str(argument) for argument in arguments])
    if outcome.exception is not None and not isinstance(outcome.exception, SystemExit):
        raise outcome.exception
    return outcome.stdout


def test_the_document_is_written_and_reads_back(tmp_path, folder):
    pytest.importorskip("sacrebleu")
    stage = save_stage(tmp_path / "stage", TOKENIZER)
    path = tmp_path / "evaluation.json"
    models = ("--heavy", stage["heavy"], "--light", stage["light"], "--judge", stage["judge"])
    options = ("--schedule", "H8", "--schedule", "L2,H4,L2", "--length", 20, "-n", 3, "--data", folder, "--self-bleu")
    several = ("--temperature", 0.8, "--temperature", 1.2, "--seed", 4, "--seed", 5, "--top-p", 0.9)
    printed = json.loads(call(*models, *options, *several, "--output", path, "--per-sample", "--json"))
    document = read_evaluation(path)
    assert document == printed
    assert list(document)[:2] == ["format", "command"]
    assert document["format"] == evaluation.FORMAT == "understudy-evaluation-1"
    assert {"settings", "environment", "models", "paths", "schedules", "judge", "protocol", "bootstrap"} <= set(
        document
    )
    assert document["paths"] == {"H": str(stage["heavy"]), "L": str(stage["light"])}
    assert document["settings"]["data"] == str(folder)
    assert (document["settings"]["top_p"], document["environment"]["processes"]) == (0.9, 1)
    cells = [(row["schedule"], row["temperature"], row["seeds"]) for row in document["schedules"]]
    assert cells == [(text, heat, [4, 5]) for heat in (0.8, 1.2) for text in ("H8", "L2,H4,L2")]
    for row in document["schedules"]:
        assert (row["num_samples"], len(row["nll_sums"]), len(row["overlaps"])) == (6, 6, 6)
        assert 0 <= row["self_bleu"] <= 100
        assert 0 <= row["ngram_overlap"] <= 1


def test_a_file_is_scored_by_the_published_protocol(tmp_path):
    stage = save_stage(tmp_path / "stage", TOKENIZER)
    texts = ["the cat sat", "the dog and the cat", "a café"]
    rows = [{"text": text, "token_ids": [TOKENIZER.eos_token_id, *TOKENIZER.encode(text)]} for text in texts]
    path, output = tmp_path / "s.jsonl", tmp_path / "scores.json"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    document = json.loads(
        call("--samples", path, "--judge", stage["judge"], "--protocol", "published", "--json", "--output", output)
    )
    assert read_evaluation(output) == document
    assert document["protocol"] == "published"
    # An end-of-text at the start, which uses up the one that counts, and none scored after it.
    assert document["num_tokens"] == sum(len(row["token_ids"]) - 1 for row in rows)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "is damaged"),
        ("[]", "holds no JSON object"),
        ('{"format": "understudy-evaluation-9"}', "has format 'understudy-evaluation-9', this version reads"),
        ('{"format": "understudy-evaluation-1"}', "holds no scores"),
        ('{"format": "understudy-evaluation-1", "schedules": []}', "holds no scores"),
    ],
)
def test_other_files_are_refused(tmp_path, content, message):
    (tmp_path / "a.json").write_text(content)
    with pytest.raises(DataError, match=message):
        read_evaluation(tmp_path / "a.json")


def test_no_file_and_no_number():
    with pytest.raises(DataError, match="there is no file"):
        read_evaluation("nowhere.json")
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_evaluation("never.json", {"gen_ppl": float("nan")})
