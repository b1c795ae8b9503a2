"""Which blocks a light model keeps, and what is left of the heavy model with them."""

import itertools
import json
import math

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from driving import finish
from light_stage import LENGTH, make_blocks, make_tokenizer, save_heavy, silence
from models import MASK, VOCAB, tiny_network
from understudy import ModelSchedule, load_denoiser, sample
from understudy.denoisers.dit import DiTConfig
from understudy.denoisers.model_files import model_sha256
from understudy.errors import DataError, ModelError, ScheduleError, SettingError
from understudy.lightening import (
    HeldOutText,
    LightSettings,
    Weighing,
    choose_blocks,
    held_out_text,
    hidden_states,
    keep_blocks,
    light_intervals,
    make_light,
    measure,
    read_schedule,
    round_weights,
)
from understudy.lightening.choosing import choice_passes
from understudy.lightening.measuring import num_passes
from understudy.noise import noise_schedule
from understudy.record_journal import RecordJournal
from understudy.training.batches import stream, times_within

WEIGHING = Weighing(num_blocks=6, num_times=3, batch_size=4)


def random_text(count=6, length=12, seed=0, counts=None):
    ids = np.random.default_rng(seed).integers(0, MASK, (count, length))
    return HeldOutText(ids, np.ones(ids.shape, dtype=bool) if counts is None else counts, "random")


def measured(heavy, network, subsets, text=None, weighing=WEIGHING):
    text = random_text() if text is None else text
    return finish(measure(heavy, network, subsets, text, weighing, RecordJournal(None, {}), "unit"))


@torch.no_grad()
def plain_kl(heavy, light, text, weighing):
    """KL per masked token by its definition, in float64: mean over times, each a ratio of sums."""
    values = []
    for index, t in enumerate(weighing.times):
        masked = stream(weighing.seed, 3, index).random(text.ids.shape) < noise_schedule("loglinear").mask_prob(
            float(t)
        )
        ids = torch.from_numpy(np.where(masked, MASK, text.ids))
        sigma = torch.full((len(ids),), float(-math.log1p(-(1 - 1e-3) * t)))
        logs = []
        for network in (heavy, light):
            logits = network(ids, timesteps=sigma).logits[torch.from_numpy(masked & text.counts)].double()
            logits[:, MASK] = -torch.inf
            logs.append(torch.log_softmax(logits, dim=-1)[:, torch.arange(VOCAB) != MASK])
        values.append(float((logs[0].exp() * (logs[0] - logs[1])).sum() / (masked & text.counts).sum()))
    return float(np.mean(values))


# Skipping ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("overrides", [{}, {"time_conditioning": True}, {"tie_word_embeddings": True}])
@torch.no_grad()
def test_pruned_network_is_the_heavy_one_that_skips_blocks_to_the_bit(overrides):
    heavy = tiny_network(4, **overrides)
    ids, sigma = torch.from_numpy(random_text().ids), torch.linspace(0.1, 2, 6)
    subsets = [kept for size in range(1, 5) for kept in itertools.combinations(range(4), size)]
    passed = dict(hidden_states(heavy, ids, sigma, subsets))
    assert sorted(passed) == list(range(15))
    for number, kept in enumerate(subsets):
        light = keep_blocks(heavy, kept)
        assert len(light.blocks) == light.config.num_hidden_layers == len(kept)
        assert torch.equal(light.hidden(ids, sigma), passed[number])
    assert torch.equal(heavy.hidden(ids, sigma), passed[14])
    assert len(heavy.blocks) == heavy.config.num_hidden_layers == 4


def test_common_beginnings_are_computed_once():
    heavy, calls = tiny_network(4), []
    for number, block in enumerate(heavy.blocks):
        block.register_forward_hook(lambda *_, number=number: calls.append(number))
    list(hidden_states(heavy, torch.zeros(1, 4, dtype=torch.long), torch.ones(1), [(0, 1, 2), (0, 1, 3), (0, 2, 3)]))
    assert calls == [0, 1, 2, 3, 2, 3]


def test_kept_weights_are_copies():
    heavy = tiny_network(3)
    light = keep_blocks(heavy, (0, 2))
    with torch.no_grad():
        light.blocks[1].attn_out.weight.zero_()
    assert heavy.blocks[2].attn_out.weight.abs().sum() > 0


@pytest.mark.parametrize("kept", [(), (0, 3), (-1, 0), (1, 0), (1, 1)])
def test_blocks_that_are_not_there_are_refused(kept):
    with pytest.raises(SettingError, match="ascending"):
        keep_blocks(tiny_network(3), kept)


# Measuring --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("overrides", [{}, {"time_conditioning": True}])
def test_leaving_out_nothing_costs_exactly_nothing(overrides):
    heavy = tiny_network(3, **overrides)
    _, found = measured(heavy, heavy, [(0, 1, 2)])
    assert (found.sums == 0).all()
    assert (found.estimate(0).mean, found.estimate(0).se) == (0, 0)


@pytest.mark.parametrize("overrides", [{}, {"time_conditioning": True}])
def test_kl_is_its_definition(overrides):
    heavy, subsets = tiny_network(3, **overrides), [(1, 2), (0, 2), (0,)]
    counts = np.arange(12) < np.arange(5, 11)[:, None]  # the rest is padding: noised, seen, not counted
    text = random_text(counts=counts)
    _, found = measured(heavy, heavy, subsets, text)
    for number, kept in enumerate(subsets):
        expected = plain_kl(heavy, keep_blocks(heavy, kept), text, WEIGHING)
        assert expected > 0.01
        assert found.estimate(number).mean == pytest.approx(expected, rel=1e-4)


def test_kl_does_not_depend_on_batches_and_passes_are_known_ahead():
    heavy, subsets = tiny_network(3), [(0,), (1, 2)]
    passes, whole = measured(heavy, heavy, subsets)
    assert sum(passes) == num_passes(2, random_text(), WEIGHING) == 3 * 6 * 3
    small, other = measured(heavy, heavy, subsets, weighing=Weighing(6, 3, batch_size=1))
    assert sum(small) == sum(passes)
    np.testing.assert_allclose(other.sums, whole.sums, rtol=1e-4)


def test_errors_are_those_of_repeated_texts():
    """Over 100 texts, the standard deviation of the estimate is its mean standard error within 25 %."""
    heavy = tiny_network(2)
    found = [
        measured(heavy, heavy, [(0,), (1,)], random_text(20, seed=s), Weighing(20, 2, seed=s))[1] for s in range(100)
    ]
    for take in (lambda d: d.estimate(0), lambda d: d.difference(0, 1)):
        estimates = [take(entry) for entry in found]
        spread = np.std([entry.mean for entry in estimates], ddof=1)
        assert np.mean([entry.se for entry in estimates]) == pytest.approx(spread, rel=0.25)


def test_times_count_as_tokens_are_revealed():
    """With cosine noise a time counts in proportion to −α'(t)."""
    heavy = tiny_network(2, noise="cosine")
    _, found = measured(heavy, heavy, [(0,)])
    rates = np.cos(np.pi / 2 * WEIGHING.times)
    np.testing.assert_allclose(found.weights, rates / rates.sum())
    assert found.estimate(0).mean == pytest.approx(found.weights @ found.over_time(0))


def test_text_where_nothing_is_masked_is_too_little():
    heavy = tiny_network(2)
    with pytest.raises(SettingError, match="too few"):
        measured(heavy, heavy, [(0,)], random_text(2, 2), Weighing(2, 16))


def test_nan_is_an_error():
    heavy = tiny_network(2)
    with torch.no_grad():
        heavy.output_layer.bias[0] = math.nan
    with pytest.raises(ModelError, match="NaN"):
        measured(heavy, heavy, [(0,)])


# Choosing ---------------------------------------------------------------------------------------------------------


def choose(heavy, wanted, text=None, journal=None):
    journal = RecordJournal(None, {}) if journal is None else journal
    return finish(choose_blocks(heavy, wanted, random_text() if text is None else text, WEIGHING, journal))


@pytest.mark.parametrize("silent", [0, 2, 3])
def test_a_block_with_closed_gates_costs_nothing_and_goes_first(silent):
    heavy = tiny_network(4)
    silence(heavy, silent)
    _, choice = choose(heavy, 2)
    first = choice.rounds[0]
    assert first.removed == silent
    assert (first.kl[silent].mean, first.kl[silent].se) == (0, 0)
    assert all(found.mean > 0 for block, found in first.kl.items() if block != silent)
    assert silent not in choice.kept


@pytest.mark.parametrize("seed", range(3))
def test_one_block_less_is_what_brute_force_finds(seed):
    heavy, text = tiny_network(4, seed=seed), random_text(seed=seed)
    _, choice = choose(heavy, 3, text)
    costs = {
        kept: plain_kl(heavy, keep_blocks(heavy, kept), text, WEIGHING) for kept in itertools.combinations(range(4), 3)
    }
    assert choice.kept == min(costs, key=costs.get)
    assert choice.kl.mean == pytest.approx(min(costs.values()), rel=1e-4)


def test_every_round_leaves_out_the_cheapest_given_those_before():
    heavy, text = tiny_network(5), random_text()
    passes, choice = choose(heavy, 2, text)
    kept = tuple(range(5))
    for entry in choice.rounds:
        assert tuple(entry.kl) == kept
        rest = {block: tuple(other for other in kept if other != block) for block in kept}
        costs = {block: plain_kl(heavy, keep_blocks(heavy, rest[block]), text, WEIGHING) for block in kept}
        assert entry.removed == min(costs, key=costs.get)
        best, second = sorted(costs.values())[:2]
        assert entry.margin.mean == pytest.approx(second - best, rel=1e-3, abs=1e-6)
        kept = rest[entry.removed]
    assert choice.kept == kept
    assert sum(passes) == choice_passes(5, 2, text, WEIGHING) == (6 + 5 + 4) * 6 * 3


def test_interrupted_choice_goes_on(tmp_path):
    heavy = tiny_network(4)
    passes, whole = choose(heavy, 2)
    run = choose_blocks(heavy, 2, random_text(), WEIGHING, RecordJournal(tmp_path / "j", {"a": 1}))
    list(itertools.islice(run, len(passes) // 2))
    run.close()
    journal = RecordJournal(tmp_path / "j", {"a": 1})
    assert len(journal) > 0
    rest, again = choose(heavy, 2, journal=journal)
    assert again == whole
    assert sum(rest) == sum(passes)


@pytest.mark.parametrize("wanted", [0, 4, 5, -1])
def test_as_many_blocks_as_the_heavy_has_or_none_are_refused(wanted):
    with pytest.raises(SettingError, match=rf"blocks is {wanted}; .* has 4, .* 1 to 3"):
        choose(tiny_network(4), wanted)


# Times ------------------------------------------------------------------------------------------------------------


def test_intervals_are_the_times_of_the_light_steps():
    schedule = ModelSchedule.parse("L125,H750,L125")
    assert light_intervals(schedule, "L") == ((0.0, 0.125), (0.875, 1.0))
    assert light_intervals(schedule, "H") == ((0.125, 0.875),)
    assert light_intervals(read_schedule("H75%,L25%"), "L") == ((0.0, 0.25),)
    with pytest.raises(SettingError, match="only by H"):
        light_intervals(ModelSchedule.parse("H10"), "L")


def test_times_within_intervals_keep_shares():
    intervals = ((0.0, 0.1), (0.4, 0.5), (0.8, 1.0))
    times = times_within(intervals, (np.arange(400) + 0.5) / 400)
    assert (np.diff(times) > 0).all()
    inside = [int(((times > low) & (times < high)).sum()) for low, high in intervals]
    assert inside == [100, 100, 200]
    assert times_within(intervals, np.array([0.0, 1.0])).tolist() == [0.0, 1.0]
    assert Weighing(num_times=2, intervals=((0.0, 0.1), (0.9, 1.0))).times.tolist() == pytest.approx([0.05, 0.95])


def test_a_plan_that_is_not_there_or_none(tmp_path):
    with pytest.raises(DataError, match="there is no file"):
        read_schedule(str(tmp_path / "plan.json"))
    (tmp_path / "plan.json").write_text("{}")
    with pytest.raises(DataError, match="no plan"):
        read_schedule(str(tmp_path / "plan.json"))
    with pytest.raises(ScheduleError):
        read_schedule("L125;H750")


# Rounding ---------------------------------------------------------------------------------------------------------


def test_rounded_weights_are_whole_multiples_of_a_scale_per_row():
    heavy, rounded = tiny_network(2), tiny_network(2)
    with torch.no_grad():
        for network in (heavy, rounded):
            network.blocks[0].attn_out.weight[3] = 0  # a row without a scale
    round_weights(rounded)
    for (name, before), after in zip(heavy.named_parameters(), rounded.parameters(), strict=True):
        if not (name.startswith("blocks.") and before.ndim == 2):
            assert torch.equal(before, after), name
            continue
        scale = before.abs().amax(dim=1, keepdim=True) / 127
        levels = torch.where(scale > 0, after / scale, torch.zeros(()))
        torch.testing.assert_close(levels, levels.round(), atol=1e-4, rtol=0)
        assert ((after - before).abs() <= scale / 2 * (1 + 1e-5)).all()
    once = [parameter.clone() for parameter in rounded.parameters()]
    round_weights(rounded)
    for before, after in zip(once, rounded.parameters(), strict=True):
        torch.testing.assert_close(after, before, rtol=1e-6, atol=0)


# Folders ----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def tokenizer():
    return make_tokenizer()


@pytest.fixture(scope="module")
def heavy(tmp_path_factory, tokenizer):
    return save_heavy(tmp_path_factory.mktemp("models") / "heavy", tokenizer)


@pytest.fixture(scope="module")
def data(tmp_path_factory, tokenizer):
    return make_blocks(tmp_path_factory.mktemp("data") / "packed", tokenizer)


def settings(data, **changes):
    return LightSettings(**{"blocks": 2, "data": None if data is None else str(data), "weighing": WEIGHING, **changes})


def make(heavy, output, wish, **options):
    return finish(make_light(heavy, output, wish, **options))


def test_result_is_a_model_folder_that_says_where_it_is_from(tmp_path, heavy, data):
    records, light = make(heavy, tmp_path / "light", settings(data), command="understudy make-light")
    assert light.path == tmp_path / "light"
    assert (records[-1].stage, records[-1].done) == ("weighing blocks", records[-1].total)
    record = json.loads((light.path / "make_light.json").read_text())
    assert record == light.record
    assert record["heavy_sha256"] == model_sha256(heavy)
    assert (record["heavy_blocks"], len(record["kept"]), len(record["rounds"])) == (4, 2, 2)
    assert record["kl"]["mean"] == record["rounds"][-1]["kl"][str(record["rounds"][-1]["removed"])]["mean"]
    small, large = load_denoiser(light.path), load_denoiser(heavy)
    assert small.shape.blocks == 2
    expected = keep_blocks(large.network, record["kept"])
    for one, other in zip(small.network.parameters(), expected.parameters(), strict=True):
        assert torch.equal(one, other)
    assert (light.path / "tokenizer.json").read_bytes() == (heavy / "tokenizer.json").read_bytes()
    assert not list(tmp_path.glob("*partial*"))
    assert not list(tmp_path.glob(".*"))
    drawn = sample({"H": large, "L": small}, "L2,H4,L2", length=8, num_samples=1, seed=0)
    assert drawn.nfe["L"] > 0


def test_called_again_it_says_what_it_has_made(tmp_path, heavy, data):
    _, first = make(heavy, tmp_path / "light", settings(data))
    records, again = make(heavy, tmp_path / "light", settings(data))
    assert (records, again.record) == ([], first.record)
    with pytest.raises(SettingError, match="made with another settings"):
        make(heavy, tmp_path / "light", settings(data, blocks=3))


def test_interrupted_weighing_goes_on(tmp_path, heavy, data):
    _, whole = make(heavy, tmp_path / "whole", settings(data))
    run = make_light(heavy, tmp_path / "cut", settings(data))
    list(itertools.islice(run, 4))
    run.close()
    assert (tmp_path / "cut.partial.jsonl").is_file()
    assert not (tmp_path / "cut").exists()
    _, cut = make(heavy, tmp_path / "cut", settings(data))
    assert cut.record["rounds"] == whole.record["rounds"]


def test_chosen_by_hand(tmp_path, heavy, data):
    _, light = make(heavy, tmp_path / "light", settings(data, blocks=None, keep=(0, 3)))
    assert (light.record["kept"], light.record["rounds"], light.record["chosen_by"]) == ([0, 3], [], "hand")
    network, text = load_denoiser(heavy).network, text_of(data, heavy)
    expected = measured(network, network, [(0, 3)], text)[1].estimate(0)
    assert light.record["kl"] == {"mean": pytest.approx(expected.mean), "se": pytest.approx(expected.se)}
    _, unmeasured = make(heavy, tmp_path / "other", settings(None, blocks=None, keep=(0, 3)))
    assert unmeasured.record["kl"] is None


def shape(length):
    return DiTConfig(vocab_size=275, hidden_size=16, num_attention_heads=2, max_position_embeddings=length)


def text_of(data, heavy):
    from understudy import load_tokenizer

    return held_out_text(str(data), load_tokenizer(heavy), shape(32), count=6)


def test_quantised_heavy_as_its_own_light(tmp_path, heavy, data):
    _, light = make(heavy, tmp_path / "light", settings(data, blocks=None, quantise="int8"))
    assert (light.record["kept"], light.record["quantised"]) == ([0, 1, 2, 3], "int8")
    expected = load_denoiser(heavy).network
    round_weights(expected)
    stored = load_file(light.path / "model.safetensors")
    for name, parameter in expected.named_parameters():
        assert torch.equal(stored[name], parameter), name
    assert 0 < light.record["kl"]["mean"] < 0.01
    _, both = make(heavy, tmp_path / "both", settings(data, quantise="int8"))
    assert len(both.record["kept"]) == 2
    assert both.record["kl"]["mean"] > light.record["kl"]["mean"]


def test_padding_does_not_count(tmp_path, tokenizer):
    padded = make_blocks(tmp_path / "padded", tokenizer, layout="padded", frame="both", block_length=64)
    text = held_out_text(str(padded), tokenizer, shape(64), count=6)
    assert text.ids.shape == (6, 64)
    assert ((text.ids == tokenizer.pad_token_id) == ~text.counts).all()
    assert 0 < text.counts.sum() < text.counts.size


def test_text_of_a_prepared_folder_is_its_validation_split(data, tokenizer):
    text = held_out_text(str(data), tokenizer, shape(32), count=6)
    assert text.ids.shape == (6, LENGTH)
    assert text.counts.all()
    assert held_out_text(str(data), tokenizer, shape(8), count=6).ids.shape == (6, 8)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"blocks": 4}, "the heavy model has 4"),
        ({"blocks": 0}, "blocks is 0"),
        ({"blocks": None, "keep": (0, 4)}, "blocks to keep are 0,4"),
        ({"blocks": None, "keep": (0, 1, 2, 3)}, "blocks is 4"),
        ({"data": None}, "give --data"),
    ],
)
def test_what_cannot_be_is_said_before_any_work(tmp_path, heavy, data, changes, message):
    with pytest.raises(SettingError, match=message):
        make(heavy, tmp_path / "light", settings(**{"data": data, **changes}))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("wish", [{}, {"blocks": 2, "keep": (0, 1)}, {"quantise": "int4"}])
def test_wishes_that_exclude_each_other(wish):
    with pytest.raises(SettingError):
        LightSettings(**wish)


def test_only_a_dit_can_lose_blocks(tmp_path, data):
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "config.json").write_text('{"model_type": "t5"}')
    with pytest.raises(ModelError, match="t5"):
        make(tmp_path / "other", tmp_path / "light", settings(data))


def test_a_folder_of_something_else_is_left_alone(tmp_path, heavy, data):
    (tmp_path / "light").mkdir()
    (tmp_path / "light" / "thesis.txt").write_text("precious")
    with pytest.raises(SettingError, match="something else"):
        make(heavy, tmp_path / "light", settings(data))
    assert (tmp_path / "light" / "thesis.txt").read_text() == "precious"
