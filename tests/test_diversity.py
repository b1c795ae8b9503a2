"""Repetition, n-gram overlap and self-BLEU: known by hand, by a slow statement of the definition, and at their ends."""

import sys
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from understudy import metrics
from understudy.errors import DataError, SettingError
from understudy.metrics import ngrams

ROWS = st.lists(st.lists(st.integers(0, 3), min_size=1, max_size=12), min_size=1, max_size=5)


def grams_of(row, n):
    return [tuple(row[i : i + n]) for i in range(len(row) - n + 1)]


def test_repetition_by_hand():
    # 12 23 31 12 23: two of five bigrams come again. A constant row of 10 has seven 4-grams, one of them new.
    np.testing.assert_allclose(metrics.repetition([[1, 2, 3, 1, 2, 3], [7, 8, 9]], 2), [2 / 5, 0])
    np.testing.assert_allclose(metrics.repetition([[5] * 10, list(range(10)), [1, 2]]), [6 / 7, 0, 0])
    with pytest.raises(SettingError, match="n is 0"):
        metrics.repetition([[1]], 0)


@given(ROWS, st.integers(1, 4))
def test_repetition_is_what_sets_say(rows, n):
    expected = [1 - len(set(grams)) / len(grams) if (grams := grams_of(row, n)) else 0 for row in rows]
    np.testing.assert_allclose(metrics.repetition(rows, n), expected, atol=1e-12)


@given(ROWS, st.lists(st.lists(st.integers(0, 3), min_size=6, max_size=6), min_size=1, max_size=4), st.integers(1, 4))
def test_overlap_is_what_sets_say(rows, blocks, n):
    known = {gram for block in blocks for gram in grams_of(block, n)}
    shares = [sum(gram in known for gram in grams_of(row, n)) / max(1, len(grams_of(row, n))) for row in rows]
    chunks = [np.array(blocks[:1]), np.array(blocks[1:]).reshape(-1, 6)]
    np.testing.assert_allclose(metrics.ngram_overlap(rows, chunks, n=n), shares, atol=1e-12)


def test_a_training_block_is_found_in_training_text():
    blocks = np.random.default_rng(0).integers(0, 1000, (40, 32))
    copied = [blocks[7], np.concatenate([blocks[3][:16], 1000 + blocks[4][:16]]), 1000 + blocks[5]]
    # The second has 25 8-grams, of which the first nine lie in block 3.
    np.testing.assert_allclose(metrics.ngram_overlap(copied, [blocks[:20], blocks[20:]]), [1, 9 / 25, 0])
    np.testing.assert_array_equal(metrics.ngram_overlap([blocks[7]], [blocks[:, :6]]), [0])  # blocks below n tokens


def test_ngrams_that_meet_in_one_hash_are_told_apart(monkeypatch):
    # A multiplier of 2^63 leaves the last token and the parity of the one before: nearly all n-grams meet.
    monkeypatch.setattr(ngrams, "_MULTIPLIER", 2**63)
    rows = np.random.default_rng(1).integers(0, 50, (4, 30))
    real = ngrams._hashed
    multipliers = []

    def noted(ids, windows, multiplier):
        multipliers.append(int(multiplier))
        return real(ids, windows, multiplier if len(multipliers) < 2 else np.uint64(0x9E3779B97F4A7C15))

    monkeypatch.setattr(ngrams, "_hashed", noted)
    assert metrics.distinct_n(rows, 3) == len({gram for row in rows.tolist() for gram in grams_of(row, 3)}) / (4 * 28)
    assert len(multipliers) == 2


def test_self_bleu_ends():
    pytest.importorskip("sacrebleu")
    same = ["the cat sat on the mat and saw the dog"] * 5
    np.testing.assert_allclose(metrics.self_bleu(same), 100)
    disjoint = [" ".join(f"word{i}of{j}" for i in range(12)) for j in range(5)]
    np.testing.assert_array_equal(metrics.self_bleu(disjoint), 0)


def test_self_bleu_is_the_sentence_bleu_of_sacrebleu():
    bleu = pytest.importorskip("sacrebleu.metrics").BLEU(effective_order=True)
    rng = np.random.default_rng(2)
    texts = [" ".join(rng.choice(["a", "b", "cat,", "dog's", "e."], rng.integers(1, 25))) for _ in range(9)]
    references = [[texts[(i + k) % 9] for k in range(1, 5)] for i in range(9)]
    expected = [bleu.sentence_score(text, others).score for text, others in zip(texts, references, strict=True)]
    np.testing.assert_allclose(metrics.self_bleu(texts, max_references=4), expected, rtol=1e-12)


def test_self_bleu_grows_with_likeness_and_is_bounded():
    pytest.importorskip("sacrebleu")
    rng = np.random.default_rng(3)
    words = [[f"w{rng.integers(size)}" for _ in range(30)] for size in (400, 40, 4) for _ in range(20)]
    texts = [" ".join(row) for row in words]
    means = [metrics.self_bleu(texts[start : start + 20]).mean() for start in (0, 20, 40)]
    assert all(first < second for first, second in pairwise(means))
    assert len(metrics.self_bleu(texts, max_samples=7, max_references=2)) == 7
    assert metrics.self_bleu(texts).tolist() == metrics.self_bleu(texts).tolist()


def test_self_bleu_refusals(monkeypatch):
    with pytest.raises(DataError, match="give two or more"):
        metrics.self_bleu(["alone"])
    with pytest.raises(SettingError, match="at least 2 and 1"):
        metrics.self_bleu(["a", "b"], max_references=0)
    monkeypatch.setitem(sys.modules, "sacrebleu.metrics.bleu", None)
    with pytest.raises(SettingError, match=r"pip install 'understudy\[eval\]'"):
        metrics.self_bleu(["a", "b"])
