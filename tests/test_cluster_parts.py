"""What workers of a cluster are given and what becomes of it; no cluster is needed for it."""

import json
import os
import pickle
import sys
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from driving import finish
from stage import make_judge, make_pair, make_tokenizer, save_stage
from understudy.cli import evaluate, main
from understudy.cli.ray_options import complete_ray
from understudy.cluster import (
    FinishedParts,
    WorkerModels,
    compare_on_cluster,
    connection,
    sample_on_cluster,
    travelling,
)
from understudy.cluster.connection import Room, connect
from understudy.cluster.parts import stretch_size
from understudy.cluster.placing import Placement, place_workers
from understudy.denoisers.model_files import model_sha256
from understudy.denoisers.model_set import bundled_models, bundled_paths
from understudy.errors import ClusterError, DataError, ModelError, SettingError
from understudy.evaluation import ComparisonTask, Scoring, run_comparison
from understudy.sampling import ConfidenceTask, SamplingTask, decode_steps, decoding_task, sample_steps
from understudy.work import OneAfterAnother, Tools


@pytest.fixture(scope="module")
def tokenizer():
    return make_tokenizer()


@pytest.fixture(scope="module")
def tools(tokenizer):
    return Tools(make_pair(tokenizer), make_judge(tokenizer), tokenizer)


class Backwards:
    """Does units from the last one on, after a journey; says so many are done at once."""

    def __init__(self, tools, size):
        self.inner, self.size = OneAfterAnother(tools), size

    def __len__(self):
        return self.size

    def do(self, units):
        yield from self.inner.do((name, travel(work)) for name, work in reversed(list(units)))


def travel(work):
    """What another process gets: no model, judge or tokenizer, which would be large."""
    message = pickle.dumps(work)
    assert len(message) < 10_000
    return pickle.loads(message)


# Placing ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("rooms", "wanted", "on_gpus", "placement"),
    [
        ([Room(8, 0)], None, False, Placement(2, 4, 0.0)),
        ([Room(2, 0), Room(6, 0)], None, False, Placement(3, 2, 0.0)),
        ([Room(0, 0), Room(1, 0), Room(1, 0)], None, False, Placement(2, 1, 0.0)),
        ([Room(8, 0), Room(4, 0)], 3, False, Placement(3, 4, 0.0)),
        ([Room(8, 0), Room(4, 0)], 5, False, Placement(5, 2, 0.0)),
        ([Room(8, 4), Room(8, 4)], None, True, Placement(8, 1, 1.0)),
        ([Room(8, 4)], 2, True, Placement(2, 1, 1.0)),
        ([Room(8, 2)], 5, True, Placement(5, 1, 1 / 3)),
        ([Room(1, 2)], None, True, Placement(2, 0, 1.0)),
    ],
)
def test_every_worker_has_its_room(rooms, wanted, on_gpus, placement):
    assert place_workers(rooms, wanted, on_gpus=on_gpus) == placement
    if not on_gpus:
        assert sum(room.cpus // placement.cpus for room in rooms) >= placement.workers


@pytest.mark.parametrize(
    ("wanted", "on_gpus", "kind", "message"),
    [
        (0, False, SettingError, "0 workers are wanted"),
        (9, False, ClusterError, "8 CPUs for 9 workers"),
        (None, True, ClusterError, "has no GPU"),
    ],
)
def test_no_room(wanted, on_gpus, kind, message):
    with pytest.raises(kind, match=message):
        place_workers([Room(8, 0)], wanted, on_gpus=on_gpus)


def test_stretches_keep_workers_busy_and_batches_full():
    assert stretch_size([1000], 32, 4) == 64
    assert stretch_size([16, 16], 32, 4) == 4
    assert stretch_size([16, 16], 32, 4, multiple=8) == 8
    assert stretch_size([1], 32, 4) == 1


# Parts ------------------------------------------------------------------------------------------------------------


def arrays(first, end):
    return {"tokens": np.arange(first, end)[:, None] * np.ones(3, dtype=np.int32), "seconds": np.array([0.5])}


@pytest.mark.parametrize("is_kept", [False, True])
def test_parts_are_joined_in_the_order_of_the_samples(tmp_path, is_kept):
    folder = tmp_path / "parts" if is_kept else None
    parts = FinishedParts(folder, {"seed": 1})
    for first, end in ((8, 10), (0, 4)):
        parts.put(1, first, end, arrays(first, end))
    if is_kept:
        assert {path.name for path in folder.iterdir()} == {"job.json", "1-8-10.npz", "1-0-4.npz"}
        parts = FinishedParts(folder, {"seed": 1})
    assert list(parts.gaps(1, 14, 3)) == [(4, 6), (6, 8), (10, 12), (12, 14)]
    assert list(parts.gaps(0, 4, 3)) == [(0, 3), (3, 4)]
    for first, end in parts.gaps(1, 14, 3):
        parts.put(1, first, end, arrays(first, end))
    assert list(parts.gaps(1, 14, 5)) == []
    whole = parts.joined(1)
    assert whole["tokens"][:, 0].tolist() == list(range(14))
    assert whole["seconds"].sum() == 3
    parts.discard()
    assert folder is None or not folder.exists()


def test_parts_of_another_job_are_no_start(tmp_path):
    FinishedParts(tmp_path / "p", {"seed": 1, "steps": 8}).put(0, 0, 2, arrays(0, 2))
    with pytest.raises(SettingError, match="a job with another seed;"):
        FinishedParts(tmp_path / "p", {"seed": 2, "steps": 8})
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").write_text("years")
    with pytest.raises(DataError, match="holds no parts"):
        FinishedParts(tmp_path / "mine", {})
    FinishedParts(tmp_path / "two", {}).put(0, 0, 4, arrays(0, 4))
    FinishedParts(tmp_path / "two", {}).put(0, 2, 6, arrays(2, 6))
    with pytest.raises(DataError, match="holds samples twice"):
        FinishedParts(tmp_path / "two", {})
    (tmp_path / "p" / "0-0-2.npz").write_bytes(b"PK")
    with pytest.raises(DataError, match="is damaged"):
        FinishedParts(tmp_path / "p", {"seed": 1, "steps": 8}).joined(0)


def test_parts_of_a_comparison_are_for_one_tokenizer(tools, tmp_path):
    given = {"output": tmp_path / "e.json", "place": "cpu", "precision": "float32", "judge": None}
    task = comparison(tools, scoring=Scoring("retokenized", judge_batch_size=2))
    mine, other = (SimpleNamespace(digests={}, tokenizer=own) for own in (tools.tokenizer, bundled_models().tokenizer))
    evaluate._parts({**given, "judge_batch_size": 2}, mine, task).put(0, 0, 2, arrays(0, 2))
    assert evaluate._parts({**given, "judge_batch_size": 2}, mine, task).stretches(0) == [(0, 2)]
    with pytest.raises(SettingError, match="a job with another tokenizer;"):
        evaluate._parts({**given, "judge_batch_size": 2}, other, task)


def test_a_part_that_was_not_written_to_its_end_does_not_count(tmp_path):
    parts = FinishedParts(tmp_path / "p", {})
    parts.put(0, 0, 2, arrays(0, 2))
    (tmp_path / "p" / ".0-2-4.npz.partial").write_bytes(b"PK")
    assert list(FinishedParts(tmp_path / "p", {}).gaps(0, 4, 4)) == [(2, 4)]


# Jobs, by a workforce that does things out of order ---------------------------------------------------------------


def comparison(tools, **changes):
    options = {"num_samples": 7, "length": 12, "seeds": (0, 1), "temperatures": (0.7, 1.0), "batch_size": 2, **changes}
    return ComparisonTask.create(tools.denoisers, ["H8", "L2,H4,L2", "H4"], tools.judge, **options)


def document(found):
    whole = found.to_dict(per_sample=True)
    for entry in whole["schedules"]:
        del entry["seconds"]
    return whole


@pytest.mark.parametrize("protocol", ["ids", "retokenized"])
def test_a_comparison_in_pieces_is_the_whole(tools, protocol):
    task = comparison(tools, scoring=Scoring(protocol, judge_batch_size=2))
    _, expected = finish(run_comparison(task))
    records, found = finish(compare_on_cluster(task, Backwards(tools, 5)))
    assert document(found) == document(expected)
    for cell in task.cells:
        own = [record for record in records if record.name == cell.label]
        assert (own[0].stage, own[0].passes_done, own[0].samples_done) == ("waiting", 0, 0)
        assert (own[-1].stage, own[-1].passes_done, own[-1].samples_done) == ("done", cell.task.num_passes, 14)
        assert {record.num_passes for record in own} == {cell.task.num_passes}


def test_a_comparison_goes_on_where_it_was_stopped(tools, tmp_path):
    task = comparison(tools, scoring=Scoring(judge_batch_size=2))
    run = compare_on_cluster(task, Backwards(tools, 5), FinishedParts(tmp_path / "parts", {}))
    for record in run:
        if record.stage == "done":
            break
    run.close()
    kept = FinishedParts(tmp_path / "parts", {})
    assert len(kept.stretches(5)) > 0
    records, found = finish(compare_on_cluster(task, Backwards(tools, 2), kept))  # in other pieces
    assert records[5].passes_done == task.cells[5].task.num_passes
    _, expected = finish(run_comparison(task))
    assert document(found) == document(expected)


def tasks(tools):
    shared = {"num_samples": 5, "batch_size": 2, "seed": 3}
    yield SamplingTask.create(tools.denoisers, "L2,H4,L2", length=12, **shared)
    yield decoding_task(
        tools.denoisers, "L2,H4,L2", length=9, decoding="first_hitting", indices=[4, 2, 8, 6, 0], **shared
    )
    yield decoding_task(tools.denoisers, "L2,H4,L2", length=10, decoding="random", prefix=[5], **shared)
    yield decoding_task(tools.denoisers, "L2,H4,L2", length=11, decoding="low_confidence", **shared)


def run_here(task):
    return finish(decode_steps(task) if isinstance(task, ConfidenceTask) else sample_steps(task))[1]


def assert_same_samples(found, expected):
    assert torch.equal(found.tokens, expected.tokens)
    assert (found.reveal_step == expected.reveal_step).all()
    assert (found.nfe, found.schedule) == (expected.nfe, expected.schedule)
    assert found.flops.to_dict() == pytest.approx(expected.flops.to_dict(), rel=1e-12)


def test_samples_in_pieces_are_the_same_samples(tools):
    wanted = list(tasks(tools))
    records, found = finish(sample_on_cluster(wanted, Backwards(tools, 3)))
    for result, task in zip(found, wanted, strict=True):
        assert_same_samples(result, run_here(task))
    total = sum(task.num_passes for task in wanted)
    assert (records[0].samples_done, records[0].passes_done, records[0].num_passes) == (0, 0, total)
    assert (records[-1].samples_done, records[-1].passes_done) == (20, total)


def test_sampling_goes_on_where_it_was_stopped(tools, tmp_path):
    wanted = list(tasks(tools))
    run = sample_on_cluster(wanted, Backwards(tools, 3), FinishedParts(tmp_path / "parts", {}))
    for record in run:
        if record.samples_done > 8:
            break
    run.close()
    kept = FinishedParts(tmp_path / "parts", {})
    records, found = finish(sample_on_cluster(wanted, Backwards(tools, 9), kept))
    assert records[0].samples_done == record.samples_done
    assert records[-1].passes_done == records[-1].num_passes
    for result, task in zip(found, wanted, strict=True):
        assert_same_samples(result, run_here(task))


def test_passes_are_not_foretold_where_models_choose_them(tools):
    task = decoding_task(tools.denoisers, "H8", length=12, num_samples=3, decoding="low_confidence", threshold=0.5)
    records, (found,) = finish(sample_on_cluster([task], Backwards(tools, 2)))
    assert_same_samples(found, run_here(task))
    assert {record.num_passes for record in records} == {None}
    assert records[-1].passes_done == sum(found.nfe.values())


# Models -----------------------------------------------------------------------------------------------------------


def test_models_are_named_as_other_machines_find_them(tmp_path, monkeypatch, tokenizer):
    stage = save_stage(tmp_path / "stage", tokenizer)
    monkeypatch.chdir(tmp_path)
    assert travelling("stage/heavy") == str(stage["heavy"])
    assert travelling("owner/name") == "owner/name"
    assert travelling(bundled_paths()["judge"]) == "bundled judge"
    heavy, judge = travelling("stage/heavy"), travelling("stage/judge")
    models = WorkerModels({"H": heavy}, judge=judge, digests={heavy: model_sha256(heavy)})
    assert set(models.load().denoisers) == {"H"}
    with pytest.raises(ModelError, match="another model"):
        replace(models, digests={heavy: model_sha256(judge)}).load()


# Addresses --------------------------------------------------------------------------------------------------------


def test_ray_alone_means_this_machine():
    assert complete_ray(["sample", "--ray"]) == ["sample", "--ray", "local"]
    assert complete_ray(["sample", "--ray", "--json"]) == ["sample", "--ray", "local", "--json"]
    assert complete_ray(["sample", "--ray", "auto", "-n", "2"]) == ["sample", "--ray", "auto", "-n", "2"]
    assert complete_ray(["sample", "-n", "2"]) == ["sample", "-n", "2"]


@pytest.mark.parametrize(
    ("address", "kind", "message"),
    [
        ("ray://head:10001", SettingError, "HOST:PORT"),
        ("head", SettingError, "HOST:PORT"),
        ("127.0.0.1:99999", SettingError, "HOST:PORT"),
        ("127.0.0.1:1", ClusterError, "no Ray cluster answers at '127.0.0.1:1'"),
    ],
)
def test_addresses_at_which_nothing_is(address, kind, message):
    pytest.importorskip("ray")
    with pytest.raises(kind, match=message), connect(address):
        pass


def test_without_ray(monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(SettingError, match=r"pip install 'understudy\[ray\]'"), connect():
        pass


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("sample", "--ray-workers", "2"), "--ray-workers goes with --ray; give both"),
        (("sample", "--ray", "--device", "cuda:1"), "device is 'cuda:1'; Ray gives each worker its GPU"),
        (("search", "--output", "s.json", "--ray", "127.0.0.1:1"), "no Ray cluster answers at '127.0.0.1:1'"),
        (("evaluate", "--samples", "s.jsonl", "--ray"), "--ray samples anew and --samples reads a file"),
    ],
)
def test_what_cannot_be_is_one_line(arguments, message, monkeypatch, tmp_path, capsys):
    pytest.importorskip("ray")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    monkeypatch.setattr(sys, "argv", ["understudy", *arguments])
    with pytest.raises(SystemExit) as end:
        main()
    out, errors = capsys.readouterr()
    assert (end.value.code, out, errors.count("\n")) == (2, "", 1)
    assert errors.startswith(f"understudy: {message}")


@pytest.mark.parametrize("address", ["local", "head:6379"])
@pytest.mark.parametrize("has_token", [False, True])
def test_a_cluster_asks_for_a_token(monkeypatch, tmp_path, address, has_token):
    monkeypatch.delitem(sys.modules, "ray", raising=False)
    for name in ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"):
        monkeypatch.setenv(name, "")  # so that it is put back
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))
    if has_token:
        (tmp_path / ".ray").mkdir()
        (tmp_path / ".ray" / "auth_token").write_text("0" * 64)
    connection._set_token(address)
    assert os.environ.get("RAY_AUTH_MODE") == ("token" if has_token or address == "local" else None)
    assert len(os.environ.get("RAY_AUTH_TOKEN", "")) == (64 if address == "local" else 0)


def test_a_job_is_plain_json(tmp_path):
    FinishedParts(tmp_path / "p", {"seeds": (1, 2)}).put(0, 0, 2, arrays(0, 2))
    assert json.loads((tmp_path / "p" / "job.json").read_text())["job"] == {"seeds": [1, 2]}
    FinishedParts(tmp_path / "p", {"seeds": [1, 2]})
