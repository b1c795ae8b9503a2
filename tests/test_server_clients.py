"""Real clients of a real server: OpenAI's, ones that vanish, and the signals that end a process."""

import asyncio
import json
import os
import re
import signal
import socket
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import httpx
import numpy as np
import openai
import pytest

from serving import MASK, SECONDS, TOKENIZER, GatedDenoiser, live, model_set
from stage import make_pair, save_stage
from understudy import sample
from understudy.cli.serve import serve_command
from understudy.errors import SettingError, UnderstudyError
from understudy.server import ServerLimits
from understudy.server.app import create_app
from understudy.server.keys import Keys
from understudy.server.serving import open_socket

PROMPT = "the cat"


@pytest.fixture(scope="module")
def pair():
    return make_pair(TOKENIZER)


@pytest.fixture(scope="module")
def address(pair):
    app = create_app(model_set(pair), ServerLimits(max_sequences=8, queue=8), keys=Keys(["right"]))
    with live(app) as address:
        yield f"{address}/v1"


@pytest.fixture
def client(address):
    with openai.OpenAI(base_url=address, api_key="right", max_retries=0, timeout=SECONDS) as client:
        yield client


def test_the_client_of_openai_completes(client, pair):
    answer = client.completions.create(
        model="understudy",
        prompt=PROMPT,
        max_tokens=10,
        n=2,
        seed=5,
        temperature=0.7,
        top_p=0.9,
        extra_body={"schedule": "L50%,H50%", "steps": 12, "return_token_ids": True},
    )
    ids = TOKENIZER.encode(PROMPT, add_special_tokens=False)
    template = np.array([*ids, *[MASK] * 10])
    known = sample(pair, "L6,H6", template=template, num_samples=2, seed=5, temperature=0.7, top_p=0.9)
    assert [choice.token_ids for choice in answer.choices] == known.tokens[:, len(ids) :].tolist()
    assert answer.usage.total_tokens == len(ids) + 20
    assert answer.understudy["nfe"] == known.nfe


def test_the_client_of_openai_streams(client):
    wanted = {"model": "understudy", "prompt": [PROMPT, "a"], "max_tokens": 12, "n": 2, "seed": 1, "stop": ["o"]}
    whole = client.completions.create(**wanted)
    texts, reasons, usage = {}, {}, None
    for chunk in client.completions.create(**wanted, stream=True, stream_options={"include_usage": True}):
        usage = chunk.usage or usage
        for choice in chunk.choices:
            texts[choice.index] = texts.get(choice.index, "") + choice.text
            reasons[choice.index] = choice.finish_reason or reasons.get(choice.index)
    assert texts == {choice.index: choice.text for choice in whole.choices}
    assert reasons == {choice.index: choice.finish_reason for choice in whole.choices}
    assert usage == whole.usage


def test_the_client_of_openai_lists_models(client):
    assert [model.id for model in client.models.list()] == ["understudy", "H", "L"]
    assert client.models.retrieve("L").id == "L"


def test_the_client_of_openai_understands_what_is_wrong(client, address):
    with pytest.raises(openai.BadRequestError, match="best_of") as wrong:
        client.completions.create(model="understudy", prompt=PROMPT, best_of=4)
    assert wrong.value.type == "invalid_request_error"
    with pytest.raises(openai.NotFoundError, match="no model 'gpt'") as none:
        client.completions.create(model="gpt", prompt=PROMPT)
    assert none.value.code == "model_not_found"
    with (
        openai.OpenAI(base_url=address, api_key="wrong", max_retries=0) as stranger,
        pytest.raises(openai.AuthenticationError, match="API key"),
    ):
        stranger.models.list()


def test_the_client_of_openai_waits_where_the_queue_is_full():
    gated = {"H": GatedDenoiser(make_pair(TOKENIZER)["H"])}
    app = create_app(model_set(gated), ServerLimits(max_sequences=1, queue=1, samples=2))
    with live(app) as address, httpx.Client() as first:
        with first.stream("POST", f"{address}/v1/denoise", json={"n": 2}, timeout=SECONDS) as answer:
            assert answer.status_code == 200
            with (
                openai.OpenAI(base_url=f"{address}/v1", api_key="-", max_retries=0) as client,
                pytest.raises(openai.RateLimitError, match="ask again later") as full,
            ):
                client.completions.create(model="understudy", prompt=PROMPT)
            assert int(full.value.response.headers["retry-after"]) >= 1
            gated["H"].open()
        with openai.OpenAI(base_url=f"{address}/v1", api_key="-", max_retries=5) as client:
            assert client.completions.create(model="understudy", prompt=PROMPT).choices


@pytest.mark.parametrize("path", ["completions", "denoise"])
def test_a_connection_that_breaks_frees_its_rows(path):
    gated = {"H": GatedDenoiser(make_pair(TOKENIZER)["H"])}
    app = create_app(model_set(gated), ServerLimits(max_sequences=2))
    engine = app.state.service.engine
    body = json.dumps({"prompt": PROMPT, "n": 2, "max_tokens": 20}).encode()
    head = (
        f"POST /v1/{path} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    with live(app) as address:
        host, port = address.removeprefix("http://").split(":")
        with socket.create_connection((host, int(port))) as connection:
            connection.sendall(head.encode() + body)
            gated["H"].wait()
            (run,) = engine._left
        assert run.wait(SECONDS), "the run ends with its connection, while a pass stands still"
        assert run.state == "cancelled"
        gated["H"].open()
        answer = httpx.post(f"{address}/v1/completions", json={"prompt": PROMPT, "n": 2}, timeout=SECONDS)
        assert answer.status_code == 200


def test_sockets_that_cannot_be_had():
    with open_socket("127.0.0.1", 0) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(SettingError, match=f"cannot listen on 127.0.0.1 port {port}: .*in use; choose another"):
            open_socket("127.0.0.1", port)
    with pytest.raises(SettingError, match="port is 70000"):
        open_socket("127.0.0.1", 70000)
    with pytest.raises(SettingError, match="is not known here"):
        open_socket("no.such.host.invalid", 0)


# The command, in a process of its own.


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    return save_stage(tmp_path_factory.mktemp("stage"), TOKENIZER)


@contextmanager
def serving(folders, *options):
    """A process of `understudy serve`, and its address once it is ready."""
    command = [sys.executable, "-m", "understudy", "serve", "--heavy", folders["heavy"], "--light", folders["light"]]
    command += ["--port", "0", "--device", "cpu", *options]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"}
    process = subprocess.Popen(
        [str(word) for word in command], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
    )
    try:
        for line in process.stderr:
            if found := re.match(r"API: +(http\S+)/v1", line):
                address = found[1]
            if "startup complete" in line:
                break
        else:
            raise AssertionError("it did not start")
        yield process, address
    finally:
        process.kill()
        process.communicate()


def slow_lines(address):
    """A stream that takes some seconds, line by line."""
    body = {"prompt": PROMPT, "max_tokens": 30, "n": 16, "steps": 1000, "seed": 1}
    with httpx.stream("POST", f"{address}/v1/denoise", json=body, timeout=SECONDS) as answer:
        yield from answer.iter_lines()


def test_a_process_told_to_end_finishes_what_runs_and_takes_no_more(folders):
    with serving(folders, "--no-studio") as (process, address):
        lines = slow_lines(address)
        while not next(lines).startswith("event: reveal"):
            pass
        process.send_signal(signal.SIGTERM)
        assert "event: done" in list(lines)
        assert process.wait(SECONDS) == 0
        with pytest.raises(httpx.ConnectError):
            httpx.get(f"{address}/health")
        assert "Traceback" not in process.stderr.read()


@pytest.mark.parametrize(("grace", "signals"), [("1", 1), ("60", 2)], ids=["grace is over", "asked twice"])
def test_a_process_that_may_not_take_its_time_cancels_and_says_so(folders, grace, signals):
    options = ("--no-studio", "--grace", grace, "--max-sequences", "1", "--max-samples", "64")
    with serving(folders, *options) as (process, address):
        body = {"prompt": PROMPT, "max_tokens": 30, "n": 64, "steps": 4096, "seed": 1}
        with httpx.stream("POST", f"{address}/v1/denoise", json=body, timeout=SECONDS) as answer:
            lines = answer.iter_lines()
            while not next(lines).startswith("event: reveal"):
                pass
            process.send_signal(signal.SIGINT)
            if signals == 2:
                while "Shutting down" not in process.stderr.readline():
                    pass
                process.send_signal(signal.SIGINT)
            *_, name, data = [line for line in lines if line]
        assert (name, json.loads(data.removeprefix("data: "))["error"]["code"]) == ("event: error", "cancelled")
        assert process.wait(SECONDS) == 0
        assert "Traceback" not in process.stderr.read()


HANGING = """
from serving import TOKENIZER, GatedDenoiser, make_pair, model_set
from understudy.server.app import create_app
from understudy.server.serving import address_of, open_socket, serve

class Hanging(GatedDenoiser):
    def logits(self, *arguments):
        print("pass", flush=True)
        return super().logits(*arguments)

with open_socket("127.0.0.1", 0) as listening:
    print(address_of(listening), flush=True)
    serve(create_app(model_set({"H": Hanging(make_pair(TOKENIZER)["H"])})), listening, access_log=False)
"""


def test_a_process_whose_pass_hangs_leaves_at_the_third_signal():
    folder = os.path.dirname(__file__)
    command = [sys.executable, "-c", HANGING]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=folder)
    try:
        address = process.stdout.readline().strip()
        with httpx.Client(timeout=SECONDS) as client, ThreadPoolExecutor() as others:
            asked = others.submit(client.post, f"{address}/v1/completions", json={"prompt": "a"})
            assert process.stdout.readline() == "pass\n"
            process.send_signal(signal.SIGTERM)
            while "Shutting down" not in process.stderr.readline():
                pass
            process.send_signal(signal.SIGTERM)
            assert asked.result(SECONDS).status_code == 503
            process.send_signal(signal.SIGTERM)
            assert process.wait(5) == -signal.SIGTERM
    finally:
        process.kill()
        process.communicate()


def test_the_command_says_in_one_line_that_its_port_is_taken():
    with open_socket("127.0.0.1", 0) as taken:
        command = [sys.executable, "-m", "understudy", "serve", "--port", str(taken.getsockname()[1])]
        outcome = subprocess.run(command, capture_output=True, text=True, timeout=2 * SECONDS, check=False)
    assert (outcome.returncode, outcome.stdout) == (2, "")
    assert re.fullmatch(r"understudy: cannot listen on .*; choose another --port\n", outcome.stderr)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"queue": -1}, "queue is -1"),
        ({"timeout": 0}, "seconds is 0"),
        ({"grace": 0}, "grace is 0"),
        ({"api_keys": "none"}, "cannot be read"),
        ({"host": "no.such.host.invalid"}, "not known here"),
        ({"model": ["nothing"]}, "--model is 'nothing'"),
        ({"schedule": "M100%"}, "names M"),
        ({"importance": "none.json"}, "'none.json' cannot be read"),
        ({"importance": __file__}, "is no importance file.*; give the importance.json that understudy analyze wrote"),
        ({"max_sequences": 1, "queue": 1}, "--max-samples is 16, but --max-sequences 1 and --queue 1 have room for 2"),
    ],
)
def test_the_command_refuses_before_it_serves(options, words):
    with pytest.raises(UnderstudyError, match=words):
        serve_command(**{"port": 0, **options})


def test_the_command_says_what_is_not_installed(monkeypatch):
    monkeypatch.setattr("understudy.cli.serve.find_spec", lambda name: None if name == "uvicorn" else name)
    with pytest.raises(SettingError, match="serving needs uvicorn: pip install 'understudy\\[serve\\]'"):
        serve_command()


def test_the_command_serves_the_bundled_pair_with_its_studio(monkeypatch, capsys):
    served = []
    monkeypatch.setattr("understudy.server.serving.serve", lambda app, *_, **options: served.append((app, options)))
    serve_command(port=0, host="0.0.0.0", max_length=64, schedule="L12.5%,H75%,L12.5%", grace=7, access_log=False)
    ((app, options),) = served
    service = app.state.service
    assert (service.max_length, [*service.models.denoisers], service.schedule) == (64, ["H", "L"], "L12.5%,H75%,L12.5%")
    assert options == {"grace_seconds": 7, "access_log": False}

    async def look():
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url="http://service") as visitor:
            return [(await visitor.get(path)).status_code for path in ("/", "/studio/api/setup", "/v1/models")]

    assert asyncio.run(look()) == [200, 200, 200]
    said = capsys.readouterr()
    assert said.out == ""
    assert "bundled heavy" in said.err
    assert "--api-keys FILE restricts that" in said.err


@pytest.mark.parametrize(("host", "status"), [("127.0.0.1", 400), ("localhost", 400), ("0.0.0.0", 200)])
def test_the_command_answers_to_strange_names_only_where_others_reach_it(monkeypatch, capsys, host, status):
    served = []
    monkeypatch.setattr("understudy.server.serving.serve", lambda app, *_, **__: served.append(app))
    serve_command(port=0, host=host)

    async def look(name):
        async with httpx.AsyncClient(transport=httpx.ASGITransport(served[0]), base_url=f"http://{name}") as visitor:
            return [(await visitor.get(path)).status_code for path in ("/", "/studio/api/setup", "/v1/models")]

    assert asyncio.run(look("evil.example")) == [status] * 3
    assert asyncio.run(look("localhost:8000")) == [200] * 3
    assert ("everyone who reaches" in capsys.readouterr().err) == (host == "0.0.0.0")


@pytest.mark.parametrize("host", ["127.0.0.1", "0.0.0.0"])
def test_the_command_answers_to_the_names_that_it_is_told(monkeypatch, host):
    served = []
    monkeypatch.setattr("understudy.server.serving.serve", lambda app, *_, **__: served.append(app))
    serve_command(port=0, host=host, allow_host=["studio.example", "Other.example"])

    async def look(name):
        async with httpx.AsyncClient(transport=httpx.ASGITransport(served[0]), base_url=f"http://{name}") as visitor:
            return (await visitor.get("/v1/models")).status_code

    names = ("studio.example", "other.example:8443", "localhost:8000", "evil.example")
    assert [asyncio.run(look(name)) for name in names] == [200, 200, 200, 400]
