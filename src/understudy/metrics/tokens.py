"""Samples as token ids: what every metric takes."""

from collections.abc import Sequence
from typing import Any, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray

from understudy.errors import DataError

Tokens: TypeAlias = torch.Tensor | NDArray[np.integer[Any]] | Sequence[Sequence[int]] | Sequence[NDArray[np.int64]]
"""Token ids of n samples: an integer (n, L) tensor or array, or n sequences of any lengths."""


def sample_rows(tokens: Tokens) -> list[NDArray[np.int64]]:
    """Give the ids of each sample as an int64 array of its own. DataError if there are none, or one is not a list."""
    values = tokens.cpu().numpy() if isinstance(tokens, torch.Tensor) else tokens
    rows = [np.asarray(row, dtype=np.int64) for row in values]
    if not rows or any(row.ndim != 1 or not len(row) for row in rows):
        raise DataError("there is nothing to score; give at least one sample, each a list of one or more token ids")
    return rows
