"""Jobs on a real Ray cluster of several nodes, one of which dies: the results are those of this process."""

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from itertools import islice
from pathlib import Path

import numpy as np
import pytest

from cluster_units import Counts, Dies, Slow, Slowly
from driving import finish
from stage import make_tokenizer, save_stage
from test_cluster_parts import assert_same_samples, comparison, document, run_here, tasks
from understudy.cli import main
from understudy.cluster import (
    FinishedParts,
    WorkerModels,
    compare_on_cluster,
    connect,
    ray_workforce,
    sample_on_cluster,
    serve_app,
    travelling,
)
from understudy.denoisers.model_set import load_model_set
from understudy.driving import run_to_end
from understudy.errors import ClusterError, ModelError
from understudy.evaluation import Judge, Scoring, run_comparison
from understudy.importance import AnalysisSettings, analysis, analyze
from understudy.record_journal import RecordJournal
from understudy.search import SearchSettings, SearchSpace, search_schedules
from understudy.work import Finished, Tools

pytest.importorskip("ray")
pytestmark = pytest.mark.filterwarnings("ignore::ResourceWarning:ray")  # Ray leaves its log files open

SPACE, SETTINGS = SearchSpace.light_and_heavy(8, 4, 2), SearchSettings(num_samples=12, length=24, chunk=4)


class Nodes:
    """A cluster: a head that does no work, and nodes of one CPU."""

    def __init__(self):
        from ray.cluster_utils import Cluster

        self.options = {"object_store_memory": 80 * 2**20}
        self.cluster = Cluster(
            initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False, **self.options}
        )
        self.address, self.nodes = self.cluster.address, []

    def add(self):
        self.nodes.append(self.cluster.add_node(num_cpus=1, **self.options))

    def kill(self):
        """The newest node, without a word to anyone."""
        self.cluster.remove_node(self.nodes.pop(), allow_graceful=False)


@pytest.fixture(scope="module")
def nodes():
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        patch.setenv("PYTHONPATH", str(Path(__file__).parent))  # of the nodes, for `cluster_units`
        found = Nodes()
        for _ in range(2):
            found.add()
        yield found
        found.cluster.shutdown()


@pytest.fixture(scope="module")
def stage(tmp_path_factory):
    return save_stage(tmp_path_factory.mktemp("stage") / "stage", make_tokenizer())


@pytest.fixture(scope="module")
def tools(stage):
    models = load_model_set({"H": stage["heavy"], "L": stage["light"]})
    return Tools(models.denoisers, Judge.load(stage["judge"]), models.tokenizer)


@pytest.fixture(scope="module")
def workforce(nodes, stage):
    paths = {"H": travelling(stage["heavy"]), "L": travelling(stage["light"])}
    with ray_workforce(WorkerModels(paths, judge=travelling(stage["judge"])), nodes.address, workers=2) as found:
        yield found


def without_seconds(result):
    found = result.to_dict()
    for entry in found["schedules"]:
        del entry["seconds"]
    return found


def search(tools, **options):
    return search_schedules(tools.denoisers, SPACE, tools.judge, SETTINGS, tokenizer=tools.tokenizer, **options)


def test_a_search_outlives_a_node(nodes, workforce, tools, tmp_path):
    path, job = tmp_path / "search.jsonl", SETTINGS.journal_job(8, {})
    finish(workforce.do((str(number), Slowly(Counts())) for number in range(8)))  # until all have come
    assert workforce.facts()["nodes"] == 2
    run = search(tools, workforce=Slow(workforce), journal=RecordJournal(path, job))
    records = list(islice(run, 9))
    nodes.kill()
    rest, found = finish(run)
    assert len(workforce.losses) == 1
    assert workforce.losses[0]
    units = [json.loads(line)["unit"] for line in path.read_text().splitlines()[1:]]
    assert len(units) == len(set(units)) == 21
    records += rest
    assert (records[-1].stage, records[-1].passes_done) == ("done", records[-1].num_passes)
    _, expected = finish(search(tools))
    assert without_seconds(found) == without_seconds(expected)
    assert workforce.facts() | {"hardware": None} == {"workers": 2, "nodes": 2, "hardware": None, "lost": 1}
    nodes.add()


def test_a_comparison_is_that_of_one_process_and_goes_on(workforce, tools, tmp_path):
    task = comparison(tools, scoring=Scoring(judge_batch_size=2))
    run = compare_on_cluster(task, workforce, FinishedParts(tmp_path / "parts", {}))
    for record in run:
        if record.samples_done:
            break
    run.close()
    kept = FinishedParts(tmp_path / "parts", {})
    assert sum(len(kept.stretches(number)) for number in range(len(task.cells))) >= 1
    _, found = finish(compare_on_cluster(task, workforce, kept))
    _, expected = finish(run_comparison(task))
    assert document(found) == document(expected)


def test_a_rule_compares_as_in_one_process(workforce, tools):
    task = comparison(tools, scoring=Scoring(judge_batch_size=2), decoding="low_confidence", threshold=0.01)
    _, found = finish(compare_on_cluster(task, workforce))
    _, expected = finish(run_comparison(task))
    for one, other in zip(found.entries, expected.entries, strict=True):
        assert_same_samples(one.result, other.result)
        assert one.scores == other.scores


def test_samples_are_those_of_one_process(workforce, tools):
    wanted = list(tasks(tools))
    _, found = finish(sample_on_cluster(wanted, workforce))
    for result, task in zip(found, wanted, strict=True):
        assert_same_samples(result, run_here(task))


def test_an_analysis_is_that_of_one_process(workforce, tools, monkeypatch):
    monkeypatch.setattr(analysis, "STRETCH", 3)
    blocks = np.random.default_rng(0).integers(4, 270, (7, 20))
    settings = AnalysisSettings(
        steps=8, num_samples=6, prefix_lengths=(0, 4), num_times=4, bins=4, batch_size=2, chunk=2
    )
    options = {"blocks": blocks, "settings": settings}
    records, found = finish(analyze(tools.denoisers, workforce=workforce, **options))
    _, expected = finish(analyze(tools.denoisers, **options))
    assert found.to_dict() == expected.to_dict()
    assert records[-1].passes_done == records[-1].num_passes
    assert {record.stage for record in records} == {"held-out text", "unconditional", "prefix 4"}


def test_a_model_that_a_node_lacks_is_one_line(nodes, workforce, stage):
    models = WorkerModels({"H": "/nowhere/heavy"})
    with connect(nodes.address) as cluster:  # that of the other workers
        assert not cluster.is_local
    workforce.dismiss()  # they fill the nodes, and are hired again when there is work
    with (
        ray_workforce(models, nodes.address, workers=1) as lost,
        pytest.raises(ModelError, match=r"^node .*no folder '/nowhere/heavy'.*every node can read") as caught,
    ):
        next(lost.do([("unit", None)]))
    assert "\n" not in str(caught.value)


@pytest.mark.slow
def test_a_unit_that_kills_its_workers_ends_the_job(workforce):
    said = []
    with pytest.raises(ClusterError, match="the workers of 'bad' died 3 times"):
        run_to_end(workforce.do([("bad", Dies()), ("good", Counts())]), said.append)
    assert [event.result for event in said if isinstance(event, Finished)] == [["H", "L"]]
    assert sum(event.amount for event in said if not isinstance(event, Finished) and event.unit == "bad") <= 2


# The service ------------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of Ray Serve's own code
def test_replicas_of_the_service_answer_alike(nodes, workforce, stage):
    httpx, serve = pytest.importorskip("httpx"), pytest.importorskip("ray.serve")
    workforce.dismiss()
    paths = {"H": travelling(stage["heavy"]), "L": travelling(stage["light"])}
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    serve.start(http_options={"host": "127.0.0.1", "port": port})
    try:
        serve.run(serve_app(WorkerModels(paths), replicas=2, schedule="L25%,H50%,L25%", steps=8, hosts=()))
        body = {"model": "understudy", "prompt": "the cat", "max_tokens": 8, "seed": 5}
        place = f"http://127.0.0.1:{port}/v1/completions"
        answers = [httpx.post(place, json=body, timeout=60).json() for _ in range(8)]
        assert len({answer["choices"][0]["text"] for answer in answers}) == 1
        assert {answer["understudy"]["schedule"] for answer in answers} == {"L2,H4,L2"}
        strange = httpx.post(place, json=body, headers={"Host": "evil.example"}, timeout=60)
        assert (strange.status_code, strange.json()["error"]["code"]) == (400, "unknown_host")
        with httpx.stream("POST", place, json={**body, "stream": True}, timeout=60) as stream:
            lines = [line for line in stream.iter_lines() if line]
        assert lines[-1] == "data: [DONE]"
        pieces = [json.loads(line.removeprefix("data: "))["choices"] for line in lines[:-1]]
        assert "".join(choice["text"] for piece in pieces for choice in piece) == answers[0]["choices"][0]["text"]
    finally:
        serve.shutdown()


# The command ------------------------------------------------------------------------------------------------------


def command(stage, verb, *arguments):
    models = ("--heavy", stage["heavy"], "--light", stage["light"], "--device", "cpu")
    return [sys.executable, "-m", "understudy", verb, *map(str, (*models, *arguments))]


def environment():
    return {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}


@pytest.fixture
def here(stage, monkeypatch, capfd):
    """The command in this process, by the connection that it has; gives the document that it prints."""

    def call(*arguments):
        monkeypatch.setattr(sys, "argv", command(stage, *arguments)[2:])
        with pytest.raises(SystemExit) as end:
            main()
        out, errors = capfd.readouterr()
        assert (end.value.code, errors) == (0, "")
        assert out.count("\n") == 1
        return json.loads(out)

    return call


def test_the_command_prints_one_document(nodes, workforce, stage, tmp_path, here):
    workforce.dismiss()
    options = ("--schedule", "L2,H4,L2", "--length", 12, "-n", 5, "--batch-size", 2, "--json")
    where = ("--ray", nodes.address, "--ray-workers", 2, "--output", tmp_path / "s.jsonl")
    shared = subprocess.run(
        command(stage, "sample", *options, *where), capture_output=True, text=True, check=False, env=environment()
    )
    assert (shared.returncode, shared.stderr) == (0, "")
    assert shared.stdout.count("\n") == 1
    alone, found = here("sample", *options), json.loads(shared.stdout)
    assert {**found, "seconds": 0} == {**alone, "seconds": 0}
    lines = [json.loads(line) for line in (tmp_path / "s.jsonl").read_text().splitlines()]
    assert [line["token_ids"] for line in lines] == [sample["token_ids"] for sample in found["samples"]]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["s.jsonl"]


def test_an_interrupt_leaves_parts_and_no_processes(nodes, workforce, stage, tmp_path, here):
    arguments = ("--judge", stage["judge"], "--schedule", "H30", "--schedule", "L30", "--length", 30, "-n", 32)
    arguments = ("evaluate", *arguments, "--batch-size", 2, "--judge-batch-size", 1, "--output", tmp_path / "e.json")
    process = subprocess.Popen(
        command(stage, *arguments, "--ray", "--ray-workers", 1),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment(),
        start_new_session=True,  # as a terminal's foreground group: the interrupt goes to all of it
    )
    parts = tmp_path / "e.json.parts"
    wait_for(lambda: len(list(parts.glob("*.npz"))) >= 2 or process.poll() is not None)
    family = descendants(process.pid)
    assert len(family) > 2
    os.killpg(process.pid, signal.SIGINT)
    out, errors = process.communicate(timeout=120)
    assert (process.returncode, out) == (130, "")
    assert errors.count("\n") == 1
    assert errors.startswith("understudy: interrupted; what was finished is kept in")
    wait_for(lambda: not [pid for pid in family if is_alive(pid)])
    assert list(parts.glob("*.npz"))
    workforce.dismiss()
    found = here(*arguments, "--ray", nodes.address, "--ray-workers", 2, "--json", "--per-sample")
    assert not parts.exists()
    alone = here(*arguments, "--json", "--per-sample")
    assert found["environment"]["ray"]["workers"] == 2
    for entry, other in zip(found["schedules"], alone["schedules"], strict=True):
        assert {**entry, "seconds": 0} == {**other, "seconds": 0}


def wait_for(condition, seconds=180):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.05)


def descendants(pid):
    """Processes below one, by what the system says of their parents."""
    parents = {}
    for entry in os.listdir("/proc"):
        with contextlib.suppress(OSError, ValueError):
            parents[int(entry)] = int(Path(f"/proc/{entry}/stat").read_text().rpartition(")")[2].split()[1])
    found = [pid]
    for process in found:
        found += [child for child, parent in parents.items() if parent == process]
    return found[1:]


def is_alive(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False
