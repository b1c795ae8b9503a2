"""What a run carries from step to step: weights, AdamW's moments, EMA. Whole on disk, however it is sharded.

A tensor is gathered whole before it is written and laid out anew when it is read, under the parameter's own name, so
a checkpoint fits any number of processes, with DDP or with FSDP (version 2, whose parameters are `DTensor`s).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import nn
from torch.distributed.fsdp import FSDPModule
from torch.distributed.tensor import DTensor, distribute_tensor

from understudy.checkpoint import Checkpoint
from understudy.errors import ModelError
from understudy.training.settings import TrainingConfig, ema_decay

MOMENTS = ("exp_avg", "exp_avg_sq")


class TrainingState:
    """Parameters of `network` by name, `optimizer` (AdamW) over them, and their exponential moving average.

    `ema` holds this process's part of each parameter, float32; None when `decay` is 0. root: the module around the
    network that is called, where it is sharded.
    """

    def __init__(
        self, network: nn.Module, optimizer: torch.optim.Optimizer, decay: float, root: nn.Module | None = None
    ) -> None:
        self.optimizer = optimizer
        self.root = network if root is None else root
        self.decay = decay
        self.names = [clean_name(name) for name, _ in network.named_parameters()]
        self.parameters: list[nn.Parameter] = list(network.parameters())
        self.ema = [local_part(p).clone() for p in self.parameters] if decay else None

    @torch.no_grad()
    def update_ema(self, updates: int) -> None:
        """Move the average towards the weights after optimizer step number `updates` (1 is the first)."""
        if self.ema is not None:
            weights = [local_part(parameter) for parameter in self.parameters]
            torch._foreach_lerp_(self.ema, weights, 1 - ema_decay(self.decay, updates))

    @contextmanager
    def averaged(self) -> Iterator[None]:
        """Let the network have the averaged weights for a while."""
        if self.ema is None:
            yield
            return
        weights = [local_part(parameter) for parameter in self.parameters]
        kept = [weight.clone() for weight in weights]
        self._exchange(weights, self.ema)
        try:
            yield
        finally:
            self._exchange(weights, kept)

    @torch.no_grad()
    def _exchange(self, weights: list[torch.Tensor], others: list[torch.Tensor]) -> None:
        """Write others over weights. What a sharded module has put together of them, and keeps, is then out of date."""
        torch._foreach_copy_(weights, others)
        for module in self.root.modules():
            if isinstance(module, FSDPModule):
                module.reshard()

    def gather(self) -> dict[str, dict[str, torch.Tensor]]:
        """Give everything, whole and on the CPU, as the files of a checkpoint. Every process must take part."""
        files = {"weights": self._whole([local_part(p) for p in self.parameters]), "ema": self.averaged_weights()}
        moments: dict[str, torch.Tensor] = {}
        for kind in MOMENTS:
            parts = [local_part(self.optimizer.state[p][kind]) for p in self.parameters]
            moments |= {f"{kind}.{name}": tensor for name, tensor in self._whole(parts).items()}
        return files | {"optimizer": moments}

    def averaged_weights(self) -> dict[str, torch.Tensor]:
        """Give the averaged weights, the plain ones where nothing is averaged, whole and on the CPU."""
        return self._whole([local_part(p) for p in self.parameters] if self.ema is None else self.ema)

    @torch.no_grad()
    def restore(self, checkpoint: Checkpoint) -> None:
        """Take everything from `checkpoint`. ModelError when it is not of this network."""
        self._fill([local_part(p) for p in self.parameters], checkpoint.tensors("weights"))
        if self.ema is not None:
            self._fill(self.ema, checkpoint.tensors("ema"))
        moments = checkpoint.tensors("optimizer")
        for parameter in self.parameters:
            # As AdamW makes it: the count lies with the parameters only where the fused kernel reads it.
            is_fused = bool(self.optimizer.param_groups[0].get("fused"))
            count = torch.tensor(float(checkpoint.step), device=parameter.device if is_fused else "cpu")
            empty = {kind: torch.zeros_like(parameter) for kind in MOMENTS}
            self.optimizer.state[parameter] = {"step": count, **empty}
        for kind in MOMENTS:
            parts = [local_part(self.optimizer.state[p][kind]) for p in self.parameters]
            whole = {name: moments.get(f"{kind}.{name}") for name in self.names}
            self._fill(parts, {name: tensor for name, tensor in whole.items() if tensor is not None})

    def _whole(self, parts: list[torch.Tensor]) -> dict[str, torch.Tensor]:
        whole = {}
        for name, parameter, part in zip(self.names, self.parameters, parts, strict=True):
            whole[name] = whole_tensor(parameter, part.detach()).cpu()
        return whole

    def _fill(self, parts: list[torch.Tensor], whole: Mapping[str, torch.Tensor]) -> None:
        for name, parameter, part in zip(self.names, self.parameters, parts, strict=True):
            if name not in whole or whole[name].shape != parameter.shape:
                raise ModelError(f"the checkpoint holds no {name} of shape {tuple(parameter.shape)}: start a new run")
            source = whole[name].to(part.device)
            if isinstance(parameter, DTensor):
                source = distribute_tensor(source, parameter.device_mesh, parameter.placements).to_local()
            part.copy_(source)


def local_part(tensor: torch.Tensor) -> torch.Tensor:
    """Give what this process holds of a tensor, without its history; changes to it change the tensor."""
    return tensor.to_local().detach() if isinstance(tensor, DTensor) else tensor.detach()


def whole_tensor(like: torch.Tensor, part: torch.Tensor) -> torch.Tensor:
    """Put together the parts of a tensor that is sharded as `like` is."""
    if not isinstance(like, DTensor):
        return part
    sharded = DTensor.from_local(
        part, like.device_mesh, like.placements, shape=like.shape, stride=like.stride(), run_check=False
    )
    return sharded.full_tensor()


def clean_name(name: str) -> str:
    """Drop what wrappers add to a parameter's name."""
    for wrapper in ("_checkpoint_wrapped_module.", "_orig_mod.", "_fsdp_wrapped_module."):
        name = name.replace(wrapper, "")
    return name


def make_optimizer(config: TrainingConfig, network: nn.Module, device: torch.device) -> torch.optim.AdamW:
    """Give AdamW with the run's settings, fused on CUDA; the rate is set before every step."""
    return torch.optim.AdamW(
        network.parameters(),
        lr=config.learning_rate,
        betas=(config.beta1, config.beta2),
        eps=config.epsilon,
        weight_decay=config.weight_decay,
        fused=device.type == "cuda",
    )


def clip_gradients(parameters: list[nn.Parameter], limit: float) -> torch.Tensor:
    """Scale all gradients so that their joint norm is at most `limit` (0: leave them); gives the norm before."""
    norm = nn.utils.clip_grad_norm_(parameters, limit or torch.inf)
    return norm.full_tensor() if isinstance(norm, DTensor) else norm
