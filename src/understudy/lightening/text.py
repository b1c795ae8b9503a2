"""The held-out text on which blocks are weighed. J blocks of text, L length."""

from __future__ import annotations

from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from understudy.data import TokenBlocks, held_out_blocks, tokenizer_sha256
from understudy.data.token_blocks import MANIFEST_FILE, spread
from understudy.denoisers.dit import DiTConfig
from understudy.denoisers.model_set import BUNDLED_TEXT, bundled_held_out, bundled_paths
from understudy.errors import SettingError
from understudy.tokenizer_files import load_tokenizer


@dataclass(frozen=True)
class HeldOutText:
    """Token ids, int64 (J, L); where they count (J, L), which padding does not; where they came from."""

    ids: NDArray[np.int64]
    counts: NDArray[np.bool_]
    source: str

    def to_dict(self) -> dict[str, Any]:
        """What identifies it, in JSON's types."""
        num_blocks, length = self.ids.shape
        digest = sha256(self.ids.tobytes()).hexdigest()
        return {"source": self.source, "blocks": num_blocks, "length": length, "sha256": digest}


def held_out_text(data: str | None, tokenizer: Any, shape: DiTConfig, *, count: int) -> HeldOutText:
    """Give up to `count` blocks, as long as a model of this shape takes and framed as it was trained on.

    data: a prepared folder, whose validation split is taken, spread evenly, or what `held_out_blocks` reads; where
    nothing is given, the bundled text, which the bundled judge wrote and only models over its tokens can read. Raises
    DataError and SettingError as `held_out_blocks` does, SettingError where a text is needed, or holds less than two
    blocks.
    """
    if data is not None and (Path(data) / MANIFEST_FILE).is_file():
        text = _prepared(data, tokenizer, shape.max_position_embeddings, count)
    else:
        source = _bundled(tokenizer) if data is None else data
        frame = {"begin_id": shape.bos_token_id, "end_id": shape.eos_token_id}
        ids = held_out_blocks(source, tokenizer, length=shape.max_position_embeddings, count=count, **frame)
        text = HeldOutText(ids, np.ones(ids.shape, dtype=np.bool_), BUNDLED_TEXT if data is None else data)
    if len(text.ids) < 2:
        raise SettingError(f"there is {len(text.ids)} block of text, which leaves errors unknown; give at least 2")
    return text


def can_read_bundled(tokenizer: Any) -> bool:
    """Whether the bundled text is in the tokens of this tokenizer."""
    return tokenizer_sha256(tokenizer) == tokenizer_sha256(load_tokenizer(bundled_paths()["heavy"]))


def _bundled(tokenizer: Any) -> Path:
    if not can_read_bundled(tokenizer):
        raise SettingError("give --data, held-out text for your model: a prepared folder or a text file; or --keep")
    return bundled_held_out()


def _prepared(folder: str, tokenizer: Any, max_length: int, count: int) -> HeldOutText:
    blocks = TokenBlocks.open(folder, "validation")
    blocks.check_tokenizer(tokenizer)
    ids = blocks[spread(len(blocks), count)][:, :max_length]
    is_padded = blocks.manifest.layout == "padded"
    counts = ids != blocks.manifest.pad_id if is_padded else np.ones(ids.shape, dtype=np.bool_)
    return HeldOutText(ids, counts, folder)
