"""Prefix-conditional evaluation: where prefixes come from, and that what was given is never scored."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
import typer
from typer.testing import CliRunner

from driving import finish
from prepared_text import DOCUMENTS, Texts
from stage import make_judge, make_pair, make_tokenizer, save_stage
from understudy import evaluation, metrics
from understudy.cli.evaluate import _given_tokens, evaluate_command
from understudy.cli.sample import sample_command
from understudy.data import PrepareSettings, TokenBlocks, prepare
from understudy.denoisers.model_set import ModelSet
from understudy.errors import DataError, PromptError, SettingError
from understudy.evaluation import Scoring, prefix_template, reading_of, text_prefixes, validation_prefixes
from understudy.saved_samples import read_samples

TOKENIZER = make_tokenizer()


@pytest.fixture(scope="module")
def stage(tmp_path_factory):
    return save_stage(tmp_path_factory.mktemp("stage"), TOKENIZER)


@pytest.fixture(scope="module", params=["packed", "padded"])
def blocks(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp(request.param) / "data"
    settings = PrepareSettings(block_length=24, layout=request.param, validation_fraction=0.3)
    texts = [text for document in DOCUMENTS for text in (document, "a cat")]
    finish(prepare([Texts(texts)], folder, tokenizer=TOKENIZER, settings=settings))
    return folder


def call(command, *arguments):
    app = typer.Typer()
    app.command()(command)
    outcome = CliRunner().invoke(app, [str(argument) for argument in arguments])
    if outcome.exception is not None and not isinstance(outcome.exception, SystemExit):
        raise outcome.exception
    return outcome.stdout


def test_prefixes_of_held_out_blocks_are_their_beginnings(blocks):
    held_out = TokenBlocks.open(blocks, "validation")
    every = held_out[np.arange(len(held_out))]
    found = validation_prefixes(blocks, TOKENIZER, count=4, length=5)
    assert [len(row) for row in found] == [5] * 4
    ends = [held_out.manifest.eos_id, held_out.manifest.pad_id]
    is_usable = np.ones(len(every), bool) if ends[1] is None else ~np.isin(every[:, 1:6], ends).any(axis=1)
    assert is_usable.all() == (ends[1] is None)  # among padded blocks are some too short
    usable = every[is_usable]
    assert found == usable[np.arange(4) * len(usable) // 4, :5].tolist()


def test_prefixes_that_are_not_there(blocks, tmp_path):
    with pytest.raises(DataError, match=r"has \d+ prefixes for 100000 samples"):
        validation_prefixes(blocks, TOKENIZER, count=100_000, length=5)
    with pytest.raises(SettingError, match="prefix length is 24; it must lie between 1 and 23"):
        validation_prefixes(blocks, TOKENIZER, count=1, length=24)
    with pytest.raises(DataError, match="cannot be read"):
        text_prefixes(tmp_path / "none.txt", len, count=1)
    (tmp_path / "a.txt").write_text("one\n\ntwo\n")
    with pytest.raises(DataError, match="has 2 prefixes for 3 samples"):
        text_prefixes(tmp_path / "a.txt", list, count=3)
    with pytest.raises(SettingError, match="prefix length is 0"):
        text_prefixes(tmp_path / "a.txt", list, count=1, length=0)
    with pytest.raises(PromptError, match="prefix 1 holds 4 tokens; at length 4 it may hold 1 to 3"):
        prefix_template([[1], [1, 2, 3, 4]], 4, 0)


def test_lines_of_a_text_are_cut_to_their_length(tmp_path):
    (tmp_path / "a.txt").write_text("the cat sat on\n\na\nnever used\n")
    encode = TOKENIZER.encode
    assert text_prefixes(tmp_path / "a.txt", encode, count=2, length=2) == [encode("the cat sat on")[:2], encode("a")]


def test_every_sample_has_its_prefix_and_only_the_rest_is_scored(blocks):
    pair, judge = make_pair(TOKENIZER), make_judge(TOKENIZER)
    prefixes = validation_prefixes(blocks, TOKENIZER, count=6, length=5)
    template = prefix_template(prefixes, 12, TOKENIZER.mask_token_id)
    run = evaluation.compare_schedules(pair, ["H4", "L4"], judge, num_samples=3, seeds=(0, 1), template=template)
    _, comparison = finish(run)
    for entry in comparison.entries:
        assert entry.result.tokens[:, :5].tolist() == prefixes  # three for each seed
        assert entry.scores.counts == (7,) * 6
        nlls = metrics.token_nlls(judge.model, entry.result.tokens)  # the first token of all is unscored
        np.testing.assert_allclose(entry.scores.nll_sums, [row[4:].sum() for row in nlls], rtol=1e-6)
    assert "template" not in comparison.settings
    # The second seed alone, with its prefixes, gives the second half.
    alone = evaluation.compare_schedules(pair, ["H4"], judge, num_samples=3, seed=1, template=template[3:])
    assert finish(alone)[1].reference.result.tokens.tolist() == comparison.reference.result.tokens[3:].tolist()


def test_seeds_that_would_share_prefixes_are_refused():
    pair, judge = make_pair(TOKENIZER), make_judge(TOKENIZER)
    template = prefix_template([[7], [8], [9]], 12, TOKENIZER.mask_token_id)
    options = {"num_samples": 3, "seeds": (0, 1)}
    with pytest.raises(SettingError, match="3 rows for 3 samples of each of 2 seeds; give one row, or 6"):
        next(evaluation.compare_schedules(pair, ["H4"], judge, template=template, **options))
    next(evaluation.compare_schedules(pair, ["H4"], judge, template=template[0], **options))


def test_the_published_protocol_has_no_place_for_prefixes():
    pair, judge = make_pair(TOKENIZER), make_judge(TOKENIZER)
    with pytest.raises(SettingError, match="scores whole texts"):
        next(evaluation.compare_schedules(pair, ["H4"], judge, length=9, prefix=[7], scoring=Scoring("published")))
    with pytest.raises(DataError, match="some tokens were given"):
        reading_of(judge, [np.arange(3, 8)], [np.arange(5) > 1], protocol="published", tokenizer=TOKENIZER)


def test_given_and_sampled_text_are_encoded_apart():
    judge = make_judge(TOKENIZER)
    ids = np.array(TOKENIZER.encode("the cat sat on the mat"))
    free = np.arange(len(ids)) >= 2
    reading = reading_of(judge, [ids], [free], protocol="retokenized", tokenizer=TOKENIZER)
    assert reading.rows[0].tolist() == ids.tolist()
    assert reading.scored[0].tolist() == free.tolist()
    special = np.where(free, TOKENIZER.eos_token_id, ids)
    with pytest.raises(DataError, match="no sampled text"):
        reading_of(judge, [special], [free], protocol="retokenized", tokenizer=TOKENIZER)


def test_a_file_of_samples_says_what_was_given_and_evaluate_leaves_it_out(tmp_path, stage):
    models = ("--heavy", stage["heavy"], "--light", stage["light"], "--length", 16)
    path = tmp_path / "out.jsonl"
    options = ("--schedule", "L2,H2", "-n", 3, "--prefix", "the cat", "--suffix", " mat.", "--output", path)
    call(sample_command, *models, *options)
    before, after = (len(TOKENIZER.encode(text)) for text in ("the cat", " mat."))
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    for row in rows:
        assert row["written_by"].startswith("." * before)
        assert row["written_by"].endswith("." * after)
        assert set(row["written_by"][before : 16 - after]) <= {"H", "L"}
    saved = read_samples(path)
    assert saved.has_given
    document = json.loads(call(evaluate_command, "--samples", path, "--judge", stage["judge"], "--json"))
    assert document["num_tokens"] == 3 * (16 - before - after)
    scores = evaluation.score_tokens(evaluation.Judge.load(stage["judge"]), saved.tokens, free=saved.free)
    assert document["gen_ppl"] == scores.gen_ppl
    assert document["entropy"] == pytest.approx(
        metrics.token_entropy([row[before:-after] for row in saved.tokens]).mean()
    )
    with pytest.raises(DataError, match=r"name what reads the ids \(--tokenizer\)"):
        call(evaluate_command, "--samples", path, "--judge", stage["judge"], "--retokenize")
    anew = call(
        *(evaluate_command, "--samples", path, "--judge", stage["judge"], "--retokenize"),
        *("--tokenizer", stage["heavy"], "--json"),
    )
    assert json.loads(anew)["protocol"] == "retokenized"


@pytest.mark.parametrize("written_by", ["HH", "HHHH", 3])
def test_a_record_of_writers_that_does_not_fit_is_an_error(tmp_path, written_by):
    path = tmp_path / "s.jsonl"
    path.write_text(json.dumps({"text": "a", "token_ids": [1, 2, 3], "written_by": written_by}) + "\n")
    with pytest.raises(DataError, match="line 1: 'written_by' is no string of 3 letters"):
        read_samples(path)
    path.write_text(json.dumps({"text": "a", "token_ids": [1, 2, 3], "written_by": "..."}) + "\n")
    with pytest.raises(DataError, match="every token was given"):
        read_samples(path)


def test_evaluate_takes_prefixes_from_a_folder_and_from_a_text(blocks, tmp_path, stage):
    models = ("--heavy", stage["heavy"], "--judge", stage["judge"], "--schedule", "H4", "--length", 12, "-n", 3)
    document = json.loads(call(evaluate_command, *models, "--prefixes", blocks, "--prefix-length", 4, "--json"))
    assert document["schedules"][0]["num_tokens"] == 3 * 8
    assert (document["settings"]["prefixes"], document["settings"]["prefix_length"]) == (str(blocks), 4)
    document = json.loads(
        call(
            *(evaluate_command, *models, "--prefixes", blocks, "--prefix-length", 4),
            *("--seed", 0, "--seed", 1, "--per-sample", "--json"),
        )
    )
    assert document["schedules"][0]["counts"] == [8] * 6
    with pytest.raises(SettingError, match="say with --prefix-length"):
        call(evaluate_command, *models, "--prefixes", blocks)
    (tmp_path / "a.txt").write_text("the cat\nthe dog\na cat\n")
    document = json.loads(call(evaluate_command, *models, "--prefixes", tmp_path / "a.txt", "--json"))
    given = sum(len(TOKENIZER.encode(line)) for line in ("the cat", "the dog", "a cat"))
    assert document["schedules"][0]["num_tokens"] == 3 * 12 - given
    with pytest.raises(DataError, match="has 3 prefixes for 6 samples"):
        call(evaluate_command, *models, "--prefixes", tmp_path / "a.txt", "--seed", 0, "--seed", 1)
    document = json.loads(call(evaluate_command, *models, "--prefix", "the cat", "--json"))
    assert document["schedules"][0]["num_tokens"] == 3 * (12 - len(TOKENIZER.encode("the cat")))


def test_models_without_a_maximum_need_a_length(tmp_path):
    (tmp_path / "a.txt").write_text("the cat\n")
    models = ModelSet({"H": SimpleNamespace(max_length=None, mask_id=1, begin_id=None)}, TOKENIZER, {})
    given = {"prefixes": tmp_path / "a.txt", "prefix_length": None, "num_samples": 1, "seed": None, "length": None}
    with pytest.raises(SettingError, match="set no maximum length; give a length"):
        _given_tokens(given, models)
    assert _given_tokens({**given, "length": 8}, models)["template"].shape == (1, 8)
