"""`understudy prepare`: text to token blocks."""

from __future__ import annotations

import json
import time
from collections.abc import Generator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from rich.console import Console
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from understudy.cli.interrupts import GO_ON, keeping
from understudy.driving import run_to_end
from understudy.errors import SettingError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

    from understudy.data import BpeRecipe, Manifest, PrepareProgress

Sources = Annotated[
    list[str], typer.Argument(help=".txt, .jsonl or .parquet files, folders of them, or hub datasets (owner/name).")
]
Output = Annotated[Path, typer.Option(help="Folder for the blocks; begun earlier, the run goes on.")]
Tokenizer = Annotated[str | None, typer.Option(help="Tokenizer folder or hub id.")]
TrainTokenizer = Annotated[
    int | None, typer.Option(help="Instead of --tokenizer: train a byte-level BPE of this many ids on the text.")
]
TokenizerCharacters = Annotated[int, typer.Option(help="Characters that training the tokenizer reads at most.")]
BlockLength = Annotated[int, typer.Option(help="Tokens of a block, its frame included.")]
LayoutChoice = Annotated[
    Literal["packed", "padded"], typer.Option(help="Documents joined and cut, or one sentence a block.")
]
FrameChoice = Annotated[
    Literal["both", "bos", "none"],
    typer.Option(help="Beginning and end around a packed block, the beginning only, or nothing."),
]
Validation = Annotated[list[str] | None, typer.Option(help="Source of the validation split; may be repeated.")]
ValidationFraction = Annotated[
    float | None, typer.Option(help="Instead of --validation: every round(1/f)-th document of the sources.")
]
ColumnName = Annotated[str, typer.Option(help="Column of the text in JSON, Parquet and hub sources.")]
SampleByChoice = Annotated[
    Literal["document", "paragraph", "line"] | None,
    typer.Option(help="What one document of a .txt file is. Default: document (the file), for padded blocks line."),
]
DetokenizeChoice = Annotated[
    Literal["lm1b"] | None,
    typer.Option(help="Make running text first: lm1b undoes the spaces around LM1B's punctuation, as MDLM does."),
]
Split = Annotated[str, typer.Option(help="Split of hub datasets.")]
ValidationSplit = Annotated[str, typer.Option(help="Split of hub datasets given by --validation.")]
Config = Annotated[str | None, typer.Option(help="Configuration of hub datasets.")]
Revision = Annotated[str | None, typer.Option(help="Revision of hub datasets.")]
ShardBlocks = Annotated[int | None, typer.Option(help="Blocks of a shard. Default: about 64 million tokens.")]
LimitDocuments = Annotated[int | None, typer.Option(help="Read only so many documents of the sources.")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Begin anew in a folder prepared before.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON document on standard output.")]


def prepare_command(
    source: Sources,
    output: Output,
    tokenizer: Tokenizer = None,
    train_tokenizer: TrainTokenizer = None,
    tokenizer_characters: TokenizerCharacters = 200_000_000,
    block_length: BlockLength = 1024,
    layout: LayoutChoice = "packed",
    frame: FrameChoice = "both",
    validation: Validation = None,
    validation_fraction: ValidationFraction = None,
    text_column: ColumnName = "text",
    sample_by: SampleByChoice = None,
    detokenize: DetokenizeChoice = None,
    split: Split = "train",
    validation_split: ValidationSplit = "validation",
    config: Config = None,
    revision: Revision = None,
    shard_blocks: ShardBlocks = None,
    limit_documents: LimitDocuments = None,
    overwrite: Overwrite = False,
    as_json: AsJson = False,
) -> None:
    """Turn text into token blocks to train on: shards, a manifest and the tokenizer.

    A run that was cut off goes on where it was when given again.
    """
    from understudy.data import PrepareSettings, TextSource, prepare

    limits = (validation_fraction, shard_blocks, limit_documents)
    settings = PrepareSettings(block_length, layout, frame, *limits, detokenize=detokenize)
    options: dict[str, Any] = {"text_column": text_column, "config": config, "revision": revision}
    options["sample_by"] = sample_by or ("line" if layout == "padded" else "document")
    run = prepare(
        [TextSource(name, split=split, **options) for name in source],
        output,
        tokenizer=_choose_tokenizer(tokenizer, train_tokenizer, tokenizer_characters),
        settings=settings,
        validation=[TextSource(name, split=validation_split, **options) for name in validation or []],
        overwrite=overwrite,
    )
    begun = time.perf_counter()
    with keeping(lambda: _kept(output)):
        manifest = _drive(run)
    _report(manifest, output, time.perf_counter() - begun, as_json=as_json)


def _choose_tokenizer(
    location: str | None, train_size: int | None, characters: int
) -> PreTrainedTokenizerFast | BpeRecipe:
    from understudy.data import BpeRecipe, load_tokenizer

    if location is not None and train_size is None:
        return load_tokenizer(location)
    if train_size is not None and location is None:
        return BpeRecipe(train_size, characters)
    raise SettingError("give either --tokenizer (folder or hub id) or --train-tokenizer (vocabulary size)")


def _kept(folder: Path) -> str:
    """What an interrupt leaves in the folder."""
    from understudy.data.journal import PROGRESS_FILE, Journal

    if not (folder / PROGRESS_FILE).is_file():
        return "" if folder.exists() and any(folder.iterdir()) else "nothing is kept yet"
    content = Journal(folder).content
    if not content["splits"] and content.get("tokenizer_sha256") is None:
        return "nothing is kept yet"
    blocks = "what was written" if content["splits"] else "the tokenizer"
    return f"{blocks} is kept in {str(folder)!r}; {GO_ON}"


def _drive(run: Generator[PrepareProgress, None, Manifest]) -> Manifest:
    """Run to the end under a progress line on standard error."""
    columns = (SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn())
    console = Console(stderr=True)
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        tasks: dict[str, Any] = {}

        def show(record: PrepareProgress) -> None:
            name = record.stage if record.stage == "tokenizer" else record.split
            if name not in tasks:
                tasks[name] = bar.add_task(name, total=None)
            bar.update(tasks[name], description=_describe(record))

        return run_to_end(run, show)


def _describe(record: PrepareProgress) -> str:
    if record.stage == "tokenizer":
        return "training the tokenizer"
    counts = f"{record.documents:,} documents, {record.characters / 1e6:,.1f} M characters"
    return f"{record.split}: {counts}, {record.tokens / 1e6:,.2f} M tokens, {record.blocks:,} blocks"


def _report(manifest: Manifest, output: Path, seconds: float, *, as_json: bool) -> None:
    if as_json:
        document = {"output": str(output), "seconds": round(seconds, 3), **manifest.to_json()}
        typer.echo(json.dumps(document, ensure_ascii=False))
        return
    typer.echo(
        f"{output}: {manifest.layout} blocks of {manifest.block_length}, vocabulary {manifest.vocab_size:,}, "
        f"mask {manifest.mask_id}, tokenizer {manifest.tokenizer_sha256[:12]}"
    )
    for name, split in manifest.splits.items():
        lost = f", {split.truncated:,} sentences truncated" if split.truncated else ""
        typer.echo(
            f"{name}: {split.documents:,} documents, {split.characters:,} characters, {split.tokens:,} tokens, "
            f"{split.blocks:,} blocks in {len(split.shards)} shards{lost}"
        )
