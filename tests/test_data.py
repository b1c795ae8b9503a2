"""Text to blocks: what goes in comes out, whatever interrupts it."""

import itertools
import json
import shutil
import signal
import subprocess
import sys
import time
import tracemalloc

import numpy as np
import pytest

from prepared_text import DOCUMENTS, Texts, all_blocks, folder_bytes, make_tokenizer, run, small, small_bpe
from understudy import whole_files
from understudy.data import BpeRecipe, Manifest, PrepareSettings, TokenBlocks, prepare
from understudy.errors import DataError, SettingError


@pytest.fixture(scope="module")
def bpe():
    return small_bpe()


# Packing


@pytest.mark.parametrize("frame", ["both", "bos", "none"])
def test_packing_loses_nothing_but_the_tail(bpe, tmp_path, frame):
    _, manifest = run([Texts(DOCUMENTS)], tmp_path, tokenizer=bpe, settings=small(frame=frame))
    blocks = all_blocks(tmp_path)
    assert blocks.shape == (manifest.splits["train"].blocks, 16)
    before, after = {"both": (1, 1), "bos": (1, 0), "none": (0, 0)}[frame]
    assert (blocks[:, :before] == manifest.bos_id).all()
    assert (blocks[:, 16 - after :] == manifest.eos_id).all()
    stream = blocks[:, before : 16 - after].ravel().tolist()
    expected = [i for text in DOCUMENTS for i in [*bpe(text)["input_ids"], manifest.eos_id]]
    assert stream == expected[: len(stream)]
    summary = manifest.splits["train"]
    assert len(expected) - len(stream) == summary.dropped_tokens < 16
    assert (summary.documents, summary.tokens) == (len(DOCUMENTS), len(expected))
    assert summary.characters == sum(map(len, DOCUMENTS))
    decoded = bpe.decode(stream).split("<|endoftext|>")
    assert decoded[:-1] == DOCUMENTS[: len(decoded) - 1]


def test_special_tokens_written_in_a_text_are_ordinary_text(bpe, tmp_path):
    text = "about <|mask|> and <|endoftext|> and <|pad|> " * 5
    _, manifest = run([Texts([text])], tmp_path, tokenizer=bpe, settings=small(frame="none"))
    ids = all_blocks(tmp_path).ravel()
    assert not np.isin(ids, [manifest.mask_id, manifest.pad_id, manifest.eos_id]).any()
    assert text.startswith(bpe.decode(ids))


def test_empty_documents_leave_no_trace(bpe, tmp_path):
    run([Texts(DOCUMENTS)], tmp_path / "plain", tokenizer=bpe, settings=small())
    mixed = [text for pair in zip(DOCUMENTS, [""] * 120, strict=True) for text in pair]
    run([Texts(mixed)], tmp_path / "mixed", tokenizer=bpe, settings=small())
    plain, with_gaps = folder_bytes(tmp_path / "plain"), folder_bytes(tmp_path / "mixed")
    assert plain == with_gaps


def test_a_document_may_span_many_shards(bpe, tmp_path):
    long = " ".join(DOCUMENTS)
    run([Texts([long])], tmp_path, tokenizer=bpe, settings=small(shard_blocks=3, frame="none"))
    stream = all_blocks(tmp_path).ravel().tolist()
    assert stream == [*bpe(long)["input_ids"], 0][: len(stream)]
    assert len(list(tmp_path.glob("train-*.npy"))) > 10


def test_padded_blocks_hold_one_sentence_each(bpe, tmp_path):
    sentences = ["the cat", "dogs barked softly while rain fell upon the mat " * 3, "a"]
    _, manifest = run([Texts(sentences)], tmp_path, tokenizer=bpe, settings=small(layout="padded"))
    rows = all_blocks(tmp_path)
    for row, text in zip(rows, sentences, strict=True):
        ids = bpe(text)["input_ids"][:14]
        assert row.tolist() == [0, *ids, 0, *[manifest.pad_id] * (14 - len(ids))]
    assert manifest.splits["train"].truncated == 1
    assert manifest.pad_id not in (manifest.mask_id, manifest.bos_id, manifest.eos_id)


def test_ids_above_65535_are_stored_in_four_bytes(tmp_path):
    tokenizer = make_tokenizer([f"w{i}" for i in range(70_000)], eos_token="w0")
    _, manifest = run([Texts(["w69999 w5 w65536"])], tmp_path, tokenizer=tokenizer, settings=PrepareSettings(3))
    assert manifest.dtype == np.uint32
    assert manifest.mask_id == 70_000
    assert all_blocks(tmp_path)[0].tolist() == [0, 69999, 0]


# Splits


def test_validation_fraction_is_disjoint_complete_and_deterministic(bpe, tmp_path):
    numbered = [f"{i} {text}" for i, text in enumerate(DOCUMENTS)]
    chosen = small(frame="none", validation_fraction=0.1)
    for name in ("a", "b"):
        run([Texts(numbered)], tmp_path / name, tokenizer=bpe, settings=chosen)
    assert folder_bytes(tmp_path / "a") == folder_bytes(tmp_path / "b")
    held_out = bpe.decode(all_blocks(tmp_path / "a", "validation").ravel()).split("<|endoftext|>")[:-1]
    trained = bpe.decode(all_blocks(tmp_path / "a").ravel()).split("<|endoftext|>")[:-1]
    assert held_out == numbered[9::10][: len(held_out)]
    assert not set(held_out) & set(trained)
    splits = Manifest.read(tmp_path / "a").splits
    assert splits["validation"].documents == 12
    assert splits["train"].documents == 108


def test_validation_sources_fill_their_own_split(bpe, tmp_path):
    other = Texts(DOCUMENTS[:30], "other")
    run([Texts(DOCUMENTS)], tmp_path / "out", tokenizer=bpe, settings=small(), validation=[other])
    run([other], tmp_path / "alone", tokenizer=bpe, settings=small())
    assert (all_blocks(tmp_path / "out", "validation") == all_blocks(tmp_path / "alone")).all()
    chosen = small(validation_fraction=0.1)
    with pytest.raises(SettingError, match="exclude each other"):
        run([Texts(DOCUMENTS)], tmp_path / "x", tokenizer=bpe, settings=chosen, validation=[other])


def test_limit_documents_reads_no_further(bpe, tmp_path):
    source = Texts(itertools.cycle(DOCUMENTS))
    _, manifest = run([source], tmp_path, tokenizer=bpe, settings=small(limit_documents=50))
    assert manifest.splits["train"].documents == 50
    assert source.read <= 51


# Interruptions


class Crash(Exception):  # noqa: N818 - it is no error of anyone's
    pass


def crash_after(monkeypatch, writes):
    """The machine stops right after the given number of files was written."""
    left = itertools.count(writes, -1)
    original = whole_files._write

    def write(path, fill):
        digest = original(path, fill)
        if next(left) <= 1:
            raise Crash
        return digest

    monkeypatch.setattr(whole_files, "_write", write)


def test_a_stop_after_any_write_changes_no_byte(bpe, tmp_path, monkeypatch):
    monkeypatch.setattr("understudy.data.preparation.BATCH_DOCUMENTS", 7)
    chosen = small(validation_fraction=0.2)
    run([Texts(DOCUMENTS[:70])], tmp_path / "whole", tokenizer=bpe, settings=chosen)
    whole = folder_bytes(tmp_path / "whole")
    assert len(whole) > 5
    folder = tmp_path / "out"
    for writes in itertools.count(1):
        shutil.rmtree(folder, ignore_errors=True)
        with monkeypatch.context() as patch:
            crash_after(patch, writes)
            try:
                run([Texts(DOCUMENTS[:70])], folder, tokenizer=bpe, settings=chosen)
            except Crash:
                pass
            else:
                break
        run([Texts(DOCUMENTS[:70])], folder, tokenizer=bpe, settings=chosen)
        assert folder_bytes(folder) == whole, writes
    assert writes > 12  # two splits of several shards, each with a note of progress


def test_many_stops_in_one_run_change_no_byte(bpe, tmp_path, monkeypatch):
    monkeypatch.setattr("understudy.data.preparation.BATCH_DOCUMENTS", 5)
    _, manifest = run([Texts(DOCUMENTS)], tmp_path / "whole", tokenizer=bpe, settings=small())
    runs = 0
    while not (tmp_path / "out" / "manifest.json").exists():
        with monkeypatch.context() as patch:
            crash_after(patch, 3)
            try:
                run([Texts(DOCUMENTS)], tmp_path / "out", tokenizer=bpe, settings=small())
            except Crash:
                runs += 1
    assert runs > 3
    assert folder_bytes(tmp_path / "out").keys() - {"progress.json"} == folder_bytes(tmp_path / "whole").keys()
    assert Manifest.read(tmp_path / "out") == manifest


def test_a_caller_may_stop_driving_and_come_back(bpe, tmp_path, monkeypatch):
    monkeypatch.setattr("understudy.data.preparation.BATCH_DOCUMENTS", 7)
    run([Texts(DOCUMENTS)], tmp_path / "whole", tokenizer=BpeRecipe(300), settings=small())
    generator = prepare([Texts(DOCUMENTS)], tmp_path / "out", tokenizer=BpeRecipe(300), settings=small())
    stages = [next(generator).stage for _ in range(9)]
    assert stages == ["tokenizer"] * 2 + ["tokens"] * 7
    generator.close()
    records, _ = run([Texts(DOCUMENTS)], tmp_path / "out", tokenizer=BpeRecipe(300), settings=small())
    assert all(record.stage == "tokens" for record in records), "the tokenizer was there already"
    assert folder_bytes(tmp_path / "out") == folder_bytes(tmp_path / "whole")


KILLED = """
import json, sys, time
import understudy.data.preparation
from understudy.data import PrepareSettings, load_tokenizer, prepare

text, tokenizer, output = sys.argv[1:]
understudy.data.preparation.BATCH_DOCUMENTS = 20

class Source:
    def documents(self):
        return iter(json.load(open(text)))
    def description(self):
        return {"name": "texts"}

settings = PrepareSettings(16, shard_blocks=20)
for _ in prepare([Source()], output, tokenizer=load_tokenizer(tokenizer), settings=settings):
    time.sleep(0.2)
"""


def test_kill_minus_nine_changes_no_byte(bpe, tmp_path):
    text, tokenizer, output = tmp_path / "text.json", tmp_path / "tokenizer", tmp_path / "out"
    text.write_text(json.dumps(DOCUMENTS * 3))
    bpe.save_pretrained(tokenizer)
    child = subprocess.Popen([sys.executable, "-c", KILLED, str(text), str(tokenizer), str(output)])
    try:
        deadline = time.monotonic() + 60
        while not (output / "train-00002.npy").exists() and time.monotonic() < deadline:
            assert child.poll() is None
            time.sleep(0.02)
    finally:
        child.send_signal(signal.SIGKILL)
        child.wait()
    assert not (output / "manifest.json").exists()
    kept = {path: path.stat().st_mtime_ns for path in output.glob("train-*.npy")}
    run([Texts(DOCUMENTS * 3)], output, tokenizer=bpe, settings=small())
    run([Texts(DOCUMENTS * 3)], tmp_path / "whole", tokenizer=bpe, settings=small())
    assert folder_bytes(output) == folder_bytes(tmp_path / "whole")
    assert sum(path.stat().st_mtime_ns == then for path, then in kept.items()) >= 2, "finished shards stay"


def test_other_settings_in_the_same_folder_are_an_error(bpe, tmp_path):
    run([Texts(DOCUMENTS)], tmp_path, tokenizer=bpe, settings=small())
    with pytest.raises(DataError, match=r"block_length was 16, now 32.*another folder or overwrite"):
        run([Texts(DOCUMENTS)], tmp_path, tokenizer=bpe, settings=small(block_length=32))
    with pytest.raises(DataError, match="tokenizer was"):
        run([Texts(DOCUMENTS)], tmp_path, tokenizer=BpeRecipe(300), settings=small())
    source = Texts(DOCUMENTS)
    records, _ = run([source], tmp_path, tokenizer=bpe, settings=small())
    assert source.read == 0
    assert records[-1].documents == 120
    _, manifest = run([source], tmp_path, tokenizer=bpe, settings=small(block_length=32), overwrite=True)
    assert manifest.block_length == 32
    assert all_blocks(tmp_path).shape[1] == 32


def test_a_shard_lost_between_two_runs_is_an_error(bpe, tmp_path, monkeypatch):
    monkeypatch.setattr("understudy.data.preparation.BATCH_DOCUMENTS", 7)
    generator = prepare([Texts(DOCUMENTS)], tmp_path, tokenizer=bpe, settings=small())
    while not (tmp_path / "train-00001.npy").exists():
        next(generator)
    generator.close()
    (tmp_path / "train-00000.npy").unlink()
    with pytest.raises(DataError, match=r"train-00000.* is gone"):
        run([Texts(DOCUMENTS)], tmp_path, tokenizer=bpe, settings=small())


def test_a_failed_first_try_does_not_block_the_folder(bpe, tmp_path):
    with pytest.raises(DataError, match="smaller block length"):
        run([Texts(DOCUMENTS)], tmp_path, tokenizer=bpe, settings=small(block_length=10**6))
    run([Texts(DOCUMENTS)], tmp_path, tokenizer=bpe, settings=small())
    assert len(TokenBlocks.open(tmp_path))


def test_foreign_files_are_never_touched(bpe, tmp_path):
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(DataError, match="holds other files"):
        run([Texts(DOCUMENTS)], tmp_path, tokenizer=bpe, settings=small(), overwrite=True)
    assert folder_bytes(tmp_path) == {"thesis.txt": b"mine"}
    with pytest.raises(DataError, match="is a file"):
        run([Texts(DOCUMENTS)], tmp_path / "thesis.txt", tokenizer=bpe)


# Memory


def test_the_corpus_is_never_held(bpe, tmp_path, monkeypatch):
    """Reading runs at most one batch ahead of the caller, and what was read is let go."""
    monkeypatch.setattr("understudy.data.preparation.BATCH_DOCUMENTS", 20)
    source = Texts(f"{i} {DOCUMENTS[i % 120] * 3}" for i in range(4000))
    generator = prepare([source], tmp_path, tokenizer=bpe, settings=small(shard_blocks=500))
    next(generator)
    assert source.read <= 21
    tracemalloc.start()
    for _ in generator:
        pass
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert source.read == 4000
    held = sum(len(f"{DOCUMENTS[i % 120] * 3}") for i in range(4000))
    assert peak < held / 2
