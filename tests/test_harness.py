"""Understudy as a model of lm-evaluation-harness: the bound against enumeration, answers against `sample`."""

import json
import subprocess
import sys
from itertools import permutations
from math import exp, factorial, isnan, log, sqrt
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from laws import exact_pair, random_law
from lm_eval_stub import HAS_LM_EVAL, lm_eval_or_stub
from models import CountingDenoiser, tiny_denoiser, tiny_pair
from stage import make_pair, make_tokenizer, save_stage
from understudy.denoisers.exact import ExactDenoiser
from understudy.denoisers.model_set import ModelSet
from understudy.errors import ModelError, PromptError, SettingError, UnderstudyError
from understudy.harness import Bound, Target, log_likelihood_bounds
from understudy.harness.settings import HarnessSettings, read_args, split_args
from understudy.harness.text import cut, encode_pair, noise_index, windows
from understudy.noise import noise_schedule
from understudy.sampling import decode, sample
from understudy.schedule import ModelSchedule

with lm_eval_or_stub():
    from understudy.harness.model import UnderstudyLM

LOGLINEAR = noise_schedule("loglinear")
ROW = (1, 0, 1, 1)  # one token of context, three of target


def bounds(models, schedule, targets, **options):
    found = dict(log_likelihood_bounds(models, ModelSchedule.parse(schedule), LOGLINEAR, targets, **options))
    return [found[place] for place in range(len(targets))]


def bound(models, schedule, row=ROW, given=1, **options):
    return bounds(models, schedule, [Target(row[:given], row[given:], options.pop("index", 0))], **options)[0]


def order_log_probs(models, keys, row=ROW, given=1):
    """log p of a row in every order of revealing; keys[k] makes the k-th reveal. From the definition."""
    found = []
    for order in permutations(range(given, len(row))):
        canvas, total = [*row[:given], *[models[keys[0]].mask_id] * (len(row) - given)], 0.0
        for key, place in zip(keys, order, strict=True):
            law = torch.softmax(models[key].logits(torch.tensor([canvas]))[0, place], -1)
            total += log(float(law[row[place]]))
            canvas[place] = row[place]
        found.append(total)
    return found


def test_for_a_consistent_law_the_bound_is_the_likelihood():
    table = random_law(2, 4, seed=1)
    models = {"H": ExactDenoiser(table)}
    found = bound(models, "H8", mc_num=7)
    assert found.is_exact
    assert found.standard_error == 0
    assert found.value == pytest.approx(log(float(table[ROW] / table[ROW[0]].sum())), abs=1e-12)
    assert bound(models, "H8", given=0, mc_num=15).value == pytest.approx(log(float(table[ROW])), abs=1e-12)


@pytest.mark.parametrize(("schedule", "keys"), [("L1,H1,L1", "LHL"), ("H3,L6", "HLL"), ("L2,H1", "LLH")])
def test_under_a_schedule_it_is_the_mean_over_orders_and_below_the_likelihood(schedule, keys):
    models = exact_pair(2, 4)
    by_order = order_log_probs(models, keys)
    found = bound(models, schedule, mc_num=7)
    assert found.value == pytest.approx(sum(by_order) / factorial(3), abs=1e-12)
    # Revealing in a random order gives the row with the mean probability over orders.
    assert found.value < log(sum(map(exp, by_order)) / factorial(3)) - 1e-4
    assert found.passes == {key: sum((3, 3, 1)[2 - place] for place in range(3) if keys[place] == key) for key in "HL"}


def test_estimates_are_unbiased_and_their_errors_honest():
    models = exact_pair(2, 4)
    truth = bound(models, "L1,H1,L1", mc_num=7).value
    found = [bound(models, "L1,H1,L1", mc_num=6, seed=seed) for seed in range(600)]
    values, errors = (np.array([getattr(one, name) for one in found]) for name in ("value", "standard_error"))
    spread = values.std(ddof=1)
    assert not any(one.is_exact for one in found)
    assert abs(values.mean() - truth) < 5 * spread / sqrt(len(values))  # a right estimator fails once in 10⁶ seeds
    assert spread < np.sqrt(np.square(errors).mean()) < 2 * spread  # never too small on average


def test_one_token_is_exact_and_one_pass():
    models = {"H": CountingDenoiser(ExactDenoiser(random_law(2, 4, seed=1)))}
    found = bound(models, "H4", given=3, mc_num=128)
    assert found.is_exact
    assert models["H"].sequences == 1
    assert found.value == pytest.approx(order_log_probs(models, "H", given=3)[0], abs=1e-12)


def test_more_masks_reduce_the_error():
    models = tiny_pair()
    row = tuple(range(20))
    few, more = (bound(models, "L8,H16,L8", row, given=4, mc_num=count) for count in (8, 512))
    assert more.standard_error < few.standard_error / 3
    assert abs(few.value - more.value) < 5 * few.standard_error
    assert isnan(bound(models, "H4", row, given=4, mc_num=1).standard_error)


def test_answers_do_not_depend_on_the_batch_or_the_neighbours():
    models = tiny_pair()
    rows = [tuple((place * step + step) % 22 for place in range(12)) for step in range(1, 6)]
    targets = [Target(row[:size], row[size:], size) for row, size in zip(rows, (0, 2, 3, 3, 6), strict=True)]
    together = bounds(models, "L8,H16,L8", targets, mc_num=20, batch_size=7, seed=3)
    alone = [bounds(models, "L8,H16,L8", [target], mc_num=20, batch_size=32, seed=3)[0] for target in targets]
    assert together == alone
    assert together != bounds(models, "L8,H16,L8", targets, mc_num=20, batch_size=7, seed=4)


def test_the_schedule_names_the_model_of_each_level():
    models = {key: CountingDenoiser(model) for key, model in exact_pair(2, 4).items()}
    found = bound(models, "H2,L6", given=0, mc_num=15)  # of 4 tokens, 4 masked is step 0, 3 step 2, 2 step 4, 1 step 6
    assert found.passes == {"H": 1, "L": 4 + 6 + 4}
    assert (models["H"].sequences, models["L"].sequences) == (1, 14)
    assert bound(exact_pair(2, 4), "H3,L5", given=0, mc_num=15).passes == {"H": 5, "L": 10}


def test_a_model_is_told_the_time_of_its_level():
    model = tiny_denoiser(1, time_conditioning=True)
    told = []

    class Spy(CountingDenoiser):
        def logits(self, xt, t=None, where=None):
            told.extend(zip((xt == 22).sum(1).tolist(), t.tolist(), strict=True))
            return super().logits(xt, t, where)

    bound({"H": Spy(model)}, "H8", given=1, mc_num=7)
    assert sorted(set(told)) == [(1, pytest.approx(1 / 3)), (2, pytest.approx(2 / 3)), (3, 1.0)]


def test_what_cannot_be_scored_is_refused():
    models = {"H": ExactDenoiser(random_law(2, 4, seed=1))}
    for given, message in (((0, 0, 0, 2), "the mask"), ((0, 0, 0, 9), "outside 0 … 2")):
        with pytest.raises(PromptError, match=message):
            bound(models, "H4", given)
    with pytest.raises(PromptError, match="empty"):
        bound(models, "H4", given=4)
    with pytest.raises(SettingError, match="mc_num is 0"):
        bound(models, "H4", mc_num=0)
    models["H"].law = models["H"].law * torch.nan
    models["H"].logits = lambda xt, t, where: torch.full((len(where.rows), 3), torch.nan)
    with pytest.raises(ModelError, match="model H returned logits with NaN"):
        bound(models, "H4")


def test_a_text_without_a_chance_has_the_bound_minus_infinity():
    table = torch.zeros(2, 2, 2, dtype=torch.float64)
    table[0, 0, 0] = 1
    found = bound({"H": ExactDenoiser(table)}, "H4", (0, 0, 1), given=0, mc_num=3)
    assert found.value == -np.inf
    assert isinstance(found, Bound)


# What lm-eval sees.


@pytest.fixture(scope="module")
def models():
    tokenizer = make_tokenizer()
    return ModelSet(make_pair(tokenizer), tokenizer, {"H": "heavy", "L": "light"})


def requests(*arguments):
    return [SimpleNamespace(args=args) for args in arguments]


def understudy(models, **settings):
    return UnderstudyLM(models, HarnessSettings(**{"schedule": "L4,H8,L4", "mc_num": 8, **settings}))


PAIRS = (("the cat", " sat on the mat"), ("the cat", " sat"), ("", "the dog"), ("the cat ", "sat"), ("on the", " mat"))


def test_texts_are_scored_by_the_bound_whatever_their_order(models):
    lm = understudy(models)
    answers = lm.loglikelihood(requests(*PAIRS), disable_tqdm=True)
    given, ids = encode_pair(models, *PAIRS[0])
    wanted = bounds(models.denoisers, "L4,H8,L4", [Target(tuple(given), tuple(ids), noise_index(given))], mc_num=8)[0]
    assert answers[0] == (wanted.value, False)
    assert lm.standard_errors[0] == wanted.standard_error
    assert answers[1] == answers[3]  # the space goes with the continuation
    info = lm.get_model_info()
    assert info["loglikelihood_mean_standard_error"] == pytest.approx(np.mean(lm.standard_errors))
    assert info["schedule"] == "L4,H8,L4"
    other = understudy(models, batch_size=1).loglikelihood(requests(*reversed(PAIRS)), disable_tqdm=True)
    assert other[::-1] == answers
    assert json.dumps(info)


def test_greedy_is_looked_up_where_it_is_asked_for(models):
    lm = understudy(models, is_check_greedy=True)
    given, ids = encode_pair(models, "the cat", " sat on")
    template = [*given, *[models.denoisers["H"].mask_id] * len(ids)]
    best = decode(
        models.denoisers, "L4,H8,L4", template=template, decoding="low_confidence", threshold=1, temperature=0
    )
    assert lm._are_greedy([[(given, best.tokens[0, len(given) :].tolist())], [(given, ids)]]) == [True, False]
    assert lm.loglikelihood(requests(("the cat", " sat on")), disable_tqdm=True)[0][1] is False


def test_long_texts_are_scored_in_pieces(models):
    assert windows([9, 1, 2, 3], [4, 5], 4, [9]) == [([9, 3], [4, 5])]
    assert windows([1, 2, 3], [4, 5], None, []) == [([1, 2, 3], [4, 5])]
    assert windows([9], list(range(8)), 4, [9]) == [([9], [0, 1, 2]), ([9], [3, 4, 5]), ([9, 5], [6, 7])]
    lm = understudy(models)
    text = "the cat sat on the mat, the dog sat on the cat; " * 4
    ids = models.encode_prefix(text)
    assert len(ids) > lm.max_length
    pieces = windows([], ids, lm.max_length, [])
    assert [token for _, piece in pieces for token in piece] == ids
    targets = [Target(tuple(given), tuple(own), noise_index([*given, *own])) for given, own in pieces]
    wanted = bounds(models.denoisers, "L4,H8,L4", targets, mc_num=8)
    assert lm.loglikelihood_rolling(requests((text,)), disable_tqdm=True) == [
        pytest.approx(sum(one.value for one in wanted), abs=1e-9)
    ]
    assert lm.standard_errors == [pytest.approx(sqrt(sum(one.standard_error**2 for one in wanted)))]
    assert lm.loglikelihood(requests((text, " the end")), disable_tqdm=True)[0][0] < 0


def test_a_token_over_the_cut_does_not_change_the_text(models):
    for context, continuation in (("the c", "at sat"), ("the cat", "\nsat"), ("猫", " 犬")):
        given, ids = encode_pair(models, context, continuation)
        assert models.decode([*given, *ids]) == context + continuation
    with pytest.raises(PromptError, match="empty"):
        encode_pair(models, "the cat", "")


def test_answers_are_what_sample_gives(models):
    lm = understudy(models, gen_length=6, seed=5)
    options = {"do_sample": True, "temperature": 0.9, "until": []}
    contexts = ["the cat", "the dog sat", "the mat", "the cat"]
    answers = lm.generate_until(requests(*((context, options) for context in contexts)), disable_tqdm=True)
    for place, repeat in ((0, 0), (1, 0), (2, 0), (3, 1)):
        given = models.encode_prefix(contexts[place])
        template = [*given, *[models.denoisers["H"].mask_id] * 6]
        found = sample(
            models.denoisers,
            "L4,H8,L4",
            template=template,
            seed=5,
            first_index=noise_index(given) + repeat,
            temperature=0.9,
        )
        assert answers[place] == cut(models, found.tokens[0, len(given) :].tolist(), [])
    assert answers[0] != answers[3]  # a context that comes again is sampled anew
    one_by_one = understudy(models, gen_length=6, seed=5, batch_size=1)
    turned = one_by_one.generate_until(requests(*((context, options) for context in contexts[2::-1])), True)
    assert turned[::-1] == answers[:3]


def test_requests_say_how_they_are_sampled(models):
    lm = understudy(models)
    assert lm._sampling({}) == (256, 0.0, 1.0)
    assert lm._sampling({"do_sample": False, "temperature": 0.7, "max_gen_toks": 9}) == (9, 0.0, 1.0)
    assert lm._sampling({"do_sample": True, "max_new_tokens": 8, "top_p": 0.5}) == (8, 1.0, 0.5)
    assert understudy(models, gen_length=4)._sampling({"temperature": 0.7, "max_gen_toks": 9}) == (4, 0.7, 1.0)
    with pytest.raises(SettingError, match="256 new tokens do not fit into the 32"):
        lm.generate_until(requests(("the cat", {})), disable_tqdm=True)


def test_a_long_context_loses_its_left_end(models):
    lm = understudy(models, gen_length=20)
    ids = models.encode_prefix("the cat sat on the mat, the dog sat on the cat; a café")
    assert lm._context("the cat sat on the mat, the dog sat on the cat; a café", 20) == ids[-12:]
    lm.begin = [7]
    assert lm._context("the cat sat on the mat, the dog sat on the cat; a café", 20) == [7, *ids[-11:]]


def test_until_and_the_end_token_cut(models):
    ids = models.encode_prefix("the cat sat on the mat, the dog")
    assert cut(models, ids, ["dog", " mat", ""]) == "the cat sat on the"
    assert cut(models, ids, ["猫"]) == "the cat sat on the mat, the dog"
    tokenizer, end = models.tokenizer, models.tokenizer.eos_token_id
    own = SimpleNamespace(denoisers={"H": SimpleNamespace(end_id=end)}, tokenizer=tokenizer, decode=models.decode)
    assert cut(own, [*ids[:2], end, *ids[2:]], []) == models.decode(ids[:2])
    other = SimpleNamespace(denoisers={"H": SimpleNamespace(end_id=None)}, tokenizer=tokenizer, decode=models.decode)
    assert cut(other, [*ids[:2], end, *ids[2:]], [tokenizer.eos_token]) == models.decode(ids[:2])
    lm = understudy(models, gen_length=6)
    options = {"do_sample": True}
    whole = lm.generate_until(requests(("the cat", options)), disable_tqdm=True)[0]
    assert len(whole) > 2
    assert (
        lm.generate_until(requests(("the cat", options | {"until": whole[2]})), True)[0]
        == whole[: whole.find(whole[2])]
    )


def test_other_rules_decode_as_decode_does(models):
    lm = understudy(models, schedule="L1,H2,L1", gen_length=8, decoding="low_confidence", block_length=4)
    given = models.encode_prefix("the cat")
    template = [*given, *[models.denoisers["H"].mask_id] * 8]
    options = {"decoding": "low_confidence", "block_length": 4, "temperature": 0}
    found = decode(models.denoisers, "L1,H2,L1", template=template, **options).tokens[0, len(given) :]
    assert lm.generate_until(requests(("the cat", {})), True) == [cut(models, found.tolist(), [])]
    with pytest.raises(SettingError, match="16 steps are too many"):
        understudy(models, gen_length=8, decoding="low_confidence")


def test_chats_go_through_the_tokenizers_template():
    tokenizer = make_tokenizer()
    lm = understudy(ModelSet(make_pair(tokenizer), tokenizer, {"H": "a/b"}))
    assert lm.chat_template(True) is None
    with pytest.raises(PromptError, match="no chat template"):
        lm.apply_chat_template([{"role": "user", "content": "the cat"}])
    template = "{% for m in messages %}<{{ m['content'] }}>{% endfor %}{% if add_generation_prompt %}:{% endif %}"
    tokenizer.chat_template = template
    assert lm.apply_chat_template([{"role": "user", "content": "the cat"}]) == "<the cat>:"
    assert (lm.chat_template(True), lm.chat_template(False), lm.tokenizer_name) == (template, None, "a__b")


# What lm-eval says.


def test_arguments_are_read_as_lm_eval_writes_them():
    text = "heavy=a,M=b,schedule=L25%,H50%,L25%,steps=64,mc_num=32,remasking=margin,is_check_greedy=True"
    loading, settings = read_args({"batch_size": "4", "device": "cpu", "max_batch_size": 64, **split_args(text)})
    assert loading == {"heavy": "a", "model": ["M=b"], "device": "cpu"}
    assert settings == HarnessSettings(
        schedule="L25%,H50%,L25%", steps=64, mc_num=32, decoding="margin", is_check_greedy=True, batch_size=4
    )
    loading, settings = read_args({"pretrained": "x", "threshold": 0.9, "gen_length": 8.0, "steps": None})
    assert loading == {"heavy": "x", "model": []}
    assert settings == HarnessSettings(threshold=0.9, gen_length=8)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("hevy=a", "no model argument 'hevy'; there are batch_size"),
        ("batch_size=auto", "batch_size is 'auto'; it must be a whole number"),
        ("mc_num=1.5", "mc_num is '1.5'"),
        ("mc_num=0", "mc_num is 0; it must be at least 1"),
        ("threshold=high", "threshold is 'high'; it must be a number"),
        ("is_check_greedy=maybe", "True or False"),
        ("heavy=a,pretrained=b", "says what heavy says already"),
        ("steps=1,steps=2", "give steps twice"),
        ("H4,heavy=a", "begin with 'H4'"),
        ("schedule=L25%,H50%,L25%", "steps"),
        ("schedule=A4,H4", "bind the missing key"),
        ("schedule=H4,steps=5", "4 steps but 5"),
        ("max_length=100000", "takes at most"),
        ("gen_length=256,max_length=64", "do not fit into the 64"),
        ("decoding=best", "decoding is 'best'"),
        ("threshold=0.5", "does not go with ancestral"),
        ("heavy=nowhere,light=nowhere", "nowhere"),
    ],
)
def test_what_does_not_fit_is_said_before_any_request(text, message):
    with pytest.raises(UnderstudyError, match=message):
        UnderstudyLM.create_from_arg_string(text, {"device": "cpu"})


def test_folders_are_loaded_and_arguments_go_before_options(tmp_path):
    paths = save_stage(tmp_path, make_tokenizer())
    text = f"heavy={paths['heavy']},light={paths['light']},schedule=L4,H8,L4,batch_size=2"
    lm = UnderstudyLM.create_from_arg_string(text, {"batch_size": 1, "device": "cpu", "max_batch_size": None})
    assert (lm.settings.batch_size, str(lm.schedule), lm.max_length) == (2, "L4,H8,L4", 32)
    alone = UnderstudyLM.create_from_arg_obj({"pretrained": str(paths["heavy"])}, {"device": "cpu"})
    assert str(alone.schedule) == "H256"


def test_without_lm_eval_one_line_names_the_extra():
    code = """
import runpy, sys
sys.modules["lm_eval"] = None
import understudy.harness
try:
    understudy.harness.UnderstudyLM
except understudy.errors.SettingError as error:
    print(error)
runpy.run_module("understudy.harness", run_name="__main__")
"""
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    line = "this needs lm-eval: pip install 'understudy[harness]'\n"
    assert (found.returncode, found.stdout, found.stderr) == (2, line, f"understudy: {line}")


TASKS = {
    "choices": """
task: choices
dataset_path: json
dataset_kwargs: {data_files: {test: DATA}}
test_split: test
output_type: multiple_choice
doc_to_text: "{{text}}"
doc_to_choice: "{{choices}}"
doc_to_target: "{{label}}"
metric_list: [{metric: acc, aggregation: mean, higher_is_better: true}]
""",
    "answers": """
task: answers
dataset_path: json
dataset_kwargs: {data_files: {test: DATA}}
test_split: test
output_type: generate_until
doc_to_text: "{{text}}"
doc_to_target: "{{choices[label]}}"
generation_kwargs: {until: ["."], do_sample: false}
metric_list: [{metric: exact_match, aggregation: mean, higher_is_better: true}]
""",
    "texts": """
task: texts
dataset_path: json
dataset_kwargs: {data_files: {test: DATA}}
test_split: test
output_type: loglikelihood_rolling
doc_to_text: ""
doc_to_target: "{{text}}"
metric_list: [{metric: bits_per_byte}]
""",
}


@pytest.mark.skipif(not HAS_LM_EVAL, reason="needs lm-eval, the extra `harness`")
@pytest.mark.filterwarnings("default")  # other libraries' own
def test_lm_eval_runs_tasks_from_end_to_end(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_DATASETS_OFFLINE", "1")
    monkeypatch.setenv("HF_HOME", str(tmp_path / "cache"))
    from lm_eval import simple_evaluate
    from lm_eval.tasks import TaskManager

    docs = [
        {"text": "The history of the", "choices": ["city", "zzqx vv"], "label": 0},
        {"text": "She was born in", "choices": ["1950 in London", "of of of of of"], "label": 0},
    ]
    (tmp_path / "data.jsonl").write_text("".join(json.dumps(doc) + "\n" for doc in docs))
    for name, text in TASKS.items():
        (tmp_path / f"{name}.yaml").write_text(text.replace("DATA", str(tmp_path / "data.jsonl")))
    found = [
        simple_evaluate(
            model="understudy",
            model_args="schedule=L25%,H50%,L25%,steps=16,gen_length=16,mc_num=16,precision=float32",
            tasks=list(TASKS),
            task_manager=TaskManager(include_path=str(tmp_path), include_defaults=False),
            device="cpu",
            batch_size=batch_size,
        )
        for batch_size in (8, 3)
    ]
    results = found[0]["results"]
    assert results["choices"]["acc,none"] == 1
    assert 0 <= results["answers"]["exact_match,none"] <= 1
    assert 0 < results["texts"]["bits_per_byte,none"] < 8
    assert found[0]["config"]["schedule"] == "L4,H8,L4"
    responses = [{name: [doc["resps"] for doc in run["samples"][name]] for name in TASKS} for run in found]
    assert responses[0] == responses[1]
