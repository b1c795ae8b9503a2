"""The service over HTTP: OpenAI's form, the library's samples, and what is refused."""

import asyncio
import json
from contextlib import asynccontextmanager

import httpx
import numpy as np
import pytest
from fastapi import APIRouter

from serving import MASK, SECONDS, TOKENIZER, GatedDenoiser, PoisonedDenoiser, model_set
from stage import make_pair
from understudy import sample
from understudy.errors import DataError, ScheduleError, SettingError
from understudy.server import ServerLimits, event_stream
from understudy.server.app import create_app
from understudy.server.asking import Asking
from understudy.server.gate import MAX_BODY
from understudy.server.hosts import Hosts
from understudy.server.keys import Keys, read_keys
from understudy.server.streams import canvas_events
from understudy.server.wire import DenoiseBody

PROMPT, SCHEDULE = "the cat", "L25%,H50%,L25%"
BODY = {"prompt": PROMPT, "max_tokens": 12, "seed": 3, "schedule": SCHEDULE, "steps": 16}


@asynccontextmanager
async def service(denoisers=None, *, models=None, **settings):
    """A client of a service that runs in this process."""
    limits = settings.pop("limits", None)
    app = create_app(models or model_set(denoisers), limits, **settings)
    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(transport=transport, base_url="http://service", timeout=SECONDS) as client,
    ):
        client.app, client.engine = app, app.state.service.engine
        yield client


def running(test):
    """Run a test that is a coroutine, for so long at most."""

    def run(*arguments, **options):
        asyncio.run(asyncio.wait_for(test(*arguments, **options), SECONDS))

    run.__name__, run.__doc__ = test.__name__, test.__doc__
    run.pytestmark = getattr(test, "pytestmark", [])
    import inspect

    run.__signature__ = inspect.signature(test)
    return run


def events(text):
    """(event, data) of server-sent events."""
    found = []
    for block in text.strip().split("\n\n"):
        lines = dict(line.split(": ", 1) for line in block.splitlines())
        data = lines.get("data", "")
        found.append((lines.get("event"), data if data == "[DONE]" else json.loads(data)))
    return found


def expected_samples(pair, prompt, n=1, first=0, new=12, **options):
    """What the library samples for `BODY` with another prompt."""
    ids = TOKENIZER.encode(prompt, add_special_tokens=False)
    template = np.array([*ids, *[MASK] * new])
    result = sample(
        pair, SCHEDULE, template=template, num_samples=n, first_index=first, **{"seed": 3, "steps": 16, **options}
    )
    return [row[len(ids) :] for row in result.tokens.tolist()], result


@running
async def test_a_completion_is_the_sample_of_the_library():
    pair = make_pair(TOKENIZER)
    (first, second), result = expected_samples(pair, PROMPT, 2, temperature=0.8, top_p=0.9)
    body = {**BODY, "n": 2, "temperature": 0.8, "top_p": 0.9, "return_token_ids": True, "user": "me", "stop": None}
    async with service(pair) as client:
        answer = (await client.post("/v1/completions", json=body)).json()
    assert [choice["token_ids"] for choice in answer["choices"]] == [first, second]
    assert [choice["index"] for choice in answer["choices"]] == [0, 1]
    assert {choice["finish_reason"] for choice in answer["choices"]} == {"length"}
    texts = [TOKENIZER.decode([*TOKENIZER.encode(PROMPT), *ids], skip_special_tokens=True) for ids in (first, second)]
    assert [PROMPT + choice["text"] for choice in answer["choices"]] == texts
    assert answer["object"] == "text_completion"
    assert answer["model"] == "understudy"
    assert answer["usage"] == {"prompt_tokens": 2, "completion_tokens": 24, "total_tokens": 26}
    own = answer["understudy"]
    assert (own["schedule"], own["steps"], own["seed"]) == ("L4,H8,L4", 16, 3)
    assert own["nfe"] == result.nfe
    assert own["flops"] == pytest.approx(result.flops.to_dict())


@running
async def test_a_list_of_prompts_is_sampled_as_the_command_does_it():
    pair, prompts = make_pair(TOKENIZER), ["the cat", "the dog sat on the mat", "a"]
    async with service(pair) as client:
        body = {**BODY, "prompt": prompts, "n": 2, "return_token_ids": True}
        answer = (await client.post("/v1/completions", json=body)).json()
        ids = [TOKENIZER.encode(prompt, add_special_tokens=False) for prompt in prompts]
        as_ids = (await client.post("/v1/completions", json={**body, "prompt": ids})).json()
        alone = (await client.post("/v1/completions", json={**body, "prompt": ids[0], "n": 1})).json()
    wanted, results = [], []
    for number, prompt in enumerate(prompts):
        samples, result = expected_samples(pair, prompt, 2, first=2 * number)
        wanted += samples
        results.append(result)
    assert [choice["token_ids"] for choice in answer["choices"]] == wanted
    assert [choice["token_ids"] for choice in as_ids["choices"]] == wanted
    assert alone["choices"][0]["token_ids"] == wanted[0]
    flops = answer["understudy"]["flops"]
    executed = sum(result.flops.executed for result in results)
    dense = sum(result.flops.executed / (1 - result.flops.executed_saved) for result in results)
    assert flops["executed"] == pytest.approx(executed)
    assert flops["executed_saved"] == pytest.approx(1 - executed / dense)
    assert answer["usage"]["prompt_tokens"] == sum(map(len, ids))


STREAMS = {
    "plain": {},
    "several": {"prompt": ["the cat", "a café, über 猫"], "n": 3},
    "echo": {"echo": True, "n": 2},
    "suffix": {"suffix": "on the mat"},
    "stop": {"stop": ["a", "e", "K", "\u0007"], "n": 4},
    "infill": {"prompt": None, "max_tokens": None, "infill": "the [MASK*4] sat [MASK] on", "n": 2},
}


@pytest.mark.parametrize("name", STREAMS)
@running
async def test_a_stream_comes_to_the_same_texts(name):
    body = {**BODY, **STREAMS[name]}
    async with service() as client:
        whole = (await client.post("/v1/completions", json=body)).json()
        answer = await client.post("/v1/completions", json={**body, "stream": True})
        counted = await client.post(
            "/v1/completions", json={**body, "stream": True, "stream_options": {"include_usage": True}}
        )
    assert answer.headers["content-type"].startswith("text/event-stream")
    *chunks, (_, done) = events(answer.text)
    assert done == "[DONE]"
    texts, reasons = {}, {}
    for _, chunk in chunks:
        (choice,) = chunk["choices"]
        assert choice["index"] not in reasons, "nothing follows the end of a choice"
        texts[choice["index"]] = texts.get(choice["index"], "") + choice["text"]
        if choice["finish_reason"]:
            reasons[choice["index"]] = choice["finish_reason"]
    assert texts == {choice["index"]: choice["text"] for choice in whole["choices"]}
    assert reasons == {choice["index"]: choice["finish_reason"] for choice in whole["choices"]}
    assert ["understudy" in chunk for _, chunk in chunks] == [False] * (len(chunks) - 1) + [True]
    costs = [cost["understudy"] | {"seconds": 0} for cost in (whole, chunks[-1][1], events(counted.text)[-2][1])]
    assert costs[0] == costs[1] == costs[2]
    last = events(counted.text)[-2][1]
    assert (last["choices"], last["usage"]) == ([], whole["usage"])
    assert len({chunk["id"] for _, chunk in chunks}) == 1


@running
async def test_stops_and_echo_and_the_end_token_are_where_they_belong():
    pair = make_pair(TOKENIZER)
    async with service(pair) as client:

        async def choice(**body):
            return (await client.post("/v1/completions", json={**BODY, **body})).json()["choices"][0]

        plain = await choice()
        assert (await choice(echo=True))["text"] == PROMPT + plain["text"]
        stop = plain["text"][3:5]
        stopped = await choice(stop=stop)
        assert stopped["text"] == plain["text"][: plain["text"].index(stop)]
        assert stopped["finish_reason"] == "stop"
        assert (await choice(prompt="", seed=9))["text"] != ""
        assert await choice(length=14, max_tokens=None) == plain
        assert await choice(length=15, suffix="a", max_tokens=None) == await choice(suffix="a")
    for model in pair.values():
        model.end_id = plain_token = (await_tokens := expected_samples(pair, PROMPT)[0][0])[4]
    before = await_tokens[: await_tokens.index(plain_token)]
    async with service(pair) as client:
        ended = await choice()
        assert ended["finish_reason"] == "stop"
        given = TOKENIZER.encode(PROMPT, add_special_tokens=False)
        assert PROMPT + ended["text"] == TOKENIZER.decode([*given, *before], skip_special_tokens=True)
        assert (await choice(ignore_eos=True))["text"] == plain["text"]


@running
async def test_defaults_are_as_documented():
    async with service(schedule="L50%,H50%", steps=20) as client:
        answer = (await client.post("/v1/completions", json={})).json()
        assert answer["usage"]["completion_tokens"] == 16
        assert answer["understudy"]["schedule"] == "L10,H10"
        assert 0 <= answer["understudy"]["seed"] < 2**53
        again = (await client.post("/v1/completions", json={})).json()
        assert again["understudy"]["seed"] != answer["understudy"]["seed"]
        alone = (await client.post("/v1/completions", json={"model": "L", "steps": 5})).json()
        assert (alone["model"], alone["understudy"]["schedule"]) == ("L", "L5")
        cards = (await client.get("/v1/models")).json()
        assert [card["id"] for card in cards["data"]] == ["understudy", "H", "L"]
        assert (await client.get("/v1/models/H")).json()["id"] == "H"
    async with service() as client:
        alone = (await client.post("/v1/completions", json={})).json()
        assert alone["understudy"]["schedule"] == "H256"


@running
async def test_the_canvas_is_shown_while_it_fills():
    body = {**BODY, "n": 2, "canvas_every": 5}
    async with service() as client:
        answer = await client.post("/v1/denoise", json=body)
        whole = (await client.post("/v1/completions", json={**BODY, "n": 2})).json()
    told = events(answer.text)
    assert [name for name, _ in told[:2]] == ["start", "canvas"]
    assert [name for name, _ in told[-2:]] == ["canvas", "done"]
    start, done = told[0][1], told[-1][1]
    assert done["choices"] == whole["choices"]
    reveals = [data for name, data in told if name == "reveal"]
    assert len(reveals) == start["num_passes"] == sum(done["understudy"]["nfe"].values())
    canvases = [data for name, data in told if name == "canvas"]
    assert len(canvases) == 2 + (len(reveals) - 1) // 5
    rows = [list(choice["tokens"]) for choice in canvases[-1]["choices"]]
    assert not any(token is None for row in rows for token in row)
    assert {len(row) for row in rows} == {14}
    for reveal in reveals:
        assert reveal["key"] in "HL"
        assert [rows[reveal["index"]][position] for position in reveal["positions"]] == reveal["tokens"]
    for canvas in canvases:
        for choice, row in zip(canvas["choices"], rows, strict=True):
            assert all(token in (None, known) for token, known in zip(choice["tokens"], row, strict=True))
            assert [text is None for text in choice["texts"]] == [token is None for token in choice["tokens"]]


REFUSED = {
    "unknown field": ({"frequency": 1}, 400, "frequency", "there is no field 'frequency'"),
    "logprobs": ({"logprobs": 0}, 400, "logprobs", "logprobs is not supported"),
    "best_of": ({"best_of": 3}, 400, "best_of", "best_of is 3"),
    "penalty": ({"presence_penalty": 0.5}, 400, "presence_penalty", "presence_penalty"),
    "bias": ({"logit_bias": {"5": 1}}, 400, "logit_bias", "logit_bias"),
    "no tokens": ({"max_tokens": 0}, 400, "max_tokens", "greater than or equal to 1"),
    "too long": ({"max_tokens": 31}, 400, "max_tokens", "may have 32 tokens here, and 2 are given and 31 asked for"),
    "too many": ({"n": 17}, 400, "n", "17 samples are asked for; this service takes at most 16"),
    "too many in all": ({"prompt": ["a"] * 9, "n": 2}, 400, "n", "18 samples"),
    "no schedule": ({"schedule": "L4,,"}, 400, "schedule", "column"),
    "unbound": ({"schedule": "M100%"}, 400, "schedule", "names M"),
    "unbound before wrong": ({"schedule": "L4,X8"}, 400, "schedule", "column 4: the schedule names X, but models"),
    "too many counts": ({"schedule": "H5000", "steps": None}, 400, "schedule", "at most 4096"),
    "gap in prompt": ({"prompt": "the [MASK*5] sat"}, 400, "prompt", "holds [MASK*5], which is filled in an infill"),
    "gap in prompts": ({"prompt": ["a", "[MASK]"]}, 400, "prompt", "put the whole text into infill"),
    "gap in suffix": ({"suffix": "[MASK]"}, 400, "suffix", "put the whole text into infill"),
    "many stops": ({"stop": list("abcde")}, 400, "stop", "a text of 1 to 1000 characters, or a list of up to 4"),
    "prompt of nothing": ({"prompt": [[]]}, 400, "prompt", "a text, token ids (whole numbers from 0), or a list"),
    "steps disagree": ({"schedule": "L4,H4", "steps": 9}, 400, "schedule", "9"),
    "too many steps": ({"steps": 5000}, 400, "steps", "at most 4096"),
    "no model": ({"model": "gpt"}, 404, "model", "there are: understudy, H, L"),
    "alone": ({"model": "H"}, 400, "schedule", "model H works alone"),
    "no prompt": ({"prompt": []}, 400, "prompt", "a text, token ids (whole numbers from 0), or a list"),
    "strange token": ({"prompt": [275]}, 400, "prompt", "token 275 lies outside"),
    "mask in prompt": ({"prompt": [MASK, 5]}, 400, "prompt", "mask token"),
    "nothing known": ({"infill": "no gap", "prompt": None, "max_tokens": None}, 400, "infill", "holds no"),
    "infill and more": ({"infill": "[MASK]"}, 400, "infill", "leave out prompt, max_tokens"),
    "huge gap": (
        {"infill": "[MASK*" + "9" * 5000 + "]", "prompt": None, "max_tokens": None},
        400,
        "infill",
        "32 tokens",
    ),
    "long infill": ({"infill": "a b c d e f g h [MASK*30]", "prompt": None, "max_tokens": None}, 400, "infill", "32"),
    "temperature": ({"temperature": -1}, 400, "temperature", "temperature"),
    "top_p": ({"top_p": 0}, 400, "top_p", "top_p"),
    "seed": ({"seed": 2**64}, 400, "seed", "seed: it must be a whole number from 0 to 18446744073709551615"),
    "two lengths": ({"length": 9}, 400, "length", "give one of them"),
    "no room": ({"length": 2, "max_tokens": None}, 400, "prompt", "leaves nothing to sample"),
    "long length": ({"length": 33, "max_tokens": None}, 400, "length", "2 are given and 31 asked for"),
    "wrong form": ({"prompt": 5}, 400, "prompt", "none of the forms"),
    "stream options": ({"stream_options": {"include_usage": True}}, 400, "stream_options", "go with stream"),
    "stream option": ({"stream_options": {"usage": 1}}, 400, "stream_options", "no field 'stream_options.usage'"),
    "surrogate": ({"prompt": "\ud800"}, 400, "prompt", "UTF-8"),
}


@pytest.mark.parametrize("name", REFUSED)
@running
async def test_what_cannot_be_done_is_refused_in_the_form_of_openai(name):
    extra, status, param, words = REFUSED[name]
    body = {field: value for field, value in {**BODY, **extra}.items() if value is not None}
    async with service() as client:
        for path in ("/v1/completions", "/v1/denoise"):
            content = json.dumps(body).encode()
            answer = await client.post(path, content=content, headers={"content-type": "application/json"})
            error = answer.json()["error"]
            assert (answer.status_code, error["param"]) == (status, param), error
            assert words in error["message"]
            assert error["type"] == "invalid_request_error"
            assert "\n" not in error["message"]
        assert client.engine.num_active == 0


@running
async def test_other_wrong_requests_have_the_same_form():
    async with service() as client:
        answers = [
            await client.get("/nowhere"),
            await client.get("/v1/completions"),
            await client.post("/v1/completions", content=b"{", headers={"content-type": "application/json"}),
            await client.post("/v1/completions", content=b"prompt=1"),
            await client.post("/v1/denoise", json={**BODY, "stream": False}),
            await client.get("/v1/models/gpt"),
        ]
    assert [answer.status_code for answer in answers] == [404, 405, 400, 400, 400, 404]
    assert all(answer.json()["error"]["message"] for answer in answers)


@pytest.mark.parametrize("body", [{**BODY, "n": 2}, {**BODY, "prompt": ["the cat", "a"]}])
@running
async def test_the_last_canvas_is_sent_once(body):
    async with service() as client:
        told = events((await client.post("/v1/denoise", json={**body, "canvas_every": 1})).text)
    assert [name for name, _ in told[-3:]] == ["reveal", "canvas", "done"]
    names = [name for name, _ in told]
    assert names.count("canvas") == names.count("reveal") + 1


NO_OBJECTS = {
    "nothing": (b"", "application/json", "the body is empty; send a JSON object"),
    "list": (b"[]", "application/json", "the body is JSON, but no object; send a JSON object"),
    "text": (b"prompt=1", "text/plain", "has the Content-Type 'text/plain'; send a JSON object"),
    "broken": (b'{"prompt": "a",\n "n" 2}', "application/json", "delimiter at line 2, column 6"),
}


@pytest.mark.parametrize("name", NO_OBJECTS)
@running
async def test_a_body_that_is_no_object_is_said_to_be_none(name):
    content, sent, words = NO_OBJECTS[name]
    async with service() as client:
        for path in ("/v1/completions", "/v1/denoise"):
            answer = await client.post(path, content=content, headers={"content-type": sent})
            error = answer.json()["error"]
            assert (answer.status_code, error["param"], error["type"]) == (400, None, "invalid_request_error")
            assert words in error["message"]


@running
async def test_what_there_is_not_is_said_with_what_there_is():
    async with service() as client:
        chat = await client.post("/v1/chat/completions", json={"messages": []})
        other = await client.post("/v1/embeddings", json={})
        wrong = await client.get("/v1/completions")
    assert [answer.status_code for answer in (chat, other, wrong)] == [404, 404, 405]
    assert chat.json()["error"] == {
        "message": "chat is not supported here; send the text to go on from as prompt to POST /v1/completions",
        "type": "invalid_request_error",
        "param": None,
        "code": "unknown_url",
    }
    assert "there is no /v1/embeddings here; there are POST /v1/completions" in other.json()["error"]["message"]
    assert "/v1/completions does not take GET; it takes POST" in wrong.json()["error"]["message"]


@pytest.mark.parametrize(
    ("host", "is_known"),
    [
        ("localhost:8000", True),
        ("LOCALHOST.", True),
        ("studio.localhost", True),
        ("127.0.0.1", True),
        ("127.9.9.9:1", True),
        ("[::1]:8000", True),
        ("box.lan:8000", True),
        ("evil.example", False),
        ("localhost.evil.example:8000", False),
        ("127.0.0.1.evil.example", False),
        ("192.168.0.7:8000", False),
        ("0.0.0.0:8000", False),
        ("", False),
        ("[::1", False),
    ],
)
@running
async def test_on_loopback_only_its_own_names_are_answered(host, is_known):
    async with service(hosts=Hosts(["Box.lan"])) as client:
        for path in ("/v1/models", "/health", "/nowhere"):
            answer = await client.get(path, headers={"Host": host})
            if is_known:
                assert answer.status_code == (404 if path == "/nowhere" else 200)
            else:
                error = answer.json()["error"]
                assert (answer.status_code, error["code"]) == (400, "unknown_host")
                assert repr(host) in error["message"]
        answer = await client.post("/v1/completions", json=BODY, headers={"Host": host})
        assert answer.status_code == (200 if is_known else 400)


@running
async def test_what_nobody_thought_of_has_the_same_form():
    def room(_):
        router = APIRouter()

        @router.get("/room")
        async def fail():
            raise ZeroDivisionError

        return router

    async with service(rooms=[room]) as client:
        answer = await client.get("/room")
    assert (answer.status_code, answer.json()["error"]["code"]) == (500, "internal")


@running
async def test_canvases_that_are_behind_come_one_by_one():
    async with service() as client:
        asking = Asking.read(client.app.state.service, DenoiseBody(**BODY))
        runs = asking.submit()
        assert await asyncio.to_thread(runs[0].wait, SECONDS)
        parts = [part async for part in canvas_events(asking, runs, 2)]
    assert max(part.count("event: canvas") for part in parts) == 1
    assert sum(part.count("event: canvas") for part in parts) == 2 + (runs[0].num_passes - 1) // 2


@running
async def test_bodies_that_are_too_large_are_refused_whatever_their_head_says():
    async def pieces():
        for _ in range(3):
            yield b" " * (MAX_BODY // 2)

    async with service() as client:
        for content in (b" " * (MAX_BODY + 1), pieces()):
            answer = await client.post("/v1/completions", content=content, headers={"content-type": "application/json"})
            assert answer.status_code == 413
            assert answer.json()["error"]["code"] == "body_too_large"
        assert (await client.post("/v1/completions", json=BODY)).status_code == 200


@running
async def test_a_full_queue_is_429_and_says_when_to_come_again():
    pair = {"H": GatedDenoiser(make_pair(TOKENIZER)["H"])}
    async with service(pair, limits=ServerLimits(max_sequences=1, queue=1, samples=2)) as client:
        first = asyncio.create_task(client.post("/v1/completions", json={"n": 2}))
        await asyncio.to_thread(pair["H"].wait)
        for stream in (False, True):
            answer = await client.post("/v1/completions", json={"stream": stream})
            assert answer.status_code == 429
            assert answer.json()["error"]["code"] == "queue_full"
            assert int(answer.headers["retry-after"]) >= 1
        pair["H"].open()
        assert (await first).status_code == 200
        assert (await client.post("/v1/completions", json={"n": 2})).status_code == 200


@pytest.mark.parametrize("stream", [False, True])
@running
async def test_a_run_that_fails_is_told_and_the_service_goes_on(stream):
    pair = make_pair(TOKENIZER)
    pair["H"] = PoisonedDenoiser(pair["H"], TOKENIZER.encode("the")[0], RuntimeError("no luck"))
    async with service(pair) as client:
        ill = await client.post("/v1/completions", json={"prompt": "the", "max_tokens": 4, "stream": stream})
        well = await client.post("/v1/completions", json={"prompt": "a", "max_tokens": 4, "model": "L"})
    assert well.status_code == 200
    if stream:
        ((_, told),) = events(ill.text)
        assert ill.status_code == 200
    else:
        told = ill.json()
        assert (ill.status_code, ill.headers["x-should-retry"]) == (500, "false")
    assert told["error"]["message"] == "model H failed: no luck"
    assert told["error"]["code"] == "model"


@running
async def test_what_takes_too_long_is_504():
    pair = {"H": GatedDenoiser(make_pair(TOKENIZER)["H"])}
    async with service(pair, limits=ServerLimits(seconds=1)) as client:
        asked = asyncio.create_task(client.post("/v1/completions", json={}))
        await asyncio.to_thread(pair["H"].wait)
        (run,) = client.engine._left
        run.deadline = run.created
        pair["H"].open()
        answer = await asked
    assert answer.status_code == 504
    assert answer.json()["error"]["code"] == "timeout"


class Visitor:
    """Speaks ASGI itself, so that it can leave whenever it likes."""

    def __init__(self, app, path, body):
        self.app, self.body, self.sent, self.leave = app, json.dumps(body).encode(), [], asyncio.Event()
        self.scope = {
            "type": "http",
            "asgi": {"version": "3.0", "spec_version": "2.4"},
            "http_version": "1.1",
            "method": "POST",
            "scheme": "http",
            "path": path,
            "raw_path": path.encode(),
            "query_string": b"",
            "root_path": "",
            "headers": [(b"content-type", b"application/json")],
            "client": ("here", 1),
            "server": ("there", 2),
        }
        self._is_read = False

    async def receive(self):
        if not self._is_read:
            self._is_read = True
            return {"type": "http.request", "body": self.body, "more_body": False}
        await self.leave.wait()
        return {"type": "http.disconnect"}

    async def send(self, message):
        self.sent.append(message)

    async def visit(self):
        await self.app(self.scope, self.receive, self.send)


@pytest.mark.parametrize(
    ("path", "extra"),
    [("/v1/completions", {}), ("/v1/completions", {"stream": True}), ("/v1/denoise", {})],
    ids=["whole", "stream", "denoise"],
)
@running
async def test_who_leaves_takes_the_run_along(path, extra):
    pair = {"H": GatedDenoiser(make_pair(TOKENIZER)["H"])}
    async with service(pair, limits=ServerLimits(max_sequences=2)) as client:
        visitor = Visitor(client.app, path, {"n": 2, "max_tokens": 20, **extra})
        visit = asyncio.create_task(visitor.visit())
        await asyncio.to_thread(pair["H"].wait)
        (run,) = client.engine._left
        heir = asyncio.create_task(client.post("/v1/completions", json={"n": 2, "max_tokens": 6}))
        visitor.leave.set()
        await visit
        assert run.state == "cancelled"
        assert run._listeners == set()
        pair["H"].open()
        assert (await heir).status_code == 200
        assert [message for message in visitor.sent if message.get("body")] == [] or path == "/v1/denoise"
        text = (await client.get("/metrics")).text
    assert 'understudy_runs_total{state="cancelled"} 1.0' in text


@running
async def test_a_silent_stream_says_that_it_is_still_there():
    pair = {"H": GatedDenoiser(make_pair(TOKENIZER)["H"])}
    async with service(pair) as client:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(event_stream, "QUIET_SECONDS", 0.01)
            visitor = Visitor(client.app, "/v1/completions", {"max_tokens": 4, "stream": True})
            visit = asyncio.create_task(visitor.visit())
            while not any(message.get("body", b"").startswith(b":") for message in visitor.sent):
                await asyncio.sleep(0.01)
        pair["H"].open()
        await visit
    text = b"".join(message.get("body", b"") for message in visitor.sent).decode()
    assert text.endswith("data: [DONE]\n\n")


@running
async def test_a_client_that_takes_nothing_has_left(monkeypatch):
    monkeypatch.setattr(event_stream, "STALL_SECONDS", 0.01)

    class Stuck(Visitor):
        async def send(self, message):
            if message["type"] == "http.response.body":
                await asyncio.Event().wait()

    pair = {"H": GatedDenoiser(make_pair(TOKENIZER)["H"])}
    async with service(pair) as client:
        visitor = Stuck(client.app, "/v1/denoise", {"max_tokens": 4})
        visit = asyncio.create_task(visitor.visit())
        await asyncio.to_thread(pair["H"].wait)
        (run,) = client.engine._left
        await visit
        assert run.state == "cancelled"
        pair["H"].open()


@running
async def test_keys():
    async with service(keys=Keys(["first", "second"])) as client:

        async def status(path, authorization=None, **options):
            headers = {} if authorization is None else {"Authorization": authorization}
            method = "POST" if options else "GET"
            answer = await client.request(method, path, headers=headers, **options)
            if answer.status_code == 401:
                assert answer.json()["error"]["code"] == "invalid_api_key"
                assert answer.headers["www-authenticate"] == "Bearer"
            return answer.status_code

        for wrong in (None, "", "Bearer", "Bearer third", "Bearer firs", "Basic first", "first", "Bearer first second"):
            assert await status("/v1/models", wrong) == 401
            assert await status("/v1/completions", wrong, json=BODY) == 401
            assert await status("/v1/denoise", wrong, json=BODY) == 401
        for right in ("Bearer first", "bearer second", "Bearer  first "):
            assert await status("/v1/models", right) == 200
        assert await status("/v1/completions", "Bearer first", json=BODY) == 200
        for path in ("/health", "/ready", "/metrics", "/openapi.json"):
            assert await status(path) == 200


def test_keys_come_from_a_file(tmp_path):
    path = tmp_path / "keys"
    path.write_text("# ours\nfirst\n\n  second \nthi#rd\t# of Ann\nfourth #\n", encoding="utf-8")
    keys = read_keys(path)
    assert keys.are_needed
    assert all(keys.accept(f"Bearer {key}") for key in ("first", "second", "thi#rd", "fourth"))
    assert not keys.accept("Bearer # ours")
    for text, words in (("# none\n", "holds no key"), ("\none\ntwo words\n", "^line 3 of .*one key goes on")):
        path.write_text(text, encoding="utf-8")
        with pytest.raises(DataError, match=words):
            read_keys(path)
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(DataError, match="no UTF-8"):
        read_keys(path)
    with pytest.raises(DataError, match="cannot be read"):
        read_keys(tmp_path / "none")
    assert not Keys().are_needed
    assert Keys().accept(None)


@running
async def test_metrics_count_what_was_done():
    pair = make_pair(TOKENIZER)
    async with service(pair) as client:
        whole = (await client.post("/v1/completions", json={**BODY, "n": 3})).json()
        await client.post("/v1/completions", json={"logprobs": 1})
        text = ""
        while "understudy_flops_saved_total{" not in text:  # counted when the engine lets go of the run
            text = (await client.get("/metrics")).text
    found = dict(line.rsplit(" ", 1) for line in text.splitlines() if not line.startswith("#"))
    value = {name: float(number) for name, number in found.items()}
    own = whole["understudy"]
    for key, passes in own["nfe"].items():
        assert value[f'understudy_sequence_passes_total{{model="{key}"}}'] == passes
        assert 1 <= value[f'understudy_passes_total{{model="{key}"}}'] <= passes
    assert value["understudy_batch_sequences_sum"] == sum(own["nfe"].values())
    executed = sum(value[f'understudy_flops_executed_total{{model="{key}"}}'] for key in pair)
    assert executed == own["flops"]["executed"]
    dense = executed + value['understudy_flops_saved_total{against="dense"}']
    assert executed / dense == pytest.approx(1 - own["flops"]["executed_saved"])
    assert sum(value[f'understudy_revealed_tokens_total{{model="{key}"}}'] for key in pair) == 36
    assert value['understudy_requests_total{path="/v1/completions",status="200"}'] == 1
    assert value['understudy_requests_total{path="/v1/completions",status="400"}'] == 1
    assert value['understudy_runs_total{state="done"}'] == 1
    assert value["understudy_first_token_seconds_count"] == value["understudy_queue_seconds_count"] == 1
    assert value["understudy_first_token_seconds_sum"] <= value["understudy_run_seconds_sum"]
    assert value["understudy_queue_sequences"] == value["understudy_active_sequences"] == 0


@running
async def test_readiness_follows_the_engine_and_rooms_are_let_in():
    def room(given):
        router = APIRouter()
        router.get("/room")(lambda: {"longest": given.max_length})
        return router

    async with service(rooms=[room]) as client:
        assert (await client.get("/room")).json() == {"longest": 32}
        assert (await client.get("/health")).json() == {"status": "ok"}
        assert (await client.get("/ready")).json()["models"] == ["H", "L"]
        client.engine.stop()
        assert (await client.get("/health")).status_code == 200
        assert (await client.get("/ready")).status_code == 503
        answer = await client.post("/v1/completions", json=BODY)
        assert (answer.status_code, answer.json()["error"]["code"]) == (503, "unavailable")
        assert answer.headers["retry-after"] == "5"


@pytest.mark.parametrize(
    ("settings", "kind", "words"),
    [
        ({"schedule": "M100%"}, ScheduleError, "names M"),
        ({"schedule": "L1%"}, ScheduleError, "100"),
        ({"steps": 5000}, SettingError, "between 1 and 4096"),
        ({"steps": 0}, SettingError, "steps is 0"),
    ],
)
def test_a_service_that_could_not_serve_is_not_made(settings, kind, words):
    with pytest.raises(kind, match=words):
        create_app(model_set(), **settings)
