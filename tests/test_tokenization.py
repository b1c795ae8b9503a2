"""Tokenizers keep every text, and their special ids never collide."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from prepared_text import DOCUMENTS, Texts, make_tokenizer, run, small_bpe
from understudy.data import (
    BpeRecipe,
    PrepareSettings,
    Vocabulary,
    load_tokenizer,
    resolve_vocabulary,
    tokenizer_sha256,
    train_bpe,
)
from understudy.errors import DataError, SettingError


@pytest.fixture(scope="module")
def bpe():
    return small_bpe()


def test_trained_bpe_has_the_size_asked_for_and_its_special_ids(bpe):
    assert len(bpe) == 320
    assert resolve_vocabulary(bpe) == Vocabulary(320, mask_id=1, bos_id=0, eos_id=0, pad_id=2)


@settings(max_examples=50, deadline=None)
@given(text=st.text(st.characters(exclude_categories=["Cs"])))
def test_bpe_decodes_to_what_it_encoded(bpe, text):
    assert bpe.decode(bpe(text)["input_ids"]) == text or "<|" in text


def test_training_is_deterministic_and_reads_no_more_than_asked(bpe):
    assert tokenizer_sha256(train_bpe(iter(DOCUMENTS), 320)) == tokenizer_sha256(bpe)
    source = Texts(DOCUMENTS * 100)
    train_bpe(source.documents(), 300, max_characters=5000)
    assert source.read < 100


def test_too_little_text_for_a_vocabulary_is_an_error():
    with pytest.raises(DataError, match=r"yields .* tokens, 5000 were asked"):
        train_bpe(["only a few words"], 5000)
    with pytest.raises(SettingError, match="at least 259"):
        BpeRecipe(100)


def test_a_tokenizer_without_a_mask_gets_one_id_more():
    tokenizer = make_tokenizer(["u", "a", "b", "<end>"], bos_token="<end>", eos_token="<end>")
    assert resolve_vocabulary(tokenizer) == Vocabulary(5, mask_id=4, bos_id=3, eos_id=3, pad_id=None)


def test_bert_like_tokenizers_use_cls_and_sep():
    names = {"pad_token": "[PAD]", "cls_token": "[CLS]", "sep_token": "[SEP]", "mask_token": "[MASK]"}
    tokenizer = make_tokenizer(["[UNK]", "[PAD]", "[CLS]", "[SEP]", "[MASK]", "a"], **names)
    assert resolve_vocabulary(tokenizer) == Vocabulary(6, mask_id=4, bos_id=2, eos_id=3, pad_id=1)


def test_padding_never_shares_the_id_of_the_mask(tmp_path):
    names = {"eos_token": "<end>", "mask_token": "<m>", "pad_token": "<m>"}
    tokenizer = make_tokenizer(["u", "a", "<end>", "<m>"], **names)
    assert resolve_vocabulary(tokenizer).pad_id is None
    with pytest.raises(DataError, match="padding token of its own"):
        run([Texts(["a a"])], tmp_path / "out", tokenizer=tokenizer, settings=PrepareSettings(8, "padded"))
    assert not (tmp_path / "out").exists()


def test_end_token_as_padding_is_refused_for_padded_blocks(tmp_path):
    tokenizer = make_tokenizer(["u", "a", "<end>"], eos_token="<end>", pad_token="<end>")
    with pytest.raises(DataError, match="padding token of its own"):
        run([Texts(["a a"])], tmp_path / "out", tokenizer=tokenizer, settings=PrepareSettings(8, "padded"))


def test_hash_ignores_state_that_calls_leave_behind(bpe, tmp_path):
    before = tokenizer_sha256(bpe)
    bpe(["a b c", "d"], truncation=True, max_length=2, padding=True)
    assert tokenizer_sha256(bpe) == before
    bpe.save_pretrained(tmp_path)
    assert tokenizer_sha256(load_tokenizer(tmp_path)) == before


def test_a_wrong_path_to_a_tokenizer_is_said_at_once(tmp_path):
    with pytest.raises(DataError, match="no tokenizer: there is no folder"):
        load_tokenizer(tmp_path / "gone")


def test_a_damaged_tokenizer_folder_is_one_line(tmp_path):
    (tmp_path / "tokenizer.json").write_text("{]")
    with pytest.raises(DataError, match="no usable tokenizer") as caught:
        load_tokenizer(tmp_path)
    assert "\n" not in str(caught.value)
