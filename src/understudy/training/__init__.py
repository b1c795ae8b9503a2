"""Training of heavy and light masked denoisers, and of left-to-right judges.

    blocks ─batches (order, noise)─► losses (network, cross-entropy) ─loop─► records, checkpoints, model folder

`train(TrainingConfig(...))` is a generator of records; `validation_bound` also serves alone.
"""

from understudy.training.loop import TrainingRecord, train
from understudy.training.losses import TokenLoss
from understudy.training.networks import build_network
from understudy.training.settings import TrainingConfig, ema_decay, learning_rate
from understudy.training.validation import validation_bound, validation_likelihood

__all__ = [
    "TokenLoss",
    "TrainingConfig",
    "TrainingRecord",
    "build_network",
    "ema_decay",
    "learning_rate",
    "train",
    "validation_bound",
    "validation_likelihood",
]
