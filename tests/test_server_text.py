"""Text that grows from the left: what is sent stays, and all of it together is the text of all tokens at once."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from stage import make_tokenizer
from understudy.server.growing_text import GrowingText
from understudy.server.texts import TokenTexts


def wrapped(core, **special):
    core.add_special_tokens([AddedToken(text, special=True) for text in special.values()])
    return PreTrainedTokenizerFast(tokenizer_object=core, **special)


def pieces_of_words():
    words = ["[UNK]", "the", "cat", "##s", "##ing", "play", ".", ",", "n", "'", "t", "##é", "猫"]
    core = Tokenizer(models.WordPiece({word: index for index, word in enumerate(words)}, unk_token="[UNK]"))
    core.pre_tokenizer, core.decoder = pre_tokenizers.BertPreTokenizer(), decoders.WordPiece(cleanup=False)
    return wrapped(core, mask_token="[MASK]", eos_token="[SEP]")


def pieces_and_bytes():
    words = ["<unk>", "▁the", "▁cat", "s", "▁", "é", *(f"<0x{byte:02X}>" for byte in range(256))]
    core = Tokenizer(models.BPE({word: index for index, word in enumerate(words)}, [], byte_fallback=True))
    core.decoder = decoders.Sequence(
        [
            decoders.Replace("▁", " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(content=" ", left=1),
        ]
    )
    return wrapped(core, mask_token="<mask>", eos_token="</s>")


TOKENIZERS = {"bytes": make_tokenizer(), "words": pieces_of_words(), "fallback": pieces_and_bytes()}
CHARACTERS = "the cat é猫犬🦊s"  # of one to four bytes


def decode(tokenizer, ids):
    return tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)


def tokens_of(tokenizer):
    """Any tokens at all, or those of characters that take several bytes, whole or cut short."""
    anything = st.integers(0, len(tokenizer) - 1)
    names = {tokenizer.convert_ids_to_tokens(index): index for index in range(len(tokenizer))}
    if "<0xE7>" in names:
        characters = st.text(CHARACTERS, max_size=3)
        of_bytes = characters.map(lambda text: [names[f"<0x{byte:02X}>"] for byte in text.encode()])
    else:
        of_bytes = st.text(CHARACTERS, max_size=3).map(lambda text: tokenizer.encode(text, add_special_tokens=False))
    cut = of_bytes.flatmap(lambda ids: st.integers(0, len(ids)).map(lambda end: ids[:end]))
    return st.lists(st.one_of(anything.map(lambda one: [one]), of_bytes, cut), max_size=8).map(
        lambda parts: [token for part in parts for token in part]
    )


@pytest.mark.parametrize("name", TOKENIZERS)
def test_pieces_are_never_taken_back_and_make_the_whole(name):
    tokenizer = TOKENIZERS[name]

    @given(tokens_of(tokenizer), tokens_of(tokenizer), st.data())
    @settings(max_examples=150)
    def check(before, ids, data):
        text, sent, place = GrowingText(tokenizer, before), "", 0
        given_text = decode(tokenizer, before)
        while place < len(ids):
            end = data.draw(st.integers(place, len(ids)))
            sent += text.push(ids[place:end])
            place = end + (end == place)
            if end < place:
                sent += text.push(ids[end:place])
            assert decode(tokenizer, before + ids).startswith(given_text[: text._start] + sent)
        sent += text.close()
        at_once = GrowingText(tokenizer, before)
        assert at_once.push(ids) + at_once.close() == sent
        assert given_text[: text._start] + sent == decode(tokenizer, before + ids)
        assert text.finish_reason == at_once.finish_reason == "length"

    check()


@given(
    st.lists(st.sampled_from(["a", "b", "ab", "c"]), max_size=12),
    st.lists(st.text("abc", min_size=1, max_size=3), max_size=3),
)
@settings(max_examples=300)
def test_a_stop_text_ends_a_stream_where_it_ends_the_whole(parts, stops):
    tokenizer = TOKENIZERS["bytes"]
    ids = [token for part in parts for token in tokenizer.encode(part, add_special_tokens=False)]
    whole, grown = GrowingText(tokenizer, stops=stops), GrowingText(tokenizer, stops=stops)
    expected = whole.push(ids) + whole.close()
    sent = "".join(grown.push([token]) for token in ids) + grown.close()
    assert (sent, grown.finish_reason) == (expected, whole.finish_reason)
    text = "".join(parts)
    found = [stop for stop in stops if stop in text]
    assert whole.finish_reason == ("stop" if found else "length")
    assert text.startswith(sent)
    assert not any(stop in sent for stop in stops)
    if found:  # the first that a reader from the left would have seen whole
        first = min(text.index(stop) + len(stop) for stop in found)
        assert any(sent + stop == text[:first] for stop in found)
    else:
        assert sent == text


def test_a_possible_stop_is_held_back_and_sent_once_it_is_none():
    tokenizer = TOKENIZERS["bytes"]
    text = GrowingText(tokenizer, stops=["\n\nEnd"])
    pieces = [
        text.push(tokenizer.encode(part, add_special_tokens=False)) for part in ("one\n", "\nE", "nough", "\n\nEnd.")
    ]
    assert pieces == ["one", "", "\n\nEnough", ""]
    assert text.finish_reason == "stop"
    assert text.push([70]) + text.close() == ""


def test_the_end_token_ends_a_text_and_is_not_in_it():
    tokenizer = TOKENIZERS["words"]
    the, cat, end = (tokenizer.convert_tokens_to_ids(word) for word in ("the", "cat", "[SEP]"))
    text = GrowingText(tokenizer, [the], ends=[end])
    assert text.push([cat, end, the]) == " cat"
    assert text.finish_reason == "stop"
    without = GrowingText(tokenizer, [the])
    assert without.push([cat, end, the]) + without.close() == " cat the"
    named = GrowingText(tokenizer, [the], stops=["[SEP]"])
    assert (named.push([cat, end, the]), named.finish_reason) == (" cat", "stop")


def test_an_unfinished_character_waits_and_comes_out_in_the_end_if_it_stays_so():
    tokenizer = TOKENIZERS["fallback"]
    first, second, third = (tokenizer.convert_tokens_to_ids(f"<0x{byte:02X}>") for byte in "猫".encode())
    text = GrowingText(tokenizer)
    assert [text.push([first]), text.push([second]), text.push([third])] == ["", "", ""], "more bytes could spoil it"
    assert text.push([tokenizer.convert_tokens_to_ids("▁the")]) == "猫 the"
    assert text.push([first]) == ""
    assert text.close() == "\ufffd"


@pytest.mark.parametrize(
    ("name", "token", "expected"),
    [("words", "##s", "s"), ("words", "cat", " cat"), ("fallback", "▁cat", " cat"), ("fallback", "<0xE7>", "\ufffd")],
)
def test_single_tokens_read_as_they_would_in_a_text(name, token, expected):
    tokenizer = TOKENIZERS[name]
    texts = TokenTexts(tokenizer)
    assert texts(tokenizer.convert_tokens_to_ids(token)) == texts(tokenizer.convert_tokens_to_ids(token)) == expected
