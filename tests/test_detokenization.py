"""Tokenized corpora back to running text: spaces go, and only those that a tokenizer has put there."""

import doctest
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers.pre_tokenizers import BertPreTokenizer

import understudy.data.detokenization
from prepared_text import DOCUMENTS, Texts, folder_bytes, run, small, small_bpe
from understudy.data import BpeRecipe, PrepareSettings, detokenize_lm1b
from understudy.errors import DataError, SettingError

# Sentences with LM1B's spaces, and as they were written.
SENTENCES = {
    'The 6-3 , 7-6 ( 7 / 4 ) win was his " best ever . "': 'The 6-3, 7-6 (7/4) win was his "best ever."',
    "O 'Brien 's friends don 't know ; they 've left .": "O'Brien's friends don't know; they've left.",
    "He did n't pay $ 1.3 billion or £ 5 .": "He didn't pay $1.3 billion or £5.",
    '" Why ? " she asked : " I \'m late ! "': '"Why?" she asked: "I\'m late!"',
    "See http : / / example.com / news [ in English ] .": "See http://example.com/news [in English].",
    "They call it ' home ' , in the U.S. and elsewhere .": "They call it 'home', in the U.S. and elsewhere.",
    "AMMAN ( Reuters ) - Well-known , he said .": "AMMAN (Reuters) - Well-known, he said.",
    "What now ? !": "What now?!",
    # Where it is told apart from the published code.
    "It was sold in the '90s .": "It was sold in the '90s.",
    'So he said : " I am done " .': 'So he said: "I am done".',
    "US $ notes , and others ,": "US $ notes, and others,",
    # What has lost its other half stays as it is.
    '" We are happy .': '" We are happy.',
    "A lone ( bracket": "A lone ( bracket",
    # What is not LM1B's doing is not undone.
    "Elk calling -- a skill ... is a sport": "Elk calling -- a skill ... is a sport",
    "the parents' house and the cats' food": "the parents' house and the cats' food",
    "": "",
}


@pytest.mark.parametrize("spaced", SENTENCES)
def test_sentences_read_as_they_were_written(spaced):
    assert detokenize_lm1b(spaced) == SENTENCES[spaced]


MARKS = ".,;:!?'\"()[]$£/ \n"
texts = st.text(st.sampled_from(MARKS + "abst9é") | st.characters(codec="utf-8"), max_size=60)


@given(texts)
def test_nothing_but_spaces_is_removed_and_nothing_added(text):
    found = detokenize_lm1b(text)
    assert found.replace(" ", "") == text.replace(" ", "")
    assert len(found) <= len(text)


@given(st.lists(st.sampled_from(["a", "bé", "x9", "3.14", "well-known", "U.S", "--", "…"]), max_size=12).map(" ".join))
def test_words_alone_stay_apart(text):
    assert detokenize_lm1b(text) == text


@given(
    st.lists(st.sampled_from([*MARKS.replace("£", "").strip(), "don", "'t", "s", "he", "3"]), max_size=20).map(" ".join)
)
def test_no_two_words_become_one(text):
    # BERT's tokenizer splits punctuation off by itself, so it finds the same words in both.
    def words(text):
        return [word for word, _ in BertPreTokenizer().pre_tokenize_str(text)]

    assert words(detokenize_lm1b(text)) == words(text)


words = st.sampled_from(["we", "don't", "O'Brien's", "know", "U.S.", "6-3", "7.5", "café", "$5", "£1.3", "it's"])
phrases = st.lists(words, min_size=1, max_size=5).map(" ".join)
wrapped = st.tuples(st.sampled_from(["{}", "{}", '"{}"', "({})", "[{}]"]), phrases).map(
    lambda pair: pair[0].format(pair[1])
)
sentences = st.tuples(st.lists(wrapped, min_size=1, max_size=5), st.sampled_from(",;:"), st.sampled_from(".!?")).map(
    lambda parts: f"{parts[1]} ".join(parts[0]) + parts[2]
)


def space_like_lm1b(text):
    """Spaces between all words, marks and contractions, as the corpus has them."""
    token = r"U\.S\.(?!$)|U\.S|\d+(?:[.-]\d+)*|'\w+|\w+|[^\w\s]"
    return " ".join(re.findall(token, text))


@given(sentences)
def test_spacing_as_the_corpus_does_is_undone(sentence):
    assert detokenize_lm1b(space_like_lm1b(sentence)) == sentence


def test_the_example_in_the_docs():
    assert doctest.testmod(understudy.data.detokenization) == (0, 1)


# In `prepare`.

SPACED = [f"{text} , {text} ( {text} ) ." for text in DOCUMENTS]


@pytest.mark.parametrize("recipe", [False, True])
def test_blocks_are_those_of_the_running_text(tmp_path, recipe):
    tokenizer = BpeRecipe(320) if recipe else small_bpe()
    texts = {
        "spaced": ([Texts(SPACED)], [Texts(SPACED[:40])]),
        "running": ([Texts(map_all(SPACED))], [Texts(map_all(SPACED[:40]))]),
    }
    options = {"spaced": {"detokenize": "lm1b"}, "running": {}}
    folders = {}
    for name, (source, validation) in texts.items():
        settings = small(**options[name])
        run(source, tmp_path / name, tokenizer=tokenizer, settings=settings, validation=validation)
        folders[name] = folder_bytes(tmp_path / name)
        folders[name].pop("manifest.json")
        for file in (tmp_path / name / "tokenizer").iterdir():
            folders[name][f"tokenizer/{file.name}"] = file.read_bytes()
    assert folders["spaced"] == folders["running"]
    run([Texts(SPACED)], tmp_path / "as it is", tokenizer=small_bpe(), settings=small())
    assert folder_bytes(tmp_path / "as it is")["train-00000.npy"] != folders["spaced"]["train-00000.npy"]


def map_all(texts):
    return [detokenize_lm1b(text) for text in texts]


def test_manifest_says_so_and_another_wish_is_an_error(tmp_path):
    options = {"tokenizer": small_bpe(), "settings": small(detokenize="lm1b")}
    _, manifest = run([Texts(SPACED)], tmp_path, **options)
    assert manifest.settings["detokenize"] == "lm1b"
    assert manifest.splits["train"].characters == sum(map(len, map_all(SPACED)))
    assert run([Texts(SPACED)], tmp_path, **options)[1] == manifest
    with pytest.raises(DataError, match='detokenize was "lm1b", now null'):
        run([Texts(SPACED)], tmp_path, tokenizer=small_bpe(), settings=small())


def test_folders_of_earlier_versions_are_not_begun_otherwise(tmp_path):
    _, manifest = run([Texts(SPACED)], tmp_path, tokenizer=small_bpe(), settings=small())
    text = (tmp_path / "manifest.json").read_text(encoding="utf-8")
    without = re.sub(r',\s*"detokenize": null', "", text)
    assert without != text
    (tmp_path / "manifest.json").write_text(without, encoding="utf-8")
    assert run([Texts(SPACED)], tmp_path, tokenizer=small_bpe(), settings=small())[1].splits == manifest.splits


def test_unknown_detokenizer_is_refused():
    with pytest.raises(SettingError, match="detokenize is 'ptb', allowed are lm1b"):
        PrepareSettings(detokenize="ptb")
