"""Tokenizers on disk: load one, save one, and tell whether two are the same."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

from understudy.errors import DataError, ModelError, one_line
from understudy.hub import local_folder
from understudy.quiet import quiet
from understudy.whole_files import publish_folder

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

TOKENIZER_FILES = ("config.json", "*token*", "vocab*", "merges.txt")
# Classes that come as code of a repository, slow at that, and ours for the same vocab.json and merges.txt.
SAME_FILES = {"DreamTokenizer": "Qwen2TokenizerFast"}
NOT_HASHED = ("truncation", "padding", "post_processor")
NO_FILES = (
    "copy them there or name a tokenizer with --tokenizer (of published MDLMs: gpt2, or bert-base-uncased for LM1B)"
)


def load_tokenizer(location: str | Path, *, revision: str | None = None) -> PreTrainedTokenizerFast:
    """Tokenizer from a local folder or a Hugging Face name; code that a repository may carry is never run.

    `revision` pins the commit of a repository. DataError when there is no such tokenizer, when it is damaged, or when
    it has no fast (Rust) form.
    """
    try:
        folder = local_folder(location, TOKENIZER_FILES, revision=revision)
    except ModelError as error:
        raise DataError(f"no tokenizer: {error}") from error
    try:
        with quiet():
            tokenizer = _class_for(folder).from_pretrained(str(folder), trust_remote_code=False, local_files_only=True)
    except Exception as error:  # broad, because tokenizers raises the bare Exception for a damaged file
        has_files = any(next(folder.glob(pattern), None) for pattern in TOKENIZER_FILES[1:])
        reason = one_line(error) if has_files else f"it holds none of its files; {NO_FILES}"
        raise DataError(f"no usable tokenizer in {str(location)!r}: {reason}") from error
    if not getattr(tokenizer, "is_fast", False):
        raise DataError(f"tokenizer {str(location)!r} has no fast form (tokenizer.json): convert and save it first")
    return tokenizer


def _class_for(folder: Path) -> Any:
    """Class that reads a folder's tokenizer: transformers tells, but where the files name one that it does not have."""
    import transformers

    try:
        named = json.loads((folder / "tokenizer_config.json").read_text(encoding="utf-8")).get("tokenizer_class")
    except (OSError, ValueError, AttributeError):
        named = None
    return getattr(transformers, SAME_FILES.get(str(named), "AutoTokenizer"))


def save_tokenizer(tokenizer: PreTrainedTokenizerFast, folder: Path) -> None:
    """Write `tokenizer` to `folder`, whole or not at all; what was in it before is replaced. DataError if it cannot."""
    partial = folder.with_name(f".{folder.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    try:
        with quiet():
            tokenizer.save_pretrained(str(partial))
        _name_class(partial / "tokenizer_config.json", list(tokenizer.model_input_names))
        publish_folder(partial, folder)
    except Exception as error:  # broad, because tokenizers raises the bare Exception for a full disk
        shutil.rmtree(partial, ignore_errors=True)
        raise DataError(f"cannot write the tokenizer to {str(folder)!r}: {one_line(error)}") from error


def _name_class(path: Path, inputs: list[str]) -> None:
    """Have transformers 4 load what 5 saved, and give the same `inputs`: 4 does not know 5's name of the class."""
    config = json.loads(path.read_text(encoding="utf-8"))
    if config.get("tokenizer_class") == "TokenizersBackend":
        config.pop("backend", None)
        config |= {"model_input_names": inputs, "tokenizer_class": "PreTrainedTokenizerFast"}
        path.write_text(json.dumps(config, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def tokenizer_sha256(tokenizer: PreTrainedTokenizerFast) -> str:
    """Hex digest of what the tokenizer does to text: its tokenizer.json, without truncation, padding, post-processor.

    Calling a tokenizer changes the first two; the third adds special tokens, which we never ask for, and transformers
    5 fills it in where it is empty. Key order and white space do not count either.
    DataError for a tokenizer without a fast form.
    """
    content: dict[str, Any] = json.loads(fast_core(tokenizer).to_str())
    content = {name: part for name, part in content.items() if name not in NOT_HASHED}
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def tokenizer_difference(first: PreTrainedTokenizerFast, second: PreTrainedTokenizerFast) -> str | None:
    """Say in a few words where two tokenizers differ, or None where they do the same to every text."""
    if tokenizer_sha256(first) == tokenizer_sha256(second):
        return None
    vocabularies = [fast_core(tokenizer).get_vocab(with_added_tokens=True) for tokenizer in (first, second)]
    if len(vocabularies[0]) != len(vocabularies[1]):
        return f"one knows {len(vocabularies[0])} tokens, the other {len(vocabularies[1])}"
    names = [{number: token for token, number in vocabulary.items()} for vocabulary in vocabularies]
    for number in sorted(names[0].keys() | names[1].keys()):
        ours, theirs = (of.get(number) for of in names)
        if ours != theirs:
            return f"token {number} is {ours!r} in one and {theirs!r} in the other"
    return "they have the same tokens, but split text by different rules"


def fast_core(tokenizer: PreTrainedTokenizerFast) -> Any:
    """The `tokenizers.Tokenizer` that does the work. DataError for a tokenizer without a fast form."""
    core = getattr(tokenizer, "backend_tokenizer", None)
    if core is None:
        raise DataError(f"{type(tokenizer).__name__} has no fast form (tokenizer.json): load it with load_tokenizer")
    return core
