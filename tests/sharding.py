"""FSDP2 by gloo: accelerate shards on accelerators only, and would take DDP without a word."""

import os

from accelerate import DistributedType, FullyShardedDataParallelPlugin
from accelerate.state import AcceleratorState, PartialState
from torch.distributed.tensor import DTensor

import understudy.training.loop as loop

# What `accelerate launch --use_fsdp --fsdp_version 2` sets; it cannot be combined with `--cpu` there.
SHARDED = {
    "ACCELERATE_USE_FSDP": "true",
    "FSDP_VERSION": "2",
    "FSDP_AUTO_WRAP_POLICY": "TRANSFORMER_BASED_WRAP",
}


class ShardedState(loop.TrainingState):
    """What a run carries, and a failure where nothing of it is sharded."""

    def __init__(self, *arguments):
        super().__init__(*arguments)
        assert any(isinstance(parameter, DTensor) for parameter in self.parameters)


def shard_if_asked():
    """Let the trainer of this process shard, where its environment says SHARDED."""
    if "ACCELERATE_USE_FSDP" not in os.environ:
        return
    state = loop.make_engine().state
    state.fsdp_plugin = FullyShardedDataParallelPlugin()
    for shared in (PartialState._shared_state, AcceleratorState._shared_state):
        shared["distributed_type"] = DistributedType.FSDP
    loop.TrainingState = ShardedState
