"""Blocks are read as they were written, or not at all."""

import json
from pathlib import Path

import numpy as np
import pytest

from prepared_text import DOCUMENTS, Texts, run, small, small_bpe
from understudy.data import Manifest, TokenBlocks, load_blocks_tokenizer, train_bpe
from understudy.errors import DataError, UnderstudyError


@pytest.fixture(scope="module")
def bpe():
    return small_bpe()


@pytest.fixture
def prepared(bpe, tmp_path):
    run([Texts(DOCUMENTS)], tmp_path, tokenizer=bpe, settings=small())
    return tmp_path


def test_indices_choose_blocks_across_shards_in_order(prepared):
    blocks = TokenBlocks.open(prepared)
    files = sorted(prepared.glob("train-*.npy"))
    rows = np.concatenate([np.load(file) for file in files]).astype(np.int64)
    assert len(blocks) == len(rows) > 40
    order = np.random.default_rng(0).integers(0, len(rows), 200)
    assert blocks[order].dtype == np.int64
    assert (blocks[order] == rows[order]).all()
    assert blocks[np.array([], dtype=np.int64)].shape == (0, 16)
    for wrong in ([len(rows)], [-1], [[0, 1]]):
        with pytest.raises(IndexError):
            blocks[np.array(wrong)]


def test_another_tokenizer_is_an_error(prepared, bpe):
    blocks = TokenBlocks.open(prepared)
    blocks.check_tokenizer(bpe)
    blocks.check_tokenizer(load_blocks_tokenizer(prepared))
    other = train_bpe(DOCUMENTS, 319)
    with pytest.raises(DataError, match="was made with tokenizer"):
        blocks.check_tokenizer(other)
    other.save_pretrained(prepared / "tokenizer")
    with pytest.raises(DataError, match="was made with tokenizer"):
        load_blocks_tokenizer(prepared)


def cut(path):
    path.write_bytes(path.read_bytes()[:-10])


def empty(path):
    path.write_bytes(b"")


def lengthen(path):
    path.write_bytes(path.read_bytes() + b"x")


def retype(path):
    np.save(path, np.load(path).astype(np.int64))


def pickle(path):
    np.save(path, np.array([{"a": 1}], dtype=object))


@pytest.mark.parametrize("damage", [cut, empty, lengthen, retype, pickle, Path.unlink])
def test_damaged_shards_are_errors(prepared, bpe, damage):
    damage(prepared / "train-00001.npy")
    with pytest.raises(DataError, match="train-00001"):
        TokenBlocks.open(prepared)
    with pytest.raises(DataError, match="train-00001"):
        run([Texts(DOCUMENTS)], prepared, tokenizer=bpe, settings=small())


def test_verify_sees_a_changed_id(prepared):
    blocks = TokenBlocks.open(prepared)
    blocks.verify()
    shard = np.load(prepared / "train-00000.npy")
    shard[0, 0] ^= 1
    np.save(prepared / "train-00000.npy", shard)
    with pytest.raises(DataError, match=r"train-00000.npy .* has changed"):
        TokenBlocks.open(prepared).verify()


def test_manifest_survives_json(prepared):
    manifest = Manifest.read(prepared)
    assert Manifest.from_json(json.loads(json.dumps(manifest.to_json()))) == manifest
    assert manifest.sources == [{"name": "texts"}]


@pytest.mark.parametrize(
    "change",
    [
        {"mask_id": 320},
        {"mask_id": 0},
        {"format_version": 99},
        {"layout": "padded", "pad_id": None},
        {"splits": {}},
        {"splits": None},
        {"extra": 1},
        {"tokenizer_sha256": "../x"},
    ],
)
def test_damaged_manifests_are_errors(prepared, change):
    path = prepared / "manifest.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    with pytest.raises(UnderstudyError) as caught:
        TokenBlocks.open(prepared)
    assert "\n" not in str(caught.value)


def test_a_shard_outside_the_folder_is_refused(prepared):
    path = prepared / "manifest.json"
    path.write_text(path.read_text().replace("train-00000.npy", "../train-00000.npy"))
    with pytest.raises(DataError, match="no shard"):
        TokenBlocks.open(prepared)


def test_an_unfinished_folder_or_unknown_split_is_an_error(prepared):
    with pytest.raises(DataError, match="no split 'test', only train"):
        TokenBlocks.open(prepared, "test")
    with pytest.raises(DataError, match="understudy prepare"):
        TokenBlocks.open(prepared / "tokenizer")
