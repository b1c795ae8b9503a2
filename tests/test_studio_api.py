"""The studio's API, its page as it is sent, and what it knows: against the library's own answers."""

import json
import re
from html.parser import HTMLParser
from importlib.resources import files

import numpy as np
import pytest
from fastapi.testclient import TestClient

from studio_server import Gate, studio_app
from understudy import ModelSchedule, sample
from understudy.demo import bundled_importance
from understudy.denoisers.model_set import bundled_models
from understudy.errors import ScheduleError
from understudy.flops import expected_report
from understudy.noise import noise_schedule
from understudy.planning import Budget, make_plan
from understudy.prompts import Prompt
from understudy.studio import runs as studio_runs
from understudy.studio.pieces import template_pieces, token_pieces
from understudy.studio.presets import presets

ONE, OTHER = {"X-Studio-Session": "a" * 32}, {"X-Studio-Session": "b" * 32}
BODY = {"text": "The history", "schedule": "L25%,H75%", "steps": 8, "new_tokens": 12, "seed": 5, "num_samples": 2}
STATIC = files("understudy.studio").joinpath("static")


@pytest.fixture(scope="module")
def models():
    return bundled_models()


@pytest.fixture
def gate():
    gate = Gate()
    yield gate
    gate.open()


@pytest.fixture(scope="module")
def open_client():
    """A service that never waits, for all tests that change nothing about it."""
    with TestClient(studio_app(Gate())) as client:
        yield client


def start(client, headers=ONE, **changes):
    answer = client.post("/studio/api/runs", json={**BODY, **changes}, headers=headers)
    assert answer.status_code == 201, answer.text
    return answer.json()


def events(client, run_id, headers=ONE, after=0):
    """All events of a run from `after` on, as (id, kind, content)."""
    answer = client.get(f"/studio/api/runs/{run_id}/events", headers={**headers, "Last-Event-ID": str(after)})
    assert answer.headers["content-type"].startswith("text/event-stream")
    blocks = [block for block in answer.text.split("\n\n") if block and not block.startswith(":")]
    found = [dict(line.split(": ", 1) for line in block.split("\n")) for block in blocks]
    return [(int(block["id"]), block["event"], json.loads(block["data"])) for block in found]


def expected_result(models, body):
    template = Prompt(prefix=body["text"]).template(models, new_tokens=body["new_tokens"])
    options = {name: body[name] for name in ("steps", "seed", "num_samples")}
    return sample(models.denoisers, body["schedule"], template=template, **options)


def test_a_run_is_what_the_library_samples(open_client, models):
    run, result = start(open_client), expected_result(models, BODY)
    *reveals, (_, kind, done) = events(open_client, run["id"])
    assert kind == "done"
    canvas = np.array([[token if token is not None else -1 for token in row] for row in run["canvas"]])
    for _, kind, event in reveals:
        if kind == "reveal":
            canvas[event["sample"], event["positions"]] = event["tokens"]
    assert canvas.tolist() == result.tokens.tolist()
    assert (done["nfe"], done["flops"]) == (result.nfe, result.flops.to_dict())
    assert run["planned"] == result.nfe
    tokenizer = models.tokenizer
    whole = [tokenizer.decode(row, clean_up_tokenization_spaces=False) for row in result.tokens.tolist()]
    assert ["".join(row) for row in done["rows"]] == whole
    after = open_client.get(f"/studio/api/runs/{run['id']}", headers=ONE).json()
    assert (after["state"], after["canvas"]) == ("done", result.tokens.tolist())


def test_what_a_page_counts_is_what_the_run_costs(open_client):
    run = start(open_client)
    reveals = [event for _, kind, event in events(open_client, run["id"]) if kind == "reveal"]
    cost = {key: lambda tokens, c=c: c["fixed"] + c["per_token"] * tokens for key, c in run["costs"].items()}
    executed = sum(cost[event["key"]](len(event["positions"])) for event in reveals)
    alone = sum(cost[run["reference"]](len(event["positions"])) for event in reveals)
    dense = run["num_samples"] * run["steps"] * run["costs"][run["reference"]]["dense"]
    assert executed == run["flops"]["executed"]
    assert 1 - executed / alone == pytest.approx(run["flops"]["schedule_saved"])
    assert 1 - executed / dense == pytest.approx(run["flops"]["executed_saved"])
    assert all(event["milliseconds"] > 0 for event in reveals)


def test_events_are_replayed_from_anywhere(open_client):
    run = start(open_client)
    everything = events(open_client, run["id"])
    assert [index for index, _, _ in everything] == list(range(1, len(everything) + 1))
    assert events(open_client, run["id"], after=4) == everything[4:]
    assert events(open_client, run["id"], after=len(everything)) == []


def test_nobody_sees_the_runs_of_others(open_client):
    run = start(open_client, OTHER)
    path = f"/studio/api/runs/{run['id']}"
    answers = [open_client.get(path + part, headers=ONE) for part in ("", "/events", "/download")]
    answers.append(open_client.delete(path, headers=ONE))
    assert [answer.status_code for answer in answers] == [404] * 4
    assert run["id"] not in {entry["id"] for entry in open_client.get("/studio/api/runs", headers=ONE).json()}
    assert run["id"] in {entry["id"] for entry in open_client.get("/studio/api/runs", headers=OTHER).json()}
    assert events(open_client, run["id"], OTHER)[-1][1] == "done"
    assert open_client.get("/studio/api/runs").status_code == 422


def test_a_download_holds_everything(open_client, models):
    run, result = start(open_client), expected_result(models, BODY)
    events(open_client, run["id"])
    document = open_client.get(f"/studio/api/runs/{run['id']}/download", headers=ONE).json()
    assert {name: document[name] for name in BODY if name != "schedule"} == {
        name: value for name, value in BODY.items() if name != "schedule"
    }
    assert (document["schedule"], document["schedule_as_typed"]) == ("L2,H6", "L25%,H75%")
    assert (document["nfe"], document["flops"]) == (result.nfe, result.flops.to_dict())
    assert [entry["text"] for entry in document["samples"]] == [models.decode(row) for row in result.tokens.tolist()]
    assert [entry["token_ids"] for entry in document["samples"]] == result.tokens.tolist()
    written = [[key or "" for key in entry["written_by"]] for entry in document["samples"]]
    assert written == result.written_by().tolist()


def test_a_run_goes_on_without_its_page_and_ends_when_nobody_returns(gate, monkeypatch):
    with TestClient(studio_app(gate, orphan_seconds=0.05)) as client:
        engine, accepted = client.app.state.service.engine, []
        submit = engine.submit
        monkeypatch.setattr(engine, "submit", lambda request: accepted.append(submit(request)) or accepted[-1])
        gate.let(2)
        orphan = start(client)
        assert accepted[0].wait(20)
        gate.open()
        assert client.get(f"/studio/api/runs/{orphan['id']}", headers=ONE).json()["state"] == "cancelled"
        assert events(client, orphan["id"])[-1][1] == "cancelled"


def test_a_run_that_is_cancelled_stops(gate):
    with TestClient(studio_app(gate)) as client:
        gate.let(1)
        run = start(client)
        assert client.delete(f"/studio/api/runs/{run['id']}", headers=ONE).status_code == 204
        gate.open()
        assert events(client, run["id"])[-1][1] == "cancelled"
        document = client.get(f"/studio/api/runs/{run['id']}/download", headers=ONE).json()
        assert (document["state"], document["samples"], document["nfe"]) == ("cancelled", [], None)


def test_the_list_is_the_latest_first_and_forgets_the_oldest(monkeypatch):
    monkeypatch.setattr(studio_runs, "MAX_OWN", 3)
    with TestClient(studio_app(Gate())) as client:
        ids = []
        for seed in range(5):
            ids.append(start(client, seed=seed)["id"])
            events(client, ids[-1])
        listed = client.get("/studio/api/runs", headers=ONE).json()
        assert [entry["id"] for entry in listed] == ids[:1:-1]
        assert [entry["settings"]["seed"] for entry in listed] == [4, 3, 2]
        assert client.get(f"/studio/api/runs/{ids[0]}", headers=ONE).status_code == 404


def test_the_oldest_runs_of_all_are_forgotten_where_they_are_too_large_together(monkeypatch):
    with TestClient(studio_app(Gate())) as client:
        ids = [start(client, ONE)["id"]]
        events(client, ids[0])
        size = sum(map(len, client.get(f"/studio/api/runs/{ids[0]}", headers=ONE).json()["canvas"]))
        monkeypatch.setattr(studio_runs, "MAX_TOKENS", 2 * size)
        for headers in (OTHER, ONE):
            ids.append(start(client, headers)["id"])
            events(client, ids[-1], headers)
        assert [entry["id"] for entry in client.get("/studio/api/runs", headers=ONE).json()] == [ids[2]]
        assert [entry["id"] for entry in client.get("/studio/api/runs", headers=OTHER).json()] == [ids[1]]


@pytest.mark.parametrize(
    ("changes", "status", "says"),
    [
        ({"schedule": "L2;H6"}, 400, "column 3: ';' stands where"),
        ({"schedule": "X8"}, 400, "names X, but models are bound to H, L only"),
        ({"schedule": "L4,X8"}, 400, "column 4: the schedule names X, but models are bound to H, L only"),
        ({"schedule": "H9"}, 400, "the schedule has 9 steps but 8 were asked for"),
        ({"steps": 5000, "schedule": "H100%"}, 400, "takes at most 4096"),
        ({"num_samples": 17}, 400, "takes at most 16"),
        ({"new_tokens": 300}, 400, "at most 256"),
        ({"text": "[MASK*70000]"}, 400, "may stand for 1 to 65536"),
        ({"seed": -1}, 422, "seed: "),
        ({"seed": 2**53}, 422, "seed: it must be a whole number from 0 to 9007199254740991"),
        ({"temperature": 1e9}, 422, "temperature: "),
        ({"temperature": "hot"}, 422, "temperature: "),
        ({"new_tokens": 0}, 422, "new_tokens: "),
        ({"more": 1}, 422, "more: "),
    ],
)
def test_what_cannot_be_run_is_said(open_client, changes, status, says):
    answer = open_client.post("/studio/api/runs", json={**BODY, **changes}, headers=ONE)
    assert answer.status_code == status
    assert says in answer.json()["error"]["message"]


def test_a_full_queue_says_when_to_ask_again(gate):
    with TestClient(studio_app(gate, max_sequences=1, queue=1, samples=1)) as client:
        gate.let(0)
        runs = [start(client, num_samples=1) for _ in range(2)]
        answer = client.post("/studio/api/runs", json={**BODY, "num_samples": 1}, headers=ONE)
        assert (answer.status_code, answer.headers["Retry-After"].isdigit()) == (429, True)
        gate.open()
        assert [events(client, run["id"])[-1][1] for run in runs] == ["done", "done"]


def read_draft(client, **draft):
    answer = client.post("/studio/api/drafts", json={"steps": 64, "new_tokens": 32, **draft})
    assert answer.status_code == 200
    return answer.json()


@pytest.mark.parametrize(
    "text", ["L12.5%,H75;L12.5%", "", "L", "H64,", "(L64", "L50%,H40%", "L8.5,H55", "L0,H64", "h64;"]
)
def test_a_draft_gets_the_words_of_the_parser(open_client, text):
    with pytest.raises(ScheduleError) as raised:
        ModelSchedule.parse(text, 64)
    (found,) = read_draft(open_client, schedules=[text])["schedules"]
    error = {"message": str(raised.value), "column": raised.value.column, "param": "schedule"}
    assert found == {"error": error}
    assert raised.value.column is not None


def test_a_draft_says_what_a_schedule_costs(open_client, models):
    found = read_draft(open_client, text="The history", schedules=["L12.5%,H75%,L12.5%", "H100%"])
    assert (found["text"]["given"], found["text"]["wanted"], found["text"]["has_gaps"]) == (3, 32, False)
    sandwich, alone = found["schedules"]
    assert (sandwich["schedule"], sandwich["segments"]) == ("L8,H48,L8", [["L", 8], ["H", 48], ["L", 8]])
    schedule, noise = ModelSchedule.parse("L8,H48,L8"), noise_schedule("loglinear")
    report = expected_report(models.denoisers, schedule, noise, length=35, free_positions=32)
    assert sandwich["expected"]["flops"] == report.to_dict()
    mean, error = bundled_importance().path().judging.path_kl(schedule)
    assert (sandwich["path_kl"]["mean"], sandwich["path_kl"]["error"]) == (mean, error)
    assert alone["path_kl"]["mean"] == 0


def test_a_draft_names_a_model_that_is_not_there_before_a_wrong_total(open_client):
    (found,) = read_draft(open_client, schedules=["L4,X8"])["schedules"]
    assert found["error"]["message"].startswith("column 4: the schedule names X, but models are bound to H, L only")
    assert (found["error"]["column"], found["error"]["param"]) == (4, "schedule")


def test_runs_that_were_started_side_by_side_say_so(open_client):
    headers = {"X-Studio-Session": "pair" * 8}
    for seed, pair in ((1, "one-pair"), (1, "one-pair"), (2, None)):
        events(open_client, start(open_client, headers, seed=seed, pair=pair)["id"], headers)
    listed = open_client.get("/studio/api/runs", headers=headers).json()
    assert [run["pair"] for run in listed] == [None, "one-pair", "one-pair"]
    assert all("pair" not in run["settings"] for run in listed)


def test_a_draft_says_what_is_wrong_with_a_text(open_client):
    found = read_draft(open_client, text="word " * 400, schedules=["H100%"])
    assert "at most 256 fit" in found["text"]["error"]["message"]
    assert found["schedules"][0]["expected"] is None
    assert found["schedules"][0]["path_kl"] is None
    found = read_draft(open_client, text="A [MASK*3] b [MASK].")
    assert (found["text"]["wanted"], found["text"]["has_gaps"]) == (4, True)
    assert found["text"]["template"]["pieces"].count(None) == 4


def test_the_frontier_is_that_of_the_planner(open_client):
    found = open_client.get("/studio/api/frontier", params={"steps": 32, "light_share": 0.5}).json()
    plan = make_plan(bundled_importance(), Budget(light_fraction=0.5), steps=32)
    assert [point["schedule"] for point in found["planned"]] == [str(point.schedule) for point in plan.frontier]
    assert [rule["name"] for rule in found["named"]] == ["plan", *(rule.name for rule in plan.named)]
    assert [rule["path_kl"] for rule in found["named"]] == [
        plan.prediction.path_kl,
        *(rule.path_kl for rule in plan.named),
    ]
    for query in ({"steps": 0}, {"steps": 8, "light_share": 1}, {"steps": "many"}):
        assert open_client.get("/studio/api/frontier", params=query).status_code == 422
    assert open_client.get("/studio/api/frontier", params={"steps": 10**6}).status_code == 400


def test_setup_tells_of_the_models(open_client):
    setup = open_client.get("/studio/api/setup").json()
    assert [(model["key"], model["blocks"]) for model in setup["models"]] == [("H", 12), ("L", 4)]
    assert (setup["reference"], setup["max_length"], setup["has_frontier"]) == ("H", 256, True)
    for curve in (*setup["importance"]["held_out"]["kl"].values(), *setup["importance"]["path"]["divergence"].values()):
        assert all(
            low <= mean <= high for low, mean, high in zip(curve["low"], curve["mean"], curve["high"], strict=True)
        )
    for preset in setup["presets"]:
        assert (
            ModelSchedule.parse(preset["schedule"], setup["defaults"]["steps"]).num_steps == setup["defaults"]["steps"]
        )


def test_without_an_importance_file_there_is_no_frontier():
    with TestClient(studio_app(Gate(), importance=False)) as client:
        setup = client.get("/studio/api/setup").json()
        assert (setup["importance"], setup["has_frontier"]) == (None, False)
        answer = client.get("/studio/api/frontier", params={"steps": 8})
        assert (answer.status_code, "--importance" in answer.json()["error"]["message"]) == (400, True)
        assert read_draft(client, schedules=["H100%"])["schedules"][0]["path_kl"] is None


def test_one_model_alone_has_one_preset():
    assert [preset.schedule for preset in presets("H", ())] == ["H100%"]
    assert all("M" in preset.schedule or preset.schedule == "H100%" for preset in presets("H", ("L", "M")))


def test_keys_guard_the_api_and_not_the_page():
    with TestClient(studio_app(Gate(), keys=["secret"])) as client:
        assert client.get("/").status_code == client.get("/studio/static/main.js").status_code == 200
        assert client.get("/studio/api/setup").status_code == 401
        assert client.get("/studio/api/setup", headers={"Authorization": "Bearer wrong"}).status_code == 401
        assert client.post("/studio/api/runs", json=BODY, headers=ONE).status_code == 401
        assert client.get("/studio/api/setup", headers={"Authorization": "Bearer secret"}).status_code == 200


class Tags(HTMLParser):
    def __init__(self, text):
        super().__init__()
        self.found, self.loose, self.tag = [], [], ""
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.found.append((tag, dict(attributes)))
        self.tag = tag

    def handle_data(self, data):
        if self.tag in ("script", "style") and data.strip():
            self.loose.append(data)


def test_the_page_is_strict_and_whole(open_client):
    answer = open_client.get("/")
    policy = answer.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    assert "set-cookie" not in answer.headers
    page = Tags(answer.text)
    assert page.loose == []
    for tag, attributes in page.found:
        assert tag != "style"
        assert not {name for name in attributes if name.startswith("on") or name == "style"}
        for name in ("src", "href"):
            if (target := attributes.get(name, "#")) and not target.startswith("#"):
                assert open_client.get(f"/{target}").status_code == 200, target
    ids = [attributes["id"] for _, attributes in page.found if "id" in attributes]
    assert len(ids) == len(set(ids))
    for _, attributes in page.found:
        for name in ("for", "aria-controls", "aria-describedby", "aria-labelledby"):
            assert set(attributes.get(name, "").split()) <= set(ids)


def test_nothing_is_fetched_from_elsewhere():
    names = {entry.name for entry in STATIC.iterdir()}
    for entry in STATIC.iterdir():
        text = entry.read_text(encoding="utf-8")
        assert set(re.findall(r"https?://[^\s\"')]+", text)) <= {"http://www.w3.org/2000/svg"}
        assert {name.removeprefix("./") for name in re.findall(r'from "([^"]+)"', text)} <= names
        assert not re.search(
            r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\(|new Function|cookie", text
        )


def test_files_are_sent_once_and_no_others(open_client):
    first = open_client.get("/studio/static/main.js")
    assert first.headers["content-type"].startswith("text/javascript")
    again = open_client.get("/studio/static/main.js", headers={"If-None-Match": first.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")
    for path in ("nothing.js", "..%2Froutes.py", "%2e%2e/routes.py", "index.html%00"):
        assert open_client.get(f"/studio/static/{path}").status_code == 404


def test_pieces_are_the_text_cut_by_token(models):
    rng = np.random.default_rng(3)
    tokens = rng.integers(0, len(models.tokenizer), 200).tolist()
    tokens[50:60] = models.tokenizer.encode("北京—café", add_special_tokens=False)[:10]
    whole = models.tokenizer.decode(tokens, skip_special_tokens=False, clean_up_tokenization_spaces=False)
    pieces = token_pieces(models, tokens)
    assert (len(pieces), "".join(pieces)) == (len(tokens), whole)
    given = [0, *models.tokenizer.encode("The city", add_special_tokens=False)]
    mask = models.denoisers["H"].mask_id
    assert template_pieces(models, [*given, mask, mask, *given], mask) == [
        *token_pieces(models, given),
        None,
        None,
        *token_pieces(models, given),
    ]


def colours(text, scheme):
    """Custom properties of :root, those of the dark scheme over those of the light one."""
    light, dark = re.findall(r":root \{(.*?)\}", text, flags=re.DOTALL)[:2]
    blocks = [light] if scheme == "light" else [light, dark]
    return {name: value for block in blocks for name, value in re.findall(r"--(\w[\w-]*): (#[0-9a-f]{6})", block)}


def channels(colour):
    return np.array([int(colour[index : index + 2], 16) / 255 for index in (1, 3, 5)])


def contrast(one, other):
    """WCAG 2.2's contrast ratio of two colours, as channels from 0 to 1."""
    lights = []
    for colour in (one, other):
        linear = np.where(colour <= 0.04045, colour / 12.92, ((colour + 0.055) / 1.055) ** 2.4)
        lights.append(float(linear @ [0.2126, 0.7152, 0.0722]))
    return (max(lights) + 0.05) / (min(lights) + 0.05)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_everything_can_be_read(scheme):
    text = STATIC.joinpath("studio.css").read_text(encoding="utf-8")
    named = {name: channels(value) for name, value in colours(text, scheme).items()}
    grounds = [named[name] for name in ("paper", "card")]
    models = [named[f"m{index}"] for index in range(6)]
    for share in (0.17, 0.3, 0.62):  # behind a token, behind the model at work, behind a token that was just revealed
        assert f"var(--model) {share:.0%}" in text
        for model in models:
            tinted = [share * model + (1 - share) * ground for ground in grounds]
            assert min(contrast(named["ink"], ground) for ground in tinted) >= 4.5, (share, model)
    assert text.count("var(--model) 88%, var(--ink)") == 2  # lines under text, and lanes
    lines = [0.88 * model + 0.12 * named["ink"] for model in models]
    assert min(contrast(line, ground) for line in lines for ground in grounds) >= 3
    for ground in grounds:
        assert min(contrast(named[name], ground) for name in ("ink", "soft", "link", "error")) >= 4.5
        assert contrast(named["edge"], ground) >= 3
    assert contrast(named["on-link"], named["link"]) >= 4.5
    assert contrast(named["error"], named["error-card"]) >= 4.5
    assert contrast(named["soft"], named["well"]) >= 4.5
