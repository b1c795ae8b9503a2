"""Text to token blocks: what `understudy prepare` does.

    text ─documents─► ids ─blocks (L)─► shards + manifest ─TokenBlocks─► training

`prepare` is a generator that the caller drives. It streams: one batch of documents and one shard are in memory at a
time. After every shard it notes in progress.json how far it came, so that a run that was cut off goes on from there and
ends with the same bytes as one that was not. The manifest is written last: a folder that has one is whole.

Layouts. "packed": documents joined, each followed by its end token, cut into blocks; what is left over is carried into
the next block, and only the last incomplete block of a split is dropped (the published MDLM code drops the rest of
every thousand documents). "padded": one sentence per block, framed and filled up, as MDLM does with LM1B.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from understudy import __version__
from understudy.data.corpus import DocumentSource
from understudy.data.detokenization import DETOKENIZERS
from understudy.data.journal import Journal, claim_folder, clear_folder, remove_empty
from understudy.data.packing import PrepareSettings, SplitWriter
from understudy.data.token_blocks import TOKENIZER_FOLDER, Manifest, TokenBlocks
from understudy.data.tokenization import BpeRecipe, TextEncoder, Vocabulary, resolve_vocabulary, train_bpe
from understudy.errors import DataError, SettingError, UnderstudyError
from understudy.tokenizer_files import load_tokenizer, save_tokenizer, tokenizer_sha256

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

BATCH_DOCUMENTS, BATCH_CHARACTERS = 1024, 2_000_000


@dataclass(frozen=True)
class PrepareProgress:
    """How far `prepare` is: the counts of `split` so far, a resumed run's earlier ones included.

    In stage "tokenizer" (training one; counts are 0) there is one record before and one after; in stage "tokens" one
    after every batch of documents.
    """

    stage: Literal["tokenizer", "tokens"]
    split: str
    documents: int = 0
    characters: int = 0
    tokens: int = 0
    blocks: int = 0


def prepare(
    sources: Sequence[DocumentSource],
    output: str | Path,
    *,
    tokenizer: PreTrainedTokenizerFast | BpeRecipe,
    settings: PrepareSettings | None = None,
    validation: Sequence[DocumentSource] = (),
    overwrite: bool = False,
) -> Generator[PrepareProgress, None, Manifest]:
    """Write the text of `sources` as token blocks to the folder `output`; drive it to the end, it returns the manifest.

    `tokenizer` is one that exists or a recipe to train one from the training text. `validation` are the sources of a
    second split (or use `settings.validation_fraction`, not both). Stopped at any moment and called again with the
    same arguments, it goes on and ends with the same bytes; in a finished folder it does nothing. `overwrite` begins
    anew. Text refused before anything was done leaves nothing behind. Errors come at the first step: SettingError for
    arguments that exclude each other; DataError for text that cannot be read, that fills not one block, or for a folder
    that holds anything else.

        for progress in prepare([TextSource("book.txt")], "blocks", tokenizer=BpeRecipe(4096)):
            print(progress.blocks)
        blocks = TokenBlocks.open("blocks")
    """
    settings = settings or PrepareSettings()
    _check_arguments(sources, validation, tokenizer, settings)
    folder = Path(output)
    wish = _describe(sources, validation, tokenizer, settings)
    missing = [path for path in (folder, *folder.parents) if not path.exists()]
    manifest = claim_folder(folder, wish, overwrite=overwrite)
    if manifest is not None:
        for name, split in manifest.splits.items():
            TokenBlocks.open(folder, name)
            yield PrepareProgress("tokens", name, split.documents, split.characters, split.tokens, split.blocks)
        return manifest
    journal = Journal(folder)
    try:
        return (yield from _prepare(sources, validation, tokenizer, settings, wish, journal))
    except UnderstudyError:
        if not (journal.content["splits"] or (isinstance(tokenizer, BpeRecipe) and journal.has_tokenizer)):
            clear_folder(folder)  # nothing was done that another try could go on from
            remove_empty(missing)
        raise


def _prepare(
    sources: Sequence[DocumentSource],
    validation: Sequence[DocumentSource],
    tokenizer: PreTrainedTokenizerFast | BpeRecipe,
    settings: PrepareSettings,
    wish: Mapping[str, Any],
    journal: Journal,
) -> Generator[PrepareProgress, None, Manifest]:
    """Do what the journal does not hold yet."""
    folder = journal.folder
    fast = yield from _settle_tokenizer(tokenizer, sources, settings, journal)
    vocabulary = _usable_vocabulary(fast, settings)
    encoder = TextEncoder(fast)
    names = ["train", "validation"] if validation or settings.validation_stride else ["train"]
    splits = journal.content["splits"]
    writers = {name: SplitWriter(name, folder, settings, vocabulary, splits.get(name, {})) for name in names}
    for documents, filled, route in _passes(sources, validation, settings, writers):
        yield from _fill(documents, filled, route, encoder, journal)
    manifest = _manifest(fast, vocabulary, settings, writers, wish)
    manifest.write(folder)
    journal.close()
    return manifest


def _check_arguments(
    sources: Sequence[DocumentSource],
    validation: Sequence[DocumentSource],
    tokenizer: PreTrainedTokenizerFast | BpeRecipe,
    settings: PrepareSettings,
) -> None:
    """Everything that can be refused before the folder is touched."""
    if not sources:
        raise SettingError("no source was given: name at least one file, folder or dataset")
    if validation and settings.validation_fraction is not None:
        raise SettingError("validation sources and validation_fraction exclude each other: give one of them")
    if not isinstance(tokenizer, BpeRecipe):
        _usable_vocabulary(tokenizer, settings)


def _describe(
    sources: Sequence[DocumentSource],
    validation: Sequence[DocumentSource],
    tokenizer: PreTrainedTokenizerFast | BpeRecipe,
    settings: PrepareSettings,
) -> dict[str, Any]:
    """Everything that decides the bytes, in JSON's types: two runs are the same when these are equal."""
    trained = isinstance(tokenizer, BpeRecipe)
    return {
        "sources": [source.description() for source in sources],
        "validation_sources": [source.description() for source in validation],
        "tokenizer": asdict(tokenizer) if trained else {"sha256": tokenizer_sha256(tokenizer)},
        **asdict(replace(settings, shard_blocks=settings.blocks_per_shard)),
    }


def _usable_vocabulary(tokenizer: PreTrainedTokenizerFast, settings: PrepareSettings) -> Vocabulary:
    vocabulary = resolve_vocabulary(tokenizer)
    if settings.layout == "padded" and vocabulary.pad_id in (None, vocabulary.bos_id, vocabulary.eos_id):
        # With the end token as padding, the loss could not tell the sentence's end from the filling.
        raise DataError("padded blocks need a padding token of its own, the tokenizer has none: add one or use packed")
    return vocabulary


def _settle_tokenizer(
    tokenizer: PreTrainedTokenizerFast | BpeRecipe,
    sources: Sequence[DocumentSource],
    settings: PrepareSettings,
    journal: Journal,
) -> Generator[PrepareProgress, None, PreTrainedTokenizerFast]:
    """The tokenizer, from the folder when an earlier run has put it there."""
    folder = journal.folder / TOKENIZER_FOLDER
    if not journal.has_tokenizer:
        if isinstance(tokenizer, BpeRecipe):
            yield PrepareProgress("tokenizer", "train")
            stride = settings.validation_stride
            texts = (text for i, text in _training_documents(sources, settings) if not _is_validation(i, stride))
            tokenizer = train_bpe(texts, tokenizer.vocab_size, max_characters=tokenizer.max_characters)
            yield PrepareProgress("tokenizer", "train")
        save_tokenizer(tokenizer, folder)
        journal.note(tokenizer_sha256=tokenizer_sha256(tokenizer))
    kept = load_tokenizer(folder)
    if tokenizer_sha256(kept) != journal.content["tokenizer_sha256"]:
        raise DataError(f"the tokenizer in {str(folder)!r} is not the one that was saved: prepare again with overwrite")
    return kept


def _documents(sources: Iterable[DocumentSource], settings: PrepareSettings) -> Iterator[tuple[int, str]]:
    """(position, text) over all sources, detokenized where that is asked for."""
    texts = (text for source in sources for text in source.documents())
    return enumerate(texts if settings.detokenize is None else map(DETOKENIZERS[settings.detokenize], texts))


def _training_documents(sources: Iterable[DocumentSource], settings: PrepareSettings) -> Iterator[tuple[int, str]]:
    return islice(_documents(sources, settings), settings.limit_documents)


def _is_validation(position: int, stride: int | None) -> bool:
    return stride is not None and position % stride == stride - 1


def _passes(
    sources: Sequence[DocumentSource],
    validation: Sequence[DocumentSource],
    settings: PrepareSettings,
    writers: Mapping[str, SplitWriter],
) -> Iterator[tuple[Iterator[tuple[int, str]], list[SplitWriter], Callable[[int], SplitWriter]]]:
    """Streams to read, each with the splits it fills and who gets the document at a position."""
    train, stride = writers["train"], settings.validation_stride
    if stride is not None:
        both = [train, writers["validation"]]
        yield _training_documents(sources, settings), both, lambda i: both[_is_validation(i, stride)]
        return
    if validation:
        other = writers["validation"]
        yield _documents(validation, settings), [other], lambda _: other
    yield _training_documents(sources, settings), [train], lambda _: train


def _batches(documents: Iterable[tuple[int, str]]) -> Iterator[list[tuple[int, str]]]:
    """Batches large enough to keep all cores at work and small enough for the memory."""
    batch: list[tuple[int, str]] = []
    characters = 0
    for position, text in documents:
        batch.append((position, text))
        characters += len(text)
        if len(batch) == BATCH_DOCUMENTS or characters >= BATCH_CHARACTERS:
            yield batch
            batch, characters = [], 0
    if batch:
        yield batch


def _fill(
    documents: Iterator[tuple[int, str]],
    writers: Sequence[SplitWriter],
    route: Callable[[int], SplitWriter],
    encoder: TextEncoder,
    journal: Journal,
) -> Iterator[PrepareProgress]:
    """Give every document to its split, passing over what an earlier run has brought to disk."""
    if all(writer.is_complete for writer in writers):
        return
    for batch in _batches(documents):
        pending = [(route(position), position, text) for position, text in batch]
        pending = [item for item in pending if item[1] >= item[0].resume_at and not item[0].is_complete]
        ids_of = encoder.encode([text for _, _, text in pending])
        for (writer, position, text), ids in zip(pending, ids_of, strict=True):
            writer.add(position, len(text), ids)
            _note(writer, journal)
        yield from map(_progress, writers)
    for writer in writers:
        if not writer.is_complete:
            writer.finish()
            _note(writer, journal)
    yield from map(_progress, writers)


def _note(writer: SplitWriter, journal: Journal) -> None:
    if writer.has_news:
        journal.note_split(writer.name, writer.state())


def _progress(writer: SplitWriter) -> PrepareProgress:
    return PrepareProgress("tokens", writer.name, *writer.counts)


def _manifest(
    tokenizer: PreTrainedTokenizerFast,
    vocabulary: Vocabulary,
    settings: PrepareSettings,
    writers: Mapping[str, SplitWriter],
    wish: Mapping[str, Any],
) -> Manifest:
    return Manifest(
        tokenizer_sha256=tokenizer_sha256(tokenizer),
        vocab_size=vocabulary.size,
        mask_id=vocabulary.mask_id,
        bos_id=vocabulary.bos_id,
        eos_id=vocabulary.eos_id,
        pad_id=vocabulary.pad_id,
        block_length=settings.block_length,
        layout=settings.layout,
        frame=settings.frame,
        splits={name: writer.summary() for name, writer in writers.items()},
        settings=wish,
        understudy_version=__version__,
    )
