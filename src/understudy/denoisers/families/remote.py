"""Diffusion language models that carry their own code: LLaDA, LLaDA-MoE, Dream and its kin, and A2D.

LLaDA: Nie et al. 2025, arXiv 2502.09992. Dream: Ye et al. 2025, arXiv 2508.15487. What their networks ask for is
one row of `KINDS` each.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import nn

from understudy.denoisers.families.family import ModelSource
from understudy.denoisers.families.remote_code import check_trust, remote_network
from understudy.denoisers.framed import FramedDenoiser, Framing, logits_of
from understudy.denoisers.protocol import Positions
from understudy.errors import ModelError, one_line
from understudy.quiet import quiet
from understudy.tokenizer_files import load_tokenizer


@dataclass(frozen=True)
class RemoteKind:
    """How to call networks of one kind.

    architectures: what the configuration calls their class. model_types: by which they are known where it does not.
    auto_class: whose class in `auto_map` gives logits. trunks: where the head's input comes out, the first that is
    there. shift, arguments: as in `Framing`. mask_token: its name, where neither configuration nor tokenizer says.
    """

    name: str
    architectures: tuple[str, ...]
    model_types: tuple[str, ...]
    auto_class: str = "AutoModel"
    trunks: tuple[str, ...] = ("model",)
    shift: int = 0
    mask_token: str = "<|mask|>"
    arguments: Mapping[str, Any] = field(default_factory=dict)


_NO_CACHE = {"use_cache": False}
KINDS = (
    # Of model_type "llada" as well, but with a head that reads the trunk.
    RemoteKind("LLaDA-MoE", ("LLaDAMoEModelLM",), ("lladamoe", "llada_moe"), arguments=_NO_CACHE),
    # It calls `model.forward` past all hooks, so that the last norm is what can be asked. No attention mask: there is
    # no padding, and published copies of the code do not all read it.
    RemoteKind(
        "LLaDA",
        ("LLaDAModelLM",),
        ("llada",),
        trunks=("model.transformer.ln_f", "model.norm"),
        mask_token="<|mdm_mask|>",
        arguments=_NO_CACHE,
    ),
    # Made from an autoregressive model, whose logits at a token are for the next one.
    RemoteKind("Dream", ("DreamModel",), ("Dream",), shift=1, arguments={"attention_mask": "full", "use_cache": False}),
    RemoteKind("A2D", (), ("a2d-qwen2", "a2d-qwen3", "a2d-llama"), "AutoModelForMaskedLM", arguments=_NO_CACHE),
)
# They read block after block, each sees the ones before it only: a canvas of free positions is not what they know.
BLOCKWISE = ("SDAR", "LLaDA2", "Fast_dLLM")


class RemoteModel:
    """Models of `KINDS`, through the code in their folders."""

    title = "LLaDA, LLaDA-MoE, Dream or A2D with the code they carry"

    def recognises(self, source: ModelSource) -> bool:
        """By `auto_map`, and the architecture or `model_type` of one of `KINDS`."""
        return isinstance(source.config.get("auto_map"), dict) and (
            kind_of(source) is not None or _blockwise(source) is not None
        )

    def stated(self, source: ModelSource) -> dict[str, int | None]:
        """The mask, where the configuration names it; the vocabulary is cut to what the tokenizer knows."""
        mask_id = source.config.get("mask_token_id")
        return {"mask_id": mask_id} if isinstance(mask_id, int) else {}

    def load(self, source: ModelSource) -> FramedDenoiser:
        """Let the folder's code build the network, fill it, and try it on three masks."""
        if (architecture := _blockwise(source)) is not None:
            raise ModelError(
                f"{source.name} is a {architecture}, which denoises block after block and reads each only after those "
                "before it; sampling over a whole canvas needs a model that reads all of it"
            )
        kind = kind_of(source)
        assert kind is not None
        if kind.auto_class not in source.config["auto_map"]:
            raise ModelError(
                f"the auto_map in {source.folder / 'config.json'} has no {kind.auto_class}, as that of {kind.name} has"
            )
        check_trust(source)
        tokenizer = load_tokenizer(source.folder)
        network = remote_network(source, kind.auto_class)
        width = _logits_width(network, kind, source)
        framing = _framing(source, kind, network.config, tokenizer, width)
        trunk = next((found for path in kind.trunks if (found := _submodule(network, path)) is not None), None)
        sparse = trunk is not None and _can_be_cut(network, framing, trunk)
        return FramedDenoiser(
            network,
            framing,
            trunk=trunk if sparse else None,
            description=_describe(network, kind, framing, width, sparse=sparse),
        )


def kind_of(source: ModelSource) -> RemoteKind | None:
    """Which of `KINDS` a configuration is of: by its architecture, or else by its `model_type`."""
    names = set(_architectures(source))
    by_class = [kind for kind in KINDS if names & set(kind.architectures)]
    by_type = [kind for kind in KINDS if source.model_type in kind.model_types]
    return next(iter((*by_class, *by_type)), None)


def _architectures(source: ModelSource) -> list[str]:
    names = source.config.get("architectures")
    return [str(name) for name in names] if isinstance(names, list) else []


def _blockwise(source: ModelSource) -> str | None:
    return next((name for name in _architectures(source) if name.startswith(BLOCKWISE)), None)


def _logits_width(network: Any, kind: RemoteKind, source: ModelSource) -> int:
    """How many logits a position has, from a first pass. Raises ModelError where the code cannot make one."""
    ids = torch.zeros(1, 3, dtype=torch.int64, device=source.device)
    try:
        # Quiet, because code that is old for its transformers is told so in a first pass, once.
        with torch.no_grad(), quiet():
            logits = logits_of(network.eval()(ids, **kind.arguments))
    except Exception as error:  # broad, because the code is anybody's
        raise ModelError(
            f"the network of {source.name} fails in a first pass: {type(error).__name__}: {one_line(error)}"
        ) from error
    if logits.shape[:-1] != ids.shape:
        raise ModelError(
            f"the network of {source.name} gives logits of shape {tuple(logits.shape)} for 1 sequence of 3 tokens; "
            "one row for each is needed"
        )
    return logits.shape[-1]


def _framing(source: ModelSource, kind: RemoteKind, config: Any, tokenizer: Any, width: int) -> Framing:
    """Mask, vocabulary and length. What has a logit but no token is cut off, or barred where it lies in between."""
    known = set(tokenizer.get_vocab().values())
    mask_id = _mask_id(source, kind, tokenizer)
    if not 0 <= mask_id < width:
        raise ModelError(
            f"the mask id of {source.name} is {mask_id}, but its network has logits for ids 0 to {width - 1} only; "
            "correct mask_token_id in its config.json"
        )
    vocab_size = min(width, max(known | {mask_id}) + 1)
    lengths = (getattr(config, name, None) for name in ("max_sequence_length", "max_position_embeddings"))
    end_id = source.config.get("eos_token_id")
    return Framing(
        mask_id=mask_id,
        vocab_size=vocab_size,
        max_length=next((length for length in lengths if isinstance(length, int)), None),
        end_id=end_id if isinstance(end_id, int) and 0 <= end_id < vocab_size else None,
        barred=set(range(vocab_size)) - known - {mask_id},
        shift=kind.shift,
        arguments=kind.arguments,
    )


def _mask_id(source: ModelSource, kind: RemoteKind, tokenizer: Any) -> int:
    """Mask id as config.json has it (classes have defaults that are not those of the model), or the tokenizer."""
    candidates = (
        source.config.get("mask_token_id"),
        tokenizer.mask_token_id,
        tokenizer.get_vocab().get(kind.mask_token),
    )
    found = next((number for number in candidates if isinstance(number, int)), None)
    if found is None:
        raise ModelError(
            f"neither config.json nor the tokenizer of {source.name} says which token is the mask; "
            "add mask_token_id to config.json"
        )
    return found


def _submodule(network: nn.Module, path: str) -> nn.Module | None:
    try:
        return network.get_submodule(path)
    except AttributeError:
        return None


def _can_be_cut(network: nn.Module, framing: Framing, trunk: nn.Module) -> bool:
    """Whether logits at one position, from the trunk's output there only, are what they are in a full pass.

    They are not in a copy of the code that passes the trunk by.
    """
    xt = torch.full((1, 3), framing.mask_id, device=next(network.parameters()).device)
    where = Positions(np.array([0]), np.array([1]))
    full = FramedDenoiser(network, framing).logits(xt, where=where)
    cut = FramedDenoiser(network, framing, trunk=trunk).logits(xt, where=where)
    tolerance = 0.05 * float(full[full.isfinite()].abs().max())  # bfloat16, and kernels that depend on the shape
    return cut.shape == full.shape and torch.allclose(cut, full, rtol=0.0, atol=tolerance, equal_nan=True)


def _describe(network: nn.Module, kind: RemoteKind, framing: Framing, width: int, *, sparse: bool) -> str:
    told = {name: value for name, value in framing.arguments.items() if value is not False}
    parts = [
        f"{kind.name} model by its own {type(network).__name__}: vocabulary {framing.vocab_size} of {width}",
        f"mask {framing.mask_id}",
        "logits one position before their token" if framing.shift else "logits at their token",
        ", ".join(f"{name} {value!r}" for name, value in told.items()) or "no attention mask",
        f"at most {framing.max_length} tokens" if framing.max_length else "no limit of length",
        "head at revealed positions only" if sparse else "head at all positions",
    ]
    return ", ".join(parts)
