"""Tokenizers keep every text, and their special ids never collide."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer
from transformers import PreTrainedTokenizerFast

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
from understudy.tokenizer_files import save_tokenizer

NO_POST_PROCESSING = {
    "type": "TemplateProcessing",
    "single": [{"Sequence": {"id": "A", "type_id": 0}}],
    "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
    "special_tokens": {},
}


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


def test_hash_ignores_a_post_processor_that_adds_nothing(bpe):
    # transformers 5 puts one into every tokenizer that it loads, transformers 4 does not.
    core = json.loads(bpe.backend_tokenizer.to_str())
    for post_processor in (None, NO_POST_PROCESSING):
        text = json.dumps({**core, "post_processor": post_processor})
        other = PreTrainedTokenizerFast(tokenizer_object=Tokenizer.from_str(text))
        assert tokenizer_sha256(other) == tokenizer_sha256(bpe)


def test_saved_tokenizers_load_under_transformers_4_and_5(bpe, tmp_path):
    save_tokenizer(bpe, tmp_path / "tokenizer")
    config = json.loads((tmp_path / "tokenizer" / "tokenizer_config.json").read_text())
    assert config["tokenizer_class"] == "PreTrainedTokenizerFast"  # 4 knows no TokenizersBackend
    assert config["model_input_names"] == ["input_ids", "attention_mask"]
    assert "backend" not in config
    assert set(load_tokenizer(tmp_path / "tokenizer")("a b")) == {"input_ids", "attention_mask"}


def test_a_wrong_path_to_a_tokenizer_is_said_at_once(tmp_path):
    with pytest.raises(DataError, match="no tokenizer: there is no folder"):
        load_tokenizer(tmp_path / "gone")


def test_a_damaged_tokenizer_folder_is_one_line(tmp_path):
    (tmp_path / "tokenizer.json").write_text("{]")
    with pytest.raises(DataError, match="no usable tokenizer") as caught:
        load_tokenizer(tmp_path)
    assert "\n" not in str(caught.value)
