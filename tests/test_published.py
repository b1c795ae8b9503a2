"""The published protocol, against a statement of it that follows the published code step by step."""

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from stage import make_judge, make_llama, make_tokenizer
from understudy import metrics
from understudy.errors import DataError, SettingError
from understudy.evaluation.judging import published_text, reading_of

EOS = "<|endoftext|>"
WORDS = [EOS, *(f"w{i}" for i in range(12))]


def make_words(**special):
    core = Tokenizer(models.WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token=WORDS[1]))
    core.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=core, unk_token=WORDS[1], **special)


def published_perplexity(judge, tokenizer, texts, max_length, context):
    """Padded batch, chunks by split, mask by cumulated sum: as arXiv 2406.07524 evaluates, but in float64."""
    tokenizer.pad_token = tokenizer.eos_token
    batch = tokenizer(texts, return_tensors="pt", truncation=True, padding=True, max_length=max_length)
    total = weight = 0.0
    for ids, attention in zip(batch.input_ids.split(context, -1), batch.attention_mask.split(context, -1), strict=True):
        logits = judge(input_ids=ids, attention_mask=attention).logits.transpose(-1, -2).double()
        nlls = torch.nn.functional.cross_entropy(logits[..., :-1], ids[..., 1:], reduction="none")
        first_eos = (ids == tokenizer.eos_token_id).cumsum(-1) == 1
        mask = ((ids != tokenizer.eos_token_id) | first_eos)[..., 1:]
        total += (nlls * mask).nansum().item()  # a chunk that is all padding may be NaN; it weighs nothing
        weight += mask.sum().item()
    return np.exp(total / weight), weight


def random_texts(rng, lengths, eos_share):
    draw = [np.where(rng.random(n) < eos_share, 0, rng.integers(1, len(WORDS), n)) for n in lengths]
    return [" ".join(WORDS[i] for i in row) for row in draw]


@pytest.mark.parametrize("eos_share", [0, 0.3])
@pytest.mark.parametrize("context", [8, 32])
def test_published_protocol_is_the_published_one(eos_share, context):
    # Lengths: one chunk and several, exact multiples of the context, one token more, cut at the maximum.
    rng = np.random.default_rng(context)
    texts = random_texts(rng, [3, 8, 9, 16, 17, 20, 25, 24], eos_share)
    judge, tokenizer = make_llama(vocab=len(WORDS), context=context), make_words(eos_token=EOS)
    expected, weight = published_perplexity(judge, make_words(eos_token=EOS), texts, 24, context)
    rows, scored = metrics.published_rows(texts, tokenizer, max_length=24, context=context)
    nlls = metrics.token_nlls(judge, rows, scored=scored)
    counts = [len(values) for values in nlls]
    assert sum(counts) == weight
    assert metrics.generative_perplexity([v.sum() for v in nlls], counts) == pytest.approx(expected, rel=1e-5)


def test_what_counts_by_hand():
    tokenizer = make_words(eos_token=EOS)
    texts = [f"{EOS} w1 {EOS} w2 w3", f"w1 {EOS} w2 {EOS}", "w4 w5"]
    rows, scored = metrics.published_rows(texts, tokenizer, max_length=9, context=None)
    assert [row.tolist() for row in rows] == [[0, 2, 0, 3, 4, 0], [2, 0, 3, 0, 0], [5, 6, 0]]
    # An end-of-text at the start uses up the one that counts; the second has one inside; the third gets the padding's.
    assert [row.tolist() for row in scored] == [
        [True, True, False, True, True, False],
        [True, True, True, False, False],
        [True, True, True],
    ]


def test_a_sample_of_nothing_but_ends_weighs_nothing():
    judge, tokenizer = make_llama(vocab=len(WORDS)), make_words(eos_token=EOS)
    rows, scored = metrics.published_rows([f"{EOS} {EOS}", "w1 w2 w3"], tokenizer, max_length=9, context=32)
    sums, counts = zip(*((v.sum(), len(v)) for v in metrics.token_nlls(judge, rows, scored=scored)), strict=True)
    assert counts == (0, 3)  # with the end that follows a text shorter than the maximum
    assert metrics.generative_perplexity(sums, counts) == metrics.generative_perplexity(sums[1:], counts[1:])
    low, high = metrics.bootstrap_interval(sums, counts)
    assert low == pytest.approx(high) == pytest.approx(metrics.generative_perplexity(sums, counts))


def test_what_counts_of_a_text_depends_on_no_other():
    texts = random_texts(np.random.default_rng(0), [3, 5, 9, 6, 4, 9], 0.2)
    tokenizer = make_words(eos_token=EOS)
    options = {"max_length": 9, "context": 4}
    rows, scored = metrics.published_rows(texts, tokenizer, **options)
    alone = [metrics.published_rows([text], tokenizer, **options) for text in texts]
    for row, keep, ((own,), (own_keep,)) in zip(rows, scored, alone, strict=True):
        assert (row.tolist(), keep.tolist()) == (own.tolist(), own_keep.tolist())


def test_halves_are_read_as_the_whole():
    tokenizer, judge = make_tokenizer(), make_judge(make_tokenizer())
    # Letter by letter, so that texts encoded anew are shorter, each by another number of tokens.
    texts = ["the cat sat ", "a dog, a cat", "the mat, the", "on the dog a"]
    rows = [np.concatenate([tokenizer.encode(letter) for letter in text]) for text in texts]
    free = [np.ones(len(row), dtype=bool) for row in rows]
    options = {"protocol": "published", "tokenizer": tokenizer}
    whole = reading_of(judge, rows, free, **options)
    halves = [reading_of(judge, rows[part], free[part], **options) for part in (slice(0, 2), slice(2, 4))]
    assert len({len(row) for row in whole.rows}) > 1
    assert [row.tolist() for row in whole.rows] == [row.tolist() for half in halves for row in half.rows]
    assert [row.tolist() for row in whole.scored] == [row.tolist() for half in halves for row in half.scored]


def test_texts_are_decoded_as_the_published_code_does():
    tokenizer = make_tokenizer()
    text = "the cat , the dog . <|endoftext|>"
    ids = np.array(tokenizer.encode(text))
    assert published_text(ids, tokenizer) == text  # its configuration says no
    del tokenizer.init_kwargs["clean_up_tokenization_spaces"]
    assert published_text(ids, tokenizer) == "the cat, the dog. <|endoftext|>"


def test_published_protocol_refuses():
    with pytest.raises(DataError, match="no end-of-text token"):
        metrics.published_rows(["w1"], make_words(), max_length=4, context=8)
    with pytest.raises(SettingError, match="max_length is 1"):
        metrics.published_rows(["w1"], make_words(eos_token=EOS), max_length=1, context=8)
