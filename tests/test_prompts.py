"""Prompts as templates: gaps, ends, chats, files."""

import pytest

from masked_lms import letter_tokenizer, save_masked_lm
from stage import make_network, make_tokenizer
from understudy.denoisers.model_set import ModelSet, load_model_set
from understudy.denoisers.network import DiTDenoiser
from understudy.errors import DataError, PromptError
from understudy.prompts import Prompt, read_prompts

MASK = 4


@pytest.fixture(scope="module")
def letters(tmp_path_factory):
    folder = tmp_path_factory.mktemp("letters")
    save_masked_lm(folder)
    return load_model_set({"A": folder})


def ids(text):
    return letter_tokenizer().encode(text, add_special_tokens=False)


def test_an_infill_has_a_mask_for_each_gap(letters):
    found = Prompt(infill="a [MASK] of b [MASK*3] c").template(letters)
    assert found.tolist() == [*ids("a"), MASK, *ids("of b"), *[MASK] * 3, *ids("c")]


def test_spaces_before_a_gap_belong_to_what_fills_it():
    tokenizer = make_tokenizer()
    models = ModelSet({"A": DiTDenoiser(make_network(1, 0, tokenizer))}, tokenizer, {})
    begin = models.denoisers["A"].begin_id
    plain = [begin] if begin is not None else []
    template = Prompt(infill="the [MASK] sat").template(models).tolist()
    mask = models.denoisers["A"].mask_id
    assert template == [*plain, *models.encode_suffix("the"), mask, *models.encode_suffix(" sat")]


def test_ends_and_new_tokens_make_the_length(letters):
    found = Prompt(prefix="a b", suffix="c").template(letters, new_tokens=4)
    assert found.tolist() == [*ids("a b"), *[MASK] * 4, *ids("c")]
    assert Prompt(prefix="a b", suffix="c").template(letters, length=7).tolist() == found.tolist()


def test_messages_go_through_the_chat_template(letters):
    tokenizer = letter_tokenizer()
    tokenizer.chat_template = "{% for m in messages %}{{ m['content'] }} {% endfor %}x "
    models = ModelSet(letters.denoisers, tokenizer, {})
    prompt = Prompt(messages=({"role": "user", "content": "a b"}, {"role": "user", "content": "c"}))
    assert prompt.template(models, new_tokens=2).tolist() == [*ids("a b c x"), MASK, MASK]


def test_a_file_holds_a_prompt_on_every_line(tmp_path):
    text, json = tmp_path / "prompts.txt", tmp_path / "prompts.jsonl"
    text.write_text("a b\n\nc\n")
    assert read_prompts(text) == [Prompt(prefix="a b"), Prompt(prefix="c")]
    json.write_text('{"infill": "a [MASK]"}\n{"prefix": "a", "suffix": "b"}\n')
    assert read_prompts(json) == [Prompt(infill="a [MASK]"), Prompt(prefix="a", suffix="b")]


def test_lines_end_where_files_say_and_nowhere_else(tmp_path):
    path = tmp_path / "p.jsonl"
    path.write_bytes("\ufeff".encode() + '{"prefix": "a\u2028b"}\r\n{"prefix": "c"}\n'.encode())
    assert [prompt.prefix for prompt in read_prompts(path)] == ["a\u2028b", "c"]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("[1]", "must be an object"),
        ('{"suffix": 3}', "are texts"),
        ('{"messages": "a"}', "list of"),
        ('{"prompt": "a"}', "some of infill, messages"),
        ("{", "no JSON"),
        ('{"infill": "a", "prefix": "b"}', "leave out prefix"),
        ('{"messages": [], "prefix": "b"}', "give one of them"),
    ],
)
def test_a_line_that_is_no_prompt_is_named(tmp_path, line, message):
    path = tmp_path / "p.jsonl"
    path.write_text('{"prefix": "a"}\n' + line + "\n")
    with pytest.raises(PromptError, match=f"line 2 of .*{message}"):
        read_prompts(path)


def test_nothing_to_go_by_is_refused(tmp_path, letters):
    (tmp_path / "empty.txt").write_text("\n")
    with pytest.raises(DataError, match="holds no prompt"):
        read_prompts(tmp_path / "empty.txt")
    with pytest.raises(DataError, match="cannot be read"):
        read_prompts(tmp_path / "nowhere.txt")
    for prompt, options, message in (
        (Prompt(infill="a b"), {}, r"no \[MASK\]"),
        (Prompt(infill="a [MASK*0]"), {}, "stands for 0"),
        (Prompt(infill="a [MASK*" + "9" * 5000 + "]"), {}, "may stand for 1 to 65536"),
        (Prompt(infill="[MASK*60000] and [MASK*60000]"), {}, "more than 65536 tokens in all"),
        (Prompt(prefix="a"), {}, "neither the length"),
        (Prompt(prefix="a b c"), {"length": 3}, "leaves nothing to sample"),
        (Prompt(messages=({"role": "user", "content": "a"},)), {"new_tokens": 3}, "no chat template"),
    ):
        with pytest.raises(PromptError, match=message):
            prompt.template(letters, **options)
