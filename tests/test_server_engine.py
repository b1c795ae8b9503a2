"""The engine of the service: samples are the library's, whatever else runs; nobody waits for ever, nothing is lost."""

import asyncio
import gc
import threading
import weakref
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from models import CountingDenoiser
from serving import MASK, SECONDS, TOKENIZER, GatedDenoiser, PoisonedDenoiser, follow, model_set, running_engine
from stage import make_network, make_pair
from understudy import sample
from understudy.denoisers.network import DiTDenoiser
from understudy.errors import PromptError, QueueFullError, ScheduleError, ServiceError, SettingError
from understudy.server import Engine, RunRequest, ServerLimits
from understudy.server.batching import choose
from understudy.server.engine import Observer
from understudy.server.throughput import Throughput

NEVER = 5  # an id that no prompt here holds


def template(length, *given):
    row = np.full(length, MASK)
    for position, token in given:
        row[position] = token
    return row


REQUESTS = [
    RunRequest("H12", {"length": 16, "num_samples": 3, "seed": 1}),
    RunRequest("L4,H16,L4", {"length": 16, "num_samples": 5, "seed": 2}),
    RunRequest("L12", {"length": 9, "num_samples": 2, "seed": 3}),
    RunRequest("L2,H20,L2", {"length": 16, "num_samples": 4, "seed": 4, "temperature": 0.5}),
    RunRequest("H20,L20", {"length": 16, "seed": 5, "top_p": 0.7, "noise": "cosine"}),
    RunRequest("L25%,H75%", {"length": 32, "num_samples": 2, "steps": 40, "seed": 6, "prefix": [9, 10, 11]}),
    RunRequest("H40", {"template": template(16, (3, 9), (7, 10)), "num_samples": 2, "seed": 7, "t_end": 0.2}),
    RunRequest(None, {"length": 1, "steps": 3, "seed": 8}),
    RunRequest("H3,L3", {"length": 16, "num_samples": 2, "seed": 9, "temperature": 0}),
    RunRequest("L4,H16,L4", {"length": 16, "num_samples": 2, "seed": 2, "indices": [4, 1]}),
    RunRequest("H1", {"length": 32, "seed": 2**64 - 1, "suffix": [12]}),
]


def conditioned_pair():
    """As `make_pair`, but the heavy model reads the time."""
    network = make_network(2, 5, TOKENIZER)
    config = network.config.to_dict() | {"time_conditioning": True}
    timed = type(network)(type(network.config)(**config))
    generator = torch.Generator().manual_seed(4)
    for parameter in timed.parameters():
        parameter.data.copy_(torch.randn(parameter.shape, generator=generator) * 0.3)
    return {"H": DiTDenoiser(timed.eval()), "L": make_pair(TOKENIZER)["L"]}


@pytest.mark.parametrize("make", [lambda: make_pair(TOKENIZER), conditioned_pair], ids=["plain", "time"])
@pytest.mark.parametrize(("max_sequences", "batch_size", "ahead"), [(64, 32, 0), (5, 3, 0), (5, 3, 1), (1, 1, 1)])
def test_samples_are_those_of_the_library_whatever_else_runs(make, max_sequences, batch_size, ahead):
    pair = make()
    wanted = [request for request in REQUESTS if request.options.get("noise") is None or not pair["H"].uses_time]
    expected = [sample(pair, request.schedule, **request.options) for request in wanted]
    limits = {"max_sequences": max_sequences, "batch_size": batch_size, "queue": 512}
    with running_engine(pair, ahead=ahead, **limits) as engine:
        runs = [None] * (2 * len(wanted))

        def send(start):
            for place in range(start, len(runs), 3):
                runs[place] = engine.submit(wanted[place % len(wanted)])
                if place % 4 == 1:  # company that leaves
                    engine.submit(RunRequest("H30", {"length": 16, "num_samples": 2, "seed": place})).cancel()

        senders = [threading.Thread(target=send, args=(start,)) for start in range(3)]
        for sender in senders:
            sender.start()
        for sender in senders:
            sender.join()
        for place, run in enumerate(runs):
            assert run.wait(SECONDS)
            assert run.state == "done"
            result, known = run.result, expected[place % len(wanted)]
            assert torch.equal(result.tokens, known.tokens)
            np.testing.assert_array_equal(result.reveal_step, known.reveal_step)
            assert (result.nfe, result.flops, result.schedule) == (known.nfe, known.flops, known.schedule)


def test_requests_that_come_later_join_the_passes_of_those_under_way():
    pair = {"H": GatedDenoiser(make_pair(TOKENIZER)["H"])}
    with running_engine(pair) as engine:
        first = engine.submit(RunRequest("H16", {"length": 16, "seed": 1}))
        pair["H"].wait()
        later = [engine.submit(RunRequest("H9", {"length": 16, "seed": seed})) for seed in (2, 3)]
        pair["H"].open()
        assert all(run.wait(SECONDS) for run in (first, *later))
    assert [len(canvas) for canvas in pair["H"].shown[:2]] == [1, 3]
    assert len(pair["H"].shown) <= first.num_passes + 1


def test_a_cancelled_run_frees_its_rows_before_the_next_pass():
    pair = {"H": GatedDenoiser(make_pair(TOKENIZER)["H"])}
    with running_engine(pair, max_sequences=2) as engine:
        ill = engine.submit(RunRequest("H16", {"length": 16, "num_samples": 2, "seed": 1}))
        pair["H"].wait()
        queued = engine.submit(RunRequest("H16", {"length": 16, "num_samples": 2, "seed": 3}))
        heir = engine.submit(RunRequest("H16", {"length": 16, "num_samples": 2, "seed": 2}))
        assert (engine.num_active, engine.num_waiting) == (2, 4)
        ill.cancel()
        queued.cancel()
        assert ill.state == queued.state == "cancelled"
        pair["H"].open()
        assert heir.wait(SECONDS)
    assert len(pair["H"].shown) == 1 + max(np.bincount(heir.task.plan.events.samples)), "both rows were free at once"
    assert [event.kind for event in follow(ill)] == ["started", "cancelled"]
    assert [event.kind for event in follow(queued)] == ["cancelled"]
    assert (ill.tokens == MASK).all(), "what a pass found after the end is not told"
    ill.cancel()
    assert len(follow(ill)) == 2


def test_a_full_queue_takes_all_of_a_request_or_nothing_and_says_when_to_come_back():
    pair = {"H": GatedDenoiser(make_pair(TOKENIZER)["H"])}
    with running_engine(pair, max_sequences=1, queue=2, samples=3) as engine:
        first = engine.submit(RunRequest("H8", {"length": 8, "num_samples": 2}))
        pair["H"].wait()
        small, large = (RunRequest("H8", {"length": 8, "num_samples": count}) for count in (1, 2))
        with pytest.raises(QueueFullError, match="2 sequences are being sampled or wait, of 3 at most") as full:
            engine.submit(large)
        assert full.value.retry_seconds >= 1
        with pytest.raises(QueueFullError):
            engine.submit_all([small, small])
        last = engine.submit(small)
        with pytest.raises(QueueFullError):
            engine.submit(small)
        pair["H"].open()
        assert first.wait(SECONDS)
        assert last.wait(SECONDS)
        assert engine.submit(large).wait(SECONDS)


def test_the_time_until_there_is_room_is_that_of_the_work_before_it():
    throughput = Throughput()
    assert throughput.seconds_for(1000) == 1, "nothing is known yet"
    for _ in range(50):
        throughput.add(sequences=8, seconds=0.5)
    assert throughput.seconds_for(160) in (10, 11)
    for _ in range(200):
        throughput.add(sequences=8, seconds=0.05)
    assert throughput.seconds_for(150) == 1, "what is long past counts little"
    assert throughput.seconds_for(1600) in (10, 11)


class Member:
    def __init__(self, group, order):
        self.group, self.order, self.since = group, order, 0


@given(st.lists(st.integers(0, 4), min_size=1, max_size=40), st.integers(1, 8), st.randoms())
@settings(max_examples=50)
def test_whoever_waits_is_served_within_as_many_passes_as_there_are_sequences(groups, batch_size, random):
    members = [Member(group, order) for order, group in enumerate(groups)]
    served = {member: [0] for member in members}
    for number in range(1, 200):
        batch = choose(((member.group, member) for member in members), batch_size)
        assert 1 <= len(batch) <= batch_size
        assert len({member.group for member in batch}) == 1
        assert [member.order for member in batch] == sorted({member.order for member in batch})
        for member in batch:
            served[member].append(number)
            member.since = number
            member.group = random.randrange(5)  # the next model
    assert all(after - before <= len(members) for passes in served.values() for before, after in pairwise(passes))
    assert choose([], 3) == []


def test_a_small_request_is_not_held_up_by_a_flood():
    counted = {key: CountingDenoiser(model) for key, model in make_pair(TOKENIZER).items()}
    gate = counted["L"] = GatedDenoiser(counted["L"])
    with running_engine(counted, max_sequences=40, queue=400, batch_size=8) as engine:
        flood = [engine.submit(RunRequest("L64", {"length": 32, "num_samples": 8, "seed": seed})) for seed in range(4)]
        gate.wait()
        small = engine.submit(RunRequest("L1", {"length": 4}))
        gate.open()
        assert small.wait(SECONDS)
        assert len(gate.shown) <= 2 + 40
        assert not any(run.is_over for run in flood)


@pytest.mark.parametrize("ahead", [0, 1])
@pytest.mark.parametrize("error", [None, RuntimeError("out of luck"), ScheduleError("no such thing")])
def test_what_fails_takes_nobody_else_along(error, ahead):
    pair = make_pair(TOKENIZER)
    good = RunRequest("H12", {"template": template(16, (0, 9)), "num_samples": 3, "seed": 3})
    ill = RunRequest("H12", {"template": template(16, (0, NEVER)), "num_samples": 2, "seed": 4})
    light = RunRequest("L12", {"template": template(16, (0, NEVER)), "seed": 4})
    expected = sample(pair, good.schedule, **good.options).tokens
    pair["H"] = PoisonedDenoiser(pair["H"], NEVER, error)
    message = {
        None: "model H returned logits with NaN or no finite entry; is its checkpoint intact?",
        RuntimeError: "model H failed: out of luck",
        ScheduleError: "no such thing",
    }[error and type(error)]
    with running_engine(pair, ahead=ahead) as engine:
        runs = engine.submit_all([good, ill, light, good])
        assert all(run.wait(SECONDS) for run in runs)
        assert [run.state for run in runs] == ["done", "failed", "done", "done"]
        assert runs[1].failure == (message, "model")
        assert follow(runs[1])[-1].to_dict() == {"index": 2, "kind": "failed", "message": message, "code": "model"}
        for run in (runs[0], runs[3]):
            assert torch.equal(run.result.tokens, expected)
        assert engine.state == "running"
        again = engine.submit(good)
        assert again.wait(SECONDS)
        assert torch.equal(again.result.tokens, expected)


def test_an_engine_that_breaks_says_so_and_lets_nobody_wait():
    class Breaking(Observer):
        def passed(self, batch, length):
            raise RuntimeError("the disk is on fire")

    engine = Engine(model_set(), ServerLimits(max_sequences=1), observer=Breaking())
    engine.start()
    runs = engine.submit_all([RunRequest("H4", {"length": 8})] * 3)
    assert all(run.wait(SECONDS) for run in runs)
    assert {run.failure for run in runs} == {("the service is broken (the disk is on fire); start it again", "service")}
    with pytest.raises(ServiceError, match="the disk is on fire"):
        engine.submit(RunRequest("H4", {"length": 8}))
    assert engine.state == "broken"
    assert engine.stop(seconds=SECONDS)


def test_stopping_finishes_what_was_accepted_and_refuses_the_rest():
    pair = {"H": GatedDenoiser(make_pair(TOKENIZER)["H"])}
    engine = Engine(model_set(pair), ServerLimits(max_sequences=1))
    with pytest.raises(ServiceError, match="not been started"):
        engine.submit(RunRequest("H4", {"length": 8}))
    engine.start()
    runs = engine.submit_all([RunRequest("H4", {"length": 8, "seed": seed}) for seed in range(2)])
    pair["H"].wait()
    stopping = threading.Thread(target=engine.stop)
    stopping.start()
    with engine._changed:
        assert engine._changed.wait_for(lambda: engine.state == "draining", SECONDS)
    with pytest.raises(ServiceError, match="shutting down"):
        engine.submit(RunRequest("H4", {"length": 8}))
    pair["H"].open()
    stopping.join(SECONDS)
    assert [run.state for run in runs] == ["done", "done"]
    assert engine.state == "stopped"
    assert engine.stop()


def test_stopping_at_once_cancels():
    pair = {"H": GatedDenoiser(make_pair(TOKENIZER)["H"])}
    with running_engine(pair, max_sequences=1) as engine:
        runs = engine.submit_all([RunRequest("H4", {"length": 8, "seed": seed}) for seed in range(2)])
        pair["H"].wait()
        pair["H"].open()
        assert engine.stop(drain=False, seconds=SECONDS)
    assert runs[1].state == "cancelled"
    assert Engine(model_set()).stop(), "one that was never started"


def test_a_run_that_takes_too_long_is_over():
    pair = {"H": GatedDenoiser(make_pair(TOKENIZER)["H"])}
    with running_engine(pair, seconds=1e-9 + 1, max_sequences=1) as engine:
        slow, waiting = engine.submit_all([RunRequest("H4", {"length": 8})] * 2)
        slow.deadline = waiting.deadline = slow.created  # a second ago, as it were
        pair["H"].open()
        assert slow.wait(SECONDS)
        assert waiting.wait(SECONDS)
        assert slow.failure[1] == waiting.failure[1] == "timeout"
        assert "not finished within 1 s" in slow.failure[0]
        assert engine.submit(RunRequest("H4", {"length": 8})).wait(SECONDS)


def test_events_tell_the_whole_story_to_any_number_of_listeners_from_any_point():
    pair = {"H": GatedDenoiser(make_pair(TOKENIZER)["H"]), "L": make_pair(TOKENIZER)["L"]}

    async def listen(run, after, leave_after=10**9):
        heard = []
        async for event in run.events(after):
            heard.append(event)
            if len(heard) == leave_after:
                break
        return heard

    async def story(engine):
        run = engine.submit(RunRequest("L6,H6", {"length": 12, "num_samples": 2, "seed": 3, "prefix": [9]}))
        early = [asyncio.create_task(listen(run, *way)) for way in ((0,), (0,), (4,), (0, 3))]
        ended = asyncio.create_task(run.ended())
        await early[-1]
        assert not ended.done()
        pair["H"].open()
        heard = await asyncio.gather(*early)
        await ended
        return run, heard, await listen(run, 0), await listen(run, 10**6)

    with running_engine(pair) as engine:
        run, heard, late, nothing = asyncio.run(asyncio.wait_for(story(engine), SECONDS))
    assert [event.index for event in late] == [*range(1, len(late) + 1)]
    assert heard == [late, late, late[4:], late[:3]]
    assert nothing == []
    assert run._listeners == set()
    first, *reveals, last = (event.to_dict() for event in late)
    assert (first["kind"], first["schedule"], first["num_passes"]) == ("started", "L6,H6", len(reveals))
    canvas = run.task.template.copy()
    for reveal in reveals:
        assert reveal["kind"] == "reveal"
        assert run.task.schedule.key_at(reveal["step"]) == reveal["key"]
        assert (canvas[reveal["sample"], reveal["positions"]] == MASK).all()
        canvas[reveal["sample"], reveal["positions"]] = reveal["tokens"]
        assert len(reveal["texts"]) == len(reveal["tokens"])
    np.testing.assert_array_equal(canvas, run.result.tokens.numpy())
    assert (last["kind"], last["nfe"]) == ("done", run.result.nfe)
    assert run.num_passes == len(reveals)


def test_events_can_be_followed_from_several_event_loops():
    with running_engine() as engine:
        run = engine.submit(RunRequest("H20", {"length": 32, "num_samples": 4}))
        heard = [None] * 3

        def hear(place):
            heard[place] = follow(run)

        threads = [threading.Thread(target=hear, args=(place,)) for place in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(SECONDS)
    assert heard[0] == heard[1] == heard[2]
    assert heard[0][-1].kind == "done"


def test_the_engine_keeps_nothing_of_runs_that_are_over():
    with running_engine() as engine:
        runs = [engine.submit(RunRequest("H4", {"length": 8, "seed": seed})) for seed in range(4)]
        runs[1].cancel()
        assert all(run.wait(SECONDS) for run in runs)
        last = engine.submit(RunRequest("H4", {"length": 8}))
        assert last.wait(SECONDS)
        left = [weakref.ref(run) for run in runs]
        del runs
        gc.collect()
        assert [run() for run in left] == [None] * 4
        assert engine.num_active == engine.num_waiting == 0
        assert engine._canvases == {}


TOO_MUCH = {
    "length": (RunRequest("H4", {"length": 33}), SettingError, "length is 33; this service takes at most 32"),
    "template": (RunRequest("H4", {"template": np.full((1, 40), MASK)}), SettingError, "length is 40"),
    "samples": (RunRequest("H4", {"length": 4, "num_samples": 5}), SettingError, "num_samples is 5"),
    "steps": (RunRequest(None, {"length": 4, "steps": 101}), SettingError, "steps is 101"),
    "schedule": (RunRequest("H101", {"length": 4}), SettingError, "steps is 101"),
    "bad schedule": (RunRequest("H1,,", {"length": 4}), ScheduleError, "column"),
    "bad prompt": (RunRequest("H4", {"length": 4, "prefix": [MASK]}), PromptError, "mask token"),
}


@pytest.mark.parametrize("name", TOO_MUCH)
def test_requests_that_ask_for_too_much_are_refused(name):
    request, kind, words = TOO_MUCH[name]
    with running_engine(samples=4, steps=100) as engine, pytest.raises(kind, match=words):
        engine.submit(request)


@pytest.mark.parametrize(
    ("limits", "words"),
    [({"queue": -1}, "queue is -1"), ({"seconds": float("inf")}, "seconds"), ({"samples": 400}, "400 samples")],
)
def test_limits_must_make_sense(limits, words):
    with pytest.raises(SettingError, match=words):
        ServerLimits(**limits)
