"""Networks that transformers itself knows, read strictly and in silence."""

from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError

from understudy.denoisers.model_files import check_fit, truncated, weight_files
from understudy.errors import ModelError, one_line
from understudy.quiet import quiet


def pretrained(auto: Any, folder: Path, dtype: torch.dtype, *, refusal: str, may_have_more: bool = False) -> Any:
    """Network of a folder, by an `Auto…` class of transformers, from safetensors and without code of the folder's.

    refusal: how a message says that it cannot be, with `{reason}` where the reason goes. may_have_more: whether weights
    that the network has no use for are let pass. Raises ModelError where weights are missing, damaged or do not fit.
    """
    weight_files(folder)
    try:
        # Left to transformers, which knows how published weights are named (those of GPT-2 lack a prefix).
        with quiet():
            network, report = auto.from_pretrained(
                folder,
                dtype=dtype,
                use_safetensors=True,
                local_files_only=True,
                trust_remote_code=False,
                # Reported instead, where the error would point to a log line.
                ignore_mismatched_sizes=True,
                output_loading_info=True,
            )
    except SafetensorError as error:
        raise truncated(folder, error) from error
    except Exception as error:  # broad, because a configuration that cannot be fails in each model's own way
        raise ModelError(refusal.replace("{reason}", one_line(error))) from error
    # Names in transformers 4, (name, shape, shape) in 5.
    differing = [item if isinstance(item, str) else item[0] for item in report["mismatched_keys"]]
    unknown = () if may_have_more else report["unexpected_keys"]
    check_fit(folder, set(report["missing_keys"]) - set(differing), unknown, differing)
    return network
