"""How the distribution of samples stands to that of text: MAUVE on features of a causal model."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from understudy.errors import DataError, SettingError
from understudy.metrics.likelihood import context_length
from understudy.metrics.tokens import Tokens, sample_rows

SEEDS = (0, 1, 2, 3, 4)
MIN_TEXTS = 20  # two clusters


def mauve(
    samples: NDArray[np.float64], references: NDArray[np.float64], *, seeds: Sequence[int] = SEEDS
) -> NDArray[np.float64]:
    """MAUVE of samples (n, D) against reference text (m, D), in (0, 1], for each seed of its k-means (seeds,).

    Pillutla et al. 2021 (arXiv 2102.01454), as mauve-text computes it by default: PCA to 90 % of the variance, as many
    clusters as a tenth of the smaller set. Its value varies with the clustering, hence several seeds; with the features
    and the numbers of texts, hence a comparison of equals only. A few thousand of each are usual; below a hundred it
    says little. features: such as `last_token_features`, of texts of equal length.

    SettingError where mauve-text, the extra `mauve`, is not installed; DataError for sets that differ in D or hold
    fewer than 20 texts. faiss, which it clusters with, warns on standard error of clusters below 39 points.
    """
    if samples.ndim != 2 or samples.shape[1:] != references.shape[1:] or min(len(samples), len(references)) < MIN_TEXTS:
        raise DataError(
            f"MAUVE of features {samples.shape} and {references.shape}; both must be (n, D), n at least {MIN_TEXTS}"
        )
    try:
        from mauve import compute_mauve
    except ImportError as error:
        raise SettingError("MAUVE needs mauve-text: pip install 'understudy[mauve]'") from error
    scores = [compute_mauve(p_features=samples, q_features=references, seed=seed, verbose=False) for seed in seeds]
    return np.array([float(score.mauve) for score in scores])


@torch.inference_mode()
def last_token_features(model: Any, tokens: Tokens, *, batch_size: int = 8) -> NDArray[np.float64]:
    """Last hidden state at the last token of each text (n, D), the features that MAUVE was published with.

    model: a causal language model of transformers over the same token ids. A text longer than its context is cut at
    its end, as there. DataError where there are no tokens.
    """
    limit = context_length(model)
    rows = [row[:limit] for row in sample_rows(tokens)]
    features: list[NDArray[np.float64] | None] = [None] * len(rows)
    for length in sorted({len(row) for row in rows}):
        places = [index for index, row in enumerate(rows) if len(row) == length]
        for first in range(0, len(places), batch_size):
            batch = places[first : first + batch_size]
            ids = torch.from_numpy(np.stack([rows[index] for index in batch])).to(model.device)
            states = model(input_ids=ids, use_cache=False, output_hidden_states=True).hidden_states[-1][:, -1]
            for index, state in zip(batch, states.double().cpu().numpy(), strict=True):
                features[index] = state
    return np.stack([row for row in features if row is not None])
